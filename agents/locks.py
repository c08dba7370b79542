"""One owner of a folder: whoever writes into it takes its lock before the first look, and keeps it until the end.

    with FolderLock(folder):
        ...

The system releases a lock when its process ends, in whatever way, so that none is left behind to be removed by hand.
Linux and macOS lock the file with flock, Windows a byte of it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
import threading
import time
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LOCK = "run.lock"
"""The file in a folder whose lock is the folder's. It stays there when it is released."""

_OWNER = b"process "
"""The beginning of the text in a lock's file, which says who holds it."""

_LOG = logging.getLogger(__name__)

_LOCKED_BYTE = 1 << 16
"""The byte that is locked on Windows, beyond the text of the lock's file, which others have to read."""

_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""Errors of a lock that another process holds. Others come from file systems that have no locks."""


class _Holding:
    """A lock that this process holds.

    Attributes:
        descriptor: The open file; -1 once it is released.
        key: The file's device and inode.
        thread: The thread that took it.
        times: How often it has taken it.
    """

    def __init__(self, descriptor: int, key: tuple[int, int]) -> None:
        self.descriptor, self.key = descriptor, key
        self.thread, self.times = threading.current_thread(), 1


_holdings: dict[tuple[int, int], _Holding] = {}
"""The locks that this process holds, by device and inode of their files."""

_guard = threading.Lock()
"""Held while a file is opened and locked, and at a fork: no child gets a file whose lock is being taken."""


class FileLock:
    """A lock that one thread of one process at a time holds. That thread may take it more than once.

    Args:
        file: The lock's file, which is made, and stays.
        expected: The beginning of the message to a second process, after "Expected".
        instead: Its end: an alternative to waiting.

    Raises:
        ValueError: If another thread or process holds it; says which. The file is then as it was.
        OSError: If the file cannot be written to.
    """

    def __init__(self, file: Path, expected: str, instead: str) -> None:
        self._file, self._expected, self._instead = file, expected, instead
        self._holding: _Holding | None = self._take()

    def _take(self) -> _Holding:
        while True:
            with _guard:
                descriptor = self._open()
                try:
                    holding = self._try(descriptor)
                except BaseException:
                    os.close(descriptor)
                    raise
                if holding is None or holding.descriptor != descriptor:
                    os.close(descriptor)
            if holding is not None:
                return holding

    def _try(self, descriptor: int) -> _Holding | None:
        """Takes the lock of an open file. Returns None if another file has taken its place before it was locked."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{str(self._file)!r} is no regular file")
        key = (status.st_dev, status.st_ino)
        if (holding := _holdings.get(key)) is not None:
            if holding.thread is not threading.current_thread():
                raise self._refused(f"another thread of process {os.getpid()}")
            holding.times += 1
            return holding
        if not _try_lock(descriptor, self._file):
            raise self._refused(_owner(descriptor))
        if not _is_at(self._file, key):
            return None
        _write_owner(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n")
        _holdings[key] = holding = _Holding(descriptor, key)
        return holding

    def _open(self) -> int:
        # Links are not followed: who made the folder could have the owner's name written anywhere.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        return os.open(self._file, flags | getattr(os, "O_NONBLOCK", 0), 0o666)

    def _refused(self, owner: str) -> ValueError:
        return ValueError(
            f"Expected {self._expected}, which {owner} is using. Wait for it, stop it, or {self._instead}"
        )

    def confirm(self) -> None:
        """Makes sure that the lock's file is still the one that is locked. One that was removed is made again.

        Raises:
            ValueError: If another file has taken its place: whatever it stands in may belong to another process by now.
            OSError: If the file cannot be written to.
        """
        holding = self._holding
        if holding is None or holding.descriptor < 0:
            raise ValueError(f"Expected a lock that is held, got that of {str(self._file)!r}, which was released")
        if _is_at(self._file, holding.key):
            return
        if self._file.exists():
            raise ValueError(
                f"Expected {self._expected}, but another {self._file.name} has taken the place of its own there: "
                "somebody else may be writing to it"
            )
        again = self._take()
        with _guard:  # all who hold the lock go on with the file that is there now
            os.close(holding.descriptor)
            _holdings.pop(holding.key, None)
            holding.descriptor, holding.key = again.descriptor, again.key
            _holdings[holding.key] = holding

    def release(self) -> None:
        """Gives the lock back; once more has no effect."""
        holding, self._holding = self._holding, None
        if holding is None:
            return
        with _guard:
            holding.times -= 1
            if holding.times or holding.descriptor < 0:
                return
            del _holdings[holding.key]
            _write_owner(holding.descriptor, "")
            os.close(holding.descriptor)
            holding.descriptor = -1

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the lock back."""
        self.release()


class FolderLock(FileLock):
    """The lock of a folder: who holds it is the only one to write there.

    The thread that holds it may take it again: a command takes it for all that it does, and each part that writes takes
    it for itself, since it may be called alone.

    Args:
        folder: The folder, which is made.

    Raises:
        ValueError: If another thread or process holds it; says which. Nothing has been changed then.
        OSError: If the folder cannot be written to; says what to do.
    """

    def __init__(self, folder: Path) -> None:
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            super().__init__(
                folder / LOCK,
                f"a folder that nobody else writes to, got {str(folder)!r}",
                "choose another folder with --output",
            )
        except OSError as error:
            raise OSError(
                f"Expected a run folder that can be written to, got {str(folder)!r}: {error}. Choose another with "
                "--output, or free this one"
            ) from error

    def _open(self) -> int:
        for attempt in range(100):
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                return super()._open()
            except FileNotFoundError:  # another process has just removed the folder, in which it had written nothing
                if attempt == 99:
                    raise
        raise AssertionError

    def release(self) -> None:
        """Gives the lock back. Folders that were made for it, and that nothing was written into, are removed again."""
        holding = self._holding
        if self._made and holding is not None and holding.times == 1 and _is_at(self._file, holding.key):
            folder = self._file.parent
            with contextlib.suppress(OSError):
                if [path.name for path in folder.iterdir()] == [LOCK]:
                    self._file.unlink()
                    for path in self._made:
                        path.rmdir()
        super().release()


def _is_at(file: Path, key: tuple[int, int]) -> bool:
    """Returns True if a path leads to the file that was opened."""
    try:
        status = file.stat()
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == key


def _try_lock(descriptor: int, file: Path) -> bool:
    """Takes the lock of an open file. Returns False where another process has it."""
    try:
        import fcntl  # not on Windows
    except ImportError:
        windows: Any = import_module("msvcrt")
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            windows.locking(descriptor, windows.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        _LOG.warning(
            "The file system of %s has no locks (%s): nothing keeps a second process from writing there.", file, error
        )
    return True


def _write_owner(descriptor: int, owner: str) -> None:
    """Writes who holds a lock, for the message to others, unless the file holds something else."""
    with contextlib.suppress(OSError):  # a full disk is no reason to leave a folder without an owner
        os.lseek(descriptor, 0, os.SEEK_SET)
        if os.read(descriptor, len(_OWNER)) in (b"", _OWNER):
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, owner.encode())


def _owner(descriptor: int) -> str:
    """Reads who holds a lock. Where the name is that of a process that has ended, its successor is about to write."""
    for _ in range(5):
        os.lseek(descriptor, 0, os.SEEK_SET)
        owner = os.read(descriptor, 200).decode(errors="replace").strip()
        if owner and not _has_ended(owner):
            return owner
        time.sleep(0.02)
    return "another process"


def _has_ended(owner: str) -> bool:
    """Returns True if the process that an owner's name says is one of this machine that has ended."""
    words = owner.split()
    if os.name == "nt" or len(words) != 4 or words[3] != socket.gethostname() or not words[1].isdecimal():
        return False
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _forget() -> None:
    """Closes the locks of the parent in a process that was forked: they are the parent's, and end with it."""
    for holding in _holdings.values():
        os.close(holding.descriptor)
        holding.descriptor = -1
    _holdings.clear()
    _guard.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_forget)
