"""kpt ops: the table follows the declarations, and one operator's page tells what runs here."""

import json

import pytest

from kernel_pytorch.backends import cpu, cuda
from kernel_pytorch.backends.gpu_runs import GPU_BACKENDS, NOT_YET, gpu_run
from kernel_pytorch.cli.commands.ops import BACKENDS
from kernel_pytorch.core.errors import NativeUnavailableError
from kernel_pytorch.ops import SPECS


def _entries(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["ops"]


def _is_native(op, backend):
    """Declared, and its module is in this build: that of CUDA need not be."""
    if backend not in SPECS[op].native_backends:
        return False
    try:
        {"cpu": cpu, "nvidia": cuda}[backend].module_file()
    except NativeUnavailableError:
        return False
    return True


def test_every_operator_backend_and_dtype(kpt):
    entries = _entries(kpt("ops", "--json"))
    expected = [
        (spec.name, backend, str(dtype).removeprefix("torch."))
        for spec in SPECS.values()
        for backend in BACKENDS
        for dtype in spec.dtypes
    ]
    assert sorted(expected) == sorted((e["op"], e["backend"], e["dtype"]) for e in entries)
    for entry in entries:
        native = _is_native(entry["op"], entry["backend"])
        assert entry["implementation"] == ("native" if native else "reference")


def test_filters(kpt):
    entries = _entries(kpt("ops", "--json", "--family", "norm", "--dtype", "bf16", "--native"))
    assert {(e["family"], e["dtype"]) for e in entries} == {("norm", "bfloat16")}
    assert {(e["op"], e["backend"]) for e in entries} == {
        (spec.name, backend)
        for spec in SPECS.values()
        for backend in BACKENDS
        if spec.family == "norm" and _is_native(spec.name, backend)
    }
    assert _entries(kpt("ops", "--json", "--backend", "tpu", "--native")) == []
    assert "no operator passes" in kpt("ops", "--backend", "tpu", "--native").stdout
    entries = _entries(kpt("ops", "--json", "--reference", "--backend", "amd", "--backend", "cpu"))
    assert {e["backend"] for e in entries} == {"amd"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--family", "nothing"), "--family nothing: unknown; there are activation,"),
        (("--backend", "abacus"), "--backend abacus: unknown; there are amd,"),
        (("--dtype", "int3"), "--dtype int3: unknown; there are bfloat16,"),
        (("--native", "--reference"), "exclude each other"),
        (("softmacks",), "softmacks: unknown operator; there are"),
    ],
)
def test_usage(kpt, args, message):
    result = kpt("ops", *args)
    assert result.exit_code == 2 and message in result.stderr and result.stdout == ""


@pytest.mark.parametrize("name", sorted(SPECS))
def test_one_operator(kpt, name):
    data = json.loads(kpt("ops", name, "--json").stdout)
    spec = SPECS[name]
    assert data["schema"] == name + spec.schema and data["doc"] == spec.doc.strip()
    assert [v["name"] for v in data["variants"]] == [v.name for v in cpu.variants(name)]
    names = {v["name"] for v in data["variants"] if v["available"]}
    for ran in data["runs_here"].values():
        assert ran["implementation"] == "native", ran
        assert ran["variant"] in names
    text = kpt("ops", name).stdout
    assert f"torch.ops.kpt.{name}" in text and "runs here" in text and "variants" in text


def test_below_a_level_its_variants_are_marked(kpt):
    if cpu.detected_isa() == "baseline":
        pytest.skip("this CPU has no higher level")
    with cpu.isa_limit("baseline"):
        data = json.loads(kpt("ops", "softmax", "--json").stdout)
    assert {v["available"] for v in data["variants"] if v["isa"] != "baseline"} == {False}
    assert "baseline" in data["runs_here"]["float32"]["variant"]


def test_without_the_module_everything_is_a_reference(run):
    code, out, err = run("ops", "--json", KPT_ISA="nonsense")
    assert code == 0
    entries = [e for e in json.loads(out)["ops"] if e["backend"] == "cpu"]
    assert {e["implementation"] for e in entries} == {"reference"}
    assert "the cpu kernels do not run: KPT_ISA: unknown ISA level" in err


def test_what_is_known_of_gpus(kpt):
    """A kernel for a GPU that no record shows running is said to be just that."""
    for entry in _entries(kpt("ops", "--json")):
        on_gpu = entry["implementation"] == "native" and entry["backend"] in GPU_BACKENDS
        run = str(gpu_run(entry["op"], entry["backend"]) or NOT_YET)
        assert entry["gpu_run"] == (run if on_gpu else "")
