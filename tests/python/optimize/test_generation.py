"""Generation by optimized decoders: eager's greedy tokens, with every cache of transformers."""

import copy

import pytest
import torch

import kernel_pytorch
from kernel_pytorch.optimize.replacement import installed

_SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 101,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 100,
}


def _model(kind):
    import transformers as hf

    torch.manual_seed(0)
    if kind == "gpt2":
        sizes = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}
        config = hf.GPT2Config(vocab_size=101, bos_token_id=0, eos_token_id=100, **sizes)
        model = hf.GPT2LMHeadModel(config)
    elif kind == "llama":
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**_SIZES))
    elif kind == "mistral":
        model = hf.MistralForCausalLM(hf.MistralConfig(sliding_window=9, **_SIZES))
    else:
        model = hf.Qwen2ForCausalLM(hf.Qwen2Config(**_SIZES))
    with torch.no_grad():  # far from ties: tokens that differ are faults
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.dim() > 1 else 1.0)
    return model.eval()


def _prompts(batch=2, tokens=12, padded=False):
    torch.manual_seed(1)
    mask = torch.ones(batch, tokens, dtype=torch.long)
    if padded:
        mask[0, : tokens // 3] = 0
    return {"input_ids": torch.randint(1, 100, (batch, tokens)), "attention_mask": mask}


def _generated(model, inputs, **options):
    with torch.no_grad():
        return model.generate(
            **inputs, max_new_tokens=20, do_sample=False, pad_token_id=0, **options
        )


def _optimized(model, inputs, **options):
    new = copy.deepcopy(model)
    kernel_pytorch.optimize(new, inputs, **options)
    blocks = [r for r in map(installed, new.modules()) if r and r.kind == "decoder block"]
    assert len(blocks) == 3, str(kernel_pytorch.report(new))
    return new


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "qwen2"])
def test_same_tokens_as_eager(kind, padded, all_win):
    model, inputs = _model(kind), _prompts(padded=padded)
    want = {
        cache: _generated(model, inputs, cache_implementation=cache)
        for cache in ("dynamic", "static")
    }
    assert want["dynamic"].unique().numel() > 10, "the model says the same all the time"
    new = _optimized(model, inputs, precision="keep")
    for cache, tokens in want.items():
        with kernel_pytorch.explain() as calls:
            got = _generated(new, inputs, cache_implementation=cache)
        assert torch.equal(got, tokens), cache
        assert not [c for c in calls if c.implementation != "native"], cache
        # Single tokens without a mask: not where a window or padding hides some keys.
        if cache == "dynamic" and not padded and kind != "mistral":
            assert "attention_decode" in {c.op for c in calls}
    assert torch.equal(_generated(new, inputs, num_beams=3), _generated(model, inputs, num_beams=3))
    kernel_pytorch.revert(new)
    assert torch.equal(_generated(new, inputs), want["dynamic"])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
def test_registered_attention_alone(kind):
    """``attn_implementation="kpt"`` in transformers' own code."""
    from kernel_pytorch.optimize.attention import registered

    model = _model(kind)
    for padded in (True, False):
        inputs = _prompts(padded=padded)
        for cache in ("dynamic", "static"):
            model.set_attn_implementation("sdpa")
            want = _generated(model, inputs, cache_implementation=cache)
            model.set_attn_implementation(registered())
            with kernel_pytorch.explain() as calls:
                assert torch.equal(_generated(model, inputs, cache_implementation=cache), want)
            assert {c.implementation for c in calls} == {"native"}


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_caches_keep_their_meaning(precision, all_win):
    """What a cache holds after each step is what the original puts there; crop and reuse work."""
    from transformers import DynamicCache

    model, inputs = _model("llama"), _prompts(batch=1, tokens=70)
    new = _optimized(model, inputs, precision=precision, max_error=0.5)
    caches = [DynamicCache(config=m.config) for m in (model, new)]
    ids = inputs["input_ids"]
    with torch.no_grad():
        for start, stop in ((0, 60), (60, 61), (61, 66), (66, 70)):
            for m, cache in zip((model, new), caches, strict=True):
                m(ids[:, start:stop], past_key_values=cache)
            if stop == 66:
                for cache in caches:
                    cache.crop(-3)
        half = copy.deepcopy(caches[1])
        new(ids[:, 67:68], past_key_values=half)
    assert half.get_seq_length() == 68 and caches[1].get_seq_length() == 67
    for old, mine, other in zip(caches[0].layers, caches[1].layers, half.layers, strict=True):
        assert mine.keys.shape == old.keys.shape and mine.values.shape == old.values.shape
        assert mine.keys.dtype == torch.bfloat16
        distance = (mine.keys.float() - old.keys).norm() / old.keys.norm()
        assert distance < 0.2
        assert torch.equal(other.keys[:, :, :67], mine.keys)


def test_a_cache_filled_by_the_original(all_win):
    """A float32 cache from before is continued in its own dtype."""
    from transformers import DynamicCache

    model, inputs = _model("gpt2"), _prompts(batch=1)
    new = _optimized(model, inputs, precision="bf16")
    cache, ids = DynamicCache(config=model.config), inputs["input_ids"]
    with torch.no_grad():
        want = model(ids).logits[:, -1]
        model(ids[:, :-1], past_key_values=cache)
        got = new(ids[:, -1:], past_key_values=cache).logits[:, -1]
    assert cache.layers[0].keys.dtype == torch.float32
    assert (got - want).norm() / want.norm() < 3e-2


def test_what_is_not_covered_runs_the_original(all_win):
    model, inputs = _model("gpt2"), _prompts(batch=1)
    new = _optimized(model, inputs, precision="keep")
    with torch.no_grad(), kernel_pytorch.explain() as calls:
        got = new(**inputs, output_hidden_states=True).hidden_states
    want = model(**inputs, output_hidden_states=True).hidden_states
    assert len(got) == len(want) == 4
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(got, want, strict=True))
    assert {c.implementation for c in calls} == {"native"}
    with torch.no_grad(), pytest.warns(RuntimeWarning, match="attention weights are asked for"):
        with kernel_pytorch.explain() as calls:
            new.set_attn_implementation("sdpa")
            new(**inputs, output_attentions=True)
    assert "original" in {c.implementation for c in calls}
    with kernel_pytorch.explain() as calls, pytest.warns(RuntimeWarning, match="gradient"):
        new(**inputs).logits.sum().backward()
    assert "original" in {c.implementation for c in calls}
