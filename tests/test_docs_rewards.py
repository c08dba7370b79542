"""docs/rewards-combinators.md and docs/bonuses.md: their Python runs, and they leave nothing out."""

import inspect
import re
from pathlib import Path

import pytest

from agents.bonuses import BONUSES
from textenvs.rewards import COMBINATORS
from textenvs.testing.canaries import CANARIES

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.mark.parametrize("name", ["rewards-combinators.md", "bonuses.md"])
def test_the_page_runs(name: str) -> None:
    page = (DOCS / name).read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    assert len(blocks) >= 2
    scope = {"__name__": "page"}
    for block in blocks:
        above = "\n" * page[: block.start(1)].count("\n")  # so that an error names the page's own line
        exec(compile(above + block[1], f"docs/{name}", "exec"), scope)


def rows(page: str) -> dict[str, str]:
    """First cell, without its quotes, to the line of a table."""
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    return {line.split("`")[1]: line for line in lines}


def test_every_combinator_and_its_arguments_are_there() -> None:
    page = (DOCS / "rewards-combinators.md").read_text(encoding="utf-8")
    table = rows(page)
    for name, factory in COMBINATORS.items():
        assert name in table
        assert not [one for one in inspect.signature(factory).parameters if f"`{one}`" not in table[name]], name


def test_every_bonus_and_its_arguments_are_there() -> None:
    table = rows((DOCS / "bonuses.md").read_text(encoding="utf-8"))
    assert set(table) == set(BONUSES)
    for name, factory in BONUSES.items():
        arguments = list(inspect.signature(factory).parameters)[2:]
        assert not [one for one in arguments if f"`{one}`" not in table[name]], name


def test_the_number_of_canaries() -> None:
    assert len(CANARIES) == 6  # as the page lists them
