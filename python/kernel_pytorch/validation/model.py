"""Whether a model is sound, and whether it can be exported."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from kernel_pytorch.core.config import ValidationConfig
from kernel_pytorch.core.memory_use import peak_bytes, weight_bytes
from kernel_pytorch.validation.report import (
    Check,
    Outcome,
    ValidationLevel,
    failed,
    passed,
    warned,
)

__all__ = ["export_checks", "model_checks"]

_GIB = 2**30


class _Subject:
    """A model in evaluation mode with an input, run when a check first asks for its output."""

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.model = model
        first = next((p for p in model.parameters()), None)
        device = torch.device("cpu") if first is None else first.device
        dtype = first.dtype if first is not None and first.is_floating_point() else torch.float32
        generator = torch.Generator().manual_seed(0)
        embeds = next((m for m in model.modules() if isinstance(m, nn.Embedding)), None)
        if embeds is not None and next(model.parameters()) is embeds.weight:
            self.x = torch.randint(embeds.num_embeddings, input_shape, generator=generator)
        else:
            self.x = torch.randn(input_shape, generator=generator).to(dtype)
        self.x = self.x.to(device)

    def outputs(self, x: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The tensors among the model's outputs; TypeError without one."""
        before = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                result = self.model(self.x if x is None else x)
        finally:
            self.model.train(before)
        return tensors_of(result)


def tensors_of(result: Any) -> list[torch.Tensor]:
    """The tensors in a model's result. Raises TypeError when there is none."""
    found = list(_tensors(result))
    if not found:
        raise TypeError(f"the model returned no tensor but {type(result).__name__}")
    return found


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


def _largest_difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Largest |a - b| over the largest |b| of each tensor; infinite for other shapes or NaN."""
    if [t.shape for t in a] != [t.shape for t in b]:
        return float("inf")
    worst = 0.0
    for x, y in zip(a, b):
        if x.numel():
            size = max(float(y.abs().double().max()), 1e-30)
            difference = float((x.double() - y.double()).abs().max()) / size
            worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def model_checks(
    model: nn.Module, input_shape: tuple[int, ...], config: ValidationConfig
) -> list[Check]:
    """From those that cost a forward pass to those that copy the model into float64."""
    subject = _Subject(model, input_shape)
    level = ValidationLevel

    def parameters() -> Outcome:
        named = [*model.named_parameters(), *model.named_buffers()]
        bad = [n for n, t in named if t.is_floating_point() and not bool(t.isfinite().all())]
        if bad:
            return failed(f"not finite: {', '.join(bad[:5])}", names=bad)
        return passed(f"{len(named)} tensors, all finite", count=len(named))

    def forward() -> Outcome:
        shapes = [tuple(t.shape) for t in subject.outputs()]
        return passed(f"outputs of shape {shapes}", shapes=shapes)

    def finite() -> Outcome:
        bad = sum(int((~t.isfinite()).sum()) for t in subject.outputs() if t.is_floating_point())
        if bad:
            return failed(f"{bad} values of the outputs are infinite or NaN", count=bad)
        return passed("the outputs are finite")

    def repeats() -> Outcome:
        difference = _largest_difference(subject.outputs(), subject.outputs())
        if difference > 0:
            return failed(
                f"a second call differs by {difference:.2g} in evaluation mode: results cannot be "
                "checked or cached",
                difference=difference,
            )
        return passed("a second call gives the same")

    def rows() -> Outcome:
        whole = subject.outputs()
        x = subject.x
        if x.dim() < 2 or x.shape[0] < 2:
            x = torch.cat([x, x.flip(-1)]) if x.dim() > 1 else torch.stack([x, x])
            whole = subject.outputs(x)
        alone = subject.outputs(x[:1])
        if any(t.dim() == 0 or t.shape[0] != x.shape[0] for t in whole):
            return warned("the outputs have no row for each input: they were not compared")
        difference = _largest_difference(alone, [t[:1] for t in whole])
        bound = 1e-2 if x.is_floating_point() and x.dtype.itemsize < 4 else 1e-4
        if difference > bound:
            return failed(
                f"a row alone differs by {difference:.2g} from the same row in a batch",
                difference=difference,
            )
        return passed("a row does not depend on the others", difference=difference)

    def state() -> Outcome:
        twin = copy.deepcopy(model)
        twin.load_state_dict(model.state_dict())
        loaded = _Subject(twin, input_shape).outputs()
        difference = _largest_difference(loaded, subject.outputs())
        if difference > 0:
            return failed(
                f"with its state dict loaded again, the outputs differ by {difference:.2g}: "
                "something that matters is not in it",
                difference=difference,
            )
        return passed("the state dict holds the model")

    def memory() -> Outcome:
        device = subject.x.device
        used = (weight_bytes(model) + peak_bytes(subject.outputs, device)) / _GIB
        limit = config.memory_threshold_gb
        if used > limit:
            return failed(f"needs {used:.3g} GiB, more than {limit:g}", gib=used)
        return passed(f"needs {used:.3g} GiB of {limit:g}", gib=used)

    def gradients() -> Outcome:
        twin = copy.deepcopy(model)
        trainable = {n: p for n, p in twin.named_parameters() if p.requires_grad}
        if not trainable:
            return warned("no parameter asks for a gradient")
        outputs = [t for t in tensors_of(twin(subject.x)) if t.requires_grad]
        if not outputs:
            return failed("no output depends on a parameter")
        torch.stack([t.double().square().mean() for t in outputs]).sum().backward()
        bad = [
            n for n, p in trainable.items() if p.grad is not None and not p.grad.isfinite().all()
        ]
        if bad:
            return failed(f"gradients are not finite: {', '.join(bad[:5])}", names=bad)
        unused = [n for n, p in trainable.items() if p.grad is None]
        if unused:
            return warned(f"without a gradient: {', '.join(unused[:5])}", names=unused)
        return passed(f"{len(trainable)} parameters have finite gradients")

    def accuracy() -> Outcome:
        twin = copy.deepcopy(model).double()
        x = subject.x.double() if subject.x.is_floating_point() else subject.x
        exact = [t.double() for t in _outputs(twin, x)]
        got = [t.double() for t in subject.outputs()]
        cosine = min(
            float(nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))
            for a, b in zip(got, exact)
        )
        if not cosine >= config.accuracy_threshold:
            return failed(
                f"cosine {cosine:.6f} to the same model in float64, less than "
                f"{config.accuracy_threshold:g}",
                cosine=cosine,
            )
        return passed(f"cosine {cosine:.6f} to the same model in float64", cosine=cosine)

    return [
        Check(name="parameters", run=parameters),
        Check(name="forward", run=forward),
        Check(name="finite outputs", run=finite),
        Check(name="repeatable", run=repeats, level=level.STANDARD),
        Check(name="independent rows", run=rows, level=level.STANDARD),
        Check(name="state dict", run=state, level=level.STANDARD),
        Check(name="memory", run=memory, level=level.STRICT),
        Check(name="gradients", run=gradients, level=level.STRICT),
        Check(name="export", run=lambda: _export(subject), level=level.STRICT),
        Check(name="float64 accuracy", run=accuracy, level=level.COMPREHENSIVE),
    ]


def _outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return tensors_of(model.eval()(x))


def _export(subject: _Subject) -> Outcome:
    twin = copy.deepcopy(subject.model).eval()
    program = torch.export.export(twin, (subject.x,))
    exported = _outputs_of_program(program, subject.x)
    difference = _largest_difference(exported, subject.outputs())
    if difference > 1e-5:
        return failed(f"the exported program differs by {difference:.2g}", difference=difference)
    return passed("torch.export takes it, and gives the same", difference=difference)


def _outputs_of_program(program: Any, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return tensors_of(program.module()(x))


def export_checks(model: nn.Module, input_shape: tuple[int, ...]) -> list[Check]:
    """Whether the model can leave Python: as an exported program, whole and on disk."""
    subject = _Subject(model, input_shape)

    def saved() -> Outcome:
        import io

        buffer = io.BytesIO()
        twin = copy.deepcopy(model).eval()
        torch.export.save(torch.export.export(twin, (subject.x,)), buffer)
        buffer.seek(0)
        loaded = _outputs_of_program(torch.export.load(buffer), subject.x)
        difference = _largest_difference(loaded, subject.outputs())
        if difference > 1e-5:
            return failed(f"loaded again it differs by {difference:.2g}", difference=difference)
        return passed(f"{buffer.getbuffer().nbytes} bytes, and loaded again it gives the same")

    def tensors() -> Outcome:
        # safetensors holds every storage once, and no views into one.
        pointers: dict[int, str] = {}
        shared = []
        for name, t in model.state_dict().items():
            pointer = t.untyped_storage().data_ptr()
            if pointer and pointer in pointers:
                shared.append(f"{name} and {pointers[pointer]}")
            pointers[pointer] = name
        if shared:
            return warned(f"share memory, so one of each is written: {', '.join(shared[:5])}")
        return passed("every tensor of the state dict has its own memory")

    return [
        Check(name="export", run=lambda: _export(subject)),
        Check(name="saved program", run=saved, level=ValidationLevel.STANDARD),
        Check(name="safetensors", run=tensors, level=ValidationLevel.STANDARD),
    ]
