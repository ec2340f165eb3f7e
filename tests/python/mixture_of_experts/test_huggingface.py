"""Small models of transformers, their experts in the operator: as with transformers' own."""

import pytest
import torch
import transformers

import kernel_pytorch
from kernel_pytorch.mixture_of_experts.huggingface import register_experts

_SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def _models():
    mixtral = transformers.MixtralConfig(num_local_experts=6, num_experts_per_tok=2, **_SMALL)
    qwen = transformers.Qwen3MoeConfig(
        num_experts=8, num_experts_per_tok=3, moe_intermediate_size=40, head_dim=8, **_SMALL
    )
    return {"mixtral": mixtral, "qwen3": qwen}


@pytest.mark.parametrize("name", ["mixtral", "qwen3"])
def test_logits_and_gradients_are_those_of_eager(name):
    register_experts()
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        _models()[name], experts_implementation="eager"
    )
    tokens = torch.randint(100, (2, 9))
    found = []
    for implementation in ("eager", "kpt"):
        model.set_experts_implementation(implementation)
        model.zero_grad()
        kernel_pytorch.reset_counters()
        result = model(tokens, labels=tokens)
        result.loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((result.logits.detach(), gradients))
        assert ("moe_ffn" in str(kernel_pytorch.explain())) == (implementation == "kpt")
    (want, wanted), (got, gradients) = found
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    for key, gradient in wanted.items():
        torch.testing.assert_close(gradients[key], gradient, rtol=1e-3, atol=1e-5, msg=key)


def test_an_activation_it_does_not_have_is_refused():
    register_experts()
    config = _models()["mixtral"]
    config.hidden_act = "relu"
    model = transformers.AutoModelForCausalLM.from_config(config, experts_implementation="kpt")
    with pytest.raises(ValueError, match="hidden_act of MixtralExperts must be one of silu, gelu"):
        model(torch.zeros(1, 3, dtype=torch.int64))
