"""The stories task: splits, moods, demonstrations, the corpus, the tokenizer and the registry of tasks."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from textenvs.data import make_reference_scores, train_stories_tokenizer
from textenvs.rewards import make_reward
from textenvs.tasks import SPLITS, Example, Stories, Task, list_tasks, make_task, register_task, registry
from textenvs.tasks import story_grammar as grammar

ROOT = Path(__file__).resolve().parents[3]
TASK = Stories()
EXAMPLES = {split: [TASK.example(split, i) for i in range(TASK.num_examples(split))] for split in TASK.splits}
TOKENIZER = tokenizers.Tokenizer.from_file(str(train_stories_tokenizer.OUTPUT))
COMPOUND = SentimentIntensityAnalyzer()

DIGEST = """
import hashlib
from textenvs.tasks.stories import Stories
task, digest = Stories(), hashlib.sha256()
for split in task.splits:
    for index in range(0, task.num_examples(split), 7):
        example = task.example(split, index)
        digest.update(repr((example.prompt, example.references, dict(example.metadata))).encode())
        digest.update(task.demonstration(example).encode())
for index in range(300):
    digest.update(task.corpus_story(index).encode())
print(digest.hexdigest())
"""


def compound(text: str) -> float:
    """VADER's compound score of a text, from -1 to 1."""
    return float(COMPOUND.polarity_scores(text)["compound"])


def composition(example: Example) -> tuple[str, str, str]:
    """Returns the combination by which the splits differ."""
    return (example.metadata["hero"], example.metadata["name"], example.metadata["place"])


def test_sizes() -> None:
    assert [TASK.num_examples(split) for split in SPLITS] == [4096, 512, 512]
    assert Stories(train=8, validation=4, test=2).num_examples("test") == 2


def test_the_shifted_split_has_words_of_its_own() -> None:
    corpus = " ".join(TASK.corpus_story(index) for index in range(3000))
    known = set(re.findall(r"\w+", corpus))
    for example in EXAMPLES["shifted"]:
        assert not set(composition(example)) - {"boy", "girl"} & known
        assert set(re.findall(r"\w+", example.prompt)) & known


def test_a_counterpart_differs_in_who_the_story_is_about() -> None:
    example = TASK.example("test", 0)
    other = TASK.counterpart(example)
    pairs = set(zip(re.findall(r"\w+", example.prompt), re.findall(r"\w+", other.prompt), strict=True))
    changed = {pair for pair in pairs if pair[0] != pair[1]}
    assert changed <= {(example.metadata["name"], other.metadata["name"]), ("He", "She"), ("His", "Her"),
                       ("his", "her"), ("boy", "girl"), ("She", "He"), ("Her", "His"), ("her", "his"),
                       ("girl", "boy")}  # fmt: skip
    assert changed
    for examples in EXAMPLES.values():
        for example in examples[::5]:
            other = TASK.counterpart(example)
            assert (example.metadata["name"] in grammar.BOYS + grammar.SHIFTED_BOYS) != (
                other.metadata["name"] in grammar.BOYS + grammar.SHIFTED_BOYS
            )
            assert TASK.counterpart(other) == example
            assert other.references == (TASK.demonstration(other),)


def test_reference_scores_are_what_their_script_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demonstrations' to all digits; the random policy, with fewer episodes and another seed, about that."""
    monkeypatch.setattr(make_reference_scores, "EPISODES", 1024)
    monkeypatch.setattr(make_reference_scores, "SEED", 1)
    scores = TASK.reference_scores()
    assert scores is not None
    again = make_reference_scores.measure(TASK, "test")
    assert again["demonstration"] == scores.demonstration == again["top"]
    assert scores.top == 1.0, "a search finds as much for single prompts"
    assert again["random"] == pytest.approx(scores.random, abs=2 * again["random_interval"])
    assert again["random_interval"] == pytest.approx(4 * scores.random_interval, rel=0.3)


@pytest.mark.parametrize("sizes", [{"train": 0}, {"validation": -1}, {"test": 10**6}])
def test_sizes_out_of_range(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"Expected {next(iter(sizes))} to be from 1 to \d+, got"):
        Stories(**sizes)


def test_a_smaller_task_is_a_prefix_of_a_larger_one() -> None:
    assert Stories(train=8).example("train", 5) == EXAMPLES["train"][5]


def test_wrong_split_and_index() -> None:
    with pytest.raises(ValueError, match="Expected a split"):
        TASK.example("training", 0)
    with pytest.raises(ValueError, match="Expected a split"):
        TASK.num_examples("training")
    for index in (-1, 512):
        with pytest.raises(IndexError, match=r"Expected an index in \[0, 512\)"):
            TASK.example("test", index)
    with pytest.raises(IndexError, match="at least 0"):
        TASK.corpus_story(-1)


def test_no_composition_and_no_prompt_is_used_twice() -> None:
    everything = [example for split in SPLITS for example in EXAMPLES[split]]
    assert len({composition(example) for example in everything}) == len(everything)
    assert len({example.prompt for example in everything}) == len(everything)


def test_all_compositions_are_divided_80_10_10() -> None:
    divided = {split: set(combinations) for split, combinations in grammar.combinations().items()}
    total = sum(map(len, divided.values()))
    assert len(set.union(*divided.values())) == total
    assert len(divided["train"]) / total == pytest.approx(0.8, abs=0.01)
    assert len(divided["test"]) / total == pytest.approx(0.1, abs=0.01)


def test_the_corpus_uses_only_compositions_of_the_train_split() -> None:
    allowed = {(c.kind, c.name, c.place) for c in grammar.combinations()["train"]}
    for index in range(2000):
        opening = TASK.corpus_story(index).split(".", 3)
        text = opening[1] + opening[2]
        name = next(word for word in re.findall(r"\w+", text) if word in grammar.BOYS + grammar.GIRLS)
        kind = next(word for word in re.findall(r"\w+", text) if word in (*grammar.ANIMALS, "boy", "girl"))
        place = re.search(r"lived \w+ (?:the|an|a) (\w+)", text)
        assert place is not None
        assert (kind, name, place[1]) in allowed


def test_metadata_is_what_the_prompt_says() -> None:
    for example in EXAMPLES["validation"]:
        mood, (hero, name, place) = example.metadata["mood"], composition(example)
        assert example.prompt.startswith(f"A {mood} story. ")
        assert all(re.search(rf"\b{word}\b", example.prompt) for word in (hero, name, place))
        json.dumps(dict(example.metadata))


def test_prompts_end_on_a_word_boundary() -> None:
    for example in EXAMPLES["train"]:
        assert example.prompt.endswith(",")
        assert re.match(r" \w", TASK.demonstration(example))


@pytest.mark.parametrize("split", SPLITS)
def test_moods_are_balanced(split: str) -> None:
    moods = Counter(example.metadata["mood"] for example in EXAMPLES[split])
    assert moods == {"happy": len(EXAMPLES[split]) // 2, "sad": len(EXAMPLES[split]) // 2}


def test_same_in_every_process() -> None:
    def digest(hash_seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", DIGEST]
        return subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    assert digest("1") == digest("2")


def test_an_example_is_a_function_of_its_index_alone() -> None:
    backwards = [TASK.example("test", index) for index in reversed(range(512))]
    assert backwards[::-1] == EXAMPLES["test"]
    assert TASK.corpus_story(17) == Stories(train=1).corpus_story(17) != TASK.corpus_story(18)


def test_examples_are_frozen() -> None:
    """The examples of an id must not change: a change here makes a -v1 and a new bundled model."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for example in EXAMPLES[split]:
            digest.update(f"{example.prompt}\n".encode())
    assert digest.hexdigest()[:16] == "4840d61a0eada69e"


def test_demonstrations_have_the_wanted_mood() -> None:
    for mood, sign in (("happy", 1), ("sad", -1)):
        scores = [
            sign * compound(TASK.demonstration(example))
            for example in EXAMPLES["train"][:1000] + EXAMPLES["validation"]
            if example.metadata["mood"] == mood
        ]
        assert sum(score > 0.2 for score in scores) / len(scores) >= 0.99


def test_demonstrations_are_short_varied_and_whole() -> None:
    demonstrations = [TASK.demonstration(example) for example in EXAMPLES["train"]]
    assert len(set(demonstrations)) > 0.95 * len(demonstrations)
    for text in demonstrations:
        assert 2 <= len(re.findall(r"[.!?]", text)) <= 4
        assert text.endswith(".")
    lengths = [len(encoding.ids) for encoding in TOKENIZER.encode_batch(demonstrations, add_special_tokens=False)]
    assert max(lengths) + 1 <= TASK.default_max_new_tokens  # with EOS


def test_demonstrations_are_vivid() -> None:
    """Made of the sentences with most of the mood: their mean valence is well above that of the mood's sentences."""
    sentiment = make_reward({"sentiment": {"min_words": 1}})
    examples = EXAMPLES["test"]
    shown = [sentiment.score(example, TASK.demonstration(example)) for example in examples]
    plain = []
    for number, example in enumerate(examples):
        dice, mood = grammar.Dice(7, number), example.metadata["mood"]
        slots = grammar.cast(dice.pick(grammar.combinations()["train"]), dice)
        plain.append(sentiment.score(example, grammar.body(grammar.TEMPLATES, lambda: mood, 1, slots, dice)))  # noqa: B023
    assert sum(shown) > 1.25 * sum(plain)
    assert min(shown) > 0


def test_the_reference_is_the_demonstration() -> None:
    example = EXAMPLES["test"][3]
    assert example.references == (TASK.demonstration(example),)


def test_no_demonstration_for_the_examples_of_other_tasks() -> None:
    with pytest.raises(ValueError, match=r"without the metadata \['hero', 'name', 'place'\]"):
        TASK.demonstration(Example("Say", metadata={"mood": "sad"}))


def mood_tables() -> list[tuple[str, Mapping[str, list[list[grammar.Part]]]]]:
    """Every table of the grammar, with its name."""
    templates = grammar.TEMPLATES
    return [*templates.start.items(), *templates.middle.items(), ("end", templates.end)]


@pytest.mark.parametrize(("name", "table"), mood_tables())
def test_every_sentence_has_its_mood(name: str, table: Mapping[str, list[list[grammar.Part]]]) -> None:
    combinations = grammar.combinations()["train"]
    for mood, templates in table.items():
        for number, template in enumerate(templates):
            for draw in range(25):
                dice = grammar.Dice(number, draw)
                sentence = grammar.fill(template, grammar.cast(dice.pick(combinations), dice), dice)
                score = compound(sentence)
                if mood == "neutral":
                    assert score == 0.0, sentence
                else:
                    assert score * (1 if mood == "happy" else -1) > 0.15, sentence


def test_the_corpus_only_leans_towards_its_header() -> None:
    scores: dict[str, list[float]] = {"happy": [], "sad": []}
    for index in range(4000):
        story = TASK.corpus_story(index)
        mood = story.split()[1]
        scores[mood].append(compound(story.removeprefix(f"A {mood} story.")))
    means = {mood: sum(values) / len(values) for mood, values in scores.items()}
    assert min(map(len, scores.values())) > 1800
    # The standard error is about 0.02; the mean of happy and sad stories together is the grammar's own, near 0.
    assert 0.1 < (means["happy"] - means["sad"]) / 2 < 0.4
    assert abs(means["happy"] + means["sad"]) / 2 < 0.2
    assert max(scores["sad"]) > 0.5  # both moods occur under both headers
    assert min(scores["happy"]) < -0.5


def test_the_corpus_is_varied_english_of_a_story_length() -> None:
    stories = [TASK.corpus_story(index) for index in range(4000)]
    words = [re.findall(r"[A-Za-z]+", story) for story in stories]
    assert all(30 <= len(story) <= 95 for story in words)
    assert 500 <= len({word for story in words for word in story}) <= 900
    assert len(set(stories)) == len(stories)
    for story in stories:
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou\W]|  |[{}\[\]|]|,,|\.\.", story), story


def test_prompts_are_short() -> None:
    prompts = [example.prompt for split in SPLITS for example in EXAMPLES[split]]
    lengths = [len(encoding.ids) for encoding in TOKENIZER.encode_batch(prompts)]
    assert min(lengths) >= 16
    assert max(lengths) < 40


def test_tokenizer_is_what_its_script_makes() -> None:
    trained = json.loads(train_stories_tokenizer.train().to_str())
    assert trained == json.loads(train_stories_tokenizer.OUTPUT.read_text(encoding="utf-8"))


def test_tokenizer_vocabulary() -> None:
    assert TOKENIZER.get_vocab_size() == 1024
    assert [TOKENIZER.token_to_id(token) for token in ("<bos>", "<eos>", "<pad>")] == [0, 1, 2]
    assert TOKENIZER.encode("A").ids == [0, TOKENIZER.token_to_id("A")]


def test_tokenizer_is_the_bundled_models_tokenizer() -> None:
    models = tokenizers.Tokenizer.from_file(str(ROOT / "agents" / "data" / "tiny" / "tokenizer.json"))
    assert models.get_vocab() == TOKENIZER.get_vocab()
    texts = [example.prompt for example in EXAMPLES["test"]]
    assert [e.ids for e in models.encode_batch(texts)] == [e.ids for e in TOKENIZER.encode_batch(texts)]


def test_tokenizer_round_trips_prompts_and_demonstrations() -> None:
    for split in SPLITS:
        for example in EXAMPLES[split]:
            for text in (example.prompt, example.references[0], example.prompt + example.references[0]):
                assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


def test_a_response_is_tokenised_alone_as_behind_its_prompt() -> None:
    for example in EXAMPLES["validation"]:
        response = TOKENIZER.encode(example.references[0], add_special_tokens=False).ids
        assert (
            TOKENIZER.encode(example.prompt).ids + response
            == TOKENIZER.encode(example.prompt + example.references[0]).ids
        )


@given(st.text())
def test_tokenizer_round_trips_any_text(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@pytest.fixture
def empty_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes what a test registers."""
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))


def test_make_task() -> None:
    task = make_task("stories")
    assert isinstance(task, Stories)
    assert make_task(task) is task
    assert make_task({"stories": {"test": 3}}).num_examples("test") == 3
    assert "stories" in list_tasks()


def test_unknown_task_names_the_known_and_the_closest() -> None:
    with pytest.raises(
        ValueError, match=r"Expected a task from \[.*'stories'.*\], got 'storys'. Did you mean 'stories'"
    ):
        make_task("storys")
    with pytest.raises(ValueError, match=r"got 'zzz'\.$"):
        make_task("zzz")


@pytest.mark.parametrize("wrong", [3, None, ["stories"], {"stories": 3}, {3: {}}])
def test_make_task_of_a_wrong_type(wrong: object) -> None:
    with pytest.raises(TypeError, match="Expected"):
        make_task(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"stories": {"n": 4}}, r"Expected task 'stories' with arguments from \['train', .*\], got 'n'\.$"),
        ({"copy": {"levle": 2}}, r"Expected task 'copy' with arguments from .*, got 'levle'\. Did you mean 'level'\?"),
        ({"levels": {"task": {"copy": {"trian": 2}}}}, r"task 'copy' with .*Did you mean 'train'\?"),
        ({"dataset": {"prompt": "text"}}, r"Expected task 'dataset' with the arguments \['data'\], got \['prompt'\]"),
    ],
)
def test_wrong_arguments_hear_which_there_are(task: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make_task(task)


def test_make_task_of_several() -> None:
    with pytest.raises(ValueError, match="one entry"):
        make_task({"stories": {}, "more": {}})


@pytest.mark.usefixtures("empty_names")
def test_register_task() -> None:
    register_task("short-stories", lambda train=2: Stories(train=train))
    assert make_task("short-stories").num_examples("train") == 2
    assert make_task({"short-stories": {"train": 5}}).num_examples("train") == 5
    with pytest.raises(ValueError, match="'short-stories', which is registered already"):
        register_task("short-stories", Stories)
    with pytest.raises(ValueError, match="at least one character"):
        register_task("", Stories)


@pytest.mark.usefixtures("empty_names")
def test_register_task_of_a_wrong_type() -> None:
    with pytest.raises(TypeError, match="to be callable, got int"):
        register_task("three", 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="to be a string"):
        register_task(3, Stories)  # type: ignore[arg-type]
    register_task("text", lambda: "no task")  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="to return a Task, got str"):
        make_task("text")


def test_a_task_without_demonstrations_says_so() -> None:
    class Prompts(Task):
        default_reward = "length"

        def num_examples(self, split: str) -> int:
            return 1

        def example(self, split: str, index: int) -> Example:
            return Example("Say")

    task = Prompts()
    with pytest.raises(NotImplementedError, match="Prompts has no demonstrations"):
        task.demonstration(task.example("train", 0))
