"""Toy environments for other people's code, and what to do where it is not installed."""

from typing import Any

import pytest

from tests.textenvs.helpers import Toy, text_length
from textenvs import TextGenEnv, TextGenVectorEnv

others = pytest.mark.filterwarnings("default")  # warnings of these libraries about each other are not ours to mend


def needs(module: str, package: str) -> Any:
    """Returns a library that has an environment of its own; skips the test, with the reason, where it is missing."""
    return pytest.importorskip(module, reason=f"{package} is not installed: see `make bridge`")


def toy_env(**kwargs: Any) -> TextGenEnv:
    """One lane of letters, paid by the character."""
    return TextGenEnv(**{"task": Toy(), "reward": text_length, **kwargs})


def toy_envs(num_envs: int = 2, **kwargs: Any) -> TextGenVectorEnv:
    """Lanes of letters, paid by the character."""
    return TextGenVectorEnv(num_envs, **{"task": Toy(), "reward": text_length, **kwargs})
