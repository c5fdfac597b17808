"""What the schedule of epsilon lets a value-based agent see: coverage and return.

The library's tabular Q-learning in a corridor with a small reward beside the start and a large one at the far end
(`lab.environments.tempting_chain`). Schedules of epsilon: 0, constant 0.1, constant 1, and linear from 1 to 0.05 over
half of the budget. Coverage is the share of all pairs of state and action that were tried; the return is that of
training, and that of the final greedy policy, which is exact.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from q2pi.equations import exact
from q2pi.lab.claim import Claim, Data, Rule, Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEDULES: dict[str, dict[str, Any]] = {
    "0": {"start_e": 0.0, "end_e": 0.0},
    "0.1": {"start_e": 0.1, "end_e": 0.1},
    "1": {"start_e": 1.0, "end_e": 1.0},
    "1 to 0.05": {"start_e": 1.0, "end_e": 0.05, "exploration_fraction": 0.5},
}
LINEAR = "1 to 0.05"
PARTS = 20
"""Points of a curve."""


class Coverage:
    """Counts the pairs of state and action that an agent has tried."""

    def __init__(self, pairs: int) -> None:
        self.tried: set[tuple[int, int]] = set()
        self.pairs, self.curve = pairs, list[float]()

    def attach(self, agent: Any) -> None:
        """Record each update of a tabular agent."""
        update = agent.update

        def recorded(transition: Any, *arguments: Any) -> Any:
            self.tried.add((transition.state, transition.action))
            return update(transition, *arguments)

        agent.update = recorded

    def mark(self, step: int, agent: Any) -> None:
        """Add the coverage so far to the curve."""
        self.curve.append(len(self.tried) / self.pairs)


def experiment(seed: int, settings: Settings) -> Data:
    from q2pi.lab.environments import tempting_chain
    from q2pi.lab.training import AtStart, EachProgress, train

    size, steps = settings["size"], settings["agent_steps"]
    mdp = tempting_chain(size)
    every = steps // PARTS
    ends = list(range(every, steps + 1, every))
    data: Data = {"steps": ends, "coverage": {}, "training_return": {}, "greedy_return": {}}
    for name, schedule in SCHEDULES.items():
        coverage = Coverage(mdp.states * mdp.actions)
        training = train(
            "q_learning",
            "q2pi/LabTable-v0",
            seed,
            sinks=[AtStart(coverage.attach), EachProgress(coverage.mark)],
            env_options=("mdp=tempting_chain", f"size={size}"),
            total_timesteps=steps,
            log_frequency=every,
            learning_rate=0.2,
            gamma=mdp.gamma,
            **schedule,
        )
        agent: Any = training.agent
        data["coverage"][name] = coverage.curve[:PARTS]
        data["training_return"][name] = training.curve(ends)
        data["greedy_return"][name] = _greedy_return(mdp, agent.table)
    return data


def _greedy_return(mdp: exact.MDP, q: Any) -> float:
    return exact.expected_return(mdp, exact.greedy(q))


def figure(data: Sequence[Data]) -> "Figure":
    from q2pi.lab import figures

    drawn, (coverage, returns, greedy) = figures.panels(3, width=4.2)
    for style, name in enumerate(SCHEDULES):
        label, steps = f"epsilon {name}", data[0]["steps"]
        figures.curve(coverage, steps, [one["coverage"][name] for one in data], label, style)
        figures.curve(returns, steps, [one["training_return"][name] for one in data], label, style)
    figures.label(coverage, "agent steps", "share of (state, action) tried", "coverage", legend=True)
    figures.label(returns, "agent steps", "return of training episodes", "return while exploring")
    figures.bars(greedy, list(SCHEDULES), [[one["greedy_return"][name] for name in SCHEDULES] for one in data])
    figures.label(greedy, "epsilon", "expected discounted return", "final greedy policy, exact")
    figures.footnote(drawn, f"corridor with rewards 0.2 and 1, tabular Q-learning; {figures.interval_words(len(data))}")
    return drawn


CLAIM = Claim(
    name="exploration",
    sentence="Epsilon decides what a value-based agent sees: without exploration it misses states and the better goal, "
    "and with too much it does not use what it has learned.",
    rules=(
        Rule(
            "coverage with epsilon from 1 to 0.05 minus that with epsilon 0",
            "of all pairs",
            lambda data: float(data["coverage"][LINEAR][-1]) - float(data["coverage"]["0"][-1]),
            0.1,
        ),
        Rule(
            "return of the final greedy policy with epsilon from 1 to 0.05 minus that with epsilon 0",
            "return",
            lambda data: float(data["greedy_return"][LINEAR]) - float(data["greedy_return"]["0"]),
            0.1,
        ),
        Rule(
            "return in the last part of training with epsilon from 1 to 0.05 minus that with epsilon 1",
            "return",
            lambda data: float(data["training_return"][LINEAR][-1]) - float(data["training_return"]["1"][-1]),
            0.1,
        ),
    ),
    experiment=experiment,
    figure=figure,
    quick={"size": 8, "agent_steps": 400},
    full={"size": 8, "agent_steps": 20_000},
)
