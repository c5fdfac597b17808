"""One Atari game on ALE's plain interface, which offers the memory, modes and difficulties of the console.

The class has the methods of `ale_py.vector_env.AtariVectorEnv` that `atari.AtariEngine` calls, for one game. The same
seed and actions give the same raw screens, rewards and lives. A step is made in `recv`, not in a thread.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from q2pi.types import Array

if TYPE_CHECKING:
    from q2pi.envs.spec import EnvSpec

_FIRE = 1
"""Number of the action FIRE among all 18."""


class AleEmulator:
    """One game, as raw screens: gray [1, 1, H, W], colour [1, 1, H, W, 3], or the memory [1, 1, 128]; all uint8.

    Args:
        spec: a resolved specification.
        rom: path of the game.
    """

    def __init__(self, spec: "EnvSpec", rom: Any) -> None:
        import ale_py
        from gymnasium.spaces import Discrete

        self._spec, self._rom = spec, rom
        self._emulator = ale_py.ALEInterface()
        self._emulator.setFloat("repeat_action_probability", float(spec.repeat_action_probability or 0.0))
        self._emulator.loadROM(rom)
        emulator = self._emulator
        self._actions = emulator.getLegalActionSet() if spec.full_action_space else emulator.getMinimalActionSet()
        self.single_action_space = Discrete(len(self._actions))
        self._action = 0

    def reset(self, *, seed: Array) -> tuple[Array, dict[str, Array]]:
        """Start an episode from a seed [1], with up to `noop_max` - 1 frames without action."""
        emulator, spec = self._emulator, self._spec
        emulator.setInt("random_seed", int(seed[0]))
        emulator.loadROM(self._rom)
        if spec.mode is not None:
            emulator.setMode(spec.mode)
        if spec.difficulty is not None:
            emulator.setDifficulty(spec.difficulty)
        if spec.mode is not None or spec.difficulty is not None:
            emulator.reset_game()  # a mode acts from the next reset on
        legal = emulator.getLegalActionSet()
        for _ in range(int(np.random.default_rng(int(seed[0])).integers(max(1, spec.noop_max or 0)))):
            emulator.act(legal[0])
            if emulator.game_over(with_truncation=False):
                emulator.reset_game()
        if spec.fire_on_reset and legal[_FIRE] in self._actions:
            emulator.act(legal[_FIRE])
        return self._screen()[None, None], {"lives": np.array([emulator.lives()])}

    def send(self, actions: Array) -> None:
        """Store an action [1]; `recv` takes it."""
        self._action = int(actions[0])

    def recv(self) -> tuple[Array, Array, Array, Array, dict[str, Array]]:
        """Return (screen, reward [1], terminated [1], truncated [1], {"lives": [1]}) of the action."""
        emulator, spec = self._emulator, self._spec
        assert spec.frame_skip is not None
        reward, screens = 0.0, []
        for frame in range(spec.frame_skip):
            reward += emulator.act(self._actions[self._action])
            if frame >= spec.frame_skip - 2:
                screens.append(self._screen())
            if emulator.game_over(with_truncation=False):
                screens.append(self._screen())
                break
        kept = screens[-2:] if spec.max_pool else screens[-1:]
        screen = np.maximum.reduce(kept)[None, None]
        terminated = np.array([emulator.game_over(with_truncation=False)])
        lives = {"lives": np.array([emulator.lives()])}
        return screen, np.array([reward]), terminated, np.array([False]), lives

    def close(self) -> None:
        """Do nothing: the emulator is freed with this object."""

    def _screen(self) -> Array:
        emulator = self._emulator
        if self._spec.obs_type == "ram":
            return np.asarray(emulator.getRAM())
        return np.asarray(emulator.getScreenGrayscale() if self._spec.grayscale else emulator.getScreenRGB())
