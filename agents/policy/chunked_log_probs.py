"""Log-probs and entropies from a language model's head, without its (n, vocab_size) log-softmax in memory.

A policy update needs two numbers of each token: the log-prob of the token taken, and the entropy of the distribution
that it was drawn from. The plain way, `log_softmax(hidden @ weight.T)`, keeps several (n, vocab_size) arrays alive for
the backward pass; with a vocabulary of 50,000 they outweigh the model. Here the rows go through in chunks, and the
backward pass computes each chunk's logits again: one matrix product more, for a peak that does not grow with n. Where
all rows fit into one chunk there is nothing to save, so its softmax is kept and nothing is computed twice.

A loss that is a sum over tokens need not wait for the backward pass: `linear_loss` is told the loss, asks it for its
gradient chunk by chunk, and is done with a chunk before it begins the next. No logits are computed twice.

What differs from the fused cross-entropies that this is modelled on (Liger Kernel, arXiv:2410.10989; Cut Your Losses,
arXiv:2411.09009): a value for each token instead of one loss, so that ratios, clipping and masks stay ordinary PyTorch;
the entropy too, with its gradient; and no kernels of our own, so it runs wherever PyTorch does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# On a CPU, with a vocabulary of 50,257, a chunk of 2**20 takes 1.4 times as long, and one of 2**23 some 6 % less for
# twice the memory. The number for GPUs is a guess: not measured.
LOGITS_PER_CHUNK = {"cpu": 2**22, "gpu": 2**26}
"""Logits in a chunk, unless the caller says otherwise."""


def linear_log_probs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    *,
    temperature: float = 1.0,
    allowed: Tensor | None = None,
    chunk_size: int | None = None,
    entropy: bool = True,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes the log-probs of `tokens`, and the entropies, of a head's distributions over the vocabulary.

    The distribution of a row is `softmax(transform(hidden @ weight.T + bias) / temperature)`.

    Differentiable once, with respect to `hidden`, `weight` and `bias`. Logits are computed in the dtype of `hidden`, as
    the model itself does (under autocast, in autocast's); everything after them is in float32 (float64 for float64),
    and so are the sums over chunks that make the gradients of `weight` and `bias`.

    With p the softmax and H its entropy, the gradients with respect to a row's logits are

        d log p[token] / d logits = (onehot(token) - p) / temperature
        d H / d logits = -p * (log p + H) / temperature

    A token that is not `allowed` has probability exactly 0, adds 0 to the entropy and gets no gradient. If it was taken
    all the same, its log-prob is -inf, and passes no gradient, since it has none (the row's entropy still does).

    Args:
        hidden: (n, d), the last hidden state before each token. Select the tokens that count, `hidden[response_mask]`,
            rather than paying for padding.
        weight: (vocab_size, d), of the language model's head, in the dtype of `hidden`.
        bias: (vocab_size,) in the dtype of `hidden`, or None.
        tokens: (n,) int64, the tokens taken.
        temperature: positive; the logits are divided by it.
        allowed: (vocab_size,) or (n, vocab_size) bool, True where a token may be taken; at least one in each row. None:
            all.
        chunk_size: rows at a time; None chooses. The result does not depend on it, beyond rounding.
        entropy: False saves the entropies' share of the work.
        transform: what the model does to its logits before the softmax, such as Gemma's soft cap
            `lambda logits: 30 * torch.tanh(logits / 30)`. Gets (rows, vocab_size) float32 and returns the same shape,
            each row for itself, not in place, and without learned parameters: they would get no gradient. To forbid
            tokens, use `allowed`, not -inf.

    Returns:
        log_probs: (n,) float32 (float64 for float64).
        entropies: (n,) alike, in nats. Where `entropy` is False, NaN, so that a use of what was not computed shows.

    Raises:
        ValueError: on a shape, dtype or number that does not fit; on a CPU, also on a token outside the vocabulary and
            on a row of `allowed` that allows nothing.

    Source:
        The gradients are those of the softmax; recomputing chunks is gradient checkpointing (Chen et al. 2016,
        arXiv:1604.06174) for one layer.

    Example:
        >>> import torch
        >>> log_probs, entropies = linear_log_probs(torch.zeros(1, 2), torch.eye(2), None, torch.tensor([1]))
        >>> log_probs.exp(), entropies.exp()
        (tensor([0.5000]), tensor([2.]))
    """
    hidden, weight, bias, chunk_size = _prepare(hidden, weight, bias, tokens, temperature, allowed, chunk_size)
    shape = _LogitShape(float(temperature), allowed, transform)
    results: tuple[Tensor, Tensor] = _LinearLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, tokens, shape, chunk_size, entropy
    )
    return results


TokenLoss = Callable[[Tensor, Tensor, Tensor, slice], Tensor]
"""From log-probs, entropies and values `(k,)` of the rows in a slice to what they add to the loss, ()."""


def linear_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    values: Tensor,
    loss_of: TokenLoss,
    *,
    temperature: float = 1.0,
    allowed: Tensor | None = None,
    chunk_size: int | None = None,
    entropy: bool = True,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Computes a loss of the log-probs and entropies of `linear_log_probs`, and in the same pass its gradient.

    Equal to `loss_of(log_probs, entropies, values, slice(0, n))` of all rows at once, for a loss that is a sum over
    rows. Differentiable once, with respect to `hidden`, `weight`, `bias` and `values`, and one backward pass uses the
    gradients up.

    Args:
        hidden: (n, d), the last hidden state before each token, as in `linear_log_probs`.
        weight: (vocab_size, d), of the language model's head, in the dtype of `hidden`.
        bias: (vocab_size,) in the dtype of `hidden`, or None.
        tokens: (n,) int64, the tokens taken.
        values: (n,) floating point, one more number of each row that the loss reads.
        loss_of: Called once for each chunk, and its gradient is asked for then. Whatever else it does, such as to count
            metrics, it does once for each row.
        temperature: positive; the logits are divided by it.
        allowed: (vocab_size,) or (n, vocab_size) bool, True where a token may be taken; None: all.
        chunk_size: rows at a time; None chooses.
        entropy: False saves the entropies' share of the work; `loss_of` then gets NaN for them.
        transform: what the model does to its logits before the softmax, as in `linear_log_probs`.

    Returns:
        The sum of what `loss_of` returns, () in its dtype; a float32 0 where there are no rows.

    Raises:
        ValueError: on arguments that `linear_log_probs` refuses.

    Example:
        >>> import torch
        >>> head, values = torch.zeros(2, 2, requires_grad=True), torch.zeros(1)
        >>> loss = linear_loss(torch.ones(1, 2), head, None, torch.tensor([1]), values, lambda logp, *_: -logp.sum())
        >>> loss.backward()
        >>> loss.exp(), head.grad
        (tensor(2., grad_fn=<ExpBackward0>), tensor([[ 0.5000,  0.5000],
                [-0.5000, -0.5000]]))
    """
    settings: dict[str, Any] = {"temperature": temperature, "allowed": allowed, "chunk_size": chunk_size}
    if not torch.is_grad_enabled():
        results = linear_log_probs(hidden, weight, bias, tokens, entropy=entropy, transform=transform, **settings)
        return loss_of(*results, values, slice(0, len(tokens)))
    hidden, weight, bias, chunk_size = _prepare(hidden, weight, bias, tokens, **settings)
    shape = _LogitShape(float(temperature), allowed, transform)
    with torch.autocast(hidden.device.type, enabled=False):  # all is cast, as the model itself would
        loss: Tensor = _LinearLoss.apply(  # type: ignore[no-untyped-call]
            hidden, weight, bias, values, tokens, shape, chunk_size, entropy, loss_of
        )
    return loss


def _prepare(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    temperature: float,
    allowed: Tensor | None,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Checks the arguments; returns hidden, weight and bias in the dtype to compute in, and the chunk size."""
    _check(hidden, weight, bias, tokens, temperature, allowed, chunk_size)
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        # Autocast reaches into a custom function's forward pass but not its backward pass, which would then compute
        # other logits. Cast outside instead, where autograd sees it.
        dtype = torch.get_autocast_dtype(device)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if chunk_size is None:
        chunk_size = max(1, LOGITS_PER_CHUNK["cpu" if device == "cpu" else "gpu"] // max(1, weight.shape[0]))
    return hidden, weight, bias, chunk_size


_Graph = tuple[Tensor, Tensor]
"""A transform's output and input, (rows, vocab_size) each: its gradient is computed through them."""


class _LogitShape(NamedTuple):
    """The steps from the head's logits to a distribution, which have no learned parameters."""

    temperature: float
    allowed: Tensor | None
    transform: Callable[[Tensor], Tensor] | None

    def transformed(self, logits: Tensor) -> Tensor:
        """Returns (rows, vocab_size), the model's logits from those of its linear layer."""
        if self.transform is None:
            return logits
        transformed = self.transform(logits)
        if transformed.shape != logits.shape or transformed.dtype != logits.dtype:
            raise ValueError(
                f"Expected transform to return {logits.dtype} of shape {tuple(logits.shape)}, "
                f"got {transformed.dtype} of shape {tuple(transformed.shape)}"
            )
        return transformed

    def scaled(self, logits: Tensor, rows: slice) -> Tensor:
        """Returns (rows, vocab_size), the softmax's argument, written over the rows' transformed logits."""
        if self.temperature != 1:
            logits = logits.div_(self.temperature)
        if self.allowed is not None:
            allowed = self.allowed if self.allowed.ndim == 1 else self.allowed[rows]
            # Like -inf, the lowest finite number has probability exactly 0; but its p * log p is then 0, and not NaN.
            logits = logits.masked_fill_(~allowed, torch.finfo(logits.dtype).min)
        return logits

    def softmax_input(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: slice
    ) -> tuple[Tensor, _Graph | None]:
        """Computes the softmax's argument (rows, vocab_size), which may be written over, of those rows of `hidden`.

        Returns:
            That, and, where there is a transform, its output and its input, for its gradient.
        """
        logits = functional.linear(hidden[rows], weight, bias).to(_accurate(hidden.dtype))
        if self.transform is None:
            return self.scaled(logits, rows), None
        with torch.enable_grad():
            transformed = self.transformed(logits.requires_grad_())
        # The transform's gradient reads its output, so that is not written over.
        return self.scaled(transformed.detach().clone(), rows), (transformed, logits)

    def factors(
        self, d_log_probs: Tensor | None, d_entropies: Tensor | None, entropies: Tensor, forbidden: Tensor | None
    ) -> _Factors:
        """Returns the factors of the logits' gradient, from those of log-probs and entropies, (n,) each."""
        of_token = torch.zeros_like(entropies) if d_log_probs is None else d_log_probs / self.temperature
        if forbidden is not None:
            of_token = of_token.masked_fill(forbidden, 0)
        if d_entropies is None:
            return _Factors(of_token, -of_token, None)
        of_p_log_p = -d_entropies / self.temperature
        return _Factors(of_token, of_p_log_p * entropies - of_token, of_p_log_p)

    def forbidden(self, tokens: Tensor) -> Tensor | None:
        """Returns (n,) bool, True where the token taken was not allowed; None where everything is."""
        if self.allowed is None:
            return None
        return ~(self.allowed[tokens] if self.allowed.ndim == 1 else self.allowed.gather(1, tokens[:, None])[:, 0])


class _Factors(NamedTuple):
    """The factors in a gradient of logits `onehot * of_token + p * of_p + p * log p * of_p_log_p`, (n,) each."""

    of_token: Tensor
    of_p: Tensor
    of_p_log_p: Tensor | None

    def of_logits(self, p: Tensor, p_log_p: Tensor | None, tokens: Tensor, rows: slice, graph: _Graph | None) -> Tensor:
        """Returns the gradient (rows, vocab_size) of the linear layer's logits, written over `p_log_p` if it is given.

        Args:
            p: (rows, vocab_size), the softmax.
            p_log_p: (rows, vocab_size); None where entropies have no gradient.
            tokens: (n,), the tokens taken, of which `rows` are meant.
            rows: The chunk.
            graph: Output and input of the transform, where there is one.
        """
        if self.of_p_log_p is None:
            d_logits = p * self.of_p[rows, None]
        else:
            assert p_log_p is not None
            d_logits = p_log_p.mul_(self.of_p_log_p[rows, None]).addcmul_(p, self.of_p[rows, None])
        d_logits = d_logits.scatter_add_(1, tokens[rows, None], self.of_token[rows, None])
        return d_logits if graph is None else torch.autograd.grad(*graph, d_logits)[0]


class _LinearLogProbs(torch.autograd.Function):
    """The differentiable part of `linear_log_probs`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        shape: _LogitShape,
        chunk_size: int,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        """Computes log-probs and entropies, chunk by chunk."""
        rows_in_all = hidden.shape[0]
        log_probs = torch.empty(rows_in_all, dtype=_accurate(hidden.dtype), device=hidden.device)
        entropies = torch.full_like(log_probs, torch.nan)
        p = log_p = None
        for rows in _chunks(rows_in_all, chunk_size):
            logits = shape.softmax_input(hidden, weight, bias, rows)[0]
            p, highest, log_p_highest = _softmax(logits)
            log_probs[rows] = (logits.gather(1, tokens[rows, None]) - highest + log_p_highest)[:, 0]
            if entropy:
                log_p = logits.sub_(highest).add_(log_p_highest)
                entropies[rows] = -(p * log_p).sum(-1)
        forbidden = shape.forbidden(tokens)
        if forbidden is not None:
            log_probs.masked_fill_(forbidden, -torch.inf)
        # Kept where there is one chunk only. A transform's gradient needs its input too, so all is computed again.
        kept = (p, log_p) if rows_in_all <= chunk_size and shape.transform is None else (None, None)
        ctx.save_for_backward(hidden, weight, bias, tokens, entropies, *kept)
        ctx.shape, ctx.chunk_size = shape, chunk_size
        ctx.set_materialize_grads(False)
        if not entropy:
            ctx.mark_non_differentiable(entropies)
        return log_probs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_log_probs: Tensor | None, d_entropies: Tensor | None) -> tuple[Tensor | None, ...]:
        """Computes the gradients of `hidden`, `weight` and `bias`, chunk by chunk."""
        hidden, weight, bias, tokens, entropies, kept_p, kept_log_p = ctx.saved_tensors
        shape: _LogitShape = ctx.shape
        factors = shape.factors(d_log_probs, d_entropies, entropies, shape.forbidden(tokens))
        gradients = _HeadGradients(hidden, weight, bias, ctx.needs_input_grad, alone=len(hidden) <= ctx.chunk_size)
        for rows in _chunks(len(hidden), ctx.chunk_size):
            p, log_p, graph = kept_p, kept_log_p, None
            if p is None:
                scaled, graph = shape.softmax_input(hidden, weight, bias, rows)
                p, highest, log_p_highest = _softmax(scaled)
                log_p = None if d_entropies is None else scaled.sub_(highest).add_(log_p_highest)
                del scaled
            p_log_p = None if d_entropies is None else p * log_p
            gradients.add(rows, factors.of_logits(p, p_log_p, tokens, rows, graph))
            del p, log_p, p_log_p, graph  # as large as a chunk each: gone before the next one
        return *gradients.sums(), *(None,) * 4


class _LinearLoss(torch.autograd.Function):
    """The differentiable part of `linear_loss`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        values: Tensor,
        tokens: Tensor,
        shape: _LogitShape,
        chunk_size: int,
        entropy: bool,
        loss_of: TokenLoss,
    ) -> Tensor:
        """Computes the loss and its gradients, chunk by chunk."""
        d_values: Tensor | None = None  # and None at the end, where the loss reads no values
        forbidden = shape.forbidden(tokens)
        total = torch.zeros((), device=hidden.device)
        gradients = _HeadGradients(hidden, weight, bias, ctx.needs_input_grad, alone=len(hidden) <= chunk_size)
        for rows in _chunks(len(hidden), chunk_size):
            scaled, graph = shape.softmax_input(hidden, weight, bias, rows)
            p, highest, log_p_highest = _softmax(scaled)
            log_probs = (scaled.gather(1, tokens[rows, None]) - highest + log_p_highest)[:, 0]
            chunk_forbidden = None if forbidden is None else forbidden[rows]
            if chunk_forbidden is not None:
                log_probs = log_probs.masked_fill(chunk_forbidden, -torch.inf)
            entropies, p_log_p = torch.full_like(log_probs, torch.nan), None
            if entropy:
                p_log_p = scaled.sub_(highest).add_(log_p_highest).mul_(p)
                entropies = -p_log_p.sum(-1)
            with torch.enable_grad():
                leaves = [leaf.detach().requires_grad_() for leaf in (log_probs, entropies, values[rows])]
                loss = loss_of(leaves[0], leaves[1], leaves[2], rows)
                d_leaves = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else (None,) * 3
            total = total + loss.detach()
            d_log_probs, d_entropies, d_chunk_values = d_leaves
            if d_chunk_values is not None:
                d_values = torch.zeros_like(values) if d_values is None else d_values
                d_values[rows] = d_chunk_values
            factors = shape.factors(d_log_probs, d_entropies if entropy else None, entropies, chunk_forbidden)
            gradients.add(rows, factors.of_logits(p, p_log_p, tokens[rows], slice(None), graph))
            del scaled, p, p_log_p, graph  # as large as a chunk each: gone before the next one
        # Kept for one backward pass, which may then change them, and not for a second.
        ctx.gradients = (*gradients.sums(), d_values)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Scales the gradients that the forward pass has computed."""
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "Expected one backward pass through linear_loss, got a second one: its gradients are gone"
            )
        if d_loss.device.type != "cpu" or float(d_loss) != 1:  # a GPU is not waited for
            gradients = tuple(None if gradient is None else gradient.mul_(d_loss) for gradient in gradients)
        return (*gradients, *(None,) * 5)


class _HeadGradients:
    """The gradients of hidden, weight and bias, where needed, summed over chunks of logits in the accurate dtype.

    Args:
        hidden: (n, d).
        weight: (vocab_size, d).
        bias: (vocab_size,), or None.
        needs: If each of the three needs its gradient.
        alone: If True, there is one chunk.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: Sequence[bool], *, alone: bool
    ) -> None:
        accurate = _accurate(hidden.dtype)
        self._hidden, self._weight, self._bias, self._alone = hidden, weight, bias, alone
        self._d_hidden = torch.empty_like(hidden) if needs[0] else None
        self._d_weight = torch.zeros_like(weight, dtype=accurate) if needs[1] else None
        self._d_bias = torch.zeros_like(bias, dtype=accurate) if bias is not None and needs[2] else None

    def add(self, rows: slice, d_logits: Tensor) -> None:
        """Adds what the gradient (rows, vocab_size) of a chunk's logits gives."""
        if self._d_bias is not None:
            self._d_bias += d_logits.sum(0)
        d_logits = d_logits.to(self._hidden.dtype)
        if self._d_hidden is not None:
            self._d_hidden[rows] = d_logits @ self._weight
        if self._d_weight is None:
            return
        if self._alone:
            self._d_weight = (d_logits.T @ self._hidden[rows]).to(self._d_weight.dtype)
        elif self._d_weight.dtype == d_logits.dtype:
            self._d_weight.addmm_(d_logits.T, self._hidden[rows])
        else:
            self._d_weight += d_logits.T @ self._hidden[rows]

    def sums(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Returns the gradients of hidden, weight and bias, in their dtypes."""
        return (
            self._d_hidden,
            None if self._d_weight is None else self._d_weight.to(self._weight.dtype),
            None if self._d_bias is None or self._bias is None else self._d_bias.to(self._bias.dtype),
        )


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns p (rows, vocab_size), and the highest logit and its log p, both (rows, 1).

    With these, any log p is `(logit - highest) + log_p_highest`. A softmax is one fused pass over the chunk, a maximum
    is a cheap one; getting p from a log-softmax takes an `exp`, which on a CPU costs more than both.
    """
    p = torch.softmax(logits, dim=-1)
    return p, logits.amax(-1, keepdim=True), p.amax(-1, keepdim=True).log()


def _accurate(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype to sum in: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def _chunks(rows: int, chunk_size: int) -> Iterator[slice]:
    """Yields the slices that cut `rows` rows into chunks."""
    return (slice(start, start + chunk_size) for start in range(0, rows, chunk_size))


def _check(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    temperature: float,
    allowed: Tensor | None,
    chunk_size: int | None,
) -> None:
    """Raises a ValueError where `linear_log_probs` got arguments that do not fit together."""
    if hidden.ndim != 2 or not hidden.is_floating_point():
        raise ValueError(f"Expected floating point hidden of shape (n, d), got {hidden.dtype} {tuple(hidden.shape)}")
    n, width = hidden.shape
    if weight.ndim != 2 or weight.shape[1] != width or weight.dtype != hidden.dtype:
        raise ValueError(
            f"Expected weight of shape (vocab_size, {width}) and {hidden.dtype} like hidden, "
            f"got {tuple(weight.shape)} and {weight.dtype}"
        )
    vocab_size = weight.shape[0]
    if bias is not None and (bias.shape != (vocab_size,) or bias.dtype != hidden.dtype):
        raise ValueError(
            f"Expected bias of shape ({vocab_size},) and {hidden.dtype}, got {tuple(bias.shape)} and {bias.dtype}"
        )
    if tokens.shape != (n,) or tokens.dtype != torch.int64:
        raise ValueError(
            f"Expected tokens of shape ({n},) and torch.int64, got {tuple(tokens.shape)} and {tokens.dtype}"
        )
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"Expected a positive, finite temperature, got {temperature}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"Expected a chunk_size of at least 1, got {chunk_size}")
    if n and tokens.device.type == "cpu":  # to read them elsewhere would make the host wait
        low, high = torch.stack(torch.aminmax(tokens)).tolist()
        if low < 0 or high >= vocab_size:
            raise ValueError(f"Expected tokens in [0, {vocab_size}), got values from {low} to {high}")
    if allowed is not None:
        if allowed.shape not in ((vocab_size,), (n, vocab_size)) or allowed.dtype != torch.bool:
            raise ValueError(
                f"Expected allowed of shape ({vocab_size},) or ({n}, {vocab_size}) and torch.bool, "
                f"got {tuple(allowed.shape)} and {allowed.dtype}"
            )
        if allowed.device.type == "cpu" and not bool(allowed.any(-1).all()):
            raise ValueError("Expected at least one allowed token in every row, got a row with none")
