"""The operators of a mixture of experts together: nothing lost, no token bothered by another."""

import pytest
import torch

import kernel_pytorch
from kernel_pytorch.backends import cpu
from tests.contract.harness import assert_bitwise_equal, isa_levels

ops = torch.ops.kpt


def _experts(experts, width, hidden, dtype, gated=False):
    generator = torch.Generator().manual_seed(1)
    rows = 2 * hidden if gated else hidden
    w_in = torch.randn((experts, rows, width), generator=generator) / width**0.5
    w_out = torch.randn((experts, width, hidden), generator=generator) / hidden**0.5
    return w_in.to(dtype), w_out.to(dtype)


def _choices(tokens, experts, top, seed=2):
    logits = torch.randn((tokens, experts), generator=torch.Generator().manual_seed(seed))
    return ops.moe_route(logits, top)


@pytest.mark.parametrize("level", isa_levels())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16])
@pytest.mark.parametrize("tokens", [5, 60, 700])
def test_a_token_does_not_depend_on_the_others(tokens, dtype, level):
    """Not even on how many of them chose its experts."""
    w_in, w_out = _experts(8, 40, 72, dtype)
    x = torch.randn(tokens, 40).to(dtype)
    weights, indices = _choices(tokens, 8, 2)
    with cpu.isa_limit(level):
        whole = ops.moe_ffn(x, w_in, w_out, weights, indices)
        for others in (torch.zeros_like(indices), (indices + 3) % 8):
            others[:, 1] = (others[:, 0] + 1) % 8
            others[1] = indices[1]
            changed = torch.randn_like(x)
            changed[1] = x[1]
            again = ops.moe_ffn(changed, w_in, w_out, weights, others)
            assert_bitwise_equal(again[1], whole[1], f"{tokens} {dtype} {level}")


@pytest.mark.parametrize("gated", [False, True])
def test_it_is_dispatch_products_and_combine(gated):
    w_in, w_out = _experts(6, 24, 40, torch.float32, gated)
    x = torch.randn(50, 24)
    weights, indices = _choices(50, 6, 3)
    activation = "swiglu" if gated else "gelu"
    permuted, offsets, row_of = ops.moe_dispatch(x, indices, 6)
    t = ops.grouped_gemm(permuted, w_in, offsets)
    h = ops.act_mul(t, "silu") if gated else ops.act(t, "gelu")
    want = ops.moe_combine(ops.grouped_gemm(h, w_out, offsets), row_of, weights)
    got = ops.moe_ffn(x, w_in, w_out, weights, indices, activation=activation)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_idle_experts_are_not_read_and_have_zero_gradients():
    w_in, w_out = _experts(5, 16, 32, torch.float32)
    w_in[3], w_out[3] = float("nan"), float("nan")
    leaves = [t.requires_grad_() for t in (torch.randn(9, 16), w_in, w_out)]
    weights, indices = _choices(9, 3, 2)
    out = ops.moe_ffn(*leaves, weights, indices)
    assert out.isfinite().all()
    out.sum().backward()
    for t in leaves[1:]:
        assert (t.grad[3:] == 0).all() and (t.grad[:3].abs().amax((1, 2)) > 0).all()


@pytest.mark.parametrize("activation", ["none", "silu", "gelu_tanh", "swiglu", "geglu"])
def test_gradients(activation):
    gated = activation in ("swiglu", "geglu")
    w_in, w_out = _experts(4, 6, 5, torch.float64, gated)
    given = [
        torch.randn(7, 6, dtype=torch.float64),
        w_in,
        w_out,
        torch.rand(7, 2, dtype=torch.float64),
        torch.randn(4, w_in.shape[1], dtype=torch.float64),
        torch.randn(4, 6, dtype=torch.float64),
    ]
    _, indices = _choices(7, 4, 2)

    def run(x, w_in, w_out, weights, b_in, b_out):
        return ops.moe_ffn(
            x, w_in, w_out, weights, indices, activation=activation, b_in=b_in, b_out=b_out
        )

    assert torch.autograd.gradcheck(run, [t.requires_grad_() for t in given])
    # In float32 the same gradients come from the kernels.
    leaves = [t.detach().float().requires_grad_() for t in given]
    grad = torch.randn(7, 6)
    with kernel_pytorch.explain() as calls:
        found = torch.autograd.grad(run(*leaves), leaves, grad)
    assert not calls.fallbacks, calls
    exact = torch.autograd.grad(run(*given), given, grad.double())
    for f, e in zip(found, exact):
        torch.testing.assert_close(f.double(), e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("x_dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("level", isa_levels())
def test_every_byte_is_decoded_exactly(dtype, x_dtype, level):
    """Each code of a format, through the kernels for few rows and for many."""
    codes = torch.arange(256, dtype=torch.uint8).view(dtype)
    codes = codes[codes.float().isfinite()]
    width = len(codes)
    one = torch.eye(width)
    w_out = codes.view(torch.uint8).expand(1, width, width).contiguous().view(dtype)

    def run(x):
        return ops.moe_ffn(
            x.to(x_dtype),
            one.to(dtype)[None],
            w_out,
            torch.ones(len(x), 1),
            torch.zeros(len(x), 1, dtype=torch.int64),
            activation="none",
            s_in=torch.ones(1),
            s_out=torch.ones(1),
        )

    exact = codes.float()[:, None].expand(width, width)
    with cpu.isa_limit(level):
        assert torch.equal(run(one).float(), exact)
        for first in range(0, width, 16):
            assert torch.equal(run(one[first : first + 16]).float(), exact[first : first + 16])


def test_capacity_reports_exactly_what_it_drops():
    indices = torch.tensor([[0, 1], [0, 2], [0, 1], [1, 0]])
    x = torch.arange(8.0).view(4, 2)
    permuted, offsets, row_of = ops.moe_dispatch(x, indices, 3, capacity=2)
    # Expert 0: tokens 0 and 1; token 2 and then token 3's second choice find it full. Expert 1:
    # token 3's first choice, then token 0's second one; token 2's finds it full.
    assert offsets.tolist() == [2, 4, 5]
    assert row_of.tolist() == [[0, 2], [1, 4], [-1, -1], [3, -1]]
    assert int((row_of < 0).sum()) == 8 - int(offsets[-1])
    assert permuted[:5].tolist() == x[[0, 1, 0, 3, 1]].tolist() and (permuted[5:] == 0).all()
    out = ops.moe_combine(permuted, row_of, torch.ones(4, 2))
    assert out[2].tolist() == [0.0, 0.0] and out[0].tolist() == (2 * x[0]).tolist()


def test_routing_of_groups_and_ties():
    logits = torch.zeros(1, 8)
    assert ops.moe_route(logits, 3)[1].tolist() == [[0, 1, 2]]
    logits[0, 6] = 1.0
    weights, indices = ops.moe_route(logits, 2, num_groups=4, top_groups=1, score="sigmoid")
    assert indices.tolist() == [[6, 7]]
    torch.testing.assert_close(weights.sum(-1), torch.ones(1))
    bias = torch.zeros(8)
    bias[2:4] = 5.0  # two good ones beat one very good one
    chosen = ops.moe_route(logits, 2, num_groups=4, top_groups=1, bias=bias)
    assert chosen[1].tolist() == [[2, 3]]
    # The bias bears on the choice alone.
    torch.testing.assert_close(chosen[0], torch.full((1, 2), 0.5))
    logits[0, 3] = float("nan")
    weights, indices = ops.moe_route(logits, 2)
    assert indices[0, 0] == 3 and weights.isnan().all()


def test_compiles_without_a_break():
    w_in, w_out = _experts(4, 16, 24, torch.float32)
    x = torch.randn(10, 16)
    router = torch.randn(4, 16)

    def layer(x):
        weights, indices = ops.moe_route(x @ router.t(), 2)
        permuted, offsets, row_of = ops.moe_dispatch(x, indices, 4)
        y = ops.grouped_gemm(ops.grouped_gemm(permuted, w_in, offsets), w_out, offsets)
        return ops.moe_combine(y, row_of, weights) + ops.moe_ffn(x, w_in, w_out, weights, indices)

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
