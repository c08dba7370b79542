"""Sources as people have them: endings, gzip, separators, headers, JSON, parallel files and rows in memory."""

import gzip
import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from tests.textenvs.datasets.helpers import all_examples, write
from textenvs import Example, load_dataset
from textenvs.datasets import absolute_source

TWO = [Example("1+1", ("2",)), Example("2+2", ("4",))]
ROWS = [{"q": "1+1", "a": "2"}, {"q": "2+2", "a": "4"}]
JSON_LINES = "\n".join(map(json.dumps, ROWS))


def load(source, **settings):
    return load_dataset(source, prompt="q", references="a", **settings)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DATA.CSV", "q,a\n1+1,2\n2+2,4\n"),
        ("a.csv", "q;a\n1+1;2\n2+2;4\n"),
        ("a.csv", "q\ta\n1+1\t2\n2+2\t4\n"),
        ("a.csv", "q|a\n1+1|2\n2+2|4\n"),
        ("a.csv", '"q";"a"\n"1+1";"2"\n"2+2";"4"\n'),
        ("a.csv", "\ufeffq;a\r\n1+1;2\r\n2+2;4\r\n"),
        ("a.ndjson", JSON_LINES),
        ("a.JSONL", "\ufeff" + JSON_LINES),
        ("a.json", JSON_LINES),
        ("a.json", json.dumps(ROWS)),
        ("a.json", "\ufeff" + json.dumps(ROWS, indent=2)),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_files_as_people_have_them(tmp_path, name, text, packed):
    file = tmp_path / (f"{name}.gz" if packed else name)
    file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert all_examples(load(file)) == TWO


def test_a_separator_can_be_named(tmp_path):
    file = write(tmp_path, ["q;a,b", "1+1;2", "2+2;4"], "a.csv")
    with pytest.raises(ValueError, match=r"Expected 2 fields in line 2 .*Between the fields stands ','; separator="):
        load(file)
    assert all_examples(load_dataset(file, prompt="q", references="a,b", separator=";")) == TWO
    with pytest.raises(ValueError, match="separator to be one character"):
        load(file, separator="::")
    for setting in ({"separator": ";"}, {"columns": ["q"]}):
        with pytest.raises(ValueError, match=r"with \.csv and \.tsv files alone"):
            load(write(tmp_path, [JSON_LINES]), **setting)


def test_a_file_without_a_header(tmp_path):
    file = write(tmp_path, ["1+1\t2", "2+2\t4"], "a.tsv")
    assert all_examples(load(file, columns=["q", "a"])) == TWO
    with pytest.raises(ValueError, match=r"field 'q' of line 2 .*If line 1 is a row .* columns=\['text', 'label'\]"):
        load(file)
    with pytest.raises(ValueError, match=r"Expected 1 fields in line 1 .*, as columns=\['q'\] names them, got 2"):
        load(file, columns=["q"])
    with pytest.raises(ValueError, match="columns to name each column once"):
        load(file, columns=["q", "q"])
    with pytest.raises(TypeError, match="columns as a list of names"):
        load(file, columns="qa")


def test_utf_16_is_told_apart(tmp_path):
    (tmp_path / "a.csv").write_text("q,a\n1+1,2\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"begins like UTF-16\. Save it as UTF-8, with iconv"):
        load(tmp_path / "a.csv")


@pytest.mark.parametrize("cut", [5, 30, -4])
def test_a_gzip_file_that_is_broken(tmp_path, cut):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(JSON_LINES.encode())[:cut])
    with pytest.raises(ValueError, match=r"Expected a whole file in '.*a\.jsonl\.gz', but it could not be read"):
        load(tmp_path / "a.jsonl.gz")
    (tmp_path / "b.jsonl.gz").write_text(JSON_LINES)
    with pytest.raises(ValueError, match="Not a gzipped file"):
        load(tmp_path / "b.jsonl.gz")


NESTED = {
    "version": 1,
    "data": [
        {"title": "Rivers", "parts": [{"context": "It ends at the sea.", "qas": [
            {"q": "Where?", "found": [{"text": "the sea"}, {"text": "at the sea"}]}, {"q": "When?", "found": []}]}]},
        {"title": "Hills", "parts": [{"context": "It is high.", "qas": [{"q": "How?", "found": [{"text": "high"}]}]}]},
    ],
}  # fmt: skip


def test_rows_inside_of_an_object(tmp_path):
    file = write(tmp_path, [json.dumps(NESTED, indent=1)], "a.json")
    settings = {"template": "{context} {q}", "references": "found.text", "metadata": ["title"]}
    with pytest.raises(ValueError, match=r"'found\.text' of \[1\] of qas of \[0\] of parts of \[0\] of data of '"):
        load_dataset(file, rows="data.parts.qas", **settings)
    with pytest.warns(UserWarning, match="1 rows"):
        task = load_dataset(file, rows="data.parts.qas", on_error="skip", **settings)
    assert all_examples(task) == [
        Example("It ends at the sea. Where?", ("the sea", "at the sea"), {"title": "Rivers"}),
        Example("It is high. How?", ("high",), {"title": "Hills"}),
    ]
    with pytest.raises(ValueError, match=r"these lists of rows are inside: rows='data', rows='data\.parts', rows="):
        load_dataset(file, prompt="q")
    with pytest.raises(ValueError, match=r"a list of rows in field 'pages' of .*, got none; its fields are"):
        load_dataset(file, prompt="q", rows="data.pages")
    # The same inside of each line, and in memory.
    lines = write(tmp_path, [json.dumps(part) for part in NESTED["data"]])
    for source in (lines, NESTED["data"]):
        assert len(all_examples(load_dataset(source, prompt="q", rows="parts.qas"))) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"q": "1"},', "to be JSON, but it could not be read"),
        ('[{"q": "1", "a": "2"}, 3]', "Expected item 1 of .* to be a JSON object, got int"),
        ('"text"', "to be a list of JSON objects, got str"),
        ("[" * 100_000, "to be JSON, but it could not be read"),
        ("\n", "at least one prompt"),
    ],
)
def test_json_that_is_none(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.json")


def test_parallel_files(tmp_path):
    english = write(tmp_path, ["Two dogs run.", "A man reads."], "a.en")
    german = write(tmp_path, ["Zwei Hunde laufen.", "Ein Mann liest."], "a.de")
    files = {"en": english, "de": str(german)}
    expected = [Example("Two dogs run.", ("Zwei Hunde laufen.",)), Example("A man reads.", ("Ein Mann liest.",))]
    assert all_examples(load_dataset(files, prompt="en", references="de")) == expected
    task = load_dataset({"train": files, "test": {"en": german, "de": english}}, prompt="en", references="de")
    assert task.example("test", 1) == Example("Ein Mann liest.", ("A man reads.",))
    with pytest.raises(ValueError, match=r"Files of lines with other endings are columns: \{'en'"):
        load_dataset(english)
    write(tmp_path, ["Zwei Hunde laufen.", ""], "a.de")
    with pytest.raises(ValueError, match=r"field 'de' of line 2 of .*, got null or an empty cell"):
        load_dataset(files, prompt="en", references="de")
    write(tmp_path, ["Zwei Hunde laufen."], "a.de")
    with pytest.raises(ValueError, match=r"as many lines in each of .*, got none at line 2 of '.*a\.de'"):
        load_dataset(files, prompt="en", references="de", on_error="skip")
    with pytest.raises(ValueError, match=r"a file of lines for column 'b', .* the keys are the splits"):
        load_dataset({"a": english, "b": write(tmp_path, [JSON_LINES])})


def test_rows_in_memory():
    assert all_examples(load(ROWS)) == TWO
    assert all_examples(load(iter(ROWS))) == TWO
    assert all_examples(load_dataset(["one", "two"])) == [Example("one"), Example("two")]
    task = load({"train": ROWS[:1], "test": ROWS[1:]})
    assert [task.num_examples(split) for split in ("train", "validation", "test")] == [1, 0, 1]
    env = gym.make("TextGen-v0", task={"dataset": {"data": ROWS, "prompt": "q", "references": "a"}})
    assert json.loads(env.spec.to_json())["kwargs"]["task"]["dataset"]["data"] == ROWS
    with pytest.raises(ValueError, match="a dict of column to value as row 1 of the list in memory, got 7"):
        load([ROWS[0], 7])
    with pytest.raises(TypeError, match=r"Expected a path, .* a list of dicts or of texts, or a DataFrame, got int"):
        load(7)
    with pytest.raises(ValueError, match="at least one prompt"):
        load([])


@pytest.mark.parametrize(
    "setting",
    [{"prompt": 5}, {"template": 5}, {"references": 5}, {"references": ["q", 5]}, {"metadata": "q"}, {"metadata": 5},
     {"columns": 5}, {"columns": [5]}, {"separator": 5}, {"rows": 5}, {"encoding": 5}, {"encoding": None},
     {"labels": ["q"]}],
)  # fmt: skip
def test_settings_of_a_wrong_type(setting):
    with pytest.raises(TypeError, match=f"Expected {next(iter(setting))} "):
        load_dataset(ROWS, **setting)


def test_a_data_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"q": ["1+1", "2+2"], "a": [2, 4], "x": [0.5, np.nan]}, index=[7, 3])
    assert all_examples(load(frame)) == TWO
    assert [example.metadata["x"] for example in all_examples(load(frame, metadata=["x"]))] == [0.5, None]
    assert all_examples(load(frame.astype({"a": "Int64"}))) == TWO
    gone = frame.assign(a=pandas.Series([2, None], dtype="Int64", index=[7, 3]))
    with pytest.raises(ValueError, match="field 'a' of row 1 of the DataFrame in memory, got null"):
        load(gone)
    with pytest.raises(ValueError, match="a DataFrame that names each column once"):
        load(pandas.DataFrame([[1, 2]], columns=["q", "q"]))


def test_few_prompts_are_all_for_training():
    few = load_dataset([f"text {number}" for number in range(9)])
    assert few.num_examples("train") == 9
    more = load_dataset([f"text {number}" for number in range(200)])
    assert min(more.num_examples(split) for split in ("train", "validation", "test")) > 5


def test_rows_with_one_prompt_keep_their_metadata():
    rows = [{"q": "x", "a": "1", "n": 1}, {"q": "x", "a": "2", "n": 2}, {"q": "x", "a": "3", "n": 1}]
    task = load(rows, metadata=["n"])
    assert all_examples(task) == [Example("x", ("1", "3"), {"n": 1}), Example("x", ("2",), {"n": 2})]
    assert (task.report.rows, task.report.repeated) == (3, 1)
    assert len(all_examples(load(rows, metadata=["n"], limit=1))) == 1


def test_the_digest_is_that_of_the_examples(tmp_path):
    assert load(ROWS).digest == load(write(tmp_path, ["q,a,x", "1+1,2,0", "2+2,4,0"], "a.csv")).digest
    for other in (ROWS[::-1], ROWS[:1], [{**ROWS[0], "a": "3"}, ROWS[1]]):
        assert load(other).digest != load(ROWS).digest
    assert load(ROWS, split="test").digest != load(ROWS).digest


def test_sources_from_every_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, ["one"], "a.txt")
    (tmp_path / "owner").mkdir()
    here = str(tmp_path / "a.txt")
    assert absolute_source("a.txt") == absolute_source(Path("a.txt")) == absolute_source(here) == here
    assert absolute_source({"train": "a.txt", "test": {"en": "a.en", "de": "b.de"}})["train"] == here
    assert absolute_source("gone.csv") == str(tmp_path / "gone.csv")
    assert absolute_source("owner") == str(tmp_path / "owner")
    for other in ("owner/name", "owner/name:main", ROWS, 7):
        assert absolute_source(other) == other
