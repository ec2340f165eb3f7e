"""Loading and saving: what works, and what bad files say."""

import json
import os
import shutil

import pytest
import torch
from torch import nn

import kernel_pytorch
from kernel_pytorch.optimize.loading import ModelFileError, load_model
from kernel_pytorch.optimize.saving import SaveError, load_optimized, save_optimized
from tests.python.optimize import small_models
from tests.python.optimize.small_models import outputs, same


@pytest.fixture
def folder(tmp_path):
    small_models.make_bert().save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_hugging_face_folder(folder):
    model = load_model(folder)
    assert type(model).__name__ == "BertModel" and not model.training
    twin = load_model(folder / "model.safetensors")
    inputs = small_models.token_inputs()
    assert same(outputs(model, inputs), outputs(twin, inputs))
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert same(outputs(load_model(folder / "other.safetensors"), inputs), outputs(model, inputs))


def test_exported_file(tmp_path):
    model, x = nn.Linear(4, 3).eval(), torch.randn(2, 4)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "m.pt2")
    assert same(outputs(load_model(tmp_path / "m.pt2"), (x,)), outputs(model, (x,)))


def _truncate(file):
    os.truncate(file, os.path.getsize(file) // 2)


def _write(name, text):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "no weights: expected model.safetensors"),
        (lambda f: _truncate(f / "model.safetensors"), "truncated or not a safetensors file"),
        (_write("model.safetensors", ""), "truncated or not a safetensors file"),
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (_write("config.json", "{"), "config.json: not valid JSON"),
        (_write("config.json", "{}"), "names no model_type"),
        (_write("config.json", '{"model_type": "no such"}'), "cannot load this no such model"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "only pickled weights",
        ),
    ],
)
def test_damaged_folder(folder, damage, match):
    damage(folder)
    with pytest.raises(ModelFileError, match=match):
        load_model(folder)


def test_missing_shard_and_missing_tensor(folder):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match="missing: model-2.safetensors"):
        load_model(folder)
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model-1.safetensors")
    del tensors["encoder.layer.0.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=r"lack encoder.layer.0.output.dense.weight"):
        load_model(folder)


def test_other_bad_paths(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        load_model(tmp_path / "nothing")
    (tmp_path / "m.txt").write_bytes(b"x")
    with pytest.raises(ModelFileError, match="not a model: expected a Hugging Face folder"):
        load_model(tmp_path / "m.txt")
    (tmp_path / "m.pt2").write_bytes(b"x" * 100)
    with pytest.raises(ModelFileError, match=r"m.pt2: not a readable torch.export file"):
        load_model(tmp_path / "m.pt2")


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_saved_and_loaded_again(kind, tmp_path, all_win):
    if kind == "bert":
        model, inputs = small_models.make_bert(), small_models.token_inputs()
    else:
        model = small_models.make_llama(use_cache=False)
        inputs = {"input_ids": torch.randint(0, 100, (2, 16))}
    original = outputs(model, inputs)
    kernel_pytorch.optimize(model, inputs, precision="bf16")
    optimized = outputs(model, inputs)
    saved = save_optimized(model, tmp_path / "out")
    assert {f.name for f in saved.iterdir()} == {"model.safetensors", "config.json", "kpt.json"}
    again = load_optimized(saved)
    assert same(outputs(again, inputs), optimized)
    assert str(kernel_pytorch.report(again)) == str(kernel_pytorch.report(model))
    assert same(outputs(kernel_pytorch.revert(again), inputs), original)
    assert same(outputs(load_model(saved), inputs), original)
    with pytest.raises(FileExistsError, match="exists already"):
        save_optimized(model, saved)
    (saved / "kpt.json").write_text('{"format": 1}')
    with pytest.raises(ModelFileError, match=r"kpt.json: damaged"):
        load_optimized(saved)


def test_nothing_is_left_when_writing_fails(tmp_path, all_win, monkeypatch):
    model, inputs = small_models.make_bert(), small_models.token_inputs()
    with pytest.raises(ValueError, match="was not optimized"):
        save_optimized(model, tmp_path / "out")
    kernel_pytorch.optimize(model, inputs, precision="bf16")
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr("kernel_pytorch.optimize.saving.shutil.disk_usage", lambda _: full)
        with pytest.raises(SaveError, match="not enough disk space: .* MB needed, 0 MB free"):
            save_optimized(model, tmp_path / "out")

    def no_space(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("kernel_pytorch.optimize.saving._write_safetensors", no_space)
        with pytest.raises(SaveError, match="No space left on device"):
            save_optimized(model, tmp_path / "out")

    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kernel_pytorch.optimize.saving._flush", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_optimized(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class _Marked(nn.Module):
    """A model whose pickle runs code: it leaves a mark."""

    def __init__(self, mark):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.mark = mark

    def __setstate__(self, state):
        state["mark"].touch()
        super().__setstate__(state)

    def forward(self, x):
        return self.linear(x)


def test_a_pickle_is_read_only_when_it_is_trusted(tmp_path):
    model, mark = _Marked(tmp_path / "mark").train(), tmp_path / "mark"
    torch.save(model, tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match=r"m\.pt: a pickle, .* pass --trust-pickle"):
        load_model(tmp_path / "m.pt")
    assert not mark.exists()
    loaded = load_model(tmp_path / "m.pt", trust_pickle=True)
    assert mark.exists() and not loaded.training
    x = torch.randn(2, 4)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.save(nn.Linear(2, 2).state_dict(), path), "holds weights alone"),
        (lambda path: torch.save([1], path), "holds list; expected a whole torch.nn.Module"),
        (lambda path: path.write_bytes(b"x" * 100), "not a readable pickle of torch.save"),
    ],
)
def test_trusted_pickles_that_hold_no_model(tmp_path, write, message):
    write(tmp_path / "m.pth")
    with pytest.raises(ModelFileError, match=message):
        load_model(tmp_path / "m.pth", trust_pickle=True)


def test_an_optimized_pickle_stays_a_pickle(tmp_path):
    torch.save(nn.Sequential(nn.Linear(64, 64), nn.GELU()), tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt", trust_pickle=True)
    x = torch.randn(8, 64)
    kernel_pytorch.optimize(model, (x,))
    save_optimized(model, tmp_path / "out", source=tmp_path / "m.pt")
    with pytest.raises(ModelFileError, match="trust_pickle=True"):
        load_optimized(tmp_path / "out")
    again = load_optimized(tmp_path / "out", trust_pickle=True)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))
