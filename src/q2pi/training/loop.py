"""The one training loop, for every algorithm: a generator of events.

    for event in run(config):
        for sink in sinks:
            sink.write(event)

The loop prints and writes nothing itself. It pauses while an event is handled, so a sink may save the state of a
`Checkpoint` before training continues.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from q2pi.acceleration.allocator import keep_freed_memory
from q2pi.algorithms.base import Agent
from q2pi.config import ResolvedConfig
from q2pi.envs.errors import EnvError
from q2pi.evaluation.background import Evaluator, make_evaluator
from q2pi.training.events import (
    Checkpoint,
    Diverged,
    EpisodeEnded,
    Evaluated,
    Event,
    Finished,
    Interrupted,
    Notice,
    Progress,
    Started,
)
from q2pi.training.source import Environments, Source
from q2pi.types import Metrics, State

LARGE_REWARD = 1e6
"""Rewards beyond this are named if training diverges: in float32, the square of 2e19 is infinite."""


def run(
    config: ResolvedConfig[Any],
    state: State | None = None,
    stop: Callable[[], bool] = lambda: False,
    weights: State | None = None,
    source: Source | None = None,
) -> Generator[Event, None, None]:
    """Train, from the start or from a checkpoint's state, and yield events.

    Args:
        config: the run's configuration.
        state: the `state` of a `Checkpoint` event of a run with the same config.
        stop: polled after each step of the environments; once it returns True, the run ends with a checkpoint.
        weights: state of the agent of the run in `config.from_run`; a new run starts from its weights.
        source: of the steps; by default environments in this process.

    Raises:
        UserError: the algorithm does not support the environment, or another version wrote the state.
        EnvError: an environment failed; a `Checkpoint` of the last complete step came just before.
        Diverged: a loss, a value or a weight is not finite, in training or in an evaluation.
    """
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    source = source or Environments(config)
    evaluator = make_evaluator(config)
    try:
        agent, step, notice = source.start(state, weights)
        yield Started(step, config, agent)
        if notice:
            yield Notice(step, f"{config.env.env_id} {notice}")
        report = _Report(config, agent, source, evaluator)
        clock, means = report.clock, report.means
        try:
            while step < config.total_timesteps:
                clock.lap("other")
                _act(source.act, agent, step)
                clock.lap("act")
                source.send()
                clock.lap("environment")
                if agent.overlap:
                    means.add(agent.learn(step), step)
                    clock.lap("learn")
                action, result = source.recv()
                clock.lap("environment")
                agent.observe(action, result)
                clock.lap("observe")
                previous_step, step = step, step + config.num_envs
                is_last = step >= config.total_timesteps
                if is_last and agent.overlap:
                    _act(source.finish, agent, step)
                    clock.lap("act")
                if is_last or not agent.overlap:
                    means.add(agent.learn(step), step)
                    clock.lap("learn")
                for episode in result.episodes:
                    yield EpisodeEnded(step, episode)
                stops = stop() and not is_last
                yield from report.after_step(previous_step, step, stops)
                if stops:
                    yield Interrupted(step)
                    return
        except EnvError:
            yield from report.after_failure(step)
            raise
        clock.read()
        yield Finished(step, clock.total)
    except Diverged as problem:
        if source.largest_reward > LARGE_REWARD:
            flags = " or ".join(["--clip-rewards", *config.hyper.REWARD_OPTIONS])
            problem.advice = f"rewards are as large as {source.largest_reward:g}: try {flags}, or scale them"
        raise
    finally:
        evaluator.close()
        source.close()


def _act(choose: Callable[[Agent, int], None], agent: Agent, step: int) -> None:
    """Choose the next actions; raise `Diverged` if one is NaN, before the environment is blamed for it."""
    try:
        choose(agent, step)
    except FloatingPointError as problem:
        raise Diverged(f"{problem} after {step} agent steps") from problem


class _Report:
    """Evaluations, rows of metrics and checkpoints: the events that are due after a step."""

    def __init__(self, config: ResolvedConfig[Any], agent: Agent, source: Source, evaluator: Evaluator) -> None:
        self.config, self.agent, self.source, self.evaluator = config, agent, source, evaluator
        self.clock, self.means, self.checkpoint_due = Clock(), _Means(), False

    def after_step(self, previous_step: int, step: int, stops: bool) -> Iterator[Event]:
        """Yield the events that are due after agent step `step`; all of them if it is the last or the run stops."""
        config, evaluator = self.config, self.evaluator
        is_last = step >= config.total_timesteps
        if config.evaluation_episodes > 0 and (is_last or _due(config.evaluation_frequency, previous_step, step)):
            _check_finite(self.agent, step)  # a network with NaN weights may act: its score would be recorded
            self.clock.lap("other")
            with _diverges():
                # If updates overlap with the emulators, those due by now are made during the next step.
                evaluator.start(self.agent, step if is_last or not self.agent.overlap else previous_step)
            self.clock.lap("evaluate")
        if evaluator.is_busy:
            yield from self._evaluated(wait=is_last or stops)
        self.checkpoint_due |= is_last or stops or _due(config.checkpoint_frequency, previous_step, step)
        # A checkpoint does not contain pending evaluations; saving now would lose their scores on resume.
        saves = self.checkpoint_due and not evaluator.is_busy
        if saves or _due(config.log_frequency, previous_step, step):
            yield Progress(step, self.means.read(), self.clock.read())
        if saves:
            self.checkpoint_due = False
            yield from self._checkpoint(step)

    def after_failure(self, step: int) -> Iterator[Event]:
        """Yield a checkpoint of the last complete step; the agent has not observed the step that failed."""
        yield from self._evaluated(wait=True)
        yield Progress(step, self.means.read(), self.clock.read())
        yield from self._checkpoint(step)

    def _evaluated(self, wait: bool) -> Iterator[Event]:
        self.clock.lap("other")
        with _diverges():
            evaluations = self.evaluator.finished(wait=wait)
        self.clock.lap("evaluate")
        for evaluation in evaluations:
            yield Evaluated(evaluation.step, evaluation)

    def _checkpoint(self, step: int) -> Iterator[Event]:
        _check_finite(self.agent, step)
        self.clock.lap("other")
        yield Checkpoint(step, {"step": step, **self.source.state(), "agent": self.agent.state()})
        self.clock.lap("checkpoint")


def _due(frequency: int, previous_step: int, step: int) -> bool:
    """Return whether a multiple of `frequency` was reached or passed after `previous_step`; never if it is 0."""
    return frequency > 0 and previous_step // frequency != step // frequency


class Clock:
    """Wall-clock seconds by part of the loop."""

    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.total: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Add the time since the last lap to a part."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    def read(self) -> dict[str, float]:
        """Return the seconds by part since the last read."""
        self.lap("other")
        seconds, self.seconds = self.seconds, {}
        for name, value in seconds.items():
            self.total[name] = self.total.get(name, 0.0) + value
        return seconds


def _check_finite(agent: Agent, step: int) -> None:
    """Raise `Diverged` if a weight is not finite: an update can break a network before the next loss shows it."""
    for name, network in agent.networks().items():
        if not all(parameter.isfinite().all() for parameter in network.parameters()):
            raise Diverged(f"a weight of network {name!r} is not finite after {step} agent steps")


@contextmanager
def _diverges() -> Iterator[None]:
    """Raise `Diverged` if an evaluation meets NaN."""
    try:
        yield
    except FloatingPointError as problem:
        raise Diverged(str(problem)) from problem


class _Means:
    """Means of an algorithm's scalars between two `Progress` events; raises `Diverged` if one is not finite."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.updates = 0

    def add(self, rows: list[Metrics], step: int) -> None:
        for row in rows:
            for name, value in row.items():
                if not math.isfinite(value):
                    raise Diverged(f"{name} is {value} after {step} agent steps")
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.updates += len(rows)

    def read(self) -> dict[str, float]:
        means = {name: total / self.updates for name, total in self.sums.items()}
        means["updates"] = self.updates
        self.sums, self.updates = {}, 0
        return means
