"""Checkpoints: folders that are whole or not there at all, the last few and the best of a run.

    run/checkpoints/
        00007/                   number 7, counted from 1
            manifest.json        what it is, and the size and digest of every file: written last
            agent.json  policy/ ...  see agents.training.agent_state
        .new  .trial  .00005     being written, tried out, or removed
        options.json             the options that the run began with, see agents.cli.train

A checkpoint is written under another name, pushed to the disk, and then renamed, so that a stop at any moment leaves
the one before. Before it is read, every file is checked against its digest. There are safetensors and JSON alone, and
never a pickle. What the files hold is in `agents.training.agent_state`.

Whatever else lies among checkpoints, or inside one, was put there by somebody else. It is left where it is, and ends
neither a run nor a resume.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from agents.distributed import fsdp
from agents.files import read_json, sync_file, sync_folder, write_json

FORMAT = 3
"""The version of layout and content. A checkpoint of another one is refused."""

FOLDER = "checkpoints"

MANIFEST = "manifest.json"

OPTIONS = "options.json"

_NEW, _TRIAL = ".new", ".trial"

_UNFINISHED = re.compile(r"\.(?:new|trial|([0-9]{5,}))(?:-[0-9]+)?")
"""Names of folders that a stop may leave: a checkpoint that was being written, tried out or removed."""
_LARGEST_MANIFEST = 1 << 24  # bytes
_LARGEST_SCORE = sys.float_info.max  # neither NaN nor infinity

_LIBRARIES = ("torch", "transformers", "numpy", "gymnasium")

_LOG = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that is damaged, of another version, or not there."""


class SaveError(OSError):
    """A checkpoint could not be written; the one before is still there."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, as its manifest describes it.

    Attributes:
        path: The checkpoint's folder.
        number: Its number, from 1; 0 where its folder has another name.
        timesteps: Tokens played so far.
        updates: Updates made so far.
        score: Mean score on validation examples of these very weights; None where they were not evaluated.
        rows: Number of rows that each log had then, by the log's name; empty where it was written outside of a run.
    """

    path: Path
    number: int
    timesteps: int
    updates: int
    score: float | None
    rows: Mapping[str, int]

    def __str__(self) -> str:
        score = "" if self.score is None else f", validation score {self.score:+.4f}"
        return f"number {self.number} ({self.timesteps:,} tokens{score})"


def write(
    run: Path,
    fill: Callable[[Path], None],
    *,
    timesteps: int,
    updates: int,
    score: float | None = None,
    rows: Mapping[str, int] | None = None,
    keep: int = 2,
) -> Path:
    """Writes a checkpoint, and then removes those that need not be kept.

    Args:
        run: The run's folder.
        fill: Writes its files into an empty folder.
        timesteps: Tokens played so far.
        updates: Updates made so far.
        score: Mean score on validation examples of these very weights; None where they were not evaluated.
        rows: Number of rows that each log has, by the log's name.
        keep: Number of the last ones that stay. The one with the best score stays beside them.

    Returns:
        The checkpoint's path.

    Raises:
        SaveError: If it cannot be written. Nothing of it is left then, and those before are as they were.
    """
    folder = run / FOLDER
    fresh = folder / _NEW
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(folder)
        fresh = _free(fresh)
        fresh.mkdir()
        fill(fresh)
        files = sorted(path for path in fresh.rglob("*") if path.is_file())
        # The manifest is last: a folder without one, or with one that does not match, is no checkpoint.
        manifest = {
            "format": FORMAT,
            "timesteps": timesteps,
            "updates": updates,
            "score": score,
            "rows": dict(rows or {}),
            "libraries": {name: version(name) for name in _LIBRARIES},
            "files": {path.relative_to(fresh).as_posix(): fingerprint(path) for path in files},
        }
        for path in files:
            sync_file(path)
        write_json(fresh / MANIFEST, manifest)
        for inside in [path for path in fresh.rglob("*") if path.is_dir()]:
            sync_folder(inside)
        target = folder / f"{_last_number(folder) + 1:05d}"
        os.replace(fresh, target)
        sync_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        before = listed(run)
        left = f"The one before, of {before[-1].timesteps:,} tokens, is whole" if before else "There is none before it"
        raise SaveError(
            f"Expected to write a checkpoint of {timesteps:,} tokens into {str(folder)!r}, got: {error}. {left}. "
            f"When there is room again, go on with: python -m agents train --resume {run}"
        ) from error
    _prune(run, keep)
    return target


def rehearse(folder: Path, fill: Callable[[Path], None]) -> None:
    """Writes what will be saved into a folder that is removed again, before there is anything to lose.

    Args:
        folder: Where it will be saved: a run's folder of checkpoints, or that of a model.
        fill: Writes into a folder that does not exist, and checks what it wrote.

    Raises:
        SaveError: If it cannot be written.
        ValueError: Of `fill`, if it cannot be read back.
    """
    try:
        _remove_unfinished(folder)
        trial = _free(folder / _TRIAL)
        try:
            fill(trial)
        finally:
            shutil.rmtree(trial, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise SaveError(f"Expected to write into {str(folder)!r}, got: {error}") from error


def strays(run: Path) -> list[str]:
    """Lists what lies among a run's checkpoints and is none of its own: in the way of nothing, and never removed.

    Args:
        run: The run's folder.

    Returns:
        The names, sorted.
    """
    folder = run / FOLDER
    return sorted(path.name for path in folder.iterdir() if not _is_ours(path)) if folder.is_dir() else []


def _is_ours(path: Path) -> bool:
    if path.name == OPTIONS:
        return path.is_file()
    if path.is_symlink() or not path.is_dir():
        return False
    return _UNFINISHED.fullmatch(path.name) is not None or _holds_checkpoint(path)


def _remove_unfinished(folder: Path) -> None:
    """Removes what a process that was stopped has left of a checkpoint that it was writing, trying or removing."""
    for path in list(folder.iterdir()) if folder.is_dir() else ():
        unfinished = _UNFINISHED.fullmatch(path.name)
        if unfinished is None or path.is_symlink() or not path.is_dir():
            continue
        if number := unfinished.group(1):
            _remove(path, number)
        else:
            shutil.rmtree(path, ignore_errors=True)  # NFS keeps files that are open somewhere: next time, then


def _free(path: Path) -> Path:
    """Returns a name that nothing has: the path's own, or with a number behind it."""
    names = [path, *(path.with_name(f"{path.name}-{number}") for number in range(1, 100))]
    return next((name for name in names if not os.path.lexists(name)), path)


def _last_number(folder: Path) -> int:
    """Returns the largest number that is taken, also by something that is no checkpoint; 0 where none is."""
    taken = (_number(path.name) for path in folder.iterdir())
    return max((number for number in taken if number is not None), default=0)


def _number(name: str) -> int | None:
    """Returns the number of the checkpoint that has this name; None where none has."""
    if not (name.isascii() and name.isdecimal()):
        return None
    return int(name) if name == f"{int(name):05d}" else None


def listed(run: Path) -> list[Checkpoint]:
    """Lists the checkpoints of a run whose manifests can be read, the oldest first. Their files are not looked at.

    Args:
        run: The run's folder.

    Returns:
        The checkpoints.
    """
    readable = []
    for number in numbers(run):
        try:
            readable.append(_described(run / FOLDER / f"{number:05d}"))
        except CheckpointError:
            continue
    return readable


def best(checkpoints: list[Checkpoint]) -> Checkpoint | None:
    """Returns the checkpoint with the best score, the later of two equals; None where none has a score."""
    scored = [checkpoint for checkpoint in checkpoints if checkpoint.score is not None]
    return max(scored, key=lambda checkpoint: (checkpoint.score, checkpoint.number), default=None)


def find(folder: str | Path, which: str | int = "last") -> Checkpoint:
    """Finds a checkpoint, and checks its files against their digests.

    Args:
        folder: The run's folder, or that of one checkpoint.
        which: "last", "best" (by validation score) or a number. Where the last one is damaged, the one before it is
            taken, with a warning. A damaged checkpoint that was asked for by its number is refused.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: If there is none, or it is damaged or of another version.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        return verified(folder)
    known = numbers(folder)
    if not known:
        if (folder / "checkpoint" / "agent.json").is_file():
            raise CheckpointError(f"Expected a checkpoint of format {FORMAT} in {str(folder)!r}, got one of format 1")
        raise CheckpointError(
            f"Expected the folder of a run, with a checkpoint in it, got {str(folder)!r}, which has none"
        )
    if which == "last":
        problems = []
        for number in reversed(known):
            try:
                return verified(folder / FOLDER / f"{number:05d}")
            except CheckpointError as error:
                _LOG.warning("Passing over a checkpoint: %s", error)
                problems.append(str(error))
        raise CheckpointError(f"Expected a whole checkpoint in {str(folder)!r}, got none: {'; '.join(problems)}")
    if which == "best":
        chosen = best(listed(folder))
        if chosen is None:
            raise CheckpointError(f"Expected a checkpoint with a validation score in {str(folder)!r}, got none")
        return verified(chosen.path)
    if isinstance(which, bool) or not str(which).isdecimal() or int(which) not in known:
        shown = ", ".join(str(checkpoint) for checkpoint in listed(folder))
        raise CheckpointError(f"Expected the checkpoint to be 'last', 'best' or one of {shown}, got {which!r}")
    return verified(folder / FOLDER / f"{int(which):05d}")


def verified(path: Path) -> Checkpoint:
    """Reads a checkpoint's manifest, and checks every file against its size and digest.

    Args:
        path: The checkpoint's folder.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: If it is damaged or of another version; says in what.
    """
    described = _described(path)
    for name, expected in _read_manifest(path)["files"].items():
        parts = PurePosixPath(name)
        file = path / parts
        try:
            is_inside = file.resolve().is_relative_to(path.resolve())
            size = file.stat().st_size if file.is_file() else 0
        except (OSError, ValueError, RuntimeError) as error:  # a name with NUL, a loop of links, a name too long
            raise CheckpointError(
                f"Expected the files of {str(path)!r} inside it, got {name!r:.200}: {error}"
            ) from error
        if parts.is_absolute() or ".." in parts.parts or not is_inside:
            raise CheckpointError(f"Expected the files of {str(path)!r} inside it, got {name!r:.200}, which leaves it")
        if not file.is_file():
            raise CheckpointError(f"Expected a whole checkpoint in {str(path)!r}, but it is damaged: {name} is missing")
        # Of a file with another size, no digest is computed: it may be of any size.
        if not isinstance(expected, dict) or size != expected.get("bytes") or fingerprint(file) != expected:
            raise CheckpointError(
                f"Expected a whole checkpoint in {str(path)!r}, but it is damaged: {name} has changed"
            )
    return described


def run_of(folder: Path) -> Path:
    """Returns the folder of the run that a checkpoint belongs to; the folder itself, where it is none of a run's."""
    is_of_a_run = folder.parent.name == FOLDER and (folder / MANIFEST).is_file()
    return folder.parent.parent if is_of_a_run else folder


def numbers(run: Path) -> list[int]:
    """Lists the numbers of a run's checkpoints, damaged ones too, in ascending order.

    Args:
        run: The run's folder.

    Returns:
        The numbers.
    """
    folder = run / FOLDER
    found = [path.name for path in folder.iterdir() if _holds_checkpoint(path)] if folder.is_dir() else []
    return sorted(number for name in found if (number := _number(name)) is not None)


def _holds_checkpoint(path: Path) -> bool:
    """Returns True for a checkpoint, also a damaged one, and False for anything else that has such a name."""
    return _number(path.name) is not None and any((path / name).is_file() for name in (MANIFEST, "agent.json"))


def _read_manifest(path: Path) -> dict[str, Any]:
    """Reads a manifest's JSON. CheckpointError where that cannot be read."""
    try:
        return read_json(path / MANIFEST, largest=_LARGEST_MANIFEST)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _described(path: Path) -> Checkpoint:
    """Reads a checkpoint's manifest, which may have been written by anybody."""
    manifest = _read_manifest(path)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"Expected a checkpoint of format {FORMAT} in {str(path)!r}, got {manifest.get('format')!r}: use the "
            "version of textenvs that wrote it"
        )
    timesteps, updates, score = (manifest.get(name) for name in ("timesteps", "updates", "score"))
    are_counts = all(type(number) is int and 0 <= number < 2**63 for number in (timesteps, updates))
    if (
        not are_counts
        or not (score is None or (type(score) in (int, float) and abs(score) <= _LARGEST_SCORE))
        or not _names_files(manifest.get("files"))
    ):
        raise CheckpointError(f"Expected a whole checkpoint in {str(path)!r}, but its {MANIFEST} is damaged")
    assert isinstance(timesteps, int)
    assert isinstance(updates, int)
    rows = manifest.get("rows")
    rows = {name: count for name, count in rows.items() if isinstance(count, int)} if isinstance(rows, dict) else {}
    return Checkpoint(path, _number(path.name) or 0, timesteps, updates, score, rows)


def _names_files(files: Any) -> bool:
    return isinstance(files, dict) and bool(files)


def fingerprint(file: Path) -> dict[str, Any]:
    """Returns the size of a file and the digest of its content, as a manifest has them."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _prune(run: Path, keep: int) -> None:
    """Removes all checkpoints but the last few and the best."""
    known = listed(run)
    kept = {checkpoint.number for checkpoint in known[-keep:]}
    if (top := best(known)) is not None:
        kept.add(top.number)
    for checkpoint in known:
        path = checkpoint.path
        if checkpoint.number in kept or path.is_symlink():
            continue
        # Renamed first, so that one that is half removed does not look like a checkpoint.
        hidden = _free(path.with_name(f".{path.name}"))
        try:
            os.replace(path, hidden)
        except OSError as error:  # one checkpoint too many is no reason to end a run
            _LOG.warning("Could not remove the old checkpoint %s: %s", path, error)
            continue
        _remove(hidden, path.name)


def _remove(folder: Path, name: str) -> None:
    """Removes the files of an old checkpoint, and its folder, unless somebody else has put something there.

    Args:
        folder: The checkpoint, under the name that it has while it is removed.
        name: The name that it had.
    """
    try:
        files = [*read_json(folder / MANIFEST)["files"], MANIFEST]
    except (ValueError, KeyError, TypeError):
        files = [MANIFEST]
    for file in files:  # the manifest is last: after a stop it still says which files are the checkpoint's
        path = folder / file
        if path.resolve().is_relative_to(folder.resolve()):
            with contextlib.suppress(OSError):
                path.unlink()
    for inside in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            inside.rmdir()
    try:
        folder.rmdir()
    except OSError:
        left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
        if all(PurePosixPath(path).name.startswith(".nfs") for path in left):
            return  # of files that are open somewhere: NFS removes them when they are closed
        kept = _free(folder.with_name(f"{name}.left"))
        with contextlib.suppress(OSError):
            os.replace(folder, kept)
            _LOG.warning("Kept in %s what was no part of that checkpoint: %s", kept, ", ".join(left[:5]))


# What an optimiser holds ---------------------------------------------------------------------------------------------


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Takes an optimiser's state apart into named tensors and JSON values.

    Args:
        optimizer: The optimiser. If its parameters are cut over several processes, all of them call this together.

    Returns:
        Tensors by name, each gathered from all processes, and the rest.
    """
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                full = fsdp.whole(value)
                # What was gathered for the file does not stay on the device.
                tensors[f"{index}.{name}"] = (full if full is value else full.cpu()).contiguous()
            else:
                numbers[f"{index}.{name}"] = value
    groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
    return tensors, {"numbers": numbers, "groups": groups}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Puts an optimiser back into the state that `flatten_optimizer` took apart.

    Args:
        optimizer: A fresh one, over the same parameters.
        tensors: The state's tensors.
        rest: Everything else of it.

    Raises:
        ValueError: If the state is that of other parameters, or of another optimiser.
    """
    _check_state(optimizer, tensors, rest)
    state = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    is_sharded = fsdp.is_sharded(parameters)
    for key, value in [*tensors.items(), *rest["numbers"].items()]:
        index, name = key.split(".", 1)
        piece = fsdp.like(value, parameters[int(index)]) if is_sharded and isinstance(value, Tensor) else value
        state["state"].setdefault(int(index), {})[name] = piece
    for group, saved in zip(state["param_groups"], rest["groups"], strict=True):
        group.update(saved)
    optimizer.load_state_dict(state)


def _check_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Raises a ValueError if a state does not fit an optimiser, which PyTorch says in its next step, or not at all."""
    numbers, groups = rest.get("numbers"), rest.get("groups")
    if not isinstance(numbers, dict) or not isinstance(groups, list):
        raise ValueError("Expected the optimiser's numbers and groups, got others")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in [*tensors.items(), *numbers.items()]:
        index, _, name = key.partition(".")
        if not index.isascii() or not index.isdecimal() or int(index) >= len(parameters) or not name:
            raise ValueError(f"Expected the optimiser's state of {len(parameters)} parameters, got {key!r:.200}")
        if isinstance(value, Tensor):
            shape = tuple(parameters[int(index)].shape)  # of the whole parameter, where it is cut into pieces
            if value.dim() > 0 and tuple(value.shape) != shape:
                raise ValueError(f"Expected {key!r:.200} of the optimiser in shape {shape}, got {tuple(value.shape)}")
        elif value is not None and not isinstance(value, (int, float)):
            raise ValueError(f"Expected numbers of the optimiser, got {key!r:.200} {value!r:.200}")
    names: dict[str, set[str]] = {}
    for key in (*tensors, *numbers):
        index, _, name = key.partition(".")
        names.setdefault(index, set()).add(name)
    if len(set(map(frozenset, names.values()))) > 1:
        raise ValueError("Expected the same entries of the optimiser's state for all parameters, got some without")
    if len(groups) != len(optimizer.param_groups):
        raise ValueError(f"Expected {len(optimizer.param_groups)} groups of the optimiser, got {len(groups)}")
    for group, saved in zip(optimizer.param_groups, groups, strict=True):
        if not isinstance(saved, dict) or not all(_is_like(value, group.get(name, 0)) for name, value in saved.items()):
            raise ValueError(f"Expected settings of a {type(optimizer).__name__}, got {saved!r:.200}")


def _is_like(value: Any, present: Any) -> bool:
    """Returns True if a setting from a file may take the place of another: numbers of numbers, lists of as many."""
    if isinstance(present, (list, tuple)):
        return isinstance(value, (list, tuple)) and len(value) == len(present) and all(map(_is_like, value, present))
    if isinstance(present, bool) or present is None:
        return value is None or isinstance(value, bool)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isinstance(present, (int, float))
