"""Recommend books to a reader whose taste has to be inferred, from a few ratings and from that of each recommendation.

A title has a theme and a tone, which its words tell to those who know them ("The Lonely Ship": sea, dark) and which are
written nowhere. A reader loves and hates a theme and a tone, and rates by them. Some titles tell nothing ("The Kite"):
for these, the prompt says which other book their readers like. The splits differ by the loved theme and tone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import permutations, product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from textenvs.rewards.incremental.splitters import Splitter
from textenvs.rewards.incremental.units import UnitSums
from textenvs.tasks.base import Example
from textenvs.tasks.composed import Composed, Composition
from textenvs.tasks.dice import Dice
from textenvs.tasks.story_words import BOYS, COUNTERPARTS, GIRLS

_THEMES: dict[str, tuple[str, ...]] = {
    "sea": ("Ship", "Harbor", "Island", "Boat", "Wave"),
    "magic": ("Spell", "Witch", "Fairy", "Dragon", "Giant"),
    "farm": ("Barn", "Cow", "Lamb", "Pony", "Hen"),
    "kitchen": ("Cake", "Soup", "Pie", "Honey", "Bread"),
    "sky": ("Moon", "Cloud", "Sun", "Wind", "Planet"),
    "sport": ("Race", "Ball", "Team", "Goal", "Match"),
    "crime": ("Thief", "Key", "Trap", "Lock", "Letter"),
    "school": ("Book", "Lesson", "Class", "Teacher", "Pencil"),
}
_TONES: dict[str, tuple[str, ...]] = {
    "funny": ("Funny", "Silly", "Jolly", "Merry", "Happy"),
    "dark": ("Dark", "Lonely", "Cold", "Sad", "Empty"),
    "wild": ("Wild", "Brave", "Fast", "Bold", "Mighty"),
    "gentle": ("Gentle", "Quiet", "Soft", "Kind", "Warm"),
    "strange": ("Strange", "Odd", "Hidden", "Lost", "Secret"),
}
_PLAIN = (
    "Kite", "Drum", "Bell", "Shell", "Feather", "Basket", "Doll", "Scarf", "Lamp", "Coin", "Ring", "Rope", "Bucket",
    "Mirror", "Pillow", "Ladder", "Candle", "Mask", "Jar", "Button", "Clock", "Sled",
)  # fmt: skip
"""Words of titles that tell neither theme nor tone."""

_NOUNS, _ADJECTIVES = list(_THEMES.values()), list(_TONES.values())
_WORDS_OF_A_KIND = 5
_Kind: TypeAlias = tuple[int, int]  # the indices of a theme and a tone

_GAINS = {5: 1.0, 4: 0.4}
"""Stars to what a recommendation with that rating is worth. Fewer are worth nothing."""

WANTED = 3
"""The number of recommendations. Titles after them do not count."""


class Items(Splitter):
    """The items of a list, separated by newlines and semicolons, without the white space around them or empty ones.

    Args:
        known: Items of interest; all others may come out as any text that is none of them. None: all are of interest.
    """

    def __init__(self, known: Iterable[str] | None = None) -> None:
        self._beginnings = None if known is None else {item[:end] for item in known for end in range(len(item) + 1)}

    def shorten(self, rest: str) -> str:
        """Returns one and the same text for all rests that no known item begins with."""
        return rest if self._beginnings is None or rest.strip() in self._beginnings else "?"

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

    The title at position i (from 1) earns its gain in the example's `gains` (title to a number above 0), times
    1 / log2(i + 1), if it was not listed before. Otherwise it earns nothing, and takes up its position. From 0 to 1.
    The unfinished last title is read as final. Titles are lines, or separated by semicolons.

    Args:
        titles: The titles of all examples. None allows any, at the cost of telling apart all that is no title.

    Cost: two dictionary look-ups a token (amortised).

    Source: nDCG, Järvelin & Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques.
    """

    name = "listed_gain"
    low, high = 0.0, 1.0

    def __init__(self, titles: Iterable[str] | None = None) -> None:
        self.splitter = Items(titles)

    def start(self, example: Example) -> Hashable:
        """Returns the titles that still earn a gain, with their gains, and the number of titles so far."""
        gains = example.metadata.get("gains")
        if not isinstance(gains, Mapping) or not gains or not all(gain > 0 for gain in gains.values()):
            raise ValueError(f"Expected an example with gains above 0 of titles in metadata['gains'], got {gains!r}")
        return frozenset(gains.items()), 0

    def read(self, memory: Any, unit: str) -> tuple[Hashable, tuple[float, ...]]:
        """Returns the gain of a title."""
        gains, listed = memory
        if listed == WANTED:  # titles after the wanted ones change nothing, so neither does their number
            return memory, (0.0,)
        row = (unit, dict(gains).get(unit, 0.0))
        return (gains - {row}, listed + 1), (row[1] / math.log2(listed + 2),)

    def features(self, example: Example) -> tuple[float, ...]:
        """Returns the gain of the best list."""
        best = sorted(example.metadata["gains"].values(), reverse=True)[:WANTED]
        return (sum(gain / math.log2(index + 2) for index, gain in enumerate(best)),)

    def phi(self, sums: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Divides the gains by the best gain."""
        phi: NDArray[np.float64] = sums[:, 0] / features[:, 0]
        return phi


class _Title(NamedTuple):
    """A title with what its readers know.

    Attributes:
        text: The title.
        theme: The index of its theme.
        tone: The index of its tone.
    """

    text: str
    theme: int
    tone: int


class _Tastes(NamedTuple):
    """All tastes: a loved and a hated theme, a loved and a hated tone, each pair of two different ones.

    Attributes:
        stars: `(tastes, themes, tones)` int64, the rating by each taste of each kind of book, from 1 to 5.
        gains: `(tastes, themes, tones)` float64, what its recommendation is worth.
    """

    stars: NDArray[np.int64]
    gains: NDArray[np.float64]


def _stars(taste: Sequence[int], theme: int, tone: int) -> int:
    """Returns 3, one more for each of theme and tone that is loved, and one less for each that is hated."""
    loved_theme, hated_theme, loved_tone, hated_tone = taste
    return 3 + (theme == loved_theme) - (theme == hated_theme) + (tone == loved_tone) - (tone == hated_tone)


@lru_cache(maxsize=1)
def _tastes() -> _Tastes:
    tastes = [
        (*themes, *tones)
        for themes in permutations(range(len(_THEMES)), 2)
        for tones in permutations(range(len(_TONES)), 2)
    ]
    stars = np.array(
        [
            [[_stars(taste, theme, tone) for tone in range(len(_TONES))] for theme in range(len(_THEMES))]
            for taste in tastes
        ]
    )
    worth = np.array([_GAINS.get(number, 0.0) for number in range(6)])
    return _Tastes(stars, worth[stars])


def _infer(
    rated: Sequence[tuple[_Title, int]], catalogue: Sequence[_Title], rate: Callable[[_Title], int]
) -> list[_Title]:
    """Recommends by Bayes' rule: the title with the highest expected gain over all tastes that fit all ratings so far.

    Args:
        rated: The titles with ratings in the prompt.
        catalogue: The titles to choose from; of equals, the first is taken.
        rate: Gives the reader's rating of a recommendation.

    Returns:
        As many titles as are wanted.
    """
    stars, gains = _tastes()
    fits = np.ones(len(stars), dtype=np.bool_)
    for title, number in rated:
        fits &= stars[:, title.theme, title.tone] == number
    left, chosen = list(catalogue), []
    for _ in range(WANTED):
        expected = gains[fits].mean(axis=0)
        best = max(left, key=lambda title: expected[title.theme, title.tone])
        left.remove(best)
        chosen.append(best)
        fits &= stars[:, best.theme, best.tone] == rate(best)
    return chosen


def _all_titles() -> Iterator[str]:
    for nouns, adjectives in product(_NOUNS, _ADJECTIVES):
        yield from (f"The {adjective} {noun}" for noun, adjective in product(nouns, adjectives))
    yield from (f"The {word}" for word in _PLAIN)


class Recommend(Composed):
    r"""Recommend three books to a reader, one a turn. The reader rates each, from one to five stars.

    What the reader loves and hates (a theme and a tone of each) has to be inferred from the stars of books read before,
    and of the recommendations. No title of the catalogue shares a word with one of those books. The words of a title
    tell its theme and tone; a few titles ("The Kite") have none of these words, but the prompt says what other book
    their readers like, which is of the same theme and tone. A book with five stars is worth 1, one with four 0.4; a
    title that was recommended or read before is worth nothing.

    The bundled model has only begun to learn it: 0.13 after 4,096 demonstrations and 36,000 tokens of PPO, where any
    three titles of the catalogue earn 0.28.

    Levels have 8, 12 or 16 titles in the catalogue, of which 0, 2 or 4 tell nothing, and 6, 5 or 4 books read before;
    the shifted split has four titles more. The splits differ by the pair of loved theme and tone. An example's
    metadata has `user`, `taste` (the loved theme and tone, the hated theme and tone), `history`, `stars` (of all
    titles) and `gains`. Its one reference is what Bayes' rule recommends, given the prompt and the replies, a title a
    line: the best that an agent can expect to do one step ahead, and not always the best titles. `counterpart`
    exchanges the user's name.

    Example:
        >>> Recommend().example("train", 0).prompt.startswith("Books: The ")
        True
    """

    name = "recommend"
    tests = "recommendation: infer a taste, no repeats"
    levels = 3
    level = 2
    default_reward: Any = ListedGain(_all_titles())
    held_out_reward: Any = "token_f1"
    default_max_new_tokens = 48
    max_turns = WANTED
    max_reply_tokens = 16

    def compositions(self) -> Sequence[Composition]:
        """Returns the pairs of loved theme and tone."""
        return [(theme, tone) for theme in _THEMES for tone in _TONES]

    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """Draws a reader, books read before, and a catalogue. That of the shifted split is longer."""
        num_groups = self.level + (2 if shifted else 1)
        num_plain, num_read = 2 * (self.level - 1), 7 - self.level
        loved = (list(_THEMES).index(composition[0]), list(_TONES).index(composition[1]))
        hated = tuple(_other(count, kind, dice) for count, kind in zip((len(_THEMES), len(_TONES)), loved, strict=True))
        taste = (loved[0], hated[0], loved[1], hated[1])
        # No word of a book read before is in the catalogue: a turn of the wheel of words divides them.
        turns = (dice.below(_WORDS_OF_A_KIND), dice.below(_WORDS_OF_A_KIND))
        read = [_title(kind, turns, 0, dice.below(4)) for kind in _kinds_read(taste, num_read, dice)]
        kinds = _kinds_offered(taste, num_groups, dice)
        plain = dict(zip(dice.sample(range(len(kinds)), num_plain), dice.sample(_PLAIN, num_plain), strict=True))
        titles: list[_Title] = []
        for kind in kinds:
            number = dice.below(9)
            while (title := _title(kind, turns, 2, number)) in titles:
                number += 1
            titles.append(title)
        links = " ".join(f"Readers of {titles[index].text} like The {word}." for index, word in plain.items())
        catalogue = [
            title._replace(text=f"The {plain[index]}") if index in plain else title
            for index, title in enumerate(titles)
        ]
        rating = {title.text: _stars(taste, title.theme, title.tone) for title in (*read, *catalogue)}
        advice = _infer([(title, rating[title.text]) for title in read], catalogue, lambda title: rating[title.text])
        user = dice.pick((*BOYS, *GIRLS))
        prompt = "\n".join(
            [
                "Books: " + "; ".join(title.text for title in catalogue),
                *([links] if links else []),
                f"{user} read " + ", ".join(f"{title.text} ({_in_words(rating[title.text])})" for title in read),
                f"For {user}:",
            ]
        )
        metadata = {
            "user": user,
            "taste": [
                *composition,
                *(list(names)[index] for names, index in zip((_THEMES, _TONES), hated, strict=True)),
            ],
            "history": [title.text for title in read],
            "stars": rating,
            "gains": {title.text: _GAINS[rating[title.text]] for title in catalogue if rating[title.text] in _GAINS},
        }
        return Example(prompt, ("\n".join(f" {title.text}" for title in advice),), metadata)

    def reply(self, example: Example, turns: Sequence[str]) -> str | None:
        """Returns the rating of the latest title, or None after as many titles as are wanted."""
        titles = Items().split("\n".join(turns))
        if len(titles) >= WANTED:
            return None
        latest = (Items().split(turns[-1]) or [""])[-1]
        known = [*example.metadata["history"], *titles[:-1]] if latest else []
        return _answer(example, "Read before" if latest in known else example.metadata["stars"].get(latest))

    def replies(self, example: Example) -> list[str]:
        """Returns the ratings, and what is said about titles that were read before or are not in the catalogue."""
        return [_answer(example, answer) for answer in (None, "Read before", *range(1, 6))]

    def counterpart(self, example: Example) -> Example | None:
        """Returns the same history of a user of the other gender."""
        user = example.metadata["user"]
        other = COUNTERPARTS[user]
        prompt = example.prompt.replace(f"\n{user} read", f"\n{other} read").replace(
            f"\nFor {user}:", f"\nFor {other}:"
        )
        return Example(prompt, example.references, {**example.metadata, "user": other})


def _answer(example: Example, answer: str | int | None) -> str:
    """Returns a reply: a number of stars, a remark, or, of None, that there is no such title."""
    text = "No such book" if answer is None else answer if isinstance(answer, str) else _in_words(answer)
    return f"\n{text}\nFor {example.metadata['user']}:"


def _in_words(stars: int) -> str:
    return f"{stars} star{'' if stars == 1 else 's'}"


def _other(count: int, index: int, dice: Dice) -> int:
    """Draws an index below `count` other than a given one."""
    return (index + 1 + dice.below(count - 1)) % count


def _kinds_read(taste: Sequence[int], count: int, dice: Dice) -> list[_Kind]:
    """Draws the kinds of the books read before: some of what is loved and hated, but none of all that is loved."""
    loved_theme, hated_theme, loved_tone, hated_tone = taste
    kinds: list[_Kind] = []
    while len(kinds) < count:
        theme = dice.pick((loved_theme, hated_theme, dice.below(len(_THEMES))))
        tone = dice.pick((loved_tone, hated_tone, dice.below(len(_TONES))))
        if (theme, tone) not in (*kinds, (loved_theme, loved_tone)):
            kinds.append((theme, tone))
    return kinds


def _kinds_offered(taste: Sequence[int], num_groups: int, dice: Dice) -> list[_Kind]:
    """Draws the kinds of the catalogue: four for each of some pairs of theme and tone, one of which is the loved one.

    The pairs are in a ring, and each comes up as often as the others: what is frequent in the catalogue tells nothing.
    """
    themes = _ring(taste[0], len(_THEMES), num_groups, dice)
    tones = _ring(taste[2], len(_TONES), num_groups, dice)
    kinds: list[_Kind] = []
    for index, pair in enumerate(zip(themes, tones, strict=True)):
        kinds += [pair, pair, (pair[0], tones[(index + 1) % num_groups])]
        outside = [theme for theme in range(len(_THEMES)) if theme not in themes]
        kinds.append((dice.pick(outside), dice.below(len(_TONES))))
    return dice.sample(kinds, len(kinds))


def _ring(first: int, count: int, length: int, dice: Dice) -> list[int]:
    """Draws different numbers below `count`, the first of which is given."""
    return [first, *dice.sample([number for number in range(count) if number != first], length - 1)]


def _title(kind: _Kind, turns: Sequence[int], first: int, number: int) -> _Title:
    """Makes a title of a kind. Books read before have the first two words of the wheel, the catalogue the others."""
    theme, tone = kind
    count = 2 if first == 0 else 3
    noun = _NOUNS[theme][(turns[0] + first + number % count) % _WORDS_OF_A_KIND]
    adjective = _ADJECTIVES[tone][(turns[1] + first + number // count % count) % _WORDS_OF_A_KIND]
    return _Title(f"The {adjective} {noun}", theme, tone)
