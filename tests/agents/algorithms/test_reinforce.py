"""REINFORCE's baselines, on a decision process small enough to be summed over exactly."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models

from agents import REINFORCE, ActorCritic, Policy, collect, load
from agents.advantages import discounted_returns
from agents.algorithms.reinforce import baseline_advantages, credits
from agents.rollout import Rollout
from tests.agents.helpers import assert_same_gradient, fresh_rollout, gradient, lanes, make_policy
from textenvs.tokenizer import SubwordTokenizer

# Three tokens, of which the first ends an episode, and at most three of them: 1 + 2 + 4 * 3 = 15 episodes. ------------

EPISODES = [
    list(tokens)
    for length in (1, 2, 3)
    for tokens in itertools.product(range(3), repeat=length)
    if 0 not in tokens[:-1] and (tokens[-1] == 0 or length == 3)
]
EARNED = torch.tensor([0.5, 0.0, 1.5])  # by each token
AT_THE_END = 4.0  # by every episode: without a baseline, it makes whatever was done likelier


@pytest.fixture(scope="module")
def small():
    """A random Llama over three tokens, its 15 episodes, their probabilities and the score function of each step."""
    made = Tokenizer(models.WordLevel({"<eos>": 0, " a": 1, " b": 2}, unk_token="<eos>"))
    tokenizer = SubwordTokenizer(made, eos_token="<eos>", bos_token="<eos>", pad_token="<eos>")
    config = transformers.LlamaConfig(
        vocab_size=3, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    policy = Policy(transformers.LlamaForCausalLM(config), tokenizer)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.6)
    size, steps, prompt = len(EPISODES), 3, [1]
    input_ids, positions = torch.zeros(size, 4, dtype=torch.int64), torch.ones(size, steps, dtype=torch.int64)
    mask, rewards = torch.zeros(size, steps, dtype=torch.bool), torch.zeros(size, steps)
    for row, tokens in enumerate(EPISODES):
        input_ids[row, : 1 + len(tokens)] = torch.tensor(prompt + tokens)
        positions[row, : len(tokens)] = torch.arange(1, 1 + len(tokens))
        mask[row, : len(tokens)] = True
        rewards[row, : len(tokens)] = EARNED[torch.tensor(tokens)]
        rewards[row, len(tokens) - 1] += AT_THE_END
    log_probs = policy.evaluate(input_ids, positions, mask).log_probs
    parameters = [one for one in policy.model.parameters() if one.requires_grad]
    scores = torch.zeros(size, steps, sum(one.numel() for one in parameters), dtype=torch.float64)
    for row, step in mask.nonzero().tolist():
        found = torch.autograd.grad(log_probs[row, step], parameters, retain_graph=True)
        scores[row, step] = torch.cat([one.flatten() for one in found]).double()
    probabilities = log_probs.detach().double().sum(dim=1).exp()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-6)
    exact = torch.autograd.grad((log_probs.sum(dim=1).exp() * rewards.sum(dim=1)).sum(), parameters)
    none = torch.zeros(size)
    rollout = Rollout(
        input_ids=input_ids,
        positions=positions,
        response_mask=mask,
        rewards=rewards,
        log_probs=log_probs.detach(),
        values=torch.zeros(size, steps),
        terminated=torch.ones(size, dtype=torch.bool),
        truncated=torch.zeros(size, dtype=torch.bool),
        last_values=none,
        group=torch.arange(size),
        scores=none,
        examples=torch.zeros(size, dtype=torch.int64),
    )
    return policy, rollout, probabilities, scores, torch.cat([one.flatten() for one in exact]).double()


def batches(rollout, probabilities, size):
    """Every batch of `size` episodes, laid out as groups of one rollout, and the probability of each."""
    rows = torch.tensor(list(itertools.product(range(len(EPISODES)), repeat=size)))
    every = replace(rollout.select(rows.flatten()), group=torch.arange(len(rows)).repeat_interleave(size))
    return every, probabilities[rows].prod(dim=1), rows


def moments(rollout, scores, weights, rows, advantages):
    """Mean and total variance, over batches, of `1/n sum_i sum_t score_it advantage_it`."""
    steps = advantages.shape[1]
    by_row = (scores[rows.flatten(), :steps] * advantages.double()[..., None]).sum(dim=1)
    estimates = by_row.reshape(*rows.shape, -1).mean(dim=1)
    mean = (weights[:, None] * estimates).sum(dim=0)
    variance = (weights[:, None] * (estimates - mean).square()).sum()
    return mean, float(variance)


def exact_values(rollout, probabilities):
    """V of the state before each action: the mean return over all episodes that begin alike."""
    returns = discounted_returns(rollout.rewards, rollout.response_mask)
    values = torch.zeros_like(returns)
    for row, tokens in enumerate(EPISODES):
        for step in range(len(tokens)):
            alike = [one for one, other in enumerate(EPISODES) if other[:step] == tokens[:step] and len(other) > step]
            values[row, step] = (probabilities[alike] * returns[alike, step]).sum() / probabilities[alike].sum()
    return values


def test_baselines_leave_the_gradient_as_it_is_and_lower_its_variance(small):
    """Over all 3375 batches of three episodes. The baselines themselves are the code's; every sum here is exact."""
    _, rollout, probabilities, scores, exact = small
    values = exact_values(rollout, probabilities)
    every, weights, rows = batches(rollout, probabilities, 3)
    mask = every.response_mask
    returns_alone = discounted_returns(rollout.rewards, rollout.response_mask)
    alive = rollout.response_mask.double() * probabilities[:, None]
    mean_return = ((returns_alone * alive).sum(dim=0) / alive.sum(dim=0)).float()  # what a moving average comes to
    likeliest = EPISODES[int(probabilities.argmax())]
    greedy = torch.zeros(3)
    greedy[: len(likeliest)] = returns_alone[EPISODES.index(likeliest), : len(likeliest)]
    variants = {
        "none": ({}, every),
        "episode": ({"credit": "episode"}, every),
        "moving_average": ({}, replace(every, baselines=torch.where(mask, mean_return, 0))),
        "greedy": ({}, replace(every, baselines=torch.where(mask, greedy, 0))),
        "leave_one_out": ({"group_size": 3, "num_envs": 3, "episodes_per_update": 3}, every),
        "value": ({}, replace(every, values=values[rows.flatten()])),
    }
    variance = {}
    for name, (settings, batch) in variants.items():
        config = REINFORCE.config(baseline="none" if name == "episode" else name, **settings)
        advantages, _ = baseline_advantages(batch, credits(batch, batch.rewards, config), config)
        mean, variance[name] = moments(batch, scores, weights, rows, advantages)
        torch.testing.assert_close(mean, exact, atol=1e-5 * float(exact.abs().max()), rtol=1e-4)
    assert variance["episode"] > variance["none"], "what was earned before is noise"
    assert variance["none"] > variance["greedy"]
    assert variance["none"] > 1.5 * variance["leave_one_out"]
    assert variance["leave_one_out"] > variance["moving_average"], "two other episodes are a noisy mean"
    assert variance["moving_average"] > variance["value"], "a value knows the state"


@pytest.mark.parametrize("size", [2, 3])
def test_the_batch_mean_shrinks_the_gradient_by_one_part_in_n(small, size):
    """An episode's own return is a part of its baseline. Exact where all are alive: at the first token alone."""
    _, rollout, probabilities, scores, _ = small
    every, weights, rows = batches(rollout, probabilities, size)
    returns, mask = discounted_returns(every.rewards, every.response_mask)[:, :1], every.response_mask[:, :1]
    config = REINFORCE.config(baseline="batch_mean")
    less = [
        baseline_advantages(
            replace(every, response_mask=mask[start : start + size]), returns[start : start + size], config
        )[0]
        for start in range(0, len(every), size)
    ]
    plain, _ = moments(every, scores, weights, rows, returns)
    shrunk, _ = moments(every, scores, weights, rows, torch.cat(less))
    torch.testing.assert_close(shrunk, plain * (size - 1) / size, atol=1e-6, rtol=1e-4)


def test_the_code_s_own_gradient_is_the_exact_policy_gradient(small):
    """REINFORCE's update on all 15 episodes, each as often as it happens: its loss is linear in the rewards."""
    policy, rollout, probabilities, _, exact = small
    weighted = rollout.rewards * (len(EPISODES) * probabilities.float())[:, None]
    rollout = replace(rollout, rewards=weighted, ref_log_probs=rollout.log_probs)
    config = REINFORCE.config(baseline="none", normalize_advantages=False, loss_mean="episode", max_grad_norm=1e9)
    caught = []

    class Catch(torch.optim.SGD):
        def step(self, closure=None):
            caught.append(torch.cat([one.grad.flatten() for one in policy.model.parameters()]))

    REINFORCE.update(policy, Catch(policy.parameters(), lr=0.0), rollout, config, torch.Generator())
    torch.testing.assert_close(-caught[0].double(), exact, atol=1e-5 * float(exact.abs().max()), rtol=1e-4)


# Each baseline, by hand ----------------------------------------------------------------------------------------------


def grouped(returns, group, baseline, **settings):
    """Advantages of two-token episodes whose whole return comes at the end."""
    returns = torch.tensor(returns)
    mask = torch.ones(len(returns), 2, dtype=torch.bool)
    rewards = torch.stack([torch.zeros_like(returns), returns], dim=1)
    nothing = torch.zeros(len(returns))
    rollout = Rollout(
        input_ids=torch.zeros(len(returns), 3, dtype=torch.int64),
        positions=torch.tensor([[1, 2]]).repeat(len(returns), 1),
        response_mask=mask,
        rewards=rewards,
        log_probs=torch.zeros_like(rewards),
        values=torch.zeros_like(rewards),
        terminated=nothing == 0,
        truncated=nothing != 0,
        last_values=nothing,
        group=torch.tensor(group),
        scores=nothing,
        examples=torch.tensor(group),
    )
    settings = {"group_size": 2, "num_envs": 2, "episodes_per_update": 2, **settings}
    config = REINFORCE.config(baseline=baseline, **settings)
    advantages, scale = baseline_advantages(rollout, credits(rollout, rollout.rewards, config), config)
    return advantages if scale is None else torch.where(scale > 0, advantages / scale, 0)


@pytest.mark.parametrize("credit", ["to_go", "episode"])
def test_group_is_grpo_s_advantage(credit):
    """The groups are {1, 3} and {2, 2, 8}, mixed up: mean 2, deviation 1, and mean 4, deviation sqrt(8)."""
    found = grouped([1.0, 2.0, 3.0, 2.0, 8.0], [5, 9, 5, 9, 9], "group", credit=credit)
    expected = torch.tensor([-1.0, -2 / np.sqrt(8), 1.0, -2 / np.sqrt(8), 4 / np.sqrt(8)], dtype=torch.float32)
    torch.testing.assert_close(found, expected[:, None].expand(-1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("baseline", ["group", "leave_one_out"])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
def test_groups_without_variance_are_worth_nothing(baseline, value):
    found = grouped([value, value, 1.0, 3.0], [0, 0, 1, 1], baseline)
    assert (found[:2] == 0).all()
    assert (found[2:].abs() >= 0.99).all()


def test_leave_one_out_stays_within_the_group_or_goes_over_the_batch():
    returns = [1.0, 2.0, 3.0, 6.0]
    assert grouped(returns, [0, 1, 0, 1], "leave_one_out")[:, 0].tolist() == [-2.0, -4.0, 2.0, 4.0]
    whole = grouped(returns, [0, 1, 2, 3], "leave_one_out", group_size=1)
    assert whole[:, 0].tolist() == pytest.approx([1 - 11 / 3, 2 - 10 / 3, 3 - 3, 6 - 2])


def test_credit_is_the_return_from_there_on_or_all_of_it():
    rollout = fresh_rollout(make_policy(seed=1))
    rewards, mask = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[True, True, True]])
    one = replace(rollout.select(torch.tensor([0])), rewards=rewards, response_mask=mask)
    assert credits(one, rewards, REINFORCE.config()).tolist() == [[7.0, 6.0, 4.0]]
    assert credits(one, rewards, REINFORCE.config(credit="episode")).tolist() == [[7.0, 7.0, 7.0]]


def test_learned_value_is_actor_critic_at_lambda_one():
    """The same gradient, of policy and critic."""
    rollout = fresh_rollout(make_policy(seed=1))
    settings = {"normalize_advantages": False, "kl_coef": 0.1, "entropy_coef": 0.1, "value_coef": 0.7}
    ours = gradient(REINFORCE, rollout, baseline="value", **settings)
    assert_same_gradient(ours, gradient(ActorCritic, rollout, gae_lambda=1.0, **settings))


def test_moving_average_is_that_of_earlier_batches():
    """By hand, from the returns of three batches at the first token; and the first batch has none."""
    agent = REINFORCE(
        make_policy(seed=1), lanes(8), baseline="moving_average", baseline_decay=0.75, num_envs=8, episodes_per_update=8
    )
    seen = []
    for seed in (1, 2, 3):
        rollout = collect(agent.env, agent.policy, 8, seed=seed, generator=torch.Generator().manual_seed(seed))
        prepared = agent.algorithm.prepare(agent, rollout)
        mean = float(discounted_returns(rollout.rewards, rollout.response_mask)[:, 0].mean())
        if not seen:
            expected, average = 0.0, mean
        else:
            expected, average = average, 0.75 * average + 0.25 * mean
        seen.append(mean)
        assert prepared.baselines[:, 0].tolist() == pytest.approx([expected] * 8, abs=1e-5)
        assert (prepared.baselines[~prepared.response_mask] == 0).all()
        assert agent.carried["moving_average"][0] == pytest.approx(average, abs=1e-5)
    assert len(set(seen)) == 3


def test_greedy_is_the_return_of_the_likeliest_episode_of_the_same_example():
    agent = REINFORCE(make_policy(seed=1), lanes(8), baseline="greedy", num_envs=8, episodes_per_update=16)
    rollout = collect(agent.env, agent.policy, 16, seed=0, generator=torch.Generator().manual_seed(0))
    prepared = agent.algorithm.prepare(agent, rollout)
    assert len(rollout.examples.unique()) > 2
    for row, example in enumerate(rollout.examples.tolist()):
        alone = collect(lanes(1), agent.policy, 1, deterministic=True, examples=[example])
        returns = discounted_returns(alone.rewards, alone.response_mask)[0]
        steps = int(rollout.response_mask[row].sum())
        expected = torch.nn.functional.pad(returns, (0, steps))[:steps]
        torch.testing.assert_close(prepared.baselines[row, :steps], expected)


def test_a_baseline_that_was_not_prepared_says_so():
    rollout = fresh_rollout(make_policy(seed=1))
    for baseline in ("greedy", "moving_average"):
        with pytest.raises(ValueError, match=f"Expected a rollout with baselines for '{baseline}'"):
            gradient(REINFORCE, rollout, baseline=baseline)


def test_group_needs_groups():
    with pytest.raises(ValueError, match="Expected group_size of at least 2 with baseline='group'"):
        REINFORCE.config(baseline="group")
    with pytest.raises(ValueError, match=r"Expected an environment with the config's group_size=4, got 1"):
        REINFORCE(make_policy(), lanes(8), baseline="group", group_size=4, num_envs=8, episodes_per_update=8)


@pytest.mark.parametrize("baseline", ["moving_average", "greedy"])
def test_bonuses_are_in_the_baseline(baseline):
    """A first token's advantage is then that of the score, and of how much longer than others its episode was."""
    agent = REINFORCE(make_policy(seed=1), lanes(8), baseline=baseline, num_envs=8, episodes_per_update=8)
    rollout = collect(agent.env, agent.policy, 8, seed=1, generator=torch.Generator().manual_seed(1))
    paid = replace(rollout, bonuses=torch.where(rollout.response_mask, 0.25, 0.0))
    found = []
    for batch in (rollout, paid):
        agent.carried.clear()
        agent.algorithm.prepare(agent, batch)  # the moving average knows this batch from here on
        prepared = agent.algorithm.prepare(agent, batch)
        found.append(
            baseline_advantages(prepared, credits(batch, batch.rewards_and_bonuses, agent.config), agent.config)[0]
        )
    lengths = rollout.response_mask.sum(dim=1)
    uneven = 0.25 * (lengths - lengths.float().mean())
    torch.testing.assert_close(found[1][:, 0], found[0][:, 0] + uneven, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("baseline", ["moving_average", "greedy", "group", "value"])
def test_a_run_that_goes_on_with_a_baseline_is_the_run_that_never_stopped(baseline, tmp_path):
    settings = {"baseline": baseline, "num_envs": 8, "episodes_per_update": 8}
    settings |= {"entropy_schedule": "constant"}  # the others depend on how long a run is meant to be
    settings |= {"group_size": 4} if baseline == "group" else {}

    env = lanes(8, group_size=settings.get("group_size", 1))

    def fresh():
        return REINFORCE(make_policy(seed=1), env, seed=3, **settings)

    straight, stopped = fresh(), fresh()
    straight.learn(160)
    stopped.learn(80)
    stopped.save(tmp_path)
    resumed = load(tmp_path, env=env, device="cpu")
    assert resumed.carried == stopped.carried
    assert (baseline == "moving_average") == ("moving_average" in resumed.carried)
    resumed.learn(160)
    assert resumed.updates == straight.updates > stopped.updates
    for one, two in zip(resumed.policy.parameters(), straight.policy.parameters(), strict=True):
        assert torch.equal(one, two)
