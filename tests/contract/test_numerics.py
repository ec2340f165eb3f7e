"""Every operator, dtype, case and ISA level: error against float64, relative to eager's own."""

import pytest

from kernel_pytorch.backends import cpu
from tests.contract import harness

PARAMETERS = [
    pytest.param(spec, case, dtype, id=f"{spec.name}-{harness.short(dtype)}-{i}-{case}")
    for spec in harness.specs()
    for dtype in spec.dtypes
    for i, case in enumerate(spec.cases)
]


def at_level(spec, level):
    """The operator, with no kernel above ISA level ``level``."""

    def call(*args, **kwargs):
        with cpu.isa_limit(level):
            return harness.op_of(spec)(*args, **kwargs)

    return call


@pytest.mark.parametrize(("spec", "case", "dtype"), PARAMETERS)
def test_error_against_float64(spec, case, dtype):
    kernels = {level: at_level(spec, level) for level in harness.isa_levels()}
    harness.check_accuracies(spec, case, dtype, kernels)
