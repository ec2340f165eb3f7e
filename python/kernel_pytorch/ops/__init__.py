"""The operators: one file each, declaring its :class:`OpSpec`; importing this registers all."""

import importlib
import pkgutil

from kernel_pytorch.ops.registry import SPECS, register
from kernel_pytorch.ops.spec import OpSpec

__all__ = ["SPECS"]

# A module here that defines an upper-case OpSpec declares an operator: a new file needs no edit.
for _module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
    for _name, _value in vars(importlib.import_module(f"{__name__}.{_module}")).items():
        if isinstance(_value, OpSpec) and _name.isupper():
            register(_value)

# Where this was imported before torch, the package left it to here; else they are being imported.
importlib.import_module("kernel_pytorch.backends")
