"""Diversity inside a response, and copying from the prompt: n-grams of words and punctuation marks, in lower case.

A unit is a run of letters, digits and underscores, or one other character that is not white space. So "!!!!" is four
units, and repeats itself.

    distinct     the share of n-grams that are different              1 is best: a positive weight
    repetition   the share of n-grams that have been there before     0 is best: a negative weight
    copying      the share of n-grams that are in the prompt          0 is best: a negative weight, or a positive one
                                                                      to copy
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_count
from textenvs.example import Example
from textenvs.rewards.base import Reward
from textenvs.rewards.incremental.splitters import Matches
from textenvs.rewards.incremental.units import UnitScorer
from textenvs.tokenizer import Tokenizer

Gram: TypeAlias = tuple[str, ...]

_UNITS = Matches(r"\w+|[^\w\s]")


@dataclass(slots=True)
class _Lane:
    """The n-grams of one growing response.

    Attributes:
        last: The last n units.
        given: The n-grams that were known before the response.
        known: The n-grams of the response that are known from then on.
        total: The number of n-grams of the response.
        seen: The number of them that were known when they came.
        new: The n-grams added to `known` since the mark.
    """

    last: Gram = ()
    given: frozenset[Gram] = frozenset()
    known: set[Gram] = field(default_factory=set)
    total: int = 0
    seen: int = 0
    new: list[Gram] = field(default_factory=list)


class GramReward(Reward):
    """A score that is a function of two numbers: the n-grams of a response, and those of them that were known before.

    Args:
        n: The number of units of an n-gram.
        min_grams: The least number of n-grams to divide by.

    Raises:
        ValueError: If either is less than 1.
        TypeError: If either is not a whole number.

    Attributes:
        remembers: If True, an n-gram of the response is known from then on.
    """

    low, high = 0.0, 1.0
    splitter = _UNITS
    remembers = True

    def __init__(self, n: int, min_grams: int) -> None:
        self.n = check_count("n", n)
        self.min_grams = check_count("min_grams", min_grams)

    @abstractmethod
    def phi(self, total: NDArray[np.float64], seen: NDArray[np.float64]) -> NDArray[np.float64]:
        """Computes Phi from counts.

        Args:
            total: `(k,)` the number of n-grams of each response.
            seen: `(k,)` the number of them that were known before.

        Returns:
            `(k,)` Phi.
        """

    def given(self, example: Example) -> frozenset[Gram]:
        """Returns the n-grams that are known before the response."""
        return frozenset()

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response by its list of n-grams."""
        given = self.given(example)
        written = grams(self.splitter.split(response), self.n)
        new = len(set(written) - given) if self.remembers else sum(gram not in given for gram in written)
        return float(self.phi(np.array([float(len(written))]), np.array([float(len(written) - new)]))[0])

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> UnitScorer:
        """Makes a scorer that keeps a set of n-grams for each lane."""
        return _GramScorer(self, num_lanes, tokenizer)


def grams(units: Sequence[str], n: int) -> list[Gram]:
    """Returns all n-grams of some units, in their order."""
    return [tuple(units[start : start + n]) for start in range(len(units) - n + 1)]


@lru_cache(maxsize=1 << 12)
def _prompt_grams(prompt: str, n: int) -> frozenset[Gram]:
    return frozenset(grams(_UNITS.split(prompt), n))


class _GramScorer(UnitScorer):
    """Keeps a set of n-grams for each lane.

    Sets do not fit into arrays, so this loops over lanes: a fraction of a microsecond each, however long the response.
    """

    def __init__(self, reward: GramReward, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward, reward.splitter, num_lanes, tokenizer)
        self._reward = reward
        self._lanes = [_Lane() for _ in range(num_lanes)]
        self._marked: list[tuple[Gram, int, int]] = [((), 0, 0)] * num_lanes

    def start(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        for index, example in zip(lanes.tolist(), examples, strict=True):
            self._lanes[index] = _Lane(given=self._reward.given(example))
            self._marked[index] = ((), 0, 0)

    def read(self, lanes: NDArray[np.intp], units: NDArray[np.int64]) -> None:
        n, remembers, name = self._reward.n, self._reward.remembers, self.units.name
        for index, unit in zip(lanes.tolist(), units.tolist(), strict=True):
            lane = self._lanes[index]
            gram = lane.last = (*lane.last[1 - n or n :], name(unit))
            if len(gram) == n:
                lane.total += 1
                if gram in lane.known or gram in lane.given:
                    lane.seen += 1
                elif remembers:
                    lane.known.add(gram)
                    lane.new.append(gram)

    def mark(self, lanes: NDArray[np.intp]) -> None:
        for index in lanes.tolist():
            lane = self._lanes[index]
            self._marked[index] = (lane.last, lane.total, lane.seen)
            if lane.new:
                lane.new.clear()

    def undo(self, lanes: NDArray[np.intp]) -> None:
        for index in lanes.tolist():
            lane = self._lanes[index]
            lane.last, lane.total, lane.seen = self._marked[index]
            if lane.new:
                lane.known.difference_update(lane.new)
                lane.new.clear()

    def phi(self, lanes: NDArray[np.intp]) -> NDArray[np.float64]:
        counts = [(lane.total, lane.seen) for lane in map(self._lanes.__getitem__, lanes.tolist())]
        total, seen = np.array(counts, dtype=np.float64).reshape(-1, 2).T
        return self._reward.phi(total, seen)


class Distinct(GramReward):
    """Distinct-n: the number of different n-grams divided by the number of all, or by `min_grams` if that is larger.

    Without `min_grams`, one word would be as diverse as can be. With it, a response has to be long enough as well.

    Args:
        n: The number of words of an n-gram.
        min_grams: The least number of n-grams to divide by.

    Raises:
        ValueError: If either is less than 1.
        TypeError: If either is not a whole number.

    Cost: a dictionary look-up a token and a set look-up a word, whatever the length. Source: Li et al. (2016), A
    diversity-promoting objective function for neural conversation models, section 5.
    """

    name = "distinct"

    def __init__(self, n: int = 2, min_grams: int = 8) -> None:
        super().__init__(n, min_grams)

    def phi(self, total: NDArray[np.float64], seen: NDArray[np.float64]) -> NDArray[np.float64]:
        """Divides the n-grams that were new."""
        phi: NDArray[np.float64] = (total - seen) / np.maximum(total, self.min_grams)
        return phi


class Repetition(GramReward):
    """The share of n-grams that the response has had before: 0 is best, so give it a negative weight.

    Args:
        n: The number of words of an n-gram.
        min_grams: The least number of n-grams to divide by, so that the first repetition in a short text does not count
            as half of it.

    Raises:
        ValueError: If either is less than 1.
        TypeError: If either is not a whole number.

    Cost: as `Distinct`. Source: seq-rep-n of Welleck et al. (2020), Neural text generation with unlikelihood training,
    section 6.
    """

    name = "repetition"

    def __init__(self, n: int = 3, min_grams: int = 8) -> None:
        super().__init__(n, min_grams)

    def phi(self, total: NDArray[np.float64], seen: NDArray[np.float64]) -> NDArray[np.float64]:
        """Divides the n-grams that were known."""
        phi: NDArray[np.float64] = seen / np.maximum(total, self.min_grams)
        return phi


class Copying(GramReward):
    """The share of n-grams of the response that are in the prompt: 0 is best, so give it a negative weight.

    The prompt is the example's whole prompt, also where an environment cuts long ones.

    Args:
        n: The number of words of an n-gram.
        min_grams: The least number of n-grams to divide by.

    Raises:
        ValueError: If either is less than 1.
        TypeError: If either is not a whole number.

    Cost: as `Distinct`; a prompt's n-grams are worked out once. Source: See, Liu & Manning (2017), Get to the point:
    summarization with pointer-generator networks, figure 6 (1 - the share of novel n-grams).
    """

    name = "copying"
    remembers = False

    def __init__(self, n: int = 3, min_grams: int = 8) -> None:
        super().__init__(n, min_grams)

    def given(self, example: Example) -> frozenset[Gram]:
        """Returns the prompt's n-grams."""
        return _prompt_grams(example.prompt, self.n)

    def phi(self, total: NDArray[np.float64], seen: NDArray[np.float64]) -> NDArray[np.float64]:
        """Divides the n-grams that were known."""
        phi: NDArray[np.float64] = seen / np.maximum(total, self.min_grams)
        return phi
