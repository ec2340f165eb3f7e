"""What each architecture can do: tables, with where each row comes from. No machine is asked here.

Only what kernels and choices in this package depend on is listed. An architecture that is not in
a table is unknown: nothing is assumed of it.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AMD",
    "AMD_VENDOR",
    "GOOGLE_VENDOR",
    "INTEL",
    "INTEL_DEVICES",
    "INTEL_VENDOR",
    "NVIDIA",
    "NVIDIA_VENDOR",
    "TPU",
    "TPU_DEVICES",
    "Traits",
    "amd_traits",
    "intel_traits",
    "nvidia_traits",
    "tpu_traits",
    "traits_by_name",
]

# Vendor ids on the PCI bus.
NVIDIA_VENDOR, AMD_VENDOR, INTEL_VENDOR, GOOGLE_VENDOR = "0x10de", "0x1002", "0x8086", "0x1ae0"


@dataclass(frozen=True, kw_only=True)
class Traits:
    """One architecture."""

    name: str
    """As in :mod:`kernel_pytorch.core.enums`: "hopper", "cdna3", "pvc", "v5e"."""
    matrix_formats: frozenset[str] = frozenset()
    """Input formats of its matrix units: fp64 tf32 bf16 fp16 fp8_e4m3 fp8_e5m2 fp8_e4m3fnuz
    fp8_e5m2fnuz fp6 fp4 int8 int4. Empty: no matrix units."""
    features: frozenset[str] = frozenset()
    """NVIDIA: async_copy tma wgmma clusters tcgen05. AMD: mfma wmma."""
    lanes: int = 32
    """Threads of a warp, wave or sub-group; for TPUs, lanes of the vector unit."""
    memory_bytes: int = 0
    """Of one chip, where all chips of the generation have the same; else 0."""
    triton: bool = False
    """Whether Triton generates code for it."""
    flash_attention_3: bool = False
    source: str

    @property
    def matrix_units(self) -> bool:
        return bool(self.matrix_formats)

    @property
    def fp8(self) -> bool:
        """Whether the matrix units take an FP8 format."""
        return any(f.startswith("fp8") for f in self.matrix_formats)


def _formats(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CUDA = "CUDA C++ Programming Guide, Compute Capabilities; PTX ISA, mma and wgmma instructions"
_FA3 = "FlashAttention-3 supports Hopper alone (its README)"
_FP8 = "fp8_e4m3 fp8_e5m2"
_VOLTA = Traits(name="volta", matrix_formats=_formats("fp16"), triton=True, source=_CUDA)
_TURING = Traits(
    name="turing", matrix_formats=_formats("fp16 int8 int4"), triton=True, source=_CUDA
)
_AMPERE = Traits(
    name="ampere",
    matrix_formats=_formats("tf32 bf16 fp16 int8 int4"),
    features=_formats("async_copy"),
    triton=True,
    source=_CUDA,
)
_BLACKWELL = "fp64 tf32 bf16 fp16 fp6 fp4 int8 " + _FP8

NVIDIA: dict[tuple[int, int], Traits] = {
    **{cc: Traits(name="pascal", source=_CUDA) for cc in ((6, 0), (6, 1), (6, 2))},
    (7, 0): _VOLTA,
    (7, 2): _VOLTA,
    (7, 5): _TURING,
    (8, 0): Traits(
        name="ampere",
        matrix_formats=_formats("fp64 tf32 bf16 fp16 int8 int4"),
        features=_formats("async_copy"),
        triton=True,
        source=_CUDA,
    ),
    (8, 6): _AMPERE,
    (8, 7): _AMPERE,
    (8, 8): _AMPERE,
    (8, 9): Traits(
        name="ada",
        matrix_formats=_formats("tf32 bf16 fp16 int8 int4 " + _FP8),
        features=_formats("async_copy"),
        triton=True,
        source=_CUDA + "; FP8 from compute capability 8.9",
    ),
    (9, 0): Traits(
        name="hopper",
        matrix_formats=_formats("fp64 tf32 bf16 fp16 int8 " + _FP8),
        features=_formats("async_copy tma wgmma clusters"),
        triton=True,
        flash_attention_3=True,
        source=f"{_CUDA}; {_FA3}",
    ),
    **{
        cc: Traits(
            name="blackwell",
            matrix_formats=_formats(_BLACKWELL),
            features=_formats("async_copy tma clusters tcgen05"),
            triton=True,
            source=_CUDA,
        )
        for cc in ((10, 0), (10, 1), (10, 3), (11, 0))
    },
    **{
        cc: Traits(
            name="blackwell",
            matrix_formats=_formats(_BLACKWELL) - {"fp64"},
            features=_formats("async_copy tma clusters"),
            triton=True,
            source=_CUDA,
        )
        for cc in ((12, 0), (12, 1))
    },
}
"""By compute capability. 10.x and 11.0 are the data-centre and embedded Blackwell (tcgen05), 12.x
the workstation one."""

_ROCM = "LLVM AMDGPU usage, Processors; ROCm documentation, Data types and precision support"
_FNUZ = "fp8_e4m3fnuz fp8_e5m2fnuz"
_MFMA = _formats("mfma")
_WMMA = _formats("wmma")
_CDNA3 = Traits(
    name="cdna3",
    matrix_formats=_formats("fp64 tf32 bf16 fp16 int8 " + _FNUZ),
    features=_MFMA,
    lanes=64,
    triton=True,
    source=_ROCM + "; FP8 in the FNUZ encodings",
)
_RDNA2 = Traits(name="rdna2", source=_ROCM)
_RDNA3 = Traits(
    name="rdna3",
    matrix_formats=_formats("bf16 fp16 int8 int4"),
    features=_WMMA,
    triton=True,
    source=_ROCM,
)
_RDNA4 = Traits(
    name="rdna4",
    matrix_formats=_formats("bf16 fp16 int8 int4 " + _FP8),
    features=_WMMA,
    triton=True,
    source=_ROCM + "; FP8 in the OCP encodings",
)

AMD: dict[str, Traits] = {
    "gfx908": Traits(
        name="cdna",
        matrix_formats=_formats("bf16 fp16 int8"),
        features=_MFMA,
        lanes=64,
        triton=True,
        source=_ROCM,
    ),
    "gfx90a": Traits(
        name="cdna2",
        matrix_formats=_formats("fp64 bf16 fp16 int8"),
        features=_MFMA,
        lanes=64,
        triton=True,
        source=_ROCM,
    ),
    **dict.fromkeys(("gfx940", "gfx941", "gfx942"), _CDNA3),
    "gfx950": Traits(
        name="cdna4",
        matrix_formats=_formats("fp64 bf16 fp16 fp6 fp4 int8 " + _FP8),
        features=_MFMA,
        lanes=64,
        triton=True,
        source=_ROCM + "; FP8 in the OCP encodings, no TF32",
    ),
    **dict.fromkeys((f"gfx103{i}" for i in range(7)), _RDNA2),
    **dict.fromkeys((f"gfx110{i}" for i in range(4)), _RDNA3),
    **dict.fromkeys((f"gfx115{i}" for i in range(4)), _RDNA3),
    **dict.fromkeys(("gfx1200", "gfx1201"), _RDNA4),
}
"""By LLVM target. RDNA 3.5 (gfx115x) has the matrix formats of RDNA 3."""

_INTEL = "Intel oneAPI GPU Optimization Guide, XMX; Linux include/drm/intel/pciids.h"
_XMX = _formats("bf16 fp16 int8 int4")

INTEL: dict[str, Traits] = {
    "pvc": Traits(
        name="pvc",
        matrix_formats=_formats("tf32 bf16 fp16 int8"),
        lanes=16,
        triton=True,
        source=_INTEL,
    ),
    "ats": Traits(name="ats", matrix_formats=_XMX, lanes=8, triton=True, source=_INTEL),
    "dg2": Traits(name="dg2", matrix_formats=_XMX, lanes=8, triton=True, source=_INTEL),
    "bmg": Traits(name="bmg", matrix_formats=_XMX, lanes=16, triton=True, source=_INTEL),
}

INTEL_DEVICES: tuple[tuple[int, int, str, str], ...] = (
    (0x0B69, 0x0B6E, "pvc", "Data Center GPU Max"),
    (0x0BD0, 0x0BDB, "pvc", "Data Center GPU Max"),
    (0x4F80, 0x4F88, "dg2", "Arc A-series"),
    (0x5690, 0x5698, "dg2", "Arc A-series"),
    (0x56A0, 0x56A6, "dg2", "Arc A-series"),
    (0x56B0, 0x56BF, "dg2", "Arc Pro A-series"),
    (0x56C0, 0x56C2, "ats", "Data Center GPU Flex"),
    (0xE202, 0xE223, "bmg", "Arc B-series"),
)
"""Ranges of PCI device ids: first, last, architecture, product line."""

_GOOGLE = "Google Cloud TPU documentation, System architecture; device ids as in JAX"
_GIB = 1 << 30

TPU: dict[str, Traits] = {
    "v4": Traits(
        name="v4",
        matrix_formats=_formats("bf16"),
        lanes=128,
        memory_bytes=32 * _GIB,
        source=_GOOGLE,
    ),
    "v5e": Traits(
        name="v5e",
        matrix_formats=_formats("bf16 int8"),
        lanes=128,
        memory_bytes=16 * _GIB,
        source=_GOOGLE,
    ),
    "v5p": Traits(
        name="v5p",
        matrix_formats=_formats("bf16 int8"),
        lanes=128,
        memory_bytes=95 * _GIB,
        source=_GOOGLE,
    ),
    "v6e": Traits(
        name="v6e",
        matrix_formats=_formats("bf16 int8"),
        lanes=128,
        memory_bytes=32 * _GIB,
        source=_GOOGLE,
    ),
    "v7": Traits(
        name="v7",
        matrix_formats=_formats("bf16 " + _FP8),
        lanes=128,
        memory_bytes=192 * _GIB,
        source=_GOOGLE,
    ),
}

TPU_DEVICES = {
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "v7",
}
"""By PCI device id."""


def nvidia_traits(compute_capability: tuple[int, int] | None) -> Traits | None:
    """The architecture with this compute capability; None for one that is not in the table."""
    return NVIDIA.get(compute_capability) if compute_capability else None


def amd_traits(target: str) -> Traits | None:
    """The architecture of an LLVM target ("gfx942", "gfx942:sramecc+:xnack-")."""
    return AMD.get(target.partition(":")[0])


def intel_traits(device_id: str) -> tuple[Traits, str] | None:
    """The architecture and product line of a PCI device id ("0x56c0")."""
    number = int(device_id, 16)
    for first, last, architecture, line in INTEL_DEVICES:
        if first <= number <= last:
            return INTEL[architecture], line
    return None


def tpu_traits(version: str) -> Traits | None:
    """The generation called ``version`` ("v5e")."""
    return TPU.get(version)


def traits_by_name(name: str) -> Traits | None:
    """The architecture called ``name`` ("hopper", "cdna3", "pvc", "v5e"), of any vendor; the first
    row where several have the name."""
    rows = (*NVIDIA.values(), *AMD.values(), *INTEL.values(), *TPU.values())
    return next((traits for traits in rows if traits.name == name), None)
