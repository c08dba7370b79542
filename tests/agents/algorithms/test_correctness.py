"""What an update must not get wrong: each test holds one sentence, and fails where the sentence does not hold.

The neighbours hold the rest: test_advantages.py (GAE, whitening), test_losses.py (masks, clipping, KL), test_policy.py
(recorded and plain log-probs) and test_algorithms.py (gradients, settings).
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from agents import PPO, REINFORCE, ActorCritic, Policy, collect
from agents.policy.head import unpack_masks
from agents.rollout import reference_log_probs
from agents.training.optimization import make_optimizer
from tests.agents.helpers import (
    ALGORITHMS,
    Letters,
    assert_same_gradient,
    biased_head,
    count_good,
    fresh_rollout,
    gradient,
    lanes,
    make_policy,
    of_each,
    tiny_config,
    word_tokenizer,
)
from textenvs import Example, Task, TextGenVectorEnv
from textenvs.tokenizer import SubwordTokenizer

EOS, BOS, PAD = 0, 1, 2


def play(policy, num_episodes=24, temperature=1.0, **settings):
    generator = torch.Generator().manual_seed(0)
    return collect(lanes(8, **settings), policy, num_episodes, seed=0, generator=generator, temperature=temperature)


def again(policy, rollout, temperature=1.0):
    return policy.evaluate(
        rollout.input_ids,
        rollout.positions,
        rollout.response_mask,
        temperature=temperature,
        allowed=rollout.action_masks,
    )


def plain_log_probs(policy, rollout, temperature=1.0):
    """Each row alone and unpadded, through the whole Transformers model: `(batch, time)`, zeros at padding."""
    found = torch.zeros(rollout.response_mask.shape)
    for row, step in rollout.response_mask.nonzero().tolist():
        place = int(rollout.positions[row, step])
        logits = policy.model(rollout.input_ids[row : row + 1, :place]).logits[0, -1] / temperature
        found[row, step] = torch.log_softmax(logits.detach(), dim=-1)[rollout.input_ids[row, place]]
    return found


# What is recorded is what is trained on -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_left_padded_right_padded_and_single_rows_agree(kind):
    """Right-padded through the policy; left-padded and alone through plain Transformers, with explicit positions."""
    policy = make_policy(kind, seed=1)
    rollout = play(policy)
    ours = again(policy, rollout).log_probs.detach()
    torch.testing.assert_close(ours, plain_log_probs(policy, rollout), atol=1e-5, rtol=1e-5)

    ends = rollout.positions.amax(dim=1) + 1
    width = int(ends.max())
    assert len(ends.unique()) > 2, "rows of different lengths"
    left, seen = torch.full((len(rollout), width), PAD), torch.zeros(len(rollout), width, dtype=torch.int64)
    for row, end in enumerate(ends.tolist()):
        left[row, width - end :] = rollout.input_ids[row, :end]
        seen[row, width - end :] = 1
    position_ids = (seen.cumsum(dim=1) - 1).clamp(min=0)
    logits = policy.model(input_ids=left, attention_mask=seen, position_ids=position_ids).logits.detach()
    shift = (width - ends)[:, None] + rollout.positions
    before = logits.log_softmax(-1).gather(1, (shift - 1)[..., None].expand(-1, -1, logits.shape[-1]))
    theirs = before.gather(2, left.gather(1, shift)[..., None])[..., 0]
    torch.testing.assert_close(ours[rollout.response_mask], theirs[rollout.response_mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_ratio_is_one_before_the_first_step_whatever_the_dropout(kind):
    policy = make_policy(kind, seed=2)
    if kind == "gpt2":
        assert policy.model.config.resid_pdrop == 0.1
    policy.train()
    rollout = play(policy, temperature=1.4)
    ratio = (again(policy, rollout, 1.4).log_probs - rollout.log_probs).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)


def test_ppo_reports_a_ratio_of_one_before_its_first_step():
    policy = make_policy(seed=1)
    rollout = fresh_rollout(policy)
    still = PPO.config(epochs=1, minibatch_size=len(rollout), learning_rate=1e-12)
    row = PPO.update(policy, make_optimizer(policy, still), rollout, still, torch.Generator().manual_seed(0))
    assert row["ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert row["approx_kl"] == pytest.approx(0, abs=1e-6)
    assert row["clip_fraction"] == 0


def test_the_reference_is_the_policy_at_first():
    """KL 0 exactly, where both come from the same pass, and within rounding where one was recorded on the cache."""
    policy = make_policy(seed=1)
    rollout = play(policy)
    reference = policy.frozen_copy()
    theirs = reference_log_probs(reference, rollout, temperature=1.0)
    assert torch.equal(theirs, reference_log_probs(policy, rollout, temperature=1.0))
    torch.testing.assert_close(theirs, rollout.log_probs, atol=1e-5, rtol=1e-5)
    assert not any(one.requires_grad for one in reference.parameters())


def test_pad_and_special_tokens_inside_a_response_shift_nothing():
    """A policy that says PAD and BOS most of the time."""
    policy = make_policy(seed=1)
    policy.model.lm_head = biased_head(policy, {BOS: 2.0, PAD: 4.0})
    rollout = play(policy, 48)
    actions = rollout.input_ids.gather(1, rollout.positions)[rollout.response_mask]
    assert (actions == PAD).sum() > 10
    assert (actions == BOS).sum() > 10
    steps = rollout.response_mask.sum(dim=1)
    first, last = rollout.positions[:, 0], rollout.positions.gather(1, steps[:, None] - 1)[:, 0]
    assert torch.equal(last - first + 1, steps), "no place is skipped"
    plain = plain_log_probs(policy, rollout)
    torch.testing.assert_close(rollout.log_probs, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again(policy, rollout).log_probs.detach(), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pad", ["<pad>", "<eos>"])
def test_eos_is_trained_on_also_where_it_is_the_padding(pad):
    """REINFORCE with a reward of 1 for ending at once, and 0 for all else, must make EOS likelier."""
    torch.manual_seed(0)
    tokenizer = SubwordTokenizer(word_tokenizer(), eos_token="<eos>", bos_token="<bos>", pad_token=pad)
    policy = Policy(transformers.AutoModelForCausalLM.from_config(tiny_config("llama")), tokenizer)
    assert (tokenizer.pad_token_id == tokenizer.eos_token_id) == (pad == "<eos>")
    env = TextGenVectorEnv(
        8, task=Letters(), reward="length", tokenizer=tokenizer, max_new_tokens=6, autoreset_mode="Disabled"
    )
    rollout = collect(env, policy, 64, seed=0, generator=torch.Generator().manual_seed(0))
    actions = rollout.input_ids.gather(1, rollout.positions)
    ended = (actions == EOS) & rollout.response_mask
    assert 5 < int(ended.sum()) < 64
    rewards = (ended & (torch.arange(6) == 0)).float()
    rollout = replace(rollout, rewards=rewards, ref_log_probs=rollout.log_probs)
    before = again(policy, rollout).log_probs.detach()
    config = REINFORCE.config(learning_rate=0.01, baseline="none", kl_coef=0.0)
    REINFORCE.update(policy, make_optimizer(policy, config), rollout, config, torch.Generator())
    after = again(policy, rollout).log_probs.detach()
    at_once = ended[:, 0]
    assert at_once.any()
    assert (after[at_once, 0] > before[at_once, 0] + 0.01).all()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_after_the_end_of_an_episode_is_looked_at(name):
    rollout = fresh_rollout(make_policy(seed=1))
    mask, places = rollout.response_mask, torch.arange(rollout.input_ids.shape[1])
    behind = places > rollout.positions.amax(dim=1)[:, None]
    assert behind.any()
    assert (~mask).any()
    garbage = torch.where(torch.arange(mask.shape[1]) % 2 == 0, torch.nan, torch.inf).expand(mask.shape)
    dirty = replace(
        rollout,
        input_ids=torch.where(behind, 7, rollout.input_ids),
        **{
            one: torch.where(mask, getattr(rollout, one), garbage)
            for one in ("rewards", "log_probs", "values", "ref_log_probs")
        },
    )
    settings = {"kl_coef": 0.1, "entropy_coef": 0.1, **of_each(name, rollout)}
    clean, soiled = (gradient(ALGORITHMS[name], one, **settings) for one in (rollout, dirty))
    for one, two in zip(clean, soiled, strict=True):
        torch.testing.assert_close(two, one, atol=1e-6, rtol=1e-5)


# Batches: how they are cut changes nothing ----------------------------------------------------------------------------


def metrics(name, rollout, **settings):
    policy = make_policy(seed=1)
    config = ALGORITHMS[name].config(**{"kl_coef": 0.1, **of_each(name, rollout), **settings})
    return ALGORITHMS[name].update(
        policy, make_optimizer(policy, config), rollout, config, torch.Generator().manual_seed(0)
    )


def padded(rollout, by=5):
    def pad(array, value=0):
        return torch.nn.functional.pad(array, (0, by), value=value)

    return replace(
        rollout,
        input_ids=pad(rollout.input_ids, PAD),
        positions=pad(rollout.positions, 1),
        **{
            one: pad(getattr(rollout, one))
            for one in ("response_mask", "rewards", "log_probs", "values", "ref_log_probs")
        },
    )


IN_THE_LOSS = {"kl_credit": "loss", "kl_estimator": "k3"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, settings) for name in ALGORITHMS for settings in ({}, IN_THE_LOSS)),
        ("reinforce", {"loss_mean": "episode"}),
        ("reinforce", {"baseline": "value"}),
        ("actor_critic", {"n_steps": 2}),
    ],
)
def test_cutting_ordering_and_padding_a_batch_change_neither_gradient_nor_metrics(name, settings):
    rollout = fresh_rollout(make_policy(seed=1))
    settings = {"kl_coef": 0.1, "entropy_coef": 0.1, **settings}
    whole = gradient(ALGORITHMS[name], rollout, **settings, **of_each(name, rollout))
    row = metrics(name, rollout, **settings)
    assert all(np.isfinite(value) for value in row.values())
    order = torch.randperm(len(rollout), generator=torch.Generator().manual_seed(1))
    for variant, extra in (
        (rollout, {"micro_batch_size": 1}),
        (rollout, {"micro_batch_size": 7}),
        (rollout.select(order), {}),
        (padded(rollout), {"micro_batch_size": 5}),
    ):
        changed = {**settings, **extra}
        assert_same_gradient(
            whole, gradient(ALGORITHMS[name], variant, **changed, **of_each(name, rollout)), tolerance=1e-6
        )
        assert metrics(name, variant, **changed) == pytest.approx(row, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_row_in_which_nothing_counts_is_not_there(name):
    rollout = fresh_rollout(make_policy(seed=1))
    keep = torch.ones(len(rollout), dtype=torch.bool)
    keep[3] = False
    empty = replace(rollout, response_mask=rollout.response_mask & keep[:, None])
    without = rollout.select(keep.nonzero()[:, 0])
    settings = of_each(name, rollout)
    assert_same_gradient(gradient(ALGORITHMS[name], empty, **settings), gradient(ALGORITHMS[name], without, **settings))
    alone = gradient(ALGORITHMS[name], empty, micro_batch_size=1, **settings)
    assert all(one.isfinite().all() for one in alone)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_gradients_are_clipped_once_an_optimiser_step(name):
    """To the norm of the whole batch's gradient, however many micro-batches it came in."""
    rollout = fresh_rollout(make_policy(seed=1))
    policy, settings = make_policy(seed=1), of_each(name, rollout)
    config = ALGORITHMS[name].config(max_grad_norm=0.01, micro_batch_size=2, **settings)
    norms = []

    class Watch(torch.optim.SGD):
        def step(self, closure=None):
            found = [one.grad.flatten() for one in policy.parameters() if one.grad is not None]
            norms.append(float(torch.cat(found).norm()))

    ALGORITHMS[name].update(policy, Watch(policy.parameters()), rollout, config, torch.Generator().manual_seed(0))
    assert norms == pytest.approx([0.01] * (config.epochs if name == "ppo" else 1), rel=1e-3)


# Ends of episodes -----------------------------------------------------------------------------------------------------


class Cut(TextGenVectorEnv):
    """Lanes whose episodes are truncated after three tokens, unless they have ended."""

    def step(self, actions):
        observation, rewards, terminated, truncated, infos = super().step(actions)
        truncated = ~terminated & (infos["response_length"] >= 3)
        return observation, rewards, terminated, truncated, infos


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_a_truncated_episode_has_the_value_of_the_state_it_was_cut_in(critic):
    policy = make_policy(seed=1)
    if critic == "separate":
        policy.separate_critic()
        with torch.no_grad():
            for parameter in policy.critic.parameters():
                parameter.mul_(1.1)
    env = Cut(
        8, task=Letters(), reward=count_good, tokenizer=word_tokenizer(), max_new_tokens=6, autoreset_mode="Disabled"
    )
    rollout = collect(env, policy, 24, seed=0, generator=torch.Generator().manual_seed(0))
    assert rollout.truncated.any()
    assert rollout.terminated.any()
    assert torch.equal(rollout.truncated, ~rollout.terminated)
    trunk = policy.model.base_model if critic == "shared" else policy.critic
    for row in range(len(rollout)):
        steps = int(rollout.response_mask[row].sum())
        end = int(rollout.positions[row, steps - 1]) + 1
        states = trunk(input_ids=rollout.input_ids[row : row + 1, :end]).last_hidden_state
        values = policy.value_head(states)[0, :, 0].detach()
        expected = values[-1] if rollout.truncated[row] else torch.tensor(0.0)
        torch.testing.assert_close(rollout.last_values[row], expected, atol=1e-5, rtol=1e-5)
        before = values[rollout.positions[row, :steps] - 1]  # the value of a state comes before the action in it
        torch.testing.assert_close(rollout.values[row, :steps], before, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again(policy, rollout).values.detach(), rollout.values, atol=1e-5, rtol=1e-5)


class Talk(Task):
    """Two turns, with a reply of two tokens between them."""

    name = "talk"
    default_reward = "length"
    max_turns = 2
    max_reply_tokens = 2

    def num_examples(self, split):
        return 3

    def example(self, split, index):
        return Example([" a", " b", " c"][index])

    def reply(self, example, turns):
        return " c b"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_the_environment_says_has_no_gradient_no_value_and_no_place_in_time(name):
    policy = make_policy(seed=1)
    policy.model.lm_head = biased_head(policy, {EOS: 2.0})
    env = TextGenVectorEnv(
        8, task=Talk(), reward=count_good, tokenizer=word_tokenizer(), max_new_tokens=6, autoreset_mode="Disabled"
    )
    rollout = collect(env, policy, 24, seed=0, generator=torch.Generator().manual_seed(0))
    gaps = (rollout.positions.diff(dim=1) == 3) & rollout.response_mask[:, 1:]
    assert gaps.sum() > 5, "episodes with a reply in them"
    for row, step in gaps.nonzero().tolist():
        place = int(rollout.positions[row, step])
        assert rollout.input_ids[row, place : place + 3].tolist() == [EOS, 5, 4]  # the agent's EOS, then " c b"
    assert int(rollout.response_mask.sum(dim=1).max()) <= 6
    torch.testing.assert_close(rollout.log_probs, plain_log_probs(policy, rollout), atol=1e-5, rtol=1e-5)

    # No gradient: with the advantage of the agent's tokens at 0, nothing is left to learn from.
    rollout = replace(rollout, ref_log_probs=rollout.log_probs, rewards=torch.zeros_like(rollout.rewards))
    rollout = replace(rollout, values=torch.zeros_like(rollout.values))
    settings = {"kl_coef": 0.0, "normalize_advantages": False, **of_each(name, rollout)}
    if name != "reinforce":
        settings["value_coef"] = 0.0
    assert all((one == 0).all() for one in gradient(ALGORITHMS[name], rollout, **settings))


# Action masks ---------------------------------------------------------------------------------------------------------

WAYS = [" a good", " a c", " b"]


def masked_lanes(num_envs=8, **kwargs):
    return lanes(num_envs, action_mask=WAYS, **kwargs)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_under_masks_recorded_log_probs_are_those_of_the_masked_softmax(temperature):
    policy = make_policy(seed=1)
    generator = torch.Generator().manual_seed(0)
    rollout = collect(masked_lanes(), policy, 40, seed=0, generator=generator, temperature=temperature)
    assert set(rollout.responses(policy)) <= set(WAYS)
    assert len(set(rollout.responses(policy))) > 1
    allowed = unpack_masks(rollout.action_masks, 10)
    assert rollout.action_masks.shape == (*rollout.response_mask.shape, 2), "a bit a token"
    got = again(policy, rollout, temperature)
    for row, step in rollout.response_mask.nonzero().tolist():
        place = int(rollout.positions[row, step])
        token = int(rollout.input_ids[row, place])
        said = rollout.input_ids[row, rollout.positions[row, :step]].tolist()
        # By hand: the first token is " a" or " b"; after " a" comes " good" or " c"; then there is only EOS.
        expected = {0: {3, 4}, 1: {5, 6} if said == [3] else {EOS}}.get(step, {EOS})
        assert set(allowed[row, step].nonzero()[:, 0].tolist()) == expected
        logits = policy.model(rollout.input_ids[row : row + 1, :place]).logits[0, -1].detach() / temperature
        log_p = torch.log_softmax(logits[sorted(expected)], dim=-1)
        mine = log_p[sorted(expected).index(token)]
        torch.testing.assert_close(rollout.log_probs[row, step], mine, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.log_probs[row, step], mine, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.entropies[row, step], -(log_p.exp() * log_p).sum(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_masks_never_make_nan_and_forbidden_tokens_get_no_gradient(name):
    policy = make_policy(seed=1)
    rollout = collect(masked_lanes(), policy, 24, seed=0, generator=torch.Generator().manual_seed(0))
    other = make_policy(seed=9)
    rollout = replace(rollout, ref_log_probs=reference_log_probs(other, rollout, temperature=1.0))
    assert (rollout.ref_log_probs <= 0).all()
    forced = unpack_masks(rollout.action_masks, 10).sum(dim=-1) == 1
    assert (rollout.ref_log_probs[forced & rollout.response_mask].abs() < 1e-6).all(), "one token is certain for both"
    settings = {"kl_coef": 0.1, "entropy_coef": 0.1, "micro_batch_size": 5, **of_each(name, rollout)}
    found = gradient(ALGORITHMS[name], rollout, **settings)
    assert all(one.isfinite().all() for one in found)
    head = [one for one, (title, _) in zip(found, policy.named_parameters(), strict=False) if "lm_head" in title]
    never = [token for token in range(10) if token not in (EOS, 3, 4, 5, 6)]
    assert len(head) == 1
    assert (head[0][never] == 0).all()
    assert (head[0][[3, 4, 5, 6]] != 0).any()


def test_masks_are_honoured_by_greedy_evaluation_and_predict():
    policy = make_policy(seed=1)
    rollout = collect(masked_lanes(), policy, 8, seed=0, deterministic=True)
    assert set(rollout.responses(policy)) <= set(WAYS)
    env = masked_lanes(4)
    observation, infos = env.reset(seed=0)
    actions = policy.predict(observation, deterministic=True, action_masks=infos["action_mask"])
    assert set(actions.tolist()) <= {3, 4}
    agent = PPO(policy, masked_lanes(8))
    single = {key: value[0] for key, value in observation.items()}
    assert agent.predict(single, deterministic=True, action_masks=infos["action_mask"][0])[0] == actions[0]


def test_a_mask_that_allows_nothing_says_so():
    policy = make_policy(seed=1)
    allowed = np.ones((3, 10), dtype=np.bool_)
    allowed[1] = False
    with pytest.raises(ValueError, match=r"allows some token in every lane, got none in \[1\]"):
        policy.act(torch.randn(3, 32), allowed=allowed)


def test_learning_under_masks():
    agent = PPO(
        make_policy(spread=0.05),
        masked_lanes(32, reward=count_good, payout="sparse"),
        learning_rate=0.01,
        num_envs=32,
        episodes_per_update=64,
    )
    rows = []
    agent.learn(64 * 3 * 12, on_update=rows.append)
    assert all(np.isfinite(value) for row in rows for key, value in row.items() if key != "explained_variance")
    assert rows[0]["score"] < 0.8
    assert rows[-1]["score"] > 1.0


# A critic with a trunk of its own -------------------------------------------------------------------------------------


def test_a_separate_critic_leaves_the_policy_to_its_own_gradient(tmp_path):
    rollout = fresh_rollout(make_policy(seed=1))
    policy = make_policy(seed=1)
    before = again(policy, rollout)
    policy.separate_critic()
    after = again(policy, rollout)
    assert torch.equal(after.log_probs, before.log_probs)
    torch.testing.assert_close(after.values, before.values)
    (after.values.square().sum()).backward()
    assert all(one.grad is None for one in policy.model.parameters())
    assert any(one.grad.abs().max() > 0 for one in policy.critic.parameters() if one.grad is not None)
    assert policy.frozen_copy().critic is None
    assert policy.critic is not None
    with torch.no_grad():
        for parameter in policy.critic.parameters():
            parameter.add_(0.1)
    policy.save_pretrained(tmp_path)
    loaded = Policy.from_pretrained(tmp_path, device="cpu")
    torch.testing.assert_close(again(loaded, rollout).values, again(policy, rollout).values)


def test_the_critic_is_made_by_the_config():
    agent = ActorCritic(make_policy(seed=1), lanes(8), critic="separate", num_envs=8, episodes_per_update=16)
    start = torch.cat([one.detach().flatten() for one in agent.policy.critic.parameters()])
    agent.learn(100)
    assert not torch.equal(start, torch.cat([one.detach().flatten() for one in agent.policy.critic.parameters()]))
