"""What a reward is: a score of a growing response, Phi(example, response so far), whatever the payout.

    Reward.score(example, response)          the definition, on a whole text
    Reward.scorer(num_lanes, tokenizer)      the same number for N responses at once, token by token

A reward that knows no cleverer way scores the whole text again at every token, which is right for any function and
costs what the function costs. Rewards that can keep a committed state override `scorer` (see `units.py`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.schedules import Constraint, Schedule, Weight, make_weight
from textenvs.tokenizer import Tokenizer, decode_bytes

PartScores: TypeAlias = Mapping[str, NDArray[np.float64]]
"""Name of a part to the `(episodes,)` final scores that it gave."""


class RewardError(RuntimeError):
    """A reward raised, or gave something that is not a finite number. It never counts as 0.

    Args:
        reward: The reward's name.
        problem: What it did.
        example: What the response answered.
        response: The text that it was to score.
    """

    def __init__(self, reward: str, problem: str, example: Example | None, response: str | None) -> None:
        self.reward, self.problem, self.example, self.response = reward, problem, example, response
        where = "" if example is None else f"\n  example:  {_shorten(repr(example))}"
        where += "" if response is None else f"\n  response: {_shorten(repr(response))}"
        super().__init__(f"Reward {reward!r} {problem}{where}\nA score must be one finite number for every response.")

    def __reduce__(self) -> tuple[type[RewardError], tuple[str, str, Example | None, str | None]]:
        """Lets it travel out of a worker process, which an exception with several arguments does not by itself."""
        return type(self), (self.reward, self.problem, self.example, self.response)


def _shorten(text: str, limit: int = 500) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


class Reward(ABC):
    """A score of a response: a function of one example and the agent's text so far, and of nothing else.

    A subclass writes `score`. How the score is paid, at the end or token by token, is the payout's business.

    Attributes:
        name: What logs and infos call it.
        low: The smallest score there can be.
        high: The largest.
    """

    name: str = "reward"
    low: float = -math.inf
    high: float = math.inf

    @abstractmethod
    def score(self, example: Example, response: str) -> float:
        """Phi of a whole text: the definition, which every faster way must agree with to 1e-9.

        Args:
            example: What the response answers.
            response: The agent's text so far, its last word taken as finished. May be empty.

        Returns:
            The score, a finite number.
        """

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """The same score for `num_lanes` growing responses.

        Args:
            num_lanes: How many responses grow side by side.
            tokenizer: Whose ids will be pushed.

        Returns:
            A fresh scorer. This one scores each whole text again at each token.
        """
        return TextScorer(self, num_lanes, tokenizer)

    @property
    def parts(self) -> dict[str, Reward]:
        """The named components of a combination, empty for a plain score."""
        return {}

    # Some combinations change over a training run, and only between episodes: a lane keeps what it was reset with.

    def update(  # noqa: B027 - a plain score has nothing to move
        self, *, progress: float | None = None, scores: PartScores | None = None
    ) -> None:
        """Move schedules and normalisers on. Episodes under way are scored as they began; the next ones, anew.

        Args:
            progress: How much of the training is over, from 0 to 1; None leaves schedules where they are.
            scores: Part to the `(episodes,)` final scores of episodes that ended, each to be told once; None: none did.
                Parts are called as in `parts`, and as in infos without `score/`.

        Raises:
            ValueError: If the scores of a part that is needed are missing or not finite.
        """

    def state_dict(self) -> dict[str, Any]:
        """What `update` has changed, as JSON values; empty where it changes nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state.

        Args:
            state: What `state_dict` of the same reward gave.

        Raises:
            ValueError: If it is another reward's.
        """
        if state:
            raise ValueError(f"Expected no state for reward {self.name!r}, which never changes, got {dict(state)}")

    @property
    def changing(self) -> dict[str, float]:
        """The numbers that `update` changes, as they are now, by name, for logs."""
        return {}

    # 0.7 * bleu + 0.3 * fluency, a * b. There is no min(a, b), which Python would take for a comparison: minimum(a, b).

    def __add__(self, other: Any) -> Reward:
        """The sum with another reward, or with a number."""
        if isinstance(other, Reward):
            return sum_of([self, other])
        if not _is_number(other):
            return NotImplemented
        return self if other == 0 else Scale(self, offset=other)  # 0: where `sum` starts

    def __radd__(self, other: Any) -> Reward:
        """The sum with a number."""
        return self.__add__(other)

    def __mul__(self, other: Any) -> Reward:
        """The product with another reward, or with a number."""
        if isinstance(other, Reward):
            return Product([self, other])
        if not _is_number(other):
            return NotImplemented
        return Scale(self, other)

    def __rmul__(self, other: Any) -> Reward:
        """The product with a number."""
        return self.__mul__(other)

    def __neg__(self) -> Reward:
        """Minus this score."""
        return self * -1

    def __sub__(self, other: Any) -> Reward:
        """The difference to another reward, or to a number."""
        return self + -other if isinstance(other, Reward) or _is_number(other) else NotImplemented

    def __rsub__(self, other: Any) -> Reward:
        """A number less this score."""
        return (-self).__add__(other)

    def __repr__(self) -> str:
        """Its class and name."""
        return f"{type(self).__name__}({self.name!r})"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


class Scorer(ABC):
    """Phi of N growing responses. Lanes never leak into each other, and their order does not matter.

    Args:
        reward: The score's definition.
    """

    def __init__(self, reward: Reward) -> None:
        self.reward = reward

    @abstractmethod
    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """Start new, empty responses.

        Args:
            lanes: `(k,)` which lanes start.
            examples: The example of each.
        """

    @abstractmethod
    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Append one token to each of some lanes.

        Args:
            lanes: `(k,)` distinct lanes.
            tokens: `(k,)` the token that each writes. Special tokens add no text.

        Returns:
            `(k,)` Phi of each of those lanes, after its token.
        """

    def score_whole(
        self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]
    ) -> NDArray[np.float64]:
        """Phi of whole responses at once, for payouts that ask only at the end. Needs no reset and no push before.

        Args:
            lanes: `(k,)` the lanes that they belong to.
            examples: The example of each.
            responses: The text of each.

        Returns:
            `(k,)` Phi.
        """
        pairs = zip(examples, responses, strict=True)
        return np.array([checked_score(self.reward, example, response) for example, response in pairs])

    def part_scores(self, lanes: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
        """The latest score of each named component.

        Args:
            lanes: `(k,)` which lanes.

        Returns:
            Name to `(k,)` scores; empty for a plain score.
        """
        return {}


class TextScorer(Scorer):
    """Any reward, by scoring the whole text again whenever a token has added to it.

    Args:
        reward: What scores the text.
        num_lanes: How many responses grow side by side.
        tokenizer: Whose ids are pushed.
    """

    def __init__(self, reward: Reward, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self._pieces = tokenizer.pieces
        self._data = [b""] * num_lanes
        self._examples: list[Example | None] = [None] * num_lanes
        self._phi: list[float | None] = [None] * num_lanes

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        """See `Scorer.reset`."""
        for lane, example in zip(lanes.tolist(), examples, strict=True):
            self._data[lane], self._examples[lane], self._phi[lane] = b"", example, None

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `Scorer.push`."""
        scores = np.empty(len(lanes))
        for row, (lane, token) in enumerate(zip(lanes.tolist(), tokens.tolist(), strict=True)):
            piece = self._pieces[token]
            phi = self._phi[lane]
            if piece or phi is None:
                self._data[lane] += piece
                example = self._examples[lane]
                if example is None:
                    raise RuntimeError(f"Expected a reset of lane {lane} before the first push into it")
                phi = self._phi[lane] = checked_score(self.reward, example, decode_bytes(self._data[lane]))
            scores[row] = phi
        return scores


class Wrapper(Reward):
    """A reward that asks one of some others, and that changes over a training run as they do.

    A subclass writes `score`, `scorer` and `wrapped`. What it asks has its parts under their own names.

    Args:
        inner: Name to reward.
    """

    def __init__(self, inner: Mapping[str, Reward]) -> None:
        self.inner = dict(inner)

    @abstractmethod
    def wrapped(self, inner: Mapping[str, Reward]) -> Reward:
        """This wrapper around a part of each reward.

        Args:
            inner: Name to the part of the reward that has this name.
        """

    @property
    def parts(self) -> dict[str, Reward]:
        """The parts that all of the rewards have, as they are scored here."""
        first, *others = (reward.parts for reward in self.inner.values())
        return {
            part: self.wrapped({name: reward.parts[part] for name, reward in self.inner.items()})
            for part in first
            if all(part in other for other in others)
        }

    def update(self, *, progress: float | None = None, scores: PartScores | None = None) -> None:
        """See `Reward.update`."""
        for reward in dict.fromkeys(self.inner.values()):
            reward.update(progress=progress, scores=scores)

    def state_dict(self) -> dict[str, Any]:
        """See `Reward.state_dict`."""
        return {name: state for name, reward in self.inner.items() if (state := reward.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Reward.load_state_dict`."""
        if set(state) - set(self.inner):
            raise ValueError(f"Expected the state of reward {self.name!r}, like {self.state_dict()}, got {dict(state)}")
        for name, reward in self.inner.items():
            reward.load_state_dict(state.get(name, {}))

    @property
    def changing(self) -> dict[str, float]:
        """See `Reward.changing`."""
        return {f"{name}/{key}": one for name, reward in self.inner.items() for key, one in reward.changing.items()}


class FunctionReward(Reward):
    """A user's plain function as a reward.

    Args:
        function: `f(example, response) -> float`.
        name: What to call it; None takes the function's own name.
        low: The smallest score there can be, if known.
        high: The largest, if known.
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
        """What the function says."""
        return self.function(example, response)


def checked_score(reward: Reward, example: Example, response: str) -> float:
    """`reward.score`, held to its promise.

    Args:
        reward: The reward.
        example: What the response answers.
        response: The text to score.

    Returns:
        The score as a Python float.

    Raises:
        RewardError: If the reward raises, or gives anything but one finite number. True counts 1, False 0.
    """
    try:
        score: Any = reward.score(example, response)
    except RewardError:
        raise
    except Exception as error:
        problem = f"raised {type(error).__name__}: {error}"
        raise RewardError(reward.name, problem, example, response) from error
    if type(score) is float and math.isfinite(score):  # nearly always, and quick
        return score
    if getattr(score, "shape", None) == ():  # an array's or a tensor's one number
        score = score.item()
    if not isinstance(score, Real):  # a bool is one: 0 or 1
        raise RewardError(reward.name, f"gave {score!r} of type {type(score).__name__}", example, response)
    try:
        value = float(score)
    except OverflowError:  # a whole number beyond the largest float
        value = math.inf
    if not math.isfinite(value):
        raise RewardError(reward.name, f"gave {value}", example, response)
    return value


Scores = NDArray[np.float64]


class Combination(Reward):
    """A formula over the scores of other rewards.

    A subclass says what its inputs are and writes `combine`. Where the formula has numbers that change between
    episodes, it also writes `coefficients`, and what moves them.

    Args:
        inputs: Name to reward. Each is reported by its name, and its own parts by `name/part`.

    Raises:
        ValueError: If there is no input.
        TypeError: If an input is no `Reward`.

    Attributes:
        label: What the parts of another combination call it.
    """

    label: ClassVar[str]

    def __init__(self, inputs: Mapping[str, Reward]) -> None:
        if not inputs:
            raise ValueError(f"Expected at least one reward in {_article(self.label)}, got none")
        for name, reward in inputs.items():
            if not isinstance(reward, Reward):
                raise TypeError(
                    f"Expected {self.term} {name!r} of {_article(self.label)} to be a Reward, got "
                    f"{type(reward).__name__}"
                )
        self.inputs = dict(inputs)

    term: ClassVar[str] = "part"

    @property
    def parts(self) -> dict[str, Reward]:
        """The inputs by name, and theirs by `name/part`."""
        found: dict[str, Reward] = {}
        for name, reward in self.inputs.items():
            found[name] = reward
            found.update({f"{name}/{inner}": part for inner, part in reward.parts.items()})
        return found

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The formula's numbers for an episode that begins now."""
        return ()

    @abstractmethod
    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """The formula.

        Args:
            scores: `(inputs, k)` finite, in the order of the inputs.
            coefficients: `(coefficients, k)` those that each episode began with.

        Returns:
            `(k,)` scores.
        """

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`. With the coefficients of an episode that begins now."""
        scores = np.array([[checked_score(reward, example, response)] for reward in self.inputs.values()])
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is an error of its own kind
            return float(self.combine(scores, np.array(self.coefficients).reshape(-1, 1))[0])

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """See `Reward.scorer`."""
        return _CombinationScorer(self, num_lanes, tokenizer)

    def update(self, *, progress: float | None = None, scores: PartScores | None = None) -> None:
        """See `Reward.update`."""
        for name, reward in self.inputs.items():
            prefix = f"{name}/"
            inner = None if scores is None else {
                part.removeprefix(prefix): values for part, values in scores.items() if part.startswith(prefix)
            }  # fmt: skip
            reward.update(progress=progress, scores=inner)

    def own_state(self) -> dict[str, Any]:
        """What changes between episodes in this formula itself, as JSON values."""
        return {}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take such a state on.

        Args:
            state: What `own_state` gave.
        """

    def state_dict(self) -> dict[str, Any]:
        """See `Reward.state_dict`."""
        own = self.own_state()
        state: dict[str, Any] = {"own": own} if own else {}
        inner = {name: found for name, reward in self.inputs.items() if (found := reward.state_dict())}
        return {**state, "parts": inner} if inner else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Reward.load_state_dict`."""
        own, inner = dict(state.get("own", {})), dict(state.get("parts", {}))
        unknown = {*(set(state) - {"own", "parts"}), *(set(inner) - set(self.inputs))}
        if unknown or own.keys() != self.own_state().keys():
            raise ValueError(f"Expected the state of reward {self.name!r}, like {self.state_dict()}, got {dict(state)}")
        for name, reward in self.inputs.items():
            reward.load_state_dict(inner.get(name, {}))
        self.load_own_state(own)

    @property
    def changing(self) -> dict[str, float]:
        """See `Reward.changing`."""
        return {f"{name}/{key}": one for name, reward in self.inputs.items() for key, one in reward.changing.items()}


class _CombinationScorer(Scorer):
    def __init__(self, reward: Combination, num_lanes: int, tokenizer: Tokenizer) -> None:
        super().__init__(reward)
        self._combination = reward
        self._scorers = {name: part.scorer(num_lanes, tokenizer) for name, part in reward.inputs.items()}
        self._latest = np.zeros((len(self._scorers), num_lanes))
        self._coefficients = np.repeat(np.array(reward.coefficients).reshape(-1, 1), num_lanes, axis=1)

    def reset(self, lanes: NDArray[np.intp], examples: Sequence[Example]) -> None:
        for scorer in self._scorers.values():
            scorer.reset(lanes, examples)
        self._latest[:, lanes] = 0.0
        if len(self._coefficients):
            self._coefficients[:, lanes] = np.array(self._combination.coefficients)[:, None]

    def push(self, lanes: NDArray[np.intp], tokens: NDArray[np.int64]) -> Scores:
        return self._combined(lanes, [scorer.push(lanes, tokens) for scorer in self._scorers.values()])

    def score_whole(self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]) -> Scores:
        asked = [scorer.score_whole(lanes, examples, responses) for scorer in self._scorers.values()]
        return self._combined(lanes, asked)

    def _combined(self, lanes: NDArray[np.intp], found: list[Scores]) -> Scores:
        for name, one in zip(self._scorers, found, strict=True):
            if np.shape(one) != lanes.shape:
                raise ValueError(
                    f"Expected the scorer of part {name!r} to give {lanes.shape}, one number a lane, "
                    f"got {np.shape(one)}"
                )
        scores = np.array(found)
        self._latest[:, lanes] = scores
        wrong = ~np.isfinite(scores).all(axis=0)
        if wrong.any():  # a closed gate or a minimum must not hide what went wrong in another part
            scores[:, wrong] = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            phi = self._combination.combine(scores, self._coefficients[:, lanes])
        phi[wrong] = np.nan
        return phi

    def part_scores(self, lanes: NDArray[np.intp]) -> dict[str, Scores]:
        found: dict[str, Scores] = {}
        for (name, scorer), latest in zip(self._scorers.items(), self._latest, strict=True):
            found[name] = latest[lanes]
            found.update({f"{name}/{inner}": scores for inner, scores in scorer.part_scores(lanes).items()})
        return found


def _article(label: str) -> str:
    return {"sum": "a weighted sum"}.get(label, f"a {label!r} combination")


def key_of(reward: Any) -> str:
    """What a part is called where the user gave it no name: a combination's kind, or the reward's name."""
    return reward.label if isinstance(reward, Combination) else str(getattr(reward, "name", reward))


def _named(rewards: Iterable[Reward]) -> dict[str, Reward]:
    """Rewards by name; the second of one name is `name_2`."""
    named: dict[str, Reward] = {}
    for reward in rewards:
        key, number = key_of(reward), 2
        while key in named:
            key, number = f"{key_of(reward)}_{number}", number + 1
        named[key] = reward
    return named


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"Expected {name} to be a finite number, got {value!r}")
    return float(value)


def _times(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The range of a product. 0 times anything is 0: no bound comes of 0 * inf."""
    corners = [a * b if a and b else 0.0 for a in one for b in other]
    return min(corners), max(corners)


class WeightedSum(Combination):
    """A weighted sum of scores: what a dict of names makes.

    Args:
        terms: Name to (weight, reward). A weight is a finite number, which may be negative, or what `make_weight`
            takes: `{"linear": [0, 1]}`, `{"constraint": {"at_most": 0.2}}`.

    Raises:
        ValueError: If there is no term, or a weight is not a finite number and no schedule.
        TypeError: If a term's reward is no `Reward`.
    """

    label = "sum"
    term = "term"

    def __init__(self, terms: Mapping[str, tuple[Any, Reward]]) -> None:
        weights: dict[str, Weight] = {name: make_weight(name, weight) for name, (weight, _) in terms.items()}
        super().__init__({name: reward for name, (_, reward) in terms.items()})
        self.terms = {name: (weights[name], reward) for name, reward in self.inputs.items()}
        self.name = " + ".join(
            f"{weight:g} {name}" if isinstance(weight, float) else f"{weight} {name}"
            for name, (weight, _) in self.terms.items()
        )
        for name, weight in weights.items():
            if isinstance(weight, Constraint) and (weight.part or name) not in self.parts:
                raise ValueError(
                    f"Expected the constraint on term {name!r} to name one of the parts {list(self.parts)}, got "
                    f"{weight.part!r}"
                )
        spans = [
            _times((weight, weight) if isinstance(weight, float) else weight.span, (reward.low, reward.high))
            for weight, reward in self.terms.values()
        ]
        self.low, self.high = sum((low for low, _ in spans), 0.0), sum((high for _, high in spans), 0.0)

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The weights."""
        weights = (weight for weight, _ in self.terms.values())
        return tuple(weight if isinstance(weight, float) else weight.value for weight in weights)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """See `Combination.combine`."""
        total = np.zeros(scores.shape[1])
        for weight, score in zip(coefficients, scores, strict=True):
            total += weight * score
        return total

    @property
    def _moving(self) -> dict[str, Schedule | Constraint]:
        return {name: weight for name, (weight, _) in self.terms.items() if not isinstance(weight, float)}

    def update(self, *, progress: float | None = None, scores: PartScores | None = None) -> None:
        """See `Reward.update`."""
        for name, weight in self._moving.items():
            if isinstance(weight, Schedule) and progress is not None:
                weight.update(progress)
            if isinstance(weight, Constraint) and scores is not None:
                weight.update(_final(scores, weight.part or name))
        super().update(progress=progress, scores=scores)

    def own_state(self) -> dict[str, Any]:
        """See `Combination.own_state`."""
        return {name: weight.value for name, weight in self._moving.items()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """See `Combination.load_own_state`."""
        for name, weight in self._moving.items():
            weight.value = float(state[name])

    @property
    def changing(self) -> dict[str, float]:
        """See `Reward.changing`."""
        return {**{f"{name}/weight": weight.value for name, weight in self._moving.items()}, **super().changing}


def _final(scores: PartScores, part: str) -> Scores:
    """The final scores of one part."""
    if part not in scores:
        raise ValueError(f"Expected the final scores of part {part!r}, got those of {sorted(scores)}")
    found = np.asarray(scores[part], dtype=np.float64)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise ValueError(f"Expected the final scores of part {part!r} as one finite number an episode, got {found!r}")
    return found


class Product(Combination):
    """A product of scores: high where all of them are.

    Args:
        of: Its factors. Best from 0 to 1 each: two scores below 0 make one above it.
    """

    label = "product"

    def __init__(self, of: Sequence[Reward]) -> None:
        super().__init__(_named(of))
        self.name = " * ".join(self.inputs)
        span = (1.0, 1.0)
        for reward in self.inputs.values():
            span = _times(span, (reward.low, reward.high))
        self.low, self.high = span

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """See `Combination.combine`."""
        phi: Scores = scores.prod(axis=0) + 0.0  # no -0.0
        return phi


class Scale(Combination):
    """A score times a factor, plus an offset: `2 * reward + 1`.

    Args:
        reward: The score.
        factor: What it is multiplied by.
        offset: What is added. It is paid with the first token, whatever that is.

    Raises:
        ValueError: If a number is not finite.
    """

    label = "scale"

    def __init__(self, reward: Reward, factor: float = 1.0, offset: float = 0.0) -> None:
        super().__init__(_named([reward]))
        self.factor, self.offset = _finite("factor of 'scale'", factor), _finite("offset of 'scale'", offset)
        self.name = f"{self.factor:g} {next(iter(self.inputs))}" + (f" {self.offset:+g}" if self.offset else "")
        low, high = _times((self.factor, self.factor), (reward.low, reward.high))
        self.low, self.high = low + self.offset, high + self.offset

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """See `Combination.combine`."""
        phi: Scores = self.factor * scores[0] + self.offset
        return phi


def sum_of(of: Sequence[Reward]) -> Reward:
    """A plain sum, for terms that a dict cannot hold, since they have one name.

    Args:
        of: The terms. Those of a weighted sum, and the factor of a `Scale`, become terms and weights of this one.

    Returns:
        The sum.
    """
    named: dict[str, tuple[Any, Reward]] = {}
    for reward in of:
        if isinstance(reward, WeightedSum):
            terms: list[tuple[str, Any, Reward]] = [(name, *term) for name, term in reward.terms.items()]
        elif isinstance(reward, Scale) and not reward.offset:
            name, part = next(iter(reward.inputs.items()))
            terms = [(name, reward.factor, part)]
        else:
            terms = [(key_of(reward), 1.0, reward)]
        names: dict[str, str] = {}
        for key, weight, part in terms:
            name, number = key, 2
            while name in named:
                name, number = f"{key}_{number}", number + 1
            names[key] = name
            named[name] = (weight, part)
        for name in names.values():
            weight, part = named[name]
            if isinstance(weight, Constraint):
                named[name] = (weight.renamed(names), part)
    return WeightedSum(named)
