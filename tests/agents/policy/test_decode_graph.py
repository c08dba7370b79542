"""The graph of a decode step: the same bits as without it, and nothing stale."""

import copy
import logging
import pickle

import numpy as np
import pytest
import torch
from transformers.utils import logging as transformers_logging

from agents import collect
from agents.policy.context import FullContext
from agents.policy.decode_graph import DecodeGraphs
from agents.policy.decoder_only import CachedContext
from tests.agents.helpers import ARCHITECTURES, lanes
from tests.agents.helpers import make_policy as make_plain


def make_policy(kind="llama", seed=0, trace_after=2):
    """A policy that makes a graph at the second step, and not after hundreds."""
    policy = make_plain(kind, seed=seed)
    policy.graphs = DecodeGraphs(trace_after)
    return policy


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_graph_gives_the_bits_of_the_step_and_the_states_of_a_full_forward(kind):
    policy = make_policy(kind, seed=3)
    rows = np.random.default_rng(0).integers(3, 10, size=(4, 90))
    starts = np.array([3, 1, 7, 4])
    with_graph, without = policy.context(4, 90), CachedContext(policy.trunk, 4)
    full = FullContext(policy.trunk, 4)
    for step in range(80):  # beyond the first growth of the cache
        lengths = starts + step
        got = with_graph.extend(rows, lengths)
        assert torch.equal(got, without.extend(rows, lengths))
        torch.testing.assert_close(got, full.extend(rows, lengths), atol=1e-5, rtol=1e-5)
    assert policy.graphs.token.graph is not None
    # Lanes are dropped, one starts again, and one idles.
    kept = np.array([2, 0, 3])
    rows, lengths = rows[kept], (starts + 79)[kept]
    for context in (with_graph, without, full):
        context.keep(kept)
        context.reset(np.array([1]))
    lengths[1] = 4
    for moved in ([1, 1, 1], [1, 1, 0], [0, 1, 1]):
        lengths = lengths + np.array(moved)
        got, bits = with_graph.extend(rows, lengths), without.extend(rows, lengths)
        new = np.flatnonzero(moved)  # what the others give means nothing
        assert torch.equal(got[new], bits[new])
        torch.testing.assert_close(got[new], full.extend(rows, lengths)[new], atol=1e-5, rtol=1e-5)


def test_a_rollout_is_the_same_with_and_without():
    rollouts = []
    for trace_after in (2, 10**9):
        policy = make_policy(seed=1, trace_after=trace_after)
        for seed in (0, 1):
            rollout = collect(lanes(), policy, 12, seed=seed, generator=torch.Generator().manual_seed(seed))
        assert (policy.graphs.action.graph is not None) == (trace_after == 2)
        rollouts.append(rollout)
    for name in ("input_ids", "log_probs", "values", "rewards"):
        assert torch.equal(getattr(rollouts[0], name), getattr(rollouts[1], name))


def test_nobody_is_warned_of_a_loss_that_nobody_asks_for():
    """A trunk is no head, and has none; PyTorch asks for everything that it could have."""
    transformers_logging.warning_once.cache_clear()  # it says the same thing once
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = transformers_logging.get_logger("transformers.modeling_utils")
    logger.addHandler(handler)
    try:
        policy = make_policy()
        collect(lanes(), policy, 8, seed=0)
        assert policy.graphs.action.graph is not None
        assert not heard
        transformers_logging.warning_once.cache_clear()
        policy.model.base_model.loss_function  # noqa: B018 - who asks is told as ever
        assert len(heard) == 1
    finally:
        logger.removeHandler(handler)


def test_the_graph_reads_weights_as_they_are():
    """Learned in place, put elsewhere, or a layer exchanged: the next rollout has them."""
    policy = make_policy()
    collect(lanes(), policy, 8, seed=0)
    graph = policy.graphs.action.graph
    assert graph is not None

    def differs_not():
        rollout = collect(lanes(), policy, 8, seed=1)
        again = policy.evaluate(rollout.input_ids, rollout.positions, rollout.response_mask)
        torch.testing.assert_close(again.log_probs, rollout.log_probs, atol=1e-5, rtol=1e-5)

    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    differs_not()
    assert policy.graphs.action.graph is graph
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.data = parameter.data * 1.5
    differs_not()
    policy.model.model.layers[0].mlp.up_proj = torch.nn.Linear(32, 48, bias=False)
    differs_not()
    assert policy.graphs.action.graph is not graph


def test_copies_have_no_graph():
    policy = make_policy()
    collect(lanes(), policy, 8, seed=0)
    assert policy.graphs.action.graph is not None
    assert copy.deepcopy(policy).graphs.action.graph is None
    assert policy.frozen_copy().graphs.action.graph is None
    assert pickle.loads(pickle.dumps(policy.graphs)).action.graph is None
    assert not any("graph" in name for name in policy.state_dict())


def test_a_step_that_decides_in_python_gets_no_graph(caplog):
    """A model whose numbers depend on a tensor's value in Python, as a mixture of experts' do."""
    policy = make_policy()
    mlp = policy.model.model.layers[0].mlp
    plain = mlp.forward
    mlp.forward = lambda x: plain(x) if x.sum() > 0 else -plain(x)
    policy.graphs.clear()
    logger = logging.getLogger("agents")
    logger.addHandler(caplog.handler)
    try:
        rollout = collect(lanes(), policy, 8, seed=0)
    finally:
        logger.removeHandler(caplog.handler)
    assert policy.graphs.action.graph is None
    assert policy.graphs.action.refused
    assert "takes its decode steps without a graph" in caplog.text
    assert len(rollout) == 8


def test_numbers_that_differ_are_refused(monkeypatch):
    policy = make_policy()
    policy.graphs.clear()
    traced = torch.jit.trace

    class Off:
        def __init__(self, graph):
            self.graph = graph

        def __call__(self, *inputs):
            return tuple(one + (1e-6 if inputs[0].shape[0] == 5 else 0.0) for one in self.graph(*inputs))

    monkeypatch.setattr(torch.jit, "trace", lambda *args, **kwargs: Off(traced(*args, **kwargs)))
    collect(lanes(), policy, 8, seed=0)
    assert policy.graphs.action.refused


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_prompt_that_lanes_share_is_read_once(kind, monkeypatch):
    """Two groups of three, and a lane that starts again: as many rows pass through the model as there are prompts."""
    policy = make_policy(kind, seed=4)
    rows = np.random.default_rng(1).integers(3, 10, size=(6, 30))
    rows[1:3, :5], rows[4:, :7] = rows[0, :5], rows[3, :7]
    lengths = np.array([5, 5, 5, 7, 7, 7])
    context, full = policy.context(6, 30), FullContext(policy.trunk, 6)
    read, forward = [], CachedContext._forward

    def counted(self, ids, lanes, *rest):
        read.append(len(lanes))
        return forward(self, ids, lanes, *rest)

    monkeypatch.setattr(CachedContext, "_forward", counted)
    for step in range(12):
        got = context.extend(rows, lengths + step)
        torch.testing.assert_close(got, full.extend(rows, lengths + step), atol=1e-5, rtol=1e-5)
    assert read[0] == 2
    context.reset(np.array([1, 4, 5]))
    again = lengths + 12
    again[[1, 4, 5]] = [5, 7, 7]
    del read[:]
    got = context.extend(rows, again)
    torch.testing.assert_close(got, full.extend(rows, again), atol=1e-5, rtol=1e-5)
    assert read[-1] == 2  # lane 5 has lane 4's prompt
