"""The contract checks: they pass on every reward of ours, and fail on rewards that are broken in one way each."""

import itertools
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.textenvs.helpers import Letters
from textenvs.rewards import FunctionReward, Length, Reward, RewardError, Scorer, TextScorer, WeightedSum
from textenvs.tasks import Example
from textenvs.testing import EXAMPLES, check_reward
from textenvs.tokenizer import Tokenizer, decode_bytes


@pytest.mark.parametrize("reward", [{"sentiment": 0.7, "length": {"target": 4, "weight": -0.3}}, {"vader": 0}], ids=str)
def test_our_combinations_pass(reward: Any) -> None:
    check_reward(reward, max_examples=30)
    check_reward(reward, Letters(), max_examples=10)


def test_a_users_rewards_pass() -> None:
    check_reward(lambda example, response: 1e6 * len(response), max_examples=10)
    check_reward(
        lambda example, response: float(example.metadata["label"] == response),
        examples=[Example("Is it?", (), {"label": "Yes"})],
        max_examples=10,
    )
    check_reward(FunctionReward(lambda example, response: min(len(response), 9) / 9, "short", 0, 1), max_examples=10)


class OneText(Scorer):
    """All lanes write into one text."""

    def __init__(self, reward: Reward, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self._pieces = tokenizer.pieces
        self._data = b""

    def reset(self, lanes: np.ndarray, examples: Sequence[Example]) -> None:
        self._data = b""

    def push(self, lanes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        self._data += b"".join([self._pieces[token] for token in tokens.tolist()])
        return np.full(len(lanes), self.reward.score(EXAMPLES[0], decode_bytes(self._data)))


class Bytes(Reward):
    """The number of bytes of complete characters; a subclass breaks its scorer."""

    name = "bytes"
    low = 0.0
    _Scorer: Any = TextScorer

    def score(self, example: Example, response: str) -> float:
        return float(len(response.encode()))

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        return self._Scorer(self, num_lanes, tokenizer)


class LeaksBetweenLanes(Bytes):
    _Scorer = OneText


class LeaksBetweenEpisodes(Bytes):
    class _Scorer(TextScorer):
        def reset(self, lanes: np.ndarray, examples: Sequence[Example]) -> None:
            kept = [self._data[lane] for lane in lanes]
            super().reset(lanes, examples)
            for lane, data in zip(lanes, kept, strict=True):
                self._data[lane] = data[:1]


class LeaksBetweenScorers(Bytes):
    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        if not hasattr(self, "_scorer"):
            self._scorer = TextScorer(self, 8, tokenizer)
        return self._scorer


class FeelsTheOrder(Bytes):
    class _Scorer(TextScorer):
        def push(self, lanes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
            phi = np.empty(len(lanes))
            phi[np.argsort(lanes)] = super().push(lanes, tokens)
            return phi


class CountsSpecialTokens(Bytes):
    class _Scorer(TextScorer):
        def __init__(self, reward: Reward, num_lanes: int, tokenizer: Tokenizer) -> None:
            super().__init__(reward, num_lanes, tokenizer)
            self._pieces = [piece or b"?" for piece in tokenizer.pieces]


class ShowsHalfCharacters(Bytes):
    class _Scorer(TextScorer):
        def push(self, lanes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
            super().push(lanes, tokens)
            return np.array([float(len(self._data[lane])) for lane in lanes])


class WrongPush(Bytes):
    class _Scorer(TextScorer):
        def push(self, lanes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
            return super().push(lanes, tokens) * (1 + 1e-6)


class WrongShape(Bytes):
    class _Scorer(TextScorer):
        def push(self, lanes: np.ndarray, tokens: np.ndarray) -> Any:
            return super().push(lanes, tokens).tolist()


class NotANumberInPush(Bytes):
    class _Scorer(TextScorer):
        def push(self, lanes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
            return np.where(tokens > 900, math.nan, super().push(lanes, tokens))


class WrongWhole(Bytes):
    class _Scorer(TextScorer):
        def score_whole(self, lanes: np.ndarray, examples: Any, responses: Any) -> np.ndarray:
            return super().score_whole(lanes, examples, responses)[::-1]


class UnknownPart(Bytes):
    class _Scorer(TextScorer):
        def part_scores(self, lanes: np.ndarray) -> dict[str, np.ndarray]:
            return {"extra": np.zeros(len(lanes))}


class StalePart(WeightedSum):
    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        made = super().scorer(num_lanes, tokenizer)
        made.part_scores = lambda lanes: {"length": np.zeros(len(lanes))}
        return made


class OutOfRange(Bytes):
    high = 20.0


class BelowRange(Bytes):
    def score(self, example: Example, response: str) -> float:
        return -float("漢" in response)


class UpsideDown(Bytes):
    low, high = 1.0, 0.0


class CountsCalls(Bytes):
    def __init__(self) -> None:
        self.calls = itertools.count()

    def score(self, example: Example, response: str) -> float:
        return float(next(self.calls))


class RemembersTexts(Bytes):
    """A novelty bonus: no score."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def score(self, example: Example, response: str) -> float:
        novel = response not in self.seen
        self.seen.add(response)
        return float(novel and len(response) > 12)


class RemembersRareTexts(RemembersTexts):
    """So rare that only what is drawn comes upon it."""

    def score(self, example: Example, response: str) -> float:
        return super().score(example, response) if response.startswith(" ") else 0.0


FEELS_OTHERS = "'bytes': a lane should feel its own text alone"
WRONG_PUSH = r"'bytes': push should give the score of the text so far"


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (LeaksBetweenLanes(), FEELS_OTHERS),
        (LeaksBetweenEpisodes(), FEELS_OTHERS),
        (LeaksBetweenScorers(), f"{FEELS_OTHERS}|{WRONG_PUSH}"),
        (FeelsTheOrder(), FEELS_OTHERS),
        (CountsSpecialTokens(), WRONG_PUSH),
        (ShowsHalfCharacters(), WRONG_PUSH),
        (WrongPush(), WRONG_PUSH),
        (WrongShape(), r"push should give float64 \(1,\), one a lane, got list"),
        (NotANumberInPush(), WRONG_PUSH + r", \d+\.0, got nan"),
        (WrongWhole(), r"score_whole should give the score of the text"),
        (UnknownPart(), r"has the parts \[\], but reports \['extra'\]"),
        (StalePart({"length": (2, Length())}), r"part 'length' should be reported as 0\.05\d*, got 0\.0"),
        (OutOfRange(), r"'bytes' should be from 0\.0 to 20\.0, got \d+\.0 for"),
        (BelowRange(), r"'bytes' should be from 0\.0 to inf, got -1\.0 for '.*漢"),
        (UpsideDown(), r"should have low <= high, got 1\.0 and 0\.0"),
        (CountsCalls(), r"same score at every call, got \d+\.0 and then \d+\.0 for"),
        (RemembersTexts(), r"same score at every call, got 1\.0 and then 0\.0 for"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Reward) else "",
)
def test_broken_rewards_fail(reward: Reward, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_reward(reward)


def test_a_reward_that_depends_on_history_fails_even_where_it_is_rare() -> None:
    with pytest.raises(AssertionError, match="not other lanes, their order, other scorers or anything earlier"):
        check_reward(RemembersRareTexts())


@pytest.mark.parametrize("score", [math.nan, math.inf, None, "1"])
def test_what_is_no_number_fails(score: Any) -> None:
    with pytest.raises(RewardError, match="Reward 'broken' gave"):
        check_reward(FunctionReward(lambda example, response: score if "漢" in response else 0.0, "broken"))


def test_a_reward_that_raises_fails() -> None:
    with pytest.raises(RewardError, match="raised ZeroDivisionError"):
        check_reward(lambda example, response: 1 / len(response))


def test_the_same_cases_at_every_call() -> None:
    def texts() -> list[str]:
        seen: list[str] = []
        check_reward(lambda example, response: float(bool(seen.append(response))), max_examples=5)
        return seen

    assert texts() == texts()


def test_arguments() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        check_reward("length", examples=[])
    with pytest.raises(ValueError, match="Did you mean 'length'"):
        check_reward("lenght")
    with pytest.raises(ValueError, match="there is no file"):
        check_reward("length", "no such tokenizer")
    assert {example.metadata.get("mood") for example in EXAMPLES} == {"happy", "sad", None}
    # Wider than the error of WrongPush.
    check_reward(WrongPush(), tolerance=1e-5, max_examples=10)


def test_hypothesis_is_asked_for_only_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ImportError, match="pip install hypothesis"):
        check_reward("length")
