"""Strides, offsets, sentinels, empty sizes: kernels read and write what they should, only that."""

import pytest
import torch

from kernel_pytorch.backends import cpu
from kernel_pytorch.ops.spec import Out
from tests.contract import harness

SPECS = harness.specs()
IDS = [s.name for s in SPECS]


def _expected(spec, values):
    outs = spec.infer(**dict(zip((a.name for a in spec.arguments), values, strict=True)))
    return (outs,) if isinstance(outs, Out) else outs


@pytest.mark.parametrize("level", harness.isa_levels())
@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_outputs_stay_inside(spec, level):
    """Native kernels write into views between sentinels and touch nothing around them."""
    served = 0
    with cpu.isa_limit(level):
        for dtype in spec.dtypes:
            for case in harness.small_cases(spec):
                args, kwargs = harness.inputs(spec, case, dtype)
                values = harness.bound_values(spec, args, kwargs)
                want = harness.outputs_of(harness.op_of(spec)(*args, **kwargs))
                outs = [
                    harness.Guarded(torch.Size(o.shape), o.dtype) for o in _expected(spec, values)
                ]
                try:
                    harness.native_function(spec.name)(*(o.tensor for o in outs), *values)
                except NotImplementedError:
                    continue
                served += 1
                where = f"{spec.name} {case} {dtype} {level}"
                for out in outs:
                    out.assert_untouched_outside(where)
                harness.assert_bitwise_equal(tuple(o.tensor for o in outs), want, where)
    assert served > 0, f"{spec.name}: no case was served natively at {level}"


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_strided_inputs_give_the_same(spec):
    """Layout does not change a result: bitwise, for every tensor argument."""
    for dtype in spec.dtypes:
        for case in harness.small_cases(spec, 8):
            args, kwargs = harness.inputs(spec, case, dtype)
            for place, value in enumerate(args):
                if not isinstance(value, torch.Tensor):
                    continue
                for layout, view in harness.strided_views(value):
                    plain, strided = list(args), list(args)
                    plain[place] = view.contiguous()
                    strided[place] = view
                    harness.assert_bitwise_equal(
                        harness.op_of(spec)(*strided, **kwargs),
                        harness.op_of(spec)(*plain, **kwargs),
                        f"{spec.name} {case} {dtype} argument {place}: {layout}",
                    )


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_inputs_are_not_written(spec):
    for dtype in spec.dtypes:
        for case in harness.small_cases(spec, 6):
            args, kwargs = harness.inputs(spec, case, dtype)
            before = harness.map_tensors(lambda t: t.clone(), [args, kwargs])
            harness.op_of(spec)(*args, **kwargs)
            for a, b in zip(
                [*args, *kwargs.values()], [*before[0], *before[1].values()], strict=True
            ):
                if isinstance(a, torch.Tensor):
                    assert torch.equal(harness.bits(a), harness.bits(b)), f"{spec.name} {case}"


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if s.out_overload], ids=[s.name for s in SPECS if s.out_overload]
)
def test_out_overload(spec):
    """``out=`` gives the same bits, in any row stride and in place; returns ``out``."""
    for dtype in spec.dtypes:
        for case in harness.small_cases(spec, 6):
            args, kwargs = harness.inputs(spec, case, dtype)
            want = harness.op_of(spec)(*args, **kwargs)
            guarded = harness.Guarded(want.shape, want.dtype)
            version = guarded.tensor._version
            got = harness.op_of(spec).out(*args, **kwargs, out=guarded.tensor)
            assert got.data_ptr() == guarded.tensor.data_ptr()
            assert got._version > version, "autograd does not see that out has changed"
            harness.assert_bitwise_equal(guarded.tensor, want, f"{spec.name}.out {case} {dtype}")
            guarded.assert_untouched_outside(f"{spec.name}.out {case} {dtype}")
            if args[0].shape == want.shape and args[0].dtype == want.dtype:
                harness.op_of(spec).out(*args, **kwargs, out=args[0])
                harness.assert_bitwise_equal(args[0], want, f"{spec.name}.out in place {case}")


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if s.out_overload], ids=[s.name for s in SPECS if s.out_overload]
)
def test_out_overload_refuses(spec):
    case = max(harness.served_cases(spec), key=lambda c: sum(c.lead))
    args, kwargs = harness.inputs(spec, case, torch.float32)
    want = harness.op_of(spec)(*args, **kwargs)
    op = harness.op_of(spec).out
    with pytest.raises(ValueError, match=f"{spec.name}: argument 'out' must have shape"):
        op(*args, **kwargs, out=torch.empty(*want.shape, 1))
    with pytest.raises(TypeError, match=f"{spec.name}: argument 'out' must have dtype"):
        op(*args, **kwargs, out=torch.empty_like(want, dtype=torch.float64))
    if want.shape == args[0].shape and want.dtype == args[0].dtype:
        buffer = torch.zeros(args[0].numel() + 1)
        shifted = buffer[1:].view(args[0].shape)
        with pytest.raises(ValueError, match=f"{spec.name}: argument 'out' overlaps"):
            op(buffer[:-1].view(args[0].shape), *args[1:], **kwargs, out=shifted)
    with pytest.raises(RuntimeError, match="does not support automatic differentiation"):
        op(args[0].clone().requires_grad_(), *args[1:], **kwargs, out=torch.empty_like(want))
