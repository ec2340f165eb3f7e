"""A sequence split among real processes gives what one process gives, forward and backward."""

import datetime

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from kernel_pytorch.attention import (
    ContextParallelAttention,
    create_context_parallel_attention,
    create_ring_attention,
    ring_attention,
)


def inputs():
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, 24, 8, generator=g)
    k, v = torch.randn(2, 2, 2, 24, 8, generator=g)
    return q, k, v, torch.randn(2, 4, 24, 8, generator=g)


def whole(is_causal):
    q, k, v, grad = (t.double() for t in inputs())
    leaves = [t.requires_grad_() for t in (q, k, v)]
    out = F.scaled_dot_product_attention(*leaves, is_causal=is_causal, enable_gqa=True)
    return out, *torch.autograd.grad(out, leaves, grad)


def close(got, want):
    return (got.double() - want).norm() <= 1e-5 * want.norm()


def check_part(rank, size):
    for is_causal in (False, True):
        q, k, v, grad = (t.chunk(size, 2)[rank].contiguous() for t in inputs())
        leaves = [t.requires_grad_() for t in (q, k, v)]
        out = ring_attention(*leaves, is_causal=is_causal)
        found = (out, *torch.autograd.grad(out, leaves, grad))
        for got, want in zip(found, whole(is_causal)):
            assert close(got, want.chunk(size, 2)[rank]), (rank, is_causal)


def run(rank, size, port):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=60),
    )
    check_part(rank, size)
    torch.manual_seed(0)
    layer = create_ring_attention(16, 2, ring_size=size)
    x = torch.randn(1, 3 * size, 16, generator=torch.Generator().manual_seed(1))
    mine = layer(x.chunk(size, 1)[rank])[0]
    gathered = [torch.empty_like(mine) for _ in range(size)]
    dist.all_gather(gathered, mine.detach())
    q, k, v = (
        p(x).unflatten(-1, (2, -1)).transpose(1, 2)
        for p in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    exact = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(
        torch.cat(gathered, 1), layer.out_proj(exact.transpose(1, 2).flatten(2)), atol=1e-5
    )
    with pytest.raises(ValueError, match="every process must hold as many tokens"):
        ring_attention(*(torch.randn(1, 1, 2 + rank, 4) for _ in range(3)))
    with pytest.raises(ValueError, match="context_parallel_size is 7"):
        create_ring_attention(16, 2, ring_size=7)
    dist.destroy_process_group()


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_several_processes():
    mp.spawn(run, (3, free_port()), nprocs=3)


def test_one_process_needs_no_group():
    check_part(0, 1)
    layer = create_context_parallel_attention(16, 2)
    assert isinstance(layer, ContextParallelAttention)
    x = torch.randn(2, 5, 16)
    assert layer(x).shape == x.shape
    with pytest.raises(ValueError, match="'attention_mask' must be None"):
        layer(x, torch.ones(2, 5))
    with pytest.raises(ValueError, match="d_model must be divisible"):
        create_ring_attention(16, 3)
    with pytest.raises(ValueError, match="with the same S"):
        ring_attention(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, 4))
