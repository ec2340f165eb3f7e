"""The unified manager: one call, one kind of answer on every backend, and the way back."""

import copy

import pytest
import torch
from torch import nn

import kernel_pytorch
from kernel_pytorch.backends import OptimizationResult, get_backend
from kernel_pytorch.core.config import KernelPyTorchConfig
from kernel_pytorch.core.hardware_detector import HardwareDetector, HardwareType, Probe, using_probe
from kernel_pytorch.core.management import (
    HardwareManager,
    ManagerState,
    ManagerStateError,
    OptimizationManager,
    UnifiedManager,
    get_manager,
    optimize_with_unified_manager,
    reset_manager,
)
from kernel_pytorch.optimize.measure import Timing


class Bare(Probe):
    """This machine without accelerators."""

    def nvml(self):
        return None

    def torch_devices(self, kind):
        return 0

    def glob(self, pattern):
        return []


@pytest.fixture(autouse=True)
def _bare():
    torch.manual_seed(0)
    with using_probe(Bare()):
        yield
    reset_manager()


@pytest.fixture
def all_win(monkeypatch):
    monkeypatch.setattr(Timing, "wins", property(lambda self: True))
    monkeypatch.setattr(Timing, "loses", property(lambda self: False))
    monkeypatch.setattr("kernel_pytorch.optimize.session._GROUP_SECONDS", 1e-9)
    monkeypatch.setattr("kernel_pytorch.optimize.judge._MODEL_SECONDS", 1e-9)


def mlp():
    return nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 64))


def test_one_call_optimizes_for_real(all_win):
    """The model came back as the same unchanged object, with a list of what had not been done."""
    manager, model, x = UnifiedManager(), mlp(), torch.randn(8, 128)
    original = copy.deepcopy(model).eval()
    got = manager.auto_optimize(model, x, for_inference=True)
    assert got is model and not got.training
    with kernel_pytorch.explain() as calls, torch.no_grad():
        y = got(x)
    assert calls.calls and not calls.fallbacks
    assert "kernels_keep" in manager.last_result.optimizations_applied  # conservative on a CPU
    assert (y - original(x)).abs().max() < 1e-5
    assert manager.optimization_manager.get_applied_optimizations()[0] == "eval_mode"
    assert manager.revert(model).training
    with kernel_pytorch.explain() as calls:
        assert torch.equal(model.eval()(x), original(x))
    assert not calls.calls


@pytest.mark.parametrize("name", ["nvidia", "amd", "tpu", "intel", "cpu"])
@pytest.mark.parametrize("for_inference", [True, False])
def test_the_same_kind_of_answer_on_every_backend(name, for_inference):
    """One returned a tuple, one raised TypeError, two could not be reached."""
    manager = UnifiedManager()
    backend = get_backend(name, manager.config)
    manager.hardware_manager = HardwareManager(manager.config, backend)
    manager.optimization_manager = OptimizationManager(manager.config, backend)
    model, x = mlp(), torch.randn(8, 128)
    got = manager.auto_optimize(model, optimization_level="balanced", for_inference=for_inference)
    assert got is model and got.training is not for_inference
    assert got(x).shape == (8, 64) and got(x).dtype is torch.float32
    assert isinstance(manager.last_result, OptimizationResult)
    found = manager.get_optimization_recommendations(model)
    assert found["backend"] == name and isinstance(found["strategies"], list)


def test_optimize_takes_models_and_tensors():
    manager = UnifiedManager()
    model = mlp()
    assert manager.optimize(model, optimization_level="O0") is model and model.training
    moved = manager.optimize({"a": torch.ones(2)})
    assert moved["a"].device == manager.hardware_manager.context.device


def test_recommendations(all_win):
    manager, model = UnifiedManager(), mlp().eval()
    before = {n: p.clone() for n, p in model.named_parameters()}
    found = manager.get_optimization_recommendations()
    assert found["hardware_type"] == "cpu" and found["backend"] == "cpu"
    assert found["optimization_level"] == "conservative" and found["capabilities"] == []
    planned = manager.get_optimization_recommendations(model, torch.randn(4, 128))["plan"]
    assert planned["planned_only"] and planned["replacements"]
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    assert not any("forward" in m.__dict__ for m in model.modules())


def test_profile_and_status():
    manager = UnifiedManager()
    profile = manager.get_hardware_profile()
    assert profile.hardware_type is HardwareType.CPU and manager._hardware_profile is profile
    assert manager.get_hardware_profile() is profile
    assert manager.get_hardware_profile(force_redetect=True) is not profile
    assert isinstance(manager.hardware_detector, HardwareDetector)
    status = manager.get_status()
    assert status["optimization"]["state"] == "ready" and status["last_result"] is None
    assert manager.hardware_manager.get_memory_info()["total"] > 0
    assert manager.hardware_manager.get_distributed_info() is None
    available = manager.optimization_manager.get_available_optimizations()
    assert available["kernels_int8"] is True
    assert "int8" in manager.optimization_manager.get_precision_formats()


def test_lifecycle():
    manager, model = UnifiedManager(), mlp()
    manager.suspend_all()
    with pytest.raises(ManagerStateError, match="is suspended: call resume"):
        manager.auto_optimize(model)
    manager.resume_all()
    manager.auto_optimize(model)
    manager.shutdown_all()
    manager.resume_all()
    with pytest.raises(ManagerStateError, match="is shutdown: make a new one"):
        manager.optimize(torch.ones(2))


def test_failures_are_typed_and_leave_the_model():
    manager, model = UnifiedManager(), mlp()
    with pytest.raises(ValueError, match="'agressive'.*did you mean 'aggressive'"):
        manager.auto_optimize(model, optimization_level="agressive")
    assert manager.optimization_manager.context.state is ManagerState.ERROR
    with pytest.raises(TypeError, match="must be a torch.nn.Module, got int"):
        manager.auto_optimize(3)
    with pytest.raises(ValueError, match="sample_input"):
        manager.auto_optimize(model, "text")
    assert model.training
    manager.auto_optimize(model)
    assert manager.optimization_manager.context.state is ManagerState.READY


def test_infrastructure():
    manager, model = UnifiedManager(), mlp()
    manager.auto_optimize(model)
    nn.init.constant_(model[0].bias, float("inf"))
    with pytest.warns(UserWarning, match="not finite in 0.bias"):
        manager.auto_optimize(model)
    infrastructure = manager.infrastructure_manager
    assert [r["valid"] for r in infrastructure.get_validation_results()] == [True, False]
    infrastructure.clear_validation_results()
    assert infrastructure.get_validation_results() == []
    with pytest.warns(DeprecationWarning, match="old: gone soon; it goes with 1.0; use new"):
        infrastructure.register_deprecation("old", "gone soon", "1.0", "new")
    assert infrastructure.get_deprecations()["old"]["replacement"] == "new"


def test_the_shared_manager():
    first = get_manager()
    assert get_manager() is first
    model = mlp()
    assert optimize_with_unified_manager(model) is model
    config = KernelPyTorchConfig()
    assert get_manager(config).config is config and get_manager() is not first
    reset_manager()
    assert get_manager().config is not config
