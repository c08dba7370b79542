"""Collecting: every episode that begins is played to its end, once, and recorded where it belongs."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents import collect
from agents.rollout import micro_batches, minibatches
from tests.agents.helpers import Letters, count_good, lanes, make_policy, word_tokenizer
from textenvs import TextGenVectorEnv
from textenvs.tokenizer import decode


@pytest.mark.parametrize("num_episodes", [1, 3, 4, 7, 30])
@pytest.mark.parametrize("payout", ["immediate", "sparse"])
def test_rows_are_whole_episodes_with_the_log_probs_of_a_plain_forward(num_episodes, payout):
    policy = make_policy(seed=1)
    env = lanes(payout=payout)
    rollout = collect(env, policy, num_episodes, seed=0, generator=torch.Generator().manual_seed(0), temperature=0.8)
    assert len(rollout) == num_episodes
    assert rollout.terminated.all()
    assert not rollout.truncated.any()
    mask = rollout.response_mask
    for row in range(num_episodes):
        steps = int(mask[row].sum())
        assert mask[row, :steps].all(), "no gap in an episode"
        places = rollout.positions[row, :steps]
        prompt = env.setting.pool.prompts[rollout.examples[row], : env.setting.pool.lengths[rollout.examples[row]]]
        assert rollout.input_ids[row, : len(prompt)].tolist() == prompt.tolist()
        assert places.tolist() == list(range(len(prompt), len(prompt) + steps))
        tokens = rollout.input_ids[row, places].tolist()
        assert (tokens[-1] == 0) != (steps == 6 and tokens[-1] != 0), "ends with EOS or by its budget"
        assert 0 not in tokens[:-1]
        # Rewards are those of the text, token by token.
        example = env.setting.pool.examples[rollout.examples[row]]
        phi = [0.0] + [count_good(example, decode(policy.tokenizer, tokens[: end + 1])) for end in range(steps)]
        expected = np.diff(phi) if payout == "immediate" else np.array([0.0] * (steps - 1) + [phi[-1]])
        np.testing.assert_allclose(rollout.rewards[row, :steps], expected, atol=1e-6)
        assert rollout.scores[row] == pytest.approx(phi[-1], abs=1e-6)
        # Log-probs and values are those of a plain forward pass over the unpadded row.
        output = policy.model(rollout.input_ids[row : row + 1, : len(prompt) + steps], output_hidden_states=True)
        states = slice(len(prompt) - 1, len(prompt) + steps - 1)
        log_probs = torch.log_softmax(output.logits[0, states] / 0.8, dim=-1)
        taken = log_probs.gather(1, rollout.input_ids[row, places][:, None])[:, 0]
        torch.testing.assert_close(rollout.log_probs[row, :steps], taken, atol=1e-5, rtol=1e-5)
        values = policy.value_head(output.hidden_states[-1][0, states])[:, 0]
        torch.testing.assert_close(rollout.values[row, :steps], values, atol=1e-5, rtol=1e-5)
    for array in (rollout.rewards, rollout.log_probs, rollout.values):
        assert (array[~mask] == 0).all()


def test_the_ratio_is_one_before_the_first_step():
    policy = make_policy(seed=2)
    rollout = collect(lanes(), policy, 20, seed=1, generator=torch.Generator().manual_seed(1), temperature=1.4)
    again = policy.evaluate(rollout.input_ids, rollout.positions, rollout.response_mask, temperature=1.4)
    ratio = (again.log_probs - rollout.log_probs).exp()
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)
    torch.testing.assert_close(again.values, rollout.values, atol=1e-5, rtol=1e-5)


def test_short_episodes_are_not_over_represented():
    """A policy that ends at once half of the time: its share of one-token episodes stays a half."""
    policy = make_policy()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.zero_()
        policy.model.lm_head = torch.nn.Linear(32, 10)
        policy.model.lm_head.weight.zero_()
        policy.model.lm_head.bias.fill_(-20.0)
        policy.model.lm_head.bias[[0, 3]] = 0.0  # EOS or " a", evenly
    rollout = collect(lanes(64), policy, 4000, seed=0, generator=torch.Generator().manual_seed(0))
    lengths = rollout.response_mask.sum(dim=1)
    for length, expected in ((1, 0.5), (2, 0.25), (6, 0.5**5)):
        found = float((lengths == length).float().mean())
        assert abs(found - expected) < 4 * (expected * (1 - expected) / 4000) ** 0.5


def test_the_same_seed_gives_the_same_rollout_and_another_does_not():
    policy = make_policy()
    one, two, other = (
        collect(lanes(), policy, 10, seed=seed, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(one.input_ids, two.input_ids)
    assert torch.equal(one.log_probs, two.log_probs)
    assert one.input_ids.shape != other.input_ids.shape or not torch.equal(one.input_ids, other.input_ids)


def test_examples_can_be_named():
    policy = make_policy()
    places = [5, 0, 3, 3, 1, 2, 4]
    rollout = collect(lanes(), policy, 7, examples=places, generator=torch.Generator().manual_seed(0))
    assert rollout.examples.tolist() == places


def test_groups_are_filled_and_share_their_example():
    policy = make_policy(seed=5)
    rollout = collect(lanes(6, group_size=3), policy, 18, seed=0, generator=torch.Generator().manual_seed(0))
    for group in rollout.group.unique():
        members = rollout.group == group
        assert int(members.sum()) == 3
        assert len(rollout.examples[members].unique()) == 1


def test_select_trims_and_minibatches_cover_every_row_once():
    rollout = collect(lanes(), make_policy(), 9, seed=0, generator=torch.Generator().manual_seed(0))
    shortest = int(rollout.response_mask.sum(dim=1).argmin())
    part = rollout.select(torch.tensor([shortest]))
    steps = int(part.response_mask.sum())
    assert part.positions.shape == (1, steps)
    assert part.input_ids.shape[1] == int(part.positions.max()) + 1
    assert part.ref_log_probs is None
    with pytest.raises(ValueError, match="Expected ref_log_probs, got None"):
        part.kl("k1")
    parts = replace(rollout, part_scores={"length": np.arange(9.0)}).select(torch.tensor([7, 2])).part_scores
    assert parts["length"].tolist() == [7, 2]
    batches = minibatches(rollout, 4, torch.Generator().manual_seed(0))
    assert len(batches) == 3
    assert sorted(torch.cat(batches).tolist()) == list(range(9))


@pytest.mark.parametrize("tokens", [None, 40])
def test_minibatches_have_about_the_same_number_of_tokens(tokens):
    """Two hundred episodes of 1 to 6 tokens: no minibatch is off by more than half an episode at each end."""
    rollout = collect(lanes(32), make_policy(seed=1), 200, seed=0, generator=torch.Generator().manual_seed(0))
    lengths = rollout.response_mask.sum(dim=1)
    assert len(lengths.unique()) > 3
    batches = minibatches(rollout, 20, torch.Generator().manual_seed(0), tokens=tokens)
    found = torch.stack([lengths[batch].sum() for batch in batches])
    assert len(batches) == (10 if tokens is None else round(rollout.num_tokens / 40))
    assert float((found - rollout.num_tokens / len(batches)).abs().max()) <= 6
    if tokens is not None:
        assert abs(float(found.float().mean()) - 40) < 2
    assert sorted(torch.cat(batches).tolist()) == list(range(200))
    other = minibatches(rollout, 20, torch.Generator().manual_seed(1))
    assert not torch.equal(torch.cat(other), torch.cat(batches))


def test_an_episode_longer_than_a_minibatch_is_one_of_its_own():
    rollout = collect(lanes(8), make_policy(), 8, seed=0, generator=torch.Generator().manual_seed(0))
    batches = minibatches(rollout, 1, torch.Generator().manual_seed(0), tokens=1)
    assert all(len(batch) for batch in batches)
    assert sorted(torch.cat(batches).tolist()) == list(range(8))


def test_wrong_environments_are_refused():
    policy = make_policy()
    with pytest.raises(ValueError, match="leaves resets to collect"):
        collect(TextGenVectorEnv(2, task=Letters(), tokenizer=word_tokenizer()), policy, 2)
    with pytest.raises(ValueError, match="policy's tokenizer"):
        collect(TextGenVectorEnv(2, autoreset_mode="Disabled"), policy, 2)
    with pytest.raises(ValueError, match="at least 1"):
        collect(lanes(), policy, 0)
    with pytest.raises(ValueError, match="one example for each"):
        collect(lanes(), policy, 3, examples=[1])
    with pytest.raises(ValueError, match="every group"):
        collect(lanes(4, group_size=2), policy, 6)


def test_responses_are_the_texts():
    policy = make_policy()
    rollout = collect(lanes(), policy, 5, seed=0, generator=torch.Generator().manual_seed(0))
    for row, response in enumerate(rollout.responses(policy)):
        tokens = rollout.input_ids[row, rollout.positions[row][rollout.response_mask[row]]].tolist()
        assert response == decode(policy.tokenizer, tokens)


@pytest.mark.parametrize("size", [3, 64])
def test_micro_batches_hold_every_episode_once_and_little_padding(size):
    rollout = collect(lanes(32), make_policy(seed=1), 200, seed=0, generator=torch.Generator().manual_seed(0))
    ends = (rollout.positions * rollout.response_mask).amax(dim=1) + 1
    chosen = torch.arange(0, 200, 2)
    parts = micro_batches(rollout, chosen, size, least_tokens=20)
    assert sorted(torch.cat(parts).tolist()) == chosen.tolist()
    assert sorted(torch.cat(micro_batches(rollout, torch.arange(200), size, least_tokens=20)).tolist()) == list(
        range(200)
    )
    for part in parts:
        assert 1 <= len(part) <= size
        padded = int(ends[part].max()) * len(part)
        assert padded <= 1.2 * int(ends[part].sum()) or int(ends[part[:-1]].sum()) < 20
    assert len(ends.unique()) > 3
    if size == 64:
        assert len(parts) > 2


def test_micro_batches_have_about_as_many_tokens_as_each_other_and_not_more_than_that():
    rollout = collect(lanes(), make_policy(), 16, seed=0, generator=torch.Generator().manual_seed(0))
    of = {"positions": torch.full((16, 1), 14), "response_mask": rollout.response_mask[:, :1]}  # 15 tokens an episode
    parts = micro_batches(replace(rollout, **of), torch.arange(16), 64, most_tokens=100)
    assert [len(part) for part in parts] == [5, 6, 5]  # 240 tokens in 3 parts of 80; then 165 in 2 of 82.5
    assert [len(part) for part in micro_batches(replace(rollout, **of), torch.arange(6), 64, most_tokens=100)] == [6]


def test_what_lanes_have_kept_is_gone_with_the_rollout():
    """Keys and values are large. They must not wait through the update until Python looks for circles."""
    policy, caches = make_policy(), []
    context = policy.context

    def watched(*args):
        made = context(*args)
        caches.append(weakref.ref(made._cache))
        return made

    policy.context = watched
    gc.collect()
    gc.disable()
    try:
        collect(lanes(), policy, 5, seed=0, generator=torch.Generator().manual_seed(0))
        assert [one() for one in caches] == [None]
    finally:
        gc.enable()


def test_micro_batches_keep_the_order_of_episodes_as_long_as_each_other():
    rollout = collect(lanes(), make_policy(), 9, seed=0, generator=torch.Generator().manual_seed(0))
    same = replace(rollout, positions=torch.full_like(rollout.positions, 4), response_mask=rollout.response_mask[:, :1])
    same = replace(same, positions=same.positions[:, :1])
    assert [part.tolist() for part in micro_batches(same, torch.arange(9), 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
