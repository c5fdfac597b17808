"""Atari games, each on a thread of ALE's own.

Emulator frames come at 60 Hz, the agent acts at 15. Below, frame skip 4, max-pool and a stack of 4; `|` marks a
decision, `p` the frame that comes of it, `-` a frame of zeros:

    emulator frames   0 |  1  2  3  4 |  5  6  7  8 |  9 10 11 12 |
    action              |  a0 a0 a0 a0|  a1 a1 a1 a1|  a2 a2 a2 a2|
    looked at         0 |        3  4 |        7  8 |       11 12 |
    frame            p0 |    p1 = max |    p2 = max |    p3 = max |
    stack      - - - p0 |  - - p0 p1  |  - p0 p1 p2 | p0 p1 p2 p3 |
    reward              |   sum of 4  |   sum of 4  |   sum of 4  |

A frame is made in this order: gray, maximum of the last two, crop, resize by area. Stacks are put together in
`games.VectorEnv`. Whether an action sticks is drawn anew in every emulator frame, by the emulator.

Two things are ours rather than the engine's. Time limits: cut off by the engine, an episode's final frame would mix the
step before into it, and learning bootstraps from that frame; so we count frames ourselves and let the step complete.
Endings: the engine is reset, seeded, before it can reset itself. Where a game is over within a step, the engine's final
frame is one step old; nothing is bootstrapped from it.

A seeded reset takes as long as some 250 steps, since ALE loads the game anew for it. So that not all games wait for
one, the next episode of a game may be begun on a second emulator while the first still plays; then they change places.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from q2pi.envs.names import atari_roms, canonical
from q2pi.envs.resize import AreaResize
from q2pi.envs.vector import Frames
from q2pi.types import Array

if TYPE_CHECKING:
    from q2pi.envs.spec import EnvSpec

_NO_LIMIT = 2**30
_Beginning = tuple[Any, Array, int]
"""An emulator, its first screen [1, 1, h, w] or [1, 1, h, w, 3], and its lives."""


@cache
def raw_screen(env_id: str) -> tuple[int, int]:
    """Return the height and width, in pixels, of a game's screen: 210 x 160 for most, up to 250 x 160."""
    height, width = _emulator(env_id).getScreenDims()
    return height, width


def action_names(env_id: str, full_action_space: bool) -> list[str]:
    """Return the names of a game's actions in the order of their indices, such as NOOP, FIRE, RIGHT."""
    emulator = _emulator(env_id)
    actions = emulator.getLegalActionSet() if full_action_space else emulator.getMinimalActionSet()
    return [action.name for action in actions]


def _emulator(env_id: str) -> Any:
    """Return a plain emulator with the game loaded and its banner silenced."""
    import ale_py
    from ale_py import roms

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    path = roms.get_rom_path(atari_roms()[canonical(env_id)])
    assert path is not None, f"ale_py lists {env_id} and does not hold it"
    emulator.loadROM(path)
    return emulator


class AtariEngine:
    """N copies of one Atari game, an `Engine`; frames are uint8 [1, h, w], or [3, h, w] in colour.

    Args:
        spec: a resolved specification.
        num_envs: N.
    """

    def __init__(self, spec: "EnvSpec", num_envs: int) -> None:
        from gymnasium.spaces import Box

        assert spec.resize is not None, "the specification is not resolved"
        assert spec.frame_skip is not None
        assert spec.max_frames_per_episode is not None
        self.num_envs = num_envs
        self._frame_skip = spec.frame_skip
        self._max_frames = spec.max_frames_per_episode
        self._elapsed = np.zeros(num_envs, np.int64)
        self._grayscale = bool(spec.grayscale)
        self._crop, self._resize = _crop_and_resize(spec)
        self._make = _maker(spec)
        self._emulators = [self._make() for _ in range(num_envs)]
        self._spares: list[Any] = []
        self._expected: dict[int, tuple[int, Future[_Beginning]]] = {}
        self._background = ThreadPoolExecutor(os.cpu_count())
        self._screens: list[Array] = [np.empty(0, np.uint8)] * num_envs
        self._lives = np.zeros(num_envs, np.int64)
        self.action_space: Any = self._emulators[0].single_action_space
        self.frame_space: Any = Box(0, 255, (1 if self._grayscale else 3, *spec.resize), np.uint8)

    def reset(self, mask: Array, seeds: Array) -> Frames:
        """Begin new episodes where mask [N] is true; the first reset must be of all games."""
        games = [int(game) for game in np.flatnonzero(mask)]
        beginnings = [self._begin(game, int(seeds[game])) for game in games]
        for game, beginning in zip(games, beginnings, strict=True):
            emulator, self._screens[game], self._lives[game] = beginning.result()
            if emulator is not self._emulators[game]:
                self._spares.append(self._emulators[game])
                self._emulators[game] = emulator
        self._elapsed[mask] = 0
        nothing = np.zeros(self.num_envs, np.bool_)
        return self._frames(np.zeros(self.num_envs, np.float32), nothing, nothing)

    def expect(self, game: int, seed: int) -> None:
        """Begin a game's next episode on a second emulator, in the background; `reset` with its seed will take it."""
        known = self._expected.pop(game, None)
        if known is None or known[0] != seed:
            if known is not None:
                self._spares.append(known[1].result()[0])
            spare = self._spares.pop() if self._spares else None
            known = (seed, self._background.submit(_begin, spare, self._make, seed))
        self._expected[game] = known

    def send(self, actions: Array) -> None:
        """Start a step under actions [N], whole numbers; returns at once."""
        if actions.min() < 0 or actions.max() >= self.action_space.n:
            raise ValueError(f"actions must lie in [0, {self.action_space.n}), got {actions}")
        for game, emulator in enumerate(self._emulators):
            emulator.send(actions[game : game + 1])

    def recv(self) -> Frames:
        """Wait for the step that was sent."""
        reward, terminated = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.bool_)
        self._lives = np.zeros(self.num_envs, np.int64)
        for game, emulator in enumerate(self._emulators):
            self._screens[game], (reward[game],), (terminated[game],), _, info = emulator.recv()
            self._lives[game] = info["lives"][0]
        self._elapsed += self._frame_skip
        return self._frames(reward, terminated, (self._elapsed >= self._max_frames) & ~terminated)

    def close(self) -> None:
        """Let go of the emulators."""
        self._background.shutdown()
        for emulator in self._emulators:
            emulator.close()

    def _begin(self, game: int, seed: int) -> "Future[_Beginning]":
        """Return the beginning of an episode: the expected one, or one that begins now where the last one played."""
        expected = self._expected.get(game)
        if expected is not None and expected[0] == seed:
            return self._expected.pop(game)[1]
        return self._background.submit(_begin, self._emulators[game], self._make, seed)

    def _frames(self, reward: Array, terminated: Array, truncated: Array) -> Frames:
        """Return what all games show."""
        frame = self._frame(np.concatenate(self._screens))
        return Frames(frame, reward, terminated, truncated, self._lives.copy())

    def _frame(self, screens: Array) -> Array:
        """Turn the engine's [N, 1, H, W] gray or [N, 1, H, W, 3] colour screens into [N, C, h, w] frames."""
        frame = screens if self._grayscale else np.ascontiguousarray(np.moveaxis(screens[:, 0], -1, 1))
        return self._resize(frame[(..., *self._crop)]) if self._crop and self._resize else frame


def _crop_and_resize(spec: "EnvSpec") -> tuple[tuple[slice, slice] | None, AreaResize | None]:
    """Return the window of the raw screen and the resizing of it, or neither where the engine resizes whole screens."""
    if spec.crop is None or spec.resize is None:
        return None, None
    height, width = raw_screen(spec.env_id)
    top, bottom, left, right = spec.crop
    window = (slice(top, height - bottom), slice(left, width - right))
    return window, AreaResize((height - top - bottom, width - left - right), spec.resize)


def _maker(spec: "EnvSpec") -> Callable[[], Any]:
    """Return a function that makes one emulator of a resolved specification."""
    height, width = raw_screen(spec.env_id)  # silences the emulator's banner, too
    if not spec.crop:
        assert spec.resize is not None
        height, width = spec.resize
    options: dict[str, Any] = {
        "num_threads": 1,
        "max_num_frames_per_episode": _NO_LIMIT,
        "repeat_action_probability": spec.repeat_action_probability,
        "full_action_space": spec.full_action_space,
        "img_height": height,
        "img_width": width,
        "grayscale": spec.grayscale,
        "stack_num": 1,
        "frameskip": spec.frame_skip,
        "maxpool": spec.max_pool,
        "noop_max": spec.noop_max,
        "use_fire_reset": spec.fire_on_reset,
        "episodic_life": False,
        "life_loss_info": False,
        "reward_clipping": False,
    }

    def make() -> Any:
        from ale_py.vector_env import AtariVectorEnv

        return AtariVectorEnv(atari_roms()[spec.env_id], 1, **options)

    return make


def _begin(emulator: Any, make: Callable[[], Any], seed: int) -> _Beginning:
    """Begin an episode on an emulator, or on a new one."""
    emulator = emulator or make()
    screen, info = emulator.reset(seed=np.array([seed]))
    return emulator, screen, int(info["lives"][0])
