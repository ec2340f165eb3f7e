"""What the contract tests share: inputs of a case, the error criterion, sentinels, reproduction.

Every test here is derived from the operators' declarations; an operator that is declared is
tested, whatever it computes.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

import kernel_pytorch
from kernel_pytorch.backends import cpu
from kernel_pytorch.ops import SPECS
from kernel_pytorch.ops.spec import Case, OpSpec

ISA_LEVELS = ("baseline", "avx2", "avx512", "avx512_bf16", "amx")
POOLED_ELEMENTS = 1024
MOST_REPEATS = 200
SENTINEL_BYTE = 0xA5


def specs() -> list[OpSpec]:
    """The declared operators, by name."""
    return [SPECS[name] for name in sorted(SPECS)]


def isa_levels() -> list[str]:
    """The levels that this CPU has, lowest first."""
    return list(ISA_LEVELS[: ISA_LEVELS.index(cpu.detected_isa()) + 1])


def op_of(spec: OpSpec) -> Callable[..., Any]:
    return getattr(torch.ops.kpt, spec.name)


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def seed_of(spec: OpSpec, case: Case, dtype: torch.dtype, repeat: int = 0) -> int:
    """A seed that is the same in every process."""
    return zlib.crc32(f"{spec.name}/{case}/{dtype}/{repeat}".encode())


def inputs(
    spec: OpSpec, case: Case, dtype: torch.dtype, repeat: int = 0, device: str = "cpu"
) -> tuple[list[Any], dict[str, Any]]:
    """The same numbers on every device."""
    generator = torch.Generator().manual_seed(seed_of(spec, case, dtype, repeat))
    args, kwargs = spec.build(case, dtype, generator)
    if device == "cpu":
        return args, kwargs
    moved: tuple[list[Any], dict[str, Any]] = map_tensors(lambda t: t.to(device), (args, kwargs))
    return moved


def reproduction(spec: OpSpec, case: Case, dtype: torch.dtype, level: str, repeat: int) -> str:
    """One line that makes the failing call again; ``level`` is an ISA level, or the name of a
    variant that is forced."""
    isa = f"KPT_ISA={level} " if level in ISA_LEVELS else ""
    forced = (
        ""
        if isa
        else f"from kernel_pytorch._native import load; "
        f"load('cpu').force_variant('{spec.name}', '{level}'); "
    )
    return (
        f'reproduce: {isa}python -c "import torch, kernel_pytorch; '
        f"torch.set_num_threads({torch.get_num_threads()}); {forced}"
        f"from kernel_pytorch.ops import SPECS; from kernel_pytorch.ops.spec import Case; "
        f"s = SPECS['{spec.name}']; a, k = s.build({case!r}, {dtype}, "
        f"torch.Generator().manual_seed({seed_of(spec, case, dtype, repeat)})); "
        f'print(torch.ops.kpt.{spec.name}(*a, **k))"'
    )


def map_tensors(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(function, v) for v in value)
    if isinstance(value, dict):
        return {k: map_tensors(function, v) for k, v in value.items()}
    return value


def widened(value: Any) -> Any:
    """The same inputs in float64, where they are floating point."""
    return map_tensors(
        lambda t: t.double() if t.dtype.is_floating_point and t.dtype.itemsize > 1 else t, value
    )


def is_fp8(t: torch.Tensor) -> bool:
    return t.is_floating_point() and t.itemsize == 1


def comparable(t: torch.Tensor) -> torch.Tensor:
    """fp8 as float32, in which PyTorch can compute; any other tensor as it is."""
    return t.float() if is_fp8(t) else t


def outputs_of(result: Any) -> tuple[torch.Tensor, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def bits(t: torch.Tensor) -> torch.Tensor:
    """The tensor's bit patterns, so that NaN compares equal to itself."""
    t = t.contiguous()
    views = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return t.view(views[t.element_size()])


def assert_bitwise_equal(a: Any, b: Any, what: str) -> None:
    for i, (x, y) in enumerate(zip(outputs_of(a), outputs_of(b), strict=True)):
        if not torch.equal(bits(x), bits(y)):
            differ = (bits(x) != bits(y)).sum().item()
            raise AssertionError(f"{what}: output {i} differs in {differ} of {x.numel()} elements")


@dataclasses.dataclass
class Errors:
    """Errors of one output against float64, pooled over repeats so that ratios mean something."""

    squares: float = 0.0
    largest: float = 0.0
    count: int = 0

    def add(self, got: torch.Tensor, exact: torch.Tensor) -> None:
        finite = torch.isfinite(exact) & torch.isfinite(got.double())
        error = (got.double() - exact)[finite].abs()
        if error.numel() > 0:
            self.squares += float((error**2).sum())
            self.largest = max(self.largest, float(error.max()))
            self.count += error.numel()

    @property
    def rms(self) -> float:
        return (self.squares / max(1, self.count)) ** 0.5


def check_exact(got: tuple[torch.Tensor, ...], want: tuple[torch.Tensor, ...], where: str) -> None:
    """The same bits; NaN may be any NaN."""
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert g.dtype == w.dtype, f"{where}: output {i} has dtype {g.dtype}, not {w.dtype}"
        same = bits(g) == bits(w)
        if g.is_floating_point():
            same |= torch.isnan(comparable(g)) & torch.isnan(comparable(w))
        assert bool(same.all()), f"{where}: output {i} differs in {(~same).sum()} elements"


def check_integers(got: torch.Tensor, want: torch.Tensor, slack: float, where: str) -> None:
    """The same integers; or the nearest but for ``slack``, when ``want`` is before rounding."""
    if not want.is_floating_point():
        assert torch.equal(got, want), f"{where}: integers differ"
        return
    farthest = float((got.double() - want.double()).abs().amax()) if got.numel() else 0.0
    assert farthest <= 0.5 + slack, f"{where}: an integer is {farthest} from what it stands for"


def check_accuracy(
    spec: OpSpec, case: Case, dtype: torch.dtype, level: str, device: str = "cpu"
) -> None:
    """The operator's root-mean-square error against float64 is at most ``vs_eager`` times that of
    eager PyTorch in the same dtype (plus ``floor_ulp`` half units in the last place, the error of
    rounding once); no single error is more than twice as far out; non-finite values fall on the
    same places."""
    kpt: dict[int, Errors] = {}
    eager: dict[int, Errors] = {}
    scale: dict[int, float] = {}
    repeat = 0
    while True:
        args, kwargs = inputs(spec, case, dtype, repeat, device)
        got = outputs_of(op_of(spec)(*args, **kwargs))
        want = outputs_of(spec.reference(*widened(args), **widened(kwargs)))
        baseline = outputs_of(spec.eager(*args, **kwargs))
        where = f"{spec.name} {case} {short(dtype)} {level}"
        line = reproduction(spec, case, dtype, level, repeat)
        if spec.tolerance.exact:
            check_exact(got, outputs_of(spec.reference(*args, **kwargs)), f"{where}\n{line}")
        for i, (g, w, b) in enumerate(zip(got, want, baseline, strict=True)):
            assert g.shape == w.shape, f"{where}: output {i} shape {g.shape} != {w.shape}\n{line}"
            if not g.dtype.is_floating_point:
                check_integers(g, w, spec.tolerance.integers, f"{where}: output {i}\n{line}")
                continue
            exact = w.double()
            in_range = exact.abs() <= torch.finfo(g.dtype).max
            g, b = comparable(g), comparable(b)
            nan_places = torch.isnan(g) == torch.isnan(exact)
            assert bool(nan_places.all()), f"{where}: output {i} has NaN elsewhere\n{line}"
            inf_places = torch.isinf(g) == (torch.isinf(exact) | torch.isinf(b))
            assert bool((inf_places | ~in_range).all()), f"{where}: output {i} infinities\n{line}"
            kpt.setdefault(i, Errors()).add(g, exact)
            eager.setdefault(i, Errors()).add(b, exact)
            finite = exact[torch.isfinite(exact)]
            if finite.numel() > 0:
                scale[i] = max(scale.get(i, 0.0), float(finite.abs().max()))
        repeat += 1
        pooled = sum(e.count for e in kpt.values())
        failures = [
            f"{where}: output {i} {failure}\n{line}"
            for i, errors in kpt.items()
            if (failure := _too_far(spec, i, errors, eager[i], scale.get(i, 0.0), got[i].dtype))
        ]
        # A handful of elements may fail by chance: only many of them do so for good.
        enough = pooled >= POOLED_ELEMENTS or pooled == 0 or repeat >= MOST_REPEATS
        if enough or (repeat >= 6 and not failures):
            break
    assert not failures, failures[0]


def _too_far(
    spec: OpSpec, output: int, kpt: Errors, eager: Errors, scale: float, dtype: torch.dtype
) -> str:
    """How the errors of one output break the rule of :func:`check_accuracy`; "" if they do not."""
    half_ulp = 0.5 * torch.finfo(dtype).eps * scale
    floor = spec.tolerance.other_floors.get(output, spec.tolerance.floor_ulp) * half_ulp
    factor = spec.tolerance.vs_eager
    if kpt.rms > factor * eager.rms + floor:
        return f"rms error {kpt.rms:.3e} > {factor} x eager's {eager.rms:.3e} + {floor:.1e}"
    if kpt.largest > 2 * factor * eager.largest + 2 * floor:
        return f"largest error {kpt.largest:.3e}, eager's {eager.largest:.3e}"
    return ""


def native_function(name: str, backend: str = "cpu") -> Callable[..., str]:
    from kernel_pytorch._native import load

    function: Callable[..., str] = getattr(load(backend), name)
    return function


def ran_native(calls: kernel_pytorch.core.dispatch_log.Explanation, name: str) -> bool:
    return any(c.op == name and c.implementation == "native" for c in calls)


def bound_values(spec: OpSpec, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
    from kernel_pytorch.ops.validate import bind

    return list(bind(spec, tuple(args), kwargs).values())


class Guarded:
    """A tensor inside a larger buffer of sentinel bytes: offset by one element, rows apart."""

    def __init__(
        self, shape: torch.Size, dtype: torch.dtype, row_gap: int = 3, device: Any = "cpu"
    ) -> None:
        size = dtype.itemsize
        last = shape[-1] if len(shape) else 1
        rows = 1
        for n in shape[:-1]:
            rows *= n
        stride = last + row_gap
        self._buffer = torch.full(
            ((rows * stride + 8) * size,), SENTINEL_BYTE, dtype=torch.uint8, device=device
        )
        strides = []
        step = stride
        for n in reversed(shape[:-1]):
            strides.append(step)
            step *= max(n, 1)
        strides = [*reversed(strides), 1] if len(shape) else []
        self.tensor = self._buffer.view(dtype).as_strided(tuple(shape), tuple(strides), 1)

    def assert_untouched_outside(self, what: str) -> None:
        mask = torch.ones_like(self._buffer, dtype=torch.bool)
        size = self.tensor.element_size()
        inside = mask.view(-1, size)
        inside.as_strided(
            (*self.tensor.shape, size), (*(s * size for s in self.tensor.stride()), 1), size
        ).fill_(False)
        assert bool((self._buffer[mask] == SENTINEL_BYTE).all()), f"{what}: wrote outside"


def strided_views(t: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The same values under other memory layouts with a dense last dimension."""
    if t.dim() >= 1:
        guarded = Guarded(t.shape, t.dtype, device=t.device)
        guarded.tensor.copy_(t)
        yield "rows apart, offset by one element", guarded.tensor
    if t.dim() >= 3:
        yield "leading dims transposed", t.transpose(0, -2).contiguous().transpose(0, -2)
    if t.dim() >= 2 and t.shape[0] > 1:
        yield "first dim expanded", t[:1].expand(t.shape)


@functools.cache
def served_cases(spec: OpSpec) -> tuple[Case, ...]:
    """The cases with data in them."""
    return tuple(c for c in spec.cases if 0 not in c.lead and 0 not in c.sizes.values())


def small_cases(spec: OpSpec, count: int = 12) -> list[Case]:
    """A spread of about ``count`` cases, and one more for each value of an option and each optional
    tensor that the spread misses."""
    found = served_cases(spec)
    chosen = list(found[:: max(1, len(found) // count)])

    def features(case: Case) -> set[str]:
        return {f"{k}={v!r}" for k, v in case.options.items()} | set(case.given)

    seen = set().union(*map(features, chosen))
    for case in found:
        if not features(case) <= seen:
            seen |= features(case)
            chosen.append(case)
    return chosen
