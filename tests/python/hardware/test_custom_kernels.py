"""Kernels of the user's beside a reference, and models with modules over the kernels."""

import math

import pytest
import torch
from torch import nn

import kernel_pytorch
from kernel_pytorch.core.errors import StrictModeError
from kernel_pytorch.hardware.gpu import custom_kernels as kpt

X = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))


def broken(x):
    raise RuntimeError("no such device")


def test_a_wrapped_kernel_and_its_fallback():
    good = kpt.CustomKernelWrapper(lambda x: x + 1)
    assert torch.equal(good(X), X + 1)
    wrapped = kpt.CustomKernelWrapper(broken, lambda x: x * 2)
    with kernel_pytorch.explain() as calls:
        assert torch.equal(wrapped(X), X * 2)
    assert calls.fallbacks[0].reason == "RuntimeError: no such device"
    with kernel_pytorch.strict(), pytest.raises(StrictModeError):
        wrapped(X)
    with pytest.raises(RuntimeError, match="no such device"):
        kpt.CustomKernelWrapper(broken)(X)
    with pytest.raises(TypeError, match="'fallback_function' must be callable"):
        kpt.CustomKernelWrapper(broken, 3)


def test_correctness_is_what_is_measured():
    exact = kpt.validate_kernel_correctness(torch.tanh, torch.tanh, [X, (X[0],)])
    assert exact == {"is_correct": True, "max_error": 0.0, "errors": [0.0, 0.0]}
    off = kpt.validate_kernel_correctness(lambda x: x + 1e-3, lambda x: x, [X * 0])
    assert not off["is_correct"] and math.isclose(off["max_error"], 1e-3, rel_tol=1e-3)
    for wrong in (lambda x: x[0], lambda x: x * math.nan):
        assert kpt.validate_kernel_correctness(wrong, lambda x: x, [X])["max_error"] == math.inf
    with pytest.raises(ValueError, match="must not be empty"):
        kpt.validate_kernel_correctness(torch.tanh, torch.tanh, [])


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.feed = nn.Sequential(
            nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU("tanh"), nn.Linear(64, 32)
        )

    def forward(self, x):
        return self.feed(x + self.attention(x, x, x, need_weights=False)[0])


def test_models_keep_their_outputs_gradients_and_names():
    torch.manual_seed(0)
    model = Block()
    found = kpt.optimize_with_custom_kernels(model)
    assert isinstance(found.feed[0], kpt.FusedLinearGELU) and type(found.feed[2]) is nn.Linear
    assert isinstance(model.feed[1], nn.GELU) and found.feed[0].weight is not model.feed[0].weight
    with kernel_pytorch.explain() as calls:
        y = found(X)
    ops = {c.op for c in calls}
    assert ops == {"attention_forward", "linear_act_forward"} and not calls.fallbacks
    want = model(X)
    assert torch.allclose(y, want, atol=1e-5)
    y.square().sum().backward()
    want.square().sum().backward()
    for name in ("feed.0.weight", "feed.4.bias"):
        got, wanted = found.get_parameter(name).grad, model.get_parameter(name).grad
        assert torch.allclose(got, wanted, atol=1e-3)
    only = kpt.optimize_with_custom_kernels(model, ["linear_silu"])
    assert isinstance(only.attention, nn.MultiheadAttention) and isinstance(only.feed[1], nn.GELU)
    with pytest.raises(ValueError, match="a target must be one of"):
        kpt.optimize_with_custom_kernels(model, ["convolution"])


def test_modules_by_name(capsys):
    assert isinstance(
        kpt.create_kernel_optimized_module("linear_gelu", in_features=4, out_features=8),
        kpt.FusedLinearGELUKernel,
    )
    assert kpt.create_kernel_optimized_module("attention", causal=True).causal
    with pytest.raises(ValueError, match="module_type must be one of"):
        kpt.create_kernel_optimized_module("dream")
    kpt.print_kernel_optimization_results({"is_correct": True})
    assert capsys.readouterr().out == "is_correct: True\n"
