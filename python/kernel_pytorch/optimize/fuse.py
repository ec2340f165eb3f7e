"""Fusing inside one module: trace its forward, find patterns of nodes, build a graph of kernels.

The trace holds the module's own code only (its children are leaves), for one calling convention:
the arguments that were tensors are inputs, the others constants, and a call that differs runs the
original. Patterns: linear + activation, gated pair (gate, up, product), residual add + norm,
``scaled_dot_product_attention``; the linears and norms beside them stay in the same precision.
"""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.fx.proxy import ParameterProxy, TraceError

from kernel_pytorch.optimize.capture import PLAIN, Call
from kernel_pytorch.optimize.nodes import Nodes, moves_only, reads_shape
from kernel_pytorch.optimize.policy import Policy
from kernel_pytorch.optimize.recognize import LinearWeights, NormWeights
from kernel_pytorch.optimize.replacement import Replacement
from kernel_pytorch.optimize.steps import AddNormStep, AttentionStep, LinearStep, NormStep

__all__ = ["NO_PATTERN", "Convention", "FusedReplacement", "Fusion", "find_fusion"]

NO_PATTERN = "no pattern of several operations"
"""What :func:`find_fusion` says of a forward that it could trace."""


@dataclass(frozen=True)
class Convention:
    """Which arguments are data; the others must equal those of the traced call."""

    count: int
    names: tuple[str, ...]
    data: tuple[int | str, ...]
    constants: tuple[tuple[int | str, Any], ...]

    @staticmethod
    def of(call: Call) -> Convention:
        places = [*enumerate(call.args), *call.kwargs.items()]
        return Convention(
            len(call.args),
            tuple(call.kwargs),
            tuple(place for place, value in places if not isinstance(value, PLAIN)),
            tuple((place, value) for place, value in places if isinstance(value, PLAIN)),
        )

    def to_json(self) -> dict[str, Any] | None:
        """As plain data; None when a constant is of a type JSON lacks."""
        values = [value for _, value in self.constants]
        if any(isinstance(v, (torch.dtype, torch.device)) for v in values):
            return None
        return {
            "count": self.count,
            "names": list(self.names),
            "data": list(self.data),
            "constants": [list(pair) for pair in self.constants],
        }

    @staticmethod
    def from_json(found: dict[str, Any]) -> Convention:
        """What :meth:`to_json` gave."""
        return Convention(
            found["count"],
            tuple(found["names"]),
            tuple(found["data"]),
            tuple((place, value) for place, value in found["constants"]),
        )

    def reason(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if len(args) != self.count or kwargs.keys() != set(self.names):
            return "it is called with other arguments than those it was optimized for"
        for place, expected in self.constants:
            value = args[place] if isinstance(place, int) else kwargs[place]
            if type(value) is not type(expected) or value != expected:
                return f"argument {place!r} is not {expected!r} as in the example"
        for place in self.data:
            value = args[place] if isinstance(place, int) else kwargs[place]
            if isinstance(value, PLAIN):
                return f"argument {place!r} is not a tensor as in the example"
        return ""

    def select(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        return [args[p] if isinstance(p, int) else kwargs[p] for p in self.data]

    def restore(self, values: tuple[Any, ...]) -> tuple[list[Any], dict[str, Any]]:
        every = {**dict(self.constants), **dict(zip(self.data, values))}
        return [every[i] for i in range(self.count)], {n: every[n] for n in self.names}


class _Tracer(fx.Tracer):
    """Traces a module's own forward; its children are leaves, its tensors attributes.

    Nothing is computed meanwhile: a forward that makes tensors of its own (which might be random,
    or written to) is refused.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._paths = {id(m): name for name, m in module.named_modules()}
        self._tensors = {
            id(t): name for name, t in (*module.named_parameters(), *module.named_buffers())
        }

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def path_of_module(self, mod: nn.Module) -> str:
        return self._paths[id(mod)]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        name = self._tensors.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            node = self.create_node("get_attr", name, (), {})
            parameter_proxy_cache[name] = ParameterProxy(self, node, name, attr_val)
        return parameter_proxy_cache[name]

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor):
            raise TraceError("it uses a tensor that is no parameter, buffer or input")
        return super().create_arg(a)


@contextlib.contextmanager
def _kept(module: nn.Module) -> Iterator[None]:
    """Take back what a forward stores on its module (proxies, while it is traced), and refuse such
    a forward: a graph would store nothing."""
    attributes = dict(vars(module))
    contents = {k: copy.copy(v) for k, v in attributes.items() if type(v) in (list, dict, set)}
    try:
        yield
    finally:
        changed = _differ(vars(module), attributes)
        module.__dict__.clear()
        module.__dict__.update(attributes)
        for name, before in contents.items():
            now = attributes[name]
            if _differ(now, before):
                changed = True
                now.clear()
                now.extend(before) if isinstance(now, list) else now.update(before)
    if changed:
        raise TraceError("it stores something on its module")


def _differ(now: Any, before: Any) -> bool:
    if isinstance(now, dict):
        same = now.keys() == before.keys() and all(now[k] is before[k] for k in before)
    else:
        same = len(now) == len(before) and all(a is b for a, b in zip(now, before))
    return not same


def _trace(module: nn.Module, convention: Convention) -> fx.Graph:
    if isinstance(module, fx.GraphModule):
        return _copied(module.graph)

    def call(*values: Any) -> Any:
        args, kwargs = convention.restore(values)
        return type(module).forward(module, *args, **kwargs)

    names = ", ".join(f"input_{i}" for i in range(len(convention.data)))
    namespace: dict[str, Any] = {"call": call}
    exec(f"def forward({names}): return call({names})", namespace)
    with _kept(module):
        return _Tracer(module).trace(namespace["forward"])


def _copied(graph: fx.Graph) -> fx.Graph:
    copy = fx.Graph()
    output = copy.graph_copy(graph, {})
    copy.output(output)
    copy._codegen = graph._codegen
    return copy


StepFactory = Callable[[Policy, "torch.dtype | None"], nn.Module]


@dataclass
class Fusion:
    """Patterns found in one module's forward, before anything is packed."""

    module: nn.Module
    graph: fx.Graph
    convention: Convention
    dtype: torch.dtype
    """The dtype of the module's weights."""
    factories: dict[str, StepFactory] = field(default_factory=dict)
    consumed: list[nn.Module] = field(default_factory=list)
    """Children that are not called any more: steps do their work, or they have none."""
    kinds: list[str] = field(default_factory=list)

    def build(self, policy: Policy) -> FusedReplacement:
        """Pack the weights and compile the graph."""
        steps: dict[str, nn.Module] = {}
        for node in self.graph.nodes:
            if node.op == "call_module" and node.target in self.factories:
                emit = None if self._stays_inside(node) else self.dtype
                steps[node.target] = self.factories[node.target](policy, emit)
        return FusedReplacement(self, steps)

    def _stays_inside(self, node: fx.Node) -> bool:
        """Whether only steps see the result's values, so that it may stay in the compute dtype."""
        for user in node.users:
            step = user.op == "call_module" and user.target in self.factories
            moved = moves_only(user) and self._stays_inside(user)
            if not (step or moved or reads_shape(user)):
                return False
        return True


class FusedReplacement(Replacement):
    """A module whose forward runs a graph of kernels and of its remaining children."""

    def __init__(self, fusion: Fusion, steps: dict[str, nn.Module]) -> None:
        super().__init__(fusion.module, steps, fusion.consumed)
        self.kind = " + ".join(dict.fromkeys(fusion.kinds))
        self.convention = fusion.convention
        self.dtype = fusion.dtype
        attributes: dict[str, Any] = dict(steps)
        for node in fusion.graph.nodes:
            if node.op in ("call_module", "get_attr") and node.target not in attributes:
                attributes[node.target] = operator.attrgetter(node.target)(fusion.module)
        self.graph = fx.GraphModule(attributes, fusion.graph)

    def refuse(self, *args: Any, **kwargs: Any) -> str:
        if reason := self.convention.reason(args, kwargs):
            return reason
        for value in self.convention.select(args, kwargs):
            if isinstance(value, torch.Tensor):
                if value.device.type != "cpu":
                    return f"an input is on {value.device}"
                if value.is_floating_point() and value.dtype is not self.dtype:
                    return f"an input is {value.dtype}, the module was optimized for {self.dtype}"
        return ""

    def run(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.module, fx.GraphModule):
            # An exported graph flattens its arguments itself.
            return self.graph.forward(*args, **kwargs)
        return self.graph.forward(*self.convention.select(args, kwargs))


def find_fusion(module: nn.Module, convention: Convention, dtype: torch.dtype) -> Fusion | str:
    """The patterns in ``module``'s forward, or why there are none.

    ``convention`` says how it is called; ``dtype`` is the dtype of its weights. Runs the module's
    forward with symbolic inputs.
    """
    try:
        graph = _trace(module, convention)
    except Exception as error:  # whatever a model's own code raises on symbolic inputs
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"its forward cannot be traced: {reason[0].split('. ')[0]}"
    fusion = Fusion(module, graph, convention, dtype)
    finder = _Finder(fusion)
    finder.run()
    if not fusion.kinds:
        return NO_PATTERN
    _drop_unused(graph)
    return fusion


def _drop_unused(graph: fx.Graph) -> None:
    # Only what certainly has no side effect: reads of weights and of a step's outputs.
    for node in reversed(list(graph.nodes)):
        reads = node.op == "get_attr" or node.target is operator.getitem
        if reads and not node.users:
            graph.erase_node(node)


class _Finder:
    """Rewrites a fusion's graph, one pattern after the other, coarsest first."""

    def __init__(self, fusion: Fusion) -> None:
        self.fusion = fusion
        self.graph = fusion.graph
        self.nodes = Nodes(fusion.module)

    def run(self) -> None:
        self._drop_identities()
        for pattern in (self._gated, self._linear_act, self._add_norm, self._attention):
            for node in list(self.graph.nodes):
                if not node._erased:
                    pattern(node)
        if self.fusion.kinds:
            for node in list(self.graph.nodes):
                self._single(node)

    def _drop_identities(self) -> None:
        for node in list(self.graph.nodes):
            if self.nodes.is_identity(node):
                if node.op == "call_module":
                    self._consume(str(node.target))
                node.replace_all_uses_with(node.args[0])
                self.graph.erase_node(node)

    def _replace(
        self,
        node: fx.Node,
        args: tuple[Any, ...],
        factory: StepFactory,
        consumed: list[fx.Node],
        kwargs: dict[str, Any] | None = None,
    ) -> fx.Node:
        name = f"kpt_{len(self.fusion.factories)}"
        self.fusion.factories[name] = factory
        with self.graph.inserting_before(node):
            step = self.graph.create_node("call_module", name, args, kwargs or {})
        for used in consumed:
            if used.op == "call_module":
                self._consume(str(used.target))
            # Weights that the module's own code reads, wherever they are below it.
            for read in used.all_input_nodes:
                if read.op == "get_attr":
                    self._consume(str(read.target).rpartition(".")[0])
        return step

    def _consume(self, name: str) -> None:
        child = self.fusion.module.get_submodule(name)
        if not any(child is c for c in self.fusion.consumed):
            self.fusion.consumed.append(child)

    def _finish(self, node: fx.Node, step: fx.Node, inner: list[fx.Node]) -> None:
        node.replace_all_uses_with(step)
        for dead in (node, *inner):
            if not dead.users:
                self.graph.erase_node(dead)

    def _gated(self, node: fx.Node) -> None:
        factors = self.nodes.binary(node, "mul")
        if factors is None:
            return
        for gate_act, up in (factors, factors[::-1]):
            act = self.nodes.activation(gate_act)
            if act is None or act[1] not in ("silu", "gelu"):
                continue
            gate = act[0]
            first, second = self.nodes.linear(gate), self.nodes.linear(up)
            if first is None or second is None or first[0] is not second[0]:
                continue
            if any(len(n.users) != 1 for n in (gate_act, gate, up)):
                continue
            kind = {"silu": "swiglu", "gelu": "geglu"}[act[1]]
            if first[1].weight.shape != second[1].weight.shape:
                continue
            factory = _linear_factory([first[1], second[1]], kind)
            step = self._replace(node, (first[0],), factory, [gate, up, gate_act])
            self._finish(node, step, [gate_act, gate, up])
            self.fusion.kinds.append("gated mlp")
            return

    def _linear_act(self, node: fx.Node) -> None:
        act = self.nodes.activation(node)
        linear = self.nodes.linear(act[0]) if act else None
        if act is None or linear is None or len(act[0].users) != 1:
            return
        factory = _linear_factory([linear[1]], act[1])
        step = self._replace(node, (linear[0],), factory, [act[0], node])
        self._finish(node, step, [act[0]])
        self.fusion.kinds.append("linear + activation")

    def _add_norm(self, node: fx.Node) -> None:
        norm = self.nodes.norm(node)
        terms = self.nodes.binary(norm[0], "add") if norm else None
        if norm is None or terms is None:
            return
        add, weights = norm[0], norm[1]

        def factory(policy: Policy, emit: torch.dtype | None) -> nn.Module:
            dtype = policy.dtype_for(self.fusion.dtype)
            return AddNormStep(weights.kind, weights.weight, weights.bias, weights.eps, dtype, emit)

        step = self._replace(add, terms, factory, [node])
        # Placed where the sum was: its other users may come before the norm.
        with self.graph.inserting_after(step):
            total = self.graph.call_function(operator.getitem, (step, 1))
            normed = self.graph.call_function(operator.getitem, (step, 0))
        node.replace_all_uses_with(normed)
        self.graph.erase_node(node)
        add.replace_all_uses_with(total)
        self.graph.erase_node(add)
        self.fusion.kinds.append("residual + norm")

    def _attention(self, node: fx.Node) -> None:
        if not self.nodes.is_attention(node):
            return

        def factory(policy: Policy, emit: torch.dtype | None) -> nn.Module:
            return AttentionStep(policy.dtype_for(self.fusion.dtype), emit)

        step = self._replace(node, node.args, factory, [], dict(node.kwargs))
        self._finish(node, step, [])
        self.fusion.kinds.append("attention")

    def _single(self, node: fx.Node) -> None:
        if linear := self.nodes.linear(node):
            step = self._replace(node, (linear[0],), _linear_factory([linear[1]], "none"), [node])
            self._finish(node, step, [])
        elif norm := self.nodes.norm(node):
            step = self._replace(node, (norm[0],), _norm_factory(norm[1], self.fusion), [node])
            self._finish(node, step, [])


def _linear_factory(weights: list[LinearWeights], activation: str) -> StepFactory:
    def factory(policy: Policy, emit: torch.dtype | None) -> nn.Module:
        return LinearStep(
            [w.weight for w in weights], [w.bias for w in weights], policy, activation, emit
        )

    return factory


def _norm_factory(weights: NormWeights, fusion: Fusion) -> StepFactory:
    def factory(policy: Policy, emit: torch.dtype | None) -> nn.Module:
        dtype = policy.dtype_for(fusion.dtype)
        return NormStep(weights.kind, weights.weight, weights.bias, weights.eps, dtype, emit)

    return factory
