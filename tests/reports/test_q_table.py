from pathlib import Path

import gymnasium
import imageio.v3 as imageio
import numpy as np
import pytest

from q2pi.algorithms.build import build_agent
from q2pi.algorithms.q_learning import Config
from q2pi.config import RunConfig, resolve
from q2pi.envs.aliased_vacuum import AliasedVacuum
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.reports import q_table as tables
from q2pi.reports.q_table import Grid, grid_of, table_picture


def agent_on(env_id: str, algorithm: str = "q_learning") -> object:
    from q2pi.algorithms.registry import find

    hyper = find(algorithm).Config() if algorithm != "q_learning" else Config()
    config = resolve(RunConfig(algorithm=algorithm, num_envs=1, device="cpu", env=EnvSpec(env_id), hyper=hyper))
    envs = make_envs(config.env, 1, 0)
    agent = build_agent(config, envs)
    envs.close()
    return agent


def cells(grid: Grid) -> dict[int, tuple[int, int]]:
    return {int(grid.row[y, x]): (y, x) for y, x in np.ndindex(grid.row.shape) if grid.row[y, x] >= 0}


@pytest.mark.parametrize("env_id", ["q2pi/FrozenLakeNoSlip-v1", "CliffWalking-v1"])
def test_directions_are_those_of_the_environment(env_id: str) -> None:
    grid, env = grid_of(EnvSpec(env_id)), gymnasium.make(env_id).unwrapped
    cell_of, moves = cells(grid), 0
    for state, (y, x) in cell_of.items():
        for action, (down, right) in enumerate(grid.directions):
            _, following, reward, _ = env.P[state][action][0]
            target = (y + down, x + right)
            if following != state and following in cell_of and reward > -100:
                assert cell_of[following] == target
                moves += 1
    assert moves >= 20


@pytest.mark.parametrize("env_id", ["q2pi/AliasedVacuumCells-v0", "q2pi/AliasedVacuumDiscrete-v0"])
def test_the_grid_of_the_corridor(env_id: str) -> None:
    grid, env = grid_of(EnvSpec(env_id)), AliasedVacuum()
    assert grid.kind.tolist() == [[""] * 5, ["hazard", "wall", "goal", "wall", "hazard"]]
    for cell in range(5):
        for action, (down, right) in enumerate(grid.directions):
            following, below, _ = env.move(cell, action)
            if below or following != cell:
                assert (0 + down, cell + right) == (int(below), following)
    rows = grid.row[0].tolist()
    assert rows == ([0, 1, 2, 3, 4] if "Cells" in env_id else [9, 5, 1, 5, 3])


def test_holes_cliff_and_goals_have_no_arrow() -> None:
    lake, cliff = grid_of(EnvSpec("FrozenLake-v1")), grid_of(EnvSpec("CliffWalking-v1"))
    assert np.argwhere(lake.kind == "hazard").tolist() == [[1, 1], [1, 3], [2, 3], [3, 0]]
    assert (lake.kind[3, 3], lake.row[3, 3], lake.row[1, 1]) == ("goal", -1, -1)
    assert cliff.kind[3].tolist() == ["", *["hazard"] * 10, "goal"]
    assert (cliff.kind[:3] == "").all()
    assert cliff.row[2, 5] == 2 * 12 + 5


def test_arrows_point_to_the_greedy_action(tmp_path: Path) -> None:
    """The cell with an arrow has ink on the arrow's side, east of its middle for east and west of it for west."""
    grid = Grid(np.array([[0]]), np.array([[""]]), ((-1, 0), (0, 1), (1, 0), (0, -1)))
    ink = {}
    for name, action in (("east", 1), ("west", 3)):
        tables.draw(grid, np.eye(4)[[action]], "", tmp_path / f"{name}.png")
        image = imageio.imread(tmp_path / f"{name}.png")[..., :3].mean(-1)
        tall = (image[: int(0.7 * len(image))] < 100).sum(axis=0)
        ink[name] = np.argmax(tall)  # an arrow is tallest at its head
    assert ink["east"] > image.shape[1] / 2 > ink["west"]


def test_the_figure_of_an_agent(tmp_path: Path) -> None:
    agent = agent_on("q2pi/FrozenLakeNoSlip-v1")
    path = table_picture(agent, tmp_path / "new" / "lake.png")
    empty = imageio.imread(path)
    agent.q[0, 0] = [0, 0, 5, 0]
    table_picture(agent, path)
    assert (imageio.imread(path) != empty).any()


def test_an_environment_that_is_not_a_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--env-id Taxi-v3 is not a grid"):
        table_picture(agent_on("Taxi-v3"), tmp_path / "taxi.png")
    with pytest.raises(UserError, match="needs an agent of q_learning"):
        table_picture(agent_on("CartPole-v1", "dqn"), tmp_path / "pole.png")
