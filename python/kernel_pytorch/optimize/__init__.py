"""Optimize a model: find what kernels do better, measure it on real inputs, keep what wins.

``kernel_pytorch.optimize(model, example_inputs)`` is the main entry; this package is also callable
under that name.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import nn

from kernel_pytorch.optimize.capture import Inputs
from kernel_pytorch.optimize.installed import ATTRIBUTE, Installed
from kernel_pytorch.optimize.policy import policy
from kernel_pytorch.optimize.results import Report
from kernel_pytorch.optimize.session import Session

__all__ = ["Report", "optimize", "plan", "report", "revert"]


def plan(
    model: nn.Module,
    example_inputs: Any,
    *,
    precision: str = "keep",
    max_error: float | None = None,
    progress: bool | None = None,
) -> Report:
    """What :func:`optimize` would try on ``model``, touching nothing.

    Runs the model on ``example_inputs`` (twice: its output must repeat) and times a trial of each
    kind of replacement for a fraction of a second: the expected gain is that quick measurement.
    Each row names the modules, the operators, the gain, the error on the example inputs and its
    bound; the report also names each module that stays as it is and why. Arguments and errors as in
    :func:`optimize`.
    """
    return _session(
        model,
        example_inputs,
        precision,
        max_error=max_error,
        progress=progress,
        planned_only=True,
    ).run()


def optimize(
    model: nn.Module,
    example_inputs: Any,
    *,
    precision: str = "keep",
    max_error: float | None = None,
    strict: bool = False,
    time_budget: float | None = None,
    max_memory: int | None = None,
    progress: bool | None = None,
) -> nn.Module:
    """Replace parts of ``model`` by kernels where that wins, in place; returns ``model``.

    Every replacement is measured against the original on the inputs it gets in a forward pass of
    ``example_inputs`` (paired, interleaved), and kept when it is faster beyond noise and within
    ``max_error``; then the whole model is measured, and everything is taken back if that does not
    win. Only this instance changes: its modules keep their class, parameters, state dict and hooks,
    and :func:`revert` restores it bit for bit. Optimized modules run their original code when a
    gradient is needed, in training mode, under autocast, after their weights changed, and for calls
    unlike those they were made for; that is recorded (``kernel_pytorch.explain()``) and warned of.

    Args:
        model: a module in evaluation mode, with its weights on the CPU.
        example_inputs: a tuple of positional or a mapping of keyword inputs, as in real use.
        precision: "keep" (each module in its own dtype), "bf16" (activations and weights), "int8"
            (int8 weights and activations in linear layers, the rest bf16) or "fp8" (e4m3 weights,
            the rest bf16). Outputs keep the dtype of the original.
        max_error: bound on |y' - y| / |y| (L2 norms) for each row (first dimension) of each
            replacement's outputs and of the model's. Default: "keep" 1e-4 for float32, 5e-3 for
            float16, 3e-2 for bfloat16 models; "bf16" 3e-2; "int8" and "fp8" 1e-1.
        strict: raise StrictModeError if a planned replacement would run a reference instead of a
            native kernel.
        time_budget: seconds to spend about; what could not be measured by then stays as it is.
        max_memory: bytes that packed weights may take beside the originals, which stay for
            :func:`revert`.
        progress: what is being done, on stderr: None shows it on a terminal only, True as plain
            lines elsewhere too, False never.

    Raises:
        TypeError: ``model`` is not a module, or ``example_inputs`` is of another kind.
        ValueError: training mode, an unknown precision, a bad bound or budget, a model that is
            already optimized or whose output does not repeat.

    Whatever is raised, also KeyboardInterrupt, the model is as it was.
    """
    session = _session(
        model,
        example_inputs,
        precision,
        max_error=max_error,
        strict=strict,
        time_budget=time_budget,
        max_memory=max_memory,
        progress=progress,
    )
    try:
        session.installed.report = session.run()
        model.__dict__[ATTRIBUTE] = session.installed
    except BaseException:
        session.installed.remove()
        raise
    return model


def report(model: nn.Module) -> Report:
    """The report of the :func:`optimize` call on this model; ValueError if there was none."""
    found = _installed(model).report
    assert found is not None
    return found


def revert(model: nn.Module) -> nn.Module:
    """Undo :func:`optimize`; returns ``model``, bitwise the original. ValueError if there is
    nothing to undo."""
    _installed(model).remove()
    del model.__dict__[ATTRIBUTE]
    return model


def _installed(model: nn.Module) -> Installed:
    found = model.__dict__.get(ATTRIBUTE) if isinstance(model, nn.Module) else None
    if found is None:
        raise ValueError("this model was not optimized")
    result: Installed = found
    return result


def _session(model: nn.Module, example_inputs: Any, precision: str, **options: Any) -> Session:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"optimize: argument 'model' must be a torch.nn.Module, got {type(model).__name__}"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("optimize: argument 'model' is TorchScript, whose code cannot be replaced")
    if ATTRIBUTE in model.__dict__:
        raise ValueError("optimize: this model is already optimized; call revert(model) first")
    if model.training and not isinstance(model, torch.fx.GraphModule):
        raise ValueError(
            "optimize: the model is in training mode (dropout, batch statistics): "
            "call model.eval() first"
        )
    chosen = policy(precision)
    for name in ("max_error", "time_budget", "max_memory"):
        value = options.get(name)
        if value is not None and not value >= 0:
            raise ValueError(f"optimize: argument '{name}' must not be negative, got {value}")
    return Session(model, Inputs.of(example_inputs), chosen, **options)


class _CallableModule(ModuleType):
    # Importing a submodule sets `kernel_pytorch.optimize` to this package: it must still be what
    # users call.
    def __call__(self, *args: Any, **kwargs: Any) -> nn.Module:
        return optimize(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
