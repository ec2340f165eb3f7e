"""The configuration: checks, nearest names, presets, files, environment, and what a user set."""

import dataclasses
import json
import logging
import threading
from unittest import mock

import pytest
import torch

from kernel_pytorch.core import config as config_module
from kernel_pytorch.core.config import (
    AMDArchitecture,
    AMDConfig,
    HardwareBackend,
    HardwareConfig,
    KernelConfig,
    KernelPyTorchConfig,
    NVIDIAArchitecture,
    NVIDIAConfig,
    OptimizationLevel,
    PrecisionConfig,
    PrecisionFormat,
    TPUConfig,
    TPUVersion,
    configure,
    get_config,
    parse_assignments,
    set_config,
)
from kernel_pytorch.core.errors import ConfigValidationError, KernelPyTorchError


@pytest.fixture(autouse=True)
def _shared(monkeypatch):
    monkeypatch.setattr("kernel_pytorch.core.config.root._shared", None)
    for name in ("KPT_CONFIG_FILE", "KPT_CONFIG__SEED"):
        monkeypatch.delenv(name, raising=False)


def test_defaults():
    config = KernelPyTorchConfig()
    assert (config.seed, config.debug, config.optimization_level) == (
        42,
        False,
        OptimizationLevel.O2,
    )
    assert config.precision.default_format is PrecisionFormat.FP32
    assert config.memory.memory_fraction == 0.8 and config.distributed.world_size == 1
    assert config.hardware.nvidia.fp8_recipe == "DelayedScaling"
    assert config.device == torch.device("cpu") or config.device.type in ("cuda", "xpu")
    plain = config.to_dict()
    assert {"version", "topology", "compilation_mode"} <= set(plain["hardware"]["tpu"])
    json.dumps(plain)
    assert config.user_values() == {}


def test_every_name_of_the_enums_converts():
    assert OptimizationLevel("balanced") is OptimizationLevel.from_string("o2")
    assert OptimizationLevel.AGGRESSIVE is OptimizationLevel.O3
    assert PrecisionConfig(default_format="fp8_e4m3").default_format is PrecisionFormat.FP8_E4M3
    with pytest.raises(ValueError, match="unknown optimization level 'fast'"):
        OptimizationLevel("fast")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sed": 1}, r"KernelPyTorchConfig\.sed: unknown key; the nearest is 'seed'"),
        (
            {"precision": {"fp8_enable": True}},
            r"precision\.fp8_enable: .* nearest is 'fp8_enabled'",
        ),
        ({"hardware": {"nvidia": {"arch": "ada"}}}, r"hardware\.nvidia\.arch: .*'architecture'"),
        (
            {"hardware": {"nvidia": {"architecture": "hoper"}}},
            r"hardware\.nvidia\.architecture: .*"
            r"'ada', 'hopper' or 'blackwell', got 'hoper'$",
        ),
        ({"hardware": {"backend": "gpu"}}, r"hardware\.backend: should be 'cuda'"),
        ({"optimization_level": "fast"}, r"optimization_level: unknown optimization level 'fast'"),
        ({"memory": {"memory_fraction": 1.5}}, r"memory\.memory_fraction: .* equal to 1, got 1\.5"),
        ({"memory": {"memory_fraction": float("nan")}}, r"memory\.memory_fraction"),
        ({"memory": {"max_memory_gb": 0}}, r"memory\.max_memory_gb: should be greater than 0"),
        ({"distributed": {"sharding_strategy": "shards"}}, r"sharding_strategy: .*'full_shard'"),
        ({"seed": "many"}, r"seed: .* got 'many'"),
        ({"seed": -1}, r"seed: "),
        ({"device": "gpu"}, r"device: should be a device of PyTorch, .* got 'gpu'"),
        ({"device": 1.5}, r"device: should be a device of PyTorch"),
        ({"memory": 3}, r"memory: .* got 3"),
        ({"debug": "perhaps"}, r"debug: "),
    ],
)
def test_refused(values, message):
    with pytest.raises(ConfigValidationError, match=message) as caught:
        KernelPyTorchConfig(**values)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, KernelPyTorchError)
    config = KernelPyTorchConfig()
    before = config.to_dict()
    with pytest.raises(ConfigValidationError):
        config.update(**{"profile": True, **values})
    assert config.to_dict() == before


def test_several_faults_are_counted():
    with pytest.raises(ConfigValidationError, match=r"\(and 1 more\)"):
        PrecisionConfig(memory_budget=2, fp8_margin=-1)


def test_assignment_is_checked():
    config = KernelPyTorchConfig()
    config.hardware.nvidia.architecture = "hopper"
    assert config.hardware.nvidia.architecture is NVIDIAArchitecture.HOPPER
    with pytest.raises(ConfigValidationError, match="PrecisionConfig.memory_budget"):
        config.precision.memory_budget = 7
    assert config.precision.memory_budget == 0.5
    with pytest.raises(AttributeError, match="no 'fp8_enable'; the nearest field is 'fp8_enabled'"):
        config.precision.fp8_enable = True


def test_attributes_beyond_the_fields_are_kept_and_not_saved():
    config = KernelPyTorchConfig()
    with pytest.warns(UserWarning, match="mixed_precision is no field"):
        config.precision.mixed_precision = True
    config.precision.mixed_precision = False  # told once
    assert config.precision.mixed_precision is False
    assert "mixed_precision" not in config.to_dict()["precision"]


def test_update_and_configure():
    config = KernelPyTorchConfig()
    precision = config.precision
    config.update(seed=7, precision={"fp8_enabled": True}, optimization_level="aggressive")
    assert config.precision is precision and precision.fp8_enabled and config.seed == 7
    assert config.optimization_level is OptimizationLevel.O3
    with pytest.raises(ValueError, match="unknown key"):
        config.update(no_such_thing=1)
    set_config(config)
    assert get_config() is config and configure(debug=True) is config and config.debug
    with pytest.raises(TypeError, match="expected a KernelPyTorchConfig, got dict"):
        set_config({})


def test_one_shared_configuration_for_all_threads():
    found = []
    threads = [threading.Thread(target=lambda: found.append(get_config())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(config) for config in found}) == 1


def test_presets():
    inference = KernelPyTorchConfig.for_inference()
    assert inference.optimization_level is OptimizationLevel.O3
    assert not inference.memory.gradient_checkpointing
    assert KernelPyTorchConfig.for_training().memory.gradient_checkpointing
    development = KernelPyTorchConfig.for_development()
    assert development.debug and development.validation.strict_mode
    own = KernelPyTorchConfig.for_inference(
        optimization_level="O1", memory={"gradient_checkpointing": True}
    )
    assert own.optimization_level is OptimizationLevel.O1 and own.memory.gradient_checkpointing
    assert own.memory.deep_optimizer_states is False


@pytest.mark.parametrize("kind", ["json", "toml"])
def test_round_trips_are_exact(kind, tmp_path):
    config = KernelPyTorchConfig.for_training(
        seed=2**62,
        device="cpu",
        memory={"memory_fraction": 0.1 + 0.2, "max_memory_gb": 1e-300},
        hardware={"nvidia": {"architecture": "ada"}, "tpu": {"xla_flags": 'a="é"\n#\\'}},
        precision={"default_format": PrecisionFormat.FP8_E5M2},
    )
    text = getattr(config, f"to_{kind}")()
    again = getattr(KernelPyTorchConfig, f"from_{kind}")(text)
    assert again == config and again.to_dict() == config.to_dict()
    assert getattr(again, f"to_{kind}")() == text
    assert KernelPyTorchConfig.from_dict(config.to_dict()) == config
    path = tmp_path / f"config.{kind}"
    config.save(path)
    assert KernelPyTorchConfig.load(path, environment={}) == config
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.toml", None, "cannot be read: .*No such file"),
        ("c.toml", "seed = = 3", "is not TOML: .* line 1"),
        ("c.json", "{", "is not JSON: "),
        ("c.json", "[1]", "should be an object of sections"),
        ("c.yaml", "seed: 1", "must end in .toml or .json"),
        ("c.toml", "[precision]\nfp8 = true", "precision.fp8: unknown key"),
    ],
)
def test_unreadable_files(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigValidationError, match=message):
        KernelPyTorchConfig.load(path, environment={})
    if text is not None:
        assert path.read_text() == text


def test_nothing_is_lost_when_writing_fails(tmp_path):
    path = tmp_path / "config.toml"
    KernelPyTorchConfig(seed=1).save(path)
    before = path.read_text()
    with mock.patch("os.replace", side_effect=OSError("full")), pytest.raises(OSError):
        KernelPyTorchConfig(seed=2).save(path)
    assert path.read_text() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ConfigValidationError, match="must end in"):
        KernelPyTorchConfig().save(tmp_path / "config.txt")


def test_layers_and_where_values_come_from(tmp_path, caplog):
    path = tmp_path / "kpt.toml"
    path.write_text("seed = 1\n[memory]\ngradient_checkpointing = false\nmemory_fraction = 0.5\n")
    environment = {
        "KPT_CONFIG_FILE": str(path),
        "KPT_CONFIG__SEED": "2",
        "KPT_CONFIG__HARDWARE__NVIDIA__ARCHITECTURE": "ada",
        "KPT_ISA": "avx2",  # another variable of this package
    }
    with caplog.at_level(logging.INFO, logger="kernel_pytorch.config"):
        config = KernelPyTorchConfig.load(
            preset="training", environment=environment, assignments={"seed": "3"}
        )
    assert config.seed == 3 and config.origin("seed") == "assignment"
    assert config.memory.gradient_checkpointing is False
    assert config.origin("memory.gradient_checkpointing") == str(path)
    assert config.origin("memory.deep_optimizer_states") == "preset training"
    assert config.hardware.nvidia.fp8_enabled  # Ada has it
    assert config.origin("hardware.nvidia.architecture") == "environment"
    assert config.origin("debug") == "default"
    told = "\n".join(caplog.messages)
    assert "memory.gradient_checkpointing: False of" in told
    assert "seed: '3' of assignment replaces that of environment" in told
    with pytest.raises(ConfigValidationError, match="precision is a section|is a section"):
        config.origin("precision")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"KPT_CONFIG__PRECISION__FP8": "1"}, r"precision\.fp8: unknown key; .*'fp8_"),
        ({"KPT_CONFIG__PRECISION": "1"}, "is a section; its keys are default_format"),
        ({"KPT_CONFIG__SEED__X": "1"}, "seed has no keys below it"),
        ({"KPT_CONFIG__SEED": "one"}, "seed: .* got 'one'"),
        ({"KPT_CONFIG_FILE": "/no/such.toml"}, "/no/such.toml: cannot be read"),
    ],
)
def test_bad_environment(environment, message):
    with pytest.raises(ConfigValidationError, match=message):
        KernelPyTorchConfig.load(environment=environment)


def test_bad_preset_and_assignments():
    with pytest.raises(ConfigValidationError, match="expected inference, training, development"):
        KernelPyTorchConfig.load(preset="speed", environment={})
    assert parse_assignments(["a.b = x=y"]) == {"a.b": "x=y"}
    for word in ("seed", "=3"):
        with pytest.raises(ConfigValidationError, match="expected KEY=VALUE"):
            parse_assignments([word])


def test_a_set_value_is_never_replaced():
    assert KernelConfig(enabled=True).enabled is True  # on a machine without a GPU too
    assert NVIDIAConfig(architecture="ampere", fp8_enabled=True).fp8_enabled is True
    assert NVIDIAConfig(architecture="hopper", fp8_enabled=False).fp8_enabled is False
    tpu = TPUConfig(version="v6e", memory_fraction=0.1, xla_optimization_level=0)
    assert (tpu.memory_fraction, tpu.xla_optimization_level) == (0.1, 0)
    amd = AMDConfig(architecture="rdna2", enable_matrix_cores=True)
    assert amd.enable_matrix_cores is True
    # What contradicts the hardware is told instead.
    config = KernelPyTorchConfig(hardware={"amd": amd, "nvidia": {"fp8_enabled": True}})
    assert any("rdna2 has no matrix units" in c for c in config.conflicts())


def test_what_is_not_set_follows_the_architecture():
    for name, fp8, generation in (("ampere", False, 3), ("ada", True, 4), ("hopper", True, 4)):
        nvidia = NVIDIAConfig(architecture=name)
        assert (nvidia.fp8_enabled, nvidia.tensor_core_version) == (fp8, generation)
    assert [AMDConfig(architecture=a).enable_matrix_cores for a in ("cdna3", "rdna2")] == [
        True,
        False,
    ]
    for version, fraction in ((TPUVersion.V5E, 0.9), (TPUVersion.V5P, 0.95), (TPUVersion.V7, 0.95)):
        assert TPUConfig(version=version).memory_fraction == fraction
    assert TPUConfig(version="v5e").xla_optimization_level == 1
    nvidia.architecture = "turing"
    assert (nvidia.fp8_enabled, nvidia.tensor_core_version) == (False, 2)
    nvidia.fp8_enabled = False
    nvidia.architecture = "blackwell"
    assert (nvidia.fp8_enabled, nvidia.tensor_core_version) == (False, 5)
    assert AMDConfig(architecture=AMDArchitecture.CDNA4).architecture.value == "cdna4"


def test_cuda_that_pytorch_sees_is_the_backend():
    with mock.patch("torch.cuda.is_available", return_value=True):
        with mock.patch("torch.cuda.get_device_properties"):
            config = KernelPyTorchConfig()
    hip = torch.version.hip is not None
    assert config.hardware.backend is (HardwareBackend.AMD if hip else HardwareBackend.CUDA)
    assert config.hardware.nvidia.enabled is True and config.device.type == "cuda"
    with mock.patch("torch.cuda.is_available", return_value=False):
        with mock.patch("torch.cuda.device_count", return_value=0):
            assert HardwareConfig().backend is not HardwareBackend.CUDA


@pytest.mark.parametrize(
    ("values", "conflict"),
    [
        (
            {"hardware": {"nvidia": {"architecture": "volta", "fp8_enabled": True}}},
            "volta has no FP8",
        ),
        (
            {"hardware": {"nvidia": {"architecture": "pascal", "tensor_core_version": 3}}},
            "pascal has no tensor cores",
        ),
        (
            {"hardware": {"backend": "cpu"}, "device": "cuda"},
            "does not belong to the backend 'cpu'",
        ),
        (
            {
                "hardware": {"backend": "cuda", "nvidia": {"architecture": "ampere"}},
                "kernel": {"fp8_matmul": True},
            },
            "kernel.fp8_matmul: the cuda device has no FP8",
        ),
        ({"distributed": {"rank": 2, "world_size": 2}}, "rank: 2 of 2 processes"),
        (
            {"hardware": {"backend": "cpu"}, "device": "cpu", "distributed": {"enabled": True}},
            "gloo runs on CPUs",
        ),
    ],
)
def test_conflicts(values, conflict):
    config = KernelPyTorchConfig(**values)
    assert any(conflict in found for found in config.conflicts()), config.conflicts()
    assert config.user_values() == KernelPyTorchConfig(**config.user_values()).user_values()


def test_no_conflicts_by_default():
    assert KernelPyTorchConfig(hardware={"backend": "cpu"}).conflicts() == []


def test_public_names():
    assert set(config_module.__all__) <= set(dir(config_module))
    assert not dataclasses.is_dataclass(KernelPyTorchConfig)
