"""What a validation found: one report for each check, and all of them as JSON and as a page."""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from kernel_pytorch.core.html import document, table

__all__ = [
    "Check",
    "Outcome",
    "ValidationLevel",
    "ValidationReport",
    "ValidationResult",
    "ValidationSummary",
    "failed",
    "passed",
    "run_checks",
    "skipped",
    "warned",
]


class ValidationLevel(enum.Enum):
    """How much is checked; each level has the checks of those before it."""

    MINIMAL = "minimal"
    STANDARD = "standard"
    STRICT = "strict"
    COMPREHENSIVE = "comprehensive"

    def includes(self, other: ValidationLevel) -> bool:
        """Whether checks of the other level run at this one."""
        order = list(ValidationLevel)
        return order.index(other) <= order.index(self)


class ValidationResult(enum.Enum):
    """What became of a check."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass
class ValidationReport:
    """One check."""

    name: str
    status: ValidationResult
    message: str
    execution_time: float
    """Seconds."""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class ValidationSummary:
    """All checks of one validation."""

    total_tests: int
    passed: int
    warnings: int
    failed: int
    skipped: int
    execution_time: float
    reports: list[ValidationReport]

    @classmethod
    def of(cls, reports: list[ValidationReport]) -> ValidationSummary:
        """The counts of these reports."""

        def count(status: ValidationResult) -> int:
            return sum(r.status is status for r in reports)

        return cls(
            total_tests=len(reports),
            passed=count(ValidationResult.PASSED),
            warnings=count(ValidationResult.WARNING),
            failed=count(ValidationResult.FAILED),
            skipped=count(ValidationResult.SKIPPED),
            execution_time=sum(r.execution_time for r in reports),
            reports=reports,
        )

    @property
    def success_rate(self) -> float:
        """Share of the checks that passed among those that ran; 0 when none did."""
        ran = self.total_tests - self.skipped
        return self.passed / ran if ran else 0.0

    @property
    def is_valid(self) -> bool:
        """Whether something ran and nothing failed."""
        return self.failed == 0 and self.total_tests > self.skipped

    def report(self, name: str) -> ValidationReport:
        """The check of this name; KeyError without one."""
        for found in self.reports:
            if found.name == name:
                return found
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "total_tests": self.total_tests,
            "passed": self.passed,
            "warnings": self.warnings,
            "failed": self.failed,
            "skipped": self.skipped,
            "success_rate": self.success_rate,
            "is_valid": self.is_valid,
            "execution_time": self.execution_time,
            "reports": [
                {
                    "name": r.name,
                    "status": r.status.value,
                    "message": r.message,
                    "execution_time": r.execution_time,
                    "metadata": r.metadata,
                }
                for r in self.reports
            ],
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, default=str)

    def to_html(self, title: str = "Validation") -> str:
        """A self-contained page."""
        rows = [
            (r.name, r.status.value, r.message, f"{r.execution_time:.3f}") for r in self.reports
        ]
        counts = (
            f"<p>{self.passed} passed, {self.warnings} warnings, {self.failed} failed, "
            f"{self.skipped} skipped.</p>"
        )
        body = counts + table(("check", "result", "what was found", "seconds"), rows, numeric=(3,))
        return document(title, body)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a check returns."""

    status: ValidationResult
    message: str
    metadata: dict[str, Any] = field(default_factory=dict)


def passed(message: str, **metadata: Any) -> Outcome:
    """It holds."""
    return Outcome(status=ValidationResult.PASSED, message=message, metadata=metadata)


def warned(message: str, **metadata: Any) -> Outcome:
    """It works, and could be better."""
    return Outcome(status=ValidationResult.WARNING, message=message, metadata=metadata)


def failed(message: str, **metadata: Any) -> Outcome:
    """It does not hold."""
    return Outcome(status=ValidationResult.FAILED, message=message, metadata=metadata)


def skipped(message: str, **metadata: Any) -> Outcome:
    """There is nothing here to check it on."""
    return Outcome(status=ValidationResult.SKIPPED, message=message, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Check:
    """A named check, and the first level at which it runs."""

    name: str
    run: Callable[[], Outcome]
    level: ValidationLevel = ValidationLevel.MINIMAL


def run_checks(
    checks: Iterable[Check], level: ValidationLevel = ValidationLevel.COMPREHENSIVE
) -> ValidationSummary:
    """Runs the checks of a level in order; one that raises has failed, and the others still run."""
    reports = []
    for check in checks:
        if not level.includes(check.level):
            continue
        start = time.perf_counter()
        try:
            outcome = check.run()
        except Exception as error:  # a model's own code: any kind
            lines = str(error).strip().splitlines()
            detail = lines[0] if lines else ""
            outcome = failed(f"{type(error).__name__}: {detail}", error=type(error).__name__)
        reports.append(
            ValidationReport(
                name=check.name,
                status=outcome.status,
                message=outcome.message,
                execution_time=time.perf_counter() - start,
                metadata=outcome.metadata,
            )
        )
    return ValidationSummary.of(reports)
