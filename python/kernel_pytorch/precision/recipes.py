"""How FP8 training scales its tensors, and its configuration."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any

import torch

from kernel_pytorch.core.errors import ArgumentError
from kernel_pytorch.precision.numbers import fp8_dtype

__all__ = ["RECIPES", "FP8Config", "FP8Format", "Recipe"]


class FP8Format(enum.Enum):
    """The formats, by the names training uses."""

    E4M3 = "e4m3"
    E5M2 = "e5m2"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What shares a scale, when it is measured, and the format of gradients by default."""

    name: str
    granularity: str
    """ "tensor", "row" or "block" (1x128 of activations and gradients, 128x128 of weights)."""
    delayed: bool
    """Scales are those of the largest magnitudes of earlier steps."""
    gradients: FP8Format


RECIPES = {
    r.name: r
    for r in (
        # Micikevicius et al., "FP8 formats for deep learning", 2022.
        Recipe(
            name="tensorwise_delayed",
            granularity="tensor",
            delayed=True,
            gradients=FP8Format.E5M2,
        ),
        Recipe(
            name="tensorwise_current",
            granularity="tensor",
            delayed=False,
            gradients=FP8Format.E5M2,
        ),
        Recipe(name="rowwise", granularity="row", delayed=False, gradients=FP8Format.E4M3),
        # DeepSeek-AI, "DeepSeek-V3 technical report", 2024, section 3.3.
        Recipe(name="blockwise", granularity="block", delayed=False, gradients=FP8Format.E4M3),
    )
}
"""By name."""


@dataclass(frozen=True)
class FP8Config:
    """FP8 training.

    ``scaling_strategy`` is the name of a recipe; "dynamic" is ``tensorwise_delayed`` (or
    ``tensorwise_current`` with ``enable_amax_history=False``). ``backward_format`` None is the
    recipe's own. Delayed scales are those of the largest magnitude in the last
    ``amax_history_len`` steps, times ``2^margin`` to leave room.

    ``initial_scale``, ``growth_factor``, ``backoff_factor`` and ``scaling_interval`` are
    :class:`FP8LossScaler`'s: no recipe needs its loss scaled, since every FP8 tensor has its own.
    Gradients are checked at every step, whatever ``overflow_check_interval`` says.
    ``fp8_dpa``, ``fp8_mha`` and ``use_te_linear`` are for Transformer Engine where it is installed.

    Raises ArgumentError (a ValueError, and an AssertionError) for values out of range.
    """

    forward_format: FP8Format = FP8Format.E4M3
    backward_format: FP8Format | None = None
    scaling_strategy: str = "dynamic"
    scaling_interval: int = 1000
    initial_scale: float = 2.0**15
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    overflow_check_interval: int = 100
    enable_amax_history: bool = True
    amax_history_len: int = 1024
    margin: int = 2
    fp8_dpa: bool = True
    fp8_mha: bool = True
    use_te_linear: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "forward_format", FP8Format(self.forward_format))
        self._validate()
        chosen = self.recipe.gradients if self.backward_format is None else self.backward_format
        object.__setattr__(self, "backward_format", FP8Format(chosen))

    def _validate(self) -> None:
        wrong = [
            (self.initial_scale <= 0, "initial_scale", "be positive"),
            (self.growth_factor <= 1, "growth_factor", "be above 1"),
            (not 0 < self.backoff_factor < 1, "backoff_factor", "lie in (0, 1)"),
            (self.amax_history_len < 1, "amax_history_len", "be positive"),
            (self.scaling_interval < 1, "scaling_interval", "be positive"),
            (self.overflow_check_interval < 1, "overflow_check_interval", "be positive"),
            (
                self.scaling_strategy not in ("dynamic", *RECIPES),
                "scaling_strategy",
                f"be 'dynamic' or one of {', '.join(RECIPES)}",
            ),
        ]
        for is_wrong, name, expected in wrong:
            if is_wrong:
                raise ArgumentError(
                    f"FP8Config: {name} must {expected}, got {getattr(self, name)!r}"
                )

    @property
    def recipe(self) -> Recipe:
        """What ``scaling_strategy`` names."""
        if self.scaling_strategy != "dynamic":
            return RECIPES[self.scaling_strategy]
        return RECIPES["tensorwise_delayed" if self.enable_amax_history else "tensorwise_current"]

    @property
    def forward_dtype(self) -> torch.dtype:
        """Of activations and weights."""
        return fp8_dtype(self.forward_format)

    @property
    def backward_dtype(self) -> torch.dtype:
        """Of gradients."""
        return fp8_dtype(self.backward_format)

    def to_te_recipe(self) -> Any:
        """The recipe for Transformer Engine; ImportError where it is not installed."""
        from kernel_pytorch.precision.transformer_engine import te_recipe

        return te_recipe(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``FP8Config(**data)`` reads it back."""
        return {k: getattr(v, "value", v) for k, v in asdict(self).items()}
