"""Whether a configuration and a model suit NVIDIA, AMD, Intel or TPU hardware.

Sizes and formats come from the vendors' matrix units: the tables of
:mod:`kernel_pytorch.core.hardware_detector.tables` say what each architecture has. What is not in
this machine is checked against the architecture that the configuration names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kernel_pytorch.core.config import KernelPyTorchConfig
from kernel_pytorch.core.hardware_detector import HardwareType, detect_hardware
from kernel_pytorch.core.hardware_detector.tables import Traits, traits_by_name
from kernel_pytorch.validation.model import tensors_of
from kernel_pytorch.validation.report import (
    Check,
    Outcome,
    ValidationLevel,
    failed,
    passed,
    skipped,
    warned,
)

__all__ = ["VENDORS", "Vendor", "configuration_checks", "model_checks"]


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """What a vendor's hardware asks of models."""

    name: str
    section: str
    """Of ``config.hardware``."""
    kind: HardwareType
    architecture: str
    """The field of the section that names it."""
    multiple: int
    """Sizes of matrix products that are no multiple of this are padded."""
    multiple_source: str
    lacks: frozenset[torch.dtype]
    """What it does not compute, or only in software."""


VENDORS = {
    vendor.section: vendor
    for vendor in (
        Vendor(
            name="NVIDIA",
            section="nvidia",
            kind=HardwareType.NVIDIA_GPU,
            architecture="architecture",
            multiple=8,
            multiple_source="16-bit tensor cores load rows of 16 bytes",
            lacks=frozenset(),
        ),
        Vendor(
            name="AMD",
            section="amd",
            kind=HardwareType.AMD_GPU,
            architecture="architecture",
            multiple=16,
            multiple_source="the smallest MFMA and WMMA tiles are 16 wide",
            lacks=frozenset(),
        ),
        Vendor(
            name="Intel",
            section="intel",
            kind=HardwareType.INTEL_GPU,
            architecture="architecture",
            multiple=16,
            multiple_source="XMX and AMX tiles are 16 wide",
            lacks=frozenset({torch.float64, torch.complex128}),
        ),
        Vendor(
            name="TPU",
            section="tpu",
            kind=HardwareType.TPU,
            architecture="version",
            multiple=8,
            multiple_source="the vector unit's registers hold 8 rows",
            lacks=frozenset({torch.float64, torch.complex128}),
        ),
    )
}


def _architecture(vendor: Vendor, section: Any) -> str:
    value = getattr(section, vendor.architecture)
    return str(getattr(value, "value", value))


def _traits(vendor: Vendor, section: Any) -> Traits | None:
    return traits_by_name(_architecture(vendor, section))


def configuration_checks(vendor: Vendor, config: KernelPyTorchConfig) -> list[Check]:
    """The vendor's section against what its architecture can do, and against this machine."""
    section = getattr(config.hardware, vendor.section)

    def enabled() -> Outcome:
        if not section.enabled:
            return failed(f"hardware.{vendor.section}.enabled is false")
        return passed("enabled")

    def architecture() -> Outcome:
        name, traits = _architecture(vendor, section), _traits(vendor, section)
        if traits is None:
            return warned(f"{name}: not in the tables, so nothing is assumed of it")
        return passed(f"{name} is known", source=traits.source)

    def device() -> Outcome:
        name = _architecture(vendor, section)
        here = [a for a in detect_hardware().accelerators if a.hardware_type is vendor.kind]
        if not here:
            return skipped(f"this machine has no {vendor.name} accelerator")
        unusable = [a for a in here if not a.usable]
        if len(unusable) == len(here):
            return failed(f"{here[0].name}: {here[0].why_not}")
        if name != "auto" and all(a.architecture != name for a in here):
            found = ", ".join(sorted({a.architecture or "unknown" for a in here}))
            return failed(f"set for {name}, but the machine has {found}")
        return passed(f"{len(here)} x {here[0].name}")

    def formats() -> Outcome:
        traits = _traits(vendor, section)
        wanted = _wanted_formats(section)
        if traits is None:
            return skipped("an unknown architecture")
        lacking = {
            option: format_
            for option, format_ in wanted.items()
            if not any(f.startswith(format_) for f in traits.matrix_formats)
        }
        if lacking:
            said = ", ".join(f"{o} asks for {f}" for o, f in lacking.items())
            return failed(f"{said}: the matrix units of {traits.name} have none", lacking=lacking)
        return passed(f"{traits.name} has the formats asked for", wanted=wanted)

    def features() -> Outcome:
        traits = _traits(vendor, section)
        if traits is None:
            return skipped("an unknown architecture")
        problems = []
        version = getattr(section, "flash_attention_version", None)
        if version == "3" and not traits.flash_attention_3:
            problems.append("FlashAttention-3 is asked for: FlashAttention-2 runs")
        for option in ("enable_matrix_cores",):
            if getattr(section, option, False) and not traits.matrix_units:
                problems.append(f"{option}: {traits.name} has no matrix units")
        if problems:
            return warned("; ".join(problems), problems=problems)
        return passed(f"{traits.name} has what is asked for")

    def memory() -> Outcome:
        fields = ("memory_fraction", "max_memory_fraction")
        fraction = next((getattr(section, f) for f in fields if hasattr(section, f)), None)
        if fraction is None:
            return skipped("no memory fraction is set")
        if fraction > 0.98:
            return failed(f"memory fraction {fraction:g} leaves nothing for the driver's contexts")
        return passed(f"memory fraction {fraction:g}")

    return [
        Check(name="enabled", run=enabled),
        Check(name="architecture", run=architecture),
        Check(name="device", run=device),
        Check(name="formats", run=formats),
        Check(name="features", run=features),
        Check(name="memory fraction", run=memory),
    ]


def _wanted_formats(section: Any) -> dict[str, str]:
    """Option -> the matrix format that it needs."""
    wanted = {}
    if getattr(section, "fp8_enabled", False):
        wanted["fp8_enabled"] = "fp8"
    short = {"bfloat16": "bf16", "bf16": "bf16", "fp16": "fp16"}
    for option in ("precision", "default_precision"):
        value = getattr(section, option, None)
        if value in short:
            wanted[option] = short[value]
    return wanted


def _products(model: nn.Module) -> Iterator[tuple[str, Mapping[str, int]]]:
    """Name and sizes of every matrix product in the model's modules."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield name, {"in_features": module.in_features, "out_features": module.out_features}
        elif isinstance(module, nn.MultiheadAttention):
            yield name, {"head_dim": module.head_dim, "embed_dim": module.embed_dim}
        elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            groups = module.groups
            yield (
                name,
                {
                    "in_channels": module.in_channels // groups,
                    "out_channels": module.out_channels // groups,
                },
            )


def model_checks(
    vendor: Vendor, model: nn.Module, section: Any, sample_inputs: torch.Tensor | None
) -> list[Check]:
    """Sizes, dtypes and shapes of a model against what the vendor's hardware likes."""
    standard = ValidationLevel.STANDARD

    def parameters() -> Outcome:
        count = sum(p.numel() for p in model.parameters())
        if not count:
            return failed("the model has no parameters")
        size = sum(p.nbytes for p in model.parameters())
        traits = _traits(vendor, section)
        limit = traits.memory_bytes if traits is not None else 0
        if limit and size > limit:
            return failed(
                f"{size / 2**30:.3g} GiB of parameters, and a chip has {limit / 2**30:.3g}"
            )
        return passed(f"{count} parameters, {size / 2**20:.3g} MiB", count=count, bytes=size)

    def sizes() -> Outcome:
        found = [
            f"{name or 'model'}.{size} = {value}"
            for name, sizes_ in _products(model)
            for size, value in sizes_.items()
            if value % vendor.multiple
        ]
        if found:
            return warned(
                f"no multiple of {vendor.multiple} ({vendor.multiple_source}): "
                + ", ".join(found[:5]),
                sizes=found,
            )
        return passed(f"all products have sizes that are multiples of {vendor.multiple}")

    def dtypes() -> Outcome:
        used = {t.dtype for t in (*model.parameters(), *model.buffers())}
        lacking = sorted(str(d) for d in used & vendor.lacks)
        if lacking:
            return failed(f"{vendor.name} has no {', '.join(lacking)}", dtypes=lacking)
        return passed(", ".join(sorted(str(d) for d in used)))

    def batch() -> Outcome:
        if sample_inputs is None:
            return skipped("no sample inputs were given")
        rows = sample_inputs.shape[0] if sample_inputs.dim() else 1
        if rows % vendor.multiple:
            return warned(f"a batch of {rows} is no multiple of {vendor.multiple}")
        return passed(f"a batch of {rows}")

    def runs() -> Outcome:
        if sample_inputs is None:
            return skipped("no sample inputs were given")
        with torch.no_grad():
            outputs = tensors_of(model(sample_inputs))
        bad = sum(int((~t.isfinite()).sum()) for t in outputs if t.is_floating_point())
        if bad:
            return failed(f"{bad} values of the outputs are infinite or NaN")
        return passed("it takes the sample inputs")

    def graph() -> Outcome:
        if sample_inputs is None:
            return skipped("no sample inputs were given")
        try:
            torch.export.export(model, (sample_inputs,))
        except Exception as error:  # whatever the model's code does
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            verdict = failed if vendor.kind is HardwareType.TPU else warned
            return verdict(f"it is no single graph, so it is compiled in pieces: {said}")
        return passed("it is a single graph")

    return [
        Check(name="parameters", run=parameters),
        Check(name="dtypes", run=dtypes),
        Check(name="sizes", run=sizes),
        Check(name="batch", run=batch, level=standard),
        Check(name="runs", run=runs, level=standard),
        Check(name="graph", run=graph, level=ValidationLevel.STRICT),
    ]
