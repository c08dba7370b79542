"""The suite that searches every id: its rows and its page."""

import json
from pathlib import Path

from benchmarks.questions import search as suite
from textenvs.testing import search


def test_rows_are_what_a_search_finds_and_the_page_shows_them(tmp_path: Path) -> None:
    output = tmp_path / "found"
    suite.main(["--ids", "TextGen/Chain-v0", "--budget", "500", "--examples", "8", "--output", str(output)])
    results = json.loads(output.with_suffix(".json").read_text())
    (row,) = results["rows"]
    found = search("TextGen/Chain-v0", budget=500, num_examples=8)
    assert row["findings"]["a demonstration"]["score"] == 1.0, "one password fits all prompts of this bandit"
    assert row["findings"].keys() == {finding.strategy for finding in found.findings}
    assert row["beating"] == []
    page = output.with_suffix(".md").read_text()
    assert "python -m benchmarks search --ids TextGen/Chain-v0" in page
    assert "| `TextGen/Chain-v0` | " in page
    assert f"`` {row['blind']['']} ``" in page
