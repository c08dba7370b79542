"""The page on new algorithms: its code runs, learns, and is the algorithm that it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from agents import PPO, REINFORCE, collect, load
from agents.rollout import reference_log_probs
from agents.training.agent import Algorithm
from benchmarks.learn import report
from benchmarks.learn.run_suite import read_rows
from tests.agents.helpers import assert_same_gradient, environment, gradient, lanes, make_policy

PAGE = Path(__file__).parents[3] / "docs" / "own-algorithm.md"


@pytest.fixture
def grpo(own_algorithms):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    body = code[code.index("@dataclass") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 24, "some twenty lines, imports aside"
    namespace = {"__name__": "grpo_of_the_docs"}
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), namespace)
    return namespace["GRPO"]


def test_its_gradient_at_ratio_one_is_that_of_reinforce_with_the_same_baseline(grpo):
    policy = make_policy(seed=1)
    env = lanes(8, group_size=4)
    rollout = collect(env, policy, 24, seed=0, generator=torch.Generator().manual_seed(0))
    rollout.__dict__["ref_log_probs"] = reference_log_probs(make_policy(seed=9), rollout, temperature=1.0)
    groups = {"group_size": 4, "num_envs": 8, "episodes_per_update": 24}
    penalty = {"kl_coef": 0.3, "kl_estimator": "k3", "kl_credit": "loss"}
    ours = gradient(grpo, rollout, minibatch_size=24, **groups, kl_coef=0.3)
    plain = {"baseline": "group", "credit": "episode", "normalize_advantages": False}
    assert_same_gradient(ours, gradient(REINFORCE, rollout, **plain, **penalty, **groups))
    for micro in (1, 7):
        assert_same_gradient(
            ours, gradient(grpo, rollout, minibatch_size=24, micro_batch_size=micro, **groups, kl_coef=0.3)
        )


def test_it_learns_and_its_checkpoints_load(grpo, tmp_path):
    settings = {"learning_rate": 0.01, "num_envs": 32, "episodes_per_update": 64, "group_size": 8}
    env = environment(32, group_size=8, payout="sparse")
    scores = []
    agent = grpo(make_policy(spread=0.05), env, **settings)
    agent.learn(64 * 4 * 12, on_update=lambda row: scores.append(row["score"]), folder=tmp_path)
    assert scores[0] < 0.3
    assert max(scores[-3:]) > 0.7
    assert load(tmp_path, env=env, device="cpu").algorithm is grpo
    assert PPO.name in Algorithm.known


@pytest.mark.slow
def test_one_command_puts_it_into_the_benchmarks_results(tmp_path):
    """The module and the command of the page, but for the number of runs: its suite is `smoke`."""
    page = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (command,) = re.findall(r"^    python -m (benchmarks learn .*)$", page, flags=re.MULTILINE)
    assert "grpo_page:GRPO" in command
    (tmp_path / "grpo_page.py").write_text(code, encoding="utf-8")
    words = command.replace("ppo,", "").split()
    limits = ["--seeds", "1", "--envs", "Brackets", "--payouts", "sparse", "--tokens", "300"]
    results = tmp_path / "x.jsonl"
    root = PAGE.parents[1]
    subprocess.run(
        [sys.executable, "-m", *words, *limits, "--output", str(results)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])},
        check=True,
        capture_output=True,
    )
    (row,) = read_rows(results)
    assert (row["agent"], row["status"], row["suite"]) == ("grpo_page:GRPO", "ok", "smoke"), row
    assert row["config"]["group_size"] == 8
    assert row["normalised"] is not None
    pytest.importorskip("rliable", reason="rliable is not installed: pip install 'textenvs[benchmarks]'")
    report.main(["--results", str(results)])
    assert "| grpo_page:GRPO | " in (tmp_path / "x.md").read_text(encoding="utf-8")
