"""Levels, strategies and the CPU backend: what is listed was done, and can be undone."""

import builtins
import copy
import pickle

import pytest
import torch
from torch import nn

import kernel_pytorch
from kernel_pytorch import backends
from kernel_pytorch.backends import (
    BackendError,
    BackendFactory,
    BackendType,
    ConfigurationError,
    CPUBackend,
    CPUOptimizer,
    DeviceError,
    DeviceInfo,
    OptimizationError,
    OptimizationLevel,
    OptimizationResult,
    OptimizationStrategy,
    base_exceptions,
    strategies,
)
from kernel_pytorch.backends.base_optimizer import is_optimized, revert
from kernel_pytorch.backends.linear_activation import fuse_linear_activation

LEVELS = ("O0", "O1", "O2", "O3")


class ConvNet(nn.Module):
    """Two convolutions with batch normalization, of which one is read twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.side = nn.Conv2d(8, 8, 1)
        self.side_bn = nn.BatchNorm2d(8)
        for bn in (self.bn, self.side_bn):
            nn.init.normal_(bn.weight)
            nn.init.normal_(bn.bias)
            bn.running_mean.normal_()
            bn.running_var.uniform_(0.5, 2.0)

    def forward(self, x):
        y = self.bn(self.conv(x)).relu()
        z = self.side(y)
        return self.side_bn(z) + z


def mlp():
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 16))


def bits(state):
    return {name: value.clone() for name, value in state.items()}


def assert_same(before, after):
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)


# Words.


def test_device_info():
    info = DeviceInfo("nvidia", "cuda", 1, "H100", total_memory_bytes=3 * 2**29)
    assert (info.total_memory_gb, info.total_memory_mb) == (1.5, 1536.0)
    assert info.to_dict()["total_memory_gb"] == 1.5 and info.is_available


def test_result_takes_words_and_gives_data():
    result = OptimizationResult(True, nn.Linear(1, 1), "balanced")
    assert result.level is OptimizationLevel.O2 and result.to_dict()["level"] == "O2"
    assert result.optimization_level == "balanced"


def test_no_strategy_claims_a_speedup():
    """Speed-ups that were constants are gone: what is not measured is not said."""
    for name in ("cpu", "nvidia"):
        for strategy in backends.get_optimizer(name).get_available_strategies():
            assert strategy.speedup_estimate == 1.0 and strategy.apply is not None
            assert strategy.description and strategy.applicable_levels
    assert not OptimizationStrategy("x", "y", [OptimizationLevel.O3]).is_applicable(
        OptimizationLevel.O1
    )


def test_levels_grow():
    optimizer = CPUOptimizer()
    names = [
        {s.name for s in optimizer.get_strategies_for_level(level) if "kernels" not in s.name}
        for level in OptimizationLevel
    ]
    assert all(names[i] <= names[i + 1] for i in range(3))
    kernels = [
        [s.name for s in optimizer.get_strategies_for_level(level) if "kernels" in s.name]
        for level in OptimizationLevel
    ]
    assert kernels == [[], ["kernels_keep"], ["kernels_bf16"], ["kernels_int8"]]


@pytest.mark.parametrize("name", base_exceptions.__all__)
def test_one_tree_of_errors(name):
    error = getattr(base_exceptions, name)
    if isinstance(error, type):
        assert issubclass(error, BackendError)
        assert issubclass(BackendError, kernel_pytorch.core.errors.KernelPyTorchError)


def test_errors_are_python_s_own_too_and_survive_pickling():
    out = backends.OutOfMemoryError(100, 10, "cuda:0")
    assert isinstance(out, builtins.MemoryError) and "100 bytes" in str(out)
    again = pickle.loads(pickle.dumps(out))
    assert again.required_bytes == 100 and str(again) == str(out)
    assert isinstance(backends.ConfigurationError("a", 1, "b"), ValueError)
    error = backends.KernelCompilationError("k", "nvcc", "line 1")
    assert "k" in str(error) and error.details["kernel_name"] == "k"
    with pytest.warns(UserWarning, match="careful"):
        backends.raise_or_warn("careful")
    with pytest.raises(BackendError, match="careful"):
        backends.raise_or_warn("careful", strict_mode=True)


# What a level does.


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_listed_was_done_and_revert_undoes_it(level, all_win):
    model = mlp()
    before = bits(model.state_dict())
    x = torch.randn(8, 64)
    want = copy.deepcopy(model).eval()(x)
    backend = CPUBackend()
    assert backend.optimize_for_inference(model, x, optimization_level=level) is model
    result = backend.last_result
    assert result.success and result.level.value == level and not model.training
    done = result.optimizations_applied
    assert ("frozen_parameters" in done) == (not any(p.requires_grad for p in model.parameters()))
    policies = {"O1": "keep", "O2": "bf16", "O3": "int8"}
    with kernel_pytorch.explain() as calls:
        got = model(x)
    if level == "O0":
        assert done == ["eval_mode"] and torch.equal(got, want) and not calls.calls
    else:
        # Native kernels really ran, outside torch.no_grad() too.
        assert f"kernels_{policies[level]}" in done
        assert calls.calls and not calls.fallbacks
        measured = result.metrics[f"kernels_{policies[level]}"]
        assert measured["replaced_modules"] > 0
        assert (got - want).norm() / want.norm() < (1e-5 if level == "O1" else 5e-2)
    assert_same(before, model.state_dict())
    revert(model)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert torch.equal(model.eval()(x), want)
    assert not is_optimized(model)


def test_optimizing_again_starts_from_the_original(all_win):
    model, x = mlp(), torch.randn(4, 64)
    backend = CPUBackend()
    backend.optimize_for_inference(model, x, optimization_level="O3")
    backend.optimize_for_inference(model, x, optimization_level="O1")
    assert "kernels_keep" in backend.last_result.optimizations_applied
    assert (model(x) - backend.revert(model).eval()(x)).abs().max() < 1e-5


def test_without_a_sample_nothing_is_measured_and_the_result_says_so():
    backend = CPUBackend()
    backend.optimize_for_inference(mlp())
    assert any(
        w.startswith("kernels_bf16: needs sample_input") for w in backend.last_result.warnings
    )


def test_a_model_keeps_its_mode_when_nobody_says_what_it_is_for():
    model = mlp()
    _, result = CPUOptimizer().optimize(model, "O0")
    assert model.training and result.optimizations_applied == []


@pytest.mark.parametrize("sample", ["tensor", "tuple", "mapping"])
def test_samples(sample, all_win):
    model, x = nn.Sequential(nn.Linear(32, 32), nn.ReLU()), torch.randn(4, 32)
    given = {"tensor": x, "tuple": (x,), "mapping": {"input": x}}[sample]
    _, result = CPUOptimizer().optimize_for_inference(model, given, "O1")
    assert "kernels_keep" in result.optimizations_applied


def test_unchanged_models_gain_nothing():
    """A model that no kernel speeds up is left alone, and nothing is claimed for it."""
    model = nn.Sequential(nn.Flatten())
    _, result = CPUOptimizer().optimize_for_inference(model, torch.randn(2, 3, 4), "O2")
    assert result.optimizations_applied == ["eval_mode"]


# Convolution and batch normalization.


def test_folded_batch_normalization_is_exact_and_gone_from_the_call():
    """The normalization must not run after the folded convolution (relative error 0.78 then)."""
    model, x = ConvNet().eval(), torch.randn(2, 3, 9, 9)
    want = copy.deepcopy(model).double()(x.double())
    before = bits(model.state_dict())
    eager = (model(x).double() - want).norm()
    _, result = CPUOptimizer().optimize_for_inference(model, level="O1")
    assert result.metrics["fold_conv_bn"]["pairs"] == 1  # the other one's input is read twice
    got = model(x)
    assert (got.double() - want).norm() <= 1.5 * eager + 1e-6 * want.norm()
    # Hooks would see it: the folded normalization gives back what it is given.
    y = torch.randn(1, 8, 4, 4)
    assert model.bn(y) is y
    assert_same(before, model.state_dict())


def test_folding_yields_to_training_gradients_and_new_weights():
    model, x = ConvNet().eval(), torch.randn(2, 3, 9, 9)
    original = copy.deepcopy(model)
    CPUOptimizer().optimize_for_inference(model, level="O1")
    model.requires_grad_(True)
    model(x).sum().backward()
    original(x).sum().backward()
    assert torch.allclose(model.bn.weight.grad, original.bn.weight.grad, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for m in (model, original):
            m.bn.weight.mul_(2.0)
        assert torch.equal(model(x), original(x))
        model.train(), original.train()
        assert torch.equal(model(x), original(x))
        assert torch.equal(model.bn.running_mean, original.bn.running_mean)


def test_folded_models_are_copied_and_pickled():
    model, x = ConvNet().eval(), torch.randn(2, 3, 9, 9)
    want = model(x)
    CPUOptimizer().optimize_for_inference(model, level="O1")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.allclose(other(x), want, rtol=1e-4, atol=1e-5)


def test_models_that_cannot_be_traced_say_so():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)

        def forward(self, x):
            return self.bn(self.conv(x)) if x.sum() > 0 else x

    _, result = CPUOptimizer().optimize_for_inference(Branches(), level="O1")
    assert any("fold_conv_bn: the model's code cannot be traced" in w for w in result.warnings)


# Linear layers and activations.


@pytest.mark.parametrize("activation", [nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.ReLU()])
def test_fused_linear_activation_has_values_and_gradients(activation):
    model = nn.Sequential(nn.Linear(33, 65), activation, nn.Linear(65, 7))
    original, x = copy.deepcopy(model), torch.randn(5, 33)
    (pair,) = fuse_linear_activation(model)
    with kernel_pytorch.explain() as calls:
        y = model(x)
    assert calls.calls[0].op == "linear_act_forward"
    want = original(x)
    y.sum().backward(), want.sum().backward()
    assert torch.allclose(y, want, rtol=1e-4, atol=1e-5)
    for p, q in zip(model.parameters(), original.parameters()):
        assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-4)
    pair.remove()
    assert torch.equal(model(x), want)


# Training.


def test_training_keeps_the_optimizer_s_mathematics():
    model, x = mlp(), torch.randn(8, 64)
    other = copy.deepcopy(model)
    ours, theirs = torch.optim.AdamW(model.parameters()), torch.optim.AdamW(other.parameters())
    got = CPUBackend().optimize_for_training(model, ours, optimization_level="O1")
    assert got == (model, ours) and ours.param_groups[0]["fused"] and model.training
    for _ in range(3):
        for m, o in ((model, ours), (other, theirs)):
            o.zero_grad()
            m(x).square().mean().backward()
            o.step()
    for p, q in zip(model.parameters(), other.parameters()):
        assert torch.allclose(p, q, rtol=1e-5, atol=1e-6)
    revert(model)
    assert not ours.param_groups[0]["fused"]


def test_an_optimizer_that_has_run_is_left_alone():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 64)).sum().backward()
    optimizer.step()
    backend = CPUBackend()
    backend.optimize_for_training(model, optimizer)
    assert any("already made steps" in w for w in backend.last_result.warnings)


def test_autocast_training_learns_and_keeps_dtypes(monkeypatch):
    monkeypatch.setattr("kernel_pytorch.backends.cpu.isa", lambda: "avx512_bf16")
    model, x = mlp(), torch.randn(32, 64)
    target = torch.randn(32, 16)
    backend = CPUBackend()
    backend.optimize_for_training(model, optimization_level="O2")
    assert "autocast" in backend.last_result.optimizations_applied
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        y = model(x)
        assert y.dtype is torch.float32
        loss = (y - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.dtype is torch.float32 for p in model.parameters())
    seen = []
    model[0].register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    model(x)
    revert(model)
    model(x)
    assert seen == [torch.bfloat16, torch.float32]


def test_without_bf16_instructions_there_is_no_autocast(monkeypatch):
    monkeypatch.setattr("kernel_pytorch.backends.cpu.isa", lambda: "avx2")
    backend = CPUBackend()
    backend.optimize_for_training(mlp(), optimization_level="O2")
    assert any("no bf16 instructions" in w for w in backend.last_result.warnings)


def test_a_strategy_that_fails_leaves_the_model_as_it_was(monkeypatch):
    model = mlp()
    broken = OptimizationStrategy(
        "broken", "raises", list(OptimizationLevel), apply=lambda work: 1 / 0
    )
    monkeypatch.setattr(
        CPUOptimizer, "get_available_strategies", lambda self: [strategies.EVAL_MODE, broken]
    )
    with pytest.raises(OptimizationError, match="broken: division by zero"):
        CPUOptimizer().optimize_for_inference(model)
    assert model.training and not is_optimized(model)


# The backend.


def test_cpu_backend():
    backend = CPUBackend()
    assert backend.device == torch.device("cpu") and backend.is_available
    assert backend.device_count == 1 and backend.BACKEND_NAME == "cpu"
    info = backend.get_device_info()
    assert info.backend == "cpu" and info.total_memory_bytes > 0 and info.is_available
    stats = backend.get_memory_stats()
    assert {"allocated", "reserved", "total", "free", "device"} <= stats.keys()
    assert 0 < stats["free"] <= stats["total"]
    assert "cpu" in backend.get_memory_summary()
    backend.synchronize(), backend.empty_cache(), backend.set_device(0)
    assert backend.to_device({"a": [torch.ones(2)]})["a"][0].device.type == "cpu"
    with backend as inside:
        assert inside.allocate_tensor((2, 3), torch.float16).dtype is torch.float16
    assert "CPUBackend(device='cpu'" in repr(backend)


def test_a_context_does_not_hide_the_error_inside(monkeypatch):
    backend = CPUBackend()
    monkeypatch.setattr(backend, "cleanup", lambda: 1 / 0)
    with pytest.raises(KeyError, match="inside"), backend:
        raise KeyError("inside")
    with pytest.raises(ZeroDivisionError), backend:
        pass


def test_bad_arguments():
    backend, model = CPUBackend(), mlp()
    with pytest.raises(ConfigurationError, match="'agressive'.*did you mean 'aggressive'"):
        backend.optimize_for_inference(model, optimization_level="agressive")
    with pytest.raises(TypeError, match="'model' must be a torch.nn.Module, got int"):
        backend.optimize_for_inference(3)
    with pytest.raises(ConfigurationError, match="sample_input.*expected a tensor"):
        backend.optimize_for_inference(model, "text")
    with pytest.raises(ConfigurationError, match="choose one"):
        CPUOptimizer().optimize(model, for_inference=True, for_training=True)
    with pytest.raises(DeviceError, match="device 3: select: cpu has 1 devices"):
        backend.get_device_info(3)
    with pytest.raises(ConfigurationError, match="device_id"):
        backend.set_device("0")
    with pytest.raises(ConfigurationError, match="target_use"):
        CPUOptimizer().get_optimization_recommendations(model, "sleeping")
    with pytest.warns(UserWarning, match="no model"):
        assert backend.prepare_model(None) is None


def test_history_and_recommendations():
    optimizer = CPUOptimizer()
    optimizer.optimize(mlp(), "O1")
    (entry,) = optimizer.get_optimization_history()
    assert entry["level"] == "O1" and entry["model"] == "Sequential"
    optimizer.clear_cache()
    assert optimizer.get_optimization_history() == []
    model = mlp()
    found = {r["strategy"]: r for r in optimizer.get_optimization_recommendations(model)}
    assert found["kernels_int8"]["from_level"] == "O3" and not found["kernels_int8"]["applicable"]
    assert found["eval_mode"]["applicable"] and model.training


# The factory.


def test_factory(bare):
    assert BackendFactory.get_available_backends() == [BackendType.CPU]
    assert backends.detect_best_backend() is BackendType.CPU
    assert backends.list_available_backends() == ["cpu"]
    assert isinstance(backends.get_backend(), CPUBackend)
    assert isinstance(backends.get_optimizer("cpu"), CPUOptimizer)
    info = BackendFactory.get_all_backend_info()
    assert set(info) == {"nvidia", "amd", "tpu", "intel", "cpu"}
    assert info["cpu"]["available"] and info["amd"]["reason"] == "this machine has no AMD GPU"


def test_factory_prefers_a_gpu(two_gpus):
    assert backends.list_available_backends() == ["nvidia", "cpu"]
    assert backends.get_backend("auto").BACKEND_NAME == "nvidia"
    assert backends.BackendFactory.get_backend_info("auto")["device_count"] == 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA", "nvidia"),
        ("rocm", "amd"),
        ("hip", "amd"),
        ("xla", "tpu"),
        ("xpu", "intel"),
        ("sycl", "intel"),
        ("cpu", "cpu"),
    ],
)
def test_aliases(text, kind):
    assert BackendType(text).value == BackendType.from_string(text).value == kind


def test_unknown_backends():
    with pytest.raises(ConfigurationError, match="unknown backend 'nvida'.*did you mean 'nvidia'"):
        backends.get_backend("nvida")
    with pytest.warns(UserWarning, match="unknown backend 'abacus'.*taking cpu"):
        assert BackendType.from_string("abacus") is BackendType.CPU
    with pytest.raises(TypeError, match="no subclass of BaseBackend"):
        BackendFactory.register_backend(BackendType.CPU, int)


def test_another_class_may_stand_for_a_type(monkeypatch, bare):
    monkeypatch.setattr(BackendFactory, "_entries", dict(BackendFactory._entries))

    class Mine(CPUBackend):
        pass

    BackendFactory.register_backend(BackendType.AMD, Mine, None, lambda: True, 7)
    assert type(backends.get_backend("amd")) is Mine
    assert BackendType.AMD in BackendFactory.get_available_backends()


@pytest.mark.parametrize("name", ["nvidia", "amd", "tpu", "intel", "cpu"])
def test_every_backend_serves_the_same_model(name, bare):
    """State dicts move, float32 inputs work, and the result says when the device is absent."""
    source, x = mlp(), torch.randn(4, 64)
    want = source(x)
    backend = backends.get_backend(name)
    assert name == backend.BACKEND_NAME and backend.device.type == "cpu"
    model = mlp()
    model.load_state_dict(CPUBackend().state_dict(source))
    with pytest.warns(RuntimeWarning) if name != "cpu" else _nothing():
        assert backend.prepare_model(model) is model
    if name != "cpu":
        assert any("stays on the CPU" in w for w in backend.last_result.warnings)
        assert not backend.get_device_info().is_available
        assert backend.get_device_info().properties["absent"] == backend.absent() != ""
    assert torch.equal(model(x), want)
    with pytest.warns(RuntimeWarning) if name != "cpu" else _nothing():
        backend.optimize_for_inference(model)
    assert not any(p.requires_grad for p in model.parameters())
    assert torch.allclose(model(x), want, rtol=1e-4, atol=1e-5)
    assert all(v.dtype is torch.float32 for v in backend.state_dict(model).values())
    assert_same(source.state_dict(), backend.state_dict(model))
    back = mlp()
    back.load_state_dict(backend.state_dict(model))
    assert torch.equal(back(x), want)
    assert isinstance(backend.get_memory_stats(), dict) and backend.get_memory_summary()
    with backend:
        backend.synchronize()


def _nothing():
    import contextlib

    return contextlib.nullcontext()
