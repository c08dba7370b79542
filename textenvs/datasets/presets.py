"""Public data sets as tasks: their files, the text of a prompt, the references, the default score and the budget.

    env = gym.make("TextGen/GSM8K-v0", data="path/to/gsm8k")

Each preset knows the files that the data set's authors publish, and the columns that it has on the Hugging Face Hub.
`textenvs.datasets.public` finds and reads them. No data is part of the package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from textenvs.datasets.adapters import ADAPTERS
from textenvs.datasets.reading import TRAIN_AND_VALIDATION, Adapt


@dataclass(frozen=True)
class Source:
    """A file of a preset, or several that belong together line by line.

    Attributes:
        files: Column to names that the file may have; the first that is there is taken, each also as `.gz`. A file of
            rows has the one column "".
        split: The split of all rows; None for rows that a hash divides.
        fields: Fields that every row gets.
        encodings: The encodings that the file may have, of which the first that fits is taken.
        form: "rows", as the name's ending says; "lines", a text each in the column of the file; or "documents", texts
            with a line `<|endoftext|>` between.
    """

    files: Mapping[str, tuple[str, ...]]
    split: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    encodings: tuple[str, ...] = ("utf-8",)
    form: str = "rows"


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face Hub.

    Attributes:
        name: Its id.
        splits: Its splits, or slices of them, to ours.
        configuration: The name of its configuration, or None if it has one alone.
        from_parquet: If True, it is published as a script, which the `datasets` library no longer runs, and is read
            from the Parquet files that the hub makes of it.
    """

    name: str
    splits: Mapping[str, str]
    configuration: str | None = None
    from_parquet: bool = False


@dataclass(frozen=True, kw_only=True)
class Preset:
    r"""A public data set as a task.

    Attributes:
        title: Its name.
        tests: The ability that the task tests, in a few words, for lists.
        licence: Its licence, as its publishers say it.
        command: The command that gets it.
        twin: The id of the bundled, synthetic task that is most like it.
        hub: Where it is on the hub.
        layouts: The sets of files in which it is published. The first one that has all files of some split is read.
        folders: Sub-folders in which the files may be, as in a clone of the publisher's repository.
        template: The prompt.
        references: The column of the references.
        metadata: The columns that rewards read.
        reward: The default score.
        held_out_reward: The default held-out metric.
        max_new_tokens: The default budget.
        max_prompt_tokens: The number of tokens to which longer prompts are cut, in their middle.
        success_score: The score from which an episode is a success; None where no score is one.
        rows: The path to the rows inside of a JSON object, or None.
        divide_by: The column by which rows are divided where no split is named; None is the prompt.
        demonstration: Makes a demonstration of a reference; None takes it as it is.
        adapt: Makes the columns of template, references and metadata; None where rows have them.
    """

    title: str
    tests: str
    licence: str
    command: str
    twin: str
    hub: Hub
    layouts: tuple[tuple[Source, ...], ...]
    folders: tuple[str, ...] = ("",)
    template: str
    references: str
    metadata: tuple[str, ...] = ()
    reward: Any
    held_out_reward: Any
    max_new_tokens: int
    max_prompt_tokens: int = 512
    success_score: float | None = None
    rows: str | None = None
    divide_by: str | None = None
    demonstration: Callable[[str], str] | None = None
    adapt: Adapt | None = None


def _rows(split: str | None, *names: str, **fields: Any) -> Source:
    return Source({"": names}, split, fields)


_OWN_SPLITS = {"train": "train", "validation": "validation", "test": "test"}
_NO_TEST = {"train": TRAIN_AND_VALIDATION, "validation": "test"}


PRESETS: dict[str, Preset] = {
    "commongen": Preset(
        title="CommonGen",
        tests="constraints: one sentence with all of some concepts",
        licence="MIT",
        command='pip install "textenvs[data]"',
        twin="TextGen/Write-v0",
        hub=Hub("allenai/common_gen", _NO_TEST),  # its test set has no references
        layouts=(
            (
                _rows("train", "commongen.train.jsonl", "train.jsonl", "train.tsv"),
                _rows("validation", "commongen.dev.jsonl", "dev.jsonl"),
                _rows("test", "commongen.test.jsonl", "test.jsonl"),
            ),
        ),
        folders=("", "dataset/final_data"),
        template="Words: {words}\nSentence:",
        references="sentence",
        metadata=("concepts",),
        # The concepts alone would be had by listing them, and pairs of words that people wrote are not in a list. That
        # product is 0 for a model that uses no concept yet, which the overlap in single words leads on.
        reward={"product": {"of": ["concepts", "rouge_2"], "weight": 0.5}, "rouge_l": 0.5},
        held_out_reward="chrf",
        max_new_tokens=48,
        adapt=ADAPTERS["commongen"],
    ),
    "dialogsum": Preset(
        title="DialogSum",
        tests="summarising: what was said in a conversation",
        licence="CC BY-NC-SA 4.0",
        command="git clone https://github.com/cylnlp/dialogsum",
        twin="TextGen/SummarizeAbstractive-v0",
        hub=Hub("knkarthick/dialogsum", _OWN_SPLITS),
        layouts=(
            (
                _rows("train", "dialogsum.train.jsonl", "train.csv", "train.jsonl"),
                _rows("validation", "dialogsum.dev.jsonl", "validation.csv", "validation.jsonl"),
                _rows("test", "dialogsum.test.jsonl", "test.csv", "test.jsonl"),
            ),
        ),
        folders=("", "DialogSum_Data"),
        template="Dialogue:\n{dialogue}\n\nSummary:",
        references="summary",
        reward="rouge_l",
        held_out_reward="chrf",
        max_new_tokens=96,
        max_prompt_tokens=768,
        adapt=ADAPTERS["dialogsum"],
    ),
    "e2e": Preset(
        title="E2E NLG Challenge",
        tests="data to text: all the facts, in a fluent sentence",
        licence="CC BY-SA 4.0",
        command="git clone https://github.com/tuetschek/e2e-dataset",
        twin="TextGen/Write-v0",
        hub=Hub("tuetschek/e2e_nlg", _OWN_SPLITS, from_parquet=True),
        layouts=(
            (
                _rows("train", "trainset.csv", "train.csv"),
                _rows("validation", "devset.csv", "validation.csv"),
                _rows("test", "testset_w_refs.csv", "test.csv"),
            ),
        ),
        template="Facts: {facts}\nText:",
        references="text",
        reward="bleu",
        held_out_reward="chrf",
        max_new_tokens=96,
        adapt=ADAPTERS["e2e"],
    ),
    "gsm8k": Preset(
        title="GSM8K",
        tests="computation: word problems, several steps",
        licence="MIT",
        command="git clone https://github.com/openai/grade-school-math",
        twin="TextGen/Arithmetic-v0",
        hub=Hub("openai/gsm8k", {"train": TRAIN_AND_VALIDATION, "test": "test"}, "main"),
        layouts=((_rows(TRAIN_AND_VALIDATION, "train.jsonl"), _rows("test", "test.jsonl")),),
        folders=("", "grade_school_math/data"),
        template="Question: {question}\nAnswer:",
        references="answer",
        reward="numeric_answer",
        held_out_reward={"numeric_answer": {"steps": 0.0}},  # the share that is right, without credit for steps
        max_new_tokens=256,
        success_score=0.7,  # what the answer alone earns
        demonstration=lambda answer: re.sub(r"<<[^<>]*>>", "", answer),  # the calculator's notes
        adapt=ADAPTERS["gsm8k"],
    ),
    "multi30k": Preset(
        title="Multi30k",
        tests="translation: captions, English to German",
        licence="not stated by its repository; the captions are of Flickr30k, for research",
        command="git clone https://github.com/multi30k/dataset",
        twin="TextGen/Translate-v0",
        hub=Hub("bentrevett/multi30k", _OWN_SPLITS),
        layouts=(
            (
                Source({"en": ("train.en",), "de": ("train.de",)}, "train"),
                Source({"en": ("val.en",), "de": ("val.de",)}, "validation"),
                Source(
                    {
                        "en": ("test_2016_flickr.en", "test2016.en", "test.en"),
                        "de": ("test_2016_flickr.de", "test2016.de", "test.de"),
                    },
                    "test",
                ),
            ),
            (
                _rows("train", "train.jsonl"),
                _rows("validation", "val.jsonl", "validation.jsonl"),
                _rows("test", "test.jsonl"),
            ),
        ),
        folders=("", "data/task1/raw"),
        template="English: {en}\nGerman:",
        references="de",
        reward="chrf",
        held_out_reward="bleu",
        max_new_tokens=64,
        adapt=ADAPTERS["multi30k"],
    ),
    "persona_chat": Preset(
        title="Synthetic-Persona-Chat",
        tests="dialogue: the next turn of a person who is described",
        licence="CC BY 4.0",
        command="git clone https://github.com/google-research-datasets/Synthetic-Persona-Chat",
        twin="TextGen/Dialogue-v0",
        hub=Hub("google/Synthetic-Persona-Chat", _OWN_SPLITS),
        layouts=(
            (
                _rows("train", "Synthetic-Persona-Chat_train.csv", "train.csv"),
                _rows("validation", "Synthetic-Persona-Chat_valid.csv", "valid.csv"),
                _rows("test", "Synthetic-Persona-Chat_test.csv", "test.csv"),
            ),
            (_rows(None, "Synthetic-Persona-Chat_valid.csv", "valid.csv"),),
        ),
        folders=("", "data"),
        template="I am user 2. {persona}\n\n{conversation}\nUser 2:",
        references="reply",
        reward="rouge_l",  # token F1, which is usual here, is perfect for the right words in any order
        held_out_reward="chrf",
        max_new_tokens=48,
        max_prompt_tokens=768,
        adapt=ADAPTERS["persona_chat"],
    ),
    "scitldr": Preset(
        title="SciTLDR",
        tests="summarising: a paper's abstract in one sentence",
        licence="Apache-2.0",
        command="git clone https://github.com/allenai/scitldr",
        twin="TextGen/SummarizeAbstractive-v0",
        hub=Hub("allenai/scitldr", _OWN_SPLITS, "Abstract", from_parquet=True),
        layouts=(
            (
                _rows("train", "train.jsonl"),
                _rows("validation", "dev.jsonl", "validation.jsonl"),
                _rows("test", "test.jsonl"),
            ),
        ),
        folders=("", "SciTLDR-Data/SciTLDR-A"),
        template="Abstract: {source}\nSummary:",
        references="target",
        reward="rouge_l",
        held_out_reward="chrf",
        max_new_tokens=96,
        max_prompt_tokens=768,
    ),
    "sentence_polarity": Preset(
        title="Sentence polarity (rotten tomatoes)",
        tests="style: go on with a review, as kind or as harsh as asked for",
        licence="CC BY 4.0 (as NLTK distributes it; the hub names none)",
        command="python -m nltk.downloader -d nltk_data sentence_polarity",
        twin="TextGen/Sentiment-v0",
        hub=Hub("cornell-movie-review-data/rotten_tomatoes", _OWN_SPLITS),
        layouts=(
            tuple(
                Source({"text": names}, None, {"label": label}, ("utf-8", "cp1252", "latin-1"), "lines")
                for label, names in (
                    ("positive", ("pos.txt", "rt-polarity.pos")),
                    ("negative", ("neg.txt", "rt-polarity.neg")),
                )
            ),
        ),
        folders=("", "corpora/sentence_polarity", "rt-polaritydata"),
        template="{kind} review:{beginning}",
        references="rest",
        metadata=("label", "mood"),
        reward="mood",
        held_out_reward="vader",
        max_new_tokens=64,
        adapt=ADAPTERS["sentence_polarity"],
    ),
    "squad": Preset(
        title="SQuAD 1.1",
        tests="reading: the span that answers a question",
        licence="CC BY-SA 4.0",
        command="curl -LO https://rajpurkar.github.io/SQuAD-explorer/dataset/train-v1.1.json "
        "-LO https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v1.1.json",
        twin="TextGen/QuestionAnswering-v0",
        hub=Hub("rajpurkar/squad", _NO_TEST),
        layouts=((_rows(TRAIN_AND_VALIDATION, "train-v1.1.json"), _rows("test", "dev-v1.1.json")),),
        template="Passage: {context}\nQuestion: {question}\nAnswer:",
        references="answer",
        reward="token_f1",
        held_out_reward="exact_match",
        max_new_tokens=32,
        max_prompt_tokens=768,
        success_score=1.0,
        rows="data.paragraphs.qas",
        divide_by="context",
        adapt=ADAPTERS["squad"],
    ),
    "tinystories": Preset(
        title="TinyStories",
        tests="language: go on with a children's story, happily",
        licence="CDLA-Sharing-1.0",
        command="curl -LO https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStories-valid.txt",
        twin="TextGen/Stories-v0",
        hub=Hub("roneneldan/TinyStories", {"train[:50000]": TRAIN_AND_VALIDATION, "validation[:5000]": "test"}),
        layouts=(
            (_rows(None, "stories.jsonl"),),
            (
                Source(
                    {"text": ("TinyStories-train.txt", "TinyStoriesV2-GPT4-train.txt")},
                    TRAIN_AND_VALIDATION,
                    form="documents",
                ),
                Source({"text": ("TinyStories-valid.txt", "TinyStoriesV2-GPT4-valid.txt")}, "test", form="documents"),
            ),
            (Source({"text": ("TinyStories-valid.txt", "TinyStoriesV2-GPT4-valid.txt")}, None, form="documents"),),
        ),
        template="{beginning}",
        references="next",
        reward="mood",
        held_out_reward="vader",
        max_new_tokens=64,
        adapt=ADAPTERS["tinystories"],
    ),
}
"""Name to preset. The name is that of the task, and of the folder below `TEXTENVS_DATA`."""
