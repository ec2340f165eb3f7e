"""What each kernel of the CUDA module is meant to take and to contain; one line a kernel."""

import dataclasses

__all__ = ["KERNELS", "Declared"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declared:
    """Limits hold for every template instance and every architecture."""

    registers: int
    """A thread, at most."""
    shared: int = 0
    """Static bytes a block, at most."""
    dynamic: int = 0
    """Dynamic bytes a block at the usual launch."""
    threads: int
    """A block's at the usual launch."""
    warps: int
    """That a multiprocessor holds at once then, at least."""
    instructions: tuple[str, ...] = ()
    """Beginnings of instructions that must be there."""


_MMA = ("HMMA.16816.F32", "LDSM.16.M88.4", "LDSM.16.MT88.4")

KERNELS = {
    # The card's ceiling: 4 stages of 48 KiB, one producer and two consumer warpgroups.
    "ProductSm90aKernel": Declared(
        registers=168,
        shared=64,
        dynamic=4 * (48 << 10) + 1024,
        threads=384,
        warps=12,
        instructions=(
            "HGMMA.64x256x16.F32.BF16",
            "UTMALDG.2D",
            "UTMASTG.2D",
            "STSM.16.M88.4",
            "USETMAXREG",
        ),
    ),
    # Elementwise: 16-byte pieces, or elements.
    "ActKernel": Declared(registers=80, threads=256, warps=24),
    "SoftmaxHeldKernel": Declared(registers=64, shared=256, threads=256, warps=32),
    "SoftmaxLoopKernel": Declared(registers=64, shared=256, threads=256, warps=32),
    "SoftmaxBackwardHeldKernel": Declared(registers=128, shared=256, threads=256, warps=16),
    "SoftmaxBackwardLoopKernel": Declared(registers=128, shared=256, threads=256, warps=16),
    "RopeKernel": Declared(registers=128, threads=256, warps=16),
    # Attention: 16 rows or keys a warp, their sums in registers; two buffers of cp.async.
    "FlashForwardKernel": Declared(
        registers=255, dynamic=96 << 10, threads=128, warps=4, instructions=_MMA
    ),
    "FlashRowSumsKernel": Declared(registers=64, threads=256, warps=32),
    "FlashKeyGradsKernel": Declared(
        registers=255, shared=1024, dynamic=96 << 10, threads=128, warps=4, instructions=_MMA
    ),
    "FlashQueryGradsKernel": Declared(
        registers=255, dynamic=96 << 10, threads=128, warps=4, instructions=_MMA
    ),
    "DecodePiecesKernel": Declared(
        registers=255, shared=17 << 10, dynamic=72 << 10, threads=64, warps=2, instructions=_MMA
    ),
    "DecodeCombineKernel": Declared(registers=64, threads=128, warps=24),
    # Norms: 16-byte loads that are held in registers, or walked over.
    "NormHeldKernel": Declared(registers=64, shared=512, threads=256, warps=32),
    "NormLoopKernel": Declared(registers=64, shared=512, threads=256, warps=32),
    # Gradients of the norms: x, grad_y and the sums of a thread's columns stay in registers.
    "NormBackwardHeldKernel": Declared(registers=128, shared=17408, threads=512, warps=16),
    "NormBackwardScalarKernel": Declared(registers=64, shared=1024, threads=256, warps=32),
    "NormBackwardColumnsKernel": Declared(registers=64, shared=1024, threads=256, warps=32),
    "NormBackwardPartsKernel": Declared(registers=64, shared=1024, threads=256, warps=32),
    # Quantization: units of 8 codes.
    "QuantizeGroupKernel": Declared(registers=128, shared=512, threads=256, warps=16),
    "QuantizeTensorKernel": Declared(registers=128, shared=512, threads=256, warps=16),
    "FusedQuantizeKernel": Declared(registers=128, shared=512, threads=256, warps=16),
    "DequantizeKernel": Declared(registers=128, threads=256, warps=16),
}
