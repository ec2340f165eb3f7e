"""The CUDA module where there may be no GPU: it loads, says what is missing, has the declared
operators, and refuses what it cannot do before it touches memory."""

import inspect
import json
import re
import subprocess
import sys

import pytest
import torch

from kernel_pytorch._native import load
from kernel_pytorch.backends import cuda, gpu_runs
from kernel_pytorch.ops import SPECS
from kernel_pytorch.ops.spec import Out
from kernel_pytorch.ops.validate import bind

NATIVE = load("cuda")
OPS = sorted(name for name, spec in SPECS.items() if "nvidia" in spec.native_backends)
NO_GPU = cuda.devices().problem != ""


class OnCuda:
    """Has a CUDA tensor's attributes over CPU memory; no kernel may run on it."""

    is_sparse = False

    def __init__(self, tensor, index=0):
        self._tensor = tensor
        self.device = torch.device("cuda", index)

    def __getattr__(self, name):
        return getattr(self._tensor, name)


def _arguments(name):
    """Of the native function: the outputs, then the schema's arguments by name."""
    document = inspect.getdoc(getattr(NATIVE, name)) or ""
    return re.findall(r"(\w+): ", document.split(") ->")[0])


def _call(name, tensor, index=0):
    """The native call of the first case of an operator, with `tensor` made of each of its tensors;
    the last of them on device `index`."""
    spec = SPECS[name]
    case = next(c for c in spec.cases if 0 not in c.lead and 0 not in c.sizes.values())
    # Attention is of 16-bit types alone.
    dtype = torch.bfloat16 if torch.bfloat16 in spec.dtypes else spec.dtypes[0]
    args, kwargs = spec.build(case, dtype, torch.Generator().manual_seed(0))
    bound = bind(spec, tuple(args), kwargs)
    outs = spec.infer(**bound)
    outs = (outs,) if isinstance(outs, Out) else outs
    values = [torch.empty(tuple(o.shape), dtype=o.dtype) for o in outs] + list(bound.values())
    tensors = [i for i, v in enumerate(values) if isinstance(v, torch.Tensor)]
    for i in tensors:
        values[i] = tensor(values[i], index if i == tensors[-1] else 0)
    return getattr(NATIVE, name)(*values)


def test_loading_asks_nothing_of_the_driver():
    """Neither the import of the package nor that of the module brings libcuda into a process."""
    code = (
        "import torch, kernel_pytorch\nfrom kernel_pytorch._native import load\nload('cuda')\n"
        "print('libcuda.so' in open('/proc/self/maps').read())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr


def test_devices_or_why_there_are_none():
    found = cuda.devices()
    assert bool(found.capabilities) != bool(found.problem)
    assert re.fullmatch(r"\d+\.\d+", cuda.runtime_version())
    if found.problem and not torch.cuda.is_available():
        assert "driver" in found.problem or "device" in found.problem


def test_variants_are_of_the_declared_operators():
    listed = {v.op for v in cuda.variants()} - {"probe_product"}  # not an operator
    assert listed == set(OPS)
    for variant in cuda.variants():
        assert variant.target in ("portable", "sm_90a", "sm_100a", "sm_120a")


@pytest.mark.parametrize("name", OPS)
def test_binding_has_the_schema_s_arguments(name):
    found = _arguments(name)
    names = [a.name for a in SPECS[name].arguments]
    returns = len(SPECS[name].schema.rsplit("->", 1)[1].split(","))
    assert found[returns:] == names


@pytest.mark.parametrize("name", OPS)
def test_cpu_tensors_are_refused(name):
    with pytest.raises(TypeError, match=f"{name}: argument '\\w+' must be on a CUDA device"):
        _call(name, lambda t, index: t)


@pytest.mark.parametrize("name", OPS)
def test_tensors_on_two_devices_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: argument '\\w+' must be on device 0 like"):
        _call(name, OnCuda, index=1)


@pytest.mark.skipif(
    not NO_GPU, reason="this machine has a GPU: memory of the CPU must not reach it"
)
@pytest.mark.parametrize("name", OPS)
def test_errors_of_the_runtime_name_the_operator(name):
    with pytest.raises(RuntimeError, match=f"^{name}: .*\\(cudaError"):
        _call(name, OnCuda)


def test_unknown_variants_are_refused():
    with pytest.raises(ValueError, match="unknown op 'nothing'"), cuda.force_variant("nothing", ""):
        pass
    for name in OPS[:1]:
        with pytest.raises(ValueError, match=f"op '{name}' has no variant 'x'"):
            with cuda.force_variant(name, "x"):
                pass


def test_runs_on_a_gpu_are_said_only_with_a_record(monkeypatch):
    spec = SPECS["rms_norm"]
    monkeypatch.setattr(gpu_runs, "_runs", dict)
    assert gpu_runs.gpu_run("rms_norm", "nvidia") is None
    listed = ["cpu"] + (
        ["nvidia (not yet run on a GPU)"] if "nvidia" in spec.native_backends else []
    )
    assert gpu_runs.native_on(spec) == listed
    record = {"device": "NVIDIA H200", "commit": "0123456789abcdef", "date": "2026-01-02"}
    monkeypatch.setattr(gpu_runs, "_runs", lambda: {"nvidia": {"rms_norm": record}})
    assert str(gpu_runs.gpu_run("rms_norm", "nvidia")) == (
        "ran on NVIDIA H200, 2026-01-02, commit 0123456789ab"
    )


def test_records_are_of_operators_with_kernels():
    text = gpu_runs.resources.files("kernel_pytorch.backends").joinpath("gpu_runs.json").read_text()
    for backend, ops in json.loads(text).items():
        for name in ops:
            assert backend in SPECS[name].native_backends
