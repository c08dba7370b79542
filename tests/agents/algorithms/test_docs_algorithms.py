"""The page on algorithms says what the configs say."""

import importlib.util
from dataclasses import fields
from pathlib import Path

import pytest

from agents import Algorithm

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("docs_algorithms", DOCS / "algorithms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(script):
    text = script.PAGE.read_text(encoding="utf-8")
    assert script.page(text) == text, "run: python docs/algorithms.py"


def test_every_bundled_algorithm_and_every_setting_is_on_it(script):
    text = script.PAGE.read_text(encoding="utf-8")
    for name in ("ppo", "actor_critic", "reinforce", "grpo", "best_of_n"):
        config = Algorithm.known[name].config
        assert f"<!-- table: {config.__name__} -->" in text
        for one in fields(config):
            assert f"| `{one.name}` |" in text, one.name
    assert script.table(Algorithm.known["ppo"].config).count("\n") > 8
