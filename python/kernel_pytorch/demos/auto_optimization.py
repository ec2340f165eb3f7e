"""The unified manager: from a model to the best that this machine makes of it, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from kernel_pytorch.core.dispatch_log import explain
from kernel_pytorch.core.management import UnifiedManager
from kernel_pytorch.demos.backend_parts import error_of, levels, raises
from kernel_pytorch.demos.result import rounds
from kernel_pytorch.demos.walkthrough import Walkthrough
from kernel_pytorch.optimize.table import milliseconds

__all__ = ["run"]

# Bounds of kernel_pytorch.optimize for float32 models: keep, bf16, int8.
_BOUNDS = {"conservative": 1e-4, "balanced": 3e-2, "aggressive": 1e-1}


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down(nn.functional.gelu(self.up(self.norm(x))))
        return x + y


def run(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Walkthrough:
    """Run the walk; ``quick`` takes a small model and measures for a moment only."""
    shown = Walkthrough(title="Automatic optimisation", say=say)
    width, depth, batch = (128, 1, 16) if quick else (768, 4, 128)
    torch.manual_seed(0)
    original = nn.Sequential(*(_Block(width) for _ in range(depth))).eval()
    x = torch.randn(batch, width)
    manager = UnifiedManager()
    device = manager.hardware_manager.backend.device
    manager.hardware_manager.backend.optimizer.time_budget = 0.5 if quick else None
    say("asking what suits this machine")
    advice = manager.get_optimization_recommendations(original)
    shown.listing(
        "recommended",
        ("what", "is"),
        [(k, str(v)) for k, v in advice.items() if k not in ("strategies", "capabilities")],
    )
    levels(shown, manager.hardware_manager.backend.optimizer)
    with torch.no_grad():
        want = copy.deepcopy(original).double()(x.double())
    rows = []
    for level, bound in _BOUNDS.items():
        say(f"optimising, {level}")
        model = copy.deepcopy(original)
        manager.auto_optimize(model, x, level, for_inference=True)
        with torch.no_grad(), explain() as calls:
            error = error_of(model(x.to(device)), want)
        result = manager.last_result
        assert result is not None
        shown.at_most(f"{level}: error against float64", error, bound)
        shown.at_most(f"{level}: calls that fell back", len(calls.fallbacks), 0)
        kernels = [d for d in result.optimizations_applied if d.startswith("kernels_")]
        if kernels:
            shown.at_least(f"{level}: calls of native kernels", len(calls.calls), 1)
        with torch.no_grad():
            calls_of = {"original": _call(original, x), "optimised": _call(model, x.to(device))}
            times = rounds(calls_of, 0.1 if quick else 2.0)
        before, after = (sorted(t)[len(t) // 2] for t in times.values())
        rows.append(
            (
                level,
                ", ".join(result.optimizations_applied),
                milliseconds(before),
                milliseconds(after),
                f"{error:.1e}",
            )
        )
        manager.revert(model)
        with torch.no_grad():
            again = model.cpu().eval()(x)
            difference = float((again - original(x)).abs().max())
        shown.at_most(f"{level}: largest difference after revert", difference, 0.0)
    shown.listing(
        "for inference", ("level", "done", "original, ms", "optimised, ms", "error"), rows
    )
    say("training")
    model = copy.deepcopy(original)
    losses = _train(manager.auto_optimize(model, optimization_level="balanced"), x)
    shown.at_most("training: last loss over the first", losses[-1] / losses[0], 0.9)
    raises(
        shown,
        "an unknown level",
        ValueError,
        lambda: manager.auto_optimize(original, optimization_level="turbo"),
    )
    return shown.finished()


def _call(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    return lambda: model(x)


def _train(model: nn.Module, x: torch.Tensor) -> list[float]:
    device = next(model.parameters()).device
    x = x.to(device)
    target = torch.zeros_like(x)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
