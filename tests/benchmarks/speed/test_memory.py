"""The formula for memory counts what an agent holds."""

import json

import pytest

from agents import PPO, Policy
from benchmarks.speed import memory

SMALL = {"env_kwargs": {"max_new_tokens": 4}, "num_envs": 2, "episodes_per_update": 2}


def held(agent):
    """Bytes of an agent's weights, gradients, moments and reference, each tensor once."""
    parameters = list(agent.policy.parameters())
    tensors = [*parameters, *(parameter.grad for parameter in parameters if parameter.grad is not None)]
    tensors += [value for state in agent.optimizer.state.values() for value in state.values() if value.dim()]
    tensors += list(agent.reference.model.parameters())
    return sum({tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


@pytest.mark.parametrize("adapted", [{}, {"lora": 4}])
def test_the_formula_counts_what_an_agent_holds(adapted):
    if adapted:
        pytest.importorskip("peft")
    agent = PPO(Policy.from_pretrained("tiny", device="cpu").adapt(**adapted), "TextGen-v0", **SMALL)
    gradients = []
    agent.optimizer.register_step_pre_hook(lambda *_: gradients.append(held(agent)))
    agent.learn(16)
    weights = sum(parameter.numel() for parameter in agent.policy.parameters())
    trained = sum(parameter.numel() for parameter in agent.policy.parameters() if parameter.requires_grad)
    # A reference has a value head of its own, of 129 numbers, which is not a part of its model.
    assert gradients[-1] == pytest.approx(memory.formula(weights, trained, bool(adapted)), abs=129 * 4)


@pytest.mark.slow
def test_the_command_measures_and_writes_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CASES", {"all weights": {}})
    memory.main(["--model", "tiny", "--lanes", "2", "--max-new-tokens", "4", "--output", str(tmp_path / "memory")])
    row = json.loads((tmp_path / "memory.json").read_text())["cases"][0]
    assert 0 < row["loaded"] <= row["played"] <= row["learned"]
    assert row["tokens"] == 8
    assert "| all weights |" in (tmp_path / "memory.md").read_text()
