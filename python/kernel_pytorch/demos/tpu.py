"""The TPU backend from end to end; without a TPU, what it does instead, and says."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from kernel_pytorch.backends.tpu import (
    TPUBackend,
    TPUMemoryManager,
    TPUOptimizer,
    XLACompiler,
    XLAUtilities,
)
from kernel_pytorch.backends.tpu.tpu_exceptions import TPUCheckpointError
from kernel_pytorch.core.config import TPUConfig
from kernel_pytorch.demos.backend_parts import error_of, levels, network, raises, through
from kernel_pytorch.demos.walkthrough import Walkthrough

__all__ = ["run"]


def run(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Walkthrough:
    """Run the walk; ``quick`` takes a small model."""
    shown = Walkthrough(title="TPU backend", say=say)
    width = 32 if quick else 512
    info = XLAUtilities.get_xla_env_info()
    shown.listing("environment", ("what", "is"), [(k, str(v)) for k, v in info.items()])
    say("the backend")
    backend = TPUBackend()
    with backend:
        through(shown, backend, width)
    levels(shown, backend.optimizer)
    x = torch.randn(4, 3, 8, 8)
    say("the optimizer")
    result = TPUOptimizer().optimize(network(width), x, "balanced")
    shown.listing(
        "optimised at balanced",
        ("what", "is"),
        [(k, str(v)) for k, v in result.performance_metrics.items()],
    )
    shown.at_least("milliseconds of a call", result.performance_metrics["latency_ms"], 1e-6)
    say("compiling")
    compiler, model = XLACompiler(TPUConfig(cache_max_size=2)), network(width)
    with warnings.catch_warnings():
        # Without a TPU nothing is compiled, and the table says so.
        warnings.simplefilter("ignore", RuntimeWarning)
        compiled = compiler.compile_model(model, x)
    stats = compiler.get_compilation_stats()
    shown.listing("compiler", ("what", "is"), [(k, str(v)) for k, v in stats.items()])
    with torch.no_grad():
        error = error_of(compiled(backend.to_device(x)), network(width)(x))
    shown.at_most("compiled: error", error, 2e-2 if backend.is_available else 0.0)
    say("memory pools")
    manager = TPUMemoryManager(TPUConfig())
    pool = manager.create_memory_pool(2, (8, 128))
    lent = [manager.get_tensor_from_pool(pool) for _ in range(3)]
    shown.at_most("tensors that a pool of two lends", sum(t is not None for t in lent), 2)
    assert lent[0] is not None
    shown.at_least("a tensor goes back", manager.return_tensor_to_pool(pool, lent[0]), 1)
    say("checkpoints")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.pt")
        backend.save_model(model, file)
        other = backend.load_model(network(width, seed=3), file)
        with torch.no_grad():
            moved = error_of(other(backend.to_device(x)), network(width)(x))
        shown.at_most("error of the model that was read back", moved, 1e-5)
        file.write_bytes(b"damaged")
        raises(
            shown,
            "a damaged checkpoint",
            TPUCheckpointError,
            lambda: backend.load_model(other, file),
        )
    return shown.finished()
