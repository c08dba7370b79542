"""Whole texts, written into an environment token by token: the oracle of a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from textenvs.example import Example
from textenvs.pool import PromptEncoder
from textenvs.setting import Setting
from textenvs.tokenizer import Tokenizer, decode

_MAX_LANES = 1024
_MAX_KEPT = 1 << 17


class _RememberingEncoder(PromptEncoder):
    """Encodes each prompt once: a search plays thousands of texts for each of a few prompts."""

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Returns the tokens of each prompt."""
        known: dict[str, list[int]] = self.__dict__.setdefault("_known", {})
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        if new:
            known.update(zip(new, super().encode(new), strict=True))
        return [known[prompt] for prompt in prompts]


class TextPlayer:
    """Plays texts as episodes, so that budget, tokenizer, replies and score are the environment's own.

    A text is cut into the tokens that the tokenizer would write it with, and EOS follows. What exceeds the budget is
    not written. In a task of several turns, each line is a turn, and after the last one the agent says nothing.

    Args:
        setting: The environment's setting. Its payout does not matter, and an action mask is left out.

    Raises:
        ValueError: If the tokenizer cannot encode a response.

    Attributes:
        num_scored: The number of texts that were scored so far. The same text for the same example is scored once.
    """

    def __init__(self, setting: Setting) -> None:
        encoder = setting.pool.encoder
        pool = replace(
            setting.pool,
            encoder=_RememberingEncoder(**{field.name: getattr(encoder, field.name) for field in fields(encoder)}),
        )
        self.setting = replace(setting, pool=pool, payout="sparse", action_mask=None, curriculum=None, render_mode=None)
        self.num_scored = 0
        self._encode = _response_encoder(setting.tokenizer)
        self._tokens: dict[str, tuple[list[int], ...]] = {}
        self._known: dict[tuple[int, str], float] = {}
        self._numbers: dict[int, Example] = {}  # keeps the examples alive whose ids are keys
        self._lanes = self.setting.lanes(_MAX_LANES)

    def written(self, text: str) -> str:
        """Returns the part of a text that an episode has room for, as the tokenizer writes it.

        Args:
            text: The text.

        Returns:
            The text of its tokens, up to the budget. Each line of a task of several turns costs one token more.
        """
        tokenizer, left, lines = self.setting.tokenizer, self.setting.max_new_tokens, []
        for turn in self._turns(text):
            if left <= 0:
                break
            lines.append(decode(tokenizer, turn[:left]))
            left -= len(turn) + 1
        return "\n".join(lines)

    def scores(self, examples: Sequence[Example], texts: Sequence[str]) -> NDArray[np.float64]:
        """Scores texts.

        Args:
            examples: An example for each text.
            texts: The texts.

        Returns:
            `(k,)` the score of each.

        Raises:
            RewardError: If the reward fails.
        """
        if len(self._known) > _MAX_KEPT:
            self._known.clear()
        keys = [(id(example), text) for example, text in zip(examples, texts, strict=True)]
        self._numbers.update((id(example), example) for example in examples)
        new = list(dict.fromkeys(key for key in keys if key not in self._known))
        for start in range(0, len(new), _MAX_LANES):
            batch = new[start : start + _MAX_LANES]
            played = self._play([self._numbers[number] for number, _ in batch], [text for _, text in batch])
            self._known.update(zip(batch, played.tolist(), strict=True))
        self.num_scored += len(new)
        return np.array([self._known[key] for key in keys])

    def means(self, examples: Sequence[Example], texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns `(k,)` the mean score of each text over all of some examples."""
        pairs = [(example, text) for text in texts for example in examples]
        scores = self.scores([example for example, _ in pairs], [text for _, text in pairs])
        means: NDArray[np.float64] = scores.reshape(len(texts), len(examples)).mean(axis=1)
        return means

    def _turns(self, text: str) -> tuple[list[int], ...]:
        if len(self._tokens) > _MAX_KEPT:
            self._tokens.clear()
        turns = self._tokens.get(text)
        if turns is None:
            lines = text.split("\n") if self.setting.task.max_turns > 1 else [text]
            turns = self._tokens[text] = tuple(self._encode(line) for line in lines)
        return turns

    def random_scores(self, examples: Sequence[Example], seed: int) -> NDArray[np.float64]:
        """Scores tokens drawn uniformly from the vocabulary.

        Args:
            examples: The examples, each of which is played equally often.
            seed: The seed of the tokens.

        Returns:
            `(k,)` the score of each of 1,024 episodes.
        """
        rows = np.resize(np.arange(len(examples)), _MAX_LANES)
        size = (_MAX_LANES, self.setting.max_new_tokens)
        tokens = np.random.default_rng(seed).integers(self.setting.tokenizer.vocab_size, size=size)
        return self._write([examples[row] for row in rows.tolist()], tokens)

    def _play(self, examples: Sequence[Example], texts: Sequence[str]) -> NDArray[np.float64]:
        eos = self.setting.tokenizer.eos_token_id
        actions = np.full((len(texts), self.setting.max_new_tokens), eos, dtype=np.int64)
        for row, text in enumerate(texts):
            ids = [token for turn in self._turns(text) for token in (*turn, eos)][: actions.shape[1]]
            actions[row, : len(ids)] = ids
        return self._write(examples, actions)

    def _write(self, examples: Sequence[Example], actions: NDArray[np.int64]) -> NDArray[np.float64]:
        lanes, rows = self._lanes, np.arange(len(examples))
        lanes.reset(rows, examples)
        for column in actions.T:
            running = rows[~lanes.terminated[rows]]
            if not len(running):
                break
            lanes.step(running, column[running])
        return lanes.score[rows].copy()


def _response_encoder(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    encode: Callable[[str], list[int]] | None = getattr(tokenizer, "encode_response", None)
    if encode is None:
        raise ValueError(f"Expected a tokenizer with encode_response(text), got {tokenizer!r}, which has none")
    return encode
