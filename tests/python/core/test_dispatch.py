"""Dispatch is loud: explain, counters, strict, the native gate, fork, threads, import order."""

import multiprocessing
import os
import subprocess
import sys
import threading
import warnings

import pytest
import torch

import kernel_pytorch
from kernel_pytorch.backends import cpu
from kernel_pytorch.core.errors import NativeUnavailableError, StrictModeError


def run_python(code, **environment):
    """Run code in a fresh interpreter that sees the same packages."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300
    )


def test_explain_tells_what_ran():
    x = torch.randn(4, 33)
    with kernel_pytorch.explain() as calls:
        torch.ops.kpt.act(x, "gelu")
        torch.ops.kpt.act(x.double(), "gelu")
    native, fallback = calls
    assert (native.op, native.implementation, native.reason) == ("act", "native", "")
    assert native.variant in {v.name for v in cpu.variants("act")}
    assert fallback.implementation == "reference"
    assert "float64" in fallback.reason
    assert calls.fallbacks == [fallback]
    text = str(calls)
    assert "native " + native.variant in text
    assert "reference" in text


def test_explain_without_block_holds_the_last_calls():
    torch.ops.kpt.act(torch.randn(3), "relu")
    assert kernel_pytorch.explain().calls[-1].op == "act"


def test_nested_blocks_each_hold_their_calls():
    x = torch.randn(3)
    with kernel_pytorch.explain() as outer:
        torch.ops.kpt.act(x, "relu")
        with kernel_pytorch.explain() as inner:
            torch.ops.kpt.act(x, "silu")
    assert (len(outer), len(inner)) == (2, 1)


def test_counters_lose_nothing_between_threads():
    kernel_pytorch.reset_counters()
    x = torch.randn(3)

    def work():
        for _ in range(200):
            torch.ops.kpt.act(x, "relu")

    workers = [threading.Thread(target=work) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert sum(n for call, n in kernel_pytorch.counters().items() if call.op == "act") == 800


def test_strict_nests_and_ends():
    x = torch.randn(3, dtype=torch.float64)
    with kernel_pytorch.strict():
        with pytest.raises(StrictModeError, match="act: no native kernel ran on cpu: .*float64"):
            torch.ops.kpt.act(x, "relu")
        with kernel_pytorch.strict(False):
            torch.ops.kpt.act(x, "relu")
        torch.ops.kpt.act(x.float(), "relu")
    torch.ops.kpt.act(x, "relu")


def test_strict_from_the_environment():
    code = (
        "import torch, kernel_pytorch; "
        "torch.ops.kpt.act(torch.randn(3, dtype=torch.float64), 'relu')"
    )
    result = run_python(code, KPT_STRICT="1")
    assert result.returncode != 0
    assert "StrictModeError" in result.stderr


@pytest.mark.parametrize("first", ["torch", "kernel_pytorch"])
def test_operators_are_there_in_either_import_order(first):
    second = {"torch": "kernel_pytorch", "kernel_pytorch": "torch"}[first]
    code = f"import {first}; import {second}; print(torch.ops.kpt.act(torch.ones(2), 'relu').sum())"
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "tensor(2.)" in result.stdout


def test_import_alone_does_not_import_torch():
    result = run_python(
        "import sys, kernel_pytorch; assert 'torch' not in sys.modules; print('light')"
    )
    assert "light" in result.stdout, result.stderr


def test_isa_limit_from_the_environment():
    result = run_python(
        "import torch, kernel_pytorch; from kernel_pytorch.backends import cpu; print(cpu.isa())",
        KPT_ISA="baseline",
    )
    assert result.stdout.strip() == "baseline", result.stderr


def test_bad_isa_in_the_environment_is_named():
    result = run_python(
        "import torch, kernel_pytorch; from kernel_pytorch.backends import cpu; cpu.isa()",
        KPT_ISA="sse9",
    )
    assert result.returncode != 0
    assert "KPT_ISA: unknown ISA level 'sse9'; expected baseline, avx2" in result.stderr


def test_isa_limit_refuses_unknown_levels():
    with pytest.raises(ValueError, match="unknown ISA level 'mmx'"), cpu.isa_limit("mmx"):
        pass


def test_force_variant_refuses_unknown_names():
    with pytest.raises(ValueError, match="op 'act' has no variant 'magic'"):
        with cpu.force_variant("act", "magic"):
            pass
    with pytest.raises(ValueError, match="unknown op 'nothing'"):
        with cpu.force_variant("nothing", "magic"):
            pass


def test_missing_native_module_falls_back_with_a_warning():
    code = """
import sys, warnings
sys.modules["kernel_pytorch._native.cpu"] = None
import torch, kernel_pytorch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y = torch.ops.kpt.act(torch.tensor([-1.0, 2.0]), "relu")
print(y.tolist(), [str(w.message) for w in caught if "reference" in str(w.message)])
print(kernel_pytorch.explain())
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    assert "[0.0, 2.0] ['act runs its reference: kernel_pytorch._native.cpu does not load" in (
        result.stdout
    )
    assert "reference" in result.stdout


def test_native_module_of_another_version_is_refused():
    code = """
import sys, types
module = types.ModuleType("kernel_pytorch._native.cpu")
module.__version__ = "0.0.1"
sys.modules["kernel_pytorch._native.cpu"] = module
import kernel_pytorch
from kernel_pytorch._native import load
load("cpu")
"""
    result = run_python(code)
    assert "is version 0.0.1, but the package is" in result.stderr


def test_unknown_backend_is_refused():
    from kernel_pytorch._native import load

    with pytest.raises(NativeUnavailableError, match="_native.abacus does not load"):
        load("abacus")


def _child(queue, x, want):
    # torch's own parallel operators would wait for the parent's threads here: none is called.
    y = torch.ops.kpt.act(x, "relu")
    queue.put((cpu.max_threads(), y.untyped_storage().tolist() == want.untyped_storage().tolist()))


def test_fork_after_parallel_work():
    """A forked child has none of the pool's threads: it must run serially, not wait for them."""
    x = torch.randn(64, 1024)
    want = x.relu()
    torch.ops.kpt.act(torch.randn(512, 1024), "gelu")
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = context.Process(target=_child, args=(queue, x, want))
        child.start()
    child.join(60)
    alive = child.is_alive()
    child.kill()
    assert not alive, "the child hangs"
    assert queue.get() == (1, True)


def test_threads_follow_torch():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert cpu.max_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_boundary_is_the_exchange_api_where_torch_has_it():
    from kernel_pytorch._native import load

    has_api = hasattr(torch.Tensor, "__dlpack_c_exchange_api__")
    expected = "dlpack_c_exchange_api" if has_api else "python_attributes"
    assert load("cpu").boundary(torch.Tensor) == expected


def test_slow_boundary_reads_the_same():
    """Objects without the exchange API cross through their Python attributes."""
    from kernel_pytorch._native import load

    class Wrapped:
        """Looks like a tensor, has no exchange API."""

        def __init__(self, tensor):
            self._tensor = tensor

        def __getattr__(self, name):
            return getattr(self._tensor, name)

    native = load("cpu")
    assert native.boundary(Wrapped) == "python_attributes"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(5, 33).to(dtype)
        out = torch.empty_like(x)
        native.act(Wrapped(out), Wrapped(x[:, :]), "relu")
        assert torch.equal(out, x.relu())
    with pytest.raises(TypeError, match="act: argument 'x' must be a torch.Tensor, got"):
        native.act(out, 3, "relu")
    with pytest.raises(ValueError, match="act: argument 'x' must have a dense last dimension"):
        native.act(torch.empty(33, 5), Wrapped(torch.randn(5, 33).t()), "relu")


def test_more_than_2_31_elements():
    """Offsets are 64-bit: a 4.3 GB tensor in place, right at its ends and around element 2^31."""
    with open("/proc/meminfo", encoding="ascii") as file:
        found = dict(line.split(":", 1) for line in file)
    available = int(found["MemAvailable"].split()[0]) << 10
    if available < 8 << 30:
        pytest.skip(f"needs 8 GiB of free memory, {available / 2**30:.1f} GiB are there")
    rows = 2**21 + 3
    x = torch.empty((rows, 1024), dtype=torch.bfloat16)
    marks = (0, 2**21 - 1, 2**21, rows - 1)
    for row in marks:
        x[row] = torch.randn(1024)
    want = [x[row].softmax(-1) for row in marks]
    torch.ops.kpt.softmax.out(x, out=x)
    assert x.numel() > 2**31
    for row, expected in zip(marks, want):
        torch.testing.assert_close(x[row], expected, rtol=0.02, atol=1e-4)
