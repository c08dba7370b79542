"""The types of models, and the trunk of each: the one place that asks what type a model is of."""

from __future__ import annotations

from contextlib import nullcontext

from transformers import PreTrainedModel

from agents.policy.decoder_only import DecoderOnlyTrunk
from agents.policy.encoder_decoder import EncoderDecoderTrunk
from agents.policy.forward_mode import Mode
from agents.policy.lstm import LSTMConfig, LSTMTrunk
from agents.policy.trunk import Trunk


def trunk_of(model: PreTrainedModel, mode: Mode = nullcontext) -> Trunk:
    """Returns the trunk of a model, of the class that its type needs.

    Args:
        model: The model.
        mode: What its forward passes run in.
    """
    if isinstance(model.config, LSTMConfig):
        return LSTMTrunk(model, mode)
    return EncoderDecoderTrunk(model, mode) if model.config.is_encoder_decoder else DecoderOnlyTrunk(model, mode)
