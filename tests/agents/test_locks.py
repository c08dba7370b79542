"""A folder has one owner: one thread of one process."""

import errno
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from agents import locks
from agents.locks import LOCK, FileLock, FolderLock
from tests.helpers import locked_elsewhere

fcntl = pytest.importorskip("fcntl", reason="Windows locks otherwise: tests/agents/training/test_faults.py")


def in_another_thread(function, *args):
    with ThreadPoolExecutor(1) as others:
        return others.submit(function, *args).result()


def is_free(folder):
    """Asks the system, in a file description of its own."""
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_another_process_is_refused_and_told_who_it_is(tmp_path):
    with locked_elsewhere(tmp_path / LOCK) as process:
        text = (tmp_path / LOCK).read_bytes()
        with pytest.raises(ValueError, match=f"nobody else writes to, got .*, which process {process} on elsewhere"):
            FolderLock(tmp_path)
        assert (tmp_path / LOCK).read_bytes() == text
        assert os.listdir(tmp_path) == [LOCK]
    with FolderLock(tmp_path):
        assert (tmp_path / LOCK).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    assert (tmp_path / LOCK).read_text() == ""


def test_the_name_of_a_process_that_has_ended_is_not_told(tmp_path):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    with (tmp_path / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"process {child} on {socket.gethostname()}\n")  # of an owner before this one
        file.flush()
        with pytest.raises(ValueError, match="which another process is using"):
            FolderLock(tmp_path)


def test_the_same_thread_takes_it_again_and_another_is_refused(tmp_path):
    with FolderLock(tmp_path) as outer:
        same, refused = tmp_path / "." / ".." / tmp_path.name, f"another thread of process {os.getpid()} is using"
        with FolderLock(same), pytest.raises(ValueError, match=refused):
            in_another_thread(FolderLock, tmp_path)
        assert not is_free(tmp_path), "the outer one still holds it"
        outer.confirm()
    assert is_free(tmp_path)
    in_another_thread(FolderLock, tmp_path).release()
    assert is_free(tmp_path)
    outer.release()  # once more has no effect
    with pytest.raises(ValueError, match="which was released"):
        outer.confirm()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_neither_holds_the_lock_nor_gives_it_back(tmp_path):
    lock = FolderLock(tmp_path)
    (told, tell), (ended, end) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(end)
        lock.release()
        try:
            FolderLock(tmp_path)
        except ValueError:
            os.write(tell, b"refused")
        else:
            os.write(tell, b"taken")
        os.read(ended, 1)  # until the parent is done
        os._exit(0)
    assert os.read(told, 10) == b"refused"
    assert not is_free(tmp_path)
    lock.release()
    assert is_free(tmp_path), "though the child lives"
    os.close(end)
    os.waitpid(child, 0)
    for descriptor in (told, tell, ended):
        os.close(descriptor)


def test_a_folder_that_nothing_was_written_to_is_removed_again(tmp_path):
    with FolderLock(tmp_path / "runs" / "new"):
        assert (tmp_path / "runs" / "new" / LOCK).exists()
    assert os.listdir(tmp_path) == []
    with FolderLock(tmp_path / "runs" / "new"):
        (tmp_path / "runs" / "new" / "file").touch()
    assert sorted(os.listdir(tmp_path / "runs" / "new")) == ["file", LOCK]
    with FolderLock(tmp_path / "runs"):
        pass
    assert sorted(os.listdir(tmp_path / "runs")) == ["new", LOCK], "that was there before"


def test_a_lock_that_was_removed_is_made_again_and_one_that_was_replaced_is_not(tmp_path):
    with FolderLock(tmp_path) as outer, FolderLock(tmp_path) as inner:
        (tmp_path / LOCK).unlink()
        inner.confirm()
        outer.confirm()
        assert not is_free(tmp_path)
        (tmp_path / LOCK).unlink()
        with locked_elsewhere(tmp_path / LOCK), pytest.raises(ValueError, match="has taken the place of its own"):
            inner.confirm()
        with pytest.raises(ValueError, match="has taken the place of its own"):
            inner.confirm()  # also when that owner is gone: it may have written something


def test_a_folder_that_is_another_process_s_by_now_is_not_removed(tmp_path):
    lock = FolderLock(tmp_path / "new")
    (tmp_path / "new" / LOCK).unlink()
    (tmp_path / "new" / LOCK).touch()
    lock.release()
    assert os.listdir(tmp_path / "new") == [LOCK]


def test_a_file_that_is_replaced_before_it_is_locked_is_no_lock(tmp_path, monkeypatch):
    """Between opening and locking, another process may have removed it, and a third taken the next one."""
    original, calls = locks._try_lock, []

    def replace(descriptor, file):
        calls.append(descriptor)
        if len(calls) == 1:
            file.unlink()
            file.touch()
        return original(descriptor, file)

    monkeypatch.setattr(locks, "_try_lock", replace)
    with FolderLock(tmp_path):
        assert len(calls) == 2
        assert not is_free(tmp_path)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_lock_is_refused_and_left(tmp_path, kind):
    precious, lock = tmp_path / "precious", tmp_path / "run" / LOCK
    precious.write_text("precious")
    lock.parent.mkdir()
    {"link": lambda: lock.symlink_to(precious), "folder": lock.mkdir, "pipe": lambda: os.mkfifo(lock)}[kind]()
    with pytest.raises(OSError, match="Expected a run folder that can be written to"):
        FolderLock(tmp_path / "run")
    assert precious.read_text() == "precious"


def test_a_file_of_the_same_name_keeps_its_content(tmp_path):
    (tmp_path / LOCK).write_text("somebody's own")
    with FolderLock(tmp_path), pytest.raises(ValueError, match="another thread"):
        in_another_thread(FolderLock, tmp_path)
    assert (tmp_path / LOCK).read_text() == "somebody's own"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog, number):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with FolderLock(tmp_path):
        assert "has no locks" in caplog.text
        with pytest.raises(ValueError, match="another thread"):
            in_another_thread(FolderLock, tmp_path)


def test_a_process_that_is_killed_while_it_takes_the_lock_leaves_it_free(tmp_path):
    for moment in ("_try_lock", "_is_at", "_write_owner"):
        child = os.fork()
        if not child:
            setattr(locks, moment, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
            FolderLock(tmp_path)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        FolderLock(tmp_path).release()


def test_threads_take_turns(tmp_path):
    """Each that gets the lock finds nobody in there."""
    inside, refused, taken = [], [], []

    def hammer():
        while len(taken) < 300:
            try:
                with FileLock(tmp_path / "x.lock", "", ""):
                    inside.append(1)
                    assert len(inside) == 1
                    inside.pop()
                    taken.append(1)
            except ValueError:
                refused.append(1)

    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) >= 300
    assert inside == []
