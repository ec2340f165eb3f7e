"""The kernel registry: selection, versions, contracts, entry points, and the dispatch behind it."""

import textwrap

import pytest
import torch
import torch.nn.functional as F

import kernel_pytorch
from kernel_pytorch.backends import plugins
from kernel_pytorch.core import kernel_registry
from kernel_pytorch.core.config import NVIDIAArchitecture, PrecisionFormat
from kernel_pytorch.core.hardware_detector import Probe, using_probe
from kernel_pytorch.core.hardware_detector.nvml import Answer, Gpu
from kernel_pytorch.core.kernel_registry import (
    KernelBackend,
    KernelMetadata,
    KernelRegistry,
    KernelType,
    get_kernel_registry,
    register_default_kernels,
)
from kernel_pytorch.ops import SPECS

ATTENTION, NORM = KernelType.ATTENTION, KernelType.NORMALIZATION
FP32, FP16, BF16 = PrecisionFormat.FP32, PrecisionFormat.FP16, PrecisionFormat.BF16


def rms_norm(x, weight=None, eps=1e-6):
    wide = None if weight is None else weight.float()
    return F.rms_norm(x.float(), x.shape[-1:], wide, eps).to(x.dtype)


def kernel(name="k", version="1.0", backend=KernelBackend.PYTORCH, **rest):
    rest.setdefault("kernel_fn", torch.add)
    return KernelMetadata(name, rest.pop("kind", ATTENTION), version, backend, **rest)


def foreign(function, name="mine", version="1!1.0", **rest):
    rest.setdefault("precision_support", [FP32])
    return kernel(
        name,
        version,
        KernelBackend.CPU,
        kind=NORM,
        kernel_fn=function,
        op=rest.pop("op", "rms_norm"),
        provider="other",
        **rest,
    )


@pytest.fixture
def registry():
    """The one registry, empty, and as it was afterwards."""
    found = KernelRegistry()
    before = dict(found._kernels)
    found._kernels.clear()
    found._cache.clear()
    yield found
    for active in found.active_kernels():
        found.deactivate(active)
    found._kernels.clear()
    found._kernels.update(before)
    found._cache.clear()


@pytest.fixture
def filled(registry):
    register_default_kernels(registry)
    return registry


class Gpus(Probe):
    """A machine with an H100 and, as CUDA's second, another GPU."""

    def __init__(self, second):
        super().__init__()
        self.second = second

    def torch_build(self, kind):
        return "13.0" if kind == "cuda" else None

    def torch_devices(self, kind):
        return 2 if kind == "cuda" else 0

    def environment(self):
        return {}

    def nvml(self):
        def gpu(index, capability):
            return Gpu(
                name="G",
                uuid=f"GPU-{index}",
                bus_id="",
                compute_capability=capability,
                memory_bytes=1 << 30,
                nvlinks=0,
                peers=(),
            )

        return Answer(
            driver_version="580", cuda_version="13.0", gpus=(gpu(0, (9, 0)), gpu(1, self.second))
        )


# Registration.


def test_there_is_one_registry():
    assert KernelRegistry() is KernelRegistry() is get_kernel_registry()


def test_register_replace_unregister(registry):
    registry.register_kernel(kernel())
    with pytest.warns(UserWarning, match="Overwriting existing kernel k 1.0"):
        registry.register_kernel(newer := kernel(description="newer"))
    assert registry.list_kernels() == [newer]
    assert registry.list_kernels(ATTENTION, KernelBackend.PYTORCH) == [newer]
    assert registry.list_kernels(NORM) == registry.list_kernels(backend=KernelBackend.CUDA) == []
    assert registry.unregister_kernel(ATTENTION, "k", "1.0") is True
    assert registry.unregister_kernel(ATTENTION, "k", "1.0") is False
    with pytest.raises(TypeError, match="expected a KernelMetadata, got str"):
        registry.register_kernel("k")


def test_metadata():
    found = kernel()
    assert found.min_compute_capability == (7, 0) and found.precision_support == [FP32, FP16]
    assert found.expected_speedup == 1.0 and found.requires_compilation
    with pytest.warns(UserWarning, match="has no kernel_fn"):
        kernel(backend=KernelBackend.CUDA, kernel_fn=None)
    with pytest.raises(ValueError, match="version: expected a version such as '3.10'.*'newest'"):
        kernel(version="newest")


def test_defaults_are_callable_and_of_every_operator(filled):
    """The registry was empty on a CPU, and its default kernel had nothing to call."""
    assert {k.op for k in filled.list_kernels()} == set(SPECS)
    assert all(k.kernel_fn is not None for k in filled.list_kernels())
    assert len(filled.list_kernels(backend=KernelBackend.PYTORCH)) == len(SPECS)
    register_default_kernels(filled)  # again: nothing is overwritten


# Selection.


def test_native_before_pytorch_on_the_cpu(filled):
    best = filled.get_optimal_kernel(NORM, "cpu", torch.float32, op="rms_norm")
    assert best.kernel_id == "rms_norm.cpu"
    x = torch.randn(3, 8)
    with kernel_pytorch.explain() as calls:
        best.kernel_fn(x)
    assert calls.calls[0].implementation == "native"
    chain = filled.get_fallback_chain(NORM, "cpu", FP32, op="rms_norm", runnable_only=True)
    assert [k.kernel_id for k in chain] == ["rms_norm.cpu", "rms_norm.reference"]
    preferred = filled.get_optimal_kernel(
        NORM, "cpu", FP32, prefer_backend=KernelBackend.PYTORCH, op="rms_norm"
    )
    assert preferred.kernel_id == "rms_norm.reference"


def test_versions_are_ordered_as_versions(registry):
    """As numbers "3.9" is more than "3.10"."""
    for version in ("3.9", "3.10", "2.0", "3.10rc1"):
        registry.register_kernel(kernel(version=version))
    assert registry.get_optimal_kernel(ATTENTION, "cpu", FP32).version == "3.10"


def test_speedup_decides_last(registry):
    registry.register_kernel(kernel("slow"))
    registry.register_kernel(kernel("quick", expected_speedup=2.0))
    assert registry.get_optimal_kernel(ATTENTION, "cpu", FP32).kernel_id == "quick"


def test_filters(registry):
    registry.register_kernel(kernel(max_sequence_length=128, max_batch_size=4))
    find = registry.get_optimal_kernel
    assert find(ATTENTION, "cpu", FP32, 128, 4) is not None
    assert find(ATTENTION, "cpu", FP32, 129) is None
    assert find(ATTENTION, "cpu", FP32, batch_size=5) is None
    assert find(ATTENTION, "cpu", BF16) is None and find(NORM, "cpu", FP32) is None
    with pytest.raises(ValueError, match="precision: expected"):
        find(ATTENTION, "cpu", torch.int64)


def test_selections_are_remembered_with_all_they_depend_on(registry):
    """The key left out the preferred backend and the device's index."""
    registry.register_kernel(kernel("a"))
    registry.register_kernel(kernel("b", backend=KernelBackend.CPU))
    find = registry.get_optimal_kernel
    first = find(ATTENTION, torch.device("cpu"), FP32)
    assert first.kernel_id == "b" and len(registry._cache) == 1
    assert find(ATTENTION, torch.device("cpu"), FP32) is first and len(registry._cache) == 1
    other = find(ATTENTION, "cpu", FP32, prefer_backend=KernelBackend.PYTORCH)
    assert other.kernel_id == "a"
    registry.clear_cache()
    assert len(registry._cache) == 0


def test_a_cuda_kernel_is_never_chosen_for_the_cpu(registry):
    registry.register_kernel(kernel("cuda", backend=KernelBackend.CUDA, version="9.0"))
    registry.register_kernel(kernel("triton", backend=KernelBackend.TRITON, version="9.0"))
    registry.register_kernel(kernel("torch"))
    assert registry.get_optimal_kernel(ATTENTION, "cpu", FP32).kernel_id == "torch"
    chain = registry.get_fallback_chain(ATTENTION, torch.device("cpu"), FP32)
    assert [k.kernel_id for k in chain] == ["cuda", "triton", "torch"]


@pytest.mark.parametrize("second", [(12, 0), (8, 7), (7, 5)])
def test_capabilities_are_compared_as_numbers(registry, second):
    """Capabilities that a map lacked (12.0, 8.7) passed any filter."""
    registry.register_kernel(
        kernel(
            "hopper",
            backend=KernelBackend.CUDA,
            min_compute_capability=(9, 0),
            supported_architectures=[NVIDIAArchitecture.HOPPER],
        )
    )
    registry.register_kernel(
        kernel("sm80", backend=KernelBackend.CUDA, min_compute_capability=(8, 0), version="0.1")
    )
    registry.register_kernel(kernel("torch"))
    with using_probe(Gpus(second)):
        find = registry.get_optimal_kernel
        assert find(ATTENTION, "cuda:0", FP32).kernel_id == "hopper"
        want = "torch" if second < (8, 0) else "sm80"
        assert find(ATTENTION, "cuda:1", FP32).kernel_id == want
        assert find(ATTENTION, "cuda:5", FP32).kernel_id == "torch"


# Contracts.


def test_a_right_kernel_of_others_is_chosen(filled):
    filled.register_kernel(right := foreign(rms_norm))
    assert filled.get_optimal_kernel(NORM, "cpu", FP32, op="rms_norm") is right
    assert filled.contract(right).checked > 10 and filled.validate_kernel("mine")
    bf16 = filled.get_optimal_kernel(NORM, "cpu", BF16, op="rms_norm")
    assert bf16.kernel_id == "rms_norm.cpu"  # which it does not claim to support


def _wrong_eps(x, weight=None, eps=1e-6):
    return rms_norm(x, weight, 1e-3)


def _wrong_shape(x, weight=None, eps=1e-6):
    return rms_norm(x, weight, eps)[..., :1]


def _writes_input(x, weight=None, eps=1e-6):
    result = rms_norm(x, weight, eps)
    x.add_(1.0)
    return result


def _random(x, weight=None, eps=1e-6):
    return rms_norm(x, weight, eps) * (1 + 1e-7 * torch.rand(()))


def _ignores_strides(x, weight=None, eps=1e-6):
    flat = x.as_strided(x.shape, torch.empty(x.shape).stride(), x.storage_offset())
    return rms_norm(flat, weight, eps)


def _raises(x, weight=None, eps=1e-6):
    raise RuntimeError("no")


def _declines(x, weight=None, eps=1e-6):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (_wrong_eps, "rms error"),
        (_wrong_shape, "gave output 0 as"),
        (_writes_input, "writes to its argument 'x'"),
        (_random, "other bits|rms error"),
        (_ignores_strides, "rows that lie apart"),
        (_raises, "raised RuntimeError: no"),
        (_declines, "declines every call"),
        (None, "has no kernel_fn"),
    ],
)
def test_a_wrong_kernel_is_never_chosen(filled, function, reason):
    filled.register_kernel(wrong := foreign(function))
    with pytest.warns(
        UserWarning, match=f"kernel mine .* of other is not chosen: (?s:.*)({reason})"
    ):
        best = filled.get_optimal_kernel(NORM, "cpu", FP32, op="rms_norm")
    assert best.kernel_id == "rms_norm.cpu" and not filled.validate_kernel("mine")
    with pytest.raises(ValueError, match="a kernel that passes its contract"):
        filled.activate(wrong)


def test_what_else_a_kernel_must_be(filled):
    for bad, reason in (
        (foreign(rms_norm, op="no_such_op"), "there is no operator 'no_such_op'"),
        (foreign(rms_norm, devices=("xpu",)), "none of its devices"),
        (
            foreign(rms_norm, precision_support=[PrecisionFormat.FP4]),
            "none of the operator's dtypes",
        ),
        (foreign(rms_norm, validation_fn=lambda: False), "its validation_fn refused it"),
    ):
        with pytest.warns(UserWarning, match=reason):
            assert not filled.contract(bad).passed
    with pytest.raises(ValueError, match="names no operator"):
        filled.activate(kernel())


def test_validate_kernel(filled):
    assert filled.validate_kernel("act.cpu") and filled.validate_kernel("act.reference")
    filled.register_kernel(kernel("plain", validation_fn=lambda n: n == 3))
    assert filled.validate_kernel("plain", 3) and not filled.validate_kernel("plain", 4)
    filled.register_kernel(kernel("unknown"))
    with pytest.warns(UserWarning, match="nothing can be said of it"):
        assert not filled.validate_kernel("unknown")
    with pytest.raises(KeyError, match="no kernel 'nothing' is registered; there are: .*act.cpu"):
        filled.validate_kernel("nothing")


# The dispatch.


def _writes(out, x, weight, eps):
    out.copy_(rms_norm(x, weight, eps))


@pytest.mark.parametrize("function", [rms_norm, _writes])
def test_an_active_kernel_runs_in_the_operator(filled, function):
    mine = foreign(function, writes_outputs=function is _writes)
    x, w = torch.randn(4, 33), torch.randn(33)
    want = torch.ops.kpt.rms_norm(x, w)
    torch.ops.kpt.rms_norm(x, w)  # the second call takes the short cut
    filled.activate(mine)
    assert filled.active_kernels() == [mine]
    for _ in range(2):
        with kernel_pytorch.explain() as calls:
            got = torch.ops.kpt.rms_norm(x, w)
            out = torch.ops.kpt.rms_norm.out(x, w, out=torch.empty_like(x))
        assert [c.variant for c in calls] == ["mine 1!1.0 (other)"] * 2
        assert torch.equal(got, rms_norm(x, w)) and torch.equal(out, got)
    trained = x.clone().requires_grad_()
    torch.ops.kpt.rms_norm(trained, w).sum().backward()
    assert trained.grad is not None
    with pytest.raises(ValueError, match="rms_norm: argument 'weight'"):
        torch.ops.kpt.rms_norm(x, torch.randn(7))
    filled.deactivate(mine)
    for _ in range(2):
        with kernel_pytorch.explain() as calls:
            assert torch.equal(torch.ops.kpt.rms_norm(x, w), want)
        assert calls.calls[0].variant.startswith("rows_")


def _rope(q, k, cos, sin, **options):
    return SPECS["rope"].reference(q, k, cos, sin, **options)


def _rope_into(q_out, k_out, q, k, cos, sin, *options):
    # Reads its inputs after it wrote: wrong where they are one.
    q_out.zero_(), k_out.zero_()
    named = dict(zip(("interleaved", "inverse"), options))
    for out, got in zip((q_out, k_out), _rope(q, k, cos, sin, **named)):
        out.copy_(got)


@pytest.mark.parametrize("function", [_rope, _rope_into])
def test_operators_in_place_run_an_active_kernel_too(filled, function):
    mine = foreign(function, op="rope", writes_outputs=function is _rope_into)
    q, k = torch.randn(1, 2, 5, 16), torch.randn(1, 2, 5, 16)
    cos, sin = torch.randn(5, 8), torch.randn(5, 8)

    def in_place():
        a, b = q.clone(), k.clone()
        with kernel_pytorch.explain() as calls:
            torch.ops.kpt.rope_(a, b, cos, sin)
        return a, b, calls.calls[0].variant

    first = in_place()
    filled.activate(mine)
    a, b, variant = in_place()
    assert variant == "mine 1!1.0 (other)"
    assert torch.allclose(a, first[0], atol=1e-5) and torch.allclose(b, first[1], atol=1e-5)
    filled.deactivate(mine)
    again = in_place()
    assert again[2] == first[2] and torch.equal(again[0], first[0])


def test_what_an_active_kernel_declines_the_package_s_own_serves(filled):
    def only_even(x, weight=None, eps=1e-6):
        if x.shape[-1] % 2:
            raise NotImplementedError
        return rms_norm(x, weight, eps)

    filled.activate(mine := foreign(only_even))
    assert filled.contract(mine).unserved
    with kernel_pytorch.explain() as calls:
        torch.ops.kpt.rms_norm(torch.randn(2, 8))
        torch.ops.kpt.rms_norm(torch.randn(2, 9))
    assert calls.calls[0].variant.startswith("mine") and calls.calls[1].variant.startswith("rows_")
    assert not calls.fallbacks


def test_an_unregistered_kernel_is_out_of_the_operator(filled):
    filled.register_kernel(mine := foreign(rms_norm))
    filled.activate(mine)
    assert filled.unregister_kernel(*mine.key)
    with kernel_pytorch.explain() as calls:
        torch.ops.kpt.rms_norm(torch.randn(2, 8))
    assert calls.calls[0].variant.startswith("rows_")


def test_a_device_type_without_kernels_of_ours_gets_a_launcher():
    """What it does not override runs the reference, and says so."""
    backend = plugins._backend("xpu", "act")
    assert plugins._backend("xpu", "act") is backend
    with pytest.raises(NotImplementedError, match="no native kernel for device type xpu"):
        backend.find("act")(None)
    backend.override("act", lambda *values: "mine")
    assert backend.find("act")() == "mine" and backend.overrides("act")
    backend.override("act", None)
    assert not backend.overrides("act")


# Entry points.


def _distribution(folder, name, module, code):
    """A package without a wheel: its module and its metadata on sys.path."""
    (folder / f"{module}.py").write_text(textwrap.dedent(code))
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[kernel_pytorch.kernels]\nfirst = {module}:kernels\n")


_CODE = """
import torch.nn.functional as F
from kernel_pytorch.core.config import PrecisionFormat
from kernel_pytorch.core.kernel_registry import KernelBackend, KernelMetadata, KernelType

def right(x, weight=None, eps=1e-6):
    wide = None if weight is None else weight.float()
    return F.rms_norm(x.float(), x.shape[-1:], wide, eps).to(x.dtype)

def wrong(x, weight=None, eps=1e-6):
    return right(x, weight, eps) * 1.001

def kernels():
    return [
        KernelMetadata(
            f.__name__,
            KernelType.NORMALIZATION,
            version,
            KernelBackend.CPU,
            kernel_fn=f,
            op="rms_norm",
            precision_support=[PrecisionFormat.FP32],
        )
        for f, version in ((right, "10.0"), (wrong, "11.0"))
    ]
"""


def test_kernels_of_other_packages(filled, tmp_path, monkeypatch):
    _distribution(tmp_path, "fast-norms", "fast_norms", _CODE)
    monkeypatch.syspath_prepend(tmp_path)
    found = filled.discover()
    assert [(k.kernel_id, k.provider) for k in found] == [
        ("right", "fast-norms"),
        ("wrong", "fast-norms"),
    ]
    with pytest.warns(UserWarning, match="kernel wrong 11.0 of fast-norms is not chosen"):
        best = filled.get_optimal_kernel(NORM, "cpu", FP32, op="rms_norm")
    assert best.kernel_id == "right"
    filled.activate(best)
    with kernel_pytorch.explain() as calls:
        torch.ops.kpt.rms_norm(torch.randn(2, 8))
    assert calls.calls[0].variant == "right 10.0 (fast-norms)"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError"),
        ("kernels = 3", "TypeError"),
        ("kernels = ['x']", "expected KernelMetadata, got str"),
        ("", "has no attribute 'kernels'"),
    ],
)
def test_broken_packages_are_left_out(registry, tmp_path, monkeypatch, code, reason):
    module = f"broken_{abs(hash(code))}"
    _distribution(tmp_path, "broken", module, code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match=f"kernels of broken .* are left out: .*{reason}"):
        assert registry.discover() == []


def test_the_shared_registry_fills_itself_once(registry, monkeypatch):
    monkeypatch.setattr(kernel_registry, "_filled", False)
    assert get_kernel_registry().list_kernels(op="act")
    registry._kernels.clear()
    assert get_kernel_registry().list_kernels() == []
