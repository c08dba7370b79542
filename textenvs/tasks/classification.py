"""Classify a text by its topic: the response is the label.

A text has sentences of its topic, and at higher levels some of another one. The splits differ by the two things that
come together in a text. With `read_cost`, a text begins with a sentence of each of two topics and goes on sentence by
sentence: the agent says "more", at a cost, or decides on a label.
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
_OTHERS = (0, 1, 3)  # of another topic, by level
_OTHERS_READ = (1, 2, 3)  # the same, with a cost of reading: there is always another topic, to be in doubt about


class Classify(Composed):
    r"""Name the topic of a text: food, music, sport, travel or weather. Levels 2 and 3 mix another topic in.

    An example's metadata has `label`, `sentences`, `shown` (the number of sentences in the prompt) and `name`. Its one
    reference is the label, with a leading space. `action_mask="task"` allows only the labels. `counterpart` exchanges
    the person's name for one of the other gender.

    Args:
        level: The difficulty, from 1 to 3: more sentences of another topic. None is 2.
        read_cost: The cost of one more sentence, from 0; None shows the text at once. The agent begins with two
            sentences, one of which is of the topic, and says " more" or a label.
        train: The number of examples of the train split.
        validation: The number of examples of the validation split.
        test: The number of examples of the test split.
        shifted: The number of examples of the shifted split, which has longer texts.

    Raises:
        ValueError: If a number is out of range.
        TypeError: If a number is not one.

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
        """Returns topics with two of their things; with a cost of reading, pairs of things of two topics."""
        if self.read_cost is None:
            return [(topic, *pair) for topic, (things, _) in _TOPICS.items() for pair in combinations(things, 2)]
        topic_things = [(topic, thing) for topic, (things, _) in _TOPICS.items() for thing in things]
        return [(*first, *second) for first in topic_things for second in topic_things if first[0] < second[0]]

    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """Writes a text about the things of a composition. A shifted one has twice as many sentences."""
        factor = 2 if shifted else 1
        name = dice.pick((*BOYS, *GIRLS))
        if self.read_cost is None:
            topic, *things = composition
            other = dice.pick([label for label in LABELS if label != topic])
            other_things = dice.sample(_TOPICS[other][0], 2)
        else:
            sides = (composition[:2], composition[2:])  # either may be the topic: the prompt does not tell
            (topic, thing), (other, other_thing) = sides if dice.below(2) else sides[::-1]
            things = [thing, dice.pick([second for second in _TOPICS[topic][0] if second != thing])]
            other_things = [other_thing, dice.pick([second for second in _TOPICS[other][0] if second != other_thing])]
        of_topic = _sentences(topic, things, factor * _SENTENCES[self.level - 1], name, dice)
        of_other = _sentences(other, other_things, factor * self._others[self.level - 1], name, dice)
        first: list[str] = []
        if self.read_cost is not None:  # one of each, and two of each in the shifted split
            first = dice.sample([*of_topic[:factor], *of_other[:factor]], 2 * factor)
            of_topic, of_other = of_topic[factor:], of_other[factor:]
        sentences = [*first, *dice.sample([*of_topic, *of_other], len(of_topic) + len(of_other))]
        prompt_sentences, question = (sentences, "Topic:") if self.read_cost is None else (first, "Topic or more:")
        prompt = f"Topics: {', '.join(LABELS)}\nText: {' '.join(prompt_sentences)}\n{question}"
        metadata = {"label": topic, "sentences": sentences, "shown": len(prompt_sentences), "name": name}
        return Example(prompt, (f" {topic}",), metadata)

    def allowed(self, example: Example, turns: Sequence[str]) -> Sequence[str] | None:
        """Returns the labels, and " more" if there is more to read."""
        labels = [f" {label}" for label in LABELS]
        sentences = example.metadata["sentences"]
        if self.read_cost is not None and len(turns) + example.metadata["shown"] < len(sentences):
            labels.append(" more")
        return labels

    def reply(self, example: Example, turns: Sequence[str]) -> str | None:
        """Returns the next sentence if the agent asks for it and there is one."""
        sentences = example.metadata["sentences"]
        read = example.metadata["shown"] + len(turns) - 1
        if self.read_cost is None or turns[-1].strip() != "more" or read >= len(sentences):
            return None
        return _read_more(sentences[read])

    def replies(self, example: Example) -> list[str]:
        """Returns the sentences that are not in the prompt."""
        return [_read_more(sentence) for sentence in example.metadata["sentences"][example.metadata["shown"] :]]

    def counterpart(self, example: Example) -> Example | None:
        """Returns the same text about a person of the other gender; None if the prompt names no person."""
        name = example.metadata["name"]
        if name not in example.prompt:
            return None
        other = COUNTERPARTS[name]
        sentences = [sentence.replace(name, other) for sentence in example.metadata["sentences"]]
        metadata = {**example.metadata, "name": other, "sentences": sentences}
        return Example(example.prompt.replace(name, other), example.references, metadata)


def _read_more(sentence: str) -> str:
    return f"\n{sentence}\nTopic or more:"


def _sentences(topic: str, things: Sequence[str], count: int, name: str, dice: Dice) -> list[str]:
    """Writes sentences of a topic: first one about each of some things, as far as the count goes, and then others."""
    templates = _TOPICS[topic][1]
    first = [(dice.pick(templates), thing) for thing in things][:count]
    others = [(template, thing) for thing in things for template in templates if (template, thing) not in first]
    rest = dice.sample(others, max(count - len(first), 0))
    return [template.replace("{N}", name).replace("{t}", thing) for template, thing in [*first, *rest]]
