"""FP8 training: the three products of each recipe, overflow, accumulation, checkpointing."""

import copy
import math
import sys
import types
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import kernel_pytorch
from kernel_pytorch import precision as kpt
from kernel_pytorch.precision import RECIPES, FP8Config, FP8Format, FP8LinearLayer
from kernel_pytorch.precision.training_linear import DelayedScale


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(got, want):
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


def layer(recipe, *sizes, **options):
    torch.manual_seed(0)
    return FP8LinearLayer(*sizes, fp8_config=FP8Config(scaling_strategy=recipe), **options)


def rounded(x, dtype, kind, direction):
    """``x`` [R, C] as a recipe sees it where the product sums over ``direction`` (0 or 1)."""
    if kind == "tensor":
        groups = x.abs().amax().expand_as(x)
    elif kind == "row":
        groups = x.abs().amax(direction, keepdim=True).expand_as(x)
    else:
        tall = 128 if kind == "square" or direction == 0 else 1
        wide = 128 if kind == "square" or direction == 1 else 1
        groups = torch.empty_like(x)
        for i in range(0, x.shape[0], tall):
            for j in range(0, x.shape[1], wide):
                part = x[i : i + tall, j : j + wide]
                groups[i : i + tall, j : j + wide] = part.abs().max()
    scale = groups.float() / torch.finfo(dtype).max
    return (x.float() * (1 / scale)).to(dtype).double() * scale.double()


@pytest.mark.parametrize("recipe", RECIPES)
def test_three_fp8_products(recipe):
    made = layer(recipe, 200, 144)
    x = (randn(150, 200) * torch.logspace(-2, 2, 150)[:, None]).requires_grad_()
    grad = randn(150, 144, seed=1) * torch.logspace(-3, 1, 144)
    with kernel_pytorch.explain() as calls:
        y = made(x)
        y.backward(grad)
    assert [c.op for c in calls].count("fp8_gemm") == (4 if recipe == "blockwise" else 3)
    assert not calls.fallbacks
    kind = {"rowwise": "row", "blockwise": "block"}.get(recipe, "tensor")
    of_weight = "square" if kind == "block" else kind
    e4m3 = torch.float8_e4m3fn
    g_dtype = torch.float8_e5m2 if kind == "tensor" else e4m3
    w = made.weight.detach()
    wanted = rounded(x.detach(), e4m3, kind, 1) @ rounded(w, e4m3, of_weight, 1).T
    assert error(y, wanted + made.bias.double()) < 1e-6
    wanted_x = rounded(grad, g_dtype, kind, 1) @ rounded(w, e4m3, of_weight, 0)
    assert error(x.grad, wanted_x) < 1e-6
    wanted_w = rounded(grad, g_dtype, kind, 0).T @ rounded(x.detach(), e4m3, kind, 0)
    assert error(made.weight.grad, wanted_w) < 1e-6
    assert error(made.bias.grad, grad.double().sum(0)) < 1e-6


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_near_to_a_linear_layer(recipe, dtype):
    for magnitude in (1.0, 100.0, 0.01):
        made = layer(recipe, 64, 48, dtype=dtype)
        plain = nn.Linear(64, 48, dtype=dtype)
        plain.load_state_dict({n: made.state_dict()[n] for n in ("weight", "bias")})
        x = (randn(2, 9, 64).to(dtype) * magnitude).requires_grad_()
        y = made(x)
        y.square().sum().backward()
        grad_x, x.grad = x.grad, None
        want = plain(x)
        want.square().sum().backward()
        assert y.dtype == dtype and error(y, want) < 0.08
        assert error(grad_x, x.grad) < 0.12
        for p, q in zip(made.parameters(), plain.parameters()):
            assert p.grad.dtype == dtype and error(p.grad, q.grad) < 0.12
        with torch.no_grad():
            evaluated = made.eval()(x)
        # In FP8 too: not the product in full precision.
        assert 1e-3 < error(evaluated, want) < 0.08


def test_a_saved_activation_takes_a_byte():
    made = layer("tensorwise_current", 256, 256)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (sizes.append(t.nbytes if t is not made.weight else 0), t)[1], lambda t: t
    ):
        made(randn(64, 256).requires_grad_())
    assert sum(sizes) <= 64 * 256 + 256 * 256 * 4 + 64


def test_delayed_scales_follow_what_was_seen():
    scale = DelayedScale(3, 1)
    x = torch.tensor([7.0])
    assert scale.scale(torch.float8_e4m3fn, x) == 7.0 / 448
    for amax in (4.0, 16.0, 2.0):
        scale.observe(torch.tensor(amax), torch.tensor(100.0))
        scale.roll()
    assert scale.history.tolist() == [2.0, 16.0, 4.0]
    assert scale.scale(torch.float8_e4m3fn, x) == 2 * 16.0 / 448
    for _ in range(2):
        scale.roll()
    assert scale.scale(torch.float8_e4m3fn, x) == 2 * 2.0 / 448 and scale.overflows == 0
    scale.observe(torch.tensor(200.0), torch.tensor(100.0))
    scale.observe(torch.tensor(math.inf), torch.tensor(100.0))
    assert scale.overflows == 2 and scale.amax == 200.0


def test_delayed_scaling_recovers_from_a_jump():
    made = layer("tensorwise_delayed", 64, 48)
    seen = []
    for magnitude in (1.0, 1.0, 1000.0, 1000.0):
        x = (randn(8, 64) * magnitude).requires_grad_()
        y = made(x)
        y.sum().backward()
        seen.append(error(y, F.linear(x, made.weight, made.bias)))
    assert seen[0] < 0.05 and seen[1] < 0.05 and seen[3] < 0.05
    assert 0.5 < seen[2] < 1.0 and made.overflows == 1  # saturated, finite, and counted
    assert made.input_amax == x.abs().max()


def test_amax_is_tracked():
    for recipe in RECIPES:
        made = layer(recipe, 64, 48)
        x = randn(8, 64)
        made(x)
        first = float(made.input_amax)
        assert math.isclose(first, float(x.abs().max()), rel_tol=1e-6)
        made(x * 10)
        assert made.input_amax >= first and made.weight_amax > 0


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_bad_number_reaches_the_gradients_and_the_step_is_left_out(recipe):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    engine = kpt.FP8TrainingEngine(model, FP8Config(scaling_strategy=recipe))
    engine.setup_fp8_training()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    targets = torch.arange(16) % 8
    done = []
    for step in range(6):
        x = randn(16, 32, seed=step)
        if step == 2:
            x[3, 5] = math.inf
        before = [p.detach().clone() for p in model.parameters()]
        state = copy.deepcopy(optimizer.state_dict())
        optimizer.zero_grad()
        engine.training_step(x, targets).backward()
        done.append(engine.optimizer_step(optimizer))
        if step == 2:
            assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before))
            now = optimizer.state_dict()["state"]
            for key, values in state["state"].items():
                assert all(torch.equal(values[n], now[key][n]) for n in values)
    # No step but the bad one is lost: neither at the start nor afterwards.
    assert done == [True, True, False, True, True, True]
    found = engine.get_training_statistics()
    assert (found["steps"], found["optimizer_steps"], found["overflows"]) == (6, 5, 1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradient_accumulation(recipe):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 16))
    x, targets = randn(32, 64), torch.arange(32) % 16
    grads = []
    for parts in (1, 4):
        trainer = kpt.create_fp8_trainer(copy.deepcopy(base), scaling_strategy=recipe, margin=0)
        trainer.setup_fp8_training()
        for inputs, wanted in zip(x.chunk(parts), targets.chunk(parts)):
            (trainer.training_step(inputs, wanted) / parts).backward()
        grads.append([p.grad for p in trainer.model.parameters()])
    for whole, summed in zip(*grads):
        assert error(summed, whole) < 0.12


@pytest.mark.parametrize("recipe", RECIPES)
def test_checkpointing_changes_no_bit(recipe):
    def run(recompute):
        torch.manual_seed(0)
        model = nn.Sequential(*(layer(recipe, 64, 64) for _ in range(3)))
        for step in range(3):
            x = randn(16, 64, seed=step) * (1 + step)
            model.zero_grad()
            y = x.requires_grad_()
            for part in model:
                y = checkpoint(part, y, use_reentrant=False) if recompute else part(y)
            y.square().sum().backward()
        return [p.grad for p in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(run(False), run(True)))


def test_autocast():
    made = layer("rowwise", 64, 48)
    with torch.autocast("cpu", torch.bfloat16):
        y = made(randn(5, 64))
    assert y.dtype == torch.bfloat16 and error(y, made(randn(5, 64))) < 0.02
    y.float().sum().backward()
    assert made.weight.grad.dtype == torch.float32


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = x + self.attention(x, x, x)[0]
        return self.head(x + self.feed(x))


def test_conversion_shares_the_parameters_and_runs_attention_in_fp8():
    torch.manual_seed(0)
    model = Block()
    converted = kpt.convert_model_to_fp8(model)
    assert converted is not model and isinstance(model.head, nn.Linear)
    layers = [m for m in converted.modules() if isinstance(m, FP8LinearLayer)]
    assert len(layers) == 5
    x = randn(2, 8, 64)
    with kernel_pytorch.explain() as calls:
        y = converted(x)
    assert sum(c.op == "fp8_gemm" for c in calls) == 5
    assert error(y, model(x)) < 0.08
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in converted.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    same = kpt.convert_model_to_fp8(model, inplace=True)
    assert same is model
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in model.head.parameters()} <= known
    only = kpt.convert_model_to_fp8(Block(), convert_attention=False)
    assert isinstance(only.attention, nn.MultiheadAttention)
    kept = kpt.FP8TrainingEngine(Block(), FP8Config(), module_filter=lambda name, _: name != "head")
    kept.setup_fp8_training()
    assert type(kept.model.head) is nn.Linear and kept.model.feed[0].fp8_config is kept.config
    assert isinstance(kpt.convert_model_to_fp8(nn.Linear(8, 8)), FP8LinearLayer)
    with pytest.raises(ValueError, match="no linear layer"):
        kpt.convert_model_to_fp8(nn.ReLU())


@pytest.mark.parametrize(
    "formats", [(FP8Format.E4M3, FP8Format.E5M2), (FP8Format.E5M2, FP8Format.E4M3)]
)
def test_engine_on_the_shapes_of_older_code(formats):
    torch.manual_seed(0)
    trainer = kpt.create_fp8_trainer(Block(), None, *formats, initial_scale=1024.0)
    assert not trainer.is_setup and not trainer.fp8_enabled
    with pytest.raises(RuntimeError, match="call setup_fp8_training"):
        trainer.training_step(randn(4, 32, 64), torch.arange(4))
    with trainer as engine:
        assert engine is trainer and engine.is_setup and engine.setup_fp8_training() is True
        optimizer = torch.optim.AdamW(engine.model.parameters())
        loss = engine.training_step(randn(4, 32, 64) * 0.1, torch.arange(4))
        last = engine.model.eval()(randn(4, 32, 64) * 0.1)[:, -1]
        assert loss.requires_grad and error(loss, F.cross_entropy(last, torch.arange(4))) < 0.05
        engine.model.train()
        loss.backward()
        assert engine.optimizer_step(optimizer) is True
        loss, metadata = engine.training_step(
            randn(4, 32, 64), torch.zeros(4, 32, dtype=torch.long), return_loss=False
        )
        assert loss.isfinite() and metadata["step"] == 2
    assert engine.get_training_statistics()["replaced_layers"] == 5


def test_checkpoints_and_going_back(tmp_path):
    torch.manual_seed(0)
    x, targets = randn(4, 8, 64), torch.arange(4)

    def trainer(**options):
        found = kpt.create_fp8_trainer(Block(), **options)
        found.setup_fp8_training()
        return found

    first, second = trainer(), trainer()
    first.training_step(x, targets).backward()
    first.model(x)
    first.save_checkpoint(tmp_path / "c.pt")
    second.load_checkpoint(tmp_path / "c.pt")
    assert torch.equal(first.model.eval()(x), second.model.eval()(x))
    assert second.get_training_statistics()["steps"] == 1
    with pytest.raises(ValueError, match=r"another configuration: \['margin'\] differ"):
        trainer(margin=0).load_checkpoint(tmp_path / "c.pt")
    fp8 = first.model(x)
    plain = first.restore_original_model()
    assert type(plain.head) is nn.Linear and 1e-3 < error(fp8, plain(x)) < 0.1


def test_optimizer_and_loss_scaler():
    torch.manual_seed(0)
    model = kpt.convert_model_to_fp8(nn.Sequential(nn.Linear(32, 16)))
    optimizer = kpt.create_fp8_optimizer(model, torch.optim.SGD, lr=0.1)
    model(randn(4, 32)).sum().backward()
    assert optimizer.step() is True and optimizer.state_dict()["param_groups"][0]["lr"] == 0.1
    model[0].weight.grad[0, 0] = math.nan
    before = model[0].weight.detach().clone()
    assert optimizer.step() is False and torch.equal(model[0].weight, before)
    scaler = kpt.FP8LossScaler(1024.0, growth_interval=1)
    optimizer.zero_grad()
    loss = model(randn(4, 32)).square().mean()
    scaler.scale_loss(loss).backward()
    scaled = model[0].weight.grad.clone()
    scaler.unscale_gradients(optimizer.optimizer)
    assert torch.allclose(model[0].weight.grad * 1024, scaled)
    assert scaler.step(optimizer.optimizer) and scaler.get_scale() == 2048.0
    model[0].weight.grad.fill_(math.inf)
    assert not scaler.step(optimizer.optimizer) and scaler.get_scale() == 1024.0


def test_configuration():
    config = FP8Config()
    assert config.forward_format is FP8Format.E4M3 and config.backward_format is FP8Format.E5M2
    assert config.initial_scale == 2**15 and config.recipe.name == "tensorwise_delayed"
    assert FP8Config(scaling_strategy="blockwise").backward_format is FP8Format.E4M3
    assert FP8Config(enable_amax_history=False).recipe.name == "tensorwise_current"
    assert FP8Config(**config.to_dict()) == config
    config._validate()
    for wrong in ({"initial_scale": 0}, {"growth_factor": 1.0}, {"scaling_strategy": "weekly"}):
        for kind in (AssertionError, ValueError):
            with pytest.raises(kind, match="FP8Config"):
                FP8Config(**wrong)


def test_validation_tries():
    good = kpt.validate_fp8_setup(Block())
    assert good["valid"] and good["capabilities"]["linear_layers"] == 4 and good["warnings"]
    assert not kpt.validate_fp8_setup(nn.ReLU())["valid"]
    assert not kpt.validate_fp8_setup(nn.Linear(4, 4).double())["valid"]
    found = kpt.estimate_fp8_speedup(nn.Sequential(nn.Linear(16, 16)), (4, 16))
    assert found["fp8_time_ms"] > 0 and found["speedup"] > 0


@pytest.fixture
def fake_transformer_engine(monkeypatch):
    """Signatures of Transformer Engine 2.x; those of 1.x took more arguments."""
    recipe = types.ModuleType("transformer_engine.common.recipe")

    class Format:
        HYBRID, E4M3 = "hybrid", "e4m3"

    @dataclass
    class DelayedScaling:
        margin: int = 0
        fp8_format: str = Format.HYBRID
        amax_history_len: int = 1024
        amax_compute_algo: str = "max"
        scaling_factor_compute_algo: object = None
        reduce_amax: bool = True
        fp8_dpa: bool = False
        fp8_mha: bool = False

        def __post_init__(self):
            assert self.scaling_factor_compute_algo is None or callable(
                self.scaling_factor_compute_algo
            )

    @dataclass
    class Float8CurrentScaling:
        fp8_format: str = Format.HYBRID
        fp8_dpa: bool = False
        fp8_mha: bool = False

    @dataclass
    class Float8BlockScaling:
        fp8_format: str = Format.E4M3

    for made in (Format, DelayedScaling, Float8CurrentScaling, Float8BlockScaling):
        setattr(recipe, made.__name__, made)
    pytorch = types.ModuleType("transformer_engine.pytorch")
    pytorch.entered = []

    class Autocast:
        def __init__(self, enabled=True, calibrating=False, recipe=None, amax_reduction_group=None):
            self.recipe = recipe

        def __enter__(self):
            pytorch.entered.append(self.recipe)

        def __exit__(self, *exc_info):
            pass

    class Linear(nn.Linear):
        def __init__(self, in_features, out_features, *, bias, params_dtype, device):
            super().__init__(in_features, out_features, bias, device, params_dtype)

    pytorch.autocast, pytorch.Linear = Autocast, Linear
    common = types.ModuleType("transformer_engine.common")
    package = types.ModuleType("transformer_engine")
    common.recipe, package.common, package.pytorch = recipe, common, pytorch
    package.__spec__ = types.SimpleNamespace(name="transformer_engine")
    for module in (package, common, recipe, pytorch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return pytorch


def test_transformer_engine(fake_transformer_engine):
    from kernel_pytorch.precision import transformer_engine as te

    delayed = FP8Config().to_te_recipe()
    assert (delayed.margin, delayed.amax_history_len, delayed.fp8_format) == (2, 1024, "hybrid")
    assert FP8Config(scaling_strategy="tensorwise_current").to_te_recipe().fp8_mha is True
    assert FP8Config(scaling_strategy="blockwise").to_te_recipe().fp8_format == "e4m3"
    with pytest.raises(ValueError, match="no recipe like 'rowwise'"):
        FP8Config(scaling_strategy="rowwise").to_te_recipe()
    with pytest.raises(ValueError, match="no format with e5m2 forward"):
        FP8Config(FP8Format.E5M2).to_te_recipe()
    assert te.is_available()
    model = nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 5))
    weight = model[0].weight
    te.convert(model)
    kinds = [type(m) is nn.Linear for m in model]
    assert kinds == [False, True] and model[0].weight is weight
    with te.autocast(FP8Config(), True):
        pass
    assert fake_transformer_engine.entered[-1].fp8_format == "hybrid"
    with te.autocast(FP8Config(), False):
        pass
    assert len(fake_transformer_engine.entered) == 1


def test_torchao_calls_our_handler(monkeypatch):
    handlers = {}
    config = types.ModuleType("torchao.core.config")
    config.AOBaseConfig = type("AOBaseConfig", (), {})
    transform = types.ModuleType("torchao.quantization.transform_module")

    def register(kind):
        return lambda function: handlers.setdefault(kind, function)

    transform.register_quantize_module_handler = register
    for name in ("torchao", "torchao.core", "torchao.quantization"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, config.__name__, config)
    monkeypatch.setitem(sys.modules, transform.__name__, transform)
    from kernel_pytorch.precision import torchao

    torchao._config_class.cache_clear()
    asked = kpt.torchao_config("int4", group_size=64)
    made = handlers[type(asked)](nn.Linear(64, 32).eval(), asked)
    torchao._config_class.cache_clear()
    assert isinstance(made, kpt.PackedLinear) and made.group_size == 64


def test_old_import_paths():
    from kernel_pytorch.precision import fp8_native, fp8_optimizations, fp8_training_engine

    assert fp8_native.NativeFP8Linear is kpt.NativeFP8Linear
    assert fp8_optimizations.FP8LinearLayer is FP8LinearLayer
    assert fp8_training_engine.FP8Config is FP8Config
