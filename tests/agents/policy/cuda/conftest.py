"""Stand-ins for what takes a GPU."""

import pytest

from agents import Policy
from agents.policy.cuda import graphs as cuda_graphs
from tests.agents.helpers import Again


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
