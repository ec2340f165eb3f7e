"""Small models of the kinds that optimize knows, with example inputs."""

import torch
import torch.nn.functional as F
from torch import nn


def make_bert(**options):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=100,
        max_position_embeddings=64,
        **options,
    )
    return BertModel(config).eval()


def make_llama(**options):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=100,
        max_position_embeddings=64,
        **options,
    )
    return LlamaForCausalLM(config).eval()


def make_qwen3():
    """A decoder with norms of its own inside the attention: no whole layer of it is replaced."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=128,
        vocab_size=100,
        max_position_embeddings=64,
        use_cache=False,
    )
    return Qwen3ForCausalLM(config).eval()


def token_inputs(batch=2, tokens=16, padded=True):
    ids = torch.randint(0, 100, (batch, tokens))
    mask = torch.ones(batch, tokens, dtype=torch.long)
    if padded:
        mask[0, tokens * 2 // 3 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


class OwnModel(nn.Module):
    """A user's own code: MLP with residual and norm, then attention written by hand."""

    def __init__(self, width=32):
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x, flag=None):
        y = self.norm(x + self.drop(self.down(F.gelu(self.up(x)))))
        batch, tokens, width = y.shape
        q, k, v = self.qkv(y).view(batch, tokens, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if flag:
            out = out * 2
        return out.transpose(1, 2).reshape(batch, tokens, width)


def make_torch_encoder(**options):
    layer = nn.TransformerEncoderLayer(32, 4, 64, **{"batch_first": True, **options})
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


class DecoderLayer(nn.Module):
    """nn.TransformerDecoderLayer with its memory inside."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)
        self.register_buffer("memory", torch.randn(2, 5, 32))

    def forward(self, x):
        return self.layer(x, self.memory)


def models():
    """name -> (model, example inputs, operators that must be among those used)."""
    encoder_ops = {"packed_linear", "attention_forward", "add_layer_norm"}
    x = torch.randn(2, 7, 32)
    return {
        "bert": (make_bert(), token_inputs(), encoder_ops),
        "bert unpadded": (make_bert(), token_inputs(padded=False), encoder_ops),
        "llama": (
            make_llama(use_cache=False),
            {"input_ids": torch.randint(0, 100, (2, 16))},
            {"packed_linear", "attention_forward", "rms_norm", "add_rms_norm"},
        ),
        "own": (OwnModel().eval(), (x,), encoder_ops),
        "sequential": (
            nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32), nn.RMSNorm(32, 1e-6)),
            (torch.randn(9, 32),),
            {"packed_linear", "rms_norm"},
        ),
        "torch encoder": (make_torch_encoder(activation="gelu"), (x,), encoder_ops),
        "torch encoder, norm first, batch second": (
            make_torch_encoder(norm_first=True, batch_first=False),
            (torch.randn(7, 2, 32),),
            encoder_ops | {"layer_norm"},
        ),
        "torch decoder": (DecoderLayer(), (x,), encoder_ops),
    }


def outputs(model, inputs):
    """The model's output tensors."""
    from kernel_pytorch.optimize.capture import Inputs
    from kernel_pytorch.optimize.replacement import tensors_in

    return [t.clone() for t in tensors_in(Inputs.of(inputs).run(model))]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))
