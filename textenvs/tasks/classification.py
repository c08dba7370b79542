"""Say what a text is about: the label is the response.

A text has sentences of its topic, and at higher levels some of another one. The splits differ by which two things come
together. With `read_cost`, a text begins with a sentence of each of two topics and goes on sentence by sentence: the
agent says "more", at a price, or commits itself to a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from textenvs.rewards.last_turn import LastTurn
from textenvs.tasks.base import Example
from textenvs.tasks.composed import Composed, Composition
from textenvs.tasks.dice import Dice
from textenvs.tasks.story_words import BOYS, COUNTERPARTS, GIRLS

_TOPICS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "food": (
        ("soup", "bread", "cheese", "rice", "cake", "salad", "pie", "apples"),
        ("{N} cooked the {t} for an hour.", "The {t} tasted of salt.", "{N} cut the {t} with a knife.",
         "The {t} was still warm.", "{N} ate the {t} for lunch."),
    ),
    "music": (
        ("drum", "flute", "song", "violin", "choir", "piano", "trumpet", "guitar"),
        ("{N} practised the {t} all week.", "The {t} was too loud.", "{N} could hear the {t} next door.",
         "The {t} opened the concert.", "{N} learned the {t} by heart."),
    ),
    "sport": (
        ("goal", "race", "match", "team", "ball", "coach", "runner", "swimmer"),
        ("{N} cheered for the {t}.", "The {t} decided the game.", "{N} trained for the {t}.",
         "The {t} came first.", "{N} talked about the {t} after the game."),
    ),
    "travel": (
        ("train", "hotel", "ticket", "airport", "suitcase", "map", "ship", "passport"),
        ("{N} waited for the {t}.", "The {t} was far away.", "{N} paid for the {t}.",
         "The {t} was lost on the way.", "{N} looked for the {t} in the city."),
    ),
    "weather": (
        ("rain", "snow", "wind", "storm", "fog", "sun", "cloud", "thunder"),
        ("{N} watched the {t} from the window.", "The {t} came in the night.", "{N} did not expect the {t}.",
         "The {t} lasted for days.", "{N} ran home before the {t}."),
    ),
}  # fmt: skip

LABELS = tuple(_TOPICS)
"""The topics."""

_SENTENCES = (2, 3, 4)  # of the topic, by level
_OTHERS = (0, 1, 3)  # of another one
_OTHERS_READ = (1, 2, 3)  # the same, where reading costs: there is always something to be in doubt about


class Classify(Composed):
    r"""Name the topic of a text: food, music, sport, travel or weather. Levels 2 and 3 mix another topic in.

    An example's metadata has `label`, `sentences`, `shown` (how many the prompt has) and `name`. Its one reference is
    the label, with a leading space.
    `action_mask="task"` allows the labels alone. `counterpart` exchanges the person's name for one of the other gender.

    Args:
        level: How much of another topic is mixed in, from 1 to 3; None is 2.
        read_cost: What it costs to read one more sentence, from 0; None shows the text at once. The agent begins with
            two sentences, of which one belongs to the topic, and says " more" or a label.
        train: How many examples the train split has.
        validation: How many the validation split has.
        test: How many the test split has.
        shifted: How many the shifted split has: longer texts.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> Classify().example("train", 0).prompt.endswith("\nTopic:")
        True
    """

    name = "classify"
    tests = "classification: a label as text"
    levels = 3
    level = 2
    default_reward: Any = "exact_match"
    held_out_reward: Any = "token_f1"
    default_max_new_tokens = 8

    def __init__(
        self,
        level: int | None = None,
        read_cost: float | None = None,
        train: int = 4096,
        validation: int = 512,
        test: int = 512,
        shifted: int = 512,
    ) -> None:
        self.read_cost = read_cost
        super().__init__(level, train, validation, test, shifted)
        self._others = _OTHERS if read_cost is None else _OTHERS_READ
        self._is_standard = self._is_standard and read_cost is None
        if read_cost is not None:
            self.default_reward = LastTurn("exact_match", read_cost)
            self.held_out_reward = LastTurn("exact_match")
            self.max_turns = 2 * (_SENTENCES[self.level - 1] + _OTHERS_READ[self.level - 1]) - 1
            self.max_reply_tokens = 32
            self.default_max_new_tokens = 8 * self.max_turns

    def compositions(self) -> Sequence[Composition]:
        """A topic and two of its things; where reading costs, one of its things and one of another topic."""
        if self.read_cost is None:
            return [(topic, *pair) for topic, (things, _) in _TOPICS.items() for pair in combinations(things, 2)]
        owned = [(topic, thing) for topic, (things, _) in _TOPICS.items() for thing in things]
        return [(*one, *two) for one in owned for two in owned if one[0] < two[0]]

    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """See `Composed.compose`."""
        factor = 2 if shifted else 1
        name = dice.pick((*BOYS, *GIRLS))
        if self.read_cost is None:
            topic, *things = composition
            other = dice.pick([one for one in LABELS if one != topic])
            few = dice.sample(_TOPICS[other][0], 2)
        else:
            sides = (composition[:2], composition[2:])  # either may be the topic: the prompt does not tell
            (topic, thing), (other, few_thing) = sides if dice.below(2) else sides[::-1]
            things = [thing, dice.pick([one for one in _TOPICS[topic][0] if one != thing])]
            few = [few_thing, dice.pick([one for one in _TOPICS[other][0] if one != few_thing])]
        own = _sentences(topic, things, factor * _SENTENCES[self.level - 1], name, dice)
        mixed_in = _sentences(other, few, factor * self._others[self.level - 1], name, dice)
        first: list[str] = []
        if self.read_cost is not None:  # one of each, and two of each in the shifted split
            first = dice.sample([*own[:factor], *mixed_in[:factor]], 2 * factor)
            own, mixed_in = own[factor:], mixed_in[factor:]
        sentences = [*first, *dice.sample([*own, *mixed_in], len(own) + len(mixed_in))]
        shown, question = (sentences, "Topic:") if self.read_cost is None else (first, "Topic or more:")
        prompt = f"Topics: {', '.join(LABELS)}\nText: {' '.join(shown)}\n{question}"
        return Example(
            prompt, (f" {topic}",), {"label": topic, "sentences": sentences, "shown": len(shown), "name": name}
        )

    def allowed(self, example: Example, turns: Sequence[str]) -> Sequence[str] | None:
        """The labels, and " more" where there is more to read."""
        labels = [f" {label}" for label in LABELS]
        sentences = example.metadata["sentences"]
        if self.read_cost is not None and len(turns) + example.metadata["shown"] < len(sentences):
            labels.append(" more")
        return labels

    def reply(self, example: Example, turns: Sequence[str]) -> str | None:
        """The next sentence, where the agent asked for it and there is one."""
        sentences = example.metadata["sentences"]
        read = example.metadata["shown"] + len(turns) - 1
        if self.read_cost is None or turns[-1].strip() != "more" or read >= len(sentences):
            return None
        return _further(sentences[read])

    def replies(self, example: Example) -> list[str]:
        """See `Task.replies`."""
        return [_further(sentence) for sentence in example.metadata["sentences"][example.metadata["shown"] :]]

    def counterpart(self, example: Example) -> Example | None:
        """The same text about somebody of the other gender; None where what is shown names nobody."""
        name = example.metadata["name"]
        if name not in example.prompt:
            return None
        other = COUNTERPARTS[name]
        sentences = [sentence.replace(name, other) for sentence in example.metadata["sentences"]]
        metadata = {**example.metadata, "name": other, "sentences": sentences}
        return Example(example.prompt.replace(name, other), example.references, metadata)


def _further(sentence: str) -> str:
    return f"\n{sentence}\nTopic or more:"


def _sentences(topic: str, things: Sequence[str], count: int, name: str, dice: Dice) -> list[str]:
    """Sentences of a topic about some of its things, each of which comes first once, as far as the count goes."""
    templates = _TOPICS[topic][1]
    first = [(dice.pick(templates), thing) for thing in things][:count]
    left = [(template, thing) for thing in things for template in templates if (template, thing) not in first]
    rest = dice.sample(left, max(count - len(first), 0))
    return [template.replace("{N}", name).replace("{t}", thing) for template, thing in [*first, *rest]]
