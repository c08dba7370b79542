"""Rewards: hand-worked scores, the libraries as oracles, push against score, combinations, the registry and errors."""

import itertools
import json
import math
import pickle
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vaderSentiment import vaderSentiment

from tests.helpers import examples
from tests.textenvs.helpers import OUR_REWARDS
from textenvs.rewards import (
    FunctionReward,
    Length,
    Machine,
    Reward,
    RewardError,
    Sentiment,
    Splitter,
    TextScorer,
    Units,
    UnitSums,
    WeightedSum,
    checked_score,
    list_rewards,
    make_reward,
    register_reward,
    registry,
)
from textenvs.tasks import Example
from textenvs.testing import EXAMPLES
from textenvs.tokenizer import Tokenizer, decode, make_tokenizer

PLAIN = Example("Once upon a time")
HAPPY = Example("A happy story.", ("The fox was happy.",), {"mood": "happy"})
SAD = Example("A sad story.", ("The fox was sad.",), {"mood": "sad"})
ANALYZER = vaderSentiment.SentimentIntensityAnalyzer()


# Sentiment

HAPPY_, SAD_, GOOD, LOVE, DOUBT, SMILE = 2.7, -2.1, 1.9, 3.2, -1.5, 2.0  # from VADER's lexicon


@pytest.mark.parametrize(
    ("text", "valences"),
    [
        ("", []),
        ("happy", [HAPPY_]),
        ("HAPPY! 'sad'", [HAPPY_, SAD_]),
        ("the fox", [0, 0]),
        ("very happy", [0, HAPPY_ + 0.293]),
        ("very sad", [0, SAD_ - 0.293]),
        ("slightly happy", [0, HAPPY_ - 0.293]),
        ("very big happy", [0, 0, HAPPY_ + 0.293 * 0.95]),
        ("very big red happy", [0, 0, 0, HAPPY_ + 0.293 * 0.9]),
        ("very big red fat happy", [0, 0, 0, 0, HAPPY_]),
        ("not happy", [0, HAPPY_ * -0.74]),
        ("not a big happy", [0, 0, 0, HAPPY_ * -0.74]),
        ("not a big red happy", [0, 0, 0, 0, HAPPY_]),
        ("wasn't happy", [0, HAPPY_ * -0.74]),
        ("no good", [0, GOOD * -0.74]),
        ("mayn't, I'm good", [0, 0, GOOD * -0.74]),
        ("not very happy", [0, 0, (HAPPY_ + 0.293) * -0.74]),
        ("very not happy", [0, 0, HAPPY_ * -0.74 - 0.293 * 0.95]),
        ("not happy sad", [0, HAPPY_ * -0.74, SAD_ * -0.74]),
        ("never so good", [0, 0, (GOOD + 0.293) * 1.25]),
        ("never this good", [0, 0, GOOD * 1.25]),
        ("never was good", [0, 0, GOOD * -0.74]),
        ("never so very good", [0, 0, 0, (GOOD + 0.293 + 0.293 * 0.95) * 1.25]),
        ("it is so good", [0, 0, 0, (GOOD + 0.293) * 1.25]),
        ("is so good", [0, 0, GOOD + 0.293]),
        ("without doubt good", [0, DOUBT * -0.74, GOOD]),
        ("without a doubt good", [0, 0, DOUBT * -0.74, GOOD]),
        ("without good", [0, GOOD * -0.74]),
        ("least good", [0, GOOD * -0.74]),
        ("at least good", [0, 0, GOOD]),
        ("the least good", [0, 0, GOOD * -0.74]),
        ("very very very love", [0, 0, 0, 4.0]),  # 4.035, beyond the scale
        ("very very very murder", [0, 0, 0, -4.0]),  # -4.535
        (":) :(", [SMILE, -1.9]),
        ("ok ok.", [1.6 * 0.75, 0]),  # what is short keeps its dot, as an emoticon would
    ],
)
def test_valences_by_hand(text: str, valences: list[float]) -> None:
    assert word_valences(text) == pytest.approx(valences, abs=1e-12)
    score = sum(valences) / (4 * max(len(valences), 8))
    assert make_reward("sentiment").score(PLAIN, text) == pytest.approx(score, abs=1e-12)


def word_valences(text: str) -> list[float]:
    reader = Sentiment()
    memory, valences = reader.start(PLAIN), []
    for word in text.split():
        memory, (valence, count) = reader.read(memory, word)
        assert count == 1
        valences.append(valence)
    assert sum(valences) == pytest.approx(reader.read_text(PLAIN, text)[0], abs=1e-12)
    return valences


def library_valences(text: str) -> list[float]:
    """The vaderSentiment package's own valence of each word, before it looks at the text as a whole."""
    parsed = vaderSentiment.SentiText(text)
    valences: list[float] = []
    for place, word in enumerate(parsed.words_and_emoticons):
        if word.lower() in vaderSentiment.BOOSTER_DICT:
            valences.append(0.0)
        else:
            ANALYZER.sentiment_valence(0, parsed, word, place, valences)
    return valences


def is_comparable(text: str) -> bool:
    """Tests that a lower-case text has none of the words whose effect in VADER depends on later words."""
    stripped = [word.strip(vaderSentiment.string.punctuation) for word in text.split()]
    idioms = [*vaderSentiment.SPECIAL_CASES, "kind of", "sort of", "just enough"]
    return "no" not in stripped and not any(idiom in " ".join(stripped) for idiom in idioms)


def check_library(texts: list[str], at_least: int) -> None:
    comparable = [text for text in map(str.lower, texts) if is_comparable(text)]
    assert len(comparable) >= at_least
    for text in comparable:
        expected = [min(max(valence, -4.0), 4.0) for valence in library_valences(text)]
        assert word_valences(text) == pytest.approx(expected, abs=1e-12), text


def test_valences_equal_the_library() -> None:
    check_library(
        [
            "the book was good , funny and not at all boring .",
            "it isn't a horrible book, and hardly sad: the fox was very, very happy!",
            "never so happy, never this sad, never a good day; without doubt a terrible, awful loss",
            "without any doubt this was wonderful; this great day was extremely lovely :) ;-) xoxo",
            "they couldn't love it more; nothing bad, nobody hurt, neither angry nor worried",
            "at least good, at the very least good, the least good, least awful. very least good",
            "a rarely, somewhat, marginally, incredibly enjoyable, utterly charming, barely ugly thing",
            "i can't stand sadness. uh-uh, friggin' great! kinda nice, not quite so nice, this nice",
            "despite the fear the little fox won't cry: so brave, so so strong, so",
            "laugh laughs laughing laughed sad sadly very sadly not sadly so not sadly this not so sadly",
            "but good but bad but not good but never this good",
            "",
        ],
        at_least=12,
    )


def test_valences_of_real_texts_equal_the_library(shared_data: Path) -> None:
    lines = (shared_data / "tinystories" / "stories.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    stories = [json.loads(line)["text"] for line in lines]
    check_library([sentence for story in stories for sentence in story.split(".")], at_least=500)
    for name in ("pos.txt", "neg.txt"):
        reviews = (shared_data / "sentence_polarity" / name).read_text(encoding="utf-8", errors="replace")
        check_library(reviews.splitlines()[:800], at_least=600)


WORDS = """never so this without doubt least at very not isn't nothing hardly little good bad happy sad love awful fox
    the a kind of :) but more, good. "so" 'never' doubt!"""


@settings(max_examples=examples(200))
@given(st.lists(st.sampled_from(WORDS.split()), max_size=7).map(" ".join))
def test_any_valences_equal_the_library(text: str) -> None:
    check_library([text], at_least=0)


def test_moods_and_the_least_number_of_words() -> None:
    reward = make_reward("sentiment")
    assert reward.score(PLAIN, "happy") == reward.score(HAPPY, "happy") == HAPPY_ / 32
    assert reward.score(SAD, "happy") == -HAPPY_ / 32
    assert reward.score(PLAIN, "happy " * 20) == pytest.approx(HAPPY_ / 4)
    assert Sentiment(min_words=1).score(PLAIN, "happy") == HAPPY_ / 4
    assert Sentiment(min_words=1).score(PLAIN, "") == 0
    assert make_reward({"sentiment": {"min_words": 2}}).score(PLAIN, "happy fox day") == pytest.approx(HAPPY_ / 12)
    assert (reward.low, reward.high) == (-1, 1)
    for min_words in (0, -1):
        with pytest.raises(ValueError, match="Expected min_words to be at least 1, got "):
            Sentiment(min_words=min_words)
    for wrong in (True, 1.5, "8"):
        with pytest.raises(TypeError, match="Expected min_words to be a whole number of at least 1, got "):
            Sentiment(min_words=wrong)


@pytest.mark.parametrize("name", ["sentiment", "vader", "formality"])
def test_every_apostrophe_is_the_same(name: str) -> None:
    reward = make_reward(name)
    for straight in ("The play isn't good.", "don't", "We can't say it's bad", "'good'"):
        for apostrophe in "’‘ʼ":
            assert reward.score(PLAIN, straight.replace("'", apostrophe)) == reward.score(PLAIN, straight)
    if name != "formality":
        assert reward.score(PLAIN, "The play isn’t good.") < 0


def test_kind_of_weakens() -> None:
    """By hand: VADER's valences of "good", "kind" and "bad" are 1.9, 2.4 and -2.5, and a booster moves by 0.293."""
    reward = Sentiment(min_words=1)
    for text, valences in [
        ("kind of good", [0, 0, 1.9 - 0.293]),
        ("sort of bad", [0, 0, -2.5 + 0.293]),
        ("Kind of a good", [0, 0, 0, 1.9 - 0.95 * 0.293]),
        ("kind", [2.4]),
        ("kind, of good", [2.4, 0, 1.9]),
        ("kind good of", [2.4, 1.9, 0]),
    ]:
        assert reward.score(PLAIN, text) == pytest.approx(sum(valences) / len(valences) / 4, abs=1e-12)


@pytest.mark.parametrize("name", ["sentiment", "vader"])
def test_an_unknown_mood(name: str) -> None:
    wrong = Example("", (), {"mood": "angry"})
    with pytest.raises(RewardError, match=r"'happy' or 'sad', got 'angry'[\s\S]*angry"):
        checked_score(make_reward(name), wrong, "fox")


def test_vader_is_the_library(shared_data: Path) -> None:
    texts = ["", "VADER is VERY SMART, and FUNNY!!!", "Good, but not great?", "no 😁 :D", "the fox\n\nwas  Sad.", " "]
    reviews = (shared_data / "sentence_polarity" / "pos.txt").read_text(encoding="utf-8", errors="replace")
    texts += reviews.splitlines()[:100]
    reward = make_reward("vader")
    for text in texts:
        compound = ANALYZER.polarity_scores(text)["compound"]
        assert reward.score(PLAIN, text) == reward.score(HAPPY, text) == compound
        assert reward.score(SAD, text) == -compound
    assert reward.score(HAPPY, "The fox was very happy!") > 0.5


@pytest.mark.parametrize(
    ("text", "score"),
    [("", 0), ("one", 0.25), ("one, two", 0.5), ("a b\n\nc\td ", 1), ("a b c d e", 0.75), ("a " * 8, 0), ("a " * 9, 0)],
)
def test_length(text: str, score: float) -> None:
    assert Length(4).score(PLAIN, text) == score
    assert make_reward({"length": {"target": 4}}).score(SAD, text) == score
    assert make_reward("length").score(PLAIN, "a " * 20) == 1
    with pytest.raises(ValueError, match=r"Expected target \(in words\) to be at least 1, got 0"):
        Length(0)
    for target in (True, 2.0, "4"):
        with pytest.raises(TypeError, match=r"Expected target \(in words\) to be a whole number of at least 1, got "):
            Length(target)


# A user's function


def test_a_function_is_a_reward() -> None:
    def vowels(example: Example, response: str) -> float:
        return sum(response.count(vowel) for vowel in "aeiou") / (1 + len(example.prompt))

    reward = make_reward(vowels)
    assert (reward.name, reward.low, reward.high) == ("vowels", -math.inf, math.inf)
    assert reward.score(Example("abc"), "fox eats") == 0.75
    assert FunctionReward(vowels, "v", 0, 1).name == "v"
    assert repr(FunctionReward(vowels, "v")) == "FunctionReward('v')"

    class Counter:
        def __call__(self, example: Example, response: str) -> int:
            return len(response)

    assert make_reward(Counter()).name == "Counter"
    assert checked_score(make_reward(Counter()), PLAIN, "abc") == 3.0
    with pytest.raises(TypeError, match=r"a function f\(example, response\) -> float, got int"):
        FunctionReward(3)


@pytest.mark.parametrize(
    "score",
    [1, 0.5, np.float32(0.5), np.float64(2), np.int64(3), np.array(0.25), Fraction(1, 2), np.longdouble(0.5), True,
     False, np.True_, np.array(False), torch.tensor(0.25), torch.tensor(2.0, requires_grad=True), torch.tensor(True)],
    ids=repr,
)  # fmt: skip
def test_numbers_are_scores(score: object) -> None:
    checked = checked_score(make_reward(lambda example, response: score), PLAIN, "")
    assert type(checked) is float
    assert checked == float(score.detach() if isinstance(score, torch.Tensor) else score)


@pytest.mark.parametrize(
    ("score", "problem"),
    [
        (math.nan, "gave nan"),
        (math.inf, "gave inf"),
        (-math.inf, "gave -inf"),
        (np.float32(math.nan), "gave nan"),
        (10**400, "gave inf"),
        (torch.tensor(math.nan), "gave nan"),
        (torch.tensor([0.5]), r"gave tensor\(\[0.5000\]\) of type Tensor"),
        (np.array("0.5"), "gave '0.5' of type str"),
        ("0.5", "gave '0.5' of type str"),
        (None, "gave None of type NoneType"),
        ([0.5], r"gave \[0.5\] of type list"),
        (np.array([0.5]), r"gave array\(\[0.5\]\) of type ndarray"),
        (1j, "gave 1j of type complex"),
    ],
)
@pytest.mark.parametrize("way", ["push", "score_whole", "checked_score", "sum"])
def test_what_is_no_finite_number(score: object, problem: str, way: str) -> None:
    def broken(example: Example, response: str) -> object:
        return score if response == "fox" else 0.0

    reward, tokenizer, lane = make_reward(broken), make_tokenizer("stories"), np.array([0])
    example = Example("A fox", (), {"mark": 17})
    scorer = reward.scorer(1, tokenizer)
    scorer.reset(lane, [example])
    ways: dict[str, Callable[[], object]] = {
        "push": lambda: [scorer.push(lane, np.array([token])) for token in tokenizer.encode_batch(["fox"])[0]],
        "score_whole": lambda: scorer.score_whole(lane, [example], ["fox"]),
        "sum": lambda: WeightedSum({"b": (0.5, reward)}).score(example, "fox"),
        "checked_score": lambda: checked_score(reward, example, "fox"),
    }
    with pytest.raises(RewardError, match=rf"(?s)^Reward 'broken' {problem}.*example: .*17.*response: 'fox'") as caught:
        ways[way]()
    assert caught.value.reward == "broken"
    assert (caught.value.example, caught.value.response) == (example, "fox")


def test_a_reward_that_raises() -> None:
    def division(example: Example, response: str) -> float:
        return 1 / len(response)

    with pytest.raises(RewardError, match=r"Reward 'division' raised ZeroDivisionError: division by zero") as caught:
        checked_score(make_reward(division), SAD, "")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    copied = pickle.loads(pickle.dumps(caught.value))  # the way out of a worker process
    assert str(copied) == str(caught.value)
    assert (copied.reward, copied.example, copied.response) == ("division", SAD, "")


def test_long_texts_are_cut_in_errors() -> None:
    error = RewardError("r", "failed", Example("x" * 10_000), "y" * 10_000)
    assert len(str(error)) < 1300
    assert "... (10002 characters)" in str(error)
    assert str(RewardError("r", "failed", None, None)).startswith("Reward 'r' failed\nA score must be")


# Combinations


def test_a_weighted_sum_by_hand() -> None:
    reward = make_reward({"sentiment": 0.5, "length": {"target": 4, "weight": -2}})
    text = "a very happy fox day"
    parts = {"sentiment": (HAPPY_ + 0.293) / 32, "length": 0.75}
    assert reward.score(PLAIN, text) == pytest.approx(0.5 * parts["sentiment"] - 1.5, abs=1e-12)
    assert (reward.low, reward.high) == (-2.5, 0.5)
    assert reward.name == "0.5 sentiment + -2 length"
    assert {name: part.score(PLAIN, text) for name, part in reward.parts.items()} == pytest.approx(parts)
    assert repr(reward) == "WeightedSum('0.5 sentiment + -2 length')"


def test_a_weighted_sum_reports_its_parts() -> None:
    tokenizer = make_tokenizer("stories")
    reward = make_reward({"sentiment": {"min_words": 1, "weight": 0.5}, "length": {"target": 2, "weight": 0}})
    scorer = reward.scorer(3, tokenizer)
    scorer.reset(np.arange(3), [PLAIN, SAD, PLAIN])
    (happy,) = [token for token, piece in enumerate(tokenizer.pieces) if piece == b" happy"]
    assert scorer.push(np.array([1, 0]), np.array([happy, happy])) == pytest.approx([-HAPPY_ / 8, HAPPY_ / 8])
    parts = scorer.part_scores(np.arange(3))
    assert {name: scores.tolist() for name, scores in parts.items()} == {
        "sentiment": [HAPPY_ / 4, -HAPPY_ / 4, 0],
        "length": [0.5, 0.5, 0],
    }
    parts["length"][:] = 7  # the caller's own
    scorer.reset(np.array([1]), [PLAIN])
    assert scorer.part_scores(np.arange(3))["length"].tolist() == [0.5, 0, 0]
    whole = scorer.score_whole(np.array([2, 0]), [SAD, PLAIN], ["sad", "happy fox"])
    assert whole == pytest.approx([-SAD_ / 8, HAPPY_ / 16])
    assert scorer.part_scores(np.array([2, 0]))["length"].tolist() == [0.5, 1.0]
    assert make_reward("sentiment").scorer(1, tokenizer).part_scores(np.array([0])) == {}


def test_bounds_of_sums() -> None:
    unbounded = FunctionReward(lambda example, response: 0.0)
    assert WeightedSum({"f": (0, unbounded)}).high == 0
    both = WeightedSum({"f": (-1, unbounded), "length": (2, Length())})
    assert (both.low, both.high) == (-math.inf, math.inf)
    half = WeightedSum({"f": (-3, FunctionReward(len, low=0))})
    assert (half.low, half.high) == (-math.inf, 0)


def test_forms_of_dicts() -> None:
    assert isinstance(make_reward({"length": 1}), Length)
    assert isinstance(make_reward({"length": {"target": 3, "weight": 1.0}}), Length)
    assert make_reward({"length": {"target": 3}}).target == 3
    assert make_reward({"length": np.float32(0.5)}).score(PLAIN, "a " * 20) == 0.5
    setting = {"target": 3, "weight": 2}
    assert make_reward({"length": setting}).score(PLAIN, "a b c") == 2
    assert setting == {"target": 3, "weight": 2}  # the caller's own
    reward = Length()
    assert make_reward(reward) is reward


@pytest.mark.parametrize(
    ("reward", "error", "message"),
    [
        ("sentimnt", ValueError, r"from \['.*'vader'.*\], got 'sentimnt'\. Did you mean 'sentiment'\?"),
        ("xyz", ValueError, r"got 'xyz'\.$"),
        ({"lenght": 1}, ValueError, "Did you mean 'length'"),
        ({3: 1}, ValueError, "got 3"),
        ({}, ValueError, "at least one reward in a weighted sum, got none"),
        ({"length": math.nan}, ValueError, "weight of reward 'length' to be a finite number, got nan"),
        ({"length": math.inf}, ValueError, "to be a finite number, got inf"),
        ({"length": True}, ValueError, "to be a finite number, got True"),
        ({"length": "1"}, ValueError, "to be a finite number, got '1'"),
        ({"length": None}, ValueError, "to be a finite number, got None"),
        ({"length": {"weight": [1]}}, ValueError, r"to be a finite number, got \[1\]"),
        (
            {"length": {"goal": 3}},
            TypeError,
            r"Expected reward 'length' with arguments from \['target'.*\], got 'goal'\.$",
        ),
        ({"length": {"tagret": 3}}, TypeError, r"got 'tagret'\. Did you mean 'target'\?"),
        ({"clip": {"reward": {"rouge_n": {"n": 2, "k": 1}}, "low": 0}}, TypeError, r"Expected reward 'rouge_n' .*'k'"),
        (None, TypeError, "got None of type NoneType"),
        (0.5, TypeError, "got 0.5 of type float"),
        (["length"], TypeError, "of type list"),
        (Length, TypeError, "a reward's name.*got <class .*Length.*>"),
    ],
)
def test_errors_of_make_reward(reward: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_reward(reward)


def test_a_term_must_be_a_reward() -> None:
    with pytest.raises(TypeError, match="term 'f' of a weighted sum to be a Reward, got function"):
        WeightedSum({"f": (1, lambda example, response: 0.0)})


def test_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REWARDS", dict(registry.REWARDS))
    assert {"length", "sentiment", "vader"} <= set(list_rewards())
    assert list_rewards() == sorted(list_rewards())
    register_reward("size", lambda scale=1: FunctionReward(lambda example, response: scale * len(response), "size"))
    assert make_reward("size").score(PLAIN, "fox") == 3
    assert make_reward({"size": {"scale": 2, "weight": 0.5}, "length": 0}).score(PLAIN, "fox") == 3
    assert "size" in list_rewards()
    with pytest.raises(ValueError, match="Expected a new reward name, got 'size'"):
        register_reward("size", Length)
    for name in ("", None, 3):
        with pytest.raises(ValueError, match="Expected a name for the reward, got"):
            register_reward(name, Length)
    with pytest.raises(TypeError, match=r"Expected a Reward class, a function that returns a Reward or .*, got 3"):
        register_reward("three", 3)
    register_reward("plain", len)
    with pytest.raises(TypeError, match=r"Reward 'plain' could not be made with arguments \{\}"):
        make_reward("plain")
    register_reward("number", lambda: 3)
    with pytest.raises(TypeError, match=r"the factory of reward 'number' to return a Reward, .*, got int without"):
        make_reward("number")


def test_a_plain_function_with_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REWARDS", dict(registry.REWARDS))

    class Counts:
        def __call__(self, example: Example, response: str) -> int:
            return response.count("sea")

    register_reward("one", lambda example, response: 1.0)
    register_reward("count", lambda e, r, letter="s": float(r.count(letter)))
    register_reward("sea", Counts())
    register_reward("between", lambda low, high: make_reward({"clip": {"reward": "sea", "low": low, "high": high}}))
    assert make_reward("one").score(PLAIN, "") == 1.0
    assert make_reward("one").name == "one"
    assert make_reward("count").score(PLAIN, "the sea, the sea") == 2.0
    made = make_reward({"count": {"letter": "e", "weight": 0.5}, "sea": 1})
    assert made.score(PLAIN, "the sea, the sea") == 0.5 * 4 + 2
    assert make_reward({"between": {"low": 0, "high": 1}}).score(PLAIN, "sea sea") == 1.0
    with pytest.raises(TypeError, match=r"Expected reward 'count' with arguments from .*'letter'\], got 'word'"):
        make_reward({"count": {"word": "sea"}})
    with pytest.raises(TypeError, match=r"Expected reward 'between' with the arguments \['high'\], got \['low'\]"):
        make_reward({"between": {"low": 0}})


def test_an_entry_point_is_imported_when_its_reward_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "REWARDS", dict(registry.REWARDS))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lazy_scores.py").write_text(
        "from textenvs.rewards import Length as Size\n"
        "def letters(example, response, letter='s'):\n    return float(response.count(letter))\n"
        "number = 3\n"
    )
    names = {"lazy_size": "Size", "lazy_letters": "letters", "lazy_number": "number", "lazy_nothing": "nothing"}
    for name, attribute in names.items():
        register_reward(name, f"lazy_scores:{attribute}")
    register_reward("lazy_module", "no_such_scores:Size")
    assert set(names) < set(list_rewards())
    assert "lazy_scores" not in sys.modules
    with pytest.raises(ValueError, match="got 'lazy_size', which is taken by 'lazy_scores:Size'"):
        register_reward("lazy_size", Length)

    assert make_reward({"lazy_size": {"target": 2}}).score(PLAIN, "two words") == 1.0
    monkeypatch.delitem(sys.modules, "lazy_scores")
    made = make_reward({"lazy_letters": {"letter": "e", "weight": 0.5}})
    assert made.score(PLAIN, "the sea") == 1.0
    with pytest.raises(TypeError, match=r"'lazy_size' with arguments from \[.*'target'.*\], got 'taget'"):
        make_reward({"lazy_size": {"taget": 2}})
    with pytest.raises(TypeError, match="Expected a Reward class or a function at 'lazy_scores:number', got 3"):
        make_reward("lazy_number")
    with pytest.raises(ImportError, match="Reward 'lazy_nothing' could not be imported from 'lazy_scores:nothing'"):
        make_reward("lazy_nothing")
    with pytest.raises(ImportError, match="Reward 'lazy_module' could not be imported from 'no_such_scores:Size'"):
        make_reward("lazy_module")
    for text in ("lazy_scores", "lazy_scores:", ":Size", "lazy scores:Size", "a:b:c"):
        with pytest.raises(ValueError, match="Expected the entry point of reward 'wrong' as 'module:attribute', got"):
            register_reward("wrong", text)


# Push against score


def letters(example: Example, response: str) -> float:
    """A user's function that feels every character, and the example."""
    return sum((place + 1) * ord(letter) for place, letter in enumerate(response)) / 1e4 + len(example.prompt)


VARIANTS = [
    {"keywords": {"whole_words": False}},
    {"length": {"unit": "characters"}},
    {"sentiment": 0.5, "length": {"target": 3, "weight": -2}},
    letters,
]
REWARDS = [*OUR_REWARDS, *VARIANTS]
WRITTEN = [
    "The fox was not very happy , but it isn't so sad !",
    ' "never" so-so :) un believ able\n\n least 3.5 漢字 \u3000x\u00a0y 😀 é',
]


@pytest.fixture(scope="module", params=["stories", "stories260K"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    name = request.param
    return make_tokenizer(name if name == "stories" else request.getfixturevalue("stories260k"))


Turn = tuple[list[int], int | None]


def tokens_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """A response: some words, any other tokens, special ones and halves of characters among them."""
    pairs = [(prefix, word) for prefix in ("", " ") for text in WRITTEN for word in text.split()]
    words = tokenizer.encode_batch([prefix + word for prefix, word in pairs])
    special = st.sampled_from([tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id])
    any_token = st.one_of(st.integers(0, tokenizer.vocab_size - 1), special).map(lambda token: [token])
    parts = st.lists(st.one_of(st.sampled_from(words), st.sampled_from(words), any_token), max_size=8)
    return parts.map(lambda lists: [token for part in lists for token in part])


def indices(lanes: Sequence[int]) -> np.ndarray:
    return np.array(lanes, dtype=np.intp)


def check_pushes(reward: Reward, tokenizer: Tokenizer, responses: list[list[int]], turns: list[Turn]) -> None:
    """Four lanes write responses, in turns: (which lanes push, in this order; the lane that starts anew before)."""
    scorer = reward.scorer(4, tokenizer)
    texts: list[list[int]] = [[] for _ in range(4)]
    answers = [EXAMPLES[lane % 3] for lane in range(4)]
    left = [list(response) for response in responses]
    scorer.reset(indices(range(4)), answers)
    for order, fresh in [*turns, *[([3, 1, 0, 2], None)] * max(map(len, left))]:
        if fresh is not None:
            texts[fresh], answers[fresh] = [], EXAMPLES[len(order) % 3]
            scorer.reset(indices([fresh]), [answers[fresh]])
        lanes = [lane for lane in order if left[lane]]
        tokens = [left[lane].pop(0) for lane in lanes]
        phi = scorer.push(indices(lanes), np.array(tokens, dtype=np.int64))
        assert phi.dtype == np.float64
        for lane, token in zip(lanes, tokens, strict=True):
            texts[lane].append(token)
        written = [decode(tokenizer, texts[lane]) for lane in lanes]
        expected = [reward.score(answers[lane], text) for lane, text in zip(lanes, written, strict=True)]
        assert phi.tolist() == pytest.approx(expected, abs=1e-9, rel=0)
        assert scorer.score_whole(indices(lanes), [answers[lane] for lane in lanes], written).tolist() == expected


def cases_of(tokenizer: Tokenizer) -> dict[str, st.SearchStrategy]:
    turn = st.tuples(st.lists(st.integers(0, 3), unique=True), st.one_of(st.none(), st.integers(0, 3)))
    responses = st.lists(tokens_of(tokenizer), min_size=4, max_size=4)
    return {"responses": responses, "turns": st.lists(turn, max_size=20)}


@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: getattr(reward, "__name__", str(reward)))
def test_push_equals_score(reward: object, tokenizer: Tokenizer) -> None:
    made = make_reward(reward)

    @settings(max_examples=examples(40))
    @given(**cases_of(tokenizer))
    def check(responses: list[list[int]], turns: list[Turn]) -> None:
        check_pushes(made, tokenizer, responses, turns)

    check()


@pytest.mark.parametrize(
    ("cls", "limit", "reward"),
    [
        (Units, "max_edges", "length"),
        (Units, "max_characters", "sentiment"),
        (Units, "max_bytes", "sentiment"),
        (Machine, "max_edges", "sentiment"),
    ],
)
def test_push_equals_score_after_forgetting(
    cls: type, reward: str, limit: str, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgot = []
    compact = cls._compact
    monkeypatch.setattr(cls, limit, 5)
    monkeypatch.setattr(cls, "_compact", lambda self: (forgot.append(len(self._edges)), compact(self)))

    @settings(max_examples=25)
    @given(**cases_of(tokenizer))
    def check(responses: list[list[int]], turns: list[Turn]) -> None:
        check_pushes(make_reward(reward), tokenizer, responses, turns)

    check()
    assert forgot
    if (cls, limit) == (Units, "max_edges"):
        assert min(forgot) > 5
        assert max(forgot) <= 5 + 4  # one push past the limit


@pytest.mark.parametrize("reward", REWARDS, ids=lambda reward: getattr(reward, "__name__", str(reward)))
def test_lanes_and_their_order_do_not_matter(reward: object, tokenizer: Tokenizer) -> None:
    made = make_reward(reward)
    rng = np.random.default_rng(0)
    texts = [
        " The fox was not happy 3.5",
        " The fox was not happy at all.",
        " so sad, isn't it 漢字",
        " A happy story",
        " :) a a a a 2024-02-29",
    ]
    tokens = np.full((24, 5), tokenizer.eos_token_id)
    for lane, ids in enumerate(tokenizer.encode_batch(texts)):
        tokens[: len(ids), lane] = ids[:24]
        tokens[len(ids) :: 3, lane] = rng.integers(0, tokenizer.vocab_size, len(tokens[len(ids) :: 3]))
    answers = [EXAMPLES[lane % 3] for lane in range(5)]

    together = made.scorer(5, tokenizer)
    together.reset(np.arange(5), answers)
    expected = np.array([together.push(np.arange(5), row) for row in tokens])

    shuffled = made.scorer(9, tokenizer)  # other lanes, in another order, reset one by one
    places = np.array([7, 2, 8, 0, 4])
    for lane in (3, 1, 4, 0, 2):
        shuffled.reset(places[[lane]], [answers[lane]])
    for step, row in enumerate(tokens):
        order = rng.permutation(5)
        assert shuffled.push(places[order], row[order]).tolist() == expected[step, order].tolist()

    for lane in range(5):
        alone = made.scorer(1, tokenizer)
        alone.reset(np.array([0]), [answers[lane]])
        phis = [alone.push(np.array([0]), tokens[[step], lane])[0] for step in range(24)]
        assert phis == expected[:, lane].tolist()
    assert len(np.unique(expected)) > 1


def test_a_scorer_that_was_never_reset() -> None:
    scorer = TextScorer(make_reward("vader"), 2, make_tokenizer("stories"))
    scorer.reset(np.array([1]), [PLAIN])
    with pytest.raises(RuntimeError, match="Expected a reset of lane 0"):
        scorer.push(np.array([0]), np.array([5]))


def test_a_text_is_scored_again_only_when_it_has_grown() -> None:
    calls = []
    tokenizer = make_tokenizer("stories")

    def count(example: Example, response: str) -> float:
        calls.append(response)
        return len(calls)

    scorer = make_reward(count).scorer(1, tokenizer)
    scorer.reset(np.array([0]), [PLAIN])
    (a,) = [token for token, piece in enumerate(tokenizer.pieces) if piece == b"a"]
    tokens = [tokenizer.pad_token_id, a, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert [scorer.push(np.array([0]), np.array([token]))[0] for token in tokens] == [1, 2, 2, 2]
    assert calls == ["", "a"]


class Repeats(UnitSums):
    """The number of words that follow themselves, and of words in capitals, weighted by the example."""

    name = "repeats"
    width = 2

    def start(self, example: Example) -> str:
        return "a"

    def read(self, memory: str, unit: str) -> tuple[str, tuple[float, ...]]:
        return unit, (float(unit == memory), float(unit.isupper()))

    def features(self, example: Example) -> tuple[float, ...]:
        return (float(len(example.references)),)

    def phi(self, sums: np.ndarray, features: np.ndarray) -> np.ndarray:
        return sums[:, 0] + 10 * features[:, 0] * sums[:, 1]


class Runs(Splitter):
    """Runs of one character: white space is a unit like any other."""

    def cut(self, text: str) -> tuple[list[str], str]:
        runs = self.finish(text)
        return runs[:-1], runs[-1] if runs else ""

    def finish(self, rest: str) -> list[str]:
        return ["".join(run) for _, run in itertools.groupby(rest)]

    def closes(self, character: str) -> bool:
        return False


class LongRuns(Repeats):
    """The number of runs that are longer than one character, without a memory."""

    name = "long runs"
    splitter = Runs()
    width = 1

    def read(self, memory: object, unit: str) -> tuple[object, tuple[float, ...]]:
        return None, (float(len(unit) > 1),)

    def phi(self, sums: np.ndarray, features: np.ndarray) -> np.ndarray:
        return sums[:, 0]


def test_a_users_sums_of_units(tokenizer: Tokenizer) -> None:
    assert Repeats().score(PLAIN, "a a A A A b") == 4
    assert Repeats().score(SAD, "a a A A A b") == 34
    assert Repeats().score(SAD, "") == 0
    assert LongRuns().score(PLAIN, "aab  cccd") == 3
    checkers = [(Repeats(), "aA -é"), (LongRuns(), "ab \né")]
    for reward, letters in checkers:
        pieces = [token for token, piece in enumerate(tokenizer.pieces) if not set(piece) - set(letters.encode())]
        mixed = st.lists(st.sampled_from(pieces), min_size=4, max_size=24)

        @settings(max_examples=examples(40))
        @given(st.lists(mixed, min_size=4, max_size=4), cases_of(tokenizer)["turns"])
        def check(responses: list[list[int]], turns: list[Turn]) -> None:
            check_pushes(reward, tokenizer, responses, turns)  # noqa: B023 - called before the loop goes on

        check()


def test_what_tokens_do_is_worked_out_once() -> None:
    tokenizer = make_tokenizer("stories")
    scorer = Sentiment().scorer(64, tokenizer)
    lanes = np.arange(64)
    ids = tokenizer.encode_batch([" the fox was not very happy"])[0]
    for _ in range(3):
        scorer.reset(lanes, [PLAIN] * 64)
        for token in ids:
            scorer.push(lanes, np.full(64, token))
    assert len(scorer.units._edges) == len(ids)


@given(st.lists(st.sampled_from([*"nt'N!xqz.:)(", "n't", "hap", "py", "good", "ful", "\u03a3", "\u0130"]), max_size=12))
def test_a_shortened_word_is_read_as_the_whole_one(parts: list[str]) -> None:
    reward, rest = Sentiment(), ""
    for part in parts:
        rest = reward.splitter.shorten(rest + part)
    word = "".join(parts)
    for memory in (("", "", "", None), ("never", "negation", "booster", None), ("valent", "", "", 2.4)):
        assert bool(word) == bool(rest)
        if word:
            assert reward.read(memory, rest) == reward.read(memory, word)


@pytest.mark.parametrize("name", OUR_REWARDS)
def test_every_registered_reward(name: str) -> None:
    reward = make_reward(name)
    assert reward.name == name
    assert -math.inf < reward.low < reward.high < math.inf
    assert reward.parts == {}
    copied = pickle.loads(pickle.dumps(reward))
    assert copied.score(EXAMPLES[1], "The fox was sad!") == reward.score(EXAMPLES[1], "The fox was sad!")
    assert len(pickle.dumps(reward)) < 10_000  # no lexicon travels with it


class TestPlacesOfRewards:
    """A reward may be named by its place, "my_module:function"."""

    @pytest.fixture(autouse=True)
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "places_of_rewards.py").write_text(
            "from textenvs.rewards import Length\n\n\n"
            "def loud(example, response, *, mark='!'):\n    return float(response.count(mark))\n\n\n"
            "class Short(Length):\n    name = 'short'\n\n\n"
            "def make(target):\n    raise SystemExit\n\n\n"
            "number = 3\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))

    def test_a_function_and_a_class(self) -> None:
        loud = make_reward("places_of_rewards:loud")
        assert (loud.name, loud.score(Example(""), "Yes!!")) == ("loud", 2.0)
        assert make_reward({"places_of_rewards:loud": {"mark": "?"}}).score(Example(""), "Why?") == 1.0
        assert make_reward({"places_of_rewards:Short": {"target": 2}}).score(Example(""), "a b") == 1.0
        mixed = make_reward({"places_of_rewards:loud": 0.5, "length": 1.0})
        assert mixed.score(Example(""), "") == 0.0

    @pytest.mark.parametrize(
        ("reward", "error", "message"),
        [
            ("places_of_rewards:quiet", ImportError, "could not be imported from 'places_of_rewards:quiet'"),
            ("no_such_module:loud", ImportError, "No module named 'no_such_module'"),
            ("places_of_rewards:number", TypeError, "Expected a Reward class or a function at"),
            ({"places_of_rewards:make": {"target": 2}}, TypeError, "Reward class or a function f"),
            ({"os:system": {"command": "true"}}, TypeError, "Reward class or a function f"),
            ("places_of_rewards:", ValueError, "Expected a reward from"),
        ],
    )
    def test_what_is_none(self, reward: object, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            make_reward(reward)
