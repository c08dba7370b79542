"""Reports on a batch of episodes: its metrics, and the episodes that an update failed on."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from agents.evaluation.evaluation import distinct_n, held_out_scores, prompt_texts
from agents.policy.policy import Policy
from agents.rollout import Rollout
from agents.training import alarm
from agents.training.optimization import NonFiniteError
from textenvs import Reward, TextGenVectorEnv


def describe(
    rollout: Rollout,
    policy: Policy,
    env: TextGenVectorEnv,
    held_out: Reward | None,
    *,
    carried: MutableMapping[str, Any],
    timesteps: int,
) -> dict[str, float]:
    """Computes the metrics of a batch of episodes, before anything is learned from it.

    Args:
        rollout: The episodes.
        policy: The policy that played them.
        env: The environment that they were played in.
        held_out: The metric that is watched and not trained on; None: there is none.
        carried: Where the alarm keeps what it watches: the agent's.
        timesteps: Tokens played before them.

    Returns:
        Name to mean over the episodes.
    """
    mask, episodes = rollout.response_mask, len(rollout)
    responses = rollout.responses(policy)
    row = {
        "score": float(rollout.scores.mean()),
        "episode_return": float((rollout.rewards * mask).sum() / episodes),
        "response_length": rollout.num_tokens / episodes,
        "distinct_2": distinct_n(responses),
    }
    if rollout.ref_log_probs is not None:
        row["kl"] = float(rollout.kl("k1").sum() / episodes)
    if rollout.sampler_log_probs is not None:
        mismatch = ((rollout.log_probs - rollout.sampler_log_probs) * mask).abs()
        row["log_prob_mismatch"] = float(mismatch.sum() / rollout.num_tokens)
        row["log_prob_mismatch_max"] = float(mismatch.max())
    alike = alarm.watch_diversity(carried, row["score"], row["distinct_2"], timesteps)
    row["alarm"] = float(alike)
    if held_out is not None:
        pool = env.setting.pool
        examples = [pool.examples[index] for index in rollout.examples.tolist()]
        row["held_out"] = float(held_out_scores(held_out, examples, responses, policy.tokenizer).mean())
        row["alarm"] = float(alarm.watch(carried, row["score"], row["held_out"], timesteps) or alike)
    if (curriculum := env.curriculum) is not None:
        row["level"] = float(curriculum.level)
        row["success_rate"] = 0.0 if curriculum.success_rate is None else curriculum.success_rate
    row.update({f"score/{name}": float(scores.mean()) for name, scores in rollout.part_scores.items()})
    row.update({f"reward/{name}": value for name, value in env.setting.reward.changing.items()})
    return row


def with_episodes(
    error: NonFiniteError, rollout: Rollout, policy: Policy, env: TextGenVectorEnv, update: int
) -> NonFiniteError:
    """Adds the episodes that an update failed on to its error.

    Args:
        error: The error.
        rollout: The episodes that were learned from.
        policy: The policy that played them.
        env: The environment that they were played in.
        update: The update's number, from 1.

    Returns:
        The error, with some of the episodes in its message.
    """
    responses = rollout.responses(policy)
    examples = rollout.examples[error.rows].tolist()
    prompt = prompt_texts(env, examples[:1])[0]
    return NonFiniteError(
        f"{error}, in update {update}. The minibatch has {len(examples)} episodes, of the examples "
        f"{str(examples[:8])[1:-1]}{', ...' if len(examples) > 8 else ''}; the first: {prompt!r} -> "
        f"{responses[int(error.rows[0])]!r}. The last checkpoint is from before. Lower learning_rate or "
        "max_grad_norm, or look at what the reward pays there",
        error.rows,
    )
