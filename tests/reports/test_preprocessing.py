from pathlib import Path

import numpy as np
import pytest

from q2pi import rng
from q2pi.envs.make import make_envs
from q2pi.envs.resize import AreaResize
from q2pi.envs.spec import SPACE_INVADERS_CROP, EnvSpec
from q2pi.errors import UserError
from q2pi.reports.preprocessing import Stages, preprocessing_picture, stages


def rebuilt(shown: Stages, crop: tuple[int, int, int, int]) -> np.ndarray:
    """Return the newest frame, recomputed from the two raw frames."""
    pooled = np.maximum(shown.gray[0], shown.gray[1])
    top, bottom, left, right = crop
    kept = pooled[top : 210 - bottom, left : 160 - right]
    return AreaResize((kept.shape[0], kept.shape[1]), (84, 84))(kept)


def test_the_figure_shows_the_network_input(tmp_path: Path) -> None:
    spec = EnvSpec(crop=SPACE_INVADERS_CROP)
    path = tmp_path / "picture.png"
    shown = preprocessing_picture(spec, path, seed=3, steps=60)
    assert path.read_bytes().startswith(b"\x89PNG")
    envs = make_envs(spec, 1, 3)
    envs.reset()
    for action in rng.stream(3, "preprocessing").integers(6, size=60):
        envs.send(np.array([action]))
        envs.recv()
    np.testing.assert_array_equal(np.stack(shown.stack), envs.observation[0])
    assert [frame.shape for frame in shown.colour] == [(210, 160, 3)] * 2
    assert shown.cropped.shape == (173, 160)
    envs.close()


def test_raw_frames_come_from_the_same_episode() -> None:
    """The earlier stages give the stack, with sticky actions and every rule of the protocol."""
    for spec in (EnvSpec(crop=SPACE_INVADERS_CROP), EnvSpec("Breakout", protocol="nature", crop=(0, 0, 0, 0))):
        shown = stages(spec, seed=1, steps=45)
        np.testing.assert_array_equal(rebuilt(shown, spec.crop or (0, 0, 0, 0)), shown.resized)
        np.testing.assert_array_equal(shown.resized, shown.stack[-1])
        assert (shown.gray[0] != shown.gray[1]).any()


def test_an_ended_episode_is_shown_at_its_last_step() -> None:
    spec = EnvSpec("Breakout", max_frames_per_episode=40, crop=(0, 0, 0, 0))
    short, long = (stages(spec, seed=1, steps=steps) for steps in (9, 30))
    np.testing.assert_array_equal(short.stack, long.stack)
    np.testing.assert_array_equal(short.colour, long.colour)


def test_colours_and_single_frames(tmp_path: Path) -> None:
    spec = EnvSpec("Breakout", grayscale=False, frame_skip=1, stack=2)
    shown = preprocessing_picture(spec, tmp_path / "picture.svg", steps=3)
    assert len(shown.colour) == 1
    assert [frame.shape for frame in shown.stack] == [(84, 84, 3)] * 2
    np.testing.assert_array_equal(shown.pooled, shown.colour[0])


@pytest.mark.parametrize(
    ("spec", "steps", "message"),
    [
        (EnvSpec("CartPole-v1"), 10, "--env-id CartPole-v1 has no frames to preprocess: only Atari games have"),
        (EnvSpec(), 0, "--steps 0 is less than 1"),
    ],
)
def test_what_cannot_be_drawn(spec: EnvSpec, steps: int, message: str) -> None:
    with pytest.raises(UserError) as raised:
        stages(spec, steps=steps)
    assert str(raised.value) == message
