"""Rows of preference data: a prompt and two responses, as texts or as chat messages, with the prompt apart or not."""

from __future__ import annotations

from typing import Any

from textenvs.datasets.fields import Row, is_conversation, messages_of, prompt_of, response_of, text_of, value_of

_ASSISTANT = "\n\nAssistant:"
"""The mark of Anthropic's dialogues, behind which the assistant speaks."""


def pair_of(row: Row, prompt: str | None, chosen: str, rejected: str, location: str) -> tuple[str, str, str]:
    r"""Returns the prompt of a row and its two responses, the preferred one first.

    Args:
        row: The row.
        prompt: The column of the prompt, a text or chat messages. If None, the prompt is what both responses begin
            with: the messages before the last, or the text up to the last "\n\nAssistant:" or the last whole word.
        chosen: The column of the preferred response, a text or chat messages.
        rejected: The column of the other one.
        location: The location of the row, for errors.

    Returns:
        Prompt, preferred response and other response.

    Raises:
        ValueError: If a column is missing or holds something else, or the responses are the same or differ in their
            prompts.

    Example:
        >>> pair_of({"w": "Name a river. The Nile.", "l": "Name a river. The Alps."}, None, "w", "l", "line 1")
        ('Name a river. The', ' Nile.', ' Alps.')
    """
    if prompt is not None and not is_conversation(value_of(row, prompt)):
        text = _text(row, prompt, location)
        return text, _response(row, chosen, location), _response(row, rejected, location)
    if prompt is not None:
        before = prompt_of(messages_of(value_of(row, prompt), prompt, location))
        return before, _response(row, chosen, location), _response(row, rejected, location)
    if is_conversation(value_of(row, chosen)) and is_conversation(value_of(row, rejected)):
        return _pair_of_conversations(row, chosen, rejected, location)
    return _pair_of_texts(_text(row, chosen, location), _text(row, rejected, location), (chosen, rejected), location)


def _text(row: Row, column: str, location: str) -> str:
    if value_of(row, column) == "":  # a prompt or a response of no words is one
        return ""
    return text_of(row, column, location, numbers=False)


def _response(row: Row, column: str, location: str) -> str:
    value = value_of(row, column)
    return response_of(value, column, location) if is_conversation(value) else _text(row, column, location)


def _pair_of_texts(chosen: str, rejected: str, columns: Any, location: str) -> tuple[str, str, str]:
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shorter = min(len(chosen), len(rejected))
    common = chosen[: next((index for index, (one, other) in pairs if one != other), shorter)]
    mark = common.rfind(_ASSISTANT)
    if mark >= 0:
        cut = mark + len(_ASSISTANT)
    else:
        # Up to the last whole word: the space in front of a response's first word is the response's.
        cut = max((index for index, character in enumerate(common) if character.isspace()), default=0)
    if chosen == rejected or not chosen[cut:].strip() or not rejected[cut:].strip():
        raise ValueError(
            f"Expected a prompt and two responses that differ in fields {columns} of {location}, got "
            f"{chosen[cut:]!r:.100} and {rejected[cut:]!r:.100} behind the common beginning {common[:cut]!r:.100}"
        )
    return common[:cut], chosen[cut:], rejected[cut:]


def _pair_of_conversations(row: Row, chosen: str, rejected: str, location: str) -> tuple[str, str, str]:
    first = messages_of(value_of(row, chosen), chosen, location)
    second = messages_of(value_of(row, rejected), rejected, location)
    if len(first) < 2 or first[:-1] != second[:-1]:
        raise ValueError(
            f"Expected two conversations that differ in their last message in fields {(chosen, rejected)} of "
            f"{location}, got {len(first)} and {len(second)} messages that differ earlier, or nothing before "
            "the last one: a prompt of its own goes into a field of its own"
        )
    for message, column in ((first[-1], chosen), (second[-1], rejected)):
        if message["role"] != "assistant":
            raise ValueError(
                f"Expected the assistant's message at the end of field {column!r} of {location}, got one of "
                f"{message['role']!r}"
            )
    return prompt_of(first[:-1]), first[-1]["content"], second[-1]["content"]
