"""The KV cache by lane: what makes a step cost one token.

Each lane keeps its keys and values at its own position, so lanes start and end when they like (continuous batching)
under an unmodified Transformers model: it is given explicit position ids, a 4-D mask, and this cache. What an
observation adds since the last step, be it a whole prompt or one token, is all that is computed.

`FullContext` does the same without a cache, by running every row again from its start: the slower path for models
whose state is not keys and values by position, and the definition that the fast path is tested against.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

_GROW_BY = 64  # positions; the cache grows in buckets of this size


class Context(Protocol):
    """What a policy remembers of the texts that its lanes are writing."""

    def extend(self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> Tensor:
        """Read what is new in each lane, and give the trunk's state at each lane's last token.

        Args:
            input_ids: `(lanes, max_length)` whole rows.
            lengths: `(lanes,)` tokens in each row so far; lanes that have nothing new keep their place but their
                output means nothing.

        Returns:
            `(lanes, hidden)` the last hidden state of each lane.
        """

    def states(
        self,
        input_ids: NDArray[np.integer[Any]],
        lanes: NDArray[np.intp],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Tensor:
        """Read some lanes from a place on, and give the trunk's state at every token read.

        What a lane has read before its start still counts, and what it had read behind is forgotten: this is how the
        last tokens of a text are taken back and others put in their place.

        Args:
            input_ids: `(lanes, max_length)` whole rows.
            lanes: `(k,)` which lanes, rising.
            starts: `(k,)` the first token to read in each; at most what the lane has read.
            lengths: `(k,)` tokens in each row so far, more than its start.

        Returns:
            `(k, width, hidden)` the states of tokens starts, starts + 1, ..., and past `lengths` numbers without
            meaning; width is the largest `lengths - starts`.
        """

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """Forget these lanes: their next rows are read from the start."""

    def keep(self, lanes: NDArray[np.intp]) -> None:
        """Drop all lanes but these, which are renumbered 0, 1, 2, ... in the order given."""


class _LaneLayer(CacheLayerMixin):
    """Keys and values of one layer, `(lanes, heads, capacity, head_dim)` each."""

    is_sliding = False
    is_compileable = False

    def __init__(self, plan: LaneCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._plan = plan

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        def empty(like: Tensor) -> Tensor:
            return like.new_zeros(self._plan.num_lanes, like.shape[1], self._plan.capacity, like.shape[3])

        self.keys, self.values = empty(key_states), empty(value_states)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        plan = self._plan
        if plan.write_positions.shape[1] == 1:  # one token in every lane
            column = plan.write_positions[:, 0]
            self.keys[plan.write_lanes, :, column] = key_states[:, :, 0]
            self.values[plan.write_lanes, :, column] = value_states[:, :, 0]
        else:
            self.keys[plan.write_lanes[:, None], :, plan.write_positions] = key_states.transpose(1, 2)
            self.values[plan.write_lanes[:, None], :, plan.write_positions] = value_states.transpose(1, 2)
        if plan.all_lanes:
            return self.keys[:, :, : plan.visible], self.values[:, :, : plan.visible]
        return self.keys[plan.write_lanes, :, : plan.visible], self.values[plan.write_lanes, :, : plan.visible]

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
        return self._plan.visible, 0

    def get_seq_length(self) -> int:
        return self._plan.visible - self._plan.write_positions.shape[1]

    def get_max_length(self) -> int:
        return -1


class LaneCache(Cache):
    """A Transformers cache in which every lane has its own length.

    Args:
        num_layers: Layers of the model.
        num_lanes: How many texts grow side by side.
        device: Where the model is.

    Attributes:
        capacity: Positions that each lane has room for; grows in buckets.
        write_lanes: `(k,)` which lanes the next forward pass is for.
        write_positions: `(k, tokens)` where its keys and values go.
        visible: How many positions its queries are shown.
        all_lanes: Whether that pass is for every lane, in order.
    """

    def __init__(self, num_layers: int, num_lanes: int, device: torch.device) -> None:
        self.num_lanes = num_lanes
        self.capacity = 0
        self.device = device
        self.visible = 0
        self.all_lanes = True
        self.write_lanes = torch.empty(0, dtype=torch.int64, device=device)
        self.write_positions = torch.empty(0, 1, dtype=torch.int64, device=device)
        self._layers_of_lanes = [_LaneLayer(self) for _ in range(num_layers)]
        super().__init__(layers=list(self._layers_of_lanes))

    def plan(self, lanes: Tensor, positions: Tensor, visible: int, all_lanes: bool) -> None:
        """Say where the next forward pass writes and what it sees (see the attributes)."""
        if visible > self.capacity:
            self.capacity = -(-visible // _GROW_BY) * _GROW_BY
            for layer in self._layers_of_lanes:
                layer.resize(None, self.capacity)
        self.write_lanes, self.write_positions = lanes, positions
        self.visible, self.all_lanes = visible, all_lanes

    def keep(self, lanes: Tensor) -> None:
        """Keep only these lanes `(k,)`, in this order."""
        self.num_lanes = len(lanes)
        for layer in self._layers_of_lanes:
            layer.resize(lanes, self.capacity)


class CachedContext:
    """A `Context` over a `LaneCache`.

    Args:
        model: A Transformers causal model.
        num_lanes: How many texts grow side by side.
    """

    def __init__(self, model: PreTrainedModel, num_lanes: int) -> None:
        self._trunk = model.base_model
        self._device = model.device
        self._dtype = model.dtype
        self._last_position = getattr(model.config.get_text_config(), "max_position_embeddings", 2**31) - 1
        self._cache = LaneCache(model.config.get_text_config().num_hidden_layers, num_lanes, model.device)
        self._read = np.zeros(num_lanes, dtype=np.int64)  # tokens of each lane that the cache holds

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """See `Context.reset`."""
        self._read[lanes] = 0

    def keep(self, lanes: NDArray[np.intp]) -> None:
        """See `Context.keep`."""
        self._read = self._read[lanes]
        self._cache.keep(torch.from_numpy(lanes).to(self._device))

    @torch.no_grad()
    def extend(self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> Tensor:
        """See `Context.extend`."""
        new = lengths - self._read
        several = np.flatnonzero(new > 1)
        hidden: Tensor | None = None
        if len(several) < len(new):
            # One token in every lane, also where there is none: what that writes stands behind the lane's last token,
            # where nothing looks, and the lane's next token overwrites it.
            lanes = np.arange(len(new))
            hidden = self._forward(input_ids, lanes, np.where(new == 1, self._read, lengths), 1)[:, 0]
        if len(several):
            width = int(new[several].max())
            states = self._forward(input_ids, several, self._read[several], width)
            last = torch.from_numpy(new[several] - 1).to(self._device)
            states = states[torch.arange(len(several), device=self._device), last]
            if hidden is None:
                hidden = states
            else:
                hidden[torch.from_numpy(several).to(self._device)] = states
        assert hidden is not None
        self._read = lengths.astype(np.int64)
        return hidden

    @torch.no_grad()
    def states(
        self,
        input_ids: NDArray[np.integer[Any]],
        lanes: NDArray[np.intp],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Tensor:
        """See `Context.states`."""
        states = self._forward(input_ids, lanes, starts, int((lengths - starts).max()))
        self._read[lanes] = lengths
        return states

    def _forward(
        self, input_ids: NDArray[np.integer[Any]], lanes: NDArray[np.intp], starts: NDArray[np.int64], width: int
    ) -> Tensor:
        """Run `width` tokens of some lanes, from `starts` on, through the trunk: `(k, width, hidden)`."""
        positions = starts[:, None] + np.arange(width)
        in_row = np.minimum(positions, input_ids.shape[1] - 1)  # padding behind a short row: computed, never looked at
        tokens = torch.from_numpy(input_ids[lanes[:, None], in_row].astype(np.int64)).to(self._device)
        visible = int(positions.max()) + 1
        where = torch.from_numpy(positions).to(self._device)
        self._cache.plan(torch.from_numpy(lanes).to(self._device), where, visible, len(lanes) == self._cache.num_lanes)
        hides = torch.arange(visible, device=self._device) > where[:, None, :, None]  # (k, 1, width, visible)
        mask = torch.zeros(hides.shape, dtype=self._dtype, device=self._device)
        mask.masked_fill_(hides, torch.finfo(self._dtype).min)
        output = self._trunk(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=where.clamp(max=self._last_position),  # only padding ever gets there
            past_key_values=self._cache,
            use_cache=True,
        )
        states: Tensor = output.last_hidden_state
        return states


class FullContext:
    """A `Context` that reads every row again from its start at every step: right for any causal model, and slow.

    Args:
        model: A Transformers causal model.
        num_lanes: How many texts grow side by side.
    """

    def __init__(self, model: PreTrainedModel, num_lanes: int) -> None:
        self._trunk = model.base_model
        self._device = model.device

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """See `Context.reset`: there is nothing to forget."""

    def keep(self, lanes: NDArray[np.intp]) -> None:
        """See `Context.keep`: there is nothing to drop."""

    @torch.no_grad()
    def extend(self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> Tensor:
        """See `Context.extend`."""
        width = int(lengths.max())
        tokens = torch.from_numpy(input_ids[:, :width].astype(np.int64)).to(self._device)
        states: Tensor = self._trunk(input_ids=tokens, use_cache=False).last_hidden_state
        last = torch.from_numpy(np.maximum(lengths, 1) - 1).to(self._device)
        return states[torch.arange(len(lengths), device=self._device), last]

    @torch.no_grad()
    def states(
        self,
        input_ids: NDArray[np.integer[Any]],
        lanes: NDArray[np.intp],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Tensor:
        """See `Context.states`."""
        rows = torch.from_numpy(input_ids[lanes, : int(lengths.max())].astype(np.int64)).to(self._device)
        states: Tensor = self._trunk(input_ids=rows, use_cache=False).last_hidden_state
        places = starts[:, None] + np.arange(int((lengths - starts).max()))
        inside = torch.from_numpy(np.minimum(places, rows.shape[1] - 1)).to(self._device)
        return states[torch.arange(len(lanes), device=self._device)[:, None], inside]
