"""Why a stochastic policy: DQN and REINFORCE in the aliased corridor, beside what is possible there at most.

    python benchmarks/vacuum.py [--seeds 10] [--steps 30000] [--workers 2] [--runs runs/vacuum]

DQN is evaluated twice, greedily and epsilon-greedily at the best rate; REINFORCE as it is trained, drawing its
actions. The outcome of each learned policy is computed from its probabilities, with the environment as a matrix and
the time limit of 100 steps, so there is no noise of evaluation; the spread is that of seeds.
Finished runs are not trained again. Written: results/vacuum/comparison.json, comparison.png and table.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from jobs import run_all
from numpy.typing import NDArray

from q2pi.api import load
from q2pi.config import override, resolve
from q2pi.envs.aliased_vacuum import EAST, SOUTH, AliasedVacuum
from q2pi.envs.registration import ALIASED_VACUUM_TIME_LIMIT
from q2pi.equations import exact
from q2pi.parallel.executor import Job
from q2pi.reports.style import COLOURS
from q2pi.runs.execute import run_job
from q2pi.statistics.scores import bootstrap_interval, mean
from q2pi.training.presets import configure

RESULTS = Path(__file__).parent.parent / "results" / "vacuum"
ENV_ID, GAMMA = "q2pi/AliasedVacuum-v0", 0.99
METHODS = ("DQN, greedy", "DQN, epsilon-greedy", "REINFORCE")
Array = NDArray[np.float64]


def training(algorithm: str, seed: int, steps: int, folder: Path) -> Job:
    """Return the job that trains one run, or what is left of it."""
    config, _ = configure(algorithm, ENV_ID)
    options = {"total_timesteps": steps, "seed": seed, "threads": 1, "evaluation_episodes": 0}
    return run_job(f"{algorithm} seed {seed}", folder, resolve(override(config, options)))


def outcome(world: AliasedVacuum, pi: Array) -> dict[str, float]:
    """Return what a policy over cells [length, 4] does within the time limit, from the distribution over cells.

    dust, hamster: probability of ending there. steps: expected length of an episode. stuck: probability of neither.
    """
    transition = np.einsum("sa,sat->st", pi, world.mdp(GAMMA)[0].transition)
    alive, dust, hamster, steps = world.mdp(GAMMA)[0].start, 0.0, 0.0, 0.0
    ends = [cell for cell in range(world.length) if not world.walls[cell, SOUTH] and cell != world.dust]
    for _ in range(ALIASED_VACUUM_TIME_LIMIT):
        steps += float(alive.sum())
        dust += float(alive[world.dust] * pi[world.dust, SOUTH])
        hamster += float((alive[ends] * pi[ends, SOUTH]).sum())
        alive = alive @ transition
    return {"dust": dust, "hamster": hamster, "stuck": float(alive.sum()), "steps": steps}


def judged(world: AliasedVacuum, pi: Array) -> dict[str, float]:
    """Return the outcome of a policy over cells, its discounted return, and its probability of east where aliased."""
    value = exact.expected_return(world.mdp(GAMMA)[0], pi)
    east = float(pi[world.aliased[0], EAST])
    return outcome(world, pi) | {"return": value, "east": east}


def learned(folder: Path, world: AliasedVacuum, epsilon: float) -> dict[str, Array]:
    """Return the policies over cells [length, 4] that a run has learned, by method."""
    agent = load(folder)
    seen = torch.from_numpy(world.walls[: world.length].astype(np.float32))
    with torch.inference_mode():
        if "main" in agent.networks():
            greedy = np.eye(4)[agent.networks()["main"](seen).argmax(dim=1).numpy()]
            return {METHODS[0]: greedy, METHODS[1]: (1 - epsilon) * greedy + epsilon / 4}
        policy = agent.networks()["policy"](seen)
        columns = [policy.log_prob(torch.full((len(seen),), action)).exp() for action in range(4)]
        return {METHODS[2]: torch.stack(columns, dim=1).double().numpy()}


def optima(world: AliasedVacuum) -> dict[str, dict[str, float]]:
    """Return the best that each kind of policy can do."""
    mdp, observation = world.mdp(GAMMA)
    epsilon, _, _ = exact.best_epsilon_greedy(mdp, observation)
    policies = {
        METHODS[0]: exact.best_memoryless_deterministic(mdp, observation)[0],
        METHODS[1]: exact.epsilon_greedy_at(mdp, observation, epsilon)[0],
        METHODS[2]: exact.best_memoryless_stochastic(mdp, observation)[0],
    }
    over_cells = {name: exact.policy_over_states(pi, observation) for name, pi in policies.items()}
    over_cells[METHODS[1]] = (1 - epsilon) * over_cells[METHODS[1]] + epsilon / 4
    return {name: judged(world, pi) for name, pi in over_cells.items()}


def table(report: dict) -> str:
    """Return the report as a Markdown table."""
    head = [
        f"Made by `{report['command']}`: {report['seeds']} seeds, {report['agent_steps']:,} agent steps each; "
        f"epsilon {report['epsilon']:.2f}.",
        "Mean over seeds with its 95 % interval; in parentheses the best possible of that kind.",
        "",
        "| policy | reaches the dust | touches a hamster | oscillates | steps | discounted return | P(east), aliased |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = []
    for name in METHODS:
        cells = []
        for key, digits in (("dust", 2), ("hamster", 2), ("stuck", 2), ("steps", 1), ("return", 3), ("east", 2)):
            found = np.array([seed[key] for seed in report["learned"][name]])
            low, high = bootstrap_interval(found, mean)
            best = report["optimum"][name][key]
            cells.append(f"{found.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}] ({best:.{digits}f})")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(head + rows) + "\n"


def draw(report: dict, world: AliasedVacuum, path: Path) -> None:
    """Draw the corridor, and each seed's policies as dots beside the best of their kind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    rows = figure.subfigures(2, 1, height_ratios=(1, 1.6))
    corridor = rows[0].subplots()
    corridor.imshow(world.render())
    corridor.set_axis_off()
    corridor.set_title("the two tinted cells look the same: the dust is east of one and west of the other", fontsize=10)
    panels = {
        "dust": "reaches the dust (probability)",
        "steps": "steps of an episode",
        "east": "P(east) in the tinted cells",
    }
    for axes, (key, title) in zip(rows[1].subplots(1, len(panels)), panels.items(), strict=True):
        for place, (name, colour) in enumerate(zip(METHODS, COLOURS, strict=False)):
            found = [seed[key] for seed in report["learned"][name]]
            spread = np.linspace(-0.18, 0.18, len(found))
            axes.plot(place + spread, found, "o", color=colour, markersize=5, alpha=0.8)
            axes.hlines(report["optimum"][name][key], place - 0.35, place + 0.35, color="black", linewidth=1.5)
        axes.set_xticks(range(len(METHODS)), [name.replace(", ", ",\n") for name in METHODS], fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=-0.03 if key != "steps" else 0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("dots: learned, one per seed    lines: the best possible of that kind", fontsize=9)
    figure.savefig(path, dpi=140)


def main() -> None:
    """Train what is missing, compute what was learned, and write it beside what is possible."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/vacuum"))
    options = parser.parse_args()
    folders = {
        (algorithm, seed): options.runs / f"{algorithm}-{seed}"
        for seed in range(1, options.seeds + 1)
        for algorithm in ("dqn", "reinforce")
    }
    run_all([training(*key, options.steps, folder) for key, folder in folders.items()], options.workers)
    world = AliasedVacuum(render_mode="rgb_array")
    epsilon = exact.best_epsilon_greedy(*world.mdp(GAMMA))[0]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    for folder in folders.values():
        for name, pi in learned(folder, world, epsilon).items():
            found[name].append(judged(world, pi))
    report = {
        "command": f"python benchmarks/vacuum.py --seeds {options.seeds} --steps {options.steps}",
        "world": f"{ENV_ID}, 5 cells, gamma {GAMMA}, cut at {ALIASED_VACUUM_TIME_LIMIT} steps",
        "seeds": options.seeds,
        "agent_steps": options.steps,
        "epsilon": epsilon,
        "learned": found,
        "optimum": optima(world),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "comparison.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "table.md").write_text(table(report))
    draw(report, world, RESULTS / "comparison.png")
    print(table(report))


if __name__ == "__main__":
    main()
