"""Backends: each maps the operators' launchers onto its native module.

Importing this package registers every operator in ``torch.ops.kpt`` and the launchers of each
backend. The native modules themselves load on the first call.
"""

from kernel_pytorch import ops
from kernel_pytorch.backends import cpu, cuda

__all__ = ["cpu", "cuda", "ops"]

cpu.register()
cuda.register()
