"""Calls across the boundary: the GIL is released, nothing leaks, errors keep their types."""

import contextlib
import gc
import os
import sys
import threading
import time
import weakref

import pytest
import torch

from kernel_pytorch._native import load

NATIVE = load("cpu")


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_other_python_threads_run_during_a_kernel():
    """With a switch interval of minutes, only a release of the GIL lets the other thread count."""
    x = torch.randn(4096, 4096)
    out = torch.empty_like(x)
    count = 0
    stop = False

    def tick():
        nonlocal count
        while not stop:
            count += 1
            time.sleep(1e-4)  # gives the GIL back by itself

    interval = sys.getswitchinterval()
    worker = threading.Thread(target=tick)
    worker.start()
    try:
        sys.setswitchinterval(600.0)
        for _ in range(20):
            before = count
            NATIVE.softmax(out, x, 1.0)
            advanced = count - before
            if advanced > 0:
                break
    finally:
        sys.setswitchinterval(interval)
        stop = True
        worker.join()
    assert advanced > 0


def test_references_stay_balanced():
    x, weight, bias = torch.randn(3, 8), torch.ones(8), torch.zeros(8)
    out, total = torch.empty(3, 8), torch.empty(3, 8)
    held = (x, weight, bias, out, total, torch.Tensor)
    before = [sys.getrefcount(t) for t in held]
    for _ in range(200):
        NATIVE.add_layer_norm(out, total, x, x, weight, bias, 1e-5)
        with pytest.raises(TypeError):
            NATIVE.add_layer_norm(out, total, x, "text", weight, bias, 1e-5)
        with pytest.raises(ValueError):
            NATIVE.add_layer_norm(out, total, x, x, weight[:7], bias, 1e-5)
        with pytest.raises(TypeError):
            NATIVE.act(out, x.to_sparse(), "relu")
        with pytest.raises(ValueError):
            NATIVE.act(out, x, "nonsense")
    gc.collect()
    assert [sys.getrefcount(t) for t in held] == before


def test_outputs_die_with_their_last_reference():
    for make in (
        lambda: torch.ops.kpt.act(torch.randn(3, 8), "relu"),
        lambda: torch.ops.kpt.add_rms_norm(torch.randn(3, 8), torch.randn(3, 8))[1],
    ):
        tensor = make()
        assert sys.getrefcount(tensor) == 2
        dead = weakref.ref(tensor)
        del tensor
        assert dead() is None


def test_memory_does_not_grow():
    x = torch.randn(256, 1024)
    weight = torch.ones(1024)

    def calls(count):
        for _ in range(count):
            torch.ops.kpt.rms_norm(x, weight)
            with contextlib.suppress(ValueError):
                torch.ops.kpt.rms_norm(x, weight[:7])

    calls(100)
    before = resident_bytes()
    calls(2000)  # leaked outputs would be 2 GB
    assert resident_bytes() - before < 64 << 20


def test_calls_from_many_threads():
    """Kernels of several Python threads at once, with a forced switch between any two bytecodes."""
    x = torch.randn(64, 128)
    want = _softmax(x)
    failures = []

    def work():
        for _ in range(50):
            if not torch.equal(_softmax(x), want):
                failures.append("differs")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work) for _ in range(4)]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures


def _softmax(x):
    out = torch.empty_like(x)
    NATIVE.softmax(out, x, 1.0)
    return out


@pytest.mark.parametrize("arguments", [(), ("only one",), (torch.ones(2), torch.ones(2), 3)])
def test_wrong_arguments_are_a_type_error(arguments):
    with pytest.raises(TypeError):
        NATIVE.act(*arguments)


def test_variant_that_ran_is_returned():
    x = torch.ones(4)
    ran = NATIVE.act(torch.empty(4), x, "relu")
    assert ran in {name for op, name, _ in NATIVE.variants() if op == "act"}
    assert NATIVE.act(torch.empty(0), torch.ones(0), "relu") == "empty"


def test_status_codes_become_exceptions():
    x = torch.ones(2, 3)
    with pytest.raises(ValueError, match="act: argument 'out' must have shape"):
        NATIVE.act(torch.empty(3, 2), x, "relu")
    with pytest.raises(TypeError, match="act: argument 'x' must have dtype"):
        NATIVE.act(torch.empty(2, 3).int(), x.int(), "relu")
    NATIVE.force_variant("act", "rows_baseline")
    try:
        assert NATIVE.act(torch.empty(2, 3), x, "relu") == "rows_baseline"
    finally:
        NATIVE.force_variant("act", None)
