"""Out of memory: the same episodes again, with half as many lanes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def retry_with_fewer_lanes(play: Callable[[], Result], halve_lanes: Callable[[str], None]) -> Result:
    """Calls a function until there is memory for what it plays.

    Args:
        play: Plays episodes. Where it runs out of memory, it leaves nothing changed.
        halve_lanes: Makes `play` use half as many lanes; gets the message of the error.

    Returns:
        What `play` returned.

    Raises:
        torch.OutOfMemoryError: If the lanes cannot be halved any more.
    """
    while True:
        try:
            return play()
        except torch.OutOfMemoryError as error:
            # The next attempt must not be made inside this block: the error's traceback holds on to the frames of the
            # failed one, and so to the tensors that fill the memory.
            reason = str(error)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        halve_lanes(reason)


def half_of(lanes: int, group_size: int, reason: str, *, fixed: bool = False) -> int:
    """Returns half as many lanes, whose groups are still whole.

    Args:
        lanes: The lanes that there was no memory for.
        group_size: Lanes of a group.
        reason: The message of the error, which that of this function ends with.
        fixed: If True, the environment cannot be made again with other lanes.

    Returns:
        The number of lanes.

    Raises:
        torch.OutOfMemoryError: If they cannot be halved.
    """
    half = lanes // 2
    if fixed or half == 0 or (group_size > 1 and half % group_size):
        raise torch.OutOfMemoryError(
            f"Expected memory to play {lanes} episodes side by side, got none, and they cannot be halved: lower "
            f"max_new_tokens or num_envs, or use bfloat16 or a smaller model ({reason})"
        )
    return half
