"""A function of tensors as one CUDA graph: one launch for all its kernels, without Python overhead in between.

    graph = CudaGraph(device)
    output = graph.wrap(function)(a, b)     # on the CPU, `wrap` returns the function itself

Pass the same function each time. It may only modify tensors in place (parameters, their gradients, an optimizer with
`capturable=True`) and must not sync with the host. Inputs of another shape run eagerly. Inputs and outputs are tensors,
or dicts, tuples and named tuples of tensors; other values in an input keep their value at the capture.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

WARM_UP = 3
"""Number of eager calls on a side stream before the capture, as torch requires: lazily allocated tensors, such as an
optimizer's state, must exist before it."""
Function = TypeVar("Function", bound=Callable[..., Any])


class CudaGraph:
    """Captures a function once on a CUDA device and replays it from then on.

    It keeps no reference to the function: an agent whose method is graphed would form a reference cycle with it.

    Args:
        device: of the function's tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.inputs: tuple[Any, ...] = ()
        self.output: Any = None
        self.reset()

    def reset(self) -> None:
        """Discard the capture; call it when the function's tensors are replaced."""
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def wrap(self, function: Function) -> Function:
        """Return the function: graphed on a CUDA device, unchanged elsewhere."""
        if self.device.type != "cuda":
            return function
        graphed: Any = partial(self._call, function)
        return graphed  # type: ignore[no-any-return]

    def _call(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """Return the function's output as new tensors; inputs may be on the host."""
        self.calls += 1
        if self.calls <= WARM_UP:
            return self._on_side_stream(function, inputs)
        if self.graph is None:
            self._capture(function, inputs)
        static, new_inputs = list(_tensors(self.inputs)), list(_tensors(inputs))
        if any(old.shape != new.shape for old, new in zip(static, new_inputs, strict=True)):
            return function(*_map(lambda tensor: tensor.to(self.device), inputs))
        for old, new in zip(static, new_inputs, strict=True):
            old.copy_(new, non_blocking=True)
        assert self.graph is not None
        self.graph.replay()
        return _map(Tensor.clone, self.output)

    def _on_side_stream(self, function: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
        """Call the function eagerly on a side stream; warm-up calls have the same effects as others."""
        side, current = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            output = function(*_map(lambda tensor: tensor.to(self.device), inputs))
        current.wait_stream(side)
        return output

    def _capture(self, function: Callable[..., Any], inputs: tuple[Any, ...]) -> None:
        """Record the function's kernels without running them."""
        self.inputs = _map(lambda tensor: torch.empty_like(tensor, device=self.device), inputs)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = function(*self.inputs)


def _map(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a value with `change` applied to each tensor in it."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _map(change, item) for name, item in value.items()}
    if isinstance(value, tuple):
        items = [_map(change, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)  # a named tuple keeps its names
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value, in a fixed order."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _map(keep, value)
    yield from found
