"""The terms of every loss, against hand-worked numbers, exact expectations, and Stable-Baselines3's formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from agents.losses import (
    entropy_bonus,
    explained_variance,
    kl_estimate,
    masked_mean,
    policy_gradient_loss,
    ppo_policy_loss,
    sequence_mean,
    value_loss,
)

NAN, INF = math.nan, math.inf
seeds = st.integers(0, 2**32)


def flags(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def random_mask(generator: torch.Generator, batch: int = 4, time: int = 6) -> Tensor:
    """Rows of at least one step, of different lengths."""
    return torch.arange(time) < torch.randint(1, time + 1, (batch, 1), generator=generator)


def random_arrays(seed: int, count: int, scale: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    mask = random_mask(generator)
    return mask, [torch.randn(mask.shape, generator=generator) * scale for _ in range(count)]


# Each loss as a function of what it differentiates, two constants and a mask.
LOSSES: dict[str, Callable[..., Tensor]] = {
    "masked_mean": lambda x, a, b, mask, **kw: masked_mean(x, mask, **kw),
    "entropy_bonus": lambda x, a, b, mask, **kw: entropy_bonus(x, mask, **kw),
    "policy_gradient_loss": lambda x, a, b, mask, **kw: policy_gradient_loss(x, a, mask, **kw),
    "ppo_policy_loss": lambda x, a, b, mask, **kw: ppo_policy_loss(x, a, b, mask, **kw)[0],
    "value_loss": lambda x, a, b, mask, **kw: value_loss(x, a, mask, **kw),
    "value_loss, clipped": lambda x, a, b, mask, **kw: value_loss(x, a, mask, old_values=b, clip_range=0.8, **kw),
    "kl_estimate k1": lambda x, a, b, mask, **kw: masked_mean(kl_estimate(x, a, "k1", mask=mask), mask, **kw),
    "kl_estimate k2": lambda x, a, b, mask, **kw: masked_mean(kl_estimate(x, a, "k2", mask=mask), mask, **kw),
    "kl_estimate k3": lambda x, a, b, mask, **kw: masked_mean(kl_estimate(x, a, "k3", mask=mask), mask, **kw),
}


@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    """What holds for all of them."""

    @staticmethod
    def value_and_gradient(name: str, x: Tensor, *rest: Tensor, **kwargs: object) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        loss = LOSSES[name](x, *rest, **kwargs)
        (gradient,) = torch.autograd.grad(loss, x)
        return loss.detach(), gradient

    @pytest.mark.parametrize("garbage", [NAN, INF, -INF, 1e30])
    def test_padding_reaches_neither_loss_nor_gradient(self, name: str, garbage: float) -> None:
        mask, arrays = random_arrays(0, 3)
        loss, gradient = self.value_and_gradient(name, *arrays, mask)
        for where in (0, 1, 2), (0,), (1,), (2,):
            dirty = [torch.where(mask, x, garbage) if i in where else x for i, x in enumerate(arrays)]
            dirty_loss, dirty_gradient = self.value_and_gradient(name, *dirty, mask)
            assert torch.equal(dirty_loss, loss)
            assert torch.equal(dirty_gradient, gradient)
        assert (gradient[~mask] == 0).all()
        assert (gradient[mask] != 0).any()

    @given(seed=seeds)
    def test_more_padding_changes_nothing(self, name: str, seed: int) -> None:
        mask, arrays = random_arrays(seed, 3)
        loss, gradient = self.value_and_gradient(name, *arrays, mask)
        wide = [torch.nn.functional.pad(x, (0, 5), value=7.0) for x in arrays]
        wide_loss, wide_gradient = self.value_and_gradient(name, *wide, torch.nn.functional.pad(mask, (0, 5)))
        torch.testing.assert_close(wide_loss, loss)
        torch.testing.assert_close(wide_gradient[:, :-5], gradient)

    @given(seed=seeds)
    def test_row_order_changes_nothing(self, name: str, seed: int) -> None:
        mask, arrays = random_arrays(seed, 3)
        loss, gradient = self.value_and_gradient(name, *arrays, mask)
        order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(seed))
        mixed_loss, mixed_gradient = self.value_and_gradient(name, *(x[order] for x in arrays), mask[order])
        torch.testing.assert_close(mixed_loss, loss)
        torch.testing.assert_close(mixed_gradient, gradient[order])

    @given(seed=seeds, cut=st.integers(0, 4))
    def test_micro_batches_add_up(self, name: str, seed: int, cut: int) -> None:
        mask, arrays = random_arrays(seed, 3)
        loss, gradient = self.value_and_gradient(name, *arrays, mask)
        parts = [
            self.value_and_gradient(name, *(x[rows] for x in arrays), mask[rows], normalizer=mask.sum())
            for rows in (slice(0, cut), slice(cut, None))
        ]
        torch.testing.assert_close(sum(part[0] for part in parts), loss)
        torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient)

    def test_nothing_counted_is_zero(self, name: str) -> None:
        mask, arrays = random_arrays(0, 3)
        for kwargs in ({}, {"normalizer": 0}, {"normalizer": torch.tensor(0)}, {"normalizer": 5}):
            loss, gradient = self.value_and_gradient(name, *arrays, torch.zeros_like(mask), **kwargs)
            assert loss == 0
            assert (gradient == 0).all()

    def test_constants_get_no_gradient(self, name: str) -> None:
        mask, arrays = random_arrays(0, 3)
        for x in arrays:
            x.requires_grad_()
        LOSSES[name](*arrays, mask).backward()
        assert arrays[0].grad is not None
        assert arrays[1].grad is None
        assert arrays[2].grad is None

    def test_gradient_is_that_of_finite_differences(self, name: str) -> None:
        mask, arrays = random_arrays(3, 3)
        x, a, b = (x.double() for x in arrays)
        assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, a, b, mask), x.requires_grad_())

    def test_wrong_masks_are_named(self, name: str) -> None:
        mask, arrays = random_arrays(0, 3)
        with pytest.raises(ValueError, match=r"Expected mask of dtype torch\.bool, got torch\.int64"):
            LOSSES[name](*arrays, mask.long())
        with pytest.raises(ValueError, match=r"Expected mask of shape \(4, 6\) like \w+, got \(4, 5\)"):
            LOSSES[name](*arrays, mask[:, 1:])


class TestMaskedMean:
    def test_divides_by_the_tokens_that_count(self) -> None:
        x, mask = torch.tensor([[1.0, 2.0, 9.0], [6.0, 9.0, 9.0]]), flags(1, 1, 0, 1, 0, 0).reshape(2, 3)
        assert masked_mean(x, mask) == 3
        assert masked_mean(x, mask, normalizer=4) == 2.25
        assert masked_mean(x, mask, normalizer=torch.tensor([4])) == 2.25

    def test_half_precision_is_summed_in_float32(self) -> None:
        x = torch.ones(1000, dtype=torch.bfloat16)
        mean = masked_mean(x, x.bool(), normalizer=1)
        assert mean.dtype == torch.float32
        assert mean == 1000

    @pytest.mark.parametrize("normalizer", [-1, NAN, INF])
    def test_wrong_normalizers_are_named(self, normalizer: float) -> None:
        with pytest.raises(ValueError, match="Expected a finite normalizer of at least 0, got"):
            masked_mean(torch.ones(2), flags(1, 1), normalizer=normalizer)
        with pytest.raises(ValueError, match=r"Expected a normalizer with one element, got shape \(2,\)"):
            masked_mean(torch.ones(2), flags(1, 1), normalizer=torch.ones(2))

    def test_normalizer_of_zero_is_not_hidden_where_tokens_count(self) -> None:
        assert masked_mean(torch.ones(2), flags(1, 1), normalizer=0) == INF


class TestSequenceMean:
    X = torch.tensor([[1.0, 2.0, 4.0], [8.0, NAN, NAN], [NAN, NAN, NAN]])
    MASK = flags(1, 1, 1, 1, 0, 0, 0, 0, 0).reshape(3, 3)

    def test_sums_over_time_and_averages_over_episodes(self) -> None:
        assert sequence_mean(self.X[:2], self.MASK[:2]) == 7.5
        assert masked_mean(self.X[:2], self.MASK[:2]) == 3.75

    def test_a_row_in_which_nothing_counts_is_no_episode(self) -> None:
        assert sequence_mean(self.X, self.MASK) == 7.5
        assert sequence_mean(self.X, self.MASK & False) == 0

    def test_micro_batches_add_up(self) -> None:
        parts = [sequence_mean(self.X[i : i + 1], self.MASK[i : i + 1], normalizer=2) for i in range(3)]
        assert sum(parts) == 7.5

    def test_is_for_episodes(self) -> None:
        with pytest.raises(ValueError, match=r"Expected x of shape \(batch, time\), got \(3,\)"):
            sequence_mean(self.X[0], self.MASK[0])

    def test_expected_gradient_is_that_of_the_expected_return(self) -> None:
        """Over all episodes of a two-step MDP whose second step comes only after action 0; the token mean's is not."""
        logits = torch.tensor([[0.3, -0.4], [1.1, 0.2]], dtype=torch.float64, requires_grad=True)
        episodes = [((0, 0), 1.0), ((0, 1), 5.0), ((1,), 2.0)]
        log_p = torch.log_softmax(logits, -1)
        rows = [torch.stack([log_p[t, a] for t, a in enumerate(actions)]) for actions, _ in episodes]
        probs = torch.stack([row.sum() for row in rows]).exp()
        (exact,) = torch.autograd.grad(
            (probs * torch.tensor([r for _, r in episodes])).sum(), logits, retain_graph=True
        )

        def expected_gradient(mean: Callable[..., Tensor]) -> Tensor:
            # Batches of one would hide what the two means divide by, so weigh one batch that holds each episode.
            log_probs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            mask = torch.tensor([[True, True], [True, True], [True, False]])
            weights = torch.tensor([[r] for _, r in episodes]) * probs.detach()[:, None] * len(episodes)
            (gradient,) = torch.autograd.grad(mean(log_probs * weights, mask), logits, retain_graph=True)
            return gradient

        torch.testing.assert_close(expected_gradient(sequence_mean), exact)
        assert not torch.allclose(expected_gradient(masked_mean), exact)


class TestKlEstimate:
    LOGITS = torch.tensor([0.5, -1.0, 0.3, 2.0, -0.2], dtype=torch.float64)
    REF_LOGITS = torch.tensor([0.1, 0.4, -0.6, 1.0, 0.7], dtype=torch.float64)

    @staticmethod
    def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
        return (log_p.exp() * (log_p - log_q)).sum()

    def expectation(self, kind: str) -> Tensor:
        """Over the whole vocabulary, under the policy."""
        log_p, log_q = self.LOGITS.log_softmax(-1), self.REF_LOGITS.log_softmax(-1)
        return (log_p.exp() * kl_estimate(log_p, log_q, kind)).sum()  # type: ignore[arg-type]

    def test_hand_worked(self) -> None:
        log_probs, ref = torch.tensor([0.5, 0.2]).log(), torch.tensor([0.25, 0.4]).log()
        ln2 = math.log(2)
        torch.testing.assert_close(kl_estimate(log_probs, ref, "k1"), torch.tensor([ln2, -ln2]))
        torch.testing.assert_close(kl_estimate(log_probs, ref, "k2"), torch.tensor([ln2**2 / 2, ln2**2 / 2]))
        torch.testing.assert_close(kl_estimate(log_probs, ref, "k3"), torch.tensor([0.5 - 1 + ln2, 2 - 1 - ln2]))
        assert torch.equal(kl_estimate(log_probs, ref), kl_estimate(log_probs, ref, "k3"))

    def test_k1_and_k3_are_unbiased_and_k2_is_not(self) -> None:
        log_p, log_q = self.LOGITS.log_softmax(-1), self.REF_LOGITS.log_softmax(-1)
        kl, reverse = float(self.kl(log_p, log_q)), float(self.kl(log_q, log_p))
        assert abs(kl - reverse) > 0.02  # So that the wrong direction would show.
        assert float(self.expectation("k1")) == pytest.approx(kl, abs=1e-12)
        assert float(self.expectation("k3")) == pytest.approx(kl, abs=1e-12)
        assert abs(float(self.expectation("k2")) - kl) > 0.02

    def test_k2_is_right_to_first_order(self) -> None:
        near = self.LOGITS + 1e-3 * self.REF_LOGITS
        log_p, log_q = self.LOGITS.log_softmax(-1), near.log_softmax(-1)
        estimate = (log_p.exp() * kl_estimate(log_p, log_q, "k2")).sum()
        torch.testing.assert_close(estimate, self.kl(log_p, log_q), rtol=1e-2, atol=0)

    def test_expected_gradients_are_what_the_docstring_says(self) -> None:
        logits = self.LOGITS.clone().requires_grad_()
        log_p, log_q = logits.log_softmax(-1), self.REF_LOGITS.log_softmax(-1)

        def gradient(x: Tensor) -> Tensor:
            return torch.autograd.grad(x, logits, retain_graph=True)[0]

        def expected(kind: str) -> Tensor:
            return gradient((log_p.exp().detach() * kl_estimate(log_p, log_q, kind)).sum())  # type: ignore[arg-type]

        torch.testing.assert_close(expected("k1"), torch.zeros_like(logits))
        torch.testing.assert_close(expected("k2"), gradient(self.kl(log_p, log_q)))
        torch.testing.assert_close(expected("k3"), gradient(self.kl(log_q, log_p)))
        assert not torch.allclose(expected("k2"), expected("k3"))

    @given(seed=seeds, scale=st.sampled_from([1e-6, 1e-3, 1.0, 5.0]))
    def test_k3_is_never_negative_and_keeps_small_differences(self, seed: int, scale: float) -> None:
        log_probs = -torch.rand(20, generator=torch.Generator().manual_seed(seed)) * 8
        difference = torch.randn(20, generator=torch.Generator().manual_seed(seed + 1)) * scale
        ref = log_probs - difference
        k3 = kl_estimate(log_probs, ref, "k3")
        assert (k3 >= 0).all()
        exact = (log_probs.double() - ref.double()).neg()
        torch.testing.assert_close(k3.double(), exact.expm1() - exact, rtol=1e-3, atol=1e-7)

    def test_wrong_arguments_are_named(self) -> None:
        with pytest.raises(ValueError, match="Expected kind 'k1', 'k2' or 'k3', got 'k4'"):
            kl_estimate(torch.zeros(2), torch.zeros(2), "k4")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"Expected ref_log_probs of shape \(2,\) like log_probs, got \(3,\)"):
            kl_estimate(torch.zeros(2), torch.zeros(3))


class TestPolicyGradientLoss:
    def test_hand_worked(self) -> None:
        log_probs = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
        loss = policy_gradient_loss(log_probs, torch.tensor([[2.0, -1.0, 5.0]]), flags(1, 1, 0)[None])
        assert loss == -(-1 * 2 + -2 * -1) / 2
        assert torch.autograd.grad(loss, log_probs)[0].tolist() == [[-1.0, 0.5, 0.0]]

    def test_minimising_it_makes_good_actions_likely(self) -> None:
        """Its expected gradient, over the actions of a bandit, is minus that of the expected reward."""
        logits = torch.tensor([0.2, -0.3, 1.0], dtype=torch.float64, requires_grad=True)
        rewards = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        log_p = logits.log_softmax(-1)
        p = log_p.exp()
        mask = flags(1, 1, 1)
        # The baseline of 7 changes nothing in expectation.
        loss = policy_gradient_loss(log_p, (rewards - 7) * p.detach(), mask, normalizer=1)
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        (ascent,) = torch.autograd.grad((p * rewards).sum(), logits)
        torch.testing.assert_close(gradient, -ascent)

    def test_wrong_arguments_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"Expected advantages of shape \(1, 2\) like log_probs, got \(2,\)"):
            policy_gradient_loss(torch.zeros(1, 2), torch.zeros(2), flags(1, 1)[None])


class TestPPOPolicyLoss:
    @staticmethod
    def stable_baselines3(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
        """From its `PPO.train`."""
        ratio = torch.exp(log_prob - old_log_prob)
        policy_loss_1 = advantages * ratio
        policy_loss_2 = advantages * torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
        return -torch.min(policy_loss_1, policy_loss_2).mean()

    @given(seed=seeds, clip_range=st.floats(0.05, 0.9))
    def test_equals_stable_baselines3_on_the_counted_tokens(self, seed: int, clip_range: float) -> None:
        mask, (log_probs, old, advantages) = random_arrays(seed, 3, scale=0.5)
        log_probs.requires_grad_()
        loss, stats = ppo_policy_loss(log_probs, old, advantages, mask, clip_range=clip_range)
        theirs = self.stable_baselines3(log_probs[mask], old[mask], advantages[mask], clip_range)
        torch.testing.assert_close(loss, theirs)
        torch.testing.assert_close(*(torch.autograd.grad(x, log_probs, retain_graph=True)[0] for x in (loss, theirs)))
        with torch.no_grad():
            log_ratio = (log_probs - old)[mask]
            ratio = log_ratio.exp()
            torch.testing.assert_close(stats["clip_fraction"], ((ratio - 1).abs() > clip_range).float().mean())
            torch.testing.assert_close(stats["approx_kl"], (ratio - 1 - log_ratio).mean(), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(stats["ratio_mean"], ratio.mean())

    def test_against_stable_baselines3_training_itself(self) -> None:
        """The formula above is what the installed version runs."""
        import inspect

        from stable_baselines3 import PPO

        source = inspect.getsource(PPO.train)
        for line in (
            "ratio = th.exp(log_prob - rollout_data.old_log_prob)",
            "policy_loss_2 = advantages * th.clamp(ratio, 1 - clip_range, 1 + clip_range)",
            "policy_loss = -th.min(policy_loss_1, policy_loss_2).mean()",
            "th.mean((th.abs(ratio - 1) > clip_range).float())",
            "th.mean((th.exp(log_ratio) - 1) - log_ratio)",
        ):
            assert line in source

    @given(seed=seeds)
    def test_gradient_at_ratio_one_is_the_policy_gradient(self, seed: int) -> None:
        mask, (log_probs, advantages) = random_arrays(seed, 2)
        log_probs.requires_grad_()
        loss, stats = ppo_policy_loss(log_probs, log_probs, advantages, mask)
        (gradient,) = torch.autograd.grad(loss, log_probs)
        (policy_gradient,) = torch.autograd.grad(policy_gradient_loss(log_probs, advantages, mask), log_probs)
        torch.testing.assert_close(gradient, policy_gradient)
        torch.testing.assert_close(loss.detach(), -masked_mean(advantages, mask))
        assert {name: float(x) for name, x in stats.items()} == {"clip_fraction": 0, "approx_kl": 0, "ratio_mean": 1}

    @pytest.mark.parametrize(
        ("ratio", "advantage", "loss", "gradient"),
        [
            (1.4, 2.0, -2.6, 0.0),  # Already more likely than it may get: 1.3 * 2, nothing to gain.
            (1.4, -2.0, 2.8, 2.8),  # A bad action that became more likely: never clipped.
            (0.7, 2.0, -1.4, -1.4),  # A good action that became less likely: never clipped.
            (0.7, -2.0, 1.6, 0.0),  # Already less likely than it may get: 0.8 * 2.
            (1.25, 2.0, -2.5, -2.5),  # Inside 1.3, which is beyond 1.2.
        ],
    )
    def test_clips_only_what_would_gain(self, ratio: float, advantage: float, loss: float, gradient: float) -> None:
        log_probs = torch.tensor([ratio]).log().requires_grad_()
        actual, stats = ppo_policy_loss(
            log_probs, torch.zeros(1), torch.tensor([advantage]), flags(1), clip_range=0.2, clip_range_high=0.3
        )
        assert float(actual.detach()) == pytest.approx(loss)
        assert float(torch.autograd.grad(actual, log_probs)[0]) == pytest.approx(gradient)
        assert stats["clip_fraction"] == (ratio != 1.25)

    def test_clip_range_is_one_fifth_on_both_sides_unless_given(self) -> None:
        log_probs, advantages = torch.tensor([1.21, 1.19, 0.79, 0.81]).log(), torch.tensor([1.0, 1.0, -1.0, -1.0])
        loss, stats = ppo_policy_loss(log_probs, torch.zeros(4), advantages, flags(1, 1, 1, 1))
        assert float(loss) == pytest.approx(-(1.2 + 1.19 - 0.8 - 0.81) / 4)
        assert stats["clip_fraction"] == 0.5

    def test_statistics_are_token_means_without_gradient(self) -> None:
        log_probs = torch.tensor([[0.5, 0.0, 9.0]], requires_grad=True)
        zeros = torch.zeros(1, 3)
        # Whatever the loss is divided by.
        _, stats = ppo_policy_loss(log_probs, zeros, zeros + 1, flags(1, 1, 0)[None], normalizer=100)
        assert not any(x.requires_grad for x in stats.values())
        expected = {
            "clip_fraction": 0.5,
            "approx_kl": (math.exp(0.5) - 1 - 0.5) / 2,
            "ratio_mean": (math.exp(0.5) + 1) / 2,
        }
        assert {name: float(x) for name, x in stats.items()} == pytest.approx(expected)

    def test_approx_kl_is_that_of_old_to_new(self) -> None:
        """In expectation over the tokens, which the old policy drew."""
        old = torch.tensor([0.5, -1.0, 0.3, 2.0], dtype=torch.float64).log_softmax(-1)
        new = torch.tensor([0.1, 0.4, -0.6, 1.0], dtype=torch.float64).log_softmax(-1)
        # Each token as often as the old policy draws it, in a batch of one each: a weighted mean of one-token calls.
        one = torch.ones(1, dtype=torch.float64)
        expected = sum(
            p * ppo_policy_loss(n[None], o[None], one, flags(1))[1]["approx_kl"]
            for p, n, o in zip(old.exp(), new, old, strict=True)
        )
        torch.testing.assert_close(expected, (old.exp() * (old - new)).sum())

    def test_wrong_arguments_are_named(self) -> None:
        mask, (log_probs, old, advantages) = random_arrays(0, 3)
        for name in ("clip_range", "clip_range_high"):
            with pytest.raises(ValueError, match=f"Expected a positive {name}, got -0.1"):
                ppo_policy_loss(log_probs, old, advantages, mask, **{name: -0.1})
        with pytest.raises(ValueError, match=r"Expected old_log_probs of shape \(4, 6\) like log_probs, got \(3, 6\)"):
            ppo_policy_loss(log_probs, old[1:], advantages, mask)
        with pytest.raises(ValueError, match=r"Expected advantages of shape \(4, 6\) like log_probs, got \(4, 1\)"):
            ppo_policy_loss(log_probs, old, advantages[:, :1], mask)


class TestValueLoss:
    def test_hand_worked(self) -> None:
        values, returns = torch.tensor([[1.0, 5.0, 7.0]]), torch.tensor([[3.0, 4.0, 0.0]])
        assert value_loss(values, returns, flags(1, 1, 0)[None]) == 0.5 * (4 + 1) / 2

    @pytest.mark.parametrize(
        ("value", "old", "target", "loss", "gradient"),
        [
            (1.0, 0.0, 2.0, 0.5 * 1.5**2, 0.0),  # Moved 1 towards the target, 0.5 was allowed: nothing to gain.
            (-1.0, 0.0, -2.0, 0.5 * 1.5**2, 0.0),  # The same downwards.
            (-1.0, 0.0, 2.0, 0.5 * 3.0**2, -3.0),  # Moved away: the whole error.
            (0.25, 0.0, 2.0, 0.5 * 1.75**2, -1.75),  # Inside.
            (3.0, 0.0, 0.25, 0.5 * 2.75**2, 2.75),  # Beyond the target: the whole error is larger.
        ],
    )
    def test_clipped(self, value: float, old: float, target: float, loss: float, gradient: float) -> None:
        x = torch.tensor([value], requires_grad=True)
        actual = value_loss(x, torch.tensor([target]), flags(1), old_values=torch.tensor([old]), clip_range=0.5)
        assert float(actual.detach()) == loss
        assert float(torch.autograd.grad(actual, x)[0]) == gradient

    @given(seed=seeds)
    def test_is_half_of_stable_baselines3s(self, seed: int) -> None:
        mask, (values, returns) = random_arrays(seed, 2)
        theirs = torch.nn.functional.mse_loss(returns[mask], values[mask])
        torch.testing.assert_close(value_loss(values, returns, mask), 0.5 * theirs)

    @given(seed=seeds, clip_range=st.floats(0.01, 3))
    def test_clipping_never_lowers_the_loss(self, seed: int, clip_range: float) -> None:
        mask, (values, returns, old) = random_arrays(seed, 3)
        plain = value_loss(values, returns, mask)
        clipped = value_loss(values, returns, mask, old_values=old, clip_range=clip_range)
        assert clipped >= plain
        torch.testing.assert_close(value_loss(values, returns, mask, old_values=values, clip_range=clip_range), plain)
        assert torch.equal(value_loss(values, returns, mask, old_values=old), plain)

    def test_wrong_arguments_are_named(self) -> None:
        mask, (values, returns, old) = random_arrays(0, 3)
        with pytest.raises(ValueError, match="Expected old_values with clip_range, got None"):
            value_loss(values, returns, mask, clip_range=0.2)
        with pytest.raises(ValueError, match="Expected a positive clip_range, got 0"):
            value_loss(values, returns, mask, old_values=old, clip_range=0)
        with pytest.raises(ValueError, match=r"Expected returns of shape \(4, 6\) like values, got \(6,\)"):
            value_loss(values, returns[0], mask)
        with pytest.raises(ValueError, match=r"Expected old_values of shape \(4, 6\) like values, got \(4, 3\)"):
            value_loss(values, returns, mask, old_values=old[:, :3], clip_range=0.2)


class TestEntropyBonus:
    def test_is_the_mean_entropy_to_be_subtracted_from_a_loss(self) -> None:
        assert entropy_bonus(torch.tensor([0.5, 1.5, 7.0]), flags(1, 1, 0)) == 1
        assert entropy_bonus(torch.tensor([0.5, 1.5, 7.0]), flags(1, 1, 0), normalizer=4) == 0.5


class TestExplainedVariance:
    @given(seed=seeds)
    def test_equals_stable_baselines3(self, seed: int) -> None:
        from stable_baselines3.common.utils import explained_variance as theirs

        mask, (values, returns) = random_arrays(seed, 2)
        if mask.sum() < 2:
            return
        expected = theirs(values[mask].double().numpy(), returns[mask].double().numpy())
        dirty = torch.where(mask, values, NAN), torch.where(mask, returns, INF)
        assert float(explained_variance(*dirty, mask)) == pytest.approx(expected, rel=1e-5, abs=1e-6)

    def test_perfect_constant_and_worse(self) -> None:
        returns, mask = torch.tensor([1.0, 2.0, 3.0]), flags(1, 1, 1)
        assert explained_variance(returns, returns, mask) == 1
        assert explained_variance(returns + 5, returns, mask) == 1
        assert explained_variance(torch.zeros(3), returns, mask) == 0
        assert explained_variance(-returns, returns, mask) == -3

    def test_nothing_to_explain_is_nan(self) -> None:
        assert explained_variance(torch.randn(3), torch.full((3,), 0.1), flags(1, 1, 1)).isnan()
        assert explained_variance(torch.randn(3), torch.randn(3), flags(0, 0, 0)).isnan()

    def test_passes_no_gradient_and_names_wrong_shapes(self) -> None:
        values = torch.randn(3, requires_grad=True)
        assert not explained_variance(values, torch.randn(3), flags(1, 1, 1)).requires_grad
        with pytest.raises(ValueError, match=r"Expected returns of shape \(3,\) like values, got \(2,\)"):
            explained_variance(values, torch.zeros(2), flags(1, 1, 1))
