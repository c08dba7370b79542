"""Reads a model's weights: from safetensors inside its own folder alone, and only if they are all of the model.

Transformers draws at random what a folder does not hold, follows an index file wherever that points, and puts peft's
adapters on a model beside which they lie. Here each of these is an error.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from agents.policy import gate
from textenvs.files import read_json

_ADAPTER_CONFIG = "adapter_config.json"
_PLAIN_NAME = re.compile(r"\w[\w.-]*\.safetensors")
_SHOWN = 5  # names in an error
_NO_LIMIT = 1 << 62

_LOADING = threading.RLock()


class quiet_loading:
    """Switches Transformers' progress bars off while a model is made, loaded or saved, in one thread at a time.

    To load, Transformers replaces functions of PyTorch for a while. Two threads that do so at once put them back in the
    wrong order, and no model could be made in the process any more.
    """

    def __enter__(self) -> None:
        _LOADING.acquire()
        self._was_on = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()

    def __exit__(self, *exc: object) -> None:
        if self._was_on:
            transformers_logging.enable_progress_bar()
        _LOADING.release()


def auto_class(config: PretrainedConfig) -> Any:
    """Returns the class of Transformers that makes a model of a config."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def read_model(source: str, *, is_sharded: bool | None = None) -> PreTrainedModel:
    """Reads a language model from a folder or from the hub, its weights in float32.

    Args:
        source: The folder, or the id on the hub.
        is_sharded: True if its weights lie in several files with an index, False if in one, None if either will do.

    Returns:
        The model.

    Raises:
        ValueError: If weights are missing, have another shape than the config says, belong to layers that it does not
            have, or would be read from elsewhere; names them.
        OSError: If there is no such model. Foreign folders may raise other exceptions of Transformers.
    """
    config = checked_config(source, is_sharded=is_sharded)
    model, report = auto_class(config).from_pretrained(
        source,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the report, by name
    )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError("it holds peft's adapters beside the model. Merge them into it first: merge_and_unload() does")
    check_report(model, report)
    return model  # type: ignore[no-any-return]


def checked_config(source: str, auto: Any = None, *, is_sharded: bool | None = None) -> PretrainedConfig:
    """Reads the config of a model whose weights are to be read, once it is known where these will come from.

    Args:
        source: The folder, or the id on the hub.
        auto: The class of Transformers that makes the model; None: a language model's.
        is_sharded: As in `read_model`.

    Returns:
        The config.

    Raises:
        ValueError: If weights would come from anything but safetensors inside the folder, a file cannot be read, or the
            config does not describe a model of about as many weights as there are.
        OSError: If there is no such model. Foreign folders may raise other exceptions of Transformers.
    """
    folder = Path(source)
    if folder.is_dir():
        gate.check_folder(folder)
    files = _weight_files(source, is_sharded)
    # Without any, Transformers says what it looked for.
    tensors, numbers = gate.count(files) if files else (_NO_LIMIT, _NO_LIMIT)
    settings = _cached(source, CONFIG_NAME)
    if settings is not None:
        gate.check_config(read_json(settings), tensors)
    with gate.reading(CONFIG_NAME):
        config: PretrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if files:
            gate.check_size(auto or auto_class(config), config, numbers)
    return config


def _weight_files(source: str, is_sharded: bool | None) -> list[Path]:
    """Returns the files that Transformers will read weights from; none, if there are none in safetensors.

    Raises:
        ValueError: If weights would come from anything but safetensors inside the folder.
    """
    folder = Path(source)
    if folder.is_dir():
        if (folder / _ADAPTER_CONFIG).exists():
            raise ValueError(
                f"it holds peft's adapters ({_ADAPTER_CONFIG}), which would be put on the model without a word. Load "
                "the model under them, and merge them into it: merge_and_unload() of peft does"
            )
        if is_sharded and (folder / SAFE_WEIGHTS_NAME).exists():
            raise ValueError(f"it holds a {SAFE_WEIGHTS_NAME} that would be read in place of the model's own files")
        if is_sharded is False and not (folder / SAFE_WEIGHTS_NAME).is_file():
            raise ValueError(f"it holds no {SAFE_WEIGHTS_NAME}")
    if not is_sharded and (single := _cached(source, SAFE_WEIGHTS_NAME)) is not None:
        return [single]  # an index beside it is not read
    index = _cached(source, SAFE_WEIGHTS_INDEX_NAME)
    if index is None:
        return []
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise ValueError(f"{SAFE_WEIGHTS_INDEX_NAME} has no weight_map")
    shards = sorted(set(map(str, names.values())))
    for name in shards:
        if not _PLAIN_NAME.fullmatch(name) or (folder.is_dir() and not (folder / name).is_file()):
            raise ValueError(
                f"{SAFE_WEIGHTS_INDEX_NAME} names the file {name!r}: weights are read from safetensors files inside "
                "the folder alone"
            )
    if not folder.is_dir():
        return []  # of the Hub: they are not all here yet
    return [folder / name for name in shards]


def _cached(source: str, name: str) -> Path | None:
    """Returns a file of a folder, or of a model on the Hub, which is then loaded; None if there is none."""
    file = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if file is None else Path(file)


def check_report(model: PreTrainedModel, report: dict[str, Any], described_by: str = f"its {CONFIG_NAME}") -> None:
    """Checks by Transformers' report of a load that the weights are all of the model.

    Args:
        model: The model.
        report: What `from_pretrained` returns beside it with `output_loading_info`.
        described_by: The file, or the part of one, that says what the model is.

    Raises:
        ValueError: If weights are missing, have another shape, or belong to layers that the model does not have; names
            them.
    """
    name = type(model).__name__
    if report["missing_keys"]:
        raise ValueError(
            f"{described_by} describes a {name}, and these weights of it are missing: {_some(report['missing_keys'])}"
        )
    if report["mismatched_keys"]:
        shapes = [f"{key} {tuple(there)} (not {tuple(here)})" for key, there, here in report["mismatched_keys"]]
        raise ValueError(f"{described_by} describes a {name}, and these weights have other shapes: {_some(shapes)}")
    # A value head or an old buffer does no harm; layers behind those of the config are a part of the model.
    known = {_pattern(key) for key in model.state_dict()}
    beyond = [key for key in report["unexpected_keys"] if re.search(r"\d", key) and _pattern(key) in known]
    if beyond:
        raise ValueError(f"{described_by} describes a {name}, which has no place for these weights: {_some(beyond)}")
    if report.get("error_msgs") or report.get("conversion_errors"):
        raise ValueError(f"its weights could not be read: {report.get('error_msgs') or report['conversion_errors']}")


def _pattern(key: str) -> str:
    """Returns the name of a weight without the numbers of layers."""
    return re.sub(r"\d+", "*", key)


def _some(names: Iterable[str]) -> str:
    """Writes a list of names, the first few of many."""
    ordered = sorted(names)
    more = len(ordered) - _SHOWN
    return ", ".join(ordered[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
