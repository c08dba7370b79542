r"""Real data as a task: files of rows, rows in memory, and data sets on the Hugging Face Hub.

    task = textenvs.load_dataset("stories.jsonl", prompt="text", prompt_tokens=16)
    task = textenvs.load_dataset("sums.csv", template="Q: {question}\nA:", references="answer")
    task = textenvs.load_dataset("squad.json", rows="data.paragraphs.qas", template="{context}\n{question}\n",
                                 references="answers.text")
    task = textenvs.load_dataset("path/to/gsm8k", preset="gsm8k")
    env = gym.make("TextGen-v0", task=task)

A source is read once, and its examples are kept in memory as lists. The environment needs all of them at once in any
case, since it tokenises them into its pool; `limit` sets how many there are.
"""

from __future__ import annotations

import json
import string
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from textenvs.arguments import check_choice, check_count
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
from textenvs.datasets.presets import PRESETS, Adapt
from textenvs.datasets.readers import Format, Table, read_tables
from textenvs.datasets.splits import hash_of, hashed_split
from textenvs.tasks.base import SPLITS, Example, Task, check_split

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


class Dataset(Task):
    r"""Examples from data. No prompt is in two splits.

    A row belongs to the split that is named for it; where none is named, a hash of its prompt decides, and where there
    are fewer than ten prompts, all are for training. A prompt that is in several named splits stays in the last of them
    (in the order train, validation, test), and a warning says how many such prompts there were. Rows with the same
    prompt and metadata in one split become one example with all their references.

    A column is the name of a field or a path into one: `answers.text`, `translation[en]`, `turns[0]`. What a row needs
    and does not have is an error of that row: a missing column, null, NaN, an empty cell, a blank reference, or text
    with half of a surrogate pair, which no tokenizer takes.

    A column of chat messages is a conversation. As the prompt, it is the text of a single user's message, or a line for
    each message ("System: ...") with "Assistant:" at the end; the assistant's message that it ends with is no part of
    it, but the reference, unless `references` names others. As references, it is the assistant's message.

    Args:
        path: A `.jsonl`, `.ndjson`, `.json`, `.txt` (one text a line, in the column `text`), `.csv`, `.tsv` or
            `.parquet` file, each but the last also as `.gz`; a data set on the Hugging Face Hub, "owner/name" or
            "owner/name:configuration"; a list of dicts or of texts, or a DataFrame of pandas; a dict of column to file,
            for parallel files of lines; a dict of split to any of these; or, with a preset, the folder that holds its
            files.
        prompt: The column that holds the prompt's text; None is "text". A list of texts is joined with spaces.
        references: The column that holds a reference text or a list of them, or a list of such columns. If None, there
            are no references.
        template: The prompt as a text with columns in braces, "Q: {question}\nA:", instead of `prompt`. Doubled braces
            are literal braces.
        metadata: Columns to keep in `example.metadata`, for rewards that read them.
        split: The split of all rows; from the Hub, only this split is loaded. If None, rows are divided as above.
        preset: One of `textenvs.datasets.PRESETS`, which sets these arguments for a public data set. Arguments that are
            given win over the preset's.
        limit: The most examples of a split, chosen by a hash of their prompts after all rows have been read. If None,
            all are kept.
        on_error: "raise", or "skip" to leave out rows that cannot be read and count them in `report`. Unbalanced quotes
            in a CSV file are raised either way, since the rows behind them cannot be told apart.
        encoding: The encoding of text files.
        separator: The character between the fields of a .csv or .tsv file. None is a tab for .tsv; for .csv, the header
            decides between comma, semicolon, tab and bar.
        columns: The names of the columns of a .csv or .tsv file without a header.
        rows: The path to the rows inside of JSON objects, "data.paragraphs.qas" say. A row has the fields of the
            objects around it, too. If None, each object is a row.
        labels: Column to the text for each of its values, `{"label": {"0": "negative", "1": "positive"}}`. Other values
            in such a column are errors of their row.
        prompt_tokens: The number of tokens of each prompt to keep, from its start, so that a whole text becomes a
            beginning for the policy to continue; None keeps all. Texts whose beginnings are equal stay in one split.
        reward: The default reward of an environment with this task. If None, the preset's; without a preset,
            "token_f1" (the overlap of words, which earns partial credit in free text and short answers alike) if there
            are references, else "sentiment".
        held_out_reward: The default held-out metric. If None, the preset's; without a preset, "chrf" if there are
            references, else "vader".
        max_new_tokens: The default budget. If None, the preset's, or 32.

    Raises:
        ValueError: If a source is missing, empty or of an unknown kind, or a row is not what it should be. The message
            names the file and the line, and says what to do.
        TypeError: If an argument is of the wrong type.
        ImportError: If Parquet or the Hub is asked for, and the library `datasets` is not installed.

    Attributes:
        report: The counts and errors of reading the data.
    """

    name = "dataset"
    truncation_side = "right"

    def __init__(
        self,
        path: Any,
        *,
        prompt: str | None = None,
        references: str | Sequence[str] | None = None,
        template: str | None = None,
        metadata: Sequence[str] | None = None,
        split: str | None = None,
        preset: str | None = None,
        limit: int | None = None,
        on_error: str = "raise",
        encoding: str = "utf-8",
        separator: str | None = None,
        columns: Sequence[str] | None = None,
        rows: str | None = None,
        labels: Mapping[str, Mapping[Any, str]] | None = None,
        prompt_tokens: int | None = None,
        reward: Any = None,
        held_out_reward: Any = None,
        max_new_tokens: int | None = None,
    ) -> None:
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"Expected preset to be one of {sorted(PRESETS)}, got {preset!r}")
        known = {} if preset is None else PRESETS[preset].settings

        def setting(name: str, given: Any, default: Any = None) -> Any:
            return known.get(name, default) if given is None else given

        self.default_max_new_tokens = setting("max_new_tokens", max_new_tokens, 32)
        self.max_prompt_tokens = check_count("prompt_tokens", setting("prompt_tokens", prompt_tokens), optional=True)
        limit = check_count("limit", limit, optional=True)
        check_choice("on_error", on_error, ("raise", "skip"))
        for name, value in (("prompt", prompt), ("template", template)):
            if value is not None and not isinstance(value, str):
                raise TypeError(f"Expected {name} to be a text, got {value!r:.200}")
        if prompt is not None and template is not None:
            raise ValueError("Expected a prompt column or a template, got both")
        if split is not None:
            check_split(split)
        reader = _RowReader(
            prompt or "text",
            None if prompt else setting("template", template),
            _columns(setting("references", references, ())),
            _metadata_columns(setting("metadata", metadata, ())),
            _label_texts(labels),
        )
        form = Format(encoding, separator, columns, rows)
        # All sources are looked up before the first is read, so that a wrong name is found at once.
        sources = list(_sources(path, preset, split, form))
        self._examples, self.report = _read(sources, reader, on_error == "skip", limit)
        shown = f"{path!r:.200}"
        if not self.report.rows:
            raise ValueError(
                f"Expected at least one prompt in {shown}, got "
                + (f"{self.report.skipped} rows that could not be read: {self.report.errors[0]}"
                   if self.report.skipped else "an empty file")
            )  # fmt: skip
        _warn(self.report, shown)
        has_references = any(example.references for examples in self._examples.values() for example in examples)
        usual, held_out = ("token_f1", "chrf") if has_references else ("sentiment", "vader")
        self.default_reward = setting("reward", reward, usual)
        self.held_out_reward = setting("held_out_reward", held_out_reward, None if preset else held_out)

    def num_examples(self, split: str) -> int:
        """Returns the number of examples of a split, which is 0 for a split that the data does not have."""
        check_split(split)
        return len(self._examples[split])

    def example(self, split: str, index: int) -> Example:
        """Returns one example, in the order of the data. Its metadata is a copy."""
        check_split(split)
        if not 0 <= index < len(self._examples[split]):
            raise IndexError(f"Expected an index in [0, {len(self._examples[split])}), got {index}")
        example = self._examples[split][index]
        return Example(example.prompt, example.references, deepcopy(example.metadata))

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all examples, by which other data under the same name is told apart."""
        digest = sha256()
        for split in SPLITS:
            for example in self._examples[split]:
                row = [split, example.prompt, example.references, example.metadata]
                digest.update(json.dumps(row, sort_keys=True).encode())
        return digest.hexdigest()

    def __deepcopy__(self, memo: dict[int, Any]) -> Dataset:
        # Nothing changes after construction, and Gymnasium copies a spec, task included, once a wrapper.
        return self


def load_dataset(path: Any, **settings: Any) -> Dataset:
    r"""Makes a task of real data.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "sums.csv"
        >>> _ = file.write_text('question,answer\n1+1,2\n2+3,5\n')
        >>> task = load_dataset(file, template="What is {question}?", references="answer", split="train")
        >>> task.example("train", 1)
        Example(prompt='What is 2+3?', references=('5',), metadata={})

    Args:
        path: A file, a data set on the Hub, rows in memory, a dict of column to parallel file or of split to any of
            these, or a preset's folder.
        **settings: The arguments of `Dataset`.

    Returns:
        The task, for `gym.make("TextGen-v0", task=...)`. `task={"dataset": {"path": ..., ...}}` is the same and can
        be written to JSON.
    """
    return Dataset(path, **settings)


def _columns(references: Any) -> tuple[str, ...]:
    columns = (references,) if isinstance(references, str) else references
    if not isinstance(columns, (list, tuple)) or not all(isinstance(column, str) for column in columns):
        raise TypeError(f"Expected references as a column or a list of columns, got {references!r:.200}")
    return tuple(columns)


def _metadata_columns(metadata: Any) -> tuple[str, ...]:
    if not isinstance(metadata, (list, tuple)) or not all(isinstance(column, str) for column in metadata):
        raise TypeError(f"Expected metadata as a list of columns, got {metadata!r:.200}")
    return tuple(metadata)


def _label_texts(labels: Any) -> dict[str, dict[str, str]]:
    """Returns column to value, as text, to the text that stands for it."""
    labels = {} if labels is None else labels
    if not isinstance(labels, Mapping) or not all(
        isinstance(texts, Mapping) and all(isinstance(text, str) for text in texts.values())
        for texts in labels.values()
    ):
        raise TypeError(
            f"Expected labels as {{column: {{value: text}}}}, {{'label': {{'0': 'negative'}}}} say, got {labels!r:.200}"
        )
    return {column: {str(value): text for value, text in texts.items()} for column, texts in labels.items()}


def _warn(report: Report, path: str) -> None:
    for (split, other), count in report.shared.items():
        warnings.warn(
            f"{count} prompts of split {split!r} of {path} are in split {other!r}, too, and were left out of {split!r}",
            stacklevel=3,
        )
    if report.skipped:
        shown = "".join(f"\n  {error}" for error in report.errors)
        warnings.warn(f"{report.skipped} rows of {path} could not be read and were skipped:{shown}", stacklevel=3)


class _RowReader:
    """Makes examples of rows.

    Args:
        prompt: The column of the prompt, used if there is no template.
        template: The prompt with columns in braces, or None.
        references: The columns of the references.
        metadata: The columns that become metadata.
        labels: Column to value to the text that stands for it.

    Raises:
        ValueError: If the template has no columns, or something else than their names in braces.
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
class _Source:
    """A table of rows.

    Attributes:
        table: The rows, with their split and locations.
        adapt: Makes the columns that the reader expects, or None where the rows have them.
    """

    table: Table
    adapt: Adapt | None


def _sources(path: Any, preset: str | None, split: str | None, form: Format) -> Iterator[_Source]:
    if preset is not None:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise ValueError(f"Expected the folder that holds the files of preset {preset!r}, got {str(path)!r}")
        files: list[tuple[Any, str | None, Adapt | None]] = [
            (folder / source.file, source.split, source.adapt) for source in PRESETS[preset].sources
        ]
    elif isinstance(path, Mapping) and _names_splits(path):
        if split is not None:
            raise ValueError(f"Expected no split beside a dict of splits, got {split!r}")
        if not path:
            raise ValueError("Expected a dict of split to file, got {}")
        for name in path:
            check_split(name)
        files = [(file, name, None) for name, file in path.items()]
    else:
        files = [(path, split, None)]
    for file, file_split, adapt in files:
        for table in read_tables(file, file_split, form):
            yield _Source(table, adapt)


def _names_splits(path: Mapping[Any, Any]) -> bool:
    """Returns True for a dict of splits, False for one of the columns of parallel files."""
    return len(path) < 2 or any(name in SPLITS for name in path)


_Groups = dict[str, list[Example]]
"""Prompt to the examples of all rows with it. A dict keeps the order of the data."""

_UNDIVIDED = ""
"""The key of the rows whose source names no split."""


def _read(
    sources: Sequence[_Source], reader: _RowReader, skip_errors: bool, limit: int | None
) -> tuple[dict[str, list[Example]], Report]:
    """Reads all rows and divides them.

    Returns:
        Split to examples, and the report.
    """
    groups: dict[str, _Groups] = {split: {} for split in (*SPLITS, _UNDIVIDED)}
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
    _divide(groups)
    shared = _drop_shared(groups)
    merged = {
        split: [example for same in group.values() for example in _merge(same)] for split, group in groups.items()
    }
    num_kept = sum(len(same) for group in groups.values() for same in group.values())
    repeated = num_kept - sum(map(len, merged.values()))
    examples = {split: _limit(merged[split], limit) for split in merged}
    return examples, Report(num_rows, skipped, tuple(errors), repeated, shared)


def _divide(groups: dict[str, _Groups]) -> None:
    """Moves the rows whose source names no split into splits, by a hash of their prompts."""
    undivided = groups.pop(_UNDIVIDED)
    for prompt, same in undivided.items():
        few = len(undivided) < _FEWEST_TO_DIVIDE
        split = "train" if few else hashed_split(prompt)
        groups[split].setdefault(prompt, []).extend(same)


def _example_of(row: Row | ValueError, location: str, source: _Source, reader: _RowReader) -> Example:
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
