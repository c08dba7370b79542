r"""Real data as a task: files of rows, rows in memory, and data sets on the Hugging Face Hub.

    task = textenvs.load_dataset("stories.jsonl", prompt="text", prompt_tokens=16)
    task = textenvs.load_dataset("sums.csv", template="Q: {question}\nA:", references="answer")
    task = textenvs.load_dataset("squad.json", rows="data.paragraphs.qas", template="{context}\n{question}\n",
                                 references="answers.text")
    env = gym.make("TextGen-v0", task=task)

A source is read once, and its examples are kept in memory as lists. The environment needs all of them at once in any
case, since it tokenises them into its pool; `limit` sets how many there are.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from hashlib import sha256
from typing import Any

from textenvs.arguments import check_choice, check_count
from textenvs.datasets.readers import Format, read_tables
from textenvs.datasets.reading import DataSource, Report, RowReader, read
from textenvs.tasks.base import SPLITS, Example, Task, check_split


class Dataset(Task):
    r"""Examples from data. No prompt is in two splits.

    A row belongs to the split that is named for it; where none is named, a hash of its prompt decides, and where there
    are fewer than ten prompts, all are for training. A prompt that is in several named splits stays in the last of them
    (in the order train, validation, test), and a warning says how many such prompts there were. Rows with the same
    prompt and metadata in one split become one example with all their references.

    A column is the name of a field or a path into one: `answers.text`, `translation[en]`, `turns[0]`. What a row needs
    and does not have is an error of that row: a missing column, null, NaN, an empty cell, a blank reference, or text
    with half of a surrogate pair, which no tokenizer takes.

    A column of chat messages is a conversation. As the prompt, it is the text of a single user's message, or a line for
    each message ("System: ...") with "Assistant:" at the end; the assistant's message that it ends with is no part of
    it, but the reference, unless `references` names others. As references, it is the assistant's message.

    Args:
        data: A `.jsonl`, `.ndjson`, `.json`, `.txt` (one text a line, in the column `text`), `.csv`, `.tsv` or
            `.parquet` file, each but the last also as `.gz`; a data set on the Hugging Face Hub, "owner/name" or
            "owner/name:configuration"; a list of dicts or of texts, or a DataFrame of pandas; a dict of column to file,
            for parallel files of lines; or a dict of split to any of these.
        prompt: The column that holds the prompt's text; None is "text". A list of texts is joined with spaces.
        references: The column that holds a reference text or a list of them, or a list of such columns. If None, there
            are no references.
        template: The prompt as a text with columns in braces, "Q: {question}\nA:", instead of `prompt`. Doubled braces
            are literal braces.
        metadata: Columns to keep in `example.metadata`, for rewards that read them.
        split: The split of all rows; from the Hub, only this split is loaded. If None, rows are divided as above.
        limit: The most examples of a split, chosen by a hash of their prompts after all rows have been read. If None,
            all are kept.
        on_error: "raise", or "skip" to leave out rows that cannot be read and count them in `report`. Unbalanced quotes
            in a CSV file are raised either way, since the rows behind them cannot be told apart.
        encoding: The encoding of text files.
        separator: The character between the fields of a .csv or .tsv file. None is a tab for .tsv; for .csv, the header
            decides between comma, semicolon, tab and bar.
        columns: The names of the columns of a .csv or .tsv file without a header.
        rows: The path to the rows inside of JSON objects, "data.paragraphs.qas" say. A row has the fields of the
            objects around it, too. If None, each object is a row.
        labels: Column to the text for each of its values, `{"label": {"0": "negative", "1": "positive"}}`. Other values
            in such a column are errors of their row.
        prompt_tokens: The number of tokens of each prompt to keep, from its start, so that a whole text becomes a
            beginning for the policy to continue; None keeps all. Texts whose beginnings are equal stay in one split.
        reward: The default reward of an environment with this task. If None, "token_f1" (the overlap of words, which
            earns partial credit in free text and short answers alike) if there are references, else "sentiment".
        held_out_reward: The default held-out metric. If None, "chrf" if there are references, else "vader".
        max_new_tokens: The default budget.

    Raises:
        ValueError: If a source is missing, empty or of an unknown kind, or a row is not what it should be. The message
            names the file and the line, and says what to do.
        TypeError: If an argument is of the wrong type.
        ImportError: If Parquet or the Hub is asked for, and the library `datasets` is not installed.

    Attributes:
        report: The counts and errors of reading the data.
    """

    name = "dataset"
    truncation_side = "right"

    def __init__(
        self,
        data: Any,
        *,
        prompt: str | None = None,
        references: str | Sequence[str] | None = None,
        template: str | None = None,
        metadata: Sequence[str] | None = None,
        split: str | None = None,
        limit: int | None = None,
        on_error: str = "raise",
        encoding: str = "utf-8",
        separator: str | None = None,
        columns: Sequence[str] | None = None,
        rows: str | None = None,
        labels: Mapping[str, Mapping[Any, str]] | None = None,
        prompt_tokens: int | None = None,
        reward: Any = None,
        held_out_reward: Any = None,
        max_new_tokens: int = 32,
    ) -> None:
        self.default_max_new_tokens = max_new_tokens
        self.max_prompt_tokens = check_count("prompt_tokens", prompt_tokens, optional=True)
        for name, value in (("prompt", prompt), ("template", template)):
            if value is not None and not isinstance(value, str):
                raise TypeError(f"Expected {name} to be a text, got {value!r:.200}")
        if prompt is not None and template is not None:
            raise ValueError("Expected a prompt column or a template, got both")
        if split is not None:
            check_split(split)
        reader = RowReader(
            prompt or "text",
            template,
            _columns(references),
            _metadata_columns(metadata),
            _label_texts(labels),
        )
        form = Format(encoding, separator, columns, rows)
        # All sources are looked up before the first is read, so that a wrong name is found at once.
        self._read(list(sources_of(data, split, form)), reader, on_error, limit, f"{data!r:.200}")
        has_references = any(example.references for examples in self._examples.values() for example in examples)
        usual, held_out = ("token_f1", "chrf") if has_references else ("sentiment", "vader")
        self.default_reward = usual if reward is None else reward
        self.held_out_reward = held_out if held_out_reward is None else held_out_reward

    def _read(
        self, sources: Sequence[DataSource], reader: RowReader, on_error: str, limit: int | None, shown: str
    ) -> None:
        """Reads the examples of each split."""
        check_choice("on_error", on_error, ("raise", "skip"))
        limit = check_count("limit", limit, optional=True)
        self._template = reader.template
        self._examples, self.report = read(sources, reader, on_error == "skip", limit)
        if not self.report.rows:
            raise ValueError(
                f"Expected at least one prompt in {shown}, got "
                + (f"{self.report.skipped} rows that could not be read: {self.report.errors[0]}"
                   if self.report.skipped else "an empty file")
            )  # fmt: skip
        _warn(self.report, shown)

    def num_examples(self, split: str) -> int:
        """Returns the number of examples of a split, which is 0 for a split that the data does not have."""
        check_split(split)
        return len(self._examples[split])

    def example(self, split: str, index: int) -> Example:
        """Returns one example, in the order of the data. Its metadata is a copy."""
        check_split(split)
        if not 0 <= index < len(self._examples[split]):
            raise IndexError(f"Expected an index in [0, {len(self._examples[split])}), got {index}")
        example = self._examples[split][index]
        return Example(example.prompt, example.references, deepcopy(example.metadata))

    def facts(self) -> dict[str, str]:
        """Returns what a person wants to know of the data; see `Task.facts`."""
        facts = super().facts()
        if self._template is not None:
            facts["template"] = repr(self._template)
        if self.max_prompt_tokens is not None:
            facts["prompts"] = f"at most {self.max_prompt_tokens} tokens"
        left_out = {
            "rows that could not be read": self.report.skipped,
            "prompts that a later split has, too": sum(self.report.shared.values()),
        }
        if any(left_out.values()):
            facts["left out"] = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
        return facts

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all examples, by which other data under the same name is told apart."""
        digest = sha256()
        for split in SPLITS:
            for example in self._examples[split]:
                row = [split, example.prompt, example.references, example.metadata]
                digest.update(json.dumps(row, sort_keys=True).encode())
        return digest.hexdigest()

    def __deepcopy__(self, memo: dict[int, Any]) -> Dataset:
        # Nothing changes after construction, and Gymnasium copies a spec, task included, once a wrapper.
        return self


def load_dataset(data: Any, **settings: Any) -> Dataset:
    r"""Makes a task of real data.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "sums.csv"
        >>> _ = file.write_text('question,answer\n1+1,2\n2+3,5\n')
        >>> task = load_dataset(file, template="What is {question}?", references="answer", split="train")
        >>> task.example("train", 1)
        Example(prompt='What is 2+3?', references=('5',), metadata={})

    Args:
        data: A file, a data set on the Hub, rows in memory, or a dict of column to parallel file or of split to any of
            these.
        **settings: The arguments of `Dataset`.

    Returns:
        The task, for `gym.make("TextGen-v0", task=...)`. `task={"dataset": {"data": ..., ...}}` is the same and can
        be written to JSON.
    """
    return Dataset(data, **settings)


def _columns(references: Any) -> tuple[str, ...]:
    if references is None:
        return ()
    columns = (references,) if isinstance(references, str) else references
    if not isinstance(columns, (list, tuple)) or not all(isinstance(column, str) for column in columns):
        raise TypeError(f"Expected references as a column or a list of columns, got {references!r:.200}")
    return tuple(columns)


def _metadata_columns(metadata: Any) -> tuple[str, ...]:
    if metadata is None:
        return ()
    if not isinstance(metadata, (list, tuple)) or not all(isinstance(column, str) for column in metadata):
        raise TypeError(f"Expected metadata as a list of columns, got {metadata!r:.200}")
    return tuple(metadata)


def _label_texts(labels: Any) -> dict[str, dict[str, str]]:
    """Returns column to value, as text, to the text that stands for it."""
    labels = {} if labels is None else labels
    if not isinstance(labels, Mapping) or not all(
        isinstance(texts, Mapping) and all(isinstance(text, str) for text in texts.values())
        for texts in labels.values()
    ):
        raise TypeError(
            f"Expected labels as {{column: {{value: text}}}}, {{'label': {{'0': 'negative'}}}} say, got {labels!r:.200}"
        )
    return {column: {str(value): text for value, text in texts.items()} for column, texts in labels.items()}


def _warn(report: Report, data: str) -> None:
    for (split, other), count in report.shared.items():
        warnings.warn(
            f"{count} prompts of split {split!r} of {data} are in split {other!r}, too, and were left out of {split!r}",
            stacklevel=3,
        )
    if report.skipped:
        shown = "".join(f"\n  {error}" for error in report.errors)
        warnings.warn(f"{report.skipped} rows of {data} could not be read and were skipped:{shown}", stacklevel=3)


def sources_of(data: Any, split: str | None, form: Format) -> Iterator[DataSource]:
    """Finds the tables of data, or of a dict of split to data.

    Args:
        data: The data, as `load_dataset` takes it.
        split: The split of all rows, or None.
        form: The form of the data.

    Yields:
        The tables, none of them read yet.

    Raises:
        ValueError: If there is no such data, or it is of an unknown kind.
    """
    files: list[tuple[Any, str | None]] = [(data, split)]
    if isinstance(data, Mapping) and _names_splits(data):
        if split is not None:
            raise ValueError(f"Expected no split beside a dict of splits, got {split!r}")
        if not data:
            raise ValueError("Expected a dict of split to file, got {}")
        for name in data:
            check_split(name)
        files = [(file, name) for name, file in data.items()]
    for file, file_split in files:
        for table in read_tables(file, file_split, form):
            yield DataSource(table)


def _names_splits(data: Mapping[Any, Any]) -> bool:
    """Returns True for a dict of splits, False for one of the columns of parallel files."""
    return len(data) < 2 or any(name in SPLITS for name in data)
