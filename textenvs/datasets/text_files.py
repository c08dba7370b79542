"""Files of rows as people write them: lines of JSON or text, JSON arrays, CSV and TSV, packed with gzip or not.

A row that is not what it should be comes as a `ValueError` in its stead, so that the caller decides whether to stop or
to skip it. Unbalanced quotes in a .csv file are raised at once: nobody can tell where the next record begins.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from threading import Lock
from typing import BinaryIO, NamedTuple, TypeAlias

from textenvs.datasets.fields import Row
from textenvs.files import open_plain

Rows: TypeAlias = Iterator[tuple[str, Row | ValueError]]
"""The rows of a source, each with its location ("line 3 of 'a.csv'"); an error where a row could not be read."""

LONGEST_LINE = 1 << 26
"""Length of the longest line that is read, in bytes. Beyond it, a file is taken to have no line breaks at all. A record
of a .csv file, whose quoted fields may span lines, may not be longer either."""

LARGEST_JSON = 1 << 29
"""Bytes of the largest .json file that is read, unpacked: it is read as a whole, unlike lines."""

MOST_COLUMNS = 1 << 17
"""The most fields of a record of a .csv or .tsv file."""

PACKED_AT_MOST = 200
"""How many times its size a .gz file may unpack to. Text is packed to a fifth, and logs to a fiftieth."""

_MOST_LINES = 1 << 20  # of a record with line breaks in quotes
_ALWAYS_UNPACKED = 1 << 22  # bytes that a .gz file may unpack to in any case

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_NOT_OF_FILES = ("idna", "punycode", "undefined", "unicode-escape", "unicode_escape")  # of names, or of nothing
_SEPARATORS = (",", ";", "\t", "|")


def kind_of(path: Path) -> str:
    """Returns the ending of a file that says what it holds, in small letters and without `.gz`.

    Args:
        path: The file.

    Returns:
        The ending with its dot, or "".

    Example:
        >>> kind_of(Path("DATA.CSV")), kind_of(Path("rows.jsonl.gz"))
        ('.csv', '.jsonl')
    """
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


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


class TextFile:
    """A file of text, read as lines of bytes, so that an error of the encoding can name its byte.

    Attributes:
        path: The file.
        name: The name of the file in errors.
        kind: Its ending, see `kind_of`.
        encoding: The encoding, one in which a line ends with the byte of a newline.
    """

    def __init__(self, path: Path, encoding: str) -> None:
        self.path = path
        self.name = repr(str(path))
        self.kind = kind_of(path)
        self.encoding = _checked_encoding(encoding)

    def lines(self) -> Iterator[_Line]:
        """Yields the lines. A byte order mark at the start of the file is left out."""
        start = 0
        with self._open() as file:
            largest = self._most_bytes(file)
            # Not `for line in file`: that would read a file without line breaks into memory, whatever its size.
            for number, content in enumerate(iter(lambda: self._read_line(file), b""), start=1):
                if len(content) > LONGEST_LINE:
                    raise ValueError(
                        f"Expected lines of at most {LONGEST_LINE:,} bytes, with line breaks between, got a longer "
                        f"one: line {number} of {self.name}"
                    )
                if number == 1 and content.startswith(_UTF_16):
                    raise ValueError(
                        f"Expected {self.name} to be {self.encoding.upper()}, but byte 0 is not: it begins like "
                        "UTF-16. Save it as UTF-8, with iconv -f UTF-16 -t UTF-8 say"
                    )
                if start + len(content) > largest:
                    raise ValueError(
                        f"Expected {self.name} to unpack to at most {PACKED_AT_MOST} times its size, got more: "
                        f"{largest:,} bytes. If it is meant to, unpack it first"
                    )
                has_mark = number == 1 and content.startswith(codecs.BOM_UTF8)
                mark_length = len(codecs.BOM_UTF8) if has_mark else 0
                yield _Line(number, start + mark_length, content[mark_length:])
                start += len(content)

    def text(self) -> str:
        """Returns the whole text, without a byte order mark. ValueError if the file cannot be read or is not text."""
        lines = []
        for line in self.lines():
            if line.start > LARGEST_JSON:
                raise ValueError(
                    f"Expected at most {LARGEST_JSON:,} bytes in {self.name}, got more. Write an object a line, as "
                    ".jsonl: such files may be of any size"
                )
            lines.append(line)
        return self.decode(b"".join(line.content for line in lines), lines[0].start if lines else 0)

    def decode(self, data: bytes, start: int) -> str:
        """Decodes bytes of the file, the first of which is its byte `start`. ValueError where they are not text."""
        try:
            return data.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Expected {self.name} to be {self.encoding.upper()}, but byte {start + error.start} is not: "
                f"{error.reason}. Another encoding can be named: encoding='latin-1', say"
            ) from error
        except UnicodeError as error:  # of the codecs that are written in Python
            raise ValueError(f"Expected {self.name} to be {self.encoding.upper()}, but it is not: {error}") from error

    def _open(self) -> BinaryIO:
        file = open_plain(self.path)
        if self.path.suffix.lower() != ".gz":
            return file
        packed = gzip.GzipFile(fileobj=file, mode="rb")
        packed.myfileobj = file  # type: ignore[assignment]  # closed along with it
        return packed  # type: ignore[return-value]  # a GzipFile reads like one

    def _most_bytes(self, file: BinaryIO) -> float:
        """Returns the number of bytes up to which a file is read."""
        if self.path.suffix.lower() != ".gz":
            return float("inf")
        return max(_ALWAYS_UNPACKED, PACKED_AT_MOST * self.path.stat().st_size)

    def _read_line(self, file: BinaryIO) -> bytes:
        try:
            return file.readline(LONGEST_LINE + 1)
        except (OSError, EOFError, zlib.error) as error:  # gzip notices while it reads
            raise ValueError(f"Expected a whole file in {self.name}, but it could not be read: {error}") from error


def _checked_encoding(encoding: str) -> str:
    """Returns an encoding's name in Python. ValueError if it is none in which lines of text end with one byte."""
    try:
        codec = codecs.lookup(encoding)
        is_of_text = codec._is_text_encoding  # False for rot13, base64, gzip ...
        ending = "a\n".encode(codec.name)[-1:] if is_of_text else b""
    except (LookupError, ValueError) as error:  # a ValueError: NUL or half of a surrogate pair in the name
        raise ValueError(f"Expected an encoding that Python knows, got {encoding!r:.200}") from error
    if not is_of_text or codec.name in _NOT_OF_FILES:
        raise ValueError(f"Expected an encoding of text files, like utf-8 or latin-1, got {encoding!r:.200}")
    if ending != b"\n" or codec.name.startswith(("utf-16", "utf-32")):
        raise ValueError(
            f"Expected an encoding in which a newline is one byte, like utf-8 or latin-1, got {encoding!r:.200}: save "
            "the file as UTF-8, with iconv -f UTF-16 -t UTF-8 say"
        )
    return codec.name


def read_rows(file: TextFile, separator: str | None = None, columns: Sequence[str] | None = None) -> Rows:
    """Reads the rows of a file by its kind.

    Args:
        file: A `.jsonl`, `.ndjson`, `.json`, `.txt`, `.csv` or `.tsv` file.
        separator: The character between the fields of a `.csv` or `.tsv` file. None is a tab for `.tsv`; for `.csv`,
            the header decides between comma, semicolon, tab and bar.
        columns: The names of the columns of a `.csv` or `.tsv` file without a header.

    Returns:
        The rows, read as they are asked for.

    Raises:
        ValueError: If the file has no fields to separate or name, or the arguments are wrong.
    """
    if file.kind in (".csv", ".tsv"):
        return _read_records(file, separator, columns)
    for name, value in (("separator", separator), ("columns", columns)):
        if value is not None:
            raise ValueError(f"Expected {name}= with .csv and .tsv files alone, got {value!r} with {file.name}")
    return _read_json(file) if file.kind == ".json" else _read_lines(file)


def read_parallel(files: Mapping[str, TextFile]) -> Rows:
    """Reads files of lines that belong together: a row a line, with a column for each file.

    Args:
        files: Column to file. Every line of it is one text; a blank one is a missing text.

    Returns:
        The rows.

    Raises:
        ValueError: If one file has more lines than another; with the first row that it concerns.
    """
    names = ", ".join(file.name for file in files.values())
    for lines in zip_longest(*(file.lines() for file in files.values())):
        number = next(line.number for line in lines if line is not None)
        short = [file.name for file, line in zip(files.values(), lines, strict=True) if line is None]
        if short:
            raise ValueError(
                f"Expected as many lines in each of {names}, got none at line {number} of {', '.join(short)}: the "
                "lines before cannot be trusted to belong together either"
            )
        location = f"line {number} of {names}"
        try:
            texts = [
                file.decode(line.content, line.start).rstrip("\r\n")
                for file, line in zip(files.values(), lines, strict=True)
            ]
        except ValueError as error:
            yield location, error
            continue
        yield location, {column: text if text.strip() else None for column, text in zip(files, texts, strict=True)}


def _read_lines(file: TextFile) -> Rows:
    """Reads a .jsonl or .txt file: a row a line."""
    for line in file.lines():
        if line.content.strip():
            location = f"line {line.number} of {file.name}"
            try:
                yield location, _parse(file, line, location)
            except ValueError as error:
                yield location, error


def _parse(file: TextFile, line: _Line, location: str) -> Row:
    text = file.decode(line.content, line.start).rstrip("\r\n")
    if file.kind == ".txt":
        return {"text": text}
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected {location} to be a JSON object, but it could not be read: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"Expected {location} to be a JSON object, got {type(row).__name__}")
    return row


def _read_json(file: TextFile) -> Rows:
    """Reads a .json file: a list of objects, a single object, or, as some write them, objects one a line."""
    if _is_json_lines(file):
        yield from _read_lines(file)
        return
    text = file.text()
    if not text.strip():
        return
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected {file.name} to be JSON, but it could not be read: {error}") from error
    if isinstance(content, dict):
        yield file.name, content
        return
    if not isinstance(content, list):
        raise ValueError(f"Expected {file.name} to be a list of JSON objects, got {type(content).__name__}")
    for index, row in enumerate(content):
        location = f"item {index} of {file.name}"
        if isinstance(row, dict):
            yield location, row
        else:
            yield location, ValueError(f"Expected {location} to be a JSON object, got {type(row).__name__}")


def _is_json_lines(file: TextFile) -> bool:
    """Returns True if the first line of a file is a whole JSON object, and another line comes behind it."""
    lines = (line for line in file.lines() if line.content.strip())
    first = next(lines, None)
    if first is None or next(lines, None) is None:
        return False
    try:
        return isinstance(json.loads(file.decode(first.content, first.start)), dict)
    except (ValueError, RecursionError):
        return False


def _read_records(file: TextFile, separator: str | None, columns: Sequence[str] | None) -> Rows:
    """Reads a .csv or .tsv file: a header, where `columns` are not given, then a row a record."""
    delimiter = _separator(file) if separator is None else separator
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(f"Expected separator to be one character, got {separator!r}")
    records = _records(file, delimiter, has_quotes=file.kind == ".csv")
    if columns is None:
        _, header = next(records, (1, []))
        if isinstance(header, ValueError):
            raise header
        named_by = "as line 1 names columns"
    else:
        header, named_by = list(columns), f"as columns={list(columns)} names them"
    repeated = sorted(name for name, count in Counter(header).items() if count > 1)
    if repeated:
        raise ValueError(
            f"Expected line 1 of {file.name} to name each column once, got {repeated!r:.500} again"
            if columns is None
            else f"Expected columns to name each column once, got {header!r:.500}"
        )
    for number, fields in records:
        location = f"line {number} of {file.name}"
        if isinstance(fields, ValueError):
            yield location, fields
        elif len(fields) != len(header):
            shown = fields if len(repr(fields)) < 200 else f"{fields!r:.200} ..."
            others = "" if separator else f". Between the fields stands {delimiter!r}; separator= names another"
            yield (
                location,
                ValueError(
                    f"Expected {len(header)} fields in {location}, {named_by}, got {len(fields)}: {shown}{others}"
                ),
            )
        else:
            # An empty cell is a missing value, as in spreadsheets.
            yield location, {name: field or None for name, field in zip(header, fields, strict=True)}


def _separator(file: TextFile) -> str:
    """Returns the separator of a file: a tab for .tsv, and for .csv the first that divides its header."""
    if file.kind == ".tsv":
        return "\t"
    first = next((line.content.decode(file.encoding, "replace") for line in file.lines() if line.content.strip()), "")
    for separator in _SEPARATORS:
        with _long_fields():
            if len(next(csv.reader([first], delimiter=separator), [])) > 1:
                return separator
    return ","


def _records(file: TextFile, delimiter: str, *, has_quotes: bool) -> Iterator[tuple[int, list[str] | ValueError]]:
    """Yields the number of the first line of each record, and its fields, or an error where it is not text."""
    consumed: list[_Line] = []  # the lines that the reader took for the record at hand
    separator = delimiter.encode(file.encoding, "replace")

    def decoded_lines() -> Iterator[str]:
        length = 0
        for line in file.lines():
            length = length + len(line.content) if consumed else len(line.content)
            consumed.append(line)
            first = consumed[0].number
            if length > LONGEST_LINE or len(consumed) > _MOST_LINES:
                raise ValueError(
                    f"Expected records of at most {LONGEST_LINE:,} bytes and {_MOST_LINES:,} lines, got a longer one, "
                    f"which begins in line {first} of {file.name}: a quote there may never be closed"
                )
            # Separators in quotes are counted too: a text with so many of them is longer than any prompt.
            if len(line.content) > MOST_COLUMNS and line.content.count(separator) > MOST_COLUMNS:
                raise ValueError(
                    f"Expected at most {MOST_COLUMNS:,} fields, got more between {delimiter!r} in line "
                    f"{line.number} of {file.name}"
                )
            # A generator that raises is over, so bytes that are no text pass here and are found in the record, below.
            yield line.content.decode(file.encoding, "surrogateescape")

    reader = csv.reader(
        decoded_lines(),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if has_quotes else csv.QUOTE_NONE,
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
