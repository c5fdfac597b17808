"""Screens of any render mode, size and dtype, and videos of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from test_video import entry_of, random_episode, read, run_of

from q2pi import __main__ as cli
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.reports.screens import fitted, frame_rate, to_rgb
from q2pi.reports.video import record_video


class Screen(gymnasium.Env[Any, Any]):
    """Episodes of three steps, rendered as `picture` says."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    picture: Any = np.zeros((8, 8, 3), np.uint8)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, self.steps == 3, False, {}

    def render(self) -> Any:
        return self.picture(self) if callable(self.picture) else self.picture


@pytest.fixture
def registered() -> Iterator[Any]:
    """Return a function that registers an environment with its own pictures and metadata, and returns its id."""
    known = set(gymnasium.registry)

    def register(picture: Any, metadata: dict[str, Any] | None = None) -> str:
        kind = type("Kind", (Screen,), {"picture": staticmethod(picture) if callable(picture) else picture})
        kind.metadata = Screen.metadata if metadata is None else metadata  # type: ignore[attr-defined]
        env_id = f"Screen{len(gymnasium.registry)}-v0"
        gymnasium.register(env_id, kind, max_episode_steps=50)
        return env_id

    yield register
    for name in set(gymnasium.registry) - known:
        del gymnasium.registry[name]


def recorded(path: Path, env_id: str, fps: float | None = None) -> tuple[float, list[Any]]:
    spec = EnvSpec(env_id, stack=1)
    run = run_of(path / env_id, spec, entry_of(random_episode(spec)))
    return read(record_video(run, fps=fps).path)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 9_000), (9_000, 2), (3, 5), (64, 63), (641, 1), (2_161, 2_163), (7, 2_000)], ids=str
)
def test_a_screen_of_any_size_becomes_a_video(shape: tuple[int, int], registered: Any, tmp_path: Path) -> None:
    env_id = registered(np.full((*shape, 3), 200, np.uint8))
    _, images = recorded(tmp_path, env_id)
    height, width, _ = images[0].shape
    assert len(images) == 4
    assert (height % 2, width % 2) == (0, 0)
    assert max(height, width) <= 9_000
    assert abs(float(images[-1].mean()) - 200) < 3


@pytest.mark.parametrize("fps", [0.1, 0.5, 29.97, 999])
def test_a_video_has_any_rate(fps: float, registered: Any, tmp_path: Path) -> None:
    found, images = recorded(tmp_path, registered(np.full((8, 8, 3), 90, np.uint8)), fps)
    assert found == pytest.approx(fps, rel=0.01)
    assert len(images) == 4


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.full((4, 6), 7, np.uint8), (7, 7, 7)),
        (np.full((4, 6, 1), 7, np.int64), (7, 7, 7)),
        (np.full((1, 4, 6), 7, np.uint8), (7, 7, 7)),
        (np.full((3, 4, 6), 7, np.uint8), (7, 7, 7)),
        (np.full((4, 6), True), (255, 255, 255)),
        (np.full((4, 6, 3), 0.2, np.float32), (51, 51, 51)),
        (np.full((4, 6, 3), 51.0), (51, 51, 51)),
        (np.full((4, 6, 3), 300, np.int32), (255, 255, 255)),
        (np.full((4, 6, 4), (9, 8, 7, 255), np.uint8), (9, 8, 7)),
    ],
)
def test_what_counts_as_an_image(image: Any, expected: tuple[int, int, int]) -> None:
    rgb = to_rgb(image)
    assert rgb is not None
    assert (rgb.shape, rgb.dtype, tuple(rgb[3, 5])) == ((4, 6, 3), np.uint8, expected)


@pytest.mark.parametrize("other", [np.zeros(3), np.zeros((0, 4, 3)), np.zeros((5, 6, 7)), np.array(["a"])])
def test_what_is_no_image(other: Any) -> None:
    assert to_rgb(other) is None


def test_a_list_of_frames_gives_the_newest(registered: Any, tmp_path: Path) -> None:
    def frames(env: Any) -> list[Any]:
        return [np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 60 * env.steps, np.uint8)]

    env_id = registered(frames, {"render_modes": ["human", "rgb_array_list"]})
    _, images = recorded(tmp_path, env_id)
    assert [round(float(image.mean()) / 60) for image in images] == [0, 1, 2, 3]


def test_a_screen_that_changes_its_size_keeps_the_first(registered: Any, tmp_path: Path) -> None:
    _, images = recorded(tmp_path, registered(lambda env: np.full((300 + env.steps, 400), 90, np.uint8)))
    assert {image.shape for image in images} == {(600, 800, 3)}


@pytest.mark.parametrize("modes", [["human", "ansi"], ["ansi"]])
def test_modes_without_images_are_named(modes: list[str], registered: Any, tmp_path: Path) -> None:
    env_id = registered("text", {"render_modes": modes})
    reason = f"a video needs the render mode rgb_array; it has {', '.join(modes)}$"
    with pytest.raises(UserError, match=f"{env_id} cannot be drawn: {reason}"):
        recorded(tmp_path, env_id)


@pytest.mark.parametrize(
    ("picture", "found"),
    [("text", "text"), (None, "a NoneType"), (np.zeros(3), r"an array \(3,\) of float64"), ([], "a NoneType")],
    ids=["text", "none", "vector", "empty"],
)
def test_what_is_rendered_instead_of_an_image_is_named(
    picture: Any, found: str, registered: Any, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"render returned {found}, not an image \(render modes: rgb_array\)"):
        recorded(tmp_path, registered(lambda env: picture))


def test_an_environment_that_raises_while_it_renders_is_named(registered: Any, tmp_path: Path) -> None:
    def broken(env: Any) -> Any:
        raise RuntimeError("no window")

    with pytest.raises(UserError, match="cannot be drawn: RuntimeError: no window"):
        recorded(tmp_path, registered(broken))


@pytest.mark.parametrize("rate", [0, -1, None, "fast", float("nan"), True, 1e9])
def test_an_impossible_rate_is_replaced(rate: Any) -> None:
    env = Screen()
    env.metadata = {"render_fps": rate}
    assert frame_rate(env, 30) == 30
    env.metadata = None  # type: ignore[assignment]
    assert frame_rate(env, 30) == 30


def test_small_screens_are_enlarged_and_large_ones_reduced_by_whole_factors() -> None:
    assert fitted(np.zeros((10, 10, 3), np.uint8)).shape == (640, 640, 3)
    assert fitted(np.zeros((10, 300, 3), np.uint8)).shape == (40, 1_200, 3)
    assert fitted(np.zeros((4_321, 100, 3), np.uint8)).shape == (1_442, 34, 3)


def test_a_rate_out_of_range_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["record", str(tmp_path), "--fps", "1001"]) == 2
    assert "--fps 1001.0 is out of range: it must be in [0.1, 1000]" in capfd.readouterr().err
