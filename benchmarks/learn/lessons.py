"""Lessons for a language model of somebody else's, on real text: short enough for a laptop.

    sentiment   go on with a film review so that it sounds happy, whatever it began like
    commongen   write a sentence that has all of the given words
    brief       the same in a form: one short sentence between quotation marks, and nothing behind it

Each has a held-out metric that shares no lexicon and no model with its score. The data are files that the authors of
the data sets publish: the folders `sentence_polarity` and `commongen`.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textenvs import Example, Reward, Task, load_dataset, make_task
from textenvs.rewards import make_reward

PROMPTS = {"train": 2000, "validation": 100, "test": 100}
"""The most examples of each split: a run of 20,000 tokens plays some hundreds."""

PROMPT_WORDS = 6
"""The words of a review that are its prompt; of a shorter one, half."""

QUOTED = r' ?"[A-Za-z][A-Za-z0-9,\' -]*\."'
BRIEF = (4, 10)
"""The form that `brief` asks for, and its words."""


@dataclass(frozen=True)
class Lesson:
    """One task with its score and the metric beside it.

    Attributes:
        name: The name on the command line.
        about: What is to be learned.
        task: The prompts.
        reward: The score, as `gym.make` takes it.
        held_out: The metric that is not trained on.
    """

    name: str
    about: str
    task: Task
    reward: Any
    held_out: Reward

    def env_kwargs(self, payout: str, max_new_tokens: int) -> dict[str, Any]:
        """Returns the arguments of `gym.make("TextGen-v0")`. A line's end is the end of a response."""
        return {
            "task": self.task,
            "reward": self.reward,
            "payout": payout,
            "max_new_tokens": max_new_tokens,
            "stop": "\n",
        }

    def demonstrated(self) -> list[tuple[Example, str]]:
        """Returns the test examples that have a demonstration, each with it.

        Where an example has further references, they alone stay with it: a text is not compared with itself.
        """
        examples = [self.task.example("test", index) for index in range(self.task.num_examples("test"))]
        return [
            (Example(example.prompt, example.references[1:] or example.references, example.metadata), first)
            for example in examples
            if example.references and example.metadata.get("label") != "negative"
            for first in example.references[:1]
        ]


class ReviewBayes(Reward):
    """The probability that a text is from a positive review, by naive Bayes over words, from -1 to 1.

    Args:
        reviews: Texts, each with True if it is positive.

    Source: Wang & Manning (2012), Baselines and bigrams: simple, good sentiment and topic classification, section 2.1.
    """

    name = "review_bayes"
    low, high = -1.0, 1.0

    def __init__(self, reviews: Iterable[tuple[str, bool]]) -> None:
        counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        for text, positive in reviews:
            counts[positive].update(set(_words(text)))
        totals = {label: sum(words.values()) + len(words) for label, words in counts.items()}
        self._weights = {
            word: math.log((counts[True][word] + 1) / totals[True])
            - math.log((counts[False][word] + 1) / totals[False])
            for word in counts[True].keys() | counts[False].keys()
        }

    def score(self, example: Example, response: str) -> float:
        """Returns twice the probability, less 1."""
        evidence = sum(self._weights.get(word, 0.0) for word in set(_words(response)))
        return math.tanh(evidence / 2)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def make_lesson(name: str, data: Path) -> Lesson:
    """Makes a lesson.

    Args:
        name: "sentiment", "commongen" or "brief".
        data: The folder with the folders of the data sets.

    Returns:
        The lesson.

    Raises:
        ValueError: If there is no such lesson, or its data are not there.
    """
    if name not in LESSONS:
        raise ValueError(f"Expected a lesson from {sorted(LESSONS)}, got {name!r}")
    return LESSONS[name](data)


def _sentiment(data: Path) -> Lesson:
    pairs = []
    for name, label in (("pos", "positive"), ("neg", "negative")):
        source = load_dataset(data / "sentence_polarity" / f"{name}.txt", split="train")
        for index in range(source.num_examples("train")):
            words = source.example("train", index).prompt.split()
            cut = PROMPT_WORDS if len(words) > PROMPT_WORDS else len(words) // 2
            pairs.append({"text": " ".join(words[:cut]), "rest": " ".join(["", *words[cut:]]), "label": label})
    # The label is not in the prompt: a review of either kind is to end happily.
    whole = load_dataset(pairs, prompt="text", references="rest", metadata=("label",))
    train = [whole.example("train", index) for index in range(whole.num_examples("train"))]
    reviews = [(example.prompt + example.references[0], example.metadata["label"] == "positive") for example in train]
    rows = {
        split: [
            {"text": example.prompt, "rest": example.references[0], "label": example.metadata["label"]}
            for example in _some(whole, split)
        ]
        for split in PROMPTS
    }
    task = load_dataset(rows, prompt="text", references="rest", metadata=("label",))
    return Lesson("sentiment", "film reviews that end happily", task, "sentiment", ReviewBayes(reviews))


def _commongen(data: Path) -> Lesson:
    rows = _concept_rows(data)
    task = load_dataset(rows, template="Words: {concepts}\nSentence:", references="sentences", metadata=("keywords",))
    reward = {"keywords": {"inflections": True}}
    return Lesson("commongen", "a sentence with all of the words", task, reward, make_reward("chrf"))


def _brief(data: Path) -> Lesson:
    rows = _concept_rows(data)
    for split in rows.values():
        for row in split:
            row["sentences"] = [f' "{sentence.strip()}"' for sentence in row["sentences"]]
    task = load_dataset(
        rows,
        template="Words: {concepts}\nOne short sentence in quotation marks:",
        references="sentences",
        metadata=("keywords",),
    )
    reward = 0.5 * make_reward({"regex": {"pattern": QUOTED}}) + 0.5 * make_reward({"length": {"target": BRIEF}})
    held_out = make_reward({"keywords": {"inflections": True}})
    return Lesson("brief", "one short sentence between quotation marks", task, reward, held_out)


def _concept_rows(data: Path) -> dict[str, list[dict[str, Any]]]:
    whole = make_task({"commongen": {"data": str(data / "commongen")}})
    rows: dict[str, list[dict[str, Any]]] = {}
    for split in PROMPTS:
        rows[split] = []
        for example in _some(whole, split):
            concepts = example.prompt.split("\n")[0].removeprefix("Words: ")
            sentences = [f" {sentence.strip()}" for sentence in example.references]
            rows[split].append({"concepts": concepts, "keywords": concepts.split(), "sentences": sentences})
    return rows


def _some(task: Task, split: str) -> list[Example]:
    """Returns as many examples of a split as `PROMPTS` says, drawn once and for all."""
    count = task.num_examples(split)
    chosen = random.Random(0).sample(range(count), min(PROMPTS[split], count))
    return [task.example(split, index) for index in chosen]


LESSONS = {"sentiment": _sentiment, "commongen": _commongen, "brief": _brief}
"""Name to the function that makes the lesson from the folder of data."""
