"""A function of tensors as one CUDA graph: its hundred small kernels are launched as one, without Python between them.

    captured = Captured(device)
    output = captured(function, a, b)          # on the CPU just function(a, b)

It must be the same function at every call, change nothing but tensors in place (parameters, their gradients, an
optimizer with `capturable=True`), and wait for nothing on the host. Shapes are those of the call that was captured;
a call with others is made as it comes.
"""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3
"""Calls that are made as they come before the capture, on a stream of their own, as torch asks for: what is allocated
once, such as an optimizer's state, must be there by then."""


class CudaGraph:
    """Calls a function on the CPU; on a CUDA device captures it once and replays it from then on.

    It holds no reference to the function: a method's owner that holds its `Captured` is still freed at once.

    Args:
        device: where the function's tensors lie.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: tuple[Tensor, ...] = ()
        self.output = torch.empty(0)

    def __call__(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return the function's output, which is the caller's own; its inputs may lie on the host."""
        if self.device.type != "cuda":
            return function(*inputs)
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._aside(function, inputs)
        if self.graph is None:
            self._capture(function, inputs)
        if any(static.shape != given.shape for static, given in zip(self.inputs, inputs, strict=True)):
            return function(*(given.to(self.device) for given in inputs))
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given, non_blocking=True)
        assert self.graph is not None
        self.graph.replay()
        return self.output.clone()

    def _aside(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        """Call the function on a side stream: every call of the warm-up is one that counts."""
        aside, main = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            output = function(*(given.to(self.device) for given in inputs))
        main.wait_stream(aside)
        return output

    def _capture(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        """Record the function's kernels; none of them runs."""
        self.inputs = tuple(torch.empty_like(given, device=self.device) for given in inputs)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = function(*self.inputs)
