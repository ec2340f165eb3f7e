"""Optimized models on disk: an ordinary Hugging Face folder, with what was decided beside it.

``model.safetensors`` and ``config.json`` (of an exported model, ``model.pt2``) are the original
model, which any tool reads; ``kpt.json`` lists the replacements that were kept, with the
measurements, and :func:`load_optimized` makes them again (packing is quick, exact, and bound to no
version of the packed layout). The folder appears complete or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kernel_pytorch._version import __version__
from kernel_pytorch.core.errors import KernelPyTorchError
from kernel_pytorch.optimize.attention import AttentionSwitch
from kernel_pytorch.optimize.candidates import survey
from kernel_pytorch.optimize.fuse import Convention, FusedReplacement
from kernel_pytorch.optimize.installed import ATTRIBUTE, Installed
from kernel_pytorch.optimize.loading import (
    EXPORTED,
    PICKLED,
    ModelFileError,
    exported_file,
    load_model,
    pickled_file,
)
from kernel_pytorch.optimize.policy import policy
from kernel_pytorch.optimize.replacement import Replacement
from kernel_pytorch.optimize.results import Report

__all__ = ["SaveError", "load_optimized", "save_optimized"]

_FORMAT = 1


def load_optimized(folder: str | Path, *, trust_pickle: bool = False) -> nn.Module:
    """The model of a folder that :func:`save_optimized` wrote, optimized as it was.

    Nothing is measured again: the report is that of the machine which optimized it, and
    ``kernel_pytorch.optimize`` on the model that :func:`load_model` loads measures here. A model
    that came from a pickle is in the folder as one, and needs ``trust_pickle``.

    Raises:
        ModelFileError: the folder is damaged, or a replacement does not fit the model.
    """
    folder = Path(folder)
    model = load_model(folder, trust_pickle=trust_pickle)
    file = folder / "kpt.json"
    if not file.is_file():
        raise ModelFileError(f"{folder}: kpt.json is missing: not written by save_optimized")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise ModelFileError(f"{file}: format {found['format']}, this version reads {_FORMAT}")
        installed = Installed(found["precision"])
        installed.replacements = _rebuilt(model, found)
        if found["attention"]:
            installed.switch = AttentionSwitch(model, policy(found["precision"]))
        installed.report = Report.from_dict(found["report"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{file}: damaged: {error}") from error
    installed.set(True)
    model.__dict__[ATTRIBUTE] = installed
    return model


def _rebuilt(model: nn.Module, found: dict[str, Any]) -> dict[str, Replacement]:
    candidates = {c.name: c for c in survey(model).candidates}
    made: dict[str, Replacement] = {}
    for name, entry in found["replacements"].items():
        candidate = candidates.get(name)
        problem = "" if candidate else "the model has no such part"
        if candidate is not None and candidate.build is None:
            problem = candidate.trace(Convention.from_json(entry["call"]))
        if candidate is None or candidate.build is None:
            raise ModelFileError(f"kpt.json: {name} ({entry['kind']}): {problem}")
        made[name] = candidate.build(policy(found["precision"]))
        if entry["streams"]:
            made[name].streams = True  # type: ignore[attr-defined]
    return made


class SaveError(KernelPyTorchError, OSError):
    """Writing failed (no space, no permission); nothing was left behind."""


def save_optimized(
    model: nn.Module, folder: str | Path, *, source: str | Path | None = None
) -> Path:
    """Write an optimized model; returns the folder.

    Args:
        model: a model that :func:`kernel_pytorch.optimize` returned.
        folder: must not exist, or be empty.
        source: what the model was loaded from: of a folder, the tokenizer files are copied too; a
            ``.pt2`` file or a pickle is copied itself, for it alone holds the model's code.

    Raises:
        ValueError: the model was not optimized.
        FileExistsError: the folder holds something.
        SaveError: no space left, or no permission; the disk is as it was.
    """
    installed = model.__dict__.get(ATTRIBUTE)
    if not isinstance(installed, Installed) or installed.report is None:
        raise ValueError("save_optimized: this model was not optimized")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: exists already; give a new or empty folder")
    weights = _contiguous(model.state_dict())
    exported = None if source is None else exported_file(Path(source))
    pickled = None if source is None or exported else pickled_file(Path(source))
    itself = exported or pickled
    with _written_whole(folder) as partial:
        _check_space(partial, weights, itself.stat().st_size if itself else 0)
        _write_safetensors(partial / "model.safetensors", weights)
        description = _description(installed)
        (partial / "kpt.json").write_text(json.dumps(description, indent=2) + "\n")
        config: Any = getattr(model, "config", None)
        if installed.switch is not None:
            config = installed.switch.config
        if hasattr(config, "to_json_file"):
            # The class of the model, so that the same one is made when it is loaded.
            config.architectures = config.architectures or [type(model).__name__]
            config.to_json_file(partial / "config.json")
        if itself is not None:
            shutil.copyfile(itself, partial / (EXPORTED if exported else PICKLED))
        elif source is not None:
            _copy_companions(Path(source), partial)
    return folder


def _description(installed: Installed) -> dict[str, Any]:
    assert installed.report is not None
    return {
        "format": _FORMAT,
        "kernel_pytorch": __version__,
        "precision": installed.precision,
        "attention": installed.switch is not None,
        "replacements": {
            name: {
                "kind": r.kind,
                "ops": list(r.ops),
                "call": r.convention.to_json() if isinstance(r, FusedReplacement) else None,
                "streams": getattr(r, "streams", False),
            }
            for name, r in installed.replacements.items()
        },
        "report": installed.report.to_dict(),
    }


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each storage once (tied weights under their first name), as safetensors wants them."""
    seen: set[tuple[int, tuple[int, ...]]] = set()
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in seen or tensor.numel() == 0:
            seen.add(key)
            kept[name] = tensor.detach().contiguous()
    return kept


def _write_safetensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    # safetensors refuses tensors that share memory: views of one buffer are written as copies.
    pointers = [t.untyped_storage().data_ptr() for t in tensors.values()]
    shared = {p for p in pointers if pointers.count(p) > 1}
    save_file(
        {
            n: t.clone() if t.untyped_storage().data_ptr() in shared else t
            for n, t in tensors.items()
        },
        file,
        metadata={"format": "pt"},
    )


def _check_space(folder: Path, tensors: dict[str, torch.Tensor], further: int) -> None:
    needed = sum(t.nbytes for t in tensors.values()) + further + (1 << 20)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SaveError(
            f"{folder.parent}: not enough disk space: {needed / 1e6:.0f} MB needed, "
            f"{free / 1e6:.0f} MB free"
        )


def _copy_companions(source: Path, target: Path) -> None:
    names = ("tokenizer", "vocab", "merges", "special_tokens", "generation_config", "added_tokens")
    for file in sorted(source.glob("*")):
        if file.is_file() and file.name.startswith(names):
            shutil.copyfile(file, target / file.name)


@contextlib.contextmanager
def _written_whole(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder`` that takes its place at the end, or vanishes."""
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield partial
        # Some writers make files for the owner alone; these get what new files usually get.
        umask = os.umask(0)
        os.umask(umask)
        for file in partial.iterdir():
            file.chmod(0o666 & ~umask)
            _flush(file)
        partial.chmod(0o777 & ~umask)
        if folder.exists():
            folder.rmdir()
        os.replace(partial, folder)
    except BaseException as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, SaveError) or not isinstance(error, Exception):
            raise
        # safetensors reports a full disk as an exception of its own.
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise SaveError(f"{folder}: cannot be written: {error}") from error
        raise


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
