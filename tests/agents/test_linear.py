"""Linear layers by oneDNN: the same numbers and gradients as PyTorch's own."""

import copy

import pytest
import torch
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from agents import linear as module
from agents.linear import FastConv1D, FastLinear, linear, use_fast_linears

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """As if this processor were one that it pays on."""
    monkeypatch.setattr(module, "ONEDNN_IS_FASTER", True)


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(300, 64), (5, 60, 64), (2, 3, 50, 64), (2, 1, 64), (1, 64)])
def test_numbers_and_gradients(shape, bias, monkeypatch):
    monkeypatch.setattr(module, "_LEAST", 1)
    monkeypatch.setattr(module, "_LEAST_WITH_GRADIENTS", 1)
    monkeypatch.setattr(module, "_LEAST_WEIGHTS", 1)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(*size, generator=generator) for size in (shape, (48, 64), (48,))]
    weights = torch.randn(*shape[:-1], 48, generator=generator)

    def gradients(function, dtype):
        x, weight, b = (one.to(dtype).clone().requires_grad_() for one in inputs)
        out = function(x, weight, b if bias else None)
        (out * weights.to(dtype)).sum().backward()
        return [out, x.grad, weight.grad, *([b.grad] if bias else [])]

    for got, expected in zip(
        gradients(linear, torch.float32), gradients(functional.linear, torch.float64), strict=True
    ):
        torch.testing.assert_close(got.double(), expected, atol=1e-4, rtol=1e-5)


@needs_onednn
def test_layers_keep_their_weights_and_only_plain_ones_change():
    class Mine(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(torch.nn.Linear(256, 512), Mine(512, 256), Conv1D(512, 256))
    before = {name: one.clone() for name, one in model.state_dict().items()}
    x = torch.randn(40, 256)
    expected = model(x)
    use_fast_linears(model)
    assert [type(layer) for layer in model] == [FastLinear, Mine, FastConv1D]
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(copy.deepcopy(model)(x), expected, atol=1e-5, rtol=1e-5)


@needs_onednn
def test_other_dtypes_go_the_plain_way():
    layer = torch.nn.Linear(256, 512)
    use_fast_linears(layer)
    x = torch.randn(64, 256)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64


def test_nothing_changes_where_it_does_not_pay(monkeypatch):
    monkeypatch.setattr(module, "ONEDNN_IS_FASTER", False)
    layer = torch.nn.Linear(256, 512)
    use_fast_linears(layer)
    assert type(layer) is torch.nn.Linear
