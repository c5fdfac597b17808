"""Overestimation of Q-learning and Double Q-learning: against exact values, and in a game.

Exact: in the MDP of Sutton and Barto 2018, example 6.7, the value of leaving the start is -0.1, and the largest of ten
noisy estimates is above it. Q-learning and Double Q-learning of `algorithms.q_learning` learn tables; the
overestimation is the mean over training of the table's max_a Q(start, a) for the actions that lead to the noisy state,
minus -0.1.

Game: DQN and Double DQN on CartPole, gamma 0.95, small networks. At several points of training the greedy policy plays
episodes; the overestimation is max_a Q(s, a) minus the discounted return that follows s, over all states at least
TAIL steps before the end of an episode that the time limit cut (0.95^100 is below 0.006). Sources: Thrun and Schwartz
1993; van Hasselt 2010; van Hasselt, Guez and Silver 2016.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from q2pi.lab.claim import Claim, Data, Rule, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIONS = 10
TRUE_VALUE = -0.1
TARGETS = ("q_learning", "double_q")
GAMMA, TAIL = 0.95, 100
POINTS = 10
"""Measurements during training."""


def table_curve(target: str, seed: int, steps: int) -> list[float]:
    """Return the overestimation of a table at POINTS steps of training."""
    from q2pi.lab.training import EachProgress, train

    curve: list[float] = []

    def measure(step: int, agent: Any) -> None:
        curve.append(float(agent.table[0, 1:].max()) - TRUE_VALUE)

    train(
        "q_learning",
        "q2pi/LabTable-v0",
        seed,
        sinks=[EachProgress(measure)],
        env_options=("mdp=maximisation_bias", f"size={ACTIONS}", "noise=1.0"),
        total_timesteps=steps,
        log_frequency=steps // POINTS,
        target=target,
        learning_rate=0.1,
        gamma=1.0,
        start_e=0.1,
        end_e=0.1,
    )
    return curve[:POINTS]


def game_curve(double: bool, seed: int, settings: Settings) -> tuple[list[float], float]:
    """Return (overestimation of a Q-network at POINTS steps of training, mean return of the last 20 episodes)."""
    from q2pi.lab.diagnostics import overestimation
    from q2pi.lab.training import EachProgress, train

    curve: list[float] = []

    def measure(step: int, agent: Any) -> None:
        curve.append(overestimation(*greedy_episodes(agent, settings["episodes"], seed), GAMMA, TAIL))

    steps = settings["game_steps"]
    training = train(
        "dqn",
        "CartPole-v1",
        seed,
        preset="classic",
        sinks=[EachProgress(measure)],
        total_timesteps=steps,
        log_frequency=steps // POINTS,
        gamma=GAMMA,
        double=double,
        hidden=(64, 64),
        learning_starts=min(1_000, steps // 4),
    )
    return curve[:POINTS], training.last(20)


def greedy_episodes(agent: Any, count: int, seed: int) -> tuple[list[Any], list[Any], list[bool]]:
    """Play greedy episodes of CartPole; return (max_a Q [T], rewards [T], whether truncated) of each."""
    import gymnasium

    env = gymnasium.make("CartPole-v1", max_episode_steps=300)
    predicted, rewards, truncations = [], [], []
    for episode in range(count):
        observation, _ = env.reset(seed=10_000 * seed + episode)
        values, received, ended, truncated = list[float](), list[float](), False, False
        while not ended and not truncated:
            q = agent.online(_tensor(observation)).detach().numpy()[0]
            observation, reward, ended, truncated, _ = env.step(int(q.argmax()))
            values.append(float(q.max()))
            received.append(float(reward))
        predicted.append(np.array(values))
        rewards.append(np.array(received))
        truncations.append(truncated)
    env.close()
    return predicted, rewards, truncations


def _tensor(observation: Any) -> Any:
    import torch

    return torch.from_numpy(np.asarray(observation, np.float32)[None])


def experiment(seed: int, settings: Settings) -> Data:
    tables = {target: table_curve(target, seed, settings["table_steps"]) for target in TARGETS}
    games = {name: game_curve(double, seed, settings) for name, double in (("DQN", False), ("Double DQN", True))}
    return {
        "table_steps": settings["table_steps"],
        "game_steps": settings["game_steps"],
        "table": tables,
        "game": {name: curve for name, (curve, _) in games.items()},
        "return": {name: last for name, (_, last) in games.items()},
    }


def _table(data: Data) -> float:
    return float(np.mean(data["table"]["q_learning"]) - np.mean(data["table"]["double_q"]))


def _game(data: Data) -> float:
    return float(np.mean(data["game"]["DQN"]) - np.mean(data["game"]["Double DQN"]))


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (table, game) = figures.panels(2)
    labels = {"q_learning": "Q-learning", "double_q": "Double Q-learning"}
    points = np.arange(1, POINTS + 1) / POINTS
    for style, target in enumerate(TARGETS):
        rows = [one["table"][target] for one in data]
        figures.curve(table, points * data[0]["table_steps"], rows, labels[target], style)
    for style, name in enumerate(("DQN", "Double DQN")):
        rows = [one["game"][name] for one in data]
        figures.curve(game, points * data[0]["game_steps"], rows, name, style)
    for axes in (table, game):
        axes.axhline(0, color="black", linewidth=0.8)
    figures.label(table, "agent steps", "max Q minus exact value (return)", f"{ACTIONS} noisy actions", legend=True)
    figures.label(game, "agent steps", "max Q minus realised return", f"CartPole, gamma {GAMMA}", legend=True)
    figures.footnote(drawn, f"overestimation during training; {figures.interval_words(len(data))}")
    return drawn


CLAIM = Claim(
    name="double_q",
    sentence="Double Q-learning and Double DQN overestimate less than Q-learning and DQN.",
    rules=(
        Rule("overestimation of Q-learning minus that of Double Q-learning, table", "return", _table, 0.0),
        Rule("overestimation of DQN minus that of Double DQN, CartPole", "return", _game, 0.0),
    ),
    experiment=experiment,
    figure=figure,
    quick={"table_steps": 300, "game_steps": 400, "episodes": 1},
    full={"table_steps": 10_000, "game_steps": 20_000, "episodes": 2},
)
