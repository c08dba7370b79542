"""Encoder-decoders: T5, BART and the like.

The encoder reads a lane's prompt, once, and the decoder all that comes after: also what an environment replies, since
an encoder that read it would change the states of what was written before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache

from agents.devices import on_device
from agents.policy.decode_graph import Decoding
from agents.policy.decoder_only import CachedContext
from agents.policy.forward_mode import Mode
from agents.policy.kv_cache import LaneCache
from agents.policy.trunk import Trunk


class EncoderDecoderTrunk(Trunk):
    """The trunk of an encoder-decoder.

    Args:
        model: The model.
        mode: What forward passes run in.

    Raises:
        ValueError: If the model's config names no token for the decoder to begin with.

    Attributes:
        decoder_start: The token that the decoder reads before the response.
    """

    def __init__(self, model: PreTrainedModel, mode: Mode = nullcontext) -> None:
        super().__init__(model, mode)
        # Not of get_text_config, which fills in defaults.
        start = getattr(model.config, "decoder_start_token_id", None)
        if start is None:
            raise ValueError(
                "Expected an encoder-decoder whose config has a decoder_start_token_id, got None: set "
                "model.config.decoder_start_token_id (T5 takes the id of its padding, BART that of EOS)"
            )
        self.decoder_start = int(start)

    def make_context(
        self, num_lanes: int, max_length: int | None = None, decoding: Decoding | None = None
    ) -> EncoderDecoderContext:
        """Returns a context that encodes each prompt once; see `Trunk.make_context`."""
        return EncoderDecoderContext(self, num_lanes)

    def encode(self, input_ids: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the encoder over prompts.

        Args:
            input_ids: `(batch, length)` int64.
            prompts: `(batch,)` int64, tokens of each prompt.

        Returns:
            `(batch, width, hidden)` states, and `(batch, width)` int64, 1 where a column belongs to the prompt.
        """
        width = int(prompts.max())
        seen = (torch.arange(width, device=prompts.device) < prompts[:, None]).long()
        encoder = self.module.get_encoder()
        encoded: Tensor = encoder(input_ids=input_ids[:, :width], attention_mask=seen).last_hidden_state
        return encoded, seen

    def _read_rows(self, input_ids: Tensor, prompts: Tensor, ends: Tensor) -> Tensor:
        encoded, seen = self.encode(input_ids, prompts)
        steps = int((ends - prompts).max().clamp(min=0)) + 1
        # The decoder reads its start token, and what stands behind the prompt.
        positions = prompts[:, None] + torch.arange(-1, steps - 1, device=prompts.device)
        decoded = input_ids.gather(1, positions.clamp(0, input_ids.shape[1] - 1))
        decoded[:, 0] = self.decoder_start
        states: Tensor = (
            self.module.get_decoder()(
                input_ids=decoded, encoder_hidden_states=encoded, encoder_attention_mask=seen, use_cache=False
            )
        ).last_hidden_state
        # The decoder's first state is that of the prompt's last token.
        columns = torch.arange(input_ids.shape[1], device=prompts.device) - prompts[:, None] + 1
        return states.gather(1, columns.clamp(0, steps - 1)[..., None].expand(-1, -1, states.shape[-1]))

    @property
    def most_tokens(self) -> float:
        """Infinity: prompt and response have positions of their own each, and the context counts them."""
        return float("inf")

    def check_length(self, max_length: int) -> None:
        """Checks nothing: prompt and response have positions of their own each, and the context counts them."""

    def first_logits(self, tokens: Tensor) -> Tensor:
        """Computes the logits behind a prompt of one token and the start token; see `Trunk.first_logits`."""
        start = torch.full_like(tokens, self.decoder_start)
        logits: Tensor = self.model(input_ids=tokens, decoder_input_ids=start, use_cache=False).logits[:, 0]
        return logits

    def stacks(self) -> list[Any]:
        """Returns the encoder and the decoder."""
        return [self.module.get_encoder(), self.module.get_decoder()]


class EncoderDecoderContext(CachedContext):
    """A `Context` in which each lane's prompt is encoded once and kept, and the decoder runs on a `LaneCache`.

    Decoders count positions from the length of their cache, one length for the whole batch. Hooks put each lane's own
    in their place for the time of a pass: in the position embeddings (BART), or in the relative bias (T5).

    Args:
        trunk: The trunk of an encoder-decoder.
        num_lanes: How many texts grow side by side.
    """

    def __init__(self, trunk: EncoderDecoderTrunk, num_lanes: int) -> None:
        super().__init__(trunk, num_lanes)
        config = trunk.model.config
        layers = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None)
        layers = layers or config.num_hidden_layers
        self._trunk = trunk
        self._start = trunk.decoder_start
        self._decoder_module: nn.Module = trunk.module.get_decoder()
        self._cache = LaneCache(layers, num_lanes, self._device)
        self._prompts = np.zeros(num_lanes, dtype=np.int64)  # tokens of each lane's prompt; 0: not read yet
        self._keys: list[Tensor] = []  # of the prompts, (lanes, heads, width, head_dim) for each layer
        self._values: list[Tensor] = []
        self._seen = torch.zeros(num_lanes, 0, dtype=torch.int64, device=self._device)  # which of their columns count
        self._relative_attentions = [
            module for module in self._decoder_module.modules() if getattr(module, "has_relative_attention_bias", False)
        ]

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """Forgets these lanes, and their prompts."""
        super().reset(lanes)
        self._prompts[lanes] = 0

    def keep(self, lanes: NDArray[np.intp]) -> None:
        """Drops all lanes but these."""
        super().keep(lanes)
        self._prompts = self._prompts[lanes]
        rows = on_device(lanes, self._device)
        self._keys, self._values = [keys[rows] for keys in self._keys], [values[rows] for values in self._values]
        self._seen = self._seen[rows]

    @torch.no_grad()
    def extend(self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> Tensor:
        """Reads what is new in each lane, prompts with the encoder; see `Context.extend`."""
        new = np.flatnonzero(self._prompts == 0)
        if len(new):
            self._prompts[new] = lengths[new]
            self._read_prompts(input_ids, new)
        steps = lengths - self._prompts + 1
        return super().extend(self._decoder_rows(input_ids, int(steps.max())), steps)

    @torch.no_grad()
    def states(
        self,
        input_ids: NDArray[np.integer[Any]],
        lanes: NDArray[np.intp],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> Tensor:
        """Reads some lanes from a position on, behind their prompts, which have no states; see `Context.states`."""
        before = self._prompts[lanes]
        if (before == 0).any() or (starts < before).any():
            raise ValueError(f"Expected lanes that have read their prompts, and starts behind them, got {starts}")
        steps = lengths - before + 1
        rows = self._decoder_rows(input_ids, int(steps.max()))
        return super().states(rows, lanes, starts - before + 1, steps)

    def _readers(
        self, input_ids: NDArray[np.integer[Any]], lanes: NDArray[np.intp], lengths: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Finds one reader for each lane: what the decoder reads may be the same behind two different prompts."""
        return lanes, np.arange(len(lanes))

    def _decoder_rows(self, input_ids: NDArray[np.integer[Any]], steps: int) -> NDArray[np.integer[Any]]:
        """Returns what the decoder reads of whole rows, `(lanes, steps)`."""
        self._check_positions(steps)
        positions = self._prompts[:, None] + np.arange(-1, steps - 1)
        rows = np.take_along_axis(input_ids, np.clip(positions, 0, input_ids.shape[1] - 1), axis=1)
        rows[:, 0] = self._start
        return rows

    def _check_positions(self, tokens: int) -> None:
        if tokens - 1 > self._last_position:
            raise ValueError(
                f"Expected a prompt and a response that each fit into the model's {self._last_position + 1} positions, "
                f"got {tokens} tokens: lower max_new_tokens or max_prompt_length"
            )

    def _read_prompts(self, input_ids: NDArray[np.integer[Any]], lanes: NDArray[np.intp]) -> None:
        """Encodes the prompts of some lanes, and keeps the keys and values that the decoder's layers make of them."""
        self._check_positions(int(self._prompts[lanes].max()))
        lengths = on_device(self._prompts[lanes], self._device)
        tokens = on_device(input_ids[lanes].astype(np.int64), self._device)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        with self._mode():
            encoded, seen = self._trunk.encode(tokens, lengths)
            # One token through the decoder, for the sake of its keys and values of the prompt.
            self._decoder_module(
                input_ids=tokens.new_full((len(lanes), 1), self._start),
                encoder_hidden_states=encoded,
                encoder_attention_mask=seen,
                past_key_values=cache,
                use_cache=True,
            )
        rows = on_device(lanes, self._device)
        layers: list[Any] = cache.cross_attention_cache.layers
        if not self._keys:
            self._keys = [_zeros(layer.keys, len(self._read)) for layer in layers]
            self._values = [_zeros(layer.values, len(self._read)) for layer in layers]
        width = seen.shape[1]
        if width > self._seen.shape[1]:
            missing = width - self._seen.shape[1]
            self._seen = nn.functional.pad(self._seen, (0, missing))
            missing = width - self._keys[0].shape[2]
            self._keys = [nn.functional.pad(keys, (0, 0, 0, missing)) for keys in self._keys]
            self._values = [nn.functional.pad(values, (0, 0, 0, missing)) for values in self._values]
        read = [*(layer.keys for layer in layers), *(layer.values for layer in layers)]
        for kept, fresh in zip([*self._keys, *self._values], read, strict=True):
            kept[rows, :, :width] = fresh
        self._seen[rows] = nn.functional.pad(seen, (0, self._seen.shape[1] - width))

    def _run(self, tokens: Tensor, mask: Tensor, positions: Tensor, lanes: Tensor) -> Tensor:
        """Runs the decoder; arguments as in `CachedContext._run`."""
        every = len(lanes) == self._cache.num_lanes
        prompts = DynamicCache()
        for keys, values in zip(self._keys, self._values, strict=True):
            layer = DynamicLayer()
            layer.keys, layer.values = (keys, values) if every else (keys[lanes], values[lanes])
            layer.is_initialized = True
            prompts.layers.append(layer)
        seen = self._seen if every else self._seen[lanes]
        # The decoder asks for the shape of what was encoded, and no longer for its content.
        shape = (len(lanes), seen.shape[1], int(self._module.config.hidden_size))
        with self._own_positions(positions, mask.shape[-1]):
            output = self._decoder_module(
                input_ids=tokens,
                attention_mask=mask,
                encoder_hidden_states=mask.new_zeros(1, 1, 1).expand(shape),
                encoder_attention_mask=seen,
                past_key_values=EncoderDecoderCache(self._cache, prompts),
                use_cache=True,
            )
        states: Tensor = output.last_hidden_state
        return states

    @contextmanager
    def _own_positions(self, positions: Tensor, visible: int) -> Iterator[None]:
        """Puts each lane's own positions, `(k, width)`, in place of those that the decoder would count."""

        def embed(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, "position_ids": positions}

        def reshape(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return output.reshape(*positions.shape, -1)

        def bias(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            buckets = module._relative_position_bucket(
                torch.arange(visible, device=positions.device) - positions[..., None],
                bidirectional=False,
                num_buckets=module.relative_attention_num_buckets,
                max_distance=module.relative_attention_max_distance,
            )
            return args, {**kwargs, "position_bias": module.relative_attention_bias(buckets).permute(0, 3, 1, 2)}

        hooks = [module.register_forward_pre_hook(bias, with_kwargs=True) for module in self._relative_attentions]
        embedding = getattr(self._decoder_module, "embed_positions", None)
        if isinstance(embedding, nn.Module):
            hooks += [embedding.register_forward_pre_hook(embed, with_kwargs=True)]
            hooks += [embedding.register_forward_hook(reshape)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _zeros(like: Tensor, num_lanes: int) -> Tensor:
    """Returns zeros of the shape of a layer's keys, for every lane."""
    return like.new_zeros(num_lanes, *like.shape[1:])
