"""Steps launched ahead of their observation: the same rollout, launched in time, and nothing waited for but actions.

A CPU computes nothing while the host goes on, so there it is switched on by force.
"""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from agents import Policy, collect
from agents.collector import make_env
from agents.policy.context import FullContext
from agents.policy.cuda import lookahead
from agents.policy.cuda.lookahead import Arriving, Foreseen
from agents.policy.decode_graph import TokenDecoder
from agents.policy.decoder_only import CachedContext
from tests.agents.helpers import Letters, lanes, make_policy
from tests.helpers import slow_but


class Talk(Letters):
    """Three turns, and replies of one token, of several, and none where the prompt says so."""

    name = "talk"
    max_turns = 3
    max_reply_tokens = 4

    def reply(self, example, turns):
        replies = [" a", " b c a good", " bad bad"]
        return None if example.metadata["index"] == 5 else replies[(example.metadata["index"] + len(turns)) % 3]


class Snapshot(Arriving):
    """What a copy in the order of launches has: the tensor as it was when the copy was launched."""

    def __init__(self, tensor):
        super().__init__(tensor.clone())


@pytest.fixture
def ahead(monkeypatch):
    """Switches it on, or off again."""

    def switch(on):
        monkeypatch.setattr(Policy, "launches_ahead", lambda self: on)
        monkeypatch.setattr(lookahead, "Arriving", Snapshot)

    return switch


@pytest.fixture
def calls(monkeypatch):
    """What a rollout did, in order: steps of every lane, and how many lanes were read beside one."""
    found = []
    act, prefill, launch = TokenDecoder.decode_action, CachedContext._prefill, CachedContext.launch

    def acts(self, masked, *inputs):
        found.append("step")
        return act(self, masked, *inputs)

    def prefills(self, input_ids, lengths, lanes):
        found.append(len(lanes))
        return prefill(self, input_ids, lengths, lanes)

    def launches(self, *args):
        found.append("launch")
        launch(self, *args)

    monkeypatch.setattr(TokenDecoder, "decode_action", acts)
    monkeypatch.setattr(CachedContext, "_prefill", prefills)
    monkeypatch.setattr(CachedContext, "launch", launches)
    return found


def same(one, other):
    for name in ("input_ids", "positions", "response_mask", "rewards", "scores", "group", "examples", "terminated"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("log_probs", "values"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-5, rtol=1e-5)


def replies(rollout):
    """How often the environment spoke between two actions."""
    gaps = rollout.positions.diff(dim=1) > 1
    return int((gaps & rollout.response_mask[:, 1:]).sum())


ENVS = {
    "immediate": lambda: lanes(),
    "sparse": lambda: lanes(payout="sparse"),
    "groups": lambda: lanes(6, group_size=3),
    "many lanes": lambda: lanes(17, max_new_tokens=20),
    "one lane": lambda: lanes(1),
    "talk": lambda: lanes(5, task=Talk(), max_new_tokens=12),
    "talk in groups": lambda: lanes(6, task=Talk(), max_new_tokens=12, group_size=2),
}


@pytest.mark.parametrize("kind", slow_but({"llama"}, ["llama", "gpt2"]))
@pytest.mark.parametrize("name", ENVS)
def test_rollouts_are_the_same_as_without(kind, name, ahead):
    """Fewer episodes than lanes, about as many, more, and all from one generator."""
    policy, found = make_policy(kind, seed=1), {}
    for on in (False, True):
        ahead(on)
        env, generator = ENVS[name](), torch.Generator().manual_seed(3)
        counts = [6, 30, 6] if env.group_size > 1 else [1, 7, 30, 3]
        rollouts = [
            collect(env, policy, count, seed=0 if place == 0 else None, generator=generator, temperature=0.8)
            for place, count in enumerate(counts)
        ]
        found[on] = rollouts, generator.get_state()
    for one, other in zip(found[False][0], found[True][0], strict=True):
        same(one, other)
    assert torch.equal(found[False][1], found[True][1])
    if "talk" in name:
        assert sum(replies(rollout) for rollout in found[True][0]) > 10


@pytest.mark.parametrize(("task", "replying"), [("DelayedCue", False), ("Dialogue", True)])
def test_registered_tasks_are_the_same_as_without(task, replying, ahead):
    env_id = f"TextGen/{task}-v0"
    policy = Policy.fresh(gym.make(env_id).unwrapped.tokenizer, seed=2)
    found = []
    for on in (False, True):
        ahead(on)
        generator = torch.Generator().manual_seed(0)
        env = make_env(env_id, policy, num_envs=6)
        found.append([collect(env, policy, 15, seed=seed, generator=generator) for seed in (1, None)])
    for one, other in zip(*found, strict=True):
        same(one, other)
        assert (replies(other) > 0) == replying


@pytest.mark.parametrize("task", [Letters(), Talk()])
def test_what_is_void_is_ends_and_replies(task, ahead, calls):
    """Every step is launched ahead. Read beside it is what begins or follows a reply, and no other lane."""
    ahead(True)
    env = lanes(4, task=task, max_new_tokens=12)
    rollout = collect(env, make_policy(seed=1), 40, seed=0, generator=torch.Generator().manual_seed(0))
    first = calls.index("launch")
    beside = sum(one for one in calls[first:] if isinstance(one, int))
    steps = calls.count("launch")
    assert beside == 36 + replies(rollout)
    assert steps * 4 > rollout.num_tokens
    anew = calls[first:].count("step") - steps  # steps of all lanes once more
    assert anew == 2  # four lanes became two, and then one


def test_the_host_waits_for_actions_when_the_next_step_is_launched_and_the_environment_comes_after(ahead, monkeypatch):
    ahead(True)
    order = []

    class Noted(Snapshot):
        def __init__(self, tensor):
            order.append("copy")
            super().__init__(tensor)

        def array(self):
            if order[-1] == "launch":  # and once more, when it is seen who went on
                order.append("wait")
            return super().array()

    launch = CachedContext.launch
    monkeypatch.setattr(lookahead, "Arriving", Noted)
    monkeypatch.setattr(CachedContext, "launch", lambda *args: (order.append("launch"), launch(*args))[1])
    env = lanes()
    step = env.step
    monkeypatch.setattr(env, "step", lambda actions: (order.append("environment"), step(actions))[1])
    collect(env, make_policy(seed=1), 12, seed=0, generator=torch.Generator().manual_seed(0))
    assert len(order) > 40
    assert order == ["copy", "launch", "wait", "environment"] * (len(order) // 4)


class Reads(TorchFunctionMode):
    """Refuses what reads a tensor in Python, which on a GPU waits for it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        assert name not in ("numpy", "tolist", "item", "cpu", "__bool__", "__int__", "__index__", "__float__"), name
        return func(*args, **(kwargs or {}))


class Depends(TorchDispatchMode):
    """Refuses operations whose shape or result the host has to know."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "_unique2", "bincount")
        generators_state = name == "equal" and args[0].dtype == torch.uint8  # the host's own on any device
        assert name != "equal" or generators_state
        if name in ("index", "index_put_"):
            assert all(one is None or one.dtype != torch.bool for one in args[1]), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_no_step_reads_from_the_device(kind, ahead, monkeypatch):
    """Prefills, steps launched ahead, and the tail: all that `policy.step` does."""
    ahead(True)
    array, step = Snapshot.array, Policy.step

    def arrived(self):
        with torch._C.DisableTorchFunction():
            return array(self)

    def watched(self, *args, **kwargs):
        with Reads(), Depends():
            return step(self, *args, **kwargs)

    monkeypatch.setattr(Snapshot, "array", arrived)
    monkeypatch.setattr(Policy, "step", watched)
    env = lanes(5, task=Talk(), max_new_tokens=12)
    rollout = collect(env, make_policy(kind, seed=1), 20, seed=0, generator=torch.Generator().manual_seed(0))
    assert len(rollout) == 20
    assert replies(rollout)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_recorded_steps_are_launched_ahead_too(kind, ahead, made):
    """Their outputs stand at fixed places, and the next replay overwrites them."""
    plain = make_policy(kind, seed=1)
    policy = copy.deepcopy(plain).adapt(compile=True)
    for task in (Letters(), Talk()):
        found = []
        for one, on in ((plain, False), (policy, True)):
            ahead(on)
            generator = torch.Generator().manual_seed(0)
            env = lanes(6, task=task, max_new_tokens=12)
            found.append([collect(env, one, 20, seed=seed, generator=generator) for seed in (0, None)])
        for one, other in zip(*found, strict=True):
            same(one, other)
    assert sum(one.replays for one in made) > 40


def test_room_is_never_outgrown(ahead, made, monkeypatch):
    """Texts of 64 tokens fill a bucket of the cache to the last place, and lanes that are over idle there."""
    policy = make_policy(seed=1).adapt(compile=True)
    positions = []
    act = CachedContext._decode_action

    def noted(self, tokens, where, *rest):
        positions.append(int(where.max()))
        assert self._cache.capacity == 64
        found = act(self, tokens, where, *rest)
        assert self._cache.capacity == 64
        return found

    monkeypatch.setattr(CachedContext, "_decode_action", noted)
    env = lanes(4, max_new_tokens=61)
    assert env.single_observation_space["input_ids"].shape == (64,)
    for on in (False, True):
        ahead(on)
        del positions[:]
        context = policy.context(2, 64)
        rows = np.random.default_rng(0).integers(3, 10, size=(2, 64))
        generator = torch.Generator().manual_seed(0)
        for length in range(60, 65):
            policy.step(context, rows, np.array([length, 64]), generator=generator)
        assert max(positions) == 63
        collect(env, policy, 12, seed=0, generator=generator)


def test_what_was_not_foreseen_is_void(ahead):
    """Another token than the action, another temperature, numbers drawn in between, masks, and texts taken back."""
    ahead(True)
    policy, rng = make_policy(seed=3), np.random.default_rng(0)
    rows, lengths = rng.integers(3, 10, size=(5, 40)), np.array([3, 1, 7, 4, 2])
    context, full = policy.context(5, 40), FullContext(policy.trunk, 5)
    generator = torch.Generator().manual_seed(0)

    def agree(temperature=1.0, allowed=None):
        uniforms = torch.rand(5, 1, generator=torch.Generator().set_state(generator.get_state()))
        took = policy.step(context, rows, lengths, temperature=temperature, generator=generator, allowed=allowed)
        logits = policy.logits(full.extend(rows, lengths)) / temperature
        if allowed is not None:
            logits = logits.masked_fill(~torch.from_numpy(allowed), -torch.inf)
        logs = torch.log_softmax(logits, dim=-1)
        assert torch.equal(took.actions, (logs.double().exp().cumsum(1) < uniforms).sum(1))
        expected = logs.gather(1, took.actions[:, None])[:, 0]
        torch.testing.assert_close(took.log_probs, expected, atol=1e-5, rtol=1e-5)
        assert (context.launched is None) == (allowed is not None)
        return took.actions_on_host().copy()

    def write(actions):
        nonlocal lengths
        rows[np.arange(5), lengths] = actions
        lengths = lengths + 1

    write(agree())
    agree()
    write([3, 4, 5, 6, 7])  # not what was chosen, but for a lane by chance
    write(agree())
    write(agree(0.5))
    torch.rand(3, generator=generator)
    write(agree(0.5))
    allowed = rng.random((5, 10)) < 0.5
    allowed[:, 4] = True
    write(agree(0.5, allowed))
    write(agree())
    actions = agree()
    taken_back = lengths - 1
    rows[np.arange(5), taken_back] = (rows[np.arange(5), taken_back] + 1) % 10
    context.states(rows, np.arange(5), taken_back, lengths)
    write(actions)
    write(agree())
    actions = agree()
    context.reset(np.array([1, 3]))
    rows[[1, 3], :5] = 9 - rows[[1, 3], :5]  # texts as long as before, which end with the same token
    write(actions)
    agree()


def test_a_copy_from_a_gpu_is_launched_noted_and_waited_for_alone(monkeypatch):
    """With stand-ins for a tensor on a GPU, its stream and the event behind the copy."""
    done = []

    class OnGpu:
        is_cuda, device = True, torch.device("cuda", 1)

        def to(self, where, non_blocking):
            done.append((where, non_blocking))
            return torch.arange(3)

    class Stream:
        def record_event(self):
            done.append("event")
            return self

        def synchronize(self):
            done.append("wait")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: done.append(device) or Stream())
    arriving = Arriving(OnGpu())
    assert done == [("cpu", True), torch.device("cuda", 1), "event"]
    assert arriving.array().tolist() == [0, 1, 2]
    assert done[3:] == ["wait"]


def test_numbers_that_are_looked_at_are_still_to_come():
    generator = torch.Generator().manual_seed(4)
    torch.rand(3, generator=generator)
    foreseen = Foreseen(6, generator)
    assert foreseen.are_next_in(generator)
    drawn = torch.rand(6, 1, generator=generator)
    assert torch.equal(foreseen.uniforms, drawn)
    assert not foreseen.are_next_in(generator)


def test_it_is_off_on_a_cpu_and_where_it_cannot_be(ahead, calls):
    policy = make_policy(seed=1)
    collect(lanes(), policy, 8, seed=0, generator=torch.Generator().manual_seed(0))
    ahead(True)
    collect(lanes(), policy, 8, seed=0)  # PyTorch's own generator, from which anybody draws
    collect(lanes(), policy, 8, seed=0, generator=torch.Generator().manual_seed(0), deterministic=True)
    classify = "TextGen/Classify-v0"
    masked = Policy.fresh(gym.make(classify).unwrapped.tokenizer)
    rollout = collect(
        make_env(classify, masked, num_envs=3, action_mask="task"),
        masked,
        3,
        generator=torch.Generator().manual_seed(0),
    )
    assert rollout.action_masks is not None
    assert "step" in calls
    assert "launch" not in calls
