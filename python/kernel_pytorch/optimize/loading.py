"""Models from local files, with messages that say what is wrong with them.

Nothing is downloaded and no code from a model's folder is run, unless a pickle is trusted in words.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kernel_pytorch.core.errors import KernelPyTorchError

__all__ = ["EXPORTED", "PICKLED", "ModelFileError", "exported_file", "load_model", "pickled_file"]

EXPORTED = "model.pt2"
"""A folder with a file of this name holds an exported model."""
PICKLED = "model.pt"
"""A folder with a file of this name and no config.json holds a pickled model."""
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle")
_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"


class ModelFileError(KernelPyTorchError, ValueError):
    """A model's file or folder is missing, damaged or of an unknown kind; the message says which
    file and what to do."""


def load_model(path: str | Path, *, trust_pickle: bool = False) -> nn.Module:
    """A model in evaluation mode, from one of:

    - a Hugging Face folder: ``config.json`` with ``model.safetensors`` (or its sharded form);
    - a ``.safetensors`` file with ``config.json`` beside it;
    - a ``.pt2`` file written by ``torch.export.save``;
    - with ``trust_pickle`` alone, for reading a pickle runs whatever code is in it: a file that
      ``torch.save(model, path)`` wrote.

    A folder written by :func:`kernel_pytorch.optimize.saving.save_optimized` is the first of these,
    or holds ``model.pt2``, and loads as the original; ``load_optimized`` there applies its
    replacements again.

    Raises:
        ModelFileError: naming the file, what is wrong with it, and what was expected.
    """
    path = Path(path)
    if not path.exists():
        raise ModelFileError(f"{path}: no such file or folder")
    if exported := exported_file(path):
        return _exported(exported)
    if pickled := pickled_file(path):
        return _pickled(pickled, trust_pickle)
    if path.suffix == ".safetensors":
        # transformers looks for a fixed name; another name is given as the state dict.
        return _hugging_face(path.parent, [path])
    if path.is_dir():
        return _hugging_face(path, _weight_files(path))
    raise ModelFileError(
        f"{path}: not a model: expected a Hugging Face folder (config.json and model.safetensors), "
        "a .safetensors file with config.json beside it, or a .pt2 file"
    )


def exported_file(path: Path) -> Path | None:
    """The exported program that ``path`` is, or that is in this folder; None without one."""
    if path.suffix == ".pt2":
        return path
    return path / EXPORTED if (path / EXPORTED).is_file() else None


def pickled_file(path: Path) -> Path | None:
    """The pickle that ``path`` is, or that is in this folder; None without one."""
    if path.suffix in _PICKLES:
        return path
    return path / PICKLED if (path / PICKLED).is_file() and not (path / _CONFIG).exists() else None


def _pickled(path: Path, trusted: bool) -> nn.Module:
    if not trusted:
        raise ModelFileError(
            f"{path}: a pickle, which runs any code that is in it when it is read: write the model "
            "as safetensors with its config.json, or with torch.export.save as .pt2; or, where you "
            "trust whoever wrote it, pass --trust-pickle (in Python, trust_pickle=True)"
        )
    with _explained(path, "not a readable pickle of torch.save"):
        model = torch.load(path, map_location="cpu", weights_only=False)
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelFileError(f"{path}: TorchScript, whose code cannot be replaced")
    if not isinstance(model, nn.Module):
        what = "weights alone" if isinstance(model, dict) else type(model).__name__
        raise ModelFileError(f"{path}: holds {what}; expected a whole torch.nn.Module")
    return model.eval()


@contextlib.contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except ModelFileError:
        raise
    except PermissionError as error:
        raise ModelFileError(f"{path}: cannot be read: permission denied") from error
    except MemoryError as error:
        raise ModelFileError(f"{path}: not enough memory to load it") from error
    except Exception as error:  # each format's reader has exceptions of its own
        message = str(error).strip().splitlines()
        detail = message[0] if message else type(error).__name__
        raise ModelFileError(f"{path}: {what}: {detail}") from error


def _exported(path: Path) -> nn.Module:
    with _explained(path, "not a readable torch.export file (truncated, or of another version)"):
        program = torch.export.load(path)
        return program.module()


def _weight_files(folder: Path) -> list[Path]:
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = folder / _INDEX
    if index.is_file():
        with _explained(index, "not a readable index of weight files"):
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelFileError(
                f"{folder}: weight files are missing: {', '.join(missing)} (named in {_INDEX})"
            )
        return [folder / name for name in names]
    if any(folder.glob("pytorch_model*.bin")):
        raise ModelFileError(
            f"{folder}: only pickled weights (pytorch_model.bin), which could run code when read; "
            "convert them to safetensors"
        )
    raise ModelFileError(f"{folder}: no weights: expected model.safetensors")


def _check_weights(file: Path) -> None:
    # Reads the header and the file's length only.
    from safetensors import safe_open

    with _explained(file, "truncated or not a safetensors file"), safe_open(file, "pt") as weights:
        if not list(weights.keys()):
            raise ModelFileError(f"{file}: holds no tensor")


def _hugging_face(folder: Path, files: list[Path]) -> nn.Module:
    config_file = folder / _CONFIG
    if not config_file.is_file():
        raise ModelFileError(f"{folder}: {_CONFIG} is missing")
    with _explained(config_file, "not valid JSON"):
        config = json.loads(config_file.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelFileError(f"{config_file}: names no model_type, so its architecture is unknown")
    for file in files:
        _check_weights(file)
    try:
        import transformers
    except ImportError as error:
        raise ModelFileError(
            f"{folder}: reading a Hugging Face model needs the package transformers: "
            "pip install transformers"
        ) from error
    architectures = config.get("architectures") or []
    loader: Any = getattr(transformers, architectures[0], None) if architectures else None
    with _explained(folder, f"transformers cannot load this {config['model_type']} model"):
        loader = loader or transformers.AutoModel
        given: dict[str, Any] = {}
        if [f.name for f in files] != ["model.safetensors"] and len(files) == 1:
            from safetensors.torch import load_file

            settings = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            given = {"config": settings, "state_dict": load_file(files[0])}
        with _quiet(transformers):
            model, info = loader.from_pretrained(
                None if given else folder,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **given,
            )
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" * (len(missing) > 3))
        raise ModelFileError(
            f"{folder}: the weights lack {shown}; they would be random "
            f"(model class {type(model).__name__})"
        )
    result: nn.Module = model.eval()
    return result


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' progress bar over the weights."""
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
