"""Rewards made of rewards: sums, products, minima, gates, and weights that change over a training run.

Each is a formula over the scores of its inputs (`Combination.combine`), written once over arrays: `score` asks for one
text, the scorer for all lanes. An episode has one formula from its first token to its last. What changes over a run
(the weight of a schedule, the mean of a normaliser) changes between episodes: a lane latches the coefficients when it
is reset, and keeps them while `Reward.update` moves on.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.rewards.base import PartScores, Reward, Scorer, checked_score
from textenvs.rewards.schedules import Constraint, Schedule, Weight, make_weight
from textenvs.tokenizer import Tokenizer

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


class Minimum(Combination):
    """The least of several scores, such as an ensemble's, which is hard to fool all at once.

    Args:
        of: Whose scores.

    Source: Coste et al. (2024), Reward model ensembles help mitigate overoptimization, arXiv:2310.02743: worst-case
        optimisation.
    """

    label = "min"

    def __init__(self, of: Sequence[Reward]) -> None:
        super().__init__(_named(of))
        self.name = f"min({', '.join(self.inputs)})"
        self.low = min(reward.low for reward in self.inputs.values())
        self.high = min(reward.high for reward in self.inputs.values())

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """See `Combination.combine`."""
        phi: Scores = scores.min(axis=0)
        return phi


class MeanMinusStd(Combination):
    """The mean of several scores less k standard deviations: where an ensemble is of two minds, it pays less.

    Args:
        of: Whose scores.
        k: How many standard deviations (of the ensemble as it is: divided by its size), from 0.

    Raises:
        ValueError: If k is negative or not finite.

    Source: Coste et al. (2024), arXiv:2310.02743: uncertainty-weighted optimisation, there with the variance.
    """

    label = "mean_minus_std"

    def __init__(self, of: Sequence[Reward], k: float = 1.0) -> None:
        super().__init__(_named(of))
        self.k = _finite("k of 'mean_minus_std'", k)
        if self.k < 0:
            raise ValueError(f"Expected k of 'mean_minus_std' to be at least 0, got {k}")
        self.name = f"mean({', '.join(self.inputs)}) - {self.k:g} std"
        lows, highs = zip(*((reward.low, reward.high) for reward in self.inputs.values()), strict=True)
        most_std = (max(highs) - min(lows)) / 2  # half of them at either end
        self.low = sum(lows) / len(lows) - (self.k * most_std if self.k else 0.0)
        self.high = sum(highs) / len(highs)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """See `Combination.combine`."""
        mean, variance = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
        for score in scores:  # one after another: numpy's own sums depend on how many lanes there are, in the last bit
            mean += score
        mean /= len(scores)
        for score in scores:
            variance += (score - mean) ** 2
        return mean - self.k * np.sqrt(variance / len(scores))


class Gate(Combination):
    """A score that counts only where another is in a range.

    Args:
        reward: What is paid while the gate is open.
        by: What opens it.
        at_least: The least score of `by` that does; None: any.
        at_most: The largest; None: any.
        otherwise: What is paid while it is closed.

    Raises:
        ValueError: If neither bound is given, they are not in order, or a number is not finite.

    A hard gate pays at the token that opens it, and takes everything back at the one that closes it.
    """

    label = "gate"

    def __init__(
        self,
        reward: Reward,
        by: Reward,
        at_least: float | None = None,
        at_most: float | None = None,
        otherwise: float = 0.0,
    ) -> None:
        super().__init__(_named([reward, by]))
        if at_least is None and at_most is None:
            raise ValueError("Expected at_least or at_most (or both) of 'gate', got neither")
        self.at_least = -math.inf if at_least is None else _finite("at_least of 'gate'", at_least)
        self.at_most = math.inf if at_most is None else _finite("at_most of 'gate'", at_most)
        if self.at_least > self.at_most:
            raise ValueError(f"Expected at_least <= at_most of 'gate', got {at_least} and {at_most}")
        self.otherwise = _finite("otherwise of 'gate'", otherwise)
        name, condition = self.inputs
        bounds = f"{self.at_least:g} <= " * (at_least is not None), f" <= {self.at_most:g}" * (at_most is not None)
        self.name = f"{name} where {condition.join(bounds)}"
        self.low, self.high = min(reward.low, self.otherwise), max(reward.high, self.otherwise)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """See `Combination.combine`."""
        is_open = (scores[1] >= self.at_least) & (scores[1] <= self.at_most)
        return np.where(is_open, scores[0], self.otherwise)


class Clip(Combination):
    """A score kept within bounds.

    Args:
        reward: The score.
        low: The least to pay; None: no bound.
        high: The most to pay; None: no bound.

    Raises:
        ValueError: If neither bound is given, they are not in order, or one is not finite.
    """

    label = "clip"

    def __init__(self, reward: Reward, low: float | None = None, high: float | None = None) -> None:
        super().__init__(_named([reward]))
        if low is None and high is None:
            raise ValueError("Expected low or high (or both) of 'clip', got neither")
        least = -math.inf if low is None else _finite("low of 'clip'", low)
        most = math.inf if high is None else _finite("high of 'clip'", high)
        if least > most:
            raise ValueError(f"Expected low <= high of 'clip', got {low} and {high}")
        self._bounds = least, most
        self.name = f"clip({next(iter(self.inputs))}, {least:g}, {most:g})"
        self.low, self.high = min(max(reward.low, least), most), min(max(reward.high, least), most)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """See `Combination.combine`."""
        phi: Scores = np.clip(scores[0], *self._bounds)
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


class Normalised(Combination):
    """A score in units of its own spread: (score - mean) / standard deviation of the final scores so far.

    Before the first `update` it changes nothing. The mean and deviation are those of all finished episodes that it was
    told of, so that they move less and less.

    Args:
        reward: The score.
        centre: Whether to take the mean off. It is then paid (negative) with the first token.
        least_std: What a smaller standard deviation is taken for; above 0.

    Raises:
        ValueError: If `least_std` is not a number above 0.

    Source: Chan, Golub & LeVeque (1979), Updating formulae and a pairwise algorithm for computing sample variances,
        equation 2.1b: how a batch joins the batches before it.
    """

    label = "normalised"

    def __init__(self, reward: Reward, centre: bool = True, least_std: float = 1e-3) -> None:
        super().__init__(_named([reward]))
        if not isinstance(centre, bool):
            raise TypeError(f"Expected centre of 'normalised' to be true or false, got {centre!r}")
        self.centre = centre
        self.least_std = _finite("least_std of 'normalised'", least_std)
        if self.least_std <= 0:
            raise ValueError(f"Expected least_std of 'normalised' to be above 0, got {least_std}")
        self.name = f"normalised({next(iter(self.inputs))})"
        self._count, self._mean, self._variance = 0, 0.0, 1.0

    @property
    def coefficients(self) -> tuple[float, ...]:
        """What is taken off, and what the rest is divided by."""
        return self._mean if self.centre else 0.0, max(math.sqrt(self._variance), self.least_std)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """See `Combination.combine`."""
        phi: Scores = (scores[0] - coefficients[0]) / coefficients[1]
        return phi

    def update(self, *, progress: float | None = None, scores: PartScores | None = None) -> None:
        """See `Reward.update`."""
        if scores is not None:
            final = _final(scores, next(iter(self.inputs)))
            if len(final):
                self._join(len(final), float(final.mean()), float(final.var()))
        super().update(progress=progress, scores=scores)

    def _join(self, count: int, mean: float, variance: float) -> None:
        if not self._count:
            self._count, self._mean, self._variance = count, mean, variance
            return
        total = self._count + count
        apart = mean - self._mean
        share = count / total
        self._variance += share * (variance - self._variance) + share * (1 - share) * apart * apart
        self._mean += share * apart
        self._count = total

    def own_state(self) -> dict[str, Any]:
        """See `Combination.own_state`."""
        return {"count": self._count, "mean": self._mean, "variance": self._variance}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """See `Combination.load_own_state`."""
        self._count, self._mean = int(state["count"]), float(state["mean"])
        self._variance = float(state["variance"])

    @property
    def changing(self) -> dict[str, float]:
        """See `Reward.changing`."""
        return {"mean": self._mean, "std": math.sqrt(self._variance), **super().changing}


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


def guard(
    reward: Reward,
    at_most: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    otherwise: float | None = None,
) -> Reward:
    """A reward behind gates: it is paid only while every cap and every floor holds.

    Args:
        reward: What is paid.
        at_most: Name of a reward to its cap: `{"repetition": 0.3, "copying": 0.5}`.
        at_least: Name of a reward to its floor.
        otherwise: What is paid while one does not hold. None takes the least that the reward can be, so that to break
            a cap is never better than to write badly.

    Returns:
        Gates, one in the other.

    Raises:
        ValueError: If no cap and no floor is given, a name is unknown, or the reward has no least score and `otherwise`
            is None.
    """
    from textenvs.rewards import make_reward

    if not at_most and not at_least:
        raise ValueError("Expected at_most or at_least (or both) of 'guard', got neither")
    if otherwise is None:
        if not math.isfinite(reward.low):
            raise ValueError(
                f"Expected otherwise=, what to pay while a guard of reward {reward.name!r} does not hold, since that "
                "reward has no least score to take"
            )
        otherwise = reward.low
    for name, bound in (at_most or {}).items():
        reward = Gate(reward, make_reward(name), at_most=bound, otherwise=otherwise)
    for name, bound in (at_least or {}).items():
        reward = Gate(reward, make_reward(name), at_least=bound, otherwise=otherwise)
    return reward
