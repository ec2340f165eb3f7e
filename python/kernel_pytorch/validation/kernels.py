"""Whether the kernels for this machine keep their operators' contracts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kernel_pytorch.core.config import KernelPyTorchConfig
from kernel_pytorch.core.dispatch_log import explain
from kernel_pytorch.ops import SPECS, contract
from kernel_pytorch.ops.spec import Case, OpSpec
from kernel_pytorch.validation.report import Check, Outcome, failed, passed, skipped, warned

__all__ = ["KernelResult", "contract_result", "kernel_checks"]


@dataclass(frozen=True, kw_only=True)
class KernelResult:
    """One operator in one dtype on one device."""

    op: str
    family: str
    dtype: str
    backend: str
    implementation: str
    """"native", "fallback" (the reference ran), "failed" or "skipped"."""
    variants: tuple[str, ...] = ()
    cases: int = 0
    error: float | None = None
    """Root-mean-square error against float64, of the output nearest to its bound."""
    eager_error: float | None = None
    """PyTorch's in the same dtype."""
    bound: float | None = None
    reason: str = ""
    """Of a fallback, a failure or a skip."""


def contract_result(
    spec: OpSpec,
    dtype: torch.dtype,
    cases: Sequence[Case],
    *,
    backend: str = "cpu",
    device: str = "cpu",
    kernel: Callable[..., Any] | None = None,
) -> KernelResult:
    """Holds the operator to its error bound on some cases, and says what ran.

    ``kernel`` is called in place of the operator, if given.
    """
    worst: contract.OutputError | None = None
    failure = ""
    with torch.no_grad(), explain() as calls:
        for case in cases:
            try:
                errors = contract.check_accuracy(spec, case, dtype, device=device, kernel=kernel)
            except Exception as error:  # whatever a kernel may do, the others are checked too
                kind = "" if isinstance(error, contract.ContractError) else type(error).__name__
                lines = str(error).splitlines() or [""]
                failure = f"{kind}: {lines[0]}".removeprefix(": ")
                break
            for error_of in errors:
                if worst is None or error_of.share > worst.share:
                    worst = error_of
    ran = [c for c in calls if c.op == spec.name]
    native = tuple(dict.fromkeys(c.variant for c in ran if c.implementation == "native"))
    fallbacks = [c.reason for c in ran if c.implementation == "reference"]
    if not cases:
        implementation, reason = "skipped", "no declared case holds data"
    elif failure:
        implementation, reason = "failed", failure
    elif fallbacks:
        share = f"{len(fallbacks)} of {len(ran)} calls: " if native else ""
        implementation, reason = "fallback", share + fallbacks[0]
    elif native or kernel is not None:
        implementation, reason = "native", ""
    else:
        implementation, reason = "failed", "no call of it was recorded"
    return KernelResult(
        op=spec.name,
        family=spec.family,
        dtype=contract.short(dtype),
        backend=backend,
        implementation=implementation,
        variants=native,
        cases=len(cases),
        error=None if worst is None else worst.rms,
        eager_error=None if worst is None else worst.eager_rms,
        bound=None if worst is None else worst.bound,
        reason=reason,
    )


def kernel_checks(config: KernelPyTorchConfig) -> list[Check]:
    """One check for each operator, on the first of its cases; and the options about kernels."""

    def one(spec: OpSpec) -> Outcome:
        if not config.kernel.enabled:
            return skipped("kernel.enabled is false")
        case = contract.served_cases(spec)[:1]
        results = [contract_result(spec, dtype, case) for dtype in spec.dtypes]
        for wanted, verdict in (("failed", failed), ("fallback", warned)):
            found = [r for r in results if r.implementation == wanted]
            if found:
                return verdict("; ".join(f"{r.dtype}: {r.reason}" for r in found))
        variants = sorted({v for r in results for v in r.variants})
        return passed(f"native: {', '.join(variants)}", variants=variants)

    def options() -> Outcome:
        kernel = config.kernel
        asked = [n for n in ("fp8_layernorm", "fp8_attention", "fp8_matmul") if getattr(kernel, n)]
        if asked and not kernel.enabled:
            return failed(f"{', '.join(asked)}: asked for, but kernel.enabled is false")
        if not kernel.fallback_to_pytorch:
            lacking = sorted(s.name for s in SPECS.values() if "cpu" not in s.native_backends)
            if lacking:
                return warned(f"no fallback is allowed, and {', '.join(lacking)} need it")
        return passed("the options fit together")

    return [
        Check(name="options", run=options),
        *(Check(name=n, run=functools.partial(one, SPECS[n])) for n in sorted(SPECS)),
    ]
