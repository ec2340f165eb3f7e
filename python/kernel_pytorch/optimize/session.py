"""The course of ``plan`` and ``optimize``: capture, try each group, install, judge the whole."""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kernel_pytorch._version import __version__
from kernel_pytorch.backends import cpu
from kernel_pytorch.core.dispatch_log import explain, strict
from kernel_pytorch.core.errors import NativeUnavailableError, StrictModeError
from kernel_pytorch.optimize.attention import AttentionSwitch
from kernel_pytorch.optimize.candidates import Candidate, Group, groups_of, survey
from kernel_pytorch.optimize.capture import Captured, Inputs, capture, hooked
from kernel_pytorch.optimize.encoder_block import EncoderBlock
from kernel_pytorch.optimize.measure import NONE, Difference, Timing, compare, paired
from kernel_pytorch.optimize.policy import Policy
from kernel_pytorch.optimize.progress import Progress
from kernel_pytorch.optimize.replacement import Replacement, tensors_in
from kernel_pytorch.optimize.results import Left, Report, Row, WholeModel

__all__ = ["Session"]

_GROUP_SECONDS = 1.0
_MODEL_SECONDS = 4.0
_PLAN_SECONDS = 0.2


@dataclass
class Installed:
    """What optimize changed, all of it: kept on the model for revert."""

    precision: str
    replacements: dict[str, Replacement] = field(default_factory=dict)
    """By module name."""
    switch: AttentionSwitch | None = None
    report: Report | None = None

    def install(self) -> None:
        for replacement in self.replacements.values():
            replacement.install()
        if self.switch is not None:
            self.switch.install()

    def remove(self) -> None:
        if self.switch is not None:
            self.switch.remove()
        for replacement in self.replacements.values():
            replacement.remove()

    def set(self, on: bool) -> None:
        """Install or remove, whatever the state was."""
        self.remove()
        if on:
            self.install()

    @property
    def nbytes(self) -> int:
        return sum(r.nbytes for r in self.replacements.values())


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
        self._row_of: dict[str, Row] = {}

    def run(self) -> Report:
        """Plan or optimize; on any exception the model is as it was."""
        with Progress() as self.progress:
            try:
                captured, groups = self._look()
                for i, group in enumerate(groups):
                    self.progress.say(f"{group.kind} ({i + 1} of {len(groups)})")
                    self._try(group, groups[i:])
                if not self.planned_only:
                    self._build_rest(groups)
                    self._check_members()
                    self._stream(captured)
                    self._judge(captured)
                else:
                    self._plan_attention()
            except BaseException:
                self.installed.remove()
                raise
        for reason, modules in self._left.items():
            self.report.left.append(Left(reason=reason, modules=modules))
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
        groups, dropped = groups_of(found, captured)
        for name, reason in {**found.left, **dropped}.items():
            self._left[reason].append(name)
        return captured, groups

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
        except _Unbuildable as error:
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
            self._row_of[member.name] = row
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
            if isinstance(error, StrictModeError) or isinstance(error, torch.OutOfMemoryError):
                raise
            raise _Unbuildable(f"its weights cannot be packed: {error}") from error

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
            row.ran = "; ".join(
                dict.fromkeys(
                    f"native {c.variant}"
                    if c.implementation == "native"
                    else f"reference: {c.reason}"
                    for c in calls
                    if c.op in new.ops
                )
            )
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
                row = self._row_of.get(member.name)
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
            if new[name].refuse(*args, **kwargs):
                return
            found = compare([*tensors_in(new[name](*args, **kwargs))], [*tensors_in(out)])
            worst[name] = worst.get(name, NONE).merged(found)

        self.progress.say("comparing every replacement with its original")
        with hooked({name: r.module for name, r in new.items()}, check):
            self.inputs.run(self.model)
        for name, found in worst.items():
            row = self._row_of[name]
            row.difference = found if row.difference is None else row.difference.merged(found)
            if found.error > self.max_error:
                self._drop([name], f"its error {found.error:.1e} is over {self.max_error:.1e}")

    def _drop(self, names: list[str], reason: str) -> None:
        """Give up replacements of some modules after all."""
        for name in names:
            self.installed.replacements.pop(name).remove()
            row = self._row_of.pop(name)
            row.modules = [m for m in row.modules if m != (name or "(the model)")]
            self._left[f"{row.kind}: {reason}"].append(name or "(the model)")
            row.extra_bytes = sum(
                r.nbytes for n, r in self.installed.replacements.items() if self._row_of[n] is row
            )
            if not row.modules:
                row.modules, row.kept, row.reason = [name or "(the model)"], False, reason

    def _stream(self, captured: Captured) -> None:
        """Let encoder blocks that feed each other directly leave the stream in their dtype."""
        new = self.installed.replacements
        blocks = {n for n, r in new.items() if isinstance(r, EncoderBlock)}
        for name in blocks:
            before = captured.chained.get(name)
            # Neighbours in one list: nothing else is likely to see what is between them.
            if before in blocks and before.rpartition(".")[0] == name.rpartition(".")[0]:
                replacement = new[before]
                assert isinstance(replacement, EncoderBlock)
                replacement.streams = replacement.dtype is not replacement.model_dtype

    def _judge(self, captured: Captured) -> None:
        """Install everything, check the whole model's output, time it, keep it if it wins."""
        self.progress.say("measuring the whole model")
        done = self.installed
        if not done.replacements and AttentionSwitch.reason(self.model):
            self.report.notes.append("no replacement won; the model is unchanged")
            return
        difference = self._whole_difference(captured)
        while difference.error > self.max_error and done.replacements:
            # The replacements with the largest error of their own go first.
            rows = {id(r): r for r in self._row_of.values()}
            row = max(rows.values(), key=lambda r: r.difference.error if r.difference else 0.0)
            names = [n for n, r in self._row_of.items() if r is row]
            reason = (
                f"with it the model's error {difference.error:.1e} is over {self.max_error:.1e}"
            )
            self._drop(names, reason)
            difference = self._whole_difference(captured)
        difference = self._switch_attention(captured, difference)
        if not done.replacements and done.switch is None:
            self.report.notes.append("no replacement won; the model is unchanged")
            return
        timing = self._time_model(lambda on: done.set(on))
        self.report.model = WholeModel(
            timing=timing,
            difference=difference,
            batch=next((t.shape[0] for t in tensors_in(_all(self.inputs)) if t.dim()), 1),
            weight_bytes=weight_bytes(self.model),
            extra_bytes=done.nbytes,
        )
        done.set(True)
        if not timing.wins:
            done.remove()
            why = "slower" if timing.loses else "no faster beyond noise"
            self._revert_all(f"the whole model was {why} with the replacements that won alone")

    def _revert_all(self, reason: str) -> None:
        for row in self.report.rows:
            if row.kept:
                row.kept, row.reason = False, reason
        self.installed = Installed(self.policy.name)
        self.report.notes.append(f"everything was taken back: {reason}")

    def _whole_difference(self, captured: Captured) -> Difference:
        done = self.installed
        try:
            done.set(True)
            return compare([*tensors_in(self.inputs.run(self.model))], captured.output)
        except (RuntimeError, ValueError, TypeError) as error:
            streaming = [r for r in done.replacements.values() if isinstance(r, EncoderBlock)]
            if not any(r.streams for r in streaming):
                raise
            for replacement in streaming:
                replacement.streams = False
            self.report.notes.append(
                f"between encoder blocks the stream stays in the model's dtype: {error}"
            )
            return self._whole_difference(captured)
        finally:
            done.remove()

    def _time_model(self, switch: Any) -> Timing:
        def once() -> Any:
            return self.inputs.run(self.model)

        try:
            return paired(once, once, self._seconds(_MODEL_SECONDS), switch)
        finally:
            switch(False)

    def _plan_attention(self) -> None:
        reason = AttentionSwitch.reason(self.model)
        if not reason:
            self.report.notes.append(
                "optimize also tries the attention registered with transformers, on the whole model"
            )
        elif reason != "not a Hugging Face model":
            self._left[f"attention: {reason}"].append("(the model)")

    def _switch_attention(self, captured: Captured, difference: Difference) -> Difference:
        """Try the registered attention on the whole model, with and without."""
        reason = AttentionSwitch.reason(self.model)
        if reason:
            if reason != "not a Hugging Face model":
                self._left[f"attention: {reason}"].append("(the model)")
            return difference
        self.progress.say("attention through transformers' registration")
        done = self.installed
        new = AttentionSwitch(self.model, self.policy)
        row = Row(kind="attention (registered)", ops=new.ops, modules=["(the model)"], shapes="")
        self.report.rows.append(row)
        done.switch = new
        try:
            with strict(self.strict), explain() as calls:
                row.difference = self._whole_difference(captured)
            row.ran = "; ".join(
                dict.fromkeys(f"native {c.variant}" for c in calls if c.op == "attention_forward")
            )
            done.switch = None

            def switch(on: bool) -> None:
                done.set(True)
                new.install() if on else new.remove()

            try:
                row.timing = self._time_model(switch)
            finally:
                new.remove()
                done.remove()
        except (RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, StrictModeError):
                raise
            done.switch = None
            row.reason = f"it fails on the example input: {error}"
            return difference
        if not row.difference.error <= self.max_error:
            row.reason = (
                f"the model's error {row.difference.error:.1e} is over {self.max_error:.1e}"
            )
        elif not row.timing.wins:
            row.reason = "it is slower" if row.timing.loses else "its gain is within the noise"
        else:
            row.kept, done.switch = True, new
            return row.difference
        return difference


class _Unbuildable(Exception):
    """A replacement that cannot be made; the message says why."""


def _all(inputs: Inputs) -> Any:
    return (inputs.args, tuple(inputs.kwargs.values()))


def shapes_text(group: Group) -> str:
    """Shape of the first tensor a module gets, as "32x128x384"."""
    call = group.call
    first = next(tensors_in((call.args, tuple(call.kwargs.values()))), None)
    return "" if first is None else "x".join(map(str, first.shape))


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, shared ones once."""
    tensors = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    return sum(tensors.values())


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
