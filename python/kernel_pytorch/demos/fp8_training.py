"""A small character language model trained in bfloat16 and by each FP8 recipe: the same loss?"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from kernel_pytorch.attention import create_flex_attention
from kernel_pytorch.core.dispatch_log import explain
from kernel_pytorch.demos.walkthrough import Curve, Walkthrough
from kernel_pytorch.precision import RECIPES, FP8Config, FP8LinearLayer, FP8TrainingEngine

__all__ = ["CharacterModel", "grammar", "run"]

_WIDTH, _LAYERS, _HEADS = 96, 2, 4
_LENGTH, _BATCH = 48, 16
_TOLERANCE = 0.01


def grammar(sentences: int, seed: int = 0) -> str:
    """Sentences of a small grammar, each a line."""
    chance = random.Random(seed)
    nouns = ["kernel", "tensor", "warp", "cache", "matrix", "thread", "tile", "stream"]
    verbs = ["loads", "stores", "scales", "splits", "rounds", "fills", "reads"]
    adjectives = ["small", "wide", "packed", "dense", "quick", "idle"]
    adverbs = ["twice", "slowly", "at once", "in order", ""]

    def phrase() -> str:
        adjective = f"{chance.choice(adjectives)} " if chance.random() < 0.6 else ""
        return f"the {adjective}{chance.choice(nouns)}"

    lines = []
    for _ in range(sentences):
        line = f"{phrase()} {chance.choice(verbs)} {phrase()}"
        if chance.random() < 0.3:
            line += f" while {phrase()} waits"
        lines.append(f"{line} {chance.choice(adverbs)}".strip() + ".")
    return "\n".join(lines)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.attention = create_flex_attention(_WIDTH, _HEADS, "causal")
        self.up, self.down = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm(x))
        y: torch.Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


class CharacterModel(nn.Module):
    """A decoder of a few layers: codes ``[B, T]`` to logits ``[B, T, codes]``."""

    def __init__(self, codes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, _WIDTH)
        self.position = nn.Embedding(_LENGTH, _WIDTH)
        self.layers = nn.Sequential(*(_Layer() for _ in range(_LAYERS)))
        self.norm = nn.LayerNorm(_WIDTH)
        self.head = nn.Linear(_WIDTH, codes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        logits: torch.Tensor = self.head(self.norm(self.layers(x)))
        return logits


class _Text:
    """Batches of a text, the same for each who asks with the same seed."""

    def __init__(self) -> None:
        text = grammar(2000)
        alphabet = sorted(set(text))
        codes = torch.tensor([alphabet.index(c) for c in text])
        self.codes = len(alphabet)
        self._train, self._held_out = codes[: len(codes) * 9 // 10], codes[len(codes) * 9 // 10 :]

    def batch(self, seed: int, held_out: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and the ones that follow them, each ``[batch, length]``."""
        text = self._held_out if held_out else self._train
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(len(text) - _LENGTH - 1, (_BATCH,), generator=generator)
        rows = torch.stack([text[s : s + _LENGTH + 1] for s in starts])
        return rows[:, :-1], rows[:, 1:]


def _saved_bytes(model: nn.Module, ids: torch.Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        with torch.autocast("cpu", torch.bfloat16):
            model(ids).float().sum()
    return sum(s.nbytes() for s in kept.values())


def run(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Walkthrough:
    """The same model, data and steps for bfloat16 and every recipe; ``quick``: fewer steps."""
    shown = Walkthrough(title="FP8 training of a character model")
    text = _Text()
    steps = 40 if quick else 300
    rows = []
    baseline = 0.0
    for name in ("bf16", *RECIPES):
        say(f"training in {name}")
        torch.manual_seed(0)
        model: nn.Module = CharacterModel(text.codes)
        config = FP8Config(scaling_strategy="dynamic" if name == "bf16" else name)
        # The output head stays in bfloat16, as in DeepSeek-V3.
        engine = FP8TrainingEngine(model, config, module_filter=lambda name, _: name != "head")
        if name != "bf16":
            engine.setup_fp8_training()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
        saved = _saved_bytes(model, text.batch(0)[0])
        losses, skipped, seconds = _train(engine, optimizer, text, steps)
        final = _held_out_loss(model, text)
        shown.curves.append(Curve(name=name, values=losses))
        if name == "bf16":
            baseline = final
            shown.at_most("bf16: final loss, of the first one", final / losses[0], 0.6)
        else:
            share = abs(final / baseline - 1.0)
            shown.at_most(f"{name}: distance of its final loss from bf16's", share, _TOLERANCE)
            shown.at_most(f"{name}: steps left out", skipped, 0)
            products, others = _products(model, text)
            shown.at_least(f"{name}: FP8 products a layer and step", products, 3.0)
            shown.at_most(f"{name}: layers' calls without a native kernel", others, 0)
        rows.append(
            (
                name,
                f"{final:.4f}",
                "" if name == "bf16" else f"{final / baseline - 1.0:+.2%}",
                f"{saved / 1e6:.2f}",
                f"{seconds / steps * 1e3:.1f}",
            )
        )
    heads = ("training in", "held-out loss", "from bf16", "kept for backward, MB", "ms a step")
    shown.listing(f"{steps} steps of {_BATCH} x {_LENGTH} characters", heads, rows)
    return shown.finished()


def _train(
    engine: FP8TrainingEngine, optimizer: torch.optim.Optimizer, text: _Text, steps: int
) -> tuple[list[float], int, float]:
    """Loss of each step, how many steps were left out, seconds."""
    losses = []
    skipped = 0
    started = time.perf_counter()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        ids, targets = text.batch(step)
        with torch.autocast("cpu", torch.bfloat16):
            logits = engine.model(ids)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        skipped += not engine.optimizer_step(optimizer)
        schedule.step()
        losses.append(float(loss.detach()))
    return losses, skipped, time.perf_counter() - started


@torch.no_grad()
def _held_out_loss(model: nn.Module, text: _Text) -> float:
    model.eval()
    losses = []
    for seed in range(16):
        ids, targets = text.batch(seed, held_out=True)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids)
        losses.append(float(F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())))
    model.train()
    return sum(losses) / len(losses)


def _products(model: nn.Module, text: _Text) -> tuple[float, int]:
    """FP8 products a layer in one step, and calls of theirs that no native kernel served."""
    layers = sum(isinstance(m, FP8LinearLayer) for m in model.modules())
    with explain() as calls:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(text.batch(0)[0]).float().sum()
        loss.backward()
    model.zero_grad()
    ours = [c for c in calls if c.op in ("fp8_gemm", "quantize_fp8")]
    products = sum(c.op == "fp8_gemm" for c in ours)
    return products / max(1, layers), sum(c.implementation != "native" for c in ours)
