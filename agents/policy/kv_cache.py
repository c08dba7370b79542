"""The KV cache by lane: what makes a step cost one token.

Each lane keeps its keys and values at its own position, so lanes start and end when they like (continuous batching)
under an unmodified Transformers model: it is given explicit position ids, a 4-D mask, and this cache. What an
observation adds since the last step, be it a whole prompt or one token, is all that is computed.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from agents.devices import on_device
from agents.policy.cuda.lane_store import LaneStore

_GROW_BY = 64  # positions; the cache grows in buckets of this size


class LaneCache(Cache):
    """A Transformers cache in which every lane has its own length.

    Args:
        num_layers: Layers of the model.
        num_lanes: How many texts grow side by side.
        device: The model's device.
        store: Memory in which keys and values stay in place. None: memory of its own, which lasts as long as the cache.
        capacity: Positions that each lane has from the start.

    Attributes:
        num_lanes: Number of lanes.
        rows: Rows of its keys and values, one for each lane and, with a store, spare ones that fill them up to a power
            of two when lanes are dropped: so that there are few sizes.
        capacity: Positions that each lane has; grows in buckets.
        write_lanes: `(k,)` the lanes that the next forward pass is for.
        write_positions: `(k, tokens)` the positions of its keys and values.
        visible: Number of positions that its queries are shown.
        all_lanes: True if that pass is for every lane, in order.
    """

    def __init__(
        self,
        num_layers: int,
        num_lanes: int,
        device: torch.device,
        store: LaneStore | None = None,
        capacity: int = 0,
    ) -> None:
        self.num_lanes = self.rows = num_lanes
        self.store = store
        self.capacity = -(-capacity // _GROW_BY) * _GROW_BY
        self.device = device
        self.visible = 0
        self.all_lanes = True
        self.write_lanes = torch.empty(0, dtype=torch.int64, device=device)
        self.write_positions = torch.empty(0, 1, dtype=torch.int64, device=device)
        self._lane_layers: list[Any] = [_LaneLayer(self, number) for number in range(num_layers)]
        self._keys_and_values: list[Tensor] | None = None
        super().__init__(layers=list(self._lane_layers))

    def plan(self, lanes: Tensor, positions: Tensor, visible: int, all_lanes: bool) -> None:
        """Says where the next forward pass writes and what it sees; the arguments become the attributes."""
        self.grow(visible)
        self.write_lanes, self.write_positions = lanes, positions
        self.visible, self.all_lanes = visible, all_lanes

    def grow(self, visible: int) -> None:
        """Makes room for that many positions."""
        if visible > self.capacity:
            self._keys_and_values = None
            self.capacity = -(-visible // _GROW_BY) * _GROW_BY
            for layer in self._lane_layers:
                layer.resize(None, self.capacity)

    @property
    def begun(self) -> bool:
        """True if there are keys yet, and their shape is known."""
        return all(layer.is_initialized for layer in self._lane_layers)

    def keys_and_values(self, visible: int) -> list[Tensor]:
        """Returns keys of every layer, then values of every layer, for a pass that writes them by itself.

        Args:
            visible: Number of positions that the pass looks at.

        Returns:
            `(rows, heads, capacity, head_dim)` each.
        """
        self.grow(visible)
        if self._keys_and_values is None:
            layers = self._lane_layers
            self._keys_and_values = [*(layer.keys for layer in layers), *(layer.values for layer in layers)]
        return self._keys_and_values

    def copy(self, sources: NDArray[np.intp], targets: NDArray[np.intp], width: int) -> None:
        """Copies the first positions of some lanes to others.

        Args:
            sources: `(k,)` the lanes to read.
            targets: `(k,)` the lanes to write.
            width: Number of positions.
        """
        differ = sources != targets
        from_, to = (on_device(lanes[differ], self.device) for lanes in (sources, targets))
        for layer in self._lane_layers:
            for buffer in (layer.keys, layer.values):
                assert buffer is not None
                buffer[to, :, :width] = buffer[from_, :, :width]

    def keep(self, lanes: Tensor) -> None:
        """Keeps only these lanes `(k,)`, in this order."""
        self._keys_and_values = None
        before, self.num_lanes = self.rows, len(lanes)
        self.rows = len(lanes) if self.store is None else min(1 << (len(lanes) - 1).bit_length(), before)
        for layer in self._lane_layers:
            if self.store is None:
                layer.resize(lanes, self.capacity)
            else:
                layer.keep_in_place(lanes, self.rows)


class _LaneLayer(CacheLayerMixin):
    """Keys and values of one layer, `(lanes, heads, capacity, head_dim)` each."""

    is_sliding = False
    is_compileable = False

    def __init__(self, cache: LaneCache, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # A weak reference: in a circle, the keys and values of a rollout would stay through the update, until Python
        # looks for circles.
        self._cache: LaneCache = weakref.proxy(cache)
        self._number = number

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        def empty(like: Tensor, name: str) -> Tensor:
            rows, capacity, store = self._cache.rows, self._cache.capacity, self._cache.store
            if store is not None:
                return store.take((self._number, name), like, rows, capacity)
            return like.new_zeros(rows, like.shape[1], capacity, like.shape[3])

        self.keys, self.values = empty(key_states, "keys"), empty(value_states, "values")
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        cache = self._cache
        if cache.write_positions.shape[1] == 1:  # one token in every lane
            column = cache.write_positions[:, 0]
            self.keys[cache.write_lanes, :, column] = key_states[:, :, 0]
            self.values[cache.write_lanes, :, column] = value_states[:, :, 0]
        else:
            self.keys[cache.write_lanes[:, None], :, cache.write_positions] = key_states.transpose(1, 2)
            self.values[cache.write_lanes[:, None], :, cache.write_positions] = value_states.transpose(1, 2)
        if cache.all_lanes:  # views, where indexing would copy
            return self.keys[:, :, : cache.visible], self.values[:, :, : cache.visible]
        return self.keys[cache.write_lanes, :, : cache.visible], self.values[cache.write_lanes, :, : cache.visible]

    def keep_in_place(self, lanes: Tensor, rows: int) -> None:
        """Moves these lanes to the front, and keeps as many rows as that in all."""
        if not self.is_initialized:
            return
        assert self.keys is not None
        assert self.values is not None
        for buffer in (self.keys, self.values):
            buffer[: len(lanes)] = buffer[lanes]
        self.keys, self.values = self.keys[:rows], self.values[:rows]

    def resize(self, lanes: Tensor | None, capacity: int) -> None:
        if not self.is_initialized:
            return

        def resized(old: Tensor) -> Tensor:
            kept = old if lanes is None else old[lanes]
            if capacity <= kept.shape[2]:
                return kept
            new = kept.new_zeros(kept.shape[0], kept.shape[1], capacity, kept.shape[3])
            new[:, :, : kept.shape[2]] = kept
            return new

        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values = resized(self.keys), resized(self.values)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.visible, 0

    def get_seq_length(self) -> int:
        return self._cache.visible - self._cache.write_positions.shape[1]

    def get_max_length(self) -> int:
        return -1
