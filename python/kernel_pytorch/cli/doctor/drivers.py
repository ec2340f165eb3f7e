"""GPUs: what is on the bus, which driver and user libraries are there. Nothing starts a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel_pytorch.cli.doctor.finding import Finding, Status, read_text
from kernel_pytorch.cli.doctor.software import torch_problem

__all__ = ["VENDORS", "Vendor", "check", "loadable"]


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """One vendor's traces in the system."""

    name: str
    pci: str
    """Vendor id on the bus."""
    modules: tuple[str, ...]
    """Kernel modules, any of which drives the GPUs."""
    nodes: tuple[str, ...]
    """Device files that a program opens, as patterns under /dev."""
    libraries: tuple[str, ...]
    """User-space driver libraries, any of which will do."""
    torch_version: str
    """Attribute of ``torch.version`` that a build for this vendor sets."""
    integrated: str
    """Bus addresses of the vendor's GPUs inside CPUs, which matter to nobody here: a prefix."""
    driver_fix: Mapping[str, str]
    """By ``ID`` of /etc/os-release ("" for any other): the command that installs the driver."""
    library_fix: str
    access_fix: str
    torch_fix: str


VENDORS = (
    Vendor(
        name="NVIDIA",
        pci="0x10de",
        modules=("nvidia",),
        nodes=("nvidia[0-9]*", "nvidiactl"),
        libraries=("libcuda.so.1",),
        torch_version="cuda",
        integrated="none",
        driver_fix={
            "ubuntu": "sudo ubuntu-drivers install",
            "debian": "sudo apt-get install nvidia-driver firmware-misc-nonfree",
            "": "xdg-open https://www.nvidia.com/drivers",
        },
        # In a container the library comes from the host, when the container is given the GPU.
        library_fix="docker run --gpus all IMAGE  # on the machine itself: reinstall the driver",
        access_fix="sudo nvidia-modprobe -u -c=0",
        torch_fix="pip install --force-reinstall torch  # for CUDA: PyPI's on Linux",
    ),
    Vendor(
        name="AMD",
        pci="0x1002",
        modules=("amdgpu",),
        nodes=("kfd", "dri/renderD*"),
        libraries=("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so"),
        torch_version="hip",
        integrated="none",
        driver_fix={"": "sudo modprobe amdgpu"},
        library_fix="sudo amdgpu-install --usecase=rocm",
        access_fix="sudo usermod -aG render,video $USER  # then log in again",
        torch_fix="pip install --force-reinstall torch  # for ROCm: from PyTorch's own index",
    ),
    Vendor(
        name="Intel",
        pci="0x8086",
        modules=("xe", "i915"),
        nodes=("dri/renderD*",),
        libraries=("libze_loader.so.1",),
        torch_version="xpu",
        integrated="0000:00:02.",
        driver_fix={"": "sudo modprobe xe || sudo modprobe i915"},
        library_fix="sudo apt-get install libze1 libze-intel-gpu1",
        access_fix="sudo usermod -aG render,video $USER  # then log in again",
        torch_fix="pip install --force-reinstall torch  # for XPU: from PyTorch's own index",
    ),
)

# Run in a process of its own: a driver library may do anything when it is loaded.
_LOAD = """
import ctypes, json, sys
found = []
for name in sys.argv[1:]:
    try:
        ctypes.CDLL(name)
    except OSError:
        continue
    found.append(name)
print(json.dumps(found))
"""


def loadable(libraries: list[str]) -> list[str]:
    """Those of ``libraries`` that the dynamic loader finds and loads."""
    try:
        result = subprocess.run(
            [sys.executable, "-I", "-c", _LOAD, *libraries],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        found: list[str] = json.loads(result.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    return found


def check(root: Path = Path("/")) -> list[Finding]:
    """One finding a vendor."""
    libraries = loadable([name for vendor in VENDORS for name in vendor.libraries])
    return [_vendor(vendor, libraries, root) for vendor in VENDORS]


def _vendor(vendor: Vendor, loaded: list[str], root: Path) -> Finding:
    gpus = _gpus(vendor, root)
    module = next((m for m in vendor.modules if (root / "sys/module" / m).is_dir()), "")
    version = read_text(root / "sys/module" / module / "version") if module else ""
    nodes = sorted(n for pattern in vendor.nodes for n in (root / "dev").glob(pattern))
    library = next((name for name in vendor.libraries if name in loaded), "")
    data: dict[str, Any] = {
        "gpus": gpus,
        "kernel_module": module,
        "driver_version": version,
        "device_nodes": [str(n) for n in nodes],
        "library": library,
        "torch_build": _torch_build(vendor.torch_version),
    }
    driver = f"driver {module} {version}".strip() if module else "no driver"
    value = f"{len(gpus)} on the bus, {driver}, {library or 'no ' + vendor.libraries[0]}"
    why, fix = "", ""
    if gpus and not module:
        why = f"No kernel module drives the {vendor.name} GPU."
        fix = vendor.driver_fix.get(_system(root), vendor.driver_fix[""])
    elif gpus and not nodes:
        why, fix = "The driver has made no device file for it.", vendor.access_fix
    elif gpus and not any(os.access(n, os.R_OK | os.W_OK) for n in nodes):
        why = f"This user may not open {nodes[0]}."
        fix = vendor.access_fix
    elif gpus and not library:
        why = f"{vendor.libraries[0]}, through which programs reach the GPU, does not load."
        fix = vendor.library_fix
    elif gpus and data["torch_build"] is None:
        why = f"This build of PyTorch cannot use the {vendor.name} GPU."
        fix = vendor.torch_fix
    if not gpus and not module and not library:
        value = "none"
    return Finding(
        area="gpus",
        name=vendor.name,
        value=value,
        status=Status.ADVICE if why else Status.OK,
        why=why,
        fix=fix,
        data=data,
    )


def _gpus(vendor: Vendor, root: Path) -> list[str]:
    """Bus addresses of the vendor's display controllers and processing accelerators."""
    found = []
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        kind = read_text(device / "class")
        if (
            read_text(device / "vendor") == vendor.pci
            and kind.startswith(("0x03", "0x12"))
            and not device.name.startswith(vendor.integrated)
        ):
            found.append(device.name)
    return found


def _torch_build(attribute: str) -> str | None:
    """What this build of PyTorch was made for, "" if it is not installed."""
    if torch_problem():
        return ""
    import torch

    version: str | None = getattr(torch.version, attribute, None)
    return version


def _system(root: Path) -> str:
    for line in read_text(root / "etc/os-release").splitlines():
        key, _, value = line.partition("=")
        if key == "ID":
            return value.strip('"')
    return ""
