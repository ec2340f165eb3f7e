"""What a level can do to a model: each strategy is declared with its code and can be undone.

A strategy changes one instance and leaves its parameters and state dict alone (but for where they
lie), so that state dicts move between backends and :func:`undo` restores what was. It returns
``DONE`` when it changed something, ``NOTHING`` when there was nothing for it to do, else what stood
against it: nothing is listed as done that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from kernel_pytorch.backends import cpu
from kernel_pytorch.backends.base_types import OptimizationLevel, OptimizationStrategy
from kernel_pytorch.backends.conv_bn import FoldedConvBn, find_conv_bn
from kernel_pytorch.core.errors import NativeUnavailableError
from kernel_pytorch.optimize import optimize, report, revert

__all__ = [
    "AUTOCAST",
    "CHANNELS_LAST",
    "COMPILE",
    "CUDNN_BENCHMARK",
    "DEVICE",
    "EVAL_MODE",
    "FOLD_CONV_BN",
    "FROZEN_PARAMETERS",
    "FUSED_OPTIMIZER",
    "KERNELS_BF16",
    "KERNELS_INT8",
    "KERNELS_KEEP",
    "TF32",
    "TRAIN_MODE",
    "Work",
    "undo",
]

O0, O1, O2, O3 = OptimizationLevel
DONE = ""
NOTHING = None
Outcome = str | None


@dataclass(kw_only=True)
class Work:
    """One optimisation of one model, handed from strategy to strategy."""

    model: nn.Module
    device: torch.device
    """Where the model is to run."""
    absent: str = ""
    """Why the backend's device is not there (the model then stays on the CPU); "" when it is."""
    sample: tuple[Any, ...] | Mapping[str, Any] | None = None
    dtype: torch.dtype | None = None
    """The 16-bit dtype to compute in; None: what the device is best at."""
    explicit_mode: bool = True
    """Whether the caller named the purpose (else the model's mode stays as it is)."""
    optimizer: torch.optim.Optimizer | None = None
    time_budget: float | None = None
    """Seconds that measuring may take."""
    metrics: dict[str, Any] = field(default_factory=dict)
    undo: list[Callable[[], object]] = field(default_factory=list)
    """What takes back what was done, to be called in reverse."""


def undo(steps: list[Callable[[], object]]) -> None:
    """Take back what strategies did."""
    while steps:
        steps.pop()()


def _modes(model: nn.Module) -> Callable[[], None]:
    before = [(m, m.training) for m in model.modules()]

    def restore() -> None:
        for module, training in before:
            module.training = training

    return restore


def _set_mode(training: bool) -> Callable[[Work], Outcome]:
    def apply(work: Work) -> Outcome:
        if not work.explicit_mode:
            return NOTHING
        work.undo.append(_modes(work.model))
        work.model.train(training)
        return DONE

    return apply


def _place(work: Work) -> Outcome:
    if work.absent:
        return f"{work.absent}; the model stays on the CPU and is usable there"
    tensors = [*work.model.parameters(), *work.model.buffers()]
    before = {t.device for t in tensors}
    if before <= {work.device}:
        return NOTHING
    if len(before) == 1:
        (origin,) = before
        work.undo.append(lambda: _move(work.model, origin, work.optimizer))
    _move(work.model, work.device, work.optimizer)
    return DONE


def _move(model: nn.Module, device: torch.device, optimizer: torch.optim.Optimizer | None) -> None:
    """``model.to(device)``, after which tied parameters still are one, and ``optimizer`` holds the
    model's parameters: between some devices (a TPU's) torch makes new ones."""
    named = dict(model.named_parameters(remove_duplicate=False))
    model.to(device)
    new: dict[nn.Parameter, nn.Parameter] = {}
    for name, old in named.items():
        owner, _, attribute = name.rpartition(".")
        module = model.get_submodule(owner)
        moved = module._parameters[attribute]
        assert moved is not None
        module._parameters[attribute] = new.setdefault(old, moved)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"] = [new.get(p, p) for p in group["params"]]
    for old in [p for p in optimizer.state if new.get(p, p) is not p]:
        optimizer.state[new[old]] = optimizer.state.pop(old)


def _freeze(work: Work) -> Outcome:
    trained = [p for p in work.model.parameters() if p.requires_grad]
    if not trained:
        return NOTHING

    def restore() -> None:
        for parameter in trained:
            parameter.requires_grad_(True)

    work.undo.append(restore)
    work.model.requires_grad_(False)
    return DONE


def _fold_conv_bn(work: Work) -> Outcome:
    try:
        pairs = find_conv_bn(work.model)
    except RuntimeError as error:
        return str(error)
    if not pairs:
        return NOTHING
    folded = [FoldedConvBn(conv, bn) for conv, bn in pairs]
    for pair in folded:
        pair.install()
        work.undo.append(pair.remove)
    work.metrics["fold_conv_bn"] = {"pairs": len(folded)}
    return DONE


def _channels_last(work: Work) -> Outcome:
    if work.absent:
        return work.absent
    if not any(isinstance(m, nn.Conv2d) for m in work.model.modules()):
        return NOTHING
    for_undo: Any = work.model
    work.undo.append(lambda: for_undo.to(memory_format=torch.contiguous_format))
    for_undo.to(memory_format=torch.channels_last)
    return DONE


def _kernels(precision: str) -> Callable[[Work], Outcome]:
    def apply(work: Work) -> Outcome:
        if work.sample is None:
            return "needs sample_input: replacements are measured on real inputs"
        if any(t.device.type != "cpu" for t in work.model.parameters()):
            return "replacements are planned for weights on the CPU"
        try:
            optimize(
                work.model,
                work.sample,
                precision=precision,
                time_budget=work.time_budget,
                progress=False,
            )
        except (TypeError, ValueError) as error:
            return str(error)
        found = report(work.model)
        whole = found.to_dict()["model"] or {}
        work.metrics[f"kernels_{precision}"] = {
            "replaced_modules": found.kept,
            "speedup": whole.get("speedup"),
            "speedup_interval": whole.get("speedup_interval"),
            "error": whole.get("error"),
        }
        if found.kept == 0:
            revert(work.model)
            return "no replacement was faster beyond noise and exact enough on the sample"
        work.undo.append(lambda: revert(work.model))
        return DONE

    return apply


def _tf32(work: Work) -> Outcome:
    if work.absent:
        return work.absent
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        return NOTHING
    work.undo.append(lambda: torch.set_float32_matmul_precision(before))
    torch.set_float32_matmul_precision("high")
    return DONE


def _cudnn_benchmark(work: Work) -> Outcome:
    if work.absent:
        return work.absent
    before = torch.backends.cudnn.benchmark
    if before:
        return NOTHING
    if not any(isinstance(m, nn.modules.conv._ConvNd) for m in work.model.modules()):
        return NOTHING

    def set_to(value: bool) -> None:
        torch.backends.cudnn.benchmark = value

    work.undo.append(lambda: set_to(before))
    set_to(True)
    return DONE


def low_dtype(work: Work) -> torch.dtype | str:
    """The 16-bit dtype that autocast takes on the device, or why there is none."""
    if work.absent:
        return work.absent
    if work.dtype is not None:
        if work.dtype not in (torch.bfloat16, torch.float16):
            return f"{work.dtype} is not a 16-bit dtype"
        return work.dtype
    if work.device.type == "cpu":
        try:
            isa = cpu.isa()
        except NativeUnavailableError as error:
            return str(error)
        if isa not in ("avx512_bf16", "amx"):
            return f"this processor has no bf16 instructions (its level is {isa})"
    if work.device.type == "cuda" and torch.version.hip is None:
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    return torch.bfloat16


class AutocastForward:
    """A module's own forward under autocast; results keep the dtype they had without."""

    def __init__(self, module: nn.Module, device_type: str, dtype: torch.dtype) -> None:
        self.module, self.device_type, self.dtype = module, device_type, dtype
        floating = [p.dtype for p in module.parameters() if p.is_floating_point()]
        self.outside = floating[0] if floating else torch.float32

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(self.device_type, dtype=self.dtype):
            result = type(self.module).forward(self.module, *args, **kwargs)

        def restore(value: Any) -> Any:
            low = isinstance(value, torch.Tensor) and value.dtype == self.dtype
            return value.to(self.outside) if low else value

        return pytree.tree_map(restore, result)


def _autocast(work: Work) -> Outcome:
    dtype = low_dtype(work)
    if isinstance(dtype, str):
        return dtype
    if "forward" in work.model.__dict__:
        return "the model's forward is already replaced"
    floating = {p.dtype for p in work.model.parameters() if p.is_floating_point()}
    if floating == {dtype}:
        return NOTHING
    wrapped = AutocastForward(work.model, work.device.type, dtype)
    work.model.__dict__["forward"] = wrapped
    work.undo.append(lambda: work.model.__dict__.pop("forward", None))
    work.metrics["autocast"] = {"dtype": str(dtype).removeprefix("torch.")}
    return DONE


def _compile(work: Work) -> Outcome:
    if work.absent:
        return work.absent
    model: Any = work.model
    if model._compiled_call_impl is not None:
        return NOTHING

    def restore() -> None:
        model._compiled_call_impl = None

    backend = {"tpu": "tpu", "xla": "openxla"}.get(work.device.type)
    options = {"mode": "max-autotune"} if backend is None else {"backend": backend}
    model.compile(**options)
    if work.sample is not None:
        try:
            with torch.no_grad():
                run(model, work.sample, work.device)
        except Exception as error:  # whatever the compiler raises: the model must stay usable
            restore()
            first = next((line for line in str(error).splitlines() if line.strip()), "")
            return f"torch.compile failed: {first or type(error).__name__}"
    work.undo.append(restore)
    return DONE


def run(
    model: Callable[..., Any], sample: tuple[Any, ...] | Mapping[str, Any], device: torch.device
) -> Any:
    """The model's output on the sample, which is moved to ``device``."""
    moved = pytree.tree_map(lambda v: v.to(device) if isinstance(v, torch.Tensor) else v, sample)
    return model(**moved) if isinstance(moved, Mapping) else model(*moved)


_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)


def _fused_optimizer(work: Work) -> Outcome:
    chosen: Any = work.optimizer
    if chosen is None:
        return NOTHING
    if type(chosen) not in _FUSED:
        return f"{type(chosen).__name__} has no fused form"
    if chosen.state:
        return "the optimizer has already made steps"
    groups = chosen.param_groups
    if any(g.get("fused") for g in groups):
        return NOTHING
    if any(g.get("differentiable") or not math.isfinite(g["lr"]) for g in groups):
        return "the optimizer's options exclude its fused form"
    before = [(g, g.get("foreach"), g.get("fused")) for g in groups]

    def restore() -> None:
        for group, foreach, fused in before:
            group["foreach"], group["fused"] = foreach, fused

    work.undo.append(restore)
    for group in groups:
        group["foreach"], group["fused"] = False, True
    # What the constructor sets for fused=True; torch.amp.GradScaler asks for it.
    chosen._step_supports_amp_scaling = True
    return DONE


def _declare(name: str, description: str, levels: list[Any], **rest: Any) -> OptimizationStrategy:
    return OptimizationStrategy(name, description, levels, **rest)


DEVICE = _declare(
    "device_placement",
    "parameters and buffers move to the backend's device",
    [O0, O1, O2, O3],
    requires=["device"],
    apply=_place,
)
EVAL_MODE = _declare(
    "eval_mode",
    "evaluation mode: no dropout, batch normalization by its running statistics",
    [O0, O1, O2, O3],
    purpose="inference",
    apply=_set_mode(False),
)
TRAIN_MODE = _declare(
    "train_mode", "training mode", [O0, O1, O2, O3], purpose="training", apply=_set_mode(True)
)
FROZEN_PARAMETERS = _declare(
    "frozen_parameters",
    "parameters ask for no gradient, so that inference kernels run outside torch.no_grad() too",
    [O1, O2, O3],
    purpose="inference",
    apply=_freeze,
)
FOLD_CONV_BN = _declare(
    "fold_conv_bn",
    "a batch normalization after a convolution becomes part of the convolution's weights",
    [O1, O2, O3],
    precision_impact="rounding",
    purpose="inference",
    apply=_fold_conv_bn,
)
CHANNELS_LAST = _declare(
    "channels_last",
    "weights of two-dimensional convolutions lie with channels last, as tensor cores read them",
    [O1, O2, O3],
    precision_impact="rounding",
    requires=["device"],
    apply=_channels_last,
)
KERNELS_KEEP = _declare(
    "kernels_keep",
    "kernel_pytorch.optimize with precision 'keep': native kernels where they win on the sample",
    [O1],
    precision_impact="rounding",
    requires=["sample_input"],
    purpose="inference",
    apply=_kernels("keep"),
)
KERNELS_BF16 = _declare(
    "kernels_bf16",
    "kernel_pytorch.optimize with precision 'bf16', where that wins on the sample",
    [O2],
    precision_impact="bf16",
    requires=["sample_input"],
    purpose="inference",
    apply=_kernels("bf16"),
)
KERNELS_INT8 = _declare(
    "kernels_int8",
    "kernel_pytorch.optimize with precision 'int8', where that wins on the sample",
    [O3],
    precision_impact="int8",
    requires=["sample_input"],
    purpose="inference",
    apply=_kernels("int8"),
)
TF32 = _declare(
    "tf32",
    "float32 products in TF32, for the whole process (torch.set_float32_matmul_precision('high'))",
    [O2, O3],
    precision_impact="tf32",
    requires=["device"],
    apply=_tf32,
)
CUDNN_BENCHMARK = _declare(
    "cudnn_benchmark",
    "cuDNN (MIOpen) times its convolutions at each new size, for the whole process",
    [O1, O2, O3],
    precision_impact="rounding",
    requires=["device"],
    apply=_cudnn_benchmark,
)
AUTOCAST = _declare(
    "autocast",
    "the model runs under autocast in 16 bits; weights and results keep their dtype",
    [O2, O3],
    precision_impact="bf16",
    requires=["device"],
    apply=_autocast,
)
COMPILE = _declare(
    "torch_compile",
    "torch.compile, which takes minutes at the first call",
    [O3],
    precision_impact="rounding",
    requires=["device"],
    apply=_compile,
)
FUSED_OPTIMIZER = _declare(
    "fused_optimizer",
    "the optimizer's step runs as one kernel (fused=True)",
    [O1, O2, O3],
    precision_impact="rounding",
    requires=["optimizer"],
    purpose="training",
    apply=_fused_optimizer,
)
