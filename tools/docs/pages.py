"""The pages that are made, not typed: operators and numerics from the declarations, speed from the
records, the command line from the program itself.

:func:`pages` returns every made file; :func:`with_table` puts the table of numbers into the README.
Nothing here measures: a number is in a page only because a record under docs/records holds it.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from kernel_pytorch.backends.gpu_runs import native_on
from kernel_pytorch.bench import tables
from kernel_pytorch.bench.record import Record
from kernel_pytorch.ops import SPECS
from kernel_pytorch.ops.spec import OpSpec
from tools.docs import backends_page, gpu_page

__all__ = ["BEGIN", "END", "pages", "with_table"]

MADE = "<!-- Made by tools/docs from the declarations and records; do not edit. -->\n\n"
BEGIN = "<!-- numbers: begin (made by tools/docs) -->"
END = "<!-- numbers: end -->"

_RECORDS = pathlib.PurePath("docs", "records")
_BENCH = "bench.json"
_DEMOS = ("demo_bf16.json", "demo_int8.json")


_OP_INDEX = """\
# Operators

Every operator is declared once, in `python/kernel_pytorch/ops/`, and lives in `torch.ops.kpt` after
`import kernel_pytorch`. Where there is no native kernel for a device, a dtype or a size, the
reference runs in plain PyTorch: that is recorded, counted, and an error in strict mode
([dispatch](../dispatch.md)). `kpt ops` prints this table for the machine it runs on, `kpt ops NAME`
the variants of an operator.

"""

_NUMERICS = """\
# Numerics

The yardstick is each operator's reference in float64 on the same inputs. For every declared case,
dtype, instruction set and native variant, the contract tests hold the root-mean-square error to the
factor below times the error of eager PyTorch in the same dtype, plus a floor of half units in the
last place of the output (eager rounds some results exactly); no single element may be more than
twice as far out. Infinities and NaN fall on the same places as in float64. A repeated call gives
the same bits, and so does another number of threads.

"""

_SPEED = """\
# Speed

Measured on {measured_on}

Each row times this library and what PyTorch users write today in turn, in one process, with inputs
larger than the last-level cache unless the row is marked as staying in cache. The ratio is
PyTorch's time over ours with a 95% interval; the share of the limit is the least time that the
machine's arithmetic or memory allows, measured in the same run, over ours. Machines drift: trust
ratios before times. `kpt bench` makes this table on yours.

Limits: {limits}.

"""


def pages(root: pathlib.Path) -> dict[str, str]:
    """Path below ``root`` -> text, of every made page."""
    specs = sorted(SPECS.values(), key=lambda s: (s.family, s.name))
    made = {f"docs/ops/{spec.name}.md": _op_page(spec) for spec in specs}
    made["docs/ops/README.md"] = _op_index(specs)
    made["docs/backends.md"] = backends_page.page()
    made["docs/numerics.md"] = _numerics(specs)
    made["docs/speed.md"] = _speed(root)
    made["docs/command_line.md"] = _command_line()
    made["docs/gpu.md"] = gpu_page.page(root)
    return {path: MADE + text for path, text in made.items()} | {gpu_page.RUNS: gpu_page.runs(root)}


def with_table(readme: str, root: pathlib.Path) -> str:
    """``readme`` with the table between its markers made anew; ValueError without markers."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md must hold the lines {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n\n{_readme_table(root)}\n{END}{tail}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    rules = ["---:" if i in right else "---" for i in range(len(header))]
    lines = [header, rules, *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _dtype(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _code(text: str) -> str:
    # A bar would end the cell of a table.
    return f"`{text}`".replace("|", "\\|") if text else ""


def _arguments(spec: OpSpec) -> str:
    rows = []
    tensors = spec.tensor_arguments
    for a in spec.arguments:
        if a.name == tensors[0]:
            allowed = ", ".join(_dtype(d) for d in spec.dtypes)
        elif a.name in tensors:
            same = spec.arg_dtypes.get(a.name, (tensors[0],))
            allowed = " or ".join(
                f"that of `{d}`" if isinstance(d, str) else _dtype(d) for d in same
            )
        else:
            allowed = ", ".join(map(str, spec.choices.get(a.name, ())))
        dims = spec.dims.get(a.name, "")
        default = "required" if not a.has_default else _code(repr(a.default_value))
        rows.append(
            (
                _code(a.name),
                _code(a.type),
                default + (", by keyword" if a.kwarg_only else ""),
                _code(f"[{dims}]") if dims else "",
                allowed,
            )
        )
    return _table(("argument", "type", "default", "shape", "dtypes or values"), rows)


def _gradient(spec: OpSpec) -> str:
    if not spec.differentiable:
        return "none: the outputs carry no gradient"
    if spec.training is not None:
        return f"[`{spec.training}`]({spec.training}.md) runs in its place"
    if spec.backward is not None:
        return f"[`{spec.backward}`]({spec.backward}.md)"
    return "the reference is differentiated (exact, recorded as a fallback)"


def _floors(spec: OpSpec) -> str:
    returns = torch._C.parse_schema(f"kpt::{spec.name}{spec.schema}").returns
    others = [f"; `{returns[i].name}` {f:g}" for i, f in spec.tolerance.other_floors.items()]
    return f"{spec.tolerance.floor_ulp:g}" + "".join(others)


def _op_page(spec: OpSpec) -> str:
    facts = [
        ("gradient", _gradient(spec)),
        ("`out=` overload", "yes" if spec.out_overload else "no"),
        ("autocast", "casts to the autocast dtype" if spec.autocast else "keeps its dtypes"),
        ("native kernels", ", ".join(native_on(spec)) or "none"),
        ("elsewhere", "the reference runs; `kernel_pytorch.explain()` says so"),
        (
            "error",
            "none: the reference's bits"
            if spec.tolerance.exact
            else f"at most {spec.tolerance.vs_eager:g} times eager's in the same dtype, against "
            "float64",
        ),
        ("tested", f"{len(spec.cases)} declared cases, {len(spec.error_cases)} refused calls"),
    ]
    return (
        f"# {spec.name}\n\n"
        f"    torch.ops.kpt.{spec.name}{spec.schema}\n\n"
        f"{spec.doc.strip()}\n\n"
        f"## Arguments\n\n{_arguments(spec)}\n"
        f"## Behaviour\n\n{_table(('', ''), facts)}"
    )


def _op_index(specs: Sequence[OpSpec]) -> str:
    rows = [
        (
            spec.family,
            f"[`{spec.name}`]({spec.name}.md)",
            ", ".join(_dtype(d) for d in spec.dtypes),
            ", ".join(native_on(spec)) or "none",
            "yes" if spec.out_overload else "",
        )
        for spec in specs
    ]
    return _OP_INDEX + _table(("family", "operator", "dtypes", "native on", "`out=`"), rows)


def _numerics(specs: Sequence[OpSpec]) -> str:
    rows = [
        (
            f"[`{s.name}`](ops/{s.name}.md)",
            "exact" if s.tolerance.exact else f"{s.tolerance.vs_eager:g}",
            "" if s.tolerance.exact else _floors(s),
            "yes" if s.row_dims is not None else "",
        )
        for s in specs
    ]
    header = ("operator", "times eager's error", "floor, half ulp", "a row is independent")
    return _NUMERICS + _table(header, rows, (1, 2))


def _records(root: pathlib.Path) -> tuple[Record | None, list[dict[str, Any]]]:
    folder = root / _RECORDS
    bench = folder / _BENCH
    record = Record.read(bench) if bench.exists() else None
    demos = [
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in _DEMOS
        if (folder / name).exists()
    ]
    return record, demos


def _measured_on(record: Record) -> str:
    v = record.versions
    return (
        f"{tables.machine_text(record.machine)}. PyTorch {v.torch}, Python {v.python}, "
        f"kernel_pytorch {v.kernel_pytorch} at commit {v.commit or 'unknown'}, {record.date}."
    )


def _demo_rows(demos: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows = []
    for demo in demos:
        variants = demo["variants"]
        for shape in dict.fromkeys(v["shape"] for v in variants):
            times = {v["name"]: v["median_ms"] for v in variants if v["shape"] == shape}
            ours = times.pop("optimized")
            best = min(times, key=lambda name: times[name])
            rows.append(
                (
                    shape,
                    demo["precision"],
                    f"{times['eager fp32']:.1f}",
                    f"{times[best]:.1f} ({best})",
                    f"{ours:.1f}",
                    f"{times['eager fp32'] / ours:.2f}x",
                    f"{times[best] / ours:.2f}x",
                    f"{demo['min_cosine']:.5f}",
                )
            )
    return rows


_DEMO_HEADER = (
    "batch x tokens",
    "precision",
    "eager fp32, ms",
    "best of PyTorch, ms",
    "optimized, ms",
    "over fp32",
    "over the best",
    "least cosine",
)


def _speed(root: pathlib.Path) -> str:
    record, demos = _records(root)
    if record is None:
        return (
            "# Speed\n\nNot measured yet on this version. `kpt bench` measures on your machine.\n"
        )
    text = _SPEED.format(measured_on=_measured_on(record), limits=tables.limit_text(record))
    if demos:
        text += (
            "## A whole model: all-MiniLM-L6-v2, real weights (`kpt demo`)\n\n"
            + _table(_DEMO_HEADER, _demo_rows(demos), range(2, 8))
            + "\n"
        )
    for family in sorted({row.family for row in record.rows}):
        rows = [tables.cells(row) for row in record.rows if row.family == family]
        text += f"## {family}\n\n{_table(tables.HEADER, rows, range(3, 7))}\n"
    if missed := tables.missed_texts(record.rows):
        text += "## Goals that were missed, and what was measured there\n\n"
        text += "".join(f"- {reason}\n" for reason in missed) + "\n"
    if record.overhead:
        text += "## Overhead of a call\n\n"
        header = ("call", "KPT", "its kernel alone", "compared with", "PyTorch")
        text += _table(header, map(tables.overhead_row, record.overhead), (1, 2, 4)) + "\n"
    if record.skipped:
        text += "## Rows that did not run\n\n"
        text += _table(("row", "why"), sorted(record.skipped.items())) + "\n"
    return text.rstrip("\n") + "\n"


def _readme_table(root: pathlib.Path) -> str:
    record, demos = _records(root)
    if record is None or not demos:
        return "Not measured yet on this version; `kpt bench` and `kpt demo` measure on yours.\n"
    return (
        f"all-MiniLM-L6-v2 (real weights), on {_measured_on(record)}\n\n"
        + _table(_DEMO_HEADER, _demo_rows(demos), range(2, 8))
        + "\nAll rows, and single operators: [docs/speed.md](docs/speed.md).\n"
    )


def _command_line() -> str:
    # Imported here: the other pages need no command line.
    import typer
    from typer.cli import get_docs_for_click

    from kernel_pytorch import cli

    command = typer.main.get_command(cli.app)
    context = typer.Context(command, info_name="kpt")
    return get_docs_for_click(obj=command, ctx=context, name="kpt", title="Command line")
