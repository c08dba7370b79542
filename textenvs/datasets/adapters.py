"""Rows of public data sets in the columns of their presets, whoever published the file: the authors, or the hub."""

from __future__ import annotations

import re

from textenvs.datasets.fields import MISSING, ColumnError, Row, describe_fields, text_of, texts_of, value_of
from textenvs.datasets.reading import Adapt

PROMPT_WORDS = 6
"""The number of words of a review that its prompt keeps."""

STORY_WORDS = 12
"""The number of words of a story that its prompt keeps."""

CONTINUATION_WORDS = 25
"""About the number of words with which a story's prompt is continued: whole sentences up to it."""

_FINAL = re.compile(r"####\s*(-?[\d,]+(?:\.\d+)?)\s*$")
_SPEAKER = re.compile(r"^[*\s\[]*(User [12])[\]:*]*")  # some of the conversations are in Markdown
_SENTENCE_END = re.compile(r"[.!?][\"'”’]*$")


def _column(row: Row, names: tuple[str, ...], location: str) -> str:
    """Returns the first of some columns that a row has."""
    for name in names:
        if value_of(row, name) is not MISSING:
            return name
    raise ColumnError(f"Expected a column from {list(names)} in {location}, got none; {describe_fields(row)}")


def _text(row: Row, names: tuple[str, ...], location: str) -> str:
    return text_of(row, _column(row, names, location), location, numbers=False)


def gsm8k(row: Row, location: str) -> Row:
    """Checks that an answer, which is worked out in prose, ends with its number: "#### 1,234"."""
    answer = text_of(row, "answer", location, numbers=False)
    if _FINAL.search(answer) is None:
        raise ValueError(f"Expected field 'answer' of {location} to end with '#### number', got {answer[-80:]!r}")
    return row


def commongen(row: Row, location: str) -> Row:
    """Reads concepts as "ski_V#mountain_N" (with parts of speech, or without), as a list, or with spaces between."""
    column = _column(row, ("concept_set", "concepts"), location)
    concepts = text_of(row, column, location, numbers=False)
    # Rows for training have no parts of speech, so those of the others are left out, too.
    words = [re.sub("_[A-Z]$", "", part) for part in re.split(r"[#\s]+", concepts.strip()) if part]
    if not words:
        raise ValueError(f"Expected concepts in field {column!r} of {location}, got {concepts!r}")
    references = texts_of(row, _column(row, ("scene", "target", "sentence"), location), location)
    return {"words": " ".join(words), "concepts": words, "sentence": references}


def persona_chat(row: Row, location: str) -> Row:
    """Cuts a conversation at a turn of user 2 in its middle. That turn is the reference."""
    text = text_of(row, "Best Generated Conversation", location, numbers=False)
    lines = [_SPEAKER.sub(r"\1:", line) for line in text.splitlines() if line.strip()]
    # A turn with nothing before it is no reply, and one with nothing behind the name says nothing.
    turns = [
        index
        for index, line in enumerate(lines)
        if index and line.startswith("User 2:") and line.removeprefix("User 2:").strip()
    ]
    if not turns:
        raise ValueError(f"Expected a turn of 'User 2:' in the conversation of {location}, got {lines[:3]}")
    middle = turns[len(turns) // 2]
    return {
        "persona": text_of(row, "user 2 personas", location, numbers=False),
        "conversation": "\n".join(lines[:middle]),
        "reply": lines[middle].removeprefix("User 2:").strip(),
    }


_LABELS = {"1": "positive", "pos": "positive", "positive": "positive",
           "0": "negative", "neg": "negative", "negative": "negative"}  # fmt: skip


def sentence_polarity(row: Row, location: str) -> Row:
    """Makes the first words of a review its prompt, and the rest its reference."""
    label = _LABELS.get(str(value_of(row, "label")).lower())
    if label is None:
        column = "label" if "label" in row else _column(row, ("label",), location)
        raise ValueError(f"Expected field {column!r} of {location} to be one of {list(_LABELS)}, got {row[column]!r}")
    words = text_of(row, "text", location, numbers=False).split()
    if not words:
        raise ValueError(f"Expected a review in field 'text' of {location}, got none")
    # A short review is divided in the middle, so that something is left to write.
    cut = PROMPT_WORDS if len(words) > PROMPT_WORDS else len(words) // 2
    mood = "happy" if label == "positive" else "sad"
    return {
        "kind": label.capitalize(),
        "beginning": "".join(f" {word}" for word in words[:cut]),
        "rest": "".join(f" {word}" for word in words[cut:]),
        "label": label,
        "mood": mood,
    }


def tinystories(row: Row, location: str) -> Row:
    """Makes the first words of a story its prompt, and the next sentences its reference."""
    words = text_of(row, "text", location, numbers=False).split()
    if len(words) < 2:
        raise ValueError(f"Expected a story in field 'text' of {location}, got {' '.join(words)!r}")
    cut = min(STORY_WORDS, len(words) // 2)
    rest = words[cut : cut + CONTINUATION_WORDS]
    if len(words) > cut + CONTINUATION_WORDS:
        ends = [count for count, word in enumerate(rest, start=1) if _SENTENCE_END.search(word)]
        rest = rest[: ends[-1]] if ends else rest
    return {"beginning": " ".join(words[:cut]), "next": "".join(f" {word}" for word in rest)}


def dialogsum(row: Row, location: str) -> Row:
    """Reads the summary, or the three of a row of the test set, and writes speakers without marks around them."""
    columns = [name for name in ("summary1", "summary2", "summary3") if name in row]
    columns = columns or [_column(row, ("summary", "summary1"), location)]
    summaries = [text for column in columns for text in texts_of(row, column, location)]
    dialogue = text_of(row, "dialogue", location, numbers=False)
    return {"dialogue": _named(dialogue), "summary": [_named(text) for text in summaries]}


def _named(text: str) -> str:
    return re.sub(r"#(Person|Number)_?(\d*)#", r"\1 \2", text).strip()


def e2e(row: Row, location: str) -> Row:
    """Reads a meaning representation, "name[The Vaults], food[French]", and writes it as facts: "name: The Vaults"."""
    meaning = _text(row, ("mr", "meaning_representation"), location)
    facts = re.findall(r"\s*([^\[\],]+)\[([^\[\]]*)\]", meaning)
    if not facts:
        raise ValueError(f"Expected facts such as name[The Vaults] in {location}, got {meaning!r:.200}")
    references = texts_of(row, _column(row, ("ref", "human_reference"), location), location)
    return {"facts": "; ".join(f"{name.strip()}: {value.strip()}" for name, value in facts), "text": references}


def squad(row: Row, location: str) -> Row:
    """Reads the texts of the answers, which are a list of objects in one file and an object of lists in another."""
    answers = value_of(row, "answers")
    if answers is not MISSING and not value_of(row, "answers.text"):
        raise ValueError(
            f"Expected an answer in field 'answers' of {location}, got none: the questions of SQuAD 2.0 that have none "
            "are left out with on_error='skip'"
        )
    return {**row, "answer": texts_of(row, "answers.text", location)}


def multi30k(row: Row, location: str) -> Row:
    """Reads a pair of sentences as the columns en and de, or as a column translation that holds both."""
    return {language: _text(row, (language, f"translation.{language}"), location).strip() for language in ("en", "de")}


ADAPTERS: dict[str, Adapt] = {
    "commongen": commongen,
    "dialogsum": dialogsum,
    "e2e": e2e,
    "gsm8k": gsm8k,
    "multi30k": multi30k,
    "persona_chat": persona_chat,
    "sentence_polarity": sentence_polarity,
    "squad": squad,
    "tinystories": tinystories,
}
"""Preset to the adapter of its rows."""
