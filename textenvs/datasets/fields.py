"""The fields of a row: values at a path inside it, as texts, conversations or metadata.

A column is the name of a field, or a path into what the field holds: `answers.text`, `translation[en]`, `turns[0]`. A
name behind a list stands for that field of each of its items, so `answers.text` reads `{"text": ["a", "b"]}` and
`[{"text": "a"}, {"text": "b"}]` alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

Row: TypeAlias = Mapping[str, Any]
"""Column to value."""

MISSING: Any = object()
"""The value of a column that a row does not have."""

_PATH = re.compile(r"[^.\[\]]+(\.[^.\[\]]+|\[[^\[\]]+\])*")
_STEP = re.compile(r"[^.\[\]]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}
"""Names that ShareGPT and others give to the roles of Transformers."""


class ColumnError(ValueError):
    """The error of a row that does not have a column. It may be the name of the column that is wrong."""


def value_of(row: Row, column: str) -> Any:
    """Returns the value of a column, a plain Python value where it is one of NumPy's; `MISSING` if there is none.

    Args:
        row: The row.
        column: The name of a field, or a path into one.

    Returns:
        The value.

    Example:
        >>> value_of({"answers": [{"text": "the sea"}, {"text": "at sea"}]}, "answers.text")
        ['the sea', 'at sea']
        >>> value_of({"translation": {"en": "a dog", "de": "ein Hund"}}, "translation[de]")
        'ein Hund'
    """
    if column in row:
        return _plain(row[column])
    if not _PATH.fullmatch(column):
        return MISSING
    value: Any = row
    for step in _STEP.findall(column):
        value = _plain(_inside(value, step))
        if value is MISSING:
            return MISSING
    return value


def _inside(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(step, MISSING)
    if not isinstance(value, list):
        return MISSING
    if step.lstrip("-").isdecimal():
        index = int(step)
        return value[index] if -len(value) <= index < len(value) else MISSING
    values = [_inside(item, step) for item in value]
    if any(item is MISSING for item in values):
        return MISSING
    # Lists inside a list are joined, so that a path through two lists gives the texts at its end.
    return [text for item in values for text in (item if isinstance(item, list) else [item])]


def _plain(value: Any) -> Any:
    """Returns NumPy's numbers and arrays as Python's, and the missing values of pandas and NumPy as None."""
    if isinstance(value, str):  # at once, for the sake of speed: most values are
        return value
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, np.generic):
        value = value.item()
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas, which need not be installed
        return None
    return value


def text_of(row: Row, column: str, location: str, *, numbers: bool) -> str:
    """Returns the text in one column of a row.

    Args:
        row: The row.
        column: The name of a field, or a path into one.
        location: The location of the row, for errors.
        numbers: If True, a number counts as text, too.

    Returns:
        The text; a list of texts is joined with spaces.

    Raises:
        ValueError: If the column is missing or holds no text, or the text holds half of a surrogate pair.
    """
    value = value_of(row, column)
    if isinstance(value, str):
        return _checked(value, column, location)
    if numbers and _is_number(value):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return _checked(" ".join(value), column, location)
    raise _error("a string", value, row, column, location)


def texts_of(row: Row, column: str, location: str) -> list[str]:
    """Returns the texts in one column of a row, which holds a list of them, a single one, or an assistant's message.

    Args:
        row: The row.
        column: The name of a field, or a path into one.
        location: The location of the row, for errors.

    Returns:
        The texts, at least one, none of them blank.

    Raises:
        ValueError: If the column is missing or empty, holds something else, or a text is blank or cannot be encoded.
    """
    value = value_of(row, column)
    if is_conversation(value):
        return [response_of(value, column, location)]
    values = [_plain(item) for item in value] if isinstance(value, list) else [value]
    if not values or any(not isinstance(text, str) and not _is_number(text) for text in values):
        raise _error("a string, or a list of at least one,", value, row, column, location)
    texts = [_checked(str(text), column, location) for text in values]
    if any(not text.strip() for text in texts):
        raise ValueError(
            f"Expected a text in field {column!r} of {location}, got {value!r:.200}: to an empty reference, saying "
            "nothing is a perfect answer. Fill it in, or leave such rows out with on_error='skip'"
        )
    return texts


def metadata_of(row: Row, column: str, location: str) -> Any:
    """Returns the value in one column of a row in JSON's types: None where it is missing, NaN or an empty cell.

    Args:
        row: The row.
        column: The name of a field, or a path into one.
        location: The location of the row, for errors.

    Returns:
        The value.

    Raises:
        ValueError: If the row does not have the column, or its value is not one of JSON's.
    """
    value = value_of(row, column)
    if value is MISSING:
        raise ColumnError(f"Expected the column {column!r} in {location}; {describe_fields(row)}")
    return _as_json(value, column, location)


_DEEPEST = 100  # levels of lists and objects in metadata, which is copied and written level by level


def _as_json(value: Any, column: str, location: str, depth: int = 0) -> Any:
    value = _plain(value)
    if depth > _DEEPEST:
        raise ValueError(f"Expected at most {_DEEPEST} levels of lists and objects in field {column!r} of {location}")
    if isinstance(value, str):
        return _checked(value, column, location)
    if isinstance(value, Mapping):
        return {str(key): _as_json(item, column, location, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item, column, location, depth + 1) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    raise ValueError(
        f"Expected a value of JSON in field {column!r} of {location}, got {type(value).__name__} {value!r:.200}: make "
        "a string or a number of it"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _checked(text: str, column: str, location: str) -> str:
    """Returns a text that can be encoded. ValueError for others, which no tokenizer would take."""
    half = _SURROGATE.search(text)
    if half is None:
        return text
    raise ValueError(
        f"Expected text that can be encoded in field {column!r} of {location}, got half of a surrogate pair, "
        f"{half[0]!r}, at character {half.start()} of {text!r:.100}: text that was cut inside of an emoji, say. Repair "
        "it, or leave such rows out with on_error='skip'"
    )


def _error(expected: str, value: Any, row: Row, column: str, location: str) -> ValueError:
    if value is MISSING:
        return ColumnError(f"Expected {expected} in field {column!r} of {location}, got none; {describe_fields(row)}")
    shown = "null or an empty cell" if value is None else f"{value!r:.200}"
    remedy = ""
    if value is None or value != value:  # NaN
        remedy = ". Fill it in, or leave such rows out with on_error='skip'"
    elif isinstance(value, Mapping) and value:
        remedy = f". Name a field inside of it: {f'{column}.{next(iter(value))}'!r}, say"
    return ValueError(
        f"Expected {expected} in field {column!r} of {location}, got {shown}; {describe_fields(row)}{remedy}"
    )


def describe_fields(row: Row) -> str:
    """Returns the part of an error that names a row's fields, and the lists of rows that are inside of it.

    Args:
        row: The row.

    Returns:
        The end of a sentence, without its full stop.
    """
    lists = [f"rows={path!r}" for path in _lists_inside(row, "")]
    inside = f", and these lists of rows are inside: {', '.join(lists)}" if lists else ""
    return f"its fields are {list(row)!s:.500}{inside}"


def _lists_inside(value: Any, path: str) -> Iterator[str]:
    """Yields the paths of the lists of objects inside of a row, those of messages left out."""
    for name, item in value.items() if isinstance(value, Mapping) else ():
        below = f"{path}.{name}" if path else str(name)
        if isinstance(item, list) and item and isinstance(item[0], Mapping) and not is_conversation(item):
            yield below
            yield from _lists_inside(item[0], below)
        elif isinstance(item, Mapping):
            yield from _lists_inside(item, below)


# Conversations --------------------------------------------------------------------------------------------------------


def is_conversation(value: Any) -> bool:
    """Returns True for a list of messages: `{"role": ..., "content": ...}` or ShareGPT's `{"from": ..., "value": ...}`.

    Args:
        value: The value of a column.

    Returns:
        True for messages, False for all else.
    """
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(
            isinstance(message, Mapping)
            and ({"role", "content"} <= message.keys() or {"from", "value"} <= message.keys())
            for message in value
        )
    )


def messages_of(value: Any, column: str, location: str) -> list[dict[str, str]]:
    """Returns the messages of a conversation in the form of Transformers.

    Args:
        value: A conversation.
        column: Its column, for errors.
        location: The location of the row, for errors.

    Returns:
        `{"role": ..., "content": text}` of each message.

    Raises:
        ValueError: If a role or a content is no text.
    """
    messages = []
    for message in value:
        role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise ValueError(
                f"Expected messages with a role and a text as their content in field {column!r} of {location}, got "
                f"{message!r:.200}"
            )
        messages.append({"role": _ROLES.get(role, role), "content": _checked(content, column, location)})
    return messages


def prompt_of(messages: Sequence[Mapping[str, str]]) -> str:
    r"""Returns the text of a conversation that the assistant continues.

    Args:
        messages: Its messages.

    Returns:
        The content of a single user's message, as a chat template takes it; of several messages a line each, and
        "Assistant:" at the end.

    Example:
        >>> prompt_of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}])
        'System: Be brief.\nUser: Name a river.\nAssistant:'
    """
    if [message["role"] for message in messages] == ["user"]:
        return messages[0]["content"]
    lines = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
    return "\n".join([*lines, "Assistant:"])


def response_of(value: Any, column: str, location: str) -> str:
    """Returns the content of a conversation's only message, the assistant's.

    Args:
        value: A conversation.
        column: Its column, for errors.
        location: The location of the row, for errors.

    Returns:
        The content.

    Raises:
        ValueError: If it has other messages, or the content is blank.
    """
    messages = messages_of(value, column, location)
    roles = [message["role"] for message in messages]
    if roles != ["assistant"]:
        raise ValueError(
            f"Expected a single message of the assistant in field {column!r} of {location}, got messages of {roles}"
        )
    if not messages[0]["content"].strip():
        raise ValueError(f"Expected a text as the assistant's message in field {column!r} of {location}, got none")
    return messages[0]["content"]
