"""FP8, INT8 and INT4 weights: numbers, a layer, and a real model with what that costs it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from kernel_pytorch.core.dispatch_log import explain
from kernel_pytorch.demos.sentences import Encoder, embeddings_of, model_folder, sentences
from kernel_pytorch.demos.walkthrough import Walkthrough
from kernel_pytorch.optimize.loading import load_model
from kernel_pytorch.precision import (
    FP8Dtype,
    FP8InferenceEngine,
    NativeFP8Linear,
    benchmark_fp8_layer,
    compute_fp8_scale,
    convert_model_to_native_fp8,
    dequantize_from_fp8,
    quantization_report,
    quantize_to_fp8,
    stored_bytes,
)

__all__ = ["run"]

_TOP = 10
# format: (smallest cosine of a sentence, share of sentences with the same nearest one)
_BOUNDS = {
    "fp8 e4m3": (0.995, 0.95),
    "fp8 e5m2": (0.98, 0.9),
    "int8": (0.999, 0.95),
    "int4": (0.95, 0.85),
}
_FORMATS: dict[str, FP8Dtype | str] = {
    "fp8 e4m3": FP8Dtype.E4M3,
    "fp8 e5m2": FP8Dtype.E5M2,
    "int8": "int8",
    "int4": "int4",
}


def run(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Walkthrough:
    """The walk. ``quick``: a smaller layer and few sentences.

    Raises DemoUnavailableError where the model's weights are not installed.
    """
    shown = Walkthrough(title="FP8, INT8 and INT4")
    say("FP8 numbers")
    _numbers(shown)
    say("NativeFP8Linear")
    _layer(shown, 512 if quick else 4096)
    _model(shown, quick, say)
    return shown.finished()


def _numbers(shown: Walkthrough) -> None:
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    rows = []
    for format, bound in ((FP8Dtype.E4M3, 0.03), (FP8Dtype.E5M2, 0.06)):
        scale = compute_fp8_scale(x, format)
        codes, _ = quantize_to_fp8(x, scale, format)
        error = float((dequantize_from_fp8(codes, scale) - x).norm() / x.norm())
        shown.at_most(f"{format.value}: there and back, relative error", error, bound)
        rows.append((format.value, f"{format.largest:g}", f"{float(scale):.2f}", f"{error:.4f}"))
    shown.listing("numbers", ("format", "largest", "scale", "error"), rows)


def _layer(shown: Walkthrough, size: int) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(size, size, dtype=torch.bfloat16)
    layer = NativeFP8Linear.from_linear(copy.deepcopy(plain)).freeze().eval()
    per_weight = stored_bytes([layer]) / (size * size)
    shown.at_most("NativeFP8Linear: bytes a weight, measured", per_weight, 1.02)
    x = torch.randn(16, size, dtype=torch.bfloat16)
    with torch.no_grad(), explain() as calls:
        error = float((layer(x) - plain(x)).float().norm() / plain(x).float().norm())
    shown.at_most("NativeFP8Linear: relative error", error, 0.04)
    shown.at_least("NativeFP8Linear: native calls", float(not calls.fallbacks), 1.0)
    rows = []
    for count in (1, 16, 512):
        # Timings are shown, never judged: the machine may be busy.
        found = benchmark_fp8_layer(size, size, count, num_iterations=8 if count > 16 else 40)
        rows.append(
            (
                str(count),
                f"{found['standard_time_ms']:.3f}",
                f"{found['fp8_time_ms']:.3f}",
                f"{found['speedup']:.2f}x",
            )
        )
    heads = ("rows", "nn.Linear bf16, ms", "NativeFP8Linear, ms", "times faster")
    shown.listing(f"a layer of {size} x {size}, {per_weight:.3f} bytes a weight", heads, rows)


def _model(shown: Walkthrough, quick: bool, say: Callable[[str], None]) -> None:
    folder = model_folder()
    encoder = Encoder(folder)
    texts = sentences()[: 16 if quick else 128]
    original = load_model(folder)
    before = embeddings_of(encoder, original, texts)
    ranks = _ranking(before)
    rows = []
    for name, format in _FORMATS.items():
        say(f"all-MiniLM-L6-v2 in {name}")
        converted = convert_model_to_native_fp8(original, format)
        report = quantization_report(converted)
        after = embeddings_of(encoder, converted, texts)
        cosines = (before * after).sum(1)
        found = _ranking(after)
        nearest = float((found[:, 0] == ranks[:, 0]).float().mean())
        overlap = _overlap(found[:, :_TOP], ranks[:, :_TOP])
        least, bound = _BOUNDS[name]
        shown.at_least(f"{name}: smallest cosine of a sentence", float(cosines.min()), least)
        shown.at_least(f"{name}: same nearest sentence, share", nearest, bound)
        layers = [r for r in report.layers if r.converted]
        share = sum(r.bytes_after for r in layers) / sum(r.bytes_before for r in layers)
        shown.at_most(f"{name}: bytes of the layers, of float32's", share, 0.27)
        rows.append(
            (
                name,
                f"{float(cosines.min()):.5f}",
                f"{float(cosines.mean()):.5f}",
                f"{nearest:.1%}",
                f"{overlap:.1%}",
                f"{share:.3f}",
            )
        )
    heads = (
        "weights",
        "smallest cosine",
        "mean cosine",
        "same nearest",
        f"top {_TOP} in common",
        "bytes of layers",
    )
    shown.listing(f"all-MiniLM-L6-v2, {len(texts)} sentences, against float32", heads, rows)
    say("calibrating it, layer by layer")
    tokens = encoder.tokens(texts[: 1 if quick else 4])
    engine = FP8InferenceEngine(original, FP8Dtype.E5M2, calibration_data=dict(tokens))
    engine.prepare()
    after = embeddings_of(encoder, engine.model, texts)
    shown.at_least(
        "e5m2 weights, calibrated e4m3 activations: smallest cosine",
        float((before * after).sum(1).min()),
        0.97,
    )
    memory = engine.get_memory_savings()
    shown.at_least("times smaller than float32, measured", memory["savings_ratio"], 3.8)
    layers = sorted(engine.report.layers, key=lambda r: -(r.sensitivity or 0.0))
    figures = [(r.name, f"{r.sensitivity:.2e}") for r in (*layers[:4], *layers[-2:])]
    shown.listing("most and least sensitive layers", ("layer", "error of the output"), figures)


def _ranking(embeddings: torch.Tensor) -> torch.Tensor:
    """For each sentence the others, the nearest first."""
    similar = (embeddings @ embeddings.T).fill_diagonal_(-2.0)
    return similar.argsort(dim=1, descending=True)


def _overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    """The mean share of a row of ``a`` that is in that of ``b``."""
    return float((a[:, :, None] == b[:, None, :]).any(-1).float().mean())
