"""docs/rewards-overlap.md: its Python runs, and its tables name what there is."""

import inspect
import re
from pathlib import Path

from textenvs.rewards import BUILT_IN, rouge
from textenvs.rewards.incremental import references

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "rewards-overlap.md").read_text(encoding="utf-8")


def test_the_blocks_run_in_order() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    exec("".join(blocks), names)
    assert isinstance(names["recall"], rouge.Rouge1)


def test_every_score_and_argument_is_in_the_tables() -> None:
    scores = {name: made for name, made in BUILT_IN.items() if issubclass(made, references.ReferenceReward)}
    assert len(scores) >= 11
    whole, arguments = PAGE.split("## The scores")[1].split("The arguments are")
    arguments = arguments.split("##")[0]
    for name, made in scores.items():
        assert f"`{name}`" in whole
        (row,) = [line for line in arguments.splitlines() if "|" in line and f"`{name}`" in line.split("|")[1]]
        assert not [argument for argument in inspect.signature(made).parameters if f"`{argument}`" not in row]
