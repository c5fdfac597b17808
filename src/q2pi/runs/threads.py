"""The number of CPU threads of a run that does not name one, chosen before the run and stored in its configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from q2pi.acceleration.device import device_of
from q2pi.acceleration.precision import Precision, gradient_seconds
from q2pi.acceleration.threads import MIN_SPEEDUP, counts, fastest, one_per_core, time_threads
from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.build import agent_spec
from q2pi.config import RunConfig, draft
from q2pi.envs.make import make_envs
from q2pi.networks.initialisation import seeded
from q2pi.networks.value import QNetwork
from q2pi.runs.cpu_usage import CpuMeter, CpuUsage

UNITS, ACTIONS = (512,), 6
MAX_BATCH = 64
"""Largest batch of the timed gradient: larger ones gain as much from threads, and take seconds on busy cores."""


@dataclass(frozen=True)
class ThreadChoice:
    """Number of CPU threads of torch for a run."""

    threads: int
    reason: str
    """Why, in words; "" if the configuration names the number."""

    def __str__(self) -> str:
        return f"{self.threads}{self.reason}"


def choose_threads(config: RunConfig[Any], is_timed: bool = True) -> ThreadChoice:
    """Return the number of threads of a run: that of its configuration, or for 0 the fastest at this moment.

    Networks without images use one. For images, a gradient of the run's torso on its batch is timed.

    Args:
        config: of the run; it need not be resolved.
        is_timed: whether to time; else the number is that of `config.resolve`.

    Raises:
        UserError: the configuration is not valid, or the algorithm does not support the environment.
    """
    if config.threads:
        return ThreadChoice(config.threads, "")
    cores = one_per_core()
    if cores == 1:
        return ThreadChoice(1, " of 1 core")
    run = draft(config)  # precision is timed after the number of threads, with that number
    if not is_timed:
        return ThreadChoice(run.threads, f" of {cores} cores: not timed (--no-estimate)")
    envs = make_envs(run.env, 1, run.seed)
    spec = agent_spec(run, envs)
    envs.close()
    if not spec.layout.images:
        return ThreadChoice(1, f" of {cores} cores: without images one is as fast as more")
    run.hyper.check_spaces(spec)
    if device_of(run.device).type != "cpu":
        return ThreadChoice(cores, f" of {cores} cores: not timed, the networks compute on the GPU")
    batch = min(MAX_BATCH, run.hyper.gradient_batch(run.num_envs))
    meter = CpuMeter()
    seconds = time_threads(_gradient(spec, run.hyper.image_network, batch, run.precision), counts(cores))
    return chosen(seconds, meter.read(), cores)


def chosen(seconds: Mapping[int, float], usage: CpuUsage, cores: int) -> ThreadChoice:
    """Return the choice that follows from timings, with its reason.

    Args:
        seconds: number of threads -> seconds of a gradient.
        usage: CPU usage during the timing.
        cores: number of threads that are one per core.
    """
    threads = fastest(seconds)
    if threads > 1:
        return ThreadChoice(threads, f" of {cores} cores: {seconds[1] / seconds[threads]:.1f} times as fast as 1")
    other = min((number for number in seconds if number > 1), key=lambda number: seconds[number])
    ratio = f"{other} are {seconds[1] / seconds[other]:.2g} times as fast"
    if usage.is_distorting(cores):
        return ThreadChoice(1, f" of {cores} cores: other programs use {usage.other:.1f} of them, and {ratio}")
    return ThreadChoice(1, f" of {cores} cores: {ratio}, less than {MIN_SPEEDUP}")


def _gradient(spec: AgentSpec, network: Any, batch: int, precision: Any) -> Callable[[], object]:
    """Return a function that computes one gradient of a Q-network with the run's torso."""
    masked = spec.layout.mask_size
    model = seeded(lambda: QNetwork(spec.layout, masked or ACTIONS, UNITS, network=network), 0, "measured")
    observation = torch.from_numpy(np.zeros((batch, *spec.observation_shape), spec.frame_dtype))
    if masked:
        observation[:, -masked:] = 1  # every action allowed
    kind: Precision = "bf16" if precision == "bf16" else "fp32"
    return lambda: gradient_seconds(model, observation, kind)
