"""Blocks of a model's residual stream, which may leave it in the dtype they compute in."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kernel_pytorch.optimize.replacement import Replacement

__all__ = ["StreamBlock"]


class StreamBlock(Replacement):
    """Takes and gives the stream ``[batch, tokens, width]`` as its first argument and only output.

    With ``streams`` the output keeps the compute dtype: its only consumer is another such block.
    """

    def __init__(
        self,
        module: nn.Module,
        steps: dict[str, nn.Module],
        model_dtype: torch.dtype,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(module, steps, list(module.modules()))
        self.model_dtype = model_dtype
        self.dtype = dtype
        self.streams = False

    def refuse_stream(self, hidden: Any) -> str:
        """Why ``hidden`` is not a stream that the block can take; "" when it is."""
        if not isinstance(hidden, torch.Tensor) or hidden.is_nested or hidden.dim() != 3:
            return "the input is not a dense tensor [batch, tokens, width]"
        if hidden.device.type != "cpu":
            return f"the input is on {hidden.device}"
        if hidden.dtype is not self.model_dtype and hidden.dtype is not self.dtype:
            return f"the input is {hidden.dtype}, the block was optimized for {self.model_dtype}"
        return ""

    def start(self, hidden: torch.Tensor) -> torch.Tensor:
        """The stream in the compute dtype."""
        return hidden if hidden.dtype is self.dtype else hidden.to(self.dtype)

    def finish(self, hidden: torch.Tensor) -> torch.Tensor:
        """The stream as its consumer wants it."""
        # A hook on this module sees what it would have seen.
        if hidden.dtype is self.model_dtype or (self.streams and not self.module._forward_hooks):
            return hidden
        return hidden.to(self.model_dtype)

    def run_original(self, *args: Any, **kwargs: Any) -> Any:
        # The block before this one may have left the stream in the compute dtype.
        hidden = args[0] if args else next(iter(kwargs.values()))
        if isinstance(hidden, torch.Tensor) and hidden.dtype is not self.model_dtype and args:
            args = (hidden.to(self.model_dtype), *args[1:])
        return super().run_original(*args, **kwargs)
