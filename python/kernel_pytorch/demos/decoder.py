"""Text generation by a decoder of GPT-2 small's size, before and after ``kernel_pytorch.optimize``.

The model is built by transformers with weights from a seed: nothing is downloaded, and what it says
means nothing. Its last layer is drawn wide enough that it is about as sure of what it says as a
trained model is, so that tokens and perplexities tell exact models from inexact ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kernel_pytorch.demos.decoder_result import DecoderResult, Perplexity
from kernel_pytorch.demos.result import Promise, Variant, rounds
from kernel_pytorch.demos.sentences import DemoUnavailableError
from kernel_pytorch.optimize import optimize, report
from kernel_pytorch.optimize.candidates import survey
from kernel_pytorch.optimize.decoder_block import DecoderBlock
from kernel_pytorch.optimize.policy import policy
from kernel_pytorch.optimize.session import environment

__all__ = ["run"]

_SIZES: dict[str, Any] = {}
"""What differs from ``GPT2Config``'s own sizes, which are GPT-2 small's."""
_SEED = 0
_HEAD_SPREAD = 0.134
"""Standard deviation of the last layer's weights: with it the perplexity is about 100."""
_PROMPT, _TEXTS, _TEXT = 32, 2, 192
_PRECISIONS = ("keep", "bf16", "int8", "int4", "fp8")
_COMPARED = ("bf16", "int8", "int4")
# What is promised where the CPU has bf16 instructions: (over eager float32, over eager bfloat16).
_PROMISED = {
    "keep": (1.0, 0.0),
    "bf16": (2.0, 1.2),
    "int8": (3.0, 1.7),
    "int4": (3.0, 1.7),
    "fp8": (3.0, 1.7),
}
_FAST_BF16 = ("avx512_bf16", "amx")


def _model(dtype: torch.dtype = torch.float32) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise DemoUnavailableError(
            "the demo needs the package transformers: pip install 'kernel_pytorch[hf]'"
        ) from error
    # A last layer of its own: with the embedding's weights it would repeat the token it was given.
    config = transformers.GPT2Config(tie_word_embeddings=False, **_SIZES)
    state = torch.get_rng_state()
    try:
        torch.manual_seed(_SEED)
        model = transformers.GPT2LMHeadModel(config)
        nn.init.normal_(model.lm_head.weight, std=_HEAD_SPREAD)
    finally:
        torch.set_rng_state(state)
    return model.eval().to(dtype)


def run(
    precision: str = "bf16",
    *,
    tokens: int = 128,
    seconds: float = 20.0,
    say: Callable[[str], None] = lambda _: None,
) -> DecoderResult:
    """Run the demo.

    Args:
        precision: policy of :func:`kernel_pytorch.optimize` for the comparison of speed.
        tokens: to generate, greedily, one sequence at a time.
        seconds: time to spend on that comparison (more where three rounds take longer).
        say: called with a line before each long step.

    Raises:
        DemoUnavailableError: transformers is not installed.
        ValueError: unknown precision, or no token.
    """
    if precision not in _PRECISIONS:
        raise ValueError(
            f"demo: argument 'precision' must be one of {', '.join(_PRECISIONS)}, got {precision!r}"
        )
    if tokens < 1:
        raise ValueError(f"demo: argument 'tokens' must be at least 1, got {tokens}")
    started = time.perf_counter()
    say("building a decoder with seeded weights")
    original = _model()
    prompt = _random_tokens(original, 1, _PROMPT)
    say("generating the reference tokens")
    wanted = _generate(original, prompt, tokens)
    texts = _sampled(original, _TEXTS, _TEXT)
    reference = _perplexity(original, texts)

    say("the same tokens with every layer replaced, in float32")
    same = _generate(_replaced("keep"), prompt, tokens)
    perplexities = []
    for name in dict.fromkeys((*_COMPARED, precision)):
        if name != "keep":
            say(f"perplexity with every layer replaced, precision {name}")
            value = _perplexity(_replaced(name), texts)
            perplexities.append(Perplexity(precision=name, value=value))
    say(f"optimizing it, precision {precision}")
    optimized = _model()
    # For what generation does most: one token at a time.
    optimize(optimized, {"input_ids": prompt[:, :1]}, precision=precision)
    say(f"generating {tokens} tokens with each")
    models = {
        "eager fp32": original,
        "eager bf16": _model(torch.bfloat16),
        "optimized": optimized,
    }
    calls = {n: _call(m, prompt, tokens) for n, m in models.items()}
    times = rounds(calls, seconds, least=3)
    shape = f"1x{tokens}"
    result = DecoderResult(
        precision=precision,
        report=report(optimized),
        variants=[Variant(name=n, shape=shape, seconds=t) for n, t in times.items()],
        tokens=tokens,
        same_tokens=float((same == wanted).double().mean()),
        perplexity=reference,
        perplexities=perplexities,
        environment=environment(),
    )
    result.promises = _promises(result)
    result.seconds = time.perf_counter() - started
    return result


def _replaced(precision: str) -> nn.Module:
    """With every decoder layer and the last one replaced, whatever that brings: what is compared
    for exactness must not depend on how fast this machine was just then."""
    model: nn.Module = _model()
    for candidate in survey(model).candidates:
        if candidate.rank == DecoderBlock.kind or candidate.name == "lm_head":
            assert candidate.build is not None
            candidate.build(policy(precision)).install()
    return model


def _call(model: nn.Module, prompt: torch.Tensor, tokens: int) -> Callable[[], object]:
    return lambda: _generate(model, prompt, tokens)


def _random_tokens(model: Any, rows: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(0, model.config.vocab_size, (rows, count), generator=generator)


def _generate(model: Any, prompt: torch.Tensor, tokens: int, **options: Any) -> torch.Tensor:
    """The new tokens, ``[rows, tokens]``."""
    with torch.inference_mode():
        found: torch.Tensor = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
            **{"do_sample": False, **options},
        )
    return found[:, prompt.shape[1] :]


def _sampled(model: Any, rows: int, count: int) -> torch.Tensor:
    """Texts as the model itself would write them, from a single random token on."""
    first = _random_tokens(model, rows, 1)
    state = torch.get_rng_state()
    try:
        torch.manual_seed(_SEED)
        return torch.cat((first, _generate(model, first, count, do_sample=True, top_k=0)), dim=1)
    finally:
        torch.set_rng_state(state)


def _perplexity(model: Any, texts: torch.Tensor) -> float:
    with torch.inference_mode():
        logits = model(texts, use_cache=False).logits[:, :-1].float()
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), texts[:, 1:].flatten())
    return math.exp(float(loss))


def _promises(result: DecoderResult) -> list[Promise]:
    """What must hold. A speed counts as missed when its whole interval lies below."""
    over_fp32, over_bf16 = _PROMISED[result.precision]
    if result.environment["isa"] not in _FAST_BF16:
        over_fp32, over_bf16 = 1.0, 0.0
    promises = [
        Promise(
            what="tokens equal to eager's in float32, share",
            value=result.same_tokens,
            bound=1.0,
            kept=result.same_tokens == 1.0,
        )
    ]
    for name, bound in (("eager fp32", over_fp32), ("eager bf16", over_bf16)):
        if bound:
            speedup, high = result.speedup(name)
            promises.append(
                Promise(
                    what=f"a token: times faster than {name}",
                    value=speedup,
                    bound=bound,
                    kept=high >= bound,
                )
            )
    return promises
