"""What an operator is: one :class:`OpSpec`, declared once, from which the rest is derived.

From a spec come the schema in ``torch.ops.kpt``, validation, the fake function, output allocation,
the reference that runs where no native kernel does, autograd, autocast, the launchers, the
contract tests, the fuzzer, the benchmark row, the row of ``kpt ops`` and the docs page.

Dims grammar: a space-separated list of symbolic names per tensor argument. The same name must have
the same size everywhere, an integer is that size, and a leading ``...`` stands for any number of
leading dimensions (the same ones wherever it appears with a name, as in ``...M``; free as ``...``).
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

__all__ = [
    "Argument",
    "Benchmark",
    "Case",
    "Cost",
    "ErrorCase",
    "OpSpec",
    "Out",
    "Tolerance",
    "cases",
]

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument of a schema."""

    name: str
    type: str
    """As the schema writes it in long form: Tensor, Optional[Tensor], str, ScalarType and so on."""
    has_default: bool
    default_value: Any
    """None without a default; a ``torch.dtype`` for a ScalarType."""
    kwarg_only: bool


class Out(NamedTuple):
    """Shape and dtype of one output, as ``infer`` returns it.

    ``like`` makes the output take the memory order of that tensor, which has the same shape.
    """

    shape: Sequence[Any]
    dtype: torch.dtype
    like: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How exact an operator must be, against its reference in float64.

    The error may be ``vs_eager`` times the error of eager PyTorch in the same dtype, plus
    ``floor_ulp`` units in the last place of the output dtype at the output's magnitude (results
    that eager rounds exactly would otherwise demand an error of zero).
    """

    vs_eager: float = 1.25
    floor_ulp: float = 1.0
    other_floors: Mapping[int, float] = field(default_factory=dict)
    """``floor_ulp`` of single outputs, by their index."""
    exact: bool = False
    """The results are the reference's for the same inputs, bit for bit."""
    integers: float = 0.0
    """For integer outputs of which the reference in float64 gives the values before rounding: how
    much farther than half a step from those they may lie."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Work of one call, for the share of the machine's limit that a benchmark prints."""

    flops: float = 0.0
    read_bytes: float = 0.0
    write_bytes: float = 0.0
    compute: str = "fp32"
    """Which peak the flops are held against: fp32, bf16 or int8."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One set of sizes and options; tensors are made from it by :meth:`OpSpec.build`."""

    sizes: Mapping[str, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Values of the non-tensor arguments that differ from the schema's defaults."""
    given: tuple[str, ...] = ()
    """Names of the optional tensors that are passed."""
    lead: tuple[int, ...] = (3,)
    """The sizes that a leading ``...`` stands for."""

    def __str__(self) -> str:
        parts = [f"{k}{v}" for k, v in self.sizes.items()]
        parts += [f"{k}={v}" for k, v in self.options.items()]
        parts += [f"+{name}" for name in self.given]
        return "-".join(["x".join(map(str, self.lead)), *parts])


def cases(
    sizes: Iterable[Mapping[str, int]],
    options: Iterable[Mapping[str, Any]] = ({},),
    given: Iterable[tuple[str, ...]] = ((),),
    leads: Iterable[tuple[int, ...]] = ((3,),),
) -> tuple[Case, ...]:
    """The product of the given sizes, options, optional tensors and leading shapes."""
    return tuple(
        Case(sizes=s, options=o, given=g, lead=lead)
        for s, o, g, lead in itertools.product(sizes, options, given, leads)
    )


@dataclass(frozen=True, kw_only=True)
class ErrorCase:
    """A call that must be refused: ``call(op)`` makes it; the message must match ``match``."""

    name: str
    call: Callable[[Callable[..., Any]], Any]
    error: type[Exception]
    match: str


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark row: a case in a dtype, timed against ``eager`` of the spec."""

    name: str
    case: Case
    dtype: torch.dtype
    eager: Callable[..., Any] | None = None
    """What users run today, called with the operator's arguments; None: the spec's ``eager``."""
    use_out: bool = False
    """Time the ``out=`` overload (page faults of fresh memory otherwise dominate large outputs)."""
    in_place: bool = False
    """Time the operator that writes over its arguments; ``eager`` does so too."""
    hot: bool = False
    """Inputs stay in the caches; else each call gets the next of enough copies to evict them."""
    eager_inputs: Callable[..., tuple[Any, ...]] | None = None
    """Called once, untimed, with the operator's arguments: the positional arguments that ``eager``
    is timed with (an unpacked weight, say); None: the operator's own arguments."""
    backward_cost: Callable[..., Cost] | None = None
    """Given: time a step of training, forward and then the gradients of all floating tensors that
    the operator can give one of. It is called with the operator's arguments: what the gradients
    cost beyond ``cost``. Not with ``use_out``."""


BackwardCall = Callable[
    [tuple[Any, ...], Mapping[str, Any], tuple[Any, ...], Collection[str]], Mapping[str, Any]
]
Builder = Callable[[Case, torch.dtype, torch.Generator], tuple[list[Any], dict[str, Any]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class OpSpec:
    """Declaration of one operator. See the module's docstring."""

    name: str
    family: str
    schema: str
    """Arguments and returns, without the name: ``(Tensor x, str kind) -> Tensor``."""
    dims: Mapping[str, str]
    """Symbolic dims of each tensor argument; arguments left out have no shape rule here."""
    infer: Callable[..., Out | tuple[Out, ...]]
    """Called with the operator's arguments after the checks; outputs' shapes and dtypes."""
    reference: Callable[..., Any]
    """Plain PyTorch in higher precision, any device, any strides; the fallback, and in float64
    the yardstick (it must compute in float64 when its floating inputs are float64)."""
    eager: Callable[..., Any]
    """What PyTorch users write today, in the inputs' dtype: the yardstick for error and speed."""
    doc: str
    """Formula, shapes, dtypes, semantics of edge cases and source; becomes the docs page."""
    cases: tuple[Case, ...]
    error_cases: tuple[ErrorCase, ...]
    benchmarks: tuple[Benchmark, ...]
    cost: Callable[..., Cost]
    """Called with the operator's arguments."""
    dtypes: tuple[torch.dtype, ...] = FLOATS
    """Allowed dtypes of the first tensor argument."""
    arg_dtypes: Mapping[str, tuple[torch.dtype | str, ...]] = field(default_factory=dict)
    """Allowed dtypes of other tensor arguments; a string names the argument whose dtype is meant.
    Default: the dtype of the first tensor argument."""
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Allowed values of string arguments."""
    check: Callable[..., None] | None = None
    """Further checks, called with the arguments; raises ValueError or TypeError."""
    backward: str | None = None
    """Name of the backward operator; None: the reference is differentiated (and counted)."""
    backward_call: BackwardCall | None = None
    """(output gradients, arguments by name, outputs, names of the arguments whose gradient is asked
    for) -> {argument name: gradient}; it may give more than those. With ``backward``."""
    backward_of: tuple[str, ...] | None = None
    """The arguments that ``backward_call`` knows the gradient of: when that of another one is asked
    for, the reference is differentiated. None: of all tensors."""
    saved: tuple[str, ...] | None = None
    """The tensor arguments and the named outputs (as in the schema; a single one is ``out``) that
    ``backward_call`` reads, kept until then; the others are None there. None: all are kept."""
    training: str | None = None
    """Name of the operator that runs in place of this one where a gradient is wanted: it takes the
    same arguments, and returns this one's output first, then what its backward needs besides."""
    auxiliary: tuple[str, ...] = ()
    """Outputs that carry no gradient, kept for ``backward_call``; all but one of several."""
    differentiable: bool = True
    """False: the outputs carry no gradient (packing, quantization)."""
    autocast: bool = False
    """True: under autocast, floating tensor arguments are cast to the autocast dtype."""
    out_overload: bool = False
    """Whether ``torch.ops.kpt.<name>.out(..., *, out)`` exists (one output)."""
    in_place: tuple[str, ...] = ()
    """The arguments that ``torch.ops.kpt.<name>_`` writes its outputs over, one for each, in order;
    it takes the same arguments and returns nothing. Empty: there is no such operator."""
    tolerance: Tolerance = Tolerance()
    build_inputs: Builder | None = None
    """Makes (args, kwargs) for a case; default: normal tensors of the declared dims."""
    free_sizes: tuple[str, ...] = ()
    """Sizes that may take any value from 0 on; the fuzzer redraws them."""
    row_dims: int | None = 1
    """For the batch-independence test: how many trailing dims of the first tensor form one
    independent row (results for a row must not depend on the others); None: not tested so."""
    native_backends: tuple[str, ...] = ("cpu",)

    @functools.cached_property
    def arguments(self) -> tuple[Argument, ...]:
        """The schema's arguments in order."""
        parsed = torch._C.parse_schema(f"kpt::{self.name}{self.schema}").arguments
        return tuple(
            Argument(
                name=a.name,
                type=str(a.real_type),
                has_default=a.has_default_value(),
                default_value=self._dtype_default(a.name)
                if str(a.real_type) == "ScalarType"
                else a.default_value,
                kwarg_only=a.kwarg_only,
            )
            for a in parsed
        )

    def _dtype_default(self, name: str) -> torch.dtype | None:
        # The parsed schema has a number of torch's own in its place.
        found = re.search(rf"\bScalarType {name}=(\w+)", self.schema)
        return getattr(torch, found[1]) if found else None

    @property
    def output_names(self) -> tuple[str, ...]:
        """The schema's names of the outputs; a single one without a name is ``out``."""
        returns = torch._C.parse_schema(f"kpt::{self.name}{self.schema}").returns
        return tuple(r.name or "out" for r in returns)

    @property
    def tensor_arguments(self) -> tuple[str, ...]:
        """Names of the arguments that are tensors or optional tensors, in order."""
        return tuple(a.name for a in self.arguments if a.type in ("Tensor", "Optional[Tensor]"))

    def build(
        self, case: Case, dtype: torch.dtype, generator: torch.Generator
    ) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments for ``case``, reproducible from ``generator``."""
        if self.build_inputs is not None:
            return self.build_inputs(case, dtype, generator)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for a in self.arguments:
            if a.name in self.dims and (a.type == "Tensor" or a.name in case.given):
                allowed = self.arg_dtypes.get(a.name, (dtype,))
                wanted = dtype if isinstance(allowed[0], str) else allowed[0]
                value: Any = make_tensor(self.dims[a.name], case, wanted, generator)
            elif a.name in case.options:
                value = case.options[a.name]
            else:
                value = a.default_value
            if a.kwarg_only:
                kwargs[a.name] = value
            else:
                args.append(value)
        return args, kwargs


def make_tensor(
    dims: str, case: Case, dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    """A normal random tensor of symbolic shape ``dims`` with the sizes of ``case``."""
    shape: list[int] = []
    for token in dims.split():
        if token.startswith("..."):
            shape += case.lead
        else:
            shape.append(int(token) if token.isdigit() else case.sizes[token])
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)
