"""Formats of files and the Hub: the rows that are read, and the errors about those that cannot be."""

import csv
import json
import pickle
import sys
from types import ModuleType

import pytest

from tests.textenvs.datasets.helpers import all_examples, prompts, write
from textenvs import Example, load_dataset
from textenvs.tasks import SPLITS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"text": "cut', "line 2 of .*JSON object"),
        ("a.jsonl", b'{"text": "fine"}\n[1, 2]\n', "line 2 of .*got list"),
        ("a.jsonl", b'{"story": "fine"}\n', r"'text' of line 1 .* fields are \['story'\]\. Name the prompt's"),
        ("a.jsonl", b'{"text": 7}\n', "Expected a string in field 'text'"),
        ("a.txt", b"fine\n\xff\xfe\n", "to be UTF-8, but byte 5"),
        ("a.txt", b"\n\n", "at least one prompt"),
        (
            "a.docx",
            b"fine",
            r"Expected a \.jsonl, \.ndjson, .*\.tsv file, each also as \.gz, a \.parquet file, the id",
        ),
    ],
)
def test_a_file_that_is_not_what_it_should_be(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path / name)


def test_a_file_that_is_not_there():
    with pytest.raises(ValueError, match="Expected a file that can be read"):
        load_dataset("nowhere.txt")


def as_csv(path, rows, **settings):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **settings).writerows(rows)
    return path


NOTES = ["plain", 'with "quotes", and commas', "two\nlines", "three\r\nlines\n\nand Ä", "0"]


@pytest.mark.parametrize("terminator", ["\n", "\r\n"])
def test_csv(tmp_path, terminator):
    rows = [["question", "note"]] + [[f"what is {number}?", NOTES[number % 5]] for number in range(50)]
    file = as_csv(tmp_path / "a.csv", rows, lineterminator=terminator)
    task = load_dataset(file, prompt="question", references="note", split="test")
    assert [(one.prompt, one.references[0]) for one in all_examples(task)] == [tuple(row) for row in rows[1:]]
    assert (task.num_examples("train"), task.num_examples("test")) == (0, 50)
    again = pickle.loads(pickle.dumps(task))
    assert again.example("test", 3) == task.example("test", 3)


def test_tsv_takes_quotes_as_they_are(tmp_path):
    file = write(tmp_path, ["a\tb", 'one "\ttwo', '"three\tfour"'], "a.tsv")
    task = load_dataset(file, prompt="a", references="b", split="train")
    assert [(one.prompt, one.references) for one in all_examples(task)] == [
        ('one "', ("two",)),
        ('"three', ('four"',)),
    ]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfquestion\r\nwhy?\r\n")
    assert all_examples(load_dataset(tmp_path / "a.csv", prompt="question")) == [Example("why?")]
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfwhy?\r\nwho?\r\n")
    assert {one.prompt for one in all_examples(load_dataset(tmp_path / "a.txt"))} == {"why?", "who?"}


def test_another_encoding(tmp_path):
    (tmp_path / "a.txt").write_bytes("schön\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"UTF-8, but byte 3 is not.*encoding='latin-1'"):
        load_dataset(tmp_path / "a.txt")
    assert all_examples(load_dataset(tmp_path / "a.txt", encoding="latin-1")) == [Example("schön")]
    for encoding, message in (("utf-16", "newline is one byte"), ("klingon", "encoding that Python knows")):
        with pytest.raises(ValueError, match=message):
            load_dataset(tmp_path / "a.txt", encoding=encoding)


def test_parquet_and_the_hub_need_a_library(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in (tmp_path / "a.parquet", "owner/name"):
        with pytest.raises(ImportError, match=r'needs the library datasets: pip install "textenvs\[data\]"'):
            load_dataset(source)


def test_parquet(tmp_path):
    pytest.importorskip("datasets", reason='datasets is not installed: pip install "textenvs[data]"')
    pyarrow = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    rows = {"q": [f"question {number}" for number in range(30)], "a": [["one", "two"]] * 30}
    pyarrow.write_table(sys.modules["pyarrow"].table(rows), tmp_path / "a.parquet")
    task = load_dataset(tmp_path / "a.parquet", prompt="q", references="a", split="train")
    assert [one.prompt for one in all_examples(task)] == rows["q"]
    assert task.example("train", 7).references == ("one", "two")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ValueError, match="Expected to read the Parquet file"):
        load_dataset(tmp_path / "b.parquet")


class FakeLibrary(ModuleType):
    """A `datasets` library whose `load_dataset` returns the splits of an id on the Hub, or a single one."""

    def load_dataset(self, path, *, name=None, split=None):
        if path != "owner/name":
            raise ConnectionError("offline")
        tables = {key: [{"q": f"{name} {key} {number}"} for number in range(4)] for key in ("train", "dev", "extra")}
        return tables if split is None else tables[split]


def test_the_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", FakeLibrary("datasets"))
    task = load_dataset("owner/name:main", prompt="q")
    assert prompts(task) == {
        "train": [f"main train {number}" for number in range(4)],
        "validation": [f"main dev {number}" for number in range(4)],
        "test": [],
    }
    one = load_dataset("owner/name", prompt="q", split="train")
    assert [one.num_examples(split) for split in SPLITS] == [4, 0, 0]
    with pytest.raises(ValueError, match="Expected to read 'who/what' on the Hugging Face Hub, but ConnectionError"):
        load_dataset("who/what")


def test_the_folder_of_a_data_set(tmp_path):
    """A clone of a data set on the Hub: the same code and the real library, with nothing to download."""
    pytest.importorskip("datasets", reason='datasets is not installed: pip install "textenvs[data]"')
    folder = tmp_path / "animals"
    folder.mkdir()
    for name, count in (("train", 5), ("validation", 3)):
        rows = [json.dumps({"q": f"{name} {number}?", "a": [f"{number}", "x"]}) for number in range(count)]
        write(folder, rows, name=f"{name}.jsonl")
    task = load_dataset(folder, prompt="q", references="a")
    assert [task.num_examples(split) for split in SPLITS] == [5, 3, 0]
    assert task.example("train", 4) == Example("train 4?", ("4", "x"))
    one = load_dataset(str(folder), prompt="q", references="a", split="validation")
    assert [one.num_examples(split) for split in SPLITS] == [0, 3, 0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"Expected to read the folder '.*empty', but"):
        load_dataset(tmp_path / "empty", prompt="q")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,b\nfine,1\nshort\n", r"Expected 2 fields in line 3 of .*got 1: \['short'\]"),
        ("a.csv", b'text,b\n"two\nlines",1\nlong,1,2\n', "Expected 2 fields in line 4 of .*got 3"),
        ("a.csv", b'text,b\nfine,1\n"never closed,2\nmore', "Expected line 3 of .*could not be read"),
        ("a.csv", b"text,b\nfine,1\n\xff,2\n", "UTF-8, but byte 14 is not"),
        ("a.csv", b"text,text\n1,2\n", r"name each column once, got \['text'\] again"),
        ("a.csv", b"a,b\n1,2\n", r"Expected a string in field 'text' of line 2 .*its fields are \['a', 'b'\]"),
        ("a.csv", b"", "at least one prompt"),
        ("a.tsv", b"text\tb\nfine\t1\nshort\n", "Expected 2 fields in line 3"),
    ],
)
def test_malformed_records(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"text": 1}\n{"text": "two"}\n\xff\n[]\n{"tex\n{"text": "three"}\n'),
        ("a.csv", b'text,b\none,1\nshort\ntwo,"2\n2"\n\xff,2\na,b,c\nfour\nthree,3\n'),
    ],
)
def test_errors_are_skipped_and_counted(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"line [23] of"):
        load_dataset(tmp_path / name)
    with pytest.warns(UserWarning, match=r"4 rows of .* could not be read and were skipped:\n.*line [23] of"):
        task = load_dataset(tmp_path / name, on_error="skip")
    assert sorted(one.prompt for one in all_examples(task)) == ["one", "three", "two"]
    assert (task.report.rows, task.report.skipped, len(task.report.errors)) == (3, 4, 4)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize(
    "content",
    [
        'text,b\ngood,1\n"A" broken,"first line\nquestion,answer\nlast line"\n',
        'text,b\ngood,1\n"A "broken" line\nquestion,answer\nlast line",2\n',
        'text,b\ngood,1\n"never closed,2\nquestion,answer\n',
    ],
)
def test_broken_quotes_are_not_skipped_for_what_looks_like_a_record_behind_them(tmp_path, content, on_error):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=r"Expected line 3 of .* could not be read: .* cannot be skipped"):
        load_dataset(tmp_path / "a.csv", on_error=on_error)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_fields_longer_than_those_of_the_csv_module(tmp_path, name):
    limit = csv.field_size_limit()
    text = "word " * limit
    file = write(tmp_path, ["text", "short", text], name)
    assert {one.prompt for one in all_examples(load_dataset(file))} == {"short", text}
    assert csv.field_size_limit() == limit
