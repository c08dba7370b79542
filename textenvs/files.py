"""Files that somebody else may have made: plain ones alone are read, and no more of them than was agreed.

A named pipe never ends, a device such as /dev/zero never stops giving, and a JSON file may be nested a million levels
deep. Each of these is a `ValueError` that names the file. Links are followed: the cache of the Hugging Face Hub is made
of them.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

LARGEST_JSON = 1 << 28
"""Bytes of a JSON file that is still read: no config, tokenizer or record comes near."""

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
"""What is no plain file, by the type in its mode."""


def special_kind(file: Path) -> str | None:
    """Names the kind of a path that is neither a plain file nor a folder, links followed.

    Args:
        file: The path, which need not exist.

    Returns:
        "a named pipe", "a socket" or "a device"; None for plain files, folders and what does not exist.
    """
    try:
        mode = file.stat().st_mode
    except OSError:
        return None
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else _KINDS.get(stat.S_IFMT(mode), "no plain file")


def open_plain(file: Path) -> BinaryIO:
    """Opens a plain file for reading. Nothing else is waited for or read.

    Args:
        file: The file, or a link to it.

    Returns:
        Its bytes.

    Raises:
        ValueError: If there is no such file, it may not be read, or it is no plain file.
    """
    try:
        # Without O_NONBLOCK, a named pipe would wait here for somebody to write to it. Plain files do not know it.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # a ValueError: a name with a NUL
        reason = special_kind(file) if isinstance(error, OSError) else None
        reason = f"it is {reason}" if reason else getattr(error, "strerror", None) or str(error)
        raise ValueError(f"Expected a file that can be read, got {str(file)!r:.500}: {reason}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = _KINDS.get(stat.S_IFMT(mode), "no plain file")
        raise ValueError(f"Expected a file that can be read, got {str(file)!r:.500}: it is {kind}")
    return os.fdopen(descriptor, "rb")


def read_text(file: Path, *, largest: int = LARGEST_JSON) -> str:
    """Reads a text, which is UTF-8.

    Args:
        file: The file.
        largest: Bytes of a file that is still read.

    Returns:
        The text.

    Raises:
        ValueError: If the file cannot be read, is larger, or is not UTF-8.
    """
    with open_plain(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > largest:
            raise ValueError(f"Expected at most {largest:,} bytes in {str(file)!r:.500}, got {size:,}")
        try:
            content = stream.read(largest + 1)  # a file in /proc says that it has none
        except OSError as error:
            raise ValueError(f"Expected a file that can be read, got {str(file)!r:.500}: {error.strerror}") from error
    if len(content) > largest:
        raise ValueError(f"Expected at most {largest:,} bytes in {str(file)!r:.500}, got more")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected {str(file)!r:.500} to be UTF-8, but byte {error.start} is not: {error.reason}"
        ) from error


def read_json(file: Path, *, largest: int = LARGEST_JSON) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Args:
        file: The file.
        largest: Bytes of a file that is still read.

    Returns:
        The object.

    Raises:
        ValueError: If the file cannot be read, is larger, is nested too deeply, or holds no object.
    """
    text = read_text(file, largest=largest)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"Expected {str(file)!r:.500} to hold JSON, but it could not be read: {error}") from error
    except RecursionError as error:
        raise ValueError(f"Expected {str(file)!r:.500} to hold JSON, but it is nested too deeply to be read") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected {str(file)!r:.500} to hold a JSON object, got {type(content).__name__}")
    return content
