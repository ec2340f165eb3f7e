"""What is refused, what runs its original code, and what each says."""

import warnings

import pytest
import torch
from torch import nn

import kernel_pytorch
from kernel_pytorch.backends import cpu
from kernel_pytorch.core.errors import StrictModeError
from tests.python.optimize import small_models
from tests.python.optimize.small_models import outputs, same


def _linear_model():
    return nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)).eval()


X = torch.linspace(-2, 2, 9 * 32).view(9, 32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda m: kernel_pytorch.optimize("m", (X,)), TypeError, "'model' must be a torch.nn.M"),
        (lambda m: kernel_pytorch.optimize(m, X), TypeError, "'example_inputs' must be a tuple"),
        (lambda m: kernel_pytorch.optimize(m, None), TypeError, "got NoneType"),
        (
            lambda m: kernel_pytorch.optimize(m, (X,), precision="int3"),
            ValueError,
            "'precision' must be one of 'keep', 'bf16', 'int8', 'int4', 'fp8', got 'int3'",
        ),
        (
            lambda m: kernel_pytorch.optimize(m, (X,), max_error=-1),
            ValueError,
            "'max_error' must not be negative, got -1",
        ),
        (
            lambda m: kernel_pytorch.optimize(m, (X,), time_budget=float("nan")),
            ValueError,
            "'time_budget' must not be negative",
        ),
        (lambda m: kernel_pytorch.optimize(m.train(), (X,)), ValueError, r"call model.eval\(\)"),
        (lambda m: kernel_pytorch.plan(m.train(), (X,)), ValueError, "training mode"),
        (
            lambda m: kernel_pytorch.optimize(torch.jit.script(m), (X,)),
            TypeError,
            "TorchScript",
        ),
        (lambda m: kernel_pytorch.report(m), ValueError, "was not optimized"),
        (lambda m: kernel_pytorch.revert(m), ValueError, "was not optimized"),
        (lambda m: kernel_pytorch.revert(None), ValueError, "was not optimized"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_bad_arguments(call, error, match):
    model = _linear_model()
    with pytest.raises(error, match=match):
        call(model)
    assert not any("forward" in m.__dict__ for m in model.modules())


def test_optimizing_twice(all_win):
    model = _linear_model()
    kernel_pytorch.optimize(model, (X,))
    with pytest.raises(ValueError, match="already optimized; call revert"):
        kernel_pytorch.optimize(model, (X,))


def test_an_error_of_the_model_itself_passes_through():
    model = _linear_model()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        kernel_pytorch.optimize(model, (torch.randn(3, 5),))
    assert not any(m._forward_hooks for m in model.modules())


class _Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(32, 32, dtype=torch.float64)
        self.unused = nn.Linear(32, 32)
        self.hooked = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
        self.weighted = torch.nn.utils.parametrizations.weight_norm(nn.Linear(32, 32))
        self.conv = nn.Conv1d(9, 9, 1)
        self.training_part = nn.Linear(32, 32)
        self.norm2d = nn.LayerNorm((9, 32))

    def forward(self, x):
        x = self.wide(x.double()).float()
        x = self.training_part(self.weighted(self.hooked(x)))
        return self.norm2d(self.conv(x))


def test_each_left_module_has_a_reason(all_win):
    model = _Odd().eval()
    model.training_part.train()
    model.hooked[1].register_forward_hook(lambda *_: None)
    report = kernel_pytorch.plan(model, (X,))
    why = {name: item.reason for item in report.left for name in item.modules}
    assert "no kernel for torch.float64" in why["wide"]
    assert "do not reach" in why["unused"]
    assert "of its own" in why["weighted"]
    assert "no kernel for Conv1d" in why["conv"]
    assert "training mode" in why["training_part"]
    assert "of its own" in why["norm2d"]
    # The activation's hook must go on running, so it is not fused into the linear layer.
    kinds = {
        row.kind for row in report.rows if "hooked.0" in row.modules or "hooked" in row.modules
    }
    assert kinds == {"linear"}


def test_hooks_inside_a_block_keep_it_out(all_win):
    model, inputs = small_models.make_bert(), small_models.token_inputs()
    seen = []
    model.encoder.layer[1].attention.self.register_forward_hook(lambda *_: seen.append(1))
    kernel_pytorch.optimize(model, inputs, precision="bf16")
    report = kernel_pytorch.report(model)
    blocks = next(row for row in report.rows if row.kind == "encoder block")
    assert blocks.modules == ["encoder.layer.0", "encoder.layer.2"]
    seen.clear()
    outputs(model, inputs)
    assert seen == [1]


def test_hooks_on_a_replaced_module_run(all_win):
    model = _linear_model()
    seen = []
    model[2].register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    kernel_pytorch.optimize(model, (X,), precision="bf16")
    seen.clear()
    outputs(model, (X,))
    assert seen == [torch.float32]


def _original_reasons(run):
    with kernel_pytorch.explain() as calls, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = run()
    return result, [c.reason for c in calls if c.implementation == "original"]


def test_gradients_run_the_original():
    model = _linear_model()
    expected = torch.autograd.grad(model(X).sum(), model[0].weight)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kernel_pytorch.optimize.measure.Timing.wins", property(lambda s: True))
        kernel_pytorch.optimize(model, (X,), precision="bf16")
    (got,), reasons = _original_reasons(
        lambda: torch.autograd.grad(model(X).sum(), model[0].weight)
    )
    assert torch.equal(got, expected)
    assert any("gradient" in r for r in reasons)
    with pytest.warns(RuntimeWarning, match="inference_mode"):
        kernel_pytorch.revert(model)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kernel_pytorch.optimize.measure.Timing.wins", property(lambda s: True))
            kernel_pytorch.optimize(model, (X,), precision="bf16")
        model(X)


def test_uncovered_calls_run_the_original(all_win):
    model = _linear_model()
    reference = [t.clone() for t in outputs(model, (X,))]
    kernel_pytorch.optimize(model, (X,), precision="bf16")
    model.train()
    out, reasons = _original_reasons(lambda: outputs(model, (X,)))
    assert same(out, reference) and any("training mode" in r for r in reasons)
    model.eval()

    def under_autocast():
        with torch.autocast("cpu", torch.bfloat16):
            return outputs(model, (X,))

    _, reasons = _original_reasons(under_autocast)
    assert any("autocast" in r for r in reasons)
    with torch.no_grad():
        model[0].weight.mul_(2)
    out, reasons = _original_reasons(lambda: outputs(model, (X,)))
    assert any("weights changed" in r for r in reasons)
    with torch.no_grad():
        model[0].weight.div_(2)
    assert same(outputs(kernel_pytorch.revert(model), (X,)), reference)


def test_other_arguments_run_the_original(all_win):
    model = small_models.OwnModel().eval()
    x = torch.randn(2, 7, 32)
    expected = outputs(model, {"x": x, "flag": True})
    kernel_pytorch.optimize(model, {"x": x, "flag": None}, precision="bf16")
    assert kernel_pytorch.report(model).kept
    out, reasons = _original_reasons(lambda: outputs(model, {"x": x, "flag": True}))
    assert same(out, expected) and any("'flag' is not None" in r for r in reasons)
    out, reasons = _original_reasons(lambda: outputs(model, {"x": x[:1, :3], "flag": None}))
    assert not reasons and out[0].shape == (1, 3, 32)


def test_strict_at_run_time(all_win):
    model = _linear_model()
    kernel_pytorch.optimize(model, (X,), precision="bf16")
    model.train()
    with kernel_pytorch.strict(), pytest.raises(StrictModeError, match="training mode"):
        model(X)


def test_strict_refuses_a_reference(all_win):
    model = nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64)).eval()
    kernel_pytorch.optimize(model, (X,), strict=True)
    kernel_pytorch.revert(model)
    # A variant made for another precision serves no float32 call: the reference runs.
    for info in cpu.variants("packed_linear"):
        with cpu.force_variant("packed_linear", info.name), torch.no_grad():
            packed, scale = torch.ops.kpt.pack_weight(torch.ones(64, 32), "fp32")
            with kernel_pytorch.explain() as calls:
                torch.ops.kpt.packed_linear(X, packed, scale, 64, "fp32")
            if not calls.fallbacks:
                continue
            with pytest.raises(StrictModeError, match=r"0 \(linear\): packed_linear"):
                kernel_pytorch.optimize(model, (X,), strict=True)
            assert not any("forward" in m.__dict__ for m in model.modules())
            kernel_pytorch.optimize(model, (X,))
            assert "reference" in str(kernel_pytorch.report(model))
            return
    pytest.skip("every variant of packed_linear serves float32 on this CPU")


def test_tied_and_repeated_modules(all_win):
    model = small_models.make_llama(use_cache=False, tie_word_embeddings=True)
    inputs = {"input_ids": torch.randint(0, 100, (2, 16))}
    before = outputs(model, inputs)
    kernel_pytorch.optimize(model, inputs, precision="bf16")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    kernel_pytorch.revert(model)
    assert same(before, outputs(model, inputs))
    shared = nn.Linear(32, 32)
    twice = nn.Sequential(shared, nn.Tanh(), shared).eval()
    before = outputs(twice, (X,))
    kernel_pytorch.optimize(twice, (X,), precision="bf16")
    assert sum(row.count for row in kernel_pytorch.report(twice).rows) == 1
    kernel_pytorch.revert(twice)
    assert same(before, outputs(twice, (X,)))


def test_generation_with_a_cache(all_win):
    model = small_models.make_llama()
    ids = torch.randint(0, 100, (1, 5))
    expected = model.generate(ids, max_new_tokens=4, do_sample=False)
    kernel_pytorch.optimize(model, {"input_ids": ids})
    assert kernel_pytorch.report(model).kept
    assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False), expected)
