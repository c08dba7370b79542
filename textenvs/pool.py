"""Pools: a task's examples, tokenised once; a reset is an index into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.tasks.base import Example, Task
from textenvs.tokenizer import Tokenizer


@dataclass(frozen=True)
class PromptEncoder:
    """Makes tokens of prompts.

    Attributes:
        tokenizer: Whose tokens.
        max_length: Prompts are cut to this many tokens; None keeps them whole.
        truncation_side: Which end a cut takes away: "left" keeps the last tokens, "right" the first.
        chat_template: Whether a prompt is what a user says to an assistant, in the tokenizer's chat template.

    Raises:
        ValueError: If the length is less than 1, the side is unknown, or the tokenizer has no chat template.
    """

    tokenizer: Tokenizer
    max_length: int | None = None
    truncation_side: str = "left"
    chat_template: bool = False

    def __post_init__(self) -> None:
        if self.truncation_side not in ("left", "right"):
            raise ValueError(f"Expected truncation_side to be 'left' or 'right', got {self.truncation_side!r}")
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"Expected max_prompt_length to be at least 1 token, got {self.max_length}")
        if self.chat_template and not getattr(self.tokenizer, "chat_template", None):
            raise ValueError(f"Expected a tokenizer with a chat template, got {self.tokenizer!r}, which has none")

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """The tokens of each prompt, at least one, and at most `max_length`."""
        encoded = [prompt or [self.tokenizer.bos_token_id] for prompt in self._whole(prompts)]
        if self.max_length is None:
            return encoded
        keep = slice(None, self.max_length) if self.truncation_side == "right" else slice(-self.max_length, None)
        return [prompt[keep] for prompt in encoded]

    def _whole(self, prompts: Sequence[str]) -> list[list[int]]:
        if not self.chat_template:
            return self.tokenizer.encode_batch(prompts)
        tokenizer: Any = self.tokenizer
        return [tokenizer.encode_chat([{"role": "user", "content": prompt}]) for prompt in prompts]

    def encode_reply(self, reply: str) -> list[int]:
        """The tokens of what the environment says between two turns of the agent, the latter's EOS left out."""
        tokenizer: Any = self.tokenizer
        if not self.chat_template:
            ids: list[int] = tokenizer.encode_response(reply)
            return ids
        # The template around a reply, found as what stands behind the EOS of the assistant's turn before it.
        before = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
        eos = self.tokenizer.eos_token_id
        turns = tokenizer.encode_chat(before, add_generation_prompt=False).count(eos)
        if not turns:
            raise ValueError(f"Expected a chat template that ends what the assistant says with EOS, got {tokenizer!r}")
        whole = tokenizer.encode_chat([*before, {"role": "user", "content": reply}])
        ends = [place for place, token in enumerate(whole) if token == eos]
        return list(whole[ends[turns - 1] + 1 :])


@dataclass(frozen=True)
class Pool:
    """The examples of one split, tokenised once. A reset is an index into it.

    Attributes:
        examples: What each prompt came from.
        prompts: `(examples, max_prompt_length)` int32, right-padded.
        lengths: `(examples,)` int64, tokens of each prompt, at least 1.
        encoder: What made the tokens.
        thresholds: `(examples,)` uint64 from 0 to 2^32, how much of its share an example keeps for itself; None where
            all are drawn alike.
        aliases: `(examples,)` int64, who gets the rest.
        reply_tokens: The most tokens that a reply of the task has.
    """

    examples: tuple[Example, ...]
    prompts: NDArray[np.int32]
    lengths: NDArray[np.int64]
    encoder: PromptEncoder
    thresholds: NDArray[np.uint64] | None = None
    aliases: NDArray[np.int64] | None = None
    reply_tokens: int = 0

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.examples)

    def draw(self, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Places in the pool, from random bits: O(1) each, whatever the weights.

        Args:
            bits: `(k,)` uint64, uniform.

        Returns:
            `(k,)` int64. The upper half of the bits finds a place, and the lower half decides between it and its alias.

        Source: Walker (1977), An efficient method for generating discrete random variables with general distributions.
        """
        # The bias of scaling 32 bits to the pool, pool / 2^32, is far below any noise.
        places = ((bits >> np.uint64(32)) * np.uint64(len(self)) >> np.uint64(32)).astype(np.int64)
        if self.thresholds is None or self.aliases is None:
            return places
        return np.where((bits & np.uint64(0xFFFFFFFF)) < self.thresholds[places], places, self.aliases[places])


def build_pools(task: Task, encoder: PromptEncoder) -> dict[str, Pool]:
    """Tokenise every split of a task, so that all its environments have the same observation space.

    A prompt that is cut may come to equal another split's prompt. Such examples are left out of the later split
    (train, validation, test, shifted), so that no prompt is ever in two.

    Args:
        task: Where the examples come from.
        encoder: What makes tokens of prompts.

    Returns:
        Split to pool, for the splits that have examples.

    Raises:
        ValueError: If no split has an example, or a task's weights are wrong.
    """
    encoded: dict[str, tuple[list[Example], list[list[int]], Sequence[float] | None]] = {}
    seen: set[tuple[int, ...]] = set()
    for split in task.splits:
        examples = [task.example(split, index) for index in range(task.num_examples(split))]
        if not examples:
            continue
        prompts = encoder.encode([example.prompt for example in examples])
        weights = task.weights(split)
        if weights is not None:
            _check_weights(task, split, weights, len(examples))
        if encoder.max_length is not None and any(len(prompt) == encoder.max_length for prompt in prompts):
            kept = [row for row, prompt in enumerate(prompts) if tuple(prompt) not in seen]
            examples, prompts = [examples[row] for row in kept], [prompts[row] for row in kept]
            weights = None if weights is None else [weights[row] for row in kept]
        seen.update(map(tuple, prompts))
        if examples and (weights is None or any(weights)):
            encoded[split] = (examples, prompts, weights)
    if not encoded:
        raise ValueError(f"Expected task {task.name!r} to have at least one example, got none in any split")
    width = max(len(prompt) for _, prompts, _ in encoded.values() for prompt in prompts)
    reply_tokens = task.max_reply_tokens
    if task.max_turns > 1:
        given = [example for examples, _, _ in encoded.values() for example in examples]
        replies = dict.fromkeys(reply for example in given for reply in task.replies(example))
        reply_tokens = max([reply_tokens, *(len(encoder.encode_reply(reply)) for reply in replies)])
    pools = {}
    for split, (examples, prompts, weights) in encoded.items():
        table, lengths = _table(prompts, width, encoder.tokenizer.pad_token_id)
        thresholds, aliases = (None, None) if weights is None else alias_table(weights)
        for array in (table, lengths, thresholds, aliases):
            if array is not None:
                array.setflags(write=False)
        pools[split] = Pool(tuple(examples), table, lengths, encoder, thresholds, aliases, reply_tokens)
    return pools


def _table(prompts: Sequence[Sequence[int]], width: int, pad: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    table = np.full((len(prompts), width), pad, dtype=np.int32)
    for row, prompt in enumerate(prompts):
        table[row, : len(prompt)] = prompt
    return table, np.array([len(prompt) for prompt in prompts], dtype=np.int64)


def _check_weights(task: Task, split: str, weights: Sequence[float], count: int) -> None:
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (count,) or not np.isfinite(array).all() or (array < 0).any() or not array.any():
        raise ValueError(
            f"Expected the weights of task {task.name!r} in split {split!r} as {count} numbers from 0, not all 0, got "
            f"{array if array.size < 20 else array.shape}"
        )


def alias_table(weights: Sequence[float]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """What `Pool.draw` needs to draw by weight.

    Args:
        weights: `(n,)` from 0, not all of them 0.

    Returns:
        Thresholds `(n,)` uint64 from 0 to 2^32, and aliases `(n,)` int64.

    Source: Vose (1991), A linear algorithm for generating random numbers with a given distribution.
    """
    array = np.asarray(weights, dtype=np.float64)
    shares: list[float] = (array / array.sum() * len(array)).tolist()
    aliases = list(range(len(shares)))  # what rounding leaves over in the end has a share of 1, and itself for alias
    small = [place for place, share in enumerate(shares) if share < 1]
    large = [place for place, share in enumerate(shares) if share >= 1]
    while small and large:
        poor, rich = small.pop(), large[-1]
        aliases[poor] = rich
        shares[rich] -= 1 - shares[poor]
        if shares[rich] < 1:
            small.append(large.pop())
    return (np.clip(shares, 0.0, 1.0) * 2.0**32).astype(np.uint64), np.array(aliases, dtype=np.int64)


def longest_row(task: Task, pool: Pool, max_new_tokens: int) -> int:
    """The most tokens that an episode has: a prompt, what the agent writes, and a reply after each turn but the last.

    Args:
        task: How many turns there are.
        pool: The prompts, and how long a reply is.
        max_new_tokens: The budget; a turn takes at least one token of it.

    Returns:
        Tokens.
    """
    replies = max(min(task.max_turns, max_new_tokens) - 1, 0)
    return int(pool.prompts.shape[1]) + max_new_tokens + replies * pool.reply_tokens
