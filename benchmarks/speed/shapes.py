"""The shapes at which speed is measured: a model with random weights, a vocabulary of words, prompts of one length.

A bias of EOS decides the length of responses. At -30 it is never drawn, so that every response spends its budget; for
ragged lengths it is drawn once in so many tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

import textenvs
from agents import Policy
from textenvs import TextGenVectorEnv

_SPECIAL = ("<eos>", "<bos>", "<pad>")
NEVER = -30.0
"""The bias of a token that is never drawn."""


@dataclass(frozen=True)
class Shape:
    """A model, and the lengths of its prompts and responses.

    Attributes:
        name: The name in tables.
        layers: Transformer layers.
        width: Width of the hidden states; the MLP's is four times that, a head's 32.
        vocab_size: Number of tokens.
        lanes: Number of responses that are written side by side.
        prompt: Tokens of each prompt.
        new_tokens: Budget of a response.
        family: "llama" or "gpt2".
        mean_length: Tokens between two EOS; None: every response spends its budget.
        min_new_tokens: No EOS before this many tokens.
        heads: Number of attention heads; 0: as many as make each 32 wide.
    """

    name: str
    layers: int
    width: int
    vocab_size: int
    lanes: int
    prompt: int = 16
    new_tokens: int = 64
    family: str = "llama"
    mean_length: float | None = None
    min_new_tokens: int = 0
    heads: int = 0

    @property
    def config(self) -> transformers.PreTrainedConfig:
        """The config of the model."""
        heads = self.heads or max(1, self.width // 32)
        positions = max(self.prompt + self.new_tokens, 128)
        tokens = {"vocab_size": self.vocab_size, "eos_token_id": 0, "bos_token_id": 1, "pad_token_id": 2}
        if self.family == "gpt2":
            return transformers.GPT2Config(
                n_embd=self.width, n_layer=self.layers, n_head=heads, n_positions=positions, **tokens
            )
        return transformers.LlamaConfig(
            hidden_size=self.width,
            intermediate_size=4 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            max_position_embeddings=positions,
            tie_word_embeddings=False,
            **tokens,
        )

    @property
    def flops_per_token(self) -> float:
        """Operations of the matrix products of one new token, with the head and without attention's scores and sums."""
        mlp = 8 if self.family == "gpt2" else 12
        return 2.0 * (self.layers * (4 + mlp) * self.width**2 + self.width * self.vocab_size)


BASE = Shape("base", layers=4, width=256, vocab_size=2000, lanes=32)
SMALL = Shape("small", layers=2, width=64, vocab_size=256, lanes=8)
RAGGED = Shape("ragged", layers=4, width=256, vocab_size=2000, lanes=32, mean_length=16.0, min_new_tokens=8)
LARGE_VOCABULARY = Shape("large vocabulary", layers=4, width=256, vocab_size=50257, lanes=32)
TINY = Shape("tiny", layers=1, width=32, vocab_size=64, lanes=2, prompt=3, new_tokens=4)
"""Shows that all of it works."""


def words(count: int) -> list[str]:
    """Lists so many different words. Every eighth has a valence in VADER's lexicon, as long as there are such."""
    known = set()
    plain = []
    for piece in textenvs.make_tokenizer("stories").pieces:
        word = piece.decode(errors="ignore").strip()
        if word.isalpha() and word.isascii() and word not in known:
            known.add(word)
            plain.append(word)
    lexicon = SentimentIntensityAnalyzer().lexicon
    valued = [word for word in lexicon if word.isalpha() and word.isascii() and word not in known]
    chosen: list[str] = []
    made_up = 0
    while len(chosen) < count:
        if len(chosen) % 8 == 7 and valued:
            chosen.append(valued.pop(len(valued) // 2))
        elif plain:
            chosen.append(plain.pop(0))
        else:
            made_up += 1
            chosen.append("q" + "".join(chr(97 + made_up // 26**digit % 26) for digit in range(4)))
    return chosen


def word_tokenizer(vocab_size: int) -> Tokenizer:
    """Makes a tokenizer of so many tokens: EOS, BOS, padding, and words with the space before them."""
    pieces = [*_SPECIAL, *(f" {word}" for word in words(vocab_size - len(_SPECIAL)))]
    tokenizer = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(_SPECIAL))
    return tokenizer


def make_model(shape: Shape, seed: int = 0) -> Any:
    """Makes a Transformers model with random weights, in evaluation mode, whose head has a bias for EOS.

    Args:
        shape: The shape.
        seed: Seed of the weights.

    Returns:
        The model, float32, on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(shape.config, dtype=torch.float32)
    old = model.lm_head
    head = nn.Linear(old.in_features, old.out_features, bias=True)
    head.weight = old.weight
    with torch.no_grad():
        assert head.bias is not None
        head.bias.zero_()
        head.bias[0] = NEVER
        head.bias[1:3] = NEVER  # BOS and padding too: some trainers find padding by its id
        if shape.mean_length is not None:
            head.bias[0] = math.log((shape.vocab_size - 3) / (shape.mean_length - 1))
    model.lm_head = head
    return model.eval()


class Written(textenvs.Task):
    """Prompts and references of random words, of one length each.

    Args:
        shape: The shape of prompts and vocabulary.
        size: Number of examples in each split.
    """

    name = "written"
    default_reward = "sentiment"

    def __init__(self, shape: Shape, size: int = 512) -> None:
        self._shape = shape
        self._words = words(shape.vocab_size - len(_SPECIAL))
        self._size = size

    def num_examples(self, split: str) -> int:
        """Returns the same number for each split."""
        return self._size

    def example(self, split: str, index: int) -> textenvs.Example:
        """Draws words for a prompt and a reference."""
        rng = np.random.default_rng([("train", "validation", "test").index(split), index])
        drawn = [f" {self._words[word]}" for word in rng.integers(len(self._words), size=self._shape.prompt + 64)]
        return textenvs.Example(
            "".join(drawn[: self._shape.prompt]), references=("".join(drawn[self._shape.prompt :]),)
        )


def make_policy(shape: Shape, seed: int = 0) -> Policy:
    """Makes the policy of a shape, on the CPU."""
    return Policy(make_model(shape, seed), word_tokenizer(shape.vocab_size))


def make_env(shape: Shape, policy: Policy, reward: Any = "sentiment", payout: Any = "immediate") -> TextGenVectorEnv:
    """Makes lanes for `collect` in which that policy writes.

    Args:
        shape: Number of lanes, and their budget.
        policy: The policy, for its tokenizer.
        reward: As `textenvs.make_reward` takes it.
        payout: As a `TextGenEnv` takes it.

    Returns:
        The lanes.
    """
    return TextGenVectorEnv(
        shape.lanes,
        task=Written(shape),
        reward=reward,
        payout=payout,
        tokenizer=policy.tokenizer,
        max_new_tokens=shape.new_tokens,
        min_new_tokens=shape.min_new_tokens,
        autoreset_mode="Disabled",
        copy=False,
    )
