"""Calls like an earlier one skip the checks, and nothing else about them changes."""

import gc
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import kernel_pytorch
from kernel_pytorch.backends import cpu
from kernel_pytorch.ops import autograd

pytestmark = pytest.mark.skipif(
    cpu.boundary() != "dlpack_c_exchange_api", reason="this torch has no DLPack exchange API"
)


@pytest.fixture
def x():
    return torch.randn(3, 8)


def _repeats(name, *args):
    """What the repeated way returns for these arguments: None when it passes them on."""
    return autograd.repeats[name](*args)


def _called(x):
    """x after one call of softmax, which is then remembered."""
    torch.ops.kpt.softmax(x)
    return x


def test_same_layout_repeats_with_new_data(x):
    _called(x)
    other = torch.randn(3, 8)
    result = _repeats("softmax", other, 1.0)
    torch.testing.assert_close(result, other.softmax(-1))
    assert result.is_contiguous() and not result.requires_grad and type(result) is torch.Tensor


@pytest.mark.parametrize(
    "change",
    [
        lambda x: (torch.randn(3, 9), 1.0),
        lambda x: (torch.randn(3, 1, 8), 1.0),
        lambda x: (torch.randn(3, 16)[:, :8], 1.0),
        lambda x: (x.bfloat16(), 1.0),
        lambda x: (x, 2.5),
        lambda x: (x, 1),
        lambda x: (x.to("meta"), 1.0),
        lambda x: (x.to_sparse(), 1.0),
        lambda x: (torch._neg_view(x), 1.0),
        lambda x: (x.clone().requires_grad_(), 1.0),
        lambda x: (x.as_subclass(type("Own", (torch.Tensor,), {})), 1.0),
        lambda x: (None, 1.0),
        lambda x: (3, 1.0),
        lambda x: (x,),
    ],
)
def test_anything_else_does_not(change, x):
    assert _repeats("softmax", *change(_called(x))) is None


def test_a_parameter_repeats_where_no_gradient_is_needed(x):
    parameter = torch.nn.Parameter(_called(x))
    assert _repeats("softmax", parameter, 1.0) is None
    with torch.no_grad():
        assert _repeats("softmax", parameter, 1.0) is not None
    torch.ops.kpt.softmax(parameter).square().sum().backward()
    assert parameter.grad is not None


def test_absent_and_given_optional_tensors_differ(x):
    torch.ops.kpt.rms_norm(x)
    assert _repeats("rms_norm", x, None, 1e-6) is not None
    assert _repeats("rms_norm", x, torch.ones(3), 1e-6) is None
    with pytest.raises(ValueError, match="rms_norm: argument 'weight'"):
        torch.ops.kpt.rms_norm(x, torch.ones(3))


def test_inference_mode_repeats_too():
    # Inference tensors pass the autograd kernel by: the launcher itself repeats.
    with torch.inference_mode():
        x = torch.randn(3, 8)
        expected = torch.ops.kpt.softmax(x)
        result = _repeats("softmax", x, 1.0)
        assert torch.equal(result, expected) and result.is_inference()
        assert torch.equal(torch.ops.kpt.softmax(x), expected)
    assert torch.ops.kpt.softmax(x.clone()).requires_grad is False


def test_two_outputs(x):
    expected = torch.ops.kpt.add_rms_norm(x, x)
    y, s = _repeats("add_rms_norm", x, x, None, 1e-6)
    assert torch.equal(y, expected[0]) and torch.equal(s, expected[1])


def test_it_is_recorded(x):
    _called(x)
    with kernel_pytorch.explain() as calls:
        assert _repeats("softmax", x, 1.0) is not None
    (call,) = calls
    assert (call.op, call.implementation) == ("softmax", "native") and call.variant


def test_without_a_variant_the_reference_runs(x):
    weight = torch.randn(4, 8)
    torch.ops.kpt.linear_act(x, weight)
    with cpu.isa_limit("baseline"):
        with cpu.force_variant("linear_act", "avx2_panels"):
            assert _repeats("linear_act", x, weight, None, "none") is None
            with kernel_pytorch.explain() as calls:
                torch.ops.kpt.linear_act(x, weight)
            assert [c.implementation for c in calls] == ["reference"]
            with pytest.raises(kernel_pytorch.core.errors.StrictModeError):
                with kernel_pytorch.strict():
                    torch.ops.kpt.linear_act(x, weight)


def test_what_the_kernel_refuses_raises(x):
    storage = torch.zeros(4 * 24 + 1, dtype=torch.uint8)
    misaligned = storage[1:].view(torch.uint8).numpy()[: 4 * 24].view("f4").reshape(3, 8)
    _called(x)
    with pytest.raises(ValueError, match="softmax: argument 'x'"):
        torch.ops.kpt.softmax(torch.from_numpy(misaligned))


def test_modes_and_tracers_still_see_the_call(x):
    _called(x)
    with FakeTensorMode() as mode:
        fake = torch.ops.kpt.softmax(mode.from_tensor(x))
    assert type(fake) is not torch.Tensor and fake.shape == x.shape
    compiled = torch.compile(torch.ops.kpt.softmax, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), x.softmax(-1))
    grad = torch.func.grad(lambda t: torch.ops.kpt.softmax(t)[0, 0])(x)
    assert grad.abs().sum() > 0


def test_only_the_last_few_layouts_are_kept(x):
    _called(x)
    for n in range(20, 40):
        torch.ops.kpt.softmax(torch.randn(2, n))
    assert _repeats("softmax", x, 1.0) is None
    torch.testing.assert_close(torch.ops.kpt.softmax(x), x.softmax(-1))
    assert _repeats("softmax", x, 1.0) is not None


def test_nothing_leaks(x):
    weight = torch.randn(8)
    torch.ops.kpt.rms_norm(x, weight)
    before = sys.getrefcount(x), sys.getrefcount(weight)
    for _ in range(100):
        torch.ops.kpt.rms_norm(x, weight)
    gc.collect()
    assert (sys.getrefcount(x), sys.getrefcount(weight)) == before
    result = torch.ops.kpt.rms_norm(x, weight)
    assert sys.getrefcount(result) == 2
