"""Backends: each maps the operators' launchers onto its native module.

Importing this package registers every operator in ``torch.ops.kpt`` and the CPU's launchers. The
native module itself loads on the first call.
"""

from kernel_pytorch import ops
from kernel_pytorch.backends import cpu

__all__ = ["cpu", "ops"]

cpu.register()
