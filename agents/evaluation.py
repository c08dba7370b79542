"""How good is a policy? Scores on examples that it never trained on, with what training on a score may cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from agents.metrics import distinct_n
from agents.policy import Policy
from agents.rollout import Rollout, collect, micro_batches
from agents.sampling import Truncation
from textenvs import Example, Reward, TextGenVectorEnv, make_reward
from textenvs.render import Segment
from textenvs.rewards import checked_score
from textenvs.tokenizer import decode_prompt, decode_tokens


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        episodes: How many were played.
        score: Mean score.
        score_low: Lower end of the mean's 95 % confidence interval.
        score_high: Its upper end.
        held_out: Mean of the held-out metric; None where there is none.
        held_out_low: Lower end of its interval.
        held_out_high: Upper end.
        kl: KL to the reference policy in nats a response, estimated; None without a reference.
        distinct_2: Distinct word bigrams over all bigrams of the responses.
        response_length: Mean tokens a response.
        held_out_name: What the held-out metric is called.
        prompts: The prompts, one an episode.
        responses: The responses.
        scores: The score of each.
        token_texts: What each token of each response prints, special tokens nothing.
        token_rewards: What each of them was paid.
    """

    episodes: int
    score: float
    score_low: float
    score_high: float
    held_out: float | None
    held_out_low: float | None
    held_out_high: float | None
    kl: float | None
    distinct_2: float
    response_length: float
    held_out_name: str | None
    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    scores: tuple[float, ...]
    token_texts: tuple[tuple[str, ...], ...]
    token_rewards: tuple[tuple[float, ...], ...]

    def summary(self) -> dict[str, Any]:
        """The numbers, without the episodes."""
        return {one.name: value for one in fields(self) if not isinstance(value := getattr(self, one.name), tuple)}

    def segments(self, episode: int) -> list[Segment]:
        """One episode for `textenvs.render`: its prompt, and each token of its response with its reward.

        Args:
            episode: Which one.

        Returns:
            The segments.
        """
        tokens = zip(self.token_texts[episode], self.token_rewards[episode], strict=True)
        response = [Segment(text, "response", reward, special=not text) for text, reward in tokens]
        return [Segment(self.prompts[episode], "prompt"), *response]


def confidence_interval(samples: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Mean of independent samples, with its 95 % interval.

    Args:
        samples: `(n,)` float.

    Returns:
        Mean, lower end, upper end: mean -+ 1.96 s / sqrt(n), the normal approximation, good from about 30 samples.
    """
    mean = float(samples.mean())
    margin = 1.96 * float(samples.std(ddof=1)) / math.sqrt(len(samples)) if len(samples) > 1 else math.inf
    return mean, mean - margin, mean + margin


def held_out_scores(reward: Reward, examples: list[Example], responses: list[str]) -> np.ndarray[Any, Any]:
    """A second score of the same responses.

    Args:
        reward: The held-out metric.
        examples: What each response answers.
        responses: The texts.

    Returns:
        `(n,)` float64.
    """
    pairs = zip(examples, responses, strict=True)
    return np.array([checked_score(reward, example, response) for example, response in pairs])


@torch.no_grad()
def reference_log_probs(
    reference: Policy, rollout: Rollout, *, temperature: float, micro_batch_size: int = 64
) -> torch.Tensor:
    """Log-probs of a rollout's actions under another policy.

    Args:
        reference: The other policy, with the same tokenizer.
        rollout: The rollout.
        temperature: What logits are divided by, as when the rollout was played.
        micro_batch_size: Episodes per forward pass.

    Returns:
        `(batch, time)` float32, zeros at padding.
    """
    log_probs = torch.zeros_like(rollout.log_probs)
    for rows in micro_batches(rollout, micro_batch_size):
        part = rollout.select(rows)
        found = reference.evaluate(
            part.input_ids,
            part.positions,
            part.response_mask,
            temperature=temperature,
            entropy=False,
            allowed=part.action_masks,
        )
        log_probs[rows, : part.response_mask.shape[1]] = found.log_probs
    return log_probs


def evaluate(
    policy: Policy,
    env: TextGenVectorEnv,
    num_episodes: int = 300,
    *,
    reference: Policy | None = None,
    held_out: Any = None,
    temperature: float = 1.0,
    deterministic: bool = False,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
) -> Evaluation:
    """Play each of a split's first examples once (again from the start, where there are too few) and score them.

    Args:
        policy: Who plays.
        env: Lanes over the split to evaluate on, `autoreset_mode="Disabled"`.
        num_episodes: How many episodes.
        reference: The policy to measure KL to, or None.
        held_out: A second score, as `make_reward` takes it; None takes the task's own, which may be none.
        temperature: What logits are divided by.
        deterministic: The likeliest token instead of a sample.
        top_k: Sample from the k likeliest tokens alone. KL is then that of the truncated policy.
        top_p: Sample from the likeliest tokens alone, whose probabilities add up to this.
        min_p: Sample from tokens alone that have at least this share of the likeliest one's probability.
        seed: Of the sampling.

    Returns:
        The evaluation. The same arguments give the same one.
    """
    generator = torch.Generator(policy.device).manual_seed(seed)
    pool = env.setting.pool
    places = [episode % len(pool) for episode in range(num_episodes)]
    rollout = collect(
        env,
        policy,
        num_episodes,
        seed=seed,
        temperature=temperature,
        deterministic=deterministic,
        generator=generator,
        examples=places,
        truncation=Truncation.of(top_k, top_p, min_p),
    )
    examples = [pool.examples[place] for place in places]
    responses = rollout.responses(policy)
    scores = rollout.scores.double().cpu().numpy()
    score, low, high = confidence_interval(scores)
    token_texts, token_rewards = _tokens(rollout, policy)
    second = held_out if held_out is not None else env.task.held_out_reward
    found: tuple[float | None, float | None, float | None] = (None, None, None)
    name = None
    if second is not None:
        metric = make_reward(second)
        name = metric.name
        found = confidence_interval(held_out_scores(metric, examples, responses))
    kl = None
    if reference is not None:
        other = reference_log_probs(reference, rollout, temperature=temperature)
        kl = float(((rollout.log_probs - other) * rollout.response_mask).sum() / num_episodes)
    return Evaluation(
        episodes=num_episodes,
        score=score,
        score_low=low,
        score_high=high,
        held_out=found[0],
        held_out_low=found[1],
        held_out_high=found[2],
        kl=kl,
        distinct_2=distinct_n(responses),
        response_length=float(rollout.response_mask.sum() / num_episodes),
        held_out_name=name,
        prompts=tuple(prompt_texts(env, places)),
        responses=tuple(responses),
        scores=tuple(scores.tolist()),
        token_texts=token_texts,
        token_rewards=token_rewards,
    )


def _tokens(rollout: Rollout, policy: Policy) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[float, ...], ...]]:
    """The text that each token of each response adds, and its reward. A split character shows with its last token."""
    actions = rollout.input_ids.gather(1, rollout.positions).tolist()
    lengths = rollout.response_mask.sum(dim=1).tolist()
    texts = [tuple(decode_tokens(policy.tokenizer, row[:length])) for row, length in zip(actions, lengths, strict=True)]
    rewards = [tuple(row[:length]) for row, length in zip(rollout.rewards.tolist(), lengths, strict=True)]
    return tuple(texts), tuple(rewards)


def prompt_texts(env: TextGenVectorEnv, places: list[int]) -> list[str]:
    """The prompts at some places of an environment's pool, as they were cut.

    Args:
        env: The environment.
        places: Places in its pool.

    Returns:
        The texts.
    """
    pool = env.setting.pool
    return [decode_prompt(env.tokenizer, pool.prompts[place, : pool.lengths[place]].tolist()) for place in places]
