"""Continue a review in the wanted polarity.

The splits differ by the reviewed thing together with the two sides of it that the review is about. The opening is
neutral; the prompt ends with the side that the response is to judge ("The staff").
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

from textenvs.tasks.base import Example
from textenvs.tasks.composed import Composed, Composition
from textenvs.tasks.dice import Dice, text_key

_SIDES: dict[str, tuple[str, ...]] = {
    "hotel": ("room", "bed", "breakfast", "staff", "view", "pool", "bath", "garden"),
    "restaurant": ("soup", "waiter", "table", "bread", "cake", "music", "menu", "kitchen"),
    "book": ("story", "ending", "cover", "hero", "first chapter", "language", "plot", "title"),
    "film": ("music", "ending", "actors", "story", "hero", "beginning", "plot", "picture"),
    "park": ("lake", "path", "playground", "cafe", "trees", "zoo", "bridge", "lawn"),
    "shop": ("staff", "prices", "window", "music", "door", "toys", "shelves", "counter"),
}
_PLURAL = frozenset(["actors", "trees", "prices", "toys", "shelves"])
_RELATIVES = (("mother", "father"), ("sister", "brother"), ("aunt", "uncle"), ("grandmother", "grandfather"))
_JUDGEMENTS = {
    "happy": (
        "wonderful", "lovely", "perfect", "very good", "a great joy", "really beautiful", "better than we had hoped",
        "excellent", "a nice surprise", "fantastic",
    ),
    "sad": (
        "terrible", "awful", "very bad", "a sad mess", "really ugly", "a big disappointment", "horrible", "boring",
        "worse than we had feared", "dreadful",
    ),
}  # fmt: skip
_CLOSINGS = {
    "happy": (
        " We were very happy with the {}.", " I love this {}.", " The {} made us smile.",
        " We would choose this {} again with pleasure.",
    ),
    "sad": (
        " We were very unhappy with the {}.", " I hate this {}.", " The {} made us cry.",
        " We regret that we paid for this {}.",
    ),
}  # fmt: skip


class Reviews(Composed):
    """Continue a review in the mood, happy or sad, that its first line asks for.

    The default score is `mood`: the mood of the words, in fluent English that does not repeat itself and takes up the
    reviewed thing.

    An example's metadata has `mood` ("happy" or "sad": a sentiment reward changes its sign for "sad"), `item`, `sides`,
    and `about`, a list of these. Its one reference is the demonstration. `counterpart` exchanges a relative for one of
    the other gender: an unbiased policy writes the same.

    Example:
        >>> Reviews().example("train", 0).metadata["mood"]
        'sad'
    """

    name = "sentiment"
    tests = "style: a wanted polarity on a given subject"
    levels = 1
    default_reward = "mood"
    held_out_reward: Any = "vader"
    kind_key = "mood"
    default_max_new_tokens = 48

    def compositions(self) -> Sequence[Composition]:
        """Returns things with two of their sides, in either order."""
        return [(item, *pair) for item, sides in _SIDES.items() for pair in permutations(sides, 2)]

    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """Draws a mood and a relative. The reviews of the shifted split have a third, neutral sentence."""
        item, first, second = composition
        mood = "happy" if dice.below(2) else "sad"
        relative = dice.pick(dice.pick(_RELATIVES))
        middle = f" The {first} {'were' if first in _PLURAL else 'was'} {dice.pick(('new', 'old', 'small', 'large'))}."
        more = f" {dice.pick(('It was a Monday', 'It was late', 'It was early', 'It was noon'))}." if shifted else ""
        prompt = (
            f"A {mood} review of a {item}.\nI went there with my {relative}.{more}{middle} The {second}"
            if item in ("hotel", "restaurant", "park", "shop")
            else f"A {mood} review of a {item}.\nI got it from my {relative}.{more}{middle} The {second}"
        )
        metadata = {"mood": mood, "item": item, "sides": [first, second], "relative": relative}
        metadata["about"] = [item, first, second]
        return Example(prompt, (_demonstration(prompt, mood, item, second),), metadata)

    def counterpart(self, example: Example) -> Example | None:
        """Returns the same review with a relative of the other gender."""
        relative = example.metadata["relative"]
        other = next(pair[1 - pair.index(relative)] for pair in _RELATIVES if relative in pair)
        prompt = example.prompt.replace(f"my {relative}.", f"my {other}.")
        return Example(prompt, example.references, {**example.metadata, "relative": other})


def _demonstration(prompt: str, mood: str, item: str, side: str) -> str:
    dice = Dice(text_key(prompt))
    first, second = dice.sample(_JUDGEMENTS[mood], 2)
    return f" {'were' if side in _PLURAL else 'was'} {first} and {second}.{dice.pick(_CLOSINGS[mood]).format(item)}"
