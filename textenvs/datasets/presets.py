"""Six public data sets as tasks: their files, the text of a prompt, the references and the default reward.

    task = textenvs.load_dataset("path/to/gsm8k", preset="gsm8k")

A preset reads a folder with the files that the data set's authors publish. Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from textenvs.datasets.fields import Row, text_of, texts_of
from textenvs.rewards.base import Reward
from textenvs.tasks.base import Example

Adapt = Callable[[Row, str], Row]
"""Makes the columns that a preset names. Takes a row and its location; raises ValueError if a column is missing."""


class FinalNumber(Reward):
    """Scores 1 if the last number of the response is the example's `metadata["final"]`, else 0.

    Commas between digits are ignored, and so is a full stop behind the number. The response is read again at each
    token.
    """

    name = "final_number"
    low, high = 0.0, 1.0

    def score(self, example: Example, response: str) -> float:
        """Returns 1.0 or 0.0. ValueError if the example's metadata has no number."""
        final = example.metadata.get("final")
        if not isinstance(final, str):
            raise ValueError(f"Expected an example with metadata['final'], a number as a string, got {final!r}")
        numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", response)
        return float(bool(numbers) and _parse_number(numbers[-1]) == _parse_number(final))


def _parse_number(text: str) -> float:
    return float(text.replace(",", ""))


@dataclass(frozen=True)
class Source:
    """One file of a preset.

    Attributes:
        file: The name of the file in the folder.
        split: The split of all rows. If None, a hash of the prompt divides them.
        adapt: Makes the columns that the preset's template, references and metadata name. If None, the rows have them.
    """

    file: str
    split: str | None = None
    adapt: Adapt | None = None


@dataclass(frozen=True)
class Preset:
    """The files and settings of a public data set.

    Attributes:
        sources: The files.
        settings: Arguments of `Dataset`, used where the user gives none.
    """

    sources: tuple[Source, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def _gsm8k(row: Row, location: str) -> Row:
    answer = text_of(row, "answer", location, numbers=False)
    # An answer is worked out in prose, and its last line is "#### 1,234".
    final = re.search(r"####\s*(-?[\d,]+(?:\.\d+)?)\s*$", answer)
    if final is None:
        raise ValueError(f"Expected field 'answer' of {location} to end with '#### number', got {answer[-80:]!r}")
    return {**row, "final": final[1].replace(",", "")}


def _commongen(row: Row, location: str) -> Row:
    concepts = text_of(row, "concept_set", location, numbers=False)
    # "ski_V#mountain_N": each concept with its part of speech, which the training file does not have.
    return {"concepts": " ".join(part.rsplit("_", 1)[0] for part in concepts.split("#")),
            "sentence": texts_of(row, "scene", location)}  # fmt: skip


_SPEAKER = re.compile(r"^[*\s\[]*(User [12])[\]:*]*")  # some of the conversations are in Markdown


def _persona_chat(row: Row, location: str) -> Row:
    """Cuts a conversation at a turn of user 2 in its middle. That turn is the reference."""
    text = text_of(row, "Best Generated Conversation", location, numbers=False)
    lines = [_SPEAKER.sub(r"\1:", line) for line in text.splitlines() if line.strip()]
    # A turn with nothing before it is no reply.
    turns = [index for index, line in enumerate(lines) if line.startswith("User 2:") and index]
    if not turns:
        raise ValueError(f"Expected a turn of 'User 2:' in the conversation of {location}, got {lines[:3]}")
    middle = turns[len(turns) // 2]
    return {
        "persona": text_of(row, "user 2 personas", location, numbers=False),
        "conversation": "\n".join(lines[:middle]),
        "reply": lines[middle].removeprefix("User 2:"),
    }


_PROMPT_WORDS = 6


def _polarity(label: str) -> Adapt:
    """Makes an adapter for the reviews of one label: the first words are the prompt, the rest is the reference."""

    def adapt(row: Row, location: str) -> Row:
        words = text_of(row, "text", location, numbers=False).split()
        # A short review is divided in the middle, so that something is left to write.
        cut = _PROMPT_WORDS if len(words) > _PROMPT_WORDS else len(words) // 2
        rest = " ".join(["", *words[cut:]])  # begins with a space, like a response to the prompt
        mood = "happy" if label == "positive" else "sad"
        return {"text": " ".join(words[:cut]), "rest": rest, "label": label, "mood": mood}

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
