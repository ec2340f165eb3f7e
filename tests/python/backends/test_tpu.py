"""TPU: honest without one, its compile cache on a stand-in runtime, pools, checkpoints."""

import gc

import pytest
import torch
from torch import nn

from kernel_pytorch.backends import ConfigurationError
from kernel_pytorch.backends.tpu import (
    TPUBackend,
    TPUMemoryManager,
    TPUOptimizer,
    XLACompiler,
    XLADistributedTraining,
    XLAUtilities,
    create_xla_integration,
    runtime,
    tpu_exceptions,
    xla_compat,
)
from kernel_pytorch.backends.tpu.cache_utils import LRUCache
from kernel_pytorch.core.config import KernelPyTorchConfig, TPUConfig


class EagerRuntime:
    """The CPU in a TPU's place; torch.compile's "eager" backend compiles nothing but its graph."""

    package = "torch_tpu"
    compile_backend = "eager"
    synced = 0

    def device(self, index):
        return torch.device("cpu")

    def device_count(self):
        return 1

    def sync(self):
        self.synced += 1

    def world_size(self):
        return 1

    def rank(self):
        return 0

    def rendezvous(self, tag):
        pass

    def memory(self, index):
        return 1 << 30, 16 << 30

    def hardware(self):
        return "TPU v5e"


@pytest.fixture
def stand_in(monkeypatch):
    found = EagerRuntime()
    monkeypatch.setattr(runtime, "absent", lambda: "")
    monkeypatch.setattr(runtime, "runtime", lambda: found)
    return found


def mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.fixture(autouse=True)
def _no_absence_warnings(recwarn):
    yield


def test_without_a_tpu(bare):
    backend = TPUBackend()
    assert backend.device.type == "cpu" and backend.world_size == 1 and backend.rank == 0
    assert not backend.is_distributed and backend.device_count == 0
    model, x = mlp(), torch.randn(2, 8)
    want = model(x)
    backend.prepare_model(model, "O2")
    # Weights keep their dtype: a float32 input works (they were bf16, and it did not).
    assert all(p.dtype is torch.float32 for p in model.parameters())
    assert torch.equal(model(backend.prepare_data(x)), want)
    assert set(backend.prepare_data({"a": x})) == {"a"}
    stats = backend.get_memory_stats()
    assert stats["world_size"] == 1 and stats["rank"] == 0 and stats["device"] == "cpu"
    assert not xla_compat.is_xla_available() and xla_compat.get_device_hw_type() == "CPU"
    assert xla_compat.get_world_size() == 1 and xla_compat.get_ordinal() == 0
    assert xla_compat.get_torch_compile_backend() is None and xla_compat.get_device_count() == 0
    xla_compat.sync(), xla_compat.rendezvous("tag")
    with pytest.raises(tpu_exceptions.TPUNotAvailableError, match="this machine has no TPU"):
        xla_compat.get_xla_device()


def test_a_tpu_without_a_package_says_how_to_get_one(machine, monkeypatch, tmp_path):
    for path, text in {"vendor": "0x1ae0", "device": "0x0063", "class": "0x120000"}.items():
        file = tmp_path / "root/sys/bus/pci/devices/0000:00:05.0" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    machine()
    monkeypatch.setattr(runtime, "installed_package", lambda: "")
    assert "pip install torch-tpu" in runtime.absent()
    assert not TPUBackend().is_available


def test_prepared_models_are_remembered_by_themselves(bare):
    """An id alone is not a model: a new one at the same address is prepared anew."""
    config = KernelPyTorchConfig()
    config.hardware.tpu.cache_max_size = 2
    backend = TPUBackend(config)
    model = mlp()
    backend.prepare_model(model)
    first = backend.last_result
    backend.prepare_model(model)
    assert backend._model_cache.get_stats()["hits"] == 1
    assert backend.last_result.optimizations_applied == first.optimizations_applied
    del model, first
    backend.last_result = None
    gc.collect()
    for _ in range(6):
        backend.prepare_model(mlp())
    stats = backend._model_cache.get_stats()
    assert stats["size"] == 2 and stats["evictions"] >= 4
    backend.clear_cache()
    assert len(backend._model_cache) == 0


def test_compile_cache(stand_in):
    compiler = XLACompiler(TPUConfig(cache_max_size=2))
    model, x = mlp().eval(), torch.randn(3, 8)
    compiled = compiler.compile_model(model, x)
    assert torch.equal(compiled(x), model(x)) and stand_in.synced == 1
    assert compiler.compile_model(model, x) is compiled
    assert compiler.compile_model(model, torch.randn(5, 8)) is not compiled
    stats = compiler.get_compilation_stats()
    assert stats["total_compilations"] == 2 and stats["cache_max_size"] == 2
    assert stats["compilation_cache"]["hits"] == 1 and stats["xla_available"]
    compiler.compile_model(mlp(), x)
    assert compiler.get_compilation_stats()["compilation_cache"]["evictions"] == 1
    assert compiler.optimize_for_training(model, x) is not compiled and model.training
    with pytest.raises(tpu_exceptions.XLACompilationError, match="Sequential"):
        compiler.compile_model(model, torch.randn(3, 5))
    timed = compiler.benchmark_compilation(model, x, 2)
    assert timed["compiled"] and 0 < timed["min_time"] <= timed["avg_time"]
    compiler.clear_cache()
    torch.compiler.reset()


def test_slow_compilation_is_a_typed_error(stand_in, monkeypatch):
    compiler = XLACompiler(TPUConfig(compilation_timeout_seconds=1))
    ticks = iter(range(0, 1000, 5))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    with pytest.raises(tpu_exceptions.XLACompilationTimeoutError, match="Sequential: 5 s"):
        compiler._first_call(lambda x: x, mlp(), (torch.randn(1, 8),))


def test_nothing_is_compiled_without_a_tpu(bare):
    compiler, model, x = XLACompiler(TPUConfig()), mlp(), torch.randn(2, 8)
    with pytest.warns(RuntimeWarning, match="nothing is compiled: this machine has no TPU"):
        assert compiler.compile_model(model, x) is model
    stats = compiler.get_compilation_stats()
    assert stats["total_compilations"] == 0 and not stats["xla_available"]
    assert compiler.benchmark_compilation(model, x)["compiled"] is False


def test_optimizer(bare):
    optimizer = TPUOptimizer()
    model, x = mlp(), torch.randn(2, 8)
    result = optimizer.optimize(model, x, "balanced")
    assert result.optimized_model is model and result.optimization_time > 0
    assert result.performance_metrics["latency_ms"] > 0
    assert any("no TPU" in w for w in result.warnings)
    assert not optimizer.optimize_for_inference(model, x).optimized_model.training
    assert optimizer.optimize_for_training(model, x).optimized_model.training
    assert optimizer.get_optimization_stats()["total_optimizations"] == 3
    with pytest.raises(ValueError, match="Unknown optimization level"):
        optimizer._apply_optimization_level(model, "invalid")
    with pytest.raises(ValueError, match="'invalid'"):
        optimizer.optimize(model, x, "invalid")
    optimizer.clear_cache()


def test_strict_validation(bare):
    config = KernelPyTorchConfig()
    config.hardware.tpu.enable_strict_validation = True
    with pytest.raises(tpu_exceptions.TPUValidationError, match="sample inputs: the model fails"):
        TPUOptimizer(config).optimize(mlp(), torch.randn(2, 5))
    broken = mlp()
    nn.init.constant_(broken[0].weight, float("nan"))
    with pytest.raises(tpu_exceptions.TPUValidationError, match="not finite"):
        TPUOptimizer(config).optimize(broken, torch.randn(2, 8))
    relaxed = TPUOptimizer().optimize(mlp(), torch.randn(2, 5))
    assert "sample_error" in relaxed.performance_metrics


def test_memory_pools(bare):
    manager = TPUMemoryManager(TPUConfig(version="v6e", v6e_memory_gb=31.0))
    assert manager._get_tpu_memory_gb() == 31.0
    assert TPUMemoryManager(TPUConfig(version="v5e"))._get_tpu_memory_gb() == 16.0
    pool = manager.create_memory_pool(2, (3, 4))
    first, second = manager.get_tensor_from_pool(pool), manager.get_tensor_from_pool(pool)
    assert first.shape == (3, 4) and first.data_ptr() != second.data_ptr()
    assert manager.get_tensor_from_pool(pool) is None
    assert manager.return_tensor_to_pool(pool, first) is True
    assert manager.return_tensor_to_pool(pool, torch.zeros(5)) is False
    assert manager.return_tensor_to_pool("other", second) is False
    stats = manager.get_pool_stats()
    assert stats["total_pools"] == 1 and stats["pool_details"][pool]["tensor_count"] == 1
    with pytest.raises(tpu_exceptions.TPUMemoryPoolError, match="no such pool; there are: pool_0"):
        manager.get_tensor_from_pool("other")
    with pytest.raises(ConfigurationError, match="pool_size"):
        manager.create_memory_pool(0, (2,))
    kept = [manager.allocate_tensor((4,)) for _ in range(3)]
    assert len(manager._allocation_history) == 5 and len(kept) == 3
    found = manager.get_memory_stats()
    assert found.active_tensors == 5 and found.memory_fraction == 0.95
    assert manager.optimize_tensor_layout(torch.ones(3, 5)).shape == (8, 8)
    assert len(manager.monitor_memory(0.01, 0.03)) >= 2
    with pytest.raises(tpu_exceptions.TPUOutOfMemoryError):
        manager.allocate_with_oom_protection((2**40,))
    manager.optimize_memory_usage()
    assert manager.get_pool_stats()["total_pools"] == 0


def test_memory_of_a_tpu(stand_in):
    manager = TPUMemoryManager(TPUConfig(version="v5e"))
    assert manager.available_bytes() == int((16 << 30) * 0.9) - (1 << 30)
    assert manager.base_stats().allocated_bytes == 1 << 30


def test_checkpoints(bare, tmp_path):
    backend, model = TPUBackend(), mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 8)).sum().backward()
    optimizer.step()
    file = tmp_path / "deep" / "model.pt"
    backend.save_model(model, file, save_optimizer=True, optimizer=optimizer)
    other = mlp()
    other_optimizer = torch.optim.AdamW(other.parameters())
    backend.load_model(other, file, load_optimizer=True, optimizer=other_optimizer)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters()))
    assert other_optimizer.state_dict()["state"][0]["step"] == 1
    assert [p.name for p in file.parent.iterdir()] == ["model.pt"]
    file.write_bytes(b"garbage")
    with pytest.raises(tpu_exceptions.TPUCheckpointError, match="load .*model.pt"):
        backend.load_model(other, file)
    with pytest.raises(tpu_exceptions.TPUCheckpointError, match="FileNotFoundError"):
        backend.load_model(other, tmp_path / "none.pt")
    with pytest.raises(tpu_exceptions.TPUCheckpointError, match="without an optimizer"):
        backend.save_model(model, file, save_optimizer=True)


def test_checkpoints_run_no_code(bare, tmp_path):
    torch.save({"model_state_dict": nn.Linear(1, 1)}, tmp_path / "m.pt")
    with pytest.raises(tpu_exceptions.TPUCheckpointError):
        TPUBackend().load_model(nn.Linear(1, 1), tmp_path / "m.pt")


def test_integration(bare):
    manager, training, optimizations = create_xla_integration(TPUConfig())
    assert manager.device.type == "cpu" and manager.world_size == 1 and len(manager.devices) == 1
    assert manager.get_device_stats()["reason"] == "this machine has no TPU"
    with pytest.raises(tpu_exceptions.TPUDeviceError, match="there are 1 devices"):
        manager.set_device(1)
    assert isinstance(training, XLADistributedTraining) and not training.is_distributed
    x = torch.arange(3.0)
    for op in ("sum", "mean", "max", "min"):
        assert torch.equal(training.all_reduce(x, op), x)
    assert torch.equal(training.all_gather(x)[0], x)
    with pytest.raises(tpu_exceptions.TPUDistributedError, match="expected one of sum, max"):
        training.all_reduce(x, "product")
    training.barrier()
    model = mlp()
    assert training.wrap_model(model) is model
    assert optimizations.optimize_model_for_xla(model) is model
    info = XLAUtilities.get_xla_env_info()
    assert info["xla_available"] is False and info["reason"]
    timed = XLAUtilities.profile_xla_compilation(model, torch.randn(1, 8))
    assert timed["device"] == "cpu" and timed["first_call_s"] > 0
    assert "aten.linear" in XLAUtilities.debug_xla_graph(model, torch.randn(1, 8))
    assert LRUCache(1).get_stats()["hit_rate"] == 0.0


def test_one_tree_of_errors():
    e = tpu_exceptions
    for error in (e.TPUNotAvailableError, e.XLACompilationError, e.TPUMemoryError):
        assert issubclass(error, e.TPUBackendError)
    assert issubclass(e.TPUOutOfMemoryError, e.TPUMemoryError)
    assert e.TPUOutOfMemoryError(10, 1).required_bytes == 10
