"""Fixtures of the agents' tests; the functions and classes that they share stand in helpers.py."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from agents import Algorithm, Policy
from agents.policy.pretrained import BUNDLED_MODELS
from tests.agents.helpers import make_policy


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread, as `kill_and_resume.play` takes: with another number, sums are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def policy() -> Policy:
    """A random Llama over ten words."""
    return make_policy()


@pytest.fixture
def own_algorithms() -> Iterator[None]:
    """Algorithms that the test makes are forgotten after it, and their names are free again."""
    before = dict(Algorithm.known)
    yield
    Algorithm.known.clear()
    Algorithm.known.update(before)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the bundled model's folder."""
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED_MODELS["tiny"], folder)
    return folder
