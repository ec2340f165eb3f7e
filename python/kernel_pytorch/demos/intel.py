"""The Intel backend from end to end; without such a GPU, what it does instead, and says."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch

from kernel_pytorch.backends import ConfigurationError, OutOfMemoryError, ToolNotFoundError
from kernel_pytorch.backends.compile_cache import CompileCache
from kernel_pytorch.backends.intel import (
    IntelBackend,
    IntelKernelOptimizer,
    IntelMemoryManager,
    OclocCompiler,
    get_ipex_version,
)
from kernel_pytorch.demos.backend_parts import levels, raises, through
from kernel_pytorch.demos.walkthrough import Walkthrough

__all__ = ["run"]

_KERNEL = "__kernel void twice(__global float* x) { x[get_global_id(0)] *= 2.0f; }\n"


def run(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Walkthrough:
    """Run the walk; ``quick`` takes a small model."""
    shown = Walkthrough(title="Intel backend", say=say)
    say("the backend")
    backend = IntelBackend()
    info = backend.get_device_info_dict() | {"ipex_version": get_ipex_version()}
    shown.listing(
        "environment", ("what", "is"), [(k, str(v)) for k, v in info.items() if k != "properties"]
    )
    with backend:
        through(shown, backend, 32 if quick else 512)
    levels(shown, backend.optimizer)
    say("rules for kernels")
    rules = IntelKernelOptimizer()
    advice = {
        "512x512x512 bf16": rules.get_optimal_gemm_config(512, 512, 512, torch.bfloat16),
        "convolution 3x3": rules.get_optimal_conv_config(64, 64, (3, 3)),
        "8192 tokens": rules.get_optimal_attention_config(8192, 64, 16),
    }
    shown.listing("rules", ("for", "algorithm"), [(k, v["algorithm"]) for k, v in advice.items()])
    raises(
        shown,
        "an empty product",
        ConfigurationError,
        lambda: rules.get_optimal_gemm_config(0, 1, 1),
    )
    say("memory")
    manager = IntelMemoryManager()
    kept = manager.allocate_tensor((64, 64))
    shown.at_least("bytes allocated", manager.get_memory_stats().allocated_bytes, kept.nbytes)
    raises(
        shown,
        "2^46 bytes",
        OutOfMemoryError,
        lambda: manager.allocate_with_oom_protection((2**44,)),
    )
    say("ocloc")
    with tempfile.TemporaryDirectory() as folder:
        compiler = OclocCompiler(CompileCache(folder))
        try:
            first = compiler.compile_kernel(_KERNEL, "twice", "bmg")
        except ToolNotFoundError as error:
            shown.listing("ocloc", ("what", "is"), [("absent", str(error))])
            shown.at_least("the message says how to install it", float("apt" in str(error)), 1.0)
        else:
            again = compiler.compile_kernel(_KERNEL, "twice", "bmg")
            shown.at_least("the second time it comes from the cache", float(again.cached), 1.0)
            shown.at_least("and is the same", float(first.binary == again.binary), 1.0)
    return shown.finished()
