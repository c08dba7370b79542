"""GRPO and its relatives: gradients against the papers' equations, written out response by response."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agents import GRPO, PUBLISHED, Algorithm, GRPOConfig, collect, load
from agents.__main__ import main
from agents.losses import clipped_weight_loss
from agents.rollout import reference_log_probs
from tests.agents.helpers import assert_same_gradient, environment, gradient, lanes, make_policy

GROUPS = {"group_size": 4, "num_envs": 8, "episodes_per_update": 24}
WHOLE = {**GROUPS, "minibatch_size": 24, "epochs": 1}


def other_policys_rollout(payout="immediate"):
    """Episodes in groups of four, of another policy than the one that learns: no ratio is 1."""
    rollout = collect(
        lanes(8, payout, group_size=4), make_policy(seed=4), 24, seed=0, generator=torch.Generator().manual_seed(0)
    )
    return replace(rollout, ref_log_probs=reference_log_probs(make_policy(seed=9), rollout, temperature=1.0))


def by_definition(rollout, surrogate, advantages, mean, kl_coef=0.0):
    """The gradient of a loss that is written out response by response, by automatic differentiation."""
    policy = make_policy(seed=1)
    now = policy.evaluate(rollout.input_ids, rollout.positions, rollout.response_mask).log_probs
    total, weight = 0.0, 0
    for row in range(len(rollout)):
        length = int(rollout.response_mask[row].sum())
        losses = -surrogate(now[row, :length], rollout.log_probs[row, :length], advantages[row][:length])
        if kl_coef:
            log_ratio = rollout.ref_log_probs[row, :length] - now[row, :length]
            losses = losses + kl_coef * (log_ratio.exp() - 1 - log_ratio)
        total = total + (losses.mean() if mean == "response" else losses.sum())
        weight += length if mean == "token" else 1
    (total / weight).backward()
    return [weight.grad.clone() for weight in policy.parameters() if weight.grad is not None]


def clipped(low, high):
    def surrogate(now, old, advantages):
        ratio = (now - old).exp()
        return torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)

    return surrogate


def sequence_clipped(low, high):
    """GSPO, equations 5 and 7: one ratio a response; every token of the mean is the response's surrogate."""

    def surrogate(now, old, advantages):
        ratio = (now - old).mean().exp()
        return torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)

    return surrogate


def weighted(low, high):
    def surrogate(now, old, advantages):
        return (now - old).exp().clamp(1 - low, 1 + high).detach() * advantages * now

    return surrogate


def of_whole_episodes(rollout, kind):
    """Advantages of groups of four, computed with loops over plain numbers."""
    earned = [(rollout.rewards[row] * rollout.response_mask[row]).sum().item() for row in range(len(rollout))]
    rows = []
    for row, mine in enumerate(earned):
        same = [earned[k] for k in range(len(earned)) if rollout.group[k] == rollout.group[row]]
        mean = sum(same) / len(same)
        deviation = (sum((value - mean) ** 2 for value in same) / len(same)) ** 0.5
        difference = mine - mean
        if kind == "leave_one_out":
            difference = mine - (sum(same) - mine) / (len(same) - 1)
        if kind == "mean_std":
            difference /= deviation + 1e-6
        rows.append(torch.full((rollout.response_mask.shape[1],), difference))
    return rows


@pytest.mark.parametrize("kind", ["mean_std", "mean", "leave_one_out"])
@pytest.mark.parametrize("mean", ["response", "token", "episode"])
def test_the_gradient_is_that_of_the_papers_loss(kind, mean):
    rollout = other_policys_rollout("sparse")
    ours = gradient(
        GRPO, rollout, **WHOLE, advantage=kind, credit="episode", loss_mean=mean, clip_range=0.1, clip_range_high=0.3,
        kl_coef=0.2,
    )  # fmt: skip
    advantages = of_whole_episodes(rollout, kind)
    assert_same_gradient(ours, by_definition(rollout, clipped(0.1, 0.3), advantages, mean, kl_coef=0.2))


@pytest.mark.parametrize("micro_batch_size", [64, 5])
@pytest.mark.parametrize(("ratio", "surrogate"), [("sequence", sequence_clipped), ("weight", weighted)])
def test_the_ratios_are_gspos_and_cispos(ratio, surrogate, micro_batch_size):
    rollout = other_policys_rollout("sparse")
    settings = {"ratio": ratio, "credit": "episode", "clip_range": 0.2, "clip_range_high": 0.4, "kl_coef": 0.0}
    ours = gradient(GRPO, rollout, **WHOLE, **settings, micro_batch_size=micro_batch_size)
    advantages = of_whole_episodes(rollout, "mean_std")
    definition = by_definition(rollout, surrogate(0.2, 0.4), advantages, "response")
    assert_same_gradient(ours, definition)
    token = gradient(GRPO, rollout, **WHOLE, **{**settings, "ratio": "token"})
    assert any(not torch.allclose(one, two, atol=1e-5) for one, two in zip(ours, token, strict=True))


def test_credit_from_each_token_on_is_compared_with_those_still_alive():
    rollout = other_policys_rollout()
    mask, rows = rollout.response_mask, []
    to_go = [[sum(rollout.rewards[row, step:].tolist()) for step in range(mask.shape[1])] for row in range(len(mask))]
    for row in range(len(mask)):
        differences = []
        for step in range(mask.shape[1]):
            alive = [k for k in range(len(mask)) if rollout.group[k] == rollout.group[row] and mask[k, step]]
            differences.append(to_go[row][step] - sum(to_go[k][step] for k in alive) / max(len(alive), 1))
        rows.append(torch.tensor(differences))
    ours = gradient(GRPO, rollout, **WHOLE, advantage="mean", loss_mean="token", kl_coef=0.0)
    assert_same_gradient(ours, by_definition(rollout, clipped(0.2, 0.2), rows, "token"), tolerance=1e-5)


def test_groups_that_earned_the_same_are_left_out_of_the_mean():
    rollout = other_policys_rollout("sparse")
    rewards = torch.where((rollout.group % 2 == 0)[:, None] & (rollout.rewards != 0), 0.5, rollout.rewards)
    last = rollout.response_mask.sum(dim=1) - 1
    equal = rollout.group % 2 == 0
    rewards[equal] = 0.0
    rewards[equal.nonzero()[:, 0], last[equal]] = 0.1 + 0.2  # what all of a group earn
    rollout = replace(rollout, rewards=rewards)
    settings = {"credit": "episode", "kl_coef": 0.0, "loss_mean": "token"}
    ours = gradient(GRPO, rollout, **WHOLE, **settings, drop_equal_groups=True)
    others = rollout.select((~equal).nonzero()[:, 0])
    assert_same_gradient(ours, gradient(GRPO, others, **WHOLE, **settings))
    kept = gradient(GRPO, rollout, **WHOLE, **settings)
    assert any(not torch.allclose(one, two, atol=1e-6) for one, two in zip(ours, kept, strict=True))


def test_where_all_groups_are_equal_nothing_is_learned():
    rollout = other_policys_rollout("sparse")
    last = rollout.response_mask.sum(dim=1) - 1
    rewards = torch.zeros_like(rollout.rewards)
    rewards[torch.arange(len(rollout)), last] = 0.7
    for settings in ({}, {"drop_equal_groups": True}, {"ratio": "sequence"}, {"ratio": "weight"}):
        grads = gradient(GRPO, replace(rollout, rewards=rewards), **WHOLE, kl_coef=0.0, **settings)
        assert all(bool((grad == 0).all()) for grad in grads)


def test_a_weight_that_is_cut_off_keeps_the_gradient_of_its_log_prob():
    now = torch.tensor([2.0, 0.5, 0.5]).log().requires_grad_()
    losses, terms = clipped_weight_loss(now, torch.zeros(3), torch.tensor([1.0, 1.0, -2.0]), clip_range=0.25)
    losses.sum().backward()
    assert now.grad.tolist() == pytest.approx([-1.25, -0.75, 1.5])  # -weight * advantage
    assert terms["clip_fraction"].tolist() == [1.0, 1.0, 1.0]
    unbounded, _ = clipped_weight_loss(torch.tensor([-3.0]), torch.zeros(1), torch.ones(1), clip_range=1.0)
    assert unbounded.item() == pytest.approx(3.0 * torch.tensor(-3.0).exp().item())


@pytest.mark.parametrize("payout", ["immediate", "sparse"])
@pytest.mark.parametrize("ratio", ["token", "sequence", "weight"])
def test_it_learns(ratio, payout, tmp_path):
    env = environment(32, group_size=8, payout=payout)
    settings = {"learning_rate": 0.01, "num_envs": 32, "episodes_per_update": 64, "ratio": ratio, "epochs": 1}
    scores = []
    agent = GRPO(make_policy(spread=0.05), env, **settings)
    agent.learn(64 * 4 * 14, on_update=lambda row: scores.append(row["score"]), folder=tmp_path)
    assert scores[0] < 0.3
    assert max(scores[-3:]) > 0.7
    assert load(tmp_path, env=env, device="cpu").config == agent.config


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_name_makes_an_update(name):
    row = PUBLISHED[name]
    settings = {"num_envs": 8, "episodes_per_update": 16, **row.settings}
    env = environment(8, group_size=settings.get("group_size", Algorithm.known[row.algorithm].config().group_size))
    rows = []
    agent = Algorithm.known[row.algorithm](make_policy(), env, **settings)
    agent.learn(30, on_update=rows.append)
    assert rows
    assert all(value == value for value in rows[0].values())  # no NaN


def test_the_help_names_every_published_name():
    text = (Path(__file__).parents[3] / "agents" / "cli" / "options.py").read_text(encoding="utf-8")
    assert ", ".join(sorted(PUBLISHED)) in text


def test_the_command_line_resolves_a_published_name_and_writes_its_settings(tmp_path, capsys):
    words = ["train", "--env", "TextGen/Copy-v0", "--total-timesteps", "60", "--eval-episodes", "0", "--num-envs", "8"]
    words += ["--episodes-per-update", "8"]
    main([*words, "--algorithm", "Dr-GRPO", "--epochs", "3", "--output", str(tmp_path / "run")])
    config = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    expected = {"algorithm": "grpo", "advantage": "mean", "loss_mean": "episode", "credit": "episode", "epochs": 3}
    assert {name: config[name] for name in expected} == expected
    with pytest.raises(SystemExit):
        main([*words, "--algorithm", "dr_gpro", "--output", str(tmp_path / "other")])
    assert "Did you mean 'dr_grpo'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings",
    [
        {"group_size": 1},
        {"advantage": "std"},
        {"ratio": "gspo"},
        {"credit": "token"},
        {"clip_range": 0.0},
        {"clip_range_high": -1.0},
        {"drop_equal_groups": 1},
        {"epochs": 0},
        {"loss_mean": "constant"},
    ],
)
def test_settings_out_of_range_say_so(settings):
    with pytest.raises((ValueError, TypeError), match="Expected"):
        GRPOConfig(**settings)
