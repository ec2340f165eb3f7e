"""The NVIDIA backend from end to end; without such a GPU, what it does instead, and says."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import torch
from torch import nn

from kernel_pytorch.backends import OutOfMemoryError, ToolNotFoundError
from kernel_pytorch.backends.compile_cache import CompileCache
from kernel_pytorch.backends.nvidia import (
    CUDACompiler,
    CUDAUtilities,
    FlashAttention3,
    FP8Compiler,
    NVIDIABackend,
    NVIDIAMemoryManager,
)
from kernel_pytorch.core.config import KernelPyTorchConfig
from kernel_pytorch.core.dispatch_log import explain
from kernel_pytorch.core.enums import NVIDIAArchitecture
from kernel_pytorch.demos.backend_parts import error_of, levels, raises, through
from kernel_pytorch.demos.walkthrough import Walkthrough

__all__ = ["run"]

_KERNEL = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }\n'
# e4m3 keeps 4 bits: a factor is rounded by at most 1/16, the sums average that out.
_FP8_ERROR = 6e-2


def run(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Walkthrough:
    """Run the walk; ``quick`` takes small models."""
    shown = Walkthrough(title="NVIDIA backend", say=say)
    width = 64 if quick else 1024
    say("the backend")
    backend = NVIDIABackend()
    info = CUDAUtilities.get_cuda_env_info()
    shown.listing(
        "environment",
        ("what", "is"),
        [(k, str(v)) for k, v in info.items() if k != "devices"],
    )
    with backend:
        through(shown, backend, 32 if quick else 512)
    levels(shown, backend.optimizer)
    say("FP8 layers")
    _fp8(shown, width)
    say("memory")
    manager = NVIDIAMemoryManager()
    raises(
        shown,
        "2^42 bytes",
        OutOfMemoryError,
        lambda: manager.allocate_with_oom_protection((1024, 1024, 1024, 1024)),
    )
    padded = manager.optimize_tensor_layout(torch.ones(3, 5))
    shown.at_most("padding adds nothing to the sum", float(padded.sum()) - 15.0, 0.0)
    say("attention")
    _attention(shown, 16 if quick else 256)
    say("nvcc")
    _compile(shown)
    return shown.finished()


def _fp8(shown: Walkthrough, width: int) -> None:
    config = KernelPyTorchConfig()
    config.hardware.nvidia.architecture = NVIDIAArchitecture.HOPPER
    compiler = FP8Compiler(config)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
    x = torch.randn(32, width)
    with torch.no_grad():
        want = model.eval()(x)
        result = compiler.compile_with_fp8(model, x, for_inference=True)
        with explain() as calls:
            got = model(x)
        compiler.revert(model)
        shown.at_most("FP8: error of the outputs", error_of(got, want), _FP8_ERROR)
        shown.at_least("FP8: layers that compute in it", len(result.fp8_layers), 2)
        ran = sum(c.op == "fp8_gemm" for c in calls)
        shown.at_least("FP8: products that ran in it", ran, 2)
        shown.at_most(
            "FP8: largest difference after revert", float((model(x) - want).abs().max()), 0
        )


def _attention(shown: Walkthrough, tokens: int) -> None:
    torch.manual_seed(0)
    module = FlashAttention3(64, 4, causal=True).eval()
    x = torch.randn(2, tokens, 64)
    changed = x.clone()
    changed[:, -1] += 1.0
    with torch.no_grad():
        out, _ = module(x)
        moved = float((module(changed)[0] - out)[:, :-1].abs().max())
        plain = [
            t.view(2, tokens, 4, 16).transpose(1, 2).double()
            for t in (module.q_proj(x), module.k_proj(x), module.v_proj(x))
        ]
        want = nn.functional.scaled_dot_product_attention(*plain, is_causal=True)
        want = want.transpose(1, 2).reshape(2, tokens, 64).float()
        error = error_of(out, module.out_proj(want))
    shown.at_most("attention: error against float64", error, 1e-5)
    shown.at_most("attention: what a later token changes of earlier ones", moved, 0.0)


def _compile(shown: Walkthrough) -> None:
    with tempfile.TemporaryDirectory() as folder:
        compiler = CUDACompiler(cache=CompileCache(folder))
        try:
            first = compiler.compile_kernel(_KERNEL, "twice", "sm_90")
        except ToolNotFoundError as error:
            shown.listing("nvcc", ("what", "is"), [("absent", str(error))])
            shown.at_least("the message says how to install it", float("pip" in str(error)), 1.0)
            return
        second = compiler.compile_kernel(_KERNEL, "twice", "sm_90")
        shown.listing(
            "nvcc",
            ("what", "is"),
            [("bytes", str(len(first.binary))), ("seconds", f"{first.seconds:.2f}")],
        )
        shown.at_least("the second time it comes from the cache", float(second.cached), 1.0)
        shown.at_least("and is the same", float(first.binary == second.binary), 1.0)
