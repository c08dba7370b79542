"""Several processes make the update that one makes, only the first writes, and the end of one ends all."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context

import pytest
import torch
from torch import distributed

from agents import PPO, REINFORCE, ActorCritic, BestOfN, SFTConfig, fine_tune, load
from agents.__main__ import main
from agents.distributed import processes
from agents.rollout import gather
from agents.supervised import reward_model
from agents.training import agent as training
from agents.training import checkpoints, optimization
from agents.training.meter import Meter
from benchmarks.robustness.kill_and_resume import RUN
from tests.agents.helpers import ECHO_KWARGS, make_policy, noisy_pairs
from tests.helpers import slow_but

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="torch was built without gloo")
UPDATES = 2
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
"""The variables that `accelerate launch --config_file docs/accelerate/fsdp.yaml` sets for its processes."""
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}
SETTINGS = {"num_envs": 8, "episodes_per_update": 16, "kl_coef": 0.1}
ALGORITHMS = {
    "ppo": (PPO, {"minibatch_size": 5, "micro_batch_size": 2, "bonuses": {"novelty": 0.1, "rnd": 0.1}}),
    "actor_critic": (ActorCritic, {"entropy_coef": 0.1, "critic": "separate"}),
    "reinforce": (REINFORCE, {"baseline": "batch_mean", "weight_decay": 0.1, "optimizer": "adamw"}),
    "group": (REINFORCE, {"baseline": "group", "group_size": 2, "kl_credit": "loss", "kl_estimator": "k2"}),
    "best_of_n": (BestOfN, {"keep": 0.1}),
    "frozen": (PPO, {"policy_kwargs": {"freeze": 1, "gradient_checkpointing": True}}),
    "lora": (PPO, {"policy_kwargs": {"lora": 2}}),
}


if find_spec("peft") is None:
    del ALGORITHMS["lora"]


def make_agent(name):
    algorithm, settings = ALGORITHMS[name]
    return algorithm("tiny", "TextGen/Copy-v0", seed=3, device="cpu", **{**SETTINGS, **settings})


def weights(agent):
    return torch.cat([one.detach().flatten() for one in agent.policy.parameters()])


def worker(rank, folder, environment):
    """Runs in each of two processes: two updates with every algorithm, and a record of what it saw."""
    torch.set_num_threads(1)
    os.environ.update(environment)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for name in ALGORITHMS:
        agent = make_agent(name)
        seen, rows, after = [], [], []
        training.gather = lambda rollout, seen=seen: seen.append(gather(rollout)) or seen[-1]
        for number in range(UPDATES):
            rows.append(agent._iterate(number / UPDATES))
            after.append(weights(agent))
        training.gather = gather
        torch.save((seen, rows, after, agent.env.num_envs), f"{folder}/{name}-{rank}.pt")
        if environment == FSDP and name == "ppo":
            whole = sum(one.numel() for one in agent.policy.parameters())
            assert all(0.45 * whole < size < 0.55 * whole for size in pieces(agent)), "an odd row goes to the first"
    if environment == ZERO:
        skip_what_is_not_finite()
    if environment:
        agent = load(f"{folder}/before", device="cpu")
        held = copy.deepcopy(checkpoints.flatten_optimizer(agent.optimizer))
        agent.learn(agent.timesteps + 1, folder=f"{folder}/after")
        torch.save((held, checkpoints.flatten_optimizer(agent.optimizer), weights(agent)), f"{folder}/held-{rank}.pt")
    else:
        for kind, learn in WITHOUT_A_ROLLOUT.items():
            torch.save(learn(f"{folder}/{kind}-{rank}"), f"{folder}/{kind}-{rank}.pt")
    distributed.destroy_process_group()


def skip_what_is_not_finite():
    """A loss that is infinite, its gradient not: nothing changes, and the next step is taken."""
    agent = make_agent("ppo")
    before = torch.cat([one.detach().flatten().clone() for one in agent.learner.policy.parameters()])
    for constant, skipped in ((math.inf, 1), (0.0, 1)):

        def loss_of(rows, meter, constant=constant):
            return sum(one.sum() for one in agent.learner.policy.parameters()) + constant

        optimization.optimizer_step(agent.optimizer, torch.arange(4), loss_of, agent.config, Meter())
        after = torch.cat([one.detach().flatten() for one in agent.learner.policy.parameters()])
        assert optimization.skipped_steps(agent.optimizer) == skipped
        assert torch.equal(before, after) == (constant == math.inf)


def warm_start(folder):
    """Two epochs of supervised fine-tuning: what there is to say of them, and the weights."""
    policy = make_policy()
    config = SFTConfig(epochs=2, batch_size=5, micro_batch_size=2, eval_episodes=4)
    rows = fine_tune(policy, "TextGen-v0", config=config, env_kwargs=ECHO_KWARGS, folder=folder)
    shown = [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in rows]
    return shown, torch.cat([one.detach().flatten() for one in policy.parameters()])


def preference_model(folder):
    """Two epochs of a preference model, likewise."""
    policy, pairs = make_policy(spread=0.1), noisy_pairs(40)
    config = reward_model.PreferenceConfig(epochs=2, batch_size=7, micro_batch_size=2, learning_rate=5e-3)
    found = reward_model.train(policy, pairs[:30], pairs[30:], config)
    return found.history, torch.cat([one.detach().flatten() for one in policy.parameters()])


WITHOUT_A_ROLLOUT = {"sft": warm_start, "reward_model": preference_model}


def pieces(agent):
    """Counts the weights that this process trains, and the entries of Adam's two moments that it has."""
    trained = [one for group in agent.optimizer.param_groups for one in group["params"]]
    moments = [[agent.optimizer.state[one][name] for one in trained] for name in ("exp_avg", "exp_avg_sq")]
    return [sum(one.to_local().numel() for one in several) for several in (trained, *moments)]


def play(folder, environment):
    context = get_context("forkserver")
    both = [context.Process(target=worker, args=(rank, str(folder), environment)) for rank in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
        assert one.exitcode == 0
    return folder


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    return play(tmp_path_factory.mktemp("copies"), {})


@pytest.fixture(scope="module")
def in_zero(tmp_path_factory):
    pytest.importorskip("deepspeed", reason="deepspeed is not installed: pip install 'textenvs[agents,deepspeed]'")
    folder = tmp_path_factory.mktemp("in_zero")
    make_agent("ppo").learn(1, folder=folder / "before")
    return play(folder, ZERO)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_agent("ppo").learn(1, folder=folder / "before")
    return play(folder, FSDP)


@pytest.mark.parametrize("how", slow_but({"copies"}, ["copies", "shards", "in_zero"]))
@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_processes_make_the_update_of_one(request, how, name, monkeypatch):
    """Given the episodes of both: the same metrics, and weights within 1e-6 after each update."""
    records = request.getfixturevalue(how)
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
        monkeypatch.setattr("agents.training.player.collect", lambda *args, rollout=rollout, **kwargs: rollout)
        row = agent._iterate(number / UPDATES)
        torch.testing.assert_close(weights(agent), after[number], atol=1e-6, rtol=0)
        for key in (key for key in row if "second" not in key):
            assert rows[number][key] == pytest.approx(row[key], abs=1e-5), key
            assert rows[number][key] == rows_too[number][key], key
    assert not torch.equal(after[0], after[1])


@pytest.mark.parametrize("kind", WITHOUT_A_ROLLOUT)
def test_two_processes_learn_from_data_as_one_does(copies, kind, tmp_path):
    rows, after = WITHOUT_A_ROLLOUT[kind](str(tmp_path / "one"))
    for rank in range(2):
        theirs, weights_of_theirs = torch.load(copies / f"{kind}-{rank}.pt", weights_only=False)
        torch.testing.assert_close(weights_of_theirs, after, atol=1e-6, rtol=0)
        for row, one in zip(theirs, rows, strict=True):
            assert row == pytest.approx(one, rel=1e-5, abs=1e-5)
    assert not (copies / f"{kind}-1").exists(), "the second one writes nothing"


def test_only_train_cuts_a_policy(monkeypatch):
    pytest.importorskip("accelerate")
    for name, value in {**FSDP, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"Expected distributed_type MULTI_GPU .* got FSDP, which train alone"):
        processes.start("cpu", pieces=False)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["shards", "in_zero"])
def test_a_checkpoint_of_one_process_goes_on_in_pieces_and_the_other_way_round(request, how):
    shards = request.getfixturevalue(how)
    held, after, trained = torch.load(shards / "held-0.pt", weights_only=False)
    one = load(shards / "before", device="cpu")
    same(held, checkpoints.flatten_optimizer(one.optimizer))
    again = load(shards / "after", device="cpu")
    assert again.updates == one.updates + 1
    assert torch.equal(weights(again), trained)
    assert not torch.equal(weights(again), weights(one))
    same(after, checkpoints.flatten_optimizer(again.optimizer))


def same(one, other):
    (tensors, numbers), (tensors_too, numbers_too) = one, other
    assert numbers == numbers_too
    assert tensors.keys() == tensors_too.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, tensors_too[name]), name


@pytest.mark.usefixtures("own_algorithms")
def test_the_lanes_of_both_have_the_examples_of_one(copies):
    """Before any update: lane i of the second process is lane i + 4 of one process with all eight."""
    rollout = torch.load(copies / "reinforce-0.pt", weights_only=False)[0][0]
    seen = []
    agent = make_agent("reinforce")
    agent.algorithm = replace(agent.algorithm, name="watched", update=lambda *args: seen.append(args[2]) or {})
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


def launch(how, *words):
    """Two processes on the CPU. (accelerate's own --cpu starts one, unless there is MPI.)"""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"docs/accelerate/{how}.yaml"]
    command += ["--main_process_port", "0", "-m", "agents", *words, "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def run(tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'textenvs[agents,accelerate]'")
    return tmp_path / "run"


LONG = [*RUN, "--total-timesteps", "1000000", "--eval-during", "0", "--checkpoint-seconds", "0"]


@pytest.mark.slow
def test_a_run_in_copies_loses_a_process_and_goes_on_with_one(run):
    reached = lose_one("copies", run, first=False)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["timesteps"] for row in rows] == sorted({row["timesteps"] for row in rows}), "one process writes"
    main(["train", "--resume", str(run), "--total-timesteps", str(reached.timesteps + 20)])
    assert load(run, device="cpu").updates > reached.updates


@pytest.mark.slow
def test_a_run_in_pieces_loses_its_first_process_and_goes_on_with_one_and_then_with_two(run):
    reached = lose_one("fsdp", run, first=True)
    main(["train", "--resume", str(run), "--total-timesteps", str(reached.timesteps + 20)])
    alone = load(run, device="cpu")
    assert alone.updates > reached.updates
    with launch("copies", "train", "--resume", str(run), "--total-timesteps", str(alone.timesteps + 20)) as process:
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert load(run, device="cpu").updates > alone.updates
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len({row["timesteps"] for row in rows}) == len(rows) == load(run, device="cpu").updates


def lose_one(how, run, *, first):
    """Wait for three updates, kill one of two processes, and see that the other says what to do."""
    with launch(how, *LONG, "--output", str(run)) as process:
        try:
            deadline = time.monotonic() + 120
            while not (run / "metrics.jsonl").exists() or (run / "metrics.jsonl").read_text().count("\n") < 3:
                assert process.poll() is None, process.stdout.read()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            writer = int((run / "run.lock").read_text().split()[1])
            others = [pid for pid in children(process.pid) if pid != writer]
            assert len(others) == 1
            os.kill(writer if first else others[0], signal.SIGKILL)
            said = process.communicate(timeout=120)[0]
        finally:
            process.kill()
    assert process.returncode != 0
    assert "one of them has ended" in said
    assert f"Go on with: python -m agents train --resume {run}" in said
    reached = checkpoints.find(run)
    assert reached.timesteps > 0
    return reached


def children(pid):
    """The processes that a process has started, as Linux lists them."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += [int(one) for one in file.read().split()]
    return found
