"""Intel: torch's own XPU devices; IPEX is only detected; rules for kernels."""

from unittest import mock

import pytest
import torch
from torch import nn

from kernel_pytorch.backends import ConfigurationError, OptimizationLevel
from kernel_pytorch.backends import intel as package
from kernel_pytorch.backends.intel import (
    IntelBackend,
    IntelKernelOptimizer,
    IntelMemoryManager,
    IntelOptimizer,
    XPUDeviceManager,
    XPUOptimizations,
    intel_exceptions,
    is_ipex_available,
    is_xpu_available,
    xpu_utilities,
)
from kernel_pytorch.core.config import IntelConfig, KernelPyTorchConfig


@pytest.fixture
def arc(machine, tmp_path):
    """A machine with one Ponte Vecchio and an XPU build of torch, as far as detection tells."""
    for name, text in {"vendor": "0x8086", "device": "0x0bd5", "class": "0x038000"}.items():
        file = tmp_path / "root/sys/bus/pci/devices/0000:3a:00.0" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    machine(builds={"xpu": "20250301"}, devices={"xpu": 1})


def test_without_a_gpu(bare):
    config = KernelPyTorchConfig()
    backend = IntelBackend(config)
    assert backend.config is config and backend.device.type == "cpu" and backend.devices == []
    assert not backend.is_xpu_available and not is_xpu_available() and not package.XPU_AVAILABLE
    assert backend.get_device_info().backend == "intel"
    info = backend.get_device_info_dict()
    assert info["xpu_available"] is False and info["ipex_available"] is is_ipex_available()
    stats = backend.get_memory_stats()
    assert stats["allocated"] == 0 and stats["device"] == "cpu"
    assert "Intel XPU" in backend.get_memory_summary()
    model = nn.Linear(4, 4)
    with pytest.warns(RuntimeWarning, match="no Intel XPU"):
        assert backend.prepare_model(model) is model
    with pytest.warns(UserWarning, match="no model"):
        assert backend.prepare_model(None) is None
    assert IntelBackend(IntelConfig(device_id=0)).intel_config.device_id == 0
    assert backend.device_name == "CPU"


def test_with_a_gpu(arc):
    backend = IntelBackend()
    assert backend.device == torch.device("xpu", 0) and backend.is_xpu_available
    assert backend.intel_config.architecture.value == "pvc" and backend.is_data_center
    manager = XPUDeviceManager()
    assert manager.device_count == 1 and manager.get_device() == torch.device("xpu", 0)
    info = manager.get_device_info()
    assert info.device_type == "pvc" and info.supports_bf16 and info.supports_amx
    with pytest.raises(intel_exceptions.XPUDeviceError, match="xpu:3: there are 1 devices"):
        manager.get_device_info(3)
    with mock.patch("torch.xpu.synchronize") as wait:
        xpu_utilities.xpu_synchronize(0)
    wait.assert_called_once_with(0)


@pytest.mark.parametrize(
    ("architecture", "data_center", "consumer"),
    [
        ("pvc", True, False),
        ("dg2", False, True),
        ("integrated", False, True),
        ("auto", False, False),
    ],
)
def test_kinds(architecture, data_center, consumer):
    config = KernelPyTorchConfig()
    config.hardware.intel.architecture = architecture
    backend = IntelBackend(config)
    assert (backend.is_data_center, backend.is_consumer) == (data_center, consumer)
    assert backend.device_type == architecture
    assert backend.supports_bf16 == config.hardware.intel.allow_bf16
    assert backend.supports_amx == config.hardware.intel.enable_amx


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_optimizer(level, bare):
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), torch.randn(2, 8)
    want = model(x)
    optimized, result = IntelOptimizer(OptimizationLevel(level)).optimize(model, x)
    assert optimized is model and result.success and result.level.value == level
    assert level != "O0" or result.optimizations_applied == []
    assert torch.equal(model(x), want)


def test_kernel_rules():
    rules = IntelKernelOptimizer()
    assert rules.device_type == "auto"
    gemm = rules.get_optimal_gemm_config(512, 512, 512, torch.bfloat16)
    assert gemm["use_amx"] and gemm["tile_m"] == 32
    assert not rules.get_optimal_gemm_config(4, 4, 4)["use_amx"]
    assert rules.get_optimal_conv_config(8, 8, (3, 3))["algorithm"] == "winograd"
    assert rules.get_optimal_conv_config(8, 8, (1, 1))["algorithm"] == "gemm"
    assert rules.get_optimal_conv_config(8, 8, (3, 3), torch.int8)["algorithm"] == "direct"
    assert rules.get_optimal_attention_config(512, 64, 8)["algorithm"] == "fused"
    long = rules.get_optimal_attention_config(8192, 64, 8)
    assert long["algorithm"] == "chunked" and long["chunk_size"] == 1024
    with pytest.raises(ConfigurationError, match="'m' is 0"):
        rules.get_optimal_gemm_config(0, 1, 1)
    with pytest.raises(ConfigurationError, match="device_type"):
        IntelKernelOptimizer("cuda")


def test_memory(bare):
    manager = IntelMemoryManager(device_id=0)
    assert manager._device_id == 0 and manager.alignment == 64
    tensor = manager.allocate_tensor((4,), purpose="x")
    stats = manager.get_memory_stats()
    assert stats.allocated_bytes == 16 and 0 < stats.free_bytes <= stats.total_bytes
    assert "absent" in manager.get_memory_summary() and tensor.numel() == 4
    with pytest.raises(intel_exceptions.XPUOutOfMemoryError, match="xpu:0"):
        manager.allocate_with_oom_protection((2**44,))


def test_xpu_optimizations(bare):
    tools = XPUOptimizations()
    model = nn.Sequential(nn.Linear(4, 4))
    assert not tools.optimize_model_for_inference(model).training
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert tools.optimize_model_for_training(model, optimizer) == (model, optimizer)
    assert model.training
    with mock.patch("kernel_pytorch.backends.cpu.isa", return_value="avx2"):
        assert tools.get_optimal_dtype() is torch.float32
    with mock.patch("kernel_pytorch.backends.cpu.isa", return_value="amx"):
        assert tools.get_optimal_dtype() is torch.bfloat16
    with pytest.raises(intel_exceptions.XPUNotAvailableError, match="no Intel XPU"):
        XPUDeviceManager().get_device_info()
    xpu_utilities.xpu_empty_cache()
    assert xpu_utilities.get_xpu_device_count() == 0


def test_ipex_is_detected_and_not_needed(monkeypatch):
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: object() if "intel" in name else None
    )
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.8.10")
    assert is_ipex_available() and package.get_ipex_version() == "2.8.10" and package.IPEX_AVAILABLE


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (intel_exceptions.XPUNotAvailableError(), "Intel XPU is not available"),
        (intel_exceptions.IPEXNotInstalledError(), "IPEX.*pip install"),
        (intel_exceptions.OneDNNError("m", "conv"), "oneDNN: m"),
        (intel_exceptions.XPUDeviceError("m", 0), "xpu:0"),
        (intel_exceptions.XPUOutOfMemoryError(8, 4), "8 bytes are needed, 4 are free"),
        (intel_exceptions.AMXNotSupportedError(), "AMX"),
    ],
)
def test_errors(error, text):
    with pytest.raises(intel_exceptions.base.BackendError, match=text):
        raise error
    assert intel_exceptions.OneDNNError("m", "conv").operation == "conv"
    assert intel_exceptions.XPUOutOfMemoryError(8, 4).requested_bytes == 8
