"""Files as tasks: what is read, how it is divided, and what is said of a file that is not what it should be."""

import itertools
import json

import gymnasium as gym
import pytest

from textenvs import load_dataset, make_task
from textenvs.tasks import SPLITS

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
        ("a.docx", b"fine", r"Expected a \.jsonl, \.txt, \.csv, \.tsv, \.parquet file, or the id"),
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
