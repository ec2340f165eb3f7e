"""How an attention module is configured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from kernel_pytorch.core.config import (
    AttentionPatterns,
    DynamicSparseConfig,
    FP8AttentionConfig,
    RingAttentionConfig,
)

__all__ = [
    "AttentionConfig",
    "AttentionModuleConfig",
    "AttentionPatterns",
    "DynamicSparseConfig",
    "FP8AttentionConfig",
    "RingAttentionConfig",
]


_WINDOWED = (AttentionPatterns.SLIDING_WINDOW, AttentionPatterns.LOCAL)
_KNOWN = (*_WINDOWED, AttentionPatterns.FULL, AttentionPatterns.GLOBAL, AttentionPatterns.CAUSAL)
_SECTIONS = {
    "fp8_config": FP8AttentionConfig,
    "sparse_config": DynamicSparseConfig,
    "ring_config": RingAttentionConfig,
}
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class AttentionConfig:
    """An attention module: sizes, pattern, dropout.

    ``head_dim`` is ``embed_dim / num_heads`` when not given; ``num_kv_heads`` (GQA) is
    ``num_heads``. ``causal`` adds causality to any pattern. ``sliding_window_size`` keys on both
    sides are seen, on the left only with ``causal``; SLIDING_WINDOW and LOCAL without a size get
    ``min(1024, max_sequence_length // 4)``. ``max_sequence_length`` is the default capacity of the
    key-value cache. ``precision`` is the dtype of the parameters. ``enable_compilation`` allows
    compiling FlexAttention for score functions that no kernel knows. With ``use_fp8`` (here or in
    ``fp8_config``) queries, keys and values are rounded to the ``fp8_format``, one scale for each
    head of each token; products stay in the module's dtype and gradients pass straight through.

    The fields after ``residual_dropout`` are hints of earlier versions: which kernel runs is the
    dispatch's choice, and they change nothing.

    Raises:
        ValueError: sizes that do not fit together, an unknown precision, a pattern without
            implementation.
    """

    embed_dim: int
    num_heads: int
    head_dim: int | None = None
    pattern: AttentionPatterns = AttentionPatterns.FULL
    causal: bool = False
    num_kv_heads: int | None = None
    bias: bool = True
    enable_compilation: bool = True
    gradient_checkpointing: bool = False
    precision: str = "float32"
    use_fp8: bool = False
    fp8_config: FP8AttentionConfig | None = None
    max_sequence_length: int = 8192
    sliding_window_size: int | None = None
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    use_flash_attention: bool = True
    use_memory_efficient: bool = False
    sparse_config: DynamicSparseConfig | None = None
    ring_config: RingAttentionConfig | None = None
    enable_hopper_optimization: bool = True
    warp_specialization: bool = True
    device_mesh: tuple[int, ...] | None = None
    memory_efficient_backend: str = "auto"
    chunk_size: int | None = None
    legacy_mode: bool = False
    backward_compatible: bool = True

    def __post_init__(self) -> None:
        for name in ("embed_dim", "num_heads", "max_sequence_length"):
            _refuse(getattr(self, name) < 1, name, "be positive", getattr(self, name))
        pattern = AttentionPatterns(self.pattern)
        self._set("pattern", pattern)
        known = ", ".join(p.value for p in _KNOWN)
        _refuse(pattern not in _KNOWN, "pattern", f"be one of {known}", pattern.value)
        if self.head_dim is None:
            _refuse(
                self.embed_dim % self.num_heads != 0,
                "embed_dim",
                f"be divisible by num_heads = {self.num_heads}",
                self.embed_dim,
            )
            self._set("head_dim", self.embed_dim // self.num_heads)
        kv_heads = self.num_heads if self.num_kv_heads is None else self.num_kv_heads
        _refuse(
            kv_heads < 1 or self.num_heads % kv_heads != 0,
            "num_kv_heads",
            f"divide num_heads = {self.num_heads}",
            kv_heads,
        )
        self._set("num_kv_heads", kv_heads)
        if pattern in _WINDOWED and self.sliding_window_size is None:
            self._set("sliding_window_size", min(1024, self.max_sequence_length // 4))
        size = self.sliding_window_size
        _refuse(size is not None and size < 0, "sliding_window_size", "not be negative", size)
        for name in ("attention_dropout", "residual_dropout"):
            p = getattr(self, name)
            _refuse(not 0.0 <= p < 1.0, name, "lie in [0, 1)", p)
        self._set("precision", _SHORT.get(self.precision, self.precision))
        _refuse(
            self.precision not in _DTYPES, "precision", f"be one of {list(_DTYPES)}", self.precision
        )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype of ``precision``."""
        return _DTYPES[self.precision]

    @property
    def fp8_dtype(self) -> torch.dtype | None:
        """What queries, keys and values are rounded to; None: they are not."""
        settings = self.fp8_config or FP8AttentionConfig()
        if not (self.use_fp8 or settings.use_fp8):
            return None
        return torch.float8_e4m3fn if settings.fp8_format == "e4m3" else torch.float8_e5m2

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :meth:`from_dict` reads it back."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in _SECTIONS:
            data[name] = None if data[name] is None else data[name].model_dump()
        data["pattern"] = self.pattern.value
        return data

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any]) -> AttentionConfig:
        """The configuration that :meth:`to_dict` wrote. ValueError for a key it does not know."""
        fields = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(config_dict) - fields)
        _refuse(bool(unknown), "config_dict", f"have keys of {sorted(fields)}", unknown)
        data = dict(config_dict)
        for name, kind in _SECTIONS.items():
            if isinstance(data.get(name), dict):
                data[name] = kind(**data[name])
        return cls(**data)


AttentionModuleConfig = AttentionConfig


def _refuse(wrong: bool, name: str, expected: str, got: Any) -> None:
    if wrong:
        raise ValueError(f"AttentionConfig: {name} must {expected}, got {got}")
