"""The default score: its factors by hand, its rules for valences, and real text that the project did not write."""

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from textenvs import Example, make_reward, make_task
from textenvs.rewards import english_pairs
from textenvs.rewards.mood import FACTORS, Mood, valences
from textenvs.testing import check_reward

HAPPY, SAD = (Example("", metadata={"mood": mood}) for mood in ("happy", "sad"))
GOOD, BAD = valences()["good"], valences()["bad"]
FILLER = "the man was in the house with it"
"""Eight words without a valence."""


def curve(mean: float) -> float:
    """The logistic curve of the mood, by its definition."""

    def logistic(x: float) -> float:
        return float(1 / (1 + np.exp((0.08 - x) / 0.095)))

    return min(1.0, logistic(mean) / logistic(0.22))


def mood(text: str, example: Example = HAPPY) -> float:
    return Mood(["mood"]).score(example, text)


@pytest.mark.parametrize(
    ("text", "valence", "words"),
    [
        (FILLER, 0.0, 8),
        (f"{FILLER} good", GOOD, 9),
        (f"{FILLER} very good", 1.25 * GOOD, 10),
        (f"{FILLER} not good", -0.6 * GOOD, 10),
        (f"{FILLER} wasn’t so good", -0.6 * 1.25 * GOOD, 11),
        (f"{FILLER} not in the house, good", GOOD, 13),
        (f"{FILLER} not. Good", GOOD, 10),
        (f"{FILLER} good but bad", 0.4 * GOOD + 1.6 * BAD, 11),
        (f"{FILLER} bad, but not bad", 0.4 * BAD - 0.6 * 1.6 * BAD, 12),
        (f"{FILLER} a good-bad day", GOOD + BAD, 12),
    ],
)
def test_valences_by_hand(text: str, valence: float, words: int) -> None:
    """A negation reaches three words and no further than its sentence; ordinary text is 0.02 happy a word."""
    mean = (valence - 0.02 * words) / words
    assert mood(text) == pytest.approx(curve(mean), abs=1e-9)
    assert mood(text, SAD) == pytest.approx(curve(-mean), abs=1e-9)


def test_short_texts_and_full_moods() -> None:
    assert mood("") == 0.0
    assert mood("good") == pytest.approx(curve((GOOD - 0.02) / 8) / 8)
    strong = "a good and happy day in a good and happy house"
    assert mood(strong) == mood(strong + " good happy") == 1.0, "no word more is worth anything"
    assert 0 < mood(strong, SAD) < 0.05


def test_variety_by_hand() -> None:
    variety = Mood(["variety"])
    # Content words: cat, sat, mat, cat, ran: one of five again, which is free. Pairs: cat sat, the mat ... none again.
    assert variety.score(HAPPY, "the cat sat on the mat and the cat ran") == pytest.approx(
        # Of the cat, cat sat, sat on, the mat, mat and, the cat and cat ran, one is there again: 1 of at least 8.
        1 - 3.0 * (1 / 8 - 0.10)
    )
    # cat, cat, cat, cat: three of four words are there again, and "cat cat" twice of three pairs.
    assert variety.score(HAPPY, "cat cat cat cat you are in it") == pytest.approx(0.0)
    # tree, dog, tree, day: one of four again, 0.25, is free; not so the pair "a tree", one of at least eight.
    assert variety.score(HAPPY, "a tree, a dog. a tree. a day of it") == pytest.approx(1 - 3.0 * (1 / 8 - 0.10))
    copied = Example("the old man lived in a small house by the sea")
    # All seven pairs with a content word are the prompt's: 1 - 1.5 * (7 / 8 - 0.25).
    assert variety.score(copied, "old man lived in a small house by the sea") == pytest.approx(1 - 1.5 * (7 / 8 - 0.25))


def test_link() -> None:
    link = Mood(["link"])
    about = Example("A story.", metadata={"about": ["fox", "Otto"]})
    text = "and then he went to the old house"
    assert link.score(about, text) == 0.5
    assert link.score(about, text + " of Otto's") == 1.0
    assert link.score(about, text + " of foxes") == 0.5, "plurals that end in s alone are known"
    assert link.score(Example("We saw the houses."), text) == 1.0, "without a list, a content word of the prompt"
    assert link.score(HAPPY, text) == 1.0, "nothing to take up"


def test_fluency_knows_order_and_lists() -> None:
    fluency = Mood(["fluency"])
    text = "The little girl went to the park with her friend and they had a good time."
    words = text.lower().strip(".").split()
    shuffled = [fluency.score(HAPPY, " ".join(random.Random(seed).sample(words, len(words)))) for seed in range(40)]
    assert fluency.score(HAPPY, text) == 1.0
    assert np.mean(shuffled) < 0.5
    assert fluency.score(HAPPY, "joy wonderful happy love great smile laughed hugged party") < 0.5
    # Nine content words, and one may pass: a quarter of a text should hold it together.
    assert fluency.score(HAPPY, "great " * 9) == 0.0


def test_log_ratios_by_hand() -> None:
    """Two entries with counts of their own: a b three times and a c once, b and c of one class X."""
    table = "a\t\t4 4 2\t1:3\nb\tX\t2 3 1\t\nc\tX\t2 1 1\t\n\na\tX 4\nX\ta 4\n\nX\td"
    pairs = english_pairs.EnglishPairs(table)
    # Of 8 neighbours, the class X is expected 4 * 4 / 8 = 2 times behind a, and is there 4 times.
    by_class = (4 + 0.02 * 2) / (1.02 * 2)
    backed_off = 0.75 * 2 / 4 * by_class
    assert pairs.log_ratio("a", "c") == pytest.approx(np.log(backed_off))
    assert pairs.log_ratio("a", "b") == pytest.approx(np.log((3 - 0.75) / 4 * 8 / 3 + backed_off))
    assert pairs.log_ratio("b", "c") == -2.0, "a pair of classes that never occurs"
    assert pairs.key("d") == "X"
    assert pairs.key("running") == "<ing>"


def test_tokens() -> None:
    assert english_pairs.tokens("Don't go--2 of «Ärzte»!") == [
        "don't", "go", "-", "-", "2", "of", "«", "ärzte", "»", "!",
    ]  # fmt: skip


def test_the_contract_and_arguments() -> None:
    for factors in (FACTORS, ["variety"], ["mood", "link"]):
        check_reward(Mood(factors))
    reward = make_reward({"mood": {"factors": ["fluency"]}})
    assert reward.name == "mood (fluency)"
    assert pickle.loads(pickle.dumps(Mood())).score(HAPPY, FILLER) == Mood().score(HAPPY, FILLER)
    for wrong in ([], "mood", ["length"]):
        with pytest.raises(ValueError, match="factors"):
            Mood(wrong)


def test_what_was_worked_out_is_forgotten_at_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = Mood()
    before = reward.score(HAPPY, FILLER)
    monkeypatch.setattr("textenvs.rewards.mood._MAX_ROWS", 3)
    assert [reward.score(HAPPY, f"{FILLER} {number}") for number in range(20)]
    assert len(reward._places) < 60
    assert reward.score(HAPPY, FILLER) == before


def test_known_constants_stay_below_the_threshold(shared_data: Path) -> None:
    """One string for all prompts of a mood, which an earlier default paid twice what it paid the demonstrations."""
    constants = json.loads((shared_data.parent / "cases" / "constant_responses.json").read_text())["TextGen-v0"]
    task, reward = make_task("stories"), Mood()
    examples = [task.example("test", index) for index in range(128)]
    scores = [reward.score(example, constants[example.metadata["mood"]]) for example in examples]
    assert max(scores) < 0.6
    assert np.mean(scores) < 0.2 < task.reference_scores().threshold


def test_real_text_scores_by_its_mood(shared_data: Path) -> None:
    """Film reviews, the second half: the first was looked at while the score was chosen."""
    folder = shared_data / "sentence_polarity"
    texts = {name: (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("pos", "neg")}
    positive, negative = (lines[len(lines) // 2 :][:1000] for lines in texts.values())
    for reward, least in ((Mood(), 0.72), (Mood(["mood"]), 0.74)):
        for example, right, other in ((HAPPY, positive, negative), (SAD, negative, positive)):
            good, bad = (np.sort([reward.score(example, text) for text in texts]) for texts in (right, other))
            ranks = (np.searchsorted(bad, good, "left") + np.searchsorted(bad, good, "right")) / 2
            assert ranks.mean() / len(bad) > least
            assert np.mean(good > 0.05) > 0.94
