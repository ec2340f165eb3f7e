"""``kpt ops``: which operators there are, and what runs for each, by backend and dtype."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernel_pytorch.cli.command import Json
from kernel_pytorch.cli.exits import CliError, Exit

if TYPE_CHECKING:
    from kernel_pytorch.cli.output import Output
    from kernel_pytorch.ops.spec import OpSpec

__all__ = ["BACKENDS", "ops"]

BACKENDS = ("cpu", "nvidia", "amd", "intel", "tpu")
"""Every backend, in the order of the table's columns."""

_SHORT = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8_e4m3",
    "float8_e5m2": "fp8_e5m2",
}
_NARROW = 90


def ops(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Everything about this operator.", show_default=False),
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only operators of this family (repeatable)."),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"Only these of {', '.join(BACKENDS)} (repeatable)."),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DTYPE", help="Only these dtypes: float32 or fp32, bfloat16, ... (repeatable)."
        ),
    ] = None,
    native: Annotated[bool, typer.Option("--native", help="Only what runs native.")] = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="Only what runs the reference.")
    ] = False,
    json: Json = None,
) -> None:
    """Lists the operators torch.ops.kpt.*: native or reference, by backend and dtype.

    "native" is a kernel of this package; "reference" is plain PyTorch, which gives the same result
    and runs wherever PyTorch does. `kpt ops NAME` shows one operator: schema, variants, what runs
    on this machine, and its documentation.
    """
    from kernel_pytorch.cli.output import Output, Progress

    output = Output(json)
    if native and reference:
        raise CliError("--native and --reference exclude each other", Exit.USAGE)
    with Progress(output, "importing PyTorch"):
        import torch  # noqa: F401  (for its message when it is missing)

        from kernel_pytorch.backends.gpu_runs import GPU_BACKENDS, NOT_YET, gpu_run
        from kernel_pytorch.ops import SPECS
    if name is not None:
        if name not in SPECS:
            raise CliError(f"{name}: unknown operator; {_there_are(SPECS)}", Exit.USAGE)
        _one(output, SPECS[name])
        return
    specs = sorted(SPECS.values(), key=lambda s: (s.family, s.name))
    families = {s.family for s in specs}
    dtypes = list(dict.fromkeys(_dtype(d) for s in specs for d in s.dtypes))
    long_names = {short: long for long, short in _SHORT.items()}
    wanted = {
        "family": _chosen("--family", family, families),
        "backend": _chosen("--backend", backend, BACKENDS),
        "dtype": _chosen("--dtype", [long_names.get(d, d) for d in dtype or []], dtypes),
    }
    unavailable = {b for b in BACKENDS if any(b in s.native_backends for s in specs)}
    unavailable = {b for b in unavailable if _module_problem(b)}
    for b in sorted(unavailable & set(wanted["backend"])):
        output.warn(f"the {b} kernels do not run: {_module_problem(b)}; see `kpt doctor`")
    entries = [
        {
            "op": s.name,
            "family": s.family,
            "backend": b,
            "dtype": d,
            "implementation": ran,
            "gpu_run": str(gpu_run(s.name, b) or NOT_YET)
            if ran == "native" and b in GPU_BACKENDS
            else "",
        }
        for s in specs
        for b in BACKENDS
        for d in map(_dtype, s.dtypes)
        for ran in ["native" if b in s.native_backends and b not in unavailable else "reference"]
        if s.family in wanted["family"] and b in wanted["backend"] and d in wanted["dtype"]
        if ran == "native" or not native
        if ran == "reference" or not reference
    ]
    _table(output, entries, [b for b in BACKENDS if b in wanted["backend"]])
    output.finish({"ops": entries})


def _dtype(dtype: Any) -> str:  # a text stays as it is
    return str(dtype).removeprefix("torch.")


def _there_are(names: Any) -> str:
    return f"there are {', '.join(sorted(names))}"


def _chosen(option: str, given: Sequence[str] | None, known: Any) -> list[str]:
    for value in given or []:
        if value not in known:
            raise CliError(f"{option} {value}: unknown; {_there_are(known)}", Exit.USAGE)
    return list(given or known)


def _module_problem(backend: str) -> str:
    """Why the compiled module of a backend does not load; "" when it does."""
    from kernel_pytorch.backends import cpu, cuda
    from kernel_pytorch.core.errors import NativeUnavailableError

    modules = {"cpu": cpu.module_file, "nvidia": cuda.module_file}
    try:
        modules[backend]()
    except NativeUnavailableError as error:
        return str(error)
    return ""


def _table(output: Output, entries: Sequence[Mapping[str, str]], backends: Sequence[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    out = output.out
    wide = out.width >= _NARROW
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("operator", *(["family"] if wide else []), *backends):
        table.add_column(title, overflow="fold", no_wrap=title == "operator")
    rows: dict[str, dict[str, list[Mapping[str, str]]]] = {}
    for entry in entries:
        rows.setdefault(entry["op"], {}).setdefault(entry["backend"], []).append(entry)
    for op, row in rows.items():
        family = next(iter(row.values()))[0]["family"]
        cells = [_cell(row.get(b, [])) for b in backends]
        table.add_row(op, *([Text(family, style="dim")] if wide else []), *cells)
    out.print(table)
    out.print()
    out.print(
        Text("a dtype: a native kernel of this package; reference: plain PyTorch")
        if entries
        else Text("no operator passes the filters")
    )
    for run in dict.fromkeys(e["gpu_run"] for e in entries if e["gpu_run"]):
        names = dict.fromkeys(
            f"{e['op']} on {e['backend']}" for e in entries if e["gpu_run"] == run
        )
        out.print(Text(f"{run}: {', '.join(names)}"))


def _cell(entries: Sequence[Mapping[str, str]]) -> Any:
    from rich.text import Text

    native = [
        _SHORT.get(e["dtype"], e["dtype"]) for e in entries if e["implementation"] == "native"
    ]
    text = Text(" ".join(native), style="green")
    if len(native) < len(entries):
        text.append(" reference" if native else "reference", style="dim")
    return text


def _one(output: Output, spec: OpSpec) -> None:
    from kernel_pytorch.backends import cpu
    from kernel_pytorch.backends.gpu_runs import GPU_BACKENDS, NOT_YET, gpu_run
    from kernel_pytorch.cli.runs import what_runs

    available: list[tuple[cpu.VariantInfo, bool]] = []
    if not _module_problem("cpu"):
        levels = ("baseline", "avx2", "avx512", "avx512_bf16", "amx")
        limit = levels.index(cpu.isa())
        available = [(v, levels.index(v.isa) <= limit) for v in cpu.variants(spec.name)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the reference ran is said below
        ran = {_dtype(d): what_runs(spec, d) for d in spec.dtypes}
    output.finish(
        {
            "op": spec.name,
            "family": spec.family,
            "schema": f"{spec.name}{spec.schema}",
            "out_overload": spec.out_overload,
            "backward": spec.backward,
            "differentiable": spec.differentiable,
            "native_backends": list(spec.native_backends),
            "gpu_runs": {
                b: str(gpu_run(spec.name, b) or NOT_YET)
                for b in spec.native_backends
                if b in GPU_BACKENDS
            },
            "choices": {k: [_dtype(c) for c in v] for k, v in spec.choices.items()},
            "runs_here": {d: r._asdict() for d, r in ran.items()},
            "variants": [
                {"name": v.name, "isa": v.isa, "available": usable} for v, usable in available
            ],
            "doc": spec.doc.strip(),
        }
    )
    _page(output, spec, ran, available)


def _page(
    output: Output, spec: OpSpec, ran: Mapping[str, Any], available: Sequence[tuple[Any, bool]]
) -> None:
    from rich.markdown import Markdown
    from rich.text import Text

    from kernel_pytorch.backends.gpu_runs import native_on

    out = output.out
    out.print(Text(f"torch.ops.kpt.{spec.name}", style="bold") + Text(spec.schema))
    facts = [f"family {spec.family}", f"native on {', '.join(native_on(spec)) or 'nothing'}"]
    if spec.out_overload:
        facts.append("has an out= overload")
    if not spec.differentiable:
        facts.append("carries no gradient")
    else:
        facts.append(f"gradient: {spec.backward or 'of the reference'}")
    out.print(Text("; ".join(facts), style="dim"))
    out.print()
    # On a page for people the markdown is laid out; a pipe gets it as it was written.
    out.print(Markdown(spec.doc.strip()) if out.is_terminal else Text(spec.doc.strip()))
    out.print()
    out.print(Text("runs here, for a small case", style="bold"))
    for dtype, outcome in ran.items():
        what = (
            Text(f"native {outcome.variant}", style="green")
            if outcome.implementation == "native"
            else Text(f"reference: {outcome.reason}", style="yellow")
        )
        out.print(Text(f"  {dtype:<15}") + what)
    if available:
        out.print(Text("variants, best first", style="bold"))
    for variant, usable in available:
        note = "" if usable else ", above what is in use here"
        out.print(Text(f"  {variant.name:<32} {variant.isa}{note}", style="" if usable else "dim"))
