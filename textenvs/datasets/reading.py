"""From tables of rows to the examples of each split: the engine of every data set.

`RowReader` makes an example of a row. `read` makes examples of all rows of some tables, divides what names no split,
leaves no prompt in two splits, joins rows with one prompt, and reports what it left out.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from textenvs.datasets.fields import (
    MISSING,
    ColumnError,
    Row,
    describe_fields,
    is_conversation,
    messages_of,
    metadata_of,
    prompt_of,
    text_of,
    texts_of,
    value_of,
)
from textenvs.datasets.readers import Table
from textenvs.datasets.splits import hash_of, hashed_split
from textenvs.tasks.base import SPLITS, Example

Adapt: TypeAlias = Callable[[Row, str], Row]
"""Makes the columns that are read of those that a row has. Takes a row and its location; raises ValueError."""

TRAIN_AND_VALIDATION = "train+validation"
"""The split of a source for training that has no validation split of its own: a tenth of its rows is one."""

_SHOWN_ERRORS = 5
_FEWEST_TO_DIVIDE = 10
"""The least number of prompts that are divided into splits: a tenth of fewer is none."""


@dataclass(frozen=True)
class Report:
    """The counts and errors of reading a data set.

    Attributes:
        rows: Number of rows, without those that could not be read.
        skipped: Number of rows that could not be read and were skipped.
        errors: The errors of the first few skipped rows.
        repeated: Number of rows whose prompt and metadata an earlier row of their split has. Their references join that
            row's.
        shared: (split, other) to the number of prompts of `split` that the later split `other` has, too. They were left
            out of `split`.
    """

    rows: int
    skipped: int
    errors: tuple[str, ...]
    repeated: int
    shared: Mapping[tuple[str, str], int]


class RowReader:
    """Makes examples of rows.

    Args:
        prompt: The column of the prompt, used if there is no template.
        template: The prompt with columns in braces, or None.
        references: The columns of the references.
        metadata: The columns that become metadata.
        labels: Column to value to the text that stands for it.

    Raises:
        ValueError: If the template has no columns, or something else than their names in braces.

    Attributes:
        template: The template, as it was given.
    """

    def __init__(
        self,
        prompt: str,
        template: str | None,
        references: tuple[str, ...],
        metadata: tuple[str, ...],
        labels: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._prompt, self._references, self._metadata, self._labels = prompt, references, metadata, labels
        self.template = template
        self._parts = None if template is None else _parse_template(template)

    def example(self, row: Row, location: str) -> Example:
        """Makes the example of a row. ValueError if a column is missing or of the wrong type."""
        if self._labels:
            row = self._with_labels(row, location)
        prompt, references = self._prompt_and_answer(row, location)
        if self._references:
            references = [text for column in self._references for text in texts_of(row, column, location)]
        metadata = {column: metadata_of(row, column, location) for column in self._metadata}
        return Example(prompt, tuple(references), metadata)

    def _prompt_and_answer(self, row: Row, location: str) -> tuple[str, list[str]]:
        """Returns the prompt, and the assistant's answer where the prompt's column is a conversation with one."""
        if self._parts is not None:
            texts = [
                text + ("" if column is None else text_of(row, column, location, numbers=True))
                for text, column in self._parts
            ]
            return "".join(texts), []
        value = value_of(row, self._prompt)
        if value is MISSING:
            raise ColumnError(
                f"Expected a string in field {self._prompt!r} of {location}, got none; {describe_fields(row)}. Name "
                "the prompt's column, prompt=..., or write a template=... of columns"
            )
        if not is_conversation(value):
            return text_of(row, self._prompt, location, numbers=False), []
        messages = messages_of(value, self._prompt, location)
        answer = [message["content"] for message in messages[-1:] if message["role"] == "assistant"]
        messages = messages[: len(messages) - len(answer)]
        if not messages or not all(text.strip() for text in answer):
            raise ValueError(
                f"Expected a conversation in which the assistant answers in field {self._prompt!r} of {location}, got "
                f"{value!r:.200}"
            )
        return prompt_of(messages), answer

    def _with_labels(self, row: Row, location: str) -> Row:
        texts = {}
        for column, text_for in self._labels.items():
            value = value_of(row, column)
            if value is MISSING:
                raise ColumnError(
                    f"Expected field {column!r} of {location}, which labels= names, got none; {describe_fields(row)}"
                )
            key = str(value).lower() if isinstance(value, bool) else str(value)
            if key not in text_for:
                raise ValueError(
                    f"Expected a label from {list(text_for)} in field {column!r} of {location}, got {value!r:.200}"
                )
            texts[column] = text_for[key]
        return {**row, **texts}


def _parse_template(template: str) -> list[tuple[str, str | None]]:
    """Splits a template into pairs of literal text and the column behind it, None at the end."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"Expected a template with columns in braces, got {template!r}: {error}") from error
    # A format such as {q:>8} or {q!r} is refused: the braces hold the name of a column and nothing else.
    if any(column == "" or form or conversion for _, column, form, conversion in parts):
        raise ValueError(f"Expected a template with names of columns in braces, and nothing else, got {template!r}")
    if not any(column for _, column, _, _ in parts):
        raise ValueError(f"Expected a template with at least one column in braces, got {template!r}")
    return [(text, column) for text, column, _, _ in parts]


@dataclass(frozen=True)
class DataSource:
    """A table of rows.

    Attributes:
        table: The rows, with their split and locations.
        adapt: Makes the columns that the reader expects, or None where the rows have them.
        divide_by: The column by whose hash rows are divided, where their split is not named; None is the prompt. Rows
            that say the same there are in one split.
    """

    table: Table
    adapt: Adapt | None = None
    divide_by: str | None = None


_Groups = dict[str, list[Example]]
"""Prompt to the examples of all rows with it. A dict keeps the order of the data."""

_UNDIVIDED = ""
"""The key of the rows whose source names no split."""


def read(
    sources: Sequence[DataSource], reader: RowReader, skip_errors: bool, limit: int | None
) -> tuple[dict[str, list[Example]], Report]:
    """Reads all rows and divides them.

    Args:
        sources: The tables of rows.
        reader: Makes an example of each row.
        skip_errors: If True, rows that cannot be read are left out and counted.
        limit: The most examples of a split; None keeps all.

    Returns:
        Split to examples, and the report.
    """
    groups: dict[str, _Groups] = {split: {} for split in (*SPLITS, TRAIN_AND_VALIDATION, _UNDIVIDED)}
    division = dict[str, str]()  # prompt to the text by whose hash it is divided
    num_rows, skipped, errors = 0, 0, list[str]()
    for source in sources:
        for location, row in source.table.rows:
            try:
                example = _example_of(row, location, source, reader)
            except ValueError as error:
                if not skip_errors:
                    raise
                skipped += 1
                if len(errors) < _SHOWN_ERRORS:
                    errors.append(str(error))
                continue
            num_rows += 1
            groups[source.table.split or _UNDIVIDED].setdefault(example.prompt, []).append(example)
            if source.divide_by is not None and isinstance(row, Mapping):
                division.setdefault(example.prompt, str(value_of(row, source.divide_by)))
    _divide(groups, division)
    shared = _drop_shared(groups)
    merged = {
        split: [example for same in group.values() for example in _merge(same)] for split, group in groups.items()
    }
    num_kept = sum(len(same) for group in groups.values() for same in group.values())
    repeated = num_kept - sum(map(len, merged.values()))
    examples = {split: _limit(merged[split], limit) for split in merged}
    return examples, Report(num_rows, skipped, tuple(errors), repeated, shared)


def _divide(groups: dict[str, _Groups], division: Mapping[str, str]) -> None:
    """Moves the rows whose source names no split into splits, by a hash."""
    for prompt, same in groups.pop(TRAIN_AND_VALIDATION).items():
        split = "validation" if hashed_split(division.get(prompt, prompt)) == "validation" else "train"
        groups[split].setdefault(prompt, []).extend(same)
    undivided = groups.pop(_UNDIVIDED)
    for prompt, same in undivided.items():
        few = len(undivided) < _FEWEST_TO_DIVIDE
        split = "train" if few else hashed_split(division.get(prompt, prompt))
        groups[split].setdefault(prompt, []).extend(same)


def _example_of(row: Row | ValueError, location: str, source: DataSource, reader: RowReader) -> Example:
    if isinstance(row, ValueError):
        raise row
    try:
        return reader.example(row if source.adapt is None else source.adapt(row, location), location)
    except ColumnError as error:
        raise ColumnError(f"{error}{source.table.remedy}") from error


def _drop_shared(groups: dict[str, _Groups]) -> dict[tuple[str, str], int]:
    """Leaves each prompt in the last of its splits alone, and returns how many each split lost to which."""
    shared = {}
    for first, split in enumerate(SPLITS):
        for other in reversed(SPLITS[first + 1 :]):
            prompts = groups[split].keys() & groups[other].keys()
            for prompt in prompts:
                del groups[split][prompt]
            if prompts:
                shared[split, other] = len(prompts)
    return shared


def _limit(examples: list[Example], limit: int | None) -> list[Example]:
    """Returns the examples of a split with the lowest hashes of their prompts, in the order of the data.

    A prompt's hash does not depend on the other rows, so neither the order of the data nor rows that are added change
    much of the choice.
    """
    if limit is None or len(examples) <= limit:
        return examples
    chosen = sorted(range(len(examples)), key=lambda index: hash_of(examples[index].prompt))[:limit]
    return [examples[index] for index in sorted(chosen)]


def _merge(same: Sequence[Example]) -> list[Example]:
    """Joins the rows with one prompt where their metadata is the same: one example with the references of all."""
    if len(same) == 1 and len(same[0].references) < 2:
        return list(same)
    groups: dict[str, list[Example]] = {}
    for example in same:
        groups.setdefault(json.dumps(example.metadata, sort_keys=True), []).append(example)
    return [
        Example(
            group[0].prompt,
            tuple(dict.fromkeys(text for example in group for text in example.references)),
            group[0].metadata,
        )
        for group in groups.values()
    ]
