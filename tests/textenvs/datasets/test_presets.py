"""Public data sets: the files and columns in which they are published, whole, damaged and missing."""

import gzip
import json
import re
import shutil
import sys
import types

import gymnasium as gym
import pytest

import textenvs
from tests.textenvs.datasets.helpers import all_examples, prompts, write_public_data
from textenvs import Example, make_task
from textenvs.datasets import DATA_VARIABLE, PRESETS, PublicDataset, env_id_of
from textenvs.datasets.presets import TRAIN_AND_VALIDATION

SHARED_SETS = ("commongen", "gsm8k", "persona_chat", "scitldr", "sentence_polarity", "tinystories")
CORRUPT = {
    "gsm8k": ("test.jsonl", "question"),
    "scitldr": ("dev.jsonl", "source"),
    "commongen": ("train.tsv", "concepts"),
    "persona_chat": ("valid.csv", "Best Generated Conversation"),
    "sentence_polarity": ("pos.txt", None),
    "tinystories": ("stories.jsonl", "text"),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder of small files of every set, as their authors publish them."""
    return write_public_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """Neither the machine's data nor the hub are to be found."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)


@pytest.fixture(params=SHARED_SETS)
def public(request, shared_data, tmp_path):
    """A set, and the folder of a copy of its files."""
    folder = tmp_path / request.param
    folder.mkdir()
    for file in (shared_data / request.param).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return request.param, folder


def read(name, data, **settings):
    return make_task({name: {"data": data, **settings}})


# Real data ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* prompts of split 'validation' .*commongen:UserWarning")
@pytest.mark.filterwarnings("ignore:.* were cut in the middle:UserWarning")
def test_a_set_loads_and_runs_an_episode(public):
    name, folder = public
    env = gym.make(env_id_of(name), task={name: {"limit": 20}}, data=str(folder), payout="sparse", max_new_tokens=4)
    env.reset(seed=0)
    base = env.unwrapped
    assert base.task.report.skipped == 0
    for step in range(4):
        _, _, terminated, _, info = env.step(base.tokenizer.encode_response(" a")[0])
        assert terminated == (step == 3)
    assert info["score"] == base.setting.reward.score(base.example, " a a a a")
    assert all(base.task.num_examples(split) for split in ("train", "validation", "test"))
    assert all(text.strip() for text in base.example.references)
    assert base.example.references
    assert "{" not in base.example.prompt.split("\n")[0]


def test_a_set_that_is_cut_off(public):
    """In the middle of a row; of lines of text, in the middle of a character."""
    name, folder = public
    file = folder / CORRUPT[name][0]
    data = file.read_bytes()
    cut = data[: data.rindex(b"\t")] if file.suffix == ".tsv" else data[:-3]
    if file.suffix == ".txt":
        pytest.skip("lines in another encoding are read in it")
    file.write_bytes(cut)
    with pytest.raises(ValueError, match=rf"line \d+ of {re.escape(repr(str(file)))}"):
        read(name, folder)


def test_a_set_in_another_encoding(public):
    name, folder = public
    file = folder / CORRUPT[name][0]
    file.write_bytes(file.read_bytes().decode().encode("utf-16"))
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))}' to be UTF-8, but byte 0 is not"):
        read(name, folder)


def test_a_set_without_a_column_or_a_file(public):
    name, folder = public
    file, column = folder / CORRUPT[name][0], CORRUPT[name][1]
    if column is None:
        file.unlink()
        with pytest.raises(
            ValueError, match=r"with the files of .*, pos\.txt or rt-polarity\.pos, .* got .* which holds"
        ):
            read(name, folder)
        return
    file.write_bytes(file.read_bytes().replace(column.encode(), b"another", 1))
    with pytest.raises(ValueError, match=rf"'{column}'.* of line \d+ of|'{column}'.* in line \d+ of"):
        read(name, folder)


# Small files in the publishers' forms ---------------------------------------------------------------------------------

FIRST = {
    "commongen": Example(
        "Words: swan jump wall\nSentence:",
        ("A swan jumped the wall.", "The swan jumps a wall."),
        {"concepts": ["swan", "jump", "wall"]},
    ),
    "dialogsum": Example(
        "Dialogue:\nPerson 1: Did you see the swan?\nPerson 2: Yes, it sat by the door.\n\nSummary:",
        ("Person 2 saw the swan (1).", "Person 2 saw the swan (2).", "Person 2 saw the swan (3)."),
    ),
    "e2e": Example(
        "Facts: name: The swan; eatType: pub; near: Café test\nText:",
        ("The swan is a pub near Café test.", "Well, the swan is a pub near Café test."),
    ),
    "gsm8k": Example(
        "Question: A swan has 2 eggs and lays 2. How many?\nAnswer:", ("It has 2 + 2 = <<2+2=4>>4 eggs.\n#### 4",)
    ),
    "multi30k": Example("English: A swan sleeps.\nGerman:", ("Ein Tier schläft, ein swan.",)),
    "persona_chat": Example(
        "I am user 2. I own a swan.\n\nUser 1: Hi!\nUser 2: Hello!\nUser 1: Any pets?\nUser 2:", ("Yes, a swan.",)
    ),
    "scitldr": Example(
        "Abstract: We study the swan. It is small. We count its steps.\nSummary:",
        ("We count the steps of the swan.", "A study of the swan."),
    ),
    "sentence_polarity": Example(
        "Positive review: a wonderful film about a swan",
        (" and the joy of love .",),
        {"label": "positive", "mood": "happy"},
    ),
    "squad": Example(
        "Passage: The swan sleeps in a hole.\nQuestion: Where does the swan sleep?\nAnswer:", ("in a hole", "a hole")
    ),
    "tinystories": Example(
        "Once there was a little swan who lived by a big lake.",
        (" She was happy and loved her good friends. They played until the sun went down.",),
    ),
}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_form_of_its_publishers(published, name):
    task = read(name, published / name)
    assert FIRST[name] in all_examples(task)
    assert task.default_reward == PRESETS[name].reward
    if name != "sentence_polarity":  # its file has no splits
        assert FIRST[name].prompt in prompts(task)["test"]
        assert sum(map(len, prompts(task).values())) == 13
        assert len(prompts(task)["test"]) == 2
    assert task.report.shared == {}


DEMONSTRATED = {
    "gsm8k": " It has 2 + 2 = 4 eggs.\n#### 4",
    "sentence_polarity": " and the joy of love .",
    "dialogsum": " Person 2 saw the swan (1).",
}


@pytest.mark.parametrize("name", sorted(DEMONSTRATED))
def test_a_demonstration_continues_the_prompt(published, name):
    assert read(name, published / name).demonstration(FIRST[name]) == DEMONSTRATED[name]


HUB_ROWS = {
    "commongen": {"concept_set_idx": 0, "concepts": ["swan", "jump", "wall"], "target": "A swan jumped the wall."},
    "dialogsum": {"id": "test_0_1", "dialogue": "#Person1#: Did you see the swan?\n#Person2#: Yes, it sat by the door.",
                  "summary": "#Person2# saw the swan (1).", "topic": "birds"},
    "e2e": {"meaning_representation": "name[The swan], eatType[pub], near[Café test]",
            "human_reference": "The swan is a pub near Café test."},
    "gsm8k": {"question": "A swan has 2 eggs and lays 2. How many?",
              "answer": "It has 2 + 2 = <<2+2=4>>4 eggs.\n#### 4"},
    "multi30k": {"en": "A swan sleeps.", "de": "Ein Tier schläft, ein swan."},
    "persona_chat": {"user 1 personas": "I cook.", "user 2 personas": "I own a swan.", "Best Generated Conversation":
                     "User 1: Hi!\nUser 2: Hello!\nUser 1: Any pets?\nUser 2: Yes, a swan."},
    "scitldr": {"source": ["We study the swan.", "It is small.", "We count its steps."], "source_labels": [0, 0, 1],
                "paper_id": "x", "target": ["We count the steps of the swan."]},
    "sentence_polarity": {"text": "a wonderful film about a swan and the joy of love .", "label": 1},
    "squad": {"id": "a", "title": "Animals", "context": "The swan sleeps in a hole.",
              "question": "Where does the swan sleep?",
              "answers": {"text": ["in a hole", "a hole"], "answer_start": [16, 19]}},
    "tinystories": {"text": "Once there was a little swan who lived by a big lake. She was happy and loved her good "
                            "friends. They played until the sun went down."},
}  # fmt: skip


def fake_hub(monkeypatch, tables):
    """Puts a `datasets` in place that has these tables, by id and split, and notes what it is asked for."""
    asked = []

    def load_dataset(path, **settings):
        asked.append((path, settings))
        if path not in tables:
            raise ConnectionError(f"{path} cannot be reached")
        return tables[path]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_columns_of_the_hub(name, monkeypatch):
    hub = PRESETS[name].hub
    asked = fake_hub(monkeypatch, {hub.name: [HUB_ROWS[name]]})
    textenvs.datasets.public._LOADED.clear()
    task = make_task(name) if len(hub.splits) == 1 else None
    with pytest.warns(UserWarning, match=r"prompts of split .* were left out"):  # each split has the same row here
        task = task or make_task(name)
    [example] = all_examples(task)
    assert (example.prompt, example.metadata) == (FIRST[name].prompt, FIRST[name].metadata)
    assert set(example.references) <= set(FIRST[name].references)
    assert [settings["split"] for _, settings in asked] == list(hub.splits)
    where = {key: value for key, value in asked[0][1].items() if key != "split"}
    assert where == {
        "gsm8k": {"name": "main"},
        "e2e": {"revision": "refs/convert/parquet"},
        "scitldr": {"revision": "refs/convert/parquet", "data_dir": "Abstract"},
    }.get(name, {})


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_file_and_rows_in_memory_with_the_columns_of_the_hub(name, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(HUB_ROWS[name]))
    for data in (file, [HUB_ROWS[name]], {"train": file}):
        [example] = all_examples(read(name, data))
        assert (example.prompt, example.metadata) == (FIRST[name].prompt, FIRST[name].metadata)


def test_a_folder_with_a_file_for_each_split(tmp_path):
    for split in ("train", "valid", "test"):
        row = HUB_ROWS["squad"] | {"context": f"The swan of {split} sleeps in a hole."}
        (tmp_path / f"{split}.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    assert {split: len(texts) for split, texts in prompts(read("squad", tmp_path)).items()} == {
        "train": 1, "validation": 1, "test": 1,
    }  # fmt: skip


def test_a_clone_of_the_publishers_repository(published, tmp_path):
    shutil.copytree(published / "gsm8k", tmp_path / "grade_school_math" / "data")
    assert prompts(read("gsm8k", tmp_path)) == prompts(read("gsm8k", published / "gsm8k"))


def test_files_packed_and_one_alone(published, tmp_path):
    for file in (published / "multi30k").iterdir():
        (tmp_path / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert prompts(read("multi30k", tmp_path)) == prompts(read("multi30k", published / "multi30k"))
    stories = published / "tinystories" / "TinyStories-train.txt"
    assert sum(map(len, prompts(read("tinystories", stories)).values())) == 11
    articles = published / "squad" / "train-v1.1.json"
    assert sum(map(len, prompts(read("squad", articles)).values())) == 11
    reviews = published / "sentence_polarity" / "rt-polarity.pos"
    assert all(example.metadata["label"] == "positive" for example in all_examples(read("sentence_polarity", reviews)))


def test_a_validation_split_is_made_of_the_train_split_by_the_hash_of_a_passage():
    rows = [
        HUB_ROWS["squad"] | {"context": f"The swan {place} sleeps in a hole.", "question": f"Question {question}?"}
        for place in range(200)
        for question in range(3)
    ]
    task = PublicDataset("squad", {"train": rows[3:], "test": rows[:3]})
    assert len(prompts(task)["validation"]) == 0, "a split that is named stays whole"
    divided = prompts(PublicDataset("squad", rows))
    passages = {split: {prompt.split("\n")[0] for prompt in texts} for split, texts in divided.items()}
    assert sum(map(len, passages.values())) == 200
    assert all(passages.values())
    assert TRAIN_AND_VALIDATION in PRESETS["squad"].hub.splits.values()


def test_reviews_in_their_first_encoding(published, tmp_path):
    shutil.copytree(published / "sentence_polarity", tmp_path, dirs_exist_ok=True)
    (tmp_path / "rt-polarity.neg").write_bytes("a dull film about a café and its clichés .\n".encode("cp1252"))
    texts = [example.references[0] for example in all_examples(read("sentence_polarity", tmp_path))]
    assert " and its clichés ." in texts


def test_a_short_review_is_divided_in_the_middle(tmp_path):
    (tmp_path / "pos.txt").write_text("a small gem\none two three four five six seven\n")
    (tmp_path / "neg.txt").write_text("terrible\n")
    examples = all_examples(read("sentence_polarity", tmp_path))
    assert [(example.prompt, example.references) for example in examples] == [
        ("Positive review: a", (" small gem",)),
        ("Positive review: one two three four five six", (" seven",)),
        ("Negative review:", (" terrible",)),
    ]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("gsm8k", {"question": "1+1?", "answer": "2"}, "to end with '#### number'"),
        ("squad", HUB_ROWS["squad"] | {"answers": {"text": [], "answer_start": []}}, "SQuAD 2.0 .* on_error='skip'"),
        ("sentence_polarity", {"text": "a film", "label": "good"}, "to be one of .*got 'good'"),
        ("sentence_polarity", {"text": "a film"}, r"a column from \['label'\] .*its fields are \['text'\]"),
        ("e2e", {"mr": "The Vaults, a pub", "ref": "It is."}, r"facts such as name\[The Vaults\]"),
        ("commongen", {"concepts": [], "target": "A"}, "Expected a string in field 'concepts'"),
        ("commongen", {"concepts": ["a", "b"], "target": ""}, "an empty reference"),
        ("persona_chat", HUB_ROWS["persona_chat"] | {"Best Generated Conversation": "User 2: Hi"}, "turn of 'User 2:'"),
        ("tinystories", {"text": "Once"}, "Expected a story"),
        ("dialogsum", {"dialogue": "A: Hi."}, "a column from"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_what_it_should_be(name, row, message):
    with pytest.raises(ValueError, match=f"{message}.*") as raised:
        read(name, [HUB_ROWS[name], row])
    assert "row 1 of the list in memory" in str(raised.value)
    with pytest.warns(UserWarning, match="1 rows"):
        assert len(all_examples(read(name, [HUB_ROWS[name], row], on_error="skip"))) == 1


# Without data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", sorted({*textenvs.list_envs(data=True)} - {*textenvs.list_envs()}))
def test_without_data_one_message_says_how_to_get_it(env_id, tmp_path, monkeypatch):
    [name] = [name for name in PRESETS if env_id_of(name) == env_id]
    preset = PRESETS[name]
    parts = (env_id, preset.licence, preset.command, 'pip install "textenvs[data]"', preset.hub.name, DATA_VARIABLE)
    for make in (gym.make, lambda given: gym.make_vec(given, num_envs=2)):
        with pytest.raises(ValueError, match="Expected data for") as raised:
            make(env_id)
        assert all(part in str(raised.value) for part in (*parts, f"{preset.twin}: bundled, and synthetic"))
    assert preset.twin in textenvs.list_envs()
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match=f"which {DATA_VARIABLE}=.* does not hold in a folder '{name}'"):
        gym.make(env_id)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    fake_hub(monkeypatch, {})
    textenvs.datasets.public._LOADED.clear()
    with pytest.raises(ValueError, match=r"Expected data for TextGen/GSM8K-v0.*openai/gsm8k cannot be reached"):
        gym.make("TextGen/GSM8K-v0")


def test_data_by_the_variable_and_by_the_argument(published, monkeypatch, tmp_path):
    monkeypatch.setenv(DATA_VARIABLE, str(published))
    env = gym.make("TextGen/SQuAD-v0")
    given = gym.make("TextGen/SQuAD-v0", data=str(published / "squad"))
    assert env.unwrapped.setting.pool is given.unwrapped.setting.pool, "the same data is tokenised once"
    shutil.copytree(published / "squad", tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "dev-v1.1.json").read_text()
    copied = gym.make("TextGen/SQuAD-v0", data=str(tmp_path), split="test").unwrapped
    (tmp_path / "dev-v1.1.json").write_text(text.replace("newt", "lizard"))
    changed = gym.make("TextGen/SQuAD-v0", data=str(tmp_path), split="test").unwrapped
    assert "newt" in copied.task.example("test", 0).prompt + copied.task.example("test", 1).prompt
    assert "lizard" in changed.task.example("test", 0).prompt + changed.task.example("test", 1).prompt
    assert changed.setting.pool is not copied.setting.pool


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": "stories", "data": "a.csv"}, ValueError, "a task that reads data, from .*'gsm8k'.*task='dataset'"),
        ({"task": {"gsm8k": {"data": "a"}}, "data": "b"}, ValueError, "Expected data= once"),
        ({"task": "gsm8k", "data": 3}, TypeError, "Expected a path"),
        ({"task": "gsm8k", "data": "no/such/folder"}, ValueError, "Expected a .jsonl"),
        ({"task": {"gsm8k": {"path": "a"}}}, TypeError, "arguments from .*'data'.*got 'path'"),
    ],
)
def test_data_that_is_none(arguments, error, message):
    with pytest.raises(error, match=message):
        gym.make("TextGen-v0", **arguments)


def test_data_of_a_users_own(tmp_path):
    file = tmp_path / "sums.csv"
    file.write_text("text,answer\n1+1,2\n")
    env = gym.make("TextGen-v0", task={"dataset": {"references": "answer"}}, data=str(file))
    assert env.unwrapped.task.example("train", 0) == Example("1+1", ("2",))
    task = env.unwrapped.task
    with pytest.raises(ValueError, match="which has its data already"):
        gym.make("TextGen-v0", task=task, data=str(file))


def test_a_long_prompt_is_cut_in_its_middle_and_counted():
    rows = [HUB_ROWS["squad"] | {"context": "The swan sleeps. " * 400}, HUB_ROWS["squad"]]
    with pytest.warns(UserWarning, match="1 of 2 prompts of task 'squad' have more than 768 tokens"):
        env = gym.make("TextGen/SQuAD-v0", data=rows).unwrapped
    kept = env.setting.pool.encoder.tokenizer.backend.decode(env.setting.pool.prompts[0].tolist())
    assert kept.startswith("Passage: The swan")
    assert kept.endswith("Question: Where does the swan sleep?\nAnswer:")
    assert env.setting.pool.lengths.tolist()[0] == 768


def test_a_task_says_what_it_is(published):
    said = str(read("gsm8k", published / "gsm8k"))
    for part in (
        "gsm8k: computation",
        "GSM8K, licence: MIT",
        "2 test",
        "Question: {question}",
        "numeric_answer",
        "256",
    ):
        assert part in said
    assert "rows that could not be read" not in said
    assert "2 turns" not in said
    dialogue = str(make_task("dialogue"))
    assert "turns" in dialogue
    assert "a demonstration" in dialogue
