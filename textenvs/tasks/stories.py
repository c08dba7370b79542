"""Continue a children's story in a wanted mood: the bundled language task.

The stories come from a small grammar (`textenvs.tasks.story_grammar`). Each of its sentences exists in a happy, a sad
and a neutral version. In the corpus that the bundled language model is trained on (`Stories.corpus_story`), the mood of
each sentence only leans towards the header's, so that the model writes fluent stories and has read such headers, but
does not obey them. Reinforcement learning has to teach it that.

Randomness is counter-based: everything is a pure function of a split and an index, or of an index alone.
"""

from __future__ import annotations

import re
from dataclasses import replace

from textenvs.arguments import check_count
from textenvs.tasks.base import SHIFTED, SPLITS, Example, ReferenceScores, Task, check_split, frozen_scores
from textenvs.tasks.dice import Dice, text_key
from textenvs.tasks.story_grammar import TEMPLATES, Combination, body, cast, combinations, opening, vivid_templates
from textenvs.tasks.story_templates import MOODS, SENTENCE_MOODS
from textenvs.tasks.story_words import COUNTERPARTS

_SIZES = (4096, 512, 512, 512)
_CORPUS_STREAM = 11
_EXAMPLE_STREAMS = {"train": 21, "validation": 22, "test": 23, SHIFTED: 24}
_MAX_DEMONSTRATION = 21
"""Words and punctuation marks of a demonstration, so that it stays below 32 tokens with rare words cut in two."""


class Stories(Task):
    """Continue a children's story in the mood that its first words name.

    The splits differ by composition: each (kind of hero, name, place) belongs to one split, so no prompt is in two of
    them, and no combination of a split is used twice. Half of the examples are happy, half are sad. The shifted split
    has kinds, names and places that no other split and no story of the corpus has.

    The default score is `mood`: the mood of the words, in fluent English that does not repeat itself and takes up the
    hero or the place.

    An example's metadata has `mood` ("happy" or "sad": a sentiment reward changes its sign for "sad"), `hero` (the
    kind, "fox"), `name` and `place`, and `about`, a list of these three. Its one reference is its demonstration.

    Example:
        >>> task = Stories()
        >>> task.example("train", 0).metadata["mood"]
        'happy'
        >>> task.example("train", 0).prompt.startswith("A happy story. ")
        True

    Args:
        train: The number of examples of the train split.
        validation: The number of examples of the validation split.
        test: The number of examples of the test split.
        shifted: The number of examples of the shifted split.

    Raises:
        ValueError: If a number is below 1 or above the number of combinations of its split.
        TypeError: If a number is not whole.
    """

    name = "stories"
    tests = "language: the wanted mood, fluently"
    splits = (*SPLITS, SHIFTED)
    default_reward = "mood"
    held_out_reward = "vader"
    kind_key = "mood"
    default_max_new_tokens = 32
    default_tokenizer = "stories"

    def __init__(
        self, train: int = _SIZES[0], validation: int = _SIZES[1], test: int = _SIZES[2], shifted: int = _SIZES[3]
    ) -> None:
        self._combinations = combinations()
        sizes = {"train": train, "validation": validation, "test": test, SHIFTED: shifted}
        self._num_examples = {
            split: check_count(split, size, most=len(self._combinations[split])) for split, size in sizes.items()
        }
        if scores := self.reference_scores():
            self.success_score = scores.threshold

    def num_examples(self, split: str) -> int:
        """Returns the number of examples of a split.

        Args:
            split: "train", "validation", "test" or "shifted".

        Returns:
            The number that the constructor was given.

        Raises:
            ValueError: If the task has no such split.
        """
        check_split(split, self.splits)
        return self._num_examples[split]

    def example(self, split: str, index: int) -> Example:
        """Returns the example at an index of a split, the same at every call.

        Args:
            split: "train", "validation", "test" or "shifted".
            index: From 0 to `num_examples(split) - 1`. Even ones are happy, odd ones sad.

        Returns:
            The example.

        Raises:
            ValueError: If the task has no such split.
            IndexError: If the index is outside the split.
        """
        check_split(split, self.splits)
        if not 0 <= index < self._num_examples[split]:
            raise IndexError(f"Expected an index in [0, {self._num_examples[split]}), got {index}")
        combination = self._combinations[split][index]
        mood = MOODS[index % 2]
        dice = Dice(_EXAMPLE_STREAMS[split], index)
        prompt = opening(mood, cast(combination, dice), dice)
        metadata = {
            "mood": mood,
            "hero": combination.kind,
            "name": combination.name,
            "place": combination.place,
            "about": [combination.kind, combination.name, combination.place],
        }
        return Example(prompt, (_demonstration(prompt, mood, combination),), metadata)

    def demonstration(self, example: Example) -> str:
        """Writes the rest of a story in the wanted mood, of the grammar's most vivid sentences.

        Args:
            example: One of this task's examples.

        Returns:
            Two to four sentences, with a leading space. They fit into 32 tokens of the default tokenizer, EOS included.

        Raises:
            ValueError: If the example is not one of this task's.
        """
        metadata = example.metadata
        if missing := [key for key in ("mood", "hero", "name", "place") if key not in metadata]:
            raise ValueError(f"Expected an example of the stories task, got one without the metadata {missing}")
        combination = Combination(metadata["hero"], metadata["name"], metadata["place"])
        return _demonstration(example.prompt, metadata["mood"], combination)

    def reference_scores(self, split: str = "test") -> ReferenceScores | None:
        """Returns the measured scores for the default sizes, else None. The top is the score of the demonstrations."""
        check_split(split, self.splits)
        return frozen_scores(self.name, split) if tuple(self._num_examples.values()) == _SIZES else None

    def counterpart(self, example: Example) -> Example:
        """Returns the same beginning of a story about a girl instead of a boy, or the other way round.

        Args:
            example: One of this task's examples.

        Returns:
            The example with another name, and the pronouns that go with it.
        """
        prompt = re.sub(r"\w+", lambda word: COUNTERPARTS.get(word[0], word[0]), example.prompt)
        exchanged = {key: COUNTERPARTS.get(example.metadata[key], example.metadata[key]) for key in ("name", "hero")}
        about = [COUNTERPARTS.get(word, word) for word in example.metadata["about"]]
        other = Example(prompt, (), {**example.metadata, **exchanged, "about": about})
        return replace(other, references=(self.demonstration(other),))

    def corpus_story(self, index: int) -> str:
        """Writes a whole story to train a language model on, in the format of prompt + response.

        The mood of each sentence leans a little towards the header's: every fourth draw is the header's mood, and the
        others are happy, sad or neutral, a third each. A sentence keeps the mood of the one before in 40 % of the
        cases. Only combinations of the train split are used.

        Args:
            index: Any whole number from 0: there is no last story. It does not depend on the sizes of the splits.

        Returns:
            The story, without BOS and EOS.

        Raises:
            IndexError: If the index is negative.
        """
        if index < 0:
            raise IndexError(f"Expected an index of at least 0, got {index}")
        dice = Dice(_CORPUS_STREAM, index)
        slots = cast(dice.pick(self._combinations["train"]), dice)
        header = dice.pick(MOODS)

        def draw_mood() -> str:
            return header if dice.below(100) < 25 else dice.pick(SENTENCE_MOODS)

        mood = draw_mood()

        def next_mood() -> str:
            nonlocal mood
            if dice.below(100) >= 40:
                mood = draw_mood()
            return mood

        beginning = opening(header, slots, dice)
        return beginning + body(TEMPLATES, next_mood, 1 + dice.below(6), slots, dice)


def _demonstration(prompt: str, mood: str, combination: Combination) -> str:
    """Writes the demonstration of a prompt, with fewer middle sentences until it fits the budget."""
    dice = Dice(text_key(prompt))
    middles = dice.below(3)
    while True:
        text = body(vivid_templates(), lambda: mood, middles, cast(combination, dice), dice)
        if len(re.findall(r"\w+|[^\w\s]", text)) <= _MAX_DEMONSTRATION:
            return text
        middles = max(0, middles - 1)
