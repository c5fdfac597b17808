"""Sessions for tests: untrained agents, a clock that moves by hand, and messages as the browser reads them."""

from collections import deque
from typing import Any

import numpy as np

from q2pi.algorithms.base import Agent
from q2pi.algorithms.build import build_agent
from q2pi.algorithms.registry import default_config
from q2pi.config import override, resolve
from q2pi.envs.make import make_envs
from q2pi.errors import UserError
from q2pi.types import Array
from q2pi.viewer.message import unpack
from q2pi.viewer.session import Session
from q2pi.viewer.source import Loaded


def new_agent(algorithm: str, options: dict[str, Any]) -> tuple[Agent, Array]:
    """Return an untrained agent and the first observation of its environment."""
    config = resolve(override(default_config(algorithm), options))
    envs = make_envs(config.env, config.num_envs, config.seed)
    observation = envs.reset()[0]
    agent = build_agent(config, envs)
    envs.close()
    return agent, observation


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeSource:
    """A source whose agent and problems are set by the test."""

    def __init__(self, loaded: Loaded | None, title: str = "fake") -> None:
        self.loaded, self.title = loaded, title
        self.problem = ""

    def load(self) -> Loaded:
        if self.loaded is None:
            raise UserError("no checkpoint yet")
        return self.loaded

    def refresh(self, loaded: Loaded) -> tuple[Loaded, str]:
        assert self.loaded is not None
        return self.loaded, self.problem


class Stage:
    """A session with the browser's side of it."""

    def __init__(self, *sources: Any) -> None:
        self.clock, self.commands = Clock(), deque[dict[str, Any]]()
        self.session = Session(sources, self.commands, seed=1, clock=self.clock)
        self.values: list[list[float | None]] = []
        self.head: dict[str, Any] = {}
        self.pictures: dict[str, bytes] = {}
        self.episode = -1

    def tick(self, seconds: float = 0.0) -> bool:
        """Let seconds pass, tick once, and return whether a message came."""
        self.clock.now += seconds
        message, _ = self.session.tick()
        if message is None:
            return False
        self.head, self.pictures = unpack(message)
        if self.head["episode"] != self.episode:
            self.episode, self.values = self.head["episode"], []
        if "values" in self.head:
            del self.values[self.head["values_from"] :]
            self.values += self.head["values"]
        return True

    def do(self, name: str, value: Any = None, seconds: float = 0.0) -> dict[str, Any]:
        """Send a command and return the header of the message that follows."""
        self.commands.append({"do": name, "value": value})
        self.tick(seconds)
        return self.head

    def run(self, seconds: float, rate: float = 60.0) -> dict[str, Any]:
        """Let seconds pass in small steps."""
        for _ in range(round(seconds * rate)):
            self.tick(1 / rate)
        return self.head

    @property
    def panel(self) -> dict[str, Any]:
        panel: dict[str, Any] = self.head["panels"][0]
        return panel


class Scripted:
    """An agent with fixed Q-values that always takes one action; `weights` are its Q-values."""

    evaluation_policy = "scripted"

    def __init__(self, agent: Agent, weights: Array) -> None:
        self.spec, self.weights = agent.spec, weights

    def q_values(self, observation: Array) -> Array:
        return np.repeat(self.weights[None], len(observation), axis=0)

    def evaluation_act(self, observation: Array, noise: np.random.Generator) -> Array:
        return np.full(len(observation), self.weights.argmax())
