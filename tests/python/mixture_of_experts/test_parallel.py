"""Experts shared among two processes: as one process with all of them."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from kernel_pytorch.mixture_of_experts import ExpertParallelism, MoEConfig, MoELayer, create_moe
from kernel_pytorch.mixture_of_experts.experts import StackedExperts

_TOKENS = (13, 40)
"""How many tokens each process has."""


def _inputs():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(sum(_TOKENS), 16, generator=generator)
    logits = torch.randn(sum(_TOKENS), 6, generator=generator)
    logits[:, 1] += 3  # one busy expert, and one without tokens
    logits[:, 5] -= 100
    weights, indices = torch.ops.kpt.moe_route(logits, 2)
    return x, weights, indices


def _experts():
    torch.manual_seed(6)
    return StackedExperts(6, 16, 24, activation_fn="swiglu")


def _process(rank, world, store, results):
    dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
    try:
        x, weights, indices = (t.split(_TOKENS)[rank] for t in _inputs())
        x = x.clone().requires_grad_()
        weights = weights.clone().requires_grad_()
        parallel = ExpertParallelism(6, _experts(), expert_parallel_size=world)
        y = parallel(x, indices, weights)
        y.square().sum().backward()
        gradients = {n: p.grad for n, p in parallel.experts.named_parameters()}
        none = parallel(x[: rank * 40], indices[: rank * 40], weights[: rank * 40])
        torch.manual_seed(7)
        layer = create_moe(16, 6, expert_parallelism=True).eval()
        assert layer.state_dict().keys() == create_moe(16, 6).state_dict().keys()
        found = (y, x.grad, weights.grad, gradients, none, layer(x))
        torch.save(found, f"{results}/{rank}")
    finally:
        dist.destroy_process_group()


def test_two_processes_are_as_one(tmp_path):
    mp.spawn(_process, (2, str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / str(rank)) for rank in range(2)]
    x, weights, indices = _inputs()
    x.requires_grad_()
    weights.requires_grad_()
    experts = _experts()
    y, _ = experts(x, weights, indices)
    y.square().sum().backward()
    close = {"rtol": 1e-5, "atol": 1e-5}
    for place, want in enumerate((y, x.grad, weights.grad)):
        torch.testing.assert_close(torch.cat([p[place] for p in parts]), want, **close)
    for name, parameter in experts.named_parameters():
        got = torch.cat([p[3][name] for p in parts])
        torch.testing.assert_close(got, parameter.grad, **close)
    assert not experts.w_in.grad[5].any()
    assert parts[0][4].shape == (0, 16)
    torch.testing.assert_close(parts[1][4], y[13:], **close)
    torch.manual_seed(7)
    layer = create_moe(16, 6).eval()
    torch.testing.assert_close(torch.cat([p[5] for p in parts]), layer(x), **close)


def test_one_process_computes_here():
    x, weights, indices = _inputs()
    experts = _experts()
    parallel = ExpertParallelism(6, experts)
    assert torch.equal(parallel(x, indices, weights), experts(x, weights, indices)[0])
    layer = MoELayer(MoEConfig(expert_parallelism=True), 16)
    assert layer.eval()(x).isfinite().all()
    with pytest.raises(ValueError, match="expert_parallel_size must be the number of processes, 1"):
        ExpertParallelism(6, copy.deepcopy(experts), expert_parallel_size=2)
    with pytest.raises(ValueError, match="experts must be this process's 4 or all 4, got 6"):
        ExpertParallelism(4, experts)
