"""The package's exceptions: one tree, told as text and as data."""

import logging
import pickle

import pytest

from kernel_pytorch.core import errors


def test_one_tree():
    for name in errors.__all__:
        found = getattr(errors, name)
        if isinstance(found, type):
            assert issubclass(found, errors.KernelPyTorchError), name
    assert issubclass(errors.ConfigValidationError, ValueError)
    assert issubclass(errors.NativeUnavailableError, ImportError)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.ConfigValidationError("Config", "seed", -1, "too small"), "Config.seed: too small"),
        (errors.InputValidationError("x", "a matrix", "a vector"), "x: expected a matrix, got a v"),
        (errors.ModelValidationError("M", ["a", "b"]), "M: a; b"),
        (errors.HardwareDetectionError("tpu", "it fails"), "tpu: it fails"),
        (errors.HardwareNotFoundError("TPU", ["torch_xla"]), "no TPU; needed: torch_xla"),
        (errors.HardwareCapabilityError("A100", "fp8", ["bf16"]), "A100 lacks fp8; it has bf16"),
        (errors.CompilationError("nvcc", "M", "not installed"), "nvcc, M: not installed"),
        (errors.FusionError("conv+bn", "training"), "conv+bn: training"),
        (errors.PrecisionError("fp32", "fp8", "no scale"), "from fp32 to fp8: no scale"),
        (errors.ExportError("onnx", "M", "no such op"), "M to onnx: no such op"),
        (errors.ServingError("triton", "load", "no file"), "triton, load: no file"),
        (errors.ContainerError("docker", "build", "no daemon"), "docker, build: no daemon"),
        (errors.MetricsError("latency", "read", "empty"), "latency, read: empty"),
        (errors.HealthCheckError("model", "unhealthy", "NaN"), "model is unhealthy: NaN"),
    ],
)
def test_messages(error, text):
    assert text in str(error) and error.message == str(error)
    plain = error.to_dict()
    assert plain["error_type"] == type(error).__name__ and plain["details"]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and again.to_dict() == plain


def test_chains():
    try:
        try:
            raise OSError("disk")
        except OSError as cause:
            raise errors.ExportError("onnx", "M", "not written") from cause
    except errors.ExportError as error:
        assert error.to_dict()["cause"] == "disk"
        text = errors.format_error_chain(error)
        assert text.splitlines() == [
            "ExportError: M to onnx: not written",
            "  caused by OSError: disk",
        ]
        assert len(errors.format_error_chain(error, max_depth=1).splitlines()) == 1
    given = errors.KernelPyTorchError("x", {"a": 1}, cause=OSError("y"))
    assert given.to_dict() == {
        "error_type": "KernelPyTorchError",
        "message": "x",
        "details": {"a": 1},
        "cause": "y",
    }


def test_raise_or_warn(caplog):
    with pytest.raises(errors.FusionError):
        errors.raise_or_warn(errors.FusionError, "p", strict_mode=True, reason="r")
    with pytest.warns(RuntimeWarning, match="FusionError: p"):
        errors.raise_or_warn(errors.FusionError, "p")
    with caplog.at_level(logging.WARNING):
        errors.raise_or_warn(errors.FusionError, "p", log=logging.getLogger("test"))
    assert "FusionError: p" in caplog.text
