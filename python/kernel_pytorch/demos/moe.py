"""A mixture of experts: held against the dense mixture, balanced, trained, and timed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from kernel_pytorch.core.dispatch_log import explain
from kernel_pytorch.demos.result import rounds
from kernel_pytorch.demos.walkthrough import Curve, Walkthrough
from kernel_pytorch.mixture_of_experts import (
    AdaptiveMoELayer,
    HashRouter,
    MoEConfig,
    MoELayer,
    TopKRouter,
    create_moe_layer,
)

__all__ = ["run"]

_QUIET = {"noise_epsilon": 0.0}
_FLOAT32 = 1e-5
_KINDS = ("standard", "sparse", "switch", "glam", "adaptive")


def _config(**options: Any) -> MoEConfig:
    """Without dropout, so that training can be compared too."""
    return MoEConfig(expert_dropout=0.0, router_dropout=0.0, **options)


def _error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.detach().double() - want.detach()).norm() / want.detach().norm())


def _dense(
    x: torch.Tensor, parameters: Mapping[str, torch.Tensor], top_k: int, activation: str
) -> torch.Tensor:
    """Every expert for every token, weighted with 0 where it was not chosen."""
    scores = (x @ parameters["router.gate.weight"].T).softmax(-1)
    top = scores.topk(top_k, dim=-1)
    weights = top.values / top.values.sum(-1, keepdim=True)
    gates = torch.zeros_like(scores).scatter(-1, top.indices, weights)
    t = torch.einsum("td,efd->etf", x, parameters["experts.w_in"])
    t = t + parameters["experts.b_in"][:, None]
    if activation == "swiglu":
        gate, up = t.chunk(2, dim=-1)
        h = F.silu(gate) * up
    else:
        h = F.relu(t)
    y = torch.einsum("etf,edf->etd", h, parameters["experts.w_out"])
    return torch.einsum("te,etd->td", gates, y + parameters["experts.b_out"][:, None])


def _exactness(shown: Walkthrough, tokens: int) -> None:
    """Outputs and gradients against the dense mixture in float64."""
    rows = []
    for activation in ("relu", "swiglu"):
        config = _config(activation_fn=activation)
        layer = MoELayer(config, 64, 128, router_options=_QUIET)
        x, grad = torch.randn(tokens, 64, requires_grad=True), torch.randn(tokens, 64)
        with explain() as calls:
            y = layer(x)
        ran = next(c for c in calls.calls if c.op in ("moe_ffn", "grouped_gemm"))
        y.backward(grad)
        exact = {n: p.detach().double().requires_grad_() for n, p in layer.named_parameters()}
        x64 = x.detach().double().requires_grad_()
        want = _dense(x64, exact, 2, activation)
        want.backward(grad.double())
        forward = _error(y, want)
        pairs = [(x.grad, x64.grad)] + [
            (p.grad, exact[n].grad) for n, p in layer.named_parameters()
        ]
        backward = max(_error(a, b) for a, b in pairs if a is not None and b is not None)
        shown.at_most(f"{activation} experts: forward, relative error", forward, _FLOAT32)
        shown.at_most(f"{activation} experts: backward, relative error", backward, _FLOAT32)
        ran_as = f"{ran.op} {ran.implementation} {ran.variant}"
        rows.append((activation, ran_as, f"{forward:.1e}", f"{backward:.1e}"))
    heads = ("experts", "ran", "forward error", "backward error")
    shown.listing(f"{tokens} tokens, 2 of 8 experts, against the dense mixture", heads, rows)


def _independence(shown: Walkthrough, tokens: int) -> None:
    """Evaluation: twice the same, the same beside other tokens, nothing dropped."""
    rows = []
    for kind in _KINDS:
        layer = create_moe_layer(kind, 64, expert_hidden_size=128, drop_tokens=True).eval()
        x = torch.randn(tokens, 64)
        with torch.no_grad():
            y, routing = layer(x, return_router_logits=True)
            again = float((layer(x) - y).abs().max())
            others = torch.randn(tokens, 64)
            others[1] = x[1]
            beside = float((layer(others)[1] - y[1]).abs().max())
        dropped = int(routing["tokens_dropped"])
        shown.at_most(f"{kind}: two evaluations differ by", again, 0.0)
        shown.at_most(f"{kind}: a token beside others differs by", beside, 1e-6)
        shown.at_most(f"{kind}: choices dropped in evaluation", dropped, 0)
        rows.append((kind, str(layer.top_k), f"{again:g}", f"{beside:g}", str(dropped)))
    heads = ("layer", "experts a token", "again", "beside others", "dropped")
    shown.listing("Evaluation", heads, rows)


def _dropping(shown: Walkthrough, tokens: int) -> None:
    """With a capacity, what is reported as dropped is what was."""
    config = _config(drop_tokens=True, capacity_factor=0.75, min_capacity=1)
    layer = MoELayer(config, 64, 128, router_options=_QUIET)
    _, routing = layer(torch.randn(tokens, 64), return_router_logits=True)
    counts = torch.bincount(routing["expert_indices"].flatten(), minlength=8)
    capacity = layer.load_balancer.capacity(tokens, 2)
    beyond = int((counts - capacity).clamp(min=0).sum())
    reported = int(routing["tokens_dropped"])
    shown.at_least("choices dropped with capacity factor 0.75", reported, 1)
    shown.at_most("dropped choices reported wrongly", abs(reported - beyond), 0)
    rows = [(f"{e}", str(int(n)), str(min(int(n), capacity))) for e, n in enumerate(counts)]
    heads = ("expert", "chosen", "computed")
    shown.listing(f"A capacity of {capacity}: {reported} choices dropped", heads, rows)


def _balance(shown: Walkthrough) -> None:
    """A router that favours one expert, evened by the bias on the choice."""
    layer = AdaptiveMoELayer(_config(), 32, 0.01, expert_hidden_size=64, router_options=_QUIET)
    with torch.no_grad():
        layer.router.gate.weight[0] += 0.2
    x = torch.randn(512, 32) + 0.5
    busiest = []
    for _ in range(80):
        _, routing = layer(x, return_router_logits=True)
        busiest.append(float(routing["expert_utilization"].max()))
    shown.at_least("busiest expert's share before balancing", busiest[0], 0.3)
    shown.at_most("busiest expert's share after 80 steps", busiest[-1], 0.25)


def _training(shown: Walkthrough, steps: int) -> None:
    """A classifier with a mixture in it learns."""
    model = nn.Sequential(nn.Linear(20, 32), create_moe_layer("standard", 32), nn.Linear(32, 10))
    x = torch.randn(128, 20)
    target = (x @ torch.randn(20, 10)).argmax(-1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    shown.curves.append(Curve(name="loss", values=losses))
    shown.at_most("loss after training, of that before", losses[-1] / losses[0], 0.5)


def _loop(layer: MoELayer, x: torch.Tensor) -> torch.Tensor:
    """The layer as models write it in PyTorch: a loop over the experts that have tokens."""
    e = layer.experts
    scores = F.linear(x, layer.router.gate.weight).float().softmax(-1)
    weights, indices = scores.topk(layer.top_k, dim=-1)
    weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
    out = torch.zeros_like(x)
    for i in range(layer.num_experts):
        token, choice = (indices == i).nonzero(as_tuple=True)
        if len(token):
            h = F.relu(F.linear(x[token], e.w_in[i], e.b_in[i]))
            y = F.linear(h, e.w_out[i], e.b_out[i]) * weights[token, choice, None]
            out.index_add_(0, token, y)
    return out


def _speed(shown: Walkthrough, quick: bool, seconds: float, say: Callable[[str], None]) -> None:
    """Tokens a second beside the loop over experts."""
    sizes = (
        ((4, 64, 64), (64, 8, 64))
        if quick
        else ((4, 64, 128), (32, 8, 512), (4096, 8, 512), (4096, 8, 1024))
    )
    rows = []
    for tokens, experts, width in sizes:
        say(f"{tokens} tokens, {experts} experts, {width} wide")
        config = _config(num_experts=experts)
        layer = MoELayer(config, width, dtype=torch.bfloat16).eval()
        x = torch.randn(tokens, width).bfloat16()
        with torch.no_grad():
            _, routing = layer(x, return_router_logits=True)
            calls: dict[str, Callable[[], object]] = {
                "ours": partial(layer, x),
                "loop": partial(_loop, layer, x),
            }
            times = rounds(calls, seconds, least=3)
        ours = statistics.median(times["ours"])
        ratio = statistics.median(b / a for a, b in zip(times["ours"], times["loop"]))
        dropped = int(routing["tokens_dropped"]) / routing["expert_indices"].numel()
        shown.at_most(f"{tokens} x {width}: share of choices dropped", dropped, 0.0)
        rate = f"{tokens / ours:,.0f}"
        rows.append((f"{tokens}, {experts}, {width}", rate, f"{dropped:.0%}", f"{ratio:.2f}x"))
    heads = ("tokens, experts, width", "tokens/s", "dropped", "times faster than the loop")
    shown.listing("bfloat16, 2 experts a token, hidden layer 4 times as wide", heads, rows)

    x = torch.randn(1024, 512)
    topk, hashed = TopKRouter(512, 8).eval(), HashRouter(512, 8, top_k=2).eval()
    with torch.no_grad():
        times = rounds({"top-k": lambda: topk(x), "hash": lambda: hashed(x)}, seconds, least=3)
    taken = [(name, f"{statistics.median(t) * 1e3:.3f}") for name, t in times.items()]
    shown.listing("Routers, 1024 tokens of 512, 8 experts", ("router", "ms"), taken)


def run(
    *, quick: bool = False, seconds: float = 0.5, say: Callable[[str], None] = lambda _: None
) -> Walkthrough:
    """Layers against their definition, in evaluation, with a capacity, balanced, in training and
    timed. ``quick``: few tokens."""
    shown = Walkthrough(title="Mixture of experts")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        say("against the dense mixture")
        _exactness(shown, 50 if quick else 500)
        _independence(shown, 40)
        _dropping(shown, 100)
        say("balancing and training")
        _balance(shown)
        _training(shown, 100)
        _speed(shown, quick, seconds, say)
    return shown.finished()
