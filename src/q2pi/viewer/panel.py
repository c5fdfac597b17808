"""One agent of a session: its source, its player, and what the page shows of it."""

import math
from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from q2pi.types import Array
from q2pi.viewer.controls import labels
from q2pi.viewer.message import picture, saliency_picture, stack_picture
from q2pi.viewer.player import Moment, Player
from q2pi.viewer.source import Loaded, Source
from q2pi.viewer.thought import Histogram

NUMBERS_SHOWN = 16
"""Largest number of elements of a vector observation that are shown."""


class Panel:
    """An agent and its environment.

    Args:
        source: where the agent comes from.
        index: position on the page, from 0.
    """

    def __init__(self, source: Source, index: int) -> None:
        self.source, self.index = source, index
        self.note = ""
        """What is wrong with the source, for the page."""
        self.loaded: Loaded | None = None
        self.player: Player

    def refresh(self, seed: int) -> bool:
        """Load the agent or a newer one; return whether the episode must start again.

        Raises:
            UserError: there is no agent yet.
        """
        if self.loaded is None:
            loaded = self.source.load()
            self.player = Player(loaded.agent, loaded.config.env, seed)
            self.loaded, self.note = loaded, ""
            return True
        loaded, self.note = self.source.refresh(self.loaded)
        is_other_agent = loaded.agent is not self.loaded.agent
        if is_other_agent:
            player = Player(loaded.agent, loaded.config.env, seed)
            self.player.close()
            self.player = player
        self.loaded = loaded
        return is_other_agent

    def close(self) -> None:
        if self.loaded is not None:
            self.player.close()

    def show(
        self, recorded: Sequence[Any] | None, held: Set[str] | None
    ) -> tuple[dict[str, Any], dict[str, tuple[str, bytes]]]:
        """Return (description, pictures) of the player's moment.

        Args:
            recorded: actions of the recorded episode that is recreated; None if the episode is live.
            held: keys that are held if a person plays; None if not.
        """
        assert self.loaded is not None
        moment, player, config = self.player.moment, self.player, self.loaded.config
        action = moment.action
        by = "you" if held is not None else "agent" if recorded is None else "recording"
        if held is not None:
            chosen = player.controls.action(held)
            action = chosen if chosen is None or np.ndim(chosen) else chosen + player.first_action
        elif recorded is not None:
            action = recorded[moment.step] if moment.step < len(recorded) else None
        discrete = action is not None and not np.ndim(action)
        described = {
            "algorithm": config.algorithm,
            "env": config.env.env_id,
            "checkpoint": self.loaded.step,
            "policy": self.loaded.agent.evaluation_policy,
            "names": labels(player.controls.names, len(moment.thought.numbers)),
            "keys": player.controls.help,
            "waits": not player.controls.is_real_time,
            "kind": moment.thought.kind,
            "numbers": [_number(number) for number in moment.thought.numbers.tolist()],
            "value": None if moment.is_terminal else _number(moment.thought.value),
            "estimates": moment.thought.value is not None,
            "chosen": int(action) - player.first_action if discrete else None,
            "by": by,
            "step": moment.step,
            "return": _number(moment.episode_return),
            "reward": _number(moment.reward),
            "seed": player.seed,
            "ended": moment.has_ended,
            "stack": player.envs.stack,
            "shape": list(moment.observation.shape),
            "cannot_draw": player.cannot_draw,
            "distribution": _distribution(moment.thought.distribution),
            **self._vector(moment),
        }
        return described, self._pictures(moment)

    def _vector(self, moment: Moment) -> dict[str, Any]:
        """Return the numbers of a vector observation and their saliency."""
        if moment.observation.ndim == 3:
            return {"observation": None, "gradient": None}
        saliency = moment.thought.saliency
        return {
            "observation": _numbers(moment.observation),
            "gradient": None if saliency is None else _numbers(saliency),
        }

    def _pictures(self, moment: Moment) -> dict[str, tuple[str, bytes]]:
        pictures = {}
        if moment.screen is not None:
            pictures[f"screen {self.index}"] = picture(moment.screen)
        if moment.observation.ndim == 3 and moment.observation.dtype == np.uint8:
            pictures[f"stack {self.index}"] = picture(stack_picture(moment.observation, self.player.envs.stack))
            if moment.thought.saliency is not None:
                pictures[f"saliency {self.index}"] = picture(saliency_picture(moment.thought.saliency))
        return pictures


def _distribution(shown: Histogram | None) -> dict[str, Any] | None:
    """Return a histogram as the browser draws it."""
    if shown is None or not np.isfinite([shown.low, shown.high]).all():
        return None
    return {"low": shown.low, "high": shown.high, "rows": shown.probabilities.round(4).tolist()}


def _number(value: float | None) -> float | None:
    """Return a number that JSON can hold: None for NaN and infinities."""
    return None if value is None or not math.isfinite(value) else float(value)


def _numbers(values: Array) -> list[float | None]:
    return [_number(value) for value in values.reshape(-1)[:NUMBERS_SHOWN].tolist()]
