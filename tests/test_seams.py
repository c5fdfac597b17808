"""Each extension point with a minimal extension: sampler, head, sink, executor, algorithm, reader of runs."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import cartpole
from torch import Tensor, nn

from q2pi.algorithms import dqn, registry
from q2pi.buffers.samplers import Batch, Sampler, UniformSampler
from q2pi.config import ResolvedConfig, RunConfig, resolve
from q2pi.equations import losses
from q2pi.networks.value import QNetwork
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.training.events import Event, Progress, Started


class Newest(UniformSampler):
    """Samples the newest slots with weight 1/2 for each transition."""

    lookahead = 1

    def __init__(self, replay: Any) -> None:
        super().__init__(replay)
        self.recent: list[int] = []
        self.priorities: dict[int, float] = {}

    def added(self, indices: Any) -> None:
        self.recent = [*self.recent, *indices.tolist()][-64:]

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[Any, Any]:
        slots = np.array([slot for slot in self.recent if self.replay.can_sample(np.array([slot]))[0]])
        return rng.choice(slots, batch_size), np.full(batch_size, 0.5, np.float32)

    def update_priorities(self, indices: Any, td_errors: Tensor) -> None:
        self.priorities |= dict(zip(indices.tolist(), td_errors.abs().tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        return {"recent": np.array(self.recent, np.int64)}

    def load(self, state: Mapping[str, Any]) -> None:
        self.recent = state["recent"].tolist()


class WithSampler(dqn.Agent):
    def build_sampler(self) -> Sampler:
        return Newest(self.replay)


class TwoHeads(nn.Module):
    """Q as the mean of two heads: `forward` returns [B, 2, A] for the loss, not Q [B, A]."""

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network, self.second = network, nn.Linear(network.torso.features, network.head.out_features)

    def forward(self, observation: Tensor) -> Tensor:
        features = self.network.torso(observation)
        return torch.stack([self.network.head(features), self.second(features)], dim=1)

    def q_values(self, observation: Tensor) -> Tensor:
        return self(observation).mean(dim=1)


class WithHead(dqn.Agent):
    def build_network(self) -> Any:
        return TwoHeads(super().build_network())

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            value = self.target(batch.next_observation).mean(dim=1).amax(dim=1)
        target = batch.reward + batch.discount * value
        errors = [losses.td_errors(q, batch.action, target) for q in self.online(batch.observation).unbind(dim=1)]
        loss = sum(losses.weighted_mean(losses.huber(error), batch.weight) for error in errors)
        assert isinstance(loss, Tensor)
        return loss, errors[0].detach(), {"loss": loss.detach()}


class Logger:
    """A sink."""

    def __init__(self) -> None:
        self.agent: Any = None
        self.rows: list[dict[str, float]] = []
        self.closed = False

    def write(self, event: Event) -> None:
        if isinstance(event, Started):
            self.agent = event.agent
        if isinstance(event, Progress):
            self.rows.append(event.metrics)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def small(**changes: Any) -> ResolvedConfig[Any]:
    return resolve(cartpole(**changes))


def train_with(agent: type, monkeypatch: pytest.MonkeyPatch, path: Path | None = None) -> Logger:
    monkeypatch.setattr(dqn, "Agent", agent)
    logger = Logger()
    execute(small(), path, sinks=[logger])
    return logger


def test_a_sampler_is_one_class(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    logger = train_with(WithSampler, monkeypatch, tmp_path / "run")
    sampler = logger.agent.sampler
    assert isinstance(sampler, Newest)
    assert sampler.priorities, "the sampler received TD errors"
    assert set(sampler.priorities) <= set(range(len(logger.agent.replay.age)))
    assert all(np.isfinite(list(sampler.priorities.values())))
    assert logger.agent.state()["sampler"]["recent"].tolist() == sampler.recent


def test_a_head_is_a_network_and_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = train_with(WithHead, monkeypatch)
    assert isinstance(logger.agent.online, TwoHeads)
    assert logger.rows[-1]["updates"] > 0
    assert len(logger.agent.predict(np.zeros((3, 4), np.float32))[0]) == 3


def test_a_logger_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = train_with(dqn.Agent, monkeypatch)
    assert "loss" in logger.rows[-1]
    assert logger.closed


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnConfig(dqn.Config):
    """Hyperparameters of a new algorithm."""

    scale: float = 2.0
    """Factor of the loss."""


class Scaled(dqn.Agent):
    config: OwnConfig

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        loss, td_error, scalars = super().loss(batch)
        return self.config.scale * loss, td_error, scalars


def test_an_algorithm_is_one_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = type("module", (), {"Config": OwnConfig, "Agent": Scaled})
    find: Callable[[str], Any] = registry.find
    monkeypatch.setattr(registry, "find", lambda name: module if name == "scaled" else find(name))
    base = small()
    own = {entry.name: getattr(base.hyper, entry.name) for entry in dataclasses.fields(base.hyper)}
    config = resolve(RunConfig(**{**vars(base), "algorithm": "scaled", "hyper": OwnConfig(**own)}))
    last = execute(config, tmp_path / "run")
    assert last is not None
    assert last.step == config.total_timesteps


def test_a_run_folder_is_read_line_by_line(tmp_path: Path) -> None:
    """A reader follows a live run: it reads the rows since its last read."""
    execute(small(), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    rows, offset = folder.tail()
    assert {row["kind"] for row in rows} >= {"train", "episode"}
    assert folder.tail(offset) == ([], offset)


def test_an_executor_is_one_class(tmp_path: Path) -> None:
    """An executor that runs jobs in this process needs only `run`."""
    from importlib import import_module

    from q2pi.config import to_table
    from q2pi.parallel.executor import Executor, Job, JobStatus

    class InThisProcess:
        def run(self, jobs: Iterable[Job], stop: Callable[[], bool] = lambda: False) -> Iterator[JobStatus]:
            for job in jobs:
                module, _, name = job.task.partition(":")
                messages: list[dict[str, Any]] = []
                message = getattr(import_module(module), name)(job.arguments, messages.append, stop)
                yield from (JobStatus(job, "running", message=one) for one in messages)
                yield JobStatus(job, "stopped" if message.get("stopped") else "finished", message=message)

    executor: Executor = InThisProcess()
    arguments = {"path": str(tmp_path / "run"), "config": to_table(small())}
    statuses = list(executor.run([Job("one", "q2pi.runs.execute:execute_job", arguments)]))
    assert statuses[-1].state == "finished"
    assert statuses[-1].message["step"] == small().total_timesteps
