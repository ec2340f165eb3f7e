"""What is asked of an operator's kernels on a GPU: the contract tests' own criteria, applied to
tensors on the device, and what only a GPU has: streams, graphs, several devices, large tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import kernel_pytorch
from kernel_pytorch.backends import cuda
from kernel_pytorch.ops import SPECS
from kernel_pytorch.ops.spec import Case, OpSpec, Out
from tests.contract import harness

__all__ = ["contract", "large", "memory", "product", "short", "streams"]

_DEVICE = "cuda"  # and the name of the native module
_SHOWN = 20


def _collect(failures: list[str], check: Callable[..., None], *args: Any) -> None:
    """Keeps what a check asserts; errors of the GPU end the unit."""
    try:
        check(*args)
    except AssertionError as error:
        failures.append(str(error)[:500])


def _report(failures: list[str], data: dict[str, Any]) -> dict[str, Any]:
    if failures:
        shown = "\n".join(failures[:_SHOWN])
        raise AssertionError(f"{len(failures)} of {data}: {shown}")
    return data


def _ran(calls: Any, op: str) -> str:
    """The variant that ran; "" for the reference."""
    (call,) = [c for c in calls if c.op == op]
    return str(call.variant)


def contract(op: str) -> dict[str, Any]:
    """Every variant, dtype and case: the error against float64, on the device, is at most the
    declared multiple of eager PyTorch's on the same device; a repeated call gives the same bits."""
    spec = SPECS[op]
    failures: list[str] = []
    counts: dict[str, int] = {}
    for variant in cuda.variants(op):
        with cuda.force_variant(op, variant.name):
            for dtype in spec.dtypes:
                for case in spec.cases:
                    args, kwargs = harness.inputs(spec, case, dtype, device=_DEVICE)
                    with kernel_pytorch.explain() as calls:
                        first = harness.op_of(spec)(*args, **kwargs)
                    if _ran(calls, op) != variant.name:
                        continue  # not for this variant, or nothing to do
                    counts[variant.name] = counts.get(variant.name, 0) + 1
                    again = harness.op_of(spec)(*args, **kwargs)
                    where = f"{op} {case} {dtype} {variant.name}"
                    _collect(
                        failures, harness.assert_bitwise_equal, first, again, f"{where} repeated"
                    )
                    _collect(
                        failures, harness.check_accuracy, spec, case, dtype, variant.name, _DEVICE
                    )
    unforced = _native_without_force(spec)
    if not counts or not unforced:
        failures.append(f"{op}: no case ran natively")
    return _report(failures, {"cases": counts, "native_unforced": unforced})


def _native_without_force(spec: OpSpec) -> int:
    """How many of the cases run natively by themselves."""
    native = 0
    for dtype in spec.dtypes:
        for case in harness.small_cases(spec):
            args, kwargs = harness.inputs(spec, case, dtype, device=_DEVICE)
            with kernel_pytorch.explain() as calls:
                harness.op_of(spec)(*args, **kwargs)
            native += harness.ran_native(calls, spec.name)
    return native


def short(op: str) -> dict[str, Any]:
    """A few calls of every variant, for the sanitizers."""
    spec = SPECS[op]
    ran: dict[str, int] = {}
    for variant in cuda.variants(op):
        with cuda.force_variant(op, variant.name):
            for dtype in spec.dtypes:
                for case in harness.small_cases(spec, 4):
                    args, kwargs = harness.inputs(spec, case, dtype, device=_DEVICE)
                    with kernel_pytorch.explain() as calls:
                        harness.op_of(spec)(*args, **kwargs)
                    if found := _ran(calls, op):
                        ran[found] = ran.get(found, 0) + 1
    torch.cuda.synchronize()
    return {"calls": ran}


def memory(op: str) -> dict[str, Any]:
    """Outputs between sentinels are written alone; other layouts of the inputs give the same bits;
    inputs stay as they are."""
    spec = SPECS[op]
    failures: list[str] = []
    guarded_calls = layouts = 0
    native = harness.native_function(op, _DEVICE)
    for dtype in spec.dtypes:
        for case in harness.small_cases(spec):
            args, kwargs = harness.inputs(spec, case, dtype, device=_DEVICE)
            values = harness.bound_values(spec, args, kwargs)
            before = harness.map_tensors(lambda t: t.clone(), values)
            want = harness.outputs_of(harness.op_of(spec)(*args, **kwargs))
            expected = spec.infer(**dict(zip((a.name for a in spec.arguments), values)))
            outs = (expected,) if isinstance(expected, Out) else expected
            guarded = [harness.Guarded(torch.Size(o.shape), o.dtype, device=_DEVICE) for o in outs]
            where = f"{op} {case} {dtype}"
            try:
                native(*(g.tensor for g in guarded), *values)
            except NotImplementedError:
                continue
            guarded_calls += 1
            for g in guarded:
                _collect(failures, g.assert_untouched_outside, where)
            views = tuple(g.tensor for g in guarded)
            _collect(failures, harness.assert_bitwise_equal, views, want, where)
            for x, y in zip(values, before):
                if isinstance(x, torch.Tensor):
                    text = f"{where}: an input was written"
                    _collect(failures, harness.assert_bitwise_equal, x, y, text)
            for place, value in enumerate(args):
                if not isinstance(value, torch.Tensor):
                    continue
                for layout, view in harness.strided_views(value):
                    plain, strided = list(args), list(args)
                    plain[place], strided[place] = view.contiguous(), view
                    a = harness.op_of(spec)(*strided, **kwargs)
                    b = harness.op_of(spec)(*plain, **kwargs)
                    layouts += 1
                    text = f"{where} argument {place}: {layout}"
                    _collect(failures, harness.assert_bitwise_equal, a, b, text)
    return _report(failures, {"guarded": guarded_calls, "layouts": layouts})


def _largest_small(spec: OpSpec) -> Case:
    return max(harness.small_cases(spec), key=lambda c: (len(c.given), sum(c.sizes.values())))


def streams(op: str) -> dict[str, Any]:
    """On a side stream, captured in a graph and replayed on new data, and on another device than
    the current one: the same bits."""
    spec = SPECS[op]
    case, dtype = _largest_small(spec), spec.dtypes[-1]
    args, kwargs = harness.inputs(spec, case, dtype, device=_DEVICE)
    other, _ = harness.inputs(spec, case, dtype, 1, device=_DEVICE)
    run = harness.op_of(spec)
    want, want_other = run(*args, **kwargs), run(*other, **kwargs)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(10_000_000)  # the launch must stand behind this, on this stream
        late = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
        on_side = run(*late, **kwargs)
    torch.cuda.current_stream().wait_stream(side)
    harness.assert_bitwise_equal(on_side, want, f"{op} on a side stream")

    held = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
    graph = torch.cuda.CUDAGraph()
    with kernel_pytorch.explain() as calls, torch.cuda.graph(graph):
        captured = run(*held, **kwargs)
    assert harness.ran_native(calls, op), f"{op}: the capture ran no native kernel"
    graph.replay()
    harness.assert_bitwise_equal(captured, want, f"{op} replayed")
    for a, b in zip(held, other):
        if isinstance(a, torch.Tensor):
            a.copy_(b)
    graph.replay()
    harness.assert_bitwise_equal(captured, want_other, f"{op} replayed on new data")

    devices = torch.cuda.device_count()
    if devices > 1:
        moved = [a.to("cuda:1") if isinstance(a, torch.Tensor) else a for a in args]
        there = run(*moved, **kwargs)
        assert torch.cuda.current_device() == 0
        home = harness.map_tensors(lambda t: t.to("cuda:0"), there)
        harness.assert_bitwise_equal(home, want, f"{op} on another device")
    return {"case": str(case), "dtype": str(dtype), "devices": min(devices, 2)}


def large(op: str) -> dict[str, Any]:
    """More than 2^31 elements, for operators that work row by row: every part gives the bits that
    it gives alone."""
    spec = SPECS[op]
    leading = [n for n in spec.tensor_arguments if spec.dims.get(n, "").startswith("...")]
    if spec.row_dims != 1 or not leading:
        return {"why": "not row by row"}
    case = max(harness.served_cases(spec), key=lambda c: (len(c.given), *c.sizes.values()))
    small = Case(sizes=case.sizes, options=case.options, given=case.given, lead=(64,))
    dtype = torch.bfloat16 if torch.bfloat16 in spec.dtypes else spec.dtypes[0]
    args, kwargs = harness.inputs(spec, small, dtype, device=_DEVICE)
    names = [a.name for a in spec.arguments]
    first = args[names.index(leading[0])]
    copies = 2**31 // first.numel() + 2
    free, _ = torch.cuda.mem_get_info()
    needed = (len(leading) + 2) * copies * first.nbytes
    if needed > 0.8 * free:
        return {"why": f"{needed} bytes are more than this GPU has free"}
    want = harness.outputs_of(harness.op_of(spec)(*args, **kwargs))
    tiled = [
        a.repeat(copies, *([1] * (a.dim() - 1))) if n in leading and a is not None else a
        for n, a in zip(names, args)
    ]
    with kernel_pytorch.explain() as calls:
        got = harness.outputs_of(harness.op_of(spec)(*tiled, **kwargs))
    assert harness.ran_native(calls, op), f"{op}: no native kernel for {copies * first.numel()}"
    for g, w in zip(got, want):
        parts = g.view(copies, *w.shape)
        for part in (0, copies // 2, copies - 1):
            harness.assert_bitwise_equal(parts[part], w, f"{op}: part {part} of {copies}")
    return {"elements": copies * first.numel()}


def product(_: str) -> dict[str, Any]:
    """The bfloat16 product of this library's building blocks, against float64 and PyTorch's."""
    native = harness.native_function("probe_product", _DEVICE)
    shapes = [(128, 256, 64), (256, 512, 256), (1, 8, 8), (1000, 1000, 1000), (4097, 264, 72)]
    errors = {}
    for m, n, k in shapes:
        generator = torch.Generator().manual_seed(m * n + k)
        a = torch.randn(m, k, generator=generator).to(_DEVICE, torch.bfloat16)
        b = torch.randn(n, k, generator=generator).to(_DEVICE, torch.bfloat16)
        out = torch.empty(m, n, dtype=torch.bfloat16, device=_DEVICE)
        try:
            native(out, a, b)
        except NotImplementedError as error:
            return {"why": str(error)}
        exact = a.double() @ b.double().T
        ours = float((out.double() - exact).square().mean().sqrt())
        theirs = float(((a @ b.T).double() - exact).square().mean().sqrt())
        errors[f"{m}x{n}x{k}"] = [ours, theirs]
        floor = 0.5 * torch.finfo(torch.bfloat16).eps * float(exact.abs().max())
        assert ours <= 1.25 * theirs + floor, f"{m}x{n}x{k}: error {ours}, PyTorch's {theirs}"
    return {"rms_errors_ours_and_torch": errors}
