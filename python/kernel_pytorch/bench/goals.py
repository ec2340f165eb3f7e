"""What the rows of a suite are to reach: numbers set before the kernels were tuned."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAMILIES", "SUITES", "Goal", "goal_of"]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The least ratio to PyTorch's time, and the least share of the machine's limit, of rows."""

    op: str
    rows: tuple[str, ...]
    dtype: str
    ratio: float | None = None
    share: float | None = None
    why: str = ""
    """What was measured where the goal is missed; "" where it is met."""


def _goal(
    op: str,
    dtype: str,
    *rows: str,
    ratio: float | None = None,
    share: float | None = None,
    why: str = "",
) -> Goal:
    return Goal(op=op, rows=rows, dtype=dtype, ratio=ratio, share=share, why=why)


def _square(m: int, prefix: str = "", activations: tuple[str, ...] = ("none", "gelu")) -> list[str]:
    return [f"{prefix}4096x4096 M={m} {activation}" for activation in activations]


_ATTENTION = (
    _goal(
        "attention_forward",
        "bfloat16",
        "B1 H16 S2048 D128 causal",
        "B1 H8 S4096 D128",
        ratio=2.4,
        share=0.75,
    ),
    _goal("attention_forward", "bfloat16", "B1 H12 S512 D64 causal", ratio=4),
    _goal("attention_forward", "bfloat16", "B1 H12 S512 D64", ratio=2.4),
    _goal("attention_forward", "bfloat16", "B32 H12 S128 D32 causal", ratio=4),
    _goal("attention_forward", "bfloat16", "B32 H12 S128 D32", ratio=3),
    _goal("attention_forward", "float32", "B1 H16 S2048 D128 causal", ratio=1.4, share=0.75),
    _goal(
        "attention_forward",
        "float32",
        "B1 H16 S1024 D64 causal",
        "B1 H16 S1024 D64",
        ratio=1.8,
        share=0.75,
    ),
)

_ATTENTION_BACKWARD = (
    _goal(
        "attention_backward",
        "bfloat16",
        "B1 H16 S2048 D128 causal",
        "B1 H8 S2048 D128",
        ratio=1.8,
    ),
    _goal("attention_backward", "bfloat16", "B1 H12 S512 D64 causal", "B1 H12 S512 D64", ratio=3),
    _goal(
        "attention_backward",
        "bfloat16",
        "B32 H12 S128 D32 causal",
        "B32 H12 S128 D32",
        ratio=1.3,
    ),
    _goal(
        "attention_backward",
        "float32",
        "B1 H16 S2048 D128 causal",
        "B1 H16 S1024 D64 causal",
        "B1 H16 S1024 D64",
        "B32 H12 S128 D32",
        ratio=1.3,
    ),
)

_DECODE = (
    _goal("attention_decode", "bfloat16", "B8 H32/32 keys 4096 D128", ratio=6, share=0.9),
    _goal("attention_decode", "bfloat16", "B1 H32/8 keys 16384 D128", ratio=25, share=0.9),
    _goal(
        "attention_decode",
        "bfloat16",
        "B8 H32/32 keys 4096 D128 int8 cache / bf16 cache",
        ratio=1.6,
    ),
    _goal(
        "attention_decode",
        "bfloat16",
        "B1 H32/8 keys 16384 D128 int8 cache / bf16 cache",
        ratio=1.25,
    ),
)

# All of these read the cache once: what is left is their own cost.
_CACHES = (
    _goal("attention_decode", "float32", "B1 H32/8 keys 16384 D128", share=0.9),
    *(
        _goal("attention_decode", "bfloat16", f"{sizes} D128{cache}", share=0.9)
        for sizes, caches in (
            ("B1 H32/8 keys 512", ("",)),
            ("B1 H32/8 keys 32768", ("",)),
            ("B8 H32/8 keys 4096", ("",)),
            ("B32 H32/8 keys 2048", ("",)),
            ("B32 H32/8 keys 512", ("", " int8 cache", " fp8 cache")),
            ("B1 H32/8 keys 16384", (" int8 cache", " fp8 cache")),
            ("B8 H32/32 keys 4096", (" int8 cache", " fp8 cache")),
        )
        for cache in caches
    ),
    *(
        _goal("attention_paged", "bfloat16", f"{sizes} D128 page {page}{cache}", share=0.9)
        for sizes, caches in (
            ("B8 H32/8 keys 4096", ("", " int8 cache", " fp8 cache")),
            ("B32 H32/8 keys 512", ("",)),
            ("B1 H32/8 keys 32768", ("",)),
        )
        for cache in caches
        for page in (128, 16)
    ),
)

_LINEAR = (
    *(
        _goal("linear_act", "bfloat16", *_square(m), ratio=ratio)
        for m, ratio in ((1, 1.8), (16, 1.3), (64, 1.05), (128, 1), (512, 1), (4096, 1))
    ),
    _goal("linear_act", "float32", *_square(1), share=0.9),
    _goal("linear_act", "float32", *_square(512), ratio=1.2),
    *(
        _goal("packed_linear", "bfloat16", *_square(m, "bf16 "), ratio=ratio)
        for m, ratio in ((1, 1.9), (16, 1.6), (128, 1.1))
    ),
    _goal("packed_linear", "bfloat16", *_square(512, "bf16 "), share=0.95),
)


def _read_why(share: float) -> str:
    return (
        f"a core alone takes the weight in at {100 * share:.0f}% of the rate at which it reads the "
        "same bytes and does nothing: decoding and dot products do not hide behind the reads wholly"
    )


_SIXTEEN_ROWS = (
    "a core alone computes at 76% of the rate of its bf16 dot products: they bound the row, not "
    "memory, and decoding a slice of the weight and storing it takes the rest"
)

_LOW_PRECISION = (
    _goal(
        "packed_linear",
        "bfloat16",
        *_square(1, "fp8_e4m3 "),
        ratio=3.4,
        share=0.92,
        why=_read_why(0.86),
    ),
    _goal("packed_linear", "bfloat16", *_square(16, "fp8_e4m3 "), ratio=1.6, why=_SIXTEEN_ROWS),
    _goal("packed_linear", "bfloat16", *_square(512, "fp8_e4m3 "), ratio=0.97),
    _goal("packed_linear", "bfloat16", *_square(1, "int8 "), ratio=3.4, why=_read_why(0.88)),
    _goal("packed_linear", "bfloat16", *_square(16, "int8 "), ratio=1.6, why=_SIXTEEN_ROWS),
    _goal("packed_linear", "bfloat16", *_square(512, "int8 int8 compute ", ("none",)), share=0.9),
    _goal("fp8_gemm", "float8_e4m3fn", "row 4096x4096 M=1 none", ratio=3.4, share=0.92),
    _goal("fp8_gemm", "float8_e4m3fn", "row 4096x4096 M=16 none", ratio=1.6),
    _goal("fp8_gemm", "float8_e4m3fn", "row 4096x4096 M=512 none", ratio=0.97),
    _goal("fp8_gemm", "float8_e4m3fn", "tensor 4096x4096 M=512 none / _scaled_mm", ratio=4),
    _goal("int8_gemm", "int8", "4096x4096 M=512", share=0.85),
    _goal(
        "packed_linear",
        "bfloat16",
        *_square(1, "fp8_e5m2 ", ("none",)),
        ratio=3.4,
        why=_read_why(0.86),
    ),
    _goal(
        "packed_linear",
        "bfloat16",
        *_square(1, "int4 g128 ", ("none",)),
        ratio=6,
        why=_read_why(0.68),
    ),
    _goal("packed_linear", "bfloat16", *_square(16, "int4 g128 ", ("none",)), ratio=1.8),
)

_EXPERTS = (
    *(
        _goal("moe_ffn", "bfloat16", f"4096 tokens, 2 of 8 experts {d}-{4 * d}", ratio=1.15)
        for d in (512, 1024)
    ),
    _goal("moe_ffn", "bfloat16", "32 tokens, 2 of 8 experts 1024-4096", ratio=3),
    _goal(
        "moe_ffn",
        "bfloat16",
        "32 tokens, 2 of 8 experts 1024-4096, fp8 weights against bf16",
        ratio=3,
    ),
    _goal("moe_ffn", "bfloat16", "4 tokens, 2 of 64 experts 128-512", ratio=5),
)

# In cache, and into a given output that lies in memory: a copy is that row's limit.
#
# Cycles of one core at 3.69 GHz for 16 elements, the kernel alone, measured with a single thread in
# the same processes as the copies: of 512x1024 in cache, and of 2048x4096 from and to memory.
_MOVE = {"bfloat16": (2.6, 10.1), "float32": (4.9, 18.9)}  # a copy


def _cycle_goals(
    op: str,
    prefix: str,
    ratios: dict[str, float],
    cycles: dict[str, tuple[float, float]],
) -> tuple[Goal, ...]:
    found = []
    for dtype, (hot, cold) in cycles.items():
        move_hot, move_cold = _MOVE[dtype]
        seconds = hot * 512 * 1024 / 16 / 2 / 3.69e9
        in_cache = (
            f"a core takes {hot} cycles for 16 elements, a copy {move_hot}: {seconds * 1e6:.0f} us "
            "on two cores, before the call, its new output and the second thread's start"
        )
        in_memory = (
            f"a core takes {cold} cycles for 16 elements from and to memory, a copy {move_cold}, "
            f"what lies in cache {hot}: arithmetic and memory overlap only in part"
        )
        found += [
            _goal(op, dtype, f"{prefix}512x1024", ratio=ratios[dtype], why=in_cache),
            _goal(op, dtype, f"{prefix}4096x4096 out=", share=0.85, why=in_memory),
        ]
    return tuple(found)


_ROWS = (
    *_cycle_goals(
        "rms_norm",
        "",
        {"bfloat16": 5, "float32": 2},
        {"bfloat16": (5.8, 12.9), "float32": (7.0, 23.9)},
    ),
    *_cycle_goals(
        "layer_norm",
        "",
        {"bfloat16": 3, "float32": 1.5},
        {"bfloat16": (10.6, 18.6), "float32": (13.2, 28.8)},
    ),
    *_cycle_goals(
        "softmax",
        "",
        {"bfloat16": 4, "float32": 3},
        {"bfloat16": (12.3, 21.8), "float32": (18.6, 33.4)},
    ),
    *_cycle_goals(
        "act",
        "gelu ",
        {"bfloat16": 4, "float32": 2.5},
        {"bfloat16": (8.9, 15.1), "float32": (14.1, 21.5)},
    ),
    _goal("dequantize_fp8", "float8_e4m3fn", "1024x4096 tensor to bfloat16 out=", share=0.8),
)

SUITES: dict[str, tuple[Goal, ...]] = {
    "cpu": (
        *_ATTENTION,
        *_ATTENTION_BACKWARD,
        *_DECODE,
        *_LINEAR,
        *_LOW_PRECISION,
        *_EXPERTS,
        *_ROWS,
    ),
    "cpu-attention": (*_ATTENTION, *_ATTENTION_BACKWARD, *_DECODE, *_CACHES),
}
"""Goals by suite; they were set for two cores with AVX-512 BF16 (AMD Zen 4)."""

FAMILIES: dict[str, str] = {"cpu-attention": "attention"}
"""The suites that run all rows of a family, those without a goal too."""


def goal_of(op: str, row: str, dtype: str, suite: str = "") -> Goal | None:
    """The goal of a row, in ``suite`` or in any; None where none was set."""
    for goals in [SUITES[suite]] if suite else SUITES.values():
        for goal in goals:
            if goal.op == op and goal.dtype == dtype and row in goal.rows:
                return goal
    return None
