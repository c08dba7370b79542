"""Fixtures of the agents' tests; the functions and classes that they share stand in helpers.py."""

import logging
from collections.abc import Iterator

import pytest
import torch

from agents import Algorithm, Policy
from agents.policy.cuda import graphs as cuda_graphs
from tests.agents.helpers import Again, make_policy


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
def said():
    """The warnings of `agents`, as a list that grows."""
    found: list[str] = []

    class Listens(logging.Handler):
        def emit(self, record):
            found.append(record.getMessage())

    logger, handler = logging.getLogger("agents"), Listens(logging.WARNING)
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


@pytest.fixture
def made(monkeypatch):
    """The recordings that policies on a CPU make, since compiling means recording here."""
    found = []

    def record(function, beside):
        found.append(Again(function, beside))
        return found[-1]

    monkeypatch.setattr(Policy, "captures_decoding", lambda self: self.compiled and not self.has_adapters)
    monkeypatch.setattr(Policy, "launches_ahead", lambda self: False)  # test_lookahead.py switches it on
    monkeypatch.setattr(cuda_graphs, "recorder", lambda device: record)
    return found
