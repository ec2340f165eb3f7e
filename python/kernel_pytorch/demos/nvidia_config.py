"""How a configuration follows NVIDIA hardware, what it never changes, and how it is kept.

The first step is about this machine. The machines of the second are described here, one for each
generation: what is shown of them is what detection and configuration would make of such a driver's
answers, and needs no GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from kernel_pytorch.core.config import KernelPyTorchConfig, NVIDIAArchitecture
from kernel_pytorch.core.errors import ConfigValidationError
from kernel_pytorch.core.hardware_detector import (
    HardwareDetector,
    OptimizationCapability,
    Probe,
    detect_hardware,
    using_probe,
)
from kernel_pytorch.core.hardware_detector.nvml import Answer, Gpu
from kernel_pytorch.demos.walkthrough import Walkthrough

__all__ = ["run"]

# Name, compute capability, GiB; then what must follow: generation, FP8, tensor cores, level.
_MACHINES = (
    ("NVIDIA V100", (7, 0), 32, NVIDIAArchitecture.VOLTA, False, 1, "balanced"),
    ("NVIDIA A100", (8, 0), 80, NVIDIAArchitecture.AMPERE, False, 3, "balanced"),
    ("NVIDIA L4", (8, 9), 24, NVIDIAArchitecture.ADA, True, 4, "balanced"),
    ("NVIDIA H100", (9, 0), 80, NVIDIAArchitecture.HOPPER, True, 4, "aggressive"),
    ("NVIDIA B200", (10, 0), 180, NVIDIAArchitecture.BLACKWELL, True, 5, "aggressive"),
)


class _Described(Probe):
    """This machine, but with one GPU of which the driver gives the answers that are set here."""

    def __init__(self, name: str, capability: tuple[int, int], gib: int) -> None:
        super().__init__()
        gpu = Gpu(
            name=name,
            uuid="GPU-0",
            bus_id="00000000:01:00.0",
            compute_capability=capability,
            memory_bytes=gib << 30,
            nvlinks=0,
            peers=(),
        )
        self._answer = Answer(driver_version="580.0", cuda_version="13.0", gpus=(gpu,))

    def nvml(self) -> Answer:
        return self._answer

    def torch_build(self, kind: str) -> str | None:
        return "13.0" if kind == "cuda" else None

    def torch_devices(self, kind: str) -> int:
        return int(kind == "cuda")


def run(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Walkthrough:
    """Takes well under a second; ``quick`` looks at two generations instead of all."""
    shown = Walkthrough(title="Configuration for NVIDIA GPUs", say=say)
    for part in (_this_machine, _generations, _what_is_set, _layers, _files, _mistakes):
        part(shown, quick)
    return shown.finished()


def _holds(shown: Walkthrough, what: str, holds: bool) -> None:
    shown.at_least(what, float(holds), 1.0)


def _this_machine(shown: Walkthrough, quick: bool) -> None:
    profile, config = detect_hardware(), KernelPyTorchConfig()
    row = (
        profile.device_name,
        str(profile.device_count),
        config.hardware.backend.value,
        config.hardware.nvidia.architecture.value,
    )
    shown.listing("this machine", ("device", "count", "backend", "architecture"), [row])
    _holds(shown, "a new configuration holds nothing that somebody set", not config.user_values())
    _holds(shown, "defaults do not contradict this machine", not config.conflicts())


def _generations(shown: Walkthrough, quick: bool) -> None:
    rows = []
    for name, capability, gib, architecture, fp8, cores, level in _MACHINES[3 if quick else 0 :]:
        with using_probe(_Described(name, capability, gib)) as probe:
            detector = HardwareDetector(probe)
            profile = detector.detect()
            nvidia = KernelPyTorchConfig().hardware.nvidia
            found = detector.get_recommended_optimization_level()
        fa3 = profile.has_capability(OptimizationCapability.FLASH_ATTENTION_3)
        cells = (nvidia.architecture.value, nvidia.fp8_enabled, nvidia.tensor_core_version, fa3)
        rows.append((name, *map(str, cells), found))
        wanted = (architecture.value, fp8, cores, architecture is NVIDIAArchitecture.HOPPER)
        _holds(shown, f"{name} is told right", (*cells, found) == (*wanted, level))
    columns = ("GPU", "architecture", "FP8", "tensor cores", "FlashAttention-3", "level")
    shown.listing("each generation, as its driver would describe it", columns, rows)


def _what_is_set(shown: Walkthrough, quick: bool) -> None:
    config = KernelPyTorchConfig(
        hardware={"nvidia": {"architecture": "ampere", "fp8_enabled": True}}
    )
    conflicts = config.conflicts()
    shown.listing(
        "what is set stays, and is told when it cannot hold",
        ("conflict",),
        [(conflict,) for conflict in conflicts],
    )
    _holds(shown, "a value that was set is kept", config.hardware.nvidia.fp8_enabled)
    _holds(shown, "its conflict is told", any("ampere has no FP8" in c for c in conflicts))


def _loaded() -> KernelPyTorchConfig:
    return KernelPyTorchConfig.load(
        preset="inference",
        environment={"KPT_CONFIG__HARDWARE__NVIDIA__MEMORY_FRACTION": "0.5"},
        assignments={"hardware.nvidia.architecture": "hopper"},
    )


def _layers(shown: Walkthrough, quick: bool) -> None:
    config = _loaded()
    nvidia = config.hardware.nvidia
    rows = [
        (key, str(value), config.origin(key))
        for key, value in (
            ("optimization_level", config.optimization_level.value),
            ("hardware.nvidia.memory_fraction", nvidia.memory_fraction),
            ("hardware.nvidia.architecture", nvidia.architecture.value),
            ("hardware.nvidia.fp8_enabled", nvidia.fp8_enabled),
        )
    ]
    shown.listing("presets, assignments, the environment", ("key", "value", "from"), rows)
    origins = [origin for *_, origin in rows]
    wanted = ["preset inference", "environment", "assignment", "default"]
    _holds(shown, "each value comes from where it was set", origins == wanted)
    _holds(shown, "what was not set follows the architecture", nvidia.fp8_enabled)


def _files(shown: Walkthrough, quick: bool) -> None:
    config, rows = _loaded(), []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("toml", "json"):
            path = Path(folder) / f"config.{kind}"
            config.save(path)
            rows.append((path.name, str(path.stat().st_size)))
            again = KernelPyTorchConfig.load(path, environment={})
            _holds(shown, f"{kind} reads back the same", again == config)
    shown.listing("written and read back", ("file", "bytes"), rows)


def _mistakes(shown: Walkthrough, quick: bool) -> None:
    rows = []
    for values, answer in (
        ({"hardware": {"nvidia": {"fp8_enable": True}}}, "nearest is 'fp8_enabled'"),
        ({"hardware": {"nvidia": {"architecture": "hoper"}}}, "got 'hoper'"),
        ({"memory": {"memory_fraction": 2}}, "less than or equal to 1"),
    ):
        try:
            KernelPyTorchConfig(**values)
            said = "accepted"
        except ConfigValidationError as error:
            said = str(error)
        rows.append((str(values), said))
        _holds(shown, f"{values} is refused with a reason", answer in said)
    shown.listing("mistakes are named", ("given", "answer"), rows)
