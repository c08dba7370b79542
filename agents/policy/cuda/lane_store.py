"""Memory for keys and values that stays in place from one rollout to the next."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from torch import Tensor


class LaneStore:
    """Memory for keys and values that stays in place between rollouts, because a recorded step writes there.

    One context owns it at a time; another that lives beside it allocates its own memory. The store is as large as the
    largest request so far, and holds that memory between rollouts too. A copy of it, as of a policy, starts empty.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, str], Tensor] = {}
        self._owner: Callable[[], object | None] = lambda: None

    def __reduce__(self) -> tuple[type[LaneStore], tuple[()]]:
        """Copies as an empty store: two policies do not share memory."""
        return LaneStore, ()

    def claim(self, owner: object) -> bool:
        """Gives the store to an owner for as long as that object lives.

        Args:
            owner: Usually a context.

        Returns:
            False if another owner has it.
        """
        if self._owner() is not None:
            return False
        self._owner = weakref.ref(owner)
        return True

    def take(self, name: tuple[int, str], like: Tensor, lanes: int, capacity: int) -> Tensor:
        """Returns zeroed memory: what another rollout has left there may not be finite.

        Args:
            name: The number of the layer, and "keys" or "values".
            like: `(any, heads, any, head_dim)`, which has the dtype and the device that are needed.
            lanes: Number of lanes.
            capacity: Positions in each lane.

        Returns:
            `(lanes, heads, capacity, head_dim)`, a view of the store.
        """
        buffer = self._buffers.get(name)
        kind = (like.dtype, like.device, like.shape[1], like.shape[3])
        fits = buffer is not None and (buffer.dtype, buffer.device, buffer.shape[1], buffer.shape[3]) == kind
        if buffer is None or not fits or buffer.shape[0] < lanes or buffer.shape[2] < capacity:
            most_lanes, longest = (buffer.shape[0], buffer.shape[2]) if buffer is not None and fits else (0, 0)
            # Freed before the new one is made, so that the two never lie in memory side by side.
            buffer = self._buffers.pop(name, None)
            del buffer
            size = (max(lanes, most_lanes), like.shape[1], max(capacity, longest), like.shape[3])
            buffer = self._buffers[name] = like.new_empty(size)
        return buffer[:lanes, :, :capacity].zero_()
