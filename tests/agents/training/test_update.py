"""One update: what ends it, what is learned from a batch in which nothing differs, and in which unit KL is charged."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents import PPO, REINFORCE, ActorCritic, BestOfN, Policy
from agents.advantages import discounted_returns, group_normalize
from agents.algorithms.reinforce import baseline_advantages, credits
from agents.algorithms.step_baseline import critic_advantages
from agents.losses import clipped_surrogate, kl_estimate
from agents.rollout import reference_log_probs
from agents.training.optimization import make_optimizer
from agents.training.update import priced_advantages
from tests.agents.helpers import assert_same_gradient, fresh_rollout, gradient, lanes, make_policy

GROUPS = {"group_size": 4, "num_envs": 8, "episodes_per_update": 24}


def ppo_update(**settings):
    policy = make_policy(seed=1)
    rollout = fresh_rollout(policy)
    config = PPO.config(minibatch_size=24, learning_rate=0.01, kl_coef=0.0, entropy_coef=0.0, **settings)
    metrics = PPO.update(policy, make_optimizer(policy, config), rollout, config, torch.Generator().manual_seed(0))
    return policy, rollout, metrics


def test_one_minibatch_an_epoch_is_enough_to_see_how_far_the_policy_went():
    """After the first step the policy is further than 1e-9 nats from the one that played, so there is no second."""
    stopped, _, metrics = ppo_update(target_kl=1e-9, epochs=2)
    once, _, _ = ppo_update(target_kl=None, epochs=1)
    twice, _, free = ppo_update(target_kl=None, epochs=2)
    assert (metrics["epochs"], free["epochs"]) == (1.0, 2.0)
    for left, right in zip(stopped.parameters(), once.parameters(), strict=True):
        assert torch.equal(left, right)
    assert any(not torch.equal(a, b) for a, b in zip(stopped.parameters(), twice.parameters(), strict=True))


def test_the_kl_of_an_update_is_that_of_the_policy_after_its_last_step():
    policy, rollout, metrics = ppo_update(target_kl=None, epochs=3)
    policy.requires_grad_(False)
    mask = rollout.response_mask
    total = 0.0
    for row in range(len(rollout)):  # the definition, from whole logits: E_old[pi / pi_old - 1 - log(pi / pi_old)]
        logits = policy.model(input_ids=rollout.input_ids[row : row + 1]).logits[0, :, : policy.tokenizer.vocab_size]
        steps = rollout.positions[row][mask[row]]
        now = logits.log_softmax(-1)[steps - 1, rollout.input_ids[row, steps]]
        ratio = now - rollout.log_probs[row][mask[row]]
        total += float((ratio.exp() - 1 - ratio).sum())
    assert metrics["kl_of_update"] == pytest.approx(total / rollout.num_tokens, rel=1e-3)
    assert metrics["kl_of_update"] > metrics["approx_kl"], "which is a mean over the passes, the first at 0"


def solved(rollout):
    """The rollout, paid token by token, every episode scoring exactly 1."""
    mask = rollout.response_mask
    phi = np.random.default_rng(0).random(mask.shape)
    last = mask.sum(dim=1).numpy() - 1
    phi[np.arange(len(mask)), last] = 1.0
    rewards = torch.from_numpy(np.diff(phi, axis=1, prepend=0.0)).float()
    return replace(rollout, rewards=torch.where(mask, rewards, 0))


@pytest.mark.parametrize("baseline", ["group", "leave_one_out", "batch_mean"])
@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_a_batch_in_which_nothing_differs_teaches_nothing(baseline, kl_coef):
    rollout = solved(fresh_rollout(make_policy(seed=1)))
    rollout = replace(rollout, group=torch.arange(len(rollout)) // 4)
    returns = discounted_returns(rollout.rewards, rollout.response_mask)[:, 0]
    assert 0 < float(returns.std()) < 1e-6, "rounding alone"
    settings = {"baseline": baseline, "credit": "episode", "kl_coef": kl_coef, "entropy_coef": 0.0, **GROUPS}
    assert all(not grad.any() for grad in gradient(REINFORCE, rollout, **settings))


def test_kl_has_the_unit_of_the_score_also_behind_a_groups_deviation():
    """By hand: (return - mean of the group - kl_coef * KL) / deviation of the group."""
    rollout = fresh_rollout(make_policy(seed=1))
    rollout = replace(rollout, group=torch.arange(len(rollout)) // 4)
    config = REINFORCE.config(baseline="group", credit="episode", kl_coef=0.3, normalize_advantages=False, **GROUPS)
    mask = rollout.response_mask
    advantages, scale = baseline_advantages(rollout, credits(rollout, rollout.rewards, config), config)
    got = priced_advantages(advantages, rollout, config, normalized=False, scale=scale)
    earned = discounted_returns(rollout.rewards, mask)[:, 0].numpy()
    for rows in np.arange(len(rollout)).reshape(-1, 4):
        mean, deviation = earned[rows].mean(), earned[rows].std()
        for row in rows:
            kl = (rollout.log_probs - rollout.ref_log_probs)[row][mask[row]].numpy()
            right = (earned[row] - mean - 0.3 * kl) / deviation if deviation > 0 else np.zeros_like(kl)
            np.testing.assert_allclose(got[row][mask[row]].numpy(), right, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("algorithm", [PPO, ActorCritic, REINFORCE])
def test_a_mean_over_episodes_scales_every_term_alike(algorithm):
    rollout = fresh_rollout(make_policy(seed=1))
    settings = {"entropy_coef": 0.3, "kl_coef": 0.2, "kl_credit": "loss", "kl_estimator": "k2"}
    settings |= {"minibatch_size": 24} if algorithm is PPO else {}
    over_tokens = gradient(algorithm, rollout, **settings)
    over_episodes = gradient(algorithm, rollout, loss_mean="episode", **settings)
    factor = rollout.num_tokens / len(rollout)
    assert_same_gradient(over_episodes, [factor * grad for grad in over_tokens])


def test_values_that_know_nothing_explain_nothing():
    """Lambda-returns contain V, so that noise explained them; Monte-Carlo returns do not."""
    generator = torch.Generator().manual_seed(0)
    rollout = fresh_rollout(make_policy(seed=1), 128)
    shape = rollout.response_mask.shape
    values = torch.randn(shape, generator=generator).cumsum(dim=1)
    rewards = 0.3 * torch.randn(shape, generator=generator)
    mask = rollout.response_mask
    rollout = replace(rollout, values=torch.where(mask, values, 0), rewards=torch.where(mask, rewards, 0))
    _, metrics = critic_advantages(rollout, PPO.config(kl_coef=0.0), gae_lambda=0.0)
    returns = torch.flip(torch.cumsum(torch.flip(rollout.rewards, [1]), 1), [1])[mask].numpy()
    right = 1 - np.var(returns - values[mask].numpy()) / np.var(returns)
    assert right < -1
    assert float(metrics["explained_variance"]) == pytest.approx(right, rel=1e-4)
    assert float(metrics["critic_explained_variance"]) == pytest.approx(right, rel=1e-4), "there is no step baseline"


@pytest.mark.parametrize("algorithm", [PPO, BestOfN])
def test_weights_in_half_precision_are_refused(algorithm):
    policy = make_policy(seed=1)
    half = Policy(policy.model.to(torch.bfloat16), policy.tokenizer_source)
    with pytest.raises(ValueError, match=r"Expected weights to train in float32, got torch.bfloat16"):
        make_optimizer(half, algorithm.config())


def test_a_ratio_of_a_hundred_nats_has_a_finite_gradient():
    log_probs = torch.tensor([0.0, -100.0, 100.0], requires_grad=True)
    losses, _ = clipped_surrogate(log_probs, torch.tensor([-100.0, 0.0, 0.0]), torch.tensor([1.0, -1.0, -1.0]))
    losses.sum().backward()
    assert torch.isfinite(log_probs.grad).all()
    log_probs.grad = None
    kl_estimate(log_probs, torch.tensor([-100.0, 0.0, 0.0]), "k3").sum().backward()
    assert torch.isfinite(log_probs.grad).all()


def test_discounts_are_as_exact_as_the_rewards():
    rewards = torch.ones(1, 400, dtype=torch.float64)
    exact = sum(0.99**k for k in range(400))
    got = discounted_returns(rewards, torch.ones(1, 400, dtype=torch.bool), gamma=0.99)
    assert float(got[0, 0]) == pytest.approx(exact, rel=1e-13)


def test_groups_that_differ_are_still_worth_something_however_small():
    returns = torch.tensor([[1.0], [1.0 + 1e-3]])
    scaled = group_normalize(returns, torch.ones(2, 1, dtype=torch.bool), torch.tensor([0, 0]))
    torch.testing.assert_close(scaled, torch.tensor([[-1.0], [1.0]]), atol=5e-3, rtol=0)


@pytest.mark.usefixtures("own_algorithms")
@pytest.mark.parametrize("recompute", [False, True])
def test_log_probs_recorded_again_make_the_first_ratio_one(recompute):
    """In bfloat16 the sampler's pass, a token at a time, rounds other than the update's, which reads whole rows."""
    rows, batches = [], []

    def watch(policy, optimizer, rollout, config, generator):
        batches.append((rollout, reference_log_probs(policy, rollout, temperature=1.0)))
        return ActorCritic.update(policy, optimizer, rollout, config, generator)

    watched = replace(ActorCritic, name="watched", update=watch)
    policy = make_policy("llama", seed=1).adapt(precision="bfloat16")
    agent = watched(policy, lanes(8), num_envs=8, episodes_per_update=8, recompute_log_probs=recompute)
    agent.learn(1, on_update=rows.append)
    ((rollout, pass_of_update),) = batches
    assert torch.equal(rollout.log_probs, pass_of_update) == recompute
    if recompute:
        difference = (rollout.log_probs - rollout.sampler_log_probs)[rollout.response_mask].abs()
        assert rows[0]["log_prob_mismatch"] == pytest.approx(float(difference.mean()))
        assert rows[0]["log_prob_mismatch_max"] == pytest.approx(float(difference.max()))
        assert 0 < rows[0]["log_prob_mismatch"] < 0.1
    else:
        assert rollout.sampler_log_probs is None
        assert "log_prob_mismatch" not in rows[0]


def test_rloo_is_the_row_that_the_page_says():
    """docs/algorithms.md, published names: by hand. KL is in the reward, the loss a sum over each response."""
    policy = make_policy(seed=1)
    rollout = fresh_rollout(policy)
    rollout = replace(rollout, group=torch.arange(len(rollout)) // 4)
    settings = {"baseline": "leave_one_out", "credit": "episode", "loss_mean": "episode", "kl_credit": "return"}
    settings |= {"normalize_advantages": False, "kl_coef": 0.3, "entropy_coef": 0.0, **GROUPS}
    got = gradient(REINFORCE, rollout, **settings)
    mask = rollout.response_mask
    kl = (rollout.log_probs - rollout.ref_log_probs) * mask
    earned = (rollout.rewards * mask).sum(dim=1) - 0.3 * kl.sum(dim=1)
    loss = torch.zeros(())
    for row in range(len(rollout)):
        others = [other for other in range(len(rollout)) if other // 4 == row // 4 and other != row]
        logits = policy.model(input_ids=rollout.input_ids[row : row + 1]).logits[0, :, : policy.tokenizer.vocab_size]
        steps = rollout.positions[row][mask[row]]
        log_prob = logits.log_softmax(-1)[steps - 1, rollout.input_ids[row, steps]].sum()
        loss = loss - log_prob * (earned[row] - earned[others].mean()) / len(rollout)
    loss.backward()
    right = [one.grad for one in policy.parameters() if one.grad is not None]
    largest = max(float(one.abs().max()) for one in right)
    assert largest > 1e-2
    by_size = [grad for grad in got if grad.any()]
    assert len(by_size) == len(right)
    for mine, hand in zip(by_size, right, strict=True):
        torch.testing.assert_close(mine, hand, atol=1e-5 * largest, rtol=1e-3)
