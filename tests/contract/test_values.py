"""NaN and infinity propagate as in eager PyTorch."""

import pytest

from kernel_pytorch.backends import cpu
from tests.contract import harness

SPECS = [s for s in harness.specs() if s.row_dims is not None and s.differentiable]
IDS = [s.name for s in SPECS]


@pytest.mark.parametrize("level", harness.isa_levels())
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_special_value(spec, value, level):
    """One special value in the first tensor: NaN falls where float64 has it or eager has it, and
    only there."""
    with cpu.isa_limit(level):
        for dtype in spec.dtypes:
            for case in harness.small_cases(spec):
                args, kwargs = harness.inputs(spec, case, dtype)
                args[0].view(-1)[args[0].numel() // 2] = value
                got = harness.outputs_of(harness.op_of(spec)(*args, **kwargs))
                eager = harness.outputs_of(spec.eager(*args, **kwargs))
                wide = harness.outputs_of(
                    spec.reference(*harness.widened(args), **harness.widened(kwargs))
                )
                for i, (g, e, w) in enumerate(zip(got, eager, wide, strict=True)):
                    where = f"{spec.name} {case} {dtype} {level} {value} output {i}"
                    nan, eager_nan, wide_nan = g.isnan(), e.isnan(), w.isnan()
                    assert bool((nan | ~(eager_nan & wide_nan)).all()), f"{where}: NaN lost"
                    assert bool((~nan | eager_nan | wide_nan).all()), f"{where}: NaN made"
