"""A task's score of whole texts, as a reward function for trainers that have no environments (TRL's)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym

from textenvs.pool import Pool, build_pools
from textenvs.rewards import checked_score
from textenvs.setting import Setting
from textenvs.tasks import Example
from textenvs.tokenizer import decode
from textenvs.wrappers.tokens import setting_of


class ScoreFunction:
    """A task's score of whole texts, as TRL's trainers call it. `score_function` makes one.

    Args:
        setting: The setting of the environment.

    Raises:
        ValueError: If the task has several turns.
    """

    def __init__(self, setting: Setting) -> None:
        if setting.task.max_turns > 1:
            raise ValueError(
                f"Expected a task of one turn, got {setting.task.name!r}, which has up to {setting.task.max_turns}: a "
                "trainer that scores whole texts asks for no replies. Train in the environment itself, or with "
                "TextAction, whose actions are turns"
            )
        self.setting = setting
        self.__name__ = setting.reward.name  # trainers log it under this name
        self._pools = {setting.split: setting.pool}
        self._by_prompt: dict[str, Example | None] | None = None

    def rows(self, split: str | None = None) -> list[dict[str, Any]]:
        """Lists a split as a data set, for `datasets.Dataset.from_list`.

        Args:
            split: "train", "validation" or "test"; None is the environment's own.

        Returns:
            `{"prompt": text, "split": its name, "example": index in the split}` for each example. A prompt that the
            environment cuts (`max_prompt_length`) is cut here, too.

        Raises:
            ValueError: If the task has no such split, or no example in it.
        """
        name = self.setting.split if split is None else split
        pool = self._pool(name)
        return [{"prompt": _prompt(pool, index), "split": name, "example": index} for index in range(len(pool))]

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        example: Sequence[int] | None = None,
        split: Sequence[str] | None = None,
        **columns: Any,
    ) -> list[float]:
        """Scores a batch.

        Args:
            prompts: Texts, or conversations that end with one (`[{"role": "user", "content": text}]`).
            completions: The response to each, as a text or a conversation whose last message is the response.
            example: The column of that name in `rows()`: each prompt's example. Without it, the prompt tells.
            split: The column of that name: the split of each example. Without it, it is the environment's own.
            **columns: The other columns, which trainers pass as well; not used.

        Returns:
            A score for each.

        Raises:
            ValueError: If a prompt is not one of the task's, or belongs to several examples, or a column is not as long
                as the others.
            RewardError: If the reward fails.
        """
        for name, column in (("completions", completions), ("example", example), ("split", split)):
            if column is not None and len(column) != len(prompts):
                raise ValueError(f"Expected {name} for {len(prompts)} prompts, got {len(column)}")
        texts = [_last_content(completion) for completion in completions]
        if example is None:
            examples = [self._example(_last_content(prompt)) for prompt in prompts]
        else:
            splits = [self.setting.split] * len(example) if split is None else split
            examples = [self._pool(name).examples[index] for name, index in zip(splits, example, strict=True)]
        return [checked_score(self.setting.reward, *pair) for pair in zip(examples, texts, strict=True)]

    def _pool(self, split: str) -> Pool:
        if split not in self._pools:
            self._pools = build_pools(self.setting.task, self.setting.pool.encoder) | self._pools
        if split not in self._pools:
            raise ValueError(f"Expected a split that has examples, {sorted(self._pools)}, got {split!r}")
        return self._pools[split]

    def _example(self, prompt: str) -> Example:
        if self._by_prompt is None:
            self._by_prompt = {}
            pools = build_pools(self.setting.task, self.setting.pool.encoder)
            for pool in pools.values():
                for index, example in enumerate(pool.examples):
                    text = _prompt(pool, index)
                    if self._by_prompt.setdefault(text, example) != example:
                        self._by_prompt[text] = None  # two examples share the prompt, which cannot tell them apart
        match = self._by_prompt.get(prompt)
        if match is None:
            problem = "which several have" if prompt in self._by_prompt else "which none has"
            raise ValueError(
                f"Expected a prompt of one example of task {self.setting.task.name!r}, got {prompt!r}, {problem}: keep "
                "the columns 'example' and 'split' of score.rows()"
            )
        return match


def _prompt(pool: Pool, index: int) -> str:
    """Returns the text of a prompt, as far as the environment shows it."""
    encoder, example, length = pool.encoder, pool.examples[index], pool.lengths[index]
    if encoder.chat_template or encoder.max_length is None or length < encoder.max_length:
        return example.prompt
    return decode(encoder.tokenizer, pool.prompts[index, :length].tolist()).removeprefix(" ")


def _last_content(text: Any) -> str:
    """Returns a text as it is, or the content of a conversation's last message."""
    if isinstance(text, str):
        return text
    if isinstance(text, Sequence) and text and isinstance(text[-1], Mapping) and isinstance(text[-1]["content"], str):
        return str(text[-1]["content"])
    raise TypeError(f"Expected a text or a list of messages with a role and a content, got {text!r}")


def score_function(env: str | gym.Env[Any, Any] | Setting, **settings: Any) -> ScoreFunction:
    """Makes a reward function for TRL's trainers: `(prompts, completions, **columns) -> list[float]`.

    It is the score of the whole response, which every payout of the environment pays out in the end.

    Args:
        env: An id, an environment, or its setting (`env.unwrapped.setting`).
        **settings: Arguments for `gym.make`, if `env` is an id.

    Returns:
        The function. Its `rows()` are the data set to train on.

    Raises:
        TypeError: If it is none of these, or settings come with an environment that is made already.
        ValueError: If the task has several turns: replies of the environment are no part of a whole text.

    Example:
        >>> score = score_function("textenvs:TextGen-v0", reward="length")
        >>> row = score.rows()[0]
        >>> score(prompts=[row["prompt"]], completions=[" one two three four five"], example=[row["example"]])
        [0.25]
        >>> # GRPOTrainer(model, reward_funcs=score, train_dataset=datasets.Dataset.from_list(score.rows()))
    """
    if isinstance(env, str):
        return ScoreFunction(setting_of(gym.make(env, **settings)))
    if settings:
        raise TypeError(f"Expected settings with an id alone, got {sorted(settings)} with {env!r}")
    return ScoreFunction(env if isinstance(env, Setting) else setting_of(env))
