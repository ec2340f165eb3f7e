"""NVIDIA: detection at its seam, levels, memory in its older units, FP8 that computes in FP8."""

import copy
import io
from unittest import mock

import pytest
import torch
from torch import nn

import kernel_pytorch
from kernel_pytorch.backends import ConfigurationError, DeviceError, strategies
from kernel_pytorch.backends.nvidia import (
    CUDADeviceManager,
    CUDAOptimizations,
    CUDAUtilities,
    FlashAttention3,
    FP8Compiler,
    NVIDIABackend,
    NVIDIAMemoryManager,
    NVIDIAOptimizer,
    create_cuda_integration,
    create_flash_attention_3,
    nvidia_exceptions,
)
from kernel_pytorch.backends.nvidia.flash_attention_integration import FlashAttention3Optimizer
from kernel_pytorch.backends.strategies import Work
from kernel_pytorch.core.config import KernelPyTorchConfig, NVIDIAArchitecture, PrecisionFormat


def config(architecture):
    made = KernelPyTorchConfig()
    made.hardware.nvidia.architecture = architecture
    return made


def mlp():
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 16))


def test_without_a_gpu(bare):
    backend = NVIDIABackend()
    assert backend.device.type == "cpu" and not backend.is_cuda_available and backend.devices == []
    assert backend.compute_capability is None and backend.device_count == 0
    info = backend.get_device_info_dict()
    assert info["backend"] == "nvidia" and info["cuda_available"] is False
    assert {"allocated", "reserved"} <= backend.get_memory_stats().keys()
    assert backend.get_optimal_attention_kernel(64) is None
    model = mlp()
    with pytest.warns(RuntimeWarning, match="no NVIDIA GPU"):
        assert backend.prepare_model_with_custom_kernels(model) is model
    assert "forward" not in model[0].__dict__
    with pytest.raises(DeviceError, match="no NVIDIA GPU"):
        backend.set_device(1)
    assert backend.kernel_registry is kernel_pytorch.core.kernel_registry.KernelRegistry()


def test_with_gpus(two_gpus):
    backend = NVIDIABackend()
    assert backend.is_cuda_available and len(backend.devices) == 2
    assert backend.device == torch.device("cuda", 0) and backend.compute_capability == (9, 0)
    info = backend.get_device_info(1)
    assert (info.backend, info.device_type, info.device_id) == ("nvidia", "cuda", 1)
    assert info.compute_capability == "9.0" and info.total_memory_gb == 80.0
    assert info.driver_version == "580.1" and info.properties["architecture"] == "hopper"
    with pytest.raises(DeviceError, match="nvidia has 2 devices, 0 to 1"):
        backend.get_device_info(2)
    with mock.patch("torch.cuda.set_device") as chosen:
        backend.set_device(1)
    chosen.assert_called_once_with(1)
    assert backend.device == torch.device("cuda", 1)
    assert backend.get_optimal_attention_kernel(64, PrecisionFormat.BF16) is FlashAttention3
    assert backend.get_optimal_attention_kernel(300) is None
    assert backend.get_optimal_attention_kernel(64, PrecisionFormat.FP4) is None


def test_torch_patched_as_older_tests_do():
    properties = mock.MagicMock(major=9, minor=0, total_memory=80 << 30)
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.device_count", return_value=2),
        mock.patch("torch.cuda.get_device_properties", return_value=properties),
    ):
        backend = NVIDIABackend()
        assert backend.is_cuda_available and len(backend.devices) == 2
        assert backend.compute_capability == (9, 0)
        assert backend.get_device_info().total_memory_bytes == 80 << 30


@pytest.mark.parametrize(
    ("architecture", "fp8"),
    [("hopper", True), ("blackwell", True), ("ada", True), ("ampere", False), ("volta", False)],
)
def test_fp8_follows_the_architecture(architecture, fp8):
    """Ada has FP8 and is not Ampere."""
    chosen = NVIDIAArchitecture(architecture)
    backend = NVIDIABackend(config(chosen))
    assert backend.supports_fp8 is fp8 is FP8Compiler(config(chosen))._fp8_supported
    assert backend.is_h100 == (architecture == "hopper")
    assert backend.is_blackwell == (architecture == "blackwell")


def test_placement_on_a_device():
    """On a device of any kind ("meta" stands for one) parameters and buffers move, and back."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    work = Work(model=model, device=torch.device("meta"))
    assert strategies.DEVICE.apply(work) == strategies.DONE
    assert {t.device.type for t in [*model.parameters(), *model.buffers()]} == {"meta"}
    assert strategies.DEVICE.apply(work) is strategies.NOTHING


def test_placement_keeps_ties_and_the_optimizer():
    """Between some devices torch makes new parameters: none of them may be lost or doubled."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.state[model.embed.weight]["momentum_buffer"] = torch.zeros(5, 3)
    work = Work(model=model, device=torch.device("meta"), optimizer=optimizer)
    assert strategies.DEVICE.apply(work) == strategies.DONE
    assert model.embed.weight is model.head.weight and model.embed.weight.is_meta
    assert optimizer.param_groups[0]["params"] == [model.embed.weight]
    assert list(optimizer.state) == [model.embed.weight]


def test_process_wide_switches_are_put_back():
    model = nn.Sequential(nn.Conv2d(1, 1, 1))
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    work = Work(model=model, device=torch.device("cpu"))
    for strategy in (strategies.TF32, strategies.CUDNN_BENCHMARK, strategies.CHANNELS_LAST):
        assert strategy.apply(work) == strategies.DONE
        assert strategy.apply(work) in (strategies.NOTHING, strategies.DONE)
    assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.benchmark
    strategies.undo(work.undo)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark) == before


def test_a_model_that_does_not_compile_stays_usable(monkeypatch):
    model, x = mlp(), torch.randn(2, 64)
    want = model(x)
    monkeypatch.setattr(
        model, "compile", lambda **_: setattr(model, "_compiled_call_impl", lambda *a: 1 / 0)
    )
    work = Work(model=model, device=torch.device("cpu"), sample=(x,))
    assert strategies.COMPILE.apply(work) == "torch.compile failed: division by zero"
    assert torch.equal(model(x), want)


def test_optimizer_in_its_older_form(bare):
    optimizer = NVIDIAOptimizer()
    for level in ("conservative", "balanced", "aggressive"):
        result = optimizer.optimize_legacy(mlp(), torch.randn(2, 64), level)
        assert result.optimization_level == level and "train_mode" in result.optimizations_applied
        assert not result.device_info["cuda_available"]
    result = optimizer.optimize_for_inference_legacy(mlp())
    assert "eval_mode" in result.optimizations_applied and not result.optimized_model.training
    assert optimizer.optimize_for_training_legacy(mlp()).optimized_model.training
    unknown = optimizer.optimize_legacy(mlp(), None, "turbo")
    assert "unknown optimization level 'turbo'" in unknown.warnings[0]
    with pytest.raises(ConfigurationError, match="turbo"):
        optimizer.optimize(mlp(), "turbo")
    found = optimizer.get_optimization_recommendations(mlp())
    assert found["architecture"] == "none" and found["suggested_level"] == "conservative"


def test_recommendations_on_a_gpu(two_gpus):
    found = NVIDIAOptimizer().get_optimization_recommendations(mlp())
    assert (found["architecture"], found["suggested_level"]) == ("hopper", "aggressive")
    with pytest.raises(ConfigurationError, match="expected a cuda device"):
        NVIDIAOptimizer(device="xpu:0")


# Memory.


def test_memory_manager(bare, monkeypatch):
    manager = NVIDIAMemoryManager()
    assert not manager.check_memory_available(1.0)
    assert manager.get_memory_stats()["allocated_gb"] == 0.0
    sizes = [
        manager._estimate_tensor_size((1024, 1024), d)
        for d in (torch.float32, torch.float16, torch.int8)
    ]
    assert sizes == [4.0, 2.0, 1.0]
    with pytest.raises(nvidia_exceptions.OutOfMemoryError, match="Insufficient GPU memory"):
        manager.allocate_with_oom_protection((1024, 1024, 1024, 1024))
    asked, cleared = [], []
    monkeypatch.setattr(manager, "_estimate_tensor_size", lambda *_: 100.0)
    monkeypatch.setattr(
        manager, "check_memory_available", lambda mb: (asked.append(mb), len(asked) > 1)[1]
    )
    monkeypatch.setattr(manager, "clear_pool", lambda *_: cleared.append(1))
    manager.allocate_with_oom_protection((2, 2), safety_margin=1.5)
    assert asked == [150.0, 150.0] and cleared == [1]
    manager.enable_memory_efficient_mode(), manager.reset_peak_memory()


def test_memory_of_a_gpu(two_gpus):
    module = mock.MagicMock()
    module.mem_get_info.return_value = (10 << 20, 100 << 20)
    module.memory_reserved.return_value = 5 << 20
    module.memory_allocated.return_value = 3 << 20
    module.max_memory_allocated.return_value = 4 << 20
    with mock.patch("torch.get_device_module", return_value=module):
        backend = NVIDIABackend()
        manager = backend.memory_manager
        assert manager.available_bytes() == 12 << 20
        assert manager.check_memory_available(12.0) and not manager.check_memory_available(12.1)
        stats = backend.get_memory_stats()
        assert (stats["allocated"], stats["reserved"], stats["total"]) == (
            3 << 20,
            5 << 20,
            100 << 20,
        )
        backend.synchronize(), backend.empty_cache(), backend.reset_peak_memory_stats()
    module.synchronize.assert_called_once_with(torch.device("cuda", 0))
    module.empty_cache.assert_called_once_with()


# FP8.


def hopper():
    return FP8Compiler(config(NVIDIAArchitecture.HOPPER))


def test_fp8_layers_compute_in_fp8_with_the_right_values():
    """Values as of the dequantized factors, for inputs of two and three dimensions (they were too
    large by 1e10)."""
    model, compiler = mlp().eval(), hopper()
    result = compiler.compile_with_fp8(model, torch.randn(2, 64), for_inference=True)
    assert result.fp8_layers == {"0", "2"} and result.compilation_mode == "inference"
    stats = compiler.get_fp8_stats(model)
    assert (stats["total_layers"], stats["fp8_layers"]) == (2, 2)
    assert stats["fp8_bytes"] == 64 * 128 + 128 * 16 + 4 * (128 + 16)
    layer = nn.Linear(64, 32).eval()
    compiler.prepare_for_fp8(layer_in := nn.Sequential(layer), for_inference=True)
    for shape in ((5, 64), (2, 3, 64), (64,)):
        x = torch.randn(shape)
        with torch.no_grad(), kernel_pytorch.explain() as calls:
            got = layer_in(x)
        assert [c.op for c in calls] == ["quantize_fp8", "fp8_gemm"] and not calls.fallbacks
        q = torch.ops.kpt.quantize_fp8
        (xq, xs), (wq, ws) = (
            q(x.reshape(-1, 64), granularity="row"),
            q(layer.weight.detach(), granularity="row"),
        )
        want = (xq.double() * xs[:, None]) @ (wq.double() * ws[:, None]).T + layer.bias.double()
        assert (got.double().reshape(want.shape) - want).norm() / want.norm() < 1e-5
        exact = nn.functional.linear(x, layer.weight, layer.bias)
        assert (got - exact).norm() / exact.norm() < 0.08
    compiler.revert(layer_in)
    x = torch.randn(4, 64)
    assert torch.equal(layer_in(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_fp8_yields_to_gradients_training_and_new_weights():
    model, x = nn.Sequential(nn.Linear(64, 32)).eval(), torch.randn(4, 64)
    hopper().prepare_for_fp8(model, for_inference=True)
    exact = nn.functional.linear(x, model[0].weight, model[0].bias)
    assert torch.equal(model(x), exact)  # the weights ask for gradients
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    for other in (copy.deepcopy(model), torch.load(saved, weights_only=False)):
        assert torch.equal(other(x), exact)
    with torch.no_grad():
        assert not torch.equal(model(x), exact)
        model[0].weight.mul_(2.0)
        assert torch.equal(model(x), nn.functional.linear(x, model[0].weight, model[0].bias))


def test_fp8_says_what_it_does_not_do():
    model = mlp()
    assert FP8Compiler(config(NVIDIAArchitecture.AMPERE)).prepare_for_fp8(model, True) is model
    result = FP8Compiler(config(NVIDIAArchitecture.AMPERE)).compile_with_fp8(model, None, True)
    assert not result.fp8_layers and "no FP8" in result.warnings[0]
    with pytest.warns(DeprecationWarning, match="metadata-only"):
        assert hopper().prepare_for_fp8(model) is model
    assert "unchanged" in hopper().compile_with_fp8(model).warnings[0]
    with pytest.raises(nvidia_exceptions.FP8CompilationError, match="fails on the sample"):
        hopper().compile_with_fp8(model, torch.randn(2, 3), for_inference=True)
    assert "forward" not in model[0].__dict__


def test_speedups_are_bounds_or_measurements():
    model = nn.Sequential(nn.Linear(64, 64), nn.Embedding(64, 65)).eval()
    found = hopper().estimate_speedup(model)
    assert found["base_speedup"] == 2.0 and not found["measured"]
    assert found["estimated_speedup"] == pytest.approx(1.0 / 0.75)
    ampere = FP8Compiler(config(NVIDIAArchitecture.AMPERE)).estimate_speedup(model)
    assert ampere["estimated_speedup"] == ampere["base_speedup"] == 1.0


def test_measured_speedup_leaves_the_model_as_it_was(monkeypatch):
    monkeypatch.setattr("kernel_pytorch.backends.nvidia.fp8_compiler._SECONDS", 0.01)
    model, x = mlp(), torch.randn(2, 64)
    want = model(x)
    found = hopper().estimate_speedup(model, x)
    assert found["measured"] and found["interval"][0] <= found["estimated_speedup"]
    assert model.training and torch.equal(model(x), want)


# Attention by its older names.


def test_flash_attention_module():
    module = FlashAttention3(64, 4, causal=True).eval()
    x = torch.randn(2, 9, 64)
    out, weights = module(x)
    assert out.shape == x.shape and weights is None and module.causal
    # The last token must not reach the others (it changed them by 4.79).
    changed = x.clone()
    changed[:, -1] += 1.0
    assert torch.equal(module(changed)[0][:, :-1], out[:, :-1])
    assert module(x, return_attention_weights=True)[1].shape == (2, 4, 9, 9)
    assert not create_flash_attention_3(64, 4).causal
    with pytest.raises(ValueError, match="divisible"):
        FlashAttention3(65, 4)


@pytest.mark.parametrize("batch_first", [True, False])
def test_converted_attention_keeps_its_weights(batch_first):
    """Converting made new random weights."""
    model = nn.Sequential(nn.MultiheadAttention(64, 4, batch_first=batch_first)).eval()
    nn.init.normal_(model[0].in_proj_bias)
    x = torch.randn(2, 7, 64)
    want, want_weights = model[0](x, x, x)
    converted, count = FlashAttention3Optimizer().optimize_model(model)
    got, weights = converted[0](x, x, x)
    assert count == 1
    assert torch.allclose(got, want, atol=1e-5) and torch.allclose(weights, want_weights, atol=1e-5)
    with pytest.raises(nvidia_exceptions.FlashAttentionError, match="without masks"):
        converted[0](x, x, x, attn_mask=torch.zeros(7, 7))


# Utilities.


def test_cuda_utilities(bare):
    info = CUDAUtilities.get_cuda_env_info()
    assert info["cuda_available"] is False and info["reason"]
    timed = CUDAUtilities.profile_cuda_kernel(torch.ones, 4, num_iterations=3)
    assert timed["timer"] == "clock" and 0 < timed["min_ms"] <= timed["median_ms"]
    assert CUDAUtilities.get_gpu_utilization() == {
        "available": False,
        "reason": "this machine has no NVIDIA GPU",
    }
    flags = CUDAUtilities.optimize_cuda_flags(NVIDIAArchitecture.HOPPER)
    assert flags["-arch"] == "sm_90a"
    with pytest.raises(nvidia_exceptions.InvalidArchitectureError, match="expected one of pascal"):
        CUDAUtilities.optimize_cuda_flags(NVIDIAArchitecture.AUTO)
    manager, optimizations = create_cuda_integration()
    assert isinstance(manager, CUDADeviceManager) and isinstance(optimizations, CUDAOptimizations)
    assert manager.device.type == "cpu" and manager.device_count == 0 and manager.devices == []
    with pytest.raises(nvidia_exceptions.CUDADeviceError, match="no NVIDIA GPU"):
        manager.get_device_properties()
    manager.synchronize_all()
    model = mlp()
    assert optimizations.optimize_model_for_cuda(model) is model
    assert optimizations.get_cuda_optimization_config()["cuda_available"] is False


def test_cuda_devices(two_gpus):
    manager = CUDADeviceManager()
    assert manager.device_count == 2 and set(manager.get_all_device_properties()) == {0, 1}
    assert manager.get_device_properties(1)["device_name"] == "NVIDIA H100"
