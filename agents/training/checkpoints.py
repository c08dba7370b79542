"""Checkpoints: folders that are whole or not there at all, the last few and the best of a run.

    run/checkpoints/00007/       number 7, counted from 1
        manifest.json            what it is, and the size and digest of every file: written last
        agent.json  policy/ ...  see agents.training.agent_state

A checkpoint is written under another name, pushed to the disk, and then renamed, so that a stop at any moment leaves
the one before. Before it is read, every file is checked against its digest. There are safetensors and JSON alone, and
never a pickle. What the files hold is in `agents.training.agent_state`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
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
    """

    path: Path
    number: int
    timesteps: int
    updates: int
    score: float | None

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
    keep: int = 2,
) -> Path:
    """Writes a checkpoint, and then removes those that need not be kept.

    Args:
        run: The run's folder.
        fill: Writes its files into an empty folder.
        timesteps: Tokens played so far.
        updates: Updates made so far.
        score: Mean score on validation examples of these very weights; None where they were not evaluated.
        keep: Number of the last ones that stay. The one with the best score stays beside them.

    Returns:
        The checkpoint's path.

    Raises:
        SaveError: If it cannot be written. Nothing of it is left then, and those before are as they were.
    """
    folder = run / FOLDER
    fresh = folder / ".new"
    try:
        fresh.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*"):  # of a process that was stopped while it wrote or removed a checkpoint
            shutil.rmtree(leftover)
        fresh.mkdir()
        fill(fresh)
        files = sorted(path for path in fresh.rglob("*") if path.is_file())
        # The manifest is last: a folder without one, or with one that does not match, is no checkpoint.
        manifest = {
            "format": FORMAT,
            "timesteps": timesteps,
            "updates": updates,
            "score": score,
            "libraries": {name: version(name) for name in _LIBRARIES},
            "files": {path.relative_to(fresh).as_posix(): fingerprint(path) for path in files},
        }
        for path in files:
            sync_file(path)
        write_json(fresh / MANIFEST, manifest)
        for inside in [path for path in fresh.rglob("*") if path.is_dir()]:
            sync_folder(inside)
        target = folder / f"{max(numbers(run), default=0) + 1:05d}"
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


def rehearse(run: Path, fill: Callable[[Path], None]) -> None:
    """Writes what a checkpoint will hold into a folder that is removed again, before there is anything to lose.

    Args:
        run: The run's folder.
        fill: Writes into a folder that does not exist, and checks what it wrote.

    Raises:
        SaveError: If it cannot be written.
        ValueError: Of `fill`, if it cannot be read back.
    """
    trial = run / FOLDER / ".trial"
    try:
        fill(trial)
    except (OSError, SafetensorError) as error:
        raise SaveError(f"Expected to write checkpoints into {str(run / FOLDER)!r}, got: {error}") from error
    finally:
        shutil.rmtree(trial, ignore_errors=True)


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
    for name, expected in read_json(path / MANIFEST)["files"].items():
        parts = PurePosixPath(name)
        file = path / parts
        if parts.is_absolute() or ".." in parts.parts or not file.resolve().is_relative_to(path.resolve()):
            raise CheckpointError(f"Expected the files of {str(path)!r} inside it, got {name!r}, which leaves it")
        if not file.is_file():
            raise CheckpointError(f"Expected a whole checkpoint in {str(path)!r}, but it is damaged: {name} is missing")
        if fingerprint(file) != expected:
            raise CheckpointError(
                f"Expected a whole checkpoint in {str(path)!r}, but it is damaged: {name} has changed"
            )
    return described


def run_of(checkpoint: Path) -> Path:
    """Returns the folder of the run that a checkpoint belongs to; the checkpoint itself, where it lies by itself."""
    return checkpoint.parent.parent if checkpoint.parent.name == FOLDER else checkpoint


def numbers(run: Path) -> list[int]:
    """Lists the numbers of a run's checkpoints, damaged ones too, in ascending order.

    Args:
        run: The run's folder.

    Returns:
        The numbers.
    """
    folder = run / FOLDER
    names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and len(name) >= 5)


def _described(path: Path) -> Checkpoint:
    """Reads a checkpoint's manifest, which may have been written by anybody."""
    try:
        manifest = read_json(path / MANIFEST)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"Expected a checkpoint of format {FORMAT} in {str(path)!r}, got {manifest.get('format')!r}: use the "
            "version of textenvs that wrote it"
        )
    timesteps, updates, score = (manifest.get(name) for name in ("timesteps", "updates", "score"))
    are_counts = all(isinstance(number, int) and not isinstance(number, bool) for number in (timesteps, updates))
    if (
        not are_counts
        or not (score is None or isinstance(score, (int, float)))
        or not _names_files(manifest.get("files"))
    ):
        raise CheckpointError(f"Expected a whole checkpoint in {str(path)!r}, but its {MANIFEST} is damaged")
    assert isinstance(timesteps, int)
    assert isinstance(updates, int)
    number = int(path.name) if path.name.isascii() and path.name.isdecimal() else 0
    return Checkpoint(path, number, timesteps, updates, score)


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
        if checkpoint.number not in kept:
            # Renamed first, so that one that is half removed does not look like a checkpoint.
            hidden = checkpoint.path.with_name(f".{checkpoint.path.name}")
            try:
                os.replace(checkpoint.path, hidden)
            except OSError as error:  # one checkpoint too many is no reason to end a run
                _LOG.warning("Could not remove the old checkpoint %s: %s", checkpoint.path, error)
            shutil.rmtree(hidden, ignore_errors=True)


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
    """
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
