"""Every kernel that is known, and which one serves a call: the public face of the dispatch.

The package's own entries are read from the operators' declarations; applications add theirs with
:meth:`KernelRegistry.register_kernel`, other packages by an entry point of the group
``kernel_pytorch.kernels`` that names a :class:`KernelMetadata`, a list of them, or a function that
returns either. A kernel of others that names an operator is chosen only after it has passed that
operator's contract tests; :meth:`KernelRegistry.activate` makes ``torch.ops.kpt`` itself run it.
"""

from __future__ import annotations

import enum
import importlib.metadata
import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from kernel_pytorch.core.enums import NVIDIAArchitecture, PrecisionFormat
from kernel_pytorch.core.errors import InputValidationError
from kernel_pytorch.core.hardware_detector import Accelerator, HardwareType, detect_hardware
from kernel_pytorch.core.kernel_source import ContractOutcome, source

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ENTRY_POINTS",
    "ContractOutcome",
    "KernelBackend",
    "KernelMetadata",
    "KernelRegistry",
    "KernelType",
    "get_kernel_registry",
    "register_default_kernels",
]

ENTRY_POINTS = "kernel_pytorch.kernels"
OWN = "kernel_pytorch"


class KernelType(enum.Enum):
    """What a kernel computes: the family of its operator."""

    ATTENTION = "attention"
    ACTIVATION = "activation"
    NORMALIZATION = "normalization"
    MATMUL = "matmul"
    FUSION = "fusion"
    QUANTIZATION = "quantization"
    MOE = "moe"
    LOSS = "loss"
    EMBEDDING = "embedding"
    SAMPLING = "sampling"


class KernelBackend(enum.Enum):
    """What a kernel is written in, or for."""

    CUDA = "cuda"
    HIP = "hip"
    XPU = "xpu"
    XLA = "xla"
    CPU = "cpu"
    TRITON = "triton"
    PYTORCH = "pytorch"


# Native before Triton before PyTorch.
_RANK = {KernelBackend.TRITON: 1, KernelBackend.PYTORCH: 2}
_DEVICES: dict[KernelBackend, tuple[str, ...]] = {
    KernelBackend.CUDA: ("cuda",),
    KernelBackend.HIP: ("cuda",),
    KernelBackend.XPU: ("xpu",),
    KernelBackend.XLA: ("xla", "tpu"),
    KernelBackend.CPU: ("cpu",),
    KernelBackend.TRITON: ("cuda", "xpu"),
    KernelBackend.PYTORCH: (),
}
_FORMATS = {
    torch.float32: PrecisionFormat.FP32,
    torch.float16: PrecisionFormat.FP16,
    torch.bfloat16: PrecisionFormat.BF16,
    torch.float8_e4m3fn: PrecisionFormat.FP8_E4M3,
    torch.float8_e5m2: PrecisionFormat.FP8_E5M2,
}


def _version(text: str) -> Any:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text)
    except InvalidVersion as error:
        raise InputValidationError(
            "version", "a version such as '3.10' (PEP 440)", repr(text)
        ) from error


@dataclass
class KernelMetadata:
    """One kernel. InputValidationError (a ValueError) for a version that is none."""

    kernel_id: str
    kernel_type: KernelType
    version: str
    backend: KernelBackend
    min_compute_capability: tuple[int, int] = (7, 0)
    """Of NVIDIA GPUs, for kernels that run on those."""
    supported_architectures: list[NVIDIAArchitecture] = field(default_factory=list)
    """Empty: every one of at least ``min_compute_capability``."""
    precision_support: list[PrecisionFormat] = field(
        default_factory=lambda: [PrecisionFormat.FP32, PrecisionFormat.FP16]
    )
    max_sequence_length: int | None = None
    max_batch_size: int | None = None
    memory_bound: bool = False
    compute_bound: bool = True
    expected_speedup: float = 1.0
    """Decides between kernels of one backend and version; 1.0: nothing is claimed."""
    benchmark_latency_ms: float | None = None
    """Measured, by who registered the kernel."""
    kernel_fn: Callable[..., Any] | None = None
    """Called with the operator's arguments; returns its outputs. NotImplementedError declines."""
    validation_fn: Callable[..., Any] | None = None
    """A further check: what it returns must be true."""
    description: str = ""
    author: str = ""
    requires_compilation: bool = True
    op: str = ""
    """The operator in ``torch.ops.kpt`` that it implements; "": none, and it is never installed."""
    writes_outputs: bool = False
    """True: ``kernel_fn`` takes the allocated outputs and then all arguments in order, and returns
    nothing. That saves a copy."""
    devices: tuple[str, ...] = ()
    """Device types that it runs on, by torch's names. Default: those of its backend; for PYTORCH
    all."""
    provider: str = OWN
    """The distribution that it comes from."""
    declared: bool = field(default=False, init=False, repr=False)
    """Whether it is one of the package's own."""

    def __post_init__(self) -> None:
        _version(self.version)
        if not self.devices:
            self.devices = _DEVICES[self.backend]
        if self.backend is KernelBackend.CUDA and self.kernel_fn is None:
            warnings.warn(
                f"CUDA kernel {self.kernel_id!r} has no kernel_fn: it can be listed, not called",
                UserWarning,
                stacklevel=3,
            )

    @property
    def key(self) -> tuple[KernelType, str, str]:
        """What makes it one kernel among all."""
        return self.kernel_type, self.kernel_id, self.version


class KernelRegistry:
    """The registry; there is one in a process, whoever constructs it."""

    _instance: ClassVar[KernelRegistry | None] = None

    def __new__(cls) -> Self:
        if cls._instance is None:
            made = super().__new__(cls)
            made._kernels = {}
            made._cache = {}
            made._outcomes = {}
            made._active = {}
            made._lock = threading.RLock()
            cls._instance = made
        return cast("Self", cls._instance)

    _kernels: dict[tuple[KernelType, str, str], KernelMetadata]
    _cache: dict[Any, KernelMetadata | None]
    _outcomes: dict[int, tuple[KernelMetadata, ContractOutcome]]
    _active: dict[tuple[KernelType, str, str], KernelMetadata]
    _lock: threading.RLock

    def register_kernel(self, metadata: KernelMetadata) -> None:
        """Add a kernel, or replace the one of the same type, id and version (with a warning)."""
        if not isinstance(metadata, KernelMetadata):
            raise TypeError(
                f"register_kernel: expected a KernelMetadata, got {type(metadata).__name__}"
            )
        with self._lock:
            old = self._kernels.get(metadata.key)
            if old is not None:
                warnings.warn(
                    f"Overwriting existing kernel {metadata.kernel_id} {metadata.version} "
                    f"of {old.provider}",
                    UserWarning,
                    stacklevel=2,
                )
                self.deactivate(old)
                self._outcomes.pop(id(old), None)
            self._kernels[metadata.key] = metadata
            self.clear_cache()

    def unregister_kernel(self, kernel_type: KernelType, kernel_id: str, version: str) -> bool:
        """Forget a kernel; whether there was one."""
        with self._lock:
            found = self._kernels.pop((kernel_type, kernel_id, version), None)
            if found is None:
                return False
            self.deactivate(found)
            self._outcomes.pop(id(found), None)
            self.clear_cache()
            return True

    def list_kernels(
        self,
        kernel_type: KernelType | None = None,
        backend: KernelBackend | None = None,
        op: str | None = None,
    ) -> list[KernelMetadata]:
        """Those of a type, a backend, an operator."""
        with self._lock:
            return [
                k
                for k in self._kernels.values()
                if (kernel_type is None or k.kernel_type is kernel_type)
                and (backend is None or k.backend is backend)
                and (op is None or k.op == op)
            ]

    def get_optimal_kernel(
        self,
        kernel_type: KernelType,
        device: torch.device | str,
        precision: PrecisionFormat | torch.dtype,
        sequence_length: int | None = None,
        batch_size: int | None = None,
        prefer_backend: KernelBackend | None = None,
        *,
        op: str | None = None,
    ) -> KernelMetadata | None:
        """The kernel for such a call on ``device``; None when none serves it.

        Native before Triton before PyTorch (``prefer_backend`` first, where it serves the call),
        then the newest version, then the larger ``expected_speedup``. A kernel of others that names
        an operator is held to its contract first, once; one that breaks it is passed over with a
        warning.
        """
        device = torch.device(device)
        precision = _format(precision)
        key = (kernel_type, device, precision, sequence_length, batch_size, prefer_backend, op)
        with self._lock:
            if key not in self._cache:
                ranked = self._ranked(kernel_type, precision, op)
                ranked.sort(key=lambda k: k.backend is not prefer_backend)  # stable
                self._cache[key] = next(
                    (
                        k
                        for k in ranked
                        if _fits(k, sequence_length, batch_size)
                        and runs_on(k, device)
                        and self._trusted(k)
                    ),
                    None,
                )
            return self._cache[key]

    def get_fallback_chain(
        self,
        kernel_type: KernelType,
        device: torch.device | str,
        precision: PrecisionFormat | torch.dtype,
        *,
        op: str | None = None,
        runnable_only: bool = False,
    ) -> list[KernelMetadata]:
        """The kernels for a precision in the order in which they are tried: native, Triton,
        PyTorch.

        Those that cannot run on ``device`` are in it, to be passed over, unless ``runnable_only``.
        """
        device = torch.device(device)
        with self._lock:
            chain = self._ranked(kernel_type, _format(precision), op)
        return [k for k in chain if not runnable_only or runs_on(k, device)]

    def _ranked(
        self, kernel_type: KernelType, precision: PrecisionFormat, op: str | None
    ) -> list[KernelMetadata]:
        found = [
            k for k in self.list_kernels(kernel_type, op=op) if precision in k.precision_support
        ]
        found.sort(key=lambda k: k.expected_speedup, reverse=True)
        found.sort(key=lambda k: _version(k.version), reverse=True)
        found.sort(key=lambda k: _RANK.get(k.backend, 0))
        return found

    def _trusted(self, kernel: KernelMetadata) -> bool:
        # What the package declares its own tests hold to the contract.
        return kernel.declared or not kernel.op or self.contract(kernel).passed

    def contract(self, kernel: KernelMetadata) -> ContractOutcome:
        """How ``kernel`` does in its operator's contract tests; they run once in a process, and a
        failure is warned of."""
        with self._lock:
            if id(kernel) not in self._outcomes:
                outcome = _held_to_contract(kernel)
                # The kernel is kept too: its id must stay its own.
                self._outcomes[id(kernel)] = kernel, outcome
                if not outcome.passed:
                    warnings.warn(
                        f"kernel {kernel.kernel_id} {kernel.version} of {kernel.provider} is not "
                        f"chosen: {outcome.message}",
                        UserWarning,
                        stacklevel=3,
                    )
            return self._outcomes[id(kernel)][1]

    def validate_kernel(self, kernel_id: str, *args: Any, **kwargs: Any) -> bool:
        """Whether every version of ``kernel_id`` passes its operator's contract tests (for one that
        names no operator: its ``validation_fn``, called with the arguments given).

        Raises KeyError for an unknown kernel.
        """
        found = [k for k in self.list_kernels() if k.kernel_id == kernel_id]
        if not found:
            known = ", ".join(sorted({k.kernel_id for k in self.list_kernels()})) or "none"
            raise KeyError(f"no kernel {kernel_id!r} is registered; there are: {known}")
        return all(self._validate(k, args, kwargs) for k in found)

    def _validate(
        self, kernel: KernelMetadata, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        if kernel.op:
            return self.contract(kernel).passed
        if kernel.validation_fn is None:
            warnings.warn(
                f"kernel {kernel.kernel_id} names no operator and has no validation_fn: nothing "
                "can be said of it",
                UserWarning,
                stacklevel=4,
            )
            return False
        return bool(kernel.validation_fn(*args, **kwargs))

    def activate(self, kernel: KernelMetadata) -> None:
        """Make ``torch.ops.kpt.<op>`` run ``kernel`` on its devices, for the whole process, until
        :meth:`deactivate`; calls that it declines go to the package's own kernel.

        Raises InputValidationError (a ValueError) for a kernel that names no operator or broke its
        contract.
        """
        outcome = _held_to_contract(kernel) if not kernel.op else self.contract(kernel)
        if not outcome.passed:
            raise InputValidationError(
                "kernel", "a kernel that passes its contract", kernel.kernel_id, outcome.message
            )
        with self._lock:
            source().install(kernel)
            self._active[kernel.key] = kernel

    def deactivate(self, kernel: KernelMetadata) -> None:
        """Undo :meth:`activate`; nothing where it was not."""
        with self._lock:
            if self._active.pop(kernel.key, None) is not None:
                source().remove(kernel)

    def active_kernels(self) -> list[KernelMetadata]:
        """Those that :meth:`activate` put in place."""
        with self._lock:
            return list(self._active.values())

    def discover(self) -> list[KernelMetadata]:
        """Register what installed packages offer by entry point; returns it. A package whose entry
        point does not load, or gives something else, is warned of and left out."""
        found = []
        for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
            provider = point.dist.name if point.dist is not None else point.value
            try:
                offered = list(_offered(point.load()))
            except Exception as error:  # code of another package, which may raise anything
                warnings.warn(
                    f"kernels of {provider} ({point.value}) are left out: "
                    f"{type(error).__name__}: {error}",
                    UserWarning,
                    stacklevel=2,
                )
                continue
            for kernel in offered:
                kernel.provider = provider
                self.register_kernel(kernel)
                found.append(kernel)
        return found

    def clear_cache(self) -> None:
        """Forget what was selected; the kernels stay."""
        with self._lock:
            self._cache.clear()


def _format(precision: PrecisionFormat | torch.dtype) -> PrecisionFormat:
    if isinstance(precision, torch.dtype):
        if precision not in _FORMATS:
            raise InputValidationError(
                "precision", " or ".join(str(d) for d in _FORMATS), str(precision)
            )
        return _FORMATS[precision]
    return PrecisionFormat(precision)


def _fits(kernel: KernelMetadata, sequence_length: int | None, batch_size: int | None) -> bool:
    return all(
        limit is None or asked is None or asked <= limit
        for limit, asked in (
            (kernel.max_sequence_length, sequence_length),
            (kernel.max_batch_size, batch_size),
        )
    )


def runs_on(kernel: KernelMetadata, device: torch.device) -> bool:
    """Whether ``kernel`` runs on ``device`` of this machine."""
    if kernel.devices and device.type not in kernel.devices:
        return False
    if kernel.backend is KernelBackend.TRITON and importlib.util.find_spec("triton") is None:
        return False
    if device.type == "cpu" or kernel.backend is KernelBackend.PYTORCH:
        return True
    found = _accelerator(device)
    if found is None:
        return False
    if found.hardware_type is HardwareType.AMD_GPU:
        return kernel.backend is not KernelBackend.CUDA
    if found.hardware_type is not HardwareType.NVIDIA_GPU:
        return True
    if kernel.backend is KernelBackend.HIP:
        return False
    capability = found.compute_capability
    if capability is None or capability < kernel.min_compute_capability:
        return False
    wanted = {a.value for a in kernel.supported_architectures}
    return not wanted or found.architecture in wanted


def _accelerator(device: torch.device) -> Accelerator | None:
    kinds = {
        "cuda": (HardwareType.NVIDIA_GPU, HardwareType.AMD_GPU),
        "xpu": (HardwareType.INTEL_GPU,),
        "xla": (HardwareType.TPU,),
        "tpu": (HardwareType.TPU,),
    }.get(device.type, ())
    usable = [a for a in detect_hardware().accelerators if a.usable and a.hardware_type in kinds]
    return next((a for a in usable if a.index == (device.index or 0)), None)


def _offered(loaded: Any) -> Iterable[KernelMetadata]:
    if callable(loaded):
        loaded = loaded()
    for kernel in [loaded] if isinstance(loaded, KernelMetadata) else loaded:
        if not isinstance(kernel, KernelMetadata):
            raise TypeError(f"expected KernelMetadata, got {type(kernel).__name__}")
        if not kernel.op:
            raise ValueError(f"kernel {kernel.kernel_id!r} names no operator (op=)")
        yield kernel


def _held_to_contract(kernel: KernelMetadata) -> ContractOutcome:
    if not kernel.op:
        return ContractOutcome(passed=False, message="it names no operator")
    outcome = source().check(kernel)
    if outcome.passed and kernel.validation_fn is not None:
        try:
            agreed = bool(kernel.validation_fn())
        except Exception as error:  # code of another package, which may raise anything
            return ContractOutcome(passed=False, message=f"its validation_fn raised: {error}")
        if not agreed:
            return ContractOutcome(passed=False, message="its validation_fn refused it")
    return outcome


_filled = False


def get_kernel_registry() -> KernelRegistry:
    """The registry, filled at first use with the package's kernels and those of entry points."""
    global _filled
    registry = KernelRegistry()
    with registry._lock:
        if not _filled:
            _filled = True
            register_default_kernels(registry)
            registry.discover()
    return registry


def register_default_kernels(registry: KernelRegistry | None = None) -> None:
    """Add the native kernels and references of every operator that are not in it yet."""
    registry = KernelRegistry() if registry is None else registry
    for kernel in source().kernels():
        if kernel.key not in registry._kernels:
            kernel.declared = True
            registry.register_kernel(kernel)
