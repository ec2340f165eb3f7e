"""One model through every backend: the same results, states that move, and honest absence."""

from __future__ import annotations

from collections.abc import Callable

from kernel_pytorch.backends import BackendFactory, BackendType, ConfigurationError, get_backend
from kernel_pytorch.demos.backend_parts import levels, raises, through
from kernel_pytorch.demos.walkthrough import Walkthrough

__all__ = ["run"]


def run(*, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Walkthrough:
    """Run the walk; ``quick`` takes a small model."""
    shown = Walkthrough(title="One model through every backend", say=say)
    say("asking the machine for its devices")
    information = BackendFactory.get_all_backend_info()
    shown.listing(
        "backends of this machine",
        ("backend", "available", "device, or why there is none"),
        [
            (
                name,
                "yes" if found["available"] else "no",
                ", ".join(d["device_name"] for d in found["devices"]) or found["reason"],
            )
            for name, found in information.items()
        ],
    )
    shown.at_least("the CPU is available", float(information["cpu"]["available"]), 1.0)
    best = get_backend("auto").BACKEND_NAME
    shown.at_least("the best backend is available", float(information[best]["available"]), 1.0)
    for kind in BackendType:
        if kind is BackendType.AUTO:
            continue
        say(f"through the {kind.value} backend")
        with get_backend(kind) as backend:
            through(shown, backend, 32 if quick else 512)
    levels(shown, get_backend(best).optimizer)
    raises(shown, "an unknown backend", ConfigurationError, lambda: get_backend("nvida"))
    return shown.finished()
