"""The course of ``plan`` and ``optimize``: capture, try each group, install, judge the whole."""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from kernel_pytorch._version import __version__
from kernel_pytorch.backends import cpu
from kernel_pytorch.core.dispatch_log import explain, strict
from kernel_pytorch.core.errors import NativeUnavailableError, StrictModeError
from kernel_pytorch.optimize.candidates import Candidate, Group, groups_of, survey
from kernel_pytorch.optimize.capture import Captured, Inputs, capture, hooked
from kernel_pytorch.optimize.installed import Installed
from kernel_pytorch.optimize.judge import Judge
from kernel_pytorch.optimize.measure import NONE, Difference, compare, paired
from kernel_pytorch.optimize.policy import Policy
from kernel_pytorch.optimize.progress import Progress
from kernel_pytorch.optimize.replacement import Replacement, tensors_in
from kernel_pytorch.optimize.results import Left, Report, Row

__all__ = ["Session"]

_GROUP_SECONDS = 1.0
_PLAN_SECONDS = 0.2


class Session:
    """One run of plan or optimize over one model."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        policy: Policy,
        *,
        max_error: float | None,
        strict: bool = False,
        max_memory: int | None = None,
        time_budget: float | None = None,
        planned_only: bool = False,
        progress: bool | None = None,
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.policy = policy
        self.strict = strict
        self.max_memory = max_memory
        self.planned_only = planned_only
        self.started = time.perf_counter()
        self.deadline = None if time_budget is None else self.started + time_budget
        self.installed = Installed(policy.name)
        floating = [p.dtype for p in model.parameters() if p.is_floating_point()]
        default = policy.error_bound(floating[0] if floating else torch.float32)
        self.max_error = default if max_error is None else max_error
        self.report = Report(
            planned_only=planned_only,
            model_class=type(model).__name__,
            precision=policy.name,
            max_error=self.max_error,
            environment=environment(),
        )
        self._left: dict[str, list[str]] = defaultdict(list)
        self._consumed: dict[int, str] = {}
        self.progress = Progress(progress)
        self.judge = Judge(
            model,
            inputs,
            policy,
            self.installed,
            self.report,
            self._left,
            strict=strict,
            seconds=self._seconds,
            progress=self.progress,
        )

    def run(self) -> Report:
        """Plan or optimize. What is installed when this raises is for the caller to remove."""
        with self.progress:
            captured, groups = self._look()
            for i, group in enumerate(groups):
                self.progress.say(f"{group.kind} ({i + 1} of {len(groups)})")
                self._try(group, groups[i:])
            if not self.planned_only:
                self._build_rest(groups)
                self._check_members()
                self.judge.stream(captured)
                self.judge.judge(captured)
            elif self.judge.attention_left():
                self.report.notes.append(
                    "optimize also tries the attention registered with transformers, "
                    "on the whole model"
                )
        self._list_left()
        self.report.seconds = time.perf_counter() - self.started
        return self.report

    def _look(self) -> tuple[Captured, list[Group]]:
        found = survey(self.model)
        modules = {c.name: c.module for c in found.candidates}
        keys = {c.name: c.key for c in found.candidates}
        self.progress.say("running the model on the example inputs")
        captured = capture(
            self.model, self.inputs, modules, lambda name, shapes: (keys[name], shapes)
        )
        if not captured.output:
            raise ValueError("optimize: the model's output holds no tensor to compare")
        again = compare([*tensors_in(self.inputs.run(self.model))], captured.output)
        if again.error > self.max_error:
            raise ValueError(
                "optimize: the model gives another output when it is run twice on "
                "'example_inputs' (it is random, or changes them, as a cache of keys and values): "
                "there is nothing to compare with"
            )
        groups, dropped = groups_of(found, captured)
        for name, reason in {**found.left, **dropped}.items():
            self._left[reason].append(name)
        return captured, groups

    def _list_left(self) -> None:
        """The modules that stay, less those whose work a replacement does."""
        named = {name or "(the model)": m for name, m in self.model.named_modules()}
        replaced = self.judge.row_of
        done = {i for i, owner in self._consumed.items() if owner in replaced}
        for reason, names in self._left.items():
            modules = [n for n in names if id(named[n]) not in done]
            if modules:
                self.report.left.append(Left(reason=reason, modules=modules))

    def _seconds(self, wanted: float, shares: int = 1) -> float:
        if self.deadline is None:
            return wanted
        return min(wanted, (self.deadline - time.perf_counter()) / shares)

    def _try(self, group: Group, remaining: list[Group]) -> None:
        """Build the first member's replacement, compare and time it on its captured call."""
        group.members = [m for m in group.members if self._free(m)]
        if not group.members:
            return
        row = Row(
            kind=group.kind,
            ops=(),
            modules=[m.name or "(the model)" for m in group.members],
            shapes=shapes_text(group),
        )
        self.report.rows.append(row)
        # The whole model's measurement takes its share of the time too.
        seconds = self._seconds(
            _PLAN_SECONDS if self.planned_only else _GROUP_SECONDS, len(remaining) + 2
        )
        if seconds <= 0:
            row.reason = "the time budget was spent before it could be measured"
            return
        try:
            replacement = self._build(group.members[0])
        except _UnbuildableError as error:
            row.reason = str(error)
            return
        row.ops = replacement.ops
        row.extra_bytes = replacement.nbytes * row.count
        if not self._measure(row, group, replacement, seconds):
            return
        if self.max_memory is not None:
            taken = sum(r.extra_bytes for r in self.report.rows if r.kept)
            if taken + row.extra_bytes > self.max_memory:
                row.reason = f"its packed weights do not fit in max_memory={self.max_memory}"
                return
        row.kept = True
        self.installed.replacements[group.members[0].name] = replacement
        for member in group.members:
            self.judge.row_of[member.name] = row
            self._consumed[id(member.module)] = member.name
            for child in member.consumed:
                self._consumed.setdefault(id(child), member.name)

    def _free(self, member: Candidate) -> bool:
        return id(member.module) not in self._consumed

    def _build(self, member: Candidate) -> Replacement:
        assert member.build is not None
        try:
            return member.build(self.policy)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            if isinstance(error, (StrictModeError, torch.OutOfMemoryError)):
                raise
            raise _UnbuildableError(f"its weights cannot be packed: {error}") from error

    def _measure(self, row: Row, group: Group, new: Replacement, seconds: float) -> bool:
        """Fill in error, timing and what ran; whether it is worth keeping."""
        call, module = group.call, group.members[0].module
        with torch.no_grad():
            refusal = new.refuse(*call.args, **call.kwargs)
            if refusal:
                row.reason = refusal
                return False
            try:
                with strict(self.strict), explain() as calls:
                    output = new(*call.args, **call.kwargs)
            except StrictModeError as error:
                raise StrictModeError(
                    f"optimize: {row.modules[0]} ({row.kind}): {error}"
                ) from error
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                row.reason = f"it fails on the example input: {error}"
                return False
            if originals := [c.reason for c in calls if c.implementation == "original"]:
                row.reason = originals[0]
                return False
            row.ran = "; ".join(
                dict.fromkeys(
                    f"native {c.variant}"
                    if c.implementation == "native"
                    else f"reference: {c.reason}"
                    for c in calls
                    if c.op in new.ops
                )
            )
            if type(output) is not type(call.output):
                kinds = type(output).__name__, type(call.output).__name__
                row.reason = f"it gives a {kinds[0]}, the original a {kinds[1]}"
                return False
            row.difference = compare([*tensors_in(output)], [*tensors_in(call.output)])
            if not row.difference.error <= self.max_error:
                row.reason = f"its error {row.difference.error:.1e} is over {self.max_error:.1e}"
                return False
            forward = type(module).forward
            row.timing = paired(
                lambda: forward(module, *call.args, **call.kwargs),
                lambda: new(*call.args, **call.kwargs),
                seconds,
            )
        if not row.timing.wins:
            row.reason = "it is slower" if row.timing.loses else "its gain is within the noise"
        return row.timing.wins

    def _build_rest(self, groups: list[Group]) -> None:
        """The replacements of the other members of the groups that won."""
        for group in groups:
            for member in group.members:
                row = self.judge.row_of.get(member.name)
                if row is None or member.name in self.installed.replacements:
                    continue
                self.progress.say(f"packing {member.name}")
                self.installed.replacements[member.name] = self._build(member)

    def _check_members(self) -> None:
        """Compare every replacement with its own module in one more pass over the original."""
        new = self.installed.replacements
        worst: dict[str, Difference] = {}

        def check(
            name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
        ) -> None:
            args, kwargs, out = new[name].repeatable(args, kwargs, out)
            if new[name].refuse(*args, **kwargs):
                return
            found = compare([*tensors_in(new[name](*args, **kwargs))], [*tensors_in(out)])
            worst[name] = worst.get(name, NONE).merged(found)

        self.progress.say("comparing every replacement with its original")
        with hooked({name: r.module for name, r in new.items()}, check):
            self.inputs.run(self.model)
        for name, found in worst.items():
            row = self.judge.row_of[name]
            row.difference = found if row.difference is None else row.difference.merged(found)
            if found.error > self.max_error:
                self.judge.drop([name], f"its error {found.error:.1e} is over {self.max_error:.1e}")


class _UnbuildableError(Exception):
    """A replacement that cannot be made; the message says why."""


def shapes_text(group: Group) -> str:
    """Shape of the first tensor a module gets, as "32x128x384"."""
    call = group.call
    first = next(tensors_in((call.args, tuple(call.kwargs.values()))), None)
    return "" if first is None else "x".join(map(str, first.shape))


def environment() -> dict[str, Any]:
    """What the numbers were measured with."""
    try:
        isa = cpu.isa()
    except NativeUnavailableError as error:
        isa = f"no native kernels: {error}"
    return {
        "kernel_pytorch": __version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "isa": isa,
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
