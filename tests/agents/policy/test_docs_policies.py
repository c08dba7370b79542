"""docs/policies.md: every block of Python on the page runs, and every way to adapt a policy is there."""

import inspect
import re
from pathlib import Path

import pytest

from agents import Policy

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "policies.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python(?: requires=(\w+))?\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("requires", "code"), BLOCKS, ids=[f"line {PAGE[: PAGE.index(code)].count(chr(10)) + 1}" for _, code in BLOCKS]
)
def test_a_block_runs(requires, code):
    if requires:
        pytest.importorskip(requires, reason=f"{requires} is not installed")
    lines_above = "\n" * PAGE[: PAGE.index(code)].count("\n")  # so that an error names the page's own line
    exec(compile(lines_above + code, "docs/policies.md", "exec"), {"__name__": "page"})


def test_there_are_blocks_and_every_argument_is_in_the_table():
    assert len(BLOCKS) == PAGE.count("\n```python") >= 6
    rows = {line.split("`")[1] for line in PAGE.split("## How it is trained")[1].splitlines() if line.startswith("| `")}
    assert rows == set(inspect.signature(Policy.adapt).parameters) - {"self", "seed"}
