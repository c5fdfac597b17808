"""Speed of this machine: DQN's training loop, one gradient update, and the replay, measured on Space Invaders.

Each function returns the numbers that `q2pi bench` prints. Other programs on the machine distort them.
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from q2pi.buffers.frames import Codec, make_store
from q2pi.buffers.prioritized import PrioritizedSampler
from q2pi.buffers.replay import Replay
from q2pi.buffers.samplers import UniformSampler
from q2pi.config import ResolvedConfig, resolve
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.parallel.portable import psutil
from q2pi.runs import checkpoint
from q2pi.training.events import Progress, Started
from q2pi.training.loop import run
from q2pi.training.presets import configure

NUM_ENVS, FRAME, BATCH = 8, (1, 84, 84), 32
STARTS, WARM_UP, EPSILON = 1_000, 400, 0.05
MATRIX = 1_024
SPACE_INVADERS = EnvSpec("SpaceInvaders")
Measures = dict[str, Any]
Act = Callable[[Any, np.random.Generator], Any]


def base_config(options: dict[str, Any], double: bool = True) -> ResolvedConfig[Any]:
    """Return the configuration that is measured: DQN, Nature protocol, early learning start, little exploration.

    Args:
        options: fields of `RunConfig` to replace, such as precision, num_envs and threads.
        double: whether to use Double DQN.
    """
    config, _ = configure("dqn", "SpaceInvaders", "nature")
    exploration = {"start_e": EPSILON, "end_e": EPSILON}
    hyper = dataclasses.replace(config.hyper, learning_starts=STARTS, buffer_size=10_000, double=double, **exploration)
    without_output: dict[str, Any] = {"checkpoint_frequency": 0, "evaluation_frequency": 0, "evaluation_episodes": 0}
    return resolve(dataclasses.replace(config, hyper=hyper, **without_output, **options))


def training(config: ResolvedConfig[Any], steps: int) -> Measures:
    """Return agent steps per second of the training loop and the share of each part, after learning has started.

    Args:
        config: from `base_config`.
        steps: agent steps to time after learning has started and warmed up; rounded down to whole vector steps.
    """
    num_envs = config.num_envs
    first_step = -(-(STARTS + WARM_UP) // num_envs) * num_envs
    steps = max(1, steps // num_envs) * num_envs
    config = dataclasses.replace(config, total_timesteps=first_step + steps, log_frequency=num_envs)
    seconds: dict[str, float] = {}
    for event in run(config):
        if isinstance(event, Progress) and event.step > first_step:
            for part, value in event.seconds.items():
                seconds[part] = seconds.get(part, 0.0) + value
    total = sum(seconds.values())
    return {
        "agent_steps": steps,
        "steps_per_second": steps / total,
        "share": {part: value / total for part, value in sorted(seconds.items(), key=lambda item: -item[1])},
        "precision": config.precision,
        "num_envs": config.num_envs,
        "threads": torch.get_num_threads(),
    }


def update(config: ResolvedConfig[Any], repetitions: int) -> Measures:
    """Return milliseconds of one update (sampling, both networks, backward, optimizer), and its FLOP/s as a fraction
    of the machine's FLOP/s for a matrix product in the same precision.

    Args:
        config: from `base_config`.
        repetitions: number of updates to time.
    """
    config = dataclasses.replace(config, total_timesteps=STARTS + config.num_envs, log_frequency=STARTS)
    agent: Any = None
    for event in run(config):
        if isinstance(event, Started):
            agent = event.agent
    due = STARTS + config.hyper.train_frequency * agent.updates

    def update_once() -> None:
        nonlocal due
        due += config.hyper.train_frequency
        agent.learn(due)

    with FlopCounterMode(display=False) as counter:
        update_once()
    flop = counter.get_total_flops()
    milliseconds = _median_ms(update_once, repetitions)
    rate = matrix_rate(config.precision, agent.spec.device)
    return {
        "ms": milliseconds,
        "gflop": flop / 1e9,
        "gflop_per_second": flop / 1e6 / milliseconds,
        "machine_gflop_per_second": rate / 1e9,
        "fraction_of_machine": flop / (1e-3 * milliseconds) / rate,
        "precision": config.precision,
        "batch_size": config.hyper.batch_size,
        "threads": torch.get_num_threads(),
    }


def matrix_rate(precision: str, device: torch.device) -> float:
    """Return FLOP/s of a product of two 1,024 x 1,024 matrices."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.ones(MATRIX, MATRIX, dtype=dtype, device=device)

    def product() -> None:
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()

    return 2 * MATRIX**3 / (1e-3 * _median_ms(product, 30))


def replay(
    transitions: int,
    codec: Codec,
    batches: int = 300,
    recorded: int = 20_000,
    env: EnvSpec = SPACE_INVADERS,
    act: Act | None = None,
) -> Measures:
    """Return memory, sampling time and checkpoint time of a full replay of real transitions.

    `megabytes` is what the replay accounts for; `process_grew_megabytes` is how much the process grew. A small replay
    may fit into memory that the process freed before, so that the process does not grow.

    Args:
        transitions: capacity of the replay; the recorded transitions are repeated until it is full.
        codec: how frames are stored.
        batches: number of batches of 32 to time.
        recorded: number of transitions to record.
        env: the environment; its frames must be gray and 84 x 84.
        act: the policy, observations [N, ...] and a generator -> actions [N]; None takes random actions.
    """
    if env.resize not in (None, FRAME[1:]) or env.grayscale is False:
        raise UserError(f"the replay is measured with gray frames of 84 x 84; the run on {env.env_id} has other frames")
    first, rows = _recorded(min(recorded, transitions), env, act)
    process = psutil.Process()
    before = process.memory_info().rss
    store = make_store(codec, FRAME, np.uint8)
    ring = Replay(transitions, NUM_ENVS, FRAME, np.uint8, stack=4, n_step=1, gamma=0.99, store=store)
    ring.begin(first)
    start = time.perf_counter()
    for step in range(transitions // NUM_ENVS):
        ring.extend(*rows[step % len(rows)])
    fill_seconds = time.perf_counter() - start
    grown = process.memory_info().rss - before
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        saved = checkpoint.save(Path(folder), 0, {"replay": ring.state()})
        checkpoint_seconds = time.perf_counter() - start
        on_disk = sum(file.stat().st_size for file in saved.iterdir())
    sampler = UniformSampler(ring)
    seeds = iter(range(batches + 10))
    sample_ms = _median_ms(lambda: ring.sample(sampler.sample(BATCH, np.random.default_rng(next(seeds)))[0]), batches)
    return {
        "env_id": env.env_id,
        "policy": "random" if act is None else "trained",
        "codec": codec,
        "transitions": len(ring),
        "bytes_per_transition": ring.nbytes / transitions,
        "megabytes": ring.nbytes / 1e6,
        "process_grew_megabytes": grown / 1e6,
        "sample_ms": sample_ms,
        **_prioritized(ring, batches),
        "extend_us": 1e6 * fill_seconds / transitions,
        "checkpoint_seconds": checkpoint_seconds,
        "checkpoint_megabytes": on_disk / 1e6,
        "batch_size": BATCH,
    }


def _prioritized(ring: Replay, batches: int) -> Measures:
    """Return the time of choosing a batch by priority, that of setting its priorities, and the memory of both."""
    sampler = PrioritizedSampler(ring, alpha=0.5, beta=0.4)
    rng = np.random.default_rng(0)
    masses = rng.random(sampler.slots) * ring.can_sample(np.arange(sampler.slots))
    sampler.load({"masses": masses, "greatest": sampler.greatest})
    chosen = [sampler.sample(BATCH, rng)[0] for _ in range(batches + 10)]
    errors, batch = torch.rand(BATCH), iter(chosen)
    return {
        "prioritized_choose_ms": _median_ms(lambda: sampler.sample(BATCH, rng), batches),
        "prioritized_update_ms": _median_ms(lambda: sampler.update_priorities(next(batch), errors), batches),
        "prioritized_megabytes": sampler.nbytes / 1e6,
    }


def _recorded(transitions: int, env: EnvSpec, act: Act | None) -> tuple[Any, list[tuple[Any, ...]]]:
    """Return (first frames [N, ...], the arguments of `Replay.extend` for each vector step)."""
    envs = make_envs(env, NUM_ENVS, 1)
    first = envs.reset()[:, -1:].copy()
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(transitions // NUM_ENVS):
        if act is None:
            action = generator.integers(envs.action_space.n, size=NUM_ENVS)
        else:
            action = act(envs.observation, generator)
        envs.send(action)
        step = envs.recv()
        newest, following = step.next_frame.copy(), step.frame.copy()
        continuation = 1 - step.terminated.astype(np.float32)
        rows.append((action, np.sign(step.reward), continuation, newest, step.ended, following))
    envs.close()
    return first, rows


def _median_ms(work: Callable[[], Any], repetitions: int) -> float:
    """Return the median milliseconds of `work`, after ten calls to warm up."""
    for _ in range(10):
        work()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)
