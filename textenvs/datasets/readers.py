"""Rows of data files and of data sets on the Hugging Face Hub, each with its location for errors.

A row that is not what it should be comes as a `ValueError` in its stead, so that the caller decides whether to stop or
to skip it. Unbalanced quotes in a .csv file are raised at once: nobody can tell where the next record begins.

    .jsonl          one JSON object a line
    .txt            one text a line, in the column "text"; blank lines do not count
    .csv            the first record names the columns; fields in quotes may span several lines
    .tsv            the same with tabs, and without quoting: a quote is a character like any other
    .parquet        with the `datasets` library: pip install "textenvs[data]"
    owner/name      a data set on the Hugging Face Hub, with the same library
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple, TypeAlias

Row: TypeAlias = Mapping[str, Any]
"""Column to value."""

Rows: TypeAlias = Iterator[tuple[str, Row | ValueError]]
"""The rows of a source, each with its location ("line 3 of 'a.csv'"); an error where a row could not be read."""

LONGEST_LINE = 1 << 26
"""Length of the longest line that is read, in bytes. Beyond it, a file is taken to have no line breaks at all."""

_SUFFIXES = (".jsonl", ".txt", ".csv", ".tsv", ".parquet")
_HUB_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation",
               "val": "validation", "test": "test"}  # fmt: skip
_INSTALL = 'pip install "textenvs[data]"'


def read_tables(source: str | Path, split: str | None = None, encoding: str = "utf-8") -> list[tuple[str | None, Rows]]:
    """Finds the tables of a file or of a data set on the Hub. A text file is read as its rows are asked for.

    Args:
        source: The path of a file; the id of a data set on the Hub, "owner/name" or "owner/name:configuration"; or a
            folder with the files of one, such as a clone of it.
        split: The split of all rows. From the Hub, only this split is loaded.
        encoding: The encoding of a text file.

    Returns:
        (split, rows) of each table. The split is None if neither the source nor the caller names one.

    Raises:
        ValueError: If there is no such source, or it is of an unknown kind. Text files raise it with their first row.
        ImportError: If it needs the `datasets` library, and that is not installed.
    """
    path = Path(source).expanduser()
    if path.suffix == ".parquet":
        if not path.is_file():
            raise ValueError(f"Expected a file that can be read, got {str(path)!r}: there is no such file")
        table = _load("parquet", f"the Parquet file {str(path)!r}", data_files=str(path), split="train")
        return [(split, _read_arrow(table, repr(str(path))))]
    if path.suffix in _SUFFIXES:
        file = _TextFile(path, encoding)
        return [(split, _read_lines(file) if path.suffix in (".jsonl", ".txt") else _read_records(file))]
    parts = str(source).split("/")
    if not str(source) or (not path.is_dir() and (path.exists() or len(parts) != 2 or not all(parts))):
        raise ValueError(
            f"Expected a {', '.join(_SUFFIXES)} file, the id of a data set on the Hugging Face Hub ('owner/name'), or "
            f"the folder of one, got {str(source)!r}"
        )
    return _read_hub(source, split)


def _read_hub(source: str | Path, split: str | None) -> list[tuple[str | None, Rows]]:
    folder = Path(source).expanduser()
    if folder.is_dir():
        name, configuration, description = str(folder), "", f"the folder {str(folder)!r}"
    else:
        name, _, configuration = str(source).partition(":")
        description = f"{name!r} on the Hugging Face Hub"
    loaded = _load(name, description, name=configuration or None, split=split)
    # With a split, the library returns that table alone; without one, all tables by name.
    tables = [(split, loaded)] if split is not None else [(_HUB_SPLITS.get(key), loaded[key]) for key in loaded]
    known: list[tuple[str | None, Rows]] = [
        (key, _read_arrow(table, f"split {key!r} of {name!r}")) for key, table in tables if key is not None
    ]
    if not known:
        raise ValueError(f"Expected {name!r} to have one of the splits {list(_HUB_SPLITS)}, got {list(loaded)}")
    return known


def _load(kind: str, description: str, **settings: Any) -> Any:
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise ImportError(f"Reading {description} needs the library datasets: {_INSTALL}") from error
    try:
        return datasets.load_dataset(kind, **settings)
    except Exception as error:  # the library raises many kinds, some of them its own
        raise ValueError(f"Expected to read {description}, but {type(error).__name__}: {error}") from error


def _read_arrow(table: Any, name: str) -> Rows:
    for index, row in enumerate(table):
        yield f"row {index} of {name}", row


class _Line(NamedTuple):
    """A line of a file.

    Attributes:
        number: Counted from 1.
        start: The byte of the file at which it begins.
        content: The bytes, line break included.
    """

    number: int
    start: int
    content: bytes


class _TextFile:
    """A file of text, read as lines of bytes, so that an error of the encoding can name its byte.

    Attributes:
        path: The file.
        name: The name of the file in errors.
        encoding: The encoding, one in which a line ends with the byte of a newline.
    """

    def __init__(self, path: Path, encoding: str) -> None:
        self.path = path
        self.name = repr(str(path))
        try:
            self.encoding = codecs.lookup(encoding).name
        except LookupError as error:
            raise ValueError(f"Expected an encoding that Python knows, got {encoding!r}") from error
        if "é\n".encode(self.encoding, "replace")[-1:] != b"\n" or self.encoding.startswith(("utf-16", "utf-32")):
            raise ValueError(
                f"Expected an encoding in which a newline is one byte, like utf-8 or latin-1, got {encoding!r}"
            )

    def lines(self) -> Iterator[_Line]:
        """Yields the lines. A byte order mark at the start of the file is left out."""
        start = 0
        with self._open() as file:
            # Not `for line in file`: that would read a file without line breaks into memory, whatever its size.
            for number, content in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
                if len(content) > LONGEST_LINE:
                    raise ValueError(
                        f"Expected lines of at most {LONGEST_LINE:,} bytes, with line breaks between, got a longer "
                        f"one: line {number} of {self.name}"
                    )
                has_mark = number == 1 and content.startswith(codecs.BOM_UTF8)
                mark_length = len(codecs.BOM_UTF8) if has_mark else 0
                yield _Line(number, start + mark_length, content[mark_length:])
                start += len(content)

    def decode(self, data: bytes, start: int) -> str:
        """Decodes bytes of the file, the first of which is its byte `start`. ValueError where they are not text."""
        try:
            return data.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Expected {self.name} to be {self.encoding.upper()}, but byte {start + error.start} is not: "
                f"{error.reason}. Another encoding can be named: encoding='latin-1', say"
            ) from error

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise ValueError(f"Expected a file that can be read, got {str(self.path)!r}: {error.strerror}") from error


def _read_lines(file: _TextFile) -> Rows:
    """Reads a .jsonl or .txt file: a row a line."""
    for line in file.lines():
        if line.content.strip():
            location = f"line {line.number} of {file.name}"
            try:
                yield location, _parse(file, line, location)
            except ValueError as error:
                yield location, error


def _parse(file: _TextFile, line: _Line, location: str) -> Row:
    text = file.decode(line.content, line.start).rstrip("\r\n")
    if file.path.suffix == ".txt":
        return {"text": text}
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected {location} to be a JSON object, but it could not be read: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"Expected {location} to be a JSON object, got {type(row).__name__}")
    return row


def _read_records(file: _TextFile) -> Rows:
    """Reads a .csv or .tsv file: a header, then a row a record."""
    records = _records(file)
    _, header = next(records, (1, []))
    if isinstance(header, ValueError):
        raise header
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(f"Expected line 1 of {file.name} to name each column once, got {repeated} again")
    for number, fields in records:
        location = f"line {number} of {file.name}"
        if isinstance(fields, ValueError):
            yield location, fields
        elif len(fields) != len(header):
            shown = fields if len(repr(fields)) < 200 else f"{fields!r:.200} ..."
            yield (
                location,
                ValueError(
                    f"Expected {len(header)} fields in {location}, as line 1 names columns, got {len(fields)}: {shown}"
                ),
            )
        else:
            yield location, dict(zip(header, fields, strict=True))


def _records(file: _TextFile) -> Iterator[tuple[int, list[str] | ValueError]]:
    """Yields the number of the first line of each record, and its fields, or an error where it is not text."""
    consumed: list[_Line] = []  # the lines that the reader took for the record at hand

    def decoded_lines() -> Iterator[str]:
        for line in file.lines():
            consumed.append(line)
            # A generator that raises is over, so bytes that are no text pass here and are found in the record, below.
            yield line.content.decode(file.encoding, "surrogateescape")

    tabs = file.path.suffix == ".tsv"
    reader = csv.reader(
        decoded_lines(),
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        strict=True,
    )
    while True:
        consumed.clear()
        fields, csv_error = list[str](), None
        try:
            with _long_fields():
                fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            csv_error = error
        first = consumed[0]
        try:
            file.decode(b"".join(line.content for line in consumed), first.start)
        except ValueError as error:
            if csv_error is not None:  # a wrong encoding explains the broken record, and is the better message
                raise
            yield first.number, error
            continue
        if csv_error is not None:
            raise ValueError(
                f"Expected line {first.number} of {file.name} to begin a record, but it could not be read: "
                f"{csv_error}. It cannot be skipped, since where the next record begins is not known"
            ) from csv_error
        if fields:
            yield first.number, fields


_FIELD_LIMIT = Lock()


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lets `csv` read fields as long as a line may be. The limit holds for the whole process, and is put back."""
    with _FIELD_LIMIT:
        before = csv.field_size_limit(LONGEST_LINE)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def text_of(row: Row, column: str, location: str, *, numbers: bool) -> str:
    """Returns the text in one column of a row.

    Args:
        row: The row.
        column: The name of the column.
        location: The location of the row, for errors.
        numbers: If True, a number counts as text, too.

    Returns:
        The text; a list of texts is joined with spaces.

    Raises:
        ValueError: If the column is missing, or holds no text.
    """
    value = row.get(column)
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and numbers:
        return str(value)
    if isinstance(value, Sequence) and value and all(isinstance(text, str) for text in value):
        return " ".join(value)
    raise ValueError(
        f"Expected a string in field {column!r} of {location}, got {value!r:.200}; its fields are {list(row)}"
    )


def texts_of(row: Row, column: str, location: str) -> list[str]:
    """Returns the texts in one column of a row, which holds a list of them or a single one.

    Args:
        row: The row.
        column: The name of the column.
        location: The location of the row, for errors.

    Returns:
        The texts, at least one.

    Raises:
        ValueError: If the column is missing or empty, or holds something else.
    """
    value = row.get(column)
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(text, (str, int, float)) and not isinstance(text, bool) for text in values):
        raise ValueError(
            f"Expected a string, or a list of at least one, in field {column!r} of {location}, got {value!r:.200}; its "
            f"fields are {list(row)}"
        )
    return [str(text) for text in values]
