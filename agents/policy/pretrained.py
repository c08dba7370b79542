"""A policy on disk: a folder that plain Transformers loads, with the value head and the rest beside it.

    policy.json               what belongs to it, what is frozen, how it computes, the name of the model under adapters
    model.safetensors         the model, with its config.json; or adapters/, and base/ where their base has no name
    tokenizer.json            the tokenizer; tokenizer_config.json and chat_template.jinja, as Transformers writes them
    value_head.safetensors    and critic.safetensors, where values have a trunk of their own

Safetensors and JSON alone: no pickle is read, and no code that comes with a model is run. Files that policy.json does
not mention are not read. New models, with random weights, are made here too.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import SAFE_WEIGHTS_NAME
from transformers.utils import logging as transformers_logging

from agents.devices import choose_device
from agents.policy import gate, gguf, lora
from agents.policy.trunk import FAILURES
from agents.policy.weights import auto_class, quiet_loading, read_model
from textenvs import Tokenizer, make_tokenizer
from textenvs.arguments import check_count, did_you_mean
from textenvs.chat_template import TEMPLATE_FILE
from textenvs.files import read_json
from textenvs.tokenizer import SubwordTokenizer

if TYPE_CHECKING:
    from agents.policy.policy import Policy

BUNDLED_MODELS = {"tiny": Path(__file__).parents[1] / "data" / "tiny"}
"""Name to folder, for the models that come with the package."""

NAMED_MODELS = (*BUNDLED_MODELS, *gguf.PACKAGED_MODELS)
"""All names that stand for a model of a package, this one or another."""

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
_WAY_TO_BASE = "base_from_here"
_CRITIC_FILE = "critic.safetensors"
_POLICY_FILE = "policy.json"
_PARTS = ("adapters", "critic", "sharded")  # entries of it that decide which files are read
_VALUE_HEAD_FILE = "value_head.safetensors"
_MISFITS = (*FAILURES, ArithmeticError, KeyError, AssertionError, StrictDataclassError)
"""What Transformers raises of settings that do not fit each other."""
_ROLES = ("eos_token", "bos_token", "pad_token")


def load(kind: type[Policy], name_or_folder: str | Path, *, device: str | torch.device | None = None) -> Policy:
    """Loads a policy of some class; arguments and errors as in `Policy.from_pretrained`."""
    if not isinstance(name_or_folder, (str, Path)):
        raise TypeError(f"Expected the name of a model, or its folder, got {name_or_folder!r:.200}")
    source = _local(str(name_or_folder))
    chosen = choose_device(device)
    local = os.path.isdir(source)
    if not local and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source):
        raise ValueError(
            f"Expected a bundled model {list(NAMED_MODELS)}, a folder, a .gguf file or a hub id, got {source!r}: no "
            "such folder"
        )
    if local and not any((Path(source) / name).exists() for name in ("config.json", ADAPTERS_FOLDER)):
        raise ValueError(f"Expected a model folder with a config.json, got {source!r}, which has none")
    folder = Path(source)
    is_ours = local and os.path.lexists(folder / _POLICY_FILE)  # a link to nowhere is no file, and is said
    notes = read_json(folder / _POLICY_FILE) if is_ours else {}
    if is_ours and (missing := [name for name in _PARTS if name not in notes]):
        raise ValueError(
            f"Expected {str(folder / _POLICY_FILE)!r} to say if the policy has {', '.join(_PARTS)}, got one without "
            f"{', '.join(missing)}: an earlier version wrote it, and its policies cannot be read any more"
        )
    weights = source
    base = notes.get("base")
    if base is not None:  # a folder of adapters, whose base lies elsewhere
        if not isinstance(base, str):
            raise ValueError(f"Expected the base in {str(folder / _POLICY_FILE)!r} as a name, got {base!r:.200}")
        base = _base(folder, notes)
        weights = _local(base)
    elif notes.get("adapters"):
        weights = str(folder / _BASE_FOLDER)
    name = "the folder" if base is None else f"the folder {source!r}, whose base is"
    if not local:
        name = f"no such folder or bundled model {list(NAMED_MODELS)}, so the hub id"
    with gate.refusing("a language model that loads from safetensors", f"{name} {weights!r}"), quiet_loading():
        if is_ours:
            gate.check_folder(folder)
        model = read_model(weights, is_sharded=None if base else notes.get("sharded"))
        with gate.reading("its tokenizer"):
            is_from_file = is_ours or gguf.is_gguf(str(name_or_folder))
            tokenizer = _read_own_tokenizer(folder) if is_from_file else _read_tokenizer(source)
        nn.Module.to(model, chosen)
        policy = kind(model, tokenizer)
        with gate.reading(_POLICY_FILE):
            policy.pretrained = bool(notes.get("pretrained", True))
            policy.adapt(
                precision=notes.get("precision", "float32"),
                gradient_checkpointing=bool(notes.get("gradient_checkpointing", False)),
                compile=bool(notes.get("compile", False)),
            )
        if is_ours:
            _read_parts(policy, folder, notes)
    if dequantized := getattr(model.config, "dequantized_from", None):  # whoever reads results has to know
        transformers_logging.get_logger("agents").warning_once(
            f"{name_or_folder}: weights dequantised from {dequantized}, which rounded those of the published model"
        )
    policy.source = base
    if not local or str(name_or_folder) in NAMED_MODELS:
        policy.source = str(name_or_folder)
    elif gguf.is_gguf(str(name_or_folder)):
        policy.source = os.path.abspath(Path(name_or_folder).expanduser())
    elif policy.source is None and not _is_temporary(folder, Path(weights)):
        policy.source = os.path.abspath(weights)
    return policy


def _local(source: str) -> str:
    """Returns the folder that a name or a .gguf file stands for; of folders and hub ids, these themselves."""
    if gguf.is_gguf(source):
        return str(gguf.model_folder(source))
    return str(BUNDLED_MODELS.get(source, source))


def _base(folder: Path, notes: Mapping[str, Any]) -> str:
    """Finds the model under a folder of adapters, also where both were moved together.

    Returns:
        Its name, or its folder or file.

    Raises:
        ValueError: If it is a folder or a file that is gone.
    """
    base, way = str(notes["base"]), notes.get(_WAY_TO_BASE)
    if not os.path.isabs(base) or os.path.exists(base):
        return base
    if isinstance(way, str) and (folder / way).exists():
        return str((folder / way).resolve())
    raise ValueError(
        f"Expected the model under the adapters of {str(folder)!r} in {base!r}, where it was when they were saved, got "
        "nothing there: put it back, or move both together"
    )


def _way_to(base: str | None, folder: Path) -> str | None:
    """Returns the relative path from a folder to its base; None where the base is no folder, or on another drive."""
    if base is None or not os.path.isabs(base):
        return None
    try:
        return os.path.relpath(os.path.realpath(base), os.path.realpath(folder))
    except ValueError:
        return None


def _read_parts(policy: Policy, folder: Path, notes: Mapping[str, Any]) -> None:
    """Reads what lies beside a policy's model: adapters, value head, critic, and what is frozen."""
    if notes.get("adapters"):
        with gate.reading(ADAPTERS_FOLDER):
            lora.load(policy.model, folder / ADAPTERS_FOLDER)
        policy.has_adapters = True
    with gate.reading(_VALUE_HEAD_FILE):
        policy.value_head.load_state_dict(gate.read_tensors(folder / _VALUE_HEAD_FILE, policy.device))
    if notes.get("critic"):
        with gate.reading(_CRITIC_FILE):
            gate.shapes(folder / _CRITIC_FILE)
            load_model(policy.separate_critic(), folder / _CRITIC_FILE, device=str(policy.device))
    with gate.reading(_POLICY_FILE):
        frozen = set(notes.get("frozen", ()))
    for name, parameter in policy.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)


def _read_tokenizer(source: str) -> Any:
    """Reads the tokenizer of somebody's model, as Transformers does."""
    return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def _read_own_tokenizer(folder: Path) -> Any:
    """Reads the tokenizer that `save` wrote.

    Of some types of model (qwen2) Transformers makes a tokenizer of the model's class out of a file's vocabulary alone,
    with other rules; of all, it makes EOS a special token. So the file itself decides.

    Returns:
        Transformers' tokenizer, where it is the same: its config then goes along into the next folder. Or ours.
    """
    ours = make_tokenizer(folder)
    assert isinstance(ours, SubwordTokenizer)
    try:
        theirs = _read_tokenizer(str(folder))
        seen = make_tokenizer(theirs)
    except Exception:  # whatever keeps Transformers from reading it: the tokenizer is there
        return ours
    is_same = isinstance(seen, SubwordTokenizer) and seen.backend.to_str() == ours.backend.to_str()
    roles = ("eos_token_id", "bos_token_id", "pad_token_id", "chat_template")
    return theirs if is_same and all(getattr(seen, role) == getattr(ours, role) for role in roles) else ours


def new_model(
    config: Mapping[str, Any] | PretrainedConfig,
    tokenizer: Tokenizer,
    *,
    seed: int,
    device: str | torch.device | None,
) -> PreTrainedModel:
    """Makes a model with random weights; arguments and errors as in `Policy.from_config`."""
    full = config if isinstance(config, PretrainedConfig) else config_of(config, tokenizer)
    check_count("seed", seed, least=0, most=2**63 - 1)
    with (
        quiet_loading(),
        torch.random.fork_rng(devices=[]),
    ):  # Transformers draws from the global generator, which stays as it was
        torch.manual_seed(seed)
        try:
            model: PreTrainedModel = auto_class(full).from_config(full, dtype=torch.float32)
        except _MISFITS as error:
            raise ValueError(
                f"Expected a config that Transformers makes a language model of, got a {type(full).__name__}: "
                f"{_first_line(error)}"
            ) from error
    nn.Module.to(model, choose_device(device))
    return model


def _is_temporary(folder: Path, weights: Path) -> bool:
    """Returns True if a model may be gone one day: it lies in a folder of adapters, or in a checkpoint of a run."""
    return weights.parent == folder or (folder.parent / "agent.json").is_file()


def save(policy: Policy, folder: Path, *, merge: bool = False) -> dict[str, Tensor]:
    """Writes a policy; arguments and errors as in `Policy.save_pretrained`.

    Returns:
        The weights that the folder now holds, by the names that they have in a policy which is loaded from it.
    """
    tokenizer = policy.tokenizer
    if not isinstance(tokenizer, SubwordTokenizer):
        raise ValueError(
            "Expected a policy whose tokenizer comes from Transformers or the tokenizers library, since no other "
            f"can be written beside the model, got {type(tokenizer).__name__}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    adapters_apart = policy.has_adapters and not merge and not policy.is_adapters_off
    plain = policy.has_adapters and not adapters_apart  # without adapters, where the policy has some
    model: PreTrainedModel = policy.model
    with quiet_loading():
        if adapters_apart:
            lora.save(model, folder / ADAPTERS_FOLDER)
            weights_folder = folder / _BASE_FOLDER
            if policy.source is None:
                lora.stripped(model).save_pretrained(weights_folder)
        else:
            if plain:
                model = (lora.stripped if policy.is_adapters_off else lora.merged)(model)
            weights_folder = folder
            model.save_pretrained(folder)
        _write_tokenizer(policy.tokenizer_source, tokenizer, folder)
    has_base = adapters_apart and policy.source is not None
    notes = {
        "pretrained": policy.pretrained,
        "precision": policy.precision,
        "gradient_checkpointing": policy.gradient_checkpointing,
        "compile": policy.compiled,
        "frozen": [] if plain or merge else _frozen_names(policy),
        "base": policy.source if has_base else None,
        _WAY_TO_BASE: _way_to(policy.source if has_base else None, folder),
        "adapters": adapters_apart,
        "critic": policy.critic is not None,
        "sharded": None if has_base else not (weights_folder / SAFE_WEIGHTS_NAME).is_file(),
    }
    (folder / _POLICY_FILE).write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
    save_file(
        {name: tensor.contiguous() for name, tensor in policy.value_head.state_dict().items()},
        folder / _VALUE_HEAD_FILE,
    )
    critic = lora.merged(policy.critic) if plain and policy.critic is not None else policy.critic
    if critic is not None:
        save_model(critic, str(folder / _CRITIC_FILE))
    parts = {"model": model, "value_head": policy.value_head, "critic": critic}
    return {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        if module is not None
        for name, tensor in module.state_dict().items()
    }


def _write_tokenizer(source: Any, tokenizer: SubwordTokenizer, folder: Path) -> None:
    """Writes a tokenizer: its own file as it is, and what else Transformers keeps of it beside that."""
    (folder / TEMPLATE_FILE).unlink(missing_ok=True)  # of what was saved here before
    if hasattr(source, "save_pretrained"):
        source.save_pretrained(folder)
    else:
        backend = tokenizer.backend
        # A role that no token has stays open, so that a chat template still finds none: EOS stands in for it anyway.
        names = {role: token for role, token in tokenizer.special_tokens.items() if role in _ROLES}
        names["eos_token"] = str(backend.id_to_token(tokenizer.eos_token_id))
        # A copy, since Transformers makes special tokens of those that it is told.
        written = PreTrainedTokenizerFast(
            tokenizer_object=copy.deepcopy(backend),
            split_special_tokens=backend.encode_special_tokens,
            chat_template=tokenizer.chat_template,
            **names,
        )
        written.save_pretrained(folder)
    tokenizer.backend.save(str(folder / "tokenizer.json"))


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
    except StrictDataclassError as error:
        raise ValueError(
            f"Expected a model type whose default config is valid, got {model_type!r}: {_first_line(error)}"
        ) from error
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
    nested = _text_part(default)
    if nested is not None:  # the language model's own config, inside that of a model for pictures or sounds too
        inner = settings.get(nested, {})
        settings[nested] = {**of_tokenizer, **inner} if isinstance(inner, Mapping) else inner
    try:
        return AutoConfig.for_model(model_type, **{**of_tokenizer, **settings})
    except _MISFITS as error:
        raise ValueError(
            f"Expected settings that make a {type(default).__name__}, got {settings!r:.300}: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    """Writes an error of Transformers for a message, without the list of all models that follows some of them."""
    lines = [line.strip() for line in str(error).splitlines()]
    of_validation = isinstance(error, StrictDataclassError) and len(lines) > 1  # the first names the validator
    return f"{type(error).__name__}: {(lines[1] if of_validation else (lines or [''])[0]):.300}"


def _text_part(config: PretrainedConfig) -> str | None:
    """Returns the name of the config inside a config that describes its language model; None where there is none."""
    text = config.get_text_config()
    return next((name for name in config.sub_configs if getattr(config, name, None) is text), None)


def _frozen_names(policy: Policy) -> list[str]:
    """Returns the names of parameters that are not trained."""
    return [name for name, parameter in policy.named_parameters() if not parameter.requires_grad]
