"""Book something for a simulated user, who has a goal and a persona, gives details only when asked, and may change one.

The user wants a table, a room or a taxi, with three details, and names one of them. The agent asks for the others, a
turn each, and then books ("I booked a table: rice, four people, seven o'clock."). The user answers questions in several
wordings, often with a value that is not wanted, changes one wish in two of three conversations, complains about
questions that were answered already or mean nothing, says what is wrong about a booking, and leaves after a right one.
The splits differ by the goal, the wish that the
user begins with, and the value that is named beside it.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
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

_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


@dataclass(frozen=True)
class _Detail:
    """A detail that the agent has to find out.

    Attributes:
        question: A question for it.
        asks: A pattern of the words by which a question asks for it.
        values: Its possible values, as the user says them.
        answer: The user's answer, with `{}` for the value.
        names: Patterns that name a value beside the value itself, with `{}` for its first word.
    """

    question: str
    asks: str
    values: tuple[str, ...]
    answer: str
    names: tuple[str, ...] = ()

    def pattern(self) -> re.Pattern[str]:
        """Compiles the ways to name a value. The group that matches is the number of the value, from 1."""
        ways = []
        for value in self.values:
            word = value.split()[0]
            options = [rf"{value.removeprefix('the ')}\b", *(name.format(word) for name in self.names)]
            ways.append(f"({'|'.join(options)})")
        return re.compile(rf"\b(?:{'|'.join(ways)})")


_TIME = _Detail(
    "What time?", "time|when|hour", tuple(f"{hour} o'clock" for hour in _NUMBERS), "At {}.",
    (r"(?<=at ){}\b(?! (?:people|persons|guests))",),
)  # fmt: skip
# Of two details that a question may ask for, it asks for the later one: "what time would you like to go?"
_GOALS: dict[str, tuple[_Detail, ...]] = {
    "table": (
        _Detail("What food?", "food|eat|kitchen|cuisine|dish|meal",
                ("rice", "fish", "soup", "cheese", "noodles", "pie"), "I like {}."),
        _Detail("How many people?", "many|people|persons|guests|party|company",
                tuple(f"{number} people" for number in _NUMBERS[1:6]), "We are {}.",
                (r"{} (?:persons|guests)\b", r"(?<=party of ){}\b", r"(?<=for ){}\b(?! o'clock)")),
        _TIME,
    ),
    "room": (
        _Detail("What size?", "size|big|large|kind", ("small", "large", "double", "single"), "A {} one."),
        _Detail("How many nights?", "many|nights?|long|days",
                ("one night", *(f"{number} nights" for number in _NUMBERS[1:5])), "For {}."),
        _Detail("What view?", "view|see|side|overlook",
                ("the garden", "the lake", "the park", "the street", "the mountain"), "With a view of {}."),
    ),
    "taxi": (
        _Detail("Where to?", "to|going|destination",
                ("the station", "the airport", "the market", "the museum", "the zoo", "the school"), "To {}."),
        _Detail("Where from?", "from|start|pick",
                ("the hotel", "the harbor", "the library", "the bakery", "the church", "the farm"), "From {}."),
        _TIME,
    ),
}  # fmt: skip
_ASKS = {goal: [re.compile(rf"\b(?:{detail.asks})\b") for detail in details] for goal, details in _GOALS.items()}
_NAMES = {goal: [detail.pattern() for detail in details] for goal, details in _GOALS.items()}
_PERSONAS = {
    "polite": ("Good day, this is {}. I would like to book a {}, please. {}", "{} Thank you.",
               "I am afraid I told you.", "Excuse me, I do not understand.", "I am sorry, but"),
    "terse": ("{} here. A {}. {}", "{}", "I said that.", "What?", "No,"),
    "cheerful": ("Hello, it's {}! I need a {}! {}", "{} Great!", "Ha, you know that already!", "Ha, what do you mean?",
                 "Oh no,"),
}  # fmt: skip
_FRAMES = ("{answer}", "{answer} Not {other} this time.", "Last time I said {other}. {answer}")
_CHANGES = (
    " Oh, and {new} rather than {old}.", " Oh, and no longer {old}, but {new}.", " Oh, and make it {new}, not {old}.",
    " Oh, and instead of {old}: {new}.",
)  # fmt: skip
_QUESTION = re.compile(
    r"\b(?:what|which|when|where|how)\b|^(?:and|please)?\W*(?:could|can|may|would|will|do|does|is|are|shall)\b"
)
_BOOKING = re.compile(
    r"\b(?:booked|reserved|(?:i|we|i'll|we'll)(?: will| have)?(?: now| then| hereby| gladly)? (?:book|reserve))\b"
)
_DIGITS = re.compile(r"\b[1-8]\b")
_TURNS = 6
_IDLE_SHARE = 0.1  # of the booking's worth that is lost by each idle turn before it


def _plain(text: str) -> str:
    """Lowers a text, writes digits as words, and joins its words by single spaces."""
    words = re.findall("[a-z0-9']+", text.lower())
    return _DIGITS.sub(lambda digit: _NUMBERS[int(digit[0]) - 1], " ".join(words))


def _asked(goal: str, turn: str) -> int | None:
    """Returns the detail that a turn asks for, or None: that of its first question that asks for one.

    The text after a question that asks for a detail changes nothing, so it is never undone. Greetings and other
    questions before it do not matter.
    """
    for text in turn.split("?")[:-1]:
        question = _plain(re.split(r"[.!;]", text)[-1])
        asked = [index for index, asks in enumerate(_ASKS[goal]) if asks.search(question)]
        if asked and _QUESTION.search(question):
            return asked[-1]
    return None


def _named(goal: str, turn: str) -> tuple[dict[int, str], int]:
    """Returns the first value of each detail that a turn names, and the number of all values of any goal in it."""
    text, first, count = _plain(turn).replace(" the ", " "), {}, 0
    for index, (detail, pattern) in enumerate(zip(_GOALS[goal], _NAMES[goal], strict=True)):
        values = [detail.values[match.lastindex - 1] for match in pattern.finditer(text) if match.lastindex]
        if values:
            first[index] = values[0]
        count += len(values)
    for other in _GOALS.keys() - {goal}:
        count += len(re.findall(rf"\b{other}\b", text))
        count += sum(
            len(pattern.findall(text))
            for detail, pattern in zip(_GOALS[other], _NAMES[other], strict=True)
            if detail not in _GOALS[goal]
        )
    return first, count


@dataclass(frozen=True)
class _Talk:
    """A conversation so far.

    Attributes:
        goal: A key of `_GOALS`.
        wishes: The values that the user wants in the end.
        first: The value of the named detail before the user changes it, or "" if the user does not.
        named: The detail that the user began with.
        known: The details that the agent knows.
        idle: The number of idle turns; after ten, nothing is left to lose.
        worth: The worth of the best booking.
        over: True after a right booking.
    """

    goal: str
    wishes: tuple[str, ...]
    first: str
    named: int
    known: frozenset[int]
    idle: int = 0
    worth: float = 0.0
    over: bool = False

    def wanted(self) -> tuple[str, ...]:
        """Returns the values that the user has told or would tell. A change is told with the first answer."""
        if not self.first or len(self.known) > 1:
            return self.wishes
        return tuple(self.first if index == self.named else wish for index, wish in enumerate(self.wishes))

    def after(self, turn: str) -> _Talk:
        """Returns the conversation after one more turn."""
        if self.over:
            return self
        values, count = _booked(self.goal, turn)
        if values:
            right = sum(self.wanted()[index] == value for index, value in values.items())
            worth = right / len(self.wishes) * right / count
            paid = max(self.worth, worth * max(0.0, 1 - _IDLE_SHARE * self.idle))
            return replace(self, idle=min(self.idle + 1, 10), worth=paid, over=worth == 1)
        asked = _asked(self.goal, turn)
        if asked is None or asked in self.known:
            return replace(self, idle=min(self.idle + 1, 10))
        return replace(self, known=self.known | {asked})


def _booked(goal: str, turn: str) -> tuple[dict[int, str], int]:
    """Returns what a turn books: the values it names before any question mark, if it says that it books."""
    statement = turn.partition("?")[0]
    return _named(goal, statement) if _BOOKING.search(_plain(statement)) else ({}, 0)


def _talk(example: Example) -> _Talk:
    wanted = example.metadata
    if wanted.get("goal") not in _GOALS or len(wanted.get("details", ())) != 3 or "named" not in wanted:
        raise ValueError(f"Expected an example with 'goal', 'details' and 'named' in its metadata, got {wanted!r}")
    named = int(wanted["named"])
    return _Talk(wanted["goal"], tuple(wanted["details"]), wanted.get("first", ""), named, frozenset([named]))


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
    """The success of a conversation: 0.3 for finding out details, and 0.7 for the best booking, less after idle turns.

    - Finding out: the share of the details that the agent asked for, of those that the user did not name at first.
    - A booking: a turn that says so ("I booked", "I have reserved") and names a detail. Its worth is the share of the
      user's details that it names, times the share of the values in it that are right: neither a list of all values nor
      those of another goal help. Of several values for a detail, the first one counts. The user's wishes are those
      told so far. A right booking ends the conversation; the turns after it do not count.
    - Values are understood in several forms: "4 guests", "a party of four", "at seven", "the station".
    - Idle turns: turns that neither book rightly nor ask for a new detail, empty ones included. Each takes a tenth off
      the worth of later bookings. A greeting or thanks in a turn that asks or books costs nothing.

    A turn is a line: a newline that the agent writes ends a turn, as EOS does. There are no penalties: silence is not
    better than trying.

    An example's metadata has the user's wishes: `goal`, `details` (a value each), `named` (the index of the detail that
    the user named) and, if the user changes it with the first answer, `first` (its value before). From 0 to 1. The
    unfinished last turn is read as final. Cost: a turn is read again at each of its tokens.
    """

    name = "booking"
    low, high = 0.0, 1.0
    splitter = _Turns()
    width = 2  # the number of details found out, and the worth of the booking

    def start(self, example: Example) -> Hashable:
        """Returns the conversation before the first turn."""
        return _talk(example)

    def read(self, memory: Any, unit: str) -> tuple[Hashable, tuple[float, ...]]:
        """Reads one turn."""
        after = memory.after(unit)
        return after, (float(len(after.known) - len(memory.known)), after.worth - memory.worth)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weighs finding out and the booking."""
        phi: NDArray[np.float64] = 0.3 * sums[:, 0] / 2 + 0.7 * sums[:, 1]
        return phi


class Dialogue(Composed):
    r"""Find out the wishes of a user, and book, in at most six turns.

    An example's metadata has `name`, `goal` ("table", "room" or "taxi"), `details` (three values), `named` (the index
    of the detail that the user begins with), `first` (the value of that detail until the user changes it with the first
    answer, or ""), `persona` ("polite", "terse" or "cheerful"), and how the user words things: `frames`, `others` (a
    value that is not wanted, of each detail) and `change`. Its one reference is the agent's part of a perfect
    conversation, a turn a line. `counterpart` exchanges the name for one of the other gender.

    Example:
        >>> Dialogue().example("train", 0).prompt.endswith("\nAgent:")
        True
    """

    name = "dialogue"
    tests = "several turns: ask, remember changes, finish"
    levels = 1
    default_reward: Any = Booking()
    default_max_new_tokens = 96
    max_turns = _TURNS
    max_reply_tokens = 84

    def compositions(self) -> Sequence[Composition]:
        """Returns each goal with the wish that the user begins with, and a value of it that is not wanted."""
        return [
            (goal, str(index), *values)
            for goal, details in _GOALS.items()
            for index, detail in enumerate(details)
            for values in permutations(detail.values, 2)
        ]

    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """Draws a persona and wordings. The users of the shifted split begin with a remark that does not matter."""
        goal, index, begun, unwanted = composition
        named, changes = int(index), dice.below(3) > 0
        drawn = [dice.sample(detail.values, 2) for detail in _GOALS[goal]]
        rest = [value for value in _GOALS[goal][named].values if value not in (begun, unwanted)]
        drawn[named] = [dice.pick(rest) if changes else begun, unwanted]
        details = [value for value, _ in drawn]
        frames = [dice.below(len(_FRAMES)) for _ in details]
        frames[named] = 1 + dice.below(len(_FRAMES) - 1)  # says what is not wanted, too
        metadata = {
            "name": dice.pick((*BOYS, *GIRLS)),
            "goal": goal,
            "details": details,
            "named": named,
            "first": begun if changes else "",
            "persona": dice.pick(tuple(_PERSONAS)),
            "frames": frames,
            "others": [other for _, other in drawn],
            "change": dice.below(len(_CHANGES)),
        }
        remark = dice.pick(("My dog is with me. ", "It rains so much. ", "I came by train. ")) if shifted else ""
        said = remark + _answer(metadata, named, begun)
        opening = _PERSONAS[str(metadata["persona"])][0].format(metadata["name"], goal, said)
        return Example(f"User: {opening}\nAgent:", (_conversation(goal, details, named),), metadata)

    def reply(self, example: Example, turns: Sequence[str]) -> str | None:
        """Returns the user's answer to all new questions of a turn, a complaint, or None to a right booking."""
        talk = _talk(example)
        for line in "\n".join(turns[:-1]).split("\n") if len(turns) > 1 else ():
            talk = talk.after(line)
        before, new, told, wrong = talk, [], [], ""
        for line in turns[-1].split("\n"):
            after = talk.after(line)
            new += sorted(after.known - talk.known)
            values, _ = _booked(talk.goal, line)
            if values:
                wrong = next((value for index, value in values.items() if talk.wanted()[index] != value), "it")
            elif (asked := _asked(talk.goal, line)) is not None:
                told.append(asked)
            talk = after
        if talk.over:
            return None
        if wrong and not new:
            return _complaint(example, wrong)
        changes = bool(new) and len(before.known) == 1
        return _reply(example, new, told[:1], changes, changed=len(talk.known) > 1)

    def replies(self, example: Example) -> list[str]:
        """Returns the answers to all new questions, and the complaints about all others and about wrong bookings."""
        details = range(len(example.metadata["details"]))
        new = [detail for detail in details if detail != example.metadata["named"]]
        told = [
            _reply(example, [], known, False, changed)
            for known in ([], *([detail] for detail in details))
            for changed in (False, True)
        ]
        answers = [
            _reply(example, asked, [], changes, True)
            for count in (1, 2)
            for asked in permutations(new, count)
            for changes in (False, True)
        ]
        values = [value for detail in _GOALS[example.metadata["goal"]] for value in detail.values]
        return [*told, *answers, *(_complaint(example, value) for value in ("it", *values))]

    def counterpart(self, example: Example) -> Example | None:
        """Returns the same wishes of a user of the other gender."""
        name = example.metadata["name"]
        other = COUNTERPARTS[name]
        return Example(example.prompt.replace(name, other, 1), example.references, {**example.metadata, "name": other})


def _answer(metadata: Mapping[str, Any], detail: int, value: str) -> str:
    """Returns the user's answer to a question, in the wording of the example."""
    answer = _GOALS[metadata["goal"]][detail].answer.format(value)
    return _FRAMES[metadata["frames"][detail]].format(answer=answer, other=metadata["others"][detail])


def _complaint(example: Example, wrong: str) -> str:
    """Returns what a user says to a booking with a wrong value ("it": with none, but not all wishes)."""
    text = "that is not it" if wrong == "it" else f"not {wrong}"
    return f"\nUser: {_PERSONAS[example.metadata['persona']][4]} {text}.\nAgent:"


def _reply(example: Example, new: Sequence[int], told: Sequence[int], changes: bool, changed: bool) -> str:
    """Returns a user's answer to a question for new details, or, if there are none, for one that was told before.

    Args:
        example: The example.
        new: The details that the user tells now.
        told: The details that were asked for again.
        changes: True if the user changes the named detail now, where the example has a change.
        changed: True if it has been changed before a repetition.
    """
    metadata = example.metadata
    _, frame, already_told, not_understood, _ = _PERSONAS[metadata["persona"]]
    first, named = metadata["first"], metadata["named"]

    def current(detail: int) -> str:
        return str(first if first and detail == named and not changed else metadata["details"][detail])

    answers = [_answer(metadata, detail, current(detail)) for detail in new or told]
    if not answers:
        text = not_understood
    elif not new:
        text = f"{already_told} {answers[0]}"
    else:
        text = frame.format(answers[0]) if len(new) == 1 else " ".join(answers)
    if changes and first:
        text += _CHANGES[metadata["change"]].format(new=metadata["details"][named], old=first)
    return f"\nUser: {text}\nAgent:"


def _conversation(goal: str, details: Sequence[str], named: int) -> str:
    """Returns the turns of an agent that asks for the missing details and then books, a turn a line."""
    questions = [detail.question for index, detail in enumerate(_GOALS[goal]) if index != named]
    if text_key("|".join(details)) % 2:  # in either order, but the same order whenever the example is made
        questions.reverse()
    return " " + "\n ".join([*questions, f"I booked a {goal}: {', '.join(details)}."])
