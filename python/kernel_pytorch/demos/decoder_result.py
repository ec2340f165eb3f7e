"""What the decoder's demo measured: data, table, JSON, HTML, exit code."""

from __future__ import annotations

import dataclasses
import json
import statistics
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kernel_pytorch.core.html import bars, document, table
from kernel_pytorch.demos.result import Promise, Variant, promised_table
from kernel_pytorch.optimize import Report
from kernel_pytorch.optimize.html import page_body
from kernel_pytorch.optimize.measure import median_interval
from kernel_pytorch.optimize.table import milliseconds

__all__ = ["DecoderResult", "Perplexity"]


@dataclass(kw_only=True)
class Perplexity:
    """Of the model with all layers replaced at a precision, on the reference's own texts."""

    precision: str
    value: float


@dataclass(kw_only=True)
class DecoderResult:
    """Result of :func:`kernel_pytorch.demos.decoder.run`; printable with rich."""

    precision: str
    report: Report
    variants: list[Variant]
    """``seconds`` are those of a whole generation of ``tokens`` tokens."""
    tokens: int
    same_tokens: float
    """Share of the greedy tokens, all layers replaced at precision "keep", that are eager's."""
    perplexity: float
    """Of the model in float32 as transformers runs it."""
    perplexities: list[Perplexity]
    environment: dict[str, Any]
    promises: list[Promise] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 when every promise was kept, else 1."""
        return 0 if all(p.kept for p in self.promises) else 1

    def per_token(self, name: str) -> float:
        """Median seconds a token."""
        return self._variant(name).median / self.tokens

    def speedup(self, name: str) -> tuple[float, float]:
        """Median and upper end of the interval of how much faster the optimized model is, by
        rounds."""
        pairs = zip(self._variant(name).seconds, self._variant("optimized").seconds)
        ratios = [before / after for before, after in pairs]
        return statistics.median(ratios), median_interval(ratios)[1]

    def _variant(self, name: str) -> Variant:
        return next(v for v in self.variants if v.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "precision": self.precision,
            "exit_code": self.exit_code,
            "tokens": self.tokens,
            "variants": [
                {
                    "name": v.name,
                    "token_ms": self.per_token(v.name) * 1e3,
                    "rounds": len(v.seconds),
                }
                for v in self.variants
            ],
            "same_tokens": self.same_tokens,
            "perplexity": self.perplexity,
            "perplexities": [dataclasses.asdict(p) for p in self.perplexities],
            "promises": [dataclasses.asdict(p) for p in self.promises],
            "report": self.report.to_dict(),
            "environment": self.environment,
            "seconds": self.seconds,
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def _perplexity_rows(self) -> list[tuple[str, str, str]]:
        rows = [("eager fp32", f"{self.perplexity:.4g}", "")]
        for p in self.perplexities:
            change = p.value / self.perplexity - 1
            rows.append((p.precision, f"{p.value:.4g}", f"{change:+.2%}"))
        return rows

    def __rich__(self) -> Group:
        speed = Table(
            title=f"a decoder of GPT-2 small's size, {self.environment['threads']} threads"
        )
        for i, name in enumerate(("how", "ms a token", "tokens/s", "vs eager fp32")):
            speed.add_column(name, justify="right" if i else "left")
        first = self.per_token("eager fp32")
        for v in self.variants:
            token = self.per_token(v.name)
            row = (v.name, milliseconds(token), f"{1 / token:.1f}", f"{first / token:.2f}x")
            speed.add_row(*row, style="bold" if v.name == "optimized" else "")
        words = Table(title="perplexity on what the original writes")
        for i, name in enumerate(("how", "perplexity", "difference")):
            words.add_column(name, justify="right" if i else "left")
        for cells in self._perplexity_rows():
            words.add_row(*cells)
        same = Text(
            f"{self.same_tokens:.1%} of {self.tokens} greedy tokens at precision keep are eager's; "
            f"took {self.seconds:.0f} s"
        )
        return Group(self.report.__rich__(), speed, words, same, promised_table(self.promises))

    def to_html(self) -> str:
        """A self-contained page."""
        tokens = [(v.name, self.per_token(v.name)) for v in self.variants]
        items = [(name, token, f"{milliseconds(token)} ms") for name, token in tokens]
        promised = [
            (p.what, f"{p.value:.5g}", f"{p.bound:g}", "ok" if p.kept else "MISSED")
            for p in self.promises
        ]
        parts = [
            "<h2>Milliseconds a token</h2>" + bars(items, "time a token"),
            "<h2>Promised</h2>" + table(("what", "measured", "at least", ""), promised, (1, 2)),
            "<h2>Perplexity</h2>"
            + table(("how", "perplexity", "difference"), self._perplexity_rows(), (1, 2)),
            page_body(self.report),
        ]
        return document(f"Text generation, optimized ({self.precision})", "".join(parts))
