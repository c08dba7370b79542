"""Evaluations: what their numbers say of the episodes."""

import math

import numpy as np
import pytest
import torch

from agents import collect
from agents.evaluation.evaluation import confidence_interval, evaluate
from agents.rollout import reference_log_probs
from tests.agents.helpers import lanes, make_policy


def test_the_interval_by_hand():
    assert confidence_interval(np.array([1.0, 3.0])) == pytest.approx((2, 2 - 1.96, 2 + 1.96))  # s = sqrt(2)
    assert confidence_interval(np.array([1.0])) == (1, -math.inf, math.inf)


def test_the_interval_of_samples_that_belong_together():
    samples = np.array([1.0, 5.0, 3.0, 7.0])
    two = confidence_interval(samples, [4, 9, 4, 9])  # means 2 and 6: s / sqrt(2) = 2
    assert two == pytest.approx((4, 4 - 1.96 * 2, 4 + 1.96 * 2))
    # Sums of what is left of the mean, 16 / 4, in clusters of 3 and 1: -3 and 3.
    uneven = confidence_interval(samples, [0, 0, 0, 1])
    assert uneven == pytest.approx((4, 4 - 1.96 * 1.5, 4 + 1.96 * 1.5))  # sqrt(2 / 1 * (9 + 9)) / 4
    assert confidence_interval(samples, [3, 1, 0, 2]) == confidence_interval(samples)
    assert confidence_interval(samples, [5, 5, 5, 5]) == confidence_interval(samples)


def test_episodes_of_one_example_count_as_one_sample():
    policy, env = make_policy(), lanes(4)
    size = len(env.setting.pool)
    found = evaluate(policy, env, 4 * size, held_out="length")
    for all_scores, low, high in (
        (found.scores, found.score_low, found.score_high),
        (found.held_outs, found.held_out_low, found.held_out_high),
    ):
        means = np.reshape(all_scores, (4, size)).mean(axis=0)
        margin = 1.96 * means.std(ddof=1) / math.sqrt(size)
        assert (low, high) == pytest.approx((means.mean() - margin, means.mean() + margin))
    once = evaluate(policy, env, size)
    assert (once.score, once.score_low, once.score_high) == confidence_interval(np.array(once.scores))


def test_kl_of_a_greedy_policy_is_what_its_tokens_cost_under_the_reference():
    policy, reference, env = make_policy(), make_policy(seed=1), lanes(4)
    found = evaluate(policy, env, 8, reference=reference, deterministic=True)
    rollout = collect(
        env, policy, 8, deterministic=True, examples=[place % len(env.setting.pool) for place in range(8)]
    )
    costs = -reference_log_probs(reference, rollout, temperature=1.0).sum(dim=1)
    assert found.kl == pytest.approx(float(costs.mean()), rel=1e-5)
    same = evaluate(policy, env, 8, reference=reference, top_k=1)
    assert (same.kl, same.responses) == (pytest.approx(found.kl, rel=1e-5), found.responses)
    assert not torch.equal(rollout.input_ids[0], rollout.input_ids[1])
