"""Data as tasks: how rows become examples, are divided into splits, and stay as they were read."""

import itertools
import json
import tracemalloc

import gymnasium as gym
import pytest

from tests.textenvs.datasets.helpers import all_examples, prompts, write
from textenvs import Example, load_dataset, make_task
from textenvs.tasks import SPLITS

NAMES = ["Tim", "Sue", "Anna", "Max", "Sam", "Lily", "Ben", "Otto", "Nina", "Gus"]


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
        gym.make("TextGen-v0", task={"dataset": {"data": str(file), "prompt_tokens": 5}}, split=split)
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
    env = gym.make("TextGen-v0", task={"dataset": {"data": str(file)}}, split=split_of(file))
    assert "dataset" in env.spec.to_json()
    assert prompts(make_task({"dataset": {"data": str(file)}})) == prompts(load_dataset(file))


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
        ({"prompt": "q", "metadata": ["r"]}, r"Expected the column 'r' in line 1 .*its fields are \['q'"),
        ({"prompt": "q", "references": "none"}, "a list of at least one, in field 'none' of line 1"),
        ({"prompt": "q", "references": "empty"}, r"a list of at least one, in field 'empty' of line 1 .*got \[\]"),
        ({"prompt": "none"}, "a string in field 'none' of line 1"),
        ({"prompt": "q", "split": "dev"}, "Expected a split from"),
        ({"prompt": "q", "on_error": "ignore"}, "on_error to be 'raise' or 'skip'"),
        ({"prompt": "q", "limit": 0}, "limit to be at least 1"),
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


def test_a_file_that_changes_after_it_was_read_changes_nothing(tmp_path):
    file = write(tmp_path, ["one", "two"], "a.txt")
    task = load_dataset(file, split="train")
    write(tmp_path, ["ten", "two"], "a.txt")
    assert all_examples(task) == [Example("one"), Example("two")]
    file.unlink()
    assert all_examples(task) == [Example("one"), Example("two")]


def test_a_change_to_an_example_changes_nothing(tmp_path):
    file = write(tmp_path, [json.dumps({"text": "one", "tags": ["a", "b"]})])
    task = load_dataset(file, metadata=["tags"], split="train")
    task.example("train", 0).metadata["tags"].append("c")
    assert all_examples(task) == [Example("one", (), {"tags": ["a", "b"]})]


def test_the_spec_of_an_environment_shares_the_examples(tmp_path):
    """Each wrapper's spec is a copy, and would be one of the whole data set."""
    task = load_dataset(write(tmp_path, ["one", "two"], "a.txt"), split="train")
    assert gym.make("TextGen-v0", task=task).spec.kwargs["task"] is task


def test_rows_beyond_the_limit_are_not_held_in_memory(tmp_path):
    """Of 20 MB of text, 60 rows of 10 kB stay."""
    file = write(tmp_path, [f"{number} " + "x" * 10_000 for number in range(2000)], "a.txt")
    tracemalloc.start()
    try:
        task = load_dataset(file, limit=20)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000
    assert task.example("train", 5).prompt.endswith("xxx")
