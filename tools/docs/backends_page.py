"""The page of the backends: what each level does, from the strategies as they are declared."""

from __future__ import annotations

from kernel_pytorch.backends.base_optimizer import BaseOptimizer
from kernel_pytorch.backends.base_types import OptimizationLevel, OptimizationStrategy

__all__ = ["page"]

_INTRO = """\
# Backends and levels

```python
from kernel_pytorch.backends import get_backend

with get_backend("auto") as backend:              # or "nvidia", "amd", "tpu", "intel", "cpu"
    model = backend.optimize_for_inference(model, sample, optimization_level="balanced")
    print(backend.last_result.optimizations_applied, backend.last_result.warnings)
    backend.revert(model)                         # as it was
```

`kernel_pytorch.core.management.UnifiedManager().auto_optimize(model, sample)` chooses backend and
level as well. A backend places models, runs levels, and speaks for its device: `get_device_info`,
`get_memory_stats`, `synchronize`, `set_device`, `empty_cache`, `state_dict`.

## What holds on every backend

- A level is a list of strategies. The result's `optimizations_applied` names those that changed
  something; what could not be done stands in `warnings` with the reason. Speed is measured
  (`metrics`), never assumed.
- Models change in place and only as instances: parameters keep names, values and dtypes, so a state
  dict moves between backends, and float32 inputs stay float32. `revert` undoes everything; a second
  optimisation undoes the first.
- Kernels replace parts of a model only where they win on the sample ([optimising](optimize.md));
  without a sample they are not tried.
- Without the device (no GPU, or a torch that is not built for it) the model stays on the CPU and is
  usable there. A warning and the result say why.
- Unknown levels, backends, devices and samples raise ValueError or TypeError; what is missing
  raises an error of the tree under `BackendError` that names the cure. A strategy that fails leaves
  the model as it was.

| level | old word | |
|---|---|---|
| `O0` | debug | nothing but the device and the mode |
| `O1` | conservative | results stay the same but for rounding |
| `O2` | balanced | also 16-bit arithmetic |
| `O3` | aggressive | also 8-bit arithmetic, and compilation that takes minutes |

"""

_MEMORY = """\
## Memory

`backend.memory_manager` allocates with protection: `allocate_with_oom_protection` asks first
whether the need with a margin is free (on a CPU: by the container's limit too), empties pools and
caches, asks again, and raises `OutOfMemoryError` before anything is touched. An allocation that
fails is tried again after the same. `return_to_pool` keeps a tensor for the next allocation of its
shape and dtype; what is in use is counted while tensors live. `optimize_tensor_layout` pads to what
matrix units take, `optimize_model_memory` advises.

## Compilers

`nvidia.CUDACompiler` (nvcc), `amd.ROCmCompiler` (hipcc) and `intel.OclocCompiler` (ocloc) turn a
source into a binary for a named architecture. Binaries are kept in a bounded folder of the user's
own, addressed by source, flags, architecture and the compiler's version; processes may share it.
Without the compiler there is no binary but `ToolNotFoundError` with the command that installs it.
`tpu.XLACompiler` keeps the models it compiled, the least recently used going first.

TPUs are driven by `torch_tpu`, else by `torch_xla`; Intel GPUs by torch's own XPU devices (Intel
Extension for PyTorch has ended and is only detected).
"""


def page() -> str:
    """The text of docs/backends.md, without the note that it is made."""
    parts = [_INTRO]
    for optimizer in _optimizers():
        parts.append(f"## Levels on {optimizer.OPTIMIZER_NAME}\n\n")
        parts.append(_table(optimizer.get_available_strategies()) + "\n")
    return "".join([*parts, _MEMORY])


def _optimizers() -> list[BaseOptimizer]:
    from kernel_pytorch.backends.amd.levels import AMDLevels
    from kernel_pytorch.backends.base_optimizer import CPUOptimizer
    from kernel_pytorch.backends.intel.levels import IntelLevels
    from kernel_pytorch.backends.nvidia.nvidia_optimizer import NVIDIAOptimizer
    from kernel_pytorch.backends.tpu.levels import TPULevels

    return [CPUOptimizer(), NVIDIAOptimizer(), AMDLevels(), TPULevels(), IntelLevels()]


def _table(strategies: list[OptimizationStrategy]) -> str:
    lines = [
        "| strategy | levels | for | needs | changes | what it does |",
        "|---|---|---|---|---|---|",
    ]
    for s in strategies:
        levels = " ".join(v.value for v in OptimizationLevel if s.is_applicable(v))
        use = "" if s.purpose == "both" else s.purpose
        cells = (f"`{s.name}`", levels, use, ", ".join(s.requires), s.precision_impact)
        lines.append(f"| {' | '.join(cells)} | {s.description} |")
    return "\n".join(lines) + "\n"
