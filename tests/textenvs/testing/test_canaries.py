"""Canaries: which responses are tried, what counts as alive, the check and the command."""

import json
from typing import Any

import pytest

from tests.textenvs.helpers import Talk
from textenvs import Example, RewardError, Task
from textenvs.__main__ import main
from textenvs.testing import check_canaries
from textenvs.testing.canaries import CANARIES, canary_scores


class Sums(Task):
    """Two examples with demonstrations of four words and of one."""

    name = "sums"
    default_reward = "length"

    def num_examples(self, split: str) -> int:
        return {"train": 2, "validation": 0, "test": 0}[split]

    def example(self, split: str, index: int) -> Example:
        return [Example("say it all", ("c d a b",)), Example("say one")][index]

    def demonstration(self, example: Example) -> str:
        return " a b c d" if example.references else " one"


def seen(task: Task, value=lambda example, text: 0.0) -> tuple[dict[str, set[str]], list[str]]:
    """What a reward is asked for each prompt."""
    asked: dict[str, set[str]] = {}

    def reward(example: Example, text: str) -> float:
        asked.setdefault(example.prompt, set()).add(text)
        return value(example, text)

    return asked, list(canary_scores(task, reward).scores)


def test_what_is_tried() -> None:
    asked, names = seen(Sums(), lambda example, text: {"d": 3.0, "b": 2.0, "all": 1.0}.get(text, 0.0))
    assert names == list(CANARIES)
    long, short = asked["say it all"], asked["say one"]
    assert {"", "say it all", "d d d d", "b b b b", "all all all all", "a a a a", " a b c d"} <= long
    assert {"", "say one", "d", "b", "all", " one"} <= short, "as long as the demonstration"
    assert "d b all a" in long, "the words that score best, each once; of the others, the first"
    (shuffled,) = [
        text for text in long if sorted(text.split()) == list("abcd") and text not in (" a b c d", "c d a b")
    ]
    assert shuffled.split() != list("abcd")
    assert seen(Sums())[0] == seen(Sums())[0], "the same at every call"


def test_what_is_the_demonstration_itself_is_no_canary() -> None:
    class Echo(Sums):
        def demonstration(self, example: Example) -> str:
            return example.prompt

    _, names = seen(Echo())
    assert "prompt copied" not in names

    class Silent(Sums):
        def demonstration(self, example: Example) -> str:
            return ""

    assert "empty" not in seen(Silent())[1]
    assert "eos at once" not in seen(Silent())[1]


def test_means_and_who_is_alive_by_hand() -> None:
    table = {" a b c d": 1.0, " one": 0.5, "say it all": 1.0, "say one": 0.7, "": -0.25}
    found = canary_scores(Sums(), lambda example, text: table.get(text, 0.0))
    assert found.demonstration == 0.75
    assert found.scores["prompt copied"] == pytest.approx(0.85)
    assert found.scores["empty"] == found.scores["eos at once"] == -0.25
    assert found.scores["keywords"] == 0.0
    # Differences of 1.25 and 0.75: a mean of 1 and a standard error of 0.25. Of 1 and 0.5: 0.75 and 0.25.
    assert found.alive == ("prompt copied",)
    assert found.responses["prompt copied"] == "say it all"
    noisy = canary_scores(Sums(), lambda example, text: {" a b c d": 1.0, " one": 0.1}.get(text, 0.0))
    assert set(noisy.alive) == set(CANARIES) - {"words shuffled"}, "0.55 is not clear of its error, 0.45"


def test_eos_is_played_in_every_turn() -> None:
    """In a task of several turns, the text of the EOS is a newline each."""

    class Chat(Talk):
        def demonstration(self, example: Example) -> str:
            return "a\nb\nstop"

    texts = []
    found = canary_scores(Chat(), lambda example, text: texts.append(text) or float(len(text)), num_examples=2)
    assert "\n\n\n" in texts
    assert found.scores["eos at once"] == 3.0


def test_a_check_names_what_is_alive() -> None:
    with pytest.raises(AssertionError, match=r"(?s)Reward 'length' should score .*words shuffled: 0\.\d+, such as '"):
        check_canaries("stories", "length", num_examples=4)
    with pytest.raises(ValueError, match="Expected a task with demonstrations to hold canaries against, got 'talk'"):
        check_canaries(Talk())
    with pytest.raises(ValueError, match="num_examples"):
        check_canaries("stories", num_examples=0)
    with pytest.raises(RewardError, match="raised ZeroDivisionError"):
        check_canaries(Sums(), lambda example, text: 1 / 0)


@pytest.mark.parametrize(
    "fluent",
    [
        {"product": ["sentiment", "ngram_lm"]},
        {"guard": {"reward": "sentiment", "at_least": {"ngram_lm": 0.45}}},
        {
            "guard": {
                "reward": "sentiment",
                "at_most": {"repetition": 0.2, "copying": 0.5},
                "at_least": {"ngram_lm": 0.45},
            }
        },
    ],
)
def test_a_sense_of_order_kills_the_canaries_of_sentiment(fluent: dict[str, Any]) -> None:
    assert set(canary_scores("stories", "sentiment").alive) >= {"one word repeated", "keywords"}
    check_canaries("stories", fluent)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["canaries", "TextGen-v0", "--examples", "16"]) == 0
    assert " mood " in capsys.readouterr().out
    assert main(["canaries", "TextGen-v0", "--examples", "4", "--reward", "sentiment"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split("  ")[0] == "id"
    assert all(name in printed[0] for name in CANARIES)
    found = canary_scores("stories", "sentiment", num_examples=4)
    cells = printed[1].split()
    assert cells[:3] == ["TextGen-v0", "sentiment", f"{found.demonstration:.3f}"]
    assert f"{found.scores['keywords']:.3f}!" in cells
    assert "Not clearly below the demonstrations:" in printed
    spec = json.dumps({"min": ["sentiment", "vader"]})
    main(["canaries", "TextGen-v0", "--examples", "2", "--reward", spec])
    assert "min(sentiment, vader)" in capsys.readouterr().out
