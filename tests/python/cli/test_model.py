"""kpt plan and kpt optimize: models from files, example inputs, what is written and refused."""

import json
import os
import shutil
import signal

import pytest
import torch
from torch import nn

import kernel_pytorch
from kernel_pytorch.optimize.measure import Timing
from kernel_pytorch.optimize.saving import load_optimized

_IDS = ("--input", "input_ids=int64[2,16]")
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "small", "model", "of", "words"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A Hugging Face folder with a tokenizer; not to be changed."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "bert"
    config = BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=100,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    BertModel(config).eval().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(_WORDS) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(saved, tmp_path / "bert")


@pytest.fixture(autouse=True)
def _all_win(monkeypatch):
    """Every replacement counts as faster: small models are too quick to judge."""
    monkeypatch.setattr(Timing, "wins", property(lambda self: True))
    monkeypatch.setattr(Timing, "loses", property(lambda self: False))
    monkeypatch.setattr("kernel_pytorch.optimize.session._GROUP_SECONDS", 1e-9)
    monkeypatch.setattr("kernel_pytorch.optimize.session._PLAN_SECONDS", 1e-9)
    monkeypatch.setattr("kernel_pytorch.optimize.judge._MODEL_SECONDS", 1e-9)


def test_plan(kpt, saved):
    before = {f.name: f.read_bytes() for f in saved.iterdir()}
    data = json.loads(kpt("plan", saved, *_IDS, "--json").stdout)
    assert data["planned_only"] and data["precision"] == "keep"
    assert "encoder block" in {r["kind"] for r in data["replacements"]}
    assert {f.name: f.read_bytes() for f in saved.iterdir()} == before


@pytest.mark.parametrize("columns", ["80", "120"])
def test_plan_as_a_table(kpt, saved, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    result = kpt("plan", saved, *_IDS, "--precision", "bf16", "--html", tmp_path / "p.html")
    assert result.exit_code == 0
    for words in ("plan BertModel, precision bf16", "encoder block", "packed_linear"):
        assert words in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= int(columns)
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>")


def test_optimize_writes_a_model_that_loads(kpt, saved, tmp_path):
    out = tmp_path / "new" / "out"
    args = ("--text", "a small model", "--text", "of words", "--precision", "bf16")
    result = kpt("optimize", saved, "-o", out, *args, "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["output"] == str(out) and data["model"]["cosine"] > 0.99
    names = {f.name for f in out.iterdir()}
    assert {"model.safetensors", "config.json", "kpt.json", "tokenizer.json"} <= names
    modes = {f.stat().st_mode & 0o777 for f in out.iterdir()}
    umask = os.umask(0)
    os.umask(umask)
    assert modes == {0o666 & ~umask}
    again = load_optimized(out)
    assert kernel_pytorch.report(again).kept
    assert list(tmp_path.joinpath("new").iterdir()) == [out]


def test_optimize_a_safetensors_file(kpt, folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    out = tmp_path / "out"
    result = kpt("optimize", folder / "weights.safetensors", "-o", out, *_IDS)
    assert result.exit_code == 0, result.stderr
    assert "optimize BertModel" in result.stdout and f"wrote {out}" in result.stderr


def test_optimize_an_exported_model_with_its_own_inputs(kpt, tmp_path):
    model = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 64)).eval()
    x = torch.randn(8, 64)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "m.pt2")
    out = tmp_path / "out"
    result = kpt("optimize", tmp_path / "m.pt2", "-o", out, "--precision", "bf16")
    assert result.exit_code == 0, result.stderr
    assert {f.name for f in out.iterdir()} == {"model.safetensors", "model.pt2", "kpt.json"}
    again = load_optimized(out)
    with torch.no_grad(), kernel_pytorch.explain() as calls:
        y = again(x)
    assert torch.allclose(y, model(x), atol=0.05)
    assert {c.implementation for c in calls} == {"native"}
    assert kpt("plan", out).exit_code == 0  # the folder is a model like any other


def test_inputs_from_a_file(kpt, saved, tmp_path):
    from safetensors.torch import save_file

    ids = torch.randint(0, 100, (3, 8))
    save_file({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, tmp_path / "i")
    data = json.loads(kpt("plan", saved, "--inputs", tmp_path / "i", "--json").stdout)
    assert "3x8x64" in {r["shapes"] for r in data["replacements"]}


@pytest.mark.parametrize(
    ("text", "dtype", "shape", "least", "greatest"),
    [
        ("float32[2,3]", torch.float32, (2, 3), -9, 9),
        ("x=bfloat16[4]:0..1", torch.bfloat16, (4,), 0, 1),
        ("x=float64[2]:-1.5", torch.float64, (2,), -1.5, -1.5),
        ("ids=int64[5,50]:3..7", torch.int64, (5, 50), 3, 6),
        ("ids=int32[200]", torch.int32, (200,), 0, 99),
        ("attention_mask=int64[2,2]", torch.int64, (2, 2), 1, 1),
        ("token_type_ids=int64[2]", torch.int64, (2,), 0, 0),
        ("flags=bool[3]", torch.bool, (3,), 1, 1),
        ("scalar=float32[]:2", torch.float32, (), 2, 2),
    ],
)
def test_described_inputs(text, dtype, shape, least, greatest):
    from kernel_pytorch.cli.inputs import Described

    made = Described.parse(text).make(100, torch.Generator().manual_seed(0))
    assert made.dtype == dtype and tuple(made.shape) == shape
    assert least <= made.double().min() and made.double().max() <= greatest


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), '--text "as in real use"'),
        (("--input", "input_ids"), "expected NAME=DTYPE[SHAPE]"),
        (("--input", "input_ids=int[2]x"), "expected NAME=DTYPE[SHAPE]"),
        (("--input", "input_ids=integer[2]"), "integer is no dtype of torch"),
        (("--input", "input_ids=int3[2]"), "--input input_ids=int3[2]: "),
        (("--input", "x=float32[999999999,999999999]"), "--input x=float32[999999999,999999999]: "),
        (("--input", "input_ids=int64[2]:x"), "must be NUMBER or LOW..HIGH"),
        (("--input", "input_ids=int64[2]:3..3"), "HIGH must be above LOW"),
        ((*_IDS, "--input", "int64[2]:1"), "name every input, differently, or none"),
        ((*_IDS, *_IDS), "name every input, differently, or none"),
        ((*_IDS, "--text", "a"), "exclude each other"),
        ((*_IDS, "--tokens", "3"), "--tokens goes with --text"),
        (("--input", "nothing=int64[2,3]:1"), "cannot run the example inputs nothing=int64[2,3]"),
        (("--input", "input_ids=int64[2,999]"), "cannot run the example inputs"),
        ((*_IDS, "--precision", "int3"), "--precision"),
        ((*_IDS, "--max-error", "-1"), "--max-error"),
    ],
)
def test_usage(kpt, saved, args, message):
    result = kpt("plan", saved, *args)
    assert result.exit_code == 2, result.stderr
    assert message in result.stderr and result.stdout == "" and "Traceback" not in result.stderr


def test_sizes(kpt, saved, tmp_path):
    from kernel_pytorch.cli.commands.model import _bytes

    assert [_bytes(t) for t in ("12", "5k", "1.5M", "2GiB", "3 GB")] == [
        12, 5000, 1_500_000, 2 << 30, 3 * 10**9,
    ]  # fmt: skip
    result = kpt("optimize", saved, "-o", tmp_path / "o", *_IDS, "--max-memory", "much")
    assert result.exit_code == 2 and "expected a size as 500M" in result.stderr


def test_memory_bound(kpt, saved, tmp_path):
    result = kpt("optimize", saved, "-o", tmp_path / "o", *_IDS, "--max-memory", "1k", "--json")
    data = json.loads(result.stdout)
    assert not any(r["kept"] for r in data["replacements"] if r["extra_bytes"] > 1000)


def _truncate(file):
    os.truncate(file, os.path.getsize(file) // 2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such file or folder"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights: expected model.safetensors"),
        (lambda f: _truncate(f / "model.safetensors"), "truncated or not a safetensors file"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "optimize"])
def test_unreadable_models(kpt, folder, tmp_path, damage, message, command):
    damage(folder)
    more = ("-o", tmp_path / "out") if command == "optimize" else ()
    result = kpt(command, folder, *more, *_IDS, "--json")
    assert result.exit_code == 3 and message in result.stderr
    assert json.loads(result.stdout)["exit_code"] == 3
    assert "Traceback" not in result.stderr and not (tmp_path / "out").exists()


def test_other_unreadable_files(kpt, tmp_path, folder):
    (tmp_path / "m.pt2").write_bytes(b"PK" * 50)
    assert kpt("plan", tmp_path / "m.pt2").exit_code == 3
    (tmp_path / "m.txt").write_bytes(b"x")
    assert "not a model: expected" in kpt("plan", tmp_path / "m.txt").stderr
    result = kpt("plan", folder, "--inputs", tmp_path / "m.txt")
    assert result.exit_code == 3 and "cannot be read" in result.stderr
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    result = kpt("plan", folder, "--text", "a")
    assert result.exit_code == 2 and "holds no tokenizer" in result.stderr


def test_an_output_that_exists(kpt, saved, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr("kernel_pytorch.optimize.loading.load_model", lambda _: pytest.fail("read"))
    for out in (tmp_path, tmp_path / "file"):
        result = kpt("optimize", saved, "-o", out, *_IDS)
        assert result.exit_code == 4 and "name a new or empty folder" in result.stderr


def test_no_space(kpt, saved, tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("kernel_pytorch.optimize.saving.shutil.disk_usage", lambda _: full)
    result = kpt("optimize", saved, "-o", tmp_path / "out", *_IDS)
    assert result.exit_code == 4 and "not enough disk space" in result.stderr
    assert "Traceback" not in result.stderr and list(tmp_path.iterdir()) == []


def test_strict(kpt, saved, tmp_path, monkeypatch):
    from kernel_pytorch.core.errors import StrictModeError

    def refuse(*_, **options):
        assert options["strict"]
        raise StrictModeError("optimize: no native kernel (strict mode)")

    monkeypatch.setattr(kernel_pytorch, "optimize", refuse)
    result = kpt("optimize", saved, "-o", tmp_path / "out", *_IDS, "--strict")
    assert result.exit_code == 1 and "strict mode" in result.stderr
    assert not (tmp_path / "out").exists()


_SLOW = """
import sys, time
from kernel_pytorch.optimize import {module} as module
real = module.{function}
def slow(*args, **kwargs):
    real(*args, **kwargs)
    print("inside", file=sys.stderr, flush=True)
    time.sleep(60)
module.{function} = slow
from kernel_pytorch import cli
sys.exit(cli.main(sys.argv[1:]))
"""


def _started(start, work, saved, module, function):
    """An optimization that has come to a function of the package, and stays there."""
    work.mkdir()
    code = _SLOW.format(module=module, function=function)
    process = start("optimize", saved, "-o", work / "out", *_IDS, code=code)
    assert any(line.startswith("inside") for line in process.stderr)
    return process


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_while_writing(start, saved, tmp_path, stop, code):
    work = tmp_path / "work"
    process = _started(start, work, saved, "saving", "_write_safetensors")
    assert list(work.iterdir())  # half written, under another name
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err and list(work.iterdir()) == []


def test_stopped_while_optimizing(start, saved, tmp_path):
    work = tmp_path / "work"
    process = _started(start, work, saved, "session", "paired")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted; nothing was written" in err and "Traceback" not in err
    assert list(work.iterdir()) == []
