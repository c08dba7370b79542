"""The head: from the trunk's last hidden states to logits, log-probs and values."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig

Places = tuple[Tensor, Tensor]
"""Row and step of some actions in a `(batch, time)` grid, `(k,)` int64 each: what such an array is indexed with."""


def _logit_shape(config: PretrainedConfig) -> tuple[float, float | None]:
    """What a model does to its head's logits: the factor, and the soft cap, None where there is none."""
    text = config.get_text_config()
    scale = 1.0
    if config.is_encoder_decoder and getattr(config, "scale_decoder_outputs", False):  # T5, with tied embeddings
        scale = float(config.d_model**-0.5)
    if getattr(text, "logit_scale", None):  # Cohere
        scale = float(text.logit_scale)
    if getattr(text, "logits_scaling", None):  # Granite
        scale = 1 / float(text.logits_scaling)
    cap = getattr(text, "final_logit_softcapping", None)  # Gemma
    return scale, float(cap) if cap else None


def unpack_masks(packed: Tensor, vocab_size: int) -> Tensor:
    """Action masks as booleans again.

    Args:
        packed: `(..., ceil(vocab_size / 8))` uint8, as a `Rollout` keeps them.
        vocab_size: Tokens of the tokenizer.

    Returns:
        `(..., vocab_size)` bool, True where a token was allowed.
    """
    bits = packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1
    return bits.flatten(-2)[..., :vocab_size].bool()
