"""What all tests share: where the real data lies, and how much of the machine one test process may take."""

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("TEXTENVS_SHARED") or ROOT.parent / "shared")


def _threads() -> int:
    """Threads for this process: its share of the cores. With more, the parallel test processes slow each other down.

    A process alone takes as many as it is told to, and all cores where nobody says.
    """
    alone = "PYTEST_XDIST_WORKER_COUNT" not in os.environ
    if alone and (told := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        return max(1, int(told))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


# A shell that runs pytest in the background has it ignore Ctrl-C, and the processes that tests interrupt inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# And under nohup they would ignore the closing of a terminal.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Before they are imported, so that a failed `assert` in them shows its values, as those in tests do.
pytest.register_assert_rewrite("tests.agents.helpers", "tests.textenvs.helpers", "tests.textenvs.datasets.helpers")

# As variables, before any test imports torch, and not through torch itself: what needs no torch must not load it. Set
# and not defaulted, since a worker inherits what the process that started it has set for itself alone.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = str(_threads())
if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(_threads())

os.environ["HF_HUB_OFFLINE"] = "1"  # A test that downloads is an error, not a slow test.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"

# How many random examples Hypothesis draws: a quarter in the core, all of them with `make test-all`, which passes
# `--hypothesis-profile=all`. No deadline: on a shared machine it measures the neighbours. The same examples at every
# run of CI, new ones at a desk.
_ci = {"derandomize": True, "database": None, "print_blob": True} if os.environ.get("CI") else {}
settings.register_profile("core", deadline=None, max_examples=25, **_ci)
settings.register_profile("all", deadline=None, max_examples=100, **_ci)
settings.load_profile("core")


def _shared(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(('shared', *parts))} is not here (set TEXTENVS_SHARED to the folder that holds it)")
    return path


@pytest.fixture(scope="session")
def stories260k() -> Path:
    """The folder of stories260K, a small language model of children's stories."""
    return _shared("models", "stories260K")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with small subsets of public data sets, one folder each."""
    return _shared("data")
