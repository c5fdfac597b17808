"""How fast this machine trains: DQN's loop, one update, and its replay, measured on Space Invaders.

Each function returns plain numbers, as `q2pi bench` prints them. Time them on a quiet machine: what else runs is
measured too.
"""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from torch.utils.flop_counter import FlopCounterMode

from q2pi.buffers.frames import Codec, make_store
from q2pi.buffers.replay import Replay
from q2pi.buffers.samplers import UniformSampler
from q2pi.config import ResolvedConfig, resolve
from q2pi.envs import EnvSpec, make_envs
from q2pi.errors import UserError
from q2pi.runs import checkpoint
from q2pi.training.events import Progress, Started
from q2pi.training.loop import run
from q2pi.training.presets import configure

NUM_ENVS, FRAME, BATCH = 8, (1, 84, 84), 32
STARTS, WARM_UP, EPSILON = 1_000, 400, 0.05
MATRIX = 1_024
RANDOM_PLAY = EnvSpec("SpaceInvaders")
Measures = dict[str, Any]
Act = Callable[[Any, np.random.Generator], Any]


def base_config(options: dict[str, Any], double: bool = True) -> ResolvedConfig[Any]:
    """Return DQN on Space Invaders as it is measured: the Nature protocol, learning early, exploring little.

    Args:
        options: fields of `RunConfig` to replace, such as precision, num_envs and threads.
        double: Double DQN, or plain DQN.
    """
    config, _ = configure("dqn", "SpaceInvaders", "nature")
    explores = {"start_e": EPSILON, "end_e": EPSILON}
    hyper = dataclasses.replace(config.hyper, learning_starts=STARTS, buffer_size=10_000, double=double, **explores)
    quiet: dict[str, Any] = {"checkpoint_frequency": 0, "evaluation_frequency": 0, "evaluation_episodes": 0}
    return resolve(dataclasses.replace(config, hyper=hyper, **quiet, **options))


def training(config: ResolvedConfig[Any], steps: int) -> Measures:
    """Return steps per second of the whole loop while it learns, and the share of each part.

    Args:
        config: from `base_config`.
        steps: agent steps to time, after learning has begun and warmed up; rounded to whole steps of the games.
    """
    each = config.num_envs
    begin = -(-(STARTS + WARM_UP) // each) * each
    steps = max(1, steps // each) * each
    config = dataclasses.replace(config, total_timesteps=begin + steps, log_frequency=each)
    seconds: dict[str, float] = {}
    for event in run(config):
        if isinstance(event, Progress) and event.step > begin:
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
    """Return milliseconds of one update (sampling, both networks, backward, optimizer) and what that is of the
    machine's matrix-product rate in the same precision.

    Args:
        config: from `base_config`.
        repetitions: updates to time.
    """
    config = dataclasses.replace(config, total_timesteps=STARTS + config.num_envs, log_frequency=STARTS)
    agent: Any = None
    for event in run(config):
        if isinstance(event, Started):
            agent = event.agent
    due = STARTS + config.hyper.train_frequency * agent.updates

    def one() -> None:
        nonlocal due
        due += config.hyper.train_frequency
        agent.learn(due)

    with FlopCounterMode(display=False) as counter:
        one()
    flop = counter.get_total_flops()
    milliseconds = _median_ms(one, repetitions)
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
    """Return floating-point operations per second of a product of square matrices of 1,024."""
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
    draws: int = 300,
    recorded: int = 20_000,
    env: EnvSpec = RANDOM_PLAY,
    act: Act | None = None,
) -> Measures:
    """Return what a full replay of real transitions takes: memory, time per batch, a checkpoint.

    Bytes are those that the replay accounts for. What the process grew by stands beside them: a small replay may hide
    in memory that was freed before, a large one cannot.

    Args:
        transitions: size of the replay; what was recorded is fed again until it is full.
        codec: how frames are kept.
        draws: batches of 32 to time.
        recorded: transitions of play to feed.
        env: what is played; its frames must be gray and 84 x 84.
        act: who plays, observations [N, ...] and a generator -> actions [N]; None is at random.
    """
    if env.resize not in (None, FRAME[1:]) or env.grayscale is False:
        raise UserError(f"the replay is measured with gray frames of 84 x 84, not with those of {env.env_id}'s run")
    first, rows = _recorded(min(recorded, transitions), env, act)
    process = psutil.Process()
    before = process.memory_info().rss
    store = make_store(codec, FRAME, np.uint8)
    ring = Replay(transitions, NUM_ENVS, FRAME, np.uint8, stack=4, n_step=1, gamma=0.99, store=store)
    ring.begin(first)
    began = time.perf_counter()
    for step in range(transitions // NUM_ENVS):
        ring.extend(*rows[step % len(rows)])
    filled = time.perf_counter() - began
    grown = process.memory_info().rss - before
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        saved = checkpoint.save(Path(folder), 0, {"replay": ring.state()})
        stall = time.perf_counter() - began
        on_disk = sum(file.stat().st_size for file in saved.iterdir())
    sampler = UniformSampler(ring)
    numbers = iter(range(draws + 10))
    sample_ms = _median_ms(lambda: ring.sample(sampler.sample(BATCH, np.random.default_rng(next(numbers)))[0]), draws)
    return {
        "env_id": env.env_id,
        "play": "random" if act is None else "trained",
        "codec": codec,
        "transitions": len(ring),
        "bytes_per_transition": ring.nbytes / transitions,
        "megabytes": ring.nbytes / 1e6,
        "process_grew_megabytes": grown / 1e6,
        "sample_ms": sample_ms,
        "extend_us": 1e6 * filled / transitions,
        "checkpoint_seconds": stall,
        "checkpoint_megabytes": on_disk / 1e6,
        "batch_size": BATCH,
    }


def _recorded(transitions: int, env: EnvSpec, act: Act | None) -> tuple[Any, list[tuple[Any, ...]]]:
    """Return (first frames [N, ...], the arguments of `Replay.extend` for each step of N games)."""
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
    """Return the median milliseconds of `work`, after it was done ten times to warm up."""
    for _ in range(10):
        work()
    times = []
    for _ in range(repetitions):
        began = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)
