"""Several processes make the update that one makes, only the first writes, and the end of one ends all."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch
from torch import distributed

from agents import PPO, REINFORCE, ActorCritic, Algorithm, BestOfN, checkpoints, load, processes
from agents.__main__ import main
from benchmarks.faults import RUN

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="torch was built without gloo")
UPDATES = 2
SETTINGS = {"num_envs": 8, "episodes_per_update": 16, "kl_coef": 0.1}
ALGORITHMS = {
    "ppo": (PPO, {"minibatch_size": 5, "micro_batch_size": 2, "bonuses": {"novelty": 0.1, "rnd": 0.1}}),
    "actor_critic": (ActorCritic, {"entropy_coef": 0.1, "critic": "separate"}),
    "reinforce": (REINFORCE, {"baseline": "batch_mean", "weight_decay": 0.1, "optimizer": "adamw"}),
    "group": (REINFORCE, {"baseline": "group", "group_size": 2, "kl_credit": "loss", "kl_estimator": "k2"}),
    "best_of_n": (BestOfN, {"keep": 0.1}),
}


def make_agent(name):
    algorithm, settings = ALGORITHMS[name]
    return algorithm("tiny", "TextGen/Copy-v0", seed=3, device="cpu", **{**SETTINGS, **settings})


def weights(agent):
    return torch.cat([one.detach().flatten() for one in agent.policy.parameters()])


def worker(rank, folder):
    """What one of two processes does: two updates with every algorithm, and a record of what it saw."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name in ALGORITHMS:
        agent = make_agent(name)
        original, seen, rows, after = processes.gather, [], [], []
        processes.gather = lambda rollout, original=original, seen=seen: seen.append(original(rollout)) or seen[-1]
        for number in range(UPDATES):
            rows.append(agent._iterate(number / UPDATES))
            after.append(weights(agent))
        processes.gather = original
        torch.save((seen, rows, after, agent.env.num_envs), f"{folder}/{name}-{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    context = get_context("forkserver")
    both = [context.Process(target=worker, args=(rank, str(folder))) for rank in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
        assert one.exitcode == 0
    return folder


@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_processes_make_the_update_of_one(records, name, monkeypatch):
    """Given the episodes of both: the same metrics, and weights within 1e-6 after each update."""
    (seen, rows, after, envs), (seen_too, rows_too, after_too, _) = (
        torch.load(records / f"{name}-{rank}.pt", weights_only=False) for rank in range(2)
    )
    assert envs == 4, "half the lanes each"
    agent = make_agent(name)
    assert agent.env.num_envs == 8
    for number in range(UPDATES):
        rollout = seen[number]
        assert len(rollout) == 16
        assert torch.equal(rollout.input_ids, seen_too[number].input_ids), "both learn from the same episodes"
        halves = rollout.input_ids[:8], rollout.input_ids[8:]
        assert not torch.equal(*halves), "they do not play the same ones"
        if name == "group":
            assert rollout.group.unique(return_counts=True)[1].tolist() == [2] * 8
        assert torch.equal(after[number], after_too[number])
        monkeypatch.setattr("agents.training.collect", lambda *args, rollout=rollout, **kwargs: rollout)
        row = agent._iterate(number / UPDATES)
        torch.testing.assert_close(weights(agent), after[number], atol=1e-6, rtol=0)
        for key in (key for key in row if "second" not in key):
            assert rows[number][key] == pytest.approx(row[key], abs=1e-5), key
            assert rows[number][key] == rows_too[number][key], key
    assert not torch.equal(after[0], after[1])


def test_the_lanes_of_both_have_the_examples_of_one(records):
    """Before any update: lane i of the second process is lane i + 4 of one process with all eight."""
    rollout = torch.load(records / "reinforce-0.pt", weights_only=False)[0][0]
    seen = []
    agent = make_agent("reinforce")
    agent.algorithm = replace(agent.algorithm, update=lambda *args: seen.append(args[2]) or {})
    Algorithm.known[agent.algorithm.name] = REINFORCE  # which making another one of that name has displaced
    agent._iterate(0.0)
    assert rollout.examples[[0, 1, 2, 3, 8, 9, 10, 11]].tolist() == seen[0].examples[:8].tolist()


def test_a_number_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(ValueError, match="Expected num_envs to be a multiple of the 3 processes, got 8"):
        make_agent("ppo")


def test_without_accelerate_several_processes_say_what_is_missing(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"pip install .textenvs\[accelerate\]"):
        processes.start("cpu")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert processes.start("cpu") == "cpu"


def launch(*words):
    """Two processes on the CPU. (accelerate's own --cpu starts one, unless there is MPI.)"""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "agents", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_run_under_accelerate_loses_a_process_and_goes_on_with_one(tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'textenvs[agents,accelerate]'")
    run = tmp_path / "run"
    longer = [*RUN, "--output", str(run), "--total-timesteps", "1000000", "--eval-during", "0"]
    with launch(*longer) as process:
        try:
            said = lose_one(process, run)
        finally:
            process.kill()
    assert process.returncode != 0
    assert f"Go on with: python -m agents train --resume {run}" in said
    reached = checkpoints.find(run)
    assert reached.timesteps > 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["timesteps"] for row in rows] == sorted({row["timesteps"] for row in rows}), "one process writes"
    main(["train", "--resume", str(run), "--total-timesteps", str(reached.timesteps + 20)])
    assert load(run, device="cpu").updates > reached.updates


def lose_one(process, run):
    """Wait for three updates, kill the process that does not write, and return what the others said."""
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text().count("\n") < 3:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    first = int((run / "run.lock").read_text().split()[1])
    others = [pid for pid in children(process.pid) if pid != first]
    assert len(others) == 1
    os.kill(others[0], signal.SIGKILL)
    return process.communicate(timeout=120)[0]


def children(pid):
    """The processes that a process has started, as Linux lists them."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += [int(one) for one in file.read().split()]
    return found
