"""Recommend titles that a user will like, given the user's history in text: none twice, and none from the history."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards.incremental.splitters import Splitter
from textenvs.rewards.incremental.units import UnitSums
from textenvs.tasks.base import Example
from textenvs.tasks.composed import Composed, Composition
from textenvs.tasks.dice import Dice
from textenvs.tasks.story_words import BOYS, COUNTERPARTS, GIRLS

_GENRES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "adventure": (("Lost", "Hidden", "Last", "Secret"), ("River", "Island", "Map", "Desert", "Ship")),
    "comedy": (("Funny", "Silly", "Jolly", "Crazy"), ("Uncle", "Wedding", "Chicken", "Hat", "Neighbor")),
    "mystery": (("Dark", "Silent", "Strange", "Empty"), ("House", "Letter", "Tower", "Garden", "Guest")),
    "fantasy": (("Golden", "Magic", "Flying", "Ancient"), ("Dragon", "Crown", "Wizard", "Forest", "Sword")),
}
_TITLES = {
    genre: tuple(f"The {adjective} {noun}" for adjective in adjectives for noun in nouns)
    for genre, (adjectives, nouns) in _GENRES.items()
}
WANTED = 3
"""The number of titles to list. Titles after them do not count."""


class Items(Splitter):
    """The items of a list, separated by newlines and semicolons, without the white space around them or empty ones."""

    def cut(self, text: str) -> tuple[list[str], str]:
        """Cuts a text into items, the last of which may still go on."""
        *items, rest = text.replace("\n", ";").split(";")
        return [item.strip() for item in items if item.strip()], rest

    def finish(self, rest: str) -> list[str]:
        """Returns the last item, if it is not empty."""
        return [rest.strip()] if rest.strip() else []

    def closes(self, character: str) -> bool:
        """Returns True for newlines and semicolons."""
        return character in "\n;"


class ListedGain(UnitSums):
    """The quality of a list of recommendations: the discounted gain of its first three titles over the best gain.

    The title at position i (from 1) earns 1 / log2(i + 1) if it is one of the example's `relevant` titles and was not
    listed before. Otherwise it earns nothing, and takes up its position. From 0 to 1. The unfinished last title is read
    as final.

    Cost: two dictionary look-ups a token (amortised).

    Source: nDCG, Järvelin & Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques.
    """

    name = "listed_gain"
    low, high = 0.0, 1.0
    splitter = Items()

    def start(self, example: Example) -> Hashable:
        """Returns the titles that still earn a gain, and the number of titles so far."""
        relevant = example.metadata.get("relevant")
        if not isinstance(relevant, (list, tuple)) or not relevant:
            raise ValueError(f"Expected an example with titles in metadata['relevant'], got {relevant!r}")
        return frozenset(relevant), 0

    def read(self, memory: Any, unit: str) -> tuple[Hashable, tuple[float, ...]]:
        """Returns the gain of a title."""
        relevant, listed = memory
        if listed == WANTED:  # titles after the wanted ones change nothing, so neither does their number
            return memory, (0.0,)
        gain = 1 / math.log2(listed + 2) if unit in relevant else 0.0
        return (relevant - {unit}, listed + 1), (gain,)

    def features(self, example: Example) -> tuple[float, ...]:
        """Returns the gain of the best list."""
        length = min(len(example.metadata["relevant"]), WANTED)
        return (sum(1 / math.log2(index + 2) for index in range(length)),)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Divides the gains by the best gain."""
        phi: NDArray[np.float64] = sums[:, 0] / features[:, 0]
        return phi


class Recommend(Composed):
    """List three titles that a user will like: of the genre that the user liked before, and new to the user.

    Levels have 8, 12 or 16 titles in the catalogue, the shifted split half as many again. The splits differ by the two
    titles that the user liked. An example's metadata has `genre`, `history` and `relevant`. Its one reference is a list
    of relevant titles in the order of the catalogue, separated by semicolons. `counterpart` exchanges the user's name.

    Example:
        >>> Recommend().example("train", 0).prompt.startswith("Books: The ")
        True
    """

    name = "recommend"
    tests = "recommendation: infer a taste, no repeats"
    levels = 3
    level = 2
    default_reward: Any = ListedGain()
    held_out_reward: Any = "token_f1"
    default_max_new_tokens = 48
    _CATALOGUE = (8, 12, 16)

    def compositions(self) -> Sequence[Composition]:
        """Returns genres with two of their titles."""
        return [
            (genre, first, second)
            for genre, titles in _TITLES.items()
            for first in titles
            for second in titles
            if first < second
        ]

    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """Draws a user, a disliked title and a catalogue. That of the shifted split is longer."""
        genre, *liked = composition
        size = self._CATALOGUE[self.level - 1] * (3 if shifted else 2) // 2
        others = [other for other in _GENRES if other != genre]
        disliked_genre = dice.pick(others)
        (disliked,) = dice.sample(_TITLES[disliked_genre], 1)
        relevant = dice.sample([title for title in _TITLES[genre] if title not in liked], WANTED)
        candidates = [(title, other) for other in others for title in _TITLES[other] if title != disliked]
        fillers = dice.sample(candidates, size - WANTED - 1)
        catalogue = [*((title, genre) for title in (*relevant, liked[0])), *fillers]  # liked[0] is known already
        catalogue = dice.sample(catalogue, len(catalogue))
        user = dice.pick((*BOYS, *GIRLS))
        order = [title for title, _ in catalogue if title in relevant]
        prompt = "\n".join(
            [
                "Books: " + "; ".join(f"{title} ({of_genre})" for title, of_genre in catalogue),
                f"{user} liked {liked[0]} ({genre}) and {liked[1]} ({genre}), not {disliked} ({disliked_genre}).",
                f"Three that are new for {user}:",
            ]
        )
        metadata = {"genre": genre, "history": [*liked, disliked], "relevant": order, "user": user}
        return Example(prompt, (" " + "; ".join(order),), metadata)

    def counterpart(self, example: Example) -> Example | None:
        """Returns the same history of a user of the other gender."""
        user = example.metadata["user"]
        other = COUNTERPARTS[user]
        prompt = example.prompt.replace(f"\n{user} liked", f"\n{other} liked").replace(f" {user}:", f" {other}:")
        return Example(prompt, example.references, {**example.metadata, "user": other})
