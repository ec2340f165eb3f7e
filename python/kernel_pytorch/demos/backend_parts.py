"""What the walks through the backends share: a model's way through one, and lists of levels."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kernel_pytorch.backends.base_backend import BaseBackend
from kernel_pytorch.backends.base_optimizer import BaseOptimizer
from kernel_pytorch.backends.base_types import OptimizationLevel
from kernel_pytorch.demos.walkthrough import Walkthrough

__all__ = ["error_of", "levels", "network", "raises", "through"]

_EXACT = 1e-5
_SIXTEEN_BITS = 5e-2


def network(width: int, seed: int = 0) -> nn.Module:
    """A convolution with batch normalization, then a perceptron; weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 8 * 8, width),
            nn.GELU(),
            nn.Linear(width, 16),
        )
        bn: Any = model[1]
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2.0)
    return model.eval()


def error_of(got: torch.Tensor, want: torch.Tensor) -> float:
    """|got - want| / |want|, L2 norms, in float64 on the CPU."""
    got, want = got.detach().cpu().double(), want.detach().cpu().double()
    return float((got - want).norm() / want.norm())


def levels(shown: Walkthrough, optimizer: BaseOptimizer) -> None:
    """Adds the table of what each level of an optimizer does."""
    words = list(OptimizationLevel)
    shown.listing(
        f"levels of the {optimizer.OPTIMIZER_NAME} backend",
        ("strategy", *(level.value for level in words), "for", "changes"),
        [
            (
                s.name,
                *("yes" if s.is_applicable(level) else "" for level in words),
                s.purpose,
                s.precision_impact,
            )
            for s in optimizer.get_available_strategies()
        ],
    )


def through(shown: Walkthrough, backend: BaseBackend, width: int) -> None:
    """A model prepared, optimised, reverted, its state moved: with checks."""
    model = network(width)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want = copy.deepcopy(model).double()(x.double())
        name = backend.BACKEND_NAME
        with warnings.catch_warnings():
            # That the device is absent is shown below.
            warnings.simplefilter("ignore", RuntimeWarning)
            backend.prepare_model(model)
            prepared = error_of(model(backend.to_device(x)), want)
            backend.optimize_for_inference(model)
        result = backend.last_result
        assert result is not None
        shown.listing(
            f"{name}: what level {result.level.value} did on {backend.device}",
            ("strategy", "outcome"),
            [(done, "done") for done in result.optimizations_applied]
            + [(w.split(": ", 1)[0], w.split(": ", 1)[1]) for w in result.warnings],
        )
        bound = _SIXTEEN_BITS if backend.is_available and name != "cpu" else _EXACT
        shown.at_most(f"{name}: error of the prepared model", prepared, _EXACT)
        shown.at_most(
            f"{name}: error of the optimised model",
            error_of(model(backend.to_device(x)), want),
            bound,
        )
        moved = network(width, seed=7)
        moved.load_state_dict(backend.state_dict(model))
        shown.at_most(f"{name}: error of its state elsewhere", error_of(moved(x), want), _EXACT)
        backend.revert(model)
        reverted = model(backend.to_device(x)).cpu()
        plain = network(width)(x)
        shown.at_most(
            f"{name}: largest difference after revert",
            0.0 if torch.equal(reverted, plain) else float((reverted - plain).abs().max()),
            0.0 if reverted.device == plain.device and not backend.is_available else _EXACT,
        )


def raises(shown: Walkthrough, what: str, error: type[Exception], call: Callable[[], Any]) -> str:
    """Checks that ``call`` raises ``error``; returns the message."""
    message = ""
    try:
        call()
    except error as found:
        message = str(found)
    shown.at_least(f"{what}: refused with {error.__name__}", float(bool(message)), 1.0)
    return message
