"""The last word: all replacements together, on the whole model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from kernel_pytorch.core.dispatch_log import explain, strict
from kernel_pytorch.core.errors import StrictModeError
from kernel_pytorch.optimize.attention import AttentionSwitch
from kernel_pytorch.optimize.capture import Captured, Inputs
from kernel_pytorch.optimize.installed import Installed
from kernel_pytorch.optimize.measure import Difference, Timing, compare, paired
from kernel_pytorch.optimize.policy import Policy
from kernel_pytorch.optimize.progress import Progress
from kernel_pytorch.optimize.replacement import tensors_in
from kernel_pytorch.optimize.results import Report, Row, WholeModel
from kernel_pytorch.optimize.stream import StreamBlock

__all__ = ["Judge", "weight_bytes"]

_MODEL_SECONDS = 4.0


class Judge:
    """Checks and times the whole model with what won alone."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        policy: Policy,
        installed: Installed,
        report: Report,
        left: dict[str, list[str]],
        *,
        strict: bool,
        seconds: Callable[[float], float],
        progress: Progress,
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.policy = policy
        self.installed = installed
        self.report = report
        self.left = left
        self.strict = strict
        self.max_error = report.max_error
        self.row_of: dict[str, Row] = {}
        self._seconds = seconds
        self.progress = progress

    def drop(self, names: list[str], reason: str) -> None:
        """Give up replacements of some modules after all."""
        for name in names:
            self.installed.replacements.pop(name).remove()
            row = self.row_of.pop(name)
            row.modules = [m for m in row.modules if m != (name or "(the model)")]
            self.left[f"{row.kind}: {reason}"].append(name or "(the model)")
            row.extra_bytes = sum(
                r.nbytes for n, r in self.installed.replacements.items() if self.row_of[n] is row
            )
            if not row.modules:
                row.modules, row.kept, row.reason = [name or "(the model)"], False, reason

    def stream(self, captured: Captured) -> None:
        """Let blocks that feed each other directly leave the stream in their dtype."""
        new = self.installed.replacements
        blocks = {n for n, r in new.items() if isinstance(r, StreamBlock)}
        for name in blocks:
            before = captured.chained.get(name)
            # Neighbours in one list: nothing else is likely to see what is between them.
            if before in blocks and before.rpartition(".")[0] == name.rpartition(".")[0]:
                replacement = new[before]
                assert isinstance(replacement, StreamBlock)
                replacement.streams = replacement.dtype is not replacement.model_dtype

    def judge(self, captured: Captured) -> None:
        """Install everything, check the whole model's output, time it, keep it if it wins."""
        self.progress.say("measuring the whole model")
        done = self.installed
        if not done.replacements and not self.attention_left():
            self.report.notes.append("no replacement won; the model is unchanged")
            return
        difference = self._whole_difference(captured)
        if difference.error > self.max_error and self._stop_streams("its error or dtype shows it"):
            difference = self._whole_difference(captured)
        while difference.error > self.max_error and done.replacements:
            # The replacements with the largest error of their own go first.
            rows = {id(r): r for r in self.row_of.values()}
            row = max(rows.values(), key=lambda r: r.difference.error if r.difference else 0.0)
            names = [n for n, r in self.row_of.items() if r is row]
            reason = (
                f"with it the model's error {difference.error:.1e} is over {self.max_error:.1e}"
            )
            self.drop(names, reason)
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
        self.row_of.clear()
        self.installed.replacements.clear()
        self.installed.switch = None
        self.report.notes.append(f"everything was taken back: {reason}")

    def _whole_difference(self, captured: Captured) -> Difference:
        done = self.installed
        try:
            done.set(True)
            return compare([*tensors_in(self.inputs.run(self.model))], captured.output)
        except (RuntimeError, ValueError, TypeError) as error:
            if not self._stop_streams(str(error)):
                raise
            return self._whole_difference(captured)
        finally:
            done.remove()

    def _stop_streams(self, why: str) -> bool:
        """Something besides the next block sees the stream: let it keep the model's dtype."""
        blocks = [r for r in self.installed.replacements.values() if isinstance(r, StreamBlock)]
        streamed = any(r.streams for r in blocks)
        for block in blocks:
            block.streams = False
        if streamed:
            self.report.notes.append(f"between blocks the stream stays in the model's dtype: {why}")
        return streamed

    def _time_model(self, switch: Any) -> Timing:
        def once() -> Any:
            return self.inputs.run(self.model)

        try:
            return paired(once, once, self._seconds(_MODEL_SECONDS), switch)
        finally:
            switch(False)

    def attention_left(self) -> bool:
        """Whether transformers' registration would switch more than what blocks do."""
        replaced = [m for n, m in self.model.named_modules() if self._is_block(n)]
        inside = {id(child) for block in replaced for child in block.modules()}
        return any(id(m) not in inside for m in AttentionSwitch.users(self.model))

    def _is_block(self, name: str) -> bool:
        return isinstance(self.installed.replacements.get(name), StreamBlock)

    def _switch_attention(self, captured: Captured, difference: Difference) -> Difference:
        """Try the registered attention on the whole model, with and without."""
        reason = AttentionSwitch.reason(self.model)
        if reason:
            if reason != "not a Hugging Face model":
                self.left[f"attention: {reason}"].append("(the model)")
            return difference
        if not self.attention_left():
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
                dict.fromkeys(f"native {c.variant}" for c in calls if c.op in new.ops)
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


def _all(inputs: Inputs) -> Any:
    return (inputs.args, tuple(inputs.kwargs.values()))


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, shared ones once."""
    tensors = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    return sum(tensors.values())
