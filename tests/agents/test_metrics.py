"""Metrics: averages that do not depend on how they were cut up."""

import pytest
import torch

from agents.metrics import Meter, MetricsLog, distinct_n, plot_learning_curve, read_metrics


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
