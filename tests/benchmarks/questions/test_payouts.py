"""The tabular policy gradients of payouts.py: identities, and a gradient against finite differences."""

import numpy as np
import pytest

from benchmarks.questions.payouts import Arguments, climb_by_samples, climb_exactly, exact_gradient, softmax, updates_to
from textenvs import Example, make_task
from textenvs.rewards import Match
from textenvs.tasks import Diagnostic
from textenvs.tasks.exact import EpisodeModel
from textenvs.tokenizer import symbol_tokenizer

MODEL = EpisodeModel.of(Match(), symbol_tokenizer("abc"), Example("?", ("ab",)), 4)
LOGITS = np.random.default_rng(0).normal(size=(4, *MODEL.after.shape))


def test_at_gamma_1_both_payouts_have_the_return_and_gradient_of_the_score() -> None:
    returns, gradients = zip(
        *(exact_gradient(MODEL, softmax(LOGITS), one, 1.0) for one in ("immediate", "sparse")), strict=True
    )
    assert returns[0] == pytest.approx(MODEL.expected_score(softmax(LOGITS)), abs=1e-12)
    assert returns[0] == pytest.approx(returns[1], abs=1e-12)
    np.testing.assert_allclose(*gradients, atol=1e-12)


def test_with_a_discount_they_differ() -> None:
    one, other = (exact_gradient(MODEL, softmax(LOGITS), payout, 0.9) for payout in ("immediate", "sparse"))
    assert one[0] > other[0] > 0


@pytest.mark.parametrize("payout", ["immediate", "sparse"])
@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_against_finite_differences(payout: str, gamma: float) -> None:
    gradient = exact_gradient(MODEL, softmax(LOGITS), payout, gamma)[1]
    for place in np.random.default_rng(1).choice(LOGITS.size, size=40, replace=False):
        moved = [LOGITS.copy(), LOGITS.copy()]
        for logits, step in zip(moved, (1e-5, -1e-5), strict=True):
            logits.reshape(-1)[place] += step
        up, down = (exact_gradient(MODEL, softmax(logits), payout, gamma)[0] for logits in moved)
        assert gradient.reshape(-1)[place] == pytest.approx((up - down) / 2e-5, abs=1e-8)


@pytest.mark.parametrize("payout", ["immediate", "sparse"])
def test_every_method_solves_a_bandit(payout: str) -> None:
    """Chain at level 1: pull the best of eight arms."""
    task = make_task({"chain": {"level": 1}})
    assert isinstance(task, Diagnostic)
    example = task.example("test", 0)
    model = EpisodeModel.of(task.default_reward, symbol_tokenizer(task.symbols), example, 2)
    arguments = Arguments(updates=600, seeds=2, every=20)
    curves = climb_exactly(arguments, model, 0.9, payout, 1.0)
    for method in ("reinforce", "actor-critic"):
        curves += climb_by_samples(arguments, task, example, model, 0.9, payout, method)
    assert len(curves) == 5
    for curve in curves:
        assert curve[0] == pytest.approx(28 / 7 / 15)
        assert updates_to(curve, 0.9, 20) is not None
    assert updates_to([0.1, 0.2], 0.9, 20) is None
    assert updates_to([0.1, 0.95], 0.9, 20) == 20
