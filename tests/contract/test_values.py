"""NaN and infinity propagate as in eager PyTorch."""

import pytest
import torch

from kernel_pytorch.backends import cpu
from tests.contract import harness

SPECS = [s for s in harness.specs() if s.differentiable]
IDS = [s.name for s in SPECS]


@pytest.mark.parametrize("level", harness.isa_levels())
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_special_value(spec, value, level):
    """One special value in each floating tensor in turn: NaN falls where float64 and eager have it,
    and only where one of them has it. An element that the result does not depend on, such as a
    value at a masked key (0 * NaN in eager), may be left unread."""
    with cpu.isa_limit(level):
        for dtype in spec.dtypes:
            for case in harness.small_cases(spec):
                count = len(harness.inputs(spec, case, dtype)[0])
                for place in range(count):
                    where = f"{spec.name} {case} {dtype} {level} argument {place}: {value}"
                    _check(spec, case, dtype, place, value, where)


def _check(spec, case, dtype, place, value, where):
    args, kwargs = harness.inputs(spec, case, dtype)
    spoiled = args[place]
    if not isinstance(spoiled, torch.Tensor) or spoiled.dtype not in spec.dtypes:
        return
    own = spec.arg_dtypes.get(spec.arguments[place].name, ("x",))
    if value == value and not any(isinstance(d, str) for d in own):
        return  # a scale: whether 0 * inf comes before or after a sum is the kernel's choice
    at = spoiled.numel() // 2

    def reference(element):
        spoiled.view(-1)[at] = element
        return harness.outputs_of(spec.reference(*harness.widened(args), **harness.widened(kwargs)))

    if place == 0:
        matters = [torch.tensor(True)] * 8
    else:
        matters = [a != b for a, b in zip(reference(0.5), reference(-1.0))]
    wide = reference(value)
    got = harness.outputs_of(harness.op_of(spec)(*args, **kwargs))
    eager = harness.outputs_of(spec.eager(*args, **kwargs))
    for i, (g, e, w) in enumerate(zip(got, eager, wide, strict=True)):
        nan, eager_nan, wide_nan = g.isnan(), e.isnan(), w.isnan()
        lost = ~nan & eager_nan & wide_nan & matters[i]
        made = nan & ~eager_nan & ~wide_nan
        assert not bool(lost.any()), f"{where}: NaN lost in output {i}"
        assert not bool(made.any()), f"{where}: NaN made in output {i}"
