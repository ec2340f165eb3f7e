"""GPUs and TPUs, one function a vendor. None is started, and none of them raises."""

from __future__ import annotations

import re
from pathlib import Path

from kernel_pytorch.core.hardware_detector import tables
from kernel_pytorch.core.hardware_detector.probe import Probe, visible
from kernel_pytorch.core.hardware_detector.records import Accelerator, HardwareType, PeerLink

__all__ = ["find_amd", "find_apple", "find_intel", "find_nvidia", "find_tpu"]


def find_nvidia(probe: Probe) -> list[Accelerator]:
    """NVIDIA's GPUs in CUDA's order, those that CUDA_VISIBLE_DEVICES leaves."""
    answer = probe.nvml()
    built = probe.torch_build("cuda") is not None
    torch_count = 0 if probe.torch_build("hip") else probe.torch_devices("cuda")
    if answer is None or not answer.gpus:
        return [_nvidia_by_torch(probe, index) for index in range(torch_count)]
    value = probe.environment().get("CUDA_VISIBLE_DEVICES")
    chosen = visible(value, [gpu.uuid for gpu in answer.gpus])
    found = []
    for index, physical in enumerate(chosen):
        gpu = answer.gpus[physical]
        traits = tables.nvidia_traits(gpu.compute_capability)
        why_not = ""
        if not built:
            why_not = "this PyTorch is not built for CUDA"
        elif index >= torch_count:
            why_not = "PyTorch does not see it: kpt doctor says what its driver lacks"
        found.append(
            Accelerator(
                hardware_type=HardwareType.NVIDIA_GPU,
                index=index,
                name=gpu.name,
                architecture=traits.name if traits else "",
                target=_sm(gpu.compute_capability),
                compute_capability=gpu.compute_capability,
                memory_bytes=gpu.memory_bytes,
                driver_version=answer.driver_version,
                bus_id=gpu.bus_id,
                uuid=gpu.uuid,
                links=tuple(
                    PeerLink(peer=chosen.index(peer), kind=kind)
                    for peer, kind in gpu.peers
                    if peer in chosen
                ),
                traits=traits,
                usable=not why_not,
                why_not=why_not,
            )
        )
    return found


def _nvidia_by_torch(probe: Probe, index: int) -> Accelerator:
    """A GPU that PyTorch sees and the management library does not (some embedded systems)."""
    properties = probe.torch_properties("cuda", index)
    capability = (properties.major, properties.minor) if properties else None
    traits = tables.nvidia_traits(capability)
    return Accelerator(
        hardware_type=HardwareType.NVIDIA_GPU,
        index=index,
        name=properties.name if properties else "NVIDIA GPU",
        architecture=traits.name if traits else "",
        target=_sm(capability),
        compute_capability=capability,
        memory_bytes=properties.total_memory if properties else 0,
        driver_version=probe.read("sys/module/nvidia/version"),
        traits=traits,
    )


def _sm(capability: tuple[int, int] | None) -> str:
    return f"sm_{capability[0]}{capability[1]}" if capability else ""


def find_amd(probe: Probe) -> list[Accelerator]:
    """AMD's GPUs as the kernel driver's topology (KFD) has them, those that
    ROCR_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES leave."""
    nodes = {}
    for folder in probe.glob("sys/class/kfd/kfd/topology/nodes/*"):
        values = _properties(probe, folder, "properties")
        if values.get("simd_count", 0) and values.get("gfx_target_version", 0):
            nodes[int(folder.name)] = folder, values
    order = sorted(nodes)
    names = [f"GPU-{nodes[n][1].get('unique_id', 0):016x}" for n in order]
    environment = probe.environment()
    for variable in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        kept = visible(environment.get(variable), names)
        order, names = [order[i] for i in kept], [names[i] for i in kept]
    built = probe.torch_build("hip") is not None
    torch_count = probe.torch_devices("cuda") if built else 0
    version = probe.read("sys/module/amdgpu/version")
    found = []
    for index, node in enumerate(order):
        folder, values = nodes[node]
        target = _gfx(values["gfx_target_version"])
        traits = tables.amd_traits(target)
        why_not = ""
        if not built:
            why_not = "this PyTorch is not built for ROCm"
        elif index >= torch_count:
            why_not = "PyTorch does not see it: kpt doctor says what its driver lacks"
        banks = [
            _properties(probe, bank, "properties")
            for bank in probe.glob(f"{_relative(probe, folder)}/mem_banks/*")
        ]
        found.append(
            Accelerator(
                hardware_type=HardwareType.AMD_GPU,
                index=index,
                name=_amd_name(probe, values) or f"AMD {target}",
                architecture=traits.name if traits else "",
                target=target,
                # heap_type 1 and 2 are the GPU's own memory (kfd_ioctl.h, HSA_MEM_HEAP_TYPE).
                memory_bytes=sum(
                    b.get("size_in_bytes", 0) for b in banks if b.get("heap_type") in (1, 2)
                ),
                driver_version=version,
                bus_id=_amd_bus(values),
                uuid=names[index],
                links=_amd_links(probe, folder, order),
                traits=traits,
                usable=not why_not,
                why_not=why_not,
            )
        )
    if not found and built:
        count = probe.torch_devices("cuda")
        found = [_amd_by_torch(probe, index, version) for index in range(count)]
    return found


def _amd_by_torch(probe: Probe, index: int, version: str) -> Accelerator:
    properties = probe.torch_properties("cuda", index)
    target = properties.gcnArchName.partition(":")[0] if properties else ""
    traits = tables.amd_traits(target)
    return Accelerator(
        hardware_type=HardwareType.AMD_GPU,
        index=index,
        name=properties.name if properties else "AMD GPU",
        architecture=traits.name if traits else "",
        target=target,
        memory_bytes=properties.total_memory if properties else 0,
        driver_version=version,
        traits=traits,
    )


def _gfx(version: int) -> str:
    """The LLVM target of KFD's number: 90402 is gfx942, 90010 gfx90a, 110000 gfx1100."""
    major, minor, stepping = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor:x}{stepping:x}"


def _amd_bus(values: dict[str, int]) -> str:
    location = values.get("location_id", 0)
    return (
        f"{values.get('domain', 0):04x}:{location >> 8 & 0xFF:02x}:"
        f"{location >> 3 & 0x1F:02x}.{location & 7}"
    )


def _amd_name(probe: Probe, values: dict[str, int]) -> str:
    return probe.read(f"sys/bus/pci/devices/{_amd_bus(values)}/product_name")


def _amd_links(probe: Probe, folder: Path, order: list[int]) -> tuple[PeerLink, ...]:
    links = []
    for link in probe.glob(f"{_relative(probe, folder)}/io_links/*"):
        values = _properties(probe, link, "properties")
        # Types of the CRAT table: 2 is PCI Express, 11 XGMI.
        kind = {2: "pcie", 11: "xgmi"}.get(values.get("type", 0))
        if kind and values.get("node_to") in order:
            links.append(PeerLink(peer=order.index(values["node_to"]), kind=kind))
    return tuple(links)


def _properties(probe: Probe, folder: Path, name: str) -> dict[str, int]:
    """A file of "key number" lines."""
    values = {}
    for line in probe.read(f"{_relative(probe, folder)}/{name}").splitlines():
        key, _, value = line.partition(" ")
        if value.strip().isdigit():
            values[key] = int(value)
    return values


def _relative(probe: Probe, path: Path) -> str:
    return str(path.relative_to(probe.root))


def find_intel(probe: Probe) -> list[Accelerator]:
    """Intel's GPUs on the PCI bus; those inside processors only if PyTorch uses them."""
    built = probe.torch_build("xpu") is not None
    torch_count = probe.torch_devices("xpu") if built else 0
    discrete: list[tuple[str, str, tuple[tables.Traits, str] | None]] = []
    integrated: list[tuple[str, str, tuple[tables.Traits, str] | None]] = []
    for bus_id, device_id in _on_bus(probe, tables.INTEL_VENDOR, ("0x03", "0x12")):
        known = tables.intel_traits(device_id)
        (discrete if known else integrated).append((bus_id, device_id, known))
    module = next((m for m in ("xe", "i915") if probe.read(f"sys/module/{m}/srcversion")), "")
    found = []
    for index, (bus_id, device_id, known) in enumerate(discrete + integrated):
        if known is None and index >= torch_count:
            continue
        traits, line = known or (None, "integrated graphics")
        properties = probe.torch_properties("xpu", index) if index < torch_count else None
        why_not = ""
        if not built:
            why_not = "this PyTorch is not built for XPU"
            if probe.installed("intel_extension_for_pytorch"):
                why_not += " (Intel Extension for PyTorch is installed, and is not needed)"
        elif index >= torch_count:
            why_not = "PyTorch does not see it: kpt doctor says what its driver lacks"
        found.append(
            Accelerator(
                hardware_type=HardwareType.INTEL_GPU,
                index=index,
                name=properties.name if properties else f"Intel {line} ({device_id})",
                architecture=traits.name if traits else "integrated",
                memory_bytes=properties.total_memory if properties else 0,
                driver_version=module,
                bus_id=bus_id,
                traits=traits,
                usable=not why_not,
                why_not=why_not,
            )
        )
    return found


def _on_bus(probe: Probe, vendor: str, classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """(bus address, device id) of a vendor's devices of some classes ("0x03": display)."""
    found = []
    for folder in probe.glob("sys/bus/pci/devices/*"):
        where = f"sys/bus/pci/devices/{folder.name}"
        if probe.read(f"{where}/vendor") != vendor:
            continue
        if not classes or probe.read(f"{where}/class").startswith(classes):
            found.append((folder.name, probe.read(f"{where}/device")))
    return found


_TPU_TYPE = re.compile(r"v5lite(?:pod)?|v\d+[ep]?|tpu7x", re.IGNORECASE)
_TPU_NAMES = {"v5lite": "v5e", "v5litepod": "v5e", "tpu7x": "v7"}


def find_tpu(probe: Probe) -> list[Accelerator]:
    """TPU chips of this host, on the PCI bus; their generation by device id, else by
    TPU_ACCELERATOR_TYPE ("v5litepod-8")."""
    chips = [
        (bus_id, tables.TPU_DEVICES[device_id])
        for bus_id, device_id in _on_bus(probe, tables.GOOGLE_VENDOR, ())
        if device_id in tables.TPU_DEVICES
    ]
    if not chips:
        # A container may see the device files and not the bus.
        kind = probe.environment().get("TPU_ACCELERATOR_TYPE", "")
        match = _TPU_TYPE.match(kind)
        version = match[0].lower() if match else ""
        count = len(probe.glob("dev/accel[0-9]*")) or len(probe.glob("dev/vfio/[0-9]*"))
        chips = [("", _TPU_NAMES.get(version, version))] * (count if kind else 0)
    package = next((p for p in ("torch_tpu", "torch_xla") if probe.installed(p)), "")
    why_not = "" if package else "neither torch_tpu nor torch_xla is installed"
    found = []
    for index, (bus_id, version) in enumerate(chips):
        traits = tables.tpu_traits(version)
        found.append(
            Accelerator(
                hardware_type=HardwareType.TPU,
                index=index,
                name=f"TPU {version}".strip(),
                architecture=traits.name if traits else "",
                memory_bytes=traits.memory_bytes if traits else 0,
                driver_version=package,
                bus_id=bus_id,
                traits=traits,
                usable=not why_not,
                why_not=why_not,
            )
        )
    return found


def find_apple(probe: Probe) -> list[Accelerator]:
    """Apple's GPU, as PyTorch's MPS backend has it."""
    if probe.machine() != "arm64" or not probe.torch_devices("mps"):
        return []
    return [
        Accelerator(
            hardware_type=HardwareType.APPLE_GPU,
            index=0,
            name="Apple GPU (MPS)",
            architecture="",
            # The GPU uses main memory.
            memory_bytes=probe.memory_bytes(),
        )
    ]
