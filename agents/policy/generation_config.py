"""A model's generation config: what it asks of `generate`, and what becomes of that in a policy.

The ends of turns are honoured: they end episodes. What the user of an environment says in other words has a place of
its own: `do_sample` is `deterministic`, the length is `max_new_tokens`. Everything else would change the distribution
that tokens are drawn from, which has to be the one that the update computes, and a warning names it.
"""

from __future__ import annotations

import warnings
from typing import Any

from transformers import PreTrainedModel

from textenvs import Tokenizer
from textenvs.tokenizer import SubwordTokenizer

UNFOLLOWED = "The generation config of this model asks for"
"""The beginning of the warning."""

_OF_OUTPUT = {
    "num_return_sequences", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_dict_in_generate",
}  # fmt: skip
_OF_COMPUTATION = {
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile",
    "continuous_batching_config", "low_memory", "prefill_chunk_size", "max_time", "use_mtp", "is_assistant",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind",
    "target_lookbehind", "assistant_ensemble_weight", "speculation_type",
}  # fmt: skip
_OF_THE_ENVIRONMENT = {
    "do_sample", "max_length", "max_new_tokens", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version",
    "remove_invalid_values", "renormalize_logits",
}  # fmt: skip
_FOLLOWED = _OF_OUTPUT | _OF_COMPUTATION | _OF_THE_ENVIRONMENT
"""Settings that change no distribution, or that the environment and the policy have another word for."""

_NEUTRAL: dict[str, Any] = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0, "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "num_beams": 1, "num_beam_groups": 1, "diversity_penalty": 0.0,
    "min_length": 0, "min_new_tokens": 0, "guidance_scale": 1.0, "token_healing": False,
}  # fmt: skip
"""Values at which a setting does nothing."""

_OF_BEAMS = {"length_penalty", "early_stopping", "num_beam_groups", "diversity_penalty"}
"""Settings that `generate` reads only where it searches with several beams."""


def unfollowed(model: PreTrainedModel) -> dict[str, Any]:
    """Returns what a model's generation config asks of `generate` and a policy does not do.

    Args:
        model: The model.

    Returns:
        Setting to value.
    """
    config: Any = getattr(model, "generation_config", None)  # a model that cannot generate has none
    if config is None:
        return {}
    asked = {
        name: value
        for name, value in config.to_diff_dict().items()
        if not name.startswith("_") and name not in _FOLLOWED and value is not None and value != _NEUTRAL.get(name)
    }
    if asked.get("num_beams", 1) == 1:
        asked = {name: value for name, value in asked.items() if name not in _OF_BEAMS}
    start = asked.pop("decoder_start_token_id", None)
    if start is not None and model.config.is_encoder_decoder and start != model.config.decoder_start_token_id:
        asked["decoder_start_token_id"] = start
    return asked


def warn_of_unfollowed(model: PreTrainedModel) -> None:
    """Warns of what a model's generation config asks of `generate` and a policy does not do.

    Args:
        model: The model.
    """
    asked = unfollowed(model)
    if asked:
        listed = ", ".join(f"{name}={value!r:.80}" for name, value in asked.items())
        warnings.warn(
            f"{UNFOLLOWED} {listed}, which a policy does not follow: it samples from "
            "the model's own distribution. evaluate and generate take temperature, top_k, top_p and min_p, and an "
            "environment takes min_new_tokens and stop",
            stacklevel=4,
        )


def with_turn_ends(tokenizer: Tokenizer, model: PreTrainedModel) -> Tokenizer:
    """Returns a model's tokenizer, with the ends of turns that its generation config lists.

    Args:
        tokenizer: The tokenizer.
        model: The model. A model with random weights whose ends are its config's defaults gets the tokenizer's EOS:
            they are ids of another vocabulary.

    Returns:
        The tokenizer itself, where its EOS is the one end.

    Raises:
        ValueError: If the tokenizer is an object that takes no further ends.
    """
    config: Any = getattr(model, "generation_config", None)  # a model that cannot generate has none
    if config is None:
        return tokenizer
    if not model.name_or_path and getattr(config, "_from_model_config", False):
        config.eos_token_id = tokenizer.eos_token_id
        return tokenizer
    listed = config.eos_token_id if isinstance(config.eos_token_id, (list, tuple)) else [config.eos_token_id]
    ends = [int(end) for end in listed if end is not None]
    if isinstance(tokenizer, SubwordTokenizer):
        return tokenizer.ending_with(ends)
    known = {tokenizer.eos_token_id, *getattr(tokenizer, "end_token_ids", ())}
    missing = sorted(end for end in set(ends) - known if 0 <= end < tokenizer.vocab_size)
    if missing:
        raise ValueError(
            f"Expected a tokenizer whose end_token_ids have the ends of the model's turns, {missing}, got "
            f"{type(tokenizer).__name__} with {sorted(known)}"
        )
    return tokenizer
