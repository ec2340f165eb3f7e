"""Bad input is refused with the operator, the argument, what was expected and what came."""

import pytest
import torch

from kernel_pytorch.ops.validate import bind
from tests.contract import harness

SPECS = harness.specs()
IDS = [s.name for s in SPECS]

DECLARED = [
    pytest.param(spec, error, id=f"{spec.name}-{error.name}")
    for spec in SPECS
    for error in spec.error_cases
]


@pytest.mark.parametrize(("spec", "error"), DECLARED)
def test_declared_error(spec, error):
    with pytest.raises(error.error, match=error.match):
        error.call(harness.op_of(spec))


def _good_call(spec):
    """A call that gives every optional tensor it can, with sizes above one."""
    case = max(
        harness.served_cases(spec),
        key=lambda c: (len(c.given), min([2, *c.lead, *c.sizes.values()]), -sum(c.sizes.values())),
    )
    args, kwargs = harness.inputs(spec, case, torch.float32)
    return bind(spec, tuple(args), kwargs)


def _call(spec, bound):
    names = spec.arguments
    args = [bound[a.name] for a in names if not a.kwarg_only]
    kwargs = {a.name: bound[a.name] for a in names if a.kwarg_only}
    return harness.op_of(spec)(*args, **kwargs)


def _tensors(spec, bound):
    return [n for n in spec.tensor_arguments if bound[n] is not None]


def _misaligned(t):
    raw = torch.zeros(t.numel() * t.element_size() + 1, dtype=torch.uint8)
    import numpy as np

    return torch.from_numpy(np.frombuffer(raw.numpy()[1:].data, dtype=np.float32)).view(t.shape)


WRONG = {
    # name -> (how to spoil one tensor, expected error)
    "complex dtype": (lambda t: t.to(torch.complex64), TypeError),
    "integer dtype": (lambda t: t.to(torch.int32), TypeError),
    "rank 9": (lambda t: t.reshape((1,) * (9 - t.dim()) + tuple(t.shape)), (ValueError,)),
    "meta device": (lambda t: t.to("meta"), (ValueError, TypeError)),
    "sparse": (lambda t: t.to_sparse(), TypeError),
    "one more in the last dim": (
        lambda t: torch.cat([t, t[..., :1]], dim=-1) if t.dim() else t.reshape(1, 1),
        ValueError,
    ),
    "last dim not dense": (
        lambda t: torch.stack([t, t], dim=-1)[..., 0] if t.dim() and t.shape[-1] > 1 else None,
        ValueError,
    ),
    "misaligned": (lambda t: _misaligned(t) if t.dtype == torch.float32 else None, ValueError),
}


def _is_fixed_elsewhere(spec, name, names):
    """Whether another of the given tensors fixes the size of this one's last dimension."""
    last = spec.dims.get(name, "").split()[-1:]
    return any(last[0] in spec.dims.get(n, "").split() for n in names if n != name and last)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_spoiled_tensor(spec, wrong):
    """Each tensor argument in turn is spoiled; nothing is computed, the message names the op."""
    spoil, error = WRONG[wrong]
    refused = 0
    names = _tensors(spec, _good_call(spec))
    for name in names:
        bound = _good_call(spec)
        spoiled = spoil(bound[name])
        if spoiled is None:
            continue
        if wrong == "one more in the last dim" and not _is_fixed_elsewhere(spec, name, names):
            continue
        if wrong in ("last dim not dense", "misaligned") and name not in spec.dims:
            continue  # arguments without declared dims may have any layout
        if wrong == "meta device" and len(names) == 1:
            continue  # a meta tensor alone is a legal call
        bound[name] = spoiled
        with pytest.raises(error, match=spec.name):
            _call(spec, bound)
        refused += 1
    if not refused:
        pytest.skip("this mistake cannot be made with this operator")


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if s.choices], ids=[s.name for s in SPECS if s.choices]
)
def test_unknown_choice(spec):
    for name, choices in spec.choices.items():
        for value in ("", "GELU", "nonsense", "none "):
            bound = _good_call(spec)
            bound[name] = value
            if value in choices:
                continue
            with pytest.raises(ValueError, match=f"{spec.name}: argument '{name}' must be one of"):
                _call(spec, bound)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_rank_too_low(spec):
    for name in _tensors(spec, _good_call(spec)):
        bound = _good_call(spec)
        fixed = [t for t in spec.dims.get(name, "...").split() if not t.startswith("...")]
        if not fixed:
            continue
        bound[name] = torch.ones((), dtype=bound[name].dtype)
        with pytest.raises(ValueError, match=f"{spec.name}: argument '{name}' must have"):
            _call(spec, bound)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_native_refuses_too(spec):
    """The native functions check for themselves what Python cannot have promised."""
    native = harness.native_function(spec.name)
    bound = _good_call(spec)
    values = list(bound.values())
    out = torch.empty(3)
    with pytest.raises((TypeError, ValueError)):
        native("not a tensor", *values)
    with pytest.raises((TypeError, ValueError)):
        native(out, *(["not a tensor"] * len(values)))
    with pytest.raises(TypeError):
        native()
