"""Real data as a task: the lines of a text file, or the rows of a JSON-lines file.

task = textenvs.load_dataset("stories.jsonl", prompt="text", prompt_tokens=16)
env = gym.make("TextGen-v0", task=task)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from textenvs.tasks.base import SPLITS, Example, Task, check_split

_SHARES = {"train": 80, "validation": 10, "test": 10}  # per cent


class Dataset(Task):
    """Examples from a file, divided into splits by a hash of their prompts, so that no prompt is in two.

    Args:
        path: A `.txt` file (one prompt a line) or a `.jsonl` file (one object a line).
        prompt: The field of a JSON object that holds the prompt's text.
        references: The field that holds a reference text or a list of them; None: there are none.
        prompt_tokens: Keep only the first so many tokens of each prompt, so that a whole text becomes the beginning
            that a policy continues; None keeps it all. Texts that then begin alike stay in one split.
        reward: The default reward of an environment with this task.
        held_out_reward: The default held-out metric.
        max_new_tokens: The default budget.

    Raises:
        ValueError: If the file is missing or empty, of another kind, or a line is not what it should be; says which.
    """

    name = "dataset"

    def __init__(
        self,
        path: str | Path,
        *,
        prompt: str = "text",
        references: str | None = None,
        prompt_tokens: int | None = None,
        reward: Any = "sentiment",
        held_out_reward: Any = "vader",
        max_new_tokens: int = 32,
    ) -> None:
        self.path = Path(path).expanduser()
        self.default_reward = reward
        self.held_out_reward = held_out_reward
        self.default_max_new_tokens = max_new_tokens
        if prompt_tokens is not None and (isinstance(prompt_tokens, bool) or not isinstance(prompt_tokens, int)):
            raise TypeError(f"Expected prompt_tokens to be a whole number, got {prompt_tokens!r}")
        if prompt_tokens is not None and prompt_tokens < 1:
            raise ValueError(f"Expected prompt_tokens to be at least 1, got {prompt_tokens}")
        self.max_prompt_tokens = prompt_tokens
        self.truncation_side = "right"
        self._splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
        seen: set[str] = set()
        for example in _read(self.path, prompt, references):
            if example.prompt not in seen:
                seen.add(example.prompt)
                self._splits[_split_of(example.prompt)].append(example)
        if not seen:
            raise ValueError(f"Expected at least one prompt in {str(path)!r}, got an empty file")

    def num_examples(self, split: str) -> int:
        """See `Task.num_examples`."""
        check_split(split)
        return len(self._splits[split])

    def example(self, split: str, index: int) -> Example:
        """See `Task.example`."""
        check_split(split)
        return self._splits[split][index]


def load_dataset(path: str | Path, **settings: Any) -> Dataset:
    """A file as a task.

    Args:
        path: The file.
        **settings: See `Dataset`.

    Returns:
        The task, for `gym.make("TextGen-v0", task=...)`. `task={"dataset": {"path": ..., ...}}` is the same and can
        be written to JSON.
    """
    return Dataset(path, **settings)


def _split_of(prompt: str) -> str:
    place = int.from_bytes(sha256(prompt.encode()).digest()[:8], "big") % 100
    for split, share in _SHARES.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares add up to 100")


def _read(path: Path, prompt: str, references: str | None) -> Iterator[Example]:
    if path.suffix not in (".jsonl", ".txt"):
        raise ValueError(f"Expected a .jsonl or .txt file, got {str(path)!r}")
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                text = line.rstrip("\r\n")
                if text.strip():
                    where = f"line {number} of {str(path)!r}"
                    yield Example(text) if path.suffix == ".txt" else _of_json(text, where, prompt, references)
    except OSError as error:
        raise ValueError(f"Expected a file that can be read, got {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        where = f"byte {error.start} is not: {error.reason}"
        raise ValueError(f"Expected {str(path)!r} to be UTF-8, but {where}") from error


def _of_json(line: str, where: str, prompt: str, references: str | None) -> Example:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"Expected {where} to be a JSON object, but it could not be read: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"Expected {where} to be a JSON object, got {type(row).__name__}")
    text = row.get(prompt)
    if not isinstance(text, str):
        raise ValueError(f"Expected a string in field {prompt!r} of {where}, got {text!r}; its fields are {list(row)}")
    found: tuple[str, ...] = ()
    if references is not None:
        value = row.get(references)
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise ValueError(f"Expected a string or a list of them in field {references!r} of {where}, got {value!r}")
        found = tuple(listed)
    return Example(text, found)
