"""How the operators live in PyTorch: opcheck, compile, export, autograd, func, autocast, meta."""

import dataclasses
import os
import shutil

import pytest
import torch

import kernel_pytorch
from kernel_pytorch.core.errors import StrictModeError
from tests.contract import harness

SPECS = harness.specs()
IDS = [s.name for s in SPECS]
DIFFERENTIABLE = [s for s in SPECS if s.differentiable]


def _mid_case(spec):
    found = [c for c in harness.served_cases(spec) if len(c.lead) <= 2] or harness.served_cases(
        spec
    )
    return found[len(found) // 2]


def _smallest_case(spec):
    def size(case):
        return sum(case.lead) + sum(case.sizes.values())

    return min(harness.served_cases(spec), key=lambda c: (size(c) < 4, size(c)))


def _diff_inputs(spec, dtype, case=None):
    args, kwargs = harness.inputs(spec, case or _mid_case(spec), dtype)
    args = [
        a.clone().requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a
        for a in args
    ]
    return args, kwargs


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_opcheck(spec):
    for case in harness.small_cases(spec, 3):
        args, kwargs = harness.inputs(spec, case, torch.float32)
        utils = ["test_schema", "test_autograd_registration", "test_faketensor"]
        utils.append("test_aot_dispatch_dynamic")
        if any(isinstance(a, torch.Tensor) and harness.is_fp8(a) for a in args):
            # PyTorch cannot compare fp8; test_inputs_are_not_written does what is left out.
            utils.remove("test_schema")
        torch.library.opcheck(harness.op_of(spec).default, tuple(args), kwargs, test_utils=utils)


@pytest.mark.parametrize("spec", DIFFERENTIABLE, ids=[s.name for s in DIFFERENTIABLE])
def test_opcheck_with_gradients(spec):
    args, kwargs = _diff_inputs(spec, torch.float32)
    torch.library.opcheck(harness.op_of(spec).default, tuple(args), kwargs)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_compile_fullgraph(spec):
    for dtype in spec.dtypes[:1] + spec.dtypes[-1:]:
        args, kwargs = harness.inputs(spec, _mid_case(spec), dtype)

        def function(*a, spec=spec, kwargs=kwargs):
            return harness.op_of(spec)(*a, **kwargs)

        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        harness.assert_bitwise_equal(compiled(*args), function(*args), spec.name)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_compile_with_symbolic_sizes(spec):
    """One graph serves other leading sizes too: shape rules hold for symbols."""
    found = [c for c in harness.served_cases(spec) if len(c.lead) == 1 and c.lead[0] > 1]
    if not found:
        pytest.skip("no leading dimensions")
    case = found[len(found) // 2]
    torch._dynamo.reset()
    op = harness.op_of(spec)
    _, kwargs = harness.inputs(spec, case, torch.float32)
    compiled = torch.compile(
        lambda *a: op(*a, **kwargs), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (11, 5, 9):  # first a size that is no other dimension's
            other = dataclasses.replace(case, lead=(rows,))
            args, kwargs = harness.inputs(spec, other, torch.float32)
            harness.assert_bitwise_equal(compiled(*args), op(*args, **kwargs), spec.name)


def test_compile_with_the_default_backend():
    """Inductor calls the operators as they are, between its own code."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("inductor needs a C++ compiler")

    def function(x, w):
        h = torch.ops.kpt.rms_norm(x * 2, w) + 1
        return torch.ops.kpt.act(h, "silu").sum(-1)

    x, w = torch.randn(7, 33, requires_grad=True), torch.randn(33)
    torch._dynamo.reset()
    got = torch.compile(function, fullgraph=True)(x, w)
    want = function(x, w)
    torch.testing.assert_close(got, want)
    (compiled_grad,) = torch.autograd.grad(got.sum(), x)
    (grad,) = torch.autograd.grad(want.sum(), x)
    torch.testing.assert_close(compiled_grad, grad)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_export(spec):
    args, kwargs = harness.inputs(spec, _mid_case(spec), torch.float32)
    tensors = [a for a in args if isinstance(a, torch.Tensor)]

    class Module(torch.nn.Module):
        def forward(self, *given):
            rest = iter(given)
            full = [next(rest) if isinstance(a, torch.Tensor) else a for a in args]
            return harness.op_of(spec)(*full, **kwargs)

    program = torch.export.export(Module(), tuple(tensors))
    assert f"kpt.{spec.name}.default" in str(program.graph)
    harness.assert_bitwise_equal(
        program.module()(*tensors), harness.op_of(spec)(*args, **kwargs), spec.name
    )


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_meta_and_fake_shapes(spec):
    from torch._subclasses import FakeTensorMode

    for case in spec.cases[:: max(1, len(spec.cases) // 20)]:
        args, kwargs = harness.inputs(spec, case, torch.float32)
        real = harness.outputs_of(harness.op_of(spec)(*args, **kwargs))
        metas = harness.map_tensors(lambda t: t.to("meta"), [args, kwargs])
        meta = harness.outputs_of(harness.op_of(spec)(*metas[0], **metas[1]))
        with FakeTensorMode() as mode:
            fakes = harness.map_tensors(mode.from_tensor, [args, kwargs])
            fake = harness.outputs_of(harness.op_of(spec)(*fakes[0], **fakes[1]))
        for r, m, f in zip(real, meta, fake, strict=True):
            assert r.shape == m.shape == f.shape
            assert r.dtype == m.dtype == f.dtype
            assert r.stride() == f.stride()
            assert m.device.type == "meta"


@pytest.mark.parametrize("spec", DIFFERENTIABLE, ids=[s.name for s in DIFFERENTIABLE])
def test_gradcheck(spec):
    """Gradients in float64 against finite differences (small sizes)."""
    case = _smallest_case(spec)
    args, kwargs = _diff_inputs(spec, torch.float64, case)
    differentiable = [
        i for i, a in enumerate(args) if isinstance(a, torch.Tensor) and a.requires_grad
    ]

    def function(*tensors):
        full = list(args)
        for place, t in zip(differentiable, tensors, strict=True):
            full[place] = t
        outs = harness.outputs_of(harness.op_of(spec)(*full, **kwargs))
        return tuple(o for o in outs if o.dtype == torch.float64)

    assert torch.autograd.gradcheck(function, [args[i] for i in differentiable])


@pytest.mark.parametrize("spec", DIFFERENTIABLE, ids=[s.name for s in DIFFERENTIABLE])
def test_gradients_match_eager(spec):
    """Gradients in float32 from expanded output gradients, as ``.sum().backward()`` makes them."""
    args, kwargs = _diff_inputs(spec, torch.float32)
    out = harness.outputs_of(harness.op_of(spec)(*args, **kwargs))[0]
    out.sum().backward()
    wide_args = [
        a.detach().double().requires_grad_()
        if isinstance(a, torch.Tensor) and a.requires_grad
        else a
        for a in args
    ]
    wide_kwargs = harness.widened(kwargs)
    harness.outputs_of(spec.reference(*wide_args, **wide_kwargs))[0].sum().backward()
    for got, want in zip(args, wide_args, strict=True):
        if isinstance(got, torch.Tensor) and got.requires_grad and want.grad is not None:
            torch.testing.assert_close(got.grad.double(), want.grad, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("spec", DIFFERENTIABLE, ids=[s.name for s in DIFFERENTIABLE])
def test_func_transforms(spec):
    """torch.func.grad equals autograd; forward mode is refused, never silently wrong."""
    args, kwargs = _diff_inputs(spec, torch.float32)

    def function(x):
        return harness.outputs_of(harness.op_of(spec)(x, *args[1:], **kwargs))[0].sum()

    x = args[0].detach()
    want = torch.autograd.grad(function(args[0]), args[0])[0]
    torch.testing.assert_close(torch.func.grad(function)(x), want)
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.jvp(function, (x,), (torch.ones_like(x),))


@pytest.mark.parametrize("spec", DIFFERENTIABLE, ids=[s.name for s in DIFFERENTIABLE])
def test_second_derivatives(spec):
    """Differentiating twice works, by autograd and by nested torch.func.grad: nothing is silently
    left out."""
    args, kwargs = _diff_inputs(spec, torch.float64, _smallest_case(spec))

    def of(function):
        return lambda x: harness.outputs_of(function(x, *args[1:], **kwargs))[0].pow(3).sum()

    def twice(function):
        x = args[0].detach().requires_grad_()
        (first,) = torch.autograd.grad(of(function)(x), x, create_graph=True)
        return torch.autograd.grad((first**2).sum() + (x**2).sum(), x)[0]

    def func_twice(function):
        def outer(x):
            return (torch.func.grad(of(function))(x) ** 2).sum() + (x**2).sum()

        return torch.func.grad(outer)(args[0].detach())

    want = twice(spec.reference)
    torch.testing.assert_close(twice(harness.op_of(spec)), want)
    torch.testing.assert_close(func_twice(harness.op_of(spec)), want)


@pytest.mark.parametrize("spec", DIFFERENTIABLE, ids=[s.name for s in DIFFERENTIABLE])
def test_one_tensor_for_two_arguments(spec):
    """Each use adds its own gradient."""
    args, kwargs = _diff_inputs(spec, torch.float64, _smallest_case(spec))
    x = args[0].detach().requires_grad_()
    full = [
        x if isinstance(a, torch.Tensor) and a.shape == x.shape and a.dtype == x.dtype else a
        for a in args
    ]

    def grad(function):
        return torch.autograd.grad(
            harness.outputs_of(function(*full, **kwargs))[0].pow(3).sum(), x
        )[0]

    torch.testing.assert_close(grad(harness.op_of(spec)), grad(spec.reference))


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap(spec):
    """vmap loops over the operator; into ``out=`` it is refused."""
    args, kwargs = harness.inputs(spec, _mid_case(spec), torch.float32)
    stacked = torch.stack([args[0], args[0].flip(0) if args[0].dim() else args[0]])

    def function(x):
        return harness.op_of(spec)(x, *args[1:], **kwargs)

    got = harness.outputs_of(torch.func.vmap(function)(stacked))
    for i, x in enumerate(stacked):
        harness.assert_bitwise_equal(tuple(g[i] for g in got), function(x), spec.name)
    if spec.out_overload:
        out = torch.empty_like(function(args[0]))
        with pytest.raises(RuntimeError, match=f"kpt::{spec.name}.out"):
            torch.func.vmap(lambda x: harness.op_of(spec).out(x, *args[1:], **kwargs, out=out))(
                stacked
            )


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_functionalize(spec):
    args, kwargs = harness.inputs(spec, _mid_case(spec), torch.float32)
    op = harness.op_of(spec)
    got = torch.func.functionalize(lambda x: op(x, *args[1:], **kwargs))(args[0])
    harness.assert_bitwise_equal(got, op(*args, **kwargs), spec.name)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_lazy_negation_is_resolved(spec):
    """``conj().imag`` and the like are tensors whose memory holds the negated values."""
    args, kwargs = harness.inputs(spec, _mid_case(spec), torch.float32)
    op = harness.op_of(spec)
    for place, value in enumerate(args):
        if (
            isinstance(value, torch.Tensor)
            and value.is_floating_point()
            and not harness.is_fp8(value)
        ):
            lazy = [*args[:place], torch._neg_view(value), *args[place + 1 :]]
            plain = [*args[:place], -value, *args[place + 1 :]]
            harness.assert_bitwise_equal(op(*lazy, **kwargs), op(*plain, **kwargs), spec.name)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_autocast(spec):
    """Outputs have the dtypes that the operator gives for inputs of the autocast dtype, or as they
    are."""
    args, kwargs = harness.inputs(spec, _mid_case(spec), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = harness.outputs_of(harness.op_of(spec)(*args, **kwargs))
    if spec.autocast:
        args, kwargs = harness.inputs(spec, _mid_case(spec), torch.bfloat16)
    want = harness.outputs_of(harness.op_of(spec)(*args, **kwargs))
    assert [c.dtype for c in cast] == [w.dtype for w in want]


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_inference_mode_and_no_grad(spec):
    args, kwargs = harness.inputs(spec, _mid_case(spec), torch.float32)
    want = harness.op_of(spec)(*args, **kwargs)
    with torch.inference_mode():
        harness.assert_bitwise_equal(harness.op_of(spec)(*args, **kwargs), want, spec.name)
    with torch.no_grad():
        harness.assert_bitwise_equal(harness.op_of(spec)(*args, **kwargs), want, spec.name)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_fallback_is_counted_and_strict_refuses(spec):
    """float64 has no native kernel: the reference runs, is recorded, and strict mode raises."""
    args, kwargs = harness.inputs(spec, _mid_case(spec), torch.float64)
    with kernel_pytorch.explain() as calls:
        harness.op_of(spec)(*args, **kwargs)
    assert [c.implementation for c in calls] == ["reference"]
    assert "float64" in calls.calls[0].reason
    with kernel_pytorch.strict(), pytest.raises(StrictModeError, match=spec.name):
        harness.op_of(spec)(*args, **kwargs)
