"""FP8 numbers, NativeFP8Linear and the conversion of models, by their numbers."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import kernel_pytorch
from kernel_pytorch import precision as kpt
from kernel_pytorch.precision import FP8Dtype, NativeFP8Linear, PackedLinear

FORMATS = (FP8Dtype.E4M3, FP8Dtype.E5M2)
SCALINGS = ("none", "dynamic", "static")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(got, want):
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("format", FORMATS)
def test_scale_quantize_dequantize(format):
    x = randn(4, 256)
    scale = kpt.compute_fp8_scale(x, format)
    assert scale.shape == torch.Size([]) and scale.dtype == torch.float32
    assert scale == format.largest / x.abs().max()
    assert kpt.compute_fp8_scale(x, format, margin=2) == scale / 4
    codes, same = kpt.quantize_to_fp8(x, scale, format)
    assert same is scale and codes.dtype == kpt.get_fp8_dtype(format)
    exact = (x.double() * scale.double()).to(codes.dtype)
    assert (codes.view(torch.uint8) != exact.view(torch.uint8)).sum() <= 1
    back = kpt.dequantize_from_fp8(codes, scale)
    assert error(back, x) < (0.03 if format is FP8Dtype.E4M3 else 0.06)
    kept = kpt.FP8QuantizedTensor.from_tensor(x, format, scale=scale / 2)
    assert kept.scale == scale / 2 and kept.shape == x.shape and kept.device == x.device
    assert torch.allclose(kept.dequantize(), kept.to("cpu").dequantize(torch.float32))
    assert kpt.FP8TensorSpec(format, scale, x.abs().max()).max_value == format.largest


def test_scales_of_rows_and_blocks_and_of_odd_tensors():
    x = randn(3, 200) * torch.tensor([[1.0], [1e3], [1e-3]])
    scale = 448.0 / x.abs().amax(1)
    codes, _ = kpt.quantize_to_fp8(x, scale)
    back = kpt.dequantize_from_fp8(codes, scale)
    assert all(error(b, r) < 0.03 for b, r in zip(back, x))
    blocks = torch.full((3, 2), 4.0)
    assert torch.equal(
        kpt.quantize_to_fp8(x[:1], blocks[:1])[0].float(),
        (x[:1] * 4).to(torch.float8_e4m3fn).float(),
    )
    assert kpt.compute_fp8_scale(torch.zeros(5)) == 1.0
    assert kpt.compute_fp8_scale(torch.zeros(0)) == 1.0
    assert kpt.compute_fp8_scale(torch.tensor([math.inf, math.nan, 2.0])) == 224.0
    assert kpt.compute_fp8_scale(torch.tensor([1e-30])) == 1e12
    saturated, _ = kpt.quantize_to_fp8(torch.tensor([1e9, -math.inf, math.nan]), torch.tensor(1.0))
    assert saturated.float()[:2].tolist() == [448.0, -448.0] and saturated.float()[2].isnan()
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="a scale must be positive"):
            kpt.quantize_to_fp8(x, torch.tensor(bad))
    with pytest.raises(ValueError, match="'scale' must have shape"):
        kpt.quantize_to_fp8(x, torch.ones(4))
    with pytest.raises(ValueError, match="an FP8 format must be"):
        kpt.compute_fp8_scale(x, "e3m4")
    with pytest.raises(TypeError, match="data must have dtype"):
        kpt.FP8QuantizedTensor(x, scale, FP8Dtype.E4M3)


def test_information():
    info = kpt.get_fp8_info()
    assert info["e4m3_max_value"] == 448.0 and info["e5m2_max_value"] == 57344.0
    assert (
        kpt.is_fp8_available() and kpt.FP8_DTYPES_AVAILABLE and "e5m2" in info["supported_formats"]
    )


def exact_layer(layer, x):
    """The layer in float64 with the weight that is stored."""
    weight = layer._stored_weight(torch.float32).double()
    return F.linear(x.double(), weight, None if layer.bias is None else layer.bias.double())


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("shape", [(7, 96), (96,), (2, 3, 96), (2, 2, 3, 96)])
def test_equal_to_linear_in_training_and_evaluation(scaling, shape):
    torch.manual_seed(0)
    plain = nn.Linear(96, 80)
    layer = NativeFP8Linear.from_linear(copy.deepcopy(plain), activation_scaling=scaling)
    x = randn(*shape)
    layer.set_activation_amax(x.abs().max())
    for magnitude in (1.0, 100.0, 0.01):
        layer.set_activation_amax(x.abs().max() * magnitude)
        layer.train()
        layer.calibrating = False
        trained = layer(x * magnitude)
        layer.eval()
        layer.set_activation_amax(x.abs().max() * magnitude)
        with torch.no_grad():
            evaluated = layer(x * magnitude)
        wanted = plain(x * magnitude)
        assert evaluated.shape == (*shape[:-1], 80)
        assert error(evaluated, wanted) < 0.05
        assert error(trained, wanted) < 0.05
        if scaling == "none":
            assert error(evaluated, exact_layer(layer, x * magnitude)) < 1e-6
            assert error(trained, evaluated) < 1e-6


@pytest.mark.parametrize("scaling", SCALINGS)
def test_gradients(scaling):
    torch.manual_seed(0)
    layer = NativeFP8Linear(96, 80, activation_scaling=scaling)
    x = randn(5, 96).requires_grad_()
    grad = randn(5, 80, seed=1)
    layer.set_activation_amax(x.detach().abs().max())
    layer(x).backward(grad)
    # Straight through the rounding: those of a linear layer with the weight as stored.
    layer.sync_weights()
    assert error(x.grad, grad.double() @ layer._stored_weight(torch.float32).double()) < 1e-6
    assert error(layer.weight_master.grad, grad.double().T @ x.double()) < 0.05
    assert error(layer.bias.grad, grad.double().sum(0)) < 1e-6
    frozen = layer.freeze().eval()
    x.grad = None
    frozen(x).backward(grad)
    assert error(x.grad, grad.double() @ layer._stored_weight(torch.float32).double()) < 1e-6


def test_training_moves_the_weights_that_evaluation_uses():
    torch.manual_seed(0)
    model = nn.Sequential(NativeFP8Linear(32, 64), nn.ReLU(), NativeFP8Linear(64, 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = randn(64, 32), randn(64, 8, seed=1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    model.eval()
    with torch.no_grad():
        assert F.mse_loss(model(x), y) < 1.1 * losses[-1]
        before = model(x)
        for layer in (model[0], model[2]):
            layer.weight_master.mul_(2.0)  # without sync_weights(): the change is seen
        assert error(model(x), before) > 0.5


def test_what_older_code_looks_at():
    layer = NativeFP8Linear(64, 32)
    assert layer.training and layer.weight_master.requires_grad
    layer(randn(4, 64))
    assert layer.activation_amax > 0
    layer.weight_master.data.fill_(1.0)
    layer.sync_weights()
    assert layer.weight_fp8.to(torch.float32).sum() == 448.0 * 64 * 32
    assert torch.allclose(layer.weight_scale, torch.full((32,), 1 / 448))
    info = layer.get_fp8_info()
    assert {"in_features", "weight_format", "weight_scale", "activation_scale", "fp8_native"} <= {
        *info
    }
    assert NativeFP8Linear(8, 4, bias=False).bias is None
    dynamic = NativeFP8Linear(64, 32, activation_scaling="dynamic")
    assert dynamic.weight_fp8.dtype == torch.float8_e4m3fn and dynamic.weight_fp8.shape == (32, 64)
    with pytest.raises(ValueError, match="'input' must have 64 features"):
        layer(randn(4, 63))
    with pytest.raises(ValueError, match="'activation_scaling' must be one of"):
        NativeFP8Linear(8, 4, activation_scaling="sometimes")


@pytest.mark.parametrize("scaling", SCALINGS)
def test_one_byte_a_weight(scaling):
    layer = NativeFP8Linear(1024, 512, activation_scaling=scaling).eval()
    whole = kpt.stored_bytes([layer])
    assert whole > 5 * 1024 * 512  # the master and the FP8 weight
    layer.freeze()
    assert layer.weight_master is None
    # The scales and the bias are float32, one each for 1024 weights; amax and so on are scalars.
    assert kpt.stored_bytes([layer]) <= 1024 * 512 + 2 * 4 * 512 + 16


@pytest.mark.parametrize("scaling", SCALINGS)
def test_state_dict_and_safetensors(scaling, tmp_path):
    torch.manual_seed(0)
    x = randn(5, 64)
    for frozen in (False, True):
        layer = NativeFP8Linear(64, 32, activation_scaling=scaling)
        layer.set_activation_amax(x.abs().max())
        other = NativeFP8Linear(64, 32, activation_scaling=scaling)
        if frozen:
            layer.freeze(), other.freeze()
        save_file(layer.state_dict(), tmp_path / "l.safetensors")
        other.load_state_dict(load_file(tmp_path / "l.safetensors"))
        with torch.no_grad():
            assert torch.equal(layer.eval()(x), other.eval()(x))
    e5m2 = NativeFP8Linear(64, 32, weight_format=FP8Dtype.E5M2, activation_scaling=scaling).freeze()
    with pytest.raises(ValueError, match="in the other FP8 format"):
        e5m2.load_state_dict(layer.state_dict())
    with pytest.raises(ValueError, match="has the inference form"):
        NativeFP8Linear(64, 32, activation_scaling=scaling).load_state_dict(layer.state_dict())


def test_dtypes_and_moves():
    layer = NativeFP8Linear(64, 32).bfloat16().eval()
    assert layer.weight_master.dtype == layer.dtype == torch.bfloat16
    assert layer.weight_scale.dtype == torch.float32
    frozen = layer.freeze()
    x = randn(5, 64)
    for dtype, bound in ((torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 5e-3)):
        y = frozen(x.to(dtype))
        assert y.dtype == dtype and error(y, exact_layer(frozen, x.to(dtype))) < bound
    assert frozen.float().weight_scale.dtype == torch.float32
    assert copy.deepcopy(frozen)(x).equal(frozen(x))


@pytest.mark.parametrize("scaling", ["none", "dynamic"])
def test_compiles_without_a_graph_break(scaling):
    layer = NativeFP8Linear(64, 32, activation_scaling=scaling).eval().freeze()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(randn(5, 64)), layer(randn(5, 64)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x + self.feed(x))


@pytest.mark.parametrize("format", [*FORMATS, "int8", "int4"])
def test_converted_models_are_close_and_small(format):
    torch.manual_seed(0)
    model = Block().eval()
    x = randn(2, 16, 64)
    converted = kpt.convert_model_to_native_fp8(model, format)
    assert converted is not model and isinstance(model.feed[0], nn.Linear)
    bound = {"int8": 0.02, "int4": 0.15, FP8Dtype.E4M3: 0.05, FP8Dtype.E5M2: 0.1}[format]
    with torch.no_grad():
        assert error(converted(x), model(x)) < bound
    report = kpt.quantization_report(converted)
    assert report.converted == ["attention", "feed.0", "feed.2", "head"]
    assert report.bytes_after == kpt.stored_bytes([converted]) < 0.45 * report.bytes_before
    kinds = (NativeFP8Linear, PackedLinear)
    assert sum(isinstance(m, kinds) for m in converted.modules()) == 5
    assert kpt.convert_model_to_native_fp8(model, format, inplace=True) is model
    assert "4 of 4 layers" in str(kpt.quantization_report(model))


def test_a_model_in_training_stays_trainable():
    torch.manual_seed(0)
    model = kpt.convert_model_to_native_fp8(Block())
    model(randn(2, 16, 64)).square().sum().backward()
    masters = [m.weight_master for m in model.modules() if isinstance(m, NativeFP8Linear)]
    assert len(masters) == 5 and all(m.grad.abs().sum() > 0 for m in masters)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_multihead_attention_is_called_the_same_way(batch_first, cross, need_weights):
    torch.manual_seed(0)
    original = nn.MultiheadAttention(32, 4, batch_first=batch_first).eval()
    converted = kpt.convert_model_to_native_fp8(original, "int8")
    x = randn(3, 5, 32)
    key = randn(3, 5, 32, seed=2) if cross else x
    padding = torch.zeros(3 if batch_first else 5, 5 if batch_first else 3, dtype=torch.bool)
    padding[0, -1] = True
    for options in (
        {},
        {
            "attn_mask": torch.ones(
                x.shape[1 if batch_first else 0], key.shape[1 if batch_first else 0]
            )
            .triu(1)
            .bool()
        },
        {"key_padding_mask": padding, "average_attn_weights": False},
    ):
        want = original(x, key, key, need_weights=need_weights, **options)
        got = converted(x, key, key, need_weights=need_weights, **options)
        assert error(got[0], want[0]) < 0.03
        assert (got[1] is None) is (want[1] is None)
        if need_weights:
            assert got[1].shape == want[1].shape and error(got[1], want[1]) < 0.03
    assert error(converted(x[0], x[0], x[0])[0], original(x[0], x[0], x[0])[0]) < 0.03


@pytest.mark.parametrize("keep", ["self_attn", "linear1", ""])
def test_the_encoders_fast_path_does_not_pass_by_the_layers(keep):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).eval()
    converted = kpt.convert_model_to_native_fp8(
        model, module_filter=lambda name, _: not name.endswith(keep or "nothing")
    )
    x = randn(2, 7, 32)
    with torch.no_grad(), kernel_pytorch.explain() as calls:
        assert 1e-4 < error(converted(x), model(x)) < 0.1
    count = {"self_attn": 2, "linear1": 3, "": 4}[keep]
    assert sum(c.op == "packed_linear" for c in calls) == 2 * count


def test_tied_and_filtered_layers_and_a_linear_root():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(50, 32)
            self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
            self.second.weight, self.second.bias = self.first.weight, self.first.bias
            self.head = nn.Linear(32, 50, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids):
            return self.head(self.second(self.first(self.embedding(ids))))

    model = Tied().eval()
    converted = kpt.convert_model_to_native_fp8(model)
    assert (
        converted.first is converted.second and converted.head.weight is converted.embedding.weight
    )
    reasons = {r.name: r.reason for r in kpt.quantization_report(converted).layers}
    assert reasons["head"] == "its weight is also used by Embedding"
    with torch.no_grad():
        assert error(converted(torch.arange(50)), model(torch.arange(50))) < 0.06
    kept = kpt.convert_model_to_native_fp8(Block(), module_filter=lambda name, m: name != "head")
    assert isinstance(kept.head, nn.Linear)
    root = kpt.convert_model_to_native_fp8(nn.Linear(8, 4).eval())
    assert isinstance(root, NativeFP8Linear) and root.is_frozen
    assert kpt.quantization_report(root).converted == [""]


def test_sensitivity_is_measured_and_bounds_are_kept():
    torch.manual_seed(0)
    model = Block().eval()
    with torch.no_grad():
        model.feed[2].weight[:, 0] *= 300  # one large column coarsens each of its rows
    data = [randn(2, 16, 64, seed=s) for s in (3, 4)]
    free = kpt.quantization_report(kpt.convert_model_to_native_fp8(model, calibration_data=data))
    by_name = {layer.name: layer.sensitivity for layer in free.layers}
    assert (
        max(by_name, key=by_name.get) in ("feed.2", "head")
        and free.error > max(by_name.values()) / 2
    )
    exact = [model(batch) for batch in data]
    alone = copy.deepcopy(model)
    alone.head = kpt.convert_model_to_native_fp8(alone.head)
    with torch.no_grad():
        got = torch.cat([alone(batch) for batch in data])
    assert math.isclose(by_name["head"], error(got, torch.cat(exact)), rel_tol=1e-3)
    bound = free.error * 0.8
    bounded = kpt.convert_model_to_native_fp8(model, calibration_data=data, max_error=bound)
    report = kpt.quantization_report(bounded)
    assert report.error <= bound and 0 < len(report.converted) < 4
    with torch.no_grad():
        got = torch.cat([bounded(batch) for batch in data])
    assert math.isclose(report.error, error(got, torch.cat(exact)), rel_tol=1e-3)
    assert any(layer.reason == "too sensitive" for layer in report.layers)


def test_static_scales_come_from_the_data():
    torch.manual_seed(0)
    model = Block().eval()
    data = [randn(2, 16, 64, seed=3), randn(2, 16, 64, seed=4) * 2]
    converted = kpt.convert_model_to_native_fp8(
        model, activation_scaling="static", calibration_data=data
    )
    largest = max(float(batch.abs().max()) for batch in data)
    scale = converted.attention.in_proj.activation_scale
    assert math.isclose(float(scale) * 448, largest, rel_tol=1e-6)
    with torch.no_grad(), kernel_pytorch.explain() as calls:
        assert error(converted(data[0]), model(data[0])) < 0.06
    assert [c.op for c in calls].count("fp8_gemm") == 5 and not calls.fallbacks


def test_engine():
    torch.manual_seed(0)
    model = Block()
    data = randn(2, 16, 64)
    exact = model.eval()(data).detach()
    engine = kpt.FP8InferenceEngine(model, calibration_data=data)
    assert engine.model is model and not engine._prepared
    with pytest.raises(RuntimeError, match="call prepare"):
        engine.infer(data)
    assert engine.prepare() is engine.prepare() and engine._prepared
    assert error(engine.infer(data), exact) < 0.06
    assert len(engine._fp8_layers) == 5
    savings = engine.get_memory_savings()
    assert savings["fp8_memory_mb"] == kpt.stored_bytes(engine._fp8_layers.values()) / 1e6
    assert 3.0 < savings["savings_ratio"] < 4.0 and 66 < savings["savings_percent"] < 75
    info = engine.get_layer_info()["head"]
    assert info["weight_scale"].shape == (10,) and info["activation_scale"] > 0
    assert engine.get_speed()["converted_ms"] > 0 and engine.report.error < 0.06
    root = kpt.FP8InferenceEngine(nn.Linear(8, 4)).prepare()
    assert root.infer(randn(3, 8)).shape == (3, 4) and root.get_speed() == {}


def test_benchmark():
    found = kpt.benchmark_fp8_layer(64, 64, 4, num_iterations=3)
    assert found["fp8_time_ms"] > 0 and found["speedup"] > 0
    assert found["fp8_bytes"] < 0.65 * found["standard_bytes"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_format": "fp7"}, "an FP8 format must be"),
        ({"activation_scaling": "static"}, "'static' needs calibration_data"),
        ({"activation_scaling": "often"}, "'activation_scaling' must be one of"),
        ({"max_error": 0.1}, "max_error needs calibration_data"),
        ({"module_filter": lambda *_: False}, "has no linear layer"),
        ({"calibration_data": []}, "at least one batch"),
        ({"calibration_data": randn(1, 4, 64), "max_error": 1e-9}, "not even one converted layer"),
    ],
)
def test_refusals_leave_the_model_alone(options, message):
    model = Block().eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        kpt.convert_model_to_native_fp8(model, inplace=True, **options)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values()))
    assert isinstance(model.head, nn.Linear) and isinstance(model.attention, nn.MultiheadAttention)
    with pytest.raises(TypeError, match="must be a torch.nn.Module"):
        kpt.convert_model_to_native_fp8("model")
