"""The diagnostic tasks: what they ask, what their scores say, and that the exact numbers are exact."""

import itertools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textenvs import Example, ReferenceScores, Reward, list_tasks, make_task, make_tokenizer
from textenvs.rewards import AutomatonReward, Match
from textenvs.tasks import SHIFTED, Diagnostic
from textenvs.tasks.credit import _arms, _ChainScore, _CueScore, _PasswordScore
from textenvs.tasks.exact import EpisodeModel, optimal_score, random_score
from textenvs.tasks.formal import _BracketsScore, _LengthScore
from textenvs.tasks.registry import TASKS
from textenvs.testing import check_reward, check_task
from textenvs.tokenizer import Tokenizer, symbol_tokenizer

NAMES = [name for name in list_tasks() if isinstance(kind := TASKS[name], type) and issubclass(kind, Diagnostic)]
LEVELS = [(name, level) for name in NAMES for level in range(1, make_task(name).levels + 1)]


def made(name: str, level: int | None = None) -> Diagnostic:
    task = make_task({name: {} if level is None else {"level": level}})
    assert isinstance(task, Diagnostic)
    return task


def answered(reference: str) -> Example:
    return Example("?", (reference,))


def test_there_are_ten() -> None:
    assert len(NAMES) == 10


@pytest.mark.parametrize(
    ("name", "prompt", "reference"),
    [
        ("copy", "bbdgd=", "bbdgd"),
        ("reverse", "bbdgd=", "dgdbb"),
        ("sort", "99218=", "12899"),
        ("delayed_cue", "zzywb", "b...."),
        ("arithmetic", "85+7=", "92"),
        ("brackets", "{()", "}"),
        ("length", "6k", "kkkkkk"),
    ],
)
def test_examples(name: str, prompt: str, reference: str) -> None:
    task = made(name)
    assert task.example("test", 1) == Example(prompt, (reference,))
    assert task.demonstration(task.example("test", 1)) == reference


def test_needle_asks_for_one_of_its_records() -> None:
    task = made("needle")
    for index in range(50):
        example = task.example("train", index)
        context, key = example.prompt.split("?")
        records = {record[0]: record[1:] for record in context.split("...") if record}
        assert len(records) == 8
        assert records[key] == example.references[0]


def test_arithmetic_is_right() -> None:
    for level, split in itertools.product((1, 2, 3), ("train", SHIFTED)):
        task = made("arithmetic", level)
        signs = set()
        for index in range(200):
            example = task.example(split, index)
            signs |= set(example.prompt) & set("+-*")
            assert str(eval(example.prompt.rstrip("="))) == example.references[0]
        assert len(signs) == level


def test_brackets_are_closed_by_the_demonstration() -> None:
    for level in (1, 2, 3):
        task = made("brackets", level)
        for index in range(100):
            example = task.example("train", index)
            text = example.prompt + example.references[0]
            while text != (text := text.replace("()", "").replace("[]", "").replace("{}", "")):
                pass
            assert not text


def test_the_secret_is_nowhere_in_the_prompts() -> None:
    for name in ("password", "chain"):
        task = made(name)
        examples = [task.example("train", index) for index in range(200)]
        assert len({example.references for example in examples}) == 1
        assert len({example.prompt for example in examples}) > 50
        assert not set("".join(example.prompt for example in examples)) & set(examples[0].references[0])


@pytest.mark.parametrize(("name", "level"), LEVELS)
def test_every_level_keeps_the_contract(name: str, level: int) -> None:
    check_task({name: {"level": level, "train": 64, "validation": 16, "test": 128, "shifted": 16}}, max_examples=16)


@pytest.mark.parametrize("name", NAMES)
def test_levels_are_harder(name: str) -> None:
    """A longer response, or the same one out of a longer prompt or with larger numbers."""
    levels = [made(name, level) for level in range(1, made(name).levels + 1)]
    sizes = [
        sum(
            len(task.example("train", index).prompt + task.example("train", index).references[0]) for index in range(64)
        )
        for task in levels
    ]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"level": 0}, ValueError, "level to be from 1 to 3, got 0"),
        ({"level": 9}, ValueError, "level to be from 1 to 3, got 9"),
        ({"level": 1.0}, TypeError, "level to be a whole number from 1 to 3, got 1.0"),
        ({"level": True}, TypeError, "level to be a whole number from 1 to 3, got True"),
        ({"test": 0}, ValueError, "test to be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"Expected {message}"):
        make_task({"copy": arguments})


@pytest.mark.parametrize("name", NAMES)
def test_rewards_keep_the_contract(name: str) -> None:
    task = made(name)
    examples = [task.example(split, index) for split in ("train", SHIFTED) for index in range(3)]
    check_reward(task.default_reward, task.default_tokenizer, examples, max_examples=30)
    check_reward(task.default_reward, "stories", examples, max_examples=10)


def test_match() -> None:
    fifths = {"": 0, "a": 1, "ab": 2, "bbcd": 4, "abcd": 5, "abcde": 4, "abcdefgh": 4, "xbc": 2, "x" * 9: 0, "xxxx": 1}
    assert {text: Match().score(answered("abcd"), text) for text in fifths} == {t: n / 5 for t, n in fifths.items()}
    with pytest.raises(ValueError, match="a reference to match"):
        Match().score(Example("?"), "a")


def test_brackets_score() -> None:
    score = _BracketsScore(most=4).score
    example = Example("([{", ("}])",))
    quarters = {
        "": 0, "}": 1, "}]": 2, "}])": 4, "})": 1, "}x]": 1, "{}}])": 4, "}{": 1, "}{}": 1, "}{}]": 2, "}])(": 3,
        "}])()": 4, "}]))": 3, "(}": 0, "()": 0, "(": 0,
    }  # fmt: skip
    assert {text: score(example, text) for text in quarters} == {text: n / 4 for text, n in quarters.items()}
    assert score(example, "()}])") == 1  # four deep
    assert score(example, "(())}])") == 0  # five deep, which is not allowed


def test_length_score() -> None:
    score = _LengthScore().score
    quarters = {"": 0, "b": 1, "abc": 3, "bbbb": 4, "bbbbb": 3, "b" * 7: 1, "b" * 8: 0, "b" * 20: 0}
    assert {text: score(answered("bbbb"), text) for text in quarters} == {t: n / 4 for t, n in quarters.items()}


@pytest.mark.parametrize("name", ["copy", "reverse", "sort", "needle", "arithmetic", "brackets"])
def test_guessing_never_costs_what_was_earned(name: str) -> None:
    """So a policy that cannot do the task yet does not learn to stop at once, which it would hardly unlearn."""
    task, rng = made(name), np.random.default_rng(0)
    for index in range(100):
        example = task.example("train", index)
        text, before = "", 0.0
        for _ in range(len(example.references[0])):
            text += task.symbols[rng.integers(len(task.symbols))]
            now = task.default_reward.score(example, text)
            assert now >= before
            before = now


def test_late_scores() -> None:
    cue, example = _CueScore(), answered("b..")
    assert [cue.score(example, text) for text in ("", "b", "bx", "bxy", "bxyz", "xbb")] == [0, 0, 0, 1, 1, 0]
    password = _PasswordScore()
    assert [password.score(answered("ab"), text) for text in ("", "a", "ab", "abc", "ba", "bab")] == [0, 0, 1, 0, 0, 0]
    chain, worth = _ChainScore(2), _arms(2)
    assert all(sorted(step.values()) == list(range(8)) for step in worth)
    assert chain.score(answered("aa"), "a") == 0
    assert chain.score(answered("aa"), "ah") == (worth[0]["a"] + worth[1]["h"]) / 14
    assert chain.score(answered("aa"), "ahh") == chain.score(answered("aa"), "ah")


def test_the_immediate_payout_pays_each_symbol() -> None:
    env = gym.make("TextGen/Copy-v0")
    base: Any = env.unwrapped
    env.reset(options={"example": Example("cab=", ("cab",))})
    ids = base.tokenizer.encode_response("cbbd")
    rewards = [env.step(token)[1] for token in ids]
    assert rewards == pytest.approx([1 / 4, 0, 2 / 4, -1 / 4])  # the third symbol is right, and the end


# The exact numbers.


def every_response(tokenizer: Tokenizer, budget: int) -> Any:
    """Every response, and how likely random tokens write it: EOS ends it, or the budget."""
    letters = range(tokenizer.vocab_size)
    for length in range(budget + 1):
        probability = tokenizer.vocab_size ** -(length + (length < budget))
        for ids in itertools.product([one for one in letters if one != tokenizer.eos_token_id], repeat=length):
            yield "".join(tokenizer.pieces[one].decode() for one in ids), probability


@pytest.mark.parametrize(
    ("reward", "symbols", "reference", "budget"),
    [
        (Match(), "abc", "abca", 6),
        (_BracketsScore(3), "()[]{}", ")]", 5),
        (_LengthScore(), "abc", "bbb", 6),
        (_CueScore(), "ab.", "b..", 5),
        (_ChainScore(3), "abch", "abc", 5),
        (_PasswordScore(), "abcd", "ab", 4),
    ],
    ids=lambda value: value.name if isinstance(value, Reward) else "",
)
def test_against_every_response(reward: AutomatonReward, symbols: str, reference: str, budget: int) -> None:
    """Random and best score, as an enumeration of all responses has them."""
    tokenizer, example = symbol_tokenizer(symbols), answered(reference)
    responses = list(every_response(tokenizer, budget))
    assert sum(probability for _, probability in responses) == pytest.approx(1)
    scores = [reward.score(example, text) for text, _ in responses]
    mean = sum(score * probability for score, (_, probability) in zip(scores, responses, strict=True))
    assert random_score(reward, tokenizer, example, budget) == pytest.approx(mean, rel=1e-12)
    assert optimal_score(reward, tokenizer, example, budget) == max(scores)
    assert optimal_score(reward, tokenizer, example, 1) == max(
        reward.score(example, text) for text in ("", *symbols)
    )  # a budget that is too small


def test_random_scores_by_hand() -> None:
    assert made("delayed_cue").reference_scores().random == pytest.approx(1 / 10 * (9 / 10) ** 4)
    assert made("password", 2).reference_scores().random == pytest.approx(15**-4)
    assert made("chain", 1).reference_scores().random == pytest.approx(28 / 15 / 7)  # 0 + 1 + ... + 7 of 15 tokens


@pytest.mark.parametrize(("name", "level"), LEVELS)
def test_value_iteration_reaches_the_stated_optimum(name: str, level: int) -> None:
    task = made(name, level)
    tokenizer = make_tokenizer(task.default_tokenizer)
    for index in range(4):
        example = task.example("test", index)
        assert optimal_score(task.default_reward, tokenizer, example, task.default_max_new_tokens) == 1.0
    assert task.reference_scores().top == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_examples_that_are_alike_have_one_random_score(name: str) -> None:
    task = made(name)
    tokenizer = make_tokenizer(task.default_tokenizer)
    found: dict[Any, list[float]] = {}
    for index in range(24):
        example = task.example("test", index)
        score = random_score(task.default_reward, tokenizer, example, task.default_max_new_tokens)
        found.setdefault(task.alike(example), []).append(score)
    assert max(map(len, found.values())) > 1
    for scores in found.values():
        assert scores == pytest.approx([scores[0]] * len(scores), rel=1e-12)


def test_expected_score_of_a_policy() -> None:
    """Writes "a" with 3/4 and EOS with 1/4: "aa" is worth 1."""
    model = EpisodeModel.of(Match(), symbol_tokenizer("ab"), answered("aa"), 2)
    probabilities = np.array([0.25, 0.75, 0.0])  # EOS, a, b
    assert model.expected_score(probabilities) == pytest.approx(0.75 * 0.25 / 3 + 0.75**2)
    assert model.optimal_values()[0, 0] == 1
    assert model.optimal_values()[1].max() == 1


def test_only_for_scores_that_read_characters() -> None:
    with pytest.raises(TypeError, match="an AutomatonReward"):
        random_score(lambda example, response: 1.0, symbol_tokenizer("ab"), answered("a"), 2)  # type: ignore[arg-type]


def test_a_table_that_forgets() -> None:
    """However small the table may be, the scores are the same."""
    tokenizer = symbol_tokenizer("abcdefgh")
    scorer, rng = Match().scorer(3, tokenizer), np.random.default_rng(0)
    scorer.max_entries = 200
    texts = [""] * 3
    examples = [answered("abc")] * 3
    scorer.reset(np.arange(3), examples)
    for step in range(300):
        tokens = rng.integers(1, 9, size=3)
        phi = scorer.push(np.arange(3), tokens)
        texts = [text + tokenizer.pieces[token].decode() for text, token in zip(texts, tokens, strict=True)]
        assert phi.tolist() == [Match().score(one, text) for one, text in zip(examples, texts, strict=True)]
        lane = step % 3
        examples[lane], texts[lane] = answered("abcdefgh"[step % 5 : step % 5 + 3]), ""
        scorer.reset(np.array([lane]), [examples[lane]])


def test_reference_scores() -> None:
    scores = ReferenceScores(random=1.0, demonstration=2.0, top=3.0, random_interval=0.1)
    assert [scores.normalised(score) for score in (0.0, 1.0, 2.0, 3.0, 4.0)] == [-0.5, 0, 0.5, 1, 1.5]
    assert scores.threshold == pytest.approx(2.8)
    with pytest.raises(ValueError, match="a top score above"):
        ReferenceScores(random=1.0, demonstration=1.0, top=1.0)
    with pytest.raises(ValueError, match="random_interval"):
        ReferenceScores(random=1.0, demonstration=1.0, top=2.0, random_interval=-1.0)


def test_symbol_tokenizer() -> None:
    tokenizer = make_tokenizer({"symbols": "ba=é"})
    assert tokenizer is symbol_tokenizer("ba=é")
    assert tokenizer.pieces == (b"", b"b", b"a", b"=", "é".encode())
    assert {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id} == {0}
    assert tokenizer.encode_batch(["ab=", "", "é?a"]) == [[2, 1, 3], [0], [4, 2]]
    for wrong in ("", "aa"):
        with pytest.raises(ValueError, match="different characters"):
            symbol_tokenizer(wrong)
    with pytest.raises(TypeError, match="as a string"):
        make_tokenizer({"symbols": ["a", "b"]})
