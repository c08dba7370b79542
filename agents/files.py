"""Files that must not be lost, and files that somebody else may have made.

What is written here is whole or not there at all: it is written under another name, pushed to the disk and then
renamed. What is read here may hold anything; where it cannot be used, a `ValueError` names the file.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textenvs.files import read_json as read_json


def write_text(file: Path, text: str) -> None:
    """Replaces a file's content: a stop at any moment leaves all of the old one or all of the new one.

    Args:
        file: The file.
        text: The new content, written as UTF-8.

    Raises:
        OSError: If it cannot be written; the old content is still there.
    """
    # A name of its own, so that two who write the same file at once leave that of the later one, and no mixture. It is
    # hidden, as `check_empty` has it, since a process that is killed leaves it behind.
    beside = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}.new")
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Writes a value as JSON that every reader takes. NaN and infinity, for which JSON has no word, become null.

    Args:
        value: JSON values.
        indent: Spaces of each level; None writes one line.

    Returns:
        The text.

    Example:
        >>> to_json({"score": 0.5, "explained_variance": float("nan")})
        '{"score": 0.5, "explained_variance": null}'
    """
    return json.dumps(_without_nan(value), indent=indent, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(entry) for entry in value]
    return value


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Replaces a file's content by a JSON object, as `write_text` does.

    Args:
        file: The file.
        content: JSON values. NaN and infinity become null.

    Raises:
        OSError: If it cannot be written.
    """
    write_text(file, to_json(content, indent=2) + "\n")


def check_empty(folder: Path, but: tuple[str, ...] = ()) -> None:
    """Raises if a command would write among files that are not its own.

    Args:
        folder: The folder, which need not exist.
        but: Names of files that may be there. Hidden files, such as .DS_Store, may be there, too.

    Raises:
        ValueError: If it is a file, or holds something.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"Expected a folder to write to, got {str(folder)!r}, which is a file: choose another")
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    names = [name for name in names if name not in but and not name.startswith(".")]
    if names:
        raise ValueError(
            f"Expected a new or empty folder, got {str(folder)!r}, which holds {names[0]!r:.200}: choose another"
        )


def sync_file(file: Path) -> None:
    """Pushes a file that is written and closed to the disk.

    Args:
        file: The file.
    """
    descriptor = os.open(file, os.O_RDWR)  # Windows syncs only what is open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Pushes a folder's list of names to the disk, on systems that can (Windows cannot).

    Args:
        folder: The folder.
    """
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
