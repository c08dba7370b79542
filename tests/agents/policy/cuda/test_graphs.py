"""The recorded step: everything about it but the recording, which takes a GPU. A stand-in calls the function again."""

import copy
import pickle

import numpy as np
import pytest
import torch

from agents import collect
from agents.policy.context import FullContext
from agents.policy.cuda import graphs as cuda_graphs
from agents.policy.cuda.graphs import CapturedStep
from agents.policy.cuda.lane_store import LaneStore
from agents.policy.decoder_only import CachedContext
from tests.agents.helpers import Again, lanes, make_policy


def rollout_of(policy, seed=0, episodes=12, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    return collect(lanes(), policy, episodes, seed=seed, generator=generator, **kwargs)


def add(x, cache):
    cache[:, :, 0, 0] += 0 * x[:, None]  # touches it where it is
    return (x + cache[:, 0, 0, 0],)


def test_a_shape_is_recorded_once_and_replayed_on_new_inputs():
    recordings = []
    step = CapturedStep(add, lambda function, beside: recordings.append(Again(function, beside)) or recordings[-1])
    cache = torch.zeros(2, 1, 4, 1)
    first = step(torch.tensor([1.0, 2.0]), cache)[0]
    cache += 10  # a write to the same place is seen
    second = step(torch.tensor([3.0, 4.0]), cache)[0]
    assert first.tolist() == [1.0, 2.0]  # the next replay left it alone
    assert second.tolist() == [13.0, 14.0]
    assert [one.replays for one in recordings] == [2]
    moved = cache.clone()
    moved += 100
    assert step(torch.tensor([3.0, 4.0]), moved)[0].tolist() == [113.0, 114.0]
    assert step(torch.tensor([3.0]), moved[:1])[0].tolist() == [113.0]  # the same place, another shape
    wide = torch.zeros(2, 1, 8, 1)
    assert step(torch.tensor([0.0, 1.0]), wide[:, :, :4])[0].tolist() == [0.0, 1.0]
    assert step(torch.tensor([0.0, 1.0]), wide)[0].tolist() == [0.0, 1.0]
    assert [one.replays for one in recordings] == [2, 1, 1, 1, 1]
    assert [one.beside for one in recordings] == [None, *[recordings[0]] * 4]


def test_the_recording_that_was_not_replayed_for_longest_goes():
    recordings = []
    step = CapturedStep(add, lambda function, beside: recordings.append(Again(function, beside)) or recordings[-1], 2)
    caches = [torch.full((1, 1, 1, 1), float(number)) for number in range(3)]

    def play(number):
        assert step(torch.zeros(1), caches[number])[0].item() == number
        return len(recordings)

    assert [play(number) for number in (0, 1, 0, 2)] == [1, 2, 2, 3]
    assert len(step) == 2
    assert [play(number) for number in (0, 2, 1)] == [3, 3, 4]  # 1 had gone, and 0 had stayed


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_recorded_rollout_is_the_plain_one(kind, made, said):
    plain = make_policy(kind, seed=1)
    policy = copy.deepcopy(plain).adapt(compile=True)
    for seed in (0, 1):
        found, expected = rollout_of(policy, seed), rollout_of(plain, seed)
        assert torch.equal(found.input_ids, expected.input_ids)
        # Spare rows make other products of the same rows, rounded otherwise.
        torch.testing.assert_close(found.log_probs, expected.log_probs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.values, expected.values, atol=1e-5, rtol=1e-5)
    assert not said
    assert sum(one.replays for one in made) > 20


def test_the_next_rollout_records_nothing_anew(made):
    policy = make_policy(seed=1).adapt(compile=True)
    rollout_of(policy)
    graph, before = policy.graphs.action.graph, len(made)
    assert len(graph) > 1
    rollout_of(policy)
    assert len(made) == before
    assert policy.graphs.action.graph is graph
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)  # as an optimiser does
    rollout_of(policy)
    assert policy.graphs.action.graph is graph
    policy.model.model.layers[0].mlp.up_proj = torch.nn.Linear(32, 48, bias=False)  # a recording reads the old one
    rollout_of(policy)
    assert policy.graphs.action.graph is not graph
    assert len(made) > before
    policy.adapt(precision="bfloat16")
    assert policy.graphs.action.graph is None  # it had recorded float32


def test_lanes_are_dropped_to_powers_of_two_and_the_spare_ones_disturb_nothing(made):
    policy = make_policy(seed=3).adapt(compile=True)
    rows = np.random.default_rng(0).integers(3, 10, size=(7, 90))
    lengths = np.array([3, 1, 7, 4, 5, 6, 3])
    context, full = policy.context(7, 90), FullContext(policy.trunk, 7)
    uniforms = torch.linspace(0.05, 0.95, 7)[:, None]

    def agree(new):
        actions, log_probs, values = context.act(rows, lengths, uniforms[: len(rows)], 0.7)
        hidden = full.extend(rows, lengths)
        logs = torch.log_softmax(policy.logits(hidden) / 0.7, dim=-1)
        assert actions.shape == log_probs.shape == values.shape == (len(rows),)
        expected = (logs.double().exp().cumsum(1) < uniforms[: len(rows)]).sum(1)
        assert torch.equal(actions[new], expected[new])
        torch.testing.assert_close(log_probs[new], logs.gather(1, actions[:, None])[new, 0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(values[new], policy.value_head(hidden)[new, 0], atol=1e-5, rtol=1e-5)

    def keep(kept):
        nonlocal rows, lengths
        rows, lengths = rows[kept], lengths[kept]
        context.keep(np.array(kept))
        full.keep(np.array(kept))

    for _ in range(70):
        agree(slice(None))
        lengths = lengths + 1
    place = context._cache.keys_and_values(1)[0].data_ptr()
    keep([5, 0, 3])
    assert [context._cache.num_lanes, context._cache.rows] == [3, 4]
    for _ in range(3):
        agree(slice(None))
        lengths = lengths + 1
    context.reset(np.array([1]))  # begins again, with a prompt
    full.reset(np.array([1]))
    lengths[1] = 4
    agree(slice(None))
    lengths = lengths + np.array([1, 1, 0])
    agree([0, 1])  # one idles
    keep([2, 1])
    assert context._cache.rows == 2
    lengths = lengths + 1
    agree(slice(None))
    assert context._cache.keys_and_values(1)[0].data_ptr() == place
    assert {len(one) for one in context._cache.keys_and_values(1)} == {2}


def test_masked_and_greedy_steps_are_recorded_too(made):
    plain, policy = make_policy(seed=1), make_policy(seed=1).adapt(compile=True)
    found, expected = rollout_of(policy, deterministic=True), rollout_of(plain, deterministic=True)
    assert torch.equal(found.input_ids, expected.input_ids)
    assert isinstance(policy.graphs.token.graph, CapturedStep)
    rng = np.random.default_rng(0)
    rows, context, full = rng.integers(3, 10, size=(5, 20)), policy.context(5, 20), FullContext(plain.trunk, 5)
    lengths = np.full(5, 3)
    for step in range(8):
        if step == 4:
            rows, lengths = rows[:3], lengths[:3]
            context.keep(np.arange(3))
            full.keep(np.arange(3))
        allowed = rng.random((len(rows), 10)) < 0.4
        allowed[:, 4] = True
        took = policy.step(context, rows, lengths, allowed=allowed)
        assert allowed[np.arange(len(rows)), took.actions.numpy()].all()
        logits = plain.logits(full.extend(rows, lengths)).masked_fill(~torch.from_numpy(allowed), -torch.inf)
        logs = torch.log_softmax(logits, dim=1).gather(1, took.actions[:, None])[:, 0]
        torch.testing.assert_close(took.log_probs, logs, atol=1e-5, rtol=1e-5)
        lengths = lengths + 1
    assert isinstance(policy.graphs.masked_action.graph, CapturedStep)


def test_bfloat16_is_recorded(made, said):
    plain = make_policy("gpt2", seed=1).adapt(precision="bfloat16")
    policy = make_policy("gpt2", seed=1).adapt(precision="bfloat16", compile=True)
    rollout_of(policy, 1)
    assert isinstance(policy.graphs.action.graph, CapturedStep)
    assert not said
    rows = np.random.default_rng(0).integers(3, 10, size=(4, 20))
    one, other = policy.context(4, 20), plain.context(4, 20)
    for length in range(3, 9):
        got, expected = (context.extend(rows, np.full(4, length)) for context in (one, other))
        torch.testing.assert_close(got, expected, atol=0.1, rtol=0.05)


def test_room_is_kept_between_rollouts_and_lent_to_one_at_a_time(made):
    policy = make_policy(seed=1).adapt(compile=True)
    rows = np.random.default_rng(0).integers(3, 10, size=(3, 20))
    context = policy.context(3, 20)
    context.extend(rows, np.full(3, 2))
    place = context._cache.keys_and_values(1)[0].data_ptr()
    beside = policy.context(3, 20)
    beside.extend(rows, np.full(3, 2))
    assert beside._cache.keys_and_values(1)[0].data_ptr() != place
    context._cache.keys_and_values(1)[0].fill_(torch.nan)
    del context
    again = policy.context(2, 10)
    again.extend(rows[:2], np.full(2, 2))
    assert again._cache.keys_and_values(1)[0].data_ptr() == place
    assert again._cache.keys_and_values(1)[0].isfinite().all()


def test_room_grows_where_it_must():
    store = LaneStore()
    like = torch.zeros(1, 2, 1, 3)
    small = store.take((0, "keys"), like, 4, 8)
    assert small.shape == (4, 2, 8, 3)
    assert store.take((0, "keys"), like, 2, 5).data_ptr() == small.data_ptr()
    assert store.take((0, "values"), like, 4, 8).data_ptr() != small.data_ptr()
    assert store.take((0, "keys"), like, 2, 16).shape == (2, 2, 16, 3)
    assert store.take((0, "keys"), like, 4, 16).stride() == (96, 48, 3, 1)  # the first number of lanes was not lost
    half = store.take((0, "keys"), like.bfloat16(), 1, 1)
    assert half.dtype == torch.bfloat16
    assert half.shape == (1, 2, 1, 3)
    for copied in (copy.deepcopy(store), pickle.loads(pickle.dumps(store))):
        assert not copied._buffers


def test_numbers_that_differ_are_refused(made, monkeypatch, said):
    class Stale(Again):
        """Replays what it gave first: a recording that does not read its inputs anew."""

        def replay(self):
            if not self.replays:
                super().replay()

    monkeypatch.setattr(cuda_graphs, "recorder", lambda device: Stale)
    policy = make_policy(seed=1).adapt(compile=True)
    found, expected = rollout_of(policy), rollout_of(make_policy(seed=1))
    assert torch.equal(found.input_ids, expected.input_ids)
    torch.testing.assert_close(found.log_probs, expected.log_probs, atol=1e-5, rtol=1e-5)
    assert policy.graphs.action.refused
    (warning,) = said
    assert "LlamaModel takes its decode steps without a CUDA graph (ValueError: its numbers differ" in warning


def test_what_cannot_be_recorded_goes_on_without(made, monkeypatch, said):
    def record(function, beside):
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")

    monkeypatch.setattr(cuda_graphs, "recorder", lambda device: record)
    policy = make_policy(seed=1).adapt(compile=True)
    assert torch.equal(rollout_of(policy).input_ids, rollout_of(make_policy(seed=1)).input_ids)
    (warning,) = said
    assert "(RuntimeError: operation not permitted when stream is capturing), which is right" in warning


def test_nobody_gets_it_unasked(made):
    policy = make_policy(seed=1)
    rollout_of(policy)
    assert not made
    context = policy.context(3, 20)
    assert isinstance(context, CachedContext)
    assert context._cache.store is None
