"""FP8 training: a model converted, its steps, and what they showed."""

from __future__ import annotations

import copy
import os
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from kernel_pytorch.precision import transformer_engine
from kernel_pytorch.precision.convert import ModuleFilter, Replacements, linear_layers
from kernel_pytorch.precision.recipes import FP8Config, FP8Format
from kernel_pytorch.precision.training_linear import FP8LinearLayer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "FP8LossScaler",
    "FP8Optimizer",
    "FP8TrainingEngine",
    "convert_model_to_fp8",
    "create_fp8_optimizer",
    "create_fp8_trainer",
    "estimate_fp8_speedup",
    "gradients_are_finite",
    "validate_fp8_setup",
]


def convert_model_to_fp8(
    model: nn.Module,
    fp8_config: FP8Config | None = None,
    convert_linear: bool = True,
    convert_attention: bool = True,
    inplace: bool = False,
    *,
    module_filter: ModuleFilter | None = None,
) -> nn.Module:
    """``model`` with :class:`FP8LinearLayer` for its linear layers (``convert_linear``) and for the
    projections of its ``nn.MultiheadAttention`` (``convert_attention``), with the same parameters;
    ``module_filter`` says of each name and module whether it may be.

    A layer whose weight something else uses too (a tied embedding) is converted all the same: the
    parameter is shared as before. A deep copy unless ``inplace``. ValueError where nothing can be
    converted.
    """
    config = fp8_config or FP8Config()
    if not inplace:
        model = copy.deepcopy(model)
    wanted = []
    for name, module, reason in linear_layers(model, module_filter, tied=True):
        attention = isinstance(module, nn.MultiheadAttention)
        if not reason and (convert_attention if attention else convert_linear):
            wanted.append(name)
    if not wanted:
        raise ValueError("convert_model_to_fp8: the model has no linear layer to convert")
    layers = Replacements(lambda linear: FP8LinearLayer.from_linear(linear, config))
    return layers.put(model, wanted)


def gradients_are_finite(model: nn.Module) -> bool:
    """Whether every gradient of ``model`` is free of NaN and infinity; one wait for the device."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    if not grads:
        return True
    norms = torch._foreach_norm([g.detach() for g in grads])
    return bool(torch.stack([n.float() for n in norms]).isfinite().all())


def _fp8_layers(model: nn.Module) -> list[FP8LinearLayer]:
    return [m for m in model.modules() if isinstance(m, FP8LinearLayer)]


class FP8TrainingEngine:
    """Trains ``model`` in FP8.

    :meth:`setup_fp8_training` converts it in place (by Transformer Engine where that is installed,
    the device is CUDA and ``config.use_te_linear``). Then for each batch: ``loss =
    training_step(inputs, targets)``, ``loss.backward()``, ``optimizer_step(optimizer)``. Any loss
    of the model's may be used in place of ``training_step``; several backward passes before a step
    accumulate gradients. ``module_filter`` says of each name and layer whether it may be converted
    (output heads are often left as they are). The optimizer sees ordinary parameters and gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        config: FP8Config,
        device: Any = None,
        *,
        module_filter: ModuleFilter | None = None,
    ) -> None:
        if not isinstance(config, FP8Config):
            raise TypeError(
                f"FP8TrainingEngine: argument 'config' must be an FP8Config, got "
                f"{type(config).__name__}"
            )
        self.model, self.config = model, config
        self.device = None if device is None else torch.device(device)
        self._filter = module_filter
        self.is_setup = False
        self.fp8_enabled = False
        self.uses_transformer_engine = False
        self._steps = self._optimizer_steps = self._overflows = 0

    def setup_fp8_training(self) -> bool:
        """Convert the model; does nothing the second time. Returns True."""
        if self.is_setup:
            return True
        if self.device is not None:
            self.model.to(self.device)
        on_cuda = any(p.is_cuda for p in self.model.parameters())
        if self.config.use_te_linear and on_cuda and transformer_engine.is_available():
            self.model = transformer_engine.convert(self.model, self._filter)
            self.uses_transformer_engine = True
        elif not _fp8_layers(self.model):
            self.model = convert_model_to_fp8(
                self.model, self.config, inplace=True, module_filter=self._filter
            )
        self.is_setup = self.fp8_enabled = True
        return True

    def __enter__(self) -> Self:
        self.setup_fp8_training()
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def training_step(
        self, inputs: torch.Tensor, targets: torch.Tensor, return_loss: bool = True
    ) -> Any:
        """The cross-entropy of ``model(inputs)``, ready for ``backward()``.

        ``targets`` is ``[B]`` (for an output ``[B, T, C]``, of its last token) or has the output's
        leading dimensions. ``return_loss=False`` returns ``(loss, metadata)``. RuntimeError before
        :meth:`setup_fp8_training`.
        """
        if not self.is_setup:
            raise RuntimeError("FP8TrainingEngine: call setup_fp8_training() first")
        with transformer_engine.autocast(self.config, self.uses_transformer_engine):
            output = self.model(inputs)
        if targets.dim() == 1 and output.dim() == 3:
            output = output[:, -1]
        loss = F.cross_entropy(output.flatten(0, -2).float(), targets.flatten())
        self._steps += 1
        if return_loss:
            return loss
        return loss, {"step": self._steps, "fp8_enabled": self.fp8_enabled}

    def optimizer_step(self, optimizer: torch.optim.Optimizer, grad_scaler: Any = None) -> bool:
        """Step unless a gradient is NaN or infinite; returns whether it did.

        A step that is left out changes neither parameters nor the optimizer's state, and is
        counted. ``grad_scaler`` is a ``torch.amp.GradScaler`` with which the loss was scaled.
        """
        if grad_scaler is not None:
            before = grad_scaler.get_scale()
            grad_scaler.step(optimizer)
            grad_scaler.update()
            done = grad_scaler.get_scale() >= before
        else:
            done = gradients_are_finite(self.model)
            if done:
                optimizer.step()
        self._optimizer_steps += done
        self._overflows += not done
        return done

    def get_training_statistics(self) -> dict[str, Any]:
        """Counts of steps and overflows, and the largest magnitudes that each layer has seen."""
        layers = {n: m for n, m in self.model.named_modules() if isinstance(m, FP8LinearLayer)}
        info = {
            name: {
                "input_amax": float(m.input_amax),
                "weight_amax": float(m.weight_amax),
                "grad_amax": float(m.grad_amax),
                "saturated": m.overflows,
            }
            for name, m in layers.items()
        }
        return {
            "steps": self._steps,
            "optimizer_steps": self._optimizer_steps,
            "overflows": self._overflows,
            "scale_info": {"recipe": self.config.recipe.name, "layers": info},
            "fp8_enabled": self.fp8_enabled,
            "transformer_engine_available": transformer_engine.is_available(),
            "hardware_compatible": True,
            "replaced_layers": len(layers),
        }

    def save_checkpoint(self, filepath: str | os.PathLike[str]) -> None:
        """The model's state, the configuration and the counts, whole or not at all."""
        partial = f"{os.fspath(filepath)}.partial"
        torch.save(
            {
                "model": self.model.state_dict(),
                "config": self.config.to_dict(),
                "counts": [self._steps, self._optimizer_steps, self._overflows],
            },
            partial,
        )
        os.replace(partial, filepath)

    def load_checkpoint(self, filepath: str | os.PathLike[str]) -> None:
        """What :meth:`save_checkpoint` wrote. ValueError when it is of another configuration."""
        found = torch.load(filepath, weights_only=True)
        mine = self.config.to_dict()
        differ = {k for k in mine.keys() | found["config"] if mine.get(k) != found["config"].get(k)}
        if differ:
            raise ValueError(
                f"FP8TrainingEngine: the checkpoint is of another configuration: {sorted(differ)} "
                f"differ"
            )
        self.setup_fp8_training()
        self.model.load_state_dict(found["model"])
        self._steps, self._optimizer_steps, self._overflows = found["counts"]

    def restore_original_model(self) -> nn.Module:
        """The model with ordinary linear layers again, and what they have learnt, in place."""
        for name, module in list(self.model.named_modules()):
            if isinstance(module, FP8LinearLayer):
                plain = nn.Linear(module.in_features, module.out_features, device="meta")
                plain.weight, plain.bias = module.weight, module.bias
                plain.train(module.training)
                if not name:
                    self.model = plain
                    break
                parent = self.model.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], plain)
        self.is_setup = self.fp8_enabled = False
        return self.model


def create_fp8_trainer(
    model: nn.Module,
    device: Any = None,
    forward_format: FP8Format = FP8Format.E4M3,
    backward_format: FP8Format | None = None,
    **kwargs: Any,
) -> FP8TrainingEngine:
    """An engine; ``kwargs`` are fields of :class:`FP8Config`."""
    return FP8TrainingEngine(model, FP8Config(forward_format, backward_format, **kwargs), device)


class FP8Optimizer:
    """``optimizer``, without the steps whose gradients are not finite; its state is its own."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, fp8_config: FP8Config, model: nn.Module
    ) -> None:
        self.optimizer, self.fp8_config, self.model = optimizer, fp8_config, model
        self.overflows = 0

    def step(self, closure: Any = None) -> bool:
        """Whether it stepped; afterwards delayed scales move on."""
        done = gradients_are_finite(self.model)
        if done:
            self.optimizer.step(closure)
        self.overflows += not done
        for layer in _fp8_layers(self.model):
            layer.update_fp8_scales()
        return done

    def zero_grad(self) -> None:
        """As the optimizer's."""
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Into the optimizer."""
        self.optimizer.load_state_dict(state_dict)


def create_fp8_optimizer(
    model: nn.Module,
    optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
    fp8_config: FP8Config | None = None,
    **optimizer_kwargs: Any,
) -> FP8Optimizer:
    """An :class:`FP8Optimizer` over ``optimizer_class`` of the model's parameters."""
    optimizer = optimizer_class(model.parameters(), **optimizer_kwargs)
    return FP8Optimizer(optimizer, fp8_config or FP8Config(), model)


class FP8LossScaler:
    """A dynamic loss scale, for models whose gradients are float16 outside their FP8 layers.

    Backs off at a gradient that is not finite, grows after ``growth_interval`` steps without one.
    """

    def __init__(
        self,
        initial_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        FP8Config(
            initial_scale=initial_scale,
            growth_factor=growth_factor,
            backoff_factor=backoff_factor,
            scaling_interval=growth_interval,
        )
        self._scale = initial_scale
        self._growth, self._backoff, self._interval = growth_factor, backoff_factor, growth_interval
        self._good = 0
        self._unscaled = False

    def scale_loss(self, loss: torch.Tensor) -> torch.Tensor:
        """``loss`` times the scale."""
        return loss * self._scale

    def unscale_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale, once before each step."""
        if self._unscaled:
            raise RuntimeError("FP8LossScaler: the gradients of this step are unscaled already")
        for parameter in _parameters(optimizer):
            if parameter.grad is not None:
                parameter.grad.mul_(1.0 / self._scale)
        self._unscaled = True

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Unscale if that was not done, then step unless a gradient is not finite."""
        if not self._unscaled:
            self.unscale_gradients(optimizer)
        self._unscaled = False
        grads = [p.grad for p in _parameters(optimizer) if p.grad is not None]
        if not all(bool(g.isfinite().all()) for g in grads):
            self._scale *= self._backoff
            self._good = 0
            return False
        optimizer.step()
        self._good += 1
        if self._good % self._interval == 0:
            self._scale *= self._growth
        return True

    def get_scale(self) -> float:
        """The scale."""
        return self._scale


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def validate_fp8_setup(model: nn.Module, device: Any = None) -> dict[str, Any]:
    """Whether ``model`` can be trained in FP8 on ``device``, by trying: one forward and backward
    pass of one of its layers. Keys: valid, warnings, errors, recommendations, capabilities."""
    warnings: list[str] = []
    errors: list[str] = []
    recommendations: list[str] = []
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    if not linears:
        errors.append("the model has no linear layer")
    odd = [m for m in linears if m.in_features % 16 or m.out_features % 16]
    if odd:
        warnings.append(f"{len(odd)} layers have sizes that are no multiples of 16")
        recommendations.append("sizes that are multiples of 16 are what FP8 tensor cores need")
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if torch.float64 in dtypes:
        errors.append("the model has float64 parameters")
    if torch.float16 in dtypes:
        recommendations.append("bfloat16 in place of float16 needs no loss scaling")
    if linears and not errors:
        smallest = min(linears, key=lambda m: m.weight.numel())
        layer = FP8LinearLayer(smallest.in_features, smallest.out_features, device=device)
        x = torch.randn(4, smallest.in_features, device=device, requires_grad=True)
        layer(x).sum().backward()
        if x.grad is None or not bool(x.grad.isfinite().all()):
            errors.append("a trial layer's gradients are not finite")
    return {
        "valid": not errors,
        "warnings": warnings,
        "errors": errors,
        "recommendations": recommendations,
        "capabilities": {
            "linear_layers": len(linears),
            "parameters": sum(p.numel() for p in model.parameters()),
            "transformer_engine": transformer_engine.is_available(),
            "device": str(device or "cpu"),
        },
    }


def estimate_fp8_speedup(
    model: nn.Module, input_shape: tuple[int, ...], device: Any = None
) -> dict[str, float]:
    """How much faster a forward and backward pass is in FP8, measured on random input of
    ``input_shape``: medians of interleaved passes in ms, and their ratio."""
    plain = copy.deepcopy(model).train()
    fp8 = convert_model_to_fp8(plain)
    if device is not None:
        plain, fp8 = plain.to(device), fp8.to(device)
    x = torch.randn(input_shape, device=device)
    times: dict[str, list[float]] = {"plain": [], "fp8": []}
    for i in range(6):
        for name, module in (("plain", plain), ("fp8", fp8)):
            start = time.perf_counter()
            module(x).float().sum().backward()
            if x.is_cuda:
                torch.cuda.synchronize()
            if i:  # the first one warms up
                times[name].append(time.perf_counter() - start)
    before, after = statistics.median(times["plain"]), statistics.median(times["fp8"])
    return {
        "standard_time_ms": before * 1e3,
        "fp8_time_ms": after * 1e3,
        "speedup": before / after,
    }
