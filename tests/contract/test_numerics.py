"""Every operator, dtype, case and ISA level: error against float64, relative to eager's own."""

import pytest

from kernel_pytorch.backends import cpu
from tests.contract import harness

PARAMETERS = [
    pytest.param(
        spec, case, dtype, level, id=f"{spec.name}-{harness.short(dtype)}-{level}-{i}-{case}"
    )
    for spec in harness.specs()
    for level in harness.isa_levels()
    for dtype in spec.dtypes
    for i, case in enumerate(spec.cases)
]


@pytest.mark.parametrize(("spec", "case", "dtype", "level"), PARAMETERS)
def test_error_against_float64(spec, case, dtype, level):
    with cpu.isa_limit(level):
        harness.check_accuracy(spec, case, dtype, level)
