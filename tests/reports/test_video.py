"""Videos, read frame by frame: the stored episode in colour, or an error and no file."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
from ale_py import ALEInterface, LoggerMode, roms
from numpy.typing import NDArray

from q2pi.algorithms.registry import default_config
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec, resolve
from q2pi.envs.vector import Episode
from q2pi.errors import UserError
from q2pi.reports.video import choose, make_renderer, record_video, replay, stored_episodes
from q2pi.runs.folder import RunFolder

Images = list[NDArray[np.uint8]]


def random_episode(spec: EnvSpec, seed: int = 7) -> Episode:
    """Return one episode of random actions."""
    envs = make_envs(spec, 1, seed)
    envs.reset()
    envs.action_space.seed(seed)
    while True:
        envs.send(np.array([envs.action_space.sample()]))
        if ended := envs.recv().episodes:
            envs.close()
            return ended[0]


def entry_of(episode: Episode, step: int = 100) -> dict[str, Any]:
    return {
        "return": episode.episode_return,
        "length": episode.length,
        "step": step,
        "env_index": episode.env_index,
        "episode_index": episode.episode_index,
        "seed": episode.seed,
        "actions": episode.actions.tolist(),
    }


def run_of(path: Path, spec: EnvSpec, *best: dict[str, Any], newest: tuple[dict[str, Any], ...] = ()) -> RunFolder:
    run = RunFolder.create(path, dataclasses.replace(default_config("dqn"), env=resolve(spec)))
    run.episodes.mkdir()
    (run.episodes / "best.json").write_text(json.dumps(best))
    (run.episodes / "newest.json").write_text(json.dumps(newest))
    return run


def read(path: Path) -> tuple[float, Images]:
    reader: Any = imageio.get_reader(path)
    with reader:
        return reader.get_meta_data()["fps"], [image for image in reader]  # noqa: C416 (its length is infinite)


def distance(seen: NDArray[np.uint8], screen: NDArray[np.uint8]) -> float:
    return float(np.abs(seen.astype(float) - screen).mean())


def first_screen(rom: str) -> NDArray[np.uint8]:
    """Return the RGB screen of a game after its reset, from the emulator's own interface."""
    ALEInterface.setLoggerMode(LoggerMode.Error)
    emulator = ALEInterface()
    path = roms.get_rom_path(rom)
    assert path is not None
    emulator.loadROM(path)
    emulator.reset_game()
    return np.asarray(emulator.getScreenRGB(), np.uint8)


SHORT = EnvSpec("SpaceInvaders", crop=(20, 10, 0, 0), max_frames_per_episode=400)


@pytest.fixture(scope="module")
def invaders() -> Episode:
    return random_episode(SHORT, seed=8)


def test_an_atari_episode_is_shown_in_colour_from_reset_to_end(tmp_path: Path, invaders: Episode) -> None:
    assert invaders.length == 100
    assert invaders.episode_return == 35
    run = run_of(tmp_path / "run", SHORT, entry_of(invaders))
    video = record_video(run)
    assert video.path == run.videos / "best.mp4"
    assert (video.frames, video.fps, video.seconds) == (101, 15.0, 101 / 15)
    assert video.episode_return == invaders.episode_return
    fps, images = read(video.path)
    assert (fps, len(images)) == (15.0, 101)
    assert {image.shape for image in images} == {(630, 480, 3)}
    # The agent sees cropped gray frames of 84 x 84; the video shows the whole screen in colour, 3 x 210 pixels high.
    expected = first_screen("space_invaders").repeat(3, axis=0).repeat(3, axis=1)
    assert distance(images[0], expected) < 2
    assert distance(images[0], expected[..., [2, 0, 1]]) > 6  # so the channels matter
    assert distance(images[-1], images[0]) > 1
    assert video.path.stat().st_size < 1_000_000
    assert [path.name for path in run.videos.iterdir()] == ["best.mp4"]


@pytest.mark.parametrize("change", [{"seed": 9}, {"return": 36.0}, {"length": 99}, {"actions": [0] * 100}])
def test_an_episode_that_cannot_be_recreated_is_refused(invaders: Episode, change: dict[str, Any]) -> None:
    renderer, entry = make_renderer(SHORT), entry_of(invaders)
    assert len(list(replay(renderer, entry, "SpaceInvaders"))) == 101
    with pytest.raises(UserError, match="cannot recreate the episode of SpaceInvaders"):
        list(replay(renderer, entry | change, "SpaceInvaders"))


def test_an_episode_without_its_end_is_refused(invaders: Episode) -> None:
    cut = entry_of(invaders) | {"actions": invaders.actions[:-1].tolist(), "length": 99}
    with pytest.raises(UserError, match="in 99 without ending"):
        list(replay(make_renderer(SHORT), cut, "SpaceInvaders"))


def test_a_refused_episode_writes_no_video(tmp_path: Path) -> None:
    spec = EnvSpec("CartPole-v1")
    run = run_of(tmp_path / "run", spec, entry_of(random_episode(spec)) | {"return": 1_000.0})
    with pytest.raises(UserError, match=r"its return was 1000 in \d+ steps, and is now \d+ in \d+ \(was ALE"):
        record_video(run)
    assert list(run.videos.iterdir()) == []


def test_no_ops_fire_and_frame_skip_are_recreated(tmp_path: Path) -> None:
    spec = EnvSpec("Breakout", protocol="nature", frame_skip=2, full_action_space=True, max_frames_per_episode=120)
    video = record_video(run_of(tmp_path / "run", spec, entry_of(random_episode(spec))))
    assert (video.frames, video.fps) == (61, 30.0)


def test_a_gymnasium_episode_is_shown_at_its_own_speed(tmp_path: Path) -> None:
    spec = EnvSpec("CartPole-v1")
    episode = random_episode(spec)
    out = tmp_path / "made" / "pole.mp4"
    run = run_of(tmp_path / "run", spec, entry_of(episode))
    assert record_video(run, out).path == out
    fps, images = read(out)
    assert (fps, len(images), images[0].shape) == (50.0, episode.length + 1, (400, 600, 3))
    assert images[0].mean() > 200  # a white ground
    assert distance(images[-1], images[0]) > 1  # a falling pole
    assert record_video(run, out, fps=10).seconds == (episode.length + 1) / 10


def test_continuous_actions_and_rewards_are_recreated_bit_for_bit(tmp_path: Path) -> None:
    spec = EnvSpec("MountainCarContinuous-v0")
    envs = make_envs(spec, 1, 7)
    envs.reset()
    episodes: tuple[Episode, ...] = ()
    speed = 0.0
    while not episodes:  # pushing in the direction of motion climbs the hill
        envs.send(np.array([[0.9 if speed >= 0 else -0.9]]))
        step = envs.recv()
        speed, episodes = step.next_observation[0, 1], step.episodes
    envs.close()
    assert record_video(run_of(tmp_path / "run", spec, entry_of(episodes[0]))).frames == episodes[0].length + 1


def made_up(value: float, step: int, number: int) -> dict[str, Any]:
    indices = {"env_index": 0, "episode_index": number}
    return indices | {"return": value, "length": 1, "step": step, "seed": 1, "actions": [0]}


def test_episodes_are_chosen_by_name_or_by_rank(tmp_path: Path) -> None:
    high, low, last = made_up(9.0, 10, 0), made_up(1.0, 20, 1), made_up(5.0, 30, 2)
    run = run_of(tmp_path / "run", EnvSpec("CartPole-v1"), high, last, newest=(high, low, last))
    entries = stored_episodes(run)
    assert [choose(entries, which)["return"] for which in ("best", "newest", "0", "1", "2")] == [9, 5, 9, 5, 1]
    for which in ("3", "-1", "worst"):
        with pytest.raises(UserError, match=rf"--episode {which} must be best, newest or a rank.* 0 to 2"):
            choose(entries, which)


def test_errors_distinguish_missing_episodes_from_damaged_files(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", EnvSpec("CartPole-v1"))
    with pytest.raises(UserError, match="has no stored episode yet"):
        record_video(run)
    for text in ("not JSON", '[{"return": 1}]', "[3]"):
        (run.episodes / "best.json").write_text(text)
        with pytest.raises(UserError, match=r"best\.json is damaged"):
            record_video(run)


def test_only_mp4_is_written(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", EnvSpec("CartPole-v1"), made_up(1.0, 10, 0))
    with pytest.raises(UserError, match=r"--out film\.gif must end in \.mp4"):
        record_video(run, Path("film.gif"))


def test_an_environment_that_cannot_be_rendered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium

    class Dark(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(0, 1, (1,))
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(1, np.float32), {}

    gymnasium.register("Dark-v0", lambda **options: Dark())
    try:
        run = run_of(tmp_path / "run", EnvSpec("Dark-v0", stack=1), made_up(1.0, 10, 0))
        with pytest.raises(UserError, match="Dark-v0 cannot be drawn"):
            record_video(run)
    finally:
        del gymnasium.registry["Dark-v0"]
