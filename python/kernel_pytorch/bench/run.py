"""Runs benchmark rows and makes the record."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

import kernel_pytorch
from kernel_pytorch.backends import cpu
from kernel_pytorch.bench import record
from kernel_pytorch.bench.allocator import kept_memory, settles
from kernel_pytorch.bench.caches import last_level_bytes
from kernel_pytorch.bench.goals import FAMILIES, SUITES, goal_of
from kernel_pytorch.bench.inputs import BEYOND_CACHE, Call, available_bytes, make_inputs
from kernel_pytorch.bench.limits import Limits
from kernel_pytorch.bench.measure import Paired, Side, measure_pairs
from kernel_pytorch.bench.overhead import measure_overhead
from kernel_pytorch.bench.tracking import tracked
from kernel_pytorch.bench.training import step_of, sum_of, trainable
from kernel_pytorch.core import provenance
from kernel_pytorch.core.performance_store import PerformanceMetrics
from kernel_pytorch.ops import SPECS
from kernel_pytorch.ops.spec import Benchmark, OpSpec

__all__ = ["Options", "run", "select"]

_MEMORY_SHARE = 0.4


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run and how long."""

    ops: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    match: str = ""
    """Only rows whose name contains this."""
    suite: str = ""
    """Only rows of this suite (:data:`kernel_pytorch.bench.goals.SUITES`)."""
    hot: bool = False
    """Keep every row's inputs in the caches."""
    seconds: float = 2.0
    """Timed for about this long a row."""
    overhead: bool = True
    threads: int | None = None
    """None: torch's."""


def select(options: Options) -> list[tuple[OpSpec, Benchmark]]:
    """The declared rows that pass the filters, by family and operator.

    Raises ValueError for a filter that names an unknown operator, family, dtype or suite.
    """
    _known("--op", options.ops, SPECS)
    _known("--suite", (options.suite,) if options.suite else (), SUITES)
    _known("--family", options.families, {s.family for s in SPECS.values()})
    rows = [
        (spec, row)
        for spec in sorted(SPECS.values(), key=lambda s: (s.family, s.name))
        for row in spec.benchmarks
    ]
    _known("--dtype", options.dtypes, {_short(row.dtype) for _, row in rows})
    return [
        (spec, row)
        for spec, row in rows
        if (not options.ops or spec.name in options.ops)
        and (not options.families or spec.family in options.families)
        and (not options.dtypes or _short(row.dtype) in options.dtypes)
        and options.match in row.name
        and (
            not options.suite
            or FAMILIES.get(options.suite) == spec.family
            or goal_of(spec.name, row.name, _short(row.dtype), options.suite)
        )
    ]


def _known(flag: str, wanted: Iterable[str], known: Iterable[str]) -> None:
    names = sorted(known)
    for name in wanted:
        if name not in names:
            raise ValueError(f"{flag} {name}: unknown; there are {', '.join(names)}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def run(
    options: Options,
    on_row: Callable[[int, int, str], None] = lambda done, total, name: None,
    on_samples: Callable[[PerformanceMetrics], None] = lambda run: None,
) -> record.Record:
    """Runs the selected rows at the ISA level in use.

    ``on_row(done, total, name)`` is called before each row, ``on_samples(run)`` after it, with all
    samples, as a performance store holds them. Ctrl-C ends the run early, with the
    rows measured so far, once there are any. Raises ValueError for unknown filters
    or when nothing is selected, and
    :class:`~kernel_pytorch.core.errors.NativeUnavailableError` without the native module.
    """
    rows = select(options)
    if not rows:
        raise ValueError("no benchmark passes the filters")
    cpu.isa()  # raises without the native module, rather than timing references
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads or threads)
    try:
        return _run(rows, options, on_row, on_samples)
    finally:
        torch.set_num_threads(threads)


def _run(
    rows: list[tuple[OpSpec, Benchmark]],
    options: Options,
    on_row: Callable[[int, int, str], None],
    on_samples: Callable[[PerformanceMetrics], None],
) -> record.Record:
    cache = last_level_bytes() or max(
        cpu.cpu_features()["l3_bytes"], cpu.cpu_features()["l2_bytes"]
    )
    memory = int(available_bytes() * _MEMORY_SHARE)
    on_row(0, len(rows), "limits of the machine")
    limits = Limits(min(BEYOND_CACHE * cache, memory // 4))
    limits.summary()
    measured: list[record.Row] = []
    skipped: dict[str, str] = {}
    overhead: list[record.Overhead] = []
    interrupted = False
    with torch.inference_mode():
        try:
            for done, (spec, row) in enumerate(rows):
                name = f"{spec.name} {row.name} {_short(row.dtype)}"
                on_row(done, len(rows), name)
                try:
                    business = provenance.Business()
                    with _mode(row):
                        line, paired = _measure(spec, row, limits, options, cache, memory)
                    measured.append(line)
                    on_samples(tracked(line, paired, business.share()))
                except (MemoryError, NotImplementedError, RuntimeError) as error:
                    # One row that PyTorch or the machine cannot do must not cost the others.
                    skipped[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            on_row(len(rows), len(rows), "cost of a call")
            overhead += _overhead(options)
        except KeyboardInterrupt:
            if not measured:
                raise
            interrupted = True
    return record.Record(
        machine=record.machine(),
        versions=record.versions(),
        date=record.today(),
        limits=limits.summary(),
        limit_variants=dict(limits.variants),
        rows=measured,
        overhead=overhead,
        skipped=skipped,
        interrupted=interrupted,
    )


def _overhead(options: Options) -> Iterator[record.Overhead]:
    if options.overhead and not (options.ops or options.families or options.match or options.suite):
        yield from measure_overhead()


def _mode(row: Benchmark) -> contextlib.AbstractContextManager[Any]:
    """Fresh outputs of a step of training would be measured by their page faults, as those of
    ``out=`` rows by eager."""
    stack = contextlib.ExitStack()
    if row.use_out or row.backward_cost is not None:
        stack.enter_context(kept_memory())
    if row.backward_cost is not None:
        stack.enter_context(torch.inference_mode(False))
    return stack


def _measure(
    spec: OpSpec, row: Benchmark, limits: Limits, options: Options, cache: int, memory: int
) -> tuple[record.Row, Paired]:
    inputs = make_inputs(
        spec, row, cache_bytes=cache, memory_bytes=memory, hot=options.hot, seed=len(row.name)
    )
    packet = getattr(torch.ops.kpt, spec.name)
    ours = packet.out if row.use_out else packet
    if row.in_place:
        ours = getattr(torch.ops.kpt, f"{spec.name}_")
    eager = row.eager or spec.eager
    if row.backward_cost is not None:
        inputs = trainable(spec, inputs)
        ours, eager = step_of(ours, inputs.kpt[0]), step_of(eager, inputs.eager[0])
    residency = inputs.residency
    if row.use_out and not settles(lambda: eager(*inputs.eager[0].args, **inputs.eager[0].kwargs)):
        residency += "; PyTorch's output in new memory"
    variant, native = _what_ran(ours, inputs.kpt[0])
    arguments = inputs.kpt[0].args, _without_out(inputs.kpt[0])
    cost = spec.cost(*arguments[0], **arguments[1])
    if row.backward_cost is not None:
        cost = sum_of(cost, row.backward_cost(*arguments[0], **arguments[1]))
    # With the results: a fresh output passes through the caches as well.
    working_set = int(cost.read_bytes + cost.write_bytes) if inputs.hot else None
    before = limits.floor(cost, working_set)
    # The second side starts half-way round: a matrix is never read just after the other read it.
    paired = measure_pairs(
        Side(ours, inputs.kpt),
        Side(eager, inputs.eager, start=len(inputs.eager) // 2),
        limits.canary,
        seconds=options.seconds,
    )
    # The better one: a probe may have lost a core too.
    floor = min(before, limits.floor(cost, working_set))
    goal = goal_of(spec.name, row.name, _short(row.dtype))
    line = record.Row(
        op=spec.name,
        family=spec.family,
        name=row.name,
        dtype=_short(row.dtype),
        kpt=paired.first,
        torch=paired.second,
        ratio=paired.ratio.median,
        ratio_low=paired.ratio.low,
        ratio_high=paired.ratio.high,
        limit_share=floor.seconds / paired.first,
        bound=floor.bound,
        variant=variant,
        native=native,
        residency=residency,
        out=row.use_out,
        pairs=paired.pairs,
        dropped=paired.dropped,
        unsteady=paired.unsteady,
        goal_ratio=goal.ratio if goal else None,
        goal_share=goal.share if goal else None,
        goal_why=goal.why if goal else "",
    )
    return line, paired


def _without_out(call: Call) -> dict[str, object]:
    return {k: v for k, v in call.kwargs.items() if k != "out"}


def _what_ran(function: Callable[..., object], call: Call) -> tuple[str, bool]:
    with kernel_pytorch.explain() as calls:
        function(*call.args, **call.kwargs)
    last = list(calls)[-1]
    if last.implementation == "native":
        return last.variant, True
    return f"reference ({last.reason})", False
