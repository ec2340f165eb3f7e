"""Gradients of the operators, derived from their specs.

An operator with a named backward calls it; any other gets the gradient of its reference,
recomputed in the backward pass (exact, slower, and recorded as a fallback).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch._functorch.utils import unwrap_dead_wrappers

from kernel_pytorch.core.dispatch_log import DispatchRecord, record, refuse_if_strict
from kernel_pytorch.ops import signature
from kernel_pytorch.ops.spec import OpSpec
from kernel_pytorch.ops.validate import bind, check

__all__ = ["fast_paths", "in_place_kernel", "kernel", "out_kernel", "repeats", "write_over"]

fast_paths: dict[str, Callable[..., Any]] = {}
"""CPU launchers by operator name, filled by ``backends``: when nothing needs a gradient, no mode or
subclass wants to see the call and no tensor is a lazy negation (which only the dispatcher
resolves), the autograd kernel calls the launcher directly. That saves a second trip through the
dispatcher, a third of the cost of a small call."""

repeats: dict[str, Callable[..., Any]] = {}
"""By operator name, filled by ``backends``: takes all the arguments in order; the outputs of a call
that needs no gradient and is like one that passed the checks, else None."""

_below_autograd = torch._C._AutoDispatchBelowAutograd


def _needs_grad(values: Any) -> bool:
    return any(isinstance(v, torch.Tensor) and v.requires_grad for v in values)


def kernel(spec: OpSpec) -> Callable[..., Any]:
    """The implementation for the ``Autograd`` keys, compiled from the spec's argument list."""
    names = tuple(a.name for a in spec.arguments)
    below = _below(spec)
    function = _function(spec, names)
    positional = sum(not a.kwarg_only for a in spec.arguments)
    kwarg_only = names[positional:]

    def apply(*values: Any) -> Any:
        if spec.training is not None:
            kwargs = dict(zip(kwarg_only, values[positional:]))
            return getattr(torch.ops.kpt, spec.training).default(*values[:positional], **kwargs)[0]
        # The single-level apply, as PyTorch's own autograd kernels: under torch.func transforms
        # this kernel already runs at the level being differentiated. Function.apply would besides
        # inspect the signature of ``forward`` at every call, which costs more than small kernels.
        single_level = super(torch.autograd.Function, function).apply
        if torch._C._are_functorch_transforms_active():
            with enable_single_level_autograd_function():
                return single_level(*values)
        return single_level(*unwrap_dead_wrappers(values))

    optional = {a.name for a in spec.arguments if a.type == "Optional[Tensor]"}
    needs_grad = " or ".join(
        f"({t} is not None and {t}.requires_grad)" if t in optional else f"{t}.requires_grad"
        for t in spec.tensor_arguments
    )
    source = (
        f"def autograd_{spec.name}({signature.parameters(spec)}):\n"
        f"{_repeat_lines(spec)}"
        f"    try:\n"
        f"        needs_grad = {needs_grad}\n"
        f"    except AttributeError:\n"  # None, which PyTorch lets pass for an undefined tensor
        f"        check(spec, bind(spec, ({', '.join(names)},), {{}}))\n"
        f"        raise\n"
        f"    if needs_grad and is_grad_enabled() or forward_ad._current_level >= 0:\n"
        f"        return apply({', '.join(names)})\n"
        f"{_launch_lines(spec)}"
    )
    namespace = {
        **_namespace(spec, below),
        **signature.defaults(spec),
        "apply": apply,
        "bind": bind,
        "check": check,
        "is_grad_enabled": torch.is_grad_enabled,
    }
    return signature.compiled(f"autograd_{spec.name}", source, namespace)


def _below(spec: OpSpec) -> Callable[..., Any]:
    op = getattr(torch.ops.kpt, spec.name).default

    def below(*args: Any, **kwargs: Any) -> Any:
        with _below_autograd():
            return op(*args, **kwargs)

    return below


def _repeat_lines(spec: OpSpec) -> str:
    names = ", ".join(a.name for a in spec.arguments)
    return (
        f"    plain_state = modes() == 0 and forward_ad._current_level < 0 and not transforms()\n"
        f"    if plain_state and (repeat := repeats.get({spec.name!r})) is not None:\n"
        f"        if (result := repeat({names})) is not None:\n"
        f"            return result\n"
    )


def _launch_lines(spec: OpSpec) -> str:
    optional = {a.name for a in spec.arguments if a.type == "Optional[Tensor]"}
    terms = []
    for t in spec.tensor_arguments:
        term = (
            f"(type({t}) is Tensor or type({t}) is Parameter) and {t}.is_cpu and not {t}.is_neg()"
        )
        terms.append(f"({t} is None or {term})" if t in optional else term)
    return (
        f"    launch = fast_paths.get({spec.name!r})\n"
        f"    plain_state = plain_state and not included(functionalize)\n"
        f"    if launch is not None and plain_state and {' and '.join(terms)}:\n"
        f"        return launch({signature.forwarded(spec)})\n"
        f"    return below({signature.forwarded(spec)})\n"
    )


def _forward(spec: OpSpec) -> Callable[..., Any]:
    """The operator without its gradient; takes all the arguments in order."""
    names = ", ".join(a.name for a in spec.arguments)
    source = f"def forward_{spec.name}({names}):\n{_repeat_lines(spec)}{_launch_lines(spec)}"
    return signature.compiled(f"forward_{spec.name}", source, _namespace(spec, _below(spec)))


def _namespace(spec: OpSpec, below: Callable[..., Any]) -> dict[str, Any]:
    return {
        "below": below,
        "fast_paths": fast_paths,
        # Forward mode: the function raises that it has no jvp, rather than drop a tangent.
        "forward_ad": torch.autograd.forward_ad,
        "functionalize": torch._C.DispatchKey.Functionalize,
        "included": torch._C._dispatch_tls_is_dispatch_key_included,
        "modes": torch._C._len_torch_dispatch_stack,
        "Parameter": torch.nn.Parameter,
        "repeats": repeats,
        "spec": spec,
        "Tensor": torch.Tensor,
        "transforms": torch._C._are_functorch_transforms_active,
    }


def out_kernel(spec: OpSpec) -> Callable[..., Any]:
    """The ``Autograd`` implementation of the ``out=`` overload: refuses to lose a gradient, and
    shows tracers (torch.compile, export) the functional operator and a copy, since operators whose
    outputs alias an argument cannot be functionalized."""

    def autograd_out(*args: Any, out: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and (
            _needs_grad(args) or _needs_grad(kwargs.values()) or out.requires_grad
        ):
            raise RuntimeError(
                f"{spec.name}: out=... does not support automatic differentiation, but one of the "
                f"arguments requires grad; use the overload without out, or torch.no_grad()"
            )
        if torch._C._len_torch_dispatch_stack() > 0:
            return out.copy_(getattr(torch.ops.kpt, spec.name).default(*args, **kwargs))
        with _below_autograd():
            getattr(torch.ops.kpt, spec.name).out(*args, **kwargs, out=out)
        # A graph that saved the tensor must notice that it has changed.
        torch.autograd.graph.increment_version(out)
        return out

    return autograd_out


def in_place_kernel(spec: OpSpec) -> Callable[..., None]:
    """The ``Autograd`` implementation of the in-place operator: where a gradient flows, and under
    torch.func transforms, the functional operator and copies, which PyTorch knows how to
    differentiate."""

    def autograd_in_place(*args: Any, **kwargs: Any) -> None:
        bound = bind(spec, args, kwargs)
        needs_grad = torch.is_grad_enabled() and _needs_grad(bound.values())
        if needs_grad or torch._C._are_functorch_transforms_active():
            results = getattr(torch.ops.kpt, spec.name).default(*args, **kwargs)
            write_over(spec, bound, results)
            return
        with _below_autograd():
            getattr(torch.ops.kpt, f"{spec.name}_").default(*args, **kwargs)
        # A graph that saved one of them must notice that it has changed.
        torch.autograd.graph.increment_version([bound[name] for name in spec.in_place])

    return autograd_in_place


def write_over(spec: OpSpec, bound: dict[str, Any], results: Any) -> None:
    """Copy the outputs over the arguments that the in-place operator changes."""
    outputs = results if isinstance(results, tuple) else (results,)
    for name, result in zip(spec.in_place, outputs):
        bound[name].copy_(result)


def _function(spec: OpSpec, names: tuple[str, ...]) -> type[torch.autograd.Function]:
    output_names = spec.output_names
    saved = spec.saved
    covered: tuple[str, ...] | None = None  # whose gradients the named backward gives
    if spec.backward is not None:
        covered = names if spec.backward_of is None else spec.backward_of
    beyond = () if covered is None else tuple(i for i, n in enumerate(names) if n not in covered)
    run = _forward(spec)

    class OpFunction(torch.autograd.Function):
        @staticmethod
        def forward(*values: Any) -> Any:
            if not torch._C._are_functorch_transforms_active():
                return run(*values)
            # This level records nothing here; the levels of torch.func around it do.
            with torch.enable_grad():
                return run(*values)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            if not spec.differentiable:
                ctx.mark_non_differentiable(*outputs)
            elif without := [
                o
                for n, o in zip(output_names, outputs)
                if n in spec.auxiliary or not o.is_floating_point()
            ]:
                ctx.mark_non_differentiable(*without)
            # Zeros would be made for those: as large as what they are kept for.
            ctx.set_materialize_grads(not spec.auxiliary)
            needs = ctx.needs_input_grad
            ctx.named = named = covered is not None and not any(needs[i] for i in beyond)
            constants: dict[str, Any] = {}
            kept: dict[str, torch.Tensor] = {}
            for name, value in zip(names, inputs):
                is_tensor = isinstance(value, torch.Tensor)
                if is_tensor and (not named or saved is None or name in saved):
                    kept[name] = value
                else:
                    constants[name] = None if is_tensor else value
            if named:
                for name, value in zip(output_names, outputs):
                    if saved is None or name in saved:
                        kept[name] = value
            ctx.constants = constants
            ctx.kept = tuple(kept)
            ctx.save_for_backward(*kept.values())

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> Any:
            if not spec.differentiable or all(g is None for g in grads):
                return (None,) * len(names)
            kept = dict(zip(ctx.kept, ctx.saved_tensors))
            bound = {n: kept[n] if n in kept else ctx.constants[n] for n in names}
            needed = [n for n, needs in zip(names, ctx.needs_input_grad) if needs]
            # A gradient may arrive expanded (stride 0), which kernels refuse in the last dimension.
            grads = tuple(g if g is None or _has_dense_rows(g) else g.contiguous() for g in grads)
            if ctx.named:
                assert spec.backward_call is not None
                outputs = tuple(kept.get(n) for n in output_names)
                found = spec.backward_call(grads, bound, outputs, needed)
            else:
                found = _differentiate(spec, grads, bound, needed)
            return tuple([found.get(n) if n in needed else None for n in names])

    OpFunction.__name__ = f"Kpt_{spec.name}"
    return OpFunction


def _has_dense_rows(t: torch.Tensor) -> bool:
    return t.dim() == 0 or t.stride(-1) == 1 or t.shape[-1] <= 1


def _differentiate(
    spec: OpSpec, grads: tuple[torch.Tensor | None, ...], bound: dict[str, Any], needed: list[str]
) -> dict[str, torch.Tensor]:
    first = bound[spec.tensor_arguments[0]]
    if spec.backward is None:
        reason = "no backward kernel is named; the reference is differentiated"
    else:
        reason = f"{spec.backward} gives no gradient of some of {needed}; the reference does"
    refuse_if_strict(f"{spec.name} (backward)", first.device.type, reason)

    def run(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = spec.reference(**{**bound, **dict(zip(needed, leaves))})
        outputs = result if isinstance(result, tuple) else (result,)
        return tuple(
            o
            for n, o in zip(spec.output_names, outputs)
            if o.is_floating_point() and n not in spec.auxiliary
        )

    wanted = [g for g in grads if g is not None and g.is_floating_point()]
    # Views, not detached copies: a second derivative flows through them, and an argument that was
    # passed twice gets two gradients.
    leaves = [bound[n].view_as(bound[n]) for n in needed]
    if torch._C._are_functorch_transforms_active():
        outputs, pull_back = torch.func.vjp(run, *leaves)
        found = pull_back(tuple(g.to(o.dtype) for o, g in zip(outputs, wanted)))
    else:
        create_graph = torch.is_grad_enabled()
        if not create_graph:
            leaves = [t.detach().requires_grad_() for t in leaves]
        with torch.enable_grad():
            pairs = [(o, g.to(o.dtype)) for o, g in zip(run(*leaves), wanted) if o.requires_grad]
            found = torch.autograd.grad(
                [o for o, _ in pairs],
                leaves,
                [g for _, g in pairs],
                create_graph=create_graph,
                allow_unused=True,
            )
    record(DispatchRecord(f"{spec.name} (backward)", first.device.type, "reference", "", reason))
    return {n: g.to(bound[n].dtype) for n, g in zip(needed, found) if g is not None}
