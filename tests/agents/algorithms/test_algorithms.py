"""The algorithms: that they learn, that their gradients are the papers', and that every setting does something."""

import itertools
from dataclasses import fields, replace

import pytest
import torch

from agents import PPO, REINFORCE, ActorCritic, Algorithm
from agents.rollout import Rollout
from agents.training.optimization import make_optimizer
from tests.agents.helpers import (
    ALGORITHMS,
    Letters,
    assert_same_gradient,
    count_good,
    environment,
    fresh_rollout,
    gradient,
    make_policy,
    word_tokenizer,
)
from tests.helpers import slow_but


@pytest.mark.parametrize("payout", slow_but({"sparse"}, ["immediate", "sparse"]))
@pytest.mark.parametrize("name", ALGORITHMS)
def test_learns_to_write_good(name, payout):
    """From a random model to nine tenths of the best score. KL to random weights has no meaning: its price is off."""
    settings = {"learning_rate": 0.01, "num_envs": 32, "episodes_per_update": 64, "kl_coef": 0.0}
    agent = ALGORITHMS[name](make_policy(spread=0.05), environment(payout=payout), **settings)
    first = []
    agent.learn(64 * 4 * 40, on_update=lambda row: first.append(row["score"]))
    assert first[0] < 0.3
    assert max(first[-3:]) > 0.9


def test_first_gradient_of_ppo_is_that_of_actor_critic():
    rollout = fresh_rollout(make_policy(seed=1))
    ppo = gradient(PPO, rollout, minibatch_size=len(rollout), entropy_coef=0.1, kl_coef=0.02)
    assert_same_gradient(ppo, gradient(ActorCritic, rollout, entropy_coef=0.1, kl_coef=0.02))
    assert any(float(one.abs().max()) > 1e-3 for one in ppo)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_micro_batches_and_padding_change_no_gradient(name):
    rollout = fresh_rollout(make_policy(seed=1))
    settings = {"minibatch_size": 24} if name == "ppo" else {}
    whole = gradient(ALGORITHMS[name], rollout, **settings)
    for micro in (1, 5, 7):
        cut = gradient(ALGORITHMS[name], rollout, micro_batch_size=micro, **settings)
        assert_same_gradient(whole, cut)

    def pad(array, value=0):
        return torch.nn.functional.pad(array, (0, 5), value=value)

    padded = replace(
        rollout,
        input_ids=pad(rollout.input_ids, 2),
        positions=pad(rollout.positions, 1),
        **{
            one: pad(getattr(rollout, one))
            for one in ("response_mask", "rewards", "log_probs", "values", "ref_log_probs")
        },
    )
    assert_same_gradient(whole, gradient(ALGORITHMS[name], padded, **settings))


def test_reinforce_gradient_is_the_exact_policy_gradient():
    """Every episode of up to three tokens over the whole vocabulary, enumerated.

    J = sum over episodes of p(episode) R(episode), and its gradient by autograd, against REINFORCE's own gradient on
    all episodes at once. Without baseline and normalisation its loss is linear in the rewards, so an episode's
    probability can be put there: the mean over episodes is then the estimator's expectation.
    """
    policy = make_policy(seed=1)
    episodes = [
        list(tokens)
        for length in (1, 2, 3)
        for tokens in itertools.product(range(10), repeat=length)
        if 0 not in tokens[:-1] and (tokens[-1] == 0 or length == 3)
    ]
    assert len(episodes) == 1 + 9 + 9 * 9 * 10
    size, steps, prompt = len(episodes), 3, [1, 4]
    earned = torch.tensor([0.1, 0.0, 0.3, -0.2, 0.0, 0.5, 1.0, -0.5, 0.2, 0.0])
    input_ids = torch.full((size, len(prompt) + steps), 2)
    positions, mask = torch.ones(size, steps, dtype=torch.int64), torch.zeros(size, steps, dtype=torch.bool)
    rewards = torch.zeros(size, steps)
    for row, tokens in enumerate(episodes):
        whole = torch.tensor(prompt + tokens)
        input_ids[row, : len(whole)] = whole
        positions[row, : len(tokens)] = torch.arange(len(prompt), len(whole))
        mask[row, : len(tokens)] = True
        rewards[row, : len(tokens)] = earned[torch.tensor(tokens)]

    log_probs = policy.evaluate(input_ids, positions, mask).log_probs
    probabilities = log_probs.sum(dim=1).exp()
    assert float(probabilities.sum().detach()) == pytest.approx(1.0, abs=1e-5)
    exact = torch.autograd.grad((probabilities * rewards.sum(dim=1)).sum(), list(policy.model.parameters()))

    weighted = rewards * (size * probabilities.detach())[:, None]
    none = torch.zeros(size)
    rollout = Rollout(
        input_ids=input_ids,
        positions=positions,
        response_mask=mask,
        rewards=weighted,
        log_probs=log_probs.detach(),
        values=torch.zeros(size, steps),
        terminated=torch.ones(size, dtype=torch.bool),
        truncated=torch.zeros(size, dtype=torch.bool),
        last_values=none,
        group=torch.arange(size),
        scores=none,
        examples=torch.arange(size),
        ref_log_probs=log_probs.detach(),
    )
    settings = {"baseline": "none", "normalize_advantages": False, "loss_mean": "episode", "kl_coef": 0.0}
    estimated = gradient(REINFORCE, rollout, **settings)
    scale = max(float(one.abs().max()) for one in exact)
    assert scale > 1e-2
    for one, two in zip(estimated, exact, strict=False):
        torch.testing.assert_close(-one, two, atol=1e-5 * scale, rtol=1e-4)


# Each field, what to change it to, and what else has to be set for it to matter.
CHANGES = {
    "num_envs": (8, {}),
    "episodes_per_update": (11, {}),
    "group_size": (4, {"num_envs": 16}),
    "optimizer": ("adamw", {"weight_decay": 0.5}),
    "learning_rate": (0.02, {}),
    "learning_rate_schedule": ("linear", {}),
    "learning_rate_final": (0.5, {"learning_rate_schedule": "cosine"}),
    "warmup": (0.9, {}),
    "weight_decay": (0.5, {}),
    "momentum": (0.9, {"optimizer": "sgd"}),
    "adam_epsilon": (0.1, {}),
    "max_grad_norm": (0.01, {}),
    "gamma": (0.5, {}),
    "temperature": (2.0, {}),
    "kl_coef": (5.0, {}),
    "kl_limit": (0.001, {}),
    "kl_target": (0.001, {"kl_limit": None}),
    "kl_estimator": ("k3", {"kl_credit": "loss", "kl_estimator": "k2"}),
    "kl_credit": ("return", {}),
    "entropy_coef": (0.5, {}),
    "entropy_schedule": ("constant", {"entropy_coef": 0.5}),
    "entropy_final": (0.5, {"entropy_coef": 0.5, "entropy_schedule": "exponential"}),
    "bonuses": ({"novelty": 0.5}, {}),
    "critic": ("separate", {"baseline": "value"}),
    "step_baseline": (False, {"baseline": "value"}),
    "baseline": ("none", {}),
    "baseline_decay": (0.1, {"baseline": "moving_average"}),
    "credit": ("episode", {}),
    "normalize_advantages": (False, {}),
    "loss_mean": ("episode", {}),
    "gae_lambda": (0.3, {}),
    "n_steps": (2, {}),
    "value_coef": (5.0, {"baseline": "value"}),
    "epochs": (1, {}),
    "minibatch_size": (3, {}),
    "minibatch_tokens": (20, {}),
    "clip_range": (0.01, {}),
    "clip_range_high": (5.0, {}),
    "value_clip_range": (0.001, {}),
    "target_kl": (1e-6, {}),
}


IN_THE_LOSS = {"kl_credit": "loss", "kl_estimator": "k3"}  # where the choice of episodes is not all that KL changes
CHANGES_OF_BEST_OF_N = {
    "kl_coef": (5.0, IN_THE_LOSS),
    "kl_limit": (0.001, IN_THE_LOSS),
    "kl_target": (0.001, {"kl_limit": None, **IN_THE_LOSS}),
    "keep": (0.9, {}),
    "epochs": (3, {}),
    "kl_estimator": ("k2", IN_THE_LOSS),
    "kl_credit": ("loss", {}, {"kl_estimator": "k3"}),  # k1 has no gradient in a loss, k3 the wrong one in a return
}


@pytest.mark.parametrize("name", slow_but({"ppo"}, [*ALGORITHMS, "best_of_n"]))
def test_every_setting_has_an_effect(name):
    """Perturb each field, one at a time: weights or batch must differ after a few updates."""
    algorithm = Algorithm.known[name]
    changes = CHANGES | (CHANGES_OF_BEST_OF_N if name == "best_of_n" else {})
    known = {one.name for one in fields(algorithm.config)}
    kwargs = {"task": Letters(), "reward": count_good, "max_new_tokens": 6}
    base = {"num_envs": 16, "episodes_per_update": 16, "learning_rate": 0.01, "kl_coef": 0.5}
    if name == "ppo":
        base |= {"epochs": 3, "target_kl": None}

    def run(settings):
        agent = algorithm(make_policy(seed=1), "TextGen-v0", env_kwargs=kwargs, **{**base, **settings})
        agent.learn(160)
        assert agent.updates >= 2
        return torch.cat([parameter.detach().flatten() for parameter in agent.policy.model.parameters()])

    reference = run({})
    assert torch.equal(reference, run({})), "the same settings and seed give the same weights"
    torch.testing.assert_close(run({"micro_batch_size": 5}), reference, atol=1e-4, rtol=1e-3)
    # Neither of these changes a number, if all goes well; the last one where sampling has the update's precision.
    for field in known - {"micro_batch_size", "max_skipped_steps", "recompute_log_probs"}:
        assert field in changes, f"no change named for {field}"
        value, needs, *others = changes[field]
        needs = {key: needed for key, needed in needs.items() if key in known}
        before = run(needs) if needs else reference
        assert not torch.allclose(run({**needs, field: value, **dict(*others)}), before, atol=1e-7), field


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.3}, r"Expected gamma in \[0, 1\], got 1.3"),
        ({"learning_rate": 0}, r"Expected learning_rate in \(0, inf\), got 0"),
        ({"learning_rate": float("nan")}, "Expected learning_rate"),
        ({"num_envs": 0}, "Expected num_envs to be at least 1, got 0"),
        ({"kl_coef": -0.1}, "Expected kl_coef"),
        ({"kl_credit": "nobody"}, "Expected kl_credit to be 'token', 'return' or 'loss', got 'nobody'"),
        ({"kl_estimator": "k3"}, "Expected kl_estimator 'k1' with kl_credit='token', got 'k3': as a reward"),
        ({"kl_estimator": "k2", "kl_credit": "return"}, "Expected kl_estimator 'k1' with kl_credit='return', got 'k2'"),
        ({"kl_credit": "loss"}, "Expected kl_estimator 'k2' or 'k3' with kl_credit='loss', got 'k1'"),
        ({"kl_target": 0}, r"Expected kl_target in \(0, inf\), got 0"),
        ({"optimizer": "adagrad"}, "Expected optimizer to be"),
        ({"momentum": 0.9}, "Expected momentum only with sgd or rmsprop, got 0.9 with adam"),
        ({"learning_rate_schedule": "zigzag"}, "Expected learning_rate_schedule to be"),
        ({"group_size": 3}, "Expected num_envs to be a multiple of group_size=3, got 128"),
        ({"group_size": 4, "episodes_per_update": 130}, "Expected episodes_per_update to be a multiple of num_envs"),
    ],
)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_bad_settings_say_so(name, settings, message):
    with pytest.raises(ValueError, match=message):
        ALGORITHMS[name].config.of(settings)


def test_unknown_setting_names_the_closest():
    with pytest.raises(TypeError, match="Did you mean 'learning_rate'"):
        PPO.config.of({"learning_rat": 0.1})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_kl_in_the_return_is_a_reward_that_was_lower(name):
    rollout = fresh_rollout(make_policy(seed=1))
    paid = replace(rollout, rewards=rollout.rewards - 0.3 * (rollout.log_probs - rollout.ref_log_probs))
    settings = {"minibatch_size": 24} if name == "ppo" else {}
    priced = gradient(ALGORITHMS[name], rollout, kl_coef=0.3, kl_credit="return", **settings)
    assert_same_gradient(priced, gradient(ALGORITHMS[name], paid, kl_coef=0.0, **settings))


def test_kl_of_its_own_token_is_a_reward_that_nothing_before_it_sees():
    """At gamma 0 a return is the token's own reward, and without baseline and scaling the gradient is linear in it."""
    rollout = fresh_rollout(make_policy(seed=1))
    price = replace(rollout, rewards=-0.3 * (rollout.log_probs - rollout.ref_log_probs))
    plain = {"baseline": "none", "normalize_advantages": False}
    priced = gradient(REINFORCE, rollout, kl_coef=0.3, kl_credit="token", **plain)
    earned = gradient(REINFORCE, rollout, kl_coef=0.0, **plain)
    owed = gradient(REINFORCE, price, kl_coef=0.0, gamma=0.0, **plain)
    assert_same_gradient(priced, [one + two for one, two in zip(earned, owed, strict=True)])


def test_kl_price_is_paid_and_rewards_are_not_edited():
    policy = make_policy(seed=1)
    rollout = fresh_rollout(policy)
    rewards = rollout.rewards.clone()
    optimizer = make_optimizer(policy, PPO.config())
    PPO.update(policy, optimizer, rollout, PPO.config(kl_coef=1.0), torch.Generator().manual_seed(0))
    assert torch.equal(rollout.rewards, rewards)


def test_word_tokenizer_is_what_the_tests_think():
    tokens = word_tokenizer().encode(" a good").ids
    assert tokens == [3, 6]
