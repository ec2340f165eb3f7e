"""A cache filled step by step gives the attention of the whole sequence, in every form."""

import pytest
import torch

import kernel_pytorch

BATCH, HEADS, KV_HEADS, DIM, CAPACITY, PAGE = 2, 4, 2, 32, 40, 8
LENS = torch.tensor([23, 31])


def _tables(positions):
    """Cosines and sines for positions ``[B, S]``."""
    rates = 10000.0 ** (-torch.arange(DIM // 2) / (DIM // 2))
    angles = positions[..., None] * rates
    return {"cos": angles.cos(), "sin": angles.sin()}


class Cache:
    """Caches of one form, and the operators on them."""

    def __init__(self, form, paged):
        dtype = {"float": torch.float32, "int8": torch.int8, "fp8": torch.float8_e4m3fn}[form]
        pages = CAPACITY // PAGE
        self.table = None
        shape = (BATCH, KV_HEADS, CAPACITY, DIM)
        if paged:
            order = torch.randperm(BATCH * pages + 3)[: BATCH * pages]
            self.table = order.view(BATCH, pages).int()
            shape = (BATCH * pages + 3, KV_HEADS, PAGE, DIM)
        # Keys and values of one pool, as serving systems lay them out.
        pool = torch.zeros(shape[0], 2, *shape[1:], dtype=dtype)
        self.k, self.v = pool[:, 0], pool[:, 1]
        self.scales = {}
        if form != "float":
            scales = torch.zeros(pool.shape[:-1])
            self.scales = {"k_scale": scales[:, 0], "v_scale": scales[:, 1]}

    def append(self, k, v, lens, **tables):
        if self.scales:
            torch.ops.kpt.kv_append_quantize_(
                k, v, self.k, self.v, *self.scales.values(), lens, block_table=self.table, **tables
            )
        else:
            torch.ops.kpt.kv_append_(k, v, self.k, self.v, lens, block_table=self.table, **tables)

    def attend(self, q, lens, **tables):
        options = {**self.scales, **tables}
        if self.table is None:
            return torch.ops.kpt.attention_decode(q, self.k, self.v, lens, **options)
        return torch.ops.kpt.attention_paged(q, self.k, self.v, self.table, lens, **options)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize(("form", "error"), [("float", 1e-5), ("int8", 2e-2), ("fp8", 1e-1)])
def test_generation(form, error, paged, interleaved):
    """A prompt at once, then four tokens and single ones, against attention over everything."""
    torch.manual_seed(0)
    longest = int(LENS.max())
    q = torch.randn(BATCH, HEADS, longest, DIM)
    k, v = torch.randn(2, BATCH, KV_HEADS, longest, DIM).unbind(0)
    cache, done = Cache(form, paged), torch.tensor([16, 24])
    last = torch.zeros_like(q[:, :, :1])

    def step(lens, tokens):
        nonlocal last
        positions = lens[:, None] - tokens + torch.arange(tokens)
        at = positions[:, None, :, None].expand(-1, HEADS, -1, DIM)
        tables = {**_tables(positions), "interleaved": interleaved}
        rows = [t.gather(2, at[:, : t.shape[1]]) for t in (q, k, v)]
        cache.append(rows[1], rows[2], lens, **tables)
        if tokens <= 8:
            last = cache.attend(rows[0], lens, **tables)[:, :, -1:]

    with kernel_pytorch.explain() as calls:
        for b in range(BATCH):  # prompts of different lengths
            n = int(done[b])
            tables = _tables(torch.arange(n)[None])
            one = Cache.__new__(Cache)
            one.__dict__ = dict(cache.__dict__)
            one.table = None if cache.table is None else cache.table[b : b + 1]
            if cache.table is None:
                one.k, one.v = cache.k[b : b + 1], cache.v[b : b + 1]
                one.scales = {n_: s[b : b + 1] for n_, s in cache.scales.items()}
            one.append(
                k[b : b + 1, :, :n],
                v[b : b + 1, :, :n],
                done[b : b + 1],
                interleaved=interleaved,
                **tables,
            )
        for tokens in (4, 1, 1, 1):
            done = done + tokens
            step(done, tokens)
    assert {c.implementation for c in calls} == {"native"}
    assert torch.equal(done, LENS)
    for b, n in enumerate(LENS.tolist()):
        tables = _tables(torch.arange(n)[None])
        turned = torch.ops.kpt.rope(
            q[b : b + 1, :, :n], k[b : b + 1, :, :n], *tables.values(), interleaved=interleaved
        )
        want = torch.nn.functional.scaled_dot_product_attention(
            turned[0], turned[1], v[b : b + 1, :, :n], is_causal=True, enable_gqa=True
        )[:, :, -1:]
        assert (last[b : b + 1] - want).abs().max() < error


@pytest.mark.parametrize("quantize", [False, True])
def test_functionalized(quantize):
    """A compiled step writes into the caches it was given, and attends to what it wrote."""
    caches = Cache("int8" if quantize else "float", paged=True)
    own = [caches.k.clone(), caches.v.clone(), *(s.clone() for s in caches.scales.values())]

    def step(q, k, v, k_cache, v_cache, *rest):
        *scales, lens = rest
        options = {"block_table": caches.table}
        if quantize:
            torch.ops.kpt.kv_append_quantize_(k, v, k_cache, v_cache, *scales, lens, **options)
        else:
            torch.ops.kpt.kv_append_(k, v, k_cache, v_cache, lens, **options)
        named = dict(zip(("k_scale", "v_scale"), scales))
        return torch.ops.kpt.attention_paged(q, k_cache, v_cache, caches.table, lens, **named)

    q = torch.randn(BATCH, HEADS, 3, DIM)
    k, v = torch.randn(2, BATCH, KV_HEADS, 3, DIM).unbind(0)
    lens = torch.tensor([3, 17])
    want = step(q, k, v, caches.k, caches.v, *caches.scales.values(), lens)
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k, v, *own, lens), want)
    for mine, theirs in zip(own, (caches.k, caches.v, *caches.scales.values()), strict=True):
        assert torch.equal(mine, theirs)
        assert mine.count_nonzero() > 0


def test_refused_calls_write_nothing():
    """A length or a page out of range is found before the first write."""
    caches = Cache("float", paged=True)
    k = torch.randn(BATCH, KV_HEADS, 1, DIM)
    for lens, table in (
        ([1, CAPACITY + 1], caches.table),
        ([1, 0], caches.table),
        ([1, 2], caches.table * torch.tensor([[1], [100]], dtype=torch.int32) + 100),
        ([1, 1], caches.table[:1].expand(2, -1).contiguous()),
    ):
        with pytest.raises(ValueError, match="kv_append: argument"):
            torch.ops.kpt.kv_append_(
                k, k, caches.k, caches.v, torch.tensor(lens), block_table=table
            )
    with pytest.raises(ValueError, match="'k_cache' overlaps 'v_cache'"):
        torch.ops.kpt.kv_append_(
            k, k, caches.k, caches.k, torch.tensor([1, 1]), block_table=caches.table
        )
    assert caches.k.count_nonzero() == 0 and caches.v.count_nonzero() == 0
