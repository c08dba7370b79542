"""What a model's generation config asks: the ends of turns are honoured, and the rest is named in a warning."""

import warnings

import numpy as np
import pytest
import tokenizers
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from agents import PPO, Policy
from agents.collector import make_env
from agents.policy.generation_config import unfollowed
from agents.rewards.text_reader import load_text_model
from textenvs.tokenizer import BUNDLED, SubwordTokenizer, symbol_tokenizer

LLAMA = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


def chat_tokenizer():
    backend = tokenizers.Tokenizer.from_file(str(BUNDLED["stories"]))
    backend.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", bos_token="<bos>")


def saved_with(folder, **settings):
    policy = Policy.from_config(LLAMA, chat_tokenizer(), device="cpu")
    policy.model.generation_config = GenerationConfig(**settings)
    policy.save_pretrained(folder)
    return folder


def test_an_episode_ends_where_generate_would(tmp_path):
    policy = Policy.from_pretrained(saved_with(tmp_path / "model", eos_token_id=[1, 1024]), device="cpu")
    assert policy.tokenizer.end_token_ids == (1, 1024)
    env = make_env("TextGen-v0", policy, 4, max_new_tokens=4, reward="length")
    env.reset(seed=0)
    assert env.step(np.array([40, 1, 1024, 41]))[2].tolist() == [False, True, True, False]
    policy.save_pretrained(tmp_path / "again")
    again = Policy.from_pretrained(tmp_path / "again", device="cpu")
    assert again.tokenizer.end_token_ids == (1, 1024)
    agent = PPO(again, "TextGen-v0", env_kwargs={"max_new_tokens": 2}, num_envs=2, episodes_per_update=2, device="cpu")
    assert agent.env.setting.end_ids == (1, 1024)


def test_the_ends_of_a_config_that_is_not_of_this_vocabulary_end_nothing(tmp_path):
    # Llama's own default is 2, which is padding here.
    config = LlamaConfig(vocab_size=1025, **{key: value for key, value in LLAMA.items() if key != "model_type"})
    policy = Policy.from_config(config, chat_tokenizer(), device="cpu")
    assert policy.tokenizer.end_token_ids == (1,)
    policy.save_pretrained(tmp_path)
    assert Policy.from_pretrained(tmp_path, device="cpu").tokenizer.end_token_ids == (1,)


@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.05},
        {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "do_sample": True},
        {"suppress_tokens": [3, 4]},
        {"bad_words_ids": [[3]]},
        {"no_repeat_ngram_size": 3},
        {"forced_bos_token_id": 3},
        {"stop_strings": ["."]},
        {"num_beams": 4, "length_penalty": 2.0},
        {"min_new_tokens": 3},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_what_a_policy_does_not_follow_is_named(asked, tmp_path):
    saved_with(tmp_path, eos_token_id=1, **asked)
    with pytest.warns(UserWarning, match="a policy does not follow") as caught:
        Policy.from_pretrained(tmp_path, device="cpu")
    text = str(caught[0].message)
    for name, value in asked.items():
        assert (f"{name}={value!r}" in text) == (name != "do_sample")


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"do_sample": True, "max_new_tokens": 64, "pad_token_id": 2, "bos_token_id": 0, "max_length": 512},
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "do_sample": True, "num_beams": 1},
        {"use_cache": True, "return_dict_in_generate": True},
    ],
)
def test_what_changes_no_text_is_not(asked, tmp_path):
    saved_with(tmp_path, eos_token_id=1, **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert unfollowed(Policy.from_pretrained(tmp_path, device="cpu").model) == {}


def test_a_model_that_cannot_generate_asks_for_nothing():
    policy = Policy.from_config({"model_type": "lstm_lm"}, chat_tokenizer(), device="cpu")
    assert unfollowed(policy.model) == {}
    assert policy.tokenizer.end_token_ids == (1,)


def test_a_model_that_only_reads_is_not_warned_of(tmp_path):
    saved_with(tmp_path, eos_token_id=1, repetition_penalty=1.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_text_model(tmp_path, device="cpu")


def test_a_template_finds_no_bos_after_a_reload_either(tmp_path):
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    tokenizer = SubwordTokenizer(symbol_tokenizer("abc").backend, chat_template=template)
    policy = Policy.from_config(LLAMA, tokenizer, device="cpu")
    policy.save_pretrained(tmp_path)
    again = Policy.from_pretrained(tmp_path, device="cpu").tokenizer
    messages = [{"role": "user", "content": "cab"}]
    assert again.encode_chat(messages) == tokenizer.encode_chat(messages) == [3, 1, 2, 0]
    assert (again.bos_token_id, again.pad_token_id) == (tokenizer.bos_token_id, tokenizer.pad_token_id)
