"""Checks of a new policy: does its model do what acting and learning rely on?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from agents.policy.context import Context, FullContext
from agents.policy.head import Head
from agents.policy.trunk import FAILURES, Trunk


@torch.no_grad()
def check_head(trunk: Trunk, head: Head) -> None:
    """Checks that head, scale and soft cap are all there is between the trunk and the logits.

    Args:
        trunk: The policy's trunk.
        head: Its head.

    Raises:
        ValueError: If the model's logits are others.
    """
    tokens = torch.arange(min(4, head.vocab_size), device=trunk.device)[None]
    prompts, ends = tokens.new_ones(1), tokens.new_full((1,), tokens.shape[1])
    ours = head.logits(trunk.row_states(tokens, prompts, ends)[:, 0])
    theirs = trunk.first_logits(tokens[:, :1]).float()
    if not torch.allclose(ours, theirs, atol=1e-3, rtol=1e-3):
        raise ValueError(
            f"Expected logits that are a linear function of the trunk's last hidden state, scaled or with a soft "
            f"cap, got {trunk.name}, which changes them in another way: not supported"
        )


@torch.no_grad()
def cache_is_exact(trunk: Trunk, make_context: Callable[[int, int], Context], vocab_size: int) -> bool:
    """Compares the states of a context with those of full forward passes, on three lanes of different lengths.

    Args:
        trunk: The policy's trunk.
        make_context: From numbers of lanes and of tokens to the context.
        vocab_size: Number of tokens.

    Returns:
        True if they agree. A warning says where they do not, or the context fails.
    """
    rows = np.array([[i * factor % vocab_size for factor in (7, 5, 3, 1)] for i in range(1, 4)])
    try:
        cached, full = make_context(3, rows.shape[1]), FullContext(trunk, 3)
        for lengths in (np.array([1, 2, 3]), np.array([2, 3, 4]), np.array([3, 4, 4])):
            expected, actual = full.extend(rows, lengths), cached.extend(rows, lengths)
            moved = slice(0, 3 if lengths[0] < 3 else 2)  # the third lane has nothing new in the last step
            if not torch.allclose(expected[moved].float(), actual[moved].float(), atol=1e-3, rtol=1e-3):
                raise ValueError("its cached states differ from a full forward pass")
    except FAILURES as error:
        transformers_logging.get_logger("agents").warning(
            f"{trunk.name} does not run on the lane cache ({error}): every step reads the whole text again, which is "
            "right, and slow."
        )
        return False
    return True
