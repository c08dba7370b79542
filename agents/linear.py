"""Linear layers at the speed of the processor: oneDNN's matrix products where PyTorch would take slower ones.

On x86 PyTorch multiplies float32 matrices with MKL. On processors of other makers MKL leaves AVX-512 unused, and
oneDNN, which every PyTorch for x86 has inside, is more than twice as fast on one core (AMD EPYC 9005: 230 against 100
GFLOP/s; see docs/log.md). `use_fast_linears` gives the linear layers of a model a `forward` that takes it. Weights,
names, results (up to the order of sums) and everything else stay as they are.

Which of the two is taken depends on the processor and on shapes alone, never on a measurement, so that two runs on one
machine have the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

# Multiplications from which on oneDNN wins: below, its 10 microseconds a call outweigh what it saves.
_LEAST = 2**20
# The same with gradients, which go through Python.
_LEAST_WITH_GRADIENTS = 2**22
# The same for a decode step, in weights alone: a graph of the step has to choose before it knows how many rows there
# will be, and is to give the bits that the step gives without it. These are 256 by 256.
_LEAST_WEIGHTS = 2**16
# The same for a compiled pass over whole rows, of which there are many more. These are 64 by 256.
_LEAST_WEIGHTS_OF_ROWS = 2**14

_compiling_rows = False


def _onednn_is_faster() -> bool:
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "AuthenticAMD" in info and hasattr(torch.ops.mkldnn, "_linear_pointwise")


ONEDNN_IS_FASTER = _onednn_is_faster()
"""Whether this machine is one where oneDNN's float32 products are known to be faster than PyTorch's own."""


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ weight.T + bias` by oneDNN."""
    if not _compiling_rows:
        return _onednn(x, weight, bias)
    recorded: Tensor = torch.ops.textenvs.onednn_linear(x, weight, bias)
    return recorded


def _shape_of_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


# The same as an operator of our own: a trace cannot record oneDNN's, which takes a list of optional numbers, and
# inductor takes it with constant weights alone.
_LIBRARY = torch.library.Library("textenvs", "DEF")
_LIBRARY.define("onednn_linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_LIBRARY.impl("onednn_linear", _onednn, "CPU")
torch.library.register_fake("textenvs::onednn_linear", _shape_of_product, lib=_LIBRARY)


class _Product(torch.autograd.Function):
    """The same, with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`(..., in)` and `(out, in)` to `(..., out)`."""
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        """Each gradient is another product."""
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = d_out.reshape(-1, d_out.shape[-1])
        return (
            _product(d_out, weight.T, None) if needs_x else None,
            # oneDNN would copy the rows itself: put in order here, inductor does it faster when it compiles this.
            _product(rows.T.contiguous(), x.reshape(-1, x.shape[-1]).T, None) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, by whichever library is faster here.

    Differentiable once.

    Args:
        x: `(..., in)`.
        weight: `(out, in)`.
        bias: `(out,)` or None.

    Returns:
        `(..., out)`.
    """
    return _layer(x, weight, bias, weight.numel())


@contextmanager
def compiling_rows() -> Iterator[None]:
    """While this is open, `linear` is recorded for a compiler, with its gradients: as operators, by weights alone."""
    global _compiling_rows
    _compiling_rows = True
    try:
        yield
    finally:
        _compiling_rows = False


def _fits(x: Tensor, weight: Tensor) -> bool:
    return (
        ONEDNN_IS_FASTER
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


def _layer(x: Tensor, weight: Tensor, bias: Tensor | None, size: int) -> Tensor:
    """`linear` for a layer of `size` weights: while a step is traced, shapes are no plain numbers."""
    if not _fits(x, weight):
        return functional.linear(x, weight, bias)
    if _compiling_rows:
        if size < _LEAST_WEIGHTS_OF_ROWS:
            return functional.linear(x, weight, bias)
        differentiable: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return differentiable
    if torch.jit.is_tracing() or torch.compiler.is_exporting():  # type: ignore[attr-defined, no-untyped-call]
        if size < _LEAST_WEIGHTS:
            return functional.linear(x, weight, bias)
        recorded: Tensor = torch.ops.textenvs.onednn_linear(x, weight, bias)
        return recorded
    learns = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if x.ndim == 3 and x.shape[1] == 1 and not learns:  # a decode step
        pays = size >= _LEAST_WEIGHTS
    else:
        pays = x.numel() * weight.shape[0] >= (_LEAST_WITH_GRADIENTS if learns else _LEAST)
    if not pays:
        return functional.linear(x, weight, bias)
    if learns:
        product: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return product
    return _product(x, weight, bias)


class FastLinear(nn.Linear):
    """`nn.Linear`, computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """See `nn.Linear`."""
        return _layer(input, self.weight, self.bias, self.in_features * self.out_features)


class FastConv1D(Conv1D):
    """GPT-2's linear layer, whose weight is transposed, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """See `Conv1D`."""
        return _layer(x, self.weight.T, self.bias, self.nx * self.nf)


def use_fast_linears(model: nn.Module) -> None:
    """Have a model's linear layers computed by `linear`, where that is another library than PyTorch's.

    Only the class of each layer changes, and only of plain ones: a subclass has a `forward` of its own.

    Args:
        model: Changed in place.
    """
    if not ONEDNN_IS_FASTER:
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear
        elif type(module) is Conv1D:
            module.__class__ = FastConv1D
