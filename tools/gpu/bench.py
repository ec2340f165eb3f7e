"""How fast the kernels are on this GPU, beside what it can do at all and what PyTorch does.

Times are the GPU's own (events around a run of launches that waits in the stream, so that the CPU's
part does not count), interleaved, the median of several; inputs rotate through more memory than the
second-level cache holds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch

import kernel_pytorch  # noqa: F401  (registers the operators)
from kernel_pytorch.ops import SPECS
from kernel_pytorch.ops.spec import Benchmark, Case, OpSpec
from tests.contract import harness
from tools.gpu import attention_bench

__all__ = ["limits", "rows"]

_DEVICE = "cuda"
_ROUNDS = 7
_ROUND_SECONDS = 0.02
_limits: dict[str, float] = {}


def _seconds(run: Callable[[int], Any], count: int) -> float:
    """Of one call, over `count` of them."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(2_000_000)
    start.record()
    for i in range(count):
        run(i)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / count


def _measure(runs: Sequence[Callable[[int], Any]]) -> list[float]:
    """Median seconds of each, interleaved."""
    counts = []
    for run in runs:
        run(0)
        torch.cuda.synchronize()
        counts.append(max(1, min(200, int(_ROUND_SECONDS / max(_seconds(run, 2), 1e-6)))))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(_ROUNDS):
        for i, run in enumerate(runs):
            times[i].append(_seconds(run, counts[i]))
    return [statistics.median(t) for t in times]


def limits(_: str) -> dict[str, Any]:
    """The GPU's ceilings: bytes a second of a large copy (read and written), operations a second of
    a large bfloat16 product, by PyTorch and by this library's own building blocks."""
    if not _limits:
        source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        (copy,) = _measure([lambda i: target.copy_(source)])
        _limits["memory"] = 2 * source.nbytes / copy
        del source, target
        size = 8192
        a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
        out = torch.empty_like(a)
        (torch_product,) = _measure([lambda i: torch.mm(a, b.T, out=out)])
        _limits["bf16"] = 2 * size**3 / torch_product
        try:
            native = harness.native_function("probe_product", "cuda")
            (own,) = _measure([lambda i: native(out, a, b)])
            _limits["bf16_own_blocks"] = 2 * size**3 / own
        except NotImplementedError:
            pass  # for Hopper alone
    return dict(_limits)


def _for_gpu(spec: OpSpec) -> list[Benchmark]:
    """The declared rows and, of row-wise operators, one in each dtype that fills a GPU."""
    found = [*attention_bench.rows(spec.name), *spec.benchmarks]
    if spec.row_dims != 1:
        return found
    for dtype in dict.fromkeys(b.dtype for b in spec.benchmarks):
        row = next(b for b in spec.benchmarks if b.dtype == dtype)
        if len(row.case.lead) == 1 and len(row.case.sizes) == 1:
            (name,) = row.case.sizes
            case = Case(
                sizes={name: 8192}, options=row.case.options, given=row.case.given, lead=(8192,)
            )
            found.insert(0, Benchmark(name="8192x8192", case=case, dtype=dtype, eager=row.eager))
    return found


def _runs(peer: Callable[..., Any], call: tuple[Any, Any]) -> bool:
    """Whether this PyTorch, on this GPU, has the peer for these arguments and memory for it."""
    try:
        peer(*call[0], **call[1])
        if _DEVICE == "cuda":
            torch.cuda.synchronize()
    except (RuntimeError, NotImplementedError) as error:
        if "CUDA error" in str(error):
            raise
        torch.cuda.empty_cache()
        return False
    return True


def _rotating(function: Callable[..., Any], sets: Sequence[Any]) -> Callable[[int], Any]:
    """Calls with the next of several sets of arguments each time."""

    def run(i: int) -> Any:
        args, kwargs = sets[i % len(sets)]
        return function(*args, **kwargs)

    return run


def rows(op: str) -> dict[str, Any]:
    """Each benchmark row: time, rate, share of the limit, and the ratio to PyTorch's fastest way
    (eager, torch.compile; of attention also its flash and cuDNN backends and flex_attention)."""
    spec = SPECS[op]
    ceilings = limits("")
    found = []
    for benchmark in _for_gpu(spec):
        if benchmark.eager_inputs is not None:
            continue  # made for packed weights on the CPU
        args, kwargs = spec.build(benchmark.case, benchmark.dtype, torch.Generator().manual_seed(0))
        first = harness.map_tensors(lambda t: t.to(_DEVICE), (args, kwargs))
        size = sum(t.nbytes for t in first[0] if isinstance(t, torch.Tensor))
        copies = max(1, min(64, -(-(256 << 20) // max(size, 1))))
        sets = [first, *(harness.map_tensors(torch.clone, first) for _ in range(copies - 1))]
        eager = benchmark.eager or spec.eager
        peers = {"eager": eager, "torch.compile": torch.compile(eager, dynamic=False)}

        peers |= attention_bench.peers(op, benchmark.case)
        with torch.no_grad():
            peers = {name: peer for name, peer in peers.items() if _runs(peer, first)}
            functions = [harness.op_of(spec), *peers.values()]
            times = _measure([_rotating(f, sets) for f in functions])
        cost = spec.cost(*first[0], **first[1])
        moved = cost.read_bytes + cost.write_bytes
        least = moved / ceilings["memory"]
        if cost.compute == "bf16":
            least = max(least, cost.flops / ceilings["bf16"])
        best = min(range(len(peers)), key=lambda i: times[1 + i]) if peers else None
        bound_by_memory = least == moved / ceilings["memory"]
        found.append(
            {
                "op": op,
                "name": benchmark.name,
                "dtype": str(benchmark.dtype).removeprefix("torch."),
                "seconds": times[0],
                "rate": (moved if bound_by_memory else cost.flops) / times[0],
                "unit": "B/s" if bound_by_memory else "FLOP/s",
                "share": least / times[0],
                "peer": list(peers)[best] if best is not None else "none that fits",
                "peers": dict(zip(peers, times[1:])),
                "ratio": times[1 + best] / times[0] if best is not None else None,
            }
        )
    return {"limits": ceilings, "rows": found}
