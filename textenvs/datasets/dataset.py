r"""Real data as a task: files of JSON lines, text, CSV, TSV or Parquet, and data sets on the Hugging Face Hub.

    task = textenvs.load_dataset("stories.jsonl", prompt="text", prompt_tokens=16)
    task = textenvs.load_dataset("sums.csv", template="Q: {question}\nA:", references="answer")
    task = textenvs.load_dataset("path/to/gsm8k", preset="gsm8k")
    env = gym.make("TextGen-v0", task=task)

A source is read once, and its examples are kept in memory as lists. The environment needs all of them at once in any
case, since it tokenises them into its pool; `limit` sets how many there are.
"""

from __future__ import annotations

import string
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textenvs.datasets.presets import PRESETS, Adapt
from textenvs.datasets.readers import Row, Rows, read_tables, text_of, texts_of
from textenvs.datasets.splits import hash_of, hashed_split
from textenvs.tasks.base import SPLITS, Example, Task, check_split

_SHOWN_ERRORS = 5


@dataclass(frozen=True)
class Report:
    """The counts and errors of reading a data set.

    Attributes:
        rows: Number of rows, without those that could not be read.
        skipped: Number of rows that could not be read and were skipped.
        errors: The errors of the first few skipped rows.
        repeated: Number of rows whose prompt an earlier row of their split has. Their references join that row's.
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

    A row belongs to the split that is named for it; where none is named, a hash of its prompt decides. A prompt that is
    in several named splits stays in the last of them (in the order train, validation, test), and a warning says how
    many such prompts there were. Rows with the same prompt in one split become one example with all their references.

    Args:
        path: A `.jsonl`, `.txt` (one text a line, in the column `text`), `.csv`, `.tsv` or `.parquet` file; a data set
            on the Hugging Face Hub, "owner/name" or "owner/name:configuration"; a dict of split to any of these; or,
            with a preset, the folder that holds its files.
        prompt: The column that holds the prompt's text; None is "text". A list of texts is joined with spaces.
        references: The column that holds a reference text or a list of them. If None, there are no references.
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
            names the file and the line.
        TypeError: If an argument is of the wrong type.
        ImportError: If Parquet or the Hub is asked for, and the library `datasets` is not installed.

    Attributes:
        report: The counts and errors of reading the data.
    """

    name = "dataset"
    truncation_side = "right"

    def __init__(
        self,
        path: str | Path | Mapping[str, str | Path],
        *,
        prompt: str | None = None,
        references: str | None = None,
        template: str | None = None,
        metadata: Sequence[str] | None = None,
        split: str | None = None,
        preset: str | None = None,
        limit: int | None = None,
        on_error: str = "raise",
        encoding: str = "utf-8",
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

        column = setting("references", references)
        usual, held_out = ("sentiment", "vader") if column is None else ("token_f1", "chrf")
        self.default_reward = setting("reward", reward, usual)
        self.held_out_reward = setting("held_out_reward", held_out_reward, None if preset else held_out)
        self.default_max_new_tokens = setting("max_new_tokens", max_new_tokens, 32)
        self.max_prompt_tokens = _check_count("prompt_tokens", setting("prompt_tokens", prompt_tokens))
        limit = _check_count("limit", limit)
        if on_error not in ("raise", "skip"):
            raise ValueError(f"Expected on_error to be 'raise' or 'skip', got {on_error!r}")
        if prompt is not None and template is not None:
            raise ValueError("Expected a prompt column or a template, got both")
        if split is not None:
            check_split(split)
        columns = setting("metadata", metadata, ())
        if isinstance(columns, str):
            raise TypeError(f"Expected metadata as a list of columns, got {columns!r}")
        prompt_template = None if prompt else setting("template", template)
        reader = _RowReader(prompt or "text", prompt_template, column, tuple(columns))
        # All sources are looked up before the first is read, so that a wrong name is found at once.
        sources = list(_sources(path, preset, split, encoding))
        self._examples, self.report = _read(sources, reader, on_error == "skip", limit)
        if not self.report.rows:
            raise ValueError(
                f"Expected at least one prompt in {path!r}, got an empty file"
                + (f" and {self.report.skipped} rows that could not be read" if self.report.skipped else "")
            )
        _warn(self.report, path)

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

    def __deepcopy__(self, memo: dict[int, Any]) -> Dataset:
        # Nothing changes after construction, and Gymnasium copies a spec, task included, once a wrapper.
        return self


def load_dataset(path: str | Path | Mapping[str, str | Path], **settings: Any) -> Dataset:
    r"""Makes a task of real data.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "sums.csv"
        >>> _ = file.write_text('question,answer\n1+1,2\n2+3,5\n')
        >>> task = load_dataset(file, template="What is {question}?", references="answer", split="train")
        >>> task.example("train", 1)
        Example(prompt='What is 2+3?', references=('5',), metadata={})

    Args:
        path: A file, a data set on the Hub, a dict of split to either, or a preset's folder.
        **settings: The arguments of `Dataset`.

    Returns:
        The task, for `gym.make("TextGen-v0", task=...)`. `task={"dataset": {"path": ..., ...}}` is the same and can
        be written to JSON.
    """
    return Dataset(path, **settings)


def _check_count(name: str, value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"Expected {name} to be a whole number, got {value!r}")
    if value is not None and value < 1:
        raise ValueError(f"Expected {name} to be at least 1, got {value}")
    return value


def _warn(report: Report, path: object) -> None:
    for (split, other), count in report.shared.items():
        warnings.warn(
            f"{count} prompts of split {split!r} of {path!r} are in split {other!r}, too, and were left out of "
            f"{split!r}",
            stacklevel=3,
        )
    if report.skipped:
        shown = "".join(f"\n  {error}" for error in report.errors)
        warnings.warn(f"{report.skipped} rows of {path!r} could not be read and were skipped:{shown}", stacklevel=3)


class _RowReader:
    """Makes examples of rows.

    Args:
        prompt: The column of the prompt, used if there is no template.
        template: The prompt with columns in braces, or None.
        references: The column of the references, or None.
        metadata: The columns that become metadata.

    Raises:
        ValueError: If the template has no columns, or something else than their names in braces.
    """

    def __init__(self, prompt: str, template: str | None, references: str | None, metadata: tuple[str, ...]) -> None:
        self._prompt, self._references, self._metadata = prompt, references, metadata
        self._parts = None if template is None else _parse_template(template)

    def example(self, row: Row, location: str) -> Example:
        """Makes the example of a row. ValueError if a column is missing or of the wrong type."""
        if self._parts is None:
            prompt = text_of(row, self._prompt, location, numbers=False)
        else:
            prompt = "".join(
                text + ("" if column is None else text_of(row, column, location, numbers=True))
                for text, column in self._parts
            )
        references = () if self._references is None else tuple(texts_of(row, self._references, location))
        missing = [column for column in self._metadata if column not in row]
        if missing:
            raise ValueError(f"Expected the columns {missing} in {location}; its fields are {list(row)}")
        return Example(prompt, references, {column: row[column] for column in self._metadata})


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
        rows: The rows, with their locations.
        split: The split of all rows, or None.
        adapt: Makes the columns that the reader expects, or None where the rows have them.
    """

    rows: Rows
    split: str | None
    adapt: Adapt | None


def _sources(path: Any, preset: str | None, split: str | None, encoding: str) -> Iterator[_Source]:
    if preset is not None:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise ValueError(f"Expected the folder that holds the files of preset {preset!r}, got {str(path)!r}")
        files: list[tuple[str | Path, str | None, Adapt | None]] = [
            (folder / source.file, source.split, source.adapt) for source in PRESETS[preset].sources
        ]
    elif isinstance(path, Mapping):
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
        for table_split, rows in read_tables(file, file_split, encoding):
            yield _Source(rows, table_split, adapt)


_Groups = dict[str, list[Example]]
"""Prompt to the examples of all rows with it. A dict keeps the order of the data."""


def _read(
    sources: Sequence[_Source], reader: _RowReader, skip_errors: bool, limit: int | None
) -> tuple[dict[str, list[Example]], Report]:
    """Reads all rows and divides them.

    Returns:
        Split to examples, and the report.
    """
    groups: dict[str, _Groups] = {split: {} for split in SPLITS}
    num_rows, skipped, errors = 0, 0, list[str]()
    for source in sources:
        for location, row in source.rows:
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
            split = source.split or hashed_split(example.prompt)
            groups[split].setdefault(example.prompt, []).append(example)
    shared = _drop_shared(groups)
    repeated = sum(len(same) - 1 for group in groups.values() for same in group.values())
    examples = {split: [_merge(same) for same in _limit(group, limit).values()] for split, group in groups.items()}
    return examples, Report(num_rows, skipped, tuple(errors), repeated, shared)


def _example_of(row: Row | ValueError, location: str, source: _Source, reader: _RowReader) -> Example:
    if isinstance(row, ValueError):
        raise row
    return reader.example(row if source.adapt is None else source.adapt(row, location), location)


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


def _limit(group: _Groups, limit: int | None) -> _Groups:
    """Returns the part of a split with the lowest hashes, in the order of the data.

    A prompt's hash does not depend on the other rows, so neither the order of the data nor rows that are added change
    much of the choice.
    """
    if limit is None or len(group) <= limit:
        return group
    chosen = set(sorted(group, key=hash_of)[:limit])
    return {prompt: same for prompt, same in group.items() if prompt in chosen}


def _merge(same: Sequence[Example]) -> Example:
    """Joins the rows with one prompt: the references of all, the metadata of the first."""
    if len(same) == 1 and len(same[0].references) < 2:
        return same[0]
    references = dict.fromkeys(text for example in same for text in example.references)
    return Example(same[0].prompt, tuple(references), same[0].metadata)
