"""docs/environments.md: every block of Python on the page runs, and what it says of the code is so."""

import inspect
import re
from pathlib import Path

import pytest

from textenvs import TextGenVectorEnv, wrappers
from textenvs.rewards import PAYOUTS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python(?: requires=(\w+))?\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(
    ("requires", "code"), BLOCKS, ids=[f"line {PAGE[: PAGE.index(code)].count(chr(10)) + 1}" for _, code in BLOCKS]
)
def test_a_block_runs(requires: str, code: str) -> None:
    if requires:
        pytest.importorskip(requires, reason=f"{requires} is not installed")
    lines_above = "\n" * PAGE[: PAGE.index(code)].count("\n")  # so that an error names the page's own line
    exec(compile(lines_above + code, "docs/environments.md", "exec"), {"__name__": "page"})


def test_there_are_blocks() -> None:
    assert len(BLOCKS) == PAGE.count("\n```python") >= 10


def test_every_argument_is_in_the_table() -> None:
    table = PAGE.split("## Arguments")[1].split("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    arguments = set(inspect.signature(TextGenVectorEnv).parameters)
    assert named & arguments == arguments


def test_every_payout_and_wrapper_is_there() -> None:
    assert not [name for name in PAYOUTS if f'"{name}"' not in PAGE]
    views = [name for name in wrappers.__all__ if name.endswith(("Observation", "Action")) and "Vector" not in name]
    assert len(views) == 5
    assert not [name for name in views if f"`{name}`" not in PAGE]


def test_every_link_to_a_test_is_good() -> None:
    root = Path(__file__).resolve().parents[2]
    files = re.findall(r"`(tests/[\w/.]+)`", PAGE)
    assert files
    assert not [file for file in files if not (root / file).is_file()]
