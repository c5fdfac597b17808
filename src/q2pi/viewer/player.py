"""An agent in one environment, one step at a time, with a colour screen beside the agent's observations.

The episode is played twice in lockstep from the same seed and actions: with the preprocessing of the run for the agent,
and in colour for the screen, as a video is made.

    moment t    observation o_t -> thought about o_t -> chosen action a_t       (shown)
    advance     a_t, or the action of a person -> o_{t+1}, reward r_t -> moment t + 1
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from q2pi.algorithms.base import Agent
from q2pi.envs.make import make_envs
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.reports.video import make_renderer
from q2pi.rng import stream
from q2pi.types import Array
from q2pi.viewer.controls import controls_of
from q2pi.viewer.thought import Thought, think


@dataclass(frozen=True)
class Moment:
    """One step of an episode, to be shown."""

    step: int
    """Agent steps since the start of the episode."""
    screen: Array | None
    """[H, W, 3] uint8; None if the environment cannot be drawn."""
    observation: Array
    """[*observation_shape], the input of the network."""
    thought: Thought
    action: Any
    """The agent's choice in the environment's numbering; None after the end of the episode."""
    episode_return: float
    """Sum of raw rewards so far."""
    reward: float
    """Raw reward of the newest step."""
    has_ended: bool
    is_terminal: bool
    """Whether the environment terminated: the observation has no value, and networks were not trained on it."""


class _Pending:
    """The actions of a renderer's episode: each is set just before it is taken."""

    def __init__(self) -> None:
        self.action: Any = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.action


class Player:
    """Plays episodes of one environment with one agent.

    Args:
        agent: acts with its evaluation policy; `agent` may be replaced by a newer one between two steps.
        spec: specification of the environment.
        seed: seed of the first episode.
    """

    def __init__(self, agent: Agent, spec: EnvSpec, seed: int) -> None:
        self.agent, self.spec = agent, spec
        self.envs = make_envs(spec, 1, 0)
        self.controls = controls_of(self.envs.spec, self.envs.action_space)
        self.first_action = int(getattr(self.envs.action_space, "start", 0))
        self.fps = make_renderer(spec).fps
        self.with_saliency = True
        self.cannot_draw = ""
        """Why the environment has no screen; "" if it has one."""
        self._screens: Iterator[tuple[Array, float, bool]] | None = None
        self.restart(seed)

    def restart(self, seed: int, actions: list[Any] | None = None) -> Moment:
        """Start the episode of a seed, take the given actions, and return the moment after them.

        Raises:
            UserError: the episode ends before the last of the actions.
        """
        self.seed = seed
        self.actions: list[Any] = []
        self._close_screens()
        self.envs.seed_of = lambda env_index, episode_index: seed
        observation = self.envs.reset()[0]
        screen = self._open_screens(seed)
        self._state = (screen, observation, 0.0, 0.0, False, False)
        for action in actions or []:
            if self._state[4]:
                raise UserError(
                    f"the episode of seed {seed} ended after {len(self.actions)} of {len(actions or [])} steps"
                )
            self._take(action)
        return self._think()

    def advance(self, action: Any = None) -> Moment:
        """Take one step with an action of the environment, or with the agent's choice, and return the new moment."""
        self._take(self.moment.action if action is None else action)
        return self._think()

    def close(self) -> None:
        """Close the environments."""
        self._close_screens()
        self.envs.close()

    def _take(self, action: Any) -> None:
        episode_return = self._state[2]
        self.envs.send(np.array([action]))
        step = self.envs.recv()
        reward = float(step.reward[0])
        self.actions.append(action)
        screen = self._next_screen(action)
        has_ended, is_terminal = bool(step.ended[0]), bool(step.terminated[0])
        observation = step.next_observation[0]
        self._state = (screen, observation, episode_return + reward, reward, has_ended, is_terminal)

    def _think(self) -> Moment:
        screen, observation, episode_return, reward, has_ended, is_terminal = self._state
        thought = think(self.agent, observation, self.with_saliency)
        action = None
        if not has_ended:
            noise = stream(self.seed, "watch-noise", len(self.actions))
            if thought.q is None:
                chosen = self.agent.evaluation_act(observation[None], noise)[0]
            else:
                chosen = self.agent.evaluation_act(observation[None], noise, thought.q[None])[0]  # type: ignore[call-arg]
            action = chosen if np.ndim(chosen) else chosen.item()
        self.moment = Moment(
            step=len(self.actions),
            screen=screen,
            observation=observation,
            thought=thought,
            action=action,
            episode_return=episode_return,
            reward=reward,
            has_ended=has_ended,
            is_terminal=is_terminal,
        )
        return self.moment

    def _open_screens(self, seed: int) -> Array | None:
        self._pending = _Pending()
        self._screens = make_renderer(self.spec).replay(seed, self._pending)
        return self._next_screen(None)

    def _next_screen(self, action: Any) -> Array | None:
        """Return the screen after an action, None if the environment cannot be drawn."""
        if self._screens is None:
            return None
        self._pending.action = action
        try:
            return next(self._screens)[0]
        except UserError as problem:
            self.cannot_draw, self._screens = str(problem), None
            return None

    def _close_screens(self) -> None:
        if self._screens is not None:
            self._screens.close()  # type: ignore[attr-defined]
            self._screens = None
