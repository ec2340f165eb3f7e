"""Operators that write over their arguments: the same bits as the functional ones, in every place
where PyTorch may call them."""

import dataclasses

import pytest
import torch

import kernel_pytorch
from kernel_pytorch.core.errors import StrictModeError
from tests.contract import harness

SPECS = [s for s in harness.specs() if s.in_place]
IDS = [s.name for s in SPECS]
DIFFERENTIABLE = [s for s in SPECS if s.differentiable]


def _op(spec):
    return getattr(torch.ops.kpt, f"{spec.name}_")


def _places(spec):
    return [i for i, a in enumerate(spec.arguments) if a.name in spec.in_place]


def _call(spec, args, kwargs, op=None):
    """What the in-place operator leaves in copies of its arguments."""
    own = list(args)
    for place in _places(spec):
        own[place] = args[place].clone()
    assert (op or _op(spec))(*own, **kwargs) is None
    return tuple(own[place] for place in _places(spec))


def _mid(spec, dtype=torch.float32):
    # PyTorch can neither add to fp8 nor compare it.
    found = [c for c in harness.served_cases(spec) if "cache:fp8" not in c.given]
    return harness.inputs(spec, found[len(found) // 2], dtype)


def _trainable(spec):
    args, kwargs = _mid(spec)
    return [
        a.clone().requires_grad_() if i in _places(spec) else a for i, a in enumerate(args)
    ], kwargs


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_same_bits(spec):
    for dtype in (*spec.dtypes, torch.float64):
        for case in spec.cases:
            args, kwargs = harness.inputs(spec, case, dtype)
            want = harness.op_of(spec)(*args, **kwargs)
            harness.assert_bitwise_equal(
                _call(spec, args, kwargs), want, f"{spec.name}_ {case} {dtype}"
            )


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_runs_natively_and_counts_as_a_change(spec):
    args, kwargs = _mid(spec)
    versions = [args[place]._version for place in _places(spec)]
    with kernel_pytorch.explain() as calls:
        _op(spec)(*args, **kwargs)
    assert [c.implementation for c in calls] == ["native"]
    assert all(args[p]._version > v for p, v in zip(_places(spec), versions, strict=True))
    args, kwargs = _mid(spec, torch.float64)
    with kernel_pytorch.strict(), pytest.raises(StrictModeError, match=spec.name):
        _op(spec)(*args, **kwargs)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_opcheck(spec):
    for case in harness.small_cases(spec, 4):
        args, kwargs = harness.inputs(spec, case, torch.float32)
        if not any(isinstance(a, torch.Tensor) and harness.is_fp8(a) for a in args):
            torch.library.opcheck(_op(spec).default, tuple(args), kwargs)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_compile(spec, dynamic):
    """The compiled graph changes its arguments too, and what is derived from them before."""
    args, kwargs = _mid(spec)
    places, op = _places(spec), _op(spec)
    want = harness.op_of(spec)(*(a + 1 if i in places else a for i, a in enumerate(args)), **kwargs)

    def function(*given):
        for place in places:
            given[place].add_(1)
        op(*given, **kwargs)

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    harness.assert_bitwise_equal(_call(spec, args, {}, lambda *a: compiled(*a)), want, spec.name)


@pytest.mark.parametrize("spec", DIFFERENTIABLE, ids=[s.name for s in DIFFERENTIABLE])
def test_gradients(spec):
    """A gradient flows through what is written over; a leaf that wants one is refused."""
    args, kwargs = _trainable(spec)
    leaves = [args[place] for place in _places(spec)]

    def gradients(function):
        outs = function()
        return torch.autograd.grad(sum(o.pow(3).sum() for o in outs), leaves)

    want = gradients(lambda: harness.op_of(spec)(*args, **kwargs))
    harness.assert_bitwise_equal(gradients(lambda: _call(spec, args, kwargs)), want, spec.name)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        _op(spec)(*args, **kwargs)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_overlap_is_refused(spec):
    """One tensor in two places, or shifted against itself."""
    args, kwargs = _mid(spec)
    first, second = _places(spec)[:2]
    same = list(args)
    same[second] = same[first]
    with pytest.raises(ValueError, match=f"{spec.name}: argument '.*' overlaps"):
        _op(spec)(*same, **kwargs)
    flat = list(args)
    flat[first] = args[first][:, :, :1].expand(args[first].shape)
    with pytest.raises(ValueError, match=f"{spec.name}: argument '.*' must not overlap itself"):
        _op(spec)(*flat, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("seqlen", [1, 9])
def test_rope_on_parts_of_a_joint_projection(seqlen, interleaved, dtype):
    """Queries and keys as views of one tensor, heads behind or before positions; values stay."""
    angles = torch.randn(seqlen, 8)
    for dims in ((2, seqlen, 4 + 2 + 2, 16), (2, 4 + 2 + 2, seqlen, 16)):
        joint = torch.randn(dims).to(dtype)
        heads = dims.index(8)
        before = joint.clone()
        q, k, v = (
            t if heads == 1 else t.transpose(1, 2) for t in joint.split((4, 2, 2), dim=heads)
        )
        want = torch.ops.kpt.rope(q, k, angles.cos(), angles.sin(), interleaved=interleaved)
        with kernel_pytorch.explain() as calls:
            torch.ops.kpt.rope_(q, k, angles.cos(), angles.sin(), interleaved=interleaved)
        assert [c.implementation for c in calls] == ["native"]
        harness.assert_bitwise_equal((q, k), want, "rope_")
        assert torch.equal(
            v,
            before.split((4, 2, 2), dim=heads)[2].view(v.shape)
            if heads == 1
            else before.split((4, 2, 2), dim=heads)[2].transpose(1, 2),
        )


def test_rope_gradient():
    """Of q and k by turning back, of the tables by the reference."""
    spec = next(s for s in SPECS if s.name == "rope")
    for options in ({}, {"interleaved": True}, {"inverse": True}):
        case = dataclasses.replace(spec.cases[0], options=options)
        (q, k, cos, sin), kwargs = harness.inputs(spec, case, torch.float64)
        q.requires_grad_(), k.requires_grad_()

        def function(q, k, cos, sin, kwargs=kwargs):
            return torch.ops.kpt.rope(q, k, cos, sin, **kwargs)

        assert torch.autograd.gradcheck(function, (q, k, cos, sin))
        assert torch.autograd.gradgradcheck(function, (q, k, cos, sin))
        cos.requires_grad_()
        assert torch.autograd.gradcheck(function, (q, k, cos, sin))
    (q, k, cos, sin), _ = harness.inputs(spec, spec.cases[0], torch.float32)
    q.requires_grad_()
    with kernel_pytorch.explain() as calls:
        torch.ops.kpt.rope(q, k, cos, sin)[0].sum().backward()
    assert [c.implementation for c in calls] == ["native", "native"]


def test_rope_takes_tables_of_both_halves():
    """The form of Hugging Face's models gives the same bits as the halves."""
    q, k, angles = torch.randn(2, 4, 5, 16), torch.randn(2, 2, 5, 16), torch.randn(5, 8)
    whole = torch.cat((angles, angles), dim=-1)
    harness.assert_bitwise_equal(
        torch.ops.kpt.rope(q, k, whole.cos(), whole.sin()),
        torch.ops.kpt.rope(q, k, angles.cos(), angles.sin()),
        "rope",
    )
