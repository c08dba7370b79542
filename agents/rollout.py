"""Experience: the `Rollout`, a batch of whole episodes, and how it is cut into minibatches and micro-batches.

`agents.collector.collect` makes one, algorithms add advantages and returns, and losses read single `Actions` of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from agents.distributed.processes import count, together
from agents.losses import kl_estimate
from agents.policy.head import Places
from agents.policy.policy import Policy
from textenvs.tokenizer import decode


@dataclass(frozen=True)
class Rollout:
    """A batch of whole episodes. A row is an episode; the time axis is the agent's actions, right-padded.

    Attributes:
        input_ids: `(batch, length)` int64, prompt and response (and what the environment said), right-padded.
        positions: `(batch, time)` int64, where in its row each action stands; 1 at padding.
        response_mask: `(batch, time)` bool, True at actions, EOS included.
        rewards: `(batch, time)` float32, as the environment paid them. Never edited.
        log_probs: `(batch, time)` float32, of the actions, under the distribution that they were sampled from; 0 where
            the likeliest were taken.
        values: `(batch, time)` float32, of the state before each action.
        terminated: `(batch,)` bool.
        truncated: `(batch,)` bool.
        last_values: `(batch,)` float32, V of the final observation, used where truncated.
        ref_log_probs: `(batch, time)` float32, of the same actions under the reference policy; None until computed, and
            where nothing asks for it: the start model has random weights, and KL no price.
        advantages: `(batch, time)` float32; None until an algorithm has estimated them.
        returns: `(batch, time)` float32, the values' targets; None likewise.
        group: `(batch,)` int64, episodes with the same number share their example.
        scores: `(batch,)` float32, Phi of the whole response.
        examples: `(batch,)` int64, places in the environment's pool.
        bonuses: `(batch, time)` float32, what `agents.bonuses` paid beside the rewards; None where there are none.
        part_scores: Name of a part of the reward to the `(batch,)` float64 scores that it gave the whole responses.
        action_masks: `(batch, time, ceil(vocab_size / 8))` uint8, what the agent was allowed, a bit a token as
            `numpy.packbits(..., bitorder="little")` lays them out; None: anything, always.
        baselines: `(batch, time)` float32, what an algorithm's baseline expects of each action, where it does not come
            from the rollout itself; None likewise.
        sampler_log_probs: `(batch, time)` float32, what `log_probs` were when the episodes were played, where they have
            been recorded again since (`recompute_log_probs`); None likewise.
        sequence_log_ratios: `(batch,)` float32, mean log-ratio of a response's tokens, of the policy as it is to the
            one that played; None unless an algorithm asks for it.
        seconds: Where the time went: "policy", "environment", and, within the environment's, "score".
    """

    input_ids: Tensor
    positions: Tensor
    response_mask: Tensor
    rewards: Tensor
    log_probs: Tensor
    values: Tensor
    terminated: Tensor
    truncated: Tensor
    last_values: Tensor
    group: Tensor
    scores: Tensor
    examples: Tensor
    ref_log_probs: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None
    bonuses: Tensor | None = None
    part_scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    action_masks: Tensor | None = None
    baselines: Tensor | None = None
    sampler_log_probs: Tensor | None = None
    sequence_log_ratios: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        """Returns the number of episodes."""
        return len(self.input_ids)

    @property
    def num_tokens(self) -> int:
        """The number of actions."""
        return int(self.response_mask.sum())

    @property
    def rewards_and_bonuses(self) -> Tensor:
        """The rewards plus the bonuses, if there are any, `(batch, time)` float32: what an algorithm learns from."""
        return self.rewards if self.bonuses is None else self.rewards + self.bonuses

    def kl(self, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
        """Estimates each action's KL to the reference policy.

        Args:
            estimator: See `agents.losses.kl_estimate`.

        Returns:
            `(batch, time)` float32, 0 where masked.

        Raises:
            ValueError: If there are no `ref_log_probs`.
        """
        if self.ref_log_probs is None:
            raise ValueError("Expected ref_log_probs, got None: agents.rollout.reference_log_probs computes them")
        return kl_estimate(self.log_probs, self.ref_log_probs, estimator, mask=self.response_mask)

    def responses(self, policy: Policy) -> list[str]:
        """Decodes each episode's response.

        Args:
            policy: The policy whose tokenizer made the ids.

        Returns:
            One string an episode, without special tokens.
        """
        actions = self.input_ids.gather(1, self.positions).cpu().numpy()
        mask = self.response_mask.cpu().numpy()
        return [decode(policy.tokenizer, row[kept].tolist()) for row, kept in zip(actions, mask, strict=True)]

    def select(self, rows: Tensor) -> Rollout:
        """Selects some episodes, trimmed to the longest of them.

        Args:
            rows: `(k,)` int64.

        Returns:
            A rollout of those episodes, in that order.
        """
        picked: dict[str, Any] = {
            entry.name: value[rows] for entry in fields(self) if isinstance(value := getattr(self, entry.name), Tensor)
        }
        longest = picked["response_mask"].sum(dim=1).max(), picked["positions"].max()
        steps, last = torch.stack(longest).tolist()  # one wait for the device
        for name, value in picked.items():
            if value.ndim >= 2 and name != "input_ids":
                picked[name] = value[:, : max(steps, 1)]
        picked["input_ids"] = picked["input_ids"][:, : last + 1]
        if self.part_scores:
            places = rows.cpu().numpy()
            picked["part_scores"] = {name: scores[places] for name, scores in self.part_scores.items()}
        return replace(self, **picked)


@dataclass(frozen=True)
class Actions:
    """The record of some actions of a rollout, as flat arrays in step with a policy's evaluation of them.

    Attributes:
        rollout: The episodes.
        places: Row and time step of each action, `(k,)` int64 each.
    """

    rollout: Rollout
    places: Places

    @property
    def log_probs(self) -> Tensor:
        """Log-probs under the policy that took the actions, `(k,)` float32."""
        return self.rollout.log_probs[self.places]

    @property
    def values(self) -> Tensor:
        """V of the states before the actions when they were taken, `(k,)` float32: the critic's part of it."""
        return self.rollout.values[self.places]

    @property
    def advantages(self) -> Tensor:
        """Advantages, `(k,)` float32."""
        return self._array("advantages")

    @property
    def returns(self) -> Tensor:
        """Targets of the critic, `(k,)` float32."""
        return self._array("returns")

    @property
    def ref_log_probs(self) -> Tensor:
        """Log-probs under the reference policy, `(k,)` float32."""
        return self._array("ref_log_probs")

    @property
    def sequence_log_ratios(self) -> Tensor:
        """The response's mean log-ratio, the same for all of its actions, `(k,)` float32."""
        ratios = self.rollout.sequence_log_ratios
        if ratios is None:
            raise ValueError("Expected a rollout with sequence_log_ratios, got None: set them with dataclasses.replace")
        return ratios[self.places[0]]

    @property
    def response_lengths(self) -> Tensor:
        """Number of actions in the response that each belongs to, `(k,)` int64."""
        return self.rollout.response_mask.sum(dim=1)[self.places[0]]

    def _array(self, name: str) -> Tensor:
        array: Tensor | None = getattr(self.rollout, name)
        if array is None:
            raise ValueError(f"Expected a rollout with {name}, got None: set them with dataclasses.replace")
        return array[self.places]


def minibatches(rollout: Rollout, size: int, generator: torch.Generator, *, tokens: int | None = None) -> list[Tensor]:
    """Cuts the episodes of a rollout, in random order, into minibatches of about the same number of tokens.

    Args:
        rollout: The rollout.
        size: Episodes in a minibatch, on average.
        generator: Source of the order.
        tokens: Tokens in a minibatch, on average; takes the place of `size`.

    Returns:
        Row numbers, `(k,)` int64 each and never empty; every episode in exactly one. Each has as many tokens as the
        others, but for the half of an episode that its ends were rounded by.
    """
    order = torch.randperm(len(rollout), generator=generator, device=generator.device).to(rollout.input_ids.device)
    lengths = rollout.response_mask.sum(dim=1)[order]
    ends = lengths.cumsum(0)
    count = -(-len(rollout) // size) if tokens is None else max(1, round(int(ends[-1]) / tokens))
    places = (ends - lengths / 2) * count / ends[-1].clamp(min=1)  # where an episode's middle lies, in minibatches
    chosen = places.long().clamp(max=count - 1)
    return [part for part in order.split(torch.bincount(chosen, minlength=count).tolist()) if len(part)]


def micro_batches(
    rollout: Rollout, rows: Tensor, size: int, *, most_tokens: int = 640, least_tokens: int = 320
) -> list[Tensor]:
    """Cuts episodes into micro-batches of about the same length, so that little of a forward pass is padding.

    Args:
        rollout: The rollout.
        rows: `(k,)` int64, which episodes.
        size: The most episodes in a micro-batch.
        most_tokens: On a CPU, where a pass costs what its tokens cost, micro-batches with more are cut, as evenly as
            whole episodes allow: their activations take memory and make the pass no faster (docs/log.md).
        least_tokens: On a CPU, a micro-batch also ends where more than a sixth of it would be padding, unless it has
            fewer tokens than this: then the call of the model costs more than the padding.

    Returns:
        Row numbers, `(n,)` int64 each, every episode in exactly one.
    """
    device = rollout.input_ids.device
    ends = (rollout.positions[rows] * rollout.response_mask[rows]).amax(dim=1) + 1
    falling, order = ends.sort(descending=True, stable=True)
    rows = rows[order]
    if device.type != "cpu":
        return list(rows.split(size))
    counts: list[int] = []
    left = int(falling.sum())
    longest, tokens, quota = 0, 0, 0.0
    for end in falling.tolist():
        wasteful = counts and longest * (counts[-1] + 1) > 1.2 * (tokens + end) and tokens >= least_tokens
        if not counts or counts[-1] == size or tokens + end / 2 > quota or wasteful:
            counts.append(0)
            longest, tokens, quota = end, 0, left / -(-left // most_tokens)
        counts[-1] += 1
        tokens += end
        left -= end
    return list(rows.split(counts))


@torch.no_grad()
def reference_log_probs(
    reference: Policy, rollout: Rollout, *, temperature: float, micro_batch_size: int = 64
) -> torch.Tensor:
    """Computes the log-probs of a rollout's actions under another policy.

    Args:
        reference: The other policy, with the same tokenizer.
        rollout: The rollout.
        temperature: What logits are divided by, as when the rollout was played.
        micro_batch_size: Episodes per forward pass.

    Returns:
        `(batch, time)` float32, zeros at padding.
    """
    log_probs = torch.zeros_like(rollout.log_probs)
    everything = torch.arange(len(rollout), device=log_probs.device)
    for rows in micro_batches(rollout, everything, micro_batch_size):
        part = rollout.select(rows)
        evaluation = reference.evaluate(
            part.input_ids,
            part.positions,
            part.response_mask,
            temperature=temperature,
            entropy=False,
            allowed=part.action_masks,
        )
        log_probs[rows, : part.response_mask.shape[1]] = evaluation.log_probs
    return log_probs


def gather(rollout: Rollout) -> Rollout:
    """Gathers the episodes of all processes, those of the first process first.

    Args:
        rollout: This process's episodes.

    Returns:
        All of them, padded to the longest, the same in every process.
    """
    if count() == 1:
        return rollout
    shares: list[Any] = [None] * count()
    arrays = {entry.name: getattr(rollout, entry.name) for entry in fields(rollout)}
    on_host = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in arrays.items()}
    with together():
        distributed.all_gather_object(shares, on_host)
    device = rollout.input_ids.device
    # Every process numbers its groups from 0. Shifted, those of two processes never share a number.
    offset = 0
    for share in shares:
        share["group"] = share["group"] + offset
        offset = int(share["group"].max()) + 1
    joined: dict[str, Any] = {}
    for name, value in arrays.items():
        parts = [share[name] for share in shares]
        if isinstance(value, Tensor):
            joined[name] = _stacked(parts, 1 if name == "positions" else 0).to(device)
        elif name == "part_scores":
            joined[name] = {part: np.concatenate([scores[part] for scores in parts]) for part in value}
    return replace(rollout, **joined)


def _stacked(parts: list[Tensor], padding: int) -> Tensor:
    if parts[0].ndim == 1:
        return torch.cat(parts)
    longest = max(part.shape[1] for part in parts)
    whole = parts[0].new_full((sum(len(part) for part in parts), longest, *parts[0].shape[2:]), padding)
    row = 0
    for part in parts:
        whole[row : row + len(part), : part.shape[1]] = part
        row += len(part)
    return whole
