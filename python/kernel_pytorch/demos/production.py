"""A model's way to production: trained, checkpointed, exported, gated in CI, and alerted about.

Everything happens for real in a temporary folder: the training is interrupted and resumed from its
checkpoint, the gate is `kpt compare` with its exit code, the regression is a slower way to compute
the same, and the alert arrives at an HTTP receiver.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from kernel_pytorch.core.performance_tracker import PerformanceTracker
from kernel_pytorch.demos.sentences import sentences
from kernel_pytorch.demos.walkthrough import Curve, Walkthrough
from kernel_pytorch.optimize.loading import load_model

__all__ = ["run"]

_CONTEXT, _WIDTH, _LAYERS, _BATCH = 32, 64, 2, 16
_NAME = "letters"

Mixing = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _mix(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _slow_mix(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same, row by row in float64: the regression that somebody took for a fix."""
    scale = q.shape[-1] ** -0.5
    rows = []
    for i in range(q.shape[-2]):
        scores = (q[..., i : i + 1, :].double() @ k[..., : i + 1, :].double().mT) * scale
        rows.append(scores.softmax(-1) @ v[..., : i + 1, :].double())
    return torch.cat(rows, dim=-2).to(q.dtype)


class _Letters(nn.Module):
    """Next letter from the last ones: a small causal transformer."""

    def __init__(self, letters: int, mix: Mixing = _mix) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, _WIDTH)
        self.place = nn.Parameter(torch.zeros(_CONTEXT, _WIDTH))
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "qkv": nn.Linear(_WIDTH, 3 * _WIDTH),
                    "out": nn.Linear(_WIDTH, _WIDTH),
                    "up": nn.Linear(_WIDTH, 4 * _WIDTH),
                    "down": nn.Linear(4 * _WIDTH, _WIDTH),
                    "first": nn.LayerNorm(_WIDTH),
                    "second": nn.LayerNorm(_WIDTH),
                }
            )
            for _ in range(_LAYERS)
        )
        self.head = nn.Linear(_WIDTH, letters)
        self.mix = mix

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) + self.place
        for block in self.blocks:
            q, k, v = block["qkv"](block["first"](x)).unflatten(-1, (3, 4, -1)).unbind(-3)
            mixed = self.mix(*(t.transpose(1, 2) for t in (q, k, v)))
            x = x + block["out"](mixed.transpose(1, 2).flatten(-2))
            x = x + block["down"](F.gelu(block["up"](block["second"](x))))
        logits: torch.Tensor = self.head(x)
        return logits


@dataclass
class _Training:
    """A model, its optimizer and how far they are."""

    model: _Letters
    optimizer: torch.optim.Optimizer
    data: torch.Tensor
    step: int = 0

    @staticmethod
    def begun(data: torch.Tensor, letters: int) -> _Training:
        torch.manual_seed(0)
        model = _Letters(letters)
        return _Training(model, torch.optim.AdamW(model.parameters(), lr=3e-3), data)

    def run(self, until: int) -> list[float]:
        """Losses of the steps up to ``until``."""
        losses = []
        while self.step < until:
            # Of the step alone, so that a resumed run sees the same.
            generator = torch.Generator().manual_seed(self.step)
            starts = torch.randint(len(self.data) - _CONTEXT - 1, (_BATCH,), generator=generator)
            windows = torch.stack([self.data[s : s + _CONTEXT + 1] for s in starts.tolist()])
            logits = self.model(windows[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
            self.step += 1
        return losses

    def save(self, folder: Path) -> None:
        """Weights as safetensors, the optimizer's state as tensors, the step as JSON."""
        folder.mkdir()
        save_file(self.model.state_dict(), folder / "model.safetensors")
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")
        (folder / "step.json").write_text(json.dumps({"step": self.step}), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """What :meth:`save` wrote; no code in it is run."""
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        self.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
        self.step = json.loads((folder / "step.json").read_text(encoding="utf-8"))["step"]


class _Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps the JSON that is sent to it."""

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.alerts.append(json.loads(text))  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def _receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A receiver of alerts on this machine: its address, and what came."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    server.alerts = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alerts", server.alerts  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Walkthrough:
    """Takes some 20 seconds; ``quick`` trains for fewer steps and measures fewer samples."""
    shown = Walkthrough(title="From training to an alert", say=say)
    with tempfile.TemporaryDirectory() as name, _receiver() as (address, alerts):
        folder = Path(name)
        training = _train(shown, folder, 40 if quick else 200)
        deployed = _deploy(shown, folder, training)
        gate = _Gate(folder, address, deployed, samples=31 if quick else 101)
        gate.measure(deployed, "baseline")
        _unchanged(shown, gate, training, alerts)
        _regression(shown, gate, training, alerts)
    return shown.finished()


def _train(shown: Walkthrough, folder: Path, steps: int) -> _Training:
    shown.say("training, with an interruption in the middle")
    text = "\n".join(sentences())
    letters = sorted(set(text))
    data = torch.tensor([letters.index(c) for c in text])
    whole = _Training.begun(data, len(letters))
    losses = whole.run(steps)
    first = _Training.begun(data, len(letters))
    first.run(steps // 2)
    first.save(folder / "checkpoint")
    resumed = _Training.begun(data, len(letters))
    resumed.load(folder / "checkpoint")
    resumed.run(steps)
    differ = max(
        float((a - b).detach().abs().max())
        for a, b in zip(whole.model.parameters(), resumed.model.parameters())
    )
    shown.curves.append(Curve(name="loss", values=losses))
    start, end = losses[0], sum(losses[-5:]) / 5
    shown.listing(
        "training",
        ("letters", "steps", "loss at first", "in the end"),
        [(str(len(letters)), str(steps), f"{start:.3f}", f"{end:.3f}")],
    )
    shown.at_most("loss in the end, of that at first", end / start, 0.85)
    shown.at_most("weights after a resumed training, difference", differ, 0.0)
    return resumed


def _example(training: _Training) -> torch.Tensor:
    return training.data[: _BATCH * _CONTEXT].view(_BATCH, _CONTEXT)


def _exported(model: nn.Module, example: torch.Tensor, file: Path) -> nn.Module:
    torch.export.save(torch.export.export(model.eval(), (example,)), file)
    return load_model(file)


def _deploy(shown: Walkthrough, folder: Path, training: _Training) -> nn.Module:
    shown.say("exporting the model, and loading it as a server would")
    example = _example(training)
    deployed = _exported(training.model, example, folder / "deployed.pt2")
    with torch.inference_mode():
        error = float((deployed(example) - training.model(example)).abs().max())
    shown.at_most("outputs of the deployed model, difference", error, 1e-5)
    return deployed


class _Gate:
    """What a CI job does with a candidate: measure it, compare it, alert, deploy or not."""

    def __init__(self, folder: Path, address: str, deployed: nn.Module, samples: int) -> None:
        self.folder, self.address, self.samples = folder, address, samples
        self.deployed = deployed
        self.example = torch.zeros(_BATCH, _CONTEXT, dtype=torch.int64)

    def measure(self, model: nn.Module, store: str) -> None:
        """A run in turn with the deployed model, in a store of its own."""
        tracker = PerformanceTracker(self.folder / f"{store}.sqlite3")
        tracker.record_performance(
            model,
            self.example,
            _NAME,
            num_iterations=self.samples,
            warmup_iterations=3,
            against=self.deployed,
        )

    def decide(self, candidate: str) -> tuple[int, dict[str, Any]]:
        """The exit code of ``kpt compare``, 1 for a regression, and what it found; an alert is sent
        when the code is not 0."""
        stores = [str(self.folder / f"{name}.sqlite3") for name in ("baseline", candidate)]
        # Moderate: a gate that stops for what users would not notice is soon switched off.
        options = ["--json", "--fail-on", "moderate"]
        done = subprocess.run(
            [sys.executable, "-m", "kernel_pytorch.cli", "compare", *stores, *options],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=False,
        )
        found = json.loads(done.stdout)
        if done.returncode:
            self._alert({"model": _NAME, "exit_code": done.returncode, "found": found})
        return done.returncode, found

    def _alert(self, message: dict[str, Any]) -> None:
        request = urllib.request.Request(
            self.address,
            data=json.dumps(message).encode(),
            headers={"Content-Type": "application/json"},
        )
        # Of this machine: no proxy stands between.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            answer.read()


def _row(found: dict[str, Any]) -> tuple[str, str, str]:
    (pair,) = found["pairs"]
    low, high = pair["interval"]
    return f"{pair['change']:+.1%}", f"{low:+.1%} to {high:+.1%}", pair["verdict"]


def _unchanged(
    shown: Walkthrough, gate: _Gate, training: _Training, alerts: list[dict[str, Any]]
) -> None:
    shown.say("the gate, with a candidate that is not slower")
    file = gate.folder / "same.pt2"
    gate.measure(_exported(training.model, _example(training), file), "same")
    code, found = gate.decide("same")
    shown.listing("an unchanged candidate", ("change", "99% interval", "verdict"), [_row(found)])
    shown.at_most("exit code of the gate for it", code, 0)
    shown.at_most("alerts for it", len(alerts), 0)


def _regression(
    shown: Walkthrough, gate: _Gate, training: _Training, alerts: list[dict[str, Any]]
) -> None:
    shown.say("the gate, with a candidate that is slower")
    slow = _Letters(training.model.head.out_features, _slow_mix)
    slow.load_state_dict(training.model.state_dict())
    example = _example(training)
    candidate = _exported(slow, example, gate.folder / "slower.pt2")
    with torch.inference_mode():
        error = float((candidate(example) - gate.deployed(example)).abs().max())
    gate.measure(candidate, "slower")
    code, found = gate.decide("slower")
    shown.listing("a slower candidate", ("change", "99% interval", "verdict"), [_row(found)])
    # Tests of its outputs would not have found it.
    shown.at_most("its outputs, difference", error, 1e-4)
    shown.at_least("exit code of the gate for it", code, 1)
    shown.at_most("exit code of the gate for it, at most", code, 1)
    shown.at_least("alerts that came", len(alerts), 1)
    shown.at_most("alerts that came, at most", len(alerts), 1)
    named = bool(alerts) and alerts[0]["found"]["pairs"][0]["what"].startswith(_NAME)
    shown.at_least("the alert names the model and the change", float(named), 1)
