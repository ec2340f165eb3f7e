"""What the demo measured: data, table, JSON, HTML, exit code."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kernel_pytorch.core.html import bars, document, table
from kernel_pytorch.optimize import Report
from kernel_pytorch.optimize.html import page_body
from kernel_pytorch.optimize.measure import median_interval
from kernel_pytorch.optimize.table import milliseconds

__all__ = ["DemoResult", "Neighbour", "Promise", "Variant", "promised_table", "rounds"]

_SHOWN_NEIGHBOURS = 5


def rounds(
    calls: Mapping[str, Callable[[], object]], seconds: float, least: int = 7
) -> dict[str, list[float]]:
    """Time several ways of doing the same in turn: round after round, in alternating order."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    deadline = time.perf_counter() + seconds
    done = 0
    while done < least or (time.perf_counter() < deadline and done < 200):
        for name in list(calls)[:: 1 if done % 2 == 0 else -1]:
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
        done += 1
    return times


@dataclass(kw_only=True)
class Variant:
    """One way of embedding at one shape; ``seconds`` of each round, in order."""

    name: str
    shape: str
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(kw_only=True)
class Neighbour:
    """A sentence's nearest other sentence by the original's and the optimized embeddings."""

    text: str
    before: str
    after: str
    similarity_before: float
    similarity_after: float


@dataclass(kw_only=True)
class Promise:
    """A figure and the bound it was promised to reach."""

    what: str
    value: float
    bound: float
    kept: bool


def promised_table(promises: Sequence[Promise]) -> Table:
    """What was promised and what was measured."""
    promised = Table(title="promised")
    for i, name in enumerate(("what", "measured", "at least", "")):
        promised.add_column(name, justify="right" if i in (1, 2) else "left")
    for p in promises:
        style = "green" if p.kept else "bold red"
        promised.add_row(
            p.what, f"{p.value:.5g}", f"{p.bound:g}", Text("ok" if p.kept else "MISSED", style)
        )
    return promised


@dataclass(kw_only=True)
class DemoResult:
    """Result of :func:`kernel_pytorch.demos.sentences.run`; printable with rich."""

    precision: str
    report: Report
    variants: list[Variant]
    skipped: dict[str, str]
    sentences: int
    min_cosine: float
    neighbours: list[Neighbour]
    environment: dict[str, Any]
    promises: list[Promise] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def agreement(self) -> float:
        """Share of the sentences whose nearest neighbour is the same."""
        same = sum(n.before == n.after for n in self.neighbours)
        return same / len(self.neighbours)

    @property
    def exit_code(self) -> int:
        """0 when every promise was kept, else 1."""
        return 0 if all(p.kept for p in self.promises) else 1

    def _variant(self, shape: str, name: str) -> Variant:
        return next(v for v in self.variants if (v.shape, v.name) == (shape, name))

    def speedup(self, shape: str, names: Sequence[str]) -> tuple[float, float]:
        """Median and upper end of the interval of how much faster the optimized model is than the
        fastest of ``names``, by rounds."""
        best = min((self._variant(shape, n) for n in names), key=lambda v: v.median)
        ours = self._variant(shape, "optimized")
        ratios = [b / o for b, o in zip(best.seconds, ours.seconds)]
        return statistics.median(ratios), median_interval(ratios)[1]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "precision": self.precision,
            "exit_code": self.exit_code,
            "variants": [
                {
                    "name": v.name,
                    "shape": v.shape,
                    "median_ms": v.median * 1e3,
                    "rounds": len(v.seconds),
                }
                for v in self.variants
            ],
            "skipped": self.skipped,
            "sentences": self.sentences,
            "min_cosine": self.min_cosine,
            "agreement": self.agreement,
            "promises": [dataclasses.asdict(p) for p in self.promises],
            "neighbours": [dataclasses.asdict(n) for n in self.neighbours],
            "report": self.report.to_dict(),
            "environment": self.environment,
            "seconds": self.seconds,
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def _speed_rows(self) -> list[tuple[str, str, str, str, str]]:
        rows = []
        for v in self.variants:
            count = int(v.shape.split("x")[0])
            first = self._variant(v.shape, "eager fp32").median
            rows.append(
                (
                    v.shape,
                    v.name,
                    milliseconds(v.median),
                    f"{count / v.median:.1f}",
                    f"{first / v.median:.2f}x",
                )
            )
        return rows

    def __rich__(self) -> Group:
        speed = Table(title=f"all-MiniLM-L6-v2, {self.environment['threads']} threads")
        for i, name in enumerate(("batch x tokens", "how", "ms", "texts/s", "vs eager fp32")):
            speed.add_column(name, justify="left" if i < 2 else "right")
        for row in self._speed_rows():
            speed.add_row(*row, style="bold" if row[1] == "optimized" else "")
        near = Table(title="nearest sentence, by the original and by the optimized model")
        for name in ("sentence", "original", "optimized"):
            near.add_column(name)
        for n in self.shown_neighbours():
            near.add_row(
                n.text,
                f"{n.before} ({n.similarity_before:.3f})",
                f"{n.after} ({n.similarity_after:.3f})",
            )
        skipped = [Text(f"not compared with {n}: {why}") for n, why in self.skipped.items()]
        agree = Text(
            f"{self.agreement:.1%} of {self.sentences} sentences keep their nearest neighbour; "
            f"took {self.seconds:.0f} s"
        )
        return Group(
            self.report.__rich__(), speed, *skipped, near, agree, promised_table(self.promises)
        )

    def shown_neighbours(self) -> list[Neighbour]:
        """A few to show: all that differ first, then some from across the list."""
        differ = [n for n in self.neighbours if n.before != n.after]
        step = max(1, len(self.neighbours) // _SHOWN_NEIGHBOURS)
        same = [n for n in self.neighbours[::step] if n.before == n.after]
        return (differ + same)[:_SHOWN_NEIGHBOURS]

    def to_html(self) -> str:
        """A self-contained page."""
        parts = []
        for shape in dict.fromkeys(v.shape for v in self.variants):
            items = [
                (v.name, v.median, f"{milliseconds(v.median)} ms")
                for v in self.variants
                if v.shape == shape
            ]
            parts.append(f"<h2>{shape}: milliseconds</h2>" + bars(items, f"latency at {shape}"))
        promised = [
            (p.what, f"{p.value:.5g}", f"{p.bound:g}", "ok" if p.kept else "MISSED")
            for p in self.promises
        ]
        near = [(n.text, n.before, n.after) for n in self.neighbours]
        parts += [
            "<h2>Promised</h2>" + table(("what", "measured", "at least", ""), promised, (1, 2)),
            page_body(self.report),
            "<h2>Nearest sentences</h2>" + table(("sentence", "original", "optimized"), near),
        ]
        return document(f"Sentence embeddings, optimized ({self.precision})", "".join(parts))
