"""Example inputs for a model: text through its tokenizer, described tensors, a file, its own.

A described tensor is ``NAME=DTYPE[SHAPE]`` with, after a colon, what it holds: a number for all of
its values or ``LOW..HIGH`` for random ones (HIGH excluded)::

    input_ids=int64[2,16]:0..30522    attention_mask=int64[2,16]:1    float32[8,512]

Without ``NAME=`` it is a positional input. Without values: floats are normal, booleans true, and
integers random below the model's vocabulary, but masks hold 1 and token types 0.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kernel_pytorch.cli.exits import CliError, Exit

__all__ = ["Described", "described", "from_file", "from_text", "of_export", "suggestion"]

_PATTERN = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<dtype>[a-z]\w*)\[(?P<shape>[\d\s,]*)\](?::(?P<values>.+))?"
)
_NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
_VALUES = re.compile(rf"(?P<low>{_NUMBER})(?:\.\.(?P<high>{_NUMBER}))?")
_EXAMPLE = "NAME=DTYPE[SHAPE] as in input_ids=int64[2,16] or float32[8,512]:0..1"


@dataclass(frozen=True, kw_only=True)
class Described:
    """One ``--input``: a tensor's description."""

    name: str
    """ "" for a positional input."""
    dtype: torch.dtype
    shape: tuple[int, ...]
    low: float | None = None
    """Least value; None: as the dtype and the name suggest."""
    high: float | None = None
    """Bound of random values; None: all are ``low``."""

    @staticmethod
    def parse(text: str) -> Described:
        """Raises CliError for anything else than a description."""
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise CliError(f"--input {text}: expected {_EXAMPLE}", Exit.USAGE)
        dtype = getattr(torch, match["dtype"], None)
        if not isinstance(dtype, torch.dtype):
            raise CliError(f"--input {text}: {match['dtype']} is no dtype of torch", Exit.USAGE)
        shape = tuple(int(size) for size in match["shape"].replace(",", " ").split())
        if match["values"] is None:
            return Described(name=match["name"] or "", dtype=dtype, shape=shape)
        values = _VALUES.fullmatch(match["values"])
        if values is None:
            raise CliError(
                f"--input {text}: the values must be NUMBER or LOW..HIGH, got {match['values']}",
                Exit.USAGE,
            )
        low = float(values["low"])
        high = None if values["high"] is None else float(values["high"])
        if high is not None and high <= low:
            raise CliError(f"--input {text}: HIGH must be above LOW", Exit.USAGE)
        return Described(name=match["name"] or "", dtype=dtype, shape=shape, low=low, high=high)

    def make(self, vocabulary: int | None, generator: torch.Generator) -> torch.Tensor:
        """The tensor. Raises CliError for random integers without a range."""
        low, high = self.low, self.high
        if low is None:
            if self.dtype.is_floating_point or self.dtype.is_complex:
                return torch.randn(self.shape, generator=generator).to(self.dtype)
            if self.dtype == torch.bool or self.name.endswith("mask"):
                low = 1
            elif self.name.startswith("token_type"):
                low = 0
            elif vocabulary is None:
                raise CliError(
                    f"--input {self.name or 'of integers'}: say which values, as in "
                    f"{self.name or 'int64'}{'=int64' if self.name else ''}[2,16]:0..1000",
                    Exit.USAGE,
                )
            else:
                low, high = 0, vocabulary
        if high is None:
            return torch.full(self.shape, low).to(self.dtype)
        if self.dtype.is_floating_point:
            uniform = torch.rand(self.shape, generator=generator, dtype=torch.float64)
            return (low + (high - low) * uniform).to(self.dtype)
        return torch.randint(math.ceil(low), math.ceil(high), self.shape, generator=generator).to(
            self.dtype
        )


def described(texts: Sequence[str], model: nn.Module) -> tuple[Any, ...] | dict[str, Any]:
    """The inputs that ``--input`` describes: all named (a dict) or none (a tuple)."""
    found = [Described.parse(text) for text in texts]
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    generator = torch.Generator().manual_seed(0)
    tensors = []
    for text, one in zip(texts, found):
        try:
            tensors.append(one.make(vocabulary, generator))
        except RuntimeError as error:  # too large, or a dtype that holds no such values
            raise CliError(f"--input {text}: {_first_line(error)}", Exit.USAGE) from error
    names = [d.name for d in found]
    if not any(names):
        return tuple(tensors)
    if not all(names) or len(set(names)) < len(names):
        raise CliError("--input: name every input, differently, or none", Exit.USAGE)
    return dict(zip(names, tensors))


def from_text(
    folder: Path, texts: Sequence[str], tokens: int | None, model: nn.Module
) -> dict[str, Any]:
    """The texts as one batch, by the tokenizer in ``folder``: padded to the longest, or cut and
    padded to ``tokens``."""
    import transformers

    if not folder.is_dir() or not any(folder.glob("tokenizer*")) | any(folder.glob("vocab*")):
        raise CliError(f"{folder}: holds no tokenizer for --text; use --input", Exit.USAGE)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        encoded = tokenizer(
            list(texts),
            padding="max_length" if tokens else True,
            truncation=True,
            max_length=tokens,
            return_tensors="pt",
        )
    except Exception as error:  # each tokenizer has its own
        raise CliError(f"{folder}: its tokenizer fails: {_first_line(error)}") from error
    taken = inspect.signature(type(model).forward).parameters
    # Some tokenizers give what their model does not take.
    return {name: encoded[name] for name in encoded if name in taken}


def from_file(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, as inputs by name."""
    import safetensors.torch

    try:
        found: dict[str, Any] = safetensors.torch.load_file(path)
    except Exception as error:  # of the file's reader: many kinds
        raise CliError(f"--inputs {path}: cannot be read: {_first_line(error)}") from error
    return found


def of_export(path: Path) -> Any:
    """The example inputs stored in a ``.pt2`` file: positional ones, or by name; None if it has
    none, or of both kinds."""
    program = torch.export.load(path)
    args, kwargs = program.example_inputs or ((), {})
    if args and kwargs:
        return None
    return tuple(args) if args else dict(kwargs) or None


def suggestion(path: Path, model: nn.Module) -> str:
    """Options that could be the example inputs of ``model``."""
    if path.is_dir() and any(path.glob("tokenizer*")):
        return '--text "as in real use" --text "and another one"'
    names = [
        name
        for name, p in inspect.signature(model.forward).parameters.items()
        if p.default is inspect.Parameter.empty
        and p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    ]
    if "input_ids" in inspect.signature(model.forward).parameters:
        return "--input input_ids=int64[2,16]"
    return " ".join(f"--input '{name}=float32[...]'" for name in names or ["x"])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def shown(inputs: tuple[Any, ...] | Mapping[str, Any]) -> str:
    """Inputs in the notation of ``--input``, for messages."""
    named = inputs.items() if isinstance(inputs, Mapping) else [("", v) for v in inputs]
    return ", ".join(
        (f"{name}=" if name else "")
        + (
            f"{str(v.dtype).removeprefix('torch.')}[{','.join(map(str, v.shape))}]"
            if isinstance(v, torch.Tensor)
            else type(v).__name__
        )
        for name, v in named
    )
