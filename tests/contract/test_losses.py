"""Cross entropies beyond what follows from their declarations: PyTorch's own answers, rows that
are independent, what runs for a gradient."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import kernel_pytorch
from kernel_pytorch.backends import cpu
from tests.contract import harness

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
ops = torch.ops.kpt


def _problem(rows=6, classes=700, dtype=torch.float32, seed=3):
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(rows, classes, generator=generator)).to(dtype)
    target = torch.randint(0, classes, (rows,), generator=generator)
    target[1] = -100
    return logits, target


@pytest.mark.parametrize("level", harness.isa_levels())
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_as_in_pytorch(reduction, smoothing, level):
    logits, target = _problem()
    options = {"reduction": reduction, "label_smoothing": smoothing}
    with cpu.isa_limit(level):
        x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        got = ops.cross_entropy(x, target, **options)
        want = F.cross_entropy(y, target, **options)
        torch.testing.assert_close(got, want)
        grad = torch.randn(want.shape)
        got.backward(grad)
        want.backward(grad)
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", FLOATS)
def test_nothing_to_average(dtype):
    """All ignored, or no rows: the mean is NaN as in PyTorch, the sum 0, the gradient 0."""
    logits, target = _problem(dtype=dtype)
    for x, y in ((logits, torch.full_like(target, -100)), (logits[:0], target[:0])):
        assert ops.cross_entropy(x, y).isnan()
        assert F.cross_entropy(x, y).isnan()
        assert ops.cross_entropy(x, y, reduction="sum") == 0
        leaf = x.clone().requires_grad_()
        ops.cross_entropy(leaf, y).backward()
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


@pytest.mark.parametrize("level", harness.isa_levels())
@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_are_independent(dtype, level):
    """A row's loss, lse and gradient do not depend on the rows around it."""
    logits, target = _problem(dtype=dtype)
    ones = torch.ones(len(target))

    def run(x, y):
        loss, lse = ops.cross_entropy_forward(x, y, reduction="none", label_smoothing=0.1)
        grad = ops.cross_entropy_backward(
            x, y, lse, ones[: len(y)], ones[: len(y)], reduction="none", label_smoothing=0.1
        )
        return loss, lse, grad

    with cpu.isa_limit(level):
        whole = run(logits, target)
        for row in (0, 1, 5):
            alone = run(logits[row : row + 1], target[row : row + 1])
            harness.assert_bitwise_equal(
                alone, tuple(t[row : row + 1] for t in whole), f"row {row}"
            )
        spoiled = logits.clone()
        spoiled[1:] = float("nan")
        others = run(spoiled, target)
        harness.assert_bitwise_equal(
            tuple(t[0] for t in others), tuple(t[0] for t in whole), "beside NaN"
        )
        assert all(bool((t[1] == 0).all()) for t in others), "an ignored row is not read"


def test_extreme_logits():
    """Differences beyond the range of exp, subnormals, hidden classes: as PyTorch has it."""
    inf = float("inf")
    rows = [
        [1e38, -1e38, 0.0],
        [-1e38, -1e38, -1e38],
        [1e-40, -1e-40, 0.0],
        [-inf, 0.0, -inf],
        [-inf, -inf, -inf],
        [0.0, inf, 0.0],
        [0.0, float("nan"), 0.0],
    ]
    x = torch.tensor(rows)
    for place in range(3):
        y = torch.full((len(rows),), place)
        for smoothing in (0.0, 0.1):
            options = {"reduction": "none", "label_smoothing": smoothing}
            torch.testing.assert_close(
                ops.cross_entropy(x, y, **options),
                F.cross_entropy(x, y, **options),
                equal_nan=True,
            )


def test_strided_targets_and_rows():
    logits, target = _problem(rows=8)
    table = torch.stack([target, target.flip(0)], dim=1)
    wide = torch.zeros(8, 900)
    wide[:, 100:800] = logits
    got = ops.cross_entropy(wide[::2, 100:800], table[::2, 1], reduction="none")
    want = ops.cross_entropy(
        logits[::2].contiguous(), target.flip(0)[::2].contiguous(), reduction="none"
    )
    harness.assert_bitwise_equal(got, want, "strided")


def test_native_kernels_run_for_a_gradient():
    """Where a gradient is wanted, the form that keeps lse and the one-pass backward run."""
    logits, target = _problem()
    with kernel_pytorch.explain() as calls:
        ops.cross_entropy(logits.requires_grad_(), target).backward()
    assert [(c.op, c.implementation) for c in calls] == [
        ("cross_entropy_forward", "native"),
        ("cross_entropy_backward", "native"),
    ]


def test_z_loss_pulls_the_normalizer():
    """Its part of the gradient is that of z lse^2, and lse can be differentiated by itself."""
    logits, target = _problem()
    kept = target != -100
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ops.cross_entropy(x, target, z_loss=0.5, reduction="sum").backward()
    loss, lse = ops.cross_entropy_forward(y, target, reduction="sum")
    (loss + 0.5 * (lse**2).sum()).backward()
    torch.testing.assert_close(x.grad, y.grad)
    assert torch.equal(lse == 0, ~kept)


def test_compiled_training_step():
    logits, target = _problem()

    def step(x):
        return ops.cross_entropy(x * 2, target, label_smoothing=0.1, z_loss=1e-3)

    torch._dynamo.reset()
    x, y = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")(x)
    eager = step(y)
    compiled.backward()
    eager.backward()
    harness.assert_bitwise_equal((compiled, x.grad), (eager, y.grad), "compiled")


def _classifier(rows=6, classes=1100, dim=40, dtype=torch.float32, seed=4):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, dim, generator=generator).to(dtype)
    weight = (0.3 * torch.randn(classes, dim, generator=generator)).to(dtype)
    target = torch.randint(0, classes, (rows,), generator=generator)
    if rows > 1:
        target[1] = -100
    return hidden, weight, target


@pytest.mark.parametrize("level", harness.isa_levels())
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_linear_is_linear_and_cross_entropy(reduction, level):
    """Also with more rows and classes than a block has."""
    for rows, classes in ((6, 1100), (1030, 520)):
        hidden, weight, target = _classifier(rows, classes)
        options = {"reduction": reduction, "label_smoothing": 0.1}
        leaves = [t.clone().requires_grad_() for t in (hidden, weight)]
        wide = [t.double().requires_grad_() for t in (hidden, weight)]
        with cpu.isa_limit(level):
            got = ops.linear_cross_entropy(*leaves, target, **options)
            want = F.cross_entropy(F.linear(*wide), target, **options)
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
            grad = torch.randn(want.shape)
            got.backward(grad)
            want.backward(grad.double())
        for leaf, exact in zip(leaves, wide, strict=True):
            torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", harness.isa_levels())
@pytest.mark.parametrize("dtype", FLOATS)
def test_linear_rows_are_independent(dtype, level):
    hidden, weight, target = _classifier(rows=1030, dtype=dtype)
    ones = torch.ones(len(target))

    def run(first, last):
        x, y = hidden[first:last], target[first:last]
        loss, lse = ops.linear_cross_entropy_forward(x, weight, y, reduction="none")
        grad, _ = ops.linear_cross_entropy_backward(
            x, weight, y, lse, ones[: len(y)], ones[: len(y)], reduction="none", want_weight=False
        )
        return loss, lse, grad

    with cpu.isa_limit(level):
        whole = run(0, 1030)
        for first, last in ((0, 5), (500, 520), (1020, 1030)):
            harness.assert_bitwise_equal(
                run(first, last), tuple(t[first:last] for t in whole), f"rows {first} to {last}"
            )


def test_linear_gradients_that_nobody_wants_are_not_made():
    hidden, weight, target = _classifier()
    for frozen in (0, 1):
        leaves = [hidden.clone(), weight.clone()]
        leaves[1 - frozen].requires_grad_()
        ops.linear_cross_entropy(*leaves, target).backward()
        both = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        ops.linear_cross_entropy(*both, target).backward()
        assert leaves[frozen].grad is None
        harness.assert_bitwise_equal(leaves[1 - frozen].grad, both[1 - frozen].grad, "the other")
    lse, one = torch.ones(6), torch.tensor(1.0)
    found = ops.linear_cross_entropy_backward(
        hidden, weight, target, lse, one, torch.zeros(6), want_hidden=False, want_weight=False
    )
    assert [tuple(g.shape) for g in found] == [(0,), (0,)]


def test_linear_under_autocast():
    """Operands are cast, the loss is float32."""
    hidden, weight, target = _classifier()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = ops.linear_cross_entropy(hidden, weight, target)
    want = ops.linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), target)
    assert got.dtype == torch.float32
    harness.assert_bitwise_equal(got, want, "autocast")


_PEAK = """
import re, torch, kernel_pytorch
torch.set_num_threads(2)
rows, classes, dim, dtype = {rows}, {classes}, {dim}, torch.{dtype}
hidden = torch.randn(rows, dim).to(dtype).requires_grad_()
weight = (0.1 * torch.randn(classes, dim)).to(dtype).requires_grad_()
target = torch.randint(0, classes, (rows,))

def step(rows):
    loss = torch.ops.kpt.linear_cross_entropy(hidden[:rows], weight, target[:rows])
    return torch.autograd.grad(loss, (hidden, weight))

def status(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

step(4)  # the module is loaded
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = status("VmRSS")
grads = step(rows)
print(status("VmHWM") - before)
"""


@pytest.mark.parametrize("dtype", FLOATS)
def test_linear_memory(dtype):
    """The peak of a training step is the workspace that the operators state, and their results;
    logits alone would be more."""
    rows, classes, dim = 2048, 40000, 64
    try:
        with open("/proc/self/clear_refs", "a"):
            pass
    except OSError:
        pytest.skip("the kernel does not reset peaks")
    code = _PEAK.format(rows=rows, classes=classes, dim=dim, dtype=harness.short(dtype))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    r, c, item = 1024, 512, dtype.itemsize
    blocks = 4 * r * (c + 48) + c * (4 * r + 192)
    sums = 4 * rows * dim + 4 * c * dim
    copies = 4 * (r + c) * dim
    results = 2 * (rows + classes) * dim * item  # hidden's gradient passes through its slice
    # The panels of the products, the rows' plans, and what Python and PyTorch take meanwhile.
    other = 16 << 20
    assert int(run.stdout) <= blocks + sums + copies + results + 64 * rows + other
    assert blocks + sums + copies + results + other < rows * classes * item
