"""Forward passes of a trunk: over whole rows, packed rows, and as much of a row as is looked at."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig

Mode = Callable[[], AbstractContextManager[Any]]
"""Makes what forward passes run in: autocast, adapters switched off, or nothing special."""


_LOOK_BY = 16  # and a decode step looks at it in these


def trunk_states(trunk: Any, input_ids: Tensor, prompts: Tensor, ends: Tensor) -> Tensor:
    """The trunk's last hidden states over whole rows, in one pass.

    Rows are right-padded, so the causal mask alone keeps padding out of sight.

    Args:
        trunk: The trunk of a causal model or of an encoder-decoder.
        input_ids: `(batch, length)` int64.
        prompts: `(batch,)` int64, how many tokens of each row the encoder of an encoder-decoder reads. The trunk of a
            causal model does not ask.
        ends: `(batch,)` int64, how many tokens of each row are looked at.

    Returns:
        `(batch, max(ends), hidden)`. State t has read the row up to and with its token t. Before the last token of its
        prompt an encoder-decoder has none, and what stands there means nothing.
    """
    length = max(int(ends.max()), 1)
    input_ids = input_ids[:, :length]
    states: Tensor
    if not trunk.config.is_encoder_decoder:
        states = trunk(input_ids=input_ids, use_cache=False).last_hidden_state
        return states
    encoded, seen = _encode(trunk, input_ids, prompts)
    steps = int((ends - prompts).max().clamp(min=0)) + 1
    states = (
        trunk.get_decoder()(
            input_ids=_decoder_rows(trunk, input_ids, prompts, steps),
            encoder_hidden_states=encoded,
            encoder_attention_mask=seen,
            use_cache=False,
        )
    ).last_hidden_state
    places = (torch.arange(length, device=prompts.device) - prompts[:, None] + 1).clamp(0, steps - 1)
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


def attention_window(config: PretrainedConfig) -> float:
    """How many tokens a model looks back at, in the layer that looks back least: infinity, where all see all.

    Args:
        config: The model's: a sliding window, GPT-Neo's local one, or Llama 4's chunks.
    """
    text = config.get_text_config()
    found = [getattr(text, name, None) for name in ("sliding_window", "window_size", "attention_chunk_size")]
    return min((float(one) for one in found if one is not None), default=float("inf"))


def looked_at(length: int) -> int:
    """How many places of its cache a decode step looks at, whose longest text has `length` tokens."""
    return -(-length // _LOOK_BY) * _LOOK_BY


def decoder_start(trunk: Any) -> int:
    """The token that the decoder of an encoder-decoder reads before the response.

    Raises:
        ValueError: If its config names none.
    """
    start = getattr(trunk.config, "decoder_start_token_id", None)  # not of get_text_config, which fills in defaults
    if start is None:
        raise ValueError(
            "Expected an encoder-decoder whose config has a decoder_start_token_id, got None: set "
            "model.config.decoder_start_token_id (T5 takes the id of its padding, BART that of EOS)"
        )
    return int(start)


def _encode(trunk: Any, input_ids: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """What the encoder makes of the prompts, `(batch, width, hidden)`, and which of it counts, `(batch, width)`."""
    width = int(prompts.max())
    seen = (torch.arange(width, device=prompts.device) < prompts[:, None]).long()
    encoded: Tensor = trunk.get_encoder()(input_ids=input_ids[:, :width], attention_mask=seen).last_hidden_state
    return encoded, seen


def _decoder_rows(trunk: Any, input_ids: Tensor, prompts: Tensor, steps: int) -> Tensor:
    """What the decoder reads, `(batch, steps)`: its start token, and what stands behind the prompt."""
    places = prompts[:, None] + torch.arange(-1, steps - 1, device=prompts.device)
    rows = input_ids.gather(1, places.clamp(0, input_ids.shape[1] - 1))
    rows[:, 0] = decoder_start(trunk)
    return rows


def packed_states(trunk: Any, input_ids: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """The trunk's last hidden states over rows that are put one behind the other, in one pass without padding.

    Position ids begin again with each row. Transformers sees by them where one ends, and keeps attention inside it.

    Args:
        trunk: The trunk of a causal model.
        input_ids: `(batch, length)` int64.
        ends: `(batch,)` int64, how many tokens of each row are looked at. At least one is.

    Returns:
        `(tokens, hidden)` states, and `(batch,)` int64, where each row begins in them.
    """
    ends = ends.clamp(min=1)
    places = torch.arange(input_ids.shape[1], device=input_ids.device).expand(len(input_ids), -1)
    inside = places < ends[:, None]
    output = trunk(input_ids=input_ids[inside][None], position_ids=places[inside][None], use_cache=False)
    return output.last_hidden_state[0], ends.cumsum(0) - ends


def _checkpointed(layer: nn.Module, function: Any, *args: Any) -> Any:
    """A layer's forward pass, kept or computed again, and in evaluation mode both times."""

    def run(*inputs: Any) -> Any:
        before, layer.training = layer.training, False
        try:
            return function(*inputs)
        finally:
            layer.training = before

    return checkpoint(run, *args, use_reentrant=False)
