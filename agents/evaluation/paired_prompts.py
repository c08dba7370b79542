"""Paired prompts, which differ in one name or group word: the change of the score when the word is exchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agents.collector import collect
from agents.evaluation.evaluation import confidence_interval
from agents.policy.policy import Policy
from agents.rollout import Rollout
from textenvs import Example, Task, TextGenVectorEnv

_MOST_LANES = 64


@dataclass(frozen=True)
class Gap:
    """The change of the score when a name or group word of the prompt is exchanged, with the likeliest tokens.

    Attributes:
        pairs: Number of pairs of prompts.
        mean: Mean of the absolute difference of the two scores. Nothing is sampled, so a model that does not look at
            the word has 0.
        low: Lower end of its 95 % confidence interval.
        high: Its upper end.
        changed: Share of pairs whose responses differ in more than the word.
        by_word: For each word that was exchanged: the mean score with it minus that with its counterpart.
    """

    pairs: int
    mean: float
    low: float
    high: float
    changed: float
    by_word: dict[str, float]


def score_gap(policy: Policy, env: TextGenVectorEnv, examples: Sequence[Example]) -> Gap | None:
    """Measures the score gap between paired prompts.

    Args:
        policy: The policy that plays both prompts of each pair.
        env: An environment with the task that knows the counterpart of an example, its reward and its settings.
        examples: The first of each pair; examples without a counterpart are left out.

    Returns:
        The gap; None where no example has a counterpart.
    """
    pairs = [(example, other) for example in examples if (other := env.task.counterpart(example)) is not None]
    if not pairs:
        return None
    rollout = play_pairs(policy, env, pairs)
    scores = rollout.scores.double().cpu().numpy().reshape(-1, 2)
    responses = rollout.responses(policy)
    gaps: dict[str, list[float]] = {}
    changed = []
    for row, ((example, other), (first, second)) in enumerate(zip(pairs, scores.tolist(), strict=True)):
        word, exchanged = _exchanged_words(example.prompt, other.prompt)
        gaps.setdefault(word, []).append(first - second)
        gaps.setdefault(exchanged, []).append(second - first)
        changed.append(responses[2 * row].replace(word, exchanged) != responses[2 * row + 1])
    mean, low, high = confidence_interval(np.abs(scores[:, 0] - scores[:, 1]))
    return Gap(
        pairs=len(pairs),
        mean=mean,
        low=low,
        high=high,
        changed=float(np.mean(changed)),
        by_word={word: float(np.mean(differences)) for word, differences in sorted(gaps.items())},
    )


def play_pairs(policy: Policy, env: TextGenVectorEnv, pairs: Sequence[tuple[Example, Example]]) -> Rollout:
    """Plays both prompts of some pairs, with the likeliest token at every step.

    Args:
        policy: The policy.
        env: An environment whose task, reward and settings are used. Its own episodes go on undisturbed.
        pairs: The pairs.

    Returns:
        An episode of each prompt: rows 2 i and 2 i + 1 are pair i's.
    """
    setting, encoder = env.setting, env.setting.pool.encoder
    episodes = 2 * len(pairs)
    lanes = TextGenVectorEnv(
        min(episodes, _MOST_LANES),
        task=_PairedTask(env.task, [example for pair in pairs for example in pair]),
        reward=setting.reward,
        payout="sparse",
        tokenizer=policy.tokenizer,
        max_new_tokens=setting.max_new_tokens,
        split="test",
        max_prompt_length=encoder.max_length,
        truncation_side=encoder.truncation_side,
        min_new_tokens=setting.min_new_tokens,
        stop=setting.stop,
        action_mask=setting.action_mask,
        chat_template=encoder.chat_template,
        autoreset_mode="Disabled",
        copy=False,
    )
    return collect(lanes, policy, episodes, seed=0, deterministic=True, examples=range(episodes))


class _PairedTask(Task):
    """A task with given examples as its test split, and no other split. Everything else is as in the original."""

    name = "paired_prompts"

    def __init__(self, task: Task, examples: Sequence[Example]) -> None:
        self._task = task
        self._examples = examples
        for name in (
            "default_reward", "default_max_new_tokens", "default_tokenizer", "max_prompt_tokens", "truncation_side",
            "success_score", "held_out_reward", "max_turns", "max_reply_tokens",
        ):  # fmt: skip
            setattr(self, name, getattr(task, name))

    def num_examples(self, split: str) -> int:
        return len(self._examples) if split == "test" else 0

    def example(self, split: str, index: int) -> Example:
        return self._examples[index]

    def allowed(self, example: Example, turns: Sequence[str]) -> Sequence[str] | Mapping[str, str] | None:
        return self._task.allowed(example, turns)

    def reply(self, example: Example, turns: Sequence[str]) -> str | None:
        return self._task.reply(example, turns)

    def replies(self, example: Example) -> Iterable[str]:
        return self._task.replies(example)


def _exchanged_words(prompt: str, other: str) -> tuple[str, str]:
    """The first words in which two prompts differ, without their punctuation."""
    for word, exchanged in zip(prompt.split(), other.split(), strict=False):
        if word != exchanged:
            return word.strip(".,:;!?'\""), exchanged.strip(".,:;!?'\"")
    return "", ""
