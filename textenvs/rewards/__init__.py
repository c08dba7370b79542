"""Rewards: scores of a growing response, and the payouts that hand them out.

`make_reward` makes a `Reward` of a name, a dict of names, a function or a `Reward`. This module registers the built-in
rewards and combinators.
"""

from collections.abc import Callable

from textenvs.rewards.answers import CorrectPrefix, EditSimilarity, ExactMatch, TokenF1
from textenvs.rewards.arithmetic import Combination, Product, Scale, WeightedSum, sum_of
from textenvs.rewards.base import FunctionReward, Reward, RewardError, Scorer, TextScorer, checked_score
from textenvs.rewards.bleu import Bleu
from textenvs.rewards.chrf import Chrf, ChrfPlusPlus
from textenvs.rewards.combinators import Clip, Gate, MeanMinusStd, Minimum, Normalised, guard, minimum
from textenvs.rewards.diversity import Copying, Distinct, Repetition
from textenvs.rewards.incremental.automaton import AutomatonReward, Match
from textenvs.rewards.incremental.splitters import Characters, Chunks, Matches, Splitter, Words
from textenvs.rewards.incremental.units import Machine, UnitReader, Units, UnitScorer, UnitStep, UnitSums
from textenvs.rewards.keywords import Concepts, Keywords, PlotPoints
from textenvs.rewards.last_turn import LastTurn
from textenvs.rewards.length import Length, Sentences
from textenvs.rewards.mood import Mood as Mood
from textenvs.rewards.numbers import Dates, IncreasingNumbers
from textenvs.rewards.numeric_answer import NumericAnswer
from textenvs.rewards.payouts import PAYOUTS, Payout, make_payout
from textenvs.rewards.readability import Readability
from textenvs.rewards.regex import RegexProgress
from textenvs.rewards.registry import COMBINATORS, list_rewards, make_reward, register_combinator, register_reward
from textenvs.rewards.rouge import Rouge1, Rouge2, RougeL, RougeLsum, RougeN
from textenvs.rewards.schedules import Constraint, Schedule
from textenvs.rewards.sentiment import Sentiment, Vader
from textenvs.rewards.style import Formality, NgramFluency

_COMBINATORS: dict[str, Callable[..., Reward]] = {
    "sum": sum_of,
    "product": Product,
    "min": Minimum,
    "mean_minus_std": MeanMinusStd,
    "gate": Gate,
    "guard": guard,
    "clip": Clip,
    "scale": Scale,
    "normalised": Normalised,
}

BUILT_IN: dict[str, type[Reward]] = {
    # overlap with references
    "bleu": Bleu,
    "chrf": Chrf,
    "chrfpp": ChrfPlusPlus,
    "rouge_1": Rouge1,
    "rouge_2": Rouge2,
    "rouge_l": RougeL,
    "rouge_lsum": RougeLsum,
    "rouge_n": RougeN,
    "token_f1": TokenF1,
    "exact_match": ExactMatch,
    "edit_similarity": EditSimilarity,
    "correct_prefix": CorrectPrefix,
    # style and fluency
    "mood": Mood,
    "sentiment": Sentiment,
    "vader": Vader,
    "formality": Formality,
    "ngram_lm": NgramFluency,
    # conversations
    "last_turn": LastTurn,
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
"""Name to class of the rewards that come with this package."""

for _key, _combinator in _COMBINATORS.items():
    register_combinator(_key, _combinator)
for _name, _reward in BUILT_IN.items():
    register_reward(_name, _reward)

__all__ = [
    "BUILT_IN",
    "COMBINATORS",
    "PAYOUTS",
    "AutomatonReward",
    "Bleu",
    "Characters",
    "Chrf",
    "ChrfPlusPlus",
    "Chunks",
    "Clip",
    "Combination",
    "Concepts",
    "Constraint",
    "Copying",
    "CorrectPrefix",
    "Dates",
    "Distinct",
    "EditSimilarity",
    "ExactMatch",
    "Formality",
    "FunctionReward",
    "Gate",
    "IncreasingNumbers",
    "Keywords",
    "LastTurn",
    "Length",
    "Machine",
    "Match",
    "Matches",
    "MeanMinusStd",
    "Minimum",
    "NgramFluency",
    "Normalised",
    "NumericAnswer",
    "Payout",
    "PlotPoints",
    "Product",
    "Readability",
    "RegexProgress",
    "Repetition",
    "Reward",
    "RewardError",
    "Rouge1",
    "Rouge2",
    "RougeL",
    "RougeLsum",
    "RougeN",
    "Scale",
    "Schedule",
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
    "guard",
    "list_rewards",
    "make_payout",
    "make_reward",
    "minimum",
    "register_combinator",
    "register_reward",
    "sum_of",
]
