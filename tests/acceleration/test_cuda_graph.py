"""CUDA graphs: the function itself on the CPU, and capture and replay with a stand-in for torch's CUDA graphs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from q2pi.acceleration.cuda_graph import WARM_UP, CudaGraph


def test_on_the_cpu_wrap_returns_the_function() -> None:
    calls = []

    def function(a: Tensor, b: Tensor) -> Tensor:
        calls.append((a, b))
        return a + b

    graph = CudaGraph(torch.device("cpu"))
    assert graph.wrap(function) is function
    for number in range(WARM_UP + 2):
        assert graph.wrap(function)(torch.tensor(number), torch.tensor(1)).item() == number + 1
    assert len(calls) == WARM_UP + 2
    assert graph.graph is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replayed_update_equals_an_eager_one() -> None:
    def trained(captures: bool) -> list[float]:
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 1).cuda()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=True, capturable=True)

        def update(rows: Tensor) -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            loss = network(rows).square().mean()
            loss.backward()
            optimizer.step()
            return loss.detach()

        graphed = CudaGraph(torch.device("cuda")).wrap(update)
        rows = torch.randn(20, 8, 3, generator=torch.Generator().manual_seed(1)).cuda()
        return [(graphed(row) if captures else update(row)).item() for row in rows]

    assert trained(True) == pytest.approx(trained(False), rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_inputs_may_be_on_the_host_and_have_another_shape() -> None:
    graph = CudaGraph(torch.device("cuda"))
    for rows in (5, 5, 5, 5, 5, 2, 5):
        given = torch.randn(rows, 3)
        torch.testing.assert_close(graph.wrap(torch.square)(given).cpu(), given.square())
    assert graph.graph is not None


# ---- a stand-in for torch.cuda: a replay calls the function on its static inputs again -------------------------


class StandIn:
    """Streams and graphs without a device.

    A real capture records kernels without running them. This one runs the function; a replay runs it again on the
    static inputs and copies the result into the static output, as the kernels of a real graph do.
    """

    def __init__(self) -> None:
        self.captures, self.replays, self.side_streams = 0, 0, 0
        self.is_capturing = False
        self.log: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stand_in = self

        class Stream:
            def __init__(self, device: Any = None) -> None:
                pass

            def wait_stream(self, other: Any) -> None:
                stand_in.log.append("wait")

        class CUDAGraph:
            def __init__(self) -> None:
                self.replay_call: Callable[[], None] = lambda: None

            def replay(self) -> None:
                stand_in.replays += 1
                self.replay_call()

        @contextmanager
        def stream(side: Any) -> Iterator[None]:
            stand_in.side_streams += 1
            stand_in.log.append("side stream")
            yield

        @contextmanager
        def graph(captured: Any) -> Iterator[None]:
            stand_in.captures += 1
            stand_in.is_capturing = True
            yield
            stand_in.is_capturing = False

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch.cuda, "graph", graph)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    stand_in.install(monkeypatch)
    return stand_in


@dataclass(frozen=True)
class Pair:
    first: Tensor
    second: dict[str, Tensor]
    label: str


class Doubling:
    """Doubles a tensor or the tensors of a `Pair`; on the stand-in device, a replay overwrites the static output."""

    def __init__(self, cuda: StandIn) -> None:
        self.cuda, self.calls = cuda, 0
        self.graph = CudaGraph(torch.device("cpu"))
        self.graph.device = _Device()  # type: ignore[assignment]

    def __call__(self, value: Any) -> Any:
        self.calls += 1
        result = self._double(value)
        if self.cuda.is_capturing:
            assert self.graph.graph is not None
            self.graph.graph.replay_call = lambda: self._rewrite(value, result)  # type: ignore[attr-defined]
        return result

    def _rewrite(self, value: Any, result: Any) -> None:
        for old, new in zip(tensors(result), tensors(self._double(value)), strict=True):
            old.copy_(new)

    def _double(self, value: Any) -> Any:
        if isinstance(value, Pair):
            return (Pair(2 * value.first, {name: 2 * item for name, item in value.second.items()}, value.label), 3)
        return 2 * value


class _Device(str):
    """The CPU with the device type that `wrap` checks."""

    type = "cuda"

    def __new__(cls) -> "_Device":
        return super().__new__(cls, "cpu")


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors of a result of `Doubling`, in order."""
    if isinstance(value, Tensor):
        return [value]
    pair = value[0] if isinstance(value, tuple) else value
    return [pair.first, *pair.second.values()]


def test_warm_up_calls_run_on_a_side_stream_and_the_next_is_captured_once(cuda: StandIn) -> None:
    function = Doubling(cuda)
    results = [function.graph.wrap(function)(torch.tensor([float(n)])).item() for n in range(WARM_UP + 4)]
    assert results == [2.0 * n for n in range(WARM_UP + 4)]
    assert (cuda.side_streams, cuda.captures, cuda.replays) == (WARM_UP, 1, 4)
    assert cuda.log == ["wait", "side stream", "wait"] * WARM_UP
    assert function.calls == WARM_UP + 1, "the capture calls the function once, a replay never"


def test_each_call_overwrites_the_same_static_inputs(cuda: StandIn) -> None:
    function = Doubling(cuda)
    graphed = function.graph.wrap(function)
    for _ in range(WARM_UP):
        graphed(torch.ones(2))
    given = torch.tensor([3.0, 4.0])
    graphed(given)
    (static,) = function.graph.inputs
    assert static is not given
    graphed(torch.tensor([5.0, 6.0]))
    assert function.graph.inputs[0] is static
    assert static.tolist() == [5, 6]
    assert given.tolist() == [3, 4]


def test_outputs_are_copies(cuda: StandIn) -> None:
    function = Doubling(cuda)
    graphed = function.graph.wrap(function)
    first, second = [graphed(torch.full((2,), float(n))) for n in range(WARM_UP + 2)][-2:]
    assert first.tolist() == [2.0 * WARM_UP] * 2, "the next replay did not overwrite it"
    second.zero_()
    assert function.graph.output.tolist() == [2.0 * (WARM_UP + 1)] * 2


def test_another_shape_runs_eagerly_and_keeps_the_capture(cuda: StandIn) -> None:
    function = Doubling(cuda)
    graphed = function.graph.wrap(function)
    for _ in range(WARM_UP + 1):
        graphed(torch.ones(2))
    calls = function.calls
    assert graphed(torch.tensor([1.0, 2.0, 3.0])).tolist() == [2, 4, 6]
    assert (function.calls, cuda.captures, cuda.replays) == (calls + 1, 1, 1)
    assert graphed(torch.tensor([7.0, 8.0])).tolist() == [14, 16]
    assert (function.calls, cuda.captures, cuda.replays) == (calls + 1, 1, 2)


def test_dataclasses_dicts_and_tuples_of_tensors(cuda: StandIn) -> None:
    function = Doubling(cuda)
    graphed = function.graph.wrap(function)
    for n in range(WARM_UP + 3):
        pair, number = graphed(Pair(torch.tensor([float(n)]), {"a": torch.tensor(n), "b": torch.ones(2)}, f"call {n}"))
        assert isinstance(pair, Pair)
        assert (pair.first.item(), pair.second["a"].item(), pair.second["b"].tolist(), number) == (
            2 * n,
            2 * n,
            [2, 2],
            3,
        )
    assert pair.label == f"call {WARM_UP}", "other values keep their value at the capture"
    assert cuda.replays == 3


def test_a_reset_warms_up_and_captures_again(cuda: StandIn) -> None:
    function = Doubling(cuda)
    graphed = function.graph.wrap(function)
    for _ in range(WARM_UP + 1):
        graphed(torch.ones(2))
    function.graph.reset()
    assert function.graph.graph is None
    for _ in range(WARM_UP + 1):
        assert graphed(torch.ones(3)).tolist() == [2, 2, 2]
    assert (cuda.side_streams, cuda.captures, cuda.replays) == (2 * WARM_UP, 2, 2)
