"""Every pattern against its definition in float64, forward and backward, native and by formula."""

import math

import pytest
import torch

import kernel_pytorch
from kernel_pytorch.attention import (
    FlexAttentionMaskGenerators,
    FlexAttentionScoreMods,
    Pattern,
    alibi_slopes,
    attention,
)
from kernel_pytorch.attention.evaluate import dense_mask

B, H, D = 2, 4, 16
DOCS = torch.tensor([0] * 9 + [1] * 13 + [2] * 18)
INF = float("inf")


def heads(rows, keys, dtype=torch.float32, kv_heads=H, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(h, s):
        return torch.randn(B, h, s, D, generator=g).to(dtype).requires_grad_()

    return normal(H, rows), normal(kv_heads, keys), normal(kv_heads, keys)


def definition(q, k, v, change):
    """softmax(change(scores)) v in float64; ``change(scores, i, j)`` with positions as grids."""
    q, k, v = (t.double() for t in (q, k, v))
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    rows, keys = q.shape[2], k.shape[2]
    i = torch.arange(rows)[:, None] + keys - rows
    j = torch.arange(keys)[None, :]
    scores = change(q @ k.mT / math.sqrt(D), i, j)
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return weights @ v


def hide(scores, seen):
    return scores.masked_fill(~seen, -INF)


SLOPES = torch.tensor([2.0 ** (-8 * (h + 1) / H) for h in range(H)]).view(H, 1, 1)
MODS = FlexAttentionScoreMods
CASES = {
    "full": (Pattern(), lambda s, i, j: s),
    "causal": (MODS.causal, lambda s, i, j: hide(s, j <= i)),
    "window": (MODS.sliding_window(5), lambda s, i, j: hide(s, (i - j).abs() <= 5)),
    "causal window": (
        MODS.causal_sliding_window(5),
        lambda s, i, j: hide(s, (i >= j) & (i - j <= 5)),
    ),
    "alibi": (MODS.alibi(H), lambda s, i, j: s - SLOPES * (i - j).abs()),
    "soft cap": (MODS.soft_cap(2.0), lambda s, i, j: 2.0 * torch.tanh(s / 2.0)),
    "documents": (
        MODS.document_masking(DOCS),
        lambda s, i, j: hide(s, DOCS[i] == DOCS[j]),
    ),
    "prefix": (MODS.prefix_lm(7), lambda s, i, j: hide(s, (j <= i) | (j < 7))),
    "causal, documents, alibi, cap": (
        MODS.causal & MODS.document_masking(DOCS) & MODS.alibi(H) & MODS.soft_cap(3.0),
        lambda s, i, j: hide(
            3.0 * torch.tanh(s / 3.0) - SLOPES * (i - j).abs(), (j <= i) & (DOCS[i] == DOCS[j])
        ),
    ),
}


def compare(out, change, q, k, v, tolerance):
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    found = torch.autograd.grad(out, (q, k, v), grad.to(out.dtype))
    exact_inputs = [t.detach().double().requires_grad_() for t in (q, k, v)]
    exact = definition(*exact_inputs, change)
    wanted = torch.autograd.grad(exact, exact_inputs, grad.double())
    for got, want in zip((out, *found), (exact, *wanted)):
        assert (got.double() - want).norm() <= tolerance * want.norm() + 1e-12


@pytest.mark.parametrize("rows", [40, 3])
@pytest.mark.parametrize("name", CASES)
def test_pattern_runs_natively_and_is_exact(name, rows):
    pattern, change = CASES[name]
    q, k, v = heads(rows, 40)
    with kernel_pytorch.explain() as calls:
        out = attention(q, k, v, pattern=pattern)
    assert [c.op for c in calls] == ["attention_forward"] and not calls.fallbacks
    compare(out, change, q, k, v, 2e-6)


@pytest.mark.parametrize("rows", [40, 3])
@pytest.mark.parametrize("name", CASES)
def test_pattern_as_a_users_function_is_exact(name, rows):
    # Behind a lambda nothing is recognised: the score function itself is what is evaluated.
    pattern, change = CASES[name]
    q, k, v = heads(rows, 40)
    out = attention(q, k, v, score_mod=lambda *args: pattern(*args))
    compare(out, change, q, k, v, 2e-6)


@pytest.mark.parametrize("name", ["causal", "causal window", "documents"])
def test_bfloat16_and_grouped_heads(name):
    pattern, change = CASES[name]
    q, k, v = heads(40, 40, torch.bfloat16, kv_heads=2)
    compare(attention(q, k, v, pattern=pattern), change, q, k, v, 2e-2)
    compare(attention(q, k, v, score_mod=lambda *a: pattern(*a)), change, q, k, v, 2e-2)


def test_users_score_function_with_a_parameter():
    bias = torch.randn(H, 79, dtype=torch.float64).requires_grad_()
    q, k, v = (t.detach().double().requires_grad_() for t in heads(40, 40))

    def scores(score, b, h, i, j):
        return score + bias[h, j - i + 39]

    def run(q, k, v, bias):
        return attention(q, k, v, pattern=MODS.causal, score_mod=scores)

    compare(
        run(q, k, v, bias),
        lambda s, i, j: hide(s + bias.detach()[:, j - i + 39], j <= i),
        q,
        k,
        v,
        1e-12,
    )
    run(q, k, v, bias).sum().backward()
    assert bias.grad is not None and bias.grad.abs().sum() > 0


def test_users_mask_function_runs_natively():
    lengths = torch.tensor([40, 11])

    def mask(b, h, i, j):
        return (j < lengths[b]) & ((i + j) % 3 != 1)

    q, k, v = heads(40, 40)
    with kernel_pytorch.explain() as calls:
        out = attention(q, k, v, pattern=MODS.causal, mask_mod=mask)
    assert not calls.fallbacks and calls.calls[-1].op == "attention_forward"
    seen = lengths.view(2, 1, 1, 1)
    compare(
        out,
        lambda s, i, j: hide(s, (j < seen) & ((i + j) % 3 != 1) & (j <= i)),
        q,
        k,
        v,
        2e-6,
    )


def test_a_mask_is_no_larger_than_what_it_depends_on():
    cpu = torch.device("cpu")
    assert dense_mask(MODS.causal.mask, (2, 4, 8, 8), cpu).shape == (1, 1, 8, 8)
    ids = DOCS[:8].expand(2, 8).contiguous()
    assert dense_mask(lambda b, h, i, j: ids[b][j] == 0, (2, 4, 8, 8), cpu).shape == (2, 1, 1, 8)


@pytest.mark.parametrize("formula", [False, True])
def test_attention_masks(formula):
    q, k, v = heads(5, 7)
    pad = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    full = torch.randn(B, 1, 5, 7)
    options = {"score_mod": lambda s, b, h, i, j: s} if formula else {}
    compare(
        attention(q, k, v, attention_mask=pad, **options),
        lambda s, i, j: hide(s, pad.bool()[:, None, None]),
        q,
        k,
        v,
        2e-6,
    )
    compare(
        attention(q, k, v, attention_mask=full, **options),
        lambda s, i, j: s + full,
        q,
        k,
        v,
        2e-6,
    )


def test_weights_and_dropout():
    q, k, v = heads(40, 40)
    out, weights = attention(q, k, v, pattern=MODS.causal, return_weights=True)
    assert torch.allclose(weights.sum(-1), torch.ones(B, H, 40)) and weights[0, 0, 0, 1:].sum() == 0
    assert torch.allclose(weights @ v, out, atol=1e-6)
    torch.manual_seed(0)
    many = torch.stack([attention(q, k, v, dropout=0.5) for _ in range(300)]).mean(0)
    assert (many - attention(q, k, v)).abs().max() < 0.3
    with kernel_pytorch.strict(), pytest.raises(kernel_pytorch.core.errors.StrictModeError):
        attention(q, k, v, dropout=0.5)


def test_a_query_that_sees_nothing_gives_zero():
    q, k, v = heads(4, 4)
    for options in ({"mask_mod": never}, {"score_mod": lambda s, b, h, i, j: s * 0 - INF}):
        out = attention(q, k, v, **options)
        assert (out == 0).all()
        out.sum().backward()
        assert q.grad.isfinite().all()


def never(b, h, i, j):
    return j < 0


def test_score_functions_of_single_numbers():
    one = torch.tensor(1.0)
    assert MODS.causal(one, 0, 0, 5, 3) == 1.0 and MODS.causal(one, 0, 0, 3, 5) == -INF
    for mod in (MODS.sliding_window(4), MODS.causal_sliding_window(window_size=4)):
        assert mod(one, 0, 0, 5, 3) == 1.0 and mod(one, 0, 0, 10, 3) == -INF
    assert MODS.sliding_window(4)(one, 0, 0, 3, 5) == 1.0
    assert MODS.causal_sliding_window(4)(one, 0, 0, 3, 5) == -INF
    assert torch.is_tensor(MODS.alibi(4)(0.0, 0, 0, 5, 5))
    assert MODS.alibi(4)(0.0, 0, 1, 5, 2) == -3 * 2.0**-4
    assert MODS.soft_cap(10)(torch.tensor(100.0), 0, 0, 0, 0) <= 10.0
    assert MODS.relative_position_bias(4)(one, 0, 0, 9, 1) == 0.0
    table = torch.arange(9.0)
    assert MODS.relative_position_bias(4, table)(one, 0, 0, 2, 3) == 1.0 + 5.0


def test_slopes_of_six_heads():
    # From the authors' code.
    wanted = [2.0**-e for e in (2, 4, 6, 8, 1, 3)]
    assert torch.allclose(alibi_slopes(6), torch.tensor(wanted))


def test_block_masks():
    masks = FlexAttentionMaskGenerators
    causal = masks.causal_mask(1, 1, 256, "cpu")
    assert causal.to_dense()[0, 0].tolist() == [[1, 0], [1, 1]]
    assert masks.full_mask(1, 1, 256, torch.device("cpu")).sparsity() == 0
    assert masks.sliding_window_mask(1, 1, 512, 10, "cpu").to_dense()[0, 0, 0].tolist() == [
        1,
        1,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q, k, v: attention(q[0], k, v), "'q' must have 4 dimensions"),
        (lambda q, k, v: attention(q, k[..., :3], v), "'k' and 'v' must have shapes"),
        (lambda q, k, v: attention(q[:, :3], k[:, :2], v[:, :2]), "multiple of k's 2 heads"),
        (
            lambda q, k, v: attention(q, k, v, attention_mask=torch.ones(3, 3)),
            r"'attention_mask' must have shape \[2, 4\]",
        ),
        (lambda q, k, v: MODS.soft_cap(0.0), "'cap_value' must be positive"),
        (lambda q, k, v: MODS.sliding_window(-1), "'window_size' must not be negative"),
        (lambda q, k, v: MODS.alibi(4, torch.ones(3)), r"must have shape \[4\]"),
        (lambda q, k, v: MODS.document_masking(torch.ones(4)), "must be integers"),
        (lambda q, k, v: MODS.soft_cap(1.0) & MODS.soft_cap(2.0), "both patterns set softcap"),
        (lambda q, k, v: MODS.alibi(4) & MODS.alibi(4), "both patterns set alibi_slopes"),
        (
            lambda q, k, v: attention(q, k, v, pattern=MODS.document_masking(DOCS[:3])),
            "document ids must have shape",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call(*heads(4, 4))


def test_other_dtypes_are_refused():
    q, k, v = heads(4, 4)
    with pytest.raises(TypeError, match="'k' must have dtype torch.float32"):
        attention(q, k.half(), v)


@pytest.mark.parametrize("rows", [40, 3])
def test_flex_attention_gets_the_same_rules(rows, monkeypatch):
    # FlexAttention as it is without a compiler; the demo compiles it.
    from torch.nn.attention.flex_attention import flex_attention

    from kernel_pytorch.attention import functional

    monkeypatch.setattr(functional, "_SMALL_SCORES", 0)
    monkeypatch.setattr(functional, "_flex", lambda: flex_attention)
    pattern, change = CASES["causal, documents, alibi, cap"]
    q, k, v = (t.detach() for t in heads(rows, 40, kv_heads=2))
    with torch.no_grad(), kernel_pytorch.explain() as calls:
        out = attention(
            q,
            k,
            v,
            pattern=pattern,
            score_mod=lambda s, b, h, i, j: s + 0.1 * (i - j),
            mask_mod=lambda b, h, i, j: (i + j) % 3 != 1,
        )
    assert [c.variant for c in calls] == ["flex_attention"]
    exact = definition(
        q, k, v, lambda s, i, j: hide(change(s, i, j) + 0.1 * (i - j), (i + j) % 3 != 1)
    )
    assert (out - exact).norm() < 2e-6 * exact.norm()


def test_what_does_not_compile_is_evaluated_and_says_why(monkeypatch):
    from kernel_pytorch.attention import functional

    def fails():
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(functional, "_SMALL_SCORES", 0)
    monkeypatch.setattr(functional, "_flex", fails)
    q, k, v = (t.detach() for t in heads(40, 40))
    factor = torch.tensor(2.0, requires_grad=True)
    attention(q, k, v, score_mod=lambda s, b, h, i, j: s * factor).sum().backward()
    assert factor.grad != 0  # not tried where a gradient could be lost
    with torch.no_grad(), kernel_pytorch.explain() as calls:
        out = attention(q, k, v, score_mod=lambda s, b, h, i, j: s * 2)
    assert "it cannot be compiled: no compiler here" in calls.calls[-1].reason
    exact = definition(q, k, v, lambda s, i, j: s * 2)
    assert (out - exact).norm() < 2e-6 * exact.norm()


@pytest.mark.parametrize("name", ["causal", "causal window", "alibi", "soft cap"])
@pytest.mark.parametrize("rows", [1, 5])
def test_a_few_tokens_after_many(name, rows):
    pattern, change = CASES[name]
    q, k, v = (t.detach() for t in heads(rows, 150, kv_heads=2))
    with kernel_pytorch.explain() as calls:
        out = attention(q, k, v, pattern=pattern)
    decodes = rows == 1 or pattern.is_causal
    op = "attention_decode" if decodes else "attention_forward"
    assert [c.op for c in calls] == [op] and not calls.fallbacks
    exact = definition(q, k, v, change)
    assert (out - exact).norm() < 2e-6 * exact.norm()
