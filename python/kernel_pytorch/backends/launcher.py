"""Launchers: from a spec and a native function to the implementation for one dispatch key."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from kernel_pytorch._native import load
from kernel_pytorch.core.dispatch_log import DispatchRecord, record
from kernel_pytorch.core.errors import NativeUnavailableError
from kernel_pytorch.ops import signature
from kernel_pytorch.ops.autograd import repeats, write_over
from kernel_pytorch.ops.registry import (
    allocate,
    check_out,
    raise_allocation_error,
    run_reference,
)
from kernel_pytorch.ops.spec import OpSpec, Out
from kernel_pytorch.ops.validate import MAX_NATIVE_RANK, bind, check, quick_condition

__all__ = ["Backend", "make_in_place_launcher", "make_launcher", "make_out_launcher"]

Native = Callable[..., str]
Remember = Callable[..., None]
Repeat = Callable[..., Any]


class Backend:
    """How a backend's native functions are found and repeated."""

    name: str
    """The device type, and the name of the compiled module."""

    def __init__(self) -> None:
        self._overrides: dict[str, Native] = {}
        self._forget: dict[str, list[Callable[[], None]]] = defaultdict(list)

    def override(self, op: str, native: Native | None) -> None:
        """Run ``native`` in place of the native function of ``op``; None: that again. Not while
        other threads call the operator."""
        self._overrides.pop(op, None)
        if native is not None:
            self._overrides[op] = native
        for forget in self._forget[op]:
            forget()

    def when_overridden(self, op: str, forget: Callable[[], None]) -> None:
        """``forget`` is called when what :meth:`find` gives for ``op`` becomes another."""
        self._forget[op].append(forget)

    def overrides(self, op: str) -> bool:
        """Whether something runs in place of the native function of ``op``."""
        return op in self._overrides

    def find(self, op: str) -> Native:
        """The native function of ``op``, or what overrides it."""
        return self._overrides.get(op) or self.native(op)

    @functools.cache  # noqa: B019  (one instance for the life of the process)
    def native(self, op: str) -> Native:
        """The native function of ``op``, called once at its first use. It takes the outputs and
        then all the schema's arguments in order, returns the name of the variant that ran, and
        raises NotImplementedError when none serves the call."""
        try:
            native = load(self.name)
        except NativeUnavailableError as error:
            reason = str(error)
            warnings.warn(f"{op} runs its reference: {reason}", RuntimeWarning, stacklevel=2)

            def unavailable(*_: Any) -> str:
                raise NotImplementedError(reason)

            return unavailable
        function: Native = getattr(native, op)
        return function

    @contextlib.contextmanager
    def force_variant(self, op: str, name: str) -> Iterator[None]:
        """Within the block, ``op`` runs only its variant ``name`` (process-wide, for tests); a call
        that the variant does not serve runs the reference."""
        native = load(self.name)
        native.force_variant(op, name)
        try:
            yield
        finally:
            native.force_variant(op, None)

    def repeatable(self, spec: OpSpec, notes: Mapping[str, Any]) -> tuple[Remember, Repeat] | None:
        """Called once, before the operator's first call: two functions, or None where there are
        none. The first is told of every call that passed the checks and ran, ``(outputs,
        *arguments)``; the second takes the arguments of a call and, when it is like one of those,
        runs it without the checks and returns the outputs, else None."""
        return None


class _Notes(dict[str, DispatchRecord]):
    """The record of each variant, made when it first runs."""

    def __init__(self, op: str, backend: str) -> None:
        self.op, self.backend = op, backend

    def __missing__(self, variant: str) -> DispatchRecord:
        entry = DispatchRecord(self.op, self.backend, "native", variant, "")
        self[variant] = entry
        return entry


def make_launcher(spec: OpSpec, backend: Backend) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The implementation of ``spec`` on ``backend``: check, allocate, call, record. Twice: the
    first repeats calls like earlier ones without the checks, the second always checks."""
    arguments = ", ".join(a.name for a in spec.arguments)
    first = spec.tensor_arguments[0]
    returns = len(torch._C.parse_schema(f"kpt::{spec.name}{spec.schema}").returns)
    outs = ", ".join(f"out{i}" for i in range(returns))
    inferred = f"infer({signature.by_name(spec)})"
    allocated = (
        f"empty({inferred}, {first}.device)"
        if returns == 1
        else f"[empty(o, {first}.device) for o in {inferred}]"
    )
    source = (
        f"def {spec.name}({signature.parameters(spec)}):\n"
        f"    if repeat is not None and (result := repeat({arguments})) is not None:\n"
        f"        return result\n"
        f"    return checked({signature.forwarded(spec)})\n"
        f"def checked({signature.parameters(spec)}):\n"
        f"    if not ({quick_condition(spec)}):\n"
        f"        check({arguments})\n"
        f"        if reason := unserved({arguments}):\n"
        f"            return fall_back(reason, {arguments})\n"
        + (f"    else: extra_check({signature.by_name(spec)})\n" if spec.check else "")
        + f"    try:\n"
        f"        {outs} = {allocated}\n"
        f"    except (RuntimeError, MemoryError):\n"
        f"        allocation_error({signature.by_name(spec)})\n"
        f"    try:\n"
        f"        record(notes[(native or find_native())({outs}, {arguments})])\n"
        f"    except NotImplementedError as error:\n"
        f"        return fall_back(str(error), {arguments})\n"
        f"    if remember is not None:\n"
        f"        remember(({outs},), {arguments})\n"
        f"    return {outs}\n"
    )

    def find_native() -> Native:
        namespace["native"] = native = backend.find(spec.name)
        found = None if backend.overrides(spec.name) else backend.repeatable(spec, notes)
        namespace["remember"], namespace["repeat"] = found or (None, None)
        return native

    def forget() -> None:
        namespace["native"] = namespace["remember"] = namespace["repeat"] = None
        repeats.pop(spec.name, None)

    backend.when_overridden(spec.name, forget)

    def fall_back(reason: str, *args: Any) -> Any:
        return run_reference(spec, backend.name, reason, args)

    namespace: dict[str, Any] = {
        **_namespace(spec, backend),
        "allocation_error": lambda **bound: raise_allocation_error(spec, bound),
        "empty": allocate,
        "fall_back": fall_back,
        "find_native": find_native,
        "native": None,
        "remember": None,
        "repeat": None,
    }
    notes = namespace["notes"]
    return signature.compiled(spec.name, source, namespace), namespace["checked"]


def _namespace(spec: OpSpec, backend: Backend) -> dict[str, Any]:
    """The names that compiled launchers of new and given outputs use."""
    return {
        **_checks(spec),
        "infer": spec.infer,
        "notes": _Notes(spec.name, backend.name),
        "record": record,
    }


def _checks(spec: OpSpec) -> dict[str, Any]:
    """The names that compiled launchers check their arguments with."""
    return {
        **signature.defaults(spec),
        **{f"C_{name}": frozenset(choices) for name, choices in spec.choices.items()},
        **{str(d).removeprefix("torch."): d for d in _DTYPES},
        "D": frozenset(spec.dtypes),
        "check": lambda *args: check(spec, bind(spec, args, {})),
        "extra_check": spec.check,
        "unserved": lambda *args: _unserved(spec, args),
    }


def _unserved(spec: OpSpec, args: Iterable[Any]) -> str:
    """Why no native kernel takes these checked arguments; "" when one may."""
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    if tensors[0].dtype not in spec.dtypes:
        return f"no native kernel for {tensors[0].dtype}"
    if any(t.dim() > MAX_NATIVE_RANK for t in tensors):
        return f"no native kernel for more than {MAX_NATIVE_RANK} dimensions"
    return ""


_DTYPES = tuple(d for d in vars(torch).values() if isinstance(d, torch.dtype))


def make_out_launcher(spec: OpSpec, backend: Backend) -> Callable[..., Any]:
    """The implementation of the ``out=`` overload of ``spec`` on ``backend``."""
    arguments = ", ".join(a.name for a in spec.arguments)
    parameters = signature.parameters(spec)
    keyword_only = "" if "*" in parameters else "*, "
    source = (
        f"def {spec.name}_out({parameters}, {keyword_only}out):\n"
        f"    if not ({quick_condition(spec)}):\n"
        f"        check({arguments})\n"
        f"        if reason := unserved({arguments}):\n"
        f"            return fall_back(reason, out, {arguments})\n"
        + (f"    else: extra_check({signature.by_name(spec)})\n" if spec.check else "")
        + f"    check_out(infer({signature.by_name(spec)}), out, {arguments})\n"
        f"    try:\n"
        f"        record(notes[find_native(name)(out, {arguments})])\n"
        f"    except NotImplementedError as error:\n"
        f"        return fall_back(str(error), out, {arguments})\n"
        f"    return out\n"
    )

    def check_results(expected: Out, out: torch.Tensor, *args: Any) -> None:
        check_out(spec, expected, bind(spec, args, {}), out)

    def fall_back(reason: str, out: torch.Tensor, *args: Any) -> torch.Tensor:
        expected = spec.infer(**bind(spec, args, {}))
        assert isinstance(expected, Out)
        check_results(expected, out, *args)
        return out.copy_(run_reference(spec, backend.name, reason, args))

    namespace: dict[str, Any] = {
        **_namespace(spec, backend),
        "check_out": check_results,
        "fall_back": fall_back,
        "find_native": backend.find,
        "name": spec.name,
    }
    return signature.compiled(f"{spec.name}_out", source, namespace)


def make_in_place_launcher(spec: OpSpec, backend: Backend) -> Callable[..., None]:
    """The implementation of the in-place operator of ``spec`` on ``backend``."""
    arguments = ", ".join(a.name for a in spec.arguments)
    name = f"{spec.name}_"
    outputs = ", ".join(spec.in_place)
    source = (
        f"def {name}({signature.parameters(spec)}):\n"
        f"    if not ({quick_condition(spec)}):\n"
        f"        check({arguments})\n"
        f"        if reason := unserved({arguments}):\n"
        f"            return fall_back(reason, {arguments})\n"
        + (f"    else: extra_check({signature.by_name(spec)})\n" if spec.check else "")
        + f"    try:\n"
        f"        record(notes[(native or find_native())({outputs}, {arguments})])\n"
        f"    except NotImplementedError as error:\n"
        f"        fall_back(str(error), {arguments})\n"
    )

    def find_native() -> Native:
        namespace["native"] = native = backend.find(spec.name)
        return native

    def forget() -> None:
        namespace["native"] = None

    backend.when_overridden(spec.name, forget)

    def fall_back(reason: str, *args: Any) -> None:
        write_over(spec, bind(spec, args, {}), run_reference(spec, backend.name, reason, args))

    namespace: dict[str, Any] = {
        **_checks(spec),
        "fall_back": fall_back,
        "find_native": find_native,
        "native": None,
        "notes": _Notes(spec.name, backend.name),
        "record": record,
    }
    return signature.compiled(name, source, namespace)
