"""Example inputs, and one forward pass that notes what every candidate module is called with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kernel_pytorch.optimize.replacement import tensors_in

__all__ = ["Call", "Captured", "Inputs", "Shapes", "capture", "hooked"]

PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)
"""Types of arguments that are constants of a call rather than data."""


@dataclass(frozen=True)
class Inputs:
    """The example inputs as positional and keyword arguments."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @staticmethod
    def of(example_inputs: Any) -> Inputs:
        """From a tuple (or list) of positional or a mapping of keyword inputs."""
        if isinstance(example_inputs, (tuple, list)):
            return Inputs(tuple(example_inputs), {})
        # transformers' BatchEncoding is a mapping in all but its type.
        if hasattr(example_inputs, "keys") and hasattr(example_inputs, "__getitem__"):
            return Inputs((), {str(k): example_inputs[k] for k in example_inputs})
        raise TypeError(
            "argument 'example_inputs' must be a tuple of positional or a dict of keyword inputs, "
            f"got {type(example_inputs).__name__}"
        )

    def run(self, model: nn.Module) -> Any:
        """The model's output for these inputs, without gradients."""
        with torch.no_grad():
            return model(*self.args, **self.kwargs)


Shapes = tuple[Any, ...]
"""What a call's arguments look like: shapes and dtypes of tensors, values of constants."""


@dataclass
class Call:
    """One call of a module: copies of its arguments and of its output."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def replayable(self) -> str:
        """Why the call cannot be repeated at will; "" when it can."""
        for value in (*self.args, *self.kwargs.values()):
            if not _is_data(value):
                return f"it receives a {type(value).__name__}, which a repeated call could change"
        return ""


def _is_data(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_data(v) for v in value)
    return isinstance(value, (torch.Tensor, *PLAIN))


def shapes_of(value: Any) -> Any:
    """What a value looks like, hashable."""
    if isinstance(value, torch.Tensor):
        layout = str(value.layout) if not value.is_nested else "nested"
        shape = () if value.is_nested else tuple(value.shape)
        return (shape, str(value.dtype), value.device.type, layout)
    if isinstance(value, (tuple, list)):
        return tuple(shapes_of(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, shapes_of(v)) for k, v in sorted(value.items()))
    return repr(value) if isinstance(value, PLAIN) else type(value).__name__


def _copy(value: Any, same: dict[int, torch.Tensor]) -> Any:
    # The model may change a tensor in place after the call. One tensor given twice stays one.
    if isinstance(value, torch.Tensor):
        if id(value) not in same:
            same[id(value)] = value.detach().clone()
        return same[id(value)]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_copy(v, same) for v in value)
    if isinstance(value, list):
        return [_copy(v, same) for v in value]
    return value


Hook = Callable[[str, nn.Module, tuple[Any, ...], dict[str, Any], Any], None]


@contextlib.contextmanager
def hooked(modules: Mapping[str, nn.Module], hook: Hook) -> Iterator[None]:
    """Within the block, ``hook(name, module, args, kwargs, output)`` runs after each call."""
    handles = []
    try:
        for name, module in modules.items():

            def after(
                module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name
            ) -> None:
                hook(name, module, args, kwargs, output)

            handles.append(module.register_forward_hook(after, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class Captured:
    """What one forward pass showed."""

    output: Any
    shapes: dict[str, Shapes]
    """By module name: what the module's first call looked like."""
    calls: dict[Any, Call]
    """By key: the first call of the first module with that key."""
    chained: dict[str, str]
    """By module name: the candidate whose output tensor was this one's first argument."""


def capture(
    model: nn.Module,
    inputs: Inputs,
    modules: Mapping[str, nn.Module],
    key: Callable[[str, Shapes], Any],
) -> Captured:
    """Run the model once and note the candidates' calls.

    Of modules with the same ``key(name, shapes)`` only the first one's tensors are kept.
    """
    shapes: dict[str, Shapes] = {}
    calls: dict[Any, Call] = {}
    chained: dict[str, str] = {}
    outputs: dict[int, tuple[str, torch.Tensor]] = {}

    def note(
        name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if args and isinstance(args[0], torch.Tensor) and id(args[0]) in outputs:
            chained.setdefault(name, outputs[id(args[0])][0])
        if isinstance(output, torch.Tensor):
            outputs[id(output)] = (name, output)  # held, so that the id stays its own
        if name in shapes:
            return
        shapes[name] = (shapes_of(args), shapes_of(kwargs))
        found = key(name, shapes[name])
        if found not in calls:
            same: dict[int, torch.Tensor] = {}
            copied = _copy(args, same), {k: _copy(v, same) for k, v in kwargs.items()}
            calls[found] = Call(*copied, _copy(output, {}))

    with hooked(modules, note):
        output = inputs.run(model)
    return Captured(_copy_output(output), shapes, calls, chained)


def _copy_output(output: Any) -> Sequence[torch.Tensor]:
    return [t.detach().clone() for t in tensors_in(output)]
