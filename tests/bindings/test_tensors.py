"""Tensors across the boundary: both ways give the same views, and refuse the same tensors."""

import numpy as np
import pytest
import torch

from kernel_pytorch._native import load

NATIVE = load("cpu")


class Wrapped:
    """Has a tensor's attributes and no exchange API: crosses the slow way."""

    def __init__(self, tensor):
        self._tensor = tensor

    def __getattr__(self, name):
        return getattr(self._tensor, name)


WAYS = [pytest.param(lambda t: t, id="fast"), pytest.param(Wrapped, id="slow")]
DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.int8,
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.bool,
)
LAYOUTS = {
    "plain": lambda t: t,
    "rows apart": lambda t: t[:, :, :5],
    "offset": lambda t: t[1:, 1:, 1:],
    "transposed": lambda t: t.transpose(0, 2),
    "expanded": lambda t: t[:1].expand(7, -1, -1),
    "empty": lambda t: t[:0],
    "no dimensions": lambda t: t[0, 0, 0],
    "eight dimensions": lambda t: t[None, None, None, None, None],
    "size one": lambda t: t[:, :1],
}


@pytest.fixture(autouse=True)
def _torch_has_the_api():
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        pytest.skip("this torch has only the slow way")


def test_each_way_is_the_one_meant():
    assert NATIVE.boundary(torch.Tensor) == "dlpack_c_exchange_api"
    assert NATIVE.boundary(torch.nn.Parameter) == "dlpack_c_exchange_api"
    assert NATIVE.boundary(Wrapped) == "python_attributes"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_view_is_the_tensors(dtype, layout, way):
    t = LAYOUTS[layout](torch.zeros(3, 4, 6).to(dtype))
    address, name, shape, strides = NATIVE.describe(way(t))
    assert name == str(dtype).removeprefix("torch.")
    assert shape == tuple(t.shape)
    if t.numel() > 0:
        assert address == t.data_ptr()
        moves = [(a, b) for a, b, n in zip(strides, t.stride(), shape, strict=True) if n > 1]
        assert all(a == b for a, b in moves)


def _misaligned(dtype):
    raw = torch.from_numpy(np.zeros(65, dtype=np.uint8))[1:]
    return torch.from_numpy(np.frombuffer(raw.numpy().data, dtype=dtype))


REFUSED = {
    "sparse": (lambda: torch.ones(3, 3).to_sparse(), TypeError, "tensor"),
    "sparse rows": (lambda: torch.ones(3, 3).to_sparse_csr(), TypeError, "tensor"),
    "no storage": (lambda: torch.ones(3, device="meta"), TypeError, "CPU"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), TypeError, "unsupported dtype"),
    "int16": (lambda: torch.ones(3, dtype=torch.int16), TypeError, "unsupported dtype"),
    "nine dimensions": (lambda: torch.ones((1,) * 9), ValueError, "at most 8 dimensions, got 9"),
    "misaligned": (lambda: _misaligned(np.float32), ValueError, "misaligned"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, way):
    make, error, match = REFUSED[what]
    with pytest.raises(error, match=f"describe: argument 'tensor' .*{match}"):
        NATIVE.describe(way(make()))


@pytest.mark.parametrize("thing", [3, "text", [1.0], np.zeros(3), object()])
def test_not_a_tensor(thing):
    with pytest.raises(TypeError, match="describe: argument 'tensor' must be a torch.Tensor, got"):
        NATIVE.describe(thing)


def test_a_tensor_that_lies_about_its_sizes():
    """The slow way believes attributes only as far as they make sense."""

    class Lying(Wrapped):
        shape = (-1, 3)

    class Overflowing(Wrapped):
        shape = (2**40, 2**40)

    t = torch.ones(2, 3)
    with pytest.raises(ValueError, match="has a negative size in dimension 0"):
        NATIVE.describe(Lying(t))
    with pytest.raises(ValueError, match="more elements than a 64-bit count holds"):
        NATIVE.describe(Overflowing(t))


def test_dense_last_dimension_is_asked_for():
    x = torch.ones(4, 6)
    with pytest.raises(ValueError, match="act: argument 'x' must have a dense last dim.*stride 6"):
        NATIVE.act(torch.empty(6, 4), x.t(), "relu")


def test_many_tensor_types_in_turn():
    """More types than the boundary remembers."""
    types = [type(f"Kind{i}", (torch.Tensor,), {}) for i in range(5)]
    for _ in range(3):
        for kind in (*types, torch.Tensor, torch.nn.Parameter):
            t = torch.ones(3).as_subclass(kind)
            assert NATIVE.describe(t)[2] == (3,)
            assert NATIVE.describe(Wrapped(t))[2] == (3,)
