"""The step baseline under a critic: by hand, and as the reward shaping that it is equivalent to."""

from dataclasses import replace

import pytest
import torch

from agents import PPO, REINFORCE, ActorCritic
from agents.algorithms.step_baseline import state_values, step_baseline, step_means
from agents.collector import collect
from tests.agents.helpers import assert_same_gradient, fresh_rollout, gradient, lanes, make_policy


def mask_of(*lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def test_each_step_has_its_own_average_by_hand():
    carried = {}
    first = step_means(carried, "here", torch.tensor([[4.0, 2.0], [8.0, 99.0]]), mask_of(2, 1), 0.75)
    assert first.isnan().all(), "nothing is known before the first batch"
    assert carried == {"here": [6.0, 2.0]}
    second = step_means(carried, "here", torch.tensor([[2.0, 6.0, 5.0]]), mask_of(3), 0.75)
    assert second[:2].tolist() == [6.0, 2.0]
    assert second[2].isnan(), "no earlier episode got that far"
    assert carried == {"here": [5.0, 3.0, 5.0]}
    third = step_means(carried, "here", torch.tensor([[1.0]]), mask_of(1), 0.75)
    assert third.tolist() == [5.0]
    assert carried == {"here": [4.0, 3.0, 5.0]}, "a step that no episode reached stays as it was"


def test_a_step_is_worth_what_it_was_and_a_new_one_what_it_is_for_the_others():
    carried = {}
    returns, mask = torch.tensor([[4.0, 2.0], [8.0, 99.0]]), mask_of(2, 1)
    assert step_baseline(carried, returns, mask).tolist() == [[8.0, 0.0], [4.0, 0.0]], "nobody else got to step 1"
    longer = step_baseline(carried, torch.tensor([[0.0, 0.0, 7.0], [0.0, 0.0, 9.0]]), mask_of(3, 3))
    assert longer.tolist() == [[6.0, 2.0, 9.0], [6.0, 2.0, 7.0]]


def test_values_are_the_critics_and_the_steps():
    rollout = fresh_rollout(make_policy(seed=1), 3)
    steps = int(rollout.response_mask.sum(dim=1).max())
    lengths = [steps, 1, 2]
    mask = mask_of(*lengths)
    means = torch.arange(1.0, steps + 1).expand(3, -1)
    given = replace(
        rollout.select(torch.arange(3)),
        response_mask=mask,
        values=torch.full((3, steps), 0.5),
        last_values=torch.tensor([0.25, 0.25, 0.25]),
        baselines=torch.where(mask, means, 0),
    )
    values, last_values, of_step = state_values(given)
    assert values[mask].tolist() == (means + 0.5)[mask].tolist()
    assert torch.equal(of_step, given.baselines)
    # A cut episode goes on at the step after its last; where nobody got that far, what is known last has to do.
    assert last_values.tolist() == [steps + 0.25, 2.25, 3.25]
    alone = state_values(replace(given, baselines=None))
    assert torch.equal(alone[0], given.values)
    assert torch.equal(alone[1], given.last_values)
    assert not alone[2].any()


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (PPO, {"gae_lambda": 0.8, "minibatch_size": 24}),
        (PPO, {"gae_lambda": 1.0, "minibatch_size": 24, "value_clip_range": 0.1}),
        (ActorCritic, {"gae_lambda": 0.8}),
        (ActorCritic, {"n_steps": 2}),
        (REINFORCE, {"baseline": "value"}),
    ],
)
def test_it_is_the_shaping_by_that_potential(algorithm, settings):
    """Wiewiora (2003), arXiv:1106.5267: to begin values at a potential is to shape rewards with it.

    With m under the critic, the update is that of a critic alone on r_t + gamma m_{t+1} - m_t, m being 0 at the end.
    """
    gamma = 0.9
    rollout = fresh_rollout(make_policy(seed=1))
    mask = rollout.response_mask
    means = torch.tensor([0.7, -0.4, 0.9, 0.3, 0.2, 0.6, 0.1, 0.5])[: mask.shape[1]].expand(len(rollout), -1)
    assert means.shape == mask.shape
    means = torch.where(mask, means, 0)
    following = torch.nn.functional.pad(means, (0, 1))[:, 1:]
    shaped = torch.where(mask, rollout.rewards + gamma * following - means, 0)
    ours = gradient(algorithm, replace(rollout, baselines=means), gamma=gamma, **settings)
    assert_same_gradient(ours, gradient(algorithm, replace(rollout, rewards=shaped), gamma=gamma, **settings), 1e-5)
    without = gradient(algorithm, rollout, gamma=gamma, **settings)
    assert max(float((one - two).abs().max()) for one, two in zip(ours, without, strict=True)) > 1e-3


@pytest.mark.parametrize("algorithm", [PPO, ActorCritic, REINFORCE])
def test_agents_remember_it(algorithm):
    """Only where the config says so. What an agent carries is in the checkpoint."""
    settings = {"num_envs": 8, "episodes_per_update": 8}
    if algorithm is REINFORCE:
        settings["baseline"] = "value"
    rollout = collect(lanes(8), make_policy(seed=1), 8, seed=1, generator=torch.Generator().manual_seed(1))
    agent = algorithm(make_policy(seed=1), lanes(8), **settings)
    prepared = agent.algorithm.prepare(agent, rollout)
    earned = rollout.rewards_and_bonuses.sum(dim=1)
    mean = float(earned.mean())
    others = ((earned.sum() - earned) / 7).tolist()
    assert agent.carried["step_baseline"][0] == pytest.approx(mean, abs=1e-5)
    assert prepared.baselines[:, 0].tolist() == pytest.approx(others, abs=1e-5)
    off = algorithm(make_policy(seed=1), lanes(8), step_baseline=False, **settings)
    assert off.algorithm.prepare(off, rollout).baselines is None
    assert off.carried == {}
