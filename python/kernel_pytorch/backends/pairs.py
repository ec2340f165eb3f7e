"""Two modules in a row that can run as one: how they are found, and how one instance of each is
given another ``forward``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import fx, nn

__all__ = ["PairForward", "find_pairs"]


def find_pairs(model: nn.Module, wanted: Mapping[type, tuple[type, ...]]) -> list[tuple[Any, Any]]:
    """Modules of a type in ``wanted`` whose result only a module of one of the mapped types reads,
    each called once, with that module.

    Read from the model's own code by symbolic tracing. Raises RuntimeError when that is not
    possible.
    """
    if not any(type(m) in wanted for m in model.modules()):
        return []
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception as error:  # whatever the model's own code raises on a symbolic input
        raise RuntimeError(f"the model's code cannot be traced: {error}") from error
    modules = dict(model.named_modules())
    called = [n for n in graph.nodes if n.op == "call_module"]
    calls = Counter(modules[n.target] for n in called)
    pairs = []
    for node in called:
        first = modules[node.target]
        reader: Any = next(iter(node.users), None)
        if type(first) not in wanted or len(node.users) != 1 or reader.op != "call_module":
            continue
        second = modules[reader.target]
        if type(second) not in wanted[type(first)] or reader.args != (node,) or reader.kwargs:
            continue
        untouched = not {"forward"} & {*first.__dict__, *second.__dict__}
        if calls[first] == calls[second] == 1 and untouched:
            pairs.append((first, second))
    return pairs


class _Pair(Protocol):
    def call(self, first: bool, x: torch.Tensor) -> torch.Tensor: ...


class PairForward:
    """What one of the two modules runs instead of its own code."""

    def __init__(self, pair: _Pair, *, first: bool) -> None:
        self._pair, self._first = pair, first

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._pair.call(self._first, x)

    def install(self, module: nn.Module) -> None:
        module.__dict__["forward"] = self

    def remove(self, module: nn.Module) -> None:
        """Give the module its own code back."""
        if module.__dict__.get("forward") is self:
            del module.__dict__["forward"]
