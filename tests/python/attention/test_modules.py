"""The modules: every name, equal to a plain module of PyTorch's with the same weights."""

import math

import pytest
import torch
import torch.nn.functional as F

import kernel_pytorch
from kernel_pytorch import attention as kpt
from kernel_pytorch.attention import AttentionConfig, AttentionPatterns, FlexAttentionScoreMods
from kernel_pytorch.core.errors import ArgumentError


def config(**changes):
    return AttentionConfig(**{"embed_dim": 64, "num_heads": 4, **changes})


def plain(layer, x, seen=None, keys=None):
    """The layer's function by torch's SDPA, in float64."""
    keys = x if keys is None else keys

    def heads(projection, t):
        y = F.linear(t.double(), projection.weight.double(), projection.bias.double())
        return y.unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)

    q, k, v = (
        heads(p, t) for p, t in zip((layer.q_proj, layer.k_proj, layer.v_proj), (x, keys, keys))
    )
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
    merged = out.transpose(1, 2).flatten(2)
    return F.linear(merged, layer.out_proj.weight.double(), layer.out_proj.bias.double())


def causal(n, window=None):
    distance = torch.arange(n)[:, None] - torch.arange(n)
    return (distance >= 0) & (True if window is None else distance <= window)


X = torch.randn(2, 33, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("make", "seen"),
    [
        (lambda: kpt.FlashAttention3(config()), None),
        (lambda: kpt.FlashAttention2(config(causal=True)), causal(33)),
        (lambda: kpt.create_attention(config(pattern=AttentionPatterns.CAUSAL)), causal(33)),
        (lambda: kpt.FlexAttentionCausal(config()), causal(33)),
        (lambda: kpt.FlexAttentionSlidingWindow(config(causal=True), window_size=4), causal(33, 4)),
        (
            lambda: kpt.create_flex_attention(64, 4, "sliding_window", sliding_window_size=4),
            causal(33, 4) | causal(33, 4).T,
        ),
        (lambda: kpt.create_flex_attention(64, 4, score_mod="causal"), causal(33)),
        (lambda: kpt.create_flex_attention(64, 4, "causal", num_kv_heads=2), causal(33)),
        (lambda: kpt.create_memory_efficient_attention(64, 4, bias=True), None),
        (
            lambda: kpt.create_flex_attention(
                64, 4, score_mod=lambda s, b, h, i, j: torch.where(i >= j, s, -math.inf)
            ),
            causal(33),
        ),
        (lambda: kpt.create_attention(config(gradient_checkpointing=True)), None),
    ],
)
def test_modules_equal_sdpa(make, seen):
    torch.manual_seed(1)
    layer = make()
    x = X.clone().requires_grad_()
    y = layer(x)
    y.square().sum().backward()
    exact_x = X.clone().requires_grad_()
    exact = plain(layer, exact_x, seen)
    exact.square().sum().backward()
    assert (y - exact).norm() < 1e-5 * exact.norm()
    assert (x.grad - exact_x.grad).norm() < 1e-5 * exact_x.grad.norm()
    assert layer.q_proj.weight.grad.abs().sum() > 0
    with torch.no_grad():
        assert torch.allclose(layer.eval()(X), y, atol=1e-5)


@pytest.mark.parametrize("pattern", ["full", "causal", "sliding_window"])
def test_a_cache_changes_nothing(pattern):
    torch.manual_seed(1)
    layer = kpt.create_flex_attention(64, 4, pattern, sliding_window_size=5, causal=True).eval()
    with torch.no_grad():
        whole = layer(X)
        layer.enable_cache(max_batch_size=2, max_seq_len=33)
        parts = [layer(part) for part in X.split([20, 1, 1, 8, 3], dim=1)]
        assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
        assert layer.get_attention_stats()["cached_tokens"] == 33
        with pytest.raises(ValueError, match="holds 33 of 33 tokens"):
            layer(X[:, :1])
        layer.clear_cache()
        assert torch.allclose(layer(X[:, :20]), whole[:, :20], atol=1e-5)
        with pytest.raises(ValueError, match="holds 2 sequences"):
            layer(X[:1, :1])
        layer.disable_cache()
        assert torch.allclose(layer(X), whole, atol=1e-5)
    layer.enable_cache()
    with pytest.raises(RuntimeError, match="the cache is for inference"):
        layer(X[:1])


def test_cross_attention_masks_and_weights():
    layer = kpt.FlashAttention3(config())
    keys = torch.randn(2, 9, 64)
    pad = torch.ones(2, 9, dtype=torch.bool)
    pad[1, 5:] = False
    y, weights = layer(X, keys, attention_mask=pad, return_attention_weights=True)
    assert (weights[1, ..., 5:] == 0).all() and weights.shape == (2, 4, 33, 9)
    assert torch.allclose(y.double(), plain(layer, X, pad[:, None, None], keys), atol=1e-5)
    assert torch.allclose(layer(X, keys, attention_mask=pad), y, atol=1e-5)


def test_masks_are_kept_and_cleared():
    layer = kpt.FlexAttentionLayer(config(), mask_mod=lambda b, h, i, j: i - j < 9)
    assert len(layer._block_mask_cache) == 0
    layer(X), layer(X)
    assert len(layer._block_mask_cache) == 1
    layer.clear_block_mask_cache()
    assert len(layer._block_mask_cache) == 0
    q = layer._shape_for_multihead(X, 2, 33)
    assert q.shape == (2, 4, 33, 16)
    assert layer._standard_attention_forward(q, q, q, None).shape == q.shape


def test_fp8_rounds_queries_keys_and_values():
    torch.manual_seed(1)
    exact = kpt.FlashAttention3(config())
    rounded = kpt.FlashAttention3(config(use_fp8=True))
    rounded.load_state_dict(exact.state_dict())
    y, want = rounded(X), exact(X)
    error = (y - want).norm() / want.norm()
    assert 1e-3 < error < 0.1
    y.sum().backward()
    want.sum().backward()
    got, wanted = rounded.q_proj.weight.grad, exact.q_proj.weight.grad
    assert (got - wanted).norm() < 0.2 * wanted.norm()


def test_compiles_without_a_graph_break():
    layer = kpt.create_flex_attention(64, 4, "causal").eval()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(X), layer(X), atol=1e-6)


def test_state_and_information():
    layer = kpt.create_attention(config(), implementation="flex_attention")
    assert type(layer) is kpt.FlexAttentionLayer and isinstance(layer, kpt.BaseAttention)
    stats = layer.get_attention_stats()
    assert stats["pattern"] == "full" and stats["embed_dim"] == 64 and stats["num_heads"] == 4
    assert stats["flex_attention_available"] and not stats["using_flex_attention"]
    assert "backend" in kpt.FlashAttention3(config()).get_attention_stats()
    assert "causal" in kpt.get_flex_attention_info()["supported_patterns"]
    assert {"flex_attention", "flex_attention_causal", "flex_attention_sliding_window"} <= set(
        kpt.get_attention_registry()
    )


def test_the_registry_takes_others():
    @kpt.register_attention("mine")
    class Mine(kpt.BaseAttention):
        pass

    assert type(kpt.create_attention(config(), "mine")) is Mine
    with pytest.raises(ValueError, match="'mine' is Mine already"):
        kpt.register_attention("mine")(kpt.FlashAttention3)
    kpt.unregister_attention("mine")
    with pytest.raises(ValueError, match="must be one of .*'flex_attention'.*got 'mine'"):
        kpt.create_attention(config(), "mine")


def test_configuration():
    found = config(pattern="sliding_window", max_sequence_length=100)
    assert found.sliding_window_size == 25 and found.head_dim == 16
    again = AttentionConfig.from_dict(found.to_dict())
    assert again == found
    fp8 = config(fp8_config=kpt.FP8AttentionConfig(use_fp8=True, fp8_format="e5m2"))
    assert AttentionConfig.from_dict(fp8.to_dict()).fp8_dtype == torch.float8_e5m2
    for changes, message in (
        ({"num_heads": 5}, "embed_dim must be divisible by num_heads = 5"),
        ({"num_kv_heads": 3}, "num_kv_heads must divide"),
        ({"pattern": "ring"}, "pattern must be one of"),
        ({"attention_dropout": 1.0}, "attention_dropout must lie in"),
        ({"precision": "fp4"}, "precision must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**changes)
    with pytest.raises(ValueError, match="have keys of"):
        AttentionConfig.from_dict({"embed_dim": 8, "num_heads": 2, "heads": 2})
    with pytest.raises(ValueError, match="score_mod must be a function or one of"):
        kpt.create_flex_attention(64, 4, score_mod="cubic")
    with pytest.raises(TypeError, match="must be an AttentionConfig"):
        kpt.FlashAttention3({"embed_dim": 64})
    with pytest.raises(ValueError, match="'query' must have shape"):
        kpt.FlashAttention3(config())(X[..., :5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("is_causal", [False, True])
def test_flash_attention_v3(dtype, is_causal):
    q, k, v = torch.randn(3, 1, 2, 32, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    module = kpt.create_flash_attention_v3(causal=is_causal)
    want = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=is_causal)
    assert (module(q, k, v) - want).abs().max() < (1e-5 if dtype == torch.float32 else 2e-3)
    assert "causal=True" in repr(kpt.FlashAttentionV3(causal=True, dropout=0.1))
    assert "dropout=0.1" in repr(kpt.FlashAttentionV3(causal=True, dropout=0.1))
    assert module.scale is None and module._cuda_kernel_available in (True, False)
    for wrong in ((q[0], k, v), (q, k[:, :, :5], v)):
        with pytest.raises(AssertionError):
            module(*wrong)
        with pytest.raises(ArgumentError):
            module(*wrong)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("cls", "function"), [(kpt.FusedLinearGELU, F.gelu), (kpt.FusedLinearSiLU, F.silu)]
)
def test_fused_linear(cls, function, bias):
    torch.manual_seed(0)
    layer = cls(64, 96, bias=bias)
    assert (layer.bias is None) is (not bias) and layer.weight.shape == (96, 64)
    for x in (X, X[0]):
        x = x.clone().requires_grad_()
        layer.zero_grad()
        with kernel_pytorch.explain() as calls:
            y = layer(x)
            y.square().sum().backward()
        assert not calls.fallbacks
        got = [x.grad, *(p.grad.clone() for p in layer.parameters())]
        layer.zero_grad()
        x.grad = None
        want = function(F.linear(x, layer.weight, layer.bias))
        want.square().sum().backward()
        assert torch.allclose(y, want, atol=1e-5)
        for g, w in zip(got, [x.grad, *(p.grad for p in layer.parameters())]):
            assert torch.allclose(g, w, atol=1e-3, rtol=1e-4)


def test_fused_ffn():
    block = kpt.create_fused_ffn_layer(64, 128, activation="silu")
    assert len(block) == 2 and isinstance(block[1], torch.nn.Linear) and block(X).shape == X.shape
    assert kpt.create_fused_ffn_layer(64, 128, 5)(X).shape == (2, 33, 5)
    with pytest.raises(ValueError, match="must be 'gelu' or 'silu', got 'relu'"):
        kpt.create_fused_ffn_layer(64, 128, activation="relu")


def test_old_import_paths():
    from kernel_pytorch.attention import compatibility
    from kernel_pytorch.attention.core.config import AttentionModuleConfig
    from kernel_pytorch.attention.core.registry import get_attention_registry
    from kernel_pytorch.attention.implementations.flex_attention import FlexAttentionLayer
    from kernel_pytorch.hardware.gpu.custom_kernels import FlashAttentionV3

    assert compatibility.FlashAttention3 is kpt.FlashAttention3
    assert AttentionModuleConfig is AttentionConfig
    assert get_attention_registry()["flex_attention"] is FlexAttentionLayer
    assert FlashAttentionV3 is kpt.FlashAttentionV3


def test_named_score_functions_are_patterns():
    for name in ("causal", "sliding_window", "causal_sliding_window", "alibi", "soft_cap"):
        layer = kpt.create_flex_attention(64, 4, score_mod=name)
        with kernel_pytorch.explain() as calls:
            layer(X)
        assert any(c.op == "attention_forward" for c in calls) and not calls.fallbacks, name
    assert isinstance(FlexAttentionScoreMods.causal, kpt.Pattern)
