"""Metrics: averages that do not depend on how they were cut up."""

import json
import math

import numpy as np
import pytest
import torch

from agents import PPO
from agents.evaluation.evaluation import EvaluationPlan, distinct_n
from agents.files import to_json
from agents.training.alarm import diverged, watch_diversity
from agents.training.meter import Meter
from agents.training.metrics_log import MetricsLog, plot_learning_curve, read_metrics
from agents.training.run_folder import read_evaluation


def test_averages_do_not_depend_on_the_number_of_updates():
    values = torch.tensor([1.0, 2.0, 6.0, 11.0])
    whole, cut = Meter(), Meter()
    whole.add(4, {"loss": values.mean()})
    cut.add(1, {"loss": values[0]})
    cut.add(torch.tensor(3), {"loss": values[1:].mean()})
    assert whole.means() == pytest.approx({"loss": 5.0})
    assert cut.means() == pytest.approx({"loss": 5.0})


def test_a_metric_that_was_never_weighed_is_nan_and_not_zero():
    meter = Meter()
    meter.add(0, {"loss": 3.0})
    assert meter.means()["loss"] != meter.means()["loss"]
    assert Meter().means() == {}


def test_a_meter_counts_what_another_has_counted_unless_it_is_told_not_to():
    whole = Meter()
    for value, when in ((1.0, None), (5.0, torch.tensor(True)), (math.nan, torch.tensor(False))):
        part = Meter()
        part.add(2, {"loss": torch.tensor(value)})
        part.add_shares(torch.tensor(4), 0.5, {"share": torch.tensor(value)})
        whole.merge(part, when=when)
    assert whole.means() == pytest.approx({"loss": (2 * 1 + 2 * 5) / 4, "share": (4 * 1 + 4 * 5) / 4})


def test_numbers_that_are_awaited_come_with_the_averages_in_their_order():
    first, second, seen = Meter(), Meter(), []
    first.await_numbers(torch.tensor([1.0, 2.0]), seen.append)
    second.await_numbers(torch.tensor([3.0]), seen.append)
    second.add(1, {"loss": torch.tensor(7.0)})
    first.merge(second)
    assert second.means() == {"loss": 7.0}
    assert not seen, "the first one waits now"
    assert first.means() == {"loss": 7.0}
    assert seen == [[1.0, 2.0], [3.0]]
    first.means()
    assert len(seen) == 2, "once"


def test_distinct_n_by_hand():
    assert distinct_n(["a b a b", "b a"]) == 2 / 4  # ab, ba, ab | ba: two kinds of four
    assert distinct_n(["a b a b", "b a"], n=1) == 2 / 6
    assert distinct_n(["a", ""]) == 0.0


def test_a_row_goes_to_the_file_and_a_torn_last_line_is_left_out(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(10, {"score": 0.5})
        log.write(20, {"score": 0.75})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"timesteps": 30, "sco')
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"timesteps": 10, "score": 0.5},
        {"timesteps": 20, "score": 0.75},
    ]


def test_the_picture_is_a_png(tmp_path):
    rows = [{"timesteps": 10 * step, "score": 0.1 * step, "kl": 0.0} for step in range(5)]
    plot_learning_curve(rows, tmp_path / "curve.png", "a title")
    assert (tmp_path / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_wandb_is_asked_for_by_name(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"textenvs\[wandb\]"):
        MetricsLog(tmp_path, wandb_project="x")


def test_a_missing_tensorboard_is_said_and_the_file_is_written(tmp_path, monkeypatch, caplog):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with MetricsLog(tmp_path) as log:
        log.write(10, {"score": 0.5})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"timesteps": 10, "score": 0.5}]
    assert "pip install tensorboard" in caplog.text
    assert not (tmp_path / "tensorboard").exists()


def test_diverged_by_hand() -> None:
    """Score 0, 2, 1, 3: a slope of 0.8, residuals 0.3, -0.9, 0.9, -0.3, hence an error of sqrt(1.8 / 2 / 5)."""
    rising, falling = [0.0, 2.0, 1.0, 3.0], [3.0, 1.0, 2.0, 0.0]
    trend = 0.8 / math.sqrt(1.8 / 2 / 5)
    assert trend == pytest.approx(1.8856, abs=1e-4)
    assert diverged(rising, falling, window=4, deviations=trend - 1e-6)
    assert not diverged(rising, falling, window=4, deviations=trend + 1e-6)


def test_diverged_needs_a_rise_and_a_fall() -> None:
    up, down = [0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.4, 0.3, 0.2, 0.1]
    flat = [0.3] * 5
    assert diverged(up, down, window=5)
    for scores, held_out in ((up, up), (down, down), (down, up), (up, flat), (flat, down), (flat, flat)):
        assert not diverged(scores, held_out, window=5)
    assert not diverged(up, down, window=6), "too few updates"
    assert diverged([9.0, *up], [-9.0, *down], window=5), "only the window counts"
    assert not diverged([1e9 + one for one in flat], [1e9 + one for one in flat], window=5)
    with pytest.raises(ValueError, match="as many held-out metrics as scores, 5, got 4"):
        diverged(up, down[1:])
    with pytest.raises(ValueError, match="at least 3 updates, got 2"):
        diverged(up, down, window=2)


def test_noise_alone_hardly_ever_parts() -> None:
    rng = np.random.default_rng(0)
    alarms = [diverged(*rng.normal(size=(2, 20)).tolist()) for _ in range(2000)]
    assert sum(alarms) <= 2  # each side has a chance of about 1 in 250
    trend = np.linspace(0, 2, 20)
    assert (
        np.mean([diverged(rng.normal(trend, 0.3).tolist(), rng.normal(-trend, 0.3).tolist()) for _ in range(100)]) > 0.9
    )


def strictly(text: str):
    """Reads JSON as other programs do, which have no word for NaN."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_every_file_of_a_run_is_json_also_where_numbers_are_none(tmp_path):
    folder = tmp_path / "run"
    env_kwargs = {"reward": lambda example, response: 0.0, "max_new_tokens": 2}
    agent = PPO("tiny", "TextGen-v0", env_kwargs=env_kwargs, num_envs=2, episodes_per_update=2, device="cpu")
    # The interval of a single episode has no ends.
    agent.learn(8, folder=folder, evaluation=EvaluationPlan(episodes=1, during=1))
    assert math.isnan(read_metrics(folder / "metrics.jsonl")[0]["explained_variance"])
    names = [path for path in folder.rglob("*.json*") if "checkpoints" not in path.parts]
    assert {"metrics.jsonl", "evaluations.jsonl"} <= {path.name for path in names}
    rows = [strictly(line) for path in names for line in path.read_text().splitlines()]
    assert any(row.get("explained_variance", 0) is None for row in rows)
    evaluation = read_evaluation(folder, "test", 0)
    assert (evaluation.score, evaluation.score_low, evaluation.score_high) == (0, -math.inf, math.inf)


def test_json_has_null_for_what_it_has_no_word_for():
    value = {"a": math.nan, "b": [1, math.inf, {"c": (-math.inf, "NaN", 2.5, None, True)}]}
    assert strictly(to_json(value)) == {"a": None, "b": [1, None, {"c": [None, "NaN", 2.5, None, True]}]}


def test_responses_that_become_alike_raise_the_alarm_while_the_score_is_up(caplog):
    carried: dict = {}
    for score, distinct in ((0.1, 0.6), (0.2, 0.6), (0.3, 0.5), (0.2, 0.5), (0.2, 0.3)):  # means of 0.2 and 0.5
        assert not watch_diversity(carried, score, distinct, 7)
    assert not watch_diversity(carried, 0.9, 0.201, 8), "not below 0.4 of 0.5"
    assert not watch_diversity(carried, 0.2, 0.1, 8), "the score is no higher"
    assert not caplog.records
    assert watch_diversity(carried, 0.3, 0.199, 9)
    assert watch_diversity(json.loads(json.dumps(carried)), 0.3, 0.1, 10), "a checkpoint keeps the first updates"
    assert watch_diversity(carried, 0.3, 0.1, 11)
    assert carried["alike_at"] == 9
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "At 9 tokens the responses have become alike"
    ]
