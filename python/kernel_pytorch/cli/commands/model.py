"""``kpt plan`` and ``kpt optimize``: a model from local files."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernel_pytorch.cli.command import Json
from kernel_pytorch.cli.exits import CliError, Exit
from kernel_pytorch.cli.precision import Precision

if TYPE_CHECKING:
    from torch import nn

    from kernel_pytorch.cli.output import Output

__all__ = ["optimize", "plan"]

_Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A Hugging Face folder (config.json and model.safetensors), a .safetensors file with "
        "config.json beside it, or a .pt2 file of torch.export. No code in it is run. A pickle "
        "(.pt, .pth) only with --trust-pickle.",
        show_default=False,
    ),
]
_Text = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT", help="Example text, through the folder's tokenizer; repeat for a batch."
    ),
]
_Tokens = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Cut and pad the texts to so many tokens.")
]
_Input = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=DTYPE[SHAPE]",
        help="Example input as a description: input_ids=int64[2,16]:0..30522 is random below "
        "30522, attention_mask=int64[2,16]:1 is all 1, float32[8,512] is positional and normal. "
        "Repeat for more.",
    ),
]
_Inputs = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Example inputs by name: a .safetensors file.")
]
_Precision = Annotated[Precision, typer.Option(help="How exact the optimized model is to be.")]
_MaxError = Annotated[
    float | None,
    typer.Option(
        min=0.0, metavar="X", help="Bound on the relative error of outputs (default: by precision)."
    ),
]
_Html = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the report as a page here.")
]

_Trust = Annotated[
    bool,
    typer.Option(
        "--trust-pickle", help="Read a pickled model, which runs any code that is in the file."
    ),
]

_SIZES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def plan(
    model: _Model,
    text: _Text = None,
    tokens: _Tokens = None,
    input: _Input = None,
    inputs: _Inputs = None,
    precision: _Precision = Precision.KEEP,
    max_error: _MaxError = None,
    trust_pickle: _Trust = False,
    json: Json = None,
    html: _Html = None,
) -> None:
    """Shows what `kpt optimize` would replace in a model, and what that would bring; changes
    nothing.

    Give example inputs as in real use: what wins depends on their shapes. A .pt2 file has its own.
    """
    from kernel_pytorch.cli.output import Output

    output = Output(json, html=html)
    loaded, example = _load(output, model, text, tokens, input, inputs, trust_pickle)
    import kernel_pytorch

    with _refusals():
        report = kernel_pytorch.plan(
            loaded, example, precision=precision.value, max_error=max_error, progress=True
        )
    output.out.print(report)
    if html is not None:
        output.write(html, report.to_html())
    output.finish(report.to_dict())


def optimize(
    model: _Model,
    to: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="New or empty folder for model.safetensors, config.json and kpt.json.",
            show_default=False,
        ),
    ],
    text: _Text = None,
    tokens: _Tokens = None,
    input: _Input = None,
    inputs: _Inputs = None,
    precision: _Precision = Precision.KEEP,
    max_error: _MaxError = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Fail rather than use an operator that has no kernel here."),
    ] = False,
    time_budget: Annotated[
        float | None, typer.Option(min=0.0, metavar="SECONDS", help="To spend about, on measuring.")
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="For packed weights beside the originals, as in 500M."),
    ] = None,
    trust_pickle: _Trust = False,
    json: Json = None,
    html: _Html = None,
) -> None:
    """Replaces parts of a model by kernels where that wins on the example inputs, and writes it.

    Every replacement is measured against the original; what is not faster beyond noise, or less
    exact than --max-error, stays as it was. The folder holds the original weights, which any tool
    reads, and kpt.json with what was decided: kernel_pytorch.optimize.saving.load_optimized makes
    the optimized model of it. It appears whole or not at all.
    """
    from kernel_pytorch.cli.output import Output

    output = Output(json, html=html)
    memory = None if max_memory is None else _bytes(max_memory)
    # What cannot be written is better known now than after minutes of measuring.
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise CliError(f"--output {to}: exists; name a new or empty folder", Exit.CANNOT_WRITE)
    with _terminable():
        loaded, example = _load(output, model, text, tokens, input, inputs, trust_pickle)
        import kernel_pytorch
        from kernel_pytorch.optimize.saving import save_optimized

        with _refusals():
            kernel_pytorch.optimize(
                loaded,
                example,
                precision=precision.value,
                max_error=max_error,
                strict=strict,
                time_budget=time_budget,
                max_memory=memory,
                progress=True,
            )
        report = kernel_pytorch.report(loaded)
        output.out.print(report)
        try:
            save_optimized(
                loaded, to, source=model.parent if model.suffix == ".safetensors" else model
            )
        except FileExistsError as error:  # someone else was quicker
            raise CliError(str(error), Exit.CANNOT_WRITE) from error
    output.say(f"wrote {to}")
    if not report.kept:
        output.warn("nothing won on these inputs: the folder holds the model as it was")
    if html is not None:
        output.write(html, report.to_html())
    output.finish(report.to_dict() | {"output": str(to)})


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|[KMG]I?)B?", text.strip().upper())
    if match is None:
        raise CliError(f"--max-memory {text}: expected a size as 500M or 2GiB", Exit.USAGE)
    return int(float(match[1]) * _SIZES[match[2]])


def _load(
    output: Output,
    path: Path,
    texts: list[str] | None,
    tokens: int | None,
    descriptions: list[str] | None,
    file: Path | None,
    trust_pickle: bool,
) -> tuple[nn.Module, Any]:
    """The model and its example inputs, on which it was run once."""
    from kernel_pytorch.cli.output import Progress

    if sum(bool(given) for given in (texts, descriptions, file)) > 1:
        raise CliError("--text, --input and --inputs exclude each other", Exit.USAGE)
    if tokens is not None and not texts:
        raise CliError("--tokens goes with --text", Exit.USAGE)
    with Progress(output, f"loading {path}") as progress:
        from kernel_pytorch.cli import inputs
        from kernel_pytorch.optimize.capture import Inputs
        from kernel_pytorch.optimize.loading import exported_file, load_model

        model = load_model(path, trust_pickle=trust_pickle)
        if texts:
            example: Any = inputs.from_text(
                path if path.is_dir() else path.parent, texts, tokens, model
            )
        elif descriptions:
            example = inputs.described(descriptions, model)
        elif file is not None:
            example = inputs.from_file(file)
        else:
            exported = exported_file(path)
            example = None if exported is None else inputs.of_export(exported)
        if example is None:
            raise CliError(
                f"{path}: give example inputs as in real use, for example\n"
                f"  {inputs.suggestion(path, model)}",
                Exit.USAGE,
            )
        progress.say("running the model on the example inputs")
        try:
            Inputs.of(example).run(model)
        except Exception as error:  # the model's own code: any kind
            if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
                raise
            lines = str(error).strip().splitlines()
            raise CliError(
                f"the model cannot run the example inputs {inputs.shown(example)}: "
                f"{type(error).__name__}: {lines[0] if lines else ''}",
                Exit.USAGE,
            ) from error
    return model, example


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """What the library refuses of a model that runs is about the model or the options."""
    try:
        yield
    except (TypeError, ValueError) as error:
        from kernel_pytorch.core.errors import KernelPyTorchError

        if isinstance(error, KernelPyTorchError):
            raise
        raise CliError(str(error), Exit.UNAVAILABLE) from error


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Within the block, SIGTERM (as of a batch system) unwinds like Ctrl-C: nothing is left half
    written."""

    def stop(*_: Any) -> None:
        sys.exit(int(Exit.TERMINATED))

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
