"""Tokenizers and tasks small enough to work out by hand, and a tokenizer of each family."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from textenvs import Example, Task
from textenvs.rewards import BUILT_IN
from textenvs.tokenizer import BUNDLED

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


LINES = [
    "Once upon a time, there was a happy little fox. It wasn't sad!",
    "The fox can't swim, but it doesn't mind: it sings, sings and sings.",
    "Ä Ö 漢字 😀 are letters of other kinds. Is 漢字 one word? Yes!",
    "A very happy day, a very sad day, and not a single cloud in the sky.",
]


SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]


def with_bos(tokenizer: tokenizers.Tokenizer, single: str = "<s> $A") -> tokenizers.Tokenizer:
    names = [part for part in single.split() if part != "$A"]
    ids = [(name, tokenizer.token_to_id(name)) for name in names]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return tokenizer


def byte_level_bpe() -> tokenizers.Tokenizer:
    """GPT-2's kind. The vocabulary is so small that every character beyond ASCII lies over several tokens."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([LINES[0], LINES[3]], trainer)
    made.add_tokens(["<think>", "two words", "漢", "Äé"])  # not special: they are printed
    return made


def sentencepiece_bpe(decoder: str) -> tokenizers.Tokenizer:
    """Llama 2's kind: spaces as "▁", bytes for what the vocabulary lacks."""
    letters = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    letters.normalizer = normalizers.Replace(" ", "▁")
    letters.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=SPECIALS, show_progress=False)
    letters.train_from_iterator([LINES[0], LINES[3]], trainer)
    model = json.loads(letters.to_str())["model"]
    tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [token for token in model["vocab"] if token not in SPECIALS]
    made = tokenizers.Tokenizer(
        models.BPE(
            {token: index for index, token in enumerate(tokens)},
            [tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    made.add_special_tokens(SPECIALS)
    made.add_tokens(["<think>"])
    space = decoders.Replace("▁", " ")
    if decoder == "metaspace":
        made.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
        made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    elif decoder == "strip":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        strip = decoders.Strip(" ", 1, 0)
        made.decoder = decoders.Sequence([space, decoders.ByteFallback(), decoders.Fuse(), strip])
    else:  # Gemma's: no space is put in front, and none is taken off
        made.normalizer = normalizers.Replace(" ", "▁")
        made.decoder = decoders.Sequence([space, decoders.ByteFallback(), decoders.Fuse()])
    return with_bos(made)


def unigram() -> tokenizers.Tokenizer:
    """T5's and XLNet's kind."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(LINES, trainer)
    return with_bos(made, "$A </s>")


def word_piece() -> tokenizers.Tokenizer:
    """BERT's kind."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    made.train_from_iterator(LINES, trainer)
    made.add_tokens(["<think>"])
    return with_bos(made, "[CLS] $A [SEP]")


def suffix_bpe() -> tokenizers.Tokenizer:
    """GPT's kind: "</w>" ends a word."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=SPECIALS, end_of_word_suffix="</w>", show_progress=False
    )
    made.train_from_iterator(LINES, trainer)
    return made


def word_level() -> tokenizers.Tokenizer:
    """Whole words, and no decoder: the library joins them with spaces."""
    made = tokenizers.Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1, "a": 2, "fox": 5}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<eos>", "<unk>"])
    return made


FAMILIES: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte_level": byte_level_bpe,
    "sentencepiece-strip": lambda: sentencepiece_bpe("strip"),
    "sentencepiece-metaspace": lambda: sentencepiece_bpe("metaspace"),
    "sentencepiece-gemma": lambda: sentencepiece_bpe("gemma"),
    "unigram": unigram,
    "word_piece": word_piece,
    "word_level": word_level,
    "bundled": lambda: tokenizers.Tokenizer.from_file(str(BUNDLED["stories"])),
}


@cache
def trained(name: str) -> str:
    return str(FAMILIES[name]().to_str())  # once: training breaks ties as it likes


def backend_of(name: str) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(trained(name))


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Equal in value, type, dtype and keys, all the way down. Objects in an array are compared one by one."""
    assert type(one) is type(other), where
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype, where
        if one.dtype == object:
            assert_same(one.tolist(), other.tolist(), where)
        else:
            assert np.array_equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for place, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{place}]")
    else:
        assert one == other, where
