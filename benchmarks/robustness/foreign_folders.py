"""Folders of models and runs, each spoilt in one way that has a name.

A small valid folder of each kind is made once. `mutations` then gives, for each kind, functions that change a copy of
it: files that are missing, cut, empty, no file at all; JSON of other types, nested too deeply or too large; shapes,
names and numbers that do not fit; and what an attacker would write, who also signs a checkpoint's manifest again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from agents import PPO, Policy, load
from agents.rewards.preference import PreferenceScore
from agents.rewards.preference_record import FORMAT, RECORD
from agents.training import checkpoints

Mutation = Callable[[Path], None]
"""Changes a copy of a valid folder."""

_MODEL = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
          "num_attention_heads": 2}  # fmt: skip
_DEEP = "[" * 100_000
_HUGE = 10**9

KINDS = ("model", "adapters", "policy", "checkpoint", "reward model")
"""The kinds of folders."""


# Valid folders --------------------------------------------------------------------------------------------------------


def make(kind: str, folder: Path) -> None:
    """Makes a valid folder.

    Args:
        kind: One of `KINDS`.
        folder: Where; it does not exist yet.
    """
    policy = Policy.from_config(_MODEL, "stories", device="cpu")
    if kind == "model":
        policy.save_pretrained(folder)
        for name in ("policy.json", "value_head.safetensors"):
            (folder / name).unlink()
    elif kind == "adapters":
        policy.adapt(lora=2).save_pretrained(folder)
    elif kind == "policy":
        policy.separate_critic()
        policy.save_pretrained(folder)
    elif kind == "checkpoint":
        agent = PPO(policy, "TextGen/Stories-v0", num_envs=2, episodes_per_update=2, bonuses={"novelty": 0.1})
        agent.learn(2, progress_bar=False)
        agent.save(folder)
    else:
        policy.save_pretrained(folder)
        record = {"format": FORMAT, "method": "bradley_terry", "temperature": 1.5, "config": {}}
        (folder / RECORD).write_text(json.dumps(record))


def read(kind: str, folder: Path) -> dict[str, Any]:
    """Loads a folder in the way of its kind.

    Args:
        kind: One of `KINDS`.
        folder: The folder.

    Returns:
        All that was loaded, by name: what an equal folder gives, too.

    Raises:
        ValueError: If it is refused.
    """
    if kind == "checkpoint":
        agent = load(folder, device="cpu")
        optimizer, rest = checkpoints.flatten_optimizer(agent.optimizer)
        numbers = {"timesteps": agent.timesteps, "updates": agent.updates, "seed": agent.seed, "rest": repr(rest)}
        return {
            **_content(agent.policy),
            **numbers,
            **{f"optimizer {name}": value for name, value in optimizer.items()},
        }
    if kind == "reward model":
        score = PreferenceScore(folder, device="cpu")
        return {**_content(score.text_model().policy), "temperature": score._temperature}
    return _content(Policy.from_pretrained(folder, device="cpu"))


def _content(policy: Policy) -> dict[str, Any]:
    tokenizer = policy.tokenizer
    ids = (tokenizer.vocab_size, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    return {**policy.state_dict(), "ids": ids, "tokens": tokenizer.encode_batch(["Once upon a time"])}


def is_equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Returns True if two folders were loaded as the same."""
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        for name, value in one.items()
    )


# Mutations ------------------------------------------------------------------------------------------------------------


def _replace(name: str, content: bytes | str, folder: Path) -> None:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def _cut(name: str, share: float, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * share)])


def _append(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + content)


def _remove(name: str, folder: Path) -> None:
    (folder / name).unlink()


def _pipe(name: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)


def _link(name: str, target: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)


def _link_to_copy(name: str, folder: Path) -> None:
    """Moves a file elsewhere, and puts a link in its place, as in the cache of the Hub."""
    elsewhere = folder.with_name(f"{folder.name} blobs")
    elsewhere.mkdir()
    shutil.move(folder / name, elsewhere / "blob")
    (folder / name).symlink_to(elsewhere / "blob")


def _become_folder(name: str, folder: Path) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()


def _sparse(name: str, folder: Path) -> None:
    with (folder / name).open("wb") as stream:
        stream.truncate(1 << 40)


def _edit(name: str, changes: dict[str, Any], folder: Path) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _drop(name: str, key: str, folder: Path) -> None:
    file = folder / name
    content = json.loads(file.read_text())
    del content[key]
    file.write_text(json.dumps(content))


def _tensors(name: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], folder: Path) -> None:
    save_file(change(load_file(folder / name)), folder / name, metadata={"format": "pt"})


def _in_first(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], Any]:
    def changed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        first = next(iter(tensors))
        return {**tensors, first: change(tensors[first])}

    return changed


def _without_first(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(list(tensors.items())[1:])


def _shard(target: str, name: str, folder: Path) -> None:
    """Makes a sharded model whose index names a file somewhere else."""
    weights = folder / "model.safetensors"
    names = list(load_file(weights))
    shutil.copy(weights, folder.with_name("outside.safetensors"))
    weights.rename(folder / "model-00001-of-00001.safetensors")
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, target)}))


def _any_file(name: str) -> dict[str, Mutation]:
    """Mutations that fit any file."""
    return {
        f"{name} missing": partial(_remove, name),
        f"{name} empty": partial(_replace, name, b""),
        f"{name} cut in half": partial(_cut, name, 0.5),
        f"{name} random bytes": partial(_replace, name, bytes(range(256)) * 16),
        f"{name} a named pipe": partial(_pipe, name),
        f"{name} /dev/zero": partial(_link, name, "/dev/zero"),
        f"{name} a loop of links": partial(_link, name, name.rpartition("/")[2]),
        f"{name} a link to nowhere": partial(_link, name, "/no/such/file"),
        f"{name} a link to a plain file": partial(_link_to_copy, name),
        f"{name} a folder": partial(_become_folder, name),
        f"{name} of a terabyte": partial(_sparse, name),
    }


def _json_file(name: str) -> dict[str, Mutation]:
    """Mutations that fit a JSON file."""
    return {
        **_any_file(name),
        f"{name} nested deeply": partial(_replace, name, '{"a": ' + _DEEP),
        f"{name} nested and closed": partial(_replace, name, '{"a": ' + "[" * 900 + "]" * 900 + "}"),
        f"{name} a list": partial(_replace, name, "[1, 2]"),
        f"{name} null": partial(_replace, name, "null"),
        f"{name} an empty object": partial(_replace, name, "{}"),
        f"{name} in UTF-16": partial(_replace, name, '{"a": 1}'.encode("utf-16")),
        f"{name} with NUL": partial(_replace, name, b'{"a": "\0"}'),
        f"{name} a number of 5,000 digits": partial(_replace, name, '{"a": ' + "9" * 5000 + "}"),
    }


def _safetensors(name: str) -> dict[str, Mutation]:
    """Mutations that fit a file of weights."""
    return {
        **_any_file(name),
        f"{name} with a header of 2^62 bytes": partial(_replace, name, (2**62).to_bytes(8, "little") + b"{}"),
        f"{name} with a header of 99 MB": partial(_replace, name, (99_000_000).to_bytes(8, "little") + b"{}"),
        f"{name} with more behind it": partial(_append, name, b"\0" * 100),
        f"{name} without tensors": partial(_tensors, name, lambda tensors: {}),
        f"{name} without one tensor": partial(_tensors, name, _without_first),
        f"{name} with a flat tensor": partial(_tensors, name, _in_first(lambda tensor: tensor.flatten())),
        f"{name} with an empty tensor": partial(_tensors, name, _in_first(lambda tensor: tensor[:0].clone())),
        f"{name} with a longer tensor": partial(
            _tensors, name, _in_first(lambda tensor: torch.cat([tensor, tensor]).contiguous())
        ),
    }


def _edits(name: str, *changes: dict[str, Any]) -> dict[str, Mutation]:
    return {f"{name} with {_shown(change)}": partial(_edit, name, change) for change in changes}


def _shown(change: dict[str, Any]) -> str:
    return ", ".join(f"{key}={json.dumps(value)[:40]}" for key, value in change.items())


_CONFIG_EDITS: tuple[dict[str, Any], ...] = (
    {"model_type": "no_such_type"}, {"model_type": 7}, {"model_type": "gpt2"}, {"model_type": "bert"},
    {"hidden_size": "eight"}, {"hidden_size": 0}, {"hidden_size": -8}, {"hidden_size": 16}, {"hidden_size": 2**20},
    {"num_hidden_layers": 1}, {"num_hidden_layers": 3}, {"num_hidden_layers": _HUGE}, {"num_hidden_layers": None},
    {"vocab_size": 1}, {"vocab_size": 2**28}, {"vocab_size": 10**18}, {"vocab_size": []},
    {"num_attention_heads": 0}, {"num_attention_heads": 3}, {"intermediate_size": 2**27},
    {"max_position_embeddings": 10**30}, {"rope_parameters": {"rope_type": "no_such"}},
    {"rope_parameters": {"rope_type": ["default"]}}, {"layer_types": "x"}, {"architectures": 7},
    {"transformers_weights": "../outside.safetensors"}, {"transformers_weights": "other.bin"},
    {"_attn_implementation": "somebody/kernel"}, {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}, "model_type": "x"},
    {"hidden_act": "no_such"}, {"hidden_act": "__import__('os')"}, {"quantization_config": {"quant_method": "no_such"}},
    {"pad_token_id": 10**6}, {"eos_token_id": "x"}, {"is_encoder_decoder": True}, {"torch_dtype": "no_such"},
    {"head_dim": 3}, {"num_key_value_heads": 5}, {"rms_norm_eps": "x"}, {"use_cache": [[]]},
)  # fmt: skip

_TOKENIZER_EDITS: tuple[dict[str, Any], ...] = (
    {"model": {}}, {"model": {"type": "NoSuch"}},
    {"model": {"type": "BPE", "vocab": {"a": 4_000_000_000, "</s>": 1}, "merges": []}},
    {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
    {"model": {"type": "Unigram", "vocab": [], "unk_id": 7}},
    {"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 10**6}},
    {"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "b"}},
    {"added_tokens": 7}, {"added_tokens": []}, {"version": "9.9"}, {"decoder": {"type": "NoSuch"}},
    {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}},
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}],
                        "pair": [], "special_tokens": {}}},
)  # fmt: skip

_ADAPTER_EDITS: tuple[dict[str, Any], ...] = (
    {"r": 0}, {"r": -1}, {"r": _HUGE}, {"r": 3}, {"r": "two"}, {"r": None}, {"lora_alpha": "x"},
    {"target_modules": "(([a-z_.0-9]+)+)+!"}, {"target_modules": ["no_such"]}, {"target_modules": []},
    {"target_modules": 7}, {"target_modules": None}, {"exclude_modules": "(a|aa)+x"},
    {"rank_pattern": {"(q+)+_proj(q+)+": 2}}, {"rank_pattern": {"q_proj": _HUGE}}, {"rank_pattern": 7},
    {"alpha_pattern": {"(.*)*x": 2}}, {"layers_pattern": "(.*)*x", "layers_to_transform": [0]},
    {"layers_to_transform": [99]}, {"layers_to_transform": "x"}, {"modules_to_save": ["lm_head"]}, {"bias": "all"},
    {"peft_type": "NO_SUCH"}, {"peft_type": "PROMPT_TUNING"}, {"task_type": "NO_SUCH"},
    {"megatron_config": {"a": 1}, "megatron_core": "os"}, {"layer_replication": [[0, 1000], [0, 1000]]},
    {"init_lora_weights": "no_such"}, {"lora_dropout": "x"}, {"use_dora": True}, {"no_such_setting": 1},
)  # fmt: skip

_POLICY_EDITS: tuple[dict[str, Any], ...] = (
    {"precision": "float8"}, {"precision": []}, {"adapters": True}, {"sharded": True}, {"base": "/no/such/folder"},
    {"base": 7}, {"base": ["x"]}, {"frozen": 7}, {"frozen": [[]]}, {"gradient_checkpointing": {"a": 1}},
)  # fmt: skip

_STATE_EDITS: tuple[dict[str, Any], ...] = (
    {"algorithm": "no_such"}, {"algorithm": 7}, {"config": {"no_such": 1}}, {"config": {"gamma": "x"}},
    {"config": {"gamma": 7}}, {"config": []}, {"seed": "x"}, {"seed": -1}, {"env_id": "No/Such-v0"}, {"env_id": 7},
    {"env_kwargs": {"no_such": 1}}, {"env_kwargs": []}, {"env_kwargs": {"task": "no_such"}}, {"timesteps": "many"},
    {"updates": None}, {"seconds": float("nan")}, {"carried": 7}, {"optimizer": {}}, {"optimizer": {"numbers": 7}},
    {"optimizer": {"numbers": {"x.y.z": 1}, "groups": []}}, {"reward": 7}, {"data_digest": 7},
)  # fmt: skip

_MANIFEST_EDITS: tuple[dict[str, Any], ...] = (
    {"format": 99}, {"format": "3"}, {"timesteps": -1}, {"updates": 1.5}, {"score": float("nan")}, {"files": {}},
    {"files": {"../../outside": {}}}, {"files": {"/etc/passwd": {"bytes": 1, "sha256": ""}}}, {"files": {"a\0b": {}}},
    {"files": {"a" * 5000: {}}}, {"files": 7},
)  # fmt: skip


def _signed(mutation: Mutation, name: str, folder: Path) -> None:
    """Changes a checkpoint, and writes its manifest again to fit."""
    (checkpoint,) = (folder / checkpoints.FOLDER).iterdir()
    mutation(checkpoint)
    file = checkpoint / checkpoints.MANIFEST
    manifest = json.loads(file.read_text())
    if (checkpoint / name).is_file():
        manifest["files"][name] = checkpoints.fingerprint(checkpoint / name)
    file.write_text(json.dumps(manifest))


def _in_checkpoint(mutation: Mutation, folder: Path) -> None:
    (checkpoint,) = (folder / checkpoints.FOLDER).iterdir()
    mutation(checkpoint)


def mutations(kind: str) -> dict[str, Mutation]:
    """Returns what is done to a folder.

    Args:
        kind: One of `KINDS`.

    Returns:
        Name to mutation.
    """
    if kind == "model":
        index = "model.safetensors.index.json"
        return {
            **_json_file("config.json"),
            **_safetensors("model.safetensors"),
            **{name: change for name, change in _json_file("tokenizer.json").items() if "missing" not in name},
            **_edits("config.json", *_CONFIG_EDITS),
            **_edits("tokenizer.json", *_TOKENIZER_EDITS),
            "index that names ../outside.safetensors": partial(_shard, "../outside.safetensors", index),
            "index that names a pickle": partial(_shard, "shard.bin", index),
            "index that names /dev/zero": partial(_shard, "/dev/zero", index),
            "index that names a file that is not there": partial(_shard, "missing.safetensors", index),
            "index without a map": partial(_replace, index, "{}"),
            "a pickle beside": partial(_replace, "pytorch_model.bin", b"\x80\x04."),
            "adapters of peft beside": partial(_replace, "adapter_config.json", "{}"),
            "a stray folder": lambda folder: (folder / "notes").mkdir(),
            "a chat template that is no UTF-8": partial(_replace, "chat_template.jinja", b"\xff\xfe"),
        }
    if kind == "adapters":
        config, weights = "adapters/adapter_config.json", "adapters/adapter_model.safetensors"
        return {**_json_file(config), **_safetensors(weights), **_edits(config, *_ADAPTER_EDITS)}
    if kind == "policy":
        return {
            **{name: change for name, change in _json_file("policy.json").items() if "missing" not in name},
            **_safetensors("value_head.safetensors"),
            **_safetensors("critic.safetensors"),
            **_edits("policy.json", *_POLICY_EDITS),
            "policy.json without critic": partial(_drop, "policy.json", "critic"),
        }
    if kind == "checkpoint":
        plain = {
            **_json_file(checkpoints.MANIFEST),
            **{name: change for name, change in _any_file("agent.json").items() if "plain file" not in name},
            **_edits(checkpoints.MANIFEST, *_MANIFEST_EDITS),
        }
        signed = {
            **{(name, "agent.json"): change for name, change in _json_file("agent.json").items()},
            **{(name, "agent.json"): change for name, change in _edits("agent.json", *_STATE_EDITS).items()},
            **{
                (name, "optimizer.safetensors"): change
                for name, change in _safetensors("optimizer.safetensors").items()
            },
            **{(name, "bonuses.safetensors"): change for name, change in _safetensors("bonuses.safetensors").items()},
        }
        return {
            **{name: partial(_in_checkpoint, change) for name, change in plain.items()},
            **{
                f"{name}, signed": partial(_signed, change, file)
                for (name, file), change in signed.items()
                # To sign a terabyte takes an hour, and an optimiser without tensors is one that has made no step.
                if "terabyte" not in name and name != "optimizer.safetensors without tensors"
            },
        }
    return {
        **_json_file(RECORD),
        **_edits(RECORD, {"format": 99}, {"method": "dpo"}, {"method": 7}, {"temperature": 0}, {"temperature": "x"},
                 {"temperature": float("nan")}, {"temperature": True}, {"config": 7}),
        f"{RECORD} without a temperature": partial(_drop, RECORD, "temperature"),
        f"{RECORD} without a config": partial(_drop, RECORD, "config"),
    }  # fmt: skip
