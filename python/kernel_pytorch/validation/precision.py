"""Whether a model's weights survive the precision that is configured for them."""

from __future__ import annotations

import torch
from torch import nn

from kernel_pytorch.core.config import PrecisionConfig
from kernel_pytorch.core.enums import PrecisionFormat
from kernel_pytorch.core.memory_use import weight_bytes
from kernel_pytorch.validation.report import Check, Outcome, failed, passed, skipped, warned

__all__ = ["precision_checks"]

# What a weight becomes; of formats that are scaled, the scale puts the largest at the end.
_DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
_MOST_ERROR = {"fp32": 1e-6, "fp16": 1e-2, "bf16": 1e-2, "fp8_e4m3": 5e-2, "fp8_e5m2": 1e-1}


def _chosen(config: PrecisionConfig) -> str:
    """The format's name among :data:`_DTYPES`; "" for one that is not among them."""
    if config.fp8_enabled:
        return "fp8_e4m3"
    value = config.default_format
    name = value.value.lower() if isinstance(value, PrecisionFormat) else str(value)
    return name if name in _DTYPES else ""


def _rounded(t: torch.Tensor, name: str) -> torch.Tensor:
    dtype = _DTYPES[name]
    if not name.startswith("fp8"):
        return t.to(dtype).double()
    largest = torch.finfo(dtype).max
    scale = t.abs().amax().double().clamp_min(1e-300) / largest
    return (t.double() / scale).clamp(-largest, largest).float().to(dtype).double() * scale


def precision_checks(model: nn.Module, config: PrecisionConfig) -> list[Check]:
    """Ranges, rounding errors and sizes, found by converting the weights."""
    name = _chosen(config)
    weights = {n: p.detach() for n, p in model.named_parameters() if p.is_floating_point()}

    def known() -> Outcome:
        if not name:
            return skipped(f"{config.default_format}: weights are not converted to that")
        if not weights:
            return failed("the model has no floating-point parameter")
        return passed(f"{len(weights)} parameters to {name}")

    def in_range() -> Outcome:
        if not name or not weights:
            return skipped("nothing is converted")
        lost = [
            n
            for n, w in weights.items()
            if bool(w.isfinite().all()) and not bool(_rounded(w, name).isfinite().all())
        ]
        bad = [n for n, w in weights.items() if not bool(w.isfinite().all())]
        if lost or bad:
            return failed(f"not finite in {name}: {', '.join((lost + bad)[:5])}", names=lost + bad)
        return passed(f"all weights are finite in {name}")

    def error() -> Outcome:
        if not name or not weights:
            return skipped("nothing is converted")
        errors = {}
        for n, w in weights.items():
            size = float(w.double().norm())
            errors[n] = float((_rounded(w, name) - w.double()).norm()) / size if size else 0.0
        worst = max(errors, key=lambda n: errors[n])
        bound = _MOST_ERROR[name]
        said = f"largest relative error {errors[worst]:.2g} ({worst}), bound {bound:g}"
        if not errors[worst] <= bound:
            return failed(said, errors=errors)
        return passed(said, worst=worst, error=errors[worst])

    def budget() -> Outcome:
        if not name or not weights:
            return skipped("nothing is converted")
        now = weight_bytes(model)
        then = sum(w.numel() for w in weights.values()) * _DTYPES[name].itemsize
        then += now - sum(w.nbytes for w in weights.values())
        share = then / now
        said = f"{then / 2**20:.3g} MiB in {name}, {share:.0%} of now"
        if share > config.memory_budget:
            return warned(f"{said}: over the budget of {config.memory_budget:.0%}", share=share)
        return passed(said, share=share)

    return [
        Check(name="format", run=known),
        Check(name="range", run=in_range),
        Check(name="rounding error", run=error),
        Check(name="memory budget", run=budget),
    ]
