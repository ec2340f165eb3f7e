"""What runs on this machine for an operator and a dtype, found by a call."""

from __future__ import annotations

from typing import NamedTuple

import torch

from kernel_pytorch.core.dispatch_log import explain
from kernel_pytorch.ops.spec import Case, OpSpec

__all__ = ["Ran", "what_runs"]


class Ran(NamedTuple):
    """The outcome of one call."""

    implementation: str
    """ "native" or "reference"."""
    variant: str
    """The native variant's name; "" for the reference."""
    reason: str
    """Why the reference ran; "" for native."""


def what_runs(spec: OpSpec, dtype: torch.dtype) -> Ran:
    """Calls the operator on the CPU with the first of its declared cases that holds data.

    Which variant runs can depend on sizes too: this is one case, a small one.
    """
    with torch.no_grad(), explain() as calls:
        args, kwargs = spec.build(_case(spec), dtype, torch.Generator().manual_seed(0))
        getattr(torch.ops.kpt, spec.name)(*args, **kwargs)
    last = [c for c in calls if c.op == spec.name][-1]
    return Ran(last.implementation, last.variant, last.reason)


def _case(spec: OpSpec) -> Case:
    def holds_data(case: Case) -> bool:
        return all((*case.sizes.values(), *case.lead))

    return next((c for c in spec.cases if holds_data(c)), spec.cases[0])
