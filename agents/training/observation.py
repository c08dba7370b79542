"""A check of the observations that users pass to an agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def check_observation(observation: Any, vocab_size: int) -> None:
    """Raises unless this is an observation, or a batch of them, over a vocabulary of that size.

    Args:
        observation: The user's argument.
        vocab_size: Number of tokens of the policy's tokenizer.

    Raises:
        TypeError: If it is no mapping.
        ValueError: If keys are missing, shapes differ, or token ids are out of range.
    """
    names = ("input_ids", "attention_mask", "response_mask")
    if not isinstance(observation, Mapping):
        raise TypeError(
            f"Expected an observation, a mapping with {', '.join(names)}, got {type(observation).__name__}: pass what "
            "reset and step of a textenvs environment return first"
        )
    if missing := [name for name in names if name not in observation]:
        raise ValueError(f"Expected an observation with {', '.join(names)}, got none of {', '.join(missing)}")
    shapes = {name: np.shape(observation[name]) for name in names}
    if len(set(shapes.values())) > 1 or len(shapes["input_ids"]) not in (1, 2):
        raise ValueError(f"Expected arrays (length,) or (lanes, length), of one shape, got {shapes}")
    ids = np.asarray(observation["input_ids"])
    if ids.dtype.kind not in "iu" or (ids.size and (ids.min() < 0 or ids.max() >= vocab_size)):
        shown = f"{ids.min()} to {ids.max()}" if ids.dtype.kind in "iu" else f"{ids.dtype}"
        raise ValueError(
            f"Expected input_ids in [0, {vocab_size}), the ids of the policy's tokenizer, got {shown}: make the "
            "environment with tokenizer=agent.policy.tokenizer"
        )
