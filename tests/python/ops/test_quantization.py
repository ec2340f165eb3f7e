"""Quantization code by code: every fp8 code, every half and bfloat16, floats densely, at every ISA
level; randomness; special values; what the contract tests cannot know."""

import pytest
import torch

from kernel_pytorch.backends import cpu
from kernel_pytorch.ops import SPECS
from kernel_pytorch.ops import quantization as q

LEVELS = ("baseline", "avx2", "avx512", "avx512_bf16", "amx")
LEVELS = LEVELS[: LEVELS.index(cpu.detected_isa()) + 1]
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
quantize = torch.ops.kpt.quantize_fp8
dequantize = torch.ops.kpt.dequantize_fp8
ONE = torch.tensor(1.0)


@pytest.fixture(params=LEVELS)
def level(request):
    with cpu.isa_limit(request.param):
        yield request.param


def all_of(dtype):
    """Every number of a 16-bit dtype, or about 17 million floats spread over all bit patterns."""
    if dtype == torch.float32:
        return torch.arange(-(2**31), 2**31, 251, dtype=torch.int64).to(torch.int32).view(dtype)
    return torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)


def codes(t):
    return t.view(torch.uint8)


def cast(x, dtype):
    """PyTorch's cast, saturating."""
    limit = q.largest(dtype)
    wide = x.float()
    return torch.where(wide.isnan(), wide, wide.clamp(-limit, limit)).to(dtype)


@pytest.mark.parametrize("dtype", q.FP8)
@pytest.mark.parametrize("source", FLOATS)
def test_every_number_is_cast_as_by_pytorch(level, source, dtype):
    x = all_of(source)
    x_q, scale = quantize(x, dtype=dtype, scale=ONE)
    assert torch.equal(codes(x_q), codes(cast(x, dtype)))
    assert scale == 1


@pytest.mark.parametrize("dtype", q.FP8)
def test_neighbours_of_every_tie(level, dtype):
    """The floats around the middle of any two neighbouring numbers."""
    numbers = torch.arange(128, dtype=torch.uint8).view(dtype).float()
    numbers = numbers[numbers.isfinite()]
    middles = ((numbers[1:].double() + numbers[:-1].double()) / 2).float()
    x = torch.cat(
        [middles, torch.nextafter(middles, ONE * 0), torch.nextafter(middles, 1e30 * ONE)]
    )
    x = torch.cat([x, -x])
    assert torch.equal(codes(quantize(x, dtype=dtype, scale=ONE)[0]), codes(cast(x, dtype)))


@pytest.mark.parametrize("dtype", q.FP8)
@pytest.mark.parametrize("out", FLOATS)
def test_every_code_is_decoded_as_by_pytorch(level, dtype, out):
    x_q = torch.arange(256, dtype=torch.uint8).view(dtype)
    got, want = dequantize(x_q, ONE, dtype=out), x_q.to(out)
    assert torch.equal(got.isnan(), want.isnan())
    number = ~want.isnan()
    ints = torch.int32 if out == torch.float32 else torch.int16
    assert torch.equal(got.view(ints)[number], want.view(ints)[number])
    for scale in (0.37, 3e-5, 250.0, 2.0**121):
        want = (x_q.float() * scale).to(out)
        got = dequantize(x_q, torch.tensor(scale), dtype=out)
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", q.FP8)
def test_round_trip_keeps_every_code(level, dtype):
    """What dequantization gives quantizes to the same codes under the same scale."""
    x_q = torch.arange(256, dtype=torch.uint8).view(dtype)
    x_q = x_q[x_q.float().isfinite()]
    for scale in (1.0, 0.37, 2.0**-100, 1e20):
        x = dequantize(x_q, torch.tensor(scale))
        assert torch.equal(
            codes(quantize(x, dtype=dtype, scale=torch.tensor(scale))[0]), codes(x_q)
        )


@pytest.mark.parametrize("granularity", q.GRANULARITIES)
@pytest.mark.parametrize("dtype", q.FP8)
@pytest.mark.parametrize("source", FLOATS)
def test_special_values_of_groups(level, source, dtype, granularity):
    """Zeros, subnormals, the largest floats, NaN and infinities, each in groups of its own."""
    top = torch.finfo(source).max
    rows = [0.0, torch.finfo(source).smallest_normal / 4, top, float("nan"), float("inf")]
    x = torch.tensor(rows, dtype=source).repeat_interleave(128)[:, None].expand(-1, 200).clone()
    x[2 * 128 :, 1::2] *= -1
    x[3 * 128 :: 7, 0] = 3.0
    reference = SPECS["quantize_fp8"].reference
    got = quantize(x, dtype=dtype, granularity=granularity)
    want = reference(x, dtype=dtype, granularity=granularity)
    torch.testing.assert_close(got[1], want[1], rtol=0, atol=0, equal_nan=True)
    g, w = got[0].float(), want[0].float()
    torch.testing.assert_close(g, w, rtol=0, atol=0, equal_nan=True)
    if granularity != "tensor":
        assert bool(g[:128].eq(0).all()) and bool(g[4 * 128 :].isnan().all())
        assert float(g[2 * 128 : 3 * 128].abs().min()) == q.largest(dtype)
        assert not bool(g[3 * 128 : 4 * 128].isnan().all())


def test_infinities_saturate_under_a_given_scale(level):
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), 1e30])
    got = quantize(x, scale=ONE)[0].float()
    torch.testing.assert_close(
        got, torch.tensor([448.0, -448.0, float("nan"), 448.0]), equal_nan=True
    )


@pytest.mark.parametrize("granularity", q.GRANULARITIES)
def test_amax_beside_a_given_scale(level, granularity):
    x = torch.randn(300, 1000)
    x[7, 9] = float("nan")
    scale = torch.full(q.scale_shape(x.shape, granularity), 0.01)
    x_q, amax = quantize(x, granularity=granularity, scale=scale, return_amax=True)
    plain, _ = quantize(x, granularity=granularity, scale=scale)
    assert torch.equal(amax, q.amax_of(x, granularity))
    assert torch.equal(codes(x_q), codes(plain))


def test_philox_known_answers():
    """Of the generator's authors: counter and key zero."""
    words = q.random_words(4, 0, torch.device("cpu")).tolist()
    assert words == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("dtype", q.FP8)
@pytest.mark.parametrize("source", FLOATS)
def test_stochastic_rounding_of_every_number(level, source, dtype):
    """The reference's bits; numbers of the format stay; any other goes to a neighbour."""
    x = all_of(source)
    if source == torch.float32:
        x = x[::37].clone()
    for seed in (0, 2**40 + 12345, -1):
        got = quantize(x, dtype=dtype, scale=ONE, stochastic_seed=seed)[0]
        assert torch.equal(codes(got), codes(q.round_fp8_stochastic(x.float(), dtype, seed)))
    nearest = cast(x, dtype).float()
    exact = nearest == x.float()
    assert torch.equal(got.float()[exact], nearest[exact])


@pytest.mark.parametrize("dtype", q.FP8)
def test_stochastic_rounding_is_unbiased(level, dtype):
    """The mean over many elements is the number, within five standard deviations."""
    count = 1 << 16
    for value in (1.07, 0.3, 17.9, 3e-3, 2.0**-16 * 0.3, 400.0):
        x = torch.full((count,), value)
        got = quantize(x, dtype=dtype, scale=ONE, stochastic_seed=3)[0].double()
        low, high = float(got.min()), float(got.max())
        assert low < value < high and got.unique().numel() == 2
        deviation = ((value - low) * (high - value) / count) ** 0.5
        assert abs(float(got.mean()) - float(x[0])) <= 5 * deviation


def test_stochastic_bits_do_not_depend_on_layout_or_threads(level):
    x = torch.randn(37, 1001)
    spread = torch.zeros(37, 1010)[:, 3:1004].copy_(x)
    before = torch.get_num_threads()
    try:
        for granularity in q.GRANULARITIES:
            want = SPECS["quantize_fp8"].reference(x, granularity=granularity, stochastic_seed=11)[
                0
            ]
            for threads in (1, 2, 5):
                torch.set_num_threads(threads)
                for t in (x, spread):
                    got = quantize(t, granularity=granularity, stochastic_seed=11)[0]
                    assert torch.equal(codes(got), codes(want)), (granularity, threads)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("granularity", ("row", "block1x128"))
def test_a_row_does_not_depend_on_the_others(level, granularity):
    x = torch.randn(50, 500)
    changed = x.clone()
    changed[1:] = float("inf")
    got, want = quantize(changed, granularity=granularity), quantize(x, granularity=granularity)
    assert torch.equal(codes(got[0][0]), codes(want[0][0])) and torch.equal(got[1][0], want[1][0])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("source", FLOATS)
def test_int8_special_rows(level, source, symmetric):
    top = torch.finfo(source).max
    rows = [[0.0, 0.0], [-top, top], [float("nan"), 1.0], [1.0, -float("inf")], [-3.0, -1.0]]
    x = torch.tensor(rows, dtype=source).repeat(1, 40)
    got = torch.ops.kpt.quantize_int8(x, symmetric=symmetric)
    want = SPECS["quantize_int8"].reference(x, symmetric=symmetric)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=0, equal_nan=True)
    back = (got[0].double() - got[2][:, None].double()) * got[1][:, None].double()
    error = (back - x.double()).abs()
    assert bool((error[[0, 1, 4]] <= 0.51 * got[1][[0, 1, 4]][:, None].double()).all())
    assert bool(got[1][2:4].isnan().all()) and not bool(got[0][2:4].any())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("source", FLOATS)
def test_every_number_to_int8(level, source, symmetric):
    x = all_of(source)
    for scale, zero in ((0.37, 0), (1.0, -9), (3000.0, 127)):
        zero_point = None if symmetric else torch.tensor(zero, dtype=torch.int32)
        options = {"granularity": "tensor", "symmetric": symmetric, "zero_point": zero_point}
        got = torch.ops.kpt.quantize_int8(x, scale=torch.tensor(scale), **options)[0]
        inverse = 1.0 / torch.tensor(scale)
        wide = (x.float() * inverse).round() + (0 if symmetric else zero)
        low = -127 if symmetric else -128
        want = torch.where(x.isnan(), 0 if symmetric else zero, wide.clamp(low, 127))
        assert torch.equal(got, want.to(torch.int8))


def test_more_rows_than_fit_a_thread_and_streaming():
    """Large tensors, written past the caches, give what small ones give."""
    x = torch.randn(2100, 2048)
    for granularity in q.GRANULARITIES:
        got = quantize(x, granularity=granularity)
        want = SPECS["quantize_fp8"].reference(x, granularity=granularity)
        assert torch.equal(codes(got[0]), codes(want[0])) and torch.equal(got[1], want[1])
        back = dequantize(*got, dtype=torch.bfloat16)
        assert torch.equal(back, (want[0].float() * q.expanded(want[1], x)).bfloat16())
