"""The compiled step: the model's numbers but for rounding, the same samples, and nothing lost where it does not go."""

import copy
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from agents import Policy, collect, load
from agents.__main__ import main
from agents.policy import decode_graph
from agents.policy.context import FullContext
from benchmarks.robustness.kill_and_resume import RUN, outcome, start
from tests.agents.helpers import lanes, make_policy

HAS_COMPILER = shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler")


def rollout_of(policy, seed=0, **kwargs):
    return collect(lanes(), policy, 12, seed=seed, generator=torch.Generator().manual_seed(seed), **kwargs)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_compiled_rollout_is_the_uncompiled_one_but_for_rounding(kind, said):
    plain = make_policy(kind, seed=1)
    policy = copy.deepcopy(plain).adapt(compile=True)
    found, expected = rollout_of(policy, temperature=1.3), rollout_of(plain, temperature=1.3)
    assert policy.graphs.action.graph is not None
    assert not said
    # The same uniforms choose the same tokens: a distribution that was another would show in one of a hundred.
    assert found.num_tokens > 30
    assert torch.equal(found.input_ids, expected.input_ids)
    torch.testing.assert_close(found.log_probs, expected.log_probs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.values, expected.values, atol=1e-5, rtol=1e-5)
    again = policy.evaluate(found.input_ids, found.positions, found.response_mask, temperature=1.3)
    torch.testing.assert_close(found.log_probs, again.log_probs, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.log_probs, rollout_of(policy, temperature=1.3).log_probs)


@needs_compiler
def test_a_compiled_step_serves_any_lanes_and_lengths_and_weights_as_they_are():
    policy = make_policy(seed=3).adapt(compile=True)
    rows = np.random.default_rng(0).integers(3, 10, size=(4, 90))
    starts = np.array([3, 1, 7, 4])
    context, full = policy.context(4, 90), FullContext(policy.trunk, 4)
    uniforms = torch.tensor([[0.1], [0.4], [0.6], [0.95]])

    def agree(rows, lengths, new):
        actions, log_probs, values = context.act(rows, lengths, uniforms[: len(rows)], 0.7)
        hidden = full.extend(rows, lengths)
        logs = torch.log_softmax(policy.logits(hidden) / 0.7, dim=-1)
        cdf = logs.double().exp().cumsum(1)
        expected = (cdf < uniforms[: len(rows)]).sum(1)
        assert torch.equal(actions[new], expected[new])
        torch.testing.assert_close(log_probs[new], logs.gather(1, actions[:, None])[new, 0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(values[new], policy.value_head(hidden)[new, 0], atol=1e-5, rtol=1e-5)

    for step in range(80):  # beyond the first growth of the cache
        agree(rows, starts + step, [0, 1, 2, 3])
    graph = policy.graphs.action.graph
    assert graph is not None
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)  # as an optimiser does
    kept = np.array([2, 0])  # lanes are dropped, and one begins again
    rows, lengths = rows[kept], np.array([3, 3])
    for one in (context, full):
        one.keep(kept)
        one.reset(np.array([0, 1]))
    for step, new in ((0, [0, 1]), (1, [0, 1])):
        agree(rows, lengths + step, new)
    agree(rows, np.array([5, 4]), [0])  # one idles
    assert policy.graphs.action.graph is graph
    context.keep(np.array([0]))
    full.keep(np.array([0]))
    agree(rows[:1], np.array([6]), [0])
    with torch.no_grad():
        policy.model.model.layers[0].mlp.up_proj = torch.nn.Linear(32, 48, bias=False)
    context, full = policy.context(1, 90), FullContext(policy.trunk, 1)
    for length in (3, 4):
        agree(rows[:1], np.array([length]), [0])


@needs_compiler
@pytest.mark.slow
def test_masked_steps_are_compiled_too():
    rng = np.random.default_rng(0)
    policy = make_policy(seed=1).adapt(compile=True)
    context, full = policy.context(3, 20), FullContext(policy.trunk, 3)
    rows, generator = rng.integers(3, 10, size=(3, 20)), torch.Generator().manual_seed(0)
    for length in range(3, 12):
        allowed = rng.random((3, 10)) < 0.4
        allowed[:, 4] = True
        lengths = np.full(3, length)
        step = policy.step(context, rows, lengths, allowed=allowed, generator=generator)
        assert allowed[np.arange(3), step.actions.numpy()].all()
        logits = policy.logits(full.extend(rows, lengths)).masked_fill(~torch.from_numpy(allowed), -torch.inf)
        expected = torch.log_softmax(logits, dim=1).gather(1, step.actions[:, None])[:, 0]
        torch.testing.assert_close(step.log_probs, expected, atol=1e-5, rtol=1e-5)
    assert policy.graphs.masked_action.graph is not None
    with pytest.raises(ValueError, match=r"allows some token in every lane, got none in \[1\]"):
        policy.step(context, rows, np.full(3, 12), allowed=np.array([[True] * 10, [False] * 10, [True] * 10]))


@needs_compiler
def test_what_is_not_compiled_goes_on_as_before():
    plain, policy = make_policy(seed=1), make_policy(seed=1).adapt(compile=True)
    greedy = rollout_of(policy, deterministic=True)
    assert torch.equal(greedy.log_probs, rollout_of(plain, deterministic=True).log_probs)
    assert policy.graphs.action.graph is None
    half = make_policy(seed=1).adapt(compile=True, precision="bfloat16")
    rollout_of(half)
    assert half.graphs.action.graph is None


def test_without_a_compiler_it_says_so_and_goes_on(monkeypatch, said):
    def no_compiler(*args, **kwargs):
        raise FileNotFoundError("g++")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", no_compiler)
    monkeypatch.setattr(decode_graph, "LIBRARIES", {})
    policy = make_policy(seed=1).adapt(compile=True)
    found, expected = rollout_of(policy), rollout_of(make_policy(seed=1))
    assert torch.equal(found.log_probs, expected.log_probs)
    (warning,) = said
    assert "LlamaModel goes on without being compiled (FileNotFoundError: g++)" in warning
    assert "needs a C++ compiler" in warning


def test_numbers_that_differ_are_refused(monkeypatch, said):
    monkeypatch.setattr(
        decode_graph, "compile_library", lambda step, weights, inputs: lambda given: wrong(step, given, weights)
    )

    def wrong(step, given, weights):
        actions, log_probs, values = step(*given[len(weights) :])
        return actions, log_probs, values + 0.01

    policy = make_policy(seed=1).adapt(compile=True)
    assert torch.equal(rollout_of(policy).values, rollout_of(make_policy(seed=1)).values)
    (warning,) = said
    assert "its numbers differ from the model's own" in warning


def test_the_command_line_compiles(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_graph, "compile_step", lambda step, like: None)  # it is tested above
    main(
        [
            "train", "--env", "TextGen/Copy-v0", "--compile", "--total-timesteps", "20", "--max-new-tokens", "4",
            "--num-envs", "4", "--episodes-per-update", "4", "--eval-episodes", "2", "--samples", "1",
            "--device", "cpu", "--output", str(tmp_path / "run"),
        ]
    )  # fmt: skip
    assert json.loads((tmp_path / "run" / "config.json").read_text())["compile"] is True
    assert load(tmp_path / "run", device="cpu").policy.compiled
    policy = Policy.fresh("stories").adapt(compile=True)
    policy.save_pretrained(tmp_path / "policy")
    assert Policy.from_pretrained(tmp_path / "policy").compiled
    assert not Policy.from_pretrained("tiny").compiled


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.usefixtures("one_thread")
def test_a_compiled_run_that_is_killed_goes_on_to_the_same_numbers(tmp_path, monkeypatch, said):
    """In another process, which compiles again, and whose strings have other hashes."""
    monkeypatch.setattr(decode_graph, "LIBRARIES", {})
    run = [*RUN, "--compile", "--eval-during", "0"]
    main([*run, "--output", str(tmp_path / "straight")])
    assert len(decode_graph.LIBRARIES) == 1
    assert not said
    process = start([*run, "--output", str(tmp_path / "killed")], moment="update", call=14)
    process.join()
    assert process.exitcode < 0
    command = [
        "from benchmarks.robustness.kill_and_resume import play",
        f"play(['train', '--resume', {str(tmp_path / 'killed')!r}])",
    ]
    subprocess.run([sys.executable, "-c", "; ".join(command)], env={**os.environ, "PYTHONHASHSEED": "1"}, check=True)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "straight")
