"""The one training loop, for every algorithm: a generator of events.

    for event in run(config):
        ...

Whoever consumes the events prints, records, prunes or counts; the loop itself writes nothing. It pauses while an event
is handled, so a consumer may save the state that a `Checkpoint` shows before training goes on.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch
from psutil import virtual_memory  # type: ignore[import-untyped]

from q2pi.acceleration import precision
from q2pi.acceleration.allocator import keep_freed_memory
from q2pi.acceleration.device import device_of
from q2pi.algorithms import registry
from q2pi.algorithms.base import Agent
from q2pi.algorithms.registry import build_agent, restore
from q2pi.buffers.frames import settled
from q2pi.config import RunConfig, check_run
from q2pi.envs import make_envs
from q2pi.envs.spec import is_atari, resolve
from q2pi.envs.vector import VectorEnv
from q2pi.evaluation.background import Evaluator, make_evaluator
from q2pi.training.events import (
    Checkpoint,
    Diverged,
    EpisodeEnded,
    Evaluated,
    Event,
    Finished,
    Interrupted,
    Progress,
    Started,
)
from q2pi.types import Metrics, State

DEFAULT_THREADS = torch.get_num_threads()
"""What `threads = 0` means in this process: one per core, or what its environment says."""


class Clock:
    """Wall-clock seconds by part; what no part claims is "other"."""

    def __init__(self) -> None:
        self.last_read = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.total: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def read(self) -> dict[str, float]:
        """Return the seconds by part since the last read."""
        now = time.perf_counter()
        seconds = {**self.seconds, "other": now - self.last_read - sum(self.seconds.values())}
        for name, value in seconds.items():
            self.total[name] = self.total.get(name, 0.0) + value
        self.last_read, self.seconds = now, {}
        return seconds


def prepare(config: RunConfig[Any]) -> RunConfig[Any]:
    """Return `config` with its environment and its precision settled, after every bound was checked.

    Raises:
        UserError: an unknown algorithm or environment, or a value out of its bounds.
    """
    config = dataclasses.replace(config, env=resolve(config.env))
    check_run(config)
    registry.find(config.algorithm).check(config)
    return _settle(config)


def _settle(config: RunConfig[Any]) -> RunConfig[Any]:
    """Decide what is left to `auto`, by what the machine has."""
    if config.precision == "auto":
        network: Any = getattr(config.hyper, "network", "nature")
        found = precision.choice(network, device_of(config.device)) if is_atari(config.env.env_id) else "fp32"
        config = dataclasses.replace(config, precision=found)
    if getattr(config.hyper, "replay_codec", None) == "auto":
        frame = math.prod(config.env.resize or (0,)) * (1 if config.env.grayscale else 3)
        codec = settled("auto", config.hyper.buffer_size * frame, virtual_memory().total)
        config = dataclasses.replace(config, hyper=dataclasses.replace(config.hyper, replay_codec=codec))
    return config


def run(
    config: RunConfig[Any], state: State | None = None, stop: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
    """Train, from the start or from a checkpoint's state, and yield what happens.

    Args:
        config: what to train; see `prepare`.
        state: the `state` of a `Checkpoint` event of a run with the same config.
        stop: asked after each step of the games; once it says true, a checkpoint is offered and the run ends.

    Raises:
        UserError: the config is out of its bounds, or the state is another version's.
        Diverged: a loss or a Q-value is not finite any more.
    """
    config = prepare(config)
    torch.set_num_threads(config.threads or DEFAULT_THREADS)
    keep_freed_memory()
    envs = make_envs(config.env, config.num_envs, config.seed)
    try:
        agent = build_agent(config, envs)
        if state is None:
            step = 0
            agent.begin(envs.reset())
        else:
            step = state["step"]
            envs.load(state["games"])
            restore(agent, state)
        yield Started(step, config, agent)
        with closing(make_evaluator(config)) as evaluator:
            yield from _train(config, envs, agent, evaluator, step, stop)
    finally:
        envs.close()


def _train(
    config: RunConfig[Any], envs: VectorEnv, agent: Agent, evaluator: Evaluator, step: int, stop: Callable[[], bool]
) -> Iterator[Event]:
    clock, recent, owes_checkpoint = Clock(), _Means(), False
    observation = envs.observation
    while step < config.total_timesteps:
        before = step
        with clock.part("act"):
            action = agent.act(observation, step)
        with clock.part("environment"):
            envs.send(action)
        if agent.overlap:
            with clock.part("learn"):
                recent.add(agent.learn(step), step)
        with clock.part("environment"):
            result = envs.recv()
        with clock.part("observe"):
            agent.observe(action, result)
        step += config.num_envs
        if not agent.overlap:
            with clock.part("learn"):
                recent.add(agent.learn(step), step)
        observation = result.observation
        for episode in result.episodes:
            yield EpisodeEnded(step, episode)

        def due(frequency: int, before: int = before, after: int = step) -> bool:
            return frequency > 0 and before // frequency != after // frequency

        last = step >= config.total_timesteps
        evaluates = config.evaluation_episodes > 0 and (last or due(config.evaluation_frequency))
        stops = stop() and not last
        if last and agent.overlap:
            with clock.part("learn"):
                recent.add(agent.learn(step), step)
        if evaluates or evaluator.is_busy:
            with clock.part("evaluate"):
                if evaluates:
                    evaluator.start(agent, step)
                evaluations = evaluator.finished(wait=last or stops)
            for evaluation in evaluations:
                yield Evaluated(evaluation.step, evaluation)
        owes_checkpoint |= last or stops or due(config.checkpoint_frequency)
        # What an evaluation beside training will say is in no checkpoint yet: resuming from one must not lose it.
        saves = owes_checkpoint and not evaluator.is_busy
        if saves or due(config.log_frequency):
            yield Progress(step, recent.read(), clock.read())
        if saves:
            owes_checkpoint = False
            _check_finite(agent, step)
            with clock.part("checkpoint"):
                yield Checkpoint(step, {"step": step, "games": envs.state(), "agent": agent.state()})
        if stops:
            yield Interrupted(step)
            return
    clock.read()
    yield Finished(step, clock.total)


def _check_finite(agent: Agent, step: int) -> None:
    """Keep a broken network out of the checkpoints: an update can spoil it before the next one's loss shows it."""
    for name, network in agent.networks().items():
        if not all(parameter.isfinite().all() for parameter in network.parameters()):
            raise Diverged(f"a weight of network {name!r} is not finite after {step} agent steps")


class _Means:
    """Running means of an algorithm's scalars between two events, and the guard against divergence."""

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
