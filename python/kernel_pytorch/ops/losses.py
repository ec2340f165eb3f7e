"""What the cross entropies share: formulas in plain PyTorch, checks, inputs and refused calls.

Every function here takes the options of ``torch.ops.kpt.cross_entropy`` under their names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import is_fake

from kernel_pytorch.ops.activations import wide
from kernel_pytorch.ops.spec import Case, ErrorCase, Out

__all__ = [
    "FORMULA",
    "LINEAR_OPTIONS",
    "OPTIONS",
    "REDUCTIONS",
    "check_grad_loss",
    "check_options",
    "eager_loss",
    "eager_lse",
    "grad_logits",
    "grad_loss_errors",
    "linear_errors",
    "linear_inputs",
    "linear_tensors",
    "loss_and_lse",
    "loss_dtype",
    "make_targets",
    "option_errors",
    "reduced",
]

REDUCTIONS = ("none", "sum", "mean")
OPTIONS = (
    '*, int ignore_index=-100, float label_smoothing=0.0, float z_loss=0.0, str reduction="mean"'
)

FORMULA = """
With `x` a row of logits over `V` classes and `lse = log(sum_j exp(x[j]))`, the loss of a row is

    lse - (1 - label_smoothing) * x[target] - label_smoothing / V * sum_j x[j] + z_loss * lse^2

where the first terms are those of `torch.nn.functional.cross_entropy`, label smoothing included
(Szegedy et al. 2016), and the last is the auxiliary loss that keeps the normalizer near 1
(Chowdhery et al., "PaLM", 2022, section 5; 1e-4 there). Rows whose target is `ignore_index` have
loss 0. `reduction` `"mean"` divides the sum of the losses by the number of the other rows: NaN
when there is none, as in PyTorch. The sum over rows is taken in float64 in the order of the rows.
"""


def loss_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of losses and logsumexps: float32, of float64 inputs float64."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def reduced(x: torch.Tensor, reduction: str) -> Out:
    """The loss over the rows of ``x``, ``[N, ...]``."""
    return Out((x.shape[0],) if reduction == "none" else (), loss_dtype(x))


def check_options(op: str, label_smoothing: float, z_loss: float) -> None:
    """Raise ValueError unless both are in their range."""
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(
            f"{op}: argument 'label_smoothing' must be in [0, 1], got {label_smoothing}"
        )
    if not 0.0 <= z_loss < math.inf:
        raise ValueError(f"{op}: argument 'z_loss' must be finite and not negative, got {z_loss}")


def check_grad_loss(op: str, grad_loss: torch.Tensor, x: torch.Tensor, reduction: str) -> None:
    """Raise ValueError unless ``grad_loss`` has the shape of the loss over the rows of ``x``."""
    shape = x.shape[:1] if reduction == "none" else ()
    if tuple(grad_loss.shape) != tuple(shape):
        raise ValueError(
            f"{op}: argument 'grad_loss' must have shape {list(shape)} for reduction "
            f"'{reduction}', got {list(grad_loss.shape)}"
        )


def _kept(op: str, target: torch.Tensor, classes: int, ignore_index: int) -> torch.Tensor:
    """Which rows count. Raises ValueError for a target that is neither a class nor ignored."""
    kept = target != ignore_index
    if is_fake(target):  # traced for a second derivative: the first has looked at the values
        return kept
    bad = kept & ((target < 0) | (target >= classes))
    if bool(bad.any()):
        place = int(bad.nonzero()[0])
        raise ValueError(
            f"{op}: argument 'target' must hold classes in [0, {classes}) or ignore_index "
            f"{ignore_index}, got {int(target[place])} at position {place}"
        )
    return kept


def loss_and_lse(
    op: str,
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The formula, term by term; ``lse`` is 0 where the row is ignored."""
    kept = _kept(op, target, logits.shape[1], ignore_index)
    x = wide(logits)
    if x.shape[1] == 0:  # every row is ignored
        lse = loss = x.new_zeros(x.shape[0])
    else:
        # Not torch.logsumexp, which gives inf for a row with +inf, where cross_entropy gives NaN.
        most = x.amax(-1, keepdim=True).detach()
        lse = most[:, 0] + (x - most).exp().sum(-1).log()
        chosen = x.gather(1, torch.where(kept, target, 0)[:, None])[:, 0]
        loss = lse - (1.0 - label_smoothing) * chosen
        if label_smoothing != 0.0:
            loss = loss - label_smoothing * x.mean(-1)
        if z_loss != 0.0:
            loss = loss + z_loss * lse**2
        loss = torch.where(kept, loss, 0.0)
        lse = torch.where(kept, lse, 0.0)
    if reduction != "none":
        loss = loss.sum()
    if reduction == "mean":
        loss = loss / kept.sum()
    return loss, lse


def grad_logits(
    op: str,
    logits: torch.Tensor,
    target: torch.Tensor,
    lse: torch.Tensor,
    grad_loss: torch.Tensor,
    grad_lse: torch.Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> torch.Tensor:
    """What ``cross_entropy_backward`` states, in the dtype of the logits or wider."""
    classes = logits.shape[1]
    kept = _kept(op, target, classes, ignore_index)
    x = wide(logits)
    if classes == 0:
        return x
    grad = wide(grad_loss)
    if reduction == "mean":
        grad = grad / kept.sum()
    grad = grad.expand(x.shape[0])
    lse = wide(lse)
    slope = grad * (1.0 + 2.0 * z_loss * lse) + wide(grad_lse)
    result = slope[:, None] * (x - lse[:, None]).exp()
    if label_smoothing != 0.0:
        result = result - (grad * (label_smoothing / classes))[:, None]
    place = torch.where(kept, target, 0)[:, None]
    result = result.scatter_add(1, place, (-(1.0 - label_smoothing) * grad)[:, None])
    return torch.where(kept[:, None], result, 0.0)


def eager_lse(logits: torch.Tensor) -> torch.Tensor:
    """``logsumexp`` over the classes; zeros where there is no class."""
    if logits.shape[1] == 0:
        return logits.new_zeros(logits.shape[0])
    return torch.logsumexp(logits, dim=-1)


def eager_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> torch.Tensor:
    """``F.cross_entropy`` of the logits in float32, as users write for half precision too (in
    float16 the sum of label smoothing overflows), and the z-loss beside it where asked for."""
    logits = wide(logits)
    if logits.shape[1] == 0:  # which F.cross_entropy does not take
        return loss_and_lse(
            "eager", logits, target, ignore_index=ignore_index, reduction=reduction
        )[0]
    loss = F.cross_entropy(
        logits,
        target,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    if z_loss == 0.0:
        return loss
    kept = target != ignore_index
    extra = torch.where(kept, z_loss * eager_lse(logits) ** 2, 0.0)
    if reduction != "none":
        extra = extra.sum()
    return loss + (extra / kept.sum() if reduction == "mean" else extra)


def make_targets(case: Case, rows: int, classes: int, generator: torch.Generator) -> torch.Tensor:
    """Classes at random; ignored are all where there is no class or the case gives "all ignored",
    about a third where it gives "some ignored"."""
    ignored = case.options.get("ignore_index", -100)
    if classes == 0 or "all ignored" in case.given:
        return torch.full((rows,), ignored)
    target = torch.randint(0, classes, (rows,), generator=generator)
    if "some ignored" in case.given:
        some = torch.rand(rows, generator=generator) < 0.35
        some[:1] = False  # a mean over no rows is NaN
        target[some] = ignored
    return target


def option_errors(
    op: str, call: Callable[..., Callable[[Callable[..., Any]], Any]]
) -> tuple[ErrorCase, ...]:
    """Calls that every cross entropy refuses. ``call(**changes)`` gives the call of 3 rows over 5
    classes with its ``target`` or an option changed."""

    def target(*values: int) -> torch.Tensor:
        return torch.tensor(values)

    return (
        ErrorCase(
            name="target beyond the classes",
            call=call(target=target(0, 4, 5)),
            error=ValueError,
            match=rf"{op}: argument 'target' must hold classes in \[0, 5\) .*got 5 at position 2",
        ),
        ErrorCase(
            name="negative target",
            call=call(target=target(0, -1, 2)),
            error=ValueError,
            match=rf"{op}: argument 'target' must hold .* -100, got -1 at position 1",
        ),
        ErrorCase(
            name="default ignore_index where another is given",
            call=call(target=target(-100, 1, 2), ignore_index=-1),
            error=ValueError,
            match=rf"{op}: argument 'target' must hold .* -1, got -100 at position 0",
        ),
        ErrorCase(
            name="targets of another length",
            call=call(target=target(0, 1)),
            error=ValueError,
            match=f"{op}: argument 'target' must have size 3 for N",
        ),
        ErrorCase(
            name="class probabilities",
            call=call(target=torch.full((3, 5), 0.2)),
            error=ValueError,
            match=f"{op}: argument 'target' must have 1 dimensions",
        ),
        ErrorCase(
            name="int32 targets",
            call=call(target=target(0, 1, 2).int()),
            error=TypeError,
            match=f"{op}: argument 'target' must have dtype int64, got int32",
        ),
        *(
            ErrorCase(
                name=f"{option} {value}",
                call=call(**{option: value}),
                error=ValueError,
                match=f"{op}: argument '{option}' must be {what}, got {value}",
            )
            for option, what, values in (
                ("label_smoothing", r"in \[0, 1\]", (-0.1, 1.5, math.nan)),
                ("z_loss", "finite and not negative", (-1.0, math.inf, math.nan)),
            )
            for value in values
        ),
        ErrorCase(
            name="unknown reduction",
            call=call(reduction="batchmean"),
            error=ValueError,
            match=f"{op}: argument 'reduction' must be one of .*'mean', got 'batchmean'",
        ),
    )


def grad_loss_errors(
    op: str, call: Callable[..., Callable[[Callable[..., Any]], Any]]
) -> tuple[ErrorCase, ...]:
    """Calls that every backward of them refuses; ``call`` is as for :func:`option_errors`."""
    return (
        ErrorCase(
            name="a gradient for each row of a mean",
            call=call(grad_loss=torch.ones(3)),
            error=ValueError,
            match=rf"{op}: argument 'grad_loss' must have shape \[\] for .*'mean', got \[3\]",
        ),
        ErrorCase(
            name="one gradient for all rows apart",
            call=call(reduction="none"),
            error=ValueError,
            match=rf"{op}: argument 'grad_loss' must have shape \[3\] for .*'none', got \[\]",
        ),
        ErrorCase(
            name="grad_lse of another length",
            call=call(grad_lse=torch.ones(2)),
            error=ValueError,
            match=f"{op}: argument 'grad_lse' must have size 3 for N",
        ),
    )


LINEAR_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"reduction": "none"},
    {"reduction": "sum", "label_smoothing": 0.1},
    {"label_smoothing": 0.25, "z_loss": 1e-2},
    {"reduction": "none", "z_loss": 1e-3, "ignore_index": 0},
)


def linear_inputs(case: Case, dtype: torch.dtype, generator: torch.Generator) -> list[torch.Tensor]:
    """``hidden``, ``weight`` and ``target`` of a linear classifier; its logits are of order two."""
    rows, classes, dim = case.sizes["N"], case.sizes["V"], case.sizes["D"]
    hidden = torch.randn(rows, dim, generator=generator).to(dtype)
    weight = (2.0 * torch.randn(classes, dim, generator=generator) / max(1, dim) ** 0.5).to(dtype)
    return [hidden, weight, make_targets(case, rows, classes, generator)]


def linear_tensors() -> dict[str, torch.Tensor]:
    """What :func:`linear_errors` and :func:`option_errors` spoil for a linear classifier."""
    return {
        "hidden": torch.ones(3, 4),
        "weight": torch.ones(5, 4),
        "target": torch.tensor([0, 4, 2]),
    }


def linear_errors(
    op: str, call: Callable[..., Callable[[Callable[..., Any]], Any]]
) -> tuple[ErrorCase, ...]:
    """Calls that a linear classifier refuses; ``call`` changes one of :func:`linear_tensors`."""
    return (
        ErrorCase(
            name="other inner size",
            call=call(weight=torch.ones(5, 3)),
            error=ValueError,
            match=f"{op}: argument 'weight' must have size 4 for D",
        ),
        ErrorCase(
            name="hidden of three dimensions",
            call=call(hidden=torch.ones(1, 3, 4)),
            error=ValueError,
            match=f"{op}: argument 'hidden' must have 2 dimensions",
        ),
        ErrorCase(
            name="weight of another dtype",
            call=call(weight=torch.ones(5, 4).bfloat16()),
            error=TypeError,
            match=f"{op}: argument 'weight' must have dtype float32, got bfloat16",
        ),
        ErrorCase(
            name="weight transposed",
            call=call(weight=torch.ones(4, 5).t()),
            error=ValueError,
            match=f"{op}: argument 'weight' must have a dense last dimension",
        ),
    )
