"""Sampling of actions, and its truncation: top-k, top-p and min-p, for evaluation and never for training.

A policy gradient needs the log-probs of the distribution that was sampled. Recorded under the whole distribution, those
of a truncated sample are wrong; recorded under the truncated one, they are -inf as soon as an update moves a token out
of the set, and the ratio is 0 / 0. Neither shows before the run has diverged, so training takes no such setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.devices import on_device
from agents.policy.cuda.lookahead import Arriving
from textenvs.arguments import check_count, check_number


@dataclass(frozen=True)
class PolicyStep:
    """The actions of a policy in one step of every lane.

    Attributes:
        actions: `(lanes,)` int64.
        log_probs: `(lanes,)` float32, of those actions.
        values: `(lanes,)` float32, of the states they were taken in.
        arriving: The actions on their way to the host, where they were sent ahead of the next step.
    """

    actions: Tensor
    log_probs: Tensor
    values: Tensor
    arriving: Arriving | None = None

    def actions_on_host(self) -> NDArray[np.int64]:
        """Returns the actions as an array, `(lanes,)`. Waits for them, and for nothing that was launched after them."""
        actions: NDArray[np.int64] = self.actions.cpu().numpy() if self.arriving is None else self.arriving.array()
        return actions


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """The tokens that may be sampled. Given several of the three, each works on what those before it have left."""

    top_k: int | None = None
    """The k likeliest tokens, and all that are exactly as likely as the last of them."""
    top_p: float | None = None
    """The likeliest tokens whose probabilities add up to at least this (Holtzman et al. 2020, arXiv:1904.09751)."""
    min_p: float | None = None
    """Tokens with at least this share of the likeliest one's probability (Nguyen et al. 2024, arXiv:2407.01082)."""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ValueError: If a number is out of range.
            TypeError: If a field is of the wrong type.
        """
        check_count("top_k", self.top_k, optional=True)
        for name in ("top_p", "min_p"):
            check_number(name, getattr(self, name), low=0.0, high=1.0, open_low=True, optional=True)

    @classmethod
    def of(cls, top_k: int | None, top_p: float | None, min_p: float | None) -> Truncation | None:
        """Makes a truncation of settings that may all be None.

        Args:
            top_k: The field of that name.
            top_p: The field of that name.
            min_p: The field of that name.

        Returns:
            The truncation; None where nothing is left out.
        """
        return None if top_k is top_p is min_p is None else cls(top_k=top_k, top_p=top_p, min_p=min_p)

    def kept(self, logits: Tensor) -> Tensor:
        """Finds the tokens that may be sampled.

        Args:
            logits: `(lanes, vocab_size)`, divided by the temperature; -inf where a token is forbidden.

        Returns:
            `(lanes, vocab_size)` bool, at least one True in each row.
        """
        kept = torch.isfinite(logits)
        if self.top_k is not None:
            lowest = logits.topk(min(self.top_k, logits.shape[1]), dim=1).values[:, -1:]
            kept = kept & (logits >= lowest)
        if self.top_p is not None:
            falling, order = logits.masked_fill(~kept, -torch.inf).sort(dim=1, descending=True, stable=True)
            probabilities = falling.softmax(dim=1)
            before = probabilities.cumsum(dim=1) - probabilities  # what the likelier ones add up to
            kept = kept & torch.zeros_like(kept).scatter(1, order, before < self.top_p)
        if self.min_p is not None:
            probabilities = logits.masked_fill(~kept, -torch.inf).softmax(dim=1)
            kept = kept & (probabilities >= self.min_p * probabilities.amax(dim=1, keepdim=True))
        return kept


def sample(logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Samples by the inverse of the cumulative distribution: ten times cheaper than torch.multinomial.

    Args:
        logits: `(lanes, vocab_size)`; -inf where a token is forbidden.
        uniforms: `(lanes, 1)` in [0, 1).

    Returns:
        `(lanes,)` actions and their log-probs.
    """
    probabilities = torch.softmax(logits, dim=-1)
    cdf = probabilities.cumsum(dim=-1)
    # The draw is scaled by the last sum, which rounding leaves a little off 1, and lies below it, so no token of
    # probability 0 is ever taken.
    actions = torch.searchsorted(cdf, uniforms * cdf[:, -1:], right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    return actions, probabilities.gather(1, actions[:, None])[:, 0].log()


def choose_actions(
    logits: Tensor,
    *,
    deterministic: bool,
    generator: torch.Generator | None,
    allowed: Tensor | None,
    truncation: Truncation | None,
) -> tuple[Tensor, Tensor]:
    """Chooses one action in each lane.

    Args:
        logits: `(lanes, vocab_size)`, divided by the temperature.
        deterministic: If True, the likeliest token instead of a sample.
        generator: Source of randomness.
        allowed: `(lanes, vocab_size)` bool, True where a token may be taken; None: everywhere.
        truncation: Leaves unlikely tokens out.

    Returns:
        `(lanes,)` actions and their log-probs, which are 0 where nothing else could have been taken.
    """
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    if truncation is not None:
        logits = logits.masked_fill(~truncation.kept(logits), -torch.inf)
    if deterministic:
        return logits.argmax(dim=-1), torch.zeros_like(logits[:, 0])
    return sample(logits, torch.rand(len(logits), 1, generator=generator, device=logits.device))


def check_masks(allowed: NDArray[Any] | None, device: torch.device) -> Tensor | None:
    """Returns action masks as a tensor, checked.

    Args:
        allowed: `(lanes, vocab_size)` bool, True where a token may be taken; None: everywhere.
        device: Where to put them.

    Raises:
        ValueError: If a lane may take no token at all.
    """
    if allowed is None:
        return None
    if not allowed.any(axis=1).all():
        lanes = np.flatnonzero(~allowed.any(axis=1)).tolist()
        raise ValueError(f"Expected an action mask that allows some token in every lane, got none in {lanes}")
    return on_device(allowed, device)
