"""Cross entropies beyond what follows from their declarations: PyTorch's own answers, rows that
are independent, what runs for a gradient."""

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
