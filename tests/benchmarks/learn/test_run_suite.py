"""The benchmark's runs: what is asked for is done once, failures are rows, and everybody gets the same experiment."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import textenvs
from agents import Policy
from agents.locks import FileLock
from agents.training.agent import Algorithm
from benchmarks.learn import run_suite
from benchmarks.learn.contestants import algorithm_of, parse, train
from benchmarks.learn.one_run import measure, thinned, time_to
from benchmarks.learn.playing import Unavailable, make_start_policy
from benchmarks.learn.run_suite import Arguments, key_of, read_rows, split_agents, wanted
from benchmarks.learn.sb3_and_trl import OUTSIDE
from benchmarks.learn.suite import DIAGNOSTICS, LANGUAGE, SUITES, Experiment, Run, folder_name
from benchmarks.records import append_rows, command_line
from tests.helpers import locked_elsewhere
from textenvs import list_envs

ROOT = Path(__file__).parents[3]
SMALL = Experiment("TextGen/Brackets-v0", "immediate", 300, episodes=20)


def row_of(agent, experiment=SMALL, seed=0):
    return measure(Run("smoke", agent, experiment, seed))


def test_every_id_is_in_a_suite():
    ids = {experiment.env for suite in SUITES.values() for experiment in suite.experiments}
    assert set(list_envs()) <= ids <= set(list_envs(data=True))
    assert len(SUITES["diagnostics"].experiments) == 2 * len(DIAGNOSTICS) == 20
    assert len(SUITES["language"].experiments) == 2 * len(LANGUAGE) == 20


def test_names_of_agents():
    assert split_agents("ppo, reinforce[baseline=none;group_size=4],m:A") == [
        "ppo", "reinforce[baseline=none;group_size=4]", "m:A",
    ]  # fmt: skip
    assert parse("reinforce[baseline=none;group_size=4]") == ("reinforce", {"baseline": "none", "group_size": 4})
    assert algorithm_of("agents.algorithms.ppo:PPO") is Algorithm.known["ppo"]
    with pytest.raises(ValueError, match="Expected an agent"):
        parse("ppo[")
    with pytest.raises(ValueError, match="setting=value"):
        parse("ppo[gamma]")
    for name in ("nobody", "no_such_module:A", "agents.algorithms.ppo:nothing", "agents.algorithms.ppo:update"):
        with pytest.raises(ValueError, match="Expected"):
            algorithm_of(name)


def test_a_command_asks_for_whole_seeds_first():
    runs = wanted(Arguments(suite="smoke", agents="ppo,sft", envs="Brackets", tokens=5))
    keys = [(run.seed, run.experiment.payout, run.agent) for run in runs]
    one_seed = [("immediate", "ppo"), ("immediate", "sft"), ("sparse", "ppo"), ("sparse", "sft")]
    assert keys == [(seed, *rest) for seed in (0, 1) for rest in one_seed]
    assert {run.experiment.tokens for run in runs} == {5}
    assert [run.agent for run in wanted(Arguments(suite="warm_start", envs="Translate-SFT", seeds=1))] == [
        "start", "ppo[num_envs=64;episodes_per_update=64]",
    ], "the suite's own"  # fmt: skip
    for changes in ({"suite": "none"}, {"envs": "Copy"}, {"payouts": "never"}):
        with pytest.raises(ValueError, match="Expected --"):
            wanted(Arguments(**changes))


def test_a_run_is_trained_on_its_budget_and_judged_on_both_test_splits():
    row = row_of("ppo[episodes_per_update=16;num_envs=16]")
    assert row["status"] == "ok"
    assert 300 <= row["tokens"] <= 300 + 16 * 8
    assert [point[0] for point in row["curve"]] == sorted(point[0] for point in row["curve"])
    assert row["curve"][-1][0] == row["tokens"]
    scale = row["top"] - row["random"]
    assert row["normalised"] == pytest.approx((row["score"] - row["random"]) / scale)
    assert row["threshold"] == pytest.approx(row["random"] + 0.9 * scale)
    assert row["normalised_shifted"] is not None
    assert row["config"]["num_envs"] == 16
    json.dumps(row)
    again = row_of("ppo[episodes_per_update=16;num_envs=16]")
    assert (again["score"], again["score_shifted"]) == (row["score"], row["score_shifted"])
    assert row_of("ppo[episodes_per_update=16;num_envs=16]", seed=1)["score"] != row["score"]


def test_another_start_model_with_the_same_tokens_keeps_the_scale(tmp_path):
    Policy.from_pretrained("tiny", device="cpu").save_pretrained(tmp_path / "warm")
    experiment = replace(SMALL, env="TextGen/Translate-v0", episodes=4)
    row = row_of("start", replace(experiment, model=str(tmp_path / "warm")))
    bundled = row_of("start", experiment)
    assert row["normalised"] == bundled["normalised"] is not None
    assert not Path(row["model"]).is_absolute(), "results name no folder of one machine"
    assert key_of(row) != key_of(bundled)


def test_experiments_of_a_suite_have_names_of_their_own_that_a_command_can_take():
    for suite in SUITES.values():
        keys = [(experiment.name, experiment.payout) for experiment in suite.experiments]
        assert len(set(keys)) == len(keys), suite.name
        assert not any("," in name for name, _ in keys)
        for agent in suite.agents:
            parse(agent)


def test_start_policies_are_data():
    """A config of a model, adapters, and supervised fine-tuning before the run."""
    experiments = {experiment.name: experiment for experiment in SUITES["policies"].experiments}
    lstm = make_start_policy(experiments["Copy-LSTM"], seed=0)
    assert lstm.model.config.model_type == "lstm_lm"
    assert experiments["Copy-LSTM"].model_name == "random weights: lstm_lm"
    sft = {"demonstrations": 4, "epochs": 1, "batch_size": 4}
    cold, warm = (make_start_policy(replace(SMALL, sft=settings), seed=0) for settings in ({}, sft))
    assert any(not torch.equal(*pair) for pair in zip(cold.parameters(), warm.parameters(), strict=True))
    row = row_of("start", replace(SMALL, episodes=4, sft=sft))
    assert (row["status"], row["sft"]) == ("ok", sft)


def test_adapters_alone_are_trained():
    pytest.importorskip("peft", reason="peft is not installed: pip install 'textenvs[lora]'")
    (experiment,) = (one for one in SUITES["policies"].experiments if one.policy_kwargs)
    policy = make_start_policy(experiment, seed=0)
    trained = [name for name, parameter in policy.model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora" in name for name in trained)
    row = row_of("ppo[episodes_per_update=4;num_envs=4]", replace(experiment, tokens=100, episodes=4))
    assert (row["status"], row["policy_kwargs"]) == ("ok", {"lora": 8})
    assert row["kl"] is not None, "the model without adapters is the reference"


def test_start_models_have_one_name_from_anywhere(tmp_path, monkeypatch):
    def names():
        absolute = [replace(SMALL, model=str(ROOT / path)).model_name for path in ("runs/warm/policy", "../elsewhere")]
        return [*absolute, *(experiment.model_name for experiment in SUITES["real"].experiments), SMALL.model_name]

    expected = ["runs/warm/policy", "../elsewhere", *["../shared/models/stories260K"] * 4, "tiny"]
    monkeypatch.chdir(ROOT)
    assert names() == expected
    assert replace(SMALL, model="runs/warm/policy").model_name == "runs/warm/policy"
    monkeypatch.chdir(tmp_path)
    assert names() == expected
    assert replace(SMALL, model="warm").model_name == replace(SMALL, model=str(tmp_path / "warm")).model_name
    assert folder_name(Path("models/stories"), tmp_path / "models") == "../shared/stories", "wherever it is"


def test_committed_rows_are_those_of_the_suites_of_today(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_suite = {}
    for file in sorted((ROOT / "benchmarks" / "results").glob("learn-*.jsonl")):
        for row in read_rows(file):
            by_suite.setdefault(row["suite"], []).append(row)
    assert sorted(by_suite) == ["diagnostics", "language", "real", "smoke"]
    for name, found in by_suite.items():
        experiments = {(one.name, one.payout): one for one in SUITES[name].experiments}
        for row in found:
            experiment = replace(experiments[row["env"], row["payout"]], tokens=row["budget"])
            if row["model"] not in ("tiny", experiment.model_name):
                experiment = replace(experiment, model=str(ROOT / row["model"]))
            assert Run(name, row["agent"], experiment, row["seed"]).key == key_of(row)


def test_a_run_that_was_cut_short_is_another_one(tmp_path):
    runs = [Run("smoke", "ppo", SMALL, 0, seconds) for seconds in (None, 1.0, 2.0)]
    assert len({run.key for run in runs}) == 3
    assert [key_of(run.columns) for run in runs] == [run.key for run in runs]


def test_random_demonstrations_and_the_start_stand_where_they_should():
    experiment = replace(SMALL, episodes=400)
    random = row_of("random", experiment)
    assert random["normalised"] == pytest.approx(0, abs=0.05)
    assert row_of("demonstrations", experiment)["normalised"] == pytest.approx(1)
    start = row_of("start", experiment)
    assert start["tokens"] == 0
    assert start["curve"] == []
    assert "late_deviation" not in start


def test_supervised_fine_tuning_gets_the_budgets_tokens():
    for tokens in (300, 12_000):
        row = row_of("sft", replace(SMALL, tokens=tokens))
        assert row["tokens"] == pytest.approx(tokens, rel=0.5)
        assert row["tokens"] <= tokens * 1.01
        assert row["score"] >= 0


def test_what_goes_wrong_is_a_row():
    failed = row_of("ppo[gamma=2.0]")
    assert failed["status"] == "failed"
    assert "gamma in [0, 1]" in failed["reason"]
    assert row_of("nobody")["status"] == "failed"
    assert row_of("random[x=1]")["status"] == "failed"
    elsewhere = replace(SMALL, model="/no/such/model")
    skipped = row_of("ppo", elsewhere)
    assert (skipped["status"], skipped["reason"]) == ("skipped", "/no/such/model is not there")
    for row in (failed, skipped):
        assert key_of(row)[1] in ("ppo", "ppo[gamma=2.0]")


@pytest.mark.parametrize(("name", "updates"), [("sb3_ppo_mlp", 2), ("sb3_a2c_mlp", 4)])
def test_stable_baselines3_learns_from_all_that_it_plays(name, updates, monkeypatch):
    """The rollout that crosses the budget is a whole one, and trained on, as in the bundled algorithms."""
    sb3 = pytest.importorskip(
        "stable_baselines3", reason="stable-baselines3 is not installed: pip install 'textenvs[sb3]'"
    )
    algorithm = sb3.PPO if "ppo" in name else sb3.A2C
    trained, train_once = [], algorithm.train

    def counted(self):
        trained.append(self.rollout_buffer.buffer_size * self.n_envs)
        train_once(self)

    monkeypatch.setattr(algorithm, "train", counted)
    found = train(name, replace(SMALL, tokens=1_100, episodes=2), 0)
    assert len(trained) == updates
    assert sum(trained) == found.tokens >= 1_100


@pytest.mark.parametrize("name", [name for name in OUTSIDE if name.startswith("sb3")])
def test_stable_baselines3_takes_part(name):
    pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed: pip install 'textenvs[sb3]'")
    if "maskable" in name:
        pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed: pip install sb3-contrib")
    row = row_of(f"{name}[n_steps=4]")
    assert row["status"] == "ok", row
    assert row["tokens"] >= 300
    assert row["normalised_shifted"] is not None


def test_of_stable_baselines3_maskable_ppo_alone_plays_with_a_mask():
    pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed: pip install 'textenvs[sb3]'")
    _, letters = SUITES["sb3"].experiments
    letters = replace(letters, tokens=200, episodes=8)
    skipped = row_of("sb3_ppo", letters)
    assert (skipped["status"], "masks actions" in skipped["reason"]) == ("skipped", True)
    pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed: pip install sb3-contrib")
    row = row_of("sb3_maskable_ppo[n_steps=4]", letters)
    assert row["status"] == "ok", row
    assert row["normalised"] is not None, "a mask keeps the task's scale"
    assert "=" not in row["sample"].split(" | ")[1]


@pytest.mark.parametrize("name", ["trl_grpo", "trl_rloo"])
def test_trl_takes_part_or_says_why_not(name):
    try:
        import trl  # noqa: F401 - looks whether it is there
    except ImportError:
        row = row_of(name)
        assert row["status"] == "skipped"
        assert "pip install trl" in row["reason"]
        return
    with pytest.raises(Unavailable, match="alphabet"):
        train(name, SMALL, 0)


def test_the_threshold_is_reached_by_three_updates_together():
    curve = [(10, 1.0, 1.0), (20, 2.0, 0.0), (30, 3.0, 0.8), (40, 4.0, 0.9), (50, 5.0, 1.0)]
    assert time_to(curve, 0.9) == {"tokens_to_threshold": 50, "cpu_seconds_to_threshold": 5.0}
    assert time_to(curve, 0.95) == {"tokens_to_threshold": None, "cpu_seconds_to_threshold": None}
    assert time_to([], 0.5)["tokens_to_threshold"] is None


def test_curves_are_thinned_to_means_of_stretches():
    curve = [(step, step / 2, float(step % 2)) for step in range(1, 121)]
    found = thinned(curve, points=60)
    assert len(found) == 60
    assert found[0] == (2, 1.0, 0.5)
    assert found[-1] == (120, 60.0, 0.5)
    assert thinned([]) == []


def test_results_that_were_cut_off_or_repeated(tmp_path):
    file = tmp_path / "x.jsonl"
    one = {"suite": "s", "agent": "a", "env": "e", "payout": "p", "budget": 1, "seed": 0, "status": "failed"}
    lines = [one, {**one, "seed": 1}, {**one, "status": "ok"}]
    file.write_text("\n".join(map(json.dumps, lines)) + '\n{"suite": "s", "age', encoding="utf-8")
    found = read_rows(file)
    assert [(row["seed"], row["status"]) for row in found] == [(0, "ok"), (1, "failed")]
    assert read_rows(tmp_path / "none.jsonl") == []
    append_rows(file, {**one, "seed": 2})
    assert [row["seed"] for row in read_rows(file)] == [0, 1, 2], "on a line of its own, after the half one"


def test_a_command_goes_on_where_it_was_and_tries_failures_again(tmp_path, capsys):
    """Processes aside: each run is measured here."""

    class Here:
        def __init__(self, run):
            self.run = run

        def row(self):
            with ThreadPoolExecutor() as others, pytest.raises(ValueError, match="is using"):
                others.submit(FileLock, tmp_path / "x.lock", "", "").result()
            calls.append(self.run.key)
            return {**self.run.columns, "status": next(outcomes), "reason": "x", "score": 1.0, "tokens": 1,
                    "cpu_seconds": 1.0, "seconds": 1.0}  # fmt: skip

    words = ["--suite", "smoke", "--agents", "ppo", "--seeds", "1", "--output", str(tmp_path / "x.jsonl")]
    calls, outcomes = [], iter(["ok", "failed", "ok", "ok"])
    run_suite.main(words, Here)
    assert len(calls) == 4
    assert "3 runs done, 1 failed" in capsys.readouterr().out
    calls, outcomes = [], iter(["ok"])
    run_suite.main(words, Here)
    assert len(calls) == 1
    assert "3 of them done before" in capsys.readouterr().out
    found = read_rows(tmp_path / "x.jsonl")
    assert {row["status"] for row in found} == {"ok"}
    assert {row["textenvs"] for row in found} == {textenvs.__version__}
    assert {row["command"] for row in found} == {command_line("learn", words)}
    assert len({row["machine"] for row in found}) == 1
    with pytest.raises(SystemExit, match="Expected --suite"):
        run_suite.main(["--suite", "none"])


BEATING = """
import time
from pathlib import Path

for _ in range(1000):
    with Path("beats").open("a") as file:
        file.write(".")
    time.sleep(0.02)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_run_outlives_its_command(tmp_path, number, status):
    """The agent's module beats while it is imported, in the process of the run."""
    (tmp_path / "beating.py").write_text(BEATING)
    words = [sys.executable, "-m", "benchmarks", "learn", "--agents", "beating:agent", "--output", "x.jsonl"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    quiet = subprocess.DEVNULL
    command = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=quiet, stderr=quiet)
    beats = tmp_path / "beats"
    while not beats.exists():
        assert command.poll() is None
        time.sleep(0.05)
    command.send_signal(number)
    assert command.wait(10) == status
    heard = -1
    for _ in range(20):
        before, heard = heard, beats.stat().st_size
        if before == heard:
            break
        time.sleep(0.3)
    assert before == heard, "it goes on"


def test_two_commands_do_not_write_into_one_file(tmp_path):
    words = ["--suite", "smoke", "--output", str(tmp_path / "x.jsonl")]
    expected = r"no other command adds to, got '.*x.jsonl', which process \d+ on elsewhere is using"
    with locked_elsewhere(tmp_path / "x.lock"), pytest.raises(SystemExit, match=expected):
        run_suite.main(words)


def test_progress_says_what_happened():
    row = {**row_of("demonstrations"), "reason": ""}
    assert "+1.00 of top" in run_suite.line(row)
    assert "failed: why" in run_suite.line({**row, "status": "failed", "reason": "why"})
    assert np.isfinite(row["cpu_seconds"])


def test_everybody_plays_with_the_start_models_tokenizer(stories260k):
    """stories260K has 512 tokens, TextGen-v0 by itself 1,024."""
    experiment = replace(SMALL, env="TextGen-v0", model=str(stories260k), tokens=64, episodes=4)
    for agent in ("random", "start", "ppo[episodes_per_update=4;num_envs=4]"):
        row = row_of(agent, experiment)
        assert row["status"] == "ok", row
        assert row["normalised"] is None, "the scale holds for the registered tokenizer alone"
    pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed: pip install 'textenvs[sb3]'")
    assert row_of("sb3_a2c_mlp", experiment)["status"] == "ok"
