"""Returns, advantages and baselines, against hand-worked numbers, the papers' sums, and Stable-Baselines3."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from agents.advantages import (
    discounted_returns,
    gae,
    group_normalize,
    leave_one_out_baseline,
    moving_average,
    n_step_advantages,
    normalize,
    per_step_baseline,
    per_step_means,
)

NAN, INF = math.nan, math.inf


class Batch(NamedTuple):
    """Episodes as `gae` takes them."""

    rewards: Tensor
    values: Tensor
    terminated: Tensor
    truncated: Tensor
    response_mask: Tensor
    last_values: Tensor


def flags(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def lengths_mask(lengths: Tensor, time: int) -> Tensor:
    return torch.arange(time) < lengths[:, None]


def random_batch(seed: int, batch: int = 5, time: int = 7, *, holes: bool = False) -> Batch:
    """Rows of all lengths (0 too), ended in every way; padding holds NaN and inf."""
    generator = torch.Generator().manual_seed(seed)
    mask = lengths_mask(torch.randint(0, time + 1, (batch,), generator=generator), time)
    if holes:
        mask &= torch.rand(batch, time, generator=generator) < 0.7
    garbage = torch.tensor([NAN, INF, -INF, 1e30])[torch.randint(0, 4, (2, batch, time), generator=generator)]
    rewards, values = torch.where(mask, torch.randn(2, batch, time, generator=generator), garbage)
    ends = torch.rand(2, batch, generator=generator) < 0.5
    last_values = torch.randn(batch, generator=generator)
    return Batch(rewards, values, ends[0], ends[1], mask, torch.where(ends[0], NAN, last_values))


def run_gae(batch: Batch, gamma: float = 1.0, gae_lambda: float = 0.95) -> tuple[Tensor, Tensor]:
    *arrays, last_values = batch
    return gae(*arrays, gamma=gamma, gae_lambda=gae_lambda, last_values=last_values)


def counted(batch: Batch, row: int) -> tuple[list[int], list[float], list[float]]:
    """The counted positions of a row, their rewards, and their values with that of the state after them."""
    positions = batch.response_mask[row].nonzero()[:, 0].tolist()
    rewards = batch.rewards[row, positions].tolist()
    last = 0.0 if batch.terminated[row] else float(batch.last_values[row])
    return positions, rewards, [*batch.values[row, positions].tolist(), last]


def gae_as_average(batch: Batch, gamma: float, gae_lambda: float) -> Tensor:
    """Equations 14 and 16 of the paper as they stand: a weighted average of the k-step advantages.

    The k-step advantage is `-V(s_t) + r_t + gamma r_{t+1} + ... + gamma^k V(s_{t+k})`, with weight
    (1 - lambda) lambda^(k-1). Those that reach beyond the end equal the last, which gets all the weight that is left.
    """
    advantages = torch.zeros(batch.rewards.shape, dtype=torch.float64)
    for row in range(len(batch.rewards)):
        positions, rewards, values = counted(batch, row)
        for t, position in enumerate(positions):
            steps = len(positions) - t
            for k in range(1, steps + 1):
                k_step = sum(gamma**i * rewards[t + i] for i in range(k)) + gamma**k * values[t + k] - values[t]
                weight = (1 - gae_lambda) * gae_lambda ** (k - 1) if k < steps else gae_lambda ** (k - 1)
                advantages[row, position] += weight * k_step
    return advantages


def returns_as_sum(batch: Batch, gamma: float) -> Tensor:
    returns = torch.zeros(batch.rewards.shape, dtype=torch.float64)
    for row in range(len(batch.rewards)):
        positions, rewards, values = counted(batch, row)
        for t, position in enumerate(positions):
            rest = rewards[t:]
            returns[row, position] = sum(gamma**k * reward for k, reward in enumerate(rest))
            returns[row, position] += gamma ** len(rest) * values[-1]
    return returns


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance)


class TestGae:
    # gamma 1/2, lambda 1/2. deltas: 1 + 4/2 - 2 = 1; 2 + 8/2 - 4 = 2; 4 + next/2 - 8 = -4 + next/2.
    REWARDS = torch.tensor([[1.0, 2.0, 4.0, 0.0]])
    VALUES = torch.tensor([[2.0, 4.0, 8.0, 0.0]])
    MASK = flags(1, 1, 1, 0)[None]

    @pytest.mark.parametrize(
        ("terminated", "truncated", "advantages"),
        [
            pytest.param(True, False, [1.25, 1.0, -4.0, 0.0], id="terminated"),
            pytest.param(False, True, [1.75, 3.0, 4.0, 0.0], id="truncated bootstraps"),
            pytest.param(False, False, [1.75, 3.0, 4.0, 0.0], id="unfinished bootstraps"),
            pytest.param(True, True, [1.25, 1.0, -4.0, 0.0], id="terminated wins"),
        ],
    )
    def test_hand_worked(self, terminated: bool, truncated: bool, advantages: list[float]) -> None:
        actual, returns = gae(
            self.REWARDS,
            self.VALUES,
            flags(terminated),
            flags(truncated),
            self.MASK,
            gamma=0.5,
            gae_lambda=0.5,
            last_values=torch.tensor([16.0]),
        )
        assert actual.tolist() == [advantages]
        assert returns.tolist() == [[a + v for a, v in zip(advantages, [2.0, 4.0, 8.0, 0.0], strict=True)]]

    @given(
        seed=st.integers(0, 2**32),
        gamma=st.floats(0, 1),
        gae_lambda=st.floats(0, 1),
        holes=st.booleans(),
    )
    def test_is_the_papers_average_of_k_step_advantages(
        self, seed: int, gamma: float, gae_lambda: float, holes: bool
    ) -> None:
        batch = random_batch(seed, holes=holes)
        advantages, returns = run_gae(batch, gamma, gae_lambda)
        expected = gae_as_average(batch, gamma, gae_lambda)
        close(advantages, expected)
        close(returns, torch.where(batch.response_mask, expected + batch.values, 0))

    @given(seed=st.integers(0, 2**32), gamma=st.floats(0, 1))
    def test_lambda_one_is_return_minus_value(self, seed: int, gamma: float) -> None:
        batch = random_batch(seed)
        advantages, returns = run_gae(batch, gamma, 1.0)
        to_go = discounted_returns(
            batch.rewards,
            batch.response_mask,
            gamma=gamma,
            terminated=batch.terminated,
            last_values=batch.last_values,
        )
        close(returns, to_go)
        close(advantages, torch.where(batch.response_mask, to_go - batch.values, 0))

    @given(seed=st.integers(0, 2**32), gamma=st.floats(0, 1))
    def test_lambda_zero_is_the_td_error(self, seed: int, gamma: float) -> None:
        batch = random_batch(seed)
        advantages, _ = run_gae(batch, gamma, 0.0)
        for row in range(len(batch.rewards)):
            positions, rewards, values = counted(batch, row)
            for t, position in enumerate(positions):
                error = rewards[t] + gamma * values[t + 1] - values[t]
                assert float(advantages[row, position]) == pytest.approx(error, abs=1e-5)

    @pytest.mark.parametrize("seed", range(5))
    def test_equals_stable_baselines3(self, seed: int) -> None:
        from stable_baselines3.common.buffers import RolloutBuffer

        rng = np.random.default_rng(seed)
        time, envs, gamma, gae_lambda = 40, 3, 0.97, 0.9
        rewards, values = rng.normal(size=(2, time, envs)).astype(np.float32)
        # starts[t]: an episode starts at t, so that the one before it was done at t - 1.
        starts = rng.random((time + 1, envs)) < 0.15
        starts[0] = True
        last_values = rng.normal(size=envs).astype(np.float32)

        space = gym.spaces.Box(-1, 1, (1,), np.float32)
        buffer = RolloutBuffer(time, space, space, device="cpu", gamma=gamma, gae_lambda=gae_lambda, n_envs=envs)
        for t in range(time):
            zeros = np.zeros((envs, 1), np.float32)
            buffer.add(zeros, zeros, rewards[t], starts[t], torch.tensor(values[t]), torch.zeros(envs))
        buffer.compute_returns_and_advantage(torch.tensor(last_values), starts[time])

        # SB3 keeps environments' streams; our rows are the episodes in them.
        episodes = []
        for env in range(envs):
            bounds = [*np.flatnonzero(starts[:time, env]), time]
            episodes += [(env, first, end) for first, end in itertools.pairwise(bounds)]
        batch = len(episodes)
        ours = Batch(
            torch.zeros(batch, time),
            torch.zeros(batch, time),
            torch.tensor([bool(starts[end, env]) for env, _, end in episodes]),
            torch.zeros(batch, dtype=torch.bool),
            lengths_mask(torch.tensor([end - first for _, first, end in episodes]), time),
            torch.tensor([last_values[env] for env, _, _ in episodes]),
        )
        for row, (env, first, end) in enumerate(episodes):
            ours.rewards[row, : end - first] = torch.tensor(rewards[first:end, env])
            ours.values[row, : end - first] = torch.tensor(values[first:end, env])
        advantages, returns = run_gae(ours, gamma, gae_lambda)
        assert not ours.terminated.all()  # Both ends of an episode are here.
        assert ours.terminated.any()
        for row, (env, first, end) in enumerate(episodes):
            close(advantages[row, : end - first], torch.tensor(buffer.advantages[first:end, env]))
            close(returns[row, : end - first], torch.tensor(buffer.returns[first:end, env]))

    def test_defaults_are_gamma_one_and_lambda_095(self) -> None:
        batch = random_batch(0)
        *arrays, last_values = batch
        close(gae(*arrays, last_values=last_values)[0], gae_as_average(batch, 1.0, 0.95))

    @given(seed=st.integers(0, 2**32), holes=st.booleans())
    def test_padding_and_row_order_change_nothing(self, seed: int, holes: bool) -> None:
        batch = random_batch(seed, holes=holes)
        expected = run_gae(batch, 0.9, 0.8)
        wider = batch._replace(
            rewards=torch.nn.functional.pad(batch.rewards, (0, 3), value=NAN),
            values=torch.nn.functional.pad(batch.values, (0, 3), value=INF),
            response_mask=torch.nn.functional.pad(batch.response_mask, (0, 3), value=False),
        )
        for actual, before in zip(run_gae(wider, 0.9, 0.8), expected, strict=True):
            assert torch.equal(actual, torch.nn.functional.pad(before, (0, 3)))
        order = torch.randperm(len(batch.rewards), generator=torch.Generator().manual_seed(seed))
        for actual, before in zip(run_gae(Batch(*(x[order] for x in batch)), 0.9, 0.8), expected, strict=True):
            assert torch.equal(actual, before[order])

    def test_masked_positions_are_zero_and_an_empty_row_is_too(self) -> None:
        batch = random_batch(3)._replace(response_mask=flags(0, 1, 0, 0, 0)[:, None] & (torch.arange(7) < 4))
        batch = batch._replace(rewards=torch.ones(5, 7), values=torch.ones(5, 7), last_values=torch.full((5,), 2.0))
        for x in run_gae(batch):
            assert (x[~batch.response_mask] == 0).all()
            assert x.isfinite().all()

    def test_a_masked_position_is_skipped_like_one_that_is_not_there(self) -> None:
        mask = flags(1, 0, 0, 1, 1, 0)
        batch = random_batch(1, batch=1, time=6)
        batch = batch._replace(
            rewards=torch.where(mask, torch.randn(6), NAN)[None],
            values=torch.where(mask, torch.randn(6), NAN)[None],
            response_mask=mask[None],
            terminated=flags(0),
            last_values=torch.tensor([2.0]),
        )
        dense = batch._replace(
            rewards=batch.rewards[:, mask], values=batch.values[:, mask], response_mask=batch.response_mask[:, mask]
        )
        for whole, part in zip(run_gae(batch, 0.9, 0.8), run_gae(dense, 0.9, 0.8), strict=True):
            assert torch.equal(whole[:, mask], part)

    def test_last_values_are_asked_for_only_where_a_row_needs_them(self) -> None:
        ones = torch.ones(3, 2)
        mask = flags(1, 1, 0)[:, None] & flags(1, 1)
        no = flags(0, 0, 0)
        # The third row goes on too, but has no action in it.
        gae(ones, ones, flags(1, 1, 0), no, mask)
        with pytest.raises(
            ValueError,
            match=r"Expected last_values: 2 of 3 rows go on .* \(1 truncated, 1 with neither flag\), got None",
        ):
            gae(ones, ones, no, flags(1, 0, 1), mask)

    def test_result_is_a_constant_and_has_the_values_dtype(self) -> None:
        batch = random_batch(2)
        values = batch.values.clone().requires_grad_()
        rewards = batch.rewards.clone().requires_grad_()
        for x in run_gae(batch._replace(values=values, rewards=rewards)):
            assert not x.requires_grad
            assert x.dtype == torch.float32
            assert x.is_contiguous()
        for dtype, expected in [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)]:
            for x in run_gae(batch._replace(values=batch.values.to(dtype))):
                assert x.dtype == expected

    def test_arguments_are_not_changed(self) -> None:
        batch = random_batch(4)
        before = [x.clone() for x in batch]
        run_gae(batch)
        for x, old in zip(batch, before, strict=True):
            torch.testing.assert_close(x, old, rtol=0, atol=0, equal_nan=True)

    @pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
    def test_nothing_in_nothing_out(self, shape: tuple[int, int]) -> None:
        nothing, ends = torch.zeros(shape), torch.zeros(shape[0], dtype=torch.bool)
        for x in gae(nothing, nothing, ends, ends, nothing.bool()):
            assert x.shape == shape

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"rewards": torch.zeros(4)}, r"Expected rewards of shape \(batch, time\), got \(4,\)"),
            ({"values": torch.zeros(4, 8)}, r"Expected values of shape \(4, 7\) like rewards, got \(4, 8\)"),
            ({"values": torch.zeros(4, 7, dtype=torch.int64)}, r"Expected values of a floating .* got torch.int64"),
            (
                {"terminated": torch.zeros(3).bool()},
                r"Expected terminated of shape \(4,\), one for each row, got \(3,\)",
            ),
            ({"truncated": torch.zeros(4)}, r"Expected truncated of dtype torch.bool, got torch.float32"),
            ({"truncated": torch.zeros(4, 7).bool()}, r"Expected truncated of shape \(4,\), .* got \(4, 7\)"),
            ({"response_mask": torch.ones(4, 7)}, r"Expected response_mask of dtype torch.bool, got torch.float32"),
            (
                {"response_mask": torch.ones(7).bool()},
                r"Expected response_mask of shape \(4, 7\) like rewards, got \(7,\)",
            ),
            ({"last_values": torch.zeros(4, 1)}, r"Expected last_values of shape \(4,\), .* got \(4, 1\)"),
            ({"gamma": 1.3}, r"Expected gamma in \[0, 1\], got 1.3"),
            ({"gamma": NAN}, r"Expected gamma in \[0, 1\], got nan"),
            ({"gae_lambda": -0.1}, r"Expected gae_lambda in \[0, 1\], got -0.1"),
        ],
    )
    def test_wrong_arguments_are_named(self, change: dict[str, object], message: str) -> None:
        arguments: dict[str, object] = random_batch(0, 4, 7)._asdict() | change
        with pytest.raises(ValueError, match=message):
            gae(**arguments)  # type: ignore[arg-type]


class TestDiscountedReturns:
    def test_hand_worked(self) -> None:
        rewards = torch.tensor([[1.0, 2.0, 4.0, NAN], [8.0, INF, NAN, NAN]])
        mask = lengths_mask(torch.tensor([3, 1]), 4)
        assert discounted_returns(rewards, mask).tolist() == [[7.0, 6.0, 4.0, 0.0], [8.0, 0.0, 0.0, 0.0]]
        assert discounted_returns(rewards, mask, gamma=0.5).tolist() == [[3.0, 4.0, 4.0, 0.0], [8.0, 0.0, 0.0, 0.0]]

    def test_bootstraps_where_not_terminated(self) -> None:
        rewards, mask = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.ones(2, 2, dtype=torch.bool)
        returns = discounted_returns(
            rewards, mask, gamma=0.5, terminated=flags(1, 0), last_values=torch.tensor([NAN, 8.0])
        )
        assert returns.tolist() == [[2.0, 2.0], [4.0, 6.0]]

    @given(seed=st.integers(0, 2**32), gamma=st.floats(0, 1), holes=st.booleans(), bootstrap=st.booleans())
    def test_is_the_sum_of_discounted_rewards(self, seed: int, gamma: float, holes: bool, bootstrap: bool) -> None:
        batch = random_batch(seed, holes=holes)
        if not bootstrap:
            batch = batch._replace(last_values=torch.zeros(len(batch.rewards)))
        actual = discounted_returns(
            batch.rewards,
            batch.response_mask,
            gamma=gamma,
            terminated=batch.terminated if bootstrap else None,
            last_values=batch.last_values if bootstrap else None,
        )
        close(actual, returns_as_sum(batch, gamma))

    def test_bootstrap_without_terminated_is_an_error(self) -> None:
        ones = torch.ones(1, 1)
        with pytest.raises(ValueError, match="Expected terminated with last_values"):
            discounted_returns(ones, ones.bool(), last_values=torch.ones(1))

    def test_long_half_precision_rewards_are_summed_in_float32(self) -> None:
        rewards = torch.ones(1, 1000, dtype=torch.bfloat16)
        returns = discounted_returns(rewards, rewards.bool())
        assert returns.dtype == torch.float32
        assert returns[0, 0] == 1000

    def test_wrong_arguments_are_named(self) -> None:
        ones = torch.ones(2, 3)
        with pytest.raises(ValueError, match=r"Expected gamma in \[0, 1\], got 2"):
            discounted_returns(ones, ones.bool(), gamma=2)
        with pytest.raises(ValueError, match=r"Expected response_mask of shape \(2, 3\) like rewards, got \(3, 2\)"):
            discounted_returns(ones, ones.T.bool())
        with pytest.raises(ValueError, match=r"Expected rewards of shape \(batch, time\), got \(3,\)"):
            discounted_returns(ones[0], ones[0].bool())


class TestNormalize:
    def test_hand_worked(self) -> None:
        advantages = torch.tensor([[1.0, 3.0, NAN], [5.0, INF, NAN]])
        mask = lengths_mask(torch.tensor([2, 1]), 3)
        # Mean 3, variance (4 + 0 + 4) / 3; root mean square sqrt((1 + 9 + 25) / 3).
        deviation, size = math.sqrt(8 / 3), math.sqrt(35 / 3)
        close(normalize(advantages, mask), torch.tensor([[-2 / deviation, 0, 0], [2 / deviation, 0, 0]]))
        close(normalize(advantages, mask, center=False), torch.tensor([[1 / size, 3 / size, 0], [5 / size, 0, 0]]))

    @given(seed=st.integers(0, 2**32), scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
    def test_mean_zero_and_size_one_whatever_the_scale(self, seed: int, scale: float, shift: float) -> None:
        batch = random_batch(seed)
        mask = batch.response_mask
        if mask.sum() < 2:
            return
        advantages = batch.rewards.double() * scale + shift
        centred = normalize(advantages, mask)
        assert float(centred[mask].mean()) == pytest.approx(0, abs=1e-6)
        assert float(centred[mask].square().mean()) == pytest.approx(1, abs=1e-3)
        scaled = normalize(advantages, mask, center=False)
        assert float(scaled[mask].square().mean()) == pytest.approx(1, abs=1e-3)
        assert torch.equal(scaled.sign(), torch.where(mask, advantages.sign(), 0))
        assert (centred[~mask] == 0).all()

    def test_against_stable_baselines3(self) -> None:
        advantages = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        theirs = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        close(normalize(advantages, torch.ones(3, 4, dtype=torch.bool)), theirs * math.sqrt(12 / 11))

    @pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e30])
    def test_no_variance_is_finite(self, value: float) -> None:
        advantages = torch.full((3, 7), value)
        mask = lengths_mask(torch.tensor([7, 3, 0]), 7)
        assert normalize(advantages, mask).tolist() == torch.zeros(3, 7).tolist()
        assert normalize(advantages[:1, :1], mask[:1, :1]).tolist() == [[0.0]]
        sign = 0.0 if value == 0 else math.copysign(1.0, value)
        close(normalize(advantages, mask, center=False), torch.where(mask, sign, 0.0))

    def test_an_empty_batch_is_zero(self) -> None:
        for center in (True, False):
            out = normalize(torch.full((2, 3), NAN), torch.zeros(2, 3, dtype=torch.bool), center=center)
            assert out.tolist() == torch.zeros(2, 3).tolist()

    def test_keeps_dtype_and_passes_no_gradient(self) -> None:
        out = normalize(torch.ones(1, 2, requires_grad=True), torch.ones(1, 2, dtype=torch.bool))
        assert out.dtype == torch.float32
        assert not out.requires_grad

    def test_wrong_arguments_are_named(self) -> None:
        ones = torch.ones(2, 3)
        with pytest.raises(ValueError, match="Expected a positive eps, got 0"):
            normalize(ones, ones.bool(), eps=0)
        with pytest.raises(ValueError, match=r"Expected response_mask of dtype torch.bool, got torch.float32"):
            normalize(ones, ones)
        with pytest.raises(ValueError, match=r"Expected advantages of a floating point dtype, got torch.int64"):
            normalize(ones.long(), ones.bool())


class TestBaselines:
    RETURNS = torch.tensor([[1.0, 2.0, NAN], [3.0, 4.0, 5.0], [8.0, INF, NAN], [NAN, NAN, NAN]])
    MASK = lengths_mask(torch.tensor([2, 3, 1, 0]), 3)

    def test_hand_worked(self) -> None:
        assert per_step_baseline(self.RETURNS, self.MASK).tolist() == [[4, 3, 0], [4, 3, 5], [4, 0, 0], [0, 0, 0]]
        assert leave_one_out_baseline(self.RETURNS, self.MASK).tolist() == [
            [5.5, 4, 0],
            [4.5, 2, 0],
            [2, 0, 0],
            [0, 0, 0],
        ]
        group = torch.tensor([7, -2, 7, 7])
        assert leave_one_out_baseline(self.RETURNS, self.MASK, group).tolist() == [
            [8, 0, 0],
            [0, 0, 0],
            [1, 0, 0],
            [0, 0, 0],
        ]

    @given(seed=st.integers(0, 2**32), groups=st.integers(1, 4), holes=st.booleans())
    def test_leave_one_out_is_the_mean_of_the_others(self, seed: int, groups: int, holes: bool) -> None:
        batch = random_batch(seed, batch=6, holes=holes)
        returns, mask = batch.rewards, batch.response_mask
        group = torch.randint(0, groups, (6,), generator=torch.Generator().manual_seed(seed))
        actual = leave_one_out_baseline(returns, mask, None if groups == 1 else group)
        for row, step in np.ndindex(6, 7):
            others = [
                float(returns[other, step])
                for other in range(6)
                if other != row and mask[other, step] and group[other] == group[row]
            ]
            expected = sum(others) / len(others) if others and mask[row, step] else 0.0
            assert float(actual[row, step]) == pytest.approx(expected, abs=1e-5)

    def test_leave_one_out_does_not_see_its_own_return(self) -> None:
        """Not even by rounding: in float32, 1e8 + 1 - 1e8 is 0."""
        returns = torch.tensor([[1.0], [2.0], [3.0]])
        mask = torch.ones(3, 1, dtype=torch.bool)
        before = leave_one_out_baseline(returns, mask)
        returns[0] = 1e8
        assert leave_one_out_baseline(returns, mask)[0] == before[0] == 2.5

    @given(seed=st.integers(0, 2**32))
    def test_advantages_over_the_batch_mean_cancel_at_each_step(self, seed: int) -> None:
        batch = random_batch(seed)
        returns, mask = batch.rewards, batch.response_mask
        advantages = torch.where(mask, returns - per_step_baseline(returns, mask), 0)
        close(advantages.sum(0), torch.zeros(7))
        # The two baselines differ in the row's own weight only, n / (n - 1).
        alive = mask.sum(0)
        others = torch.where(mask, returns - leave_one_out_baseline(returns, mask), 0)
        close(torch.where(alive > 1, advantages * alive, 0), torch.where(alive > 1, others * (alive - 1), 0), 1e-4)

    def test_are_constants(self) -> None:
        returns, mask = torch.ones(2, 2, requires_grad=True), torch.ones(2, 2, dtype=torch.bool)
        assert not per_step_baseline(returns, mask).requires_grad
        assert not leave_one_out_baseline(returns, mask).requires_grad
        assert leave_one_out_baseline(returns, mask).dtype == per_step_baseline(returns, mask).dtype == torch.float32

    def test_wrong_arguments_are_named(self) -> None:
        ones = torch.ones(2, 3)
        with pytest.raises(ValueError, match=r"Expected group of shape \(2,\), one for each row, got \(3,\)"):
            leave_one_out_baseline(ones, ones.bool(), torch.zeros(3, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"Expected group of an integer dtype, got torch.float32"):
            leave_one_out_baseline(ones, ones.bool(), torch.zeros(2))
        for baseline in (per_step_baseline, leave_one_out_baseline):
            with pytest.raises(
                ValueError, match=r"Expected response_mask of shape \(2, 3\) like returns, got \(2, 2\)"
            ):
                baseline(ones, torch.ones(2, 2).bool())


class TestNStepAdvantages:
    @given(seed=st.integers(0, 2**32), gamma=st.floats(0, 1), n_steps=st.integers(1, 9), holes=st.booleans())
    def test_is_the_sum_of_n_rewards_and_the_value_behind_them(
        self, seed: int, gamma: float, n_steps: int, holes: bool
    ) -> None:
        batch = random_batch(seed, holes=holes)
        *arrays, last_values = batch
        advantages, returns = n_step_advantages(*arrays, n_steps=n_steps, gamma=gamma, last_values=last_values)
        for row in range(len(batch.rewards)):
            positions, rewards, values = counted(batch, row)
            for t, position in enumerate(positions):
                steps = min(n_steps, len(positions) - t)
                target = sum(gamma**k * rewards[t + k] for k in range(steps)) + gamma**steps * values[t + steps]
                assert float(returns[row, position]) == pytest.approx(target, abs=1e-4)
                assert float(advantages[row, position]) == pytest.approx(target - values[t], abs=1e-4)
        assert (advantages[~batch.response_mask] == 0).all()
        assert (returns[~batch.response_mask] == 0).all()

    @given(seed=st.integers(0, 2**32))
    def test_one_step_is_lambda_zero_and_all_steps_are_lambda_one(self, seed: int) -> None:
        batch = random_batch(seed)
        *arrays, last_values = batch
        for n_steps, gae_lambda in ((1, 0.0), (7, 1.0), (100, 1.0)):
            actual = n_step_advantages(*arrays, n_steps=n_steps, gamma=0.9, last_values=last_values)
            for one, two in zip(actual, run_gae(batch, 0.9, gae_lambda), strict=True):
                close(one, two)

    def test_wrong_arguments_are_named(self) -> None:
        *arrays, last_values = random_batch(0)
        with pytest.raises(ValueError, match="Expected n_steps of at least 1, got 0"):
            n_step_advantages(*arrays, n_steps=0, last_values=last_values)


class TestGroupNormalize:
    def test_hand_worked(self) -> None:
        """Alive at the second step: 2 and 4 of the first group, and 9 alone."""
        returns = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, NAN], [7.0, 9.0]])
        mask = lengths_mask(torch.tensor([2, 2, 1, 2]), 2)
        found = group_normalize(returns, mask, torch.tensor([3, 3, 3, 8]))
        root = math.sqrt(1.5)
        close(found, torch.tensor([[-root, -1.0], [0.0, 1.0], [root, 0.0], [0.0, 0.0]]))

    @given(seed=st.integers(0, 2**32), scale=st.floats(0.1, 100), shift=st.floats(-100, 100))
    def test_does_not_depend_on_scale_and_offset_of_a_group(self, seed: int, scale: float, shift: float) -> None:
        returns = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        group, mask = torch.tensor([0, 0, 0, 1, 1, 1]), torch.ones(6, 3, dtype=torch.bool)
        moved = torch.where(group[:, None] == 0, returns * scale + shift, returns)
        close(group_normalize(moved, mask, group), group_normalize(returns, mask, group), 1e-3)
        means = group_normalize(returns, mask, group).reshape(2, 3, 3).mean(dim=1)
        close(means, torch.zeros(2, 3))

    @pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e6])
    def test_no_variance_is_zero(self, value: float) -> None:
        found = group_normalize(torch.full((4, 3), value), torch.ones(4, 3).bool(), torch.tensor([0, 0, 0, 1]))
        assert found.tolist() == torch.zeros(4, 3).tolist()

    def test_wrong_arguments_are_named(self) -> None:
        ones = torch.ones(2, 3)
        with pytest.raises(ValueError, match=r"Expected group of an integer dtype, got torch.float32"):
            group_normalize(ones, ones.bool(), torch.zeros(2))
        with pytest.raises(ValueError, match="Expected a positive eps, got 0"):
            group_normalize(ones, ones.bool(), torch.zeros(2, dtype=torch.int64), eps=0)


class TestMovingAverage:
    def test_hand_worked(self) -> None:
        first = moving_average(torch.zeros(0), torch.tensor([4.0, 8.0]), 0.75)
        assert first.tolist() == [4.0, 8.0]
        second = moving_average(first, torch.tensor([8.0]), 0.75)
        assert second.tolist() == [5.0, 8.0], "a step that nobody reached keeps its average"
        assert moving_average(second, torch.tensor([1.0, 0.0, 6.0]), 0.75).tolist() == [4.0, 6.0, 6.0]

    def test_means_are_over_the_rows_that_are_alive(self) -> None:
        means, alive = per_step_means(
            torch.tensor([[4.0, 2.0, NAN], [8.0, INF, NAN]]), flags(1, 1, 0, 1, 0, 0).view(2, 3)
        )
        assert means.tolist() == [6.0, 2.0, 0.0]
        assert alive.tolist() == [True, True, False]

    def test_wrong_arguments_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"Expected decay in \[0, 1\], got 1.5"):
            moving_average(torch.zeros(1), torch.zeros(1), 1.5)
        with pytest.raises(ValueError, match=r"Expected now of shape \(time,\), got \(1, 1\)"):
            moving_average(torch.zeros(1), torch.zeros(1, 1), 0.5)
