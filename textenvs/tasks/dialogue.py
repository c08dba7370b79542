"""Book something for a simulated user, who has a goal and a persona and gives details only when asked.

The user wants a table, a room or a taxi, with three details, and names one of them. The agent asks for the others, a
turn each, and then books ("I booked a table: rice, four people, seven o'clock."). The user answers questions, complains
about ones that were answered already or mean nothing, and leaves after the booking. The splits differ by the pairs of
name and goal.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards.incremental.splitters import Splitter
from textenvs.rewards.incremental.units import UnitSums
from textenvs.tasks.base import Example
from textenvs.tasks.composed import Composed, Composition
from textenvs.tasks.dice import Dice, text_key
from textenvs.tasks.story_words import BOYS, COUNTERPARTS, GIRLS


@dataclass(frozen=True)
class _Detail:
    """A detail that the agent has to find out.

    Attributes:
        question: A question for it.
        words: The words by which a question asks for it.
        values: Its possible values.
        answer: The user's answer, with `{}` for the value.
    """

    question: str
    words: frozenset[str]
    values: tuple[str, ...]
    answer: str


_HOURS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
_TIME = _Detail(
    "What time?", frozenset(["time", "when", "hour"]), tuple(f"{hour} o'clock" for hour in _HOURS), "At {}."
)
_GOALS: dict[str, tuple[_Detail, ...]] = {
    "table": (
        _Detail("What food?", frozenset(["food", "eat", "kitchen"]),
                ("rice", "fish", "soup", "cheese", "noodles", "pie"), "I like {}."),
        _Detail("How many people?", frozenset(["many", "people", "persons"]),
                ("two people", "three people", "four people", "five people", "six people"), "We are {}."),
        _TIME,
    ),
    "room": (
        _Detail("What size?", frozenset(["size", "big", "large"]), ("small", "large", "double", "single"), "A {} one."),
        _Detail("How many nights?", frozenset(["many", "nights", "long"]),
                ("one night", "two nights", "three nights", "four nights", "five nights"), "For {}."),
        _Detail("What view?", frozenset(["view", "see", "side"]),
                ("garden", "lake", "park", "street", "mountain"), "With a view of the {}."),
    ),
    "taxi": (
        _Detail("Where to?", frozenset(["to", "going", "destination"]),
                ("station", "airport", "market", "museum", "zoo", "school"), "To the {}."),
        _Detail("Where from?", frozenset(["from", "start", "pick"]),
                ("hotel", "harbor", "library", "bakery", "church", "farm"), "From the {}."),
        _TIME,
    ),
}  # fmt: skip
_PERSONAS = {
    "polite": ("Good day, this is {}. I would like to book a {}, please. {}", "{} Thank you.",
               "I am afraid I told you.", "Excuse me, I do not understand."),
    "terse": ("{} here. A {}. {}", "{}", "I said that.", "What?"),
    "cheerful": ("Hello, it's {}! I need a {}! {}", "{} Great!", "Ha, you know that already!", "Ha, what do you mean?"),
}  # fmt: skip
_TURNS = 6
_IDLE_SHARE = 0.1  # of the booking's worth that is lost by each idle turn before it


def _asked(goal: str, turn: str) -> int | None:
    """Returns the detail that a turn asks for: the one with the most words before the first question mark, or None.

    The text after the question mark changes nothing, so a question is never undone.
    """
    question, mark, _ = turn.partition("?")
    if not mark:
        return None
    words = set(re.findall(r"[a-z]+", question.lower()))
    hits = [len(detail.words & words) for detail in _GOALS[goal]]
    return hits.index(max(hits)) if max(hits) else None


def _books(goal: str, turn: str) -> bool:
    """Tests if a turn books: it says so before any question mark, and if there is one, names a detail before it."""
    statement, mark, _ = turn.partition("?")
    return re.search(r"\bbook(ed)?\b", statement.lower()) is not None and (not mark or bool(_named(goal, statement)))


def _named(goal: str, turn: str) -> set[tuple[int, str]]:
    """Returns the details that a turn names, each with its first value. A value must be whole words."""
    words = " " + " ".join(re.findall("[a-z']+", turn.lower())) + " "
    named = set()
    for index, detail in enumerate(_GOALS[goal]):
        positions = [(words.index(f" {value} "), value) for value in detail.values if f" {value} " in words]
        if positions:
            named.add((index, min(positions)[1]))
    return named


class _Turns(Splitter):
    """Lines, including empty ones. The text after the last newline is a turn if it is not empty."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into lines, the last of which may still go on."""
        *turns, rest = text.split("\n")
        return turns, rest

    def finish(self, rest: str) -> list[str]:
        """Returns the last line, if it is not empty."""
        return [rest] if rest.strip() else []

    def closes(self, character: str) -> bool:
        """Returns False: a newline ends an empty turn, which the end of the text does not."""
        return False


class Booking(UnitSums):
    """The success of a conversation: 0.3 for finding out details, and 0.7 for the right booking, less after idle turns.

    - Finding out: the share of the details that the agent asked for, of those that the user did not name at first.
    - The booking: the share of the details of the user's goal that the agent's booking names. Of several values for a
      detail, the first one counts. There is one booking: the first turn with "book" or "booked" in it that is not a
      question about something else. The turns after it do not count.
    - Idle turns: turns that neither book nor ask for a new detail, empty ones included. Each takes a tenth off the
      worth of the booking.

    A turn is a line: a newline that the agent writes ends a turn, as EOS does. A score that was earned is never taken
    back, and there are no penalties: silence is not better than trying.

    An example's metadata has the user's wishes: `goal`, `details` (a value each) and `named` (the index of the detail
    that the user named). From 0 to 1. The unfinished last turn is read as final. Cost: a turn is read again at each of
    its tokens.
    """

    name = "booking"
    low, high = 0.0, 1.0
    splitter = _Turns()
    width = 2  # the number of details found out, and the worth of the booking

    def start(self, example: Example) -> Hashable:
        """Returns the goal and its details, the details that the agent knows, the idle turns, and False: no booking."""
        wanted = example.metadata
        if wanted.get("goal") not in _GOALS or len(wanted.get("details", ())) != 3 or "named" not in wanted:
            raise ValueError(f"Expected an example with 'goal', 'details' and 'named' in its metadata, got {wanted!r}")
        return wanted["goal"], tuple(wanted["details"]), frozenset([wanted["named"]]), 0, False

    def read(self, memory: Any, unit: str) -> tuple[Hashable, tuple[float, ...]]:
        """Reads one turn."""
        goal, details, known, idle, booked = memory
        if booked:
            return memory, (0.0, 0.0)
        if _books(goal, unit):
            right = len(_named(goal, unit) & set(enumerate(details))) / len(details)
            return (goal, details, known, idle, True), (0.0, right * max(0.0, 1 - _IDLE_SHARE * idle))
        asked = _asked(goal, unit)
        if asked is None or asked in known:
            return (goal, details, known, min(idle + 1, 10), False), (0.0, 0.0)  # after ten, nothing is left to lose
        return (goal, details, known | {asked}, idle, False), (1.0, 0.0)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weighs finding out and the booking."""
        phi: NDArray[np.float64] = 0.3 * sums[:, 0] / 2 + 0.7 * sums[:, 1]
        return phi


class Dialogue(Composed):
    r"""Find out the wishes of a user, and book, in at most six turns.

    An example's metadata has `name`, `goal` ("table", "room" or "taxi"), `details` (three values), `named` (the index
    of the detail that the user begins with) and `persona` ("polite", "terse" or "cheerful"). Its one reference is the
    agent's part of a perfect conversation, a turn a line. `counterpart` exchanges the name for one of the other gender.

    Example:
        >>> Dialogue().example("train", 0).prompt.endswith("\nAgent:")
        True
    """

    name = "dialogue"
    tests = "several turns: ask, remember, and finish"
    levels = 1
    default_reward: Any = Booking()
    default_max_new_tokens = 96
    max_turns = _TURNS
    max_reply_tokens = 40

    def compositions(self) -> Sequence[Composition]:
        """Returns the pairs of name and goal."""
        return [(name, goal) for name in (*BOYS, *GIRLS) for goal in _GOALS]

    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """Draws details and a persona. The users of the shifted split begin with a remark that does not matter."""
        name, goal = composition
        details = [dice.pick(detail.values) for detail in _GOALS[goal]]
        named = dice.below(3)
        persona = dice.pick(tuple(_PERSONAS))
        remark = dice.pick(("My dog is with me. ", "It rains so much. ", "I came by train. ")) if shifted else ""
        answer = _GOALS[goal][named].answer.format(details[named])
        opening = _PERSONAS[persona][0].format(name, goal, remark + answer)
        metadata = {"name": name, "goal": goal, "details": details, "named": named, "persona": persona}
        return Example(f"User: {opening}\nAgent:", (_conversation(goal, details, named),), metadata)

    def reply(self, example: Example, turns: Sequence[str]) -> str | None:
        """Returns the user's answer to all new questions of a turn, or None to a booking."""
        goal = example.metadata["goal"]
        lines = turns[-1].split("\n")
        if any(_books(goal, line) for line in lines):
            return None
        asked = [detail for line in lines if (detail := _asked(goal, line)) is not None]
        before = {example.metadata["named"], *(_asked(goal, line) for turn in turns[:-1] for line in turn.split("\n"))}
        new = [detail for detail in dict.fromkeys(asked) if detail not in before]
        return _reply(example, new, asked[:1])

    def replies(self, example: Example) -> list[str]:
        """Returns the answers to all new questions, and the complaints about all others."""
        details = range(len(example.metadata["details"]))
        new = [detail for detail in details if detail != example.metadata["named"]]
        complaints = [_reply(example, [], told) for told in ([], *([detail] for detail in details))]
        return complaints + [_reply(example, asked, []) for count in (1, 2) for asked in permutations(new, count)]

    def counterpart(self, example: Example) -> Example | None:
        """Returns the same goal of a user of the other gender."""
        name = example.metadata["name"]
        other = COUNTERPARTS[name]
        return Example(example.prompt.replace(name, other, 1), example.references, {**example.metadata, "name": other})


def _reply(example: Example, new: Sequence[int], told: Sequence[int]) -> str:
    """Returns a user's answer to a question for new details, or, if there are none, for one that was told before."""
    goal, details = example.metadata["goal"], example.metadata["details"]
    _, answer, already_told, not_understood = _PERSONAS[example.metadata["persona"]]
    answers = [_GOALS[goal][detail].answer.format(details[detail]) for detail in new or told]
    if not answers:
        text = not_understood
    elif not new:
        text = f"{already_told} {answers[0]}"
    else:
        text = answer.format(answers[0]) if len(new) == 1 else " ".join(answers)
    return f"\nUser: {text}\nAgent:"


def _conversation(goal: str, details: Sequence[str], named: int) -> str:
    """Returns the turns of an agent that asks for the missing details and then books, a turn a line."""
    questions = [detail.question for index, detail in enumerate(_GOALS[goal]) if index != named]
    if text_key("|".join(details)) % 2:  # in either order, but the same order whenever the example is made
        questions.reverse()
    return " " + "\n ".join([*questions, f"I booked a {goal}: {', '.join(details)}."])
