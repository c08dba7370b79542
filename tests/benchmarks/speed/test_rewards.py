"""`python -m benchmarks rewards`: that it measures every score, and writes what it measured. Never how fast any is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.speed import rewards as benchmark
from tests.textenvs.helpers import OUR_REWARDS
from textenvs import make_reward

ROOT = Path(__file__).resolve().parents[3]


def test_the_command_writes_json_a_table_and_a_plot(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "benchmarks", "rewards", "--quick", "--output", str(tmp_path / "rewards")]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    results = json.loads((tmp_path / "rewards.json").read_text())
    table = (tmp_path / "rewards.md").read_text()
    assert run.stdout.endswith(table + "\n")
    assert results["left_out"] == {}  # give a new score what it needs in ARGUMENTS or METADATA
    assert list(results["scores"]) == OUR_REWARDS
    for name, row in results["scores"].items():
        assert min(row["lanes"], row["single"], row["again"], *row["late"].values()) > 0
        assert list(row["late"]) == ["8", "16"]
        assert f"| {name} | " in table
    assert not results["scores"]["vader"]["incremental"]
    assert results["scores"]["bleu"]["incremental"]
    assert (tmp_path / "rewards.png").read_bytes().startswith(b"\x89PNG")


def test_libraries_score_what_ours_score() -> None:
    (example, *_) = benchmark.make_texts(4).examples
    for name, library in benchmark.libraries().items():
        expected = make_reward(name).score(example, example.references[1])
        scale = 1 if name.startswith("rouge") else 100
        assert library(example, example.references[1]) == pytest.approx(scale * expected, abs=1e-9)


def test_what_cannot_be_made_is_named() -> None:
    made = dict(benchmark.made_rewards(["length", "nothing"], benchmark.make_texts(4)))
    assert made["length"].name == "length"
    assert made["nothing"].startswith("ValueError: Expected a reward from")
