"""Classify a text: of the topics that people speak about, name the one that one of them likes.

Each sentence says what somebody likes and does not like, or who agrees with whom. All topics of a text are liked by
somebody and disliked by somebody else, and are mentioned equally often: the words alone do not tell the label, and
neither does their order without who said what, and what was denied. With `read_cost`, a text goes on sentence by
sentence: the agent says "more", at a cost, or decides on a label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from textenvs.rewards.last_turn import LastTurn
from textenvs.tasks.base import Example
from textenvs.tasks.composed import Composed, Composition
from textenvs.tasks.dice import Dice
from textenvs.tasks.story_words import BOYS, COUNTERPARTS, GIRLS

_THINGS: dict[str, tuple[str, ...]] = {
    "food": ("soup", "bread", "cheese", "rice", "cake", "salad", "pie", "apple"),
    "music": ("drum", "flute", "song", "violin", "choir", "piano", "trumpet", "guitar"),
    "sport": ("goal", "race", "match", "team", "ball", "coach", "runner", "swimmer"),
    "travel": ("train", "hotel", "ticket", "airport", "suitcase", "map", "ship", "passport"),
    "weather": ("rain", "snow", "wind", "storm", "fog", "sun", "cloud", "thunder"),
}
LABELS = tuple(_THINGS)
"""The topics."""

_TOPIC_OF = {thing: topic for topic, things in _THINGS.items() for thing in things}

# What {N} likes is {y}, and what not is {x}. Each construction has either first, and the cue words before either.
_STATEMENTS: dict[str, tuple[str, ...]] = {
    "not": ("{N} wanted the {y}, not the {x}.", "Not the {x}, but the {y} was what {N} wanted.",
            "{N} did not want the {x}, but the {y}."),
    "it was": ("It was the {y} that {N} wanted, and not the {x}.", "It was not the {x} that {N} wanted, but the {y}."),
    "give up": ("{N} gave up the {x} for the {y}.", "For the {y}, {N} gave up the {x}.",
                "{N} would not give up the {y} for the {x}."),
    "compare": ("{N} liked the {y} more than the {x}.", "{N} liked the {x} less than the {y}.",
                "The {x} was worse than the {y}, said {N}.", "The {y} was better than the {x}, said {N}."),
    "happy": ("The {y} made {N} happy, and the {x} did not.", "The {x} did not make {N} happy, and the {y} did.",
              "{N} was happy with the {y}, and sad with the {x}.", "{N} was sad with the {x}, and happy with the {y}."),
    "without": ("{N} could be happy without the {x}, but not without the {y}.",
                "{N} could not be happy without the {y}, but without the {x}."),
    "first": ("At first {N} liked the {x}, but now only the {y}.", "{N} liked only the {y} now, but at first the {x}.",
              "{N} liked the {y} more and more, and the {x} no longer."),
    "people say": ("They said that {N} liked the {x}, but it was the {y}.",
                   "{N} liked the {y}, and not the {x}, as they said.",
                   "They said that {N} did not like the {y}, but it was the {x}."),
    "hate": ("{N} hated the {x} as much as {he} loved the {y}.", "{N} loved the {y} as much as {he} hated the {x}.",
             "Nobody could make {N} love the {x} or hate the {y}.",
             "Nobody could make {N} hate the {y} or love the {x}."),
    "take": ("{N} left the {x} and took the {y}.", "{N} took the {y} and left the {x}.",
             "{N} did not take the {x} and leave the {y}.", "{N} did not leave the {y} and take the {x}."),
}  # fmt: skip
_AGREE = (
    "{N} said the same as {M}.", "{N} thought that {M} was right.", "What {M} liked, {N} liked too.",
    "{N} liked nothing but what {M} liked.", "{N} was never of another mind than {M}.",
)  # fmt: skip
_DISAGREE = (
    "{N} did not say the same as {M}, but just the other way round.", "Of the two, {N} did not like what {M} liked.",
    "{N} liked what {M} did not like.", "{N} was never of the same mind as {M}.", "{N} thought that {M} was wrong.",
)  # fmt: skip

_Statement = Sequence[str]
"""A template, the person, and what the person likes and does not like; or, for an opinion about somebody, that person
and an empty text. Lists of JSON in an example's metadata."""


class Classify(Composed):
    r"""Name the topic that a person likes: food, music, sport, travel or weather.

    Three people each like one thing and not another; at levels 2 and 3 one or two more agree or disagree with one of
    the others. The person of the question may be any of them at level 2, and is one of those others at level 3. The
    shifted split has four topics and an opinion more. The splits differ by the two things and the construction
    ("gave up", "less than", "at first") of the statement that the label comes from.

    The bundled model has not learned it: 0.24 after 2,048 demonstrations and 12,000 tokens of PPO, which is no more
    than one label for all prompts earns.

    An example's metadata has `label`, `sentences`, `shown` (the number of sentences in the prompt), `name` (the person)
    and `statements`, of which the sentences were written. Its one reference is the label, with a leading space.
    `action_mask="task"` allows only the labels. `counterpart` exchanges the person for one of the other gender.

    Args:
        level: The difficulty, from 1 to 3: the number of people who agree or disagree. None is 2.
        read_cost: The cost of one more sentence, from 0; None shows the text at once. The agent begins with two
            sentences (shifted: three), and says " more" or a label.
        train: The number of examples of the train split.
        validation: The number of examples of the validation split.
        test: The number of examples of the test split.
        shifted: The number of examples of the shifted split, which has longer texts.

    Raises:
        ValueError: If a number is out of range.
        TypeError: If a number is not one.

    Example:
        >>> example = Classify().example("train", 0)
        >>> example.prompt.endswith(f"\nWhat {example.metadata['name']} likes:")
        True
    """

    name = "classify"
    tests = "classification: negation, contrast, and who said it"
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
        self._is_standard = self._is_standard and read_cost is None
        if read_cost is not None:
            self.default_reward = LastTurn("exact_match", read_cost)
            self.held_out_reward = LastTurn("exact_match")
            self.max_turns = 2 + self.level  # three sentences of a shifted text are in the prompt
            self.max_reply_tokens = 48
            self.default_max_new_tokens = 8 * self.max_turns

    def compositions(self) -> Sequence[Composition]:
        """Returns pairs of things of two topics with a construction. The dice say which of them is liked."""
        pairs = [pair for pair in combinations(_TOPIC_OF, 2) if _TOPIC_OF[pair[0]] != _TOPIC_OF[pair[1]]]
        return [(*pair, construction) for pair in pairs for construction in _STATEMENTS]

    def compose(self, composition: Composition, dice: Dice, shifted: bool) -> Example:
        """Draws people, topics and opinions. A shifted text has a person of each kind more."""
        first, second, construction = composition
        liked, disliked = (first, second) if dice.below(2) else (second, first)  # either: both are in one split
        direct, opinions = (4, self.level) if shifted else (3, self.level - 1)
        pairs = dice.sample(tuple(zip(BOYS, GIRLS, strict=True)), direct + opinions)
        people = [pair[dice.below(2)] for pair in pairs]
        others = [topic for topic in LABELS if topic not in (_TOPIC_OF[liked], _TOPIC_OF[disliked])]
        topics = [_TOPIC_OF[liked], _TOPIC_OF[disliked], *dice.sample(others, direct - 2)]
        statements: list[list[str]] = [[dice.pick(_STATEMENTS[construction]), people[0], liked, disliked]]
        for index in range(1, direct):  # in a ring: each topic is liked once and disliked once
            template = dice.pick(_STATEMENTS[dice.pick(tuple(_STATEMENTS))])
            things = [dice.pick(_THINGS[topics[(index + step) % direct]]) for step in (0, 1)]
            statements.append([template, people[index], *things])
        chain = [people[0]]  # of opinions that go back to the first statement
        about_first = self.level == 3 or dice.below(2)  # at level 2, the question is as often about the statement
        for index in range(opinions):
            about = chain[-1] if about_first else people[dice.below(direct)]
            person = people[direct + index]
            statements.append([dice.pick(dice.pick((_AGREE, _DISAGREE))), person, about, ""])
            chain += [person] if about_first else []
        asked = dice.pick(chain[1:]) if len(chain) > 1 else people[0]
        shown = len(statements) if self.read_cost is None else direct - 1
        return self._written(dice.sample(statements, len(statements)), asked, shown)

    def _written(self, statements: Sequence[_Statement], asked: str, shown: int) -> Example:
        """Writes the example of some statements and the person of the question, and shows the first statements."""
        sentences = [_sentence(statement) for statement in statements]
        text = f"Topics: {', '.join(LABELS)}\n{' '.join(sentences[:shown])}"
        label = _TOPIC_OF[_tastes(statements)[asked][0]]
        metadata = {"label": label, "sentences": sentences, "shown": shown, "name": asked, "statements": statements}
        return Example(text + self._question(asked), (f" {label}",), metadata)

    def _question(self, asked: str) -> str:
        return f"\nWhat {asked} likes{'' if self.read_cost is None else ', or more'}:"

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
        return self._read_more(example, sentences[read])

    def replies(self, example: Example) -> list[str]:
        """Returns the sentences that are not in the prompt."""
        return [
            self._read_more(example, sentence)
            for sentence in example.metadata["sentences"][example.metadata["shown"] :]
        ]

    def _read_more(self, example: Example, sentence: str) -> str:
        return f"\n{sentence}{self._question(example.metadata['name'])}"

    def counterpart(self, example: Example) -> Example | None:
        """Returns the same text and question with the person exchanged for one of the other gender."""
        name = example.metadata["name"]
        statements = [
            [COUNTERPARTS[name] if part == name else part for part in statement]
            for statement in example.metadata["statements"]
        ]
        return self._written(statements, COUNTERPARTS[name], example.metadata["shown"])


def _sentence(statement: _Statement) -> str:
    template, person, first, second = statement
    if not second:
        return template.format(N=person, M=first)
    return template.format(N=person, y=first, x=second, he="he" if person in BOYS else "she")


def _tastes(statements: Sequence[_Statement]) -> Mapping[str, tuple[str, str]]:
    """Returns what each person likes and does not like."""
    tastes = {person: (first, second) for _, person, first, second in statements if second}
    opinions = [statement for statement in statements if not statement[3]]
    while opinions:  # an opinion may stand before what it is about
        rest = [statement for statement in opinions if statement[2] not in tastes]
        for template, person, about, _ in opinions:
            if about in tastes:
                liked, disliked = tastes[about]
                tastes[person] = (liked, disliked) if template in _AGREE else (disliked, liked)
        opinions = rest
    return tastes
