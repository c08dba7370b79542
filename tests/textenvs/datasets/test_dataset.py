"""Files as tasks: what is read, how it is divided, and what is said of a file that is not what it should be."""

import csv
import itertools
import json
import pickle
import re
import sys
import tracemalloc
from types import ModuleType

import gymnasium as gym
import pytest

from textenvs import Example, load_dataset, make_task
from textenvs.datasets import PRESETS, FinalNumber
from textenvs.tasks import SPLITS
from textenvs.testing import check_reward

NAMES = ["Tim", "Sue", "Anna", "Max", "Sam", "Lily", "Ben", "Otto", "Nina", "Gus"]


def write(tmp_path, lines, name="texts.jsonl"):
    file = tmp_path / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def prompts(task):
    return {split: [task.example(split, index).prompt for index in range(task.num_examples(split))] for split in SPLITS}


def test_every_prompt_is_in_one_split(tmp_path):
    texts = [f"text {number}" for number in range(2000)]
    file = write(tmp_path, [json.dumps({"text": text}) for text in texts])
    found = prompts(load_dataset(file))
    assert sorted(itertools.chain(*found.values())) == sorted(texts)
    assert 1500 < len(found["train"]) < 1700
    assert 140 < len(found["validation"]) < 260
    # The division is by the prompt alone: another order, and more lines, leave it as it is.
    more = write(tmp_path, [json.dumps({"text": text}) for text in [*texts[::-1], "one more"]], "more.jsonl")
    again = prompts(load_dataset(more))
    for split in SPLITS:
        assert set(found[split]) <= set(again[split])


def test_repeated_prompts_count_once(tmp_path):
    file = write(tmp_path, ["same", "same", "other", "", "   "], "texts.txt")
    assert sum(len(found) for found in prompts(load_dataset(file)).values()) == 2


def test_fields_and_references(tmp_path):
    rows = [{"q": f"question {number}", "a": ["one", "two"]} for number in range(20)] + [{"q": "last", "a": "only"}]
    task = load_dataset(write(tmp_path, [json.dumps(row) for row in rows]), prompt="q", references="a")
    examples = [task.example(split, index) for split in SPLITS for index in range(task.num_examples(split))]
    references = {example.prompt: example.references for example in examples}
    assert references["question 3"] == ("one", "two")
    assert references["last"] == ("only",)


def test_references_are_what_is_scored(tmp_path):
    rows = [json.dumps({"q": f"question {number}", "a": "the cat sat"}) for number in range(20)]
    file = write(tmp_path, rows)
    env = gym.make("TextGen-v0", task=load_dataset(file, prompt="q", references="a"), max_new_tokens=8).unwrapped
    env.reset(seed=0)
    for token in (*env.tokenizer.encode_response(" a cat ran"), env.tokenizer.eos_token_id):
        *_, info = env.step(token)
    assert info["score"] == 0.5  # one of two words, of both texts: articles do not count
    assert (env.task.default_reward, env.task.held_out_reward) == ("token_f1", "chrf")
    plain = load_dataset(file, prompt="q")
    assert (plain.default_reward, plain.held_out_reward) == ("sentiment", "vader")
    named = load_dataset(file, prompt="q", references="a", reward="exact_match", held_out_reward="rouge_l")
    assert (named.default_reward, named.held_out_reward) == ("exact_match", "rouge_l")


def test_cut_prompts_are_never_in_two_splits(tmp_path):
    """Many texts that begin alike: cut to five tokens, hundreds of them are the same prompt."""
    texts = [f"Once upon a time there was a number {number}" for number in range(300)]
    texts += [f"{one}{two} goes home" for one in NAMES for two in "abcdefghij"]
    file = write(tmp_path, texts, "texts.txt")
    pools = [
        gym.make("TextGen-v0", task={"dataset": {"path": str(file), "prompt_tokens": 5}}, split=split)
        for split in SPLITS
    ]
    seen = {}
    for split, env in zip(SPLITS, pools, strict=True):
        pool = env.unwrapped.setting.pool
        assert pool.lengths.max() <= 5
        seen[split] = {tuple(row) for row in pool.prompts.tolist()}
    assert "train" in seen
    pairs = [(one, two) for one in seen for two in seen if one < two]
    assert not any(seen[one] & seen[two] for one, two in pairs)


def test_the_first_tokens_are_kept(tmp_path):
    file = write(tmp_path, ["Once upon a time there was a fox."], "texts.txt")
    env = gym.make("TextGen-v0", task=load_dataset(file, prompt_tokens=5), split=split_of(file))
    observation, _ = env.reset(seed=0)
    length = int(observation["attention_mask"].sum())
    text = b"".join(env.unwrapped.tokenizer.pieces[token] for token in observation["input_ids"][:length]).decode()
    assert length == 5
    assert "Once upon a time there was a fox.".startswith(text)


def split_of(file):
    task = load_dataset(file)
    return next(split for split in SPLITS if task.num_examples(split))


def test_a_dict_is_the_same_and_fits_into_json(tmp_path):
    file = write(tmp_path, ["one", "two", "three", "four"], "texts.txt")
    env = gym.make("TextGen-v0", task={"dataset": {"path": str(file)}}, split=split_of(file))
    assert "dataset" in env.spec.to_json()
    assert prompts(make_task({"dataset": {"path": str(file)}})) == prompts(load_dataset(file))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"text": "cut', "line 2 of .*JSON object"),
        ("a.jsonl", b'{"text": "fine"}\n[1, 2]\n', "line 2 of .*got list"),
        ("a.jsonl", b'{"story": "fine"}\n', r"field 'text' of line 1 .*its fields are \['story'\]"),
        ("a.jsonl", b'{"text": 7}\n', "Expected a string in field 'text'"),
        ("a.txt", b"fine\n\xff\xfe\n", "to be UTF-8, but byte 5"),
        ("a.txt", b"\n\n", "at least one prompt"),
        ("a.docx", b"fine", r"Expected a \.jsonl, \.txt, \.csv, \.tsv, \.parquet file, the id"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path / name)


def test_a_file_that_is_not_there():
    with pytest.raises(ValueError, match="Expected a file that can be read"):
        load_dataset("nowhere.txt")


def test_bad_settings(tmp_path):
    file = write(tmp_path, ["one"], "texts.txt")
    with pytest.raises(ValueError, match="prompt_tokens to be at least 1"):
        load_dataset(file, prompt_tokens=0)
    with pytest.raises(TypeError, match="whole number"):
        load_dataset(file, prompt_tokens=2.5)


def test_real_stories(shared_data):
    task = load_dataset(shared_data / "tinystories" / "stories.jsonl", prompt_tokens=16)
    sizes = [task.num_examples(split) for split in SPLITS]
    assert sum(sizes) > 2000
    assert min(sizes) > 150


# Formats.


def all_examples(task):
    return [task.example(split, index) for split in SPLITS for index in range(task.num_examples(split))]


def as_csv(path, rows, **how):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **how).writerows(rows)
    return path


NOTES = ["plain", 'with "quotes", and commas', "two\nlines", "three\r\nlines\n\nand Ä", ""]


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
    """What `datasets.load_dataset` returns for an id on the Hub: its splits, or the one that is asked for."""

    def load_dataset(self, path, *, name=None, split=None):
        if path != "owner/name":
            raise ConnectionError("offline")
        made = {key: [{"q": f"{name} {key} {number}"} for number in range(4)] for key in ("train", "dev", "extra")}
        return made if split is None else made[split]


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
    """What is on the Hub, in a folder: the same code and the real library, with nothing to download."""
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


# Columns.


def test_templates(tmp_path):
    rows = [{"q": "why", "n": 3, "parts": ["a", "b."], "user 1": "me"}]
    file = write(tmp_path, [json.dumps(row) for row in rows])
    task = load_dataset(file, template="{{{user 1}}} {q} {n}?\n{parts}", metadata=["n", "parts"])
    assert all_examples(task) == [Example("{me} why 3?\na b.", (), {"n": 3, "parts": ["a", "b."]})]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "no column"}, "at least one column in braces"),
        ({"template": "{"}, "with columns in braces"),
        ({"template": "{}"}, "names of columns in braces, and nothing else"),
        ({"template": "{q!r}"}, "names of columns in braces, and nothing else"),
        ({"template": "{q:>8}"}, "names of columns in braces, and nothing else"),
        ({"template": "{q.__class__}"}, r"Expected a string in field 'q\.__class__' of line 1 .*its fields are \['q'"),
        ({"template": "{q}", "prompt": "q"}, "a prompt column or a template, got both"),
        ({"prompt": "q", "metadata": ["r"]}, r"Expected the columns \['r'\] in line 1"),
        ({"prompt": "q", "references": "none"}, "a list of at least one, in field 'none' of line 1"),
        ({"prompt": "q", "references": "empty"}, r"a list of at least one, in field 'empty' of line 1 .*got \[\]"),
        ({"prompt": "none"}, "a string in field 'none' of line 1"),
        ({"prompt": "q", "split": "dev"}, "Expected a split from"),
        ({"prompt": "q", "on_error": "ignore"}, "on_error to be 'raise' or 'skip'"),
        ({"prompt": "q", "limit": 0}, "limit to be at least 1"),
        ({"preset": "imdb"}, "Expected preset to be one of"),
        ({"preset": "gsm8k"}, "the folder that holds the files of preset 'gsm8k'"),
    ],
)
def test_bad_columns(tmp_path, settings, message):
    file = write(tmp_path, [json.dumps({"q": "why", "none": None, "empty": []})])
    with pytest.raises(ValueError, match=message):
        load_dataset(file, **settings)


def test_rows_with_one_prompt_are_one_example(tmp_path):
    file = write(tmp_path, ["q\ta", "x\t1", "y\t2", "x\t3", "x\t1"], "a.tsv")
    task = load_dataset(file, prompt="q", references="a", split="train")
    assert all_examples(task) == [Example("x", ("1", "3")), Example("y", ("2",))]
    assert (task.report.rows, task.report.repeated) == (4, 2)


def test_named_splits_share_no_prompt_and_say_so(tmp_path):
    names = {"train": "abcdx", "validation": "cxy", "test": "dx"}
    files = {split: str(write(tmp_path, list(texts), f"{split}.txt")) for split, texts in names.items()}
    with pytest.warns(UserWarning, match=r"\d prompts of split '.*' .* are in split '.*', too") as caught:
        task = load_dataset(files)
    assert prompts(task) == {"train": ["a", "b"], "validation": ["c", "y"], "test": ["d", "x"]}
    assert task.report.shared == {("train", "test"): 2, ("train", "validation"): 1, ("validation", "test"): 1}
    assert str(caught[0].message).startswith("2 prompts of split 'train'")
    assert len(caught) == 3
    with pytest.raises(ValueError, match="no split beside a dict of splits"):
        load_dataset(files, split="train")
    with pytest.raises(ValueError, match="Expected a split from"):
        load_dataset({"dev": files["train"]})


def test_a_limit_takes_a_part_that_does_not_depend_on_the_rest(tmp_path):
    texts = [f"text {number}" for number in range(1000)]
    whole = prompts(load_dataset(write(tmp_path, texts, "a.txt"), limit=50))
    assert [len(found) for found in whole.values()] == [50, 50, 50]
    assert [int(text.split()[1]) for text in whole["train"]] == sorted(int(text.split()[1]) for text in whole["train"])
    more = prompts(load_dataset(write(tmp_path, texts[::-1], "b.txt"), limit=50))
    assert {split: set(found) for split, found in more.items()} == {s: set(found) for s, found in whole.items()}


# What is wrong, and where.


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


def test_a_file_that_changed_since_is_noticed(tmp_path):
    file = write(tmp_path, [json.dumps({"text": "one"})])
    task = load_dataset(file, split="train")
    file.write_text('{"else": 1}\n')
    with pytest.raises(ValueError, match="has changed since"):
        task.example("train", 0)


def test_a_prompt_that_changed_since_is_noticed(tmp_path):
    """Another prompt could be one that is in another split."""
    task = load_dataset(write(tmp_path, ["one", "two"], "a.txt"), split="train")
    write(tmp_path, ["ten", "two"], "a.txt")
    with pytest.raises(ValueError, match=r"prompt of example 0 in split 'train' .* got 'ten': the file has changed"):
        task.example("train", 0)
    assert task.example("train", 1).prompt == "two"


def test_a_row_that_changed_since_is_named_by_its_byte(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,b\nwho,1\nwhy,2\n")
    task = load_dataset(tmp_path / "a.csv", split="train")
    (tmp_path / "a.csv").write_bytes(b"text,b\nwho,1\n\xffhy,2\n")
    with pytest.raises(ValueError, match="but byte 13 is not"):
        task.example("train", 1)


def test_rows_are_not_held_in_memory(tmp_path):
    """20 MB of text take no more than the index, a few bytes a row."""
    file = write(tmp_path, [f"{number} " + "x" * 10_000 for number in range(2000)], "a.txt")
    tracemalloc.start()
    try:
        task = load_dataset(file)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000
    assert task.example("train", 5).prompt.endswith("xxx")


# The six public sets.

CORRUPT = {
    "gsm8k": ("test.jsonl", "question"),
    "scitldr": ("dev.jsonl", "source"),
    "commongen": ("train.tsv", "concepts"),
    "persona_chat": ("valid.csv", "Best Generated Conversation"),
    "sentence_polarity": ("pos.txt", None),
    "tinystories": ("stories.jsonl", "text"),
}


@pytest.fixture(params=sorted(PRESETS))
def public(request, shared_data, tmp_path):
    """A preset, and the folder of a copy of its files."""
    folder = tmp_path / request.param
    folder.mkdir()
    for file in (shared_data / request.param).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return request.param, folder


@pytest.mark.filterwarnings("ignore:.* prompts of split 'validation' .*commongen:UserWarning")
def test_a_preset_loads_and_runs_an_episode(public):
    name, folder = public
    task = {"dataset": {"path": str(folder), "preset": name, "limit": 20}}
    env = gym.make("TextGen-v0", task=task, payout="sparse", max_new_tokens=4)
    env.reset(seed=0)
    base = env.unwrapped
    assert base.task.report.skipped == 0
    for step in range(4):
        _, _, terminated, _, info = env.step(base.tokenizer.encode_response(" a")[0])
        assert terminated == (step == 3)
    assert info["score"] == base.setting.reward.score(base.example, " a a a a")
    assert (
        gym.make("TextGen-v0", task=task).unwrapped.setting.max_new_tokens == PRESETS[name].settings["max_new_tokens"]
    )
    if name != "tinystories":
        assert all(text for text in base.example.references)
        assert base.example.references
    assert "{" not in base.example.prompt.split("\n")[0]


def test_a_preset_that_is_cut_off(public):
    """In the middle of a row; of lines of text, in the middle of a character."""
    name, folder = public
    file = folder / CORRUPT[name][0]
    data = file.read_bytes()
    cut = data[: data.rindex(b"\t")] if file.suffix == ".tsv" else data[:-3]
    if file.suffix == ".txt":
        cut = data + "é".encode()[:1]
    file.write_bytes(cut)
    name = re.escape(repr(str(file)))
    with pytest.raises(ValueError, match=rf"line \d+ of {name}|{name} to be UTF-8"):
        load_dataset(folder, preset=folder.name)


def test_a_preset_in_another_encoding(public):
    name, folder = public
    file = folder / CORRUPT[name][0]
    file.write_bytes(file.read_bytes().decode().encode("utf-16"))
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))}' to be UTF-8, but byte 0 is not"):
        load_dataset(folder, preset=name)


def test_a_preset_without_a_column(public):
    name, folder = public
    file, column = folder / CORRUPT[name][0], CORRUPT[name][1]
    if column is None:
        file.unlink()
        with pytest.raises(ValueError, match="Expected a file that can be read"):
            load_dataset(folder, preset=name)
        return
    file.write_bytes(file.read_bytes().replace(column.encode(), b"another", 1))
    with pytest.raises(ValueError, match=rf"field '{column}' of line \d+ of .*its fields are"):
        load_dataset(folder, preset=name)


def test_the_final_number():
    reward, example = FinalNumber(), Example("?", (), {"final": "1200"})
    scores = {"1,200": 1, "so 3 + 4. It is 1200.": 1, "1200 or 7": 0, "": 0, "$1,200.00": 1, "-1200": 0}
    assert {text: reward.score(example, text) for text in scores} == scores
    check_reward(reward, examples=[example], max_examples=10)
    with pytest.raises(ValueError, match="metadata"):
        reward.score(Example("?"), "1")
