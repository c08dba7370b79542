"""What the tests of all packages share: how much of a test the core runs."""

import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings


def examples(number: int) -> int:
    """Returns how many random examples a test draws: all of them with `--hypothesis-profile=all`, else a quarter.

    Args:
        number: All of them, for `@settings(max_examples=examples(400))`.
    """
    return max(1, number * settings().max_examples // 100)


def slow_but(core: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """Returns parameters of which the core runs some: the others are marked as slow.

    Args:
        core: What the core runs.
        values: All of them, for `@pytest.mark.parametrize(name, slow_but({"bleu"}, REWARDS))`. Tuples are for several
            names.
    """
    slow = pytest.mark.slow
    return [
        value if value in core else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=slow)
        for value in values
    ]


_HOLD = """
import fcntl, os, sys
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
file.truncate(0)
print(f"process {os.getpid()} on elsewhere", file=file, flush=True)
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@contextmanager
def locked_elsewhere(file: Path) -> Iterator[int]:
    """Has another process hold the lock of a file for the time of a block, which gets the process's id.

    Args:
        file: The file, made if it does not exist.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-S", "-c", _HOLD, str(file)], text=True, **pipes) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
