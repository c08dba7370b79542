"""A policy on disk: a folder that plain Transformers loads, with the value head and the rest beside it.

    policy.json               what is frozen, how it computes, the name of the model under adapters
    model.safetensors         the model, with its config.json; or adapters/, and base/ where their base has no name
    tokenizer.json            the tokenizer, as Transformers writes it
    value_head.safetensors    and critic.safetensors, where values have a trunk of their own

Safetensors and JSON alone: no pickle is read, and no code that comes with a model is run. New models, with random
weights, are made here too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from agents.devices import choose_device
from agents.files import read_json
from agents.policy import lora
from textenvs import Tokenizer
from textenvs.arguments import did_you_mean
from textenvs.tokenizer import SubwordTokenizer

if TYPE_CHECKING:
    from agents.policy.policy import Policy

BUNDLED_MODELS = {"tiny": Path(__file__).parents[1] / "data" / "tiny"}
"""Name to folder, for the models that come with the package."""

# Learned positions, and weights five times as large as language models begin with: attention that finds a place by its
# number forms in a sixth of the tokens that a Llama of this size takes (docs/log.md).
FRESH = {
    "model_type": "gpt2",
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 1024,
    "activation_function": "gelu_pytorch_tanh",  # GPT-2's gelu_new, as one operation in place of eight
    "initializer_range": 0.1,
    "pad_token_id": None,  # often EOS, and then GPT-2 warns of rows that are padded, which a causal mask hides from it
}
"""The config of `Policy.fresh`."""

ADAPTERS_FOLDER = "adapters"

_BASE_FOLDER = "base"
_CRITIC_FILE = "critic.safetensors"
_POLICY_FILE = "policy.json"
_VALUE_HEAD_FILE = "value_head.safetensors"


def load(kind: type[Policy], name_or_folder: str | Path, *, device: str | torch.device | None = None) -> Policy:
    """Loads a policy of some class; arguments and errors as in `Policy.from_pretrained`."""
    if not isinstance(name_or_folder, (str, Path)):
        raise TypeError(f"Expected the name of a model, or its folder, got {name_or_folder!r:.200}")
    source = str(BUNDLED_MODELS.get(str(name_or_folder), name_or_folder))
    chosen = choose_device(device)
    local = os.path.isdir(source)
    if not local and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source):
        raise ValueError(
            f"Expected a bundled model {list(BUNDLED_MODELS)}, a folder or a hub id, got {source!r}: no such folder"
        )
    if local and not any((Path(source) / name).exists() for name in ("config.json", ADAPTERS_FOLDER)):
        raise ValueError(f"Expected a model folder with a config.json, got {source!r}, which has none")
    notes = read_json(Path(source) / _POLICY_FILE) if (Path(source) / _POLICY_FILE).is_file() else {}
    weights = source
    if notes.get("base") is not None:  # a folder of adapters, whose base lies elsewhere
        weights = str(BUNDLED_MODELS.get(notes["base"], notes["base"]))
    elif (Path(source) / _BASE_FOLDER).is_dir():
        weights = str(Path(source) / _BASE_FOLDER)
    try:
        with quiet_loading():
            config = AutoConfig.from_pretrained(weights, trust_remote_code=False)
            model = _auto_class(config).from_pretrained(
                weights, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        name = "the folder" if local else f"no such folder or bundled model {list(BUNDLED_MODELS)}, so the hub id"
        raise ValueError(
            f"Expected a language model that loads from safetensors, got {name} {weights!r}: {error}"
        ) from error
    nn.Module.to(model, chosen)
    policy = kind(model, tokenizer)
    policy.source = str(name_or_folder) if not local or str(name_or_folder) in BUNDLED_MODELS else None
    if local and policy.source is None and not _is_temporary(Path(source), Path(weights)):
        policy.source = notes.get("base") or os.path.abspath(weights)
    policy.pretrained = bool(notes.get("pretrained", True))
    policy.adapt(
        precision=notes.get("precision", "float32"),
        gradient_checkpointing=bool(notes.get("gradient_checkpointing", False)),
        compile=bool(notes.get("compile", False)),
    )
    if (Path(source) / ADAPTERS_FOLDER).is_dir():
        lora.load(model, Path(source) / ADAPTERS_FOLDER)
        policy.has_adapters = True
    value_head = Path(source) / _VALUE_HEAD_FILE
    if value_head.is_file():
        policy.value_head.load_state_dict(load_file(value_head, device=str(chosen)))
    critic = Path(source) / _CRITIC_FILE
    if critic.is_file():
        load_model(policy.separate_critic(), critic, device=str(chosen))
    frozen = set(notes.get("frozen", ()))
    for name, parameter in policy.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return policy


def new_model(
    config: Mapping[str, Any] | PretrainedConfig,
    tokenizer: Tokenizer,
    *,
    seed: int,
    device: str | torch.device | None,
) -> PreTrainedModel:
    """Makes a model with random weights; arguments and errors as in `Policy.from_config`."""
    full = config if isinstance(config, PretrainedConfig) else config_of(config, tokenizer)
    check_seed(seed)
    with torch.random.fork_rng(devices=[]):  # Transformers draws from the global generator, which stays as it was
        torch.manual_seed(seed)
        model: PreTrainedModel = _auto_class(full).from_config(full, dtype=torch.float32)
    nn.Module.to(model, choose_device(device))
    return model


def check_seed(seed: int) -> None:
    """Checks the seed of new weights.

    Raises:
        ValueError: If it is not a whole number of at least 0, below 2**63.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"Expected seed to be a whole number of at least 0, got {seed!r:.200}")


def _auto_class(config: PretrainedConfig) -> Any:
    """Returns the class of Transformers that makes a model of a config."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _is_temporary(folder: Path, weights: Path) -> bool:
    """Returns True if a model may be gone one day: it lies in a folder of adapters, or in a checkpoint of a run."""
    return weights.parent == folder or (folder.parent / "agent.json").is_file()


def save(policy: Policy, folder: Path, *, merge: bool = False) -> None:
    """Writes a policy; arguments and errors as in `Policy.save_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    adapters_apart = policy.has_adapters and not merge and not policy.is_adapters_off
    plain = policy.has_adapters and not adapters_apart  # without adapters, where the policy has some
    with quiet_loading():
        if adapters_apart:
            lora.save(policy.model, folder / ADAPTERS_FOLDER)
            if policy.source is None:
                lora.stripped(policy.model).save_pretrained(folder / _BASE_FOLDER)
        elif plain:
            without = lora.stripped if policy.is_adapters_off else lora.merged
            without(policy.model).save_pretrained(folder)
        else:
            policy.model.save_pretrained(folder)
    notes = {
        "pretrained": policy.pretrained,
        "precision": policy.precision,
        "gradient_checkpointing": policy.gradient_checkpointing,
        "compile": policy.compiled,
        "frozen": [] if plain or merge else _frozen_names(policy),
        "base": policy.source if adapters_apart else None,
    }
    (folder / _POLICY_FILE).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
    if hasattr(policy.tokenizer_source, "save_pretrained"):
        policy.tokenizer_source.save_pretrained(folder)
    elif isinstance(policy.tokenizer, SubwordTokenizer):
        backend = policy.tokenizer.backend
        names = {
            "eos_token": backend.id_to_token(policy.tokenizer.eos_token_id),
            "bos_token": backend.id_to_token(policy.tokenizer.bos_token_id),
            "pad_token": backend.id_to_token(policy.tokenizer.pad_token_id),
        }
        PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    else:
        raise ValueError(
            "Expected a policy whose tokenizer comes from Transformers or the tokenizers library, since no other "
            f"can be written beside the model, got {type(policy.tokenizer).__name__}"
        )
    save_file(
        {name: tensor.contiguous() for name, tensor in policy.value_head.state_dict().items()},
        folder / _VALUE_HEAD_FILE,
    )
    if policy.critic is not None:
        critic = lora.merged(policy.critic) if plain else policy.critic
        save_model(critic, str(folder / _CRITIC_FILE))


def config_of(settings: Mapping[str, Any], tokenizer: Tokenizer) -> PretrainedConfig:
    """Makes a Transformers config from a dict, and refuses typos, which Transformers would keep without a word."""
    settings = dict(settings)
    model_type = settings.pop("model_type", None)
    if not isinstance(model_type, str):
        raise ValueError(
            f"Expected a config with a 'model_type' ('llama', 'gpt2', 't5', 'lstm_lm', ...), got {settings!r}"
        )
    try:
        default = AutoConfig.for_model(model_type)
    except ValueError as error:
        raise ValueError(f"Expected a model type that Transformers knows, got {model_type!r}: {error}") from error
    known = {*default.to_dict(), *default.attribute_map}
    for name in settings:
        if name not in known:
            hint = did_you_mean(name, known)
            raise TypeError(f"Expected a setting of {type(default).__name__}, got {name!r}.{hint}")
    of_tokenizer: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if default.is_encoder_decoder:
        of_tokenizer["decoder_start_token_id"] = tokenizer.bos_token_id
    for name in ("forced_bos_token_id", "forced_eos_token_id"):  # ids of another vocabulary, for generate()
        if getattr(default, name, None) is not None:
            of_tokenizer[name] = None
    return AutoConfig.for_model(model_type, **{**of_tokenizer, **settings})


def _frozen_names(policy: Policy) -> list[str]:
    """Returns the names of parameters that are not trained."""
    return [name for name, parameter in policy.named_parameters() if not parameter.requires_grad]


class quiet_loading:
    """Switches Transformers' progress bars off while a model loads or is saved."""

    def __enter__(self) -> None:
        self._was_on = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exc: object) -> None:
        if self._was_on:
            transformers_logging.enable_progress_bar()
