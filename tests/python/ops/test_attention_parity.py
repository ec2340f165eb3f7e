"""attention_forward and its gradients against PyTorch's own: scaled_dot_product_attention, and
flex_attention for what it can express."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import flex_attention as flex

import kernel_pytorch
from kernel_pytorch.ops import attention

KPT = torch.ops.kpt
BATCH, HEADS, HEADS_KV, SEQLEN_Q, SEQLEN_K, DIM = 2, 4, 2, 37, 53, 32


def tensors(dtype=torch.float32, heads_kv=HEADS_KV, seqlen_q=SEQLEN_Q):
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(dtype).requires_grad_()

    q = normal(BATCH, HEADS, seqlen_q, DIM)
    k = normal(BATCH, heads_kv, SEQLEN_K, DIM)
    v = normal(BATCH, heads_kv, SEQLEN_K, DIM)
    grad = torch.randn(q.shape, generator=generator).to(dtype)
    return (q, k, v), grad


def native_gradients(inputs, grads, **options):
    """out, lse and the gradients, which must all come from kernels."""
    with kernel_pytorch.explain() as calls:
        out, lse = KPT.attention_forward(*inputs, **options)
        wanted = [o for o, g in zip((out, lse), grads) if g is not None]
        found = torch.autograd.grad(wanted, inputs, [g for g in grads if g is not None])
    assert {(c.op, c.implementation) for c in calls} == {
        ("attention_forward", "native"),
        ("attention_backward", "native"),
    }
    return out, lse, found


def masks():
    generator = torch.Generator().manual_seed(2)
    seen = torch.rand(BATCH, 1, SEQLEN_Q, SEQLEN_K, generator=generator) < 0.7
    padding = torch.arange(SEQLEN_K) < torch.tensor([SEQLEN_K, 20])[:, None]
    return {
        "none": None,
        "bool": seen,
        "padding": padding[:, None, None, :],
        "additive": torch.randn(1, HEADS, SEQLEN_Q, SEQLEN_K, generator=generator),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("heads_kv", [HEADS, HEADS_KV, 1])
@pytest.mark.parametrize("mask", [*masks(), "causal"])
def test_sdpa(mask, heads_kv, scale, dtype):
    """Forward and backward, in the error that PyTorch's own dtype allows."""
    causal = mask == "causal"
    inputs, grad = tensors(dtype, heads_kv, SEQLEN_K if causal else SEQLEN_Q)
    given = None if causal else masks()[mask]
    if mask == "additive":
        given = given.to(dtype)
    want = F.scaled_dot_product_attention(
        *inputs, given, is_causal=causal, scale=scale, enable_gqa=heads_kv != HEADS
    )
    want_grads = torch.autograd.grad(want, inputs, grad)
    out, _, grads = native_gradients(
        inputs, (grad, None), mask=given, is_causal=causal, scale=scale
    )
    close = {"rtol": 2e-5, "atol": 2e-5}
    if dtype != torch.float32:
        unit = torch.finfo(dtype).eps
        close = {"rtol": 4 * unit, "atol": 8 * unit}
    for got, expected in zip((out, *grads), (want, *want_grads)):
        torch.testing.assert_close(got, expected, **close)


ALIBI = torch.tensor([0.5, 0.25, 0.125, 0.0625])
DOCUMENTS = torch.arange(SEQLEN_K) // 17
OFFSET = SEQLEN_K - SEQLEN_Q

FLEX = {
    "causal, softcap": (
        lambda b, h, i, j: j <= i + OFFSET,
        lambda s, b, h, i, j: 3.0 * torch.tanh(s / 3.0),
        {"is_causal": True, "softcap": 3.0},
    ),
    "window, alibi": (
        lambda b, h, i, j: (j >= i + OFFSET - 9) & (j <= i + OFFSET + 4),
        lambda s, b, h, i, j: s - ALIBI[h] * (i + OFFSET - j).abs(),
        {"window_left": 9, "window_right": 4, "alibi_slopes": ALIBI},
    ),
    "documents, prefix": (
        lambda b, h, i, j: ((j <= i + OFFSET) | (j < 12)) & (DOCUMENTS[i + OFFSET] == DOCUMENTS[j]),
        lambda s, b, h, i, j: s,
        {
            "is_causal": True,
            "prefix_len": 12,
            "q_doc": DOCUMENTS[OFFSET:].expand(BATCH, -1),
            "k_doc": DOCUMENTS.expand(BATCH, -1),
        },
    ),
}


@pytest.mark.parametrize("name", FLEX)
@pytest.mark.filterwarnings("ignore")
def test_flex_attention(name, monkeypatch):
    """out, lse and the gradients of both. PyTorch allows no gradient of flex_attention on the CPU,
    though what it runs there is plain tensor code."""
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    mask, score, options = FLEX[name]
    inputs, grad = tensors()
    grad_lse = torch.randn(BATCH, HEADS, SEQLEN_Q, generator=torch.Generator().manual_seed(4))
    blocks = flex.create_block_mask(mask, None, None, SEQLEN_Q, SEQLEN_K, device="cpu")
    want, want_lse = flex.flex_attention(
        *inputs, score_mod=score, block_mask=blocks, enable_gqa=True, return_lse=True
    )
    want_grads = torch.autograd.grad((want, want_lse), inputs, (grad, grad_lse))
    out, lse, grads = native_gradients(inputs, (grad, grad_lse), **options)
    for got, expected in zip((out, lse, *grads), (want, want_lse, *want_grads)):
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)


def test_sinks_have_a_gradient():
    """Native, and equal to that of the formula; the gradient of a mask is the reference's."""
    inputs, grad = tensors()
    sinks = torch.randn(HEADS, requires_grad=True)
    with kernel_pytorch.explain() as calls:
        out, lse = KPT.attention_forward(*inputs, sinks=sinks, is_causal=True)
        got = torch.autograd.grad((out, lse), (*inputs, sinks), (grad, torch.ones_like(lse)))
    assert {c.implementation for c in calls} == {"native"}
    wide = [t.detach().double().requires_grad_() for t in (*inputs, sinks)]
    out, lse = attention.reference(*wide[:3], sinks=wide[3], is_causal=True)
    want = torch.autograd.grad((out, lse), wide, (grad.double(), torch.ones_like(lse)))
    for g, w in zip(got, want):
        torch.testing.assert_close(g.double(), w, rtol=1e-4, atol=1e-4)

    mask = torch.randn(SEQLEN_Q, SEQLEN_K, requires_grad=True)
    with kernel_pytorch.explain() as calls:
        out, _ = KPT.attention_forward(*inputs, mask=mask)
        torch.autograd.grad(out, (mask,), grad)
    assert [c.implementation for c in calls] == ["native", "reference"]


@pytest.mark.parametrize(
    "options",
    [
        {"is_causal": True, "softcap": 2.0},
        {"window_left": 2, "window_right": 1, "scale": -0.4},
        {"is_causal": True, "prefix_len": 3, "sinks": 2},
        {"mask": torch.tensor([[True, False, True, True, True]] * 4), "alibi_slopes": 2},
    ],
    ids=str,
)
def test_gradcheck(options):
    """First and second derivatives in float64, with two query heads to a key head."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        t = torch.randn(shape, generator=generator, dtype=torch.float64)
        return t.requires_grad_()

    q, k, v = normal(1, 2, 4, 3), normal(1, 1, 5, 3), normal(1, 1, 5, 2)
    small = ("sinks", "alibi_slopes")
    own = {n: normal(x).abs().detach() if n in small else x for n, x in options.items()}

    def function(q, k, v):
        return KPT.attention_forward(q, k, v, **own)

    assert torch.autograd.gradcheck(function, (q, k, v))
    assert torch.autograd.gradgradcheck(function, (q, k, v))


def test_packed_sequences_are_what_each_is_alone():
    """Bit for bit, forward and backward, whatever the threads, and with empty ones."""
    generator = torch.Generator().manual_seed(5)
    lengths = [13, 0, 1, 127, 64]
    ends = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)
    total = sum(lengths)
    q, k, v = (
        torch.randn(total, heads, DIM, generator=generator).bfloat16().requires_grad_()
        for heads in (HEADS, HEADS_KV, HEADS_KV)
    )
    grad = torch.randn(total, HEADS, DIM, generator=generator).bfloat16()
    options = {"is_causal": True, "softcap": 5.0}
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            out, lse = KPT.attention_varlen_forward(q, k, v, ends, ends, 127, 127, **options)
            found = torch.autograd.grad(out, (q, k, v), grad)
            for begin, end in zip(ends.tolist(), ends.tolist()[1:]):
                part = [t[begin:end].transpose(0, 1)[None] for t in (q, k, v)]
                own, own_lse = KPT.attention_forward(*part, **options)
                assert torch.equal(own[0].transpose(0, 1), out[begin:end])
                assert torch.equal(own_lse[0], lse[:, begin:end])
                grads = torch.autograd.grad(own, part, grad[begin:end].transpose(0, 1)[None])
                for got, want in zip(found, grads):
                    assert torch.equal(got[begin:end], want[0].transpose(0, 1))
    finally:
        torch.set_num_threads(threads)
