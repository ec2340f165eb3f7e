"""Memory: counted while tensors live, protected before it is touched, pooled, laid out."""

import gc

import pytest
import torch
from torch import nn

from kernel_pytorch.backends import (
    ConfigurationError,
    CPUBackend,
    MemoryPoolError,
    OutOfMemoryError,
    system_memory,
)
from kernel_pytorch.backends.base_memory_manager import BaseMemoryStats, CPUMemoryManager

HUGE = (1024, 1024, 1024, 1024)


def test_tensors_count_while_they_live():
    manager = CPUMemoryManager()
    a, b = manager.allocate_tensor((1000,)), manager.allocate_tensor((10, 10), torch.float16)
    assert manager.base_stats().allocated_bytes == 4000 + 200
    assert not a.any() and b.dtype is torch.float16
    del a
    gc.collect()
    stats = manager.base_stats()
    assert (stats.allocated_bytes, stats.peak_allocated_bytes, stats.num_allocations) == (
        200,
        4200,
        2,
    )
    manager.reset_peak_memory()
    assert manager.base_stats().peak_allocated_bytes == 200
    assert manager.allocate_tensor((2,), requires_grad=True).requires_grad


def test_stats_in_other_units():
    stats = BaseMemoryStats(2**20, 2**21, 2**23, 2**22, 2**20, 1, 0)
    assert (stats.allocated_mb, stats.total_mb, stats.utilization) == (1.0, 8.0, 0.125)
    assert stats.to_dict()["free_mb"] == 4.0


def test_what_does_not_fit_is_refused_before_anything_is_touched():
    manager = CPUMemoryManager()
    with pytest.raises(OutOfMemoryError, match="bytes are needed") as caught:
        manager.allocate_with_oom_protection(HUGE)
    assert caught.value.required_bytes > caught.value.available_bytes
    with pytest.raises(OutOfMemoryError):
        CPUBackend().allocate_tensor((2**62 // 4,))
    assert manager.allocate_with_oom_protection((4, 4)).shape == (4, 4)


def test_protection_takes_the_margin_frees_and_looks_again(monkeypatch):
    manager = CPUMemoryManager()
    asked, cleared = [], []

    def check(required):
        asked.append(required)
        return len(asked) > 1

    monkeypatch.setattr(manager, "check_memory_available", check)
    monkeypatch.setattr(manager, "clear_pool", lambda: cleared.append(1))
    manager.allocate_with_oom_protection((100,), safety_margin=1.5)
    assert asked == [600.0, 600.0] and cleared == [1]


def test_an_allocation_that_fails_is_tried_again_without_pools(monkeypatch):
    manager = CPUMemoryManager()
    manager.return_to_pool(torch.zeros(8), "p")
    real, failures = torch.zeros, []

    def zeros(*args, **kwargs):
        if not failures:
            failures.append(1)
            raise RuntimeError("[enforce fail] not enough memory: you tried to allocate 8 bytes")
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "zeros", zeros)
    assert manager.allocate_tensor((4,)).shape == (4,)
    assert manager.get_pool_stats()["total_pools"] == 0


def test_pools():
    manager = CPUMemoryManager()
    first = manager.allocate_tensor((3, 4), pool_id="p")
    address = first.data_ptr()
    first.fill_(7.0)
    manager.return_to_pool(first, "p")
    assert manager.get_pool_stats("p") == {"tensor_count": 1, "total_bytes": 48}
    with pytest.raises(MemoryPoolError, match="returned before"):
        manager.return_to_pool(first, "p")
    with pytest.raises(MemoryPoolError, match="view of a larger"):
        manager.return_to_pool(torch.zeros(8)[:4], "p")
    again = manager.allocate_tensor((3, 4), pool_id="p")
    assert again.data_ptr() == address and not again.any()
    manager.return_to_pool(again, "p")
    assert manager.allocate_tensor((4, 3), pool_id="p").data_ptr() != address
    manager.clear_pool("p")
    assert manager.get_pool_stats("p")["tensor_count"] == 0
    manager.cleanup()


@pytest.mark.parametrize(
    ("shape", "dtype", "want"),
    [
        ((3, 5), torch.float32, (16, 16)),
        ((16, 32), torch.float32, (16, 32)),
        ((2, 17, 33), torch.bfloat16, (2, 32, 48)),
        ((3, 5), torch.int8, (32, 32)),
        ((5,), torch.float32, (5,)),
    ],
)
def test_layout_pads_with_zeros(shape, dtype, want):
    x = torch.ones(shape).to(dtype)
    got = CPUMemoryManager().optimize_tensor_layout(x)
    assert tuple(got.shape) == want and got.is_contiguous()
    assert got.sum() == x.sum()
    assert torch.equal(got[tuple(slice(n) for n in shape)], x)


def test_advice_on_a_model():
    found = CPUMemoryManager().optimize_model_memory(nn.Linear(7, 16))
    assert found["parameter_memory_mb"] == (7 * 16 + 16) * 4 / 2**20
    text = " ".join(found["recommendations"])
    assert "16 bits" in text and "multiple" in text and "gradients" in text


def test_bad_shapes_and_margins():
    manager = CPUMemoryManager()
    with pytest.raises(ConfigurationError, match="shape"):
        manager.allocate_tensor((2, -1))
    with pytest.raises(ConfigurationError, match="safety_margin"):
        manager.allocate_with_oom_protection((2,), safety_margin=0.5)
    assert manager.estimate_tensor_size((1024, 1024), torch.float32) == 4194304
    assert manager.estimate_tensor_size((0, 3), torch.float32) == 0


def test_a_container_s_limit_counts(tmp_path, monkeypatch):
    limit, usage, stat = tmp_path / "max", tmp_path / "current", tmp_path / "stat"
    monkeypatch.setattr(system_memory, "_GROUPS", ((str(limit), str(usage), str(stat)),))
    whole = system_memory.total_memory()
    limit.write_text("max\n")
    usage.write_text("1000\n")
    assert system_memory.total_memory() == whole > 0
    limit.write_text("1048576\n")
    stat.write_text("anon 5\ninactive_file 100\nactive_file 50\n")
    assert system_memory.total_memory() == 1048576
    assert system_memory.available_memory() == 1048576 - 1000 + 150
    assert not CPUMemoryManager().check_memory_available(2**21)
