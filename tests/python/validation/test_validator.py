"""Every check of the validator passes on what is sound, and does not on what is not."""

import dataclasses
import itertools
import json

import pytest
import torch
from torch import nn

from kernel_pytorch.core.config import KernelPyTorchConfig, ValidationConfig
from kernel_pytorch.core.hardware_detector import Probe, using_probe
from kernel_pytorch.core.hardware_detector.nvml import Answer, Gpu
from kernel_pytorch.ops import SPECS
from kernel_pytorch.validation import (
    UnifiedValidator,
    ValidationLevel,
    ValidationResult,
    ValidationSummary,
    unified_validator,
)
from kernel_pytorch.validation import hardware as hardware_module
from kernel_pytorch.validation.kernels import contract_result
from kernel_pytorch.validation.report import Check, failed, passed, run_checks, skipped, warned

ALL = ValidationLevel.COMPREHENSIVE


def mlp(*sizes):
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*layers).eval()


class Broken(nn.Module):
    """A linear layer, and something wrong with it."""

    def __init__(self, after=lambda self, y: y):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.after = after
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.after(self, self.linear(x))


def with_nan():
    model = mlp(8, 8)
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    return model


class NotInTheState(Broken):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def __deepcopy__(self, memo):
        twin = NotInTheState()
        twin.load_state_dict(self.state_dict())
        twin.seen = self.seen + 1
        return twin

    def forward(self, x):
        return self.linear(x) + self.seen


class Unused(Broken):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(2, 2)


class Detached(Broken):
    def forward(self, x):
        return self.linear(x).detach()


class Imprecise(Broken):
    """Right in float64 alone."""

    def forward(self, x):
        y = self.linear(x)
        return y if y.dtype == torch.float64 else -y


def _branch(self, y):
    return y if float(y.sum()) > 1e9 else y * 2


MODEL_FAULTS = [
    (with_nan, "parameters", "failed"),
    (lambda: mlp(9, 8), "forward", "failed"),
    (lambda: Broken(lambda self, y: y / 0), "finite outputs", "failed"),
    (lambda: Broken(lambda self, y: y + self.calls), "repeatable", "failed"),
    (lambda: Broken(lambda self, y: y - y.mean(0)), "independent rows", "failed"),
    (lambda: Broken(lambda self, y: y.sum()), "independent rows", "warning"),
    (NotInTheState, "state dict", "failed"),
    (lambda: Broken(lambda self, y: y.expand(1 << 10, 4, 8) + 0), "memory", "failed"),
    (Unused, "gradients", "warning"),
    (Detached, "gradients", "failed"),
    (lambda: Broken(_branch), "export", "failed"),
    (Imprecise, "float64 accuracy", "failed"),
]


def test_a_sound_model_passes_every_check():
    found = UnifiedValidator().validate_model(mlp(8, 16, 8), (4, 8), ALL)
    assert (found.total_tests, found.passed) == (10, 10), found.to_json()
    assert found.success_rate == 1 and found.is_valid
    assert {r.name for r in found.reports} == {name for _, name, _ in MODEL_FAULTS}
    assert all(r.execution_time > 0 for r in found.reports) and found.execution_time > 0


@pytest.mark.parametrize(
    ("make", "name", "status"), MODEL_FAULTS, ids=[f"{n}-{s}" for _, n, s in MODEL_FAULTS]
)
def test_what_each_check_of_models_finds(make, name, status):
    config = ValidationConfig(memory_threshold_gb=1e-4)
    found = UnifiedValidator(config).validate_model(make(), (4, 8), ALL)
    assert found.report(name).status.value == status, found.report(name).message
    assert found.is_valid == (status != "failed")


def test_levels_add_checks():
    counts = [
        UnifiedValidator().validate_model(mlp(8, 8), (4, 8), level).total_tests
        for level in (
            ValidationLevel.MINIMAL,
            ValidationLevel.STANDARD,
            ValidationLevel.STRICT,
            ALL,
        )
    ]
    assert counts == [3, 6, 9, 10]


def test_the_model_is_left_as_it_was():
    model = mlp(8, 8).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    UnifiedValidator().validate_model(model, (4, 8), ALL)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_models_of_tokens_and_of_mappings():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(11, 8)
            self.out = nn.Linear(8, 11)

        def forward(self, ids):
            return {"logits": self.out(self.embed(ids))}

    assert UnifiedValidator().validate_model(Tokens(), (2, 5)).passed == 6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((object(), (4, 8)), TypeError, "'model' must be a torch.nn.Module, got object"),
        ((mlp(8, 8), (0, 8)), ValueError, "'input_shape' must hold positive sizes"),
        ((mlp(8, 8), ("4", 8)), ValueError, "'input_shape' must hold positive sizes"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        UnifiedValidator().validate_model(*arguments)


def test_export():
    validator = UnifiedValidator()
    assert validator.validate_export(mlp(8, 8), (4, 8)).passed == 3
    found = validator.validate_export(Broken(_branch), (4, 8))
    assert [r.status.value for r in found.reports] == ["failed", "failed", "passed"]
    tied = mlp(8, 8, 8)
    tied[1].weight = tied[0].weight
    found = validator.validate_export(tied, (4, 8))
    assert found.report("safetensors").status.value == "warning"


def config(**values):
    return KernelPyTorchConfig(**values)


CONFIGURATION_FAULTS = [
    ({"hardware": {"nvidia": {"architecture": "ampere", "fp8_enabled": True}}}, "consistent"),
    ({"device": "cuda"}, "device"),
    ({"device": "xpu"}, "device"),
    ({"hardware": {"backend": "tpu"}}, "backend"),
    ({"precision": {"fp8_enabled": True}}, "precision"),
    ({"memory": {"max_memory_gb": 1e9}}, "memory"),
    ({"distributed": {"enabled": True, "rank": 2, "world_size": 2}}, "distributed"),
    ({"distributed": {"enabled": True, "backend": "nccl"}}, "distributed"),
    ({"distributed": {"enabled": True, "backend": "pigeons"}}, "distributed"),
]


def test_a_sound_configuration():
    given = config(memory={"max_memory_gb": 0.5}, distributed={"enabled": True, "backend": "gloo"})
    found = UnifiedValidator().validate_configuration(given)
    assert found.passed == found.total_tests == 7, found.to_json()


@pytest.mark.parametrize(("values", "name"), CONFIGURATION_FAULTS, ids=str)
def test_what_each_check_of_configurations_finds(values, name):
    status = UnifiedValidator().validate_configuration(config(**values)).report(name).status
    assert status in (ValidationResult.FAILED, ValidationResult.WARNING)


def test_a_configuration_that_does_not_survive_json(monkeypatch):
    monkeypatch.setattr(KernelPyTorchConfig, "from_json", lambda text: config(seed=7))
    found = UnifiedValidator().validate_configuration(config())
    assert found.report("round trip").status is ValidationResult.FAILED


def test_hardware():
    found = UnifiedValidator().validate_hardware_compatibility(torch.device("cpu"))
    assert found.failed == 0 and found.passed >= 5
    absent = unified_validator.validate_hardware("cuda:63")
    assert absent.report("device").status is ValidationResult.FAILED
    assert absent.report("arithmetic float32").status is ValidationResult.SKIPPED
    assert not absent.is_valid
    unknown = unified_validator.validate_hardware("mps")
    assert unknown.report("device").status is ValidationResult.FAILED


def test_hardware_that_computes_wrong_or_forgets(monkeypatch):
    real = torch.Tensor.__matmul__

    def wrong(a, b):
        return real(a, b) if a.dtype == torch.float64 else real(a, b) * 1.5

    monkeypatch.setattr(torch.Tensor, "__matmul__", wrong)
    monkeypatch.setattr(torch, "full", lambda *a, **k: torch.zeros(4, dtype=torch.uint8))
    found = UnifiedValidator().validate_hardware_compatibility("cpu")
    bad = {r.name for r in found.reports if r.status is ValidationResult.FAILED}
    assert bad == {*(f"arithmetic {d}" for d in ("float32", "float16", "bfloat16")), "memory"}


def test_kernels_that_do_not_load(monkeypatch):
    from kernel_pytorch.backends import cpu
    from kernel_pytorch.core.errors import NativeUnavailableError

    def missing():
        raise NativeUnavailableError("no such module")

    monkeypatch.setattr(cpu, "module_file", missing)
    found = UnifiedValidator().validate_hardware_compatibility("cpu")
    assert found.report("kernels").status is ValidationResult.FAILED
    assert hardware_module.hardware_checks(torch.device("cpu"))


def scaled(factor):
    model = mlp(8, 8)
    with torch.no_grad():
        model[0].weight.mul_(factor)
    return model


@pytest.mark.parametrize(
    ("model", "values", "name", "status"),
    [
        (mlp(8, 8), {"default_format": "bf16"}, "rounding error", "passed"),
        (mlp(8, 8), {"default_format": "bf16", "memory_budget": 0.6}, "memory budget", "passed"),
        (mlp(8, 8), {"fp8_enabled": True}, "rounding error", "passed"),
        (nn.ReLU(), {}, "format", "failed"),
        (mlp(8, 8), {"default_format": "fp4"}, "format", "skipped"),
        (scaled(1e6), {"default_format": "fp16"}, "range", "failed"),
        (with_nan(), {}, "range", "failed"),
        (scaled(1e-7), {"default_format": "fp16"}, "rounding error", "failed"),
        (mlp(8, 8), {"default_format": "fp32"}, "memory budget", "warning"),
    ],
)
def test_precision(model, values, name, status):
    given = config(precision=values).precision
    found = UnifiedValidator().validate_precision_allocation(model, given)
    assert found.report(name).status.value == status, found.report(name).message


class _Described(Probe):
    """This machine with one GPU of which the driver gives the answers that are set here."""

    def nvml(self):
        gpu = Gpu(
            name="NVIDIA A100",
            uuid="GPU-0",
            bus_id="00000000:01:00.0",
            compute_capability=(8, 0),
            memory_bytes=80 << 30,
            nvlinks=0,
            peers=(),
        )
        return Answer(driver_version="580.0", cuda_version="13.0", gpus=(gpu,))

    def torch_build(self, kind):
        return "13.0" if kind == "cuda" else None

    def torch_devices(self, kind):
        return int(kind == "cuda")


SOUND = {
    "nvidia": {"architecture": "hopper"},
    "amd": {"architecture": "cdna3"},
    "intel": {"architecture": "pvc"},
    "tpu": {"version": "v5p"},
}
VENDOR_FAULTS = [
    ("nvidia", {"architecture": "hopper", "enabled": False}, "enabled", "failed"),
    ("intel", {"architecture": "auto"}, "architecture", "warning"),
    ("nvidia", {"architecture": "ampere", "fp8_enabled": True}, "formats", "failed"),
    ("amd", {"architecture": "cdna2", "default_precision": "bf16"}, "formats", "passed"),
    ("amd", {"architecture": "rdna2", "default_precision": "fp16"}, "formats", "failed"),
    ("nvidia", {"architecture": "ampere"}, "features", "warning"),
    ("amd", {"architecture": "rdna2", "enable_matrix_cores": True}, "features", "warning"),
    ("nvidia", {"memory_fraction": 0.99}, "memory fraction", "failed"),
    ("tpu", {"memory_fraction": 0.99}, "memory fraction", "failed"),
    ("amd", {"max_memory_fraction": 0.99}, "memory fraction", "failed"),
]


@pytest.mark.parametrize("vendor", SOUND)
def test_sound_vendor_sections(vendor):
    given = config(hardware={vendor: SOUND[vendor]})
    found = getattr(UnifiedValidator(), f"validate_{vendor}_compatibility")(given)
    assert found.passed == 5 and found.report("device").status is ValidationResult.SKIPPED


@pytest.mark.parametrize(("vendor", "values", "name", "status"), VENDOR_FAULTS, ids=str)
def test_what_each_check_of_vendor_sections_finds(vendor, values, name, status):
    given = config(hardware={vendor: values})
    found = getattr(UnifiedValidator(), f"validate_{vendor}_compatibility")(given)
    assert found.report(name).status.value == status, found.report(name).message


def test_the_architecture_that_is_set_is_held_against_the_machine():
    with using_probe(_Described()):
        there = config(hardware={"nvidia": {"architecture": "ampere"}})
        other = config(hardware={"nvidia": {"architecture": "hopper"}})
        validate = UnifiedValidator().validate_nvidia_compatibility
        assert validate(there).report("device").status is ValidationResult.PASSED
        found = validate(other).report("device")
    assert found.status is ValidationResult.FAILED and "the machine has ampere" in found.message


VENDOR_MODEL_FAULTS = [
    (nn.ReLU(), (16, 8), "parameters", "failed"),
    (mlp(16, 16).double(), (16, 16), "dtypes", "failed"),
    (mlp(16, 17), (16, 16), "sizes", "warning"),
    (nn.Sequential(nn.Conv2d(3, 16, 3)), (16, 3, 8, 8), "sizes", "warning"),
    (mlp(16, 16), (3, 16), "batch", "warning"),
    (mlp(8, 16), (16, 9), "runs", "failed"),
    (scaled(float("inf")), (16, 8), "runs", "failed"),
]
_HAVE_FLOAT64 = ("nvidia", "amd")


@pytest.mark.parametrize("vendor", SOUND)
def test_models_for_vendors(vendor):
    section = getattr(config(hardware={vendor: SOUND[vendor]}).hardware, vendor)
    validate = getattr(UnifiedValidator(), f"validate_{vendor}_model_optimization")
    sound = validate(mlp(16, 32), section, torch.randn(16, 16))
    assert sound.passed == sound.total_tests == 6
    assert validate(mlp(16, 32), section).skipped == 3
    for model, shape, name, status in VENDOR_MODEL_FAULTS:
        if name == "dtypes" and vendor in _HAVE_FLOAT64:
            status = "passed"
        found = validate(model, section, torch.randn(shape)).report(name)
        assert found.status.value == status, (name, found.message)


@pytest.mark.parametrize(("vendor", "status"), [("tpu", "failed"), ("nvidia", "warning")])
def test_models_that_are_no_graph(vendor, status):
    section = getattr(config().hardware, vendor)
    validate = getattr(UnifiedValidator(), f"validate_{vendor}_model_optimization")
    found = validate(Broken(_branch), section, torch.randn(16, 8))
    assert found.report("graph").status.value == status


def test_a_model_beyond_a_chip_s_memory():
    with torch.device("meta"):
        model = nn.Linear(1 << 16, 1 << 17)
    section = config(hardware={"tpu": {"version": "v5e"}}).hardware.tpu
    found = UnifiedValidator().validate_tpu_model_optimization(model, section)
    assert found.report("parameters").status is ValidationResult.FAILED


def test_kernels():
    found = UnifiedValidator().validate_custom_kernels(config())
    assert found.failed == 0 and found.total_tests == len(SPECS) + 1
    off = UnifiedValidator().validate_custom_kernels(
        config(kernel={"enabled": False, "fp8_matmul": True})
    )
    assert off.skipped == len(SPECS)
    assert off.report("options").status is ValidationResult.FAILED


def test_a_wrong_kernel_is_found():
    spec = SPECS["act"]
    case = spec.cases[:1]
    assert contract_result(spec, torch.float32, case).implementation == "native"

    def wrong(*args, **kwargs):
        return torch.ops.kpt.act(*args, **kwargs) * 1.001

    found = contract_result(spec, torch.float32, case, kernel=wrong)
    assert found.implementation == "failed" and "rms error" in found.reason

    def raises(*args, **kwargs):
        raise RuntimeError("no image for this device")

    found = contract_result(spec, torch.float32, case, kernel=raises)
    assert found.reason == "RuntimeError: no image for this device"


def test_nothing_that_ran_is_no_native_kernel():
    assert contract_result(SPECS["act"], torch.float32, ()).implementation == "skipped"


def test_a_kernel_that_falls_back_or_fails_is_reported(monkeypatch):
    from kernel_pytorch.validation import kernels

    real = kernels.contract_result
    for wanted, status in (("fallback", "warning"), ("failed", "failed")):

        def result(spec, dtype, cases, wanted=wanted, **options):
            found = real(spec, dtype, cases, **options)
            return dataclasses.replace(found, implementation=wanted, reason="because")

        monkeypatch.setattr(kernels, "contract_result", result)
        found = UnifiedValidator().validate_custom_kernels(config())
        assert found.report("act").status.value == status
        assert "because" in found.report("act").message


def test_module_functions():
    x = torch.randn(16, 16)
    given = config()
    for found in (
        unified_validator.validate_model(mlp(8, 8), (4, 8), level=ValidationLevel.MINIMAL),
        unified_validator.validate_configuration(given),
        unified_validator.validate_nvidia_configuration(given),
        unified_validator.validate_tpu_configuration(given),
        unified_validator.validate_nvidia_model(mlp(16, 16), given, x),
        unified_validator.validate_tpu_model(mlp(16, 16), given.hardware.tpu),
    ):
        assert isinstance(found, ValidationSummary) and found.is_valid
    tpu = unified_validator.validate_tpu_model(mlp(15, 16), given.hardware.tpu)
    assert tpu.warnings > 0


def test_summaries_as_json_and_as_a_page():
    def broken():
        raise KeyError("x")

    found = run_checks(
        [
            Check(name="good <b>", run=lambda: passed("yes", number=1)),
            Check(name="so so", run=lambda: warned("hm")),
            Check(name="bad", run=lambda: failed("no")),
            Check(name="worse", run=broken),
            Check(name="absent", run=lambda: skipped("none here")),
        ]
    )
    data = json.loads(found.to_json())
    counts = [data[n] for n in ("total_tests", "passed", "warnings", "failed", "skipped")]
    assert counts == [5, 1, 1, 2, 1] and data["success_rate"] == 0.25 and not data["is_valid"]
    assert data["reports"][0]["metadata"] == {"number": 1}
    assert data["reports"][3]["message"] == "KeyError: 'x'"
    page = found.to_html()
    assert "good &lt;b&gt;" in page and "1 passed, 1 warnings, 2 failed, 1 skipped" in page
    nothing = run_checks([Check(name="absent", run=lambda: skipped("none"))])
    assert not nothing.is_valid and nothing.success_rate == 0
    with pytest.raises(KeyError):
        nothing.report("other")
