"""Bad input is refused with the operator, the argument, what was expected and what came."""

import pytest
import torch

import kernel_pytorch
from tests.contract import harness
from tests.contract.refusals import call, good_call, refusals

SPECS = harness.specs()
IDS = [s.name for s in SPECS]
REFUSALS = {spec.name: list(refusals(spec)) for spec in SPECS}


@pytest.mark.parametrize(
    "refusal",
    [pytest.param(r, id=f"{name}-{r.name}") for name, found in REFUSALS.items() for r in found],
)
def test_refused(refusal):
    with pytest.raises(refusal.error, match=refusal.match):
        refusal.call()


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_counts(spec):
    """At least 20 refused inputs and 200 samples an operator, each of its own."""
    names = [r.name for r in REFUSALS[spec.name]]
    assert len(set(names)) == len(names) >= 20
    assert len(set(map(str, spec.cases))) == len(spec.cases)
    assert len(spec.cases) * len(spec.dtypes) >= 200


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_good_call_is_good(spec):
    """What the refused calls differ from in one thing is legal."""
    call(spec, good_call(spec))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_size_that_overflows(spec, device):
    """Expanded tensors may ask for any size: it is refused before anything is allocated."""
    bound = harness.map_tensors(lambda t: t.to(device), good_call(spec))
    first = bound[spec.tensor_arguments[0]]
    out = harness.outputs_of(call(spec, bound))[0]
    if (
        out.itemsize == 1
        or out.shape != first.shape
        or not spec.dims[spec.tensor_arguments[0]].startswith("...")
    ):
        pytest.skip("its outputs cannot outgrow what an expanded input may have")
    for name in spec.tensor_arguments:
        if bound[name] is not None and bound[name].shape == first.shape:
            row = bound[name].reshape(-1)[: first.shape[-1]]
            bound[name] = row.expand(2**62 // first.shape[-1], first.shape[-1])
    with pytest.raises(ValueError, match=f"{spec.name}: argument '.*' of shape .* bytes: at most"):
        call(spec, bound)


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_more_dimensions_than_kernels_take(spec):
    """The reference serves any rank, where the operator has leading dimensions."""
    bound = good_call(spec)
    if not spec.dims[spec.tensor_arguments[0]].startswith("..."):
        pytest.skip("its rank is fixed")
    want = harness.outputs_of(call(spec, bound))
    lead = spec.dims[spec.tensor_arguments[0]].split()[0]
    for name in spec.tensor_arguments:
        if bound[name] is not None and spec.dims.get(name, "").split()[:1] == [lead]:
            bound[name] = first_dims(bound[name], 9)
    with kernel_pytorch.explain() as calls:
        got = harness.outputs_of(call(spec, bound))
    assert ["more than 8 dimensions" in c.reason for c in calls] == [True]
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g.reshape(w.shape), w, equal_nan=True)


def first_dims(t, rank):
    return t.reshape((1,) * (rank - t.dim()) + tuple(t.shape))


@pytest.mark.parametrize("spec", SPECS, ids=IDS)
def test_native_refuses_too(spec):
    """The native functions check for themselves what Python cannot have promised."""
    native = harness.native_function(spec.name)
    bound = good_call(spec)
    values = list(bound.values())
    out = torch.empty(3)
    with pytest.raises((TypeError, ValueError)):
        native("not a tensor", *values)
    with pytest.raises((TypeError, ValueError)):
        native(out, *(["not a tensor"] * len(values)))
    with pytest.raises(TypeError):
        native()
