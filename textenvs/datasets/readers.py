"""Rows of data files, streamed: found once, and read again when they are asked for.

A table says where its rows are (`scan`) and reads one of them (`row`). Text files are not held in memory: a place is
the byte at which a row begins. Whatever is wrong with a row comes out of `scan` as a `ValueError` in the row's stead,
which says where it is, so that the caller decides whether to stop or to skip. Quotes in a .csv file that do not fit
together are raised: where the next record begins, nobody knows then.

    .jsonl          one JSON object a line
    .txt            one text a line, in the column "text"; blank lines do not count
    .csv            the first record names the columns; fields in quotes may have several lines
    .tsv            the same with tabs, and without quotes: a quote is a quote
    .parquet        with the `datasets` library: pip install "textenvs[data]"
    owner/name      a data set on the Hugging Face Hub, with the same library
"""

from __future__ import annotations

import codecs
import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeAlias

Row: TypeAlias = Mapping[str, Any]

_SUFFIXES = (".jsonl", ".txt", ".csv", ".tsv", ".parquet")
_HUB_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation",
               "val": "validation", "test": "test"}  # fmt: skip
_INSTALL = 'pip install "textenvs[data]"'


class Table(ABC):
    """The rows of one source.

    Attributes:
        name: What errors call it.
    """

    name: str

    @abstractmethod
    def scan(self) -> Iterator[tuple[int, str, Row | ValueError]]:
        """Find every row.

        Yields:
            The row's place; where it is, for errors ("line 3 of 'a.csv'"); and the row, or what is wrong with it.

        Raises:
            ValueError: If the source cannot be read at all.
        """

    @abstractmethod
    def row(self, place: int) -> Row:
        """Read one row again, by the place that `scan` gave."""


LONGEST_LINE = 1 << 26
"""Bytes of the longest line that is read. A whole file without a line break would fill the memory."""

_FIELD_LIMIT = Lock()


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let `csv` read fields as long as a line may be. Its limit is the whole process's, and is put back."""
    with _FIELD_LIMIT:
        before = csv.field_size_limit(LONGEST_LINE)
        try:
            yield
        finally:
            csv.field_size_limit(before)


class _TextTable(Table):
    """A file of text, line by line.

    Args:
        path: The file.
        encoding: Its encoding, one in which a line ends with the byte of a newline.
    """

    def __init__(self, path: Path, encoding: str = "utf-8") -> None:
        self.path = path
        self.name = repr(str(path))
        try:
            self._encoding = codecs.lookup(encoding).name
        except LookupError as error:
            raise ValueError(f"Expected an encoding that Python knows, got {encoding!r}") from error
        if "é\n".encode(self._encoding, "replace")[-1:] != b"\n" or self._encoding.startswith(("utf-16", "utf-32")):
            raise ValueError(
                f"Expected an encoding in which a newline is one byte, like utf-8 or latin-1, got {encoding!r}"
            )

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise ValueError(f"Expected a file that can be read, got {str(self.path)!r}: {error.strerror}") from error

    def _lines(self, file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
        """The place, the number and the bytes of each line. A byte order mark at the start is left out."""
        place = number = 0
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), start=1):
            if len(line) > LONGEST_LINE:
                raise ValueError(
                    f"Expected lines of at most {LONGEST_LINE:,} bytes, with line breaks between, got a longer one: "
                    f"line {number} of {self.name}"
                )
            skipped = len(codecs.BOM_UTF8) if number == 1 and line.startswith(codecs.BOM_UTF8) else 0
            yield place + skipped, number, line[skipped:]
            place += len(line)

    def _decode(self, data: bytes, place: int) -> str:
        try:
            return data.decode(self._encoding)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Expected {self.name} to be {self._encoding.upper()}, but byte {place + error.start} is not: "
                f"{error.reason}. Another encoding can be named: encoding='latin-1', say"
            ) from error


class _LineTable(_TextTable):
    """A row a line.

    Args:
        path: A .jsonl or .txt file.
        encoding: Its encoding.
    """

    def scan(self) -> Iterator[tuple[int, str, Row | ValueError]]:
        """See `Table.scan`."""
        with self._open() as file:
            for place, number, line in self._lines(file):
                where = f"line {number} of {self.name}"
                if line.strip():
                    try:
                        yield place, where, self._parse(line, place, where)
                    except ValueError as error:
                        yield place, where, error

    def row(self, place: int) -> Row:
        """See `Table.row`."""
        with self._open() as file:
            file.seek(place)
            return self._parse(file.readline(), place, f"byte {place} of {self.name}")

    def _parse(self, line: bytes, place: int, where: str) -> Row:
        text = self._decode(line, place).rstrip("\r\n")
        if self.path.suffix == ".txt":
            return {"text": text}
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"Expected {where} to be a JSON object, but it could not be read: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"Expected {where} to be a JSON object, got {type(row).__name__}")
        return row


class _RecordTable(_TextTable):
    """Records with a header. A record may have several lines.

    Args:
        path: A .csv or .tsv file.
        encoding: Its encoding.
    """

    def __init__(self, path: Path, encoding: str = "utf-8") -> None:
        super().__init__(path, encoding)
        self._columns: tuple[str, ...] = ()

    def _records(self, file: BinaryIO, begin: int = 0) -> Iterator[tuple[int, int, list[str] | ValueError]]:
        """The place, the number of the first line and the fields of each record."""
        consumed: list[tuple[int, int, bytes]] = []

        def decoded() -> Iterator[str]:
            for line in self._lines(file):
                consumed.append(line)
                # What does not decode is found in the record, below: an error here would end the reader.
                yield line[2].decode(self._encoding, "surrogateescape")

        tabs = self.path.suffix == ".tsv"
        reader = csv.reader(
            decoded(),
            delimiter="\t" if tabs else ",",
            quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
            strict=True,
        )
        while True:
            consumed.clear()
            fields, broken = list[str](), None
            try:
                with _long_fields():
                    fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                broken = error
            place, number = begin + consumed[0][0], consumed[0][1]
            try:
                self._decode(b"".join([line for _, _, line in consumed]), place)
            except ValueError as error:
                if broken is not None:  # the encoding explains it
                    raise
                yield place, number, error
                continue
            if broken is not None:
                raise ValueError(
                    f"Expected line {number} of {self.name} to begin a record, but it could not be read: {broken}. It "
                    "cannot be skipped, since where the next record begins is not known"
                ) from broken
            if fields:
                yield place, number, fields

    def scan(self) -> Iterator[tuple[int, str, Row | ValueError]]:
        """See `Table.scan`."""
        with self._open() as file:
            records = self._records(file)
            _, _, header = next(records, (0, 1, []))
            if isinstance(header, ValueError):
                raise header
            repeated = sorted({name for name in header if header.count(name) > 1})
            if repeated:
                raise ValueError(f"Expected line 1 of {self.name} to name each column once, got {repeated} again")
            self._columns = tuple(header)
            for place, number, fields in records:
                where = f"line {number} of {self.name}"
                if not isinstance(fields, ValueError) and len(fields) != len(header):
                    shown = fields if len(repr(fields)) < 200 else f"{fields!r:.200} ..."
                    fields = ValueError(
                        f"Expected {len(header)} fields in {where}, as line 1 names columns, got {len(fields)}: {shown}"
                    )
                yield (
                    place,
                    where,
                    fields if isinstance(fields, ValueError) else dict(zip(self._columns, fields, strict=True)),
                )

    def row(self, place: int) -> Row:
        """See `Table.row`."""
        with self._open() as file:
            file.seek(place)
            _, _, fields = next(self._records(file, place))
        if isinstance(fields, ValueError):
            raise fields
        return dict(zip(self._columns, fields, strict=True))


class _ArrowTable(Table):
    """A table of the `datasets` library, which maps it into memory.

    Args:
        rows: A `datasets.Dataset`.
        name: What errors call it.
    """

    def __init__(self, rows: Any, name: str) -> None:
        self._rows = rows
        self.name = name

    def scan(self) -> Iterator[tuple[int, str, Row | ValueError]]:
        """See `Table.scan`."""
        for place, row in enumerate(self._rows):
            yield place, f"row {place} of {self.name}", row

    def row(self, place: int) -> Row:
        """See `Table.row`."""
        found: Row = self._rows[place]
        return found


def open_tables(source: str | Path, split: str | None, encoding: str = "utf-8") -> list[tuple[str | None, Table]]:
    """The tables of a file or of a data set on the Hub.

    Args:
        source: The path of a file, the id of a data set on the Hub, "owner/name" or "owner/name:configuration", or a
            folder with the files of one, as a clone of it has them.
        split: The split that the rows are of; of the Hub's data set, only that one is loaded.
        encoding: Of a file of text.

    Returns:
        (split, table) each. The split is None where the source does not say and none was given.

    Raises:
        ValueError: If there is no such source, or it is of an unknown kind.
        ImportError: If it needs the `datasets` library, and that is not installed.
    """
    path = Path(source).expanduser()
    if path.suffix == ".parquet":
        if not path.is_file():
            raise ValueError(f"Expected a file that can be read, got {str(path)!r}: there is no such file")
        found = _load("parquet", f"the Parquet file {str(path)!r}", data_files=str(path), split="train")
        return [(split, _ArrowTable(found, repr(str(path))))]
    if path.suffix in _SUFFIXES:
        kind = _LineTable if path.suffix in (".jsonl", ".txt") else _RecordTable
        return [(split, kind(path, encoding))]
    parts = str(source).split("/")
    if not str(source) or (not path.is_dir() and (path.exists() or len(parts) != 2 or not all(parts))):
        raise ValueError(
            f"Expected a {', '.join(_SUFFIXES)} file, the id of a data set on the Hugging Face Hub ('owner/name'), or "
            f"the folder of one, got {str(source)!r}"
        )
    name, configuration = str(path), ""
    if not path.is_dir():
        name, _, configuration = str(source).partition(":")
    what = f"the folder {name!r}" if path.is_dir() else f"{name!r} on the Hugging Face Hub"
    found = _load(name, what, name=configuration or None, split=split)
    tables = [(split, found)] if split is not None else [(_HUB_SPLITS.get(key), rows) for key, rows in found.items()]
    known: list[tuple[str | None, Table]] = [
        (key, _ArrowTable(rows, f"split {key!r} of {name!r}")) for key, rows in tables if key is not None
    ]
    if not known:
        raise ValueError(f"Expected {name!r} to have one of the splits {list(_HUB_SPLITS)}, got {list(found)}")
    return known


def _load(kind: str, what: str, **settings: Any) -> Any:
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise ImportError(f"Reading {what} needs the library datasets: {_INSTALL}") from error
    try:
        return datasets.load_dataset(kind, **settings)
    except Exception as error:  # the library raises many kinds, some of them its own
        raise ValueError(f"Expected to read {what}, but {type(error).__name__}: {error}") from error


def text_of(row: Row, column: str, where: str, *, numbers: bool) -> str:
    """The text in one column of a row.

    Args:
        row: The row.
        column: Which column.
        where: Where the row is.
        numbers: Whether a number will do, too.

    Returns:
        The text; a list of texts is joined with spaces.

    Raises:
        ValueError: If there is none.
    """
    value = row.get(column)
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and numbers:
        return str(value)
    if isinstance(value, Sequence) and value and all(isinstance(one, str) for one in value):
        return " ".join(value)
    raise ValueError(
        f"Expected a string in field {column!r} of {where}, got {value!r:.200}; its fields are {list(row)}"
    )


def texts_of(row: Row, column: str, where: str) -> list[str]:
    """The texts in one column of a row: a list of them, or one.

    Args:
        row: The row.
        column: Which column.
        where: Where the row is.

    Returns:
        The texts.

    Raises:
        ValueError: If there are none.
    """
    value = row.get(column)
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(isinstance(one, (str, int, float)) and not isinstance(one, bool) for one in listed):
        raise ValueError(
            f"Expected a string, or a list of at least one, in field {column!r} of {where}, got {value!r:.200}; its "
            f"fields are {list(row)}"
        )
    return [str(one) for one in listed]
