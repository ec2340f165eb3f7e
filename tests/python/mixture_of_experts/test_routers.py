"""Routers, experts by themselves, and the balancer: their numbers."""

import math

import pytest
import torch

from kernel_pytorch.mixture_of_experts import (
    AttentionExpert,
    ConvolutionalExpert,
    DynamicCapacityRouter,
    FeedForwardExpert,
    HashRouter,
    HybridExpert,
    LearnedRouter,
    LoadBalancer,
    ParameterEfficientExpert,
    SwitchRouter,
    TopKRouter,
    create_router,
)

_ROUTERS = [TopKRouter, SwitchRouter, HashRouter, LearnedRouter, DynamicCapacityRouter]


@pytest.mark.parametrize("router", _ROUTERS)
def test_what_routers_return(router):
    torch.manual_seed(0)
    layer = router(hidden_size=32, num_experts=8, top_k=2)
    k = layer.top_k
    for training in (True, False):
        found = layer.train(training)(torch.randn(20, 32))
        assert found["probs"].shape == found["logits"].shape == (20, 8)
        assert found["expert_indices"].shape == found["expert_weights"].shape == (20, k)
        assert found["top_k_indices"] is found["expert_indices"]
        ordered = found["expert_indices"].sort(-1).values
        assert (ordered.diff(dim=-1) > 0).all() and ordered.min() >= 0 and ordered.max() < 8
        if router is not SwitchRouter:
            torch.testing.assert_close(found["expert_weights"].sum(-1), torch.ones(20))


def test_switch_weighs_by_the_probability():
    router = SwitchRouter(16, 4, top_k=3).eval()
    found = router(torch.randn(9, 16))
    assert found["expert_indices"].shape == (9, 1)
    assert torch.equal(found["expert_indices"][:, 0], found["probs"].argmax(-1))
    torch.testing.assert_close(found["expert_weights"][:, 0], found["probs"].amax(-1))


def test_noise_in_training_alone():
    x = torch.randn(5, 16)
    for router in (TopKRouter(16, 4, dropout=0.0), SwitchRouter(16, 4, dropout=0.0)):
        assert not torch.equal(router(x)["logits"], router(x)["logits"])
        router.eval()
        assert torch.equal(router(x)["logits"], router(x)["logits"])


def test_hashing_is_by_content_and_position_and_even():
    torch.manual_seed(1)
    router = HashRouter(16, 8, top_k=2, use_token_position=False)
    x = torch.randn(4000, 16)
    chosen = router(x)["expert_indices"]
    assert torch.equal(HashRouter(16, 8, 2, use_token_position=False)(x)["expert_indices"], chosen)
    assert torch.equal(router(x[17:18])["expert_indices"][0], chosen[17])
    counts = torch.bincount(chosen.flatten(), minlength=8)
    assert (counts - 1000).abs().max() < 150  # 5 standard deviations
    mask = torch.ones(8, dtype=torch.bool)
    mask[3] = False
    masked = router(x, mask)["expert_indices"]
    stays = (chosen != 3).all(-1)
    assert torch.equal(masked[stays], chosen[stays]) and (masked != 3).all()

    placed = HashRouter(16, 64)
    same = torch.ones(2, 100, 16)
    chosen = placed(same)["expert_indices"].view(2, 100)
    assert torch.equal(chosen[0], chosen[1]) and len(chosen[0].unique()) > 20
    other = HashRouter(16, 64, hash_function="sha256")(same)["expert_indices"].view(2, 100)
    assert not torch.equal(other, chosen)


def test_the_capacity_follows_the_load():
    torch.manual_seed(2)
    router = DynamicCapacityRouter(16, 4, 1, adaptation_rate=0.5, complexity_threshold=10.0)
    with torch.no_grad():
        router.gate.weight.zero_()
        router.gate.weight[2] = 1.0
    x = torch.ones(100, 16)
    for _ in range(20):
        router(x)
    assert router.capacity_factor == 2.0  # the most allowed, of the 4 needed
    router.set_capacity_factor(0.1)
    assert router.capacity_factor == 0.5
    assert router.get_routing_stats()["capacity_factor"] == 0.5
    router.eval()(x)
    assert router.capacity_factor == 0.5


def test_learned_router_with_attention_sees_its_sequence_alone():
    router = LearnedRouter(16, 4, use_attention=True, router_hidden_size=24).eval()
    x = torch.randn(3, 6, 16)
    found = router(x)
    assert found["router_features"].shape == (18, 24)
    torch.testing.assert_close(router(x[1:2])["logits"], found["logits"][6:12])
    half = LearnedRouter(16, 4, dtype=torch.bfloat16)
    assert half(x.bfloat16())["logits"].dtype == torch.float32


def test_router_names():
    assert isinstance(create_router("hash", 16, 4), HashRouter)
    assert create_router("switch", 16, 4).top_k == 1
    with pytest.raises(ValueError, match="router_type must be one of"):
        create_router("random", 16, 4)
    with pytest.raises(ValueError, match="top_k must be from 1 to the 4 experts, got 5"):
        TopKRouter(16, 4, 5)
    with pytest.raises(ValueError, match="balance must be False"):
        HashRouter(16, 4, balance=True)


@pytest.mark.parametrize(
    "expert",
    [
        FeedForwardExpert,
        ConvolutionalExpert,
        AttentionExpert,
        ParameterEfficientExpert,
        HybridExpert,
    ],
)
def test_experts_take_rows_and_sequences(expert):
    torch.manual_seed(3)
    layer = expert(16, 32, 24).eval()
    rows = layer(torch.randn(7, 16))
    assert rows.shape == (7, 24) and rows.isfinite().all()
    x = torch.randn(2, 5, 16)
    assert layer(x).shape == (2, 5, 24)
    torch.testing.assert_close(layer(x[:, 0]), layer(x[:, :1])[:, 0])


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "swish", "mish", "geglu", "swiglu"])
def test_feed_forward_expert_is_its_formula(activation):
    torch.manual_seed(4)
    expert = FeedForwardExpert(12, 20, 8, 0.0, activation, use_layernorm=True)
    x = torch.randn(6, 12)
    h = torch.nn.functional.linear(expert.norm(x), expert.w_in.weight, expert.w_in.bias)
    functions = torch.nn.functional
    gates = {"geglu": functions.gelu, "swiglu": functions.silu, "swish": functions.silu}
    if activation in ("geglu", "swiglu"):
        gate, up = h.chunk(2, -1)
        h = gates[activation](gate) * up
    else:
        h = gates.get(activation, getattr(functions, activation, None))(h)
    want = h @ expert.w_out.weight.T + expert.w_out.bias
    torch.testing.assert_close(expert(x), want, rtol=1e-5, atol=1e-5)


def test_few_parameters_are_trained():
    lora = ParameterEfficientExpert(64, 256, rank=4, dropout=0.0)
    counts = lora.get_parameter_count()
    assert counts["trainable"] == 2 * 4 * (64 + 256)
    assert counts["total"] == counts["trainable"] + counts["frozen"]
    x = torch.randn(3, 64)
    assert torch.equal(lora(x), lora.base(x))  # what is added starts at zero
    with torch.no_grad():
        lora.lora_in[1].weight.normal_()
        lora.lora_out[1].weight.normal_()
    base = lora.base
    w_in = base.w_in.weight + lora.lora_in[1].weight @ lora.lora_in[0].weight
    w_out = base.w_out.weight + lora.lora_out[1].weight @ lora.lora_out[0].weight
    want = torch.relu(x @ w_in.T + base.w_in.bias) @ w_out.T + base.w_out.bias
    torch.testing.assert_close(lora(x), want, rtol=1e-3, atol=1e-3)
    adapter = ParameterEfficientExpert(64, 256, rank=4, adaptation_type="adapter")
    assert adapter.get_parameter_count()["trainable"] == 2 * 4 * 64


@pytest.mark.parametrize("method", ["concat", "sum", "weighted"])
def test_hybrid_experts_combine(method):
    types = {"feedforward": {"dropout": 0.0}, "attention": {"num_heads": 4}}
    expert = HybridExpert(16, 32, expert_types=types, combination_method=method).eval()
    x = torch.randn(5, 16)
    parts = [part(x) for part in expert.experts.values()]
    want = {
        "concat": lambda: expert.projection(torch.cat(parts, -1)),
        "sum": lambda: parts[0] + parts[1],
        "weighted": lambda: (parts[0] + parts[1]) / 2,
    }[method]()
    torch.testing.assert_close(expert(x), want)


def test_balancing_losses():
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]], requires_grad=True)
    indices = torch.tensor([[0, 1], [0, 2]])
    mean = torch.tensor([0.6, 0.25, 0.15])
    found = {
        kind: LoadBalancer(3, load_balance_loss_type=kind).compute_load_balance_loss(probs, indices)
        for kind in ("switch", "gshard", "entropy", "aux_loss_free")
    }
    assert found["switch"].item() == pytest.approx(3 * (0.5 * 0.6 + 0.25 * 0.25 + 0.25 * 0.15))
    assert found["gshard"].item() == pytest.approx(3 * 0.6)
    entropy = -(mean * mean.log()).sum().item()
    assert found["entropy"].item() == pytest.approx((math.log(3) - entropy) / math.log(3), 1e-5)
    assert found["aux_loss_free"].item() == 0
    found["switch"].backward()
    assert probs.grad.abs().sum() > 0
    even = torch.full((4, 4), 0.25)
    spread = torch.arange(4)[:, None]
    for kind, least in (("switch", 1.0), ("gshard", 1.0), ("entropy", 0.0)):
        balancer = LoadBalancer(4, load_balance_loss_type=kind)
        loss = balancer.compute_load_balance_loss(even, spread)
        assert loss.item() == pytest.approx(least, abs=1e-6)


def test_capacities_and_measures():
    balancer = LoadBalancer(4, capacity_factor=1.0, min_capacity=1)
    probs = torch.softmax(torch.randn(8, 4), -1)
    indices = torch.tensor([[0, 1]] * 6 + [[2, 3]] * 2)
    info = balancer.get_capacity_info(probs, 8, expert_indices=indices)
    assert info["expert_capacities"].tolist() == [4] * 4  # 8 tokens, 2 choices each, 4 experts
    assert int(info["tokens_dropped"]) == 4 and int(info["total_capacity"]) == 16
    assert info["expert_utilization"].tolist() == [1.5, 1.5, 0.5, 0.5]
    metrics = balancer.get_expert_balance_metrics(probs, indices)
    assert metrics["usage_max_ratio"] == pytest.approx(1.5)
    assert metrics["usage_min_ratio"] == pytest.approx(0.5)
    assert metrics["usage_cv"] == pytest.approx(0.5)
    bias = torch.zeros(4)
    balancer.update_bias(bias, torch.tensor([6, 6, 2, 2]), 0.01)
    torch.testing.assert_close(bias, torch.tensor([-0.01, -0.01, 0.01, 0.01]))
    for bad in ({"num_experts": 0}, {"capacity_factor": 0.0}, {"min_capacity": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            LoadBalancer(**{"num_experts": 4, **bad})
    with pytest.raises(ValueError, match=r"router_probs must be \[N, 4\]"):
        balancer.get_capacity_info(probs[:, :3], 8)
