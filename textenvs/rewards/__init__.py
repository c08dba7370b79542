"""Rewards: scores of a growing response, and the payouts that hand them out.

`make_reward` is the one door: names, dicts of names, functions and `Reward` objects all go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from textenvs.rewards.answers import CorrectPrefix, EditSimilarity, ExactMatch, TokenF1
from textenvs.rewards.automaton import AutomatonReward, Match
from textenvs.rewards.base import FunctionReward, Reward, RewardError, Scorer, TextScorer, checked_score
from textenvs.rewards.bleu import Bleu
from textenvs.rewards.chrf import Chrf, ChrfPlusPlus
from textenvs.rewards.combinators import WeightedSum
from textenvs.rewards.content import (
    Concepts,
    Dates,
    IncreasingNumbers,
    Keywords,
    NumericAnswer,
    PlotPoints,
    Readability,
    RegexProgress,
)
from textenvs.rewards.diversity import Copying, Distinct, Repetition
from textenvs.rewards.length import Length, Sentences
from textenvs.rewards.payouts import PAYOUTS, Payout, make_payout
from textenvs.rewards.rouge import Rouge1, Rouge2, RougeL, RougeN
from textenvs.rewards.sentiment import Sentiment, Vader
from textenvs.rewards.style import Formality, NgramFluency
from textenvs.rewards.units import (
    Characters,
    Chunks,
    Machine,
    Matches,
    Splitter,
    UnitReader,
    Units,
    UnitScorer,
    UnitStep,
    UnitSums,
    Words,
)

_REWARDS: dict[str, Callable[..., Reward]] = {
    # overlap with references
    "bleu": Bleu,
    "chrf": Chrf,
    "chrfpp": ChrfPlusPlus,
    "rouge_1": Rouge1,
    "rouge_2": Rouge2,
    "rouge_l": RougeL,
    "rouge_n": RougeN,
    "token_f1": TokenF1,
    "exact_match": ExactMatch,
    "edit_similarity": EditSimilarity,
    "correct_prefix": CorrectPrefix,
    # style and fluency
    "sentiment": Sentiment,
    "vader": Vader,
    "formality": Formality,
    "ngram_lm": NgramFluency,
    # content and form
    "keywords": Keywords,
    "concepts": Concepts,
    "plot_points": PlotPoints,
    "regex": RegexProgress,
    "length": Length,
    "sentences": Sentences,
    "readability": Readability,
    "increasing_numbers": IncreasingNumbers,
    "dates": Dates,
    "numeric_answer": NumericAnswer,
    # diversity inside a response
    "distinct": Distinct,
    "repetition": Repetition,
    "copying": Copying,
}


def register_reward(name: str, factory: Callable[..., Reward]) -> None:
    """Give a reward a name, so that `gym.make(..., reward=name)` finds it.

    Args:
        name: What it will be called; not taken yet.
        factory: A `Reward` class, or a function that returns a `Reward`. Its keyword arguments may come from a dict:
            `{name: {"argument": 1}}`. For a plain function f: `lambda: FunctionReward(f)`.

    Raises:
        ValueError: If the name is taken or empty.
        TypeError: If the factory cannot be called.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"Expected a name for the reward, got {name!r}")
    if name in _REWARDS:
        raise ValueError(f"Expected a new reward name, got {name!r}, which is taken by {_REWARDS[name]!r}")
    if not callable(factory):
        raise TypeError(f"Expected a Reward class or a function that returns a Reward, got {factory!r}")
    _REWARDS[name] = factory


def list_rewards() -> list[str]:
    """The names that `make_reward` knows, sorted."""
    return sorted(_REWARDS)


def make_reward(reward: Any) -> Reward:
    """A `Reward` from whatever a user writes.

    Args:
        reward: A name (`"sentiment"`), a dict of names to weights (`{"sentiment": 0.7, "length": 0.3}`) or to keyword
            arguments, of which `weight` is one (`{"length": {"target": 12, "weight": 0.3}}`), a function
            `f(example, response) -> float`, or a `Reward`.

    Returns:
        The reward.

    Raises:
        ValueError: If a name is unknown, a dict is empty or a weight is no finite number.
        TypeError: If it is none of these, or a reward does not take an argument.

    Example:
        >>> from textenvs.tasks import Example
        >>> round(make_reward("length").score(Example("Say ten words:"), "one two three four five"), 2)
        0.25
    """
    if isinstance(reward, Reward):
        return reward
    if isinstance(reward, str):
        return _by_name(reward)
    if isinstance(reward, Mapping):
        terms: dict[str, tuple[Any, Reward]] = {}
        for name, setting in reward.items():
            arguments = dict(setting) if isinstance(setting, Mapping) else {"weight": setting}
            weight = arguments.pop("weight", 1.0)
            terms[name] = (weight, _by_name(name, arguments))
        total = WeightedSum(terms)
        weight, first = next(iter(total.terms.values()))
        return first if len(terms) == 1 and weight == 1 else total
    if callable(reward) and not isinstance(reward, type):
        return FunctionReward(reward)
    raise TypeError(
        "Expected a reward's name, a dict of names to weights, a function f(example, response) -> float or a Reward, "
        f"got {reward!r} of type {type(reward).__name__}"
    )


def _by_name(name: Any, arguments: dict[str, Any] | None = None) -> Reward:
    if name not in _REWARDS:
        close = get_close_matches(str(name), _REWARDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"Expected a reward from {list_rewards()}, got {name!r}.{hint}")
    try:
        made = _REWARDS[name](**(arguments or {}))
    except TypeError as error:
        raise TypeError(f"Reward {name!r} could not be made with arguments {arguments or {}}: {error}") from error
    if not isinstance(made, Reward):
        raise TypeError(f"Expected the factory of reward {name!r} to return a Reward, got {type(made).__name__}")
    return made


__all__ = [
    "PAYOUTS",
    "AutomatonReward",
    "Bleu",
    "Characters",
    "Chrf",
    "ChrfPlusPlus",
    "Chunks",
    "Concepts",
    "Copying",
    "CorrectPrefix",
    "Dates",
    "Distinct",
    "EditSimilarity",
    "ExactMatch",
    "Formality",
    "FunctionReward",
    "IncreasingNumbers",
    "Keywords",
    "Length",
    "Machine",
    "Match",
    "Matches",
    "NgramFluency",
    "NumericAnswer",
    "Payout",
    "PlotPoints",
    "Readability",
    "RegexProgress",
    "Repetition",
    "Reward",
    "RewardError",
    "Rouge1",
    "Rouge2",
    "RougeL",
    "RougeN",
    "Scorer",
    "Sentences",
    "Sentiment",
    "Splitter",
    "TextScorer",
    "TokenF1",
    "UnitReader",
    "UnitScorer",
    "UnitStep",
    "UnitSums",
    "Units",
    "Vader",
    "WeightedSum",
    "Words",
    "checked_score",
    "list_rewards",
    "make_payout",
    "make_reward",
    "register_reward",
]
