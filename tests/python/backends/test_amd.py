"""AMD: told apart from NVIDIA, memory by purpose, streams and timing, the older optimizer."""

import gc

import pytest
import torch
from torch import nn

from kernel_pytorch.backends.amd import (
    AMDBackend,
    AMDMemoryManager,
    AMDOptimizer,
    HIPUtilities,
    amd_exceptions,
)
from kernel_pytorch.backends.amd.amd_optimizer import OptimizationResult
from kernel_pytorch.backends.base_types import OptimizationResult as TheOne
from kernel_pytorch.core.config import AMDArchitecture, AMDConfig, KernelPyTorchConfig

_NODE = "sys/class/kfd/kfd/topology/nodes/1"


@pytest.fixture
def mi300(machine, tmp_path):
    """A machine with one MI300X and a ROCm build of torch, as far as detection tells."""
    for path, text in {
        f"{_NODE}/properties": "simd_count 304\ngfx_target_version 90402\nunique_id 1\n",
        f"{_NODE}/mem_banks/0/properties": f"heap_type 1\nsize_in_bytes {192 << 30}\n",
    }.items():
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    machine(builds={"hip": "7.0"}, devices={"cuda": 1})


def test_without_a_gpu(bare):
    backend = AMDBackend(AMDConfig(architecture="cdna3"))
    assert backend.device.type == "cpu" and not backend.is_available
    assert backend.get_device_info().backend == "amd"
    assert backend.get_device_info_dict()["rocm_available"] is False
    assert backend.get_all_amd_devices() == []
    model = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.warns(RuntimeWarning, match="no AMD GPU"):
        assert backend.optimize_for_training(model, optimizer) == (model, optimizer)
    assert model.training
    with pytest.warns(RuntimeWarning, match="stays on the CPU"):
        backend.optimize_for_inference(model)
    assert not any(p.requires_grad for p in model.parameters())


def test_with_a_gpu(mi300):
    """ROCm's devices are torch's "cuda", and are AMD's."""
    from kernel_pytorch.backends import detect_best_backend
    from kernel_pytorch.backends.nvidia import NVIDIABackend

    backend = AMDBackend()
    assert backend.is_available and backend.device == torch.device("cuda", 0)
    info = backend.get_device_info()
    assert info.compute_capability == "gfx942" and info.total_memory_gb == 192.0
    (device,) = backend.get_all_amd_devices()
    assert device.architecture is AMDArchitecture.CDNA3 and device.matrix_cores_available
    assert not NVIDIABackend().is_available and detect_best_backend().value == "amd"


def test_a_whole_configuration_will_do(bare):
    config = KernelPyTorchConfig()
    assert AMDBackend(config).config is config.hardware.amd is AMDOptimizer(config).config


def test_optimizer_in_its_older_form(bare):
    optimizer = AMDOptimizer(AMDConfig(architecture="cdna3"))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2.0)
    x = torch.randn(1, 3, 6, 6)
    want = model(x)
    assert optimizer.optimize(model, "aggressive") is model
    # The batch normalization must not run twice (relative error 0.78).
    assert (model(x) - want).norm() / want.norm() < 1e-5
    summary = optimizer.get_optimization_summary()
    assert summary["architecture"] == "cdna3" and summary["fused_operations"] == 1
    assert summary["optimization_level"] == "balanced" and summary["matrix_cores_enabled"]
    assert OptimizationResult is TheOne
    with pytest.raises(amd_exceptions.AMDOptimizationError, match="level turbo: unknown"):
        optimizer.optimize(model, "turbo")


def test_memory_by_purpose(bare):
    manager = AMDMemoryManager(AMDConfig(), device_id=0)
    assert manager.device_id == 0 and manager._get_device().type == "cpu"
    weights = manager.allocate_tensor((1024,), purpose="weights")
    cache = manager.allocate_tensor((2, 8), torch.float16, purpose="cache")
    assert manager.get_allocation_summary() == {"weights": 4096, "cache": 32}
    stats = manager.get_amd_memory_stats()
    assert stats.num_allocations == 2 and stats.total_mb > 0 and stats.fragmentation_percent == 0.0
    manager.free_tensor(weights)
    assert weights.numel() == 0 and weights.untyped_storage().nbytes() == 0
    del cache
    gc.collect()
    assert manager.get_allocation_summary() == {"weights": 4096}
    manager.defragment()
    found = manager.get_memory_stats()
    assert found["defrag_count"] == 1 and found["num_frees"] == 1
    assert manager.get_free_memory_mb() <= manager.get_total_memory_mb()
    with pytest.raises(amd_exceptions.ROCmMemoryError, match="allocation: .* MB are needed"):
        manager.allocate_tensor((2**40,), purpose="too much")
    with pytest.raises(amd_exceptions.base.MemoryAllocationError, match="not allocated by"):
        manager.free_tensor(torch.zeros(2))
    manager.cleanup()


def test_streams_events_and_regions(bare):
    hip = HIPUtilities(AMDConfig(enable_profiling=True))
    stream = hip.create_stream("compute", priority=-1)
    assert hip.get_stream("compute") is stream and hip.get_stream("other") is None
    with hip.stream_context("compute") as inside:
        assert inside is stream
    with pytest.raises(KeyError, match="no stream 'other'; there are: compute"):
        hip.stream_context("other").__enter__()
    start, end = hip.create_event("start"), hip.create_event("end")
    with pytest.raises(amd_exceptions.AMDDeviceError, match="'start' not recorded"):
        start.elapsed_time(end)
    start.record(), end.record(), end.synchronize()
    assert start.elapsed_time(end) >= 0.0
    for name in ("a", "b", "a"):
        with hip.profile_region(name):
            torch.ones(8).sum()
    assert [r["name"] for r in hip.get_profiling_data()] == ["a", "b", "a"]
    summary = hip.get_profiling_summary()
    assert summary["total_regions"] == 3 and summary["regions"]["a"]["count"] == 2
    assert summary["regions"]["a"]["mean_ms"] * 2 == summary["regions"]["a"]["total_ms"]
    target = torch.zeros(3)
    hip.memory_copy_async(target, torch.ones(3), stream)
    assert target.sum() == 3
    assert hip.get_device_properties() == {
        "available": False,
        "reason": "this machine has no AMD GPU",
    }
    free, total = hip.get_memory_info()
    assert 0 < free <= total
    with hip.device_context(0) as device:
        assert device.type == "cpu"
    with pytest.raises(amd_exceptions.AMDDeviceError):
        hip.set_device(-1)
    hip.cleanup()
    assert not hip._streams and not hip._events and not hip.get_profiling_data()
    quiet = HIPUtilities(AMDConfig(enable_profiling=False))
    with quiet.profile_region("a"):
        pass
    assert quiet.get_profiling_data() == []


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("AMDBackendError", ("m",), "m"),
        ("ROCmNotAvailableError", ("m",), "amd is not available: m"),
        ("HIPCompilationError", ("k", "m"), "hipcc: kernel 'k': m"),
        ("ROCmMemoryError", ("op", 2.0, 1.0), "op: 2.0 MB are needed, 1.0 MB are free"),
        ("MatrixCoreError", ("op", "cdna", "m"), "matrix cores of cdna: op: m"),
        ("AMDOptimizationError", ("O9", "m"), "level O9: m"),
        ("HIPKernelError", ("k", 3, "m"), r"kernel 'k' \(error 3\): m"),
    ],
)
def test_errors(name, arguments, text):
    with pytest.raises(amd_exceptions.base.BackendError, match=text):
        raise getattr(amd_exceptions, name)(*arguments)
