"""What detection makes of this machine: each accelerator, and what follows for optimization."""

from __future__ import annotations

import dataclasses

from kernel_pytorch.cli.doctor.finding import Finding
from kernel_pytorch.core.hardware_detector import Accelerator, get_hardware_detector

__all__ = ["check"]


def check() -> list[Finding]:
    """One finding for the profile, one for each accelerator. What stops one from being used is
    advice of the findings about drivers, and told here without a mark."""
    detector = get_hardware_detector()
    profile = detector.detect()
    level = detector.get_recommended_optimization_level()
    backend = detector.get_optimal_backend()
    capabilities = ", ".join(c.value for c in profile.capabilities)
    memory = f", {profile.total_memory_gb:.0f} GiB" if profile.total_memory_gb else ""
    value = (
        f"{profile.device_count} x {profile.device_name}{memory}; backend {backend}, recommended "
        f"level {level}{capabilities and f'; {capabilities}'}"
    )
    data = profile.to_dict() | {"backend": backend, "recommended_level": level}
    data.pop("cpu")  # has findings of its own
    found = [Finding(area="hardware", name="profile", value=value, data=data)]
    return [*found, *map(_accelerator, profile.accelerators)]


def _accelerator(device: Accelerator) -> Finding:
    words = [device.name, device.architecture or "of an unknown architecture", device.target]
    if device.memory_bytes:
        words.append(f"{device.memory_bytes / 2**30:.0f} GiB")
    if device.traits is not None and device.traits.matrix_formats:
        words.append(f"matrix units for {' '.join(sorted(device.traits.matrix_formats))}")
    if device.links:
        links = ", ".join(f"{link.kind} to {link.peer}" for link in device.links)
        words.append(f"reads {links}")
    words.append(device.why_not)
    return Finding(
        area="hardware",
        name=f"{device.hardware_type.value} {device.index}",
        value=", ".join(filter(None, words)),
        data={
            "name": device.name,
            "architecture": device.architecture,
            "target": device.target,
            "memory_bytes": device.memory_bytes,
            "driver_version": device.driver_version,
            "links": [dataclasses.asdict(link) for link in device.links],
            "usable": device.usable,
            "why_not": device.why_not,
            "source": device.traits.source if device.traits else "",
        },
    )
