"""The chunked head, against autograd through `log_softmax`, finite differences, and what it may hold in memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from agents.policy.chunked_log_probs import LOGITS_PER_CHUNK, linear_log_probs, linear_loss

NAN, INF = math.nan, math.inf


def soft_cap(logits: Tensor) -> Tensor:
    return 2 * torch.tanh(logits / 2)


def plain(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    *,
    temperature: float = 1.0,
    allowed: Tensor | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition, with PyTorch's own gradients. -inf takes a token out of both sums."""
    logits = functional.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if transform is not None:
        logits = transform(logits)
    logits = logits / temperature
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -INF)
    log_probs = torch.log_softmax(logits, -1)
    finite = log_probs.masked_fill(log_probs == -INF, 0)
    return log_probs.gather(1, tokens[:, None])[:, 0], -(log_probs.exp() * finite).sum(-1)


def random_head(
    seed: int = 0, n: int = 7, width: int = 4, vocab_size: int = 9, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab_size, width, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocab_size, generator=generator, dtype=torch.float64)
    tokens = torch.randint(vocab_size, (n,), generator=generator)
    return (*(x.to(dtype).requires_grad_() for x in (hidden, weight, bias)), tokens)


def random_allowed(seed: int, shape: tuple[int, ...], tokens: Tensor) -> Tensor:
    """About half of the vocabulary, the tokens taken among it."""
    allowed = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    if len(shape) == 1:
        allowed[tokens] = True
    else:
        allowed.scatter_(1, tokens[:, None], True)
    return allowed


def gradients(outputs: tuple[Tensor, Tensor], inputs: tuple[Tensor, ...], seed: int = 1) -> tuple[Tensor, ...]:
    """Of a random weighted sum of log-probs and entropies."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(len(outputs[0]), generator=generator, dtype=torch.float64).to(x.dtype) for x in outputs]
    return torch.autograd.grad(outputs, inputs, weights, retain_graph=True)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hot": {"temperature": 1.7},
    "cold": {"temperature": 0.3},
    "soft cap": {"transform": soft_cap, "temperature": 0.7},
    "one mask": {"allowed": 1, "temperature": 0.7},
    "a mask for each row": {"allowed": 2, "temperature": 0.7},
    "soft cap and masks": {"allowed": 2, "transform": soft_cap},
}
CHUNKS = [None, 1, 3, 100]


def arguments(variant: str, tokens: Tensor, vocab_size: int) -> dict[str, Any]:
    kwargs = dict(VARIANTS[variant])
    if "allowed" in kwargs:
        shape = (vocab_size,) if kwargs["allowed"] == 1 else (len(tokens), vocab_size)
        kwargs["allowed"] = random_allowed(3, shape, tokens)
    return kwargs


class Watch(TorchDispatchMode):
    """Counts operations, and keeps the size of the largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations[func.overloadpacket.__name__] += 1
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, Tensor):
                self.largest = max(self.largest, x.numel())
        return result

    @property
    def products(self) -> int:
        return sum(self.operations[name] for name in ("mm", "addmm", "addmm_"))


class TestAgainstTheDefinition:
    def test_hand_worked(self) -> None:
        # Logits ln 3 and 0: probabilities 3/4 and 1/4.
        hidden, weight = torch.tensor([[1.0], [1.0]]), torch.tensor([[math.log(3)], [0.0]])
        log_probs, entropies = linear_log_probs(hidden, weight, None, torch.tensor([0, 1]))
        torch.testing.assert_close(log_probs.exp(), torch.tensor([0.75, 0.25]))
        entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
        torch.testing.assert_close(entropies, torch.tensor([entropy, entropy]))
        # At temperature 1/2 the odds are squared, 9 to 1.
        log_probs, _ = linear_log_probs(hidden, weight, None, torch.tensor([0, 1]), temperature=0.5)
        torch.testing.assert_close(log_probs.exp(), torch.tensor([0.9, 0.1]))

    @pytest.mark.parametrize("chunk_size", [None, 2])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_gradients_are_those_of_finite_differences(self, variant: str, chunk_size: int | None) -> None:
        *inputs, tokens = random_head(n=5, width=3, vocab_size=6, dtype=torch.float64)
        kwargs = arguments(variant, tokens, 6)

        def function(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
            return linear_log_probs(hidden, weight, bias, tokens, chunk_size=chunk_size, **kwargs)

        assert torch.autograd.gradcheck(function, tuple(inputs))

    @pytest.mark.parametrize("with_bias", [True, False])
    @pytest.mark.parametrize("chunk_size", CHUNKS)
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_equals_log_softmax_in_float32(self, variant: str, chunk_size: int | None, with_bias: bool) -> None:
        hidden, weight, bias, tokens = random_head(width=5, vocab_size=11)
        kwargs = arguments(variant, tokens, 11)
        bias_or_none = bias if with_bias else None
        inputs = (hidden, weight, bias) if with_bias else (hidden, weight)
        actual = linear_log_probs(hidden, weight, bias_or_none, tokens, chunk_size=chunk_size, **kwargs)
        expected = plain(hidden, weight, bias_or_none, tokens, **kwargs)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(gradients(actual, inputs), gradients(expected, inputs), rtol=1e-4, atol=1e-5)

    @given(
        seed=st.integers(0, 2**32),
        n=st.integers(0, 9),
        vocab_size=st.integers(1, 12),
        chunk_size=st.integers(1, 10),
        temperature=st.floats(0.1, 10),
    )
    def test_any_shape(self, seed: int, n: int, vocab_size: int, chunk_size: int, temperature: float) -> None:
        *inputs, tokens = random_head(seed, n, 3, vocab_size, torch.float64)
        actual = linear_log_probs(*inputs, tokens, temperature=temperature, chunk_size=chunk_size)
        expected = plain(*inputs, tokens, temperature=temperature)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(gradients(actual, tuple(inputs)), gradients(expected, tuple(inputs)))

    @pytest.mark.parametrize("chunk_size", [2, 7])
    @pytest.mark.parametrize("wanted", [0, 1])
    def test_either_output_alone(self, wanted: int, chunk_size: int) -> None:
        *inputs, tokens = random_head(dtype=torch.float64)
        actual = linear_log_probs(*inputs, tokens, chunk_size=chunk_size)[wanted].square().sum()
        expected = plain(*inputs, tokens)[wanted].square().sum()
        torch.testing.assert_close(torch.autograd.grad(actual, inputs), torch.autograd.grad(expected, inputs))

    @pytest.mark.parametrize("chunk_size", [2, 7])
    @pytest.mark.parametrize("wanted", [0, 1, 2])
    def test_gradient_of_one_input_alone(self, wanted: int, chunk_size: int) -> None:
        *inputs, tokens = random_head(dtype=torch.float64)
        inputs = [x.detach().requires_grad_(i == wanted) for i, x in enumerate(inputs)]
        actual = gradients(linear_log_probs(*inputs, tokens, chunk_size=chunk_size), (inputs[wanted],))
        torch.testing.assert_close(actual, gradients(plain(*inputs, tokens), (inputs[wanted],)))

    @pytest.mark.parametrize("chunk_size", [2, 7])
    def test_twice_through_one_graph_is_the_same(self, chunk_size: int) -> None:
        *inputs, tokens = random_head()
        outputs = linear_log_probs(*inputs, tokens, chunk_size=chunk_size)
        assert all(map(torch.equal, gradients(outputs, tuple(inputs)), gradients(outputs, tuple(inputs))))

    @pytest.mark.parametrize("chunk_size", [2, 7])
    def test_a_second_derivative_is_an_error_and_not_wrong(self, chunk_size: int) -> None:
        *inputs, tokens = random_head()
        log_probs, _ = linear_log_probs(*inputs, tokens, chunk_size=chunk_size)
        (gradient,) = torch.autograd.grad(log_probs.square().sum(), inputs[0], create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()

    def test_large_logits_do_not_overflow(self) -> None:
        hidden = torch.tensor([[1e4, 0.0], [-1e4, 1.0]], requires_grad=True)
        log_probs, entropies = linear_log_probs(hidden, torch.eye(2), None, torch.tensor([0, 0]))
        assert log_probs.tolist() == [0, -10001]
        assert entropies.tolist() == [0, 0]
        (log_probs + entropies).sum().backward()
        assert hidden.grad is not None
        assert hidden.grad.tolist() == [[0, 0], [1, -1]]


class TestAllowed:
    @pytest.mark.parametrize("chunk_size", [2, 7])
    @pytest.mark.parametrize("rows", [1, 2])
    def test_what_is_not_allowed_does_not_exist(self, rows: int, chunk_size: int) -> None:
        """A vocabulary without the tokens gives the same numbers, and their weights get no gradient at all."""
        *inputs, tokens = random_head(dtype=torch.float64)
        allowed = torch.ones(9, dtype=torch.bool)
        allowed[[2, 5, 8]] = False
        tokens = torch.tensor([0, 1, 3, 4, 6, 7, 0])
        mask = allowed if rows == 1 else allowed.expand(7, 9)
        actual = linear_log_probs(*inputs, tokens, allowed=mask, chunk_size=chunk_size)
        smaller = torch.tensor([0, 1, 2, 3, 4, 5, 0])
        expected = plain(inputs[0], inputs[1][allowed], inputs[2][allowed], smaller)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(gradients(actual, tuple(inputs)), gradients(expected, tuple(inputs)))
        _, d_weight, d_bias = gradients(actual, tuple(inputs))
        assert (d_weight[~allowed] == 0).all()
        assert (d_bias[~allowed] == 0).all()

    @pytest.mark.parametrize("chunk_size", [1, 2])
    @pytest.mark.parametrize("rows", [1, 2])
    def test_a_token_taken_against_the_mask(self, rows: int, chunk_size: int) -> None:
        *inputs, _ = random_head(n=2, dtype=torch.float64)
        tokens = torch.tensor([3, 4])
        allowed = torch.arange(9) != 3
        mask = allowed if rows == 1 else allowed.expand(2, 9)
        outputs = linear_log_probs(*inputs, tokens, allowed=mask, chunk_size=chunk_size)
        assert outputs[0][0] == -INF
        assert outputs[0][1].isfinite()
        assert outputs[1].isfinite().all()
        for upstream in (1.0, NAN, INF):
            d_log_probs = torch.tensor([upstream, 0.0], dtype=torch.float64)
            d_hidden, d_weight, d_bias = torch.autograd.grad(outputs[0], inputs, d_log_probs, retain_graph=True)
            assert (d_hidden == 0).all()
            assert (d_weight == 0).all()
            assert (d_bias == 0).all()
        # Its entropy is that of the allowed tokens, gradient included.
        expected = plain(*inputs, torch.tensor([4, 4]), allowed=mask)[1]
        torch.testing.assert_close(outputs[1], expected)
        torch.testing.assert_close(
            torch.autograd.grad(outputs[1].sum(), inputs), torch.autograd.grad(expected.sum(), inputs)
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
    def test_one_allowed_token_is_certain(self, temperature: float, dtype: torch.dtype) -> None:
        hidden, weight, bias, _ = random_head(dtype=dtype)
        tokens = torch.full((7,), 6)
        allowed = torch.arange(9) == 6
        # Upstream gradients so large that -inf, or the lowest number, times them would be NaN.
        outputs = linear_log_probs(hidden, weight, bias, tokens, allowed=allowed, temperature=temperature)
        assert (outputs[0] == 0).all()
        assert (outputs[1] == 0).all()
        huge = torch.full((7,), 1e6)
        for gradient in torch.autograd.grad(outputs, (hidden, weight, bias), (huge, huge)):
            assert (gradient == 0).all()


class TestPrecision:
    def test_half_precision_is_reduced_in_float32(self) -> None:
        inputs = random_head(n=64, width=16, vocab_size=300, dtype=torch.bfloat16)
        exact = tuple(x.detach().double().requires_grad_() for x in inputs[:3])
        actual = linear_log_probs(*inputs, chunk_size=10)
        # The logits are rounded to bfloat16, as in the model itself, and nothing after them is.
        torch.testing.assert_close(actual, plain(*inputs))
        assert actual[0].dtype == actual[1].dtype == torch.float32
        expected = plain(*exact, inputs[3])
        for ours, theirs in zip(gradients(actual, inputs[:3]), gradients(expected, exact), strict=True):
            assert ours.dtype == torch.bfloat16
            assert float((ours.double() - theirs).norm() / theirs.norm()) < 0.01

    def test_half_precision_gradients_are_added_up_in_float32(self) -> None:
        """In bfloat16, a sum of 1024 equal terms, one a chunk, stops growing at 256 of them."""
        hidden = torch.ones(1024, 1, dtype=torch.bfloat16)
        weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
        bias = torch.zeros(2, dtype=torch.bfloat16, requires_grad=True)
        tokens = torch.zeros(1024, dtype=torch.int64)
        linear_log_probs(hidden, weight, bias, tokens, chunk_size=1)[0].sum().backward()
        assert weight.grad is not None
        assert bias.grad is not None
        assert weight.grad.tolist() == [[512], [-512]]
        assert bias.grad.tolist() == [512, -512]

    def test_under_autocast_both_passes_use_its_dtype(self) -> None:
        inputs = random_head(n=64, width=16, vocab_size=300)
        halves = tuple(x.detach().bfloat16().requires_grad_() for x in inputs[:3])
        expected = linear_log_probs(*halves, inputs[3], chunk_size=10)
        with torch.autocast("cpu", torch.bfloat16):
            actual = linear_log_probs(*inputs, chunk_size=10)
        assert actual[0].dtype == torch.float32
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
        for ours, theirs in zip(gradients(actual, inputs[:3]), gradients(expected, halves), strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, theirs.float(), rtol=0, atol=0)


class TestCost:
    """What makes it worth having: no (n, vocab_size) array, and no product that is not needed."""

    N, WIDTH, VOCAB_SIZE = 60, 5, 1000

    def watched(self, **kwargs: Any) -> Watch:
        *inputs, tokens = random_head(n=self.N, width=self.WIDTH, vocab_size=self.VOCAB_SIZE)
        with Watch() as watch:
            outputs = linear_log_probs(*inputs, tokens, **kwargs)
            sum(x.sum() for x in outputs if x.requires_grad).backward()
        return watch

    @pytest.mark.parametrize("kwargs", [{}, {"transform": soft_cap}, {"temperature": 0.5}, {"entropy": False}])
    def test_nothing_larger_than_a_chunk_or_the_weights(self, kwargs: dict[str, Any]) -> None:
        assert self.watched(chunk_size=6, **kwargs).largest == 6 * self.VOCAB_SIZE
        assert self.watched(chunk_size=2, **kwargs).largest == self.WIDTH * self.VOCAB_SIZE

    def test_default_chunk_bounds_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(LOGITS_PER_CHUNK, "cpu", 7 * self.VOCAB_SIZE + 1)
        assert self.watched().largest == 7 * self.VOCAB_SIZE
        monkeypatch.setitem(LOGITS_PER_CHUNK, "cpu", 1)
        assert self.watched().largest == self.WIDTH * self.VOCAB_SIZE

    def test_one_chunk_computes_its_logits_once(self) -> None:
        assert self.watched().products == 3
        assert self.watched(chunk_size=30).products == 8

    def test_one_chunk_computes_its_softmax_once(self) -> None:
        assert self.watched().operations["_softmax"] == 1
        assert self.watched(chunk_size=30).operations["_softmax"] == 4

    def test_without_gradients_nothing_is_kept(self) -> None:
        *inputs, tokens = random_head()
        with torch.no_grad():
            assert not any(x.requires_grad for x in linear_log_probs(*inputs, tokens))
        assert not any(x.requires_grad for x in linear_log_probs(*(x.detach() for x in inputs), tokens))

    def test_entropies_that_were_not_computed_are_nan(self) -> None:
        *inputs, tokens = random_head()
        log_probs, entropies = linear_log_probs(*inputs, tokens, entropy=False)
        assert entropies.isnan().all()
        assert not entropies.requires_grad
        torch.testing.assert_close(
            torch.autograd.grad(log_probs.sum(), inputs), torch.autograd.grad(plain(*inputs, tokens)[0].sum(), inputs)
        )


def some_loss(log_probs: Tensor, entropies: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Of all three at once, and not linear: each row's gradient depends on its own numbers."""
    return (weights * (log_probs.exp() + entropies.square() + values * log_probs)).sum()


class TestLoss:
    """The loss whose gradient is computed in the forward pass, against PyTorch's own of the same loss."""

    @pytest.mark.parametrize("chunk_size", CHUNKS)
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_equals_the_loss_of_a_log_softmax(self, variant: str, chunk_size: int | None) -> None:
        *inputs, tokens = random_head(dtype=torch.float64)
        values, weights = torch.linspace(-1, 1, 7).double().requires_grad_(), torch.linspace(1, 2, 7).double()
        kwargs = arguments(variant, tokens, 9)
        seen = []

        def of_rows(log_probs: Tensor, entropies: Tensor, values: Tensor, rows: slice) -> Tensor:
            seen.append(len(log_probs))
            return some_loss(log_probs, entropies, values, weights[rows])

        loss = linear_loss(*inputs, tokens, values, of_rows, chunk_size=chunk_size, **kwargs)
        expected = some_loss(*plain(*inputs, tokens, **kwargs), values, weights)
        torch.testing.assert_close(loss, expected)
        assert sum(seen) == 7
        inputs = [*inputs, values]
        torch.testing.assert_close(torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * expected, inputs))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_equals_the_loss_of_linear_log_probs_under_autocast(self, dtype: torch.dtype) -> None:
        *inputs, tokens = random_head(n=8, width=6, vocab_size=20)
        values, weights = torch.linspace(-1, 1, 8), torch.linspace(1, 2, 8)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = linear_loss(*inputs, tokens, values, lambda *now: some_loss(*now[:3], weights[now[3]]), chunk_size=3)
            expected = some_loss(*linear_log_probs(*inputs, tokens, chunk_size=3), values, weights)
        torch.testing.assert_close(loss, expected)
        ours, theirs = (torch.autograd.grad(one, inputs) for one in (loss, expected))
        torch.testing.assert_close(ours, theirs)

    def test_a_token_that_was_not_allowed_passes_no_gradient(self) -> None:
        *inputs, tokens = random_head(dtype=torch.float64)
        allowed = torch.ones(9, dtype=torch.bool)
        allowed[tokens[0]] = False
        tokens[1:][tokens[1:] == tokens[0]] = (tokens[0] + 1) % 9

        def total(log_probs: Tensor, entropies: Tensor, *_: Any) -> Tensor:
            return torch.where(log_probs == -INF, 0, log_probs).sum() + entropies.sum()

        settings = {"allowed": allowed, "chunk_size": 3}
        loss = linear_loss(*inputs, tokens, torch.zeros(7), total, **settings)
        expected = total(*linear_log_probs(*inputs, tokens, **settings))
        torch.testing.assert_close(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs))

    def test_no_logit_is_computed_twice_and_nothing_is_larger_than_a_chunk(self) -> None:
        *inputs, tokens = random_head(n=60, width=5, vocab_size=1000)
        with Watch() as watch:
            linear_loss(
                *inputs, tokens, torch.zeros(60), lambda *now: now[0].sum() - now[1].sum(), chunk_size=6
            ).backward()
        assert watch.products == 10 * 3
        assert watch.operations["_softmax"] == 10
        assert watch.largest == 6 * 1000

    def test_what_the_loss_does_not_read_gets_no_gradient(self) -> None:
        *inputs, tokens = random_head()
        values = torch.zeros(7, requires_grad=True)
        settings = {"entropy": False, "chunk_size": 3}
        loss = linear_loss(*inputs, tokens, values, lambda log_probs, *_: log_probs.sum(), **settings)
        *found, none = torch.autograd.grad(loss, [*inputs, values], allow_unused=True)
        assert none is None
        expected = torch.autograd.grad(plain(*inputs, tokens)[0].sum(), inputs)
        torch.testing.assert_close(tuple(found), expected)

    def test_without_gradients_there_are_none(self) -> None:
        *inputs, tokens = random_head()
        with torch.no_grad():
            loss = linear_loss(*inputs, tokens, torch.zeros(7), lambda log_probs, *_: log_probs.sum(), chunk_size=3)
        assert not loss.requires_grad
        torch.testing.assert_close(loss, plain(*inputs, tokens)[0].sum().detach())

    def test_no_rows_are_no_loss(self) -> None:
        *inputs, tokens = random_head(n=0)
        loss = linear_loss(*inputs, tokens, torch.zeros(0), lambda *now: now[0].sum())
        assert float(loss.detach()) == 0
        assert not any(one.any() for one in torch.autograd.grad(loss, inputs))

    def test_a_second_backward_pass_is_an_error(self) -> None:
        *inputs, tokens = random_head()
        loss = linear_loss(*inputs, tokens, torch.zeros(7), lambda log_probs, *_: log_probs.sum())
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="Expected one backward pass"):
            loss.backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(2, 7, 4)}, r"Expected floating point hidden of shape \(n, d\), .* \(2, 7, 4\)"),
        ({"hidden": torch.zeros(7, 4).long()}, r"Expected floating point hidden .* got torch\.int64"),
        ({"weight": torch.zeros(9, 5)}, r"Expected weight of shape \(vocab_size, 4\) .*, got \(9, 5\)"),
        (
            {"weight": torch.zeros(9, 4).bfloat16()},
            r"Expected weight .* torch\.float32 like hidden, .* torch\.bfloat16",
        ),
        ({"bias": torch.zeros(8)}, r"Expected bias of shape \(9,\) .*, got \(8,\)"),
        ({"tokens": torch.zeros(7, 1).long()}, r"Expected tokens of shape \(7,\) .*, got \(7, 1\)"),
        ({"tokens": torch.zeros(7).int()}, r"Expected tokens .* torch\.int64, .* torch\.int32"),
        ({"tokens": torch.full((7,), 9)}, r"Expected tokens in \[0, 9\), got values from 9 to 9"),
        ({"tokens": torch.tensor([0, 0, 0, -100, 0, 0, 8])}, r"Expected tokens in \[0, 9\), got values from -100 to 8"),
        ({"temperature": 0}, r"Expected a positive, finite temperature, got 0"),
        ({"temperature": INF}, r"Expected a positive, finite temperature, got inf"),
        ({"chunk_size": 0}, r"Expected a chunk_size of at least 1, got 0"),
        ({"allowed": torch.ones(7).bool()}, r"Expected allowed of shape \(9,\) or \(7, 9\) .*, got \(7,\)"),
        ({"allowed": torch.ones(9)}, r"Expected allowed .* torch\.bool, .* torch\.float32"),
        ({"allowed": torch.zeros(9).bool()}, r"Expected at least one allowed token in every row"),
        ({"allowed": torch.eye(7, 9).bool() & False}, r"Expected at least one allowed token in every row"),
        ({"transform": lambda logits: logits[:, :3]}, r"Expected transform to return .*\(7, 9\), got .*\(7, 3\)"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], message: str) -> None:
    named = dict(zip(("hidden", "weight", "bias", "tokens"), random_head(), strict=True))
    with pytest.raises(ValueError, match=message):
        linear_log_probs(**{**named, **change})
