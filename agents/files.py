"""Files that must not be lost, and files that somebody else may have made.

What is written here is whole or not there at all: it is written beside its place, pushed to the disk and then renamed.
What is read here may hold anything, and ends in a `ValueError` that names the file.
"""

from __future__ import annotations

import json
import os
import socket
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

LARGEST_JSON = 1 << 28
"""Bytes of a JSON file that is still read: no config, tokenizer or record of ours comes near."""


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Args:
        file: The file.

    Returns:
        The object.

    Raises:
        ValueError: If the file cannot be read, is larger than `LARGEST_JSON`, is nested too deeply, or holds no object.
    """
    try:
        size = file.stat().st_size
        if size > LARGEST_JSON:
            raise ValueError(f"it has {size:,} bytes, more than {LARGEST_JSON:,}")
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected {str(file)!r} to hold JSON, but it could not be read: {error}") from error
    except RecursionError as error:
        raise ValueError(f"Expected {str(file)!r} to hold JSON, but it is nested too deeply to be read") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected {str(file)!r} to hold a JSON object, got {type(content).__name__}")
    return content


def write_text(file: Path, text: str) -> None:
    """Put a text in a file's place, whole: a stop at any moment leaves the old one or the new one.

    Args:
        file: The file.
        text: What it holds from now on, UTF-8.

    Raises:
        OSError: If it cannot be written; the old one is still there.
    """
    beside = file.with_name(file.name + ".new")
    with beside.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, file)
    sync_folder(file.parent)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Put a JSON object in a file's place, as `write_text` does.

    Args:
        file: The file.
        content: JSON values.

    Raises:
        OSError: If it cannot be written.
    """
    write_text(file, json.dumps(content, indent=2) + "\n")


def sync_file(file: Path) -> None:
    """Push a file that is written and closed to the disk.

    Args:
        file: The file.
    """
    descriptor = os.open(file, os.O_RDWR)  # Windows syncs only what is open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Push a folder's list of names to the disk, where the system lets one (Windows does not).

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


class FileLock:
    """At most one process at a time holds it. The system lets go of it when a process ends, however.

    Args:
        file: The lock's file, which is made, and stays.
        expected: What the error of a second process says that it expected, and got.
        instead: What somebody may do who does not want to wait.

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
        """Let others in."""
        self._stream.close()


def _lock(stream: TextIO) -> None:
    """Take the lock of a file, or raise an OSError where another process has it."""
    try:
        import fcntl
    except ImportError:
        windows: Any = import_module("msvcrt")
        stream.seek(_LOCKED_BYTE)  # locks of Windows are of bytes, which nobody else can read then: one past the text
        windows.locking(stream.fileno(), windows.LK_NBLCK, 1)
        return
    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
