"""LoRA adapters on a policy's model, through peft: small matrices that are trained in place of the model itself.

    W x  becomes  W x + (alpha / rank) B A x,   with A (rank, in) drawn at random, B (out, rank) zero, and W as it was

Source: Hu et al. (2021), LoRA: low-rank adaptation of large language models, arXiv:2106.09685, section 4.1.

The base model is there all the time, so the reference policy is the same model with its adapters off: `off`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from agents.policy import gate
from textenvs.arguments import check_count, did_you_mean
from textenvs.files import read_json

_Model = TypeVar("_Model", bound=nn.Module)

_OF_THE_BASE = ("modules_to_save", "trainable_token_indices", "bias")
"""Settings of peft that train more than the adapters."""

_REFUSED = ("megatron_config", "layer_replication", "target_parameters", "runtime_config", "eva_config", "corda_config",
            "loftq_config", "arrow_config", "alora_invocation_tokens")  # fmt: skip
"""Settings of adapters that are loaded which make peft import modules, make layers, or compute from data."""

_SIMPLE = re.compile(r"[\w.^$*+?\\-]{1,200}")


def _peft() -> Any:
    """Imports peft, which is an extra."""
    try:
        return import_module("peft")
    except ImportError as error:
        raise ImportError('peft is needed for LoRA. Install it with: pip install "textenvs[agents,lora]"') from error


def add(model: PreTrainedModel, lora: int | Mapping[str, Any], *, seed: int = 0) -> None:
    """Puts adapters beside a model's linear layers (never its head), and leaves nothing else to train.

    Args:
        model: The model, changed in place. Its outputs stay as they are until the adapters are trained.
        lora: The rank, or settings of `peft.LoraConfig`. Unless a dict says otherwise, alpha is twice the rank, and
            every linear layer but the head gets an adapter.
        seed: Seeds the adapters' weights.

    Raises:
        ImportError: If peft is not installed.
        ValueError: If a number is out of range, the model has no layer for an adapter, or the head would get one.
        TypeError: If peft has no such setting, or the rank is not a whole number.
    """
    peft = _peft()
    settings = dict(lora) if isinstance(lora, Mapping) else {"r": lora}
    rank = settings["r"] = check_count("LoRA's rank", settings.get("r", 8))
    known = peft.LoraConfig.__dataclass_fields__
    for name in settings:
        if name not in known:
            hint = did_you_mean(name, known)
            raise TypeError(f"Expected a setting of peft.LoraConfig, got {name!r}.{hint}")
    for name in _OF_THE_BASE:
        if settings.get(name, "none") not in (None, [], {}, "none"):
            raise ValueError(
                f"Expected adapters alone to be trained, got {name}={settings[name]!r}: it also trains parts of the "
                "model under them, which is the reference of KL and is not written into checkpoints. Leave it out, or "
                "train without adapters and with adapt(freeze=...)"
            )
    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2 keeps its weights that way
    defaults = {"lora_alpha": 2 * rank, "target_modules": "all-linear", "fan_in_fan_out": transposed}
    defaults["task_type"] = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"  # for AutoPeftModel...
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator, which stays as it was
        torch.manual_seed(seed)
        try:
            model.add_adapter(peft.LoraConfig(**{**defaults, **settings}))
        except ValueError as error:
            raise ValueError(f"Expected linear layers to put adapters beside, but peft says: {error}") from error
    if not isinstance(model.get_output_embeddings(), nn.Linear) or _is_layer(model.get_output_embeddings()):
        raise ValueError("Expected adapters on the trunk alone, got some on the head: leave it out of target_modules")
    model.eval()


def save(model: PreTrainedModel, folder: Path) -> None:
    """Writes a model's adapters alone, as peft does.

    Args:
        model: The model.
        folder: Made if it does not exist.
    """
    _peft()
    model.save_pretrained(folder)


def load(model: PreTrainedModel, folder: Path) -> None:
    """Puts saved adapters on a model.

    Args:
        model: The model that they were trained on, changed in place.
        folder: The folder that `save` wrote.

    Raises:
        ImportError: If peft is not installed.
        ValueError: If weights are missing, or do not fit.
    """
    peft = _peft()
    gate.check_folder(folder)
    file = folder / "adapter_model.safetensors"
    settings = read_json(folder / "adapter_config.json")
    _check_foreign(settings, gate.shapes(file))
    config = peft.PeftConfig.from_pretrained(str(folder))
    if isinstance(config.target_modules, str):
        # A pattern, which could take for ever: what it fits is what there are weights of.
        config.target_modules = set(_layers_of(gate.shapes(file)))
    config.inference_mode = False
    with torch.random.fork_rng(devices=[]):  # peft draws what is then overwritten from the global generator
        model.add_adapter(config)
    tensors = gate.read_tensors(file, model.device)
    report = peft.set_peft_model_state_dict(model, tensors)
    missing = [name for name in report.missing_keys if "lora_" in name]
    if missing or report.unexpected_keys:
        wrong = sorted([*missing, *report.unexpected_keys])
        raise ValueError(
            f"Expected {str(folder)!r} to hold the weights of its adapter_config.json's adapters and no others, but "
            f"these are missing, or have no place: {', '.join(wrong[:5])}"
        )
    model.eval()


def _check_foreign(settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks the config of somebody's adapters: peft makes, computes and imports what it says."""
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"Expected adapters of peft_type 'LORA', got {settings.get('peft_type')!r:.200}")
    for name in (*_OF_THE_BASE, *_REFUSED):
        if settings.get(name) not in (None, False, [], {}, "none"):
            raise ValueError(f"Expected adapters without {name}, got {settings[name]!r:.200} in adapter_config.json")
    largest = max([0, *(size for shape in shapes.values() for size in shape)])
    ranks = [settings.get("r"), *dict(settings.get("rank_pattern") or {}).values()]
    for rank in ranks:
        if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= largest:
            raise ValueError(
                f"Expected ranks from 1 to {largest} in adapter_config.json, the widest weight that there is, got "
                f"{rank!r:.200}"
            )
    patterns = [settings.get("exclude_modules"), settings.get("layers_pattern")]
    patterns += [*(settings.get("rank_pattern") or ()), *(settings.get("alpha_pattern") or ())]
    for pattern in patterns:
        for text in pattern if isinstance(pattern, list) else [] if pattern is None else [pattern]:
            if not isinstance(text, str) or not _SIMPLE.fullmatch(text) or len(re.findall(r"[*+?]", text)) > 3:
                raise ValueError(
                    "Expected names of layers in adapter_config.json, with at most three of '*', '+' and '?' and no "
                    f"parentheses, got {text!r:.200}: other patterns could take for ever"
                )


def _layers_of(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Returns the names of the layers that a file has adapters of."""
    return sorted({match[1] for name in shapes if (match := re.match(r"(?:base_model\.model\.)?(.+)\.lora_", name))})


@contextmanager
def off(model: PreTrainedModel) -> Iterator[None]:
    """Switches a model's adapters off for the time of a block, whatever happens in it.

    Args:
        model: A model with adapters.
    """
    layers: list[Any] = [module for module in model.modules() if _is_layer(module)]
    trained = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, requires_grad in trained:  # peft switches these along
            parameter.requires_grad_(requires_grad)


def merged(model: _Model) -> _Model:
    """Returns a copy of a model with its adapters added to its weights.

    Args:
        model: A model with adapters, or the trunk of one; left as it is.

    Returns:
        A plain Transformers model, with the same outputs up to rounding.
    """
    return _plain(model, merge=True)


def stripped(model: PreTrainedModel) -> PreTrainedModel:
    """Returns a copy of a model without its adapters.

    Args:
        model: A model with adapters; left as it is.

    Returns:
        The plain Transformers model under them.
    """
    return _plain(model, merge=False)


def _plain(model: _Model, merge: bool) -> _Model:
    """Returns a copy of a model with plain layers in place of those with adapters."""
    plain: Any = copy.deepcopy(model)
    modules: list[tuple[str, Any]] = list(plain.named_modules())
    for name, module in modules:
        if _is_layer(module):
            if merge:
                module.merge(safe_merge=True)
            plain.set_submodule(name, module.get_base_layer())
    plain._hf_peft_config_loaded = False
    plain.__dict__.pop("peft_config", None)  # a trunk has none
    model = plain
    return model


def _is_layer(module: Any) -> bool:
    """Returns True for a layer with an adapter."""
    return hasattr(module, "lora_A") and hasattr(module, "enable_adapters")
