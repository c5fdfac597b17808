"""CUDA graphs: the function itself on the CPU, and capture and replay with a stand-in for torch's CUDA graphs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from q2pi.acceleration.cuda_graph import WARM_UP, CudaGraph
from q2pi.acceleration.cuda_graph import _tensors as graph_tensors
from q2pi.algorithms import dqn, pqn_laptop
from q2pi.algorithms.base import AgentSpec
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import Step
from q2pi.networks.optimizer import adjustable_learning_rate, set_learning_rate


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


class Pair(NamedTuple):
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


def test_dicts_tuples_and_named_tuples_of_tensors(cuda: StandIn) -> None:
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


# ---- what agents graph -----------------------------------------------------------------------------------------------


def on_stand_in(agent: Any, cuda: StandIn) -> None:
    """Let an agent on the CPU capture and replay its update with the stand-in; a capture changes no weight."""
    update, graph = agent.update, agent.update_graph
    graph.device = _Device()

    def recorded(batch: Any) -> Any:
        if not cuda.is_capturing:
            return update(batch)
        moments = [value for slots in agent.optimizer.state.values() for value in slots.values()]
        for static in graph_tensors(batch):
            static.zero_()  # a device would not read it now
        changed = [*agent.online.parameters(), *moments]
        before = [value.detach().clone() for value in changed]
        output = update(batch)
        with torch.no_grad():
            for value, old in zip(changed, before, strict=True):
                value.copy_(old)

        def replay() -> None:
            for old, new in zip(graph_tensors(output), graph_tensors(update(batch)), strict=True):
                old.copy_(new)

        graph.graph.replay_call = replay
        return output

    agent.update = recorded


def spec(num_envs: int) -> AgentSpec:
    return AgentSpec(
        env=EnvSpec("CartPole-v1", stack=1, clip_rewards=False, life_loss_discount=False),
        num_envs=num_envs,
        frame_space=spaces.Box(-np.inf, np.inf, (2,), np.float32),
        stack=1,
        action_space=spaces.Discrete(2),
        total_timesteps=100,
        seed=1,
        device=torch.device("cpu"),
        precision="fp32",
    )


def dqn_agent() -> Any:
    """Return an agent with 40 steps in its replay, and an update due after each agent step."""
    options = {"hidden": (3,), "buffer_size": 64, "batch_size": 4, "learning_starts": 0, "train_frequency": 1}
    rates = {"learning_rate": 0.01, "anneal_learning_rate": True, "target_network_frequency": 4}
    agent = dqn.Agent(dqn.Config(**options | rates), spec(1))  # type: ignore[arg-type]
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(41, 1, 2)).astype(np.float32)
    false = np.zeros(1, np.bool_)
    agent.begin(rows[0])
    for row in rows[1:]:
        reward = draw.normal(size=1).astype(np.float32)
        agent.observe(draw.integers(2, size=1), Step(row, row, reward, false, false, false, ()))
    return agent


def test_the_updates_of_dqn_are_the_same_captured_and_eager(cuda: StandIn) -> None:
    eager, captured = dqn_agent(), dqn_agent()
    on_stand_in(captured, cuda)
    expected = [row for step in range(1, 13) for row in eager.learn(step)]
    found = [row for step in range(1, 13) for row in captured.learn(step)]
    assert (cuda.captures, cuda.replays) == (1, 12 - WARM_UP)
    assert found == [pytest.approx(row, rel=1e-5) for row in expected]
    for one, other in zip(captured.online.parameters(), eager.online.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_loaded_agent_captures_anew(cuda: StandIn) -> None:
    """Loading replaces the optimizer's tensors: the old capture would update tensors that nobody reads."""
    agent = dqn_agent()
    on_stand_in(agent, cuda)
    agent.learn(8)
    assert agent.update_graph.graph is not None
    agent.load(agent.state())
    assert agent.update_graph.graph is None
    agent.learn(12)
    assert cuda.side_streams == 2 * WARM_UP


def test_a_captured_learning_rate_stays_in_its_tensor() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], lr=adjustable_learning_rate(0.5, _Device()))  # type: ignore[arg-type]
    rate = optimizer.param_groups[0]["lr"]
    assert isinstance(rate, Tensor)
    set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25
    assert adjustable_learning_rate(0.5, torch.device("cpu")) == 0.5


def test_the_network_that_acts_is_captured(cuda: StandIn) -> None:
    """pqn_laptop acts by its weight average; batches of another size than the environments' run eagerly."""
    agent = pqn_laptop.Agent(pqn_laptop.Config(num_steps=4, hidden=(3,)), spec(2))
    with torch.no_grad():
        agent.acting_network.head.bias.fill_(7.0)
    agent.acting_graph.device = _Device()
    observation = np.ones((2, 2), np.float32)
    expected = agent.acting_network(torch.from_numpy(observation)).detach().numpy()
    for _ in range(WARM_UP):
        np.testing.assert_allclose(agent.q_values(observation), expected)
    assert cuda.side_streams == WARM_UP
    agent.q_values(observation[:1])
    assert cuda.side_streams == WARM_UP
