"""A picture of a table where the world is a grid: the greedy action and its value in every cell.

    table_picture("runs/lake", "lake.png")

FrozenLake, CliffWalking and the vacuum's corridor are grids; Taxi, whose states are more than places, is not.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from q2pi.algorithms.base import Agent
from q2pi.envs.spec import EnvSpec, resolve
from q2pi.errors import UserError
from q2pi.runs.folder import RunFolder
from q2pi.types import Array

_COLOURS = {"goal": "#9fd09b", "danger": "#e3a397", "rock": "#343a46"}


@dataclass(frozen=True)
class Grid:
    """The cells of a world and what its actions mean on paper."""

    row: Array
    """int64 [H, W] the table row of each cell, -1 where nobody acts."""
    kind: Array
    """str [H, W]: "" for a cell of the world; goal, danger, rock."""
    directions: tuple[tuple[int, int], ...]
    """(down, right) of each action."""


def table_picture(source: Agent | RunFolder | str | Path, path: str | Path) -> Path:
    """Draw the table of an agent or of a run's newest checkpoint, and return the picture's path.

    An arrow is the greedy action, a number its value; equals for the best have an arrow each, and where all actions are
    equal there is a dot.

    Raises:
        UserError: no table, or a world that is no grid.
    """
    from q2pi.algorithms.q_learning import Agent as TableAgent

    if isinstance(source, RunFolder | str | Path):
        from q2pi.runs.load import load_agent

        agent = load_agent(source if isinstance(source, RunFolder) else RunFolder.open(source))[0]
    else:
        agent = source
    if not isinstance(agent, TableAgent):
        raise UserError("a table's picture needs an agent of q_learning: the others have no table")
    env = agent.spec.env
    if env.stack != 1:
        raise UserError(f"--stack {env.stack}: a table's picture needs a stack of 1")
    title = f"{env.env_id}, {agent.config.target}, {agent.updates:,} updates"
    return draw(grid_of(env), agent.table, title, Path(path))


def grid_of(env: EnvSpec) -> Grid:
    """Return the grid of an environment.

    Raises:
        UserError: unknown, or no grid.
    """
    from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv
    from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

    from q2pi.envs.aliased_vacuum import AliasedVacuum
    from q2pi.envs.gymnasium import make

    world = make(resolve(env)).unwrapped
    if isinstance(world, FrozenLakeEnv):
        return _frozen_lake(np.asarray(world.desc))
    if isinstance(world, CliffWalkingEnv):
        return _cliff(world.shape)
    if isinstance(world, AliasedVacuum) and world.observation != "walls":
        return _corridor(world)
    raise UserError(
        f"--env-id {env.env_id} is no grid of table rows: FrozenLake, CliffWalking and the vacuum's corridor are"
    )


def _frozen_lake(letters: Array) -> Grid:
    kind = np.select([letters == b"G", letters == b"H"], ["goal", "danger"], "")
    row = np.where(kind == "", np.arange(letters.size).reshape(letters.shape), -1)
    return Grid(row, kind, ((0, -1), (1, 0), (0, 1), (-1, 0)))


def _cliff(shape: tuple[int, int]) -> Grid:
    kind = np.full(shape, "", dtype="<U6")
    kind[-1, 1:-1], kind[-1, -1] = "danger", "goal"
    row = np.where(kind == "", np.arange(kind.size).reshape(shape), -1)
    return Grid(row, kind, ((-1, 0), (0, 1), (1, 0), (0, -1)))


def _corridor(world: Any) -> Grid:
    """Cells that look the same have the same table row, and so the same arrow."""
    kind = np.full((2, world.length), "", dtype="<U6")
    kind[1] = ["danger" if is_open else "rock" for is_open in ~world.walls[:-1, 2]]
    kind[1, world.dust] = "goal"
    row = np.full(kind.shape, -1)
    row[0] = np.arange(world.length) if world.observation == "cell" else world.codes
    return Grid(row, kind, ((-1, 0), (0, 1), (1, 0), (0, -1)))


def draw(grid: Grid, table: Array, title: str, path: Path) -> Path:
    """Draw the greedy actions and values of `table` [S, A] on a grid, and return the picture's path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    height, width = grid.row.shape
    figure = Figure(figsize=(0.4 + 0.95 * width, 0.7 + 0.95 * height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    best = np.where(grid.row >= 0, table.max(axis=1)[grid.row], np.nan)
    low, high = float(np.nanmin(best)), float(np.nanmax(best))
    span = max(high - low, 1e-9)
    axes.imshow(best, cmap="Blues", vmin=low - 0.3 * span, vmax=high + 0.6 * span)  # pale enough for dark text
    for y, x in np.ndindex(height, width):
        if grid.kind[y, x]:
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=_COLOURS[str(grid.kind[y, x])]))
        else:
            _arrows(axes, x, y, table[grid.row[y, x]], grid.directions)
            axes.text(x, y + 0.42, f"{best[y, x]:.3g}", ha="center", va="bottom", fontsize=8, color="#202530")
    axes.set_xticks(np.arange(width + 1) - 0.5, [])
    axes.set_yticks(np.arange(height + 1) - 0.5, [])
    axes.grid(color="white", linewidth=2)
    axes.tick_params(length=0)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_frame_on(False)
    axes.set_title(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def _arrows(axes: Any, x: int, y: int, q: Array, directions: tuple[tuple[int, int], ...]) -> None:
    best = np.flatnonzero(q == q.max())
    if len(best) == len(q):
        axes.plot(x, y - 0.08, "o", color="#202530", markersize=4)
        return
    for action in best:
        down, right = directions[action]
        style = {"arrowstyle": "-|>", "color": "#202530", "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
        start, end = (x - 0.22 * right, y - 0.08 - 0.22 * down), (x + 0.26 * right, y - 0.08 + 0.26 * down)
        axes.annotate("", xy=end, xytext=start, arrowprops=style)
