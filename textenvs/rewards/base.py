"""The interface of rewards: a score of a growing response, Phi(example, response so far), whatever the payout.

    Reward.score(example, response)          the definition, on a whole text
    Reward.scorer(num_lanes, tokenizer)      the same number for N responses at once, token by token

A reward without a faster way scores the whole text again at every token, which is right for any function and costs
what the function costs. Rewards that can keep a state from token to token override `scorer`: most of them by
subclassing one of the classes in `textenvs.rewards.incremental`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example, editable
from textenvs.tokenizer import Tokenizer, decode_bytes

PartScores: TypeAlias = Mapping[str, NDArray[np.float64]]
"""Part's name to its `(episodes,)` final scores."""


LARGEST_SCORE = 1e300
"""The largest size of a score. The difference of two larger ones, which a payout may pay, could be infinite."""


class RewardError(RuntimeError):
    """Raised where a reward raises, or returns anything but one finite number. A failure never counts as 0.

    Args:
        reward: The reward's name. Alone, it is the whole message or another `RewardError`, since that is how
            Gymnasium's AsyncVectorEnv raises the error of a worker process again.
        problem: The failure, as the rest of a sentence that begins with the reward: "raised ...", "gave nan".
        example: The example that the response answers.
        response: The text that was to be scored.
    """

    reward: str
    problem: str
    example: Example | None
    response: str | None

    def __init__(
        self,
        reward: str | RewardError,
        problem: str | None = None,
        example: Example | None = None,
        response: str | None = None,
    ) -> None:
        message = str(reward)
        if isinstance(reward, RewardError):
            problem, example, response = reward.problem, reward.example, reward.response
            reward = reward.reward
        elif problem is not None:
            where = "" if example is None else f"\n  example:  {_shorten(repr(example))}"
            where += "" if response is None else f"\n  response: {_shorten(repr(response))}"
            message = f"Reward {reward!r} {problem}{where}\nA score must be one finite number for every response."
        self.reward, self.problem, self.example, self.response = reward, problem or "", example, response
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the four arguments: by default, an exception is rebuilt from its message alone."""
        if not self.problem:
            return type(self), (self.reward,)
        return type(self), (self.reward, self.problem, self.example, self.response)


def _shorten(text: str, limit: int = 500) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


class Reward(ABC):
    """A score of a response: a function of one example and the agent's text so far, and of nothing else.

    A subclass writes `score`. How the score is paid, at the end or token by token, is the payout's business.

    Attributes:
        name: The name in logs and infos.
        low: The smallest possible score.
        high: The largest possible score.
        arithmetic: The rewards that `+` and `*` make.
    """

    arithmetic: ClassVar[Arithmetic]

    name: str = "reward"
    low: float = -math.inf
    high: float = math.inf

    @abstractmethod
    def score(self, example: Example, response: str) -> float:
        """Computes Phi of a whole text: the definition, with which every faster way must agree to 1e-9.

        Args:
            example: The example that the response answers.
            response: The agent's text so far, its last word taken as finished. May be empty.

        Returns:
            The score, a finite number of at most `LARGEST_SCORE`.
        """

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Makes a scorer that computes the same score for `num_lanes` growing responses.

        Args:
            num_lanes: The number of responses that grow side by side.
            tokenizer: The tokenizer whose ids will be pushed.

        Returns:
            A fresh scorer. By default, one that scores each whole text again at each token.
        """
        return TextScorer(self, num_lanes, tokenizer)

    @property
    def parts(self) -> dict[str, Reward]:
        """The named components of a combination, empty for a plain score."""
        return {}

    # Some combinations change over a training run, but only between episodes: a lane keeps the numbers that it was
    # reset with until its episode ends.

    def update(  # noqa: B027 - not abstract: a plain score has nothing that could change
        self, *, progress: float | None = None, scores: PartScores | None = None
    ) -> None:
        """Advances schedules and normalisers. Episodes under way are still scored as they began.

        Args:
            progress: The share of the training that is over, from 0 to 1. None leaves schedules as they are.
            scores: Part's name to the `(episodes,)` final scores of the episodes that have ended since the last call.
                None if none has. The names are those of `parts` (and of infos, where they begin with `score/`).

        Raises:
            ValueError: If the scores of a part that is needed are missing or not finite.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns the numbers that `update` has changed, as JSON values. Empty if there are none."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state.

        Args:
            state: A state that `state_dict` of the same reward returned.

        Raises:
            ValueError: If the state is that of another reward.
        """
        if state:
            raise ValueError(f"Expected no state for reward {self.name!r}, which never changes, got {dict(state)}")

    @property
    def changing(self) -> dict[str, float]:
        """The current values of the numbers that `update` changes, by name, for logs."""
        return {}

    # 0.7 * bleu + 0.3 * fluency, a * b. Python's min(a, b) would compare the two: `minimum(a, b)` stands in for it.

    def __add__(self, other: Any) -> Reward:
        """Returns the sum with another reward, or with a number."""
        if isinstance(other, Reward):
            return self.arithmetic.add([self, other])
        if not _is_number(other):
            return NotImplemented
        return self if other == 0 else self.arithmetic.scale(self, 1.0, other)  # Python's `sum` begins with 0

    def __radd__(self, other: Any) -> Reward:
        """Returns the sum with a number."""
        return self.__add__(other)

    def __mul__(self, other: Any) -> Reward:
        """Returns the product with another reward, or with a number."""
        if isinstance(other, Reward):
            return self.arithmetic.multiply([self, other])
        if not _is_number(other):
            return NotImplemented
        return self.arithmetic.scale(self, other, 0.0)

    def __rmul__(self, other: Any) -> Reward:
        """Returns the product with a number."""
        return self.__mul__(other)

    def __neg__(self) -> Reward:
        """Returns the score with its sign changed."""
        return self * -1

    def __sub__(self, other: Any) -> Reward:
        """Returns this score less another reward's, or less a number."""
        return self + -other if isinstance(other, Reward) or _is_number(other) else NotImplemented

    def __rsub__(self, other: Any) -> Reward:
        """Returns a number less this score."""
        return (-self).__add__(other)

    def __repr__(self) -> str:
        """Names the class and the reward."""
        return f"{type(self).__name__}({self.name!r})"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class Arithmetic:
    """The rewards that operators make of rewards.

    They are rewards themselves, so `textenvs.rewards.arithmetic` imports this module, and not the other way round: it
    sets `Reward.arithmetic` when `textenvs.rewards` is imported.

    Attributes:
        add: Makes the sum of some rewards.
        multiply: Makes the product of some rewards.
        scale: Makes a reward times a factor, plus an offset.
    """

    add: Callable[[Sequence[Reward]], Reward]
    multiply: Callable[[Sequence[Reward]], Reward]
    scale: Callable[[Reward, float, float], Reward]


class Scorer(ABC):
    """Computes Phi of N growing responses. Lanes do not affect each other, and their order does not matter.

    Args:
        reward: The score's definition.
    """

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    @abstractmethod
    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Starts new, empty responses.

        Args:
            lanes: `(k,)` distinct lanes.
            examples: The example of each.
        """

    @abstractmethod
    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Appends one token to the responses of some lanes.

        Args:
            lanes: `(k,)` distinct lanes.
            tokens: `(k,)` the token of each. Special tokens add no text.

        Returns:
            `(k,)` Phi of each of these responses, with its token.
        """

    def score_whole(
        self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        """Computes Phi of whole responses, for payouts that ask only at the end. Needs no reset and no push before.

        Args:
            lanes: `(k,)` the lanes of the responses.
            examples: The example of each.
            responses: The text of each.

        Returns:
            `(k,)` Phi.
        """
        pairs = zip(examples, responses, strict=True)
        return np.array([checked_score(self.reward, example, response) for example, response in pairs])

    def part_scores(self, lanes: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
        """Returns the latest score of each named part.

        Args:
            lanes: `(k,)` lanes.

        Returns:
            Name to `(k,)` scores; empty for a plain score.
        """
        return {}


class TextScorer(Scorer):
    """A scorer for any reward: scores the whole text again whenever a token has added to it.

    Args:
        reward: The score's definition.
        num_lanes: The number of responses that grow side by side.
        tokenizer: The tokenizer whose ids are pushed.
    """

    def __init__(self, reward: Reward, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self._pieces = tokenizer.pieces
        self._data = [b""] * num_lanes
        self._examples: list[Example | None] = [None] * num_lanes
        self._phi: list[float | None] = [None] * num_lanes

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Starts new, empty responses. They are scored when a token comes."""
        for lane, example in zip(lanes.tolist(), examples, strict=True):
            self._data[lane], self._examples[lane], self._phi[lane] = b"", example, None

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Appends one token to each response, and scores those that have grown."""
        scores = np.empty(len(lanes))
        for row, (lane, token) in enumerate(zip(lanes.tolist(), tokens.tolist(), strict=True)):
            piece = self._pieces[token]
            phi = self._phi[lane]
            if piece or phi is None:  # a special token adds no text, so the score stays
                self._data[lane] += piece
                example = self._examples[lane]
                if example is None:
                    raise RuntimeError(f"Expected a reset of lane {lane} before the first push into it")
                phi = self._phi[lane] = checked_score(self.reward, example, decode_bytes(self._data[lane]))
            scores[row] = phi
        return scores


class Wrapper(Reward):
    """A reward that hands each response to one of some inner rewards, and changes over a training run as they do.

    A subclass writes `score`, `scorer` and `wrapped`. The parts keep the names that they have in the inner rewards.

    Args:
        inner: Name to reward.
    """

    def __init__(self, inner: Mapping[str, Reward]) -> None:
        self.inner = dict(inner)

    @abstractmethod
    def wrapped(self, inner: Mapping[str, Reward]) -> Reward:
        """Returns this wrapper around one part of each inner reward.

        Args:
            inner: Inner reward's name to its part.
        """

    @property
    def parts(self) -> dict[str, Reward]:
        """The parts that all inner rewards have, each wrapped as this reward wraps the whole."""
        first, *others = (reward.parts for reward in self.inner.values())
        return {
            part: self.wrapped({name: reward.parts[part] for name, reward in self.inner.items()})
            for part in first
            if all(part in other for other in others)
        }

    def update(self, *, progress: float | None = None, scores: PartScores | None = None) -> None:
        """Advances the inner rewards, each once."""
        for reward in dict.fromkeys(self.inner.values()):
            reward.update(progress=progress, scores=scores)

    def state_dict(self) -> dict[str, Any]:
        """Returns the states of the inner rewards by name."""
        return {name: state for name, reward in self.inner.items() if (state := reward.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the states of the inner rewards."""
        if set(state) - set(self.inner):
            raise ValueError(f"Expected the state of reward {self.name!r}, like {self.state_dict()}, got {dict(state)}")
        for name, reward in self.inner.items():
            reward.load_state_dict(state.get(name, {}))

    @property
    def changing(self) -> dict[str, float]:
        """The changing numbers of the inner rewards, each as `reward/number`."""
        return {
            f"{name}/{key}": number for name, reward in self.inner.items() for key, number in reward.changing.items()
        }


class FunctionReward(Reward):
    """A user's plain function as a reward.

    Args:
        function: `f(example, response) -> float`.
        name: The name in logs and infos; None takes the function's own.
        low: The smallest possible score, if known.
        high: The largest possible score, if known.

    Raises:
        TypeError: If it is not a function.
    """

    def __init__(
        self,
        function: Callable[[Example, str], float],
        name: str | None = None,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> None:
        if not callable(function):
            raise TypeError(f"Expected a function f(example, response) -> float, got {type(function).__name__}")
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        self.low, self.high = low, high

    def score(self, example: Example, response: str) -> float:
        """Calls the function, with a copy of the example, which it may change."""
        return self.function(editable(example), response)


def checked_score(reward: Reward, example: Example, response: str) -> float:
    """Computes `reward.score` and checks that it is one finite number.

    Args:
        reward: The reward.
        example: The example that the response answers.
        response: The text to score.

    Returns:
        The score as a Python float.

    Raises:
        RewardError: If the reward raises, or gives anything but one finite number of at most `LARGEST_SCORE`. True
            counts 1, False 0.
    """
    try:
        score: Any = reward.score(example, response)
    except RewardError:
        raise
    except Exception as error:
        problem = f"raised {type(error).__name__}: {error}"
        raise RewardError(reward.name, problem, example, response) from error
    if type(score) is float and -LARGEST_SCORE <= score <= LARGEST_SCORE:  # the usual case, and the fastest test
        return score
    if getattr(score, "shape", None) == ():  # an array or a tensor of one number
        score = score.item()
    if not isinstance(score, Real):  # a bool is a Real: 0 or 1
        raise RewardError(reward.name, f"gave {score!r} of type {type(score).__name__}", example, response)
    try:
        value = float(score)
    except OverflowError:  # an int beyond the largest float
        value = math.inf
    if not abs(value) <= LARGEST_SCORE:
        raise RewardError(reward.name, f"gave {value}{too_large(value)}", example, response)
    return value


def too_large(score: float) -> str:
    """Returns what to say of a score that is finite and too large, behind its value; nothing for inf and nan."""
    return f", more than {LARGEST_SCORE:g}: scale it down" if math.isfinite(score) else ""
