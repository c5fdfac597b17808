"""The Atari engine against a slow oracle: one emulator, stepped frame by frame."""

import threading
from typing import Any

import numpy as np
import pytest
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv

from q2pi.envs import atari
from q2pi.envs.atari import AtariEngine, action_names, mirrored_actions, raw_screen
from q2pi.envs.interface import Frames
from q2pi.envs.names import atari_roms
from q2pi.envs.resize import AreaResize
from q2pi.envs.spec import SPACE_INVADERS_CROP, EnvSpec, resolve
from q2pi.types import Array

EMPTY_CROP = (0, 0, 0, 0)


def engine_of(num_envs: int, env_id: str, **options: Any) -> AtariEngine:
    return AtariEngine(resolve(EnvSpec(env_id, **options)), num_envs)


def reset_all(engine: AtariEngine, *seeds: int) -> Frames:
    return engine.reset(np.ones(engine.num_envs, np.bool_), np.array(seeds))


def step(engine: AtariEngine, *actions: int) -> Frames:
    engine.send(np.array(actions))
    return engine.recv()


class SlowEmulator:
    """Slow oracle with one ALE emulator: raw gray frames, max-pooled over the last two of each step."""

    def __init__(self, env_id: str, seed: int, frame_skip: int = 4) -> None:
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.emulator = ALEInterface()
        self.emulator.setFloat("repeat_action_probability", 0.0)
        self.emulator.setInt("random_seed", seed)
        path = roms.get_rom_path(atari_roms()[env_id])
        assert path is not None
        self.emulator.loadROM(path)
        self.actions = self.emulator.getMinimalActionSet()
        self.frame_skip = frame_skip

    def step(self, action: int) -> tuple[Array, float, bool, int]:
        screens, reward = [], 0.0
        for _ in range(self.frame_skip):
            reward += self.emulator.act(self.actions[action])
            screens.append(self.emulator.getScreenGrayscale())
            if self.emulator.game_over(with_truncation=False):
                break
        terminated = self.emulator.game_over(with_truncation=False)
        return np.max(screens[-2:], axis=0), reward, terminated, self.emulator.lives()


@pytest.mark.parametrize(("env_id", "frame_skip"), [("Breakout", 4), ("SpaceInvaders", 3), ("Pong", 2)])
def test_equals_the_slow_oracle(env_id: str, frame_skip: int) -> None:
    engine = engine_of(
        1, env_id, protocol="nature", noop_max=0, fire_on_reset=False, frame_skip=frame_skip, crop=EMPTY_CROP,
        resize=raw_screen(env_id),
    )  # fmt: skip
    slow = SlowEmulator(env_id, seed=5, frame_skip=frame_skip)
    reset_all(engine, 5)
    rewards = 0.0
    for action in np.random.default_rng(0).integers(engine.action_space.n, size=400):
        frames = step(engine, action)
        frame, reward, terminated, lives = slow.step(action)
        assert (frames.reward[0], frames.terminated[0], frames.lives[0]) == (reward, terminated, lives)
        rewards += abs(reward)
        if terminated:
            break
        np.testing.assert_array_equal(frames.frame[0, 0], frame)
    assert rewards > 0
    engine.close()


@pytest.mark.parametrize(
    ("env_id", "protocol"), [("Breakout", "nature"), ("Pong", "machado"), ("SpaceInvaders", "machado")]
)
def test_a_partial_reset_starts_a_new_game(env_id: str, protocol: Any) -> None:
    """Games started at different times equal games with the same seeds that run alone."""
    engine = engine_of(3, env_id, protocol=protocol)
    start_seeds = {(0, 0): 11, (1, 0): 12, (2, 0): 13, (1, 52): 21, (0, 70): 14, (2, 70): 11}
    frames = reset_all(engine, 11, 12, 13)
    actions = np.random.default_rng(0).integers(engine.action_space.n, size=(140, 3))
    frames_seen = {key: [frames.frame[key[0]]] for key in start_seeds if key[1] == 0}
    current = {game: (game, 0) for game in range(3)}
    rewards: dict[tuple[int, int], list[float]] = {key: [] for key in start_seeds}
    for time in range(140):
        starts = [key for key in start_seeds if key[1] == time > 0]
        if starts:
            mask, seeds = np.zeros(3, np.bool_), np.zeros(3, np.int64)
            for game, _ in starts:
                current[game] = (game, time)
                mask[game], seeds[game] = True, start_seeds[game, time]
            frames = engine.reset(mask, seeds)
            for key in starts:
                frames_seen[key] = [frames.frame[key[0]]]
        frames = step(engine, *actions[time])
        for game, key in current.items():
            frames_seen[key].append(frames.frame[game])
            rewards[key].append(float(frames.reward[game]))
    engine.close()
    alone = engine_of(1, env_id, protocol=protocol)
    for (game, start), seed in start_seeds.items():
        frames = reset_all(alone, seed)
        for offset, expected in enumerate(frames_seen[game, start]):
            np.testing.assert_array_equal(frames.frame[0], expected)
            if offset < len(rewards[game, start]):
                frames = step(alone, actions[start + offset, game])
                assert frames.reward[0] == rewards[game, start][offset]
    alone.close()


def test_sticky_actions_depend_on_the_seed() -> None:
    """Negative control of the partial reset: with another seed, the same actions give other frames."""
    engine = engine_of(2, "SpaceInvaders")
    reset_all(engine, 1, 2)
    actions = np.random.default_rng(0).integers(6, size=80)
    frames = [step(engine, action, action).frame for action in actions]
    assert any((frame[0] != frame[1]).any() for frame in frames)
    engine.close()


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (1, 84, 84)),
        ({"grayscale": False}, (3, 84, 84)),
        ({"crop": SPACE_INVADERS_CROP, "resize": (60, 50)}, (1, 60, 50)),
        ({"crop": SPACE_INVADERS_CROP, "grayscale": False}, (3, 84, 84)),
    ],
)
def test_shapes(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    engine = engine_of(2, "SpaceInvaders", **options)
    frames = reset_all(engine, 1, 2)
    assert engine.frame_space.shape == shape
    for received in (frames, step(engine, 0, 0)):
        assert received.frame.shape == (2, *shape)
        assert received.frame.flags.c_contiguous
        assert [array.dtype.name for array in (received.frame, received.reward, received.lives)] == [
            "uint8",
            "float64",
            "int64",
        ]
    engine.close()


@pytest.mark.parametrize("grayscale", [True, False])
@pytest.mark.parametrize(("env_id", "size"), [("SpaceInvaders", (84, 84)), ("JourneyEscape", (105, 80))])
def test_our_resize_agrees_with_the_engines(env_id: str, size: tuple[int, int], grayscale: bool) -> None:
    ours = engine_of(1, env_id, crop=EMPTY_CROP, resize=size, grayscale=grayscale)
    theirs = engine_of(1, env_id, resize=size, grayscale=grayscale)
    reset_all(ours, 3)
    reset_all(theirs, 3)
    for action in np.random.default_rng(0).integers(6, size=40):
        difference = step(ours, action).frame.astype(int) - step(theirs, action).frame
        assert np.abs(difference).max() <= 1
    ours.close()
    theirs.close()


def test_a_crop_keeps_the_middle_of_the_raw_frame() -> None:
    raw = engine_of(1, "SpaceInvaders", crop=EMPTY_CROP, resize=(210, 160))
    cropped = engine_of(1, "SpaceInvaders", crop=(22, 15, 8, 4), resize=(90, 70))
    reset_all(raw, 3)
    reset_all(cropped, 3)
    for _ in range(5):
        frame, prepared = step(cropped, 1).frame, step(raw, 1).frame[:, :, 22 : 210 - 15, 8 : 160 - 4]
        np.testing.assert_array_equal(frame, AreaResize((173, 148), (90, 70))(prepared))
    raw.close()
    cropped.close()


def test_channels_are_red_green_and_blue() -> None:
    engine = engine_of(1, "SpaceInvaders", grayscale=False, crop=EMPTY_CROP, resize=(210, 160))
    reset_all(engine, 1)
    slow = SlowEmulator("SpaceInvaders", seed=1)
    frame = step(engine, 0).frame[0]
    slow.step(0)
    ground = np.s_[200:205, 60:80]
    np.testing.assert_array_equal(frame[(..., *ground)], slow.emulator.getScreenRGB()[ground].transpose(2, 0, 1))
    engine.close()


@pytest.mark.parametrize(
    ("max_frames", "frame_skip", "steps"), [(40, 4, 10), (41, 4, 11), (43, 4, 11), (44, 4, 11), (40, 2, 20), (1, 4, 1)]
)
def test_the_bound_counts_emulator_frames(max_frames: int, frame_skip: int, steps: int) -> None:
    engine = engine_of(2, "Breakout", protocol="nature", max_frames_per_episode=max_frames, frame_skip=frame_skip)
    reset_all(engine, 1, 2)
    for taken in range(1, steps + 1):
        frames = step(engine, 0, 0)
        assert frames.truncated.tolist() == [taken == steps] * 2
        assert not frames.terminated.any()
    # A game that starts later has the full limit.
    engine.reset(np.array([True, False]), np.array([3, 0]))
    assert step(engine, 0, 0).truncated.tolist() == [steps == 1, True]
    engine.close()


def test_the_final_frame_of_a_truncated_episode_is_complete() -> None:
    """Negative control: with ALE's own limit the final frame is not complete."""
    actions = [2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2]

    def final_frame(engine: AtariEngine) -> Array:
        reset_all(engine, 1)
        return [step(engine, action) for action in actions][-1].frame

    whole, bounded = (engine_of(1, "Breakout", max_frames_per_episode=most) for most in (1000, 41))
    truth = final_frame(whole)
    np.testing.assert_array_equal(final_frame(bounded), truth)
    cut = AtariVectorEnv("breakout", 1, stack_num=1, noop_max=0, use_fire_reset=False, max_num_frames_per_episode=41,
                         repeat_action_probability=0.25)  # fmt: skip
    cut.reset(seed=np.array([1]))
    received = [cut.step(np.array([action])) for action in actions][-1]
    assert received[3].all()
    assert (received[0] != truth).any()


def test_actions_outside_the_action_space_are_rejected() -> None:
    engine = engine_of(2, "Breakout")
    reset_all(engine, 1, 2)
    for bad in (4, -1):
        with pytest.raises(ValueError, match=r"must be in \[0, 4\)"):
            engine.send(np.array([0, bad]))
    assert engine_of(1, "Breakout", full_action_space=True).action_space.n == 18
    engine.close()


def test_returned_frames_are_never_overwritten() -> None:
    engine = engine_of(2, "SpaceInvaders")
    kept = [reset_all(engine, 1, 2).frame]
    copies = [kept[0].copy()]
    for _ in range(20):
        kept.append(step(engine, 1, 1).frame)
        copies.append(kept[-1].copy())
    engine.reset(np.array([True, False]), np.array([3, 0]))
    np.testing.assert_array_equal(kept, copies)
    engine.close()


def test_games_are_independent() -> None:
    engine, alone = engine_of(3, "Pong"), engine_of(1, "Pong")
    reset_all(engine, 1, 2, 3)
    reset_all(alone, 2)
    for _ in range(20):
        np.testing.assert_array_equal(step(alone, 3).frame[0], step(engine, 2, 3, 2).frame[1])
    engine.close()
    alone.close()


@pytest.mark.parametrize("prepared", [(5, 6), (5, 9), (9, 9), (9, 5)], ids=str)
def test_a_prepared_reset_does_not_change_the_episode(prepared: tuple[int, int]) -> None:
    """Game 1 continues with seeds 5 and 6, whichever seeds were prepared and on whichever emulator."""
    engine, alone = engine_of(2, "SpaceInvaders"), engine_of(1, "SpaceInvaders")
    reset_all(engine, 1, 2)
    actions = np.random.default_rng(0).integers(6, size=60)
    for seed, other in zip((5, 6), prepared, strict=True):
        engine.prepare_reset(1, other)
        step(engine, 3, 3)
        frames, own = engine.reset(np.array([False, True]), np.array([0, seed])), reset_all(alone, seed)
        for action in actions:
            np.testing.assert_array_equal(frames.frame[1], own.frame[0])
            assert frames.lives[1] == own.lives[0]
            frames, own = step(engine, 2, action), step(alone, action)
    engine.close()
    alone.close()


def test_a_reset_is_prepared_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither `prepare_reset` nor a step waits for the prepared reset, which runs once; otherwise `reset` resets."""
    reset_seeds, release = [], threading.Event()
    reset = atari._reset

    def slow(emulator: Any, make: Any, seed: int) -> Any:
        reset_seeds.append(seed)
        if seed == 7:
            assert release.wait(30)
        return reset(emulator, make, seed)

    monkeypatch.setattr(atari, "_reset", slow)
    engine = engine_of(2, "Pong")
    reset_all(engine, 1, 2)
    for _ in range(2):
        engine.prepare_reset(0, 7)
        step(engine, 2, 2)
    release.set()
    engine.reset(np.array([True, False]), np.array([7, 0]))
    engine.reset(np.array([True, False]), np.array([8, 0]))
    assert reset_seeds == [1, 2, 7, 8]
    engine.close()


@pytest.mark.parametrize(("noop_max", "least", "most"), [(30, 2, 25), (10, 1, 8)])
def test_an_episode_begins_with_no_ops_up_to_the_bound(noop_max: int, least: int, most: int) -> None:
    """The first frame is that after n no-ops of a plain emulator, n < noop_max; Freeway's frames all differ."""
    plain = SlowEmulator("Freeway", seed=1).emulator
    screens = [plain.getScreenGrayscale()]
    for _ in range(40):
        plain.act(0)
        screens.append(plain.getScreenGrayscale())
    assert len({screen.tobytes() for screen in screens}) == 41
    options = {"fire_on_reset": False, "crop": EMPTY_CROP, "resize": raw_screen("Freeway"), "max_pool": False}
    games = 24
    engine = engine_of(games, "Freeway", protocol="nature", noop_max=noop_max, **options)
    first = reset_all(engine, *range(games)).frame[:, 0]
    engine.close()
    counts = [next(n for n, screen in enumerate(screens) if np.array_equal(screen, frame)) for frame in first]
    assert max(counts) < noop_max
    assert min(counts) <= least
    assert max(counts) >= most
    assert len(set(counts)) >= 8


@pytest.mark.parametrize(("probability", "low", "high"), [(0.25, 0.1, 0.7), (0.9, 5, 15)])
def test_the_previous_action_is_repeated_with_the_probability(probability: float, low: float, high: float) -> None:
    """RIGHT at every frame: the no-op before is repeated p / (1 - p) times on average until the paddle moves."""
    games, right = 16, 2
    options = {"frame_skip": 1, "crop": EMPTY_CROP, "resize": raw_screen("Breakout"), "max_pool": False}
    engine = engine_of(games, "Breakout", repeat_action_probability=probability, **options)

    def paddle(frames: Frames) -> Array:
        return (frames.frame[:, 0, 190:193, 8:152].max(axis=1) > 0).argmax(axis=1)

    start = paddle(reset_all(engine, *range(games)))
    waits, waiting = np.zeros(games, np.int64), np.ones(games, np.bool_)
    while waiting.any():
        waiting &= paddle(step(engine, *[right] * games)) == start
        waits += waiting
    engine.close()
    assert waits.min() >= 1
    assert low <= waits.mean() - 1 <= high, "the screen is one frame late"


def test_an_episode_begins_with_fire_if_asked_for() -> None:
    """In Breakout the ball is served by FIRE alone."""
    ball = {}
    for fire in (True, False):
        engine = engine_of(1, "Breakout", protocol="nature", noop_max=0, fire_on_reset=fire)
        frames = [reset_all(engine, 1).frame, *(step(engine, 0).frame for _ in range(20))]
        ball[fire] = any((frame != frames[5]).any() for frame in frames[5:])
        engine.close()
    assert ball == {True: True, False: False}


def test_options_of_the_emulator() -> None:
    """Frame skip, max-pooling and the action space, each against another value."""
    assert engine_of(1, "Breakout").action_space.n == 4
    assert engine_of(1, "Breakout", full_action_space=True).action_space.n == 18
    raw = {"protocol": "nature", "noop_max": 0, "fire_on_reset": False, "crop": EMPTY_CROP}
    raw["resize"] = raw_screen("SpaceInvaders")
    for pooled in (True, False):
        engine, slow = engine_of(1, "SpaceInvaders", max_pool=pooled, **raw), SlowEmulator("SpaceInvaders", seed=5)
        reset_all(engine, 5)
        same = True
        for action in np.random.default_rng(0).integers(engine.action_space.n, size=60):
            same &= np.array_equal(step(engine, action).frame[0, 0], slow.step(action)[0])
        assert same == pooled
        engine.close()


PLAIN = [
    ("Breakout", {"protocol": "nature", "noop_max": 0}),
    ("Pong", {}),
    ("SpaceInvaders", {"grayscale": False}),
    ("MsPacman", {"max_pool": False, "full_action_space": True}),
]


@pytest.mark.parametrize(("env_id", "options"), PLAIN)
def test_the_plain_interface_gives_the_same_episode(env_id: str, options: dict[str, Any]) -> None:
    """Fire, sticky actions, colours and pooling; the stream of the no-ops is another one."""
    spec = resolve(EnvSpec(env_id, resize=raw_screen(env_id), crop=EMPTY_CROP, **options))
    engines = [AtariEngine(spec, 1), AtariEngine(spec, 1, plain=True)]
    fast, plain = (reset_all(engine, 3) for engine in engines)
    np.testing.assert_array_equal(fast.frame, plain.frame)
    for action in np.random.default_rng(0).integers(engines[0].action_space.n, size=120):
        fast, plain = (step(engine, action) for engine in engines)
        for name in ("reward", "terminated", "lives"):
            assert getattr(fast, name)[0] == getattr(plain, name)[0]
        if fast.terminated[0]:
            break
        np.testing.assert_array_equal(fast.frame, plain.frame)
    for engine in engines:
        engine.close()


def memory_after(actions: list[int], **options: Any) -> Array:
    engine = engine_of(1, "Pong", obs_type="ram", **options)
    frames = reset_all(engine, 3)
    for action in actions:
        frames = step(engine, action)
    return frames.frame[0]


def test_memory_is_a_vector_in_0_to_1() -> None:
    engine = engine_of(2, "Pong", obs_type="ram")
    frame = reset_all(engine, 3, 4).frame
    assert (frame.dtype, frame.shape, engine.frame_space.shape) == (np.float32, (2, 128), (128,))
    slow = SlowEmulator("Pong", seed=3)
    np.testing.assert_array_equal(np.rint(frame[0] * 255).astype(np.uint8), slow.emulator.getRAM())
    assert engine.frame_space.contains(frame[0])
    engine.close()


def test_memory_after_steps_is_the_newest() -> None:
    slow = SlowEmulator("Pong", seed=3)
    for action in [2] * 10:
        slow.step(action)
    found = memory_after([2] * 10, repeat_action_probability=0.0)
    np.testing.assert_array_equal(np.rint(found * 255).astype(np.uint8), slow.emulator.getRAM())


@pytest.mark.parametrize("options", [{"mode": 1}, {"difficulty": 1}])
def test_modes_and_difficulties_change_the_game(options: dict[str, Any]) -> None:
    actions = [0] * 60
    assert not np.array_equal(memory_after(actions), memory_after(actions, **options))
    defaults = {"mode": 0, "difficulty": 0}
    np.testing.assert_array_equal(memory_after(actions), memory_after(actions, **defaults))


def test_a_mode_serves_images_too() -> None:
    engine = engine_of(1, "SpaceInvaders", mode=9, resize=(40, 50))
    assert reset_all(engine, 1).frame.shape == (1, 1, 40, 50)
    assert step(engine, 1).frame.any()
    engine.close()


def test_mirrored_actions_exchange_left_and_right() -> None:
    """Space Invaders: NOOP, FIRE, RIGHT, LEFT, RIGHTFIRE, LEFTFIRE; Freeway: NOOP, UP, DOWN; all 18 by their names."""
    assert mirrored_actions("SpaceInvaders", False) == [0, 1, 3, 2, 5, 4]
    assert mirrored_actions("Freeway", False) == [0, 1, 2]
    names = action_names("Freeway", True)
    pairs = {names[action]: names[image] for action, image in enumerate(mirrored_actions("Freeway", True))}
    assert len(pairs) == 18
    assert pairs["UPRIGHT"] == "UPLEFT"
    assert pairs["DOWNLEFTFIRE"] == "DOWNRIGHTFIRE"
    assert pairs["DOWNFIRE"] == "DOWNFIRE"
