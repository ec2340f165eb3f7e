"""Pairing, inputs, caches and limits: what makes the numbers hold."""

import types

import pytest
import torch

from kernel_pytorch.backends import cpu
from kernel_pytorch.bench import caches
from kernel_pytorch.bench.allocator import kept_memory, settles
from kernel_pytorch.bench.inputs import BEYOND_CACHE, Call, make_inputs
from kernel_pytorch.bench.limits import COMPUTE, Limits
from kernel_pytorch.bench.measure import Side, measure_pairs
from kernel_pytorch.ops import SPECS
from kernel_pytorch.ops.spec import Benchmark, Case, Cost


class _Clock:
    """A clock that only work moves."""

    def __init__(self, monkeypatch):
        self.now = 0
        self.order = []
        monkeypatch.setattr("kernel_pytorch.bench.measure.time", self)

    def perf_counter_ns(self):
        return self.now

    def monotonic(self):
        return self.now * 1e-9

    def work(self, name, nanoseconds):
        def call():
            self.order.append(name)
            self.now += nanoseconds() if callable(nanoseconds) else nanoseconds

        return call


def _measure(clock, ours, theirs, canary=lambda: 1.0, **options):
    nothing = [Call((), {})]
    first = Side(clock.work("a", ours), nothing)
    second = Side(clock.work("b", theirs), nothing)
    return measure_pairs(first, second, canary, **{"seconds": 1.0, **options})


def test_ratio_and_times(monkeypatch):
    found = _measure(_Clock(monkeypatch), 1_000_000, 3_000_000)
    assert found.first == pytest.approx(1e-3) and found.second == pytest.approx(3e-3)
    assert found.ratio == pytest.approx((3.0, 3.0, 3.0))
    assert found.dropped == 0 and not found.unsteady


def test_sides_alternate(monkeypatch):
    clock = _Clock(monkeypatch)
    _measure(clock, 1_000_000, 1_000_000, max_pairs=20, seconds=9.0)
    timed = "".join(clock.order)[10:]  # after both warm-ups, of five samples each
    assert timed == "abba" * 10


def test_a_drift_of_the_machine_cancels(monkeypatch):
    clock = _Clock(monkeypatch)
    drift = lambda factor: lambda: int(factor * (1_000_000 + clock.now // 1000))  # noqa: E731
    found = _measure(clock, drift(1), drift(2), max_pairs=200)
    assert found.ratio.low <= 2.0 <= found.ratio.high
    assert found.ratio.high - found.ratio.low < 0.02


def test_pairs_beside_a_lost_core_are_dropped(monkeypatch):
    times = iter(range(10**6))
    lost = {10, 11, 12}
    canary = lambda: 5.0 if next(times) in lost else 1.0  # noqa: E731
    found = _measure(_Clock(monkeypatch), 1_000_000, 3_000_000, canary, max_pairs=20, seconds=9.0)
    assert found.dropped == 4 and found.pairs == 16 and not found.unsteady


def test_a_machine_that_is_never_steady_says_so(monkeypatch):
    values = iter([1.0, 5.0] * 10**5)
    found = _measure(
        _Clock(monkeypatch), 10**6, 10**6, lambda: next(values), max_pairs=20, seconds=9.0
    )
    assert found.unsteady and found.dropped == 0 and found.pairs == 20


def test_short_calls_are_timed_in_groups(monkeypatch):
    clock = _Clock(monkeypatch)
    side = Side(clock.work("a", 1000), [Call((), {})])
    side.calibrate()
    assert side.inner == 300 and side.sample() == pytest.approx(1e-6)


def _linear(hot=False, **options):
    case = Case(sizes={"N": 64, "K": 64}, given=("bias",), lead=(4,))
    return Benchmark(name="x", case=case, dtype=torch.float32, hot=hot, **options)


def _inputs(benchmark, spec="linear_act", **options):
    values = {"cache_bytes": 1 << 20, "memory_bytes": 1 << 30, "hot": False, "seed": 0}
    return make_inputs(SPECS[spec], benchmark, **(values | options))


def test_cold_inputs_exceed_the_caches():
    found = _inputs(_linear())
    total = sum(call.nbytes() for call in found.kpt)
    assert total >= BEYOND_CACHE * (1 << 20) and not found.hot
    pointers = [t.data_ptr() for call in found.kpt for t in call.tensors()]
    assert len(set(pointers)) == len(pointers)
    assert all(torch.equal(a, b) for a, b in zip(found.kpt[0].tensors(), found.kpt[-1].tensors()))
    # Both sides get the same tensors, so neither has a kinder alignment.
    assert all(a.args[0] is b.args[0] for a, b in zip(found.kpt, found.eager))


def test_cold_inputs_stay_within_memory():
    found = _inputs(_linear(), memory_bytes=100_000)
    assert sum(c.nbytes() for c in found.kpt) <= 100_000 and "fewer than wanted" in found.residency


def test_hot_inputs_are_one_set():
    for found in (_inputs(_linear(hot=True)), _inputs(_linear(), hot=True)):
        assert len(found.kpt) == len(found.eager) == 1
        assert found.hot and found.residency.startswith("in cache")


def test_eager_may_have_inputs_of_its_own():
    found = _inputs(_linear(eager_inputs=lambda x, weight, bias, activation: (x, weight + 1)))
    assert len(found.eager[0].args) == 2 and len(found.kpt[0].args) == 4
    both = sum(c.nbytes() for c in (*found.kpt, *found.eager))
    assert both >= BEYOND_CACHE * (1 << 20)


def test_an_output_is_given_to_ours_alone():
    row = Benchmark(
        name="x", case=Case(sizes={"N": 64}, lead=(4,)), dtype=torch.float32, use_out=True
    )
    found = _inputs(row, spec="softmax")
    assert all(c.kwargs["out"].shape == (4, 64) for c in found.kpt)
    assert all("out" not in c.kwargs for c in found.eager)


def test_kept_memory_ends_page_faults():
    size = 48 << 20
    with kept_memory():
        assert settles(lambda: torch.empty(size, dtype=torch.uint8).fill_(1))


def test_a_call_that_always_gets_new_memory_does_not_settle(monkeypatch):
    faults = iter(range(0, 10**6, 1000))
    usage = lambda _: types.SimpleNamespace(ru_minflt=next(faults))  # noqa: E731
    monkeypatch.setattr("kernel_pytorch.bench.allocator.resource.getrusage", usage)
    assert not settles(lambda: None)


def _cache(root, cpu_index, index, kind, level, size, sharers):
    folder = root / f"sys/devices/system/cpu/cpu{cpu_index}/cache/index{index}"
    folder.mkdir(parents=True)
    for name, text in (
        ("type", kind),
        ("level", level),
        ("size", size),
        ("shared_cpu_list", sharers),
    ):
        (folder / name).write_text(f"{text}\n")


def test_last_level_caches_are_those_within_reach(tmp_path):
    for i in range(4):
        _cache(tmp_path, i, 0, "Data", 1, "32K", i)
        _cache(tmp_path, i, 1, "Instruction", 4, "64K", i)
        _cache(tmp_path, i, 2, "Unified", 3, "32M", "0-1" if i < 2 else "2-3")
    assert caches.last_level_bytes({0}, tmp_path) == 32 << 20
    assert caches.last_level_bytes({0, 1}, tmp_path) == 32 << 20
    assert caches.last_level_bytes({1, 2}, tmp_path) == 64 << 20
    assert caches.last_level_bytes({7}, tmp_path) == 0


def test_limits_are_measured_and_bound_a_cost():
    limits = Limits(1 << 20)
    summary = limits.summary()
    assert set(summary) == {*COMPUTE, "read", "copy"} and min(summary.values()) > 0
    assert limits.floor(Cost(flops=1e9, read_bytes=8)).bound == "fp32"
    assert limits.floor(Cost(read_bytes=1e9)).bound == "read"
    floor = limits.floor(Cost(read_bytes=1e9, write_bytes=1e9))
    assert floor.bound == "copy" and 1e-4 < floor.seconds < 100


def test_threads_are_as_before():
    from kernel_pytorch.bench.run import Options, run

    before = torch.get_num_threads()
    options = Options(ops=("softmax",), match="512x1024", seconds=0.01, threads=1)
    found = run(options)
    assert found.machine.threads == 1 and torch.get_num_threads() == before
    assert cpu.max_threads() == before
