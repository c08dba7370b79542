"""The search: holes that it has to find, what it reports of them, and the texts as episodes play them."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.textenvs.helpers import Letters, Talk, Toy
from textenvs import Example, RewardError, TextGenEnv, list_envs
from textenvs.__main__ import main
from textenvs.tasks.base import blind_texts
from textenvs.testing import TextPlayer, search
from textenvs.testing.search import CONSTANTS, ORACLE, PER_PROMPT, Units
from textenvs.wrappers import TextAction


class Moods(Toy):
    """Sixteen prompts of two moods. Their demonstrations are "a good word" and "no word"."""

    name = "moods"
    kind_key = "mood"
    default_max_new_tokens = 16

    def __init__(self) -> None:
        prompts = [f"{letter} is good" for letter in "abcdefghijklmnop"]
        super().__init__(train=prompts, test=[prompt + "." for prompt in prompts])

    def example(self, split: str, index: int) -> Example:
        mood = ("up", "down")[index % 2]
        reference = {"up": "a good word", "down": "no word"}[mood]
        return Example(self._prompts[split][index], (reference,), {"mood": mood})

    def demonstration(self, example: Example) -> str:
        return example.references[0]


def env_of(task: Any, reward: Any) -> TextGenEnv:
    return TextGenEnv(task, reward, "sparse")


def by_strategy(result: Any) -> dict[str, Any]:
    return {finding.strategy: finding for finding in result.findings}


def test_a_score_that_counts_a_word_is_found_out() -> None:
    """The demonstrations have "good" half of the time, and a budget of 16 letters has room for it four times."""
    result = search(env_of(Moods(), lambda example, text: float(text.count("good"))), budget=4000, num_examples=16)
    assert result.demonstration == 0.5
    assert result.blind.score == 4
    assert result.blind.beats
    assert set(result.blind.texts) == {"up", "down"}
    assert all(text.count("good") == 4 for text in result.blind.texts.values())
    assert result.best.score == result.blind.score
    assert result.blind in result.beating
    assert result.share(result.demonstration) == 1.0
    assert result.share(result.random) == 0.0
    assert [finding.strategy for finding in result.findings if finding.strategy in CONSTANTS] == list(CONSTANTS)


def test_a_constant_may_differ_by_the_kind_of_the_prompt() -> None:
    def answer(example: Example, text: str) -> float:
        return float(text == example.references[0])

    by_kind = search(env_of(Moods(), answer), budget=2000, num_examples=16)
    assert (by_kind.blind.score, by_kind.demonstration) == (1.0, 1.0)
    assert by_kind.blind.texts == {"down": "no word", "up": "a good word"}
    assert by_kind.beating == ()
    single = Moods()
    single.kind_key = None  # type: ignore[misc]
    one_text = search(env_of(single, answer), budget=2000, num_examples=16).blind
    assert one_text.score == 0.5, "one of the two answers, for all prompts"
    assert list(one_text.texts) == [""]


def test_an_answer_that_needs_the_prompt_is_not_found_blindly() -> None:
    """One letter of sixteen prompts is the answer: a constant has one in sixteen, and the scores tell the letter."""

    class First(Moods):
        kind_key = None

        def demonstration(self, example: Example) -> str:
            return example.prompt[:1]

    def first_letter(example: Example, text: str) -> float:
        return float(text.strip() == example.prompt[0])

    result = search(env_of(First(), first_letter), budget=4000, num_examples=16)
    assert result.blind.score == 1 / 16
    assert by_strategy(result)[ORACLE].score == 1.0
    assert result.oracle is by_strategy(result)[ORACLE]
    assert not result.oracle.beats, "as good as the demonstrations, and no better"


def test_form_without_meaning_and_copies() -> None:
    """A score of the letters alone takes any order of the words, and one of the words of the prompt its copy."""

    def letters(example: Example, text: str) -> float:
        return float(sorted(text.replace(" ", "")) == sorted(example.references[0].replace(" ", "")))

    found = by_strategy(search(env_of(Moods(), letters), budget=500, num_examples=16))
    assert found["shuffled words"].score == 1.0

    def copies(example: Example, text: str) -> float:
        return float(text == example.prompt)

    result = search(env_of(Moods(), copies), budget=500, num_examples=16)
    found = by_strategy(result)
    assert found["the prompt copied"].score == 1.0
    assert found["the prompt copied"].beats
    assert result.best is found["the prompt copied"]
    assert result.blind.score == 0.0
    assert set(found) <= {*CONSTANTS, *PER_PROMPT}


def test_the_same_seed_gives_the_same_findings_within_the_budget() -> None:
    def spaces(example: Example, text: str) -> float:
        return text.count(" ") / 16

    results = [search(env_of(Moods(), spaces), budget=1500, num_examples=8, seed=3) for _ in range(2)]
    assert results[0] == results[1]
    assert results[0].num_scored <= 1500
    assert search(env_of(Moods(), spaces), budget=6000, num_examples=8).num_scored > 1500


def test_units_keep_the_text_and_the_white_space() -> None:
    setting = gym.make("TextGen-v0").unwrapped.setting
    units = Units(setting, [" It was late. It wasn't!", " It was good."], ["Once upon"])
    assert units.cut(" It was late. It wasn't!\n\n ok") == [
        " It", " was", " late", ".", " It", " wasn't", "!", "\n\n ok",
    ]  # fmt: skip
    assert "".join(units.cut(" a,b…  c \n")) == " a,b…  c \n"
    assert units.all[0] == " It"
    assert "Once" in units.all
    assert {" Pip", *units.all} == {*units.beside("Pip").all}
    symbols = Units(gym.make("TextGen/Copy-v0").unwrapped.setting, ["ab"], ["ab="])
    assert symbols.cut("ab=") == ["a", "b", "="]


@pytest.mark.parametrize("env_id", ["TextGen-v0", "TextGen/Dialogue-v0", "TextGen/Copy-v0"])
def test_a_played_text_scores_as_an_episode_of_its_tokens(env_id: str) -> None:
    base: Any = gym.make(env_id, split="test").unwrapped
    env, player, task = TextAction(base), TextPlayer(base.setting), base.task
    examples = [task.example("test", index) for index in (0, 1, 2)]
    texts = [task.demonstration(example) for example in examples]
    texts += ["", texts[0] + texts[1] + texts[2] + texts[0], texts[1][:7]]
    pairs = [(example, text) for example in examples for text in texts]
    scores = player.scores([example for example, _ in pairs], [text for _, text in pairs])
    for (example, text), score in zip(pairs, scores, strict=True):
        env.reset(options={"example": example})
        terminated = False
        for turn in [*text.split("\n"), *[""] * 9] if task.max_turns > 1 else [text]:
            if not terminated:
                *_, terminated, _, info = env.step(turn)
        assert score == pytest.approx(info["score"], abs=1e-9)
    assert player.num_scored == len({*pairs_by_text(pairs)})
    assert len(player.written(texts[4])) < len(texts[4]), "beyond the budget, nothing is written"
    assert player.written(texts[0]) == texts[0]


def pairs_by_text(pairs: Sequence[tuple[Example, str]]) -> list[tuple[str, str]]:
    return [(example.prompt, text) for example, text in pairs]


def test_turns_cost_a_token_each() -> None:
    """Twelve tokens: two turns of five letters with their ends, and nothing is left for the third."""
    player = TextPlayer(TextGenEnv(Talk(train=("d",), test=("x",)), "length", "sparse").setting)
    assert player.written("aaaaa\nbbbbb\ncc") == "aaaaa\nbbbbb"
    assert player.written("aaaaa\nbbb\ncc") == "aaaaa\nbbb\ncc"


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="Expected a task with demonstrations to search beside, got 'talk'"):
        search(TextGenEnv(Talk(), "length", "sparse"))
    with pytest.raises(ValueError, match="Expected the id of a text environment, or such an environment, got 3"):
        search(3)
    with pytest.raises(ValueError, match="Expected reward= beside an id only"):
        search(env_of(Moods(), "length"), reward="length")
    with pytest.raises(ValueError, match="budget"):
        search("TextGen/Copy-v0", budget=0)
    with pytest.raises(RewardError, match="raised ZeroDivisionError"):
        search(env_of(Moods(), lambda example, text: 1 / 0))

    class Mute(Letters):
        encode_response = None  # type: ignore[assignment]

    task = Moods()
    task.default_tokenizer = Mute()
    with pytest.raises(ValueError, match="Expected a tokenizer with encode_response"):
        search(env_of(task, "length"))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--search", "--budget", "600", "--examples", "8"]
    assert main(["canaries", "TextGen/Copy-v0", "TextGen/Password-v0", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["id", "reward", "random", "demonstration", "blind", "unread", "oracle"]
    result = search("TextGen/Copy-v0", budget=600, num_examples=8)
    assert f"{result.blind.score:.3f}" in lines[1]
    assert f"{result.share(result.blind.score):.0%}" in lines[1]
    assert any("TextGen/Password-v0, " in line and "'" in line for line in lines[4:])
    assert main(["canaries", "TextGen-v0", *arguments, "--reward", "sentiment"]) == 1
    assert "!" in capsys.readouterr().out.splitlines()[1]


@pytest.mark.parametrize("env_id", sorted({*list_envs()} - {"TextGen/Stories-v0"}))
def test_frozen_blind_scores_are_those_of_their_texts(env_id: str) -> None:
    """On the test split; which text is best takes a search, and `make_reference_scores` does it."""
    setting: Any = gym.make(env_id).unwrapped.setting
    task = setting.task
    texts, scores = blind_texts(task.name), task.reference_scores()
    assert scores.blind is not None
    examples = [task.example("test", index) for index in range(task.num_examples("test"))]
    kinds = [str(example.metadata[task.kind_key]) if task.kind_key else "" for example in examples]
    played = TextPlayer(setting).scores(examples, [texts[kind] for kind in kinds])
    assert np.mean(played) == pytest.approx(scores.blind, abs=1e-6)
