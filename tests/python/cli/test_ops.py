"""kpt ops: the table follows the declarations, and one operator's page tells what runs here."""

import json

import pytest

from kernel_pytorch.backends import cpu
from kernel_pytorch.cli.commands.ops import BACKENDS
from kernel_pytorch.ops import SPECS


def _entries(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["ops"]


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
        native = entry["backend"] in SPECS[entry["op"]].native_backends
        assert entry["implementation"] == ("native" if native else "reference")


def test_filters(kpt):
    entries = _entries(kpt("ops", "--json", "--family", "norm", "--dtype", "bf16", "--native"))
    assert {(e["family"], e["dtype"], e["backend"]) for e in entries} == {
        ("norm", "bfloat16", "cpu")
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
    assert {e["implementation"] for e in json.loads(out)["ops"]} == {"reference"}
    assert "the cpu kernels do not run: KPT_ISA: unknown ISA level" in err
