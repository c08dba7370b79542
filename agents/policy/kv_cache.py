"""The KV cache by lane: what makes a step cost one token.

Each lane keeps its keys and values at its own position, so lanes start and end when they like (continuous batching)
under an unmodified Transformers model: it is given explicit position ids, a 4-D mask, and this cache. What an
observation adds since the last step, be it a whole prompt or one token, is all that is computed.

An encoder-decoder reads a lane's prompt with its encoder, once, and all that comes after with its decoder: also what an
environment replies, since an encoder that read it would change the states of what was written before.

`trunk_states` says what every context must give, in one pass over whole rows; `FullContext` does so at every step: the
slower path for models whose state is not keys and values by position, and what the fast paths are tested against.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from agents.devices import on_device
from agents.policy.decode_graph import Steps
from agents.policy.lookahead import Arriving, Foreseen, Launched
from agents.policy.trunk import Mode, looked_at

_GROW_BY = 64  # positions; the cache grows in buckets of this size


class LaneStore:
    """Room for keys and values that stays where it is from one rollout to the next: a recorded step writes there.

    One context has it at a time; another that lives beside it makes room of its own. It is as large as the largest
    that was asked for, and takes that memory also between rollouts. A copy of it, as of a policy, starts with none.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], Tensor] = {}
        self._owner: Callable[[], object | None] = lambda: None

    def __reduce__(self) -> tuple[type[LaneStore], tuple[()]]:
        """Two policies do not share their room."""
        return LaneStore, ()

    def claim(self, owner: object) -> bool:
        """Whether it is free for someone, who then has it for as long as they live."""
        if self._owner() is not None:
            return False
        self._owner = weakref.ref(owner)
        return True

    def take(self, name: tuple[int, str], like: Tensor, lanes: int, capacity: int) -> Tensor:
        """Room, in zeros: what is left of another rollout may not be finite.

        Args:
            name: Of which layer, and whether of keys or values.
            like: `(any, heads, any, head_dim)`, of the type and on the device that it has to have.
            lanes: How many.
            capacity: Positions in each.

        Returns:
            `(lanes, heads, capacity, head_dim)`, a part of what is kept.
        """
        held = self._held.get(name)
        kind = (like.dtype, like.device, like.shape[1], like.shape[3])
        fits = held is not None and (held.dtype, held.device, held.shape[1], held.shape[3]) == kind
        if held is None or not fits or held.shape[0] < lanes or held.shape[2] < capacity:
            most, longest = (held.shape[0], held.shape[2]) if held is not None and fits else (0, 0)
            held = self._held.pop(name, None)  # before there is more
            del held
            size = (max(lanes, most), like.shape[1], max(capacity, longest), like.shape[3])
            held = self._held[name] = like.new_empty(size)
        return held[:lanes, :, :capacity].zero_()


class _LaneLayer(CacheLayerMixin):
    """Keys and values of one layer, `(lanes, heads, capacity, head_dim)` each."""

    is_sliding = False
    is_compileable = False

    def __init__(self, plan: LaneCache, number: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Not in a circle: what a rollout has kept would else stay until Python looks for circles, through the update.
        self._plan: LaneCache = weakref.proxy(plan)
        self._number = number

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        def empty(like: Tensor, name: str) -> Tensor:
            rows, capacity, store = self._plan.rows, self._plan.capacity, self._plan.store
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

    def keep_in_place(self, lanes: Tensor, rows: int) -> None:
        """These lanes first, and as many rows as that in all."""
        if not self.is_initialized:
            return
        assert self.keys is not None
        assert self.values is not None
        for held in (self.keys, self.values):
            held[: len(lanes)] = held[lanes]
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
        store: Where keys and values stay in place. None: wherever there is room, and not for longer than this.
        capacity: Positions that each lane has room for from the start.

    Attributes:
        num_lanes: Lanes that it has.
        rows: Rows of its keys and values, one for each lane and, with a store, spare ones that fill them up to a power
            of two when lanes are dropped: so that there are few sizes.
        capacity: Positions that each lane has room for; grows in buckets.
        write_lanes: `(k,)` which lanes the next forward pass is for.
        write_positions: `(k, tokens)` where its keys and values go.
        visible: How many positions its queries are shown.
        all_lanes: Whether that pass is for every lane, in order.
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
        self._layers_of_lanes: list[Any] = [_LaneLayer(self, number) for number in range(num_layers)]
        self._room: list[Tensor] | None = None
        super().__init__(layers=list(self._layers_of_lanes))

    def plan(self, lanes: Tensor, positions: Tensor, visible: int, all_lanes: bool) -> None:
        """Say where the next forward pass writes and what it sees (see the attributes)."""
        self.grow(visible)
        self.write_lanes, self.write_positions = lanes, positions
        self.visible, self.all_lanes = visible, all_lanes

    def grow(self, visible: int) -> None:
        """Have room for that many positions."""
        if visible > self.capacity:
            self._room = None
            self.capacity = -(-visible // _GROW_BY) * _GROW_BY
            for layer in self._layers_of_lanes:
                layer.resize(None, self.capacity)

    @property
    def begun(self) -> bool:
        """Whether there are keys yet, and their shape is known."""
        return all(layer.is_initialized for layer in self._layers_of_lanes)

    def room(self, visible: int) -> list[Tensor]:
        """Keys of every layer, then values of every layer, for a pass that writes them by itself.

        Args:
            visible: How many positions it looks at.

        Returns:
            `(rows, heads, capacity, head_dim)` each.
        """
        self.grow(visible)
        if self._room is None:
            layers = self._layers_of_lanes
            self._room = [*(layer.keys for layer in layers), *(layer.values for layer in layers)]
        return self._room

    def copy(self, sources: NDArray[np.intp], targets: NDArray[np.intp], width: int) -> None:
        """Give some lanes what others hold in their first positions.

        Args:
            sources: `(k,)` the others.
            targets: `(k,)` the lanes.
            width: How many positions.
        """
        new = sources != targets
        from_, to = (on_device(one[new], self.device) for one in (sources, targets))
        for layer in self._layers_of_lanes:
            for held in (layer.keys, layer.values):
                assert held is not None
                held[to, :, :width] = held[from_, :, :width]

    def keep(self, lanes: Tensor) -> None:
        """Keep only these lanes `(k,)`, in this order."""
        self._room = None
        before, self.num_lanes = self.rows, len(lanes)
        self.rows = len(lanes) if self.store is None else min(1 << (len(lanes) - 1).bit_length(), before)
        for layer in self._layers_of_lanes:
            if self.store is None:
                layer.resize(lanes, self.capacity)
            else:
                layer.keep_in_place(lanes, self.rows)


class CachedContext:
    """A `Context` over a `LaneCache`.

    Args:
        model: A Transformers causal model.
        num_lanes: How many texts grow side by side.
        mode: What forward passes run in.
        steps: What takes the decode steps of every lane; None calls the model for each. Only where `mode` is nothing
            special, or the steps run in it as well.
        store: Where keys and values stay in place, if no other context has it now. There is then room for the longest
            text from the start.
        max_length: The longest that a text may get; None: as long as the model has positions for.

    Attributes:
        launched: The step after the last one, where it was launched ahead; None: it was not.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        num_lanes: int,
        mode: Mode = nullcontext,
        steps: Steps | None = None,
        store: LaneStore | None = None,
        max_length: int | None = None,
    ) -> None:
        config = model.config.get_text_config()
        self._trunk: Any = model.base_model
        self._mode = mode
        self._device = model.device
        self._dtype = model.dtype
        self._last_position = getattr(config, "max_position_embeddings", 2**31) - 1
        capacity = 0
        if max_length is not None:
            self._last_position = min(self._last_position, max_length - 1)
            capacity = 0 if store is None else max_length
        kept = store if store is not None and store.claim(self) else None
        self._cache = LaneCache(config.num_hidden_layers, num_lanes, model.device, kept, capacity)
        self._read = np.zeros(num_lanes, dtype=np.int64)  # tokens of each lane that the cache holds
        self._steps = steps
        self._columns = torch.empty(0, dtype=torch.int64, device=model.device)  # 0, 1, 2, ...: what a step looks at
        self.launched: Launched | None = None

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """See `Context.reset`."""
        self._read[lanes] = 0
        if self.launched is not None:
            self.launched.lengths[lanes] = 0

    def keep(self, lanes: NDArray[np.intp]) -> None:
        """See `Context.keep`. What was launched ahead is void: fewer lanes draw other numbers."""
        self.launched = None
        self._read = self._read[lanes]
        self._cache.keep(on_device(lanes, self._device))

    @property
    def acts(self) -> bool:
        """Whether it can `act`."""
        return self._steps is not None

    @torch.no_grad()
    def extend(self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> Tensor:
        """See `Context.extend`."""
        self.launched = None
        several, everyone, where = self._news(lengths)
        hidden: Tensor | None = None
        if not everyone:
            hidden = self._decode(input_ids, where)
        if len(several):
            states = self._prefill(input_ids, lengths, several)
            if hidden is None:
                hidden = states
            else:
                hidden[on_device(several, self._device)] = states
        assert hidden is not None
        self._read = lengths.astype(np.int64)
        return hidden

    @torch.no_grad()
    def act(
        self,
        input_ids: NDArray[np.integer[Any]],
        lengths: NDArray[np.integer[Any]],
        uniforms: Tensor,
        temperature: float,
        allowed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read what is new in each lane, and write one more token: `extend` and what follows it, in one step.

        Args:
            input_ids: See `Context.extend`.
            lengths: Likewise.
            uniforms: See `ActionStep.forward`.
            temperature: What the logits are divided by.
            allowed: `(lanes, vocab_size)` bool, True where a token may be taken; None: everywhere.

        Returns:
            See `ActionStep.forward`.
        """
        assert self._steps is not None
        heat = torch.full((), temperature, dtype=torch.float32, device=self._device)
        launched, self.launched = self.launched, None
        chosen: tuple[Tensor, ...] = ()
        if launched is not None:
            chosen = launched.outputs
            several = np.flatnonzero((lengths > self._read) & ~launched.went_on(input_ids, lengths))
        else:
            several, everyone, where = self._news(lengths)
            if not everyone and self._cache.begun:
                chosen = self._act(self._tokens_at(input_ids, where), where, uniforms, heat, allowed)
            elif not everyone:  # prompts of one token, whose keys and values have no place yet
                chosen = self._steps.choose(self._decode(input_ids, where), uniforms, heat, allowed)
        if len(several):
            rows = on_device(several, self._device)
            may = None if allowed is None else allowed[rows]
            some = self._steps.choose(self._prefill(input_ids, lengths, several), uniforms[rows], heat, may)
            if chosen:
                for one, other in zip(chosen, some, strict=True):
                    one[rows] = other
            else:
                chosen = some
        self._read = lengths.astype(np.int64)
        actions, log_probs, values = chosen
        return actions, log_probs, values

    @torch.no_grad()
    def launch(self, actions: Tensor, arriving: Arriving, foreseen: Foreseen, temperature: float) -> None:
        """Act once more ahead of the next observation, for the case that each lane goes on with its action.

        The next `act` takes from it what holds. It must be asked for the same temperature, the numbers foreseen and no
        action masks; else `launched` has to be None by then.

        Args:
            actions: `(lanes,)` int64, those of the last `act`.
            arriving: The same, on their way to the host.
            foreseen: What the next `act` will draw.
            temperature: What the logits are divided by.
        """
        # A lane whose row is full is over. Whatever it writes, it must not write behind its room.
        where = np.minimum(self._read, self._last_position)
        heat = torch.full((), temperature, dtype=torch.float32, device=self._device)
        outputs = self._act(actions, where, foreseen.uniforms, heat, None)
        self.launched = Launched(outputs, arriving, self._read + 1, foreseen, temperature)

    def _act(
        self,
        tokens: Tensor,
        positions: NDArray[np.int64],
        uniforms: Tensor,
        temperature: Tensor,
        allowed: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Run one token of every lane through the whole step: see `ActionStep.forward`."""
        assert self._steps is not None
        more = (uniforms, temperature) if allowed is None else (uniforms, temperature, allowed)
        found = self._steps.act(allowed is not None, *self._inputs(tokens, positions, *more))
        return tuple(one[: len(positions)] for one in found)  # without what spare rows did

    def _news(self, lengths: NDArray[np.integer[Any]]) -> tuple[NDArray[np.intp], bool, NDArray[np.int64]]:
        """Which lanes have more than one token to read, whether all have, and where every lane has one to read.

        Also where there is none: what that writes stands behind the lane's last token, where nothing looks, and the
        lane's next token overwrites it. (In a row that is full it stands on the last token: no other will come.)
        """
        new = lengths - self._read
        several = np.flatnonzero(new > 1)
        where = np.minimum(np.where(new == 1, self._read, lengths), self._last_position)
        return several, len(several) == len(new), where

    def _prefill(
        self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]], several: NDArray[np.intp]
    ) -> Tensor:
        """Read several tokens in some lanes `(k,)`: the state of the last of them, `(k, hidden)`."""
        new = lengths[several] - self._read[several]
        width = int(new.max())
        readers, of = self._readers(input_ids, several, lengths)
        states = self._forward(input_ids, readers, self._read[readers], width)
        if len(readers) < len(several):
            self._cache.copy(readers[of], several, width)
        return states[on_device(of, self._device), on_device(new - 1, self._device)]

    def _readers(
        self, input_ids: NDArray[np.integer[Any]], lanes: NDArray[np.intp], lengths: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Which of some lanes read for which: lanes of a group begin with the same prompt, and one reads it for all.

        Returns:
            `(r,)` the lanes that read, rising, and `(k,)` for each of the lanes the place of its reader among those.
        """
        if len(lanes) == 1 or self._read[lanes].any():
            return lanes, np.arange(len(lanes))
        known: dict[bytes, int] = {}
        of = [
            known.setdefault(input_ids[lane, :length].tobytes(), len(known))
            for lane, length in zip(lanes.tolist(), lengths[lanes].tolist(), strict=True)
        ]
        places = np.array(of)
        return lanes[np.unique(places, return_index=True)[1]], places

    @torch.no_grad()
    def states(
        self,
        input_ids: NDArray[np.integer[Any]],
        lanes: NDArray[np.intp],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Tensor:
        """See `Context.states`."""
        self.launched = None
        states = self._forward(input_ids, lanes, starts, int((lengths - starts).max()))
        self._read[lanes] = lengths
        return states

    def _decode(self, input_ids: NDArray[np.integer[Any]], positions: NDArray[np.int64]) -> Tensor:
        """Run one token of every lane, at `positions`, through the trunk: `(lanes, hidden)`."""
        if self._steps is not None and self._cache.begun:
            return self._steps.decode(*self._inputs(self._tokens_at(input_ids, positions), positions))[: len(positions)]
        visible = self._visible(positions)
        return self._forward(input_ids, np.arange(len(positions)), positions, 1, visible)[:, 0]

    def _tokens_at(self, input_ids: NDArray[np.integer[Any]], positions: NDArray[np.int64]) -> Tensor:
        """The token of every lane at a place in its row, `(lanes,)` int64."""
        in_row = np.minimum(positions, input_ids.shape[1] - 1)
        return on_device(input_ids[np.arange(len(positions)), in_row].astype(np.int64), self._device)

    def _inputs(self, tokens: Tensor, positions: NDArray[np.int64], *more: Tensor) -> tuple[Tensor, ...]:
        """What a decode step of every row takes, see `DecodeStep.forward`. Spare rows do what the last lane does."""
        visible = self._visible(positions)
        if len(self._columns) != visible:
            self._columns = torch.arange(visible, device=self._device)
        where = on_device(positions, self._device)
        if self._cache.rows > len(positions):
            rows = torch.arange(self._cache.rows, device=self._device).clamp(max=len(positions) - 1)
            tokens, where = tokens[rows], where[rows]
            more = tuple(one[rows] if one.ndim else one for one in more)
        return tokens, where, self._columns, *more, *self._cache.room(visible)

    def _visible(self, positions: NDArray[np.int64]) -> int:
        """How much a decode step looks at: some more than was written, all hidden, so that it changes seldom."""
        return looked_at(int(positions.max()) + 1)

    def _forward(
        self,
        input_ids: NDArray[np.integer[Any]],
        lanes: NDArray[np.intp],
        starts: NDArray[np.int64],
        width: int,
        visible: int | None = None,
    ) -> Tensor:
        """Run `width` tokens of some lanes, from `starts` on, through the trunk: `(k, width, hidden)`."""
        positions = starts[:, None] + np.arange(width)
        in_row = np.minimum(positions, input_ids.shape[1] - 1)  # padding behind a short row: computed, never looked at
        tokens = on_device(input_ids[lanes[:, None], in_row].astype(np.int64), self._device)
        visible = int(positions.max()) + 1 if visible is None else visible
        where = on_device(positions, self._device)
        rows = on_device(lanes, self._device)
        self._cache.plan(rows, where, visible, len(lanes) == self._cache.rows)
        hides = torch.arange(visible, device=self._device) > where[:, None, :, None]  # (k, 1, width, visible)
        mask = torch.zeros(hides.shape, dtype=self._dtype, device=self._device)
        mask.masked_fill_(hides, torch.finfo(self._dtype).min)
        with self._mode():  # only padding ever gets beyond the last position
            return self._run(tokens, mask, where.clamp(max=self._last_position), rows)

    def _run(self, tokens: Tensor, mask: Tensor, positions: Tensor, lanes: Tensor) -> Tensor:
        """The forward pass itself. `tokens` and `positions` are `(k, width)`, `mask` is `(k, 1, width, visible)`."""
        output = self._trunk(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=self._cache, use_cache=True
        )
        states: Tensor = output.last_hidden_state
        return states
