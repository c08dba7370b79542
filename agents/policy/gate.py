"""The gate: what is looked at in somebody's model folder before any library reads it, and what becomes of its errors.

Libraries raise everything on what strangers wrote, wait for a named pipe, make ten million layers if a config says so,
and take weights from wherever an entry of it points. What is looked at here is cheap: kinds and sizes of files, the
numbers in a config, and the shapes in the headers of safetensors.

Links are followed to plain files, wherever these lie: the cache of the Hugging Face Hub is made of them. A folder from
somebody else that is unpacked with links in it therefore shows no more than what its owner could read anyway.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from textenvs.files import LARGEST_JSON, open_plain, read_json, special_kind
from textenvs.tokenizer import is_panic

_LARGEST_CONFIG = 1 << 24
"""Bytes of a config that is still read; the largest, with the names of many labels, have one million."""

_TEXTS = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab")
"""Endings of files that libraries read as a whole."""

_CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
            "added_tokens.json", "adapter_config.json")  # fmt: skip

_LARGEST_INT = 1 << 31  # of a config: no length, width or token's number comes near
_COUNT = re.compile(r"(layers?|blocks?|experts|depth|stages)$")  # settings that a model makes modules for, one by one
_MANY = 10_000  # modules that are made in any case
_BUFFERS = 1 << 32  # bytes of tables that a model may compute from its config, in any case


@contextmanager
def refusing(expected: str, got: str) -> Iterator[None]:
    """Turns whatever is raised on a foreign folder into a ValueError.

    Args:
        expected: The beginning of its message, behind "Expected": a model of some kind.
        got: The name of the folder.

    Raises:
        ValueError: In place of any error but that of a library which is missing, and a full GPU.
    """
    try:
        yield
    except (torch.cuda.OutOfMemoryError, ImportError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):  # Ctrl-C
            raise
        raise ValueError(f"Expected {expected}, got {got}: {explained(error)}") from error


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Puts the name of a file in front of whatever is raised while it is used.

    Args:
        name: The file's name, or what it holds.

    Raises:
        ValueError: In place of other errors, as in `refusing`.
    """
    try:
        yield
    except (torch.cuda.OutOfMemoryError, ImportError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ValueError(f"{name} cannot be used: {explained(error)}") from error


def explained(error: BaseException) -> str:
    """Writes an error for a message: with its type, where the text of it says little."""
    if isinstance(error, RecursionError):
        return "one of its files is nested too deeply to be read"
    if isinstance(error, MemoryError):
        return f"it needs more memory than there is ({error})"
    text = str(error) if isinstance(error, (ValueError, OSError)) and str(error) else repr(error)
    return text if len(text) < _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ..."


_LONGEST_TEXT = 3000  # characters of a library's error


def check_folder(folder: Path) -> None:
    """Checks the files of a folder as far as their kinds, their sizes and the JSON of its configs go.

    Args:
        folder: A model's folder. Hidden files and other folders in it are not looked at.

    Raises:
        ValueError: If a file is a named pipe, a socket or a device, is too large for what it is, or a config cannot be
            read; names the file.
    """
    for file in sorted(folder.iterdir()):
        if file.name.startswith("."):
            continue
        if (kind := special_kind(file)) is not None:
            raise ValueError(f"it holds {file.name!r:.200}, which is {kind}, and not a file")
        if file.suffix in _TEXTS and file.is_file() and (size := file.stat().st_size) > LARGEST_JSON:
            raise ValueError(f"it holds {file.name!r:.200} of {size:,} bytes, more than {LARGEST_JSON:,}")
    for name in _CONFIGS:
        if (folder / name).exists():
            read_json(folder / name, largest=_LARGEST_CONFIG)


def check_config(settings: Mapping[str, Any], tensors: int) -> None:
    """Checks a model's config, as it stands in the file, before anything is made of it.

    Args:
        settings: The config.
        tensors: Number of tensors in the model's files.

    Raises:
        ValueError: If it names files or code to load, or numbers that no model has.
    """
    if "transformers_weights" in settings:
        raise ValueError(
            f"its config.json names the weights to read, {settings['transformers_weights']!r:.200}: they are read from "
            "files with Transformers' usual names alone"
        )
    for name, value in _settings(settings):
        if name.endswith("_implementation") and isinstance(value, str) and "/" in value:
            raise ValueError(f"its config.json has {name} {value!r:.200}, which is code from the Hub: none is loaded")
        if not isinstance(value, int):
            continue
        if abs(value) > _LARGEST_INT:
            raise ValueError(f"its config.json has {name} {value:.3g}, which no model has")
        if _COUNT.search(name) and value > max(_MANY, tensors):
            raise ValueError(f"its config.json has {name} {value:,}, and its files hold {tensors:,} weights")


def _settings(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the settings of a config, and those of the configs in it."""
    waiting: list[tuple[str, Any]] = list(value.items())
    while waiting:
        name, setting = waiting.pop()
        if isinstance(setting, Mapping):
            waiting += setting.items()
        elif isinstance(setting, list):
            waiting += [(name, item) for item in setting]
        else:
            yield str(name), setting


def check_size(auto: Any, config: Any, numbers: int, described_by: str = "its config.json") -> None:
    """Checks that a config does not describe a far larger model than its files hold, without making it.

    Transformers draws what is missing, or has another shape, before it says so.

    Args:
        auto: The class of Transformers that makes the model.
        config: The config.
        numbers: How many numbers the tensors in the model's files have.
        described_by: The file, or the part of one, that the config is from.

    Raises:
        ValueError: If it is.
    """
    with torch.device("meta"):
        model = auto.from_config(copy.deepcopy(config), trust_remote_code=False)
    described = sum(parameter.numel() for parameter in model.parameters())
    if described > 2 * numbers + (1 << 24):
        raise ValueError(
            f"{described_by} describes a {type(model).__name__} of {described:,} numbers, and its files hold "
            f"{numbers:,}: weights of it are missing"
        )
    tables = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    if tables > max(_BUFFERS, 16 * numbers):
        raise ValueError(
            f"{described_by} describes a {type(model).__name__} with tables of {tables:,} bytes beside its weights"
        )


def shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Reads the shapes in the header of a safetensors file.

    Args:
        file: The file.

    Returns:
        Name to shape.

    Raises:
        ValueError: If it is no such file; names it.
    """
    open_plain(file).close()
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{file.name!r:.200} is no whole safetensors file: {error}") from error


def count(files: Iterable[Path]) -> tuple[int, int]:
    """Counts what safetensors files hold.

    Args:
        files: The files.

    Returns:
        The tensors in them, and the numbers in these.

    Raises:
        ValueError: If one is no such file; names it.
    """
    sizes = [math.prod(shape) for file in files for shape in shapes(file).values()]
    return len(sizes), sum(sizes)


def read_tensors(file: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Reads a safetensors file.

    Args:
        file: The file.
        device: Where to put its tensors.

    Returns:
        Name to tensor.

    Raises:
        ValueError: If it is no such file; names it.
    """
    shapes(file)
    return load_file(file, device=str(device))
