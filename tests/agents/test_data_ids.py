"""Agents in the ids over public data sets, with a model of another tokenizer and a short context."""

import json

import gymnasium as gym
import pytest

from agents import PPO, Policy, fine_tune, load
from agents.collector import make_env
from agents.supervised.configs import SFTConfig
from tests.textenvs.datasets.helpers import write_public_data
from textenvs.datasets import DATA_VARIABLE

SMALL = {"num_envs": 4, "episodes_per_update": 4, "epochs": 1}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_public_data(tmp_path_factory.mktemp("data"))


def test_prompts_are_cut_to_the_context_of_the_model(published):
    """The bundled model reads 512 tokens: an answer may take 32 of them, and the prompt the rest."""
    row = {"context": "The swan sleeps in a hole. " * 90, "question": "Where?", "answers": {"text": ["a hole"]}}
    policy = Policy.from_pretrained("tiny", device="cpu")
    assert policy.trunk.most_tokens == 512
    with pytest.warns(UserWarning, match="were cut in the middle") as warned:
        env = make_env("TextGen/SQuAD-v0", policy, 2, data=[row], max_prompt_length=None)
    assert [str(warning.message).split(" tokens")[0] for warning in warned] == [
        "1 of 1 prompts of task 'squad' have more than 480",
    ]
    assert env.setting.pool.prompts.shape == (1, 480)
    short = make_env("TextGen/SQuAD-v0", policy, 2, data=str(published / "squad"))
    assert short.setting.pool.prompts.shape[1] < 100
    with pytest.warns(UserWarning, match="more than 500 tokens"):
        chosen = make_env("TextGen/SQuAD-v0", policy, 2, data=[row], max_prompt_length=500)
    assert chosen.setting.pool.prompts.shape[1] == 500


def test_a_run_finds_its_data_again(published, tmp_path, monkeypatch):
    monkeypatch.chdir(published)
    policy = Policy.from_pretrained("tiny", device="cpu")
    agent = PPO(policy, "TextGen/Polarity-v0", env_kwargs={"data": "sentence_polarity", "max_new_tokens": 4}, **SMALL)
    agent.learn(8, folder=tmp_path / "run")
    assert agent.env_kwargs["data"] == str(published / "sentence_polarity")
    monkeypatch.chdir(tmp_path)
    again = load(tmp_path / "run", device="cpu")
    assert again.env.task.digest == agent.env.task.digest
    reviews = published / "sentence_polarity" / "rt-polarity.pos"
    text = reviews.read_text()
    try:
        reviews.write_text(text.replace("fox", "cat"))
        with pytest.raises(ValueError, match=r"Expected the data in '.*sentence_polarity' that the run .* other data"):
            load(tmp_path / "run", device="cpu")
    finally:
        reviews.write_text(text)


def test_sft_reads_the_demonstrations_of_a_set(published, tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(published))
    policy = Policy.from_pretrained("tiny", device="cpu")
    rows = fine_tune(policy, "TextGen/SQuAD-v0", config=SFTConfig(epochs=1, eval_episodes=2), folder=tmp_path / "sft")
    assert rows[1]["validation_perplexity"] < rows[0]["validation_perplexity"]
    assert json.loads((tmp_path / "sft" / "sft.json").read_text())["env"] == "TextGen/SQuAD-v0"
    assert gym.make("TextGen/SQuAD-v0").unwrapped.task.success_score == 1.0
