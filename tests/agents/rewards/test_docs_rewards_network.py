"""docs/rewards-network.md: its Python runs, in the order of the page, and its table has every score."""

import re
from pathlib import Path

from agents.rewards import bertscore, classifier, language_model, preference
from agents.rewards.network_reward import NetworkReward
from textenvs import list_rewards

PAGE = Path(__file__).resolve().parents[3] / "docs" / "rewards-network.md"


def test_the_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
    """In one namespace, PPO with a smaller budget than a reader would give it."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    code = "\n".join(blocks)
    assert "total_timesteps=20_000" in code
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    exec(compile(code.replace("total_timesteps=20_000", "total_timesteps=200"), PAGE.name, "exec"), namespace)
    assert namespace["evaluation"].accuracy == 1.0
    assert "nats a token" in capsys.readouterr().out
    assert namespace["agent"].env.setting.reward.name == "preference"


def test_every_score_is_in_the_table():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    modules = (bertscore, classifier, language_model, preference)
    kinds = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    scores = {kind.name for kind in kinds if issubclass(kind, NetworkReward) and "name" in vars(kind)}
    assert {row.split("`")[1] for row in rows} == scores == {"lm", "preference", "dpo", "classifier", "bertscore"}
    assert scores <= set(list_rewards())
