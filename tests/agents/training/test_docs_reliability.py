"""docs/reliability.md: its Python runs, and the tests that it names are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", BLOCKS)
def test_a_block_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/reliability.md", "exec"), {"__name__": "page"})


def test_what_it_names_exists():
    assert BLOCKS
    for name in re.findall(r"`(test_\w+\.py)`", PAGE):
        assert len(list((ROOT / "tests").rglob(name))) == 1, name
    for link in re.findall(r"\]\(\.\./([^)]*)\)", PAGE):
        assert (ROOT / link).is_file(), link
