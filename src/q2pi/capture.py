"""A function of tensors as one CUDA graph: its hundred small kernels are launched as one, without Python between them.

    step = Captured(function, device)
    outputs = step(a, b)          # on the CPU just function(a, b)

The function must have static shapes, change nothing but tensors in place (parameters, their gradients, an optimizer
with `capturable=True`), and wait for nothing on the host.
"""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3
"""Calls that are made as they come before the capture, on a stream of their own, as torch asks for: what is allocated
once, such as an optimizer's state, must be there by then."""


class Captured:
    """Calls `function` on the CPU; on a CUDA device captures it once and replays it from then on.

    Args:
        function: from tensors to one tensor.
        device: where all of them lie.
    """

    def __init__(self, function: Callable[..., Tensor], device: torch.device) -> None:
        self.function, self.device = function, device
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.output = torch.empty(0)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the function's output; what it holds is the caller's own."""
        if self.device.type != "cuda":
            return self.function(*inputs)
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._aside(inputs)
        if self.graph is None:
            self._capture(inputs)
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given, non_blocking=True)
        assert self.graph is not None
        self.graph.replay()
        return self.output.clone()

    def _aside(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Call the function on a side stream: every call of the warm-up is one that counts."""
        aside, main = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            output = self.function(*inputs)
        main.wait_stream(aside)
        return output

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        """Record the function's kernels; none of them runs."""
        self.inputs = tuple(torch.empty_like(given) for given in inputs)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = self.function(*self.inputs)
