"""The AMD backend from end to end; without such a GPU, what it does instead, and says."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

from kernel_pytorch.backends import ToolNotFoundError
from kernel_pytorch.backends.amd import (
    AMDBackend,
    AMDMemoryManager,
    AMDOptimizer,
    HIPUtilities,
    ROCmCompiler,
)
from kernel_pytorch.backends.amd.amd_exceptions import AMDOptimizationError, ROCmMemoryError
from kernel_pytorch.core.config import AMDArchitecture, AMDConfig
from kernel_pytorch.demos.backend_parts import levels, network, raises, through
from kernel_pytorch.demos.walkthrough import Walkthrough

__all__ = ["run"]

_KERNEL = (
    "#include <hip/hip_runtime.h>\n"
    'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }\n'
)


def run(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Walkthrough:
    """Run the walk; ``quick`` takes a small model."""
    shown = Walkthrough(title="AMD backend", say=say)
    say("the backend")
    backend = AMDBackend(AMDConfig(architecture=AMDArchitecture.CDNA3))
    with backend:
        through(shown, backend, 32 if quick else 512)
    levels(shown, backend.optimizer)
    say("the optimizer")
    optimizer = AMDOptimizer(backend.config)
    optimizer.optimize(network(32), "aggressive")
    summary = optimizer.get_optimization_summary()
    shown.listing("optimizer", ("what", "is"), [(k, str(v)) for k, v in summary.items()])
    shown.at_least("normalizations folded into convolutions", summary["fused_operations"], 1)
    raises(
        shown,
        "an unknown level",
        AMDOptimizationError,
        lambda: optimizer.optimize(network(32), "turbo"),
    )
    say("memory")
    manager = AMDMemoryManager()
    tensors = [manager.allocate_tensor((256, 256), purpose=p) for p in ("weights", "cache")]
    purposes = manager.get_allocation_summary()
    shown.listing("memory", ("purpose", "bytes"), [(k, str(v)) for k, v in purposes.items()])
    shown.at_least(
        "bytes of living tensors", sum(purposes.values()), sum(t.nbytes for t in tensors)
    )
    raises(shown, "2^42 bytes", ROCmMemoryError, lambda: manager.allocate_tensor((2**40,)))
    say("timed regions")
    hip = HIPUtilities(AMDConfig(enable_profiling=True))
    with hip.profile_region("multiply"):
        (tensors[0] @ tensors[1]).sum()
    shown.at_least("regions", hip.get_profiling_summary()["total_regions"], 1)
    hip.cleanup()
    say("hipcc")
    _compile(shown)
    return shown.finished()


def _compile(shown: Walkthrough) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = AMDConfig(architecture=AMDArchitecture.CDNA3, hip_compiler_cache_dir=folder)
        compiler = ROCmCompiler(config)
        try:
            first = compiler.compile_kernel(_KERNEL, "twice")
        except ToolNotFoundError as error:
            shown.listing("hipcc", ("what", "is"), [("absent", str(error))])
            shown.at_least("the message says how to install it", float("hipcc" in str(error)), 1.0)
            return
        again = compiler.compile_kernel(_KERNEL, "twice")
        hits = compiler.get_compilation_stats()["cache_hits"]
        shown.at_least("the second time it comes from the cache", hits, 1)
        shown.at_least("and is the same", float(first.binary == again.binary), 1.0)
