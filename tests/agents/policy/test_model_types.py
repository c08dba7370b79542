"""Every type of language model that Transformers offers works as a policy, or is refused in a sentence."""

import numpy as np
import pytest
import torch

from agents import Policy
from agents.policy import head
from agents.policy.context import FullContext
from agents.policy.decoder_only import CachedContext
from benchmarks.robustness.model_types import MODEL_TYPES, page, small_config, try_type
from tests.agents.helpers import word_tokenizer
from tests.helpers import slow_but

CORE = {"qwen2_moe", "llama4", "umt5", "bert", "qwen3_next", "musicgen"}
CACHED = {
    "bart", "cohere", "deepseek_v3", "falcon", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma4_text", "glm4",
    "gpt2", "gpt_neo", "gpt_neox", "gpt_oss", "granite", "llama", "llama4", "marian", "mbart", "mistral", "mixtral",
    "olmo2", "opt", "pegasus", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "starcoder2",
    "switch_transformers", "t5",
}  # fmt: skip
"""Types that people use, and that must stay fast."""

REFUSED = {
    "bert": "linear function of the trunk's last hidden state",
    "cpmant": "reads in both directions",
    "musicgen": "text_encoder",
    "reformer": "in training mode alone",
    "whisper": "Expected a config that Transformers makes a language model of",
    "xlnet": "reads in both directions",
}  # fmt: skip
"""A part of the sentence for each."""


@pytest.mark.parametrize("model_type", slow_but(CORE, MODEL_TYPES))
def test_a_type_of_model_works_or_is_refused_in_a_sentence(model_type):
    found = try_type(model_type)
    assert found.outcome in ("works", "refused"), found
    assert found.outcome == "works" or len(found.about.split()) >= 5, "no sentence"
    if model_type in CACHED:
        assert (found.outcome, found.steps) == ("works", "cache"), found
    if model_type in REFUSED:
        assert found.outcome == "refused"
        assert REFUSED[model_type] in found.about


def test_the_page_shows_what_became_of_each_type():
    rows = [
        {"model_type": "gpt2", "outcome": "works", "steps": "cache", "about": "", "parameters": 1234,
         "difference": 2e-6, "seconds": 0.5},
        {"model_type": "xlnet", "outcome": "refused", "steps": "", "about": "Expected a | b,\ngot c", "parameters": 0,
         "difference": 0.0, "seconds": 0.1},
    ]  # fmt: skip
    machine = {"cpu": "a", "architecture": "b", "cores": 1, "load": None}
    shown = page({"command": "python -m benchmarks models", "machine": machine, "rows": rows})
    assert "2 types" in shown
    assert "1 work:" in shown
    assert "| gpt2 | cache | 1,234 | 2e-06 |" in shown
    assert "| xlnet | refused | Expected a / b, got c |" in shown


def test_a_window_of_zero_tokens_is_none():
    """Qwen2-MoE writes 0 where no layer has a sliding window."""
    policy = Policy.from_config(small_config("qwen2_moe"), word_tokenizer(), device="cpu")
    assert policy.model.config.sliding_window == 0
    assert isinstance(policy.context(2, 40), CachedContext)


def test_a_model_that_reads_both_ways_is_told_how_to_become_causal():
    config = {**small_config("bert-generation"), "is_decoder": False}
    with pytest.raises(ValueError, match="reads in both directions: set is_decoder to True in its config"):
        Policy.from_config(config, word_tokenizer(), device="cpu")
    assert Policy.from_config({**config, "is_decoder": True}, word_tokenizer(), device="cpu").uses_cache


def test_the_text_model_of_llama_4_has_a_trunk():
    """It says that its base is the whole model's, which it is not in."""
    policy = Policy.from_config(small_config("llama4_text"), word_tokenizer(), device="cpu")
    assert policy.model.base_model is policy.model
    assert head.headless(policy.model) is policy.model.model is policy.trunk.module
    policy.separate_critic()
    assert type(policy.critic) is type(policy.model.model)


def test_a_config_inside_a_config_takes_the_tokenizers_vocabulary():
    policy = Policy.from_config(small_config("gemma3"), word_tokenizer(), device="cpu")
    text = policy.model.config.text_config
    assert (text.vocab_size, text.bos_token_id, text.eos_token_id, text.pad_token_id) == (10, 1, 0, 2)


@torch.no_grad()
def test_a_soft_cap_counts_also_where_new_weights_hardly_reach_it():
    """RecurrentGemma has a name of its own for it: logits of 60 under a cap of 30 become 28.9."""
    policy = Policy.from_config(small_config("recurrent_gemma"), word_tokenizer(), device="cpu")
    policy.model.model.embed_tokens.weight.mul_(100)
    ids = np.array([[3, 4, 5, 6]])
    hidden = FullContext(policy.trunk, 1).extend(ids, np.array([4]))
    logits = policy.model(input_ids=torch.from_numpy(ids)).logits[:, -1]
    assert 15 < logits.abs().max() <= 30
    torch.testing.assert_close(policy.logits(hidden), logits, atol=1e-4, rtol=1e-4)


def test_a_soft_cap_under_a_name_that_nobody_knows_is_noticed(monkeypatch):
    """Also where the logits of new weights are so small that it changes them by less than rounding."""
    monkeypatch.setattr(head, "_SOFT_CAPS", ("final_logit_softcapping",))
    with pytest.raises(ValueError, match="linear function of the trunk's last hidden state"):
        Policy.from_config(small_config("recurrent_gemma"), word_tokenizer(), device="cpu")


def test_settings_that_do_not_fit_each_other_are_a_value_error():
    with pytest.raises(ValueError, match="must divide mamba_expand"):
        Policy.from_config({"model_type": "bamba", "hidden_size": 32, "mamba_n_heads": 7}, "stories", device="cpu")
