"""Property-based fuzzing over the declared dims: any sizes, options, dtype, ISA level, threads."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from kernel_pytorch.backends import cpu
from kernel_pytorch.ops.spec import Case
from tests.contract import harness

SPECS = harness.specs()
SEED = int(os.environ.get("KPT_FUZZ_SEED", "20240607"))
EXAMPLES = int(os.environ.get("KPT_FUZZ_EXAMPLES", "200"))

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


def fuzz(spec):
    """Draws problems and checks each; an AssertionError tells the seed and how to make the smallest
    failing call again."""

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(problem=problems(spec))
    def run(problem):
        case, dtype, level, threads = problem
        torch.set_num_threads(threads)
        with cpu.isa_limit(level):
            harness.check_accuracy(spec, case, dtype, level)

    before = torch.get_num_threads()
    try:
        run()
    except AssertionError as error:
        raise AssertionError(f"{error}\nthe search: KPT_FUZZ_SEED={SEED}") from error
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("spec", SPECS, ids=[s.name for s in SPECS])
def test_fuzz(spec):
    fuzz(spec)


def test_failures_tell_how_to_repeat_them():
    """An operator held against a wrong declaration: the fuzzer finds it, and the line that it
    prints makes a call."""
    spec = next(s for s in SPECS if s.name == "rms_norm")

    def wrong(function):
        def of(x, weight=None, eps=1e-6):
            y = function(x, weight, eps)
            return y * 1.25 if y.shape[-1] > 33 else y

        return of

    other = dataclasses.replace(spec, reference=wrong(spec.reference), eager=wrong(spec.eager))
    with pytest.raises(AssertionError, match=f"KPT_FUZZ_SEED={SEED}") as caught:
        fuzz(other)
    (line,) = [t for t in str(caught.value).splitlines() if t.startswith("reproduce: ")]
    command = line.removeprefix("reproduce: ").replace(" python ", f" {sys.executable} ", 1)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    result = subprocess.run(
        command, shell=True, env=env, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert "tensor(" in result.stdout
