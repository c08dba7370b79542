"""The benchmarks of rollout, update and iteration: that what they compare is the same work. Never how fast it is."""

import json
from importlib import import_module

import pytest
import torch

from agents import collect
from benchmarks.speed import iteration, peers
from benchmarks.speed.shapes import BASE, RAGGED, SMALL, TINY, make_env, make_model, make_policy, word_tokenizer, words
from tests.agents.helpers import ARCHITECTURES, lanes
from tests.agents.helpers import make_policy as make_any


def gradients(policy, rollout):
    """Of one PPO step on a rollout, by name."""
    from agents.algorithms.ppo import PPO

    agent = PPO(policy, lanes(), num_envs=4, episodes_per_update=len(rollout), epochs=1, minibatch_size=len(rollout))
    found = {}

    def look(*_):
        found.update({name: one.grad.clone() for name, one in policy.named_parameters() if one.grad is not None})

    agent.optimizer.register_step_pre_hook(look)
    agent.config = iteration.replace(agent.config, max_grad_norm=1e9)
    agent.algorithm.update(policy, agent.optimizer, rollout, agent.config, torch.Generator().manual_seed(0))
    return found


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_fast_path_and_the_plain_one_have_the_same_gradient(kind):
    """The same weights and episodes: lane cache, chunks and micro-batches, against whole texts and all logits."""
    fast = make_any(kind, seed=6)
    plain = iteration.PlainPolicy(make_any(kind, seed=6).model, fast.tokenizer)
    plain.value_head.load_state_dict(fast.value_head.state_dict())
    rollouts = [
        collect(lanes(), policy, 24, seed=2, generator=torch.Generator().manual_seed(2)) for policy in (fast, plain)
    ]
    for name in ("input_ids", "response_mask", "rewards"):
        assert torch.equal(getattr(rollouts[0], name), getattr(rollouts[1], name))
    for name in ("log_probs", "values"):
        torch.testing.assert_close(getattr(rollouts[0], name), getattr(rollouts[1], name), atol=1e-5, rtol=1e-5)
    rollout = iteration.replace(rollouts[0], ref_log_probs=rollouts[0].log_probs + 0.1)
    ours, theirs = gradients(fast, rollout), gradients(plain, rollout)
    assert ours.keys() == theirs.keys()
    assert max(float(one.abs().max()) for one in theirs.values()) > 0.01
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-5, rtol=1e-5)


def test_shapes_are_those_of_their_names():
    for shape in (BASE, SMALL, TINY):
        tokenizer = word_tokenizer(shape.vocab_size)
        assert tokenizer.get_vocab_size() == shape.vocab_size
        assert len(set(words(shape.vocab_size))) == shape.vocab_size
    policy = make_policy(TINY)
    env = make_env(TINY, policy)
    rollout = collect(env, policy, 6, seed=0)
    assert (env.setting.pool.lengths == TINY.prompt).all()
    assert rollout.num_tokens == 6 * TINY.new_tokens  # EOS is never drawn
    # Of the products of a token: all weights but the embeddings, twice.
    weights = sum(one.numel() for one in make_model(BASE).parameters() if one.ndim == 2) - 2000 * 256
    assert BASE.flops_per_token == 2 * weights


def test_ragged_responses_are_as_long_as_they_should_be():
    shape = iteration.replace(RAGGED, layers=1, width=32, vocab_size=64, lanes=64)
    policy = make_policy(shape)
    lengths = collect(make_env(shape, policy), policy, 640, seed=0).response_mask.sum(1)
    assert int(lengths.min()) > 8
    assert int(lengths.max()) == 64
    assert 22 < float(lengths.float().mean()) < 26  # 8, and 16 more on average, with an end at 64


def test_the_bare_loop_writes_the_models_own_log_probs():
    model = make_model(TINY)
    rows, log_probs, values = peers.bare_rollout(model, torch.nn.Linear(32, 1), peers.prompts(TINY, 5), 4)
    expected = torch.log_softmax(model(rows).logits, -1)[:, 2:-1].gather(2, rows[:, 3:, None])[..., 0]
    torch.testing.assert_close(log_probs, expected, atol=1e-5, rtol=1e-5)
    assert rows.shape == (5, 7)
    assert values.shape == (5, 4)
    assert peers.BareLoop(TINY, 4).iteration() == 16


def test_written_tokens_by_hand():
    rows = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 2], [5, 0, 2, 2], [5, 0, 0, 0]])
    assert peers.written_tokens(rows, 1) == 3 + 2 + 1 + 1


@pytest.mark.parametrize("name", ["rollout", "update", "iteration", "gpu"])
def test_the_command_writes_json_a_table_and_a_plot(name, tmp_path):
    more = ["--no-memory"] if name == "iteration" else []  # which is measured in processes of their own
    words_ = ["--quick", *more, "--output", str(tmp_path / name)]
    threads = torch.get_num_threads()
    try:
        import_module(f"benchmarks.speed.{name}").main(words_)
    finally:
        torch.set_num_threads(threads)
    results = json.loads((tmp_path / f"{name}.json").read_text())
    assert results["command"] == " ".join([f"python -m benchmarks {name}", *words_])
    assert (tmp_path / f"{name}.md").read_text().startswith("# ")
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert all(row["tokens_per_second"] > 0 for row in results["speed"])
    assert {"ours"} <= {row["who"] for row in results["speed"]}
