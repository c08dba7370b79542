"""The lane cache of encoder-decoders."""

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
from agents.policy.kv_cache import CachedContext, LaneCache
from agents.policy.trunk import Mode, _encode, decoder_start


class EncoderDecoderContext(CachedContext):
    """A `Context` in which each lane's prompt is encoded once and kept, and the decoder runs on a `LaneCache`.

    Decoders count positions from the length of their cache, one length for the whole batch. Hooks put each lane's own
    in their place for the time of a pass: in the position embeddings (BART), or in the relative bias (T5).

    Args:
        model: A Transformers encoder-decoder.
        num_lanes: How many texts grow side by side.
        mode: What forward passes run in.
    """

    def __init__(self, model: PreTrainedModel, num_lanes: int, mode: Mode = nullcontext) -> None:
        super().__init__(model, num_lanes, mode)
        config = model.config
        layers = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None)
        layers = layers or config.num_hidden_layers
        self._start = decoder_start(model)
        self._decoder: nn.Module = self._trunk.get_decoder()
        self._cache = LaneCache(layers, num_lanes, model.device)
        self._prompts = np.zeros(num_lanes, dtype=np.int64)  # tokens of each lane's prompt; 0: not read yet
        self._keys: list[Tensor] = []  # of the prompts, (lanes, heads, width, head_dim) for each layer
        self._values: list[Tensor] = []
        self._seen = torch.zeros(num_lanes, 0, dtype=torch.int64, device=model.device)
        self._relative = [one for one in self._decoder.modules() if getattr(one, "has_relative_attention_bias", False)]

    def reset(self, lanes: NDArray[np.intp]) -> None:
        """See `Context.reset`."""
        super().reset(lanes)
        self._prompts[lanes] = 0

    def keep(self, lanes: NDArray[np.intp]) -> None:
        """See `Context.keep`."""
        super().keep(lanes)
        self._prompts = self._prompts[lanes]
        rows = on_device(lanes, self._device)
        self._keys, self._values = [one[rows] for one in self._keys], [one[rows] for one in self._values]
        self._seen = self._seen[rows]

    @torch.no_grad()
    def extend(self, input_ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> Tensor:
        """See `Context.extend`."""
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
        """See `Context.states`. Tokens of a prompt have no states, and cannot be taken back."""
        before = self._prompts[lanes]
        if (before == 0).any() or (starts < before).any():
            raise ValueError(f"Expected lanes that have read their prompts, and starts behind them, got {starts}")
        steps = lengths - before + 1
        rows = self._decoder_rows(input_ids, int(steps.max()))
        return super().states(rows, lanes, starts - before + 1, steps)

    def _readers(
        self, input_ids: NDArray[np.integer[Any]], lanes: NDArray[np.intp], lengths: NDArray[np.integer[Any]]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """See `CachedContext._readers`. What the decoder reads may be the same for two prompts that are not."""
        return lanes, np.arange(len(lanes))

    def _decoder_rows(self, input_ids: NDArray[np.integer[Any]], steps: int) -> NDArray[np.integer[Any]]:
        """What the decoder reads of whole rows, `(lanes, steps)`."""
        self._check_room(steps)
        places = self._prompts[:, None] + np.arange(-1, steps - 1)
        rows = np.take_along_axis(input_ids, np.clip(places, 0, input_ids.shape[1] - 1), axis=1)
        rows[:, 0] = self._start
        return rows

    def _check_room(self, tokens: int) -> None:
        if tokens - 1 > self._last_position:
            raise ValueError(
                f"Expected a prompt and a response that each fit into the model's {self._last_position + 1} positions, "
                f"got {tokens} tokens: lower max_new_tokens or max_prompt_length"
            )

    def _read_prompts(self, input_ids: NDArray[np.integer[Any]], lanes: NDArray[np.intp]) -> None:
        """Encode the prompts of some lanes, and keep what each layer of the decoder makes of them."""
        self._check_room(int(self._prompts[lanes].max()))
        lengths = on_device(self._prompts[lanes], self._device)
        tokens = on_device(input_ids[lanes].astype(np.int64), self._device)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        with self._mode():
            encoded, seen = _encode(self._trunk, tokens, lengths)
            # One token through the decoder, for the sake of its keys and values of the prompt.
            self._decoder(
                input_ids=tokens.new_full((len(lanes), 1), self._start),
                encoder_hidden_states=encoded,
                encoder_attention_mask=seen,
                past_key_values=cache,
                use_cache=True,
            )
        rows = on_device(lanes, self._device)
        layers: list[Any] = cache.cross_attention_cache.layers
        if not self._keys:
            self._keys = [_room(one.keys, len(self._read)) for one in layers]
            self._values = [_room(one.values, len(self._read)) for one in layers]
        width = seen.shape[1]
        if width > self._seen.shape[1]:
            wider = width - self._seen.shape[1]
            self._seen = nn.functional.pad(self._seen, (0, wider))
            wider = width - self._keys[0].shape[2]
            self._keys = [nn.functional.pad(one, (0, 0, 0, wider)) for one in self._keys]
            self._values = [nn.functional.pad(one, (0, 0, 0, wider)) for one in self._values]
        read = [*(layer.keys for layer in layers), *(layer.values for layer in layers)]
        for kept, fresh in zip([*self._keys, *self._values], read, strict=True):
            kept[rows, :, :width] = fresh
        self._seen[rows] = nn.functional.pad(seen, (0, self._seen.shape[1] - width))

    def _run(self, tokens: Tensor, mask: Tensor, positions: Tensor, lanes: Tensor) -> Tensor:
        """See `CachedContext._run`."""
        every = len(lanes) == self._cache.num_lanes
        prompts = DynamicCache()
        for keys, values in zip(self._keys, self._values, strict=True):
            layer = DynamicLayer()
            layer.keys, layer.values = (keys, values) if every else (keys[lanes], values[lanes])
            layer.is_initialized = True
            prompts.layers.append(layer)
        seen = self._seen if every else self._seen[lanes]
        # The decoder asks for the shape of what was encoded, and no longer for its content.
        shape = (len(lanes), seen.shape[1], int(self._trunk.config.hidden_size))
        with self._own_positions(positions, mask.shape[-1]):
            output = self._decoder(
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
        """Each lane's own positions, `(k, width)`, in place of those that the decoder would count."""

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

        hooks = [module.register_forward_pre_hook(bias, with_kwargs=True) for module in self._relative]
        embedding = getattr(self._decoder, "embed_positions", None)
        if isinstance(embedding, nn.Module):
            hooks += [embedding.register_forward_pre_hook(embed, with_kwargs=True)]
            hooks += [embedding.register_forward_hook(reshape)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _room(like: Tensor, num_lanes: int) -> Tensor:
    """Zeros of the shape of a layer's keys, for every lane."""
    return like.new_zeros(num_lanes, *like.shape[1:])
