"""Training under a curriculum: the level rises, is logged, and goes on from a checkpoint."""

import pytest

from agents import PPO, REINFORCE, load
from agents.__main__ import main
from agents.policy.policy import Policy
from textenvs.tokenizer import make_tokenizer

CHAIN = {"chain": {"train": 64, "validation": 16, "test": 16, "shifted": 16}}
LEVELS = {"levels": {"task": CHAIN, "highest": 3}}
KWARGS = {"task": LEVELS, "curriculum": {"window": 64, "success_at": 0.5, "raise_at": 0.7, "review": 0.1}}


def make_agent(**settings):
    policy = Policy.fresh(make_tokenizer({"symbols": "abcdefghuvwxyz"}), seed=0)
    return REINFORCE(
        policy, "TextGen/Chain-v0", env_kwargs=KWARGS,
        **{"learning_rate": 1e-2, "num_envs": 64, "episodes_per_update": 64, **settings},
    )  # fmt: skip


def test_the_level_rises_as_the_policy_learns_and_a_run_goes_on_where_it_was(tmp_path):
    """Half of the worth of every arm is a success: a policy has to learn arms to get from one depth to the next."""
    rows = []
    agent = make_agent()
    agent.learn(2200, on_update=rows.append, folder=tmp_path)
    assert rows[0]["level"] == 1
    assert rows[-1]["level"] == 3
    assert [row["level"] for row in rows] == sorted(row["level"] for row in rows)
    assert 0 <= rows[-1]["success_rate"] <= 1
    again = load(tmp_path)
    assert again.env.curriculum.state_dict() == agent.env.curriculum.state_dict()
    assert again.make_env(2).curriculum.level == agent.env.curriculum.level
    assert again.make_env(2, split="test").curriculum is None
    ends, mark = [], agent.timesteps + 1
    for one in (agent, again):
        more = []
        one.learn(mark, on_update=more.append)
        ends.append(more[-1])
    assert ends[0]["score"] == ends[1]["score"]
    assert ends[0]["level"] == ends[1]["level"]


def test_lanes_that_would_idle_are_refused():
    with pytest.raises(ValueError, match="Expected episodes_per_update to be at least num_envs=64 with a curriculum"):
        make_agent(episodes_per_update=16)


def test_on_the_command_line(tmp_path, capsys):
    words = [
        "train", "--env", "TextGen/Copy-v0", "--algorithm", "reinforce", "--total-timesteps", "50",
        "--eval-episodes", "4", "--samples", "1", "--num-envs", "8", "--episodes-per-update", "8",
    ]  # fmt: skip
    main([*words, "--curriculum", '{"window": 8}', "--output", str(tmp_path / "run")])
    agent = load(tmp_path / "run")
    assert agent.env.curriculum.level == 1
    assert agent.env_kwargs["curriculum"] == {"window": 8}
    with pytest.raises(SystemExit):
        main([*words, "--curriculum", "yes"])
    assert "Expected --curriculum to be true or JSON" in capsys.readouterr().err


def test_ppo_takes_it_as_well():
    agent = PPO("tiny", "TextGen/Copy-v0", env_kwargs={"curriculum": True}, num_envs=4, episodes_per_update=4)
    agent.learn(1)
    assert agent.env.curriculum.level == 1
    assert agent.env.setting.max_new_tokens == 25
