"""Fixed targets: a target network copied every update against one copied every C agent steps.

Known values: DQN on a slippery corridor whose optimal values are a linear solve (`lab.environments.slippery_walk`),
with one-hot states. The error is the root mean square of Q(s, a) - Q*(s, a); the oscillation is the root mean square
change of Q between two measurements in the second half of training, when Q should be at rest. Game: DQN on CartPole,
oscillation of max_a Q on fixed states, and the return of training. Source: Mnih et al. 2015.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from q2pi.equations import exact
from q2pi.lab.claim import Claim, Data, Rule, Settings
from q2pi.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = 9
PERIODS = {"period 1": 1, "period 200": 200}
POINTS = 40
"""Measurements during training."""


def values_of(agent: Any, states: Array) -> Array:
    """Return Q [B, A] of the online network."""
    import torch

    with torch.inference_mode():
        q: Array = agent.online(torch.from_numpy(states)).double().numpy()
    return q


def train_measured(env_id: str, seed: int, steps: int, period: int, states: Array, **options: Any) -> tuple[Array, Any]:
    """Return (Q at POINTS steps of training, [POINTS, B, A]; the training)."""
    from q2pi.lab.training import EachProgress, train

    found: list[Array] = []

    def measure(step: int, agent: Any) -> None:
        found.append(values_of(agent, states))

    training = train(
        "dqn",
        env_id,
        seed,
        preset="classic",
        sinks=[EachProgress(measure)],
        total_timesteps=steps,
        log_frequency=steps // POINTS,
        target_network_frequency=period,
        learning_starts=min(500, steps // 4),
        train_frequency=1,
        batch_size=32,
        hidden=(64, 64),
        double=False,
        **options,
    )
    return np.stack(found[:POINTS]), training


def oscillation(q: Array) -> float:
    """Return the root mean square change between neighbouring measurements in the second half of Q [POINTS, ...]."""
    half = q[len(q) // 2 :]
    return float(np.sqrt(np.mean(np.square(np.diff(half, axis=0)))))


def probe_states(seed: int, count: int = 200) -> Array:
    """Return observations of CartPole under random actions, float32 [count, 4]."""
    import gymnasium

    env = gymnasium.make("CartPole-v1")
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    rows: list[Array] = []
    while len(rows) < count:
        rows.append(observation)
        observation, _, ended, truncated, _ = env.step(env.action_space.sample())
        if ended or truncated:
            observation, _ = env.reset()
    env.close()
    return np.stack(rows).astype(np.float32)


def experiment(seed: int, settings: Settings) -> Data:
    from q2pi.lab.environments import slippery_walk

    mdp = slippery_walk(SIZE)
    optimum = exact.optimal_values(mdp)[1]
    one_hot = np.eye(SIZE, dtype=np.float32)
    cartpole = probe_states(seed)
    data: Data = {"settings": dict(settings), "known": {}, "game": {}}
    for name, period in PERIODS.items():
        walk = ("mdp=slippery_walk", f"size={SIZE}")
        known, _ = train_measured(
            "q2pi/LabVector-v0", seed, settings["known_steps"], period, one_hot, env_options=walk, gamma=mdp.gamma
        )
        error = np.sqrt(np.square(known - optimum).mean(axis=(1, 2)))
        data["known"][name] = {"error": error.tolist(), "oscillation": oscillation(known)}
        game, training = train_measured("CartPole-v1", seed, settings["game_steps"], period, cartpole)
        ends = [settings["game_steps"] * (part + 1) // 10 for part in range(10)]
        data["game"][name] = {
            "value": game.max(axis=2).mean(axis=1).tolist(),
            "oscillation": oscillation(game.max(axis=2)),
            "return": training.curve(ends),
        }
    return data


def _ratio(data: Data, part: str) -> float:
    """Return log10 of the oscillation with period 1 over that with period 200."""
    fast, slow = (float(data[part][name]["oscillation"]) for name in PERIODS)
    return float(np.log10(fast / slow))


def _error(data: Data) -> float:
    """Return the error in the second half of training with period 1 minus that with period 200."""
    fast, slow = (float(np.mean(data["known"][name]["error"][POINTS // 2 :])) for name in PERIODS)
    return fast - slow


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (error, value, returns, oscillations) = figures.panels(4)
    settings = data[0]["settings"]
    points = np.arange(1, POINTS + 1) / POINTS
    for style, name in enumerate(PERIODS):
        label = f"{name} step{'s' if PERIODS[name] > 1 else ''}"
        known = [one["known"][name]["error"] for one in data]
        figures.curve(error, points * settings["known_steps"], known, label, style)
        figures.curve(
            value, points * settings["game_steps"], [one["game"][name]["value"] for one in data], label, style
        )
        tenths = np.arange(1, 11) / 10 * settings["game_steps"]
        figures.curve(returns, tenths, [one["game"][name]["return"] for one in data], label, style)
    figures.label(error, "agent steps", "error of Q (return)", "known values", legend=True)
    figures.label(value, "agent steps", "mean of max Q (return)", "CartPole, fixed states", legend=True)
    figures.label(returns, "agent steps", "return of training episodes", "CartPole")
    rows = [[one[part][name]["oscillation"] for part in ("known", "game") for name in PERIODS] for one in data]
    figures.bars(oscillations, ["known\n1", "known\n200", "game\n1", "game\n200"], rows)
    oscillations.set_yscale("log")
    figures.label(oscillations, "environment, copy period", "change of Q (return)", "oscillation, second half")
    figures.footnote(drawn, f"DQN; {figures.interval_words(len(data))}")
    return drawn


CLAIM = Claim(
    name="fixed_targets",
    sentence="A target network that is copied seldom stops the chase of a moving target: values oscillate less and are "
    "closer to the true ones.",
    rules=(
        Rule(
            "oscillation with period 1 over that with period 200, known values",
            "powers of ten",
            lambda data: _ratio(data, "known"),
            0.0,
        ),
        Rule(
            "oscillation with period 1 over that with period 200, CartPole",
            "powers of ten",
            lambda data: _ratio(data, "game"),
            0.0,
        ),
        Rule("error of Q with period 1 minus that with period 200, known values", "return", _error, 0.0),
    ),
    experiment=experiment,
    figure=figure,
    quick={"known_steps": 400, "game_steps": 400},
    full={"known_steps": 10_000, "game_steps": 15_000},
)
