"""Answer a question about a few facts: the answer is a span of the text.

The facts are about some people: their things, with colours and numbers, and where they are. The splits differ by the
(person, thing) pairs of the questions. The other people have things of the same kinds, so that no answer can be guessed
from the question alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from textenvs.tasks.base import Example
from textenvs.tasks.composed import Composed, Composition
from textenvs.tasks.dice import Dice
from textenvs.tasks.story_words import BOYS, COUNTERPARTS, GIRLS, OBJECTS, PLACES

_PEOPLE = (*BOYS[:12], *GIRLS[:12])
_THINGS = tuple(thing for thing in OBJECTS if thing not in ("bike", "plane", "train", "truck"))
_COLORS = ("red", "blue", "green", "yellow", "white", "brown", "black", "pink")
_WHERE = tuple(f"{preposition} {place}" for preposition, place in PLACES if preposition.endswith("the"))
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class _Person:
    """The facts about one person. No two people share any of them."""

    name: str
    thing: str
    color: str
    number: str
    where: str


def _plural(thing: str) -> str:
    return thing + "es" if thing.endswith(("x", "s", "ch", "sh")) else thing + "s"


class QuestionAnswering(Composed):
    r"""Answer a question with a span of the facts. Levels: 1 one fact each of three people, 2 two facts, 3 two steps.

    At level 3 the question names a person by a fact ("the one by the river"), so that the answer takes two facts.

    The bundled model hardly learns it: 0.20 after supervised training on 256 demonstrations, and 0.31 after 120,000
    tokens of PPO more, in the mean of three seeds (`benchmarks/results/warm_start.md`). Each fact and question has one
    wording, so a program that reads them needs a pattern for each kind of question, and no more.

    An example's metadata has `question` (its kind), `name` and `thing`. Its one reference is the answer, with a leading
    space. `counterpart` exchanges the person of the question for one of the other gender.

    Example:
        >>> task = QuestionAnswering()
        >>> task.example("train", 0).prompt.endswith("\nAnswer:")
        True
    """

    name = "question_answering"
    tests = "reading: find the span that answers"
    levels = 3
    level = 2
    default_reward: Any = "rouge_l"
    held_out_reward: Any = "exact_match"
    default_max_new_tokens = 16

    def compositions(self) -> Sequence[Composition]:
        """Returns the pairs of person and thing."""
        return [(name, thing) for name in _PEOPLE for thing in _THINGS]

    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """Draws the facts and the kind of question. The shifted split has twice as many people."""
        name, thing = composition
        others = 5 if shifted else 2
        columns = (
            [name, *dice.sample([other for other in _PEOPLE if other != name], others)],
            [thing, *dice.sample([other for other in _THINGS if other != thing], others)],
            *(dice.sample(options, others + 1) for options in (_COLORS, _NUMBERS, _WHERE)),
        )
        people = [_Person(*row) for row in zip(*columns, strict=True)]
        asked = people[0]
        if self.level == 1:
            kind = dice.pick(("who", "what", "color"))
        elif self.level == 2:
            kind = dice.pick(("who", "color", "number", "where"))
        else:
            kind = dice.pick(("thing there", "number there", "where thing"))
        facts = [fact for person in people for fact in self._facts(person, kind)]
        text = " ".join(dice.sample(facts, len(facts)))
        question, answer = _question(kind, asked)
        prompt = f"{text}\nQuestion: {question}\nAnswer:"
        return Example(prompt, (f" {answer}",), {"question": kind, "name": name, "thing": thing})

    def _facts(self, person: _Person, kind: str) -> list[str]:
        name, thing = person.name, person.thing
        if kind in ("number", "number there"):
            owns = f"{name} has {person.number} {_plural(thing)}."
        else:
            owns = f"{name} has a {person.color} {thing}."
        return [owns] if self.level == 1 else [owns, f"{name} is {person.where}."]

    def counterpart(self, example: Example) -> Example | None:
        """Returns the same facts and question with the person's name and its counterpart exchanged."""
        name = example.metadata["name"]
        other = COUNTERPARTS[name]
        swap = {name: other, other: name}

        def swapped(text: str) -> str:
            # By way of marks, so that a name that was put in is not exchanged back.
            for mark, old in enumerate(swap):
                text = text.replace(old, f"\0{mark}\0")
            for mark, new in enumerate(swap.values()):
                text = text.replace(f"\0{mark}\0", new)
            return text

        references = tuple(swapped(reference) for reference in example.references)
        return Example(swapped(example.prompt), references, {**example.metadata, "name": other})


def _question(kind: str, asked: _Person) -> tuple[str, str]:
    """Returns the question of a kind about a person, and its answer."""
    name, thing = asked.name, asked.thing
    return {
        "who": (f"Who has the {thing}?", name),
        "what": (f"What does {name} have?", f"a {asked.color} {thing}"),
        "color": (f"What color is the {thing} of {name}?", asked.color),
        "number": (f"How many {_plural(thing)} does {name} have?", asked.number),
        "where": (f"Where is {name}?", asked.where),
        "thing there": (f"What does the one {asked.where} have?", f"a {asked.color} {thing}"),
        "number there": (f"How many {_plural(thing)} does the one {asked.where} have?", asked.number),
        "where thing": (f"Where is the {thing}?", asked.where),
    }[kind]
