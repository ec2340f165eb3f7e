"""``kpt demo``: a real model, before and after; and walks through parts of the library."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernel_pytorch.cli.command import Json
from kernel_pytorch.cli.exits import CliError, Exit
from kernel_pytorch.cli.precision import Precision

if TYPE_CHECKING:
    from kernel_pytorch.demos.decoder_result import DecoderResult
    from kernel_pytorch.demos.result import DemoResult

__all__ = ["Part", "demo"]


class Part(enum.Enum):
    """What can be walked through."""

    AUTO_OPTIMIZATION = "auto-optimization"
    CUSTOM_KERNELS = "custom-kernels"
    UNIFIED_BACKENDS = "unified-backends"
    NVIDIA_INTEGRATION = "nvidia-integration"
    AMD = "amd"
    TPU = "tpu"
    INTEL = "intel"
    PRODUCTION = "production"


def demo(
    precision: Annotated[
        Precision, typer.Option(help="How exact the optimized model is to be.")
    ] = Precision.BF16,
    compile: Annotated[
        bool, typer.Option(help="Compare with torch.compile too (10 to 20 s to compile).")
    ] = True,
    decoder: Annotated[
        bool,
        typer.Option(
            "--decoder", help="Generate text with a decoder of GPT-2 small's size instead."
        ),
    ] = False,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.0, metavar="S", help="To spend about, on each comparison (4; 20 with --decoder)."
        ),
    ] = None,
    flex_attention: Annotated[
        bool,
        typer.Option("--flex-attention", help="Instead: attention of every pattern, and of yours."),
    ] = False,
    moe: Annotated[
        bool,
        typer.Option("--moe", help="Instead: a mixture of experts, against the dense one."),
    ] = False,
    nvidia_config: Annotated[
        bool,
        typer.Option(
            "--nvidia-config", help="Instead: how a configuration follows NVIDIA hardware."
        ),
    ] = False,
    fp8: Annotated[
        bool, typer.Option("--fp8", help="Instead: weights of 8 and 4 bits, and what they cost.")
    ] = False,
    fp8_training: Annotated[
        bool,
        typer.Option("--fp8-training", help="Instead: training in FP8; --html plots the curves."),
    ] = False,
    part: Annotated[
        Part | None, typer.Option(help="Instead: a walk through one part of the library.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes, for the walks through one part.")
    ] = False,
    json: Json = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with plots here.")
    ] = None,
) -> None:
    """Optimizes all-MiniLM-L6-v2, with its real weights, and shows what that brings.

    Embeds real sentences with the original and the optimized model, compares speed, results and
    nearest sentences; with --decoder builds a decoder of GPT-2 small's size with seeded weights,
    compares its tokens, its perplexity and the time a token takes. Needs no network. Exits with 1
    when the optimized model is slower or less exact than promised. The walks through one part exit
    with 1 when one of their checks fails.
    """
    from kernel_pytorch.cli.output import Output, Progress

    output = Output(json, html=html)
    wanted = {
        "flex_attention": flex_attention,
        "fp8": fp8,
        "fp8_training": fp8_training,
        "moe": moe,
        "nvidia_config": nvidia_config,
    }
    asked = {name: f"--{name.replace('_', '-')}" for name, value in wanted.items() if value}
    if part is not None:
        asked[part.value.replace("-", "_")] = f"--part {part.value}"
    if asked:
        _walk(asked, quick, output, html)
    with Progress(output, "importing PyTorch"):
        try:
            from kernel_pytorch.demos import decoder as generation
            from kernel_pytorch.demos import sentences
        except ModuleNotFoundError as error:
            if error.name == "torch":
                raise
            raise CliError(
                f"the demo needs the package {error.name}: pip install 'kernel_pytorch[demo]'"
            ) from error
    result: DemoResult | DecoderResult
    if decoder:
        result = generation.run(
            precision.value, seconds=20.0 if seconds is None else seconds, say=output.say
        )
    else:
        result = sentences.run(
            precision.value,
            compile=compile,
            seconds=4.0 if seconds is None else seconds,
            say=output.say,
        )
    output.out.print(result)
    if html is not None:
        output.write(html, result.to_html())
    output.finish(result.to_dict())
    missed = [p for p in result.promises if not p.kept]
    for promise in missed:
        output.warn(f"promised but missed: {promise.what}: {promise.value:.4g} < {promise.bound:g}")
    raise typer.Exit(int(Exit.FINDING if result.exit_code else Exit.OK))


def _walk(asked: dict[str, str], quick: bool, output: Any, html: Path | None) -> None:
    """Runs the walk through one part of the library, and exits."""
    import importlib

    from kernel_pytorch.cli.output import Progress

    if len(asked) > 1:
        raise CliError(f"{' and '.join(asked.values())}: one at a time", Exit.USAGE)
    with Progress(output, "importing PyTorch"):
        try:
            module = importlib.import_module(f"kernel_pytorch.demos.{next(iter(asked))}")
        except ModuleNotFoundError as error:
            if error.name == "torch":
                raise
            raise CliError(
                f"the demo needs the package {error.name}: pip install 'kernel_pytorch[demo]'"
            ) from error
    result = module.run(quick=quick, say=output.say)
    output.out.print(result)
    if html is not None:
        output.write(html, result.to_html())
    output.finish(result.to_dict())
    for check in result.checks:
        if not check.kept:
            bound = f"{'<=' if check.at_most else '>='} {check.bound:g}"
            output.warn(f"not as it must be: {check.what}: {check.value:.4g}, bound {bound}")
    raise typer.Exit(int(Exit.FINDING if result.exit_code else Exit.OK))
