"""FP8 training by NVIDIA's Transformer Engine, where it is installed, through its recipe API."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from kernel_pytorch.precision.recipes import FP8Config, FP8Format

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["autocast", "convert", "is_available", "te_recipe"]


def is_available() -> bool:
    """Whether Transformer Engine is installed; imports nothing of it."""
    return importlib.util.find_spec("transformer_engine") is not None


def te_recipe(config: FP8Config) -> Any:
    """What ``config`` asks for, as a recipe of ``transformer_engine.common.recipe``.

    Only arguments of every version from 2.0 on are passed. Rowwise scaling, which Transformer
    Engine does not have, is refused with ValueError; so are formats that it cannot combine.
    """
    from transformer_engine.common import recipe as recipes

    pair = (config.forward_format, config.backward_format)
    formats = {
        (FP8Format.E4M3, FP8Format.E5M2): "HYBRID",
        (FP8Format.E4M3, FP8Format.E4M3): "E4M3",
    }
    if pair not in formats:
        raise ValueError(
            f"Transformer Engine has no format with {pair[0].value} forward and "
            f"{getattr(pair[1], 'value', None)} backward"
        )
    format = getattr(recipes.Format, formats[pair])
    name = config.recipe.name
    attention = {"fp8_dpa": config.fp8_dpa, "fp8_mha": config.fp8_mha}
    if name == "tensorwise_delayed":
        return recipes.DelayedScaling(
            margin=config.margin,
            fp8_format=format,
            amax_history_len=config.amax_history_len,
            amax_compute_algo="max",
            **attention,
        )
    if name == "tensorwise_current":
        return recipes.Float8CurrentScaling(fp8_format=format, **attention)
    if name == "blockwise":
        return recipes.Float8BlockScaling(fp8_format=format)
    raise ValueError(f"Transformer Engine has no recipe like {name!r}")


def autocast(config: FP8Config, enabled: bool) -> AbstractContextManager[Any]:
    """Transformer Engine's autocast under the recipe of ``config``; nothing when not enabled."""
    if not enabled:
        return contextlib.nullcontext()
    import transformer_engine.pytorch as te

    recipe = te_recipe(config)
    if hasattr(te, "autocast"):  # from 2.8 on
        context: AbstractContextManager[Any] = te.autocast(enabled=True, recipe=recipe)
    else:
        context = te.fp8_autocast(enabled=True, fp8_recipe=recipe)
    return context


def convert(model: nn.Module, allowed: Callable[[str, nn.Module], bool] | None = None) -> nn.Module:
    """``model`` with ``te.Linear`` for its linear layers, whose sizes it can do (multiples of 16),
    with the same parameters, in place."""
    import transformer_engine.pytorch as te

    for name, module in list(model.named_modules()):
        if type(module) is not nn.Linear or module.in_features % 16 or module.out_features % 16:
            continue
        if allowed is not None and not allowed(name, module):
            continue
        made = te.Linear(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            params_dtype=module.weight.dtype,
            device=module.weight.device,
        )
        made.weight = module.weight
        if module.bias is not None:
            made.bias = module.bias
        if not name:
            return made
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], made)
    return model
