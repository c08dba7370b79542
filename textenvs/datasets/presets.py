"""Six public data sets as tasks: which files they come in, what a prompt and a reference are, and the default reward.

    task = textenvs.load_dataset("path/to/gsm8k", preset="gsm8k")

A preset reads a folder with the data set's own files, as its authors publish them; nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from textenvs.datasets.readers import Row, text_of, texts_of
from textenvs.rewards.base import Reward
from textenvs.tasks.base import Example

Adapt = Callable[[Row, str], Row]
"""Makes columns out of columns. Takes a row and where it is, and raises ValueError where one is missing."""


class FinalNumber(Reward):
    """1 if the last number of the response is the number that the example's metadata calls `final`, else 0.

    Commas between digits do not count, nor does a point that ends a sentence. The response is read again at each token.
    """

    name = "final_number"
    low, high = 0.0, 1.0

    def score(self, example: Example, response: str) -> float:
        """See `Reward.score`."""
        wanted = example.metadata.get("final")
        if not isinstance(wanted, str):
            raise ValueError(f"Expected an example with metadata['final'], a number as a string, got {wanted!r}")
        found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", response)
        return float(bool(found) and _number(found[-1]) == _number(wanted))


def _number(text: str) -> float:
    return float(text.replace(",", ""))


@dataclass(frozen=True)
class Source:
    """One file of a preset.

    Attributes:
        file: Its name in the folder.
        split: The split that its rows are of; None: a hash of the prompt says.
        adapt: Makes the columns that the preset's template and references name.
    """

    file: str
    split: str | None = None
    adapt: Adapt | None = None


@dataclass(frozen=True)
class Preset:
    """What `Dataset` needs to know of a data set.

    Attributes:
        sources: Its files.
        settings: Arguments of `Dataset`, where the user gives none.
    """

    sources: tuple[Source, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def _gsm8k(row: Row, where: str) -> Row:
    answer = text_of(row, "answer", where, numbers=False)
    found = re.search(r"####\s*(-?[\d,]+(?:\.\d+)?)\s*$", answer)
    if found is None:
        raise ValueError(f"Expected field 'answer' of {where} to end with '#### number', got {answer[-80:]!r}")
    return {**row, "final": found[1].replace(",", "")}


def _commongen(row: Row, where: str) -> Row:
    concepts = text_of(row, "concept_set", where, numbers=False)
    return {"concepts": " ".join(part.rsplit("_", 1)[0] for part in concepts.split("#")),
            "sentence": texts_of(row, "scene", where)}  # fmt: skip


_SPEAKER = re.compile(r"^[*\s\[]*(User [12])[\]:*]*")  # some of the conversations are written in Markdown


def _persona_chat(row: Row, where: str) -> Row:
    """The conversation up to a turn of user 2 in its middle, which is the reference."""
    text = text_of(row, "Best Generated Conversation", where, numbers=False)
    lines = [_SPEAKER.sub(r"\1:", line) for line in text.splitlines() if line.strip()]
    turns = [place for place, line in enumerate(lines) if line.startswith("User 2:") and place]
    if not turns:
        raise ValueError(f"Expected a turn of 'User 2:' in the conversation of {where}, got {lines[:3]}")
    cut = turns[len(turns) // 2]
    return {
        "persona": text_of(row, "user 2 personas", where, numbers=False),
        "conversation": "\n".join(lines[:cut]),
        "reply": lines[cut].removeprefix("User 2:"),
    }


_BEGINNING = 6  # words of a review


def _polarity(label: str) -> Adapt:
    def adapt(row: Row, where: str) -> Row:
        words = text_of(row, "text", where, numbers=False).split()
        rest = " ".join(["", *words[_BEGINNING:]])
        mood = "happy" if label == "positive" else "sad"
        return {"text": " ".join(words[:_BEGINNING]), "rest": rest, "label": label, "mood": mood}

    return adapt


PRESETS: dict[str, Preset] = {
    "gsm8k": Preset(
        (Source("train.jsonl", "train", _gsm8k), Source("test.jsonl", "test", _gsm8k)),
        {
            "template": "Question: {question}\nAnswer:",
            "references": "answer",
            "metadata": ("final",),
            "reward": FinalNumber(),
            "max_new_tokens": 256,
        },
    ),
    "scitldr": Preset(
        (Source("train.jsonl", "train"), Source("dev.jsonl", "validation"), Source("test.jsonl", "test")),
        {
            "template": "Abstract: {source}\nSummary:",
            "references": "target",
            "reward": "rouge_l",
            "held_out_reward": "chrf",
            "max_new_tokens": 64,
        },
    ),
    "commongen": Preset(
        (
            Source("train.tsv", "train"),
            Source("dev.jsonl", "validation", _commongen),
            Source("test.jsonl", "test", _commongen),
        ),
        {
            "template": "Words: {concepts}\nSentence:",
            "references": "sentence",
            "reward": "rouge_l",
            "held_out_reward": "chrf",
            "max_new_tokens": 48,
        },
    ),
    "persona_chat": Preset(
        (Source("valid.csv", None, _persona_chat),),
        {
            "template": "I am user 2. {persona}\n\n{conversation}\nUser 2:",
            "references": "reply",
            "reward": "token_f1",
            "held_out_reward": "chrf",
            "max_new_tokens": 48,
        },
    ),
    "sentence_polarity": Preset(
        (Source("pos.txt", None, _polarity("positive")), Source("neg.txt", None, _polarity("negative"))),
        {
            "references": "rest",
            "metadata": ("label", "mood"),
            "reward": "sentiment",
            "held_out_reward": "vader",
            "max_new_tokens": 32,
        },
    ),
    "tinystories": Preset(
        (Source("stories.jsonl"),),
        {"prompt_tokens": 16, "reward": "sentiment", "held_out_reward": "vader", "max_new_tokens": 64},
    ),
}
"""Name to preset."""
