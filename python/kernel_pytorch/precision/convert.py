"""Replace the linear layers of a model by quantized ones, and say what that did."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kernel_pytorch.precision.linear import ACTIVATION_SCALINGS, NativeFP8Linear
from kernel_pytorch.precision.multihead import ConvertedMultiheadAttention, can_convert
from kernel_pytorch.precision.numbers import FP8Dtype, fp8_dtype
from kernel_pytorch.precision.packed import PackedLinear

__all__ = [
    "LayerReport",
    "ModuleFilter",
    "QuantizationReport",
    "Replacements",
    "batches_of",
    "call",
    "convert_model_to_native_fp8",
    "linear_layers",
    "output_of",
    "quantization_report",
    "relative_error",
    "stored_bytes",
]

ModuleFilter = Callable[[str, nn.Module], bool]
"""(name, module) to whether the module may be converted."""
_REPORT = "_kpt_quantization"


@dataclass(kw_only=True)
class LayerReport:
    """One layer: what became of it."""

    name: str
    converted: bool
    reason: str = ""
    """Why it stayed as it is."""
    sensitivity: float | None = None
    """Relative error of the model's output with this layer alone converted; None: not measured."""
    bytes_before: int = 0
    bytes_after: int = 0


@dataclass(kw_only=True)
class QuantizationReport:
    """What converting a model did, measured."""

    format: str
    layers: list[LayerReport] = field(default_factory=list)
    error: float | None = None
    """Relative error of the model's output on the calibration data; None: there was none."""
    bytes_before: int = 0
    """Bytes of storage of the whole model's parameters and buffers, shared ones once."""
    bytes_after: int = 0

    @property
    def converted(self) -> list[str]:
        """The names of the converted layers."""
        return [layer.name for layer in self.layers if layer.converted]

    def __str__(self) -> str:
        lines = [
            f"{self.format}: {len(self.converted)} of {len(self.layers)} layers, "
            f"{self.bytes_before / 1e6:.2f} MB -> {self.bytes_after / 1e6:.2f} MB"
            + ("" if self.error is None else f", relative error {self.error:.2e}")
        ]
        for layer in self.layers:
            what = "converted" if layer.converted else f"kept: {layer.reason}"
            measured = "" if layer.sensitivity is None else f"  {layer.sensitivity:.2e}"
            lines.append(f"  {layer.name or '(the model)'}{measured}  {what}")
        return "\n".join(lines)


def quantization_report(model: nn.Module) -> QuantizationReport:
    """What :func:`convert_model_to_native_fp8` did to ``model``; ValueError if it did nothing."""
    found: QuantizationReport | None = model.__dict__.get(_REPORT)
    if found is None:
        raise ValueError("precision: this model was not converted")
    return found


def stored_bytes(modules: Iterable[nn.Module]) -> int:
    """Bytes of storage behind the parameters and buffers of ``modules``, shared storage once."""
    storages = {
        s.data_ptr() if s.device.type != "meta" else id(s): s.nbytes()
        for module in modules
        for t in (*module.parameters(), *module.buffers())
        for s in (t.untyped_storage(),)
        if s.nbytes()
    }
    return sum(storages.values())


def convert_model_to_native_fp8(
    model: nn.Module,
    weight_format: FP8Dtype | str = FP8Dtype.E4M3,
    activation_format: FP8Dtype = FP8Dtype.E4M3,
    inplace: bool = False,
    *,
    activation_scaling: str = "none",
    calibration_data: Any = None,
    max_error: float | None = None,
    module_filter: ModuleFilter | None = None,
    trainable: bool | None = None,
    group_size: int = 32,
    compute: str = "weight_only",
) -> nn.Module:
    """``model`` with its ``nn.Linear`` (and those in ``nn.MultiheadAttention``) quantized.

    Args:
        model: any module, itself an ``nn.Linear`` too (then the result is what replaces it).
        weight_format: an FP8 format, or "int8" or "int4" (weight-only, with zero points in groups
            of ``group_size``).
        activation_format: of activations, where ``activation_scaling`` rounds them.
        inplace: change ``model``; else a deep copy.
        activation_scaling: "none", "dynamic" or "static" (needs ``calibration_data``); see
            :class:`NativeFP8Linear`.
        calibration_data: a batch or a list of batches (a tensor, a tuple of positional or a mapping
            of keyword inputs). With it every layer's sensitivity is measured: the relative error of
            the model's output with that layer alone converted.
        max_error: leave the most sensitive layers as they are until the whole model's relative
            error on the calibration data is at most this.
        module_filter: ``(name, module)`` to whether a layer may be converted.
        trainable: keep master weights (FP8 only); by default as the model is in training mode.
        compute: of int8 and int4: "weight_only" or "int8" (see ``packed_linear``).

    Layers that share a weight share its quantized form. A layer whose weight something else uses
    too (a tied embedding) stays. What was done is in :func:`quantization_report`.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: an unknown format or scaling, no calibration data where it is needed, no layer
            to convert, or an error bound that not even one converted layer keeps.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"convert_model_to_native_fp8: argument 'model' must be a torch.nn.Module, got "
            f"{type(model).__name__}"
        )
    integers = weight_format in ("int8", "int4")
    format = str(weight_format) if integers else FP8Dtype(_value(fp8_dtype(weight_format)))
    data = None if calibration_data is None else batches_of(calibration_data)
    if activation_scaling not in ACTIVATION_SCALINGS:
        raise ValueError(
            f"convert_model_to_native_fp8: argument 'activation_scaling' must be one of "
            f"{', '.join(ACTIVATION_SCALINGS)}, got {activation_scaling!r}"
        )
    if data is None and (activation_scaling == "static" or max_error is not None):
        what = "activation_scaling 'static'" if max_error is None else "max_error"
        raise ValueError(f"convert_model_to_native_fp8: {what} needs calibration_data")
    keep_master = model.training if trainable is None else trainable

    def make(linear: nn.Linear) -> nn.Module:
        if isinstance(format, str):
            grouped = format == "int4"
            return PackedLinear(
                linear.weight,
                linear.bias,
                format,
                group_size=group_size if grouped else -1,
                symmetric=not grouped,
                compute=compute,
            ).train(linear.training)
        made = NativeFP8Linear.from_linear(
            linear,
            weight_format=format,
            activation_format=activation_format,
            activation_scaling=activation_scaling,
        )
        return made if keep_master else made.freeze()

    if not inplace:
        model = copy.deepcopy(model)
    named = format if isinstance(format, str) else format.value
    report = QuantizationReport(format=named, bytes_before=stored_bytes([model]))
    found = list(linear_layers(model, module_filter))
    allowed = {name for name, _, reason in found if not reason}
    if not allowed:
        raise ValueError(
            "convert_model_to_native_fp8: the model has no linear layer that may be converted"
        )
    layers = Replacements(make)
    if data is not None and activation_scaling == "static":
        _calibrate(model, allowed, layers, data)
    trial = None if data is None else _Trial(model, layers, data)
    sensitivity = {} if trial is None else {name: trial.error({name}) for name in allowed}
    dropped: set[str] = set()
    if trial is not None and max_error is not None:
        dropped = trial.left_out(sensitivity, max_error)
    if trial is not None:
        report.error = trial.error(allowed - dropped)
    for name, module, reason in found:
        kept = "too sensitive" if name in dropped else reason
        size = stored_bytes([module])
        report.layers.append(
            LayerReport(
                name=name,
                converted=not kept,
                reason=kept,
                sensitivity=sensitivity.get(name),
                bytes_before=size,
                bytes_after=size,
            )
        )
    model = layers.put(model, allowed - dropped)
    for layer in report.layers:
        if layer.converted:
            layer.bytes_after = stored_bytes([model.get_submodule(layer.name)])
    report.bytes_after = stored_bytes([model])
    model.__dict__[_REPORT] = report
    return model


def _value(dtype: torch.dtype) -> str:
    return "e4m3fn" if dtype == torch.float8_e4m3fn else "e5m2"


def linear_layers(
    model: nn.Module, allowed: ModuleFilter | None = None, tied: bool = False
) -> Iterator[tuple[str, nn.Module, str]]:
    """(name, layer, why it stays; "" when it need not) of the linear layers and attentions, each
    module once. ``tied``: a weight may be that of something else too."""
    used: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            used.setdefault(id(parameter), []).append(module)
    inside: set[int] = set()
    for name, module in model.named_modules():
        if id(module) in inside:
            continue
        if isinstance(module, nn.MultiheadAttention):
            inside |= {id(m) for m in module.modules()}
            reason = can_convert(module)
            weights = [module.in_proj_weight, module.out_proj.weight]
        elif type(module) in (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear):
            reason, weights = "", [module.weight]
        else:
            continue
        others = {
            type(user).__name__
            for weight in weights
            for user in used.get(id(weight), ())
            if not isinstance(user, (nn.Linear, nn.MultiheadAttention))
        }
        if others and not reason and not tied:
            reason = f"its weight is also used by {sorted(others)[0]}"
        if not reason and allowed is not None and not allowed(name, module):
            reason = "the module filter"
        yield name, module, reason


class Replacements:
    """What ``make`` made of linear layers: each once, those with the same weight and bias one."""

    def __init__(self, make: Callable[[nn.Linear], nn.Module]) -> None:
        self._make = make
        # The originals are kept: an id is one's own for its life only.
        self._made: dict[tuple[int, int], tuple[nn.Linear, nn.Module]] = {}
        self._attention: dict[int, tuple[nn.Module, nn.Module]] = {}

    def of(self, module: nn.Module) -> nn.Module:
        """What replaces an ``nn.Linear`` or ``nn.MultiheadAttention``."""
        if isinstance(module, nn.MultiheadAttention):
            if id(module) not in self._attention:
                made: nn.Module = ConvertedMultiheadAttention(module, self.of)
                self._attention[id(module)] = (module, made)
            return self._attention[id(module)][1]
        assert isinstance(module, nn.Linear)
        key = (id(module.weight), id(module.bias))
        if key not in self._made:
            self._made[key] = (module, self._make(module))
        return self._made[key][1]

    def put(self, model: nn.Module, names: Iterable[str]) -> nn.Module:
        """``model`` with its layers ``names`` replaced in place; for a model that is itself such a
        layer, what replaces it."""
        for name in names:
            replacement = self.of(model.get_submodule(name))
            if not name:
                return replacement
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], replacement)
            if isinstance(parent, nn.TransformerEncoderLayer):
                # Its fast path would take the weights past the replaced layers.
                parent.activation_relu_or_gelu = 0
        return model

    @contextlib.contextmanager
    def trial(self, model: nn.Module, names: set[str]) -> Iterator[nn.Module]:
        """:meth:`put` for the length of the block."""
        before = {name: model.get_submodule(name) for name in names}
        encoders = [m for m in model.modules() if isinstance(m, nn.TransformerEncoderLayer)]
        fast = [layer.activation_relu_or_gelu for layer in encoders]
        try:
            yield self.put(model, names)
        finally:
            for name, module in before.items():
                if name:
                    parent = model.get_submodule(name.rpartition(".")[0])
                    setattr(parent, name.rpartition(".")[2], module)
            for layer, value in zip(encoders, fast):
                layer.activation_relu_or_gelu = value


def batches_of(data: Any) -> list[Any]:
    """``data`` as a list of batches. ValueError when there is none."""
    batches = list(data) if isinstance(data, list) else [data]
    if not batches:
        raise ValueError("precision: calibration data must hold at least one batch")
    return batches


def call(model: nn.Module, batch: Any) -> Any:
    """``model`` on a batch."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def output_of(result: Any) -> torch.Tensor:
    """The first tensor of a model's output, in float32."""
    while not isinstance(result, torch.Tensor):
        values = list(result.values() if isinstance(result, Mapping) else result)
        result = values[0]
    return result.detach().float()


def relative_error(got: list[torch.Tensor], want: list[torch.Tensor]) -> float:
    """``|got - want| / |want|`` over all of both."""
    difference = sum(float((g - w).square().sum()) for g, w in zip(got, want))
    size = sum(float(w.square().sum()) for w in want)
    return (difference / size) ** 0.5 if size else difference**0.5


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode, and no gradient is recorded."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        with torch.no_grad():
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Trial:
    """The error of a model's output with some of its layers replaced."""

    def __init__(self, model: nn.Module, layers: Replacements, data: list[Any]) -> None:
        self._model, self._layers, self._data = model, layers, data
        with _evaluating(model):
            self._exact = [output_of(call(model, batch)) for batch in data]

    def error(self, names: set[str]) -> float:
        """With the layers ``names``; the model is then as it was."""
        with self._layers.trial(self._model, names) as changed, _evaluating(changed):
            return relative_error([output_of(call(changed, b)) for b in self._data], self._exact)

    def left_out(self, sensitivity: Mapping[str, float], max_error: float) -> set[str]:
        """The fewest of the most sensitive layers without which the error is within the bound."""
        worst_first = sorted(sensitivity, key=lambda name: -sensitivity[name])
        # The error falls with each layer that is left out: bisect.
        low, high = 0, len(worst_first)
        while low < high:
            middle = (low + high) // 2
            kept = self.error(set(worst_first[middle:])) <= max_error
            low, high = (low, middle) if kept else (middle + 1, high)
        if low == len(worst_first):
            raise ValueError(
                f"convert_model_to_native_fp8: not even one converted layer keeps max_error "
                f"{max_error}; the least sensitive alone gives {min(sensitivity.values()):.2e}"
            )
        return set(worst_first[:low])


def _calibrate(model: nn.Module, names: set[str], layers: Replacements, data: list[Any]) -> None:
    """Static scales from the largest input that each layer sees on ``data``."""
    with layers.trial(model, names) as changed:
        found = [m for m in changed.modules() if isinstance(m, NativeFP8Linear)]
        with _evaluating(changed):
            for layer in found:
                layer.calibrating = True
            try:
                for batch in data:
                    call(changed, batch)
            finally:
                for layer in found:
                    layer.calibrating = False
