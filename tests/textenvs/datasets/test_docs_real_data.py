"""docs/real-data.md is what its script writes, and what it shows runs."""

import re
from pathlib import Path

import textenvs
from tests.textenvs.datasets.helpers import write_public_data
from textenvs.data.make_data_docs import measure, page
from textenvs.datasets import PRESETS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "real-data.md"


def test_the_page_is_what_the_script_writes():
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m textenvs.data.make_data_docs`"


def test_the_page_has_every_id_and_what_its_preset_says():
    text = PAGE.read_text(encoding="utf-8")
    for env_id in {*textenvs.list_envs(data=True)} - {*textenvs.list_envs()}:
        assert f"`{env_id}`](#{env_id.split('/')[1].removesuffix('-v0').lower()})" in text
    for preset in PRESETS.values():
        for fact in (preset.command, preset.licence, preset.hub.name, repr(preset.template), preset.twin):
            assert fact in text


def test_the_first_block_runs(tmp_path, capsys):
    folder = write_public_data(tmp_path) / "gsm8k"
    [code] = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    exec(code.replace("path/to/grade-school-math", str(folder)), {})
    assert "GSM8K" in capsys.readouterr().out


def test_scores_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("textenvs.data.make_data_docs.SCORES", tmp_path / "scores.json")
    monkeypatch.setattr("textenvs.data.make_data_docs._RANDOM_EPISODES", 64)
    measure(write_public_data(tmp_path / "data"))
    written = page()
    assert "Not measured" not in written
    assert "demonstrations 1.000, one reference against the others" in written
