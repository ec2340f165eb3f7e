"""Every native variant can be reached, forced, and holds the error bound by itself."""

import inspect
import re

import pytest

import kernel_pytorch
from kernel_pytorch.backends import cpu
from kernel_pytorch.ops import SPECS
from tests.contract import harness

# The machine's probes have variants too; they are not operators.
VARIANTS = [
    pytest.param(v, id=f"{v.op}-{v.name}")
    for v in cpu.variants()
    if v.op in SPECS and v.isa in harness.isa_levels()
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_forced_variant(variant):
    spec = SPECS[variant.op]
    served = 0
    with cpu.force_variant(variant.op, variant.name):
        for dtype in spec.dtypes:
            for case in harness.served_cases(spec):
                if served >= 40:
                    break
                args, kwargs = harness.inputs(spec, case, dtype)
                with kernel_pytorch.explain() as calls:
                    harness.op_of(spec)(*args, **kwargs)
                (call,) = [c for c in calls if c.op == variant.op]
                if call.implementation != "native":
                    assert "forced" in call.reason
                    continue
                assert call.variant == variant.name
                served += 1
                harness.check_accuracy(spec, case, dtype, variant.name)
    assert served > 0, f"no declared case is served by {variant.op}/{variant.name}"


def test_every_native_op_lists_variants():
    listed = {v.op for v in cpu.variants()}
    for spec in harness.specs():
        assert ("cpu" in spec.native_backends) == (spec.name in listed), spec.name


@pytest.mark.parametrize("spec", harness.specs(), ids=lambda s: s.name)
def test_binding_has_the_schema_s_arguments(spec):
    """The native function takes the outputs, then exactly the schema's arguments, by name."""
    document = inspect.getdoc(harness.native_function(spec.name)) or ""
    found = re.findall(r"(\w+): ", document.split(") ->")[0])
    names = [a.name for a in spec.arguments]
    returns = len(spec.schema.rsplit("->", 1)[1].split(","))
    assert found[returns:] == names, f"{spec.name}: binding has {found}, schema {names}"
