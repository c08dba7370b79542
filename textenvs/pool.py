"""Pools: a task's examples, tokenised once, so that a reset is an index into one.

`PromptEncoder` makes tokens of prompts, `build_pools` makes the `Pool` of each split of a task with it, and a pool
draws examples from random bits, by weight where the task has weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenvs.arguments import check_choice, check_count
from textenvs.chat_template import check_chat_settings
from textenvs.example import Example, frozen
from textenvs.tasks.base import Task
from textenvs.tokenizer import Tokenizer, end_token_ids

LONGEST_PROMPT = 1 << 23
"""Characters of the longest prompt that is encoded: a longer one could end the process for want of memory."""

_BATCH = 1 << 20  # characters that are encoded at once, which take some 200 MB

_MOST_CELLS = 1 << 33  # tokens of all padded prompts, which take 32 GB


CUT = "were cut in the middle"
"""The words by which the warning about prompts that were cut is known."""


@dataclass(frozen=True)
class PromptEncoder:
    """Makes tokens of prompts.

    Attributes:
        tokenizer: The tokenizer that cuts them into tokens.
        max_length: Prompts are cut to this many tokens; None keeps them whole.
        truncation_side: The part that a cut takes away: "left" keeps the last tokens, "right" the first, and "middle"
            half of them at either end, so that neither an instruction nor a question is lost.
        chat_template: If True, or settings, a prompt is what a user says to an assistant, in the tokenizer's chat
            template. Settings are those of `textenvs.chat_template.check_chat_settings`.

    Raises:
        ValueError: If the length is less than 1, the side is unknown, the tokenizer has no chat template, or the
            template has no such setting.
        TypeError: If the length is not a whole number, or a setting is of the wrong type.
    """

    tokenizer: Tokenizer
    max_length: int | None = None
    truncation_side: str = "left"
    chat_template: bool | Mapping[str, Any] = False

    def __post_init__(self) -> None:
        check_choice("truncation_side", self.truncation_side, ("left", "right", "middle"))
        check_count("max_prompt_length", self.max_length, optional=True)
        if not isinstance(self.chat_template, (bool, Mapping)):
            raise TypeError(f"Expected chat_template to be True, False or settings, got {self.chat_template!r:.200}")
        if self.chat_template == {}:
            object.__setattr__(self, "chat_template", True)  # settings, each as it is by default
        template: Any = getattr(self.tokenizer, "chat_template", None)
        if self.chat_template and not template:
            raise ValueError(f"Expected a tokenizer with a chat template, got {self.tokenizer!r}, which has none")
        if isinstance(self.chat_template, Mapping):
            check_chat_settings(template, self.chat_template)

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Encodes prompts.

        Args:
            prompts: Their texts.

        Returns:
            The tokens of each prompt, at least one, and at most `max_length`.

        Raises:
            ValueError: If a prompt cannot be encoded, or is longer than `LONGEST_PROMPT`.
        """
        return self.encode_and_count(prompts)[0]

    def encode_and_count(self, prompts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Encodes prompts as `encode` does, and returns the number of those that were cut, too."""
        encoded, num_cut = list[list[int]](), 0
        for batch in _batches(prompts):  # cut one after another, so that whole texts are never all there as tokens
            uncut = [prompt or [self.tokenizer.bos_token_id] for prompt in self._encode_uncut(batch)]
            kept = [self._cut(prompt) for prompt in uncut]
            num_cut += sum(len(short) < len(prompt) for short, prompt in zip(kept, uncut, strict=True))
            encoded += kept
        return encoded, num_cut

    def _cut(self, prompt: list[int]) -> list[int]:
        """Returns the tokens of a prompt that are kept, at most `max_length` of them."""
        if self.max_length is None or len(prompt) <= self.max_length:
            return prompt
        if self.truncation_side == "middle":
            behind = self.max_length // 2
            return prompt[: self.max_length - behind] + prompt[len(prompt) - behind :]
        return prompt[: self.max_length] if self.truncation_side == "right" else prompt[-self.max_length :]

    def _encode_uncut(self, prompts: Sequence[str]) -> list[list[int]]:
        half = next((prompt for prompt in prompts if not _can_be_encoded(prompt)), None)
        if half is not None:
            raise ValueError(f"Expected prompts that can be encoded, got half of a surrogate pair in {half!r:.200}")
        if self.chat_template:
            return [self._encode_chat([{"role": "user", "content": prompt}]) for prompt in prompts]
        return self.tokenizer.encode_batch(prompts)

    def _encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        tokenizer: Any = self.tokenizer
        ids: list[int] = tokenizer.encode_chat(self._with_system(messages), variables=self._variables)
        return ids

    def _write_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Returns a conversation as text, without a beginning of the assistant's next turn."""
        tokenizer: Any = self.tokenizer
        text: str = tokenizer.write_chat(
            self._with_system(messages), add_generation_prompt=False, variables=self._variables
        )
        return text

    def _with_system(self, messages: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
        settings = self.chat_template
        if not isinstance(settings, Mapping) or "system" not in settings:
            return list(messages)
        return [{"role": "system", "content": settings["system"]}, *messages]

    @property
    def _variables(self) -> dict[str, Any]:
        settings = self.chat_template if isinstance(self.chat_template, Mapping) else {}
        return {name: value for name, value in settings.items() if name != "system"}

    @cached_property
    def turn_end_id(self) -> int | None:
        """The special token that the chat template writes behind what the assistant says; None: it writes none."""
        if not self.chat_template:
            return None
        tokenizer: Any = self.tokenizer
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
        # Some templates end a turn only where the next one begins, and some refuse one of these conversations.
        for messages in (turns, [*turns, {"role": "user", "content": "x"}]):
            try:
                _, mark, behind = self._write_chat(messages).rpartition(_MARK)
            except ValueError:
                continue
            ids = tokenizer.backend.encode(behind, add_special_tokens=False).ids if mark else []
            end = next((token for token in ids if not tokenizer.pieces[token]), None)
            if end is not None:
                return int(end)
        return None

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end what the agent says: the tokenizer's, EOS first, and the chat template's."""
        end = self.turn_end_id
        return tuple(dict.fromkeys((*end_token_ids(self.tokenizer), *([] if end is None else [end]))))

    def encode_reply(self, reply: str) -> list[int]:
        """Returns the tokens of a reply, which stands between two turns of the agent.

        Args:
            reply: The text that the task says back.

        Returns:
            The tokens behind the end of the agent's turn, up to where the agent goes on.

        Raises:
            ValueError: If the chat template writes no special token behind the assistant's turns.
        """
        tokenizer: Any = self.tokenizer
        if not self.chat_template:
            ids: list[int] = tokenizer.encode_response(reply)
            return ids
        # A template cannot write a reply alone. So it writes a conversation that ends with one, and the reply's tokens,
        # with the template's own around them, are those behind the end of the assistant's turn: the first end behind
        # the mark that the assistant says.
        end = self.turn_end_id
        if end is None:
            raise ValueError(
                f"Expected a chat template that ends what the assistant says with a special token, got {tokenizer!r}"
            )
        before = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
        conversation = [*before, {"role": "user", "content": reply}]
        text = self._write_chat(conversation)
        ends_before = tokenizer.backend.encode(text[: text.index(_MARK)], add_special_tokens=False).ids.count(end)
        whole = self._encode_chat(conversation)
        positions = [position for position, token in enumerate(whole) if token == end]
        return whole[positions[ends_before] + 1 :]


def _batches(prompts: Sequence[str]) -> Iterator[list[str]]:
    """Divides prompts into batches of about as many characters."""
    batch: list[str] = []
    characters = 0
    for prompt in prompts:
        if len(prompt) > LONGEST_PROMPT:
            raise ValueError(
                f"Expected prompts of at most {LONGEST_PROMPT:,} characters, got one of {len(prompt):,}, which begins "
                f"{prompt[:80]!r}: a tokenizer needs some 200 bytes for each. Cut the texts first"
            )
        if batch and characters + len(prompt) > _BATCH:
            yield batch
            batch, characters = [], 0
        batch.append(prompt)
        characters += len(prompt)
    if batch:
        yield batch


def _can_be_encoded(text: str) -> bool:
    """Returns False for text with half of a surrogate pair, which tokenizers refuse without naming it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_MARK = "textenvs"
"""Words of the assistant in a conversation that is written to see what the template writes behind them."""


@dataclass(frozen=True)
class Pool:
    """The examples of one split, tokenised once.

    Attributes:
        examples: The examples, in the split's order, frozen: nothing that reads one can change it.
        prompts: `(examples, max_prompt_length)` int32, right-padded.
        lengths: `(examples,)` int64, tokens of each prompt, at least 1.
        encoder: The encoder that made the tokens.
        thresholds: `(examples,)` uint64 from 0 to 2^32, the part of its share that an example keeps for itself; None
            if all are drawn alike.
        aliases: `(examples,)` int64, the example that gets the rest of the share.
        reply_tokens: The largest number of tokens that a reply of the task has.
    """

    examples: tuple[Example, ...]
    prompts: NDArray[np.int32]
    lengths: NDArray[np.int64]
    encoder: PromptEncoder
    thresholds: NDArray[np.uint64] | None = None
    aliases: NDArray[np.int64] | None = None
    reply_tokens: int = 0

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.examples)

    def draw(self, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Draws examples from random bits: O(1) each, whatever the weights.

        Args:
            bits: `(k,)` uint64, uniform.

        Returns:
            `(k,)` int64 indices. The upper half of the bits picks an example, and the lower half decides between it and
            its alias.

        Source: Walker (1977), An efficient method for generating discrete random variables with general distributions.
        """
        # The bias of scaling 32 bits to the pool, pool / 2^32, is far below any noise.
        indices = ((bits >> np.uint64(32)) * np.uint64(len(self)) >> np.uint64(32)).astype(np.int64)
        if self.thresholds is None or self.aliases is None:
            return indices
        return np.where((bits & np.uint64(0xFFFFFFFF)) < self.thresholds[indices], indices, self.aliases[indices])


def build_pools(task: Task, encoder: PromptEncoder) -> dict[str, Pool]:
    """Tokenises every split of a task, so that all its environments have the same observation space.

    A prompt that is cut may come to equal another split's prompt. Such examples are left out of the later split
    (train, validation, test, shifted), so that no prompt is ever in two.

    Args:
        task: The task.
        encoder: The encoder of its prompts.

    Returns:
        Split to pool, for the splits that have examples.

    Raises:
        ValueError: If no split has an example, or a task's weights are wrong.
    """
    encoded: dict[str, tuple[list[Example], list[list[int]], Sequence[float] | None]] = {}
    seen: set[tuple[int, ...]] = set()
    num_cut, num_prompts = 0, 0
    for split in task.splits:
        examples = [frozen(task.example(split, index)) for index in range(task.num_examples(split))]
        if not examples:
            continue
        prompts, num_cut_here = encoder.encode_and_count([example.prompt for example in examples])
        num_cut += num_cut_here
        num_prompts += len(prompts)
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
    # Elsewhere, a cut makes a beginning to go on with, and is meant.
    if num_cut and encoder.truncation_side == "middle":
        warnings.warn(
            f"{num_cut} of {num_prompts} prompts of task {task.name!r} have more than {encoder.max_length} tokens, and "
            f"{CUT}: max_prompt_length sets another limit",
            stacklevel=2,
        )
    width = max(len(prompt) for _, prompts, _ in encoded.values() for prompt in prompts)
    count = sum(len(prompts) for _, prompts, _ in encoded.values())
    if width * count > _MOST_CELLS:
        raise ValueError(
            f"Expected prompts that fit into memory side by side, got {count:,} of up to {width:,} tokens, each padded "
            "to the longest: cut them, prompt_tokens= of load_dataset does"
        )
    reply_tokens = task.max_reply_tokens
    if task.max_turns > 1:
        every_example = [example for examples, _, _ in encoded.values() for example in examples]
        replies = dict.fromkeys(reply for example in every_example for reply in task.replies(example))
        reply_tokens = max([reply_tokens, *(len(encoder.encode_reply(reply)) for reply in replies)])
    pools = {}
    for split, (examples, prompts, weights) in encoded.items():
        padded, lengths = pad_prompts(prompts, width, encoder.tokenizer.pad_token_id)
        thresholds, aliases = (None, None) if weights is None else alias_table(weights)
        for array in (padded, lengths, thresholds, aliases):
            if array is not None:
                array.setflags(write=False)  # environments share pools
        pools[split] = Pool(tuple(examples), padded, lengths, encoder, thresholds, aliases, reply_tokens)
    return pools


def pad_prompts(
    prompts: Sequence[Sequence[int]], width: int, pad_token_id: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Lays prompts out as the rows of one array.

    Args:
        prompts: The tokens of each prompt, at most `width`.
        width: The number of columns.
        pad_token_id: The token behind each prompt.

    Returns:
        `(prompts, width)` int32, right-padded, and the `(prompts,)` int64 lengths.
    """
    padded = np.full((len(prompts), width), pad_token_id, dtype=np.int32)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = prompt
    return padded, np.array([len(prompt) for prompt in prompts], dtype=np.int64)


def _check_weights(task: Task, split: str, weights: Sequence[float], count: int) -> None:
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (count,) or not np.isfinite(array).all() or (array < 0).any() or not array.any():
        raise ValueError(
            f"Expected the weights of task {task.name!r} in split {split!r} as {count} numbers from 0, not all 0, got "
            f"{array if array.size < 20 else array.shape}"
        )


def alias_table(weights: Sequence[float]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Prepares weights for `Pool.draw`.

    Args:
        weights: `(n,)` from 0, not all of them 0.

    Returns:
        Thresholds `(n,)` uint64 from 0 to 2^32, and aliases `(n,)` int64.

    Source: Vose (1991), A linear algorithm for generating random numbers with a given distribution.
    """
    array = np.asarray(weights, dtype=np.float64)
    shares: list[float] = (array / array.sum() * len(array)).tolist()
    # What rounding leaves over at the end keeps its share of 1, and itself as its alias.
    aliases = list(range(len(shares)))
    small = [index for index, share in enumerate(shares) if share < 1]
    large = [index for index, share in enumerate(shares) if share >= 1]
    while small and large:
        poor, rich = small.pop(), large[-1]
        aliases[poor] = rich
        shares[rich] -= 1 - shares[poor]
        if shares[rich] < 1:
            small.append(large.pop())
    return (np.clip(shares, 0.0, 1.0) * 2.0**32).astype(np.uint64), np.array(aliases, dtype=np.int64)


def longest_row(task: Task, pool: Pool, max_new_tokens: int) -> int:
    """Returns the largest number of tokens in an episode: a prompt, the agent's, and a reply after all turns but one.

    Args:
        task: The task, which has so many turns.
        pool: The prompts, and the length of the longest reply.
        max_new_tokens: The budget; a turn takes at least one token of it.

    Returns:
        The number of tokens.
    """
    replies = max(min(task.max_turns, max_new_tokens) - 1, 0)
    return int(pool.prompts.shape[1]) + max_new_tokens + replies * pool.reply_tokens
