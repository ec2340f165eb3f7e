"""The contract of an operator: the same for its native kernels on every backend, for kernels of
third parties and for the reference.

Everything here follows from the declarations, so it holds whatever an operator computes. The
contract tests call it for every case, ``kpt validate`` for a choice of them.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kernel_pytorch.ops.spec import Case, OpSpec

__all__ = [
    "ISA_LEVELS",
    "ContractError",
    "OutputError",
    "bits",
    "check_accuracies",
    "check_accuracy",
    "comparable",
    "inputs",
    "map_tensors",
    "op_of",
    "outputs_of",
    "reproduction",
    "served_cases",
    "short",
    "small_cases",
    "widened",
]

ISA_LEVELS = ("baseline", "avx2", "avx512", "avx512_bf16", "amx")
"""Instruction sets that kernels for the CPU are built for, lowest first."""
_POOLED_ELEMENTS = 1024
_MOST_REPEATS = 200


class ContractError(AssertionError):
    """A kernel broke its operator's contract; the message says how, and how to see it again."""


@dataclass(frozen=True, kw_only=True)
class OutputError:
    """Error of one output against float64, over all of its elements."""

    output: int
    rms: float
    largest: float
    eager_rms: float
    """Of eager PyTorch in the same dtype, against the same float64."""
    bound: float
    """What ``rms`` may be."""

    @property
    def share(self) -> float:
        """The part of the bound that is used: at most 1 when the contract holds."""
        return self.rms / self.bound if self.bound > 0 else 0.0


def op_of(spec: OpSpec) -> Callable[..., Any]:
    """``torch.ops.kpt.<name>``."""
    op: Callable[..., Any] = getattr(torch.ops.kpt, spec.name)
    return op


def short(dtype: torch.dtype) -> str:
    """The dtype's name without ``torch.``."""
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
    variant that is forced, or "" for whatever is chosen."""
    isa = f"KPT_ISA={level} " if level in ISA_LEVELS else ""
    forced = (
        ""
        if isa or not level
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
    """``value`` with ``function`` applied to the tensors in its lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(function, v) for v in value)
    if isinstance(value, dict):
        return {k: map_tensors(function, v) for k, v in value.items()}
    return value


def widened(value: Any) -> Any:
    """The same inputs in float64, where they are floating point."""
    return map_tensors(
        lambda t: t.double() if t.dtype.is_floating_point and t.dtype.itemsize > 1 else t, value
    )


def comparable(t: torch.Tensor) -> torch.Tensor:
    """fp8 as float32, in which PyTorch can compute; any other tensor as it is."""
    return t.float() if t.is_floating_point() and t.itemsize == 1 else t


def outputs_of(result: Any) -> tuple[torch.Tensor, ...]:
    """What an operator returned, as a tuple."""
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def bits(t: torch.Tensor) -> torch.Tensor:
    """The tensor's bit patterns, so that NaN compares equal to itself."""
    t = t.contiguous()
    views = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return t.view(views[t.element_size()])


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


class _Errors:
    """Errors of one output against float64, pooled over repeats so that ratios mean something."""

    def __init__(self) -> None:
        self.squares = 0.0
        self.largest = 0.0
        self.count = 0

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


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ContractError(message)


def _check_exact(got: tuple[torch.Tensor, ...], want: tuple[torch.Tensor, ...], where: str) -> None:
    """The same bits; NaN may be any NaN."""
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        _require(g.dtype == w.dtype, f"{where}: output {i} has dtype {g.dtype}, not {w.dtype}")
        same = bits(g) == bits(w)
        if g.is_floating_point():
            same |= torch.isnan(comparable(g)) & torch.isnan(comparable(w))
        _require(bool(same.all()), f"{where}: output {i} differs in {(~same).sum()} elements")


def _check_integers(got: torch.Tensor, want: torch.Tensor, slack: float, where: str) -> None:
    """The same integers; or the nearest but for ``slack``, when ``want`` is before rounding."""
    if not want.is_floating_point():
        _require(torch.equal(got, want), f"{where}: integers differ")
        return
    farthest = float((got.double() - want.double()).abs().amax()) if got.numel() else 0.0
    _require(farthest <= 0.5 + slack, f"{where}: an integer is {farthest} from what it stands for")


def check_accuracy(
    spec: OpSpec,
    case: Case,
    dtype: torch.dtype,
    level: str = "",
    device: str = "cpu",
    kernel: Callable[..., Any] | None = None,
) -> list[OutputError]:
    """:func:`check_accuracies` of one kernel.

    Args:
        level: for the message: the ISA level or the forced variant that is in use.
        device: where the inputs are put.
        kernel: what is called with the operator's arguments; None: the operator.

    Raises:
        ContractError: the bound is broken; the message names the case and how to see it again.
    """
    kernels = {level: op_of(spec) if kernel is None else kernel}
    return check_accuracies(spec, case, dtype, kernels, device)[level]


def check_accuracies(
    spec: OpSpec,
    case: Case,
    dtype: torch.dtype,
    kernels: Mapping[str, Callable[..., Any]],
    device: str = "cpu",
) -> dict[str, list[OutputError]]:
    """Holds one case to the operator's error bound, for each of ``kernels`` (by ISA level or
    variant) on the same inputs; returns the errors of each one's floating outputs.

    The root-mean-square error against float64 is at most ``vs_eager`` times that of eager PyTorch
    in the same dtype (plus ``floor_ulp`` half units in the last place, the error of rounding once);
    no single error is more than twice as far out; non-finite values fall on the same places.

    Raises:
        ContractError: the bound is broken; the message names the case and how to see it again.
    """
    trials = {level: _Trial(spec, case, dtype, level) for level in kernels}
    found: dict[str, list[OutputError]] = {}
    for repeat in range(_MOST_REPEATS):
        args, kwargs = inputs(spec, case, dtype, repeat, device)
        want = outputs_of(spec.reference(*widened(args), **widened(kwargs)))
        baseline = outputs_of(spec.eager(*args, **kwargs))
        exact = outputs_of(spec.reference(*args, **kwargs)) if spec.tolerance.exact else None
        for level, trial in trials.items():
            if level not in found:
                got = outputs_of(kernels[level](*args, **kwargs))
                trial.add(repeat, got, want, baseline, exact)
                errors = trial.verdict(repeat + 1)
                if errors is not None:
                    found[level] = errors
        if len(found) == len(trials):
            break
    return found


class _Trial:
    """The errors of one kernel on one case, until there are enough of them to judge."""

    def __init__(self, spec: OpSpec, case: Case, dtype: torch.dtype, level: str) -> None:
        self.spec, self.case, self.dtype, self.level = spec, case, dtype, level
        self.where = f"{spec.name} {case} {short(dtype)} {level}".rstrip()
        self.line = ""
        self.kpt: dict[int, _Errors] = {}
        self.eager: dict[int, _Errors] = {}
        self.scale: dict[int, float] = {}
        self.dtypes: list[torch.dtype] = []

    def add(
        self,
        repeat: int,
        got: tuple[torch.Tensor, ...],
        want: tuple[torch.Tensor, ...],
        baseline: tuple[torch.Tensor, ...],
        bitwise: tuple[torch.Tensor, ...] | None,
    ) -> None:
        """Raises ContractError for what no number of repeats makes good."""
        where, tolerance = self.where, self.spec.tolerance
        line = self.line = reproduction(self.spec, self.case, self.dtype, self.level, repeat)
        _require(len(got) == len(want), f"{where}: {len(got)} outputs, not {len(want)}\n{line}")
        self.dtypes = [g.dtype for g in got]
        if bitwise is not None:
            _check_exact(got, bitwise, f"{where}\n{line}")
        for i, (g, w, b) in enumerate(zip(got, want, baseline, strict=True)):
            _require(
                g.shape == w.shape, f"{where}: output {i} shape {g.shape} != {w.shape}\n{line}"
            )
            if not g.dtype.is_floating_point:
                _check_integers(g, w, tolerance.integers, f"{where}: output {i}\n{line}")
                continue
            exact = w.double()
            in_range = exact.abs() <= torch.finfo(g.dtype).max
            g, b = comparable(g), comparable(b)
            nan_places = torch.isnan(g) == torch.isnan(exact)
            _require(bool(nan_places.all()), f"{where}: output {i} has NaN elsewhere\n{line}")
            inf_places = torch.isinf(g) == (torch.isinf(exact) | torch.isinf(b))
            _require(
                bool((inf_places | ~in_range).all()), f"{where}: output {i} infinities\n{line}"
            )
            self.kpt.setdefault(i, _Errors()).add(g, exact)
            self.eager.setdefault(i, _Errors()).add(b, exact)
            finite = exact[torch.isfinite(exact)]
            if finite.numel() > 0:
                self.scale[i] = max(self.scale.get(i, 0.0), float(finite.abs().max()))

    def verdict(self, repeats: int) -> list[OutputError] | None:
        """The errors; None: more repeats are needed. Raises ContractError."""
        pooled = sum(e.count for e in self.kpt.values())
        judged = [
            _judged(self.spec, i, errors, self.eager[i], self.scale.get(i, 0.0), self.dtypes[i])
            for i, errors in self.kpt.items()
        ]
        failures = [
            f"{self.where}: output {error.output} {failure}\n{self.line}"
            for error, failure in judged
            if failure
        ]
        # A handful of elements may fail by chance: only many of them do so for good.
        enough = pooled >= _POOLED_ELEMENTS or pooled == 0 or repeats >= _MOST_REPEATS
        if not enough and (repeats < 6 or failures):
            return None
        if failures:
            raise ContractError(failures[0])
        return [error for error, _ in judged]


def _judged(
    spec: OpSpec, output: int, kpt: _Errors, eager: _Errors, scale: float, dtype: torch.dtype
) -> tuple[OutputError, str]:
    """The errors of one output, and how they break the rule of :func:`check_accuracy`, if so."""
    half_ulp = 0.5 * torch.finfo(dtype).eps * scale
    floor = spec.tolerance.other_floors.get(output, spec.tolerance.floor_ulp) * half_ulp
    factor = spec.tolerance.vs_eager
    error = OutputError(
        output=output,
        rms=kpt.rms,
        largest=kpt.largest,
        eager_rms=eager.rms,
        bound=factor * eager.rms + floor,
    )
    failure = ""
    if error.rms > error.bound:
        failure = f"rms error {kpt.rms:.3e} > {factor} x eager's {eager.rms:.3e} + {floor:.1e}"
    elif kpt.largest > 2 * factor * eager.largest + 2 * floor:
        failure = f"largest error {kpt.largest:.3e}, eager's {eager.largest:.3e}"
    return error, failure
