"""Best of n, cloned."""

from dataclasses import replace

import pytest
import torch

from agents import BestOfN
from agents.algorithms.best_of_n import best_rows
from agents.training.optimization import make_optimizer
from tests.agents.helpers import assert_same_gradient, environment, fresh_rollout, gradient, make_policy


def test_keeps_the_best_of_each_group_or_of_the_batch_by_hand():
    returns = torch.tensor([1.0, 5.0, 3.0, 5.0, 0.0, 4.0])
    group = torch.tensor([7, 2, 7, 2, 7, 2])
    assert best_rows(returns, group, 0.25).tolist() == [1, 2], "and the first of two that are as good"
    assert best_rows(returns, None, 0.5).tolist() == [1, 3, 5]
    assert best_rows(returns, None, 0.01).tolist() == [1], "at least one"
    assert best_rows(torch.zeros(3), torch.tensor([0, 1, 2]), 0.25).tolist() == [0, 1, 2]


def test_its_loss_is_the_mean_negative_log_prob_of_what_it_keeps():
    """The gradient by autograd through plain indexing, of the six best of 24."""
    rollout = fresh_rollout(make_policy(seed=1))
    kept = rollout.rewards.sum(dim=1).argsort(descending=True)[:6]
    policy = make_policy(seed=1)
    best = rollout.select(kept)
    log_probs = policy.evaluate(best.input_ids, best.positions, best.response_mask).log_probs
    (-log_probs[best.response_mask].mean()).backward()
    expected = [one.grad for one in policy.parameters() if one.grad is not None]
    found = gradient(BestOfN, rollout, keep=0.25, kl_coef=0.0)
    assert_same_gradient(found, expected)  # the value head, whose gradient is 0, is the last and has none there
    for micro in (1, 4):
        assert_same_gradient(found, gradient(BestOfN, rollout, keep=0.25, kl_coef=0.0, micro_batch_size=micro))


def test_bonuses_decide_with():
    """A bonus turns the ranking around, and the worst episodes are kept."""
    rollout = fresh_rollout(make_policy(seed=1))
    policy, config = make_policy(seed=1), BestOfN.config(kl_coef=0.0)
    turned = replace(rollout, bonuses=-2 * rollout.rewards)
    found = BestOfN.update(policy, make_optimizer(policy, config), turned, config, torch.Generator())
    worst = rollout.rewards.sum(dim=1).sort().values[:6]
    assert found["best_score"] == pytest.approx(float(worst.mean()), abs=1e-5)


def test_the_price_of_kl_decides_with():
    rollout = fresh_rollout(make_policy(seed=1))
    policy, config = make_policy(seed=1), BestOfN.config(kl_coef=0.0)
    free = BestOfN.update(policy, make_optimizer(policy, config), rollout, config, torch.Generator())
    policy, config = make_policy(seed=1), BestOfN.config(kl_coef=5.0)
    dear = BestOfN.update(policy, make_optimizer(policy, config), rollout, config, torch.Generator())
    assert free["best_score"] == pytest.approx(float(rollout.scores.sort(descending=True).values[:6].mean()), abs=1e-5)
    assert dear["best_score"] < free["best_score"]


def test_learns():
    settings = {"learning_rate": 0.02, "num_envs": 32, "episodes_per_update": 64, "group_size": 4}
    env = environment(32, group_size=4, payout="sparse")
    rows = []
    BestOfN(make_policy(spread=0.05), env, **settings).learn(64 * 4 * 20, on_update=rows.append)
    assert rows[0]["score"] < 0.3
    assert rows[0]["best_score"] > rows[0]["score"]
    assert max(row["score"] for row in rows[-3:]) > 0.8


def test_wrong_settings_say_so():
    with pytest.raises(ValueError, match="Expected kl_credit 'return' or 'loss', got 'token'"):
        BestOfN.config(kl_credit="token")
    with pytest.raises(ValueError, match=r"Expected keep in \(0, 1\], got 0"):
        BestOfN.config(keep=0)
