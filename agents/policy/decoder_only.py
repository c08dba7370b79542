"""Decoder-only models: any causal model of Transformers, over a KV cache by lane.

In an update, FlashAttention's kernels read episodes one behind the other, in one row without padding. In a rollout,
each lane keeps its keys and values, and reads only what is new; steps of one token in every lane run as graphs, where
the policy has some (`agents.policy.decode_graph`).
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from agents.devices import on_device
from agents.policy.context import Context
from agents.policy.cuda.lane_store import LaneStore
from agents.policy.cuda.lookahead import Arriving, Foreseen, Launched
from agents.policy.decode_graph import Decoding, TokenDecoder
from agents.policy.forward_mode import Mode
from agents.policy.kv_cache import LaneCache
from agents.policy.trunk import FAILURES, Trunk, columns_of


class DecoderOnlyTrunk(Trunk):
    """The trunk of a causal model.

    Attributes:
        packs_anywhere: True packs rows under any attention, and not under FlashAttention's alone. Other kernels compute
            the scores between all texts of a packed row, and then mask them: it is slower, and for tests.
    """

    packs_anywhere = False

    def __init__(self, model: PreTrainedModel, mode: Mode = nullcontext) -> None:
        super().__init__(model, mode)
        self._packable: dict[str, bool] = {}  # by attention; tried out when it is first asked for

    def make_context(
        self, num_lanes: int, max_length: int | None = None, decoding: Decoding | None = None
    ) -> CachedContext:
        """Returns a context over a KV cache by lane; see `Trunk.make_context`."""
        if decoding is None:
            return CachedContext(self, num_lanes, max_length)
        store = decoding.graphs.store if decoding.mode == "captured" else None
        return CachedContext(self, num_lanes, max_length, TokenDecoder(self.model, decoding, self.mode), store)

    def action_states(
        self, input_ids: Tensor, prompts: Tensor, ends: Tensor, rows: Tensor, positions: Tensor
    ) -> Tensor:
        """Computes the states before some actions, from packed rows where that pays; see `Trunk.action_states`."""
        if not self._packs():
            return super().action_states(input_ids, prompts, ends, rows, positions)
        states, starts = self.packed_states(input_ids, ends)
        return states[starts[rows] + positions - 1]

    def packed_states(self, input_ids: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the last hidden states over rows put one behind the other, in one pass without padding.

        Position ids begin again with each row. Transformers sees by them where one ends, and keeps attention inside it.

        Args:
            input_ids: `(batch, length)` int64.
            ends: `(batch,)` int64, how many tokens of each row are looked at. At least one is.

        Returns:
            `(tokens, hidden)` states, and `(batch,)` int64, where each row begins in them.
        """
        ends = ends.clamp(min=1)
        self._check_states(int(ends.max()))
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand(len(input_ids), -1)
        inside = positions < ends[:, None]
        with self.mode():
            output = self.module(
                input_ids=input_ids[inside][None], position_ids=positions[inside][None], use_cache=False
            )
        return output.last_hidden_state[0], ends.cumsum(0) - ends

    def _read_rows(self, input_ids: Tensor, prompts: Tensor, ends: Tensor) -> Tensor:
        states: Tensor = self.module(input_ids=input_ids, use_cache=False).last_hidden_state
        return states

    def _packs(self) -> bool:
        """Returns True if episodes go through the trunk one behind the other, in one row."""
        attention = self.model.config._attn_implementation or ""
        has_flash_attention = "flash" in attention and self.device.type == "cuda"
        if not (has_flash_attention or self.packs_anywhere):
            return False
        if attention not in self._packable:
            self._packable[attention] = self._try_packing()
        return self._packable[attention]

    @torch.no_grad()
    def _try_packing(self) -> bool:
        """Compares the states of a packed row with those of padded rows, on episodes of different lengths."""
        size, ends = self.model.config.get_text_config().vocab_size, torch.tensor([3, 1, 4], device=self.device)
        rows = torch.arange(1, 13, device=self.device).view(3, 4) * 7 % size
        try:
            expected = self.row_states(rows, torch.ones_like(ends), ends)
            states, starts = self.packed_states(rows, ends)
            with self.mode():
                rounds = torch.is_autocast_enabled(self.device.type)
            tolerance = 5e-2 if rounds else 1e-3
            for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
                packed = states[start : start + end].float()
                if not torch.allclose(packed, expected[row, :end].float(), atol=tolerance, rtol=tolerance):
                    raise ValueError("its packed states differ from those of padded rows")
        except FAILURES as error:
            transformers_logging.get_logger("agents").warning(
                f"{self.name} does not read packed rows ({error}): the update pads its rows."
            )
            return False
        return True


class CachedContext:
    """A `Context` over a `LaneCache`.

    Args:
        trunk: A trunk whose state is keys and values by position.
        num_lanes: How many texts grow side by side.
        max_length: The longest that a text may get; None: as long as the model has positions for.
        decoder: Takes the steps of one token in every lane; None calls the model for each.
        store: Memory in which keys and values stay in place, if no other context has it now. There is then room for the
            longest text from the start.

    Attributes:
        launched: The step after the last one, if it was launched ahead (`agents.policy.cuda.lookahead`).
    """

    def __init__(
        self,
        trunk: Trunk,
        num_lanes: int,
        max_length: int | None = None,
        decoder: TokenDecoder | None = None,
        store: LaneStore | None = None,
    ) -> None:
        model = trunk.model
        config = model.config.get_text_config()
        self._module: Any = trunk.module
        self._mode = trunk.mode
        self._device = model.device
        self._dtype = model.dtype
        self._last_position = getattr(config, "max_position_embeddings", 2**31) - 1
        capacity = 0
        if max_length is not None:
            self._last_position = min(self._last_position, max_length - 1)
            capacity = 0 if store is None else max_length
        claimed = store if store is not None and store.claim(self) else None
        self._cache = LaneCache(config.num_hidden_layers, num_lanes, model.device, claimed, capacity)
        self._read = np.zeros(num_lanes, dtype=np.int64)  # tokens of each lane that the cache holds
        self._decoder = decoder
        self._columns = torch.empty(0, dtype=torch.int64, device=model.device)  # 0, 1, 2, ...: what a step looks at
        self.launched: Launched | None = None

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """Forgets these lanes."""
        self._read[lanes] = 0
        if self.launched is not None:
            self.launched.lengths[lanes] = 0

    def keep(self, lanes: NDArray[np.intp]) -> None:
        """Drops all lanes but these."""
        self.launched = None  # void: fewer lanes draw other numbers
        self._read = self._read[lanes]
        self._cache.keep(on_device(lanes, self._device))

    @property
    def acts(self) -> bool:
        """True if it can `act`: it has a decoder."""
        return self._decoder is not None

    @torch.no_grad()
    def extend(self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> Tensor:
        """Reads what is new in each lane, and returns the state at its last token; see `Context.extend`."""
        self.launched = None
        prefilled, positions = self._new_tokens(lengths)
        hidden: Tensor | None = None
        if len(prefilled) < len(lengths):
            hidden = self._decode(input_ids, positions)
        if len(prefilled):
            states = self._prefill(input_ids, lengths, prefilled)
            if hidden is None:
                hidden = states
            else:
                hidden[on_device(prefilled, self._device)] = states
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
        """Reads what is new in each lane, and writes one more token: `extend` and what follows it, in one step.

        Args:
            input_ids: `(lanes, max_length)` whole rows.
            lengths: `(lanes,)` tokens in each row so far.
            uniforms: `(lanes, 1)` float32 in [0, 1), which decide.
            temperature: What the logits are divided by.
            allowed: `(lanes, vocab_size)` bool, True where a token may be taken; None: everywhere.

        Returns:
            `(lanes,)` each: actions int64, their log-probs and the values float32.
        """
        assert self._decoder is not None
        divisor = torch.full((), temperature, dtype=torch.float32, device=self._device)
        launched, self.launched = self.launched, None
        chosen: tuple[Tensor, ...] = ()
        if launched is not None:
            chosen = launched.outputs
            prefilled = np.flatnonzero((lengths > self._read) & ~launched.went_on(input_ids, lengths))
        else:
            prefilled, positions = self._new_tokens(lengths)
            some_decode = len(prefilled) < len(lengths)
            if some_decode and self._cache.begun:
                chosen = self._decode_action(
                    self._tokens_at(input_ids, positions), positions, uniforms, divisor, allowed
                )
            elif some_decode:  # prompts of one token: keys and values have no memory yet that a graph could write to
                chosen = self._decoder.choose(self._decode(input_ids, positions), uniforms, divisor, allowed)
        if len(prefilled):
            rows = on_device(prefilled, self._device)
            allowed = None if allowed is None else allowed[rows]
            states = self._prefill(input_ids, lengths, prefilled)
            after_prefill = self._decoder.choose(states, uniforms[rows], divisor, allowed)
            if chosen:
                for of_all, of_some in zip(chosen, after_prefill, strict=True):
                    of_all[rows] = of_some
            else:
                chosen = after_prefill
        self._read = lengths.astype(np.int64)
        actions, log_probs, values = chosen
        return actions, log_probs, values

    @torch.no_grad()
    def launch(self, actions: Tensor, arriving: Arriving, foreseen: Foreseen, temperature: float) -> None:
        """Acts once more ahead of the next observation, for the case that each lane goes on with its action.

        The next `act` takes from it what holds. It must be asked for the same temperature, the numbers foreseen and no
        action masks; else `launched` has to be None by then.

        Args:
            actions: `(lanes,)` int64, those of the last `act`.
            arriving: The same, on their way to the host.
            foreseen: The numbers that the next `act` will draw.
            temperature: What the logits are divided by.
        """
        # A lane whose row is full is over. Whatever it writes, it must not write behind the end of its row.
        positions = np.minimum(self._read, self._last_position)
        divisor = torch.full((), temperature, dtype=torch.float32, device=self._device)
        outputs = self._decode_action(actions, positions, foreseen.uniforms, divisor, None)
        self.launched = Launched(outputs, arriving, self._read + 1, foreseen, temperature)

    def _decode_action(
        self,
        tokens: Tensor,
        positions: NDArray[np.int64],
        uniforms: Tensor,
        temperature: Tensor,
        allowed: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Runs one token of every lane through the whole step; outputs as in `DecodeAction.forward`."""
        assert self._decoder is not None
        extra = (uniforms, temperature) if allowed is None else (uniforms, temperature, allowed)
        outputs = self._decoder.decode_action(allowed is not None, *self._decode_inputs(tokens, positions, *extra))
        return tuple(output[: len(positions)] for output in outputs)  # without those of spare rows

    def _new_tokens(self, lengths: NDArray[np.integer[Any]]) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Finds what is new in each lane.

        Returns:
            prefilled: `(k,)` the lanes with more than one token to read.
            positions: `(lanes,)` the position of the one token that every other lane has to read. Also of a lane that
                has none: what that writes stands behind the lane's last token, where nothing looks, and the lane's next
                token overwrites it. (In a row that is full it stands on the last token: no other will come.)
        """
        new = lengths - self._read
        positions = np.minimum(np.where(new == 1, self._read, lengths), self._last_position)
        return np.flatnonzero(new > 1), positions

    def _prefill(
        self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]], lanes: NDArray[np.intp]
    ) -> Tensor:
        """Reads several tokens in some lanes `(k,)`. Returns the state of the last of them, `(k, hidden)`."""
        new = lengths[lanes] - self._read[lanes]
        width = int(new.max())
        readers, reader_of = self._readers(input_ids, lanes, lengths)
        states = self._forward(input_ids, readers, self._read[readers], width)
        if len(readers) < len(lanes):
            self._cache.copy(readers[reader_of], lanes, width)
        return states[on_device(reader_of, self._device), on_device(new - 1, self._device)]

    def _readers(
        self, input_ids: NDArray[np.integer[Any]], lanes: NDArray[np.intp], lengths: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Finds lanes that begin with the same prompt, as those of a group do: one reads it for all.

        Returns:
            `(r,)` the lanes that read, rising, and `(k,)` for each of the lanes the index of its reader among those.
        """
        if len(lanes) == 1 or self._read[lanes].any():
            return lanes, np.arange(len(lanes))
        known: dict[bytes, int] = {}
        reader_of = np.array(
            [
                known.setdefault(input_ids[lane, :length].tobytes(), len(known))
                for lane, length in zip(lanes.tolist(), lengths[lanes].tolist(), strict=True)
            ]
        )
        return lanes[np.unique(reader_of, return_index=True)[1]], reader_of

    @torch.no_grad()
    def states(
        self,
        input_ids: NDArray[np.integer[Any]],
        lanes: NDArray[np.intp],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Tensor:
        """Reads some lanes from a position on, and returns the state at every token; see `Context.states`."""
        self.launched = None
        states = self._forward(input_ids, lanes, starts, int((lengths - starts).max()))
        self._read[lanes] = lengths
        return states

    def _decode(self, input_ids: NDArray[np.integer[Any]], positions: NDArray[np.int64]) -> Tensor:
        """Runs one token of every lane, at `positions`, through the trunk: `(lanes, hidden)`."""
        if self._decoder is not None and self._cache.begun:
            inputs = self._decode_inputs(self._tokens_at(input_ids, positions), positions)
            return self._decoder.decode_token(*inputs)[: len(positions)]
        visible = self._visible(positions)
        return self._forward(input_ids, np.arange(len(positions)), positions, 1, visible)[:, 0]

    def _tokens_at(self, input_ids: NDArray[np.integer[Any]], positions: NDArray[np.int64]) -> Tensor:
        """Returns the token of every lane at a position in its row, `(lanes,)` int64."""
        in_row = np.minimum(positions, input_ids.shape[1] - 1)
        return on_device(input_ids[np.arange(len(positions)), in_row].astype(np.int64), self._device)

    def _decode_inputs(self, tokens: Tensor, positions: NDArray[np.int64], *extra: Tensor) -> tuple[Tensor, ...]:
        """Returns the inputs of a step of every row, as `DecodeToken.forward` takes them."""
        visible = self._visible(positions)
        if len(self._columns) != visible:
            self._columns = torch.arange(visible, device=self._device)
        on_rows = on_device(positions, self._device)
        if self._cache.rows > len(positions):  # spare rows do what the last lane does
            rows = torch.arange(self._cache.rows, device=self._device).clamp(max=len(positions) - 1)
            tokens, on_rows = tokens[rows], on_rows[rows]
            extra = tuple(tensor[rows] if tensor.ndim else tensor for tensor in extra)
        return tokens, on_rows, self._columns, *extra, *self._cache.keys_and_values(visible)

    def _visible(self, positions: NDArray[np.int64]) -> int:
        """Returns how many positions a decode step looks at: some more than were written, which it hides."""
        return columns_of(int(positions.max()) + 1)

    def _forward(
        self,
        input_ids: NDArray[np.integer[Any]],
        lanes: NDArray[np.intp],
        starts: NDArray[np.int64],
        width: int,
        visible: int | None = None,
    ) -> Tensor:
        """Runs `width` tokens of some lanes, from `starts` on, through the trunk: `(k, width, hidden)`."""
        positions = starts[:, None] + np.arange(width)
        in_row = np.minimum(positions, input_ids.shape[1] - 1)  # padding behind a short row: computed, never looked at
        tokens = on_device(input_ids[lanes[:, None], in_row].astype(np.int64), self._device)
        visible = int(positions.max()) + 1 if visible is None else visible
        on_rows = on_device(positions, self._device)
        rows = on_device(lanes, self._device)
        self._cache.plan(rows, on_rows, visible, len(lanes) == self._cache.rows)
        hides = torch.arange(visible, device=self._device) > on_rows[:, None, :, None]  # (k, 1, width, visible)
        mask = torch.zeros(hides.shape, dtype=self._dtype, device=self._device)
        mask.masked_fill_(hides, torch.finfo(self._dtype).min)
        with self._mode():  # only padding ever gets beyond the last position
            return self._run(tokens, mask, on_rows.clamp(max=self._last_position), rows)

    def _run(self, tokens: Tensor, mask: Tensor, positions: Tensor, lanes: Tensor) -> Tensor:
        """Runs the module itself. `tokens` and `positions` are `(k, width)`, `mask` is `(k, 1, width, visible)`."""
        output = self._module(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=self._cache, use_cache=True
        )
        states: Tensor = output.last_hidden_state
        return states


def can_act(context: Context) -> TypeGuard[CachedContext]:
    """Returns True for a context that can take a whole step by itself, `CachedContext.act`."""
    return isinstance(context, CachedContext) and context.acts
