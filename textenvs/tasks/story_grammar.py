"""The grammar of the stories: who is in a story, and how its templates are written out.

A story is a header that names a mood ("A happy story."), an opening that introduces a hero and a place, and then a
handful of sentences: a start, some middles and an end. `textenvs.tasks.story_templates` has the sentences, and
`textenvs.tasks.story_words` the words that fill their slots.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from textenvs.example import Example
from textenvs.rewards.sentiment import Sentiment
from textenvs.tasks.base import SHIFTED, SPLITS
from textenvs.tasks.dice import Dice, text_key
from textenvs.tasks.story_templates import ANY, END, MIDDLE, MOODS, OPENINGS, START, TIMES
from textenvs.tasks.story_words import (
    ANIMALS,
    BOYS,
    FAMILY,
    FOODS,
    GIRLS,
    GOALS,
    OBJECT_ADJECTIVES,
    OBJECTS,
    PLACES,
    SHIFTED_ANIMALS,
    SHIFTED_BOYS,
    SHIFTED_GIRLS,
    SHIFTED_PLACES,
)

Part: TypeAlias = "str | tuple[str] | list[list[Part]]"
"""A part of a compiled template: text as str, a slot as (name,), a choice as a list of compiled templates."""

Choice: TypeAlias = "list[list[Part]]"
"""Compiled templates, one of which is picked."""


def _compile(template: str) -> list[Part]:
    parts: list[Part] = []
    for piece in re.split(r"(\[[^\]]*\]|\{\w+\})", template):
        if piece.startswith("["):
            parts.append([_compile(option) for option in piece[1:-1].split("|")])
        elif piece.startswith("{"):
            parts.append((piece[1:-1],))
        elif piece:
            parts.append(piece)
    return parts


def fill(parts: Sequence[Part], slots: Mapping[str, str], dice: Dice) -> str:
    """Writes out a compiled template.

    Args:
        parts: The compiled template.
        slots: Slot's name to its text.
        dice: Picks from the choices.

    Returns:
        The text.
    """
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
        elif isinstance(part, tuple):
            text += slots[part[0]]
        else:
            text += fill(dice.pick(part), slots, dice)
    return text


def _compile_moods(table: Mapping[str, tuple[str, ...]]) -> dict[str, Choice]:
    return {mood: [_compile(template) for template in templates] for mood, templates in table.items()}


@dataclass(frozen=True, slots=True)
class Templates:
    """The compiled sentences of a body.

    Attributes:
        start: The first sentences, by plot and mood.
        middle: The middle sentences, by plot and mood.
        end: The last sentences, by mood.
    """

    start: Mapping[str, Mapping[str, Choice]]
    middle: Mapping[str, Mapping[str, Choice]]
    end: Mapping[str, Choice]


_PLOTS = tuple(START)
_OPENINGS = [_compile(template) for template in OPENINGS]
_ANY = _compile_moods(ANY)
TEMPLATES = Templates(
    start={plot: _compile_moods(table) for plot, table in START.items()},
    middle={
        plot: {mood: templates + _ANY[mood] for mood, templates in _compile_moods(table).items()}
        for plot, table in MIDDLE.items()
    },
    end=_compile_moods(END),
)
"""All sentences."""


@lru_cache(maxsize=1)
def vivid_templates() -> Templates:
    """Returns the third of each list of sentences that has most of its mood, for demonstrations.

    A demonstration marks the top of the task's scale, so it should be what people want. A random happy or sad sentence
    of the corpus is often only just happy or sad.
    """
    slots = cast(Combination("fox", "Tim", "hill"), Dice(0))  # any cast: no word that fills a slot has a mood
    sentiment = Sentiment(min_words=1)

    def third(templates: Choice, mood: str) -> Choice:
        wanted = Example("", metadata={"mood": mood})

        def strength(template: list[Part]) -> float:
            dice = Dice(0)
            return math.fsum(sentiment.score(wanted, fill(template, slots, dice)) for _ in range(16))

        return sorted(templates, key=strength, reverse=True)[: max(2, round(len(templates) / 3))]

    def thirds(table: Mapping[str, Choice]) -> dict[str, Choice]:
        return {mood: third(table[mood], mood) for mood in MOODS}

    return Templates(
        start={plot: thirds(table) for plot, table in TEMPLATES.start.items()},
        middle={plot: thirds(table) for plot, table in TEMPLATES.middle.items()},
        end=thirds(TEMPLATES.end),
    )


def _with_article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


@dataclass(frozen=True, slots=True)
class Combination:
    """The hero and the place of a story, by which the splits differ.

    Attributes:
        kind: The kind of hero: "fox".
        name: The hero's name.
        place: The noun of the place: "river".
    """

    kind: str
    name: str
    place: str

    def key(self) -> int:
        """Returns 64 bits that depend on the words alone, the same in every process."""
        return text_key(f"{self.kind}|{self.name}|{self.place}")


_IN_PLACE = {noun: f"{preposition} {noun}" for preposition, noun in (*PLACES, *SHIFTED_PLACES)}


@lru_cache(maxsize=1)
def combinations() -> dict[str, tuple[Combination, ...]]:
    """Returns the combinations of each split, in the order of their keys: 80, 10 and 10 % of all, by their keys."""
    divided: dict[str, list[Combination]] = {split: [] for split in SPLITS}
    for key, combination in _with_keys(ANIMALS, BOYS, GIRLS, PLACES):
        tenth = key % 10
        divided["validation" if tenth == 8 else "test" if tenth == 9 else "train"].append(combination)
    shifted = _with_keys(SHIFTED_ANIMALS, SHIFTED_BOYS, SHIFTED_GIRLS, SHIFTED_PLACES)
    divided[SHIFTED] = [combination for _, combination in shifted]
    return {split: tuple(of_split) for split, of_split in divided.items()}


def _with_keys(
    animals: Sequence[str], boys: Sequence[str], girls: Sequence[str], places: Sequence[tuple[str, str]]
) -> list[tuple[int, Combination]]:
    """Returns every combination of some words with its key, in the order of the keys."""
    heroes = [(kind, name) for kind in animals for name in (*boys, *girls)]
    heroes += [("boy", name) for name in boys] + [("girl", name) for name in girls]
    every = [Combination(kind, name, place) for kind, name in heroes for _, place in places]
    return sorted((combination.key(), combination) for combination in every)


def cast(combination: Combination, dice: Dice) -> dict[str, str]:
    """Draws the texts that fill the slots of one story.

    Args:
        combination: The hero and the place.
        dice: Draws everything else.

    Returns:
        Slot's name to its text.
    """
    is_boy = combination.name in BOYS or combination.name in SHIFTED_BOYS
    friend = dice.pick(ANIMALS)
    while friend == combination.kind:  # "a fox met a fox" reads as if it were the hero
        friend = dice.pick(ANIMALS)
    thing = dice.pick(OBJECTS)
    adjective_and_thing = f"{dice.pick(OBJECT_ADJECTIVES)} {thing}"
    a_thing, a_friend = _with_article(adjective_and_thing), _with_article(friend)
    goal = dice.pick(GOALS)
    while goal == combination.place:
        goal = dice.pick(GOALS)
    return {
        "N": combination.name,
        "k": combination.kind,
        "a_k": _with_article(combination.kind),
        "p": combination.place,
        "in_place": _IN_PLACE[combination.place],
        "he": "he" if is_boy else "she",
        "He": "He" if is_boy else "She",
        "his": "his" if is_boy else "her",
        "His": "His" if is_boy else "Her",
        "him": "him" if is_boy else "her",
        "f": friend,
        "af": a_friend,
        "Af": a_friend.capitalize(),
        "o": thing,
        "ao": adjective_and_thing,
        "a": a_thing,
        "A": a_thing.capitalize(),
        "w": dice.pick(FAMILY),
        "e": dice.pick(FOODS),
        "g": goal,
    }


def opening(mood: str, slots: Mapping[str, str], dice: Dice) -> str:
    """Writes the header, the opening and the words that begin the first sentence of the body ("One day,")."""
    return f"A {mood} story. {fill(dice.pick(_OPENINGS), slots, dice)} {dice.pick(TIMES)}"


def body(templates: Templates, next_mood: Callable[[], str], middles: int, slots: Mapping[str, str], dice: Dice) -> str:
    """Writes a start, some middles and an end.

    Args:
        templates: The sentences.
        next_mood: Gives the mood of each sentence, one after another.
        middles: The number of middle sentences. None comes twice.
        slots: Slot's name to its text.
        dice: Picks plot, sentences and choices.

    Returns:
        The text, with a leading space.
    """
    plot = dice.pick(_PLOTS)
    text = " " + fill(dice.pick(templates.start[plot][next_mood()]), slots, dice)
    used: list[list[Part]] = []
    for _ in range(middles):
        options = templates.middle[plot][next_mood()]
        template = dice.pick(options)
        while any(template is earlier for earlier in used):  # by identity, which is faster than part by part
            template = dice.pick(options)
        used.append(template)
        text += " " + fill(template, slots, dice)
    return text + " " + fill(dice.pick(templates.end[next_mood()]), slots, dice)
