"""Columns of a row: paths, several references, labels, messages, and values that are missing or cannot be encoded."""

import json

import gymnasium as gym
import numpy as np
import pytest

from tests.textenvs.datasets.helpers import all_examples, write
from textenvs import Example, load_dataset
from textenvs.datasets.fields import MISSING, value_of

ROW = {
    "a.b": "dotted",
    "answers": {"text": ["the sea", "at sea"], "start": [1, 5]},
    "found": [{"text": "north"}, {"text": "south"}],
    "nested": [{"parts": [{"text": "1"}, {"text": "2"}]}, {"parts": [{"text": "3"}]}],
    "translation": {"en": "dog", "de": "Hund"},
    "turns": ["first", "last"],
}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("a.b", "dotted"),
        ("answers.text", ["the sea", "at sea"]),
        ("found.text", ["north", "south"]),
        ("nested.parts.text", ["1", "2", "3"]),
        ("translation[de]", "Hund"),
        ("turns[0]", "first"),
        ("turns[-1]", "last"),
        ("turns[2]", MISSING),
        ("found.start", MISSING),
        ("translation.fr", MISSING),
        ("answers.text.x", MISSING),
        ("answers..text", MISSING),
        ("", MISSING),
    ],
)
def test_a_path_into_a_field(column, value):
    assert value_of(ROW, column) == value or value_of(ROW, column) is value


def test_paths_stand_in_templates_references_and_metadata():
    task = load_dataset(
        [ROW], template="{translation[en]}: {answers.text}", references="found.text", metadata=["turns[1]"]
    )
    assert all_examples(task) == [Example("dog: the sea at sea", ("north", "south"), {"turns[1]": "last"})]


def test_several_columns_of_references():
    row = {"text": "Who?", "first": "She.", "second": ["He.", "They."], "third": 3}
    task = load_dataset([row], references=["first", "second", "third"])
    assert all_examples(task) == [Example("Who?", ("She.", "He.", "They.", "3"))]
    assert task.default_reward == "token_f1"
    with pytest.raises(ValueError, match="field 'third' of row 0 of the list in memory, got null or an empty cell"):
        load_dataset([{**row, "third": None}], references=["first", "second", "third"])


@pytest.mark.parametrize("missing", ["", " \n", None, float("nan"), np.nan, float("inf"), [], ["fine", ""], [None]])
def test_an_answer_that_is_missing_is_an_error_of_its_row(missing):
    rows = [{"q": "1+1", "a": "2"}, {"q": "2+2", "a": missing}]
    with pytest.raises(ValueError, match="field 'a' of row 1 of the list in memory"):
        load_dataset(rows, prompt="q", references="a")
    with pytest.warns(UserWarning, match="1 rows of .* were skipped:\n.*row 1"):
        task = load_dataset(rows, prompt="q", references="a", on_error="skip")
    assert all_examples(task) == [Example("1+1", ("2",))]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_an_empty_cell_is_missing(tmp_path, name):
    separator = "\t" if name == "a.tsv" else ","
    file = write(tmp_path, [separator.join(row) for row in (["q", "a"], ["1+1", "2"], ["2+2", ""], ["", "4"])], name)
    with pytest.raises(ValueError, match=r"field 'a' of line 3 .* an empty cell; .* Fill it in, or .* on_error='skip'"):
        load_dataset(file, template="What is {q}?", references="a")
    with pytest.raises(ValueError, match=r"field 'q' of line 4 .* an empty cell"):
        load_dataset(file, template="What is {q}?")
    answers = write(tmp_path, ["text" + separator + "n", "one" + separator], name)
    assert all_examples(load_dataset(answers, metadata=["n"])) == [Example("one", (), {"n": None})]


@pytest.mark.parametrize("column", ["text", "answer", "note"])
def test_half_of_a_surrogate_pair_is_an_error_of_its_row(tmp_path, column):
    good = {"text": "a good row", "answer": "yes", "note": ["\U0001f600"]}
    bad = {**good, "text": "another", column: "cut in two: \ud83d"}
    file = write(tmp_path, [json.dumps(good), json.dumps(bad)])
    settings = {"references": "answer", "metadata": ["note"], "split": "train"}
    with pytest.raises(ValueError, match=rf"field '{column}' of line 2 .* half of a surrogate pair, '\\ud83d', at"):
        load_dataset(file, **settings)
    with pytest.warns(UserWarning, match="1 rows of .* could not be read"):
        task = load_dataset(file, on_error="skip", **settings)
    gym.make("TextGen-v0", task=task).reset(seed=0)
    assert task.example("train", 0).metadata == {"note": ["\U0001f600"]}


def test_labels():
    rows = [{"text": "a small gem", "label": 1}, {"text": "it drags", "label": "0"}, {"text": "hm", "label": True}]
    labels = {"label": {0: "negative", "1": "positive", "true": "sure"}}
    task = load_dataset(rows, template="{text} ({label})", references="label", metadata=["label"], labels=labels)
    assert all_examples(task)[:2] == [
        Example("a small gem (positive)", ("positive",), {"label": "positive"}),
        Example("it drags (negative)", ("negative",), {"label": "negative"}),
    ]
    assert all_examples(task)[2].references == ("sure",)
    with pytest.raises(ValueError, match=r"a label from \['0', '1', 'true'\] in field 'label' of row 0 .*, got 2"):
        load_dataset([{"text": "so so", "label": 2}], labels=labels)
    with pytest.raises(ValueError, match=r"field 'label' of row 0 .* got none; its fields are \['text'\]"):
        load_dataset([{"text": "so so"}], labels=labels)
    with pytest.raises(TypeError, match="Expected labels as"):
        load_dataset(rows, labels={"0": "negative"})


ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a river."}]
ANSWER = {"role": "assistant", "content": "The Nile."}


def test_messages():
    task = load_dataset([{"messages": [*ASKED, ANSWER]}], prompt="messages")
    written = "System: Be brief.\nUser: Name a river.\nAssistant:"
    assert all_examples(task) == [Example(written, ("The Nile.",))]
    assert (task.default_reward, task.held_out_reward) == ("token_f1", "chrf")
    single = load_dataset([{"prompt": ASKED[1:], "completion": [ANSWER]}], prompt="prompt", references="completion")
    assert all_examples(single) == [Example("Name a river.", ("The Nile.",))]
    other = load_dataset([{"messages": [*ASKED, ANSWER], "a": "The Rhine."}], prompt="messages", references="a")
    assert all_examples(other) == [Example(written, ("The Rhine.",))]
    share = [{"from": "human", "value": "Name a river."}, {"from": "gpt", "value": "The Nile."}]
    assert all_examples(load_dataset([{"conversations": share}], prompt="conversations")) == all_examples(single)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([ANSWER], "a conversation in which the assistant answers"),
        ([*ASKED, {"role": "assistant", "content": ""}], "a conversation in which the assistant answers"),
        ([{"role": "user", "content": None}], "messages with a role and a text as their content"),
        ([{"role": "user", "content": "cut \ud83d"}], "text that can be encoded in field"),
    ],
)
def test_messages_that_are_none(messages, message):
    with pytest.raises(ValueError, match=rf"{message} .*'messages' of row 0|{message} 'messages' of row 0"):
        load_dataset([{"messages": messages}], prompt="messages")


def test_a_reference_of_several_messages():
    with pytest.raises(ValueError, match="a single message of the assistant in field 'a' of row 0"):
        load_dataset([{"text": "hello", "a": [*ASKED, ANSWER]}], references="a")


def test_metadata_in_json_values():
    row = {"text": "one", "n": np.int64(3), "x": np.float32(0.5), "xs": np.arange(2), "gone": float("nan")}
    task = load_dataset([row], metadata=["n", "x", "xs", "gone"])
    assert json.dumps(task.example("train", 0).metadata) == '{"n": 3, "x": 0.5, "xs": [0, 1], "gone": null}'
    with pytest.raises(ValueError, match="a value of JSON in field 'n' of row 0 of the list in memory, got set"):
        load_dataset([{"text": "one", "n": {1}}], metadata=["n"])
