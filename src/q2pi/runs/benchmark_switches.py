"""Milliseconds per update of each switch of Rainbow, beside plain DQN in the same process, alternating.

Every agent learns from the same transitions of random actions in Space Invaders. A round makes one update of each
agent, so that other programs on the machine slow down all of them.
"""

import dataclasses
import statistics
import time
from typing import Any

import numpy as np
import torch

from q2pi.algorithms.build import build_agent
from q2pi.config import ResolvedConfig, resolve
from q2pi.envs.make import make_envs
from q2pi.envs.vector import VectorEnv
from q2pi.training.presets import configure

TRANSITIONS, STARTS = 1_600, 800
SWITCHES: dict[str, dict[str, Any]] = {
    "double": {"double": True},
    "dueling": {"dueling": True},
    "n_step": {"n_step": 3},
    "prioritized": {"prioritized": True},
    "noisy": {"noisy": True},
    "categorical": {"distribution": "categorical"},
    "quantile": {"distribution": "quantile"},
    "implicit": {"distribution": "implicit"},
    "munchausen": {"munchausen": True},
    "spectral_norm": {"spectral_norm": True},
}
PLAIN, RAINBOW = "dqn", "rainbow"


def switches(options: dict[str, Any], repetitions: int) -> dict[str, Any]:
    """Return the median milliseconds of an update of each agent, and the median ratio to plain DQN.

    Args:
        options: fields of `RunConfig` to replace, such as precision, num_envs and threads.
        repetitions: number of rounds to time.
    """
    configs = configurations(options)
    first = next(iter(configs.values()))
    envs = make_envs(first.env, first.num_envs, first.seed)
    agents = {name: build_agent(config, envs) for name, config in configs.items()}
    torch.set_num_threads(first.threads)
    _fill(envs, list(agents.values()))
    times: dict[str, list[float]] = {name: [] for name in agents}
    for updates in range(1, 4 + repetitions):
        for name, agent in agents.items():
            start = time.perf_counter()
            agent.learn(STARTS + updates * first.hyper.train_frequency)
            if agent.spec.device.type == "cuda":
                torch.cuda.synchronize()
            if updates > 3:
                times[name].append(1e3 * (time.perf_counter() - start))
    ratios = {name: statistics.median(np.divide(values, times[PLAIN]).tolist()) for name, values in times.items()}
    return {
        "ms": {name: statistics.median(values) for name, values in times.items()},
        "ratio": ratios,
        "precision": first.precision,
        "batch_size": first.hyper.batch_size,
        "threads": torch.get_num_threads(),
    }


def configurations(options: dict[str, Any]) -> dict[str, ResolvedConfig[Any]]:
    """Return the configuration of plain DQN, of each switch alone, and of Rainbow."""
    config, _ = configure("rainbow", "SpaceInvaders", "rainbow")
    sizes = {"buffer_size": TRANSITIONS, "learning_starts": STARTS, "replay_codec": "raw"}
    plain = config.hyper.ablations()["none"]
    hypers = {PLAIN: plain}
    hypers |= {name: dataclasses.replace(plain, **changes) for name, changes in SWITCHES.items()}
    hypers[RAINBOW] = config.hyper
    return {
        name: resolve(dataclasses.replace(config, hyper=dataclasses.replace(hyper, **sizes), **options))
        for name, hyper in hypers.items()
    }


def _fill(envs: VectorEnv, agents: list[Any]) -> None:
    """Give the same random transitions to all agents."""
    observation = envs.reset()
    for agent in agents:
        agent.begin(observation)
    generator = np.random.default_rng(0)
    for _ in range(TRANSITIONS // envs.num_envs):
        action = generator.integers(envs.action_space.n, size=envs.num_envs)
        envs.send(action)
        step = envs.recv()
        for agent in agents:
            agent.observe(action, step)
    envs.close()
