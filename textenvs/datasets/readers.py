"""Tables of rows: files, parallel files, rows in memory, and data sets on the Hugging Face Hub.

    .jsonl .ndjson   one JSON object a line
    .json            a list of objects, or one object with a list of them inside: rows="data"
    .txt             one text a line, in the column "text"; blank lines do not count
    .csv             the first record names the columns; fields in quotes may span several lines
    .tsv             the same with tabs, and without quoting: a quote is a character like any other
    .parquet         with the `datasets` library: pip install "textenvs[data]"
    owner/name       a data set on the Hugging Face Hub, with the same library
    a list of dicts or of texts, a pandas DataFrame, a table of the `datasets` library

All but .parquet may be packed with gzip (`rows.jsonl.gz`), and endings may be in capitals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from textenvs.datasets.fields import MISSING, Row, value_of
from textenvs.datasets.text_files import Rows, TextFile, kind_of, read_parallel, read_rows

Source: TypeAlias = Any
"""A path, the id of a data set, a dict of column to parallel file, or rows in memory."""

_TEXT_KINDS = (".jsonl", ".ndjson", ".json", ".txt", ".csv", ".tsv")
_HUB_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation",
               "val": "validation", "test": "test"}  # fmt: skip
_INSTALL = 'pip install "textenvs[data]"'


@dataclass(frozen=True)
class Format:
    """The form of a source where its kind does not say it.

    Attributes:
        encoding: The encoding of text files.
        separator: The character between the fields of a .csv or .tsv file; None finds it.
        columns: The names of the columns of a .csv or .tsv file without a header.
        rows: The path to the rows inside of each object, "data.paragraphs.qas" say. A row has the fields of the objects
            around it, too. If None, each object is a row.

    Raises:
        TypeError: If `columns` is no list of names, or another field is no text.
    """

    encoding: str = "utf-8"
    separator: str | None = None
    columns: Sequence[str] | None = None
    rows: str | None = None

    def __post_init__(self) -> None:
        names = () if self.columns is None else self.columns
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"Expected columns as a list of names, got {self.columns!r:.200}")
        for name in ("encoding", "separator", "rows"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name == "encoding"):
                raise TypeError(f"Expected {name} to be a text, got {value!r:.200}")


class Table(NamedTuple):
    """Rows of one split.

    Attributes:
        split: The split of all rows; None if neither the source nor the caller names one.
        rows: The rows, with their locations.
        remedy: The hint behind an error about a column that is missing, or "".
    """

    split: str | None
    rows: Rows
    remedy: str = ""


def read_tables(source: Source, split: str | None = None, form: Format | None = None) -> list[Table]:
    """Finds the tables of a source. A text file is read as its rows are asked for.

    Args:
        source: The path of a file; the id of a data set on the Hub, "owner/name" or "owner/name:configuration"; a
            folder with the files of one, such as a clone of it; a dict of column to file, for parallel files; or rows
            in memory, see `is_in_memory`.
        split: The split of all rows. From the Hub, only this split is loaded.
        form: The form of the source. If None, its kind says it.

    Returns:
        The tables.

    Raises:
        ValueError: If there is no such source, or it is of an unknown kind. Text files raise it with their first row.
        TypeError: If the source is of another type.
        ImportError: If it needs the `datasets` library, and that is not installed.
    """
    form = form or Format()
    tables = _read_source(source, split, form)
    if form.rows is None:
        return tables
    names = [name for name in form.rows.split(".") if name]
    return [table._replace(rows=expand_rows(table.rows, names)) for table in tables]


def _read_source(source: Source, split: str | None, form: Format) -> list[Table]:
    if isinstance(source, Mapping):
        return [Table(split, read_parallel(_parallel_files(source, form)))]
    if is_in_memory(source):
        return [Table(split, _read_memory(source))]
    if not isinstance(source, (str, Path)):
        raise TypeError(
            "Expected a path, the id of a data set, a list of dicts or of texts, or a DataFrame, got "
            f"{type(source).__name__}"
        )
    path = Path(source).expanduser()
    kind = kind_of(path)
    if kind == ".parquet":
        if not path.is_file():
            raise ValueError(f"Expected a file that can be read, got {str(path)!r}: there is no such file")
        table = _load("parquet", f"the Parquet file {str(path)!r}", data_files=str(path), split="train")
        return [Table(split, _read_iterable(table, repr(str(path))))]
    if kind in _TEXT_KINDS and not path.is_dir():
        rows = read_rows(TextFile(path, form.encoding), form.separator, form.columns)
        is_table = kind in (".csv", ".tsv") and form.columns is None
        remedy = ". If line 1 is a row and names no columns, name them: columns=['text', 'label'], say"
        return [Table(split, rows, remedy if is_table else "")]
    parts = str(source).split("/")
    if not str(source) or (not path.is_dir() and (path.exists() or len(parts) != 2 or not all(parts))):
        lines = ". Files of lines with other endings are columns: {'en': 'text.en', 'de': 'text.de'}, say"
        raise ValueError(
            f"Expected a {', '.join(_TEXT_KINDS)} file, each also as .gz, a .parquet file, the id of a data set on the "
            f"Hugging Face Hub ('owner/name'), or the folder of one, got {str(source)!r}"
            + (lines if path.is_file() else "")
        )
    return _read_hub(source, split)


def _parallel_files(files: Mapping[str, Any], form: Format) -> dict[str, TextFile]:
    if len(files) < 2:
        raise ValueError(
            f"Expected the splits 'train', 'validation' and 'test', or a column for each of at least two files, got "
            f"{dict(files)!r:.200}"
        )
    for column, file in files.items():
        if not isinstance(file, (str, Path)) or kind_of(Path(file)) in {*_TEXT_KINDS, ".parquet"} - {".txt"}:
            raise ValueError(
                f"Expected a file of lines for column {column!r}, got {file!r:.200}. For files of rows, the keys are "
                "the splits 'train', 'validation' and 'test'"
            )
    return {column: TextFile(Path(file).expanduser(), form.encoding) for column, file in files.items()}


def is_in_memory(source: Source) -> bool:
    """Returns True for rows in memory: a list of dicts or of texts, a DataFrame, or another iterable of dicts.

    Args:
        source: A source.

    Returns:
        False for paths, ids and dicts.
    """
    return isinstance(source, Iterable) and not isinstance(source, (str, bytes, Path, Mapping))


def _read_memory(source: Iterable[Any]) -> Rows:
    frame: Any = source
    if hasattr(frame, "itertuples"):  # a DataFrame of pandas, whose iteration would yield its columns
        names = [str(name) for name in frame.columns]
        if len(set(names)) < len(names):
            raise ValueError(f"Expected a DataFrame that names each column once, got {names}")
        source = (dict(zip(names, values, strict=True)) for values in frame.itertuples(index=False, name=None))
    yield from _read_iterable(source, f"the {type(frame).__name__} in memory")


def _read_iterable(table: Iterable[Any], name: str) -> Rows:
    for index, row in enumerate(table):
        location = f"row {index} of {name}"
        if isinstance(row, Mapping):
            yield location, row
        elif isinstance(row, str):
            yield location, {"text": row}
        else:
            yield location, ValueError(f"Expected a dict of column to value as {location}, got {row!r:.200}")


def expand_rows(rows: Rows, names: Sequence[str]) -> Rows:
    """Yields the rows inside of each object, at a path of names, each with the fields of the objects around it.

    Args:
        rows: The objects.
        names: The path.

    Yields:
        The rows inside, with their locations.
    """
    for location, row in rows:
        if isinstance(row, ValueError):
            yield location, row
        else:
            yield from _rows_at(row, names, {}, location)


def _rows_at(value: Any, names: Sequence[str], outer: Row, location: str) -> Rows:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _rows_at(item, names, outer, f"[{index}] of {location}")
    elif not isinstance(value, Mapping):
        yield location, ValueError(f"Expected an object as {location}, got {value!r:.200}")
    elif not names:
        yield location, {**outer, **value}
    else:
        name, *rest = names
        inner = value_of(value, name)
        if not isinstance(inner, (list, Mapping)):
            came = "none" if inner is MISSING else f"{inner!r:.200}"
            message = (
                f"Expected a list of rows in field {name!r} of {location}, got {came}; its fields are {list(value)}"
            )
            yield location, ValueError(message)
            return
        fields = {**outer, **{key: item for key, item in value.items() if key != name}}
        yield from _rows_at(inner, rest, fields, f"{name} of {location}")


def absolute_source(source: Source) -> Source:
    """Returns a source that means the same files from every working directory.

    Args:
        source: A source of `read_tables`, or a dict of split to sources.

    Returns:
        The same, paths of files and folders absolute and as text. Ids of the Hub and rows in memory stay as they are.
    """
    if isinstance(source, Mapping):
        return {name: absolute_source(file) for name, file in source.items()}
    if not isinstance(source, (str, Path)) or not str(source):
        return source
    path = Path(source).expanduser()
    is_file = path.exists() or isinstance(source, Path) or kind_of(path) in (*_TEXT_KINDS, ".parquet")
    return str(path.absolute()) if is_file else source


def _read_hub(source: str | Path, split: str | None) -> list[Table]:
    folder = Path(source).expanduser()
    if folder.is_dir():
        name, configuration, description = str(folder), "", f"the folder {str(folder)!r}"
    else:
        name, _, configuration = str(source).partition(":")
        description = f"{name!r} on the Hugging Face Hub"
    loaded = _load(name, description, name=configuration or None, split=split)
    # With a split, the library returns that table alone; without one, all tables by name.
    tables = [(split, loaded)] if split is not None else [(_HUB_SPLITS.get(key), loaded[key]) for key in loaded]
    known = [
        Table(key, _read_iterable(table, f"split {key!r} of {name!r}")) for key, table in tables if key is not None
    ]
    if not known:
        raise ValueError(f"Expected {name!r} to have one of the splits {list(_HUB_SPLITS)}, got {list(loaded)}")
    return known


def load_from_hub(name: str, configuration: str | None, split: str, from_parquet: bool = False) -> Rows:
    """Loads one split of a data set on the Hugging Face Hub.

    Args:
        name: The id.
        configuration: The name of the configuration, or None.
        split: The split, or a slice of it: "train[:1000]".
        from_parquet: If True, the hub's own Parquet files are read. Sets that are published as a script need it.

    Returns:
        The rows.

    Raises:
        ValueError: If it cannot be loaded.
        ImportError: If the `datasets` library is not installed.
    """
    settings: dict[str, Any] = {} if configuration is None else {"name": configuration}
    if from_parquet:  # there, a configuration is a folder
        settings = {"revision": "refs/convert/parquet"} | ({} if configuration is None else {"data_dir": configuration})
    table = _load(name, f"{name!r} on the Hugging Face Hub", split=split, **settings)
    return _read_iterable(table, f"split {split!r} of {name!r}")


def _load(kind: str, description: str, **settings: Any) -> Any:
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise ImportError(f"Reading {description} needs the library datasets: {_INSTALL}") from error
    try:
        return datasets.load_dataset(kind, **settings)
    except Exception as error:  # the library raises many kinds, some of them its own
        raise ValueError(f"Expected to read {description}, but {type(error).__name__}: {error}") from error
