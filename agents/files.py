"""Files that must not be lost, and files that somebody else may have made.

What is written here is whole or not there at all: it is written under another name, pushed to the disk and then
renamed. What is read here may hold anything; where it cannot be used, a `ValueError` names the file.
"""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from textenvs.files import read_json as read_json


def write_text(file: Path, text: str) -> None:
    """Replaces a file's content: a stop at any moment leaves all of the old one or all of the new one.

    Args:
        file: The file.
        text: The new content, written as UTF-8.

    Raises:
        OSError: If it cannot be written; the old content is still there.
    """
    beside = file.with_name(file.name + ".new")
    with beside.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, file)
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


_LOCKED_BYTE = 1 << 16
"""The byte that is locked on Windows, beyond the text of the lock's file."""


class FileLock:
    """A lock that one process at a time holds. The system releases it when the process ends, in whatever way.

    Args:
        file: The lock's file, which is made, and stays.
        expected: The beginning of the message to a second process, after "Expected".
        instead: Its end: an alternative to waiting.

    Raises:
        ValueError: If another process holds it; says which.
        OSError: If the file cannot be written to.
    """

    def __init__(self, file: Path, expected: str, instead: str) -> None:
        self._stream: TextIO = file.open("a+", encoding="utf-8")
        try:
            _lock(self._stream)
        except OSError as error:
            self._stream.seek(0)
            owner = self._stream.read(200).strip() or "another process"
            self._stream.close()
            raise ValueError(
                f"Expected {expected}, which {owner} is using. Wait for it, stop it, or {instead}"
            ) from error
        self._stream.truncate(0)
        self._stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._stream.flush()

    def release(self) -> None:
        """Releases the lock."""
        self._stream.close()


def _lock(stream: TextIO) -> None:
    """Takes the lock of a file. Raises an OSError where another process has it."""
    try:
        import fcntl  # not on Windows
    except ImportError:
        windows: Any = import_module("msvcrt")
        stream.seek(_LOCKED_BYTE)  # Windows locks bytes, which others then cannot read, and they read the owner's name
        windows.locking(stream.fileno(), windows.LK_NBLCK, 1)
        return
    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
