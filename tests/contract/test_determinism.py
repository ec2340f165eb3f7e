"""The same bits on repeat, on any number of threads, whatever rows surround a row."""

import threading

import pytest
import torch

from kernel_pytorch.backends import cpu
from tests.contract import harness

SPECS = harness.specs()
IDS = [s.name for s in SPECS]


@pytest.fixture(autouse=True)
def _restore_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("level", harness.isa_levels())
@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_repeat_and_thread_count(spec, level):
    with cpu.isa_limit(level):
        for dtype in spec.dtypes:
            for case in harness.small_cases(spec):
                args, kwargs = harness.inputs(spec, case, dtype)
                torch.set_num_threads(2)
                first = harness.op_of(spec)(*args, **kwargs)
                where = f"{spec.name} {case} {dtype} {level}"
                harness.assert_bitwise_equal(
                    harness.op_of(spec)(*args, **kwargs), first, f"{where} repeated"
                )
                for threads in (1, 3, 5):
                    torch.set_num_threads(threads)
                    harness.assert_bitwise_equal(
                        harness.op_of(spec)(*args, **kwargs), first, f"{where} {threads} threads"
                    )


@pytest.mark.parametrize(
    "spec",
    [s for s in SPECS if s.row_dims is not None],
    ids=[s.name for s in SPECS if s.row_dims is not None],
)
def test_row_does_not_depend_on_the_others(spec):
    """The first tensor's rows are independent: other rows may change, even to NaN."""
    for dtype in spec.dtypes:
        for case in harness.small_cases(spec):
            args, kwargs = harness.inputs(spec, case, dtype)
            x = args[0]
            lead = x.dim() - spec.row_dims
            if lead < 1 or x.shape[0] < 2:
                continue
            whole = harness.outputs_of(harness.op_of(spec)(*args, **kwargs))
            changed = x.clone()
            changed[1:] = float("nan") if x.is_floating_point() else torch.iinfo(x.dtype).max
            others = harness.outputs_of(harness.op_of(spec)(changed, *args[1:], **kwargs))

            def first(outputs, rows=x.shape[0]):
                # An output without rows (a scale of everything) is all of one row's result.
                return tuple(o[0] if o.shape[:1] == (rows,) else o for o in outputs)

            harness.assert_bitwise_equal(
                first(others),
                first(whole),
                f"{spec.name} {case} {dtype}",
            )


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_python_threads_at_once(spec):
    """Two Python threads in the same operator do not share scratch memory."""
    case = harness.small_cases(spec)[-1]
    args, kwargs = harness.inputs(spec, case, spec.dtypes[0])
    want = harness.op_of(spec)(*args, **kwargs)
    failures = []

    def work():
        try:
            for _ in range(20):
                harness.assert_bitwise_equal(harness.op_of(spec)(*args, **kwargs), want, spec.name)
        except AssertionError as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not failures
