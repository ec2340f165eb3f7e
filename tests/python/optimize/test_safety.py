"""Models whose code does more than compute: nothing is lost, and planning does not touch them."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernel_pytorch
from tests.python.optimize import small_models
from tests.python.optimize.small_models import outputs, same

X = torch.linspace(-2, 2, 2 * 9 * 32).view(2, 9, 32)


class _Mlp(nn.Module):
    """A pattern that would be fused, with something between that a graph would lose or freeze."""

    def __init__(self, between):
        super().__init__()
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("calls", torch.zeros(()))
        self.table = torch.ones(32)
        self.seen, self.count, self.between = [], 0, between

    def forward(self, x):
        self.between(self, x)
        return self.down(F.gelu(self.up(x))) * self.gain


def _count(module, x):
    module.count += 1


def _remember(module, x):
    module.seen.append(x)


def _write_buffer(module, x):
    module.calls.add_(1)


def _write_table(module, x):
    module.table.mul_(1.0)


def _random(module, x):
    torch.rand(3)
    return x + torch.zeros(3).sum()


@pytest.mark.parametrize("between", [_count, _remember, _write_buffer, _write_table, _random])
def test_side_effects_still_happen(between, all_win):
    model = _Mlp(between).eval()
    before = outputs(model, (X,))
    calls = model.calls.item(), model.count, len(model.seen)
    kernel_pytorch.plan(model, (X,))
    assert all(isinstance(x, torch.Tensor) and type(x) is torch.Tensor for x in model.seen)
    kernel_pytorch.optimize(model, (X,), precision="bf16")
    assert kernel_pytorch.report(model).kept
    seen = model.calls.item(), model.count, len(model.seen)
    after = outputs(model, (X,))
    now = model.calls.item(), model.count, len(model.seen)
    assert tuple(b - a for a, b in zip(seen, now)) == calls  # one run more, as the first
    torch.testing.assert_close(after, before, atol=0.02, rtol=0.02)
    assert same(outputs(kernel_pytorch.revert(model), (X,)), before)


class _OwnWeights(nn.Module):
    """Reads parameters in its own forward, also computing with them."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(48, 32) / 6), nn.Parameter(torch.ones(48))
        self.gain = nn.Parameter(torch.ones(32))

    def forward(self, x):
        y = F.gelu(F.linear(x * (1 + self.gain), self.weight, self.bias))
        return y.view(x.shape[0], -1, self.weight.shape[0])


def test_weights_read_by_the_modules_own_code(all_win):
    model = _OwnWeights().eval()
    before = outputs(model, (X,))
    kernel_pytorch.optimize(model, (X,), precision="bf16")
    assert kernel_pytorch.report(model).rows[0].kept
    torch.testing.assert_close(outputs(model, (X,)), before, atol=0.02, rtol=0.02)
    with torch.no_grad():
        model.weight.mul_(2)
    with pytest.warns(RuntimeWarning, match="weights changed"):
        outputs(model, (X,))
    with torch.no_grad():
        model.weight.div_(2)
    assert same(outputs(kernel_pytorch.revert(model), (X,)), before)


class _Stacked(nn.Module):
    """Returns what is between its blocks."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True) for _ in range(3)
        )

    def forward(self, x):
        between = []
        for layer in self.layers:
            x = layer(x)
            between.append(x)
        return between


def test_what_is_between_blocks_keeps_its_dtype_where_it_is_seen(all_win):
    model = _Stacked().eval()
    kernel_pytorch.optimize(model, (X,), precision="bf16")
    report = kernel_pytorch.report(model)
    assert report.kept == 3 and any("stream stays" in note for note in report.notes)
    assert {t.dtype for t in outputs(model, (X,))} == {torch.float32}


class _ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(32, 32), nn.LayerNorm(32)

    def forward(self, x):
        return self.norm(input=torch.tanh(self.linear(input=x)))


def test_children_called_by_keyword_are_left(all_win):
    model = _ByKeyword().eval()
    kernel_pytorch.optimize(model, (X,))
    rows = kernel_pytorch.report(model).rows
    assert rows and all("other arguments than one tensor" in row.reason for row in rows)


class _Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, x):
        return self.linear(x + torch.rand_like(x))


def test_a_model_that_does_not_repeat_itself_is_refused(all_win):
    model = _Random().eval()
    with pytest.raises(ValueError, match="another output when it is run twice"):
        kernel_pytorch.optimize(model, (X,))
    assert "forward" not in model.linear.__dict__
    llama = small_models.make_llama()
    from transformers import DynamicCache

    inputs = {"input_ids": torch.tensor([[1, 2]]), "past_key_values": DynamicCache()}
    with pytest.raises(ValueError, match="cache of keys and values"):
        kernel_pytorch.optimize(llama, inputs)


def test_other_shapes_after_optimize(all_win):
    for model, inputs in (
        (small_models.make_bert(), small_models.token_inputs()),
        (small_models.make_torch_encoder(), (X,)),
    ):
        others = [small_models.token_inputs(1, 5), small_models.token_inputs(7, 31, padded=False)]
        if isinstance(inputs, tuple):
            others = [(X[:1, :3],), (X.repeat(4, 2, 1),)]
        expected = [outputs(model, other) for other in others]
        kernel_pytorch.optimize(model, inputs, precision="bf16")
        with kernel_pytorch.explain() as calls:
            got = [outputs(model, other) for other in others]
        assert not calls.fallbacks
        torch.testing.assert_close(got, expected, atol=0.1, rtol=0.1)


def test_one_module_called_with_several_shapes(all_win):
    shared = nn.Linear(32, 32)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = shared

        def forward(self, x):
            return self.shared(self.shared(x)[:, :2].tanh())

    model = Twice().eval()
    before = outputs(model, (X,))
    kernel_pytorch.optimize(model, (X,), precision="bf16")
    assert kernel_pytorch.report(model).kept == 1
    torch.testing.assert_close(outputs(model, (X,)), before, atol=0.02, rtol=0.02)
    assert same(outputs(kernel_pytorch.revert(model), (X,)), before)


def test_compiled_after_optimize(all_win):
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)).eval()
    kernel_pytorch.optimize(model, (X,), precision="bf16")
    expected = outputs(model, (X,))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(X)
    torch.testing.assert_close(compiled, expected[0], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("shown", [None, True, False])
def test_progress(shown, all_win, monkeypatch, capsys):
    monkeypatch.setattr("kernel_pytorch.optimize.progress._PATIENCE", 0.0)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU()).eval()
    kernel_pytorch.optimize(model, (X,), progress=shown)
    shown_text = capsys.readouterr()
    assert shown_text.out == ""
    assert ("whole model" in shown_text.err) == (shown is True)
