"""The ends of episodes beside EOS: stop sequences, special tokens, and what a model's generation config lists."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from textenvs import TextGenEnv, TextGenVectorEnv, make_tokenizer
from textenvs.action_masks import split_stops
from textenvs.tokenizer import BUNDLED, SubwordTokenizer, end_token_ids, fingerprint, symbol_tokenizer

TURN, OTHER = "<|end|>", "<|call|>"


def backend() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer.from_file(str(BUNDLED["stories"]))
    made.add_special_tokens([TURN, OTHER])
    return made


def folder_with(folder: Path, ends: Any) -> Path:
    backend().save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return folder


def ends_at(env: TextGenEnv, *tokens: int) -> list[bool]:
    env.reset(seed=0)
    return [env.step(token)[2] for token in tokens]


def test_a_stop_may_name_a_special_token() -> None:
    tokenizer = SubwordTokenizer(backend())
    turn = tokenizer.special_token_id(TURN)
    assert turn == 1024
    plain = TextGenEnv(tokenizer=tokenizer, max_new_tokens=8)
    assert ends_at(plain, 40, turn, 40) == [False, False, False]
    env = TextGenEnv(tokenizer=tokenizer, stop=[TURN, "x"], max_new_tokens=8)
    assert ends_at(env, 40, turn) == [False, True]
    assert env.setting.stop == (TURN, "x")
    x = tokenizer.encode_response("x")[-1]
    assert ends_at(env, 40, x) == [False, True]
    assert ends_at(env, 40, tokenizer.eos_token_id) == [False, True]


def test_any_end_in_the_generation_config_ends_an_episode_in_every_lane(tmp_path: Path) -> None:
    env = TextGenVectorEnv(4, tokenizer=folder_with(tmp_path, [1, 1025]), max_new_tokens=8, autoreset_mode="Disabled")
    assert end_token_ids(env.tokenizer) == (1, 1025)
    env.reset(seed=0)
    assert env.step(np.array([40, 1, 1024, 1025]))[2].tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("ends", "expected"), [(1, (1,)), (None, (1,)), ([1], (1,)), (1024, (1, 1024)), ([-1, 9999], (1,))]
)
def test_ends_that_a_generation_config_lists(ends: Any, expected: tuple[int, ...], tmp_path: Path) -> None:
    assert end_token_ids(make_tokenizer(folder_with(tmp_path, ends))) == expected


def test_a_tokenizer_with_further_ends_shares_everything_else() -> None:
    tokenizer = SubwordTokenizer(backend())
    assert tokenizer.ending_with([1]) is tokenizer
    other = tokenizer.ending_with([1025, 1, 1024])
    assert other.end_token_ids == (1, 1024, 1025)
    assert other is tokenizer.ending_with([1024, 1025])
    assert other.pieces is tokenizer.pieces
    assert tokenizer.end_token_ids == (1,)
    assert fingerprint(other) == fingerprint(tokenizer)


def test_no_end_comes_before_the_least_number_of_tokens() -> None:
    env = TextGenEnv(tokenizer=SubwordTokenizer(backend()), stop=[TURN], min_new_tokens=2, max_new_tokens=8)
    _, info = env.reset(seed=0)
    assert info["action_mask"][[1, 1024, 1025]].tolist() == [0, 0, 1]
    assert ends_at(env, 1024, 40, 1024) == [False, False, True]


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ("<|end|>\n", r"special token '<\|end\|>' prints nothing. Stop at it: stop='<\|end\|>'"),
        ("a" * 2000, "it takes [0-9]+ tokens of max_new_tokens=8"),
    ],
)
def test_a_stop_that_can_never_come_is_refused(stop: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextGenEnv(tokenizer=SubwordTokenizer(backend()), stop=["x", stop], max_new_tokens=8)


def test_a_stop_that_no_tokens_spell_is_refused() -> None:
    tokenizer = symbol_tokenizer("abc")
    assert split_stops(["cab", "<eos>"], tokenizer, 3) == ((0,), ("cab",))
    with pytest.raises(ValueError, match="got 'abd': no tokens spell it"):
        split_stops(["abd"], tokenizer, 3)
    with pytest.raises(ValueError, match="got 'abca': it takes 4 tokens of max_new_tokens=3"):
        split_stops(["abca"], tokenizer, 3)


class Pieces:
    """A tokenizer of a user's own."""

    vocab_size, bos_token_id, eos_token_id, pad_token_id = 5, 0, 0, 0
    pieces = (b"", b"ab", b"c", b"de", b"xabcdy")

    def encode_batch(self, texts: Any) -> Any:
        return [[1] for _ in texts]


@pytest.mark.parametrize(
    ("text", "fewest"),
    [("bcd", 1), ("abcd", 1), ("bcde", 3), ("eab", 2), ("yx", 2), ("dya", 2), ("bd", 2), ("ad", None), ("z", None)],
)
def test_the_fewest_tokens_that_a_stop_takes(text: str, fewest: int | None) -> None:
    if fewest is None:
        with pytest.raises(ValueError, match="no tokens spell it"):
            split_stops([text], Pieces(), 100)
        return
    assert split_stops([text], Pieces(), fewest) == ((), (text,))
    if fewest > 1:
        with pytest.raises(ValueError, match=f"it takes {fewest} tokens"):
            split_stops([text], Pieces(), fewest - 1)
