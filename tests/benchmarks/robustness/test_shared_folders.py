"""The benchmark of strays, edits and races: a small part of it, and the page."""

import json
import random

import pytest

from benchmarks.records import RESULTS
from benchmarks.robustness import shared_folders


def test_processes_and_threads_never_own_a_folder_together(tmp_path):
    turns = shared_folders.two_processes_of_two_threads(tmp_path / "turns", seconds=0.3)
    assert turns["right"]
    assert turns["together"] == 0


def test_a_lock_is_free_when_its_owner_was_killed(tmp_path):
    assert shared_folders.kills(tmp_path / "kills", 2, random.Random(0)) == {"free": 2, "right": True}


def test_the_committed_table_is_of_this_benchmark_and_right():
    results = json.loads((RESULTS / "folders.json").read_text())
    assert shared_folders._is_right(results)
    assert (RESULTS / "folders.md").read_text() == shared_folders.page(results)
    assert [row["stray"] for row in results["strays"]] == list(shared_folders.STRAYS)
    assert [row["edit"] for row in results["edits"]] == list(shared_folders.EDITS)
    results["edits"][0]["said"] = False
    assert not shared_folders._is_right(results)


@pytest.mark.slow
def test_all_of_it_in_small(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shared_folders.torch, "set_num_threads", lambda number: None)  # of the other tests' process
    shared_folders.main(["--quick", "--output", str(tmp_path / "found")])
    assert "1 of 1" in capsys.readouterr().out
