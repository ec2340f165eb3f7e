"""Property-based fuzzing over the declared dims: any sizes, options, dtype, ISA level, threads."""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from kernel_pytorch.backends import cpu
from kernel_pytorch.ops.spec import Case
from tests.contract import harness

SPECS = harness.specs()
SEED = int(os.environ.get("KPT_FUZZ_SEED", "20240607"))
EXAMPLES = int(os.environ.get("KPT_FUZZ_EXAMPLES", "60"))

SIZES = st.one_of(st.integers(0, 9), st.sampled_from([15, 16, 17, 31, 33, 63, 64, 65, 127, 129]))


@st.composite
def problems(draw, spec):
    """A declared case with its sizes redrawn; what belongs together (a multiple, a divisor) is
    kept by redrawing only sizes that the spec says are free."""
    case = draw(st.sampled_from(spec.cases))
    sizes = {
        name: draw(SIZES) if name in spec.free_sizes else size for name, size in case.sizes.items()
    }
    lead = tuple(draw(st.lists(st.integers(0, 5), max_size=3))) if case.lead else case.lead
    redrawn = Case(sizes=sizes, options=case.options, given=case.given, lead=lead)
    dtype = draw(st.sampled_from(spec.dtypes))
    level = draw(st.sampled_from(harness.isa_levels()))
    return redrawn, dtype, level, draw(st.sampled_from([1, 2, 3]))


@pytest.mark.parametrize("spec", SPECS, ids=[s.name for s in SPECS])
def test_fuzz(spec):
    before = torch.get_num_threads()

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(problem=problems(spec))
    def run(problem):
        case, dtype, level, threads = problem
        torch.set_num_threads(threads)
        with cpu.isa_limit(level):
            harness.check_accuracy(spec, case, dtype, level)

    try:
        run()
    finally:
        torch.set_num_threads(before)
