"""Engine for Atari games: each game runs on its own ALE thread.

The emulator runs at 60 Hz, the agent acts at 15 Hz. Below: frame skip 4, max-pooling and a stack of 4. `|` marks an
agent step, `p` the frame made from the emulator frames before it, `-` a frame of zeros:

    emulator frames   0 |  1  2  3  4 |  5  6  7  8 |  9 10 11 12 |
    action              |  a0 a0 a0 a0|  a1 a1 a1 a1|  a2 a2 a2 a2|
    pooled            0 |        3  4 |        7  8 |       11 12 |
    frame            p0 |    p1 = max |    p2 = max |    p3 = max |
    stack      - - - p0 |  - - p0 p1  |  - p0 p1 p2 | p0 p1 p2 p3 |
    reward              |   sum of 4  |   sum of 4  |   sum of 4  |

A frame is made in this order: gray, maximum of the last two, crop, resize by area. `vector.VectorEnv` stacks frames.
The emulator draws in every emulator frame whether the previous action is repeated.

Two things are done here and not by ALE. Time limits: if ALE truncates within a step, the final frame is max-pooled with
a frame of the step before, and learning bootstraps from it; so emulator frames are counted here and the step completes.
Resets: the emulator is reset with a seed before it can reset itself. If a game ends within a step, ALE's final frame is
one step old; nothing bootstraps from it.

A seeded reset takes as long as about 250 steps because ALE loads the ROM again. `prepare_reset` starts the next episode
of a game on a second emulator, so that the other games do not wait for its reset; then the two emulators swap.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from q2pi.envs.interface import Frames
from q2pi.envs.layout import Part, plain_part
from q2pi.envs.names import atari_roms, canonical
from q2pi.envs.resize import AreaResize
from q2pi.types import Array

if TYPE_CHECKING:
    from q2pi.envs.spec import EnvSpec

RAM_SIZE = 128
"""Bytes of the console's memory."""
_NO_LIMIT = 2**30
_FirstScreen = tuple[Any, Array, int]
"""An emulator after a reset, its screen [1, 1, h, w] or [1, 1, h, w, 3], and its lives."""


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


def mirrored_actions(env_id: str, full_action_space: bool) -> list[int]:
    """Return for each action the index of its mirror image: LEFT for RIGHT, RIGHTFIRE for LEFTFIRE, itself for UP."""
    names = action_names(env_id, full_action_space)
    mirrored = [name.replace("LEFT", "-").replace("RIGHT", "LEFT").replace("-", "RIGHT") for name in names]
    return [names.index(name) for name in mirrored]


@cache
def settings(env_id: str) -> tuple[list[int], list[int]]:
    """Return the modes and the difficulties that a game's cartridge offers."""
    emulator = _emulator(env_id)
    return list(emulator.getAvailableModes()), list(emulator.getAvailableDifficulties())


def _emulator(env_id: str) -> Any:
    """Return a plain emulator with the game loaded and its banner silenced."""
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    emulator = ale_py.ALEInterface()
    emulator.loadROM(_rom(env_id))
    return emulator


def _rom(env_id: str) -> Any:
    from ale_py import roms

    path = roms.get_rom_path(atari_roms()[canonical(env_id)])
    assert path is not None, f"ale_py lists {env_id} and does not hold it"
    return path


def needs_plain_interface(spec: "EnvSpec") -> bool:
    """Return whether a specification needs ALE's plain interface, whose no-ops follow another random stream."""
    return spec.obs_type == "ram" or spec.mode is not None or spec.difficulty is not None


class AtariEngine:
    """N copies of one Atari game, an `Engine`; frames are uint8 [1, h, w] in gray or [3, h, w] in colour.

    With `obs_type` ram, frames are the memory's bytes divided by 255, float32 [128].

    Args:
        spec: a resolved specification.
        num_envs: N.
        plain: whether to use ALE's plain interface even if the specification does not need it.
    """

    def __init__(self, spec: "EnvSpec", num_envs: int, *, plain: bool = False) -> None:
        from gymnasium.spaces import Box

        assert spec.frame_skip is not None
        assert spec.max_frames_per_episode is not None
        self.num_envs = num_envs
        self.is_known_reproducible = True
        self._frame_skip = spec.frame_skip
        self._max_frames = spec.max_frames_per_episode
        self._emulator_frames = np.zeros(num_envs, np.int64)
        self._grayscale = bool(spec.grayscale)
        self._is_ram = spec.obs_type == "ram"
        plain = plain or needs_plain_interface(spec)
        self._crop, self._resize = _crop_and_resize(spec, plain)
        self._make = _plain_maker(spec) if plain else _maker(spec)
        self._emulators = [self._make() for _ in range(num_envs)]
        self._spares: list[Any] = []
        self._prepared: dict[int, tuple[int, Future[_FirstScreen]]] = {}
        self._background = ThreadPoolExecutor(os.cpu_count())
        self._screens: list[Array] = [np.empty(0, np.uint8)] * num_envs
        self._lives = np.zeros(num_envs, np.int64)
        self.action_space: Any = self._emulators[0].single_action_space
        if self._is_ram:
            self.frame_space: Any = Box(0.0, 1.0, (RAM_SIZE,), np.float32)
        else:
            assert spec.resize is not None, "the specification is not resolved"
            self.frame_space = Box(0, 255, (1 if self._grayscale else 3, *spec.resize), np.uint8)
        self.parts: tuple[Part, ...] = (plain_part(self.frame_space),)
        self.observation_space: Any = None

    def reset(self, mask: Array, seeds: Array) -> Frames:
        """Start new episodes where mask [N] is true; the first mask must be all true."""
        env_indices = [int(env_index) for env_index in np.flatnonzero(mask)]
        resets = [self._start_reset(env_index, int(seeds[env_index])) for env_index in env_indices]
        for env_index, pending in zip(env_indices, resets, strict=True):
            emulator, self._screens[env_index], self._lives[env_index] = pending.result()
            if emulator is not self._emulators[env_index]:
                self._spares.append(self._emulators[env_index])
                self._emulators[env_index] = emulator
        self._emulator_frames[mask] = 0
        all_false = np.zeros(self.num_envs, np.bool_)
        return self._frames(np.zeros(self.num_envs), all_false, all_false)

    def prepare_reset(self, env_index: int, seed: int) -> None:
        """Start a game's next episode on a second emulator, in the background; `reset` with this seed uses it."""
        prepared = self._prepared.pop(env_index, None)
        if prepared is None or prepared[0] != seed:
            if prepared is not None:
                self._spares.append(prepared[1].result()[0])
            spare = self._spares.pop() if self._spares else None
            prepared = (seed, self._background.submit(_reset, spare, self._make, seed))
        self._prepared[env_index] = prepared

    def send(self, actions: Array) -> None:
        """Start a step with actions [N], integers; returns at once."""
        if actions.min() < 0 or actions.max() >= self.action_space.n:
            raise ValueError(f"actions must be in [0, {self.action_space.n}), got {actions}")
        for env_index, emulator in enumerate(self._emulators):
            emulator.send(actions[env_index : env_index + 1])

    def recv(self) -> Frames:
        """Wait for the step that `send` started."""
        reward, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
        self._lives = np.zeros(self.num_envs, np.int64)
        for env_index, emulator in enumerate(self._emulators):
            self._screens[env_index], (reward[env_index],), (terminated[env_index],), _, info = emulator.recv()
            self._lives[env_index] = info["lives"][0]
        self._emulator_frames += self._frame_skip
        return self._frames(reward, terminated, (self._emulator_frames >= self._max_frames) & ~terminated)

    def close(self) -> None:
        """Close the emulators."""
        self._background.shutdown()
        for emulator in self._emulators:
            emulator.close()

    def _start_reset(self, env_index: int, seed: int) -> "Future[_FirstScreen]":
        """Return the reset of a game: the prepared one if it has this seed, else one that starts now."""
        prepared = self._prepared.get(env_index)
        if prepared is not None and prepared[0] == seed:
            return self._prepared.pop(env_index)[1]
        return self._background.submit(_reset, self._emulators[env_index], self._make, seed)

    def _frames(self, reward: Array, terminated: Array, truncated: Array) -> Frames:
        """Return the result of a reset or a step, with the current screens and lives."""
        frame = self._frame(np.concatenate(self._screens))
        return Frames(frame, reward, terminated, truncated, self._lives.copy())

    def _frame(self, screens: Array) -> Array:
        """Turn the engine's [N, 1, H, W] gray or [N, 1, H, W, 3] colour screens into [N, C, h, w] frames.

        The memory, [N, 1, 128], becomes vectors [N, 128].
        """
        if self._is_ram:
            return screens[:, 0].astype(np.float32) / np.float32(255)
        frame = screens if self._grayscale else np.ascontiguousarray(np.moveaxis(screens[:, 0], -1, 1))
        return self._resize(frame[(..., *self._crop)]) if self._crop and self._resize else frame


def _crop_and_resize(spec: "EnvSpec", plain: bool) -> tuple[tuple[slice, slice] | None, AreaResize | None]:
    """Return the slices of the raw screen to keep and their resizing, or None twice if ALE resizes the whole screen."""
    if spec.resize is None or (spec.crop is None and not plain):
        return None, None
    height, width = raw_screen(spec.env_id)
    top, bottom, left, right = spec.crop or (0, 0, 0, 0)
    window = (slice(top, height - bottom), slice(left, width - right))
    return window, AreaResize((height - top - bottom, width - left - right), spec.resize)


def _maker(spec: "EnvSpec") -> Callable[[], Any]:
    """Return a function that makes one emulator for a resolved specification."""
    height, width = raw_screen(spec.env_id)  # also silences the emulator's banner
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


def _plain_maker(spec: "EnvSpec") -> Callable[[], Any]:
    """Return a function that makes one emulator on ALE's plain interface."""
    from q2pi.envs.ale_emulator import AleEmulator

    raw_screen(spec.env_id)  # silences the emulator's banner
    return partial(AleEmulator, spec, _rom(spec.env_id))


def _reset(emulator: Any, make: Callable[[], Any], seed: int) -> _FirstScreen:
    """Reset an emulator, or a new one if it is None."""
    emulator = emulator or make()
    screen, info = emulator.reset(seed=np.array([seed]))
    return emulator, screen, int(info["lives"][0])
