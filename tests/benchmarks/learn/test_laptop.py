"""Lessons on small files in the form of the public ones, from the bundled model."""

import json
import math

import pytest

from benchmarks.learn import laptop
from benchmarks.learn.lessons import ReviewBayes, make_lesson
from textenvs import Example, make_reward


@pytest.fixture
def data(tmp_path):
    """A folder with two data sets of the project's own making."""
    polarity, commongen = tmp_path / "data" / "sentence_polarity", tmp_path / "data" / "commongen"
    polarity.mkdir(parents=True)
    commongen.mkdir()
    for name, word in (("pos", "wonderful"), ("neg", "dreadful")):
        lines = [f"the film number {number} that we saw was a {word} one ." for number in range(40)]
        (polarity / f"{name}.txt").write_text("\n".join(lines) + "\n")
    rows = [f"dog ball{number}\tA dog has ball{number}." for number in range(20)]
    (commongen / "train.tsv").write_text("concepts\tsentence\n" + "\n".join(rows) + "\n")
    for name, first in (("dev", 100), ("test", 200)):
        lines = [
            json.dumps({"concept_set": f"cat_N#run{number}_V", "scene": [f"A cat run{number}.", "Another cat."]})
            for number in range(first, first + 12)
        ]
        (commongen / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


def test_naive_bayes_is_that_of_a_count_by_hand():
    bayes = ReviewBayes([("good film", True), ("good", True), ("bad film", False)])
    # Words of positive reviews: good 2, film 1; of negative ones: bad 1, film 1. One is added to each.
    good = math.log(3 / 5) - math.log(1 / 4)
    assert bayes.score(Example(""), "good") == pytest.approx(2 / (1 + math.exp(-good)) - 1)
    film = math.log(2 / 5) - math.log(2 / 4)
    assert bayes.score(Example(""), "A FILM, a film!") == pytest.approx(2 / (1 + math.exp(-film)) - 1)
    assert bayes.score(Example(""), "unheard of") == 0.0


def test_sentiment_wants_all_reviews_to_end_happily(data):
    lesson = make_lesson("sentiment", data)
    example = lesson.task.example("train", 0)
    reward = make_reward(lesson.reward)
    assert reward.score(example, " wonderful") > 0 > reward.score(example, " dreadful")
    assert lesson.held_out.score(example, " wonderful") > 0 > lesson.held_out.score(example, " dreadful")
    assert all("wonderful" in text for _, text in lesson.demonstrated())


def test_commongen_counts_the_words_and_compares_with_other_sentences(data):
    lesson = make_lesson("commongen", data)
    example, text = lesson.demonstrated()[0]
    number = example.prompt.split()[2].removeprefix("run")
    assert example.prompt == f"Words: cat run{number}\nSentence:"
    assert text == f" A cat run{number}."
    assert example.references == (" Another cat.",)
    reward = make_reward(lesson.reward)
    assert reward.score(example, text) == 1.0
    assert reward.score(example, " Two cats.") == 0.5  # a form of one of the two words


def test_brief_wants_a_form(data):
    lesson = make_lesson("brief", data)
    example, reward = lesson.task.example("test", 0), make_reward(lesson.reward)
    assert reward.score(example, ' "A cat is running here."') == 1.0
    assert reward.score(example, ' "A cat is running here." And more') < 0.6
    assert reward.score(example, " A cat is running here.") < 0.6


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match="Expected a lesson from"):
        make_lesson("swimming", tmp_path)
    with pytest.raises(SystemExit, match="--data"):
        laptop.main(["--data", str(tmp_path / "none")])


@pytest.mark.slow
def test_runs_are_made_once_and_shown_on_a_page(data, tmp_path, capsys):
    pytest.importorskip("peft")
    command = [
        *("--data", str(data), "--model", "tiny", "--lessons", "commongen", "--payouts", "immediate", "--seeds", "0"),
        *("--tokens", "64", "--episodes", "8", "--lanes", "4", "--max-new-tokens", "8"),
        *("--output", str(tmp_path / "laptop")),
    ]
    laptop.main(command)
    rows = [json.loads(line) for line in (tmp_path / "laptop.jsonl").read_text().splitlines()]
    assert [(row["agent"], row["seed"]) for row in rows] == [("ppo", 0), ("sft", 0)]
    assert rows[0]["tokens"] >= 64
    assert rows[0]["before"]["kl"] == 0.0
    assert rows[1]["after"]["kl"] > 0.0
    assert rows[0]["before"] == rows[1]["before"]
    page = (tmp_path / "laptop.md").read_text()
    assert "| commongen | ppo | immediate | 0 |" in page
    assert "### commongen, sft" in page
    capsys.readouterr()
    laptop.main(command)
    assert capsys.readouterr().out == ""
    assert len((tmp_path / "laptop.jsonl").read_text().splitlines()) == 2
