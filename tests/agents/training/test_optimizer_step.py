"""One optimiser step, whatever happens on the way: NaN, infinity, no memory."""

import json
import logging
import math

import pytest
import torch
from torch import nn

from agents import PPO, REINFORCE, ActorCritic, BestOfN, load
from agents.__main__ import main
from agents.training import checkpoints
from agents.training.config import OptimizerConfig
from agents.training.meter import Meter
from agents.training.optimization import NonFiniteError, optimizer_step, skipped_in_a_row, skipped_steps
from benchmarks.robustness.kill_and_resume import RUN
from tests.agents.helpers import lanes, make_policy

SMALL = {"num_envs": 4, "episodes_per_update": 4}
TARGETS = torch.tensor([1.0, 2.0, 3.0, 6.0, 8.0, 10.0])


class Line(nn.Module):
    """One weight w; the loss is the mean of (w - target)^2 / 2, whose gradient is w - mean(targets)."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))


def take(line, optimizer, config=None, fault=None, rows=None):
    """A step of SGD with step size 1, by default over all targets. `fault(part, loss)` changes a loss or raises."""
    rows = torch.arange(6) if rows is None else rows
    meter, seen = Meter(), []

    def loss_of(part, found):
        loss = ((line.w - TARGETS[part]) ** 2 / 2).sum() / len(rows)
        loss = loss if fault is None else fault(part, loss)
        seen.append(len(part))
        found.add(len(part), {"target": TARGETS[part].mean()})
        return loss

    optimizer_step(optimizer, rows, loss_of, config or OptimizerConfig(max_grad_norm=100.0), meter)
    return meter.means(), seen


def make_line():
    line = Line()
    return line, torch.optim.SGD(line.parameters(), lr=1.0)


@pytest.mark.parametrize("size", [1, 2, 4, 6, 64])
def test_micro_batches_add_up(size):
    line, optimizer = make_line()
    means, seen = take(line, optimizer, OptimizerConfig(micro_batch_size=size, max_grad_norm=100.0))
    assert float(line.w.detach()) == pytest.approx(5.0), "by hand: 0 - (0 - 5)"
    assert means == {"target": pytest.approx(5.0), "grad_norm": pytest.approx(5.0), "skipped": 0.0}
    assert sum(seen) == 6
    assert max(seen) == min(size, 6)
    assert line.w.grad is None


def test_the_gradient_is_clipped_once_over_all_micro_batches():
    line, optimizer = make_line()
    means, _ = take(line, optimizer, OptimizerConfig(micro_batch_size=2, max_grad_norm=2.0))
    assert float(line.w.detach()) == pytest.approx(2.0)
    assert means["grad_norm"] == pytest.approx(5.0)


FAULTS = {
    "loss NaN": lambda loss, w: loss * math.nan,
    "loss inf": lambda loss, w: loss + math.inf,
    "loss -inf": lambda loss, w: loss - math.inf,
    "gradient NaN": lambda loss, w: loss + w.sqrt() * 0,  # at w = 0 the root has an infinite slope
    "gradient inf": lambda loss, w: loss + w.sqrt(),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_not_finite_never_reaches_the_weights(name):
    line, optimizer = make_line()
    config = OptimizerConfig(micro_batch_size=2, max_grad_norm=100.0)

    def fault(part, loss):
        return FAULTS[name](loss, line.w) if 2 in part else loss

    means, _ = take(line, optimizer, config, fault)
    assert float(line.w.detach()) == 0.0
    assert means == {"skipped": 1.0}, "metrics are of the steps that were taken"
    assert (skipped_steps(optimizer), skipped_in_a_row(optimizer)) == (1, 1)
    assert line.w.grad is None, "nothing is left for the next step"
    take(line, optimizer, config)
    assert float(line.w.detach()) == pytest.approx(5.0)
    assert (skipped_steps(optimizer), skipped_in_a_row(optimizer)) == (1, 0)


def test_too_many_in_a_row_stop():
    line, optimizer = make_line()
    config = OptimizerConfig(max_skipped_steps=2)

    def nan(part, loss):
        return loss * math.nan

    for number in (1, 2):
        take(line, optimizer, config, nan)
        assert skipped_in_a_row(optimizer) == number
    with pytest.raises(NonFiniteError, match="a loss of nan on the last of 3 minibatches in a row") as error:
        take(line, optimizer, config, nan, rows=torch.tensor([4, 1]))
    assert error.value.rows.tolist() == [4, 1]
    assert float(line.w.detach()) == 0.0


def sequence(monkeypatch, devices):
    """Steps of a fused Adam, of which some have no finite gradient, where the host waits and where it does not."""
    monkeypatch.setattr("agents.training.optimization._ASYNCHRONOUS", devices)
    line = Line()
    optimizer = torch.optim.Adam(line.parameters(), lr=0.5, fused=True)
    config, seen = OptimizerConfig(micro_batch_size=2, max_grad_norm=100.0, max_skipped_steps=2), []
    for fault in (True, False, True, True, False, False):
        means, _ = take(line, optimizer, config, (lambda part, loss: loss * math.nan) if fault else None)
        state = {name: float(one) for name, one in optimizer.state[line.w].items()}
        counts = (means["skipped"], means.get("grad_norm"), skipped_steps(optimizer), skipped_in_a_row(optimizer))
        seen.append((float(line.w.detach()), state, counts))
    return seen


def test_a_step_that_the_device_skips_leaves_what_the_host_would_leave(monkeypatch):
    waits, goes_on = sequence(monkeypatch, ()), sequence(monkeypatch, ("cpu",))
    assert [one[0] for one in waits] == [one[0] for one in goes_on]
    assert [one[1] for one in waits][1:] == [one[1] for one in goes_on][1:]  # Adam's state begins with its first step
    assert goes_on[0][1] == {"step": 0.0, "exp_avg": 0.0, "exp_avg_sq": 0.0}
    for (_, _, before), (_, _, after) in zip(waits, goes_on, strict=True):
        assert before[0] == after[0]
        assert before[2:] == after[2:]
        assert math.isnan(after[1]) if before[0] else after[1] == before[1]


def test_too_many_that_the_device_skips_stop_when_the_metrics_are_read(monkeypatch):
    monkeypatch.setattr("agents.training.optimization._ASYNCHRONOUS", ("cpu",))
    line = Line()
    optimizer, meter = torch.optim.AdamW(line.parameters(), fused=True), Meter()
    for rows in ([0, 1], [2, 3]):
        optimizer_step(
            optimizer, torch.tensor(rows), lambda *_: line.w.sqrt(), OptimizerConfig(max_skipped_steps=1), meter
        )
    with pytest.raises(NonFiniteError, match="a gradient of norm inf on the last of 2 minibatches in a row") as error:
        meter.means()
    assert error.value.rows.tolist() == [2, 3]
    assert float(line.w.detach()) == 0.0


def test_out_of_memory_halves_the_micro_batch_and_takes_the_same_step(caplog):
    line, optimizer = make_line()
    config = OptimizerConfig(micro_batch_size=6, max_grad_norm=100.0)
    seen = []

    def full(part, loss):
        seen.append(len(part))
        if len(part) > 1 and 5 in part:  # in the middle of the step: a part is in the gradient already
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss

    with caplog.at_level(logging.WARNING):
        means, _ = take(line, optimizer, config, full)
    assert seen == [6, 3, 3, 1, 1, 1, 1, 1, 1]
    assert float(line.w.detach()) == pytest.approx(5.0)
    assert means["target"] == pytest.approx(5.0), "the first three, which were thrown away once, are not counted twice"
    assert means["grad_norm"] == pytest.approx(5.0)
    assert "micro-batches of 6 episodes: from now on they have 3" in caplog.text
    assert "micro-batches of 3 episodes: from now on they have 1" in caplog.text
    seen.clear()
    take(line, optimizer, config, full)
    assert seen == [1] * 6, "it is remembered"


def test_no_memory_for_one_episode_says_what_to_do():
    def full(part, loss):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="lower max_new_tokens"):
        take(*make_line(), fault=full)


@pytest.mark.parametrize("algorithm", [PPO, ActorCritic, REINFORCE, BestOfN], ids=lambda one: one.name)
def test_a_run_stops_at_nan_with_the_last_good_checkpoint(algorithm, tmp_path, monkeypatch):
    agent = algorithm(make_policy(), lanes(4), max_skipped_steps=3, **SMALL)
    original, good = type(agent.policy).loss, []

    def loss(self, input_ids, positions, mask, loss_of, **kwargs):
        def spoilt(now, at):
            if agent.updates >= 2:
                now = now._replace(log_probs=now.log_probs.index_fill(0, torch.tensor([0]), math.nan))
            return loss_of(now, at)

        return original(self, input_ids, positions, mask, spoilt, **kwargs)

    def keep(row):
        good.append((agent.updates, row["skipped_steps"], [one.detach().clone() for one in agent.policy.parameters()]))

    monkeypatch.setattr(type(agent.policy), "loss", loss)
    with pytest.raises(
        NonFiniteError, match=r"a loss of nan on the last of 4 minibatches.*in update \d.*episodes"
    ) as error:
        agent.learn(10**6, folder=tmp_path, on_update=keep, checkpoint_seconds=0.0)
    assert " -> '" in str(error.value)
    assert all(torch.equal(one, other) for one, other in zip(good[1][2], agent.policy.parameters(), strict=True))
    assert checkpoints.find(tmp_path).updates == 2, "none is written while steps are skipped"
    monkeypatch.undo()
    again = load(tmp_path, env=lanes(4), device="cpu")
    assert all(torch.equal(one, other) for one, other in zip(good[1][2], again.policy.parameters(), strict=True))
    again.learn(again.timesteps + 1)


def test_the_command_line_says_what_happened(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"

    def nan(*args, **kwargs):
        raise NonFiniteError("Expected finite losses and gradients, got a loss of nan", torch.tensor([0]))

    with monkeypatch.context() as patch:
        patch.setattr("agents.training.update.optimizer_step", nan)
        with pytest.raises(SystemExit) as stopped:
            main([*RUN, "--output", str(run)])
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "got a loss of nan, in update 1. The minibatch has 1 episodes" in said
    assert f"Go on with: python -m agents train --resume {run}" in said
    assert json.loads((run / "config.json").read_text())["algorithm"] == "ppo"
    main(["train", "--resume", str(run), "--total-timesteps", "30"])
    assert checkpoints.find(run).timesteps >= 30
