"""A tokenizer and a task small enough to work out by hand, for the tests of the environment."""

from collections.abc import Mapping, Sequence

from textenvs import Example, Task
from textenvs.rewards import BUILT_IN

PAD, BOS, EOS, SPECIAL = 0, 1, 2, 3
_TEXT = [*"abcdefghijklmnopqrstuvwxyz ", ".", "\n", "good", "ab"]
FIRST = {text: token for token, text in enumerate(_TEXT, start=4)}
"""Text to token. "ab" is a token of its own beside "a" and "b"."""
E_ACUTE = (4 + len(_TEXT), 5 + len(_TEXT))
"""The two tokens that make one "é", a byte each."""


class Letters:
    """A token for each letter, two for "é", and PAD, BOS, EOS and one more special token in front."""

    def __init__(self, *, pad_is_eos: bool = False) -> None:
        self.bos_token_id = BOS
        self.eos_token_id = EOS
        self.pad_token_id = EOS if pad_is_eos else PAD
        self.pieces = (b"", b"", b"", b"", *(text.encode() for text in _TEXT), b"\xc3", b"\xa9")
        self.vocab_size = len(self.pieces)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """BOS, then a token a letter; "$" is EOS, which some prompts hold."""
        return [[BOS, *(EOS if letter == "$" else FIRST[letter] for letter in text)] for text in texts]

    def encode_response(self, text: str) -> list[int]:
        """A token a letter."""
        return ids(text)


class Toy(Task):
    """A task with the prompts that it is given."""

    name = "toy"
    default_reward = "length"
    default_max_new_tokens = 4
    default_tokenizer = Letters()

    def __init__(
        self, train: Sequence[str] = ("abc", "d", ""), test: Sequence[str] = ("x", "yz"), **more: object
    ) -> None:
        self._prompts: Mapping[str, Sequence[str]] = {"train": train, "validation": (), "test": test}
        for name, value in more.items():
            setattr(self, name, value)

    def num_examples(self, split: str) -> int:
        """See `Task.num_examples`."""
        return len(self._prompts[split])

    def example(self, split: str, index: int) -> Example:
        """See `Task.example`."""
        return Example(self._prompts[split][index], (f"{split} {index}",))


def ids(text: str) -> list[int]:
    """The tokens of a text, one a letter."""
    return [FIRST[letter] for letter in text]


def text_length(example: Example, response: str) -> float:
    """A score that is easy to follow: the number of characters."""
    return float(len(response))


def constant(example: Example, response: str) -> float:
    """A score that an empty response has, too."""
    return 1.0


class Talk(Toy):
    """Asks for a letter, three times at most: says how many were right, and ends when one turn was "stop"."""

    name = "talk"
    default_reward = "length"
    default_max_new_tokens = 12
    max_turns = 3
    max_reply_tokens = 4

    def allowed(self, example: Example, turns: Sequence[str]) -> Sequence[str] | Mapping[str, str] | None:
        """See `Task.allowed`."""
        return [["a"], {"regex": "b+"}, None][len(turns)]

    def reply(self, example: Example, turns: Sequence[str]) -> str | None:
        """See `Task.reply`."""
        return None if turns[-1] == "stop" else f"{example.prompt[:1]}x" + "y" * len(turns)


OUR_REWARDS = sorted(BUILT_IN)
"""The names that `import textenvs` registers. Other tests of the process may have imported agents, which has more."""
