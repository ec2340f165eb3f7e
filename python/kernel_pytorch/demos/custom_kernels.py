"""The kernel registry: what there is, a kernel of your own, and one that breaks its contract."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F

from kernel_pytorch.attention import FusedLinearGELU, create_fused_ffn_layer
from kernel_pytorch.core.dispatch_log import explain
from kernel_pytorch.core.enums import PrecisionFormat
from kernel_pytorch.core.kernel_registry import (
    KernelBackend,
    KernelMetadata,
    KernelRegistry,
    KernelType,
    get_kernel_registry,
)
from kernel_pytorch.demos.backend_parts import error_of, raises
from kernel_pytorch.demos.walkthrough import Walkthrough
from kernel_pytorch.hardware.gpu.custom_kernels import optimize_with_custom_kernels

__all__ = ["run"]


def _yours(x: torch.Tensor, weight: torch.Tensor | None = None, eps: float = 1e-6) -> torch.Tensor:
    wide = None if weight is None else weight.float()
    return F.rms_norm(x.float(), x.shape[-1:], wide, eps).to(x.dtype)


def _sloppy(x: torch.Tensor, weight: torch.Tensor | None = None, eps: float = 1e-6) -> torch.Tensor:
    return _yours(x, weight, 1e-3)


def _kernel(name: str, version: str, function: Callable[..., torch.Tensor]) -> KernelMetadata:
    return KernelMetadata(
        name,
        KernelType.NORMALIZATION,
        version,
        KernelBackend.CPU,
        kernel_fn=function,
        op="rms_norm",
        precision_support=[PrecisionFormat.FP32],
        provider="this demonstration",
    )


def run(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Walkthrough:
    """Run the walk; ``quick`` takes small layers."""
    shown = Walkthrough(title="Kernels, and a kernel of your own", say=say)
    registry = get_kernel_registry()
    say("reading the registry")
    kernels = registry.list_kernels()
    counts = Counter((k.kernel_type.value, k.backend.value) for k in kernels)
    backends = sorted({b for _, b in counts})
    shown.listing(
        "registered kernels",
        ("type", *backends),
        [
            (t, *(str(counts[t, b] or "") for b in backends))
            for t in sorted({kind for kind, _ in counts})
        ],
    )
    shown.at_least("operators with a kernel to call", len({k.op for k in kernels}), 20)
    _select(shown, registry, say)
    _layers(shown, 64 if quick else 1024, say)
    return shown.finished()


def _select(shown: Walkthrough, registry: KernelRegistry, say: Callable[[str], None]) -> None:
    """Two kernels of others: the newer one is wrong and must not be chosen."""
    right, wrong = _kernel("yours", "9.9", _yours), _kernel("sloppy", "9.10", _sloppy)
    x = torch.randn(8, 96)
    try:
        for kernel in (right, wrong):
            registry.register_kernel(kernel)
        say("holding two kernels to the contract of rms_norm")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            best = registry.get_optimal_kernel(
                KernelType.NORMALIZATION, "cpu", PrecisionFormat.FP32, op="rms_norm"
            )
        shown.at_least("the right kernel is chosen", float(best is right), 1.0)
        shown.at_least("a warning names the wrong one", float("sloppy" in str(said[0].message)), 1)
        raises(shown, "activating the wrong one", ValueError, lambda: registry.activate(wrong))
        shown.listing(
            "in their contract tests",
            ("kernel", "passed", "calls", "what it broke"),
            [
                (
                    k.kernel_id,
                    "yes" if (o := registry.contract(k)).passed else "no",
                    str(o.checked),
                    o.message.splitlines()[0] if o.message else "",
                )
                for k in (right, wrong)
            ],
        )
        want = torch.ops.kpt.rms_norm(x)
        registry.activate(right)
        with explain() as calls:
            got = torch.ops.kpt.rms_norm(x)
        shown.at_least("the operator runs it", float("yours" in calls.calls[0].variant), 1.0)
        shown.at_most("difference from the package's kernel", error_of(got, want), 1e-6)
        registry.deactivate(right)
        with explain() as calls:
            again = torch.ops.kpt.rms_norm(x)
        shown.at_most("and afterwards", error_of(again, want), 0.0)
        shown.at_least("native again", float(calls.calls[0].implementation == "native"), 1.0)
    finally:
        for kernel in (right, wrong):
            registry.unregister_kernel(*kernel.key)


def _layers(shown: Walkthrough, width: int, say: Callable[[str], None]) -> None:
    say("layers over fused operators")
    torch.manual_seed(0)
    fused = FusedLinearGELU(width, 4 * width)
    x = torch.randn(16, width, requires_grad=True)
    y = fused(x)
    exact = F.gelu(F.linear(x.double(), fused.weight.double(), fused.bias.double()))
    shown.at_most("FusedLinearGELU: error against float64", error_of(y, exact), 1e-5)
    (ours,) = torch.autograd.grad(y.sum(), x)
    (theirs,) = torch.autograd.grad(exact.sum(), x)
    shown.at_most("FusedLinearGELU: error of its gradient", error_of(ours, theirs), 1e-5)
    layer = create_fused_ffn_layer(width, 2 * width, activation="silu")
    shown.at_least("a feed-forward layer of two parts", len(layer), 2)
    say("modules over the kernels in a model")
    plain = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.GELU()).eval()
    rewritten = optimize_with_custom_kernels(plain)
    with torch.no_grad(), explain() as calls:
        error = error_of(rewritten(x), plain(x))
    shown.at_most("a rewritten model: error", error, 1e-5)
    shown.at_least("its fused calls", sum(c.op == "linear_act" for c in calls), 1)
    raises(
        shown,
        "an unknown activation",
        ValueError,
        lambda: create_fused_ffn_layer(width, width, activation="swoosh"),
    )
