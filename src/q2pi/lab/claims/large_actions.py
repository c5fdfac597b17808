"""Large and continuous action spaces: Q-networks over bins of actions against a Gaussian policy.

Pendulum: DQN over 3, 11, 51 and 501 equally spaced torques (`lab.environments`), and PPO with a Gaussian policy, with
the same number of agent steps. HalfCheetah (MuJoCo, six torques, episodes of 200 steps): DQN over 3 bins per torque,
which are 729 actions, and PPO with a Gaussian policy. More dimensions: a Q-network over 11 bins per dimension has 11^d
outputs, a Gaussian policy has 2 d; counted are the parameters of the library's networks and the CPU time of one forward
pass for one observation of 17 numbers, as HalfCheetah has.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from q2pi.lab.claim import Claim, Data, Rule, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = (3, 11, 51, 501)
PER_DIMENSION = 11
OBSERVATION = 17
HIDDEN = (64, 64)
PARTS = 12
JOINT_BINS = 3
"""Bins per torque of HalfCheetah."""
EPISODE = 200
"""Steps of an episode of HalfCheetah."""


def network_sizes(dimensions: int, repetitions: int) -> dict[str, float]:
    """Return parameters and CPU microseconds per action of both networks for `dimensions` of actions."""
    import torch
    from gymnasium.spaces import Box

    from q2pi.networks.policy import PolicyNetwork
    from q2pi.networks.value import QNetwork

    box = Box(-1.0, 1.0, (dimensions,), np.float32)
    networks: dict[str, Any] = {
        "bins": QNetwork((OBSERVATION,), PER_DIMENSION**dimensions, HIDDEN),
        "gaussian": PolicyNetwork((OBSERVATION,), box, HIDDEN, log_std=0.0, squash=False),
    }
    observation = torch.zeros(1, OBSERVATION)
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    for name, network in networks.items():
        seconds = []
        with torch.inference_mode():
            for _ in range(repetitions):
                start = time.process_time()
                output = network(observation)
                _ = output.argmax(dim=1) if name == "bins" else output.mode()
                seconds.append(time.process_time() - start)
        found[f"{name} parameters"] = sum(parameter.numel() for parameter in network.parameters())
        found[f"{name} microseconds"] = 1e6 * float(np.median(seconds))
    return found


def experiment(seed: int, settings: Settings) -> Data:
    from q2pi.lab.training import train

    steps = settings["agent_steps"]
    ends = [steps * (part + 1) // PARTS for part in range(PARTS)]
    cheetah = half_cheetah(seed, settings)
    curves = {}
    for bins in BINS:
        training = train(
            "dqn",
            "q2pi/PendulumBins-v0",
            seed,
            preset="classic",
            env_options=(f"bins={bins}",),
            total_timesteps=steps,
            learning_starts=min(1_000, steps // 4),
            exploration_steps=min(5_000, steps // 2),
            train_frequency=settings["train_frequency"],
            gamma=0.95,
            hidden=HIDDEN,
            double=False,
        )
        curves[f"DQN, {bins} bins"] = training.curve(ends)
    num_steps = min(512, steps // 2)
    gaussian = train(
        "ppo", "Pendulum-v1", seed, total_timesteps=steps, num_envs=1, num_steps=num_steps, num_minibatches=8
    )
    curves["PPO, Gaussian"] = gaussian.curve(ends)
    dimensions = list(range(1, settings["dimensions"] + 1))
    sizes = [network_sizes(count, settings["repetitions"]) for count in dimensions]
    return {"agent_steps": steps, "curves": curves, "cheetah": cheetah, "dimensions": dimensions, "sizes": sizes}


def half_cheetah(seed: int, settings: Settings) -> Data:
    """Return training curves on HalfCheetah: agent steps of each part, and by agent the mean return in it."""
    from q2pi.lab.training import train

    steps, limit = settings["cheetah_steps"], f"max_episode_steps={min(EPISODE, settings['cheetah_steps'] // 4)}"
    ends = [steps * (part + 1) // PARTS for part in range(PARTS)]
    bins = train(
        "dqn",
        "q2pi/HalfCheetahBins-v0",
        seed,
        preset="classic",
        env_options=(f"bins={JOINT_BINS}", limit),
        total_timesteps=steps,
        learning_starts=min(1_000, steps // 4),
        exploration_steps=min(10_000, steps // 2),
        train_frequency=settings["train_frequency"],
        hidden=HIDDEN,
        double=False,
    )
    gaussian = train(
        "ppo",
        "HalfCheetah-v5",
        seed,
        preset="Pendulum-v1",
        env_options=(limit,),
        total_timesteps=steps,
        num_envs=1,
        num_steps=min(512, steps // 5),
        num_minibatches=8,
        gamma=0.99,
        normalize_observations=True,
    )
    return {"steps": ends, "DQN, 729 actions": bins.curve(ends), "PPO, Gaussian": gaussian.curve(ends)}


def _last(curve: Sequence[float]) -> float:
    """Return the mean return in the last quarter of training."""
    return float(np.mean(curve[-PARTS // 4 :]))


def _ratio(data: Data, column: str) -> float:
    """Return log10 of a number of the Q-network over that of the Gaussian policy, at the most dimensions."""
    sizes = data["sizes"][-1]
    return float(np.log10(sizes[f"bins {column}"] / sizes[f"gaussian {column}"]))


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (curves, cheetah, parameters, times) = figures.panels(4)
    steps = np.arange(1, PARTS + 1) / PARTS * data[0]["agent_steps"]
    for style, name in enumerate(data[0]["curves"]):
        figures.curve(curves, steps, [one["curves"][name] for one in data], name, style)
    figures.label(curves, "agent steps", "return of training episodes", "Pendulum", legend=True)
    ends, *agents = data[0]["cheetah"]
    for style, name in enumerate(agents):
        figures.curve(cheetah, data[0]["cheetah"][ends], [one["cheetah"][name] for one in data], name, style)
    figures.label(cheetah, "agent steps", f"return of {EPISODE} steps", "HalfCheetah, six torques", legend=True)
    names = (("bins", f"Q-network, {PER_DIMENSION} bins per dimension"), ("gaussian", "Gaussian policy"))
    for panel, column, unit in ((parameters, "parameters", "parameters"), (times, "microseconds", "CPU microseconds")):
        for style, (name, label) in enumerate(names):
            rows = [[size[f"{name} {column}"] for size in one["sizes"]] for one in data]
            figures.curve(panel, data[0]["dimensions"], rows, label, style)
        panel.set_yscale("log")
        panel.set_xticks(data[0]["dimensions"])
        title = "size" if column == "parameters" else "time per action"
        figures.label(panel, "dimensions of the action", unit, title, legend=column == "parameters")
    figures.footnote(drawn, figures.interval_words(len(data)))
    return drawn


CLAIM = Claim(
    name="large_actions",
    sentence="Value-based agents do not scale to large action spaces: size and time per action grow exponentially with "
    "the dimensions, many bins learn worse than few, and over six torques a Gaussian policy learns better.",
    rules=(
        Rule(
            "parameters of the Q-network over those of the Gaussian policy, most dimensions",
            "powers of ten",
            lambda data: _ratio(data, "parameters"),
            1.0,
            is_exact=True,
        ),
        Rule(
            "CPU time per action of the Q-network over that of the Gaussian policy, most dimensions",
            "powers of ten",
            lambda data: _ratio(data, "microseconds"),
            0.3,
        ),
        Rule(
            "return of DQN on Pendulum with 11 bins minus that with 501 bins, last quarter of training",
            "reward",
            lambda data: _last(data["curves"]["DQN, 11 bins"]) - _last(data["curves"]["DQN, 501 bins"]),
            0.0,
        ),
        Rule(
            "return of the Gaussian policy on HalfCheetah minus that of DQN over 729 actions, last quarter of training",
            "reward",
            lambda data: _last(data["cheetah"]["PPO, Gaussian"]) - _last(data["cheetah"]["DQN, 729 actions"]),
            0.0,
        ),
    ),
    experiment=experiment,
    figure=figure,
    quick={"agent_steps": 400, "cheetah_steps": 200, "train_frequency": 4, "dimensions": 3, "repetitions": 3},
    full={"agent_steps": 15_000, "cheetah_steps": 20_000, "train_frequency": 1, "dimensions": 5, "repetitions": 30},
    package="mujoco",
)
