"""Layers against a dense float64 mixture: outputs, gradients, drops, statistics."""

import pytest
import torch
from torch import nn

from kernel_pytorch.mixture_of_experts import (
    AdaptiveMoELayer,
    AttentionExpert,
    ConvolutionalExpert,
    DynamicCapacityRouter,
    FeedForwardExpert,
    HashRouter,
    HybridExpert,
    LearnedRouter,
    MoEConfig,
    MoELayer,
    ParameterEfficientExpert,
    SparseMoELayer,
    SwitchTransformerMoE,
    create_moe,
    create_moe_layer,
)
from kernel_pytorch.ops.linears import linear

_STILL = {"expert_dropout": 0.0, "router_dropout": 0.0}
_NO_NOISE = {"noise_epsilon": 0.0}


def _layer(hidden=24, seed=0, options=_NO_NOISE, layer=MoELayer, **config):
    torch.manual_seed(seed)
    config = MoEConfig(**{**_STILL, **config})
    return layer(config, hidden, expert_hidden_size=40, router_options=options)


def _dense(layer, x, parameters, kept=None):
    """Every expert for every token, weighted with 0 where it was not chosen, in float64."""
    p = {name: value.double() for name, value in parameters.items()}
    tokens = x.double().reshape(-1, x.shape[-1])
    logits = tokens @ p["router.gate.weight"].T
    scores = logits.softmax(-1) if layer.config.normalize_router_probs else logits.sigmoid()
    top = scores.topk(layer.top_k, dim=-1)
    weights = top.values
    if layer.config.normalize_router_probs:
        weights = weights / weights.sum(-1, keepdim=True)
    if kept is not None:
        weights = weights * kept
    gates = torch.zeros_like(scores).scatter(-1, top.indices, weights)
    out = torch.zeros_like(tokens)
    activation = layer.experts.activation
    for e in range(layer.num_experts):
        h = linear(tokens, p["experts.w_in"][e], p["experts.b_in"][e], activation)
        out = out + gates[:, e, None] * (h @ p["experts.w_out"][e].T + p["experts.b_out"][e])
    if layer.shared_expert is not None:
        h = linear(tokens, p["shared_expert.w_in"][0], p["shared_expert.b_in"][0], activation)
        out = out + h @ p["shared_expert.w_out"][0].T + p["shared_expert.b_out"][0]
    return out.view(x.shape), scores, top.indices


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "swiglu", "geglu"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_experts": 3, "top_k": 3, "num_shared_experts": 2},
        {"num_experts": 16, "top_k": 1, "normalize_router_probs": False},
    ],
)
def test_output_and_gradients_are_those_of_the_dense_mixture(activation, config):
    layer = _layer(activation_fn=activation, **config)
    x = torch.randn(3, 11, 24, requires_grad=True)
    grad = torch.randn(3, 11, 24)
    y, _ = layer(x, return_router_logits=True)
    y.backward(grad)

    exact = {n: p.detach().double().requires_grad_() for n, p in layer.named_parameters()}
    x64 = x.detach().double().requires_grad_()
    want, _, _ = _dense(layer, x64, exact)
    want.backward(grad.double())
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=1e-4, atol=1e-5)
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double(), exact[name].grad, rtol=1e-4, atol=2e-5, msg=name
        )


def test_bfloat16_is_near_the_dense_mixture():
    layer = _layer(num_experts=8).to(torch.bfloat16).eval()
    x = torch.randn(50, 24).bfloat16()
    want, _, _ = _dense(layer, x, dict(layer.named_parameters()))
    error = (layer(x).double() - want).norm() / want.norm()
    assert error < 0.01


def test_autocast_computes_the_experts_in_bfloat16_and_the_router_in_float32():
    layer = _layer(activation_fn="silu").eval()
    x = torch.randn(30, 24)
    want, routed = layer(x, return_router_logits=True)
    with torch.autocast("cpu", torch.bfloat16):
        y, routing = layer(x, return_router_logits=True)
    assert torch.equal(routing["router_logits"], routed["router_logits"])
    assert 0 < (y.float() - want).norm() / want.norm() < 0.02


def test_the_dropped_choices_are_those_reported():
    layer = _layer(num_experts=4, drop_tokens=True, capacity_factor=0.5, min_capacity=1)
    x = torch.randn(40, 24)
    y, routing = layer(x, return_router_logits=True)
    capacity, taken = 10, [0] * 4
    kept = torch.zeros(40, 2)
    for j in range(2):
        for t in range(40):
            e = int(routing["expert_indices"][t, j])
            kept[t, j] = taken[e] < capacity
            taken[e] += 1
    assert int(routing["tokens_dropped"]) == int((kept == 0).sum()) > 0
    want, _, _ = _dense(layer, x, dict(layer.named_parameters()), kept.double())
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-5)

    y, routing = layer.eval()(x, return_router_logits=True)
    assert int(routing["tokens_dropped"]) == 0
    want, _, _ = _dense(layer, x, dict(layer.named_parameters()))
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["standard", "sparse", "switch", "glam", "adaptive"])
def test_evaluation_is_deterministic_and_tokens_do_not_meet(kind):
    torch.manual_seed(1)
    layer = create_moe_layer(kind, 32, num_experts=8, expert_hidden_size=48).eval()
    x = torch.randn(6, 7, 32)
    y = layer(x)
    assert torch.equal(layer(x), y)
    others = torch.randn(6, 7, 32)
    others[2, 3] = x[2, 3]
    if kind == "glam":
        torch.testing.assert_close(layer(others)[2, 3], y[2, 3])
    else:
        assert torch.equal(layer(others)[2, 3], y[2, 3])
        assert torch.equal(layer(x[2:3, 3:4])[0, 0], y[2, 3])


@pytest.mark.parametrize(
    "expert", [ConvolutionalExpert, AttentionExpert, ParameterEfficientExpert, HybridExpert]
)
def test_other_experts_are_called_on_their_tokens(expert):
    torch.manual_seed(2)
    options = {"expert_types": {"feedforward": {"dropout": 0.0}}} if expert is HybridExpert else {}
    config = MoEConfig(num_experts=8, top_k=2, **_STILL)
    layer = MoELayer(config, 16, 32, expert, expert_options=options, router_options=_NO_NOISE)
    x = torch.randn(5, 16)
    y, routing = layer(x, return_router_logits=True)
    weights = routing["router_logits"].softmax(-1).gather(-1, routing["expert_indices"])
    weights = weights / weights.sum(-1, keepdim=True)
    want = torch.stack(
        [
            sum(
                w * layer.experts[e](x[t : t + 1])[0]
                for w, e in zip(weights[t], routing["expert_indices"][t].tolist())
            )
            for t in range(5)
        ]
    )
    torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-5)
    y.sum().backward()
    assert int((routing["expert_utilization"] == 0).sum()) > 0  # idle ones have a gradient too
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None or not parameter.requires_grad, name


def test_stacked_experts_are_feed_forward_experts():
    stacked = _layer()
    apart = MoELayer(
        stacked.config, 24, 40, expert_options={"use_layernorm": False}, router_options=_NO_NOISE
    )
    apart.router.load_state_dict(stacked.router.state_dict())
    for e, expert in enumerate(apart.experts):
        assert isinstance(expert, FeedForwardExpert)
        for name in ("in", "out"):
            layer = getattr(expert, f"w_{name}")
            layer.weight.data = getattr(stacked.experts, f"w_{name}")[e].data
            layer.bias.data = getattr(stacked.experts, f"b_{name}")[e].data
    x = torch.randn(30, 24)
    torch.testing.assert_close(stacked(x), apart(x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stacked.experts[3](x), apart.experts[3](x), rtol=1e-5, atol=1e-6)


def test_dropout_inside_the_experts_keeps_the_mean():
    layer = _layer(num_experts=2, expert_dropout=0.5)
    x = torch.randn(4, 24)
    with torch.no_grad():
        mean = torch.stack([layer(x) for _ in range(2000)]).mean(0)
        want = layer.eval()(x)
    assert (mean - want).abs().max() < 0.05


def test_losses_are_their_formulas():
    layer = _layer(num_experts=4, load_balance_loss_weight=0.5, router_z_loss_weight=0.25)
    x = torch.randn(60, 24)
    _, routing = layer(x, return_router_logits=True)
    logits = x.double() @ layer.router.gate.weight.double().T
    shares = torch.bincount(routing["expert_indices"].flatten(), minlength=4) / 120
    balance = 4 * (shares * logits.softmax(-1).mean(0)).sum()
    z = logits.logsumexp(-1).square().mean()
    torch.testing.assert_close(routing["load_balance_loss"].double(), 0.5 * balance)
    torch.testing.assert_close(routing["router_z_loss"].double(), 0.25 * z)
    torch.testing.assert_close(routing["expert_utilization"].double(), shares.double())


def test_every_parameter_has_a_gradient_with_few_tokens():
    layer = create_moe_layer("standard", 32, num_experts=16)
    y, routing = layer(torch.randn(1, 3, 32), return_router_logits=True)
    (y.sum() + routing["load_balance_loss"] + routing["router_z_loss"]).backward()
    idle = routing["expert_utilization"] == 0
    assert idle.any()
    for parameter in layer.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert not layer.experts.w_in.grad[idle].any()


def test_masked_experts_are_not_chosen():
    layer = _layer(num_experts=4).eval()
    x = torch.randn(30, 24)
    mask = torch.tensor([True, False, True, True])
    _, routing = layer(x, mask, return_router_logits=True)
    assert routing["expert_utilization"][1] == 0
    each = torch.rand(30, 4).argsort(-1) < 2
    _, routing = layer(x, each, return_router_logits=True)
    assert each.gather(1, routing["expert_indices"]).all()
    adaptive = _layer(num_experts=4, layer=AdaptiveMoELayer).eval()
    adaptive.router.bias[1] = 5.0
    assert adaptive(x, return_router_logits=True)[1]["expert_utilization"][1] == 0.5
    assert adaptive(x, mask, return_router_logits=True)[1]["expert_utilization"][1] == 0


def test_statistics_count_training_alone():
    layer = _layer(num_experts=4)
    assert "usage_rates" not in layer.get_expert_utilization_stats()
    _, first = layer(torch.randn(20, 24), return_router_logits=True)
    layer.eval()(torch.randn(20, 24))
    assert int(layer.total_tokens_processed) == 20
    stats = layer.get_expert_utilization_stats()
    torch.testing.assert_close(torch.tensor(stats["usage_rates"]), first["expert_utilization"])
    assert 0 < stats["expert_balance"] <= 1
    layer.reset_statistics()
    assert int(layer.expert_usage_count.sum()) == 0


def test_the_bias_evens_the_load():
    layer = _layer(layer=AdaptiveMoELayer, num_experts=8)
    torch.manual_seed(3)
    with torch.no_grad():
        layer.router.gate.weight[0] += 0.2
    x = torch.randn(512, 24) + 0.5
    loads = [layer(x, return_router_logits=True)[1]["expert_utilization"] for _ in range(60)]
    assert loads[0].max() > 0.4 and loads[-1].max() < 0.25
    assert layer.to(torch.bfloat16).router.bias.dtype == torch.float32


def test_configurations_have_their_names():
    config = MoEConfig(num_experts=8, top_k=2)
    assert SwitchTransformerMoE(config, 16).top_k == 1
    assert SparseMoELayer(config, 16, sparsity_level=0.125).top_k == 1
    assert SparseMoELayer(config, 16, sparsity_level=0.25).top_k == 2
    assert config == MoEConfig(num_experts=8, top_k=2)
    layer = create_moe(16, 4, 1, "sparse", expert_hidden_size=20, activation_fn="gelu")
    assert layer.experts.w_in.shape == (4, 20, 16) and layer.experts.activation == "gelu"
    assert len(layer.experts) == 4


@pytest.mark.parametrize("router", [HashRouter, LearnedRouter, DynamicCapacityRouter])
def test_other_routers_drive_the_layer(router):
    config = MoEConfig(num_experts=4, drop_tokens=True, capacity_factor=1.0, min_capacity=1)
    layer = MoELayer(config, 16, 32, router_class=router)
    y, routing = layer(torch.randn(2, 50, 16), return_router_logits=True)
    counts = torch.bincount(routing["expert_indices"].flatten(), minlength=4)
    factor = getattr(layer.router, "capacity_factor", 1.0)
    limit = layer.load_balancer.capacity(100, 2, factor)
    assert int(routing["tokens_dropped"]) == int((counts - limit).clamp(min=0).sum())
    assert y.isfinite().all()


def test_it_learns_and_saves():
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(20, 32), create_moe(32, 4), nn.Linear(32, 10))
    x, target = torch.randn(64, 20), torch.randint(10, (64,))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    other = nn.Sequential(nn.Linear(20, 32), create_moe(32, 4), nn.Linear(32, 10))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))
    with pytest.raises(RuntimeError, match=r"1.experts.w_in.*size mismatch|size mismatch.*experts"):
        nn.Sequential(nn.Linear(20, 32), create_moe(32, 8)).load_state_dict(
            model.state_dict(), strict=False
        )


def test_views_and_no_tokens():
    layer = _layer().eval()
    x = torch.randn(24, 5, 4).permute(2, 1, 0)
    assert torch.equal(layer(x), layer(x.contiguous()))
    y, routing = layer(torch.randn(0, 24), return_router_logits=True)
    assert y.shape == (0, 24) and routing["load_balance_loss"] == 0
    layer.train()(torch.randn(2, 0, 24))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: MoEConfig(top_k=9), "top_k must be from 1 to the 8 experts, got 9"),
        (lambda: MoEConfig(num_experts=0), "num_experts must be at least 1"),
        (lambda: MoEConfig(capacity_factor=-1.0), "capacity_factor must be positive"),
        (lambda: MoEConfig(min_capacity=-1), "min_capacity must be 0 or more"),
        (lambda: MoEConfig(load_balancing="even"), "load_balancing must be one of"),
        (lambda: MoEConfig(expert_dropout=1.0), "expert_dropout must be from 0 to below 1"),
        (lambda: create_moe(16, activation_fn="softplus"), "activation_fn must be one of"),
        (lambda: create_moe(16, moe_type="dense"), "moe_type must be one of"),
        (lambda: create_moe(16)(torch.ones(3, 17)), r"x must be \[..., 16\], got shape"),
        (lambda: create_moe(16)(torch.full((3, 16), float("nan"))), "must be numbers, got NaN"),
        (
            lambda: create_moe(16)(torch.ones(3, 16), torch.tensor([True] + [False] * 7)),
            "expert_mask must leave at least top_k = 2",
        ),
        (
            lambda: create_moe(16)(torch.ones(3, 16), torch.ones(7, dtype=torch.bool)),
            r"expert_mask must have shape \[8\] or \[3, 8\]",
        ),
        (
            lambda: create_moe(16, moe_type="sparse", sparsity_level=0.0),
            "sparsity_level must be above 0",
        ),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="experts_hidden"):
        create_moe(16, experts_hidden=3)
