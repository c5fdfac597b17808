"""The line at the start of a run that says how observations are read."""

from typing import Any

import pytest
from gymnasium import spaces
from small_envs import Forbidden, Sampled, nested, registered
from small_runs import QUIET

from q2pi import __main__ as cli
from q2pi.algorithms.build import build_agent
from q2pi.algorithms.registry import default_config
from q2pi.commands.observations import observation_line
from q2pi.config import override, resolve
from q2pi.envs.make import make_envs


def line_of(env_id: str, algorithm: str = "ppo", **options: Any) -> str:
    config = resolve(override(default_config(algorithm), QUIET | {"env_id": env_id, "num_envs": 1} | options))
    envs = make_envs(config.env, 1, 1)
    line = observation_line(config, build_agent(config, envs))
    envs.close()
    return line


@pytest.mark.parametrize(
    ("space", "line"),
    [
        (spaces.Box(-1, 1, (3,)), ""),
        (spaces.Box(-1, 1, (3, 2)), "vector of 6, flattened from 3 x 2"),
        (spaces.MultiBinary(3), ""),
        (spaces.Box(0, 255, (9, 8, 3), "uint8"), "image 3 x 9 x 8 / 255, network minatar; 4 frames stacked"),
        (spaces.Box(0, 1, (40, 50)), "image 1 x 40 x 50, network nature; 4 frames stacked"),
        (spaces.MultiDiscrete([3, 4]), "one-hot of 3 + 4 values"),
        (spaces.MultiDiscrete([2] * 9), "one-hot of 2 + 2 + 2 + 2 + 2 + 2 + 2 + 2 + ... values"),
        (
            spaces.Dict({"direction": spaces.Discrete(4), "mission": spaces.Text(9), "speed": spaces.Box(-1, 1, (2,))}),
            "direction: one-hot of 4 values; speed: vector of 2; packed into frames of 3 numbers; "
            "not read: mission (text)",
        ),
        (
            nested(),
            "camera: image 3 x 8 x 9 / 255, network minatar; goal[0]: vector of 2; goal[1]: one-hot of 4 values; "
            "keys: vector of 3; packed into frames of 222 numbers",
        ),
    ],
    ids=str,
)
def test_what_is_not_obvious_is_said(space: Any, line: str) -> None:
    with registered(lambda **_: Sampled(space)) as env_id:
        assert line_of(env_id) == (f"observations: {line}" if line else "")


def test_masks_are_said() -> None:
    with registered(Forbidden) as env_id:
        expected = "observations: vector of 2; packed into frames of 5 numbers; action masks are used"
        assert line_of(env_id) == expected


def test_tables_and_games_need_no_line() -> None:
    assert line_of("FrozenLake-v1", "q_learning") == ""
    assert line_of("SpaceInvaders", num_steps=4) == ""


def test_the_line_is_printed_at_the_start(tmp_path: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with registered(lambda **_: Sampled(spaces.Discrete(4), spaces.Discrete(2))) as env_id:
        arguments = ["--env-id", env_id, "--total-timesteps", "64", "--num-envs", "2", "--num-steps", "8"]
        run = ["train", "a2c", *arguments, "--evaluation-episodes", "0", "--run-dir", str(tmp_path / "run")]
        assert cli.main(run) == 0
    assert capfd.readouterr().out.count("observations: one-hot of 4 values\n") == 1
