"""Formulas over other rewards' scores, and those that operators and dicts make: weighted sum, product and scale.

A `Combination` is a formula (`Combination.combine`) over the scores of its inputs, written once over arrays: `score`
asks it for one text, the scorer for all lanes. `textenvs.rewards.combinators` has the rest of them. An episode has one
formula from its first token to its last: what changes over a training run (the weight of a schedule, the mean of a
normaliser) changes between episodes. So a lane copies the formula's coefficients when it is reset, and keeps its copy
while `Reward.update` moves them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_number
from textenvs.example import Example
from textenvs.rewards.base import Arithmetic, PartScores, Reward, Scorer, checked_score
from textenvs.rewards.schedules import Constraint, Schedule, Weight, make_weight
from textenvs.tokenizer import Tokenizer

Scores: TypeAlias = NDArray[np.float64]


class Combination(Reward):
    """A formula over the scores of other rewards.

    A subclass names its inputs and writes `combine`. If the formula has numbers that change between episodes, the
    subclass also writes `coefficients`, `own_state`, `load_own_state` and `update`.

    Args:
        inputs: Name to reward. Each is reported by its name, and its own parts as `name/part`.

    Raises:
        ValueError: If there is no input.
        TypeError: If an input is not a `Reward`.

    Attributes:
        label: The name that it gets as a part of another combination.
        term: The word for one of its inputs, in errors.
    """

    label: ClassVar[str]
    term: ClassVar[str] = "part"

    def __init__(self, inputs: Mapping[str, Reward]) -> None:
        if not inputs:
            raise ValueError(f"Expected at least one reward in {_with_article(self.label)}, got none")
        for name, reward in inputs.items():
            if not isinstance(reward, Reward):
                raise TypeError(
                    f"Expected {self.term} {name!r} of {_with_article(self.label)} to be a Reward, got "
                    f"{type(reward).__name__}"
                )
        self.inputs = dict(inputs)

    @property
    def parts(self) -> dict[str, Reward]:
        """The inputs by name, and their own parts as `name/part`."""
        parts: dict[str, Reward] = {}
        for name, reward in self.inputs.items():
            parts[name] = reward
            parts.update({f"{name}/{inner}": part for inner, part in reward.parts.items()})
        return parts

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The formula's numbers for an episode that begins now."""
        return ()

    @abstractmethod
    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """Computes the formula.

        Args:
            scores: `(inputs, k)` finite, in the order of the inputs.
            coefficients: `(coefficients, k)` those that each episode began with.

        Returns:
            `(k,)` scores.
        """

    def score(self, example: Example, response: str) -> float:
        """Scores a whole response, with the coefficients of an episode that begins now."""
        scores = np.array([[checked_score(reward, example, response)] for reward in self.inputs.values()])
        with np.errstate(over="ignore", invalid="ignore"):  # the caller raises a RewardError for inf and nan
            return float(self.combine(scores, np.array(self.coefficients).reshape(-1, 1))[0])

    def scorer(self, num_lanes: int, tokenizer: Tokenizer) -> Scorer:
        """Makes a scorer that combines the inputs' scorers."""
        return _CombinationScorer(self, num_lanes, tokenizer)

    def update(self, *, progress: float | None = None, scores: PartScores | None = None) -> None:
        """Advances the inputs, each with the scores of its own parts."""
        for name, reward in self.inputs.items():
            prefix = f"{name}/"
            inner = None if scores is None else {
                part.removeprefix(prefix): values for part, values in scores.items() if part.startswith(prefix)
            }  # fmt: skip
            reward.update(progress=progress, scores=inner)

    def own_state(self) -> dict[str, Any]:
        """Returns what changes between episodes in this formula itself, not in its inputs, as JSON values."""
        return {}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Restores a state.

        Args:
            state: A state that `own_state` returned.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns the formula's own state and the states of its inputs, each only if there is one."""
        own = self.own_state()
        state: dict[str, Any] = {"own": own} if own else {}
        inner = {name: changed for name, reward in self.inputs.items() if (changed := reward.state_dict())}
        return {**state, "parts": inner} if inner else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the formula's own state and the states of its inputs."""
        own, inner = dict(state.get("own", {})), dict(state.get("parts", {}))
        unknown = {*(set(state) - {"own", "parts"}), *(set(inner) - set(self.inputs))}
        if unknown or own.keys() != self.own_state().keys():
            raise ValueError(f"Expected the state of reward {self.name!r}, like {self.state_dict()}, got {dict(state)}")
        for name, reward in self.inputs.items():
            reward.load_state_dict(inner.get(name, {}))
        self.load_own_state(own)

    @property
    def changing(self) -> dict[str, float]:
        """The changing numbers of the inputs, each as `input/number`."""
        return {
            f"{name}/{key}": number for name, reward in self.inputs.items() for key, number in reward.changing.items()
        }


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
        return self._combine(lanes, [scorer.push(lanes, tokens) for scorer in self._scorers.values()])

    def score_whole(self, lanes: NDArray[np.intp], examples: Sequence[Example], responses: Sequence[str]) -> Scores:
        part_scores = [scorer.score_whole(lanes, examples, responses) for scorer in self._scorers.values()]
        return self._combine(lanes, part_scores)

    def _combine(self, lanes: NDArray[np.intp], part_scores: list[Scores]) -> Scores:
        for name, of_part in zip(self._scorers, part_scores, strict=True):
            if np.shape(of_part) != lanes.shape:
                raise ValueError(
                    f"Expected the scorer of part {name!r} to give {lanes.shape}, one number a lane, "
                    f"got {np.shape(of_part)}"
                )
        scores = np.array(part_scores)
        self._latest[:, lanes] = scores
        wrong = ~np.isfinite(scores).all(axis=0)
        if wrong.any():  # a closed gate or a minimum must not hide that another part gave inf or nan
            scores[:, wrong] = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            phi = self._combination.combine(scores, self._coefficients[:, lanes])
        phi[wrong] = np.nan
        return phi

    def part_scores(self, lanes: NDArray[np.intp]) -> dict[str, Scores]:
        parts: dict[str, Scores] = {}
        for (name, scorer), latest in zip(self._scorers.items(), self._latest, strict=True):
            parts[name] = latest[lanes]
            parts.update({f"{name}/{inner}": scores for inner, scores in scorer.part_scores(lanes).items()})
        return parts


def _with_article(label: str) -> str:
    return {"sum": "a weighted sum"}.get(label, f"a {label!r} combination")


def key_of(reward: Any) -> str:
    """Returns the name of a part that the user gave none: the label of a combination, or the reward's name."""
    return reward.label if isinstance(reward, Combination) else str(getattr(reward, "name", reward))


def by_name(rewards: Iterable[Reward]) -> dict[str, Reward]:
    """Returns rewards by name. The second of one name is `name_2`."""
    named: dict[str, Reward] = {}
    for reward in rewards:
        key, number = key_of(reward), 2
        while key in named:
            key, number = f"{key_of(reward)}_{number}", number + 1
        named[key] = reward
    return named


def final_scores(scores: PartScores, part: str) -> Scores:
    """Returns the `(episodes,)` final scores of one part.

    Raises:
        ValueError: If they are missing, or are not one finite number an episode.
    """
    if part not in scores:
        raise ValueError(f"Expected the final scores of part {part!r}, got those of {sorted(scores)}")
    final = np.asarray(scores[part], dtype=np.float64)
    if final.ndim != 1 or not np.isfinite(final).all():
        raise ValueError(f"Expected the final scores of part {part!r} as one finite number an episode, got {final!r}")
    return final


def _product_range(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Returns the (low, high) of a product of two scores. 0 times anything is 0, also 0 times inf."""
    corners = [a * b if a and b else 0.0 for a in first for b in second]
    return min(corners), max(corners)


class WeightedSum(Combination):
    """A weighted sum of scores, which `make_reward` makes of a dict of names.

    Args:
        terms: Name to (weight, reward). A weight is a finite number, which may be negative, or what `make_weight`
            takes: `{"linear": [0, 1]}`, `{"constraint": {"at_most": 0.2}}`.

    Raises:
        ValueError: If there is no term, or a weight is neither a finite number nor a schedule.
        TypeError: If a term's reward is not a `Reward`.
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
            _product_range((weight, weight) if isinstance(weight, float) else weight.span, (reward.low, reward.high))
            for weight, reward in self.terms.values()
        ]
        self.low, self.high = sum((low for low, _ in spans), 0.0), sum((high for _, high in spans), 0.0)

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The weights of an episode that begins now."""
        weights = (weight for weight, _ in self.terms.values())
        return tuple(weight if isinstance(weight, float) else weight.value for weight in weights)

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """Adds up the weighted scores."""
        total = np.zeros(scores.shape[1])
        for weight, score in zip(coefficients, scores, strict=True):
            total += weight * score
        return total

    @property
    def _changing_weights(self) -> dict[str, Schedule | Constraint]:
        return {name: weight for name, (weight, _) in self.terms.items() if not isinstance(weight, float)}

    def update(self, *, progress: float | None = None, scores: PartScores | None = None) -> None:
        """Advances schedules with the progress, and constraints with the scores of the parts that they watch."""
        for name, weight in self._changing_weights.items():
            if isinstance(weight, Schedule) and progress is not None:
                weight.update(progress)
            if isinstance(weight, Constraint) and scores is not None:
                weight.update(final_scores(scores, weight.part or name))
        super().update(progress=progress, scores=scores)

    def own_state(self) -> dict[str, Any]:
        """Returns the changing weights by term."""
        return {name: weight.value for name, weight in self._changing_weights.items()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Restores the changing weights."""
        for name, weight in self._changing_weights.items():
            weight.value = float(state[name])

    @property
    def changing(self) -> dict[str, float]:
        """The changing weights as `term/weight`, and the changing numbers of the terms."""
        return {
            **{f"{name}/weight": weight.value for name, weight in self._changing_weights.items()},
            **super().changing,
        }


class Product(Combination):
    """A product of scores: high only if all of them are.

    Args:
        of: The factors. Preferably from 0 to 1 each: the product of two negative scores is positive.
    """

    label = "product"

    def __init__(self, of: Sequence[Reward]) -> None:
        super().__init__(by_name(of))
        self.name = " * ".join(self.inputs)
        span = (1.0, 1.0)
        for reward in self.inputs.values():
            span = _product_range(span, (reward.low, reward.high))
        self.low, self.high = span

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """Multiplies the scores."""
        phi: Scores = scores.prod(axis=0) + 0.0  # turns -0.0 into 0.0
        return phi


class Scale(Combination):
    """A score times a factor, plus an offset: `2 * reward + 1`.

    Args:
        reward: The score.
        factor: The number that the score is multiplied by.
        offset: The number that is added. It is paid with the first token, whatever that is.

    Raises:
        ValueError: If a number is not finite.
        TypeError: If it is not a number.
    """

    label = "scale"

    def __init__(self, reward: Reward, factor: float = 1.0, offset: float = 0.0) -> None:
        super().__init__(by_name([reward]))
        self.factor = check_number("factor of 'scale'", factor)
        self.offset = check_number("offset of 'scale'", offset)
        self.name = f"{self.factor:g} {next(iter(self.inputs))}" + (f" {self.offset:+g}" if self.offset else "")
        low, high = _product_range((self.factor, self.factor), (reward.low, reward.high))
        self.low, self.high = low + self.offset, high + self.offset

    def combine(self, scores: Scores, coefficients: Scores) -> Scores:
        """Multiplies by the factor and adds the offset."""
        phi: Scores = self.factor * scores[0] + self.offset
        return phi


def sum_of(of: Sequence[Reward]) -> Reward:
    """Adds up rewards, also several of one name, which the keys of a dict cannot hold.

    Args:
        of: The terms. A weighted sum among them gives its own terms, and a `Scale` without an offset a weight, so that
            `0.7 * bleu + 0.2 * length + 0.1 * vader` is one sum of three terms.

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
        new_names: dict[str, str] = {}
        for key, weight, part in terms:
            name, number = key, 2
            while name in named:
                name, number = f"{key}_{number}", number + 1
            new_names[key] = name
            named[name] = (weight, part)
        for name in new_names.values():
            weight, part = named[name]
            if isinstance(weight, Constraint):  # it watches a term by name, which may just have become name_2
                named[name] = (weight.renamed(new_names), part)
    return WeightedSum(named)


Reward.arithmetic = Arithmetic(add=sum_of, multiply=Product, scale=Scale)
