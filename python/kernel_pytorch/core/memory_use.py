"""The memory that a call takes for tensors, counted and not guessed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["peak_bytes", "weight_bytes"]


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of parameters and buffers, each storage once."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in (*model.parameters(), *model.buffers())
        if t.device.type != "meta"
    }
    return sum(storages.values())


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The most bytes that results of operators held at once during one ``call``, beyond what there
    was before. On the CPU: of every operator's outputs, as long as they live (not what an operator
    uses inside itself); elsewhere: what the device's allocator counts."""
    if device.type == "cpu":
        with _Living() as living:
            call()
        return living.peak
    module = torch.get_device_module(device)
    module.synchronize(device)
    module.reset_peak_memory_stats(device)
    before = module.memory_allocated(device)
    call()
    module.synchronize(device)
    return max(0, int(module.max_memory_allocated(device)) - int(before))


class _Living(TorchDispatchMode):
    """Adds up the storages that operators make, and takes away those that are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {
            t.untyped_storage().data_ptr()
            for t in tree_leaves((args, kwargs))
            if isinstance(t, torch.Tensor) and t.layout == torch.strided
        }
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, torch.Tensor) and t.layout == torch.strided:
                self._add(t.untyped_storage(), known)
        return result

    def _add(self, storage: torch.UntypedStorage, known: set[int]) -> None:
        pointer, size = storage.data_ptr(), storage.nbytes()
        if size == 0 or pointer in known or pointer in self._seen:
            return
        self._seen.add(pointer)
        self.now += size
        self.peak = max(self.peak, self.now)

        def freed() -> None:
            self._seen.discard(pointer)
            self.now -= size

        weakref.finalize(storage, freed)
