"""Language models as policies of Stable-Baselines3: ids stay ids, pretrained weights stay, and they learn Copy."""

import numpy as np
import pytest
import torch

from agents import Policy
from tests.agents.helpers import make_policy, word_tokenizer
from textenvs import Example, Task, TextGenVectorEnv

sb3 = pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed: pip install 'textenvs[sb3]'")
from agents.sb3 import TextGenVecEnv, TransformerPolicy  # noqa: E402 - it needs SB3

LETTERS = [" a", " b", " c"]


class Copy(Task):
    """Write the prompt's two words again."""

    name = "copy-two"
    default_reward = "length"

    def num_examples(self, split):
        return len(LETTERS) ** 2

    def example(self, split, index):
        return Example(LETTERS[index // 3] + LETTERS[index % 3])

    def allowed(self, example, turns):
        return [first + second for first in LETTERS for second in LETTERS]


def copied(example, response):
    """The share of the prompt that the response begins with."""
    wanted, got = example.prompt.split(), response.split()
    right = [one == other for one, other in zip(wanted, got, strict=False)]
    return sum(all(right[: place + 1]) for place in range(len(right))) / len(wanted)


def make_envs(num_envs=32, **settings):
    return TextGenVecEnv(
        TextGenVectorEnv(
            num_envs, task=Copy(), reward=copied, tokenizer=word_tokenizer(), max_new_tokens=2,
            autoreset_mode="SameStep", **settings,
        )
    )  # fmt: skip


def fresh():
    config = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16}
    return {"model": config, "tokenizer": word_tokenizer()}


def mean_return(agent, episodes=200, **settings):
    envs = make_envs(**settings)
    envs.seed(100)
    observation, total, ended = envs.reset(), 0.0, 0
    while ended < episodes:
        masks = {"action_masks": envs.action_masks()} if settings else {}
        actions, _ = agent.predict(observation, deterministic=True, **masks)
        observation, rewards, over, _ = envs.step(actions)
        total, ended = total + rewards.sum(), ended + over.sum()
    return total / ended


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_keeps_its_weights_and_gives_its_own_distribution(kind):
    policy = make_policy(kind)
    before = {name: one.clone() for name, one in policy.state_dict().items()}
    envs = make_envs(4)
    agent = sb3.PPO(TransformerPolicy, envs, policy_kwargs={"model": policy}, n_steps=4, batch_size=8, device="cpu")
    assert all(torch.equal(one, before[name]) for name, one in policy.state_dict().items())
    envs.seed(0)
    observation = envs.reset()
    tensors, _ = agent.policy.obs_to_tensor(observation)
    distribution = agent.policy.get_distribution(tensors).distribution
    values = agent.policy.predict_values(tensors)
    for lane in range(4):
        length = int(observation["attention_mask"][lane].sum())
        row = torch.tensor(observation["input_ids"][lane, :length], dtype=torch.int64)[None]
        output = policy.model(row, output_hidden_states=True)
        expected = torch.log_softmax(output.logits[0, -1], dim=-1)
        torch.testing.assert_close(distribution.logits[lane], expected, atol=1e-5, rtol=1e-5)
        value = policy.value_head(output.hidden_states[-1][:, -1])
        torch.testing.assert_close(values[lane], value[0], atol=1e-5, rtol=1e-5)
    trained = {id(one) for group in agent.policy.optimizer.param_groups for one in group["params"]}
    assert trained == {id(one) for one in policy.parameters()}
    agent.policy.set_training_mode(True)
    assert not any(module.training for module in policy.model.modules())


@pytest.mark.parametrize(("name", "steps"), [("PPO", 6000), pytest.param("A2C", 20_000, marks=pytest.mark.slow)])
def test_it_learns_copy(name, steps):
    settings = {
        "PPO": {"n_steps": 16, "batch_size": 128, "n_epochs": 4},
        "A2C": {"n_steps": 4},
    }[name]
    agent = getattr(sb3, name)(
        TransformerPolicy, make_envs(), policy_kwargs=fresh(), gamma=1.0, ent_coef=0.05, seed=0, device="cpu",
        learning_rate=1e-3, **settings,
    )  # fmt: skip
    assert mean_return(agent) < 0.5
    agent.learn(steps)
    assert mean_return(agent) > 0.9


def test_it_learns_copy_under_masks():
    contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed: pip install sb3-contrib")
    from agents.sb3 import MaskableTransformerPolicy

    agent = contrib.MaskablePPO(
        MaskableTransformerPolicy, make_envs(action_mask="task"), policy_kwargs=fresh(), gamma=1.0, ent_coef=0.05,
        seed=0, device="cpu", n_steps=16, batch_size=128, n_epochs=4, learning_rate=1e-3,
    )  # fmt: skip
    agent.learn(4000)
    assert mean_return(agent, action_mask="task") > 0.9


def test_it_is_saved_and_loaded_as_sb3_does(tmp_path):
    agent = sb3.PPO(TransformerPolicy, make_envs(4), policy_kwargs=fresh(), n_steps=4, batch_size=8, device="cpu")
    agent.learn(16)
    agent.save(tmp_path / "agent.zip")
    again = sb3.PPO.load(tmp_path / "agent.zip", device="cpu")
    for one, other in zip(agent.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="model's tokenizer"):
        sb3.PPO(TransformerPolicy, make_envs(4), policy_kwargs={"model": "tiny"}, n_steps=4, batch_size=8, device="cpu")
    with_critic = Policy.from_config(fresh()["model"], word_tokenizer(), device="cpu")
    with_critic.separate_critic()
    with pytest.raises(ValueError, match="a critic of its own"):
        sb3.PPO(TransformerPolicy, make_envs(4), policy_kwargs={"model": with_critic}, device="cpu")
    with pytest.raises(TypeError, match="net_arch"):
        sb3.PPO(
            TransformerPolicy, make_envs(4), policy_kwargs={**fresh(), "net_arch": [8]}, n_steps=4, batch_size=8,
            device="cpu",
        )  # fmt: skip


def test_ids_are_read_as_ids():
    """The number of a token is not its size: SB3's float observations give what integers give."""
    policy = Policy.from_config(fresh()["model"], word_tokenizer(), device="cpu")
    ids = torch.tensor([[1, 3, 9, 0]])
    masks = {"attention_mask": torch.tensor([[1, 1, 1, 0]]), "response_mask": torch.tensor([[0, 0, 1, 0]])}
    whole = policy.last_states({"input_ids": ids, **masks})
    floats = policy.last_states({"input_ids": ids.float(), **{key: one.float() for key, one in masks.items()}})
    assert torch.equal(whole, floats)
    expected = policy.model.transformer(ids[:, :3]).last_hidden_state[:, -1]
    torch.testing.assert_close(whole, expected, atol=1e-6, rtol=1e-6)
    assert np.isfinite(whole.detach().numpy()).all()
