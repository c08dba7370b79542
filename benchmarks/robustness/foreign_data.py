"""Data files as they come, and as an attacker would make them: each has a name, and what it should be read as.

Every file is written by the case that has it, into a folder of its own.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from textenvs import load_dataset
from textenvs.pool import PromptEncoder, build_pools
from textenvs.tasks.base import SPLITS
from textenvs.tokenizer import make_tokenizer

_TEXTS = ("one text", "another, with a comma", 'a "quoted" one', "ünïcödé 北京 🙂", "x" * 1000)
_MEGABYTE = 1 << 20
_HUGE = 60 * _MEGABYTE


@dataclass(frozen=True)
class Case:
    """A data file.

    Attributes:
        write: Writes it into a folder, and returns what `load_dataset` gets.
        prompts: The prompts that it holds, in any order; None: it cannot be read, and must be refused.
        settings: Arguments of `load_dataset`.
    """

    write: Callable[[Path], Any]
    prompts: Sequence[str] | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def read(case: Case, folder: Path) -> list[str]:
    """Reads a case's file, up to the tokens of an environment.

    Args:
        case: The case.
        folder: An empty folder.

    Returns:
        The prompts, sorted.

    Raises:
        ValueError: If it is refused.
    """
    task = load_dataset(case.write(folder), **case.settings)
    build_pools(task, PromptEncoder(make_tokenizer("stories"), 64, "right"))
    return sorted(task.example(split, index).prompt for split in SPLITS for index in range(task.num_examples(split)))


def _file(name: str, content: bytes | str, folder: Path) -> Path:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def _pipe(name: str, folder: Path) -> Path:
    os.mkfifo(folder / name)
    return folder / name


def _link(name: str, target: str, folder: Path) -> Path:
    (folder / name).symlink_to(target)
    return folder / name


def _folder(name: str, folder: Path) -> Path:
    (folder / name).mkdir()
    return folder / name


def _parallel(contents: dict[str, bytes], folder: Path) -> dict[str, Path]:
    return {name: _file(f"lines.{name}", content, folder) for name, content in contents.items()}


def _jsonl(texts: Sequence[str]) -> str:
    return "".join(json.dumps({"text": text, "n": index}) + "\n" for index, text in enumerate(texts))


def _csv(texts: Sequence[str], separator: str = ",") -> str:
    rows = "".join('"' + text.replace('"', '""') + f'"{separator}{index}\n' for index, text in enumerate(texts))
    return f"text{separator}n\n{rows}"


def _contents() -> dict[str, str]:
    return {
        ".jsonl": _jsonl(_TEXTS),
        ".ndjson": _jsonl(_TEXTS),
        ".json": json.dumps([{"text": text} for text in _TEXTS], indent=1),
        ".txt": "".join(f"{text}\n" for text in _TEXTS),
        ".csv": _csv(_TEXTS),
        ".tsv": "text\tn\n" + "".join(f"{text}\t1\n" for text in _TEXTS),
    }


_BAD_GZIP = (b"", b"\x1f\x8b", b"no gzip at all", b"\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00", b"PK\x03\x04" + b"\0" * 50)


def cases() -> dict[str, Case]:
    """Returns all files, by name."""
    return {**_well_formed(), **_damaged(), **_json_cases(), **_table_cases(), **_encodings(), **_large()}


def _well_formed() -> dict[str, Case]:
    made = {}
    for kind, content in _contents().items():
        data = content.encode()
        name = f"rows{kind}"
        forms = {
            "": (name, data),
            ", with a byte order mark": (name, b"\xef\xbb\xbf" + data),
            ", with \\r\\n": (name, data.replace(b"\n", b"\r\n")),
            ", without a last line break": (name, data.rstrip(b"\n")),
            ", its ending in capitals": (name.upper(), data),
            ", packed": (f"{name}.gz", gzip.compress(data)),
            ", packed in two parts": (f"{name}.gz", gzip.compress(data[:40]) + gzip.compress(data[40:])),
        }
        for form, (file, written) in forms.items():
            made[f"{kind}{form}"] = Case(partial(_file, file, written), _TEXTS)
    return made


def _damaged() -> dict[str, Case]:
    made, bomb = {}, b""
    for kind, content in _contents().items():
        name, data = f"rows{kind}", content.encode()
        made[f"{kind}, empty"] = Case(partial(_file, name, b""))
        made[f"{kind}, blank lines alone"] = Case(partial(_file, name, b"\n \n\n"))
        made[f"{kind}, a named pipe"] = Case(partial(_pipe, name))
        made[f"{kind}, /dev/zero"] = Case(partial(_link, name, "/dev/zero"))
        made[f"{kind}, a loop of links"] = Case(partial(_link, name, name))
        made[f"{kind}, a folder"] = Case(partial(_folder, name))
        made[f"{kind}, random bytes"] = Case(partial(_file, name, bytes(range(256)) * 8))
        made[f"{kind}, UTF-16"] = Case(partial(_file, name, content.encode("utf-16")))
        made[f"{kind}, not UTF-8"] = Case(partial(_file, name, data + b"\xff\xfe\n"))
        made[f"{kind}, packed and cut"] = Case(partial(_file, f"{name}.gz", gzip.compress(data)[:-20]))
        made[f"{kind}, packed with another checksum"] = Case(
            partial(_file, f"{name}.gz", gzip.compress(data)[:-8] + b"\0" * 8)
        )
        bomb = bomb or gzip.compress(b'{"text": "a"}\n' * 10 + b"\n" * (30 * _MEGABYTE))
        made[f"{kind}, a packed bomb"] = Case(partial(_file, f"{name}.gz", bomb))
    for number, content in enumerate(_BAD_GZIP):
        made[f"no gzip, {number}"] = Case(partial(_file, "rows.jsonl.gz", content))
    for name in ("rows.parquet", "rows.jsonl.zst", "rows.zip", "rows", "rows.bin"):
        made[f"a wrong {name}"] = Case(partial(_file, name, b"\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00"))
    return made


def _json_cases() -> dict[str, Case]:
    rows = {
        "nested deeply": "[" * 100_000,
        "nested and closed": '{"text": ' + "[" * 900 + "]" * 900 + "}",
        "a number of 5,000 digits": '{"text": ' + "9" * 5000 + "}",
        "half of a surrogate pair": '{"text": "\\ud800"}',
        "NaN as the prompt": '{"text": NaN}',
        "null as the prompt": '{"text": null}',
        "an object as the prompt": '{"text": {"a": 1}}',
        "no such column": '{"texts": "a"}',
        "a list": '["a"]',
        "a text": '"a"',
        "cut in the middle": '{"text": "a',
        "NUL between": '{"text": "a"}\0',
    }
    made = {
        f"{kind}, {name}": Case(partial(_file, f"rows{kind}", content + "\n"))
        for name, content in rows.items()
        for kind in (".jsonl", ".json")
    }
    made[".jsonl, an escaped NUL in the prompt"] = Case(
        partial(_file, "rows.jsonl", '{"text": "a\\u0000b"}\n'), ["a\0b"]
    )
    made[".jsonl, a key twice"] = Case(partial(_file, "rows.jsonl", '{"text": "a", "text": "b"}\n'), ["b"])
    deep = '{"text": "a", "m": ' + "[" * 900 + "]" * 900 + "}\n"
    made[".jsonl, deep metadata"] = Case(partial(_file, "rows.jsonl", deep), settings={"metadata": ["m"]})
    made[".json, rows at a path that is none"] = Case(partial(_file, "rows.json", '{"a": 1}'), settings={"rows": "a.b"})
    return made


def _table_cases() -> dict[str, Case]:
    english = {"prompt": "en"}
    wide = ",".join(f"c{number}" for number in range(50_000))
    made = {
        "50,000 columns": Case(partial(_file, "a.csv", f"text,{wide}\na,{wide}\n"), ["a"]),
        "50,000 columns, one twice": Case(partial(_file, "a.csv", f"text,{wide},c7\n")),
        "a million columns": Case(partial(_file, "a.csv", "," * 1_000_000 + "\n")),
        "a million fields in a row": Case(partial(_file, "a.csv", "text,b\n" + "," * 1_000_000 + "\n")),
        "a quote never closed": Case(partial(_file, "a.csv", 'text,b\n"a' + "\nb" * 100_000)),
        "a quote never closed, 70 MB": Case(partial(_file, "a.csv", 'text,b\n"a' + "\nb" * (35 * _MEGABYTE))),
        "too few fields": Case(partial(_file, "a.csv", "text,b\na\n")),
        "NUL in a field": Case(partial(_file, "a.csv", "text,b\na\0b,1\n"), ["a\0b"]),
        "no header": Case(partial(_file, "a.csv", "")),
        "a long separator": Case(partial(_file, "a.csv", "text,b\n"), settings={"separator": "::"}),
        "a quote as the separator": Case(partial(_file, "a.csv", "text,b\n"), settings={"separator": '"'}),
        "a tab, unquoted": Case(partial(_file, "a.tsv", 'text\tb\n"a\t1\n'), ['"a']),
        "parallel files, one longer": Case(partial(_parallel, {"en": b"a\nb\n", "de": b"a\n"}), None, english),
        "parallel files, one empty": Case(partial(_parallel, {"en": b"a\n", "de": b""}), settings=english),
        "parallel files": Case(partial(_parallel, {"en": b"a\nb\n", "de": b"c\nd\n"}), ["a", "b"], english),
    }
    return {f"table, {name}": case for name, case in made.items()}


def _encodings() -> dict[str, Case]:
    wrong = ("rot13", "hex", "base64", "zlib", "bz2", "uu", "quopri", "idna", "punycode", "undefined",
             "unicode_escape", "cp037", "utf-16", "utf-32-le", "no such", "a\0b", "\ud800", "",
             "x" * 10_000)  # fmt: skip
    right = {"latin-1": "café", "cp1252": "café", "shift_jis": "日本", "gb18030": "北京", "euc_kr": "한국",
             "koi8_r": "да", "utf-8-sig": "café", "utf-7": "café"}  # fmt: skip
    return {
        **{
            f"encoding {name[:20]!a}": Case(partial(_file, "a.txt", b"a line\n"), settings={"encoding": name})
            for name in wrong
        },
        **{
            f"encoding {name!r}": Case(
                partial(_file, "a.csv", f"text,b\n{text},1\n".encode(name)), [text], {"encoding": name}
            )
            for name, text in right.items()
        },
    }


def _large() -> dict[str, Case]:
    made = {
        ".txt, a line of 60 MB": Case(partial(_file, "a.txt", b"the cat " * (_HUGE // 8) + b"\n")),
        ".txt, a line of 7 MB": Case(
            partial(_file, "a.txt", b"the cat " * (7 * _MEGABYTE // 8)), ["the cat " * 917504]
        ),
        ".txt, 70 MB without a line break": Case(partial(_file, "a.txt", b"a" * (70 * _MEGABYTE))),
        ".txt, a million blank lines": Case(partial(_file, "a.txt", b"\n" * _MEGABYTE + b"a\n"), ["a"]),
        ".jsonl, a line of 60 MB of empty lists": Case(
            partial(_file, "a.jsonl", b'{"text": [' + b"[]," * (_HUGE // 3))
        ),
        ".jsonl, a prompt of 60 MB": Case(partial(_file, "a.jsonl", b'{"text": "' + b"a b " * (_HUGE // 4) + b'"}')),
        ".json, 60 MB of numbers": Case(partial(_file, "a.json", b"[" + b"1," * (_HUGE // 2) + b"1]")),
        ".csv, a field of 60 MB": Case(partial(_file, "a.csv", b"text,b\n" + b"a " * (_HUGE // 2) + b",1\n")),
        ".csv, a line of 60 MB of commas": Case(partial(_file, "a.csv", b"text,b\n" + b"," * _HUGE)),
        ".csv, a header of 60 MB": Case(partial(_file, "a.csv", b"a," * (_HUGE // 2))),
        "zlib in place of gzip": Case(partial(_file, "a.jsonl.gz", zlib.compress(b"a"))),
    }
    return made
