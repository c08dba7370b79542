"""Somebody's model folder: nothing but plain safetensors and JSON inside it is read, and each refusal is a sentence."""

import json
import os
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from agents import Policy
from agents.rewards.network_reward import model_config
from agents.rewards.text_encoder import load_encoder
from tests.agents.helpers import edit
from textenvs import make_tokenizer

REFUSED = "Expected a language model that loads from safetensors, got the folder"


def refused(folder, *words):
    """Loads a folder, and returns its error, which names the folder and these words."""
    with pytest.raises(ValueError, match=REFUSED) as caught:
        Policy.from_pretrained(folder, device="cpu")
    for word in (str(folder), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors"])
def test_what_is_no_plain_file_is_not_waited_for(model, name):
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    refused(model, name, "a named pipe")
    (model / name).unlink()
    (model / name).symlink_to("/dev/zero")
    refused(model, name, "a device")


def test_policies_and_tokenizers_whose_files_are_pipes(model, tmp_path):
    policy = Policy.from_pretrained(model, device="cpu")
    policy.save_pretrained(tmp_path / "policy")
    for name in ("policy.json", "value_head.safetensors"):
        folder = shutil.copytree(tmp_path / "policy", tmp_path / f"with {name}")
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(ValueError, match=r"a named pipe"):
            Policy.from_pretrained(folder, device="cpu")
    (model / "tokenizer_config.json").unlink(missing_ok=True)
    os.mkfifo(model / "tokenizer_config.json")
    assert make_tokenizer(model / "tokenizer.json").vocab_size == policy.tokenizer.vocab_size  # not a file: not read


def test_links_to_plain_files_are_followed_as_in_the_cache_of_the_hub(model, tmp_path):
    links = tmp_path / "snapshot"
    links.mkdir()
    for file in model.iterdir():
        (links / file.name).symlink_to(file)
    ours, theirs = (Policy.from_pretrained(folder, device="cpu").state_dict() for folder in (model, links))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_config_that_names_other_weights(model, tmp_path):
    tensors = load_file(model / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "../outside.safetensors")}
    (model / "other.safetensors.index.json").write_text(json.dumps(index))
    edit(model / "config.json", transformers_weights="other.safetensors.index.json")
    refused(model, "config.json", "names the weights to read, 'other.safetensors.index.json'")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1,000,000,000"),
        ({"hidden_size": 2**22}, "config.json"),
        ({"max_position_embeddings": 10**30}, "max_position_embeddings 1e+30"),
        ({"vocab_size": 2**30}, "config.json describes a"),
        ({"_attn_implementation": "somebody/kernel"}, "somebody/kernel"),
        ({"layer_types": [["a"]]}, "config.json"),
        ({"rope_parameters": {"rope_type": [1]}}, "config.json"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_configs_of_models_that_could_not_be_made(model, settings, words):
    edit(model / "config.json", **settings)
    began = time.perf_counter()
    refused(model, words)
    assert time.perf_counter() - began < 20


def test_headers_that_lie(model):
    file = model / "model.safetensors"
    whole = file.read_bytes()
    for content in (b"", whole[:1000], (2**62).to_bytes(8, "little") + whole[8:], b"\xff" * 64, whole + b"more"):
        file.write_bytes(content)
        refused(model, "'model.safetensors' is no whole safetensors file")


def test_ids_of_tokens_that_would_fill_memory(model):
    content = json.loads((model / "tokenizer.json").read_text())
    token = {"id": 4_000_000_000, "content": "<far>", "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}  # fmt: skip
    content["model"]["vocab"] = {**content["model"]["vocab"], "far": 4_000_000_000}
    content["added_tokens"].append(token)
    (model / "tokenizer.json").write_text(json.dumps(content))
    refused(model)
    with pytest.raises(ValueError, match=r"tokenizer"):
        make_tokenizer(model)


@pytest.fixture(scope="module")
def written_adapters(tmp_path_factory):
    """A policy's folder with adapters, whose base is in it."""
    pytest.importorskip("peft", reason="peft is not installed: pip install 'textenvs[agents,lora]'")
    folder = tmp_path_factory.mktemp("adapters") / "policy"
    policy = Policy.fresh("stories", device="cpu").adapt(lora=2)
    policy.save_pretrained(folder)
    return folder


@pytest.fixture
def adapters(written_adapters, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(written_adapters, tmp_path / "policy")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank_pattern": {"(a+)+(a+)+(a+)+$": 2}}, "could take for ever"),
        ({"exclude_modules": "(a|aa)+x"}, "could take for ever"),
        ({"layers_pattern": "(.*)*x", "layers_to_transform": [0]}, "could take for ever"),
        ({"r": 10**9}, "ranks from 1 to"),
        ({"r": "two"}, "ranks from 1 to"),
        ({"rank_pattern": {"c_attn": 10**9}}, "ranks from 1 to"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "without megatron_config"),
        ({"modules_to_save": ["lm_head"]}, "without modules_to_save"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type 'LORA'"),
        ({"target_modules": ["no_such_layer"]}, "adapters cannot be used"),
        ({"lora_alpha": "x"}, "adapters cannot be used"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_configs_of_adapters(adapters, settings, words):
    edit(adapters / "adapters" / "adapter_config.json", **settings)
    with pytest.raises(ValueError, match=REFUSED) as caught:
        Policy.from_pretrained(adapters, device="cpu")
    assert words in str(caught.value)
    assert str(adapters) in str(caught.value)


def test_a_pattern_of_layers_is_not_run(adapters):
    """It stands for the layers that there are weights of, so one that would take for ever does no harm."""
    before = Policy.from_pretrained(adapters, device="cpu").state_dict()
    edit(adapters / "adapters" / "adapter_config.json", target_modules="(([a-z_.0-9]+)+)+!")
    began = time.perf_counter()
    after = Policy.from_pretrained(adapters, device="cpu").state_dict()
    assert time.perf_counter() - began < 20
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_classifiers_pass_the_same_gate(model):
    (model / "model.safetensors").rename(model / "shard.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "../outside.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"Expected a classifier that loads .* names the file '../outside"):
        load_encoder(str(model), "classifier", device="cpu")
    (model / "generation_config.json").unlink()
    os.mkfifo(model / "generation_config.json")
    with pytest.raises(ValueError, match=r"Expected the folder of a Transformers model, .* a named pipe"):
        model_config(str(model))
