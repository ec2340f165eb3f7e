"""The dispatch as the kernel registry sees it: lists the kernels, holds others' kernels to the
operators' contracts, and puts them in place of the package's own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from kernel_pytorch._version import __version__
from kernel_pytorch.backends.cpu import CPU
from kernel_pytorch.backends.cuda import CUDA
from kernel_pytorch.backends.launcher import Backend, make_launcher
from kernel_pytorch.core.kernel_source import ContractOutcome, set_source
from kernel_pytorch.ops import contract
from kernel_pytorch.ops.registry import SPECS
from kernel_pytorch.ops.spec import OpSpec, Out
from kernel_pytorch.ops.validate import bind

if TYPE_CHECKING:
    from kernel_pytorch.core.kernel_registry import KernelMetadata

__all__ = ["register"]

_LIBRARY = torch.library.Library("kpt", "IMPL")
_KEYS = {"cpu": "CPU", "cuda": "CUDA", "xpu": "XPU"}
_TYPES = {
    "attention": "ATTENTION",
    "activation": "ACTIVATION",
    "norm": "NORMALIZATION",
    "gemm": "MATMUL",
    "quant": "QUANTIZATION",
    "moe": "MOE",
    "loss": "LOSS",
    "embedding": "EMBEDDING",
    "sampling": "SAMPLING",
}
_NATIVE = {"cpu": "CPU", "nvidia": "CUDA", "amd": "HIP", "intel": "XPU", "tpu": "XLA"}
_CASES = 16


class _Foreign(Backend):
    """A device type on which an operator has no kernels of the package's own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def native(self, op: str) -> Callable[..., str]:  # type: ignore[override]
        def unserved(*_: Any) -> str:
            raise NotImplementedError(f"no native kernel for device type {self.name}")

        return unserved


@functools.cache
def _backend(device: str, op: str) -> Backend:
    """The backend whose launcher serves ``op`` on ``device``; registered if there is none yet."""
    spec = SPECS[op]
    if device == "cpu" and "cpu" in spec.native_backends:
        return CPU
    if device == "cuda" and "nvidia" in spec.native_backends and torch.version.hip is None:
        return CUDA
    foreign = _Foreign(device)
    _LIBRARY.impl(op, make_launcher(spec, foreign)[0], _KEYS[device])
    return foreign


class _Dispatch:
    """See :class:`~kernel_pytorch.core.kernel_source.KernelSource`."""

    def kernels(self) -> list[KernelMetadata]:
        from kernel_pytorch.core.kernel_registry import (
            _FORMATS,
            KernelBackend,
            KernelMetadata,
            KernelType,
        )

        found = []
        for spec in SPECS.values():
            common: dict[str, Any] = {
                "kernel_type": KernelType[_TYPES.get(spec.family, "FUSION")],
                "version": __version__,
                "precision_support": [_FORMATS[d] for d in spec.dtypes if d in _FORMATS],
                "description": spec.doc.strip().split("\n\n")[0].replace("\n", " "),
                "author": "KernelPyTorch",
                "requires_compilation": False,
                "op": spec.name,
            }
            for name in spec.native_backends:
                found.append(
                    KernelMetadata(
                        kernel_id=f"{spec.name}.{name}",
                        backend=KernelBackend[_NATIVE[name]],
                        kernel_fn=contract.op_of(spec),
                        min_compute_capability=(8, 0),
                        **common,
                    )
                )
            found.append(
                KernelMetadata(
                    kernel_id=f"{spec.name}.reference",
                    backend=KernelBackend.PYTORCH,
                    kernel_fn=spec.reference,
                    **common,
                )
            )
        return found

    def check(self, kernel: KernelMetadata) -> ContractOutcome:
        if kernel.op not in SPECS:
            known = ", ".join(sorted(SPECS))
            return _failed(f"there is no operator {kernel.op!r}; there are: {known}")
        if kernel.kernel_fn is None:
            return _failed("it has no kernel_fn")
        spec = SPECS[kernel.op]
        present = [d for d in kernel.devices or ("cpu",) if _present(d)]
        if not present:
            return _failed(
                f"this machine has none of its devices ({', '.join(kernel.devices)}) to test it on"
            )
        formats = {f.value for f in kernel.precision_support}
        dtypes = [d for d in spec.dtypes if _name(d) in formats]
        if not dtypes:
            return _failed(f"it supports none of the operator's dtypes {spec.dtypes}")
        try:
            return _Checks(spec, kernel).run(present, dtypes)
        except AssertionError as error:  # contract.ContractError is one
            return _failed(str(error))
        except Exception as error:  # code of another package, which may raise anything
            return _failed(f"it raised {type(error).__name__}: {error}")

    def install(self, kernel: KernelMetadata) -> None:
        for device in kernel.devices or ("cpu",):
            _backend(device, kernel.op).override(
                kernel.op, _as_native(SPECS[kernel.op], kernel, _backend(device, kernel.op))
            )

    def remove(self, kernel: KernelMetadata) -> None:
        for device in kernel.devices or ("cpu",):
            _backend(device, kernel.op).override(kernel.op, None)


def register() -> None:
    """Let the kernel registry see the dispatch."""
    set_source(_Dispatch())


def _failed(message: str) -> ContractOutcome:
    return ContractOutcome(passed=False, message=message)


def _present(device: str) -> bool:
    if device == "cpu":
        return True
    module = getattr(torch, device, None)
    return module is not None and bool(module.is_available())


def _name(dtype: torch.dtype) -> str:
    names = {
        torch.float32: "fp32",
        torch.float16: "fp16",
        torch.bfloat16: "bf16",
        torch.float8_e4m3fn: "fp8_e4m3",
        torch.float8_e5m2: "fp8_e5m2",
    }
    return names.get(dtype, "")


def _outputs(spec: OpSpec, values: tuple[Any, ...]) -> tuple[Out, ...]:
    declared = spec.infer(**dict(zip((a.name for a in spec.arguments), values)))
    return (declared,) if isinstance(declared, Out) else tuple(declared)


def _called(
    spec: OpSpec, kernel: KernelMetadata, values: tuple[Any, ...]
) -> tuple[torch.Tensor, ...]:
    """The outputs of a kernel that returns them, held to shapes and dtypes."""
    assert kernel.kernel_fn is not None
    args = [v for v, a in zip(values, spec.arguments) if not a.kwarg_only]
    kwargs = {a.name: v for v, a in zip(values, spec.arguments) if a.kwarg_only}
    got = contract.outputs_of(kernel.kernel_fn(*args, **kwargs))
    declared = _outputs(spec, values)
    if len(got) != len(declared):
        raise RuntimeError(f"{kernel.kernel_id} gave {len(got)} outputs, not {len(declared)}")
    for i, (tensor, out) in enumerate(zip(got, declared)):
        if tuple(tensor.shape) != tuple(out.shape) or tensor.dtype != out.dtype:
            raise RuntimeError(
                f"{kernel.kernel_id} gave output {i} as {list(tensor.shape)} {tensor.dtype}, not "
                f"{list(out.shape)} {out.dtype}"
            )
    return got


def _as_native(spec: OpSpec, kernel: KernelMetadata, backend: Backend) -> Callable[..., str]:
    """``kernel`` as a launcher calls a native function; what it declines goes to the package's."""
    label = f"{kernel.kernel_id} {kernel.version} ({kernel.provider})"
    own = functools.cache(lambda: backend.native(spec.name))
    count = len(spec.output_names)

    def native(*values: Any) -> str:
        try:
            if kernel.writes_outputs and not _overlap(values[:count], values[count:]):
                assert kernel.kernel_fn is not None
                kernel.kernel_fn(*values)
            elif kernel.writes_outputs:  # in place, which it was not held to
                assert kernel.kernel_fn is not None
                apart = tuple(torch.empty_like(out) for out in values[:count])
                kernel.kernel_fn(*apart, *values[count:])
                for out, got in zip(values[:count], apart):
                    out.copy_(got)
            else:
                for out, got in zip(values[:count], _called(spec, kernel, values[count:])):
                    out.copy_(got)
        except NotImplementedError:
            return own()(*values)
        return label

    return native


def _overlap(outputs: tuple[Any, ...], arguments: tuple[Any, ...]) -> bool:
    """Whether an output shares its storage with an argument."""
    written = {out.untyped_storage().data_ptr() for out in outputs}
    tensors = (a for a in arguments if isinstance(a, torch.Tensor))
    return any(t.untyped_storage().data_ptr() in written for t in tensors)


class _Checks:
    """The contract of one operator, for one kernel of others."""

    def __init__(self, spec: OpSpec, kernel: KernelMetadata) -> None:
        self.spec, self.kernel = spec, kernel
        self.checked = 0
        self.unserved: list[str] = []

    def call(self, *args: Any, **kwargs: Any) -> Any:
        values = tuple(bind(self.spec, args, kwargs).values())
        before = contract.map_tensors(torch.clone, values)
        if self.kernel.writes_outputs:
            assert self.kernel.kernel_fn is not None
            device = next(v.device for v in values if isinstance(v, torch.Tensor))
            outs = tuple(
                torch.full(tuple(o.shape), math.nan, device=device).to(o.dtype)
                for o in _outputs(self.spec, values)
            )
            self.kernel.kernel_fn(*outs, *values)
        else:
            outs = _called(self.spec, self.kernel, values)
        for argument, old, new in zip(self.spec.arguments, before, values):
            if isinstance(new, torch.Tensor) and not torch.equal(
                contract.bits(old), contract.bits(new)
            ):
                raise contract.ContractError(f"it writes to its argument {argument.name!r}")
        return outs

    def run(self, devices: list[str], dtypes: list[torch.dtype]) -> ContractOutcome:
        for device in devices:
            for dtype in dtypes:
                for case in contract.small_cases(self.spec, _CASES):
                    where = f"{case} {contract.short(dtype)} on {device}"
                    try:
                        contract.check_accuracy(
                            self.spec,
                            case,
                            dtype,
                            self.kernel.kernel_id,
                            device,
                            kernel=self.call,
                        )
                        self._repeats(case, dtype, device, where)
                    except NotImplementedError:
                        self.unserved.append(where)
                        continue
                    self.checked += 1
        if not self.checked:
            return _failed("it declines every call of the contract tests")
        return ContractOutcome(passed=True, checked=self.checked, unserved=self.unserved)

    def _repeats(self, case: Any, dtype: torch.dtype, device: str, where: str) -> None:
        """The same bits on repeat; the same values, but for rounding, from rows that lie apart."""
        args, kwargs = contract.inputs(self.spec, case, dtype, 0, device)
        first = contract.outputs_of(self.call(*args, **kwargs))
        again = contract.outputs_of(self.call(*args, **kwargs))
        for a, b in zip(first, again):
            if not torch.equal(contract.bits(a), contract.bits(b)):
                raise contract.ContractError(f"{where}: a repeated call gives other bits")
        x = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if x is None or x.dim() < 2 or x.shape[-1] == 0:
            return
        apart = torch.empty((*x.shape[:-1], x.shape[-1] + 3), dtype=x.dtype, device=x.device)
        strided = apart[..., : x.shape[-1]].copy_(x)
        for a, b in zip(first, contract.outputs_of(self.call(strided, *args[1:], **kwargs))):
            if not _agree(a, b):
                raise contract.ContractError(f"{where}: rows that lie apart give other values")


def _agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two results differ by rounding alone: a few units in the last place of the largest
    element."""
    x, y = contract.comparable(a).double(), contract.comparable(b).double()
    unit = torch.finfo(a.dtype).eps if a.is_floating_point() else 0.0
    size = float(x[x.isfinite()].abs().max()) if bool(x.isfinite().any()) else 0.0
    return torch.allclose(x, y, rtol=0.0, atol=8 * unit * size, equal_nan=True)
