"""A declaration is whole, and everything it promises is registered."""

import math

import pytest
import torch

from kernel_pytorch.ops.spec import Out
from kernel_pytorch.ops.validate import bind
from tests.contract import harness

SPECS = harness.specs()
IDS = [s.name for s in SPECS]


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_names_are_the_schemas(spec):
    arguments = {a.name for a in spec.arguments}
    tensors = set(spec.tensor_arguments)
    assert set(spec.dims) <= tensors
    assert set(spec.arg_dtypes) <= tensors
    assert set(spec.choices) <= arguments - tensors
    for case in spec.cases:
        assert set(case.options) <= arguments - tensors, str(case)
    texts = {a.name for a in spec.arguments if a.type == "str"}
    assert texts <= set(spec.choices), "a text argument has a list of its values"
    assert spec.doc.strip()


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_kernels_of_every_dispatch_key(spec):
    """The reference is there for devices that no backend serves, and each device has a gradient."""
    has = torch._C._dispatch_has_computed_kernel_for_dispatch_key
    own = torch._C._dispatch_has_kernel_for_dispatch_key
    overloads = ["", ".out"] if spec.out_overload else [""]
    for name in (f"kpt::{spec.name}{o}" for o in overloads):
        for key in ("CPU", "CUDA", "XPU", "XLA", "MPS", "PrivateUse1", "Meta"):
            assert has(name, key), f"{name} {key}"
        for key in ("AutogradCPU", "AutogradCUDA", "AutogradXPU", "AutogradXLA"):
            assert has(name, key), f"{name} {key}"
        assert own(name, "CPU") == ("cpu" in spec.native_backends)
        if torch.version.hip is None:
            assert own(name, "CUDA") == ("nvidia" in spec.native_backends)
    for key in ("AutocastCPU", "AutocastCUDA"):
        assert own(f"kpt::{spec.name}", key) == spec.autocast
    assert hasattr(harness.op_of(spec), "out") == spec.out_overload


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_benchmarks_can_be_made(spec):
    """Rows have names of their own; the cost of a row counts at least the bytes of its results."""
    assert spec.benchmarks
    rows = [(row.name, row.dtype) for row in spec.benchmarks]
    assert len(set(rows)) == len(rows)
    row = min(spec.benchmarks, key=lambda r: math.prod([*r.case.lead, *r.case.sizes.values()]))
    args, kwargs = spec.build(row.case, row.dtype, torch.Generator().manual_seed(0))
    outs = spec.infer(**bind(spec, tuple(args), kwargs))
    outs = (outs,) if isinstance(outs, Out) else outs
    cost = spec.cost(*args, **kwargs)
    assert cost.compute in ("fp32", "bf16", "int8")
    assert cost.flops >= 0 and math.isfinite(cost.flops)
    written = sum(math.prod(o.shape) * o.dtype.itemsize for o in outs)
    if not row.in_place:
        assert written / 2 <= cost.write_bytes <= 2 * written
    assert cost.read_bytes > 0
