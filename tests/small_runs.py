"""Small runs for tests, and environments with known solutions."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig, override, resolve
from q2pi.equations import exact
from q2pi.runs import checkpoint
from q2pi.runs.checkpoint import digest
from q2pi.runs.folder import RunFolder
from q2pi.runs.recorder import Recorder
from q2pi.runs.sinks import Sink, TensorBoard
from q2pi.training.events import Checkpoint, Event, Finished
from q2pi.training.loop import run
from q2pi.types import State

QUIET = {"device": "cpu", "threads": 1, "evaluation_episodes": 0, "log_frequency": 50}
CARTPOLE = QUIET | {
    "env_id": "CartPole-v1",
    "total_timesteps": 400,
    "num_envs": 4,
    "learning_starts": 64,
    "buffer_size": 200,
    "train_frequency": 4,
    "batch_size": 8,
    "target_network_frequency": 40,
    "checkpoint_frequency": 100,
    "hidden": (16,),
}
INVADERS = QUIET | {
    "env_id": "SpaceInvaders",
    "resize": (36, 36),
    "total_timesteps": 600,
    "num_envs": 3,
    "learning_starts": 100,
    "buffer_size": 1_000,
    "batch_size": 8,
    "target_network_frequency": 100,
    "checkpoint_frequency": 150,
}


def cartpole(**changes: Any) -> RunConfig[Any]:
    """Return DQN on CartPole: 400 agent steps, 84 updates, four checkpoints, a ring that wraps around."""
    return override(default_config("dqn"), CARTPOLE | changes)


def invaders(**changes: Any) -> RunConfig[Any]:
    """Return DQN on Space Invaders with frames of 36 x 36: 600 agent steps, 125 updates, four checkpoints."""
    return override(default_config("dqn"), INVADERS | changes)


def flags(options: dict[str, Any]) -> list[str]:
    """Return options as command-line arguments."""
    words: list[str] = []
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value])]
    return words


def write_events(run: RunFolder, events: Iterable[Event], seconds_before: float = 0.0) -> None:
    """Give events to the folder's sinks as `execute` does."""
    run.tensorboard.mkdir(exist_ok=True)
    events = list(events)
    step = events[0].step
    with run.locked(), ExitStack() as resources:
        sinks: list[Sink] = [TensorBoard(run.tensorboard, step), Recorder(run, step, seconds_before)]
        for sink in sinks:
            resources.callback(sink.close)
        for event in events:
            for sink in sinks:
                if isinstance(event, Checkpoint | Finished):
                    sink.flush()
                sink.write(event)


def digests(config: RunConfig[Any], state: State | None = None, keep: tuple[int, Path] | None = None) -> dict[int, str]:
    """Return the digest of each checkpoint by step; save the checkpoint of step `keep[0]` in folder `keep[1]`."""
    found = {}
    for event in run(resolve(config), state):
        if isinstance(event, Checkpoint):
            found[event.step] = digest(event.state)
            if keep is not None and event.step == keep[0]:
                checkpoint.save(keep[1], event.step, event.state)
    return found


class Chain(gymnasium.Env[Any, Any]):
    """`equations.exact.chain(5)` with one-hot states; action 1 in the last state terminates with reward 1."""

    mdp = exact.chain(5, gamma=0.9)
    observation_space = gymnasium.spaces.Box(0, 1, (5,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(self.mdp.reward[self.place, action])
        ways = self.mdp.transition[self.place, action]
        if ways.sum() == 0:
            return self._observe(), reward, True, False, {}
        self.place = int(ways.argmax())
        return self._observe(), reward, False, False, {}

    def _observe(self) -> Any:
        return np.eye(5, dtype=np.float32)[self.place]


class Steady(gymnasium.Env[Any, Any]):
    """One state, the same reward at every step; after `length` steps the episode is terminated or truncated."""

    observation_space = gymnasium.spaces.Box(1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length: int = 2, ending: str = "truncated", reward: float = 1.0) -> None:
        self.length, self.ending, self.reward = length, ending, reward

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        ended = self.steps == self.length
        return np.ones(1, np.float32), self.reward, ended and self.ending == "terminated", ended, {}


class ShortOrLong(gymnasium.Env[Any, Any]):
    """Episodes of 1 step after an odd seed and of 20 after an even one, with reward 1 per step."""

    observation_space = gymnasium.spaces.Box(1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        assert seed is not None
        self.left = length_after(seed)
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return np.ones(1, np.float32), 1.0, self.left == 0, False, {}


def length_after(seed: int) -> int:
    """Return the length of `ShortOrLong`'s episode after a seed."""
    return 1 if seed % 2 else 20


gymnasium.register("Chain-v0", Chain)
gymnasium.register("Truncated-v0", Steady, kwargs={"ending": "truncated"})
gymnasium.register("Terminated-v0", Steady, kwargs={"ending": "terminated"})
gymnasium.register("Paying-v0", Steady, kwargs={"ending": "terminated", "length": 4, "reward": 5.0})
gymnasium.register("ShortOrLong-v0", ShortOrLong)
