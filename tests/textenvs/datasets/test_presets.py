"""The presets of six public data sets, on a copy of their files, whole and damaged."""

import re

import gymnasium as gym
import pytest

from textenvs import Example, load_dataset
from textenvs.datasets import PRESETS, FinalNumber
from textenvs.testing import check_reward

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


def test_a_short_review_is_divided_in_the_middle(tmp_path):
    (tmp_path / "pos.txt").write_text("a small gem\none two three four five six seven\n")
    (tmp_path / "neg.txt").write_text("terrible\n")
    task = load_dataset(tmp_path, preset="sentence_polarity")
    examples = [task.example("train", index) for index in range(task.num_examples("train"))]
    assert [(example.prompt, example.references) for example in examples] == [
        ("a", (" small gem",)),
        ("one two three four five six", (" seven",)),
        ("", (" terrible",)),
    ]
