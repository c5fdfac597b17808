"""Why a stochastic policy: Double DQN and REINFORCE in the aliased corridor, beside the exact optimum of each kind.

    q2pi sweep benchmarks/vacuum.toml --workers 2
    python benchmarks/vacuum.py runs/vacuum [--out results/vacuum]

Double DQN counts twice, greedy and epsilon-greedy at the best rate; REINFORCE as it is trained, with sampled actions.
The outcome of each learned policy is computed from its probabilities, with the environment as a matrix and the time
limit of 100 steps, so it has no evaluation noise; the spread is over seeds.
Written: comparison.json, comparison.png and table.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from finished_runs import finished_runs
from numpy.typing import NDArray

from q2pi.envs.aliased_vacuum import EAST, SOUTH, AliasedVacuum
from q2pi.envs.registration import ALIASED_VACUUM_TIME_LIMIT
from q2pi.equations import exact
from q2pi.reports.style import COLOURS
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_agent
from q2pi.statistics.scores import bootstrap_interval, mean

RESULTS = Path(__file__).parent.parent / "results" / "vacuum"
COMMAND = "q2pi sweep benchmarks/vacuum.toml && python benchmarks/vacuum.py runs/vacuum"
ENV_ID, GAMMA = "q2pi/AliasedVacuum-v0", 0.99
METHODS = ("Double DQN, greedy", "Double DQN, epsilon-greedy", "REINFORCE")
Array = NDArray[np.float64]


def outcome(env: AliasedVacuum, pi: Array) -> dict[str, float]:
    """Return what a policy over cells [length, 4] does within the time limit, from the distribution over cells.

    dust, hamster: probability of ending there. steps: expected length of an episode. stuck: probability of neither.
    """
    transition = np.einsum("sa,sat->st", pi, env.mdp(GAMMA)[0].transition)
    alive, dust, hamster, steps = env.mdp(GAMMA)[0].start, 0.0, 0.0, 0.0
    ends = [cell for cell in range(env.length) if not env.walls[cell, SOUTH] and cell != env.dust]
    for _ in range(ALIASED_VACUUM_TIME_LIMIT):
        steps += float(alive.sum())
        dust += float(alive[env.dust] * pi[env.dust, SOUTH])
        hamster += float((alive[ends] * pi[ends, SOUTH]).sum())
        alive = alive @ transition
    return {"dust": dust, "hamster": hamster, "stuck": float(alive.sum()), "steps": steps}


def evaluated(env: AliasedVacuum, pi: Array) -> dict[str, float]:
    """Return the outcome of a policy over cells, its discounted return, and its probability of east where aliased."""
    value = exact.expected_return(env.mdp(GAMMA)[0], pi)
    east = float(pi[env.aliased[0], EAST])
    return outcome(env, pi) | {"return": value, "east": east}


def learned(run: RunFolder, env: AliasedVacuum, epsilon: float) -> dict[str, Array]:
    """Return the policies over cells [length, 4] that a run has learned, by method."""
    agent, _, _, _ = load_agent(run)
    seen = torch.from_numpy(env.walls[: env.length].astype(np.float32))
    with torch.inference_mode():
        if "online" in agent.networks():
            greedy = np.eye(4)[agent.networks()["online"](seen).argmax(dim=1).numpy()]
            return {METHODS[0]: greedy, METHODS[1]: (1 - epsilon) * greedy + epsilon / 4}
        policy = agent.networks()["policy"](seen)
        columns = [policy.log_prob(torch.full((len(seen),), action)).exp() for action in range(4)]
        return {METHODS[2]: torch.stack(columns, dim=1).double().numpy()}


def optima(env: AliasedVacuum) -> dict[str, dict[str, float]]:
    """Return the best that each kind of policy can do."""
    mdp, observation = env.mdp(GAMMA)
    epsilon, _, _ = exact.best_epsilon_greedy(mdp, observation)
    policies = {
        METHODS[0]: exact.best_memoryless_deterministic(mdp, observation)[0],
        METHODS[1]: exact.epsilon_greedy_at(mdp, observation, epsilon)[0],
        METHODS[2]: exact.best_memoryless_stochastic(mdp, observation)[0],
    }
    over_cells = {name: exact.policy_over_states(pi, observation) for name, pi in policies.items()}
    over_cells[METHODS[1]] = (1 - epsilon) * over_cells[METHODS[1]] + epsilon / 4
    return {name: evaluated(env, pi) for name, pi in over_cells.items()}


def table(report: dict) -> str:
    """Return the report as a Markdown table."""
    head = [
        f"Made by `{report['command']}`.",
        f"{report['seeds']} seeds, {report['agent_steps']:,} agent steps each; epsilon {report['epsilon']:.2f}.",
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


def draw(report: dict, env: AliasedVacuum, path: Path) -> None:
    """Draw the corridor, and each seed's policies as dots beside the best of their kind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    rows = figure.subfigures(2, 1, height_ratios=(1, 1.6))
    corridor = rows[0].subplots()
    corridor.imshow(env.render())
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
    """Compute what was learned, and write it beside what is possible."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of the sweep's runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    histories = finished_runs(options.runs)
    env = AliasedVacuum(render_mode="rgb_array")
    epsilon = exact.best_epsilon_greedy(*env.mdp(GAMMA))[0]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    for history in histories:
        for name, pi in learned(history.run, env, epsilon).items():
            found[name].append(evaluated(env, pi))
    report = {
        "command": COMMAND,
        "environment": f"{ENV_ID}, 5 cells, gamma {GAMMA}, truncated at {ALIASED_VACUUM_TIME_LIMIT} steps",
        "seeds": min(map(len, found.values())),
        "agent_steps": max(history.total_timesteps for history in histories),
        "epsilon": epsilon,
        "learned": found,
        "optimum": optima(env),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "comparison.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "table.md").write_text(table(report))
    draw(report, env, options.out / "comparison.png")
    print(table(report))


if __name__ == "__main__":
    main()
