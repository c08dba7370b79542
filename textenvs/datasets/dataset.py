r"""Real data as a task: files of JSON lines, text, CSV, TSV or Parquet, and data sets on the Hugging Face Hub.

    task = textenvs.load_dataset("stories.jsonl", prompt="text", prompt_tokens=16)
    task = textenvs.load_dataset("sums.csv", template="Q: {question}\nA:", references="answer")
    task = textenvs.load_dataset("path/to/gsm8k", preset="gsm8k")
    env = gym.make("TextGen-v0", task=task)

A file is read once to find its rows and to divide them, and then a row is read when its example is asked for: 25 bytes
a row are held, whatever its length. (An environment holds the tokens of its pool: `limit` says how large that is.)
"""

from __future__ import annotations

import string
import warnings
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.datasets.presets import PRESETS, Source
from textenvs.datasets.readers import Row, Table, open_tables, text_of, texts_of
from textenvs.tasks.base import SPLITS, Example, Task, check_split

_SHARES = {"train": 80, "validation": 10, "test": 10}  # per cent
_SHOWN_ERRORS = 5


@dataclass(frozen=True)
class Report:
    """What was found while a data set was read.

    Attributes:
        rows: How many rows there are, those that could not be read left out.
        skipped: How many could not be read, and were skipped.
        errors: What was wrong with the first few of them.
        repeated: How many rows have the prompt of an earlier row of their split. Their references join that one's.
        shared: (split, other) to the number of prompts of the first that are in the other, later one, too. They were
            left out of the first.
    """

    rows: int
    skipped: int
    errors: tuple[str, ...]
    repeated: int
    shared: Mapping[tuple[str, str], int]


class Dataset(Task):
    r"""Examples from data. No prompt is in two splits.

    Rows are of the split that is named for them; where none is, a hash of the prompt says. A prompt that is in several
    named splits stays in the last of them (test, validation, train), with a warning that says how many there were. Rows
    with the same prompt in one split are one example, which has the references of all of them.

    Args:
        path: A `.jsonl`, `.txt` (one text a line, in the column `text`), `.csv`, `.tsv` or `.parquet` file; a data set
            on the Hugging Face Hub, "owner/name" or "owner/name:configuration"; a dict of split to any of these; or,
            with a preset, the folder that holds its files.
        prompt: The column that holds the prompt's text; None is "text". A list of texts is joined with spaces.
        references: The column that holds a reference text or a list of them; None: there are none.
        template: The prompt as a text with columns in braces, "Q: {question}\nA:", instead of `prompt`. Doubled braces
            are braces.
        metadata: Columns that rewards want to read in `example.metadata`.
        split: The split that all rows are of; from the Hub, only this one is loaded. None: see above.
        preset: One of `textenvs.datasets.PRESETS`: all of these settings for a public data set. Others still count.
        limit: At most this many examples a split, chosen by a hash of their prompts; None keeps all.
        on_error: What happens where a row cannot be read: "raise", or "skip", which counts them in `report`. Quotes in
            a CSV file that do not fit together are raised either way, since no row behind them can be told.
        encoding: Of files of text.
        prompt_tokens: Keep only the first so many tokens of each prompt, so that a whole text becomes the beginning
            that a policy continues; None keeps it all. Texts that then begin alike stay in one split.
        reward: The default reward of an environment with this task; None is the preset's; without one, "token_f1" where
            there are references, the overlap of words, which free text and short answers can both earn a part of, and
            "sentiment" where there are none.
        held_out_reward: The default held-out metric; None is the preset's; without one, "chrf" where there are
            references, and "vader" where there are none.
        max_new_tokens: The default budget; None is the preset's, or 32.

    Raises:
        ValueError: If a source is missing, empty or of another kind, or a row is not what it should be; says which.
        TypeError: If an argument is of the wrong kind.
        ImportError: If Parquet or the Hub is asked for, and the library `datasets` is not installed.

    Attributes:
        report: What was found on the way.
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
        self.max_prompt_tokens = _count("prompt_tokens", setting("prompt_tokens", prompt_tokens))
        limit = _count("limit", limit)
        if on_error not in ("raise", "skip"):
            raise ValueError(f"Expected on_error to be 'raise' or 'skip', got {on_error!r}")
        if prompt is not None and template is not None:
            raise ValueError("Expected a prompt column or a template, got both")
        if split is not None:
            check_split(split)
        columns = setting("metadata", metadata, ())
        if isinstance(columns, str):
            raise TypeError(f"Expected metadata as a list of columns, got {columns!r}")
        self._reader = _RowReader(
            prompt or "text",
            None if prompt else setting("template", template),
            column,
            tuple(columns),
        )
        self._sources = list(_sources(path, preset, split, encoding))
        self._index, self.report = _read(self._sources, self._reader, on_error, limit)
        if not self.report.rows:
            raise ValueError(
                f"Expected at least one prompt in {path!r}, got an empty file"
                + (f" and {self.report.skipped} rows that could not be read" if self.report.skipped else "")
            )
        _warn(self.report, path)

    def num_examples(self, split: str) -> int:
        """See `Task.num_examples`."""
        check_split(split)
        return len(self._index[split])

    def example(self, split: str, index: int) -> Example:
        """See `Task.example`."""
        check_split(split)
        if not 0 <= index < len(self._index[split]):
            raise IndexError(f"Expected an index in [0, {len(self._index[split])}), got {index}")
        found = [self._read(source, place) for source, place in self._index[split].rows(index)]
        wrong = next((one.prompt for one in found if _key_of(one.prompt) != self._index[split].key(index)), None)
        if wrong is not None:
            raise ValueError(
                f"Expected the prompt of example {index} in split {split!r} to be as it was when the file was read, "
                f"got {wrong[:200]!r}: the file has changed since, and has to be loaded again"
            )
        references = dict.fromkeys(text for example in found for text in example.references)
        return Example(found[0].prompt, tuple(references), found[0].metadata)

    def _read(self, source: int, place: int) -> Example:
        table, adapt = self._sources[source].table, self._sources[source].adapt
        where = f"a row of {table.name} that has been read before, and has changed since,"
        row = table.row(place)
        return self._reader.example(row if adapt is None else adapt(row, where), where)


def load_dataset(path: str | Path | Mapping[str, str | Path], **settings: Any) -> Dataset:
    r"""Real data as a task.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "sums.csv"
        >>> _ = file.write_text('question,answer\n1+1,2\n2+3,5\n')
        >>> task = load_dataset(file, template="What is {question}?", references="answer", split="train")
        >>> task.example("train", 1)
        Example(prompt='What is 2+3?', references=('5',), metadata={})

    Args:
        path: A file, a data set on the Hub, a dict of split to either, or a preset's folder.
        **settings: See `Dataset`.

    Returns:
        The task, for `gym.make("TextGen-v0", task=...)`. `task={"dataset": {"path": ..., ...}}` is the same and can
        be written to JSON.
    """
    return Dataset(path, **settings)


def _count(name: str, value: Any) -> int | None:
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


@dataclass(frozen=True)
class _RowReader:
    """Makes an example of a row.

    Attributes:
        prompt: The column that is the prompt, where there is no template.
        template: The prompt with columns in braces, or None.
        references: The column with references, or None.
        metadata: The columns that become metadata.
    """

    prompt: str
    template: str | None
    references: str | None
    metadata: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.template is not None and not any(column for _, column in self._parts()):
            raise ValueError(f"Expected a template with at least one column in braces, got {self.template!r}")

    def _parts(self) -> list[tuple[str, str | None]]:
        """The template as text, column, text, column ... Columns are names and nothing more: no index, no format."""
        try:
            parts = list(string.Formatter().parse(self.template or ""))
        except ValueError as error:
            raise ValueError(f"Expected a template with columns in braces, got {self.template!r}: {error}") from error
        for _, column, form, conversion in parts:
            if column == "" or form or conversion:
                raise ValueError(
                    f"Expected a template with names of columns in braces, and nothing else, got {self.template!r}"
                )
        return [(text, column) for text, column, _, _ in parts]

    def example(self, row: Row, where: str) -> Example:
        """The example of a row. ValueError where a column is missing or of the wrong kind."""
        if self.template is None:
            prompt = text_of(row, self.prompt, where, numbers=False)
        else:
            prompt = "".join(
                text + ("" if column is None else text_of(row, column, where, numbers=True))
                for text, column in self._parts()
            )
        found = () if self.references is None else tuple(texts_of(row, self.references, where))
        missing = [column for column in self.metadata if column not in row]
        if missing:
            raise ValueError(f"Expected the columns {missing} in {where}; its fields are {list(row)}")
        return Example(prompt, found, {column: row[column] for column in self.metadata})


@dataclass(frozen=True)
class _Opened:
    """A source, and how to read it."""

    table: Table
    split: str | None
    adapt: Any


def _sources(path: Any, preset: str | None, split: str | None, encoding: str) -> Iterator[_Opened]:
    if preset is not None:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise ValueError(f"Expected the folder that holds the files of preset {preset!r}, got {str(path)!r}")
        files: list[tuple[str | Path, str | None, Any]] = [
            (folder / source.file, source.split, source.adapt) for source in _files_of(preset)
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
    for file, name, adapt in files:
        for found, table in open_tables(file, name, encoding):
            yield _Opened(table, found, adapt)


def _files_of(preset: str) -> tuple[Source, ...]:
    return PRESETS[preset].sources


class _SplitIndex:
    """Which rows make up each example of a split.

    Args:
        rows: `(n,)` int64, rows of the split, those of one example together.
        starts: `(examples + 1,)` int64, where each example's begin in `rows`.
        sources: `(all rows,)` uint8, the source of each row.
        places: `(all rows,)` uint64, its place there.
        keys: `(examples,)` uint64, of each example's prompt.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        starts: NDArray[np.int64],
        sources: NDArray[Any],
        places: NDArray[Any],
        keys: NDArray[np.uint64],
    ) -> None:
        self._rows, self._starts, self._sources, self._places, self._keys = rows, starts, sources, places, keys

    def __len__(self) -> int:
        return len(self._starts) - 1

    def rows(self, index: int) -> list[tuple[int, int]]:
        """(source, place) of each row of one example."""
        rows = self._rows[self._starts[index] : self._starts[index + 1]]
        return [(int(self._sources[row]), int(self._places[row])) for row in rows]

    def key(self, index: int) -> int:
        """The 64 bits of the hash of one example's prompt."""
        return int(self._keys[index])


def _key_of(prompt: str) -> int:
    return int.from_bytes(sha256(prompt.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _read(
    sources: Sequence[_Opened], reader: _RowReader, on_error: str, limit: int | None
) -> tuple[dict[str, _SplitIndex], Report]:
    """Find every row, and divide them. Each has 64 bits of its prompt's hash, by which prompts are told apart."""
    keys, places, of_source, of_split = array("Q"), array("Q"), array("B"), array("B")
    skipped, errors = 0, list[str]()
    by_share = [place for place, share in enumerate(_SHARES.values()) for _ in range(share)]
    for number, source in enumerate(sources):
        for place, where, row in source.table.scan():
            try:
                if isinstance(row, ValueError):
                    raise row
                example = reader.example(row if source.adapt is None else source.adapt(row, where), where)
            except ValueError as error:
                if on_error == "raise":
                    raise
                skipped += 1
                if len(errors) < _SHOWN_ERRORS:
                    errors.append(str(error))
                continue
            key = _key_of(example.prompt)
            keys.append(key)
            places.append(place)
            of_source.append(number)
            of_split.append(by_share[key % 100] if source.split is None else SPLITS.index(source.split))
    # The arrays become NumPy's without a copy.
    all_keys, all_splits = np.frombuffer(keys, np.uint64), np.frombuffer(of_split, np.uint8)
    all_places, all_sources = np.frombuffer(places, np.uint64), np.frombuffer(of_source, np.uint8)
    kept = np.ones(len(all_keys), dtype=np.bool_)
    shared = {}
    for first, one in enumerate(SPLITS):
        for second in range(len(SPLITS) - 1, first, -1):
            both = kept & (all_splits == first) & np.isin(all_keys, all_keys[all_splits == second])
            if both.any():
                shared[one, SPLITS[second]] = len(np.unique(all_keys[both]))
                kept &= ~both
    index, examples = {}, 0
    for number, split in enumerate(SPLITS):
        rows = np.flatnonzero(kept & (all_splits == number))
        unique, first_row, group = np.unique(all_keys[rows], return_index=True, return_inverse=True)
        examples += len(unique)
        chosen = np.arange(len(unique))
        if limit is not None and len(unique) > limit:
            chosen = np.sort(np.argsort(unique // np.uint64(100), kind="stable")[:limit])
        order = chosen[np.argsort(first_row[chosen], kind="stable")]  # as they come in the files
        rank = np.full(len(unique), -1, dtype=np.int64)
        rank[order] = np.arange(len(order))
        ranks = rank[group]
        by_rank = np.argsort(ranks, kind="stable")[np.count_nonzero(ranks < 0) :]
        starts = np.searchsorted(ranks[by_rank], np.arange(len(order) + 1))
        index[split] = _SplitIndex(rows[by_rank], starts, all_sources, all_places, unique[order])
    report = Report(len(all_keys), skipped, tuple(errors), int(np.count_nonzero(kept)) - examples, shared)
    return index, report
