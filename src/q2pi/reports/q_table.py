"""A figure of the Q-table of a grid environment: the greedy action and its value in every cell.

    table_picture("runs/lake", "lake.png")

FrozenLake, CliffWalking and the vacuum's corridor are grids. Taxi is not: its state is more than a position.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from q2pi.algorithms.base import Agent
from q2pi.envs.spec import EnvSpec, resolve
from q2pi.errors import UserError
from q2pi.reports.style import GREEN, INK, RED, new_figure, save_figure
from q2pi.runs.folder import RunFolder
from q2pi.types import Array

_COLOURS = {"goal": (GREEN, 0.5), "hazard": (RED, 0.5), "wall": (INK, 0.9)}
"""Kind of cell -> colour and opacity."""


@dataclass(frozen=True)
class Grid:
    """The cells of an environment and the direction of each action."""

    row: Array
    """int64 [H, W]: row of the Q-table for each cell, -1 for cells in which no action is taken (goal, hazard, wall)."""
    kind: Array
    """str [H, W]: "" for a cell in which an action is taken, else goal, hazard or wall."""
    directions: tuple[tuple[int, int], ...]
    """(down, right) of each action."""


def table_picture(source: Agent | RunFolder | str | Path, path: str | Path) -> Path:
    """Draw the Q-table of an agent or of a run's newest checkpoint, and return the path of the figure.

    An arrow is the greedy action, the number its value. Each of several greedy actions has an arrow; a cell in which
    all actions have the same value has a dot.

    Raises:
        UserError: the agent has no Q-table, or the environment is not a grid.
    """
    from q2pi.algorithms.q_learning import Agent as TableAgent

    if isinstance(source, RunFolder | str | Path):
        from q2pi.runs.load import load_agent

        agent = load_agent(source if isinstance(source, RunFolder) else RunFolder.open(source))[0]
    else:
        agent = source
    if not isinstance(agent, TableAgent):
        raise UserError("the figure of a Q-table needs an agent of q_learning: other algorithms have no table")
    env = agent.spec.env
    if env.stack != 1:
        raise UserError(f"--stack {env.stack}: the figure of a Q-table needs a stack of 1")
    title = f"{env.env_id}, {agent.config.target}, {agent.updates:,} updates"
    return draw(grid_of(env), agent.table, title, Path(path))


def grid_of(env: EnvSpec) -> Grid:
    """Return the grid of an environment.

    Raises:
        UserError: an unknown environment, or not a grid.
    """
    from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
    from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

    from q2pi.envs.aliased_vacuum import AliasedVacuum
    from q2pi.envs.gymnasium import make

    made = make(resolve(env)).unwrapped
    if isinstance(made, FrozenLakeEnv):
        return _frozen_lake(np.asarray(made.desc))
    if isinstance(made, CliffWalkingEnv):
        return _cliff(made.shape)
    if isinstance(made, AliasedVacuum) and made.observation != "walls":
        return _corridor(made)
    raise UserError(f"--env-id {env.env_id} is not a grid; FrozenLake, CliffWalking and the vacuum's corridor are")


def _frozen_lake(letters: Array) -> Grid:
    kind = np.select([letters == b"G", letters == b"H"], ["goal", "hazard"], "")
    row = np.where(kind == "", np.arange(letters.size).reshape(letters.shape), -1)
    return Grid(row, kind, ((0, -1), (1, 0), (0, 1), (-1, 0)))


def _cliff(shape: tuple[int, int]) -> Grid:
    kind = np.full(shape, "", dtype="<U6")
    kind[-1, 1:-1], kind[-1, -1] = "hazard", "goal"
    row = np.where(kind == "", np.arange(kind.size).reshape(shape), -1)
    return Grid(row, kind, ((-1, 0), (0, 1), (1, 0), (0, -1)))


def _corridor(vacuum: Any) -> Grid:
    """Return the corridor; cells with the same observation have the same row of the table."""
    kind = np.full((2, vacuum.length), "", dtype="<U6")
    kind[1] = ["hazard" if is_open else "wall" for is_open in ~vacuum.walls[:-1, 2]]
    kind[1, vacuum.dust] = "goal"
    row = np.full(kind.shape, -1)
    row[0] = np.arange(vacuum.length) if vacuum.observation == "cell" else vacuum.codes
    return Grid(row, kind, ((-1, 0), (0, 1), (1, 0), (0, -1)))


def draw(grid: Grid, table: Array, title: str, path: Path) -> Path:
    """Draw the greedy actions and values of `table` [S, A] on a grid, and return the path of the figure."""
    from matplotlib.patches import Rectangle

    height, width = grid.row.shape
    figure = new_figure(0.4 + 0.95 * width, 0.7 + 0.95 * height)
    axes = figure.add_subplot()
    best = np.where(grid.row >= 0, table.max(axis=1)[grid.row], np.nan)
    low, high = float(np.nanmin(best)), float(np.nanmax(best))
    span = max(high - low, 1e-9)
    axes.imshow(best, cmap="Blues", vmin=low - 0.3 * span, vmax=high + 0.6 * span)  # pale enough for dark text
    for y, x in np.ndindex(height, width):
        if grid.kind[y, x]:
            colour, opacity = _COLOURS[str(grid.kind[y, x])]
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=colour, alpha=opacity))
        else:
            _arrows(axes, x, y, table[grid.row[y, x]], grid.directions)
            axes.text(x, y + 0.42, f"{best[y, x]:.3g}", ha="center", va="bottom", fontsize=8, color=INK)
    axes.set_xticks(np.arange(width + 1) - 0.5, [])
    axes.set_yticks(np.arange(height + 1) - 0.5, [])
    axes.grid(color="white", linewidth=2)
    axes.tick_params(length=0)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_frame_on(False)
    axes.set_title(title, fontsize=9)
    return save_figure(figure, path)


def _arrows(axes: Any, x: int, y: int, q: Array, directions: tuple[tuple[int, int], ...]) -> None:
    best = np.flatnonzero(q == q.max())
    if len(best) == len(q):
        axes.plot(x, y - 0.08, "o", color=INK, markersize=4)
        return
    for action in best:
        down, right = directions[action]
        style = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
        start, end = (x - 0.22 * right, y - 0.08 - 0.22 * down), (x + 0.26 * right, y - 0.08 + 0.26 * down)
        axes.annotate("", xy=end, xytext=start, arrowprops=style)
