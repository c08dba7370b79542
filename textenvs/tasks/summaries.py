"""Summarise a report: pick its key sentences, or write one sentence that says it all.

A report tells who did what, where and when, among sentences that do not matter. The splits differ by the pairs of
person and deed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from textenvs.tasks.base import Example
from textenvs.tasks.composed import Composed, Composition
from textenvs.tasks.dice import Dice

_WHO = (
    "baker", "teacher", "farmer", "painter", "doctor", "sailor", "singer", "gardener", "fisherman", "tailor",
    "carpenter", "shepherd", "miller", "postman", "librarian", "cook",
)  # fmt: skip
_WHERE = ("village", "harbor", "market", "school", "castle", "forest", "station", "park")
_WHEN = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class _Deed(NamedTuple):
    """A deed in three sentences or parts of them.

    Attributes:
        past: The past tense of the deed, with its object.
        beginning: The sentence before it.
        result: The sentence after it.
    """

    past: str
    beginning: str
    result: str


_DEEDS = {
    "bridge": _Deed("repaired the old bridge", "The old bridge had been broken for weeks.", "Carts can cross again."),
    "tree": _Deed("planted a tall tree", "There had been no shade for years.", "Birds already sit in its branches."),
    "prize": _Deed("won the first prize", "Twenty people took part in the contest.", "The cup stands in the window."),
    "child": _Deed("found the lost child", "A child had been missing since morning.", "The parents wept with joy."),
    "fire": _Deed("put out the fire", "Smoke rose from a roof.", "Nobody was hurt."),
    "bell": _Deed("rang the great bell", "The tower had been silent for a year.", "Everybody came to listen."),
    "dog": _Deed("saved a small dog", "A dog had fallen into the water.", "It has a new home now."),
    "play": _Deed("opened a new theater", "The hall had been empty for long.", "All seats were sold."),
    "well": _Deed("dug a deep well", "Water had been scarce all summer.", "The fields are green again."),
    "thief": _Deed("caught a thief", "Silver had gone from many houses.", "The spoons are back in their drawers."),
    "boat": _Deed("built a wooden boat", "The old ferry had sunk.", "The first trip is free."),
    "letter": _Deed("delivered a lost letter", "A letter had lain in a drawer.", "It was forty years late."),
}
_ASIDES = (
    "The sun was warm.", "A cat slept on a wall.", "Somebody sold apples.", "The shops were open.",
    "Music came from a window.", "Two boys played with a ball.", "The wind was cold.", "A cart went by.",
    "Clouds hung over the hills.", "An old man told jokes.", "The streets were quiet.", "Some people drank tea.",
)  # fmt: skip


_OTHERS = {**dict(zip(_WHO[::2], _WHO[1::2], strict=True)), **dict(zip(_WHO[1::2], _WHO[::2], strict=True))}
"""Person to the person of another trade in its counterpart."""


class _Report(NamedTuple):
    """A report.

    Attributes:
        who: The person.
        key: The sentences that matter, in order.
        asides: The sentences that do not matter.
        summary: The sentence that says it all.
    """

    who: str
    key: list[str]
    asides: list[str]
    summary: str


def _report(composition: Composition, asides: int, dice: Dice) -> _Report:
    who, what = composition
    deed, where, when = _DEEDS[what], dice.pick(_WHERE), dice.pick(_WHEN)
    # With the second ending, three of the four key sentences name the person, else two.
    end = dice.pick((deed.result, f"The {who} went home smiling."))
    key = [deed.beginning, f"On {when} the {who} came to the {where}.", f"The {who} {deed.past}.", end]
    summary = f"The {who} {deed.past} in the {where} on {when}."
    return _Report(who, key, dice.sample(_ASIDES, asides), summary)


def _mixed(report: _Report, dice: Dice) -> list[str]:
    """Returns the sentences of a report in their order, with asides anywhere among them."""
    sentences = list(report.key)
    for aside in report.asides:
        sentences.insert(dice.below(len(sentences) + 1), aside)
    return sentences


class _Summaries(Composed):
    levels = 3
    level = 2
    _ASIDES_BY_LEVEL = (1, 3, 5)

    def compositions(self) -> Sequence[Composition]:
        """Returns the pairs of person and deed."""
        return [(who, what) for who in _WHO for what in _DEEDS]

    def counterpart(self, example: Example) -> Example | None:
        """Returns the same report about a person of another trade."""
        who = str(example.metadata["who"])
        other = _OTHERS[who]
        metadata = {**example.metadata, "who": other}
        if "sentences" in metadata:
            metadata["sentences"] = [sentence.replace(who, other) for sentence in metadata["sentences"]]
        references = tuple(reference.replace(who, other) for reference in example.references)
        return Example(example.prompt.replace(who, other), references, metadata)

    def _draw(self, composition: Composition, dice: Dice, shifted: bool) -> tuple[_Report, list[str]]:
        report = _report(composition, self._ASIDES_BY_LEVEL[self.level - 1] + (4 if shifted else 0), dice)
        return report, _mixed(report, dice)


class SummarizeExtractive(_Summaries):
    """Pick the sentences that matter: write the numbers of those that name the person of the headline.

    Levels have 1, 3 or 5 sentences that do not matter, the shifted split 4 more. An example's metadata has `who`,
    `sentences` and `key` (the numbers). Its one reference is the list of these numbers, with leading spaces.
    `counterpart` exchanges the person for one of another trade.

    Example:
        >>> SummarizeExtractive().example("train", 0).prompt.startswith("The news of the ")
        True
    """

    name = "summarize_extractive"
    tests = "summarising: pick the sentences that matter"
    default_reward: Any = "rouge_l"
    held_out_reward: Any = "exact_match"
    default_max_new_tokens = 12

    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """Draws a report and numbers its sentences."""
        report, sentences = self._draw(composition, dice, shifted)
        listed = [f"{number}. {sentence}" for number, sentence in enumerate(sentences, start=1)]
        numbers = [number for number, sentence in enumerate(sentences, start=1) if report.who in sentence]
        prompt = "\n".join([f"The news of the {report.who}", *listed, f"Sentences about the {report.who}:"])
        metadata = {"who": report.who, "sentences": sentences, "key": numbers}
        return Example(prompt, ("".join(f" {number}" for number in numbers),), metadata)

    def allowed(self, example: Example, turns: Sequence[str]) -> dict[str, str]:
        """Returns a pattern of one to four numbers, each with a leading space."""
        return {"regex": "( [1-9][0-9]?){1,4}"}


class SummarizeAbstractive(_Summaries):
    r"""Write one sentence that says who did what, where and when.

    Levels have 1, 3 or 5 sentences that do not matter, the shifted split 4 more. An example's metadata has `who` and
    `what`. Its one reference is the summary, with a leading space. `counterpart` exchanges the person for one of
    another trade.

    Example:
        >>> SummarizeAbstractive().example("train", 0).prompt.endswith("\nIn short:")
        True
    """

    name = "summarize_abstractive"
    tests = "summarising: fuse several sentences into one"
    default_reward: Any = "rouge_l"
    held_out_reward: Any = "rouge_2"
    default_max_new_tokens = 32

    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """Draws a report."""
        report, sentences = self._draw(composition, dice, shifted)
        metadata = {"who": report.who, "what": composition[1]}
        return Example(f"{' '.join(sentences)}\nIn short:", (f" {report.summary}",), metadata)
