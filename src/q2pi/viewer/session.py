"""What one browser tab shows: one or two agents on the same seed, played, paused, scrubbed, or taken over.

A session is driven by one thread at a time: commands from the browser wait in a queue, and `tick` applies them, takes
the steps that are due and returns the message to send.

    timeline    moment 0, 1, ..., frontier      the newest moment is where the environments are
    position    the moment that is shown        behind the frontier after scrubbing back
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from q2pi.errors import UserError
from q2pi.reports.video import stored_episodes
from q2pi.viewer.message import pack
from q2pi.viewer.panel import Panel
from q2pi.viewer.source import RunSource, Source
from q2pi.viewer.timeline import Shown, Timeline

SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0)
FASTEST = 60.0
"""Largest number of moments per second."""
REFRESH_SECONDS = 2.0
"""Seconds between two looks for a newer checkpoint."""
PAUSE_SECONDS = 1.2
"""Seconds for which the last moment of an episode is shown before the next episode."""
FILL_SECONDS = 0.02
"""Seconds per tick in which a recorded episode is recreated ahead of what is shown."""
IDLE_SECONDS = 0.25
"""Largest time between two ticks: a tick notices deleted runs and new checkpoints."""
SEED_BOUND = 2**31

Command = Mapping[str, Any]


class Session:
    """The state of one tab.

    Args:
        sources: one agent, or two that play side by side.
        commands: of the browser; any thread may append to it.
        seed: seed of the first episode; each next episode adds 1.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        commands: deque[dict[str, Any]],
        seed: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.panels = [Panel(source, index) for index, source in enumerate(sources)]
        self.clock = clock
        self.seed, self.speed, self.is_paused = seed, 1.0, False
        self.human: int | None = None
        """Panel that a person plays."""
        self.recording: dict[str, Any] | None = None
        """The recorded episode that is recreated; None plays live."""
        self.note = ""
        """Result of the recreation, for the page."""
        self.timeline = Timeline()
        self.position = 0
        self._held: frozenset[str] = frozenset()
        self._commands = commands
        self._due = self._refreshed = self.clock()
        self._is_ready = False
        self._changed = True
        self._sent = 0
        """Number of values that the browser has."""
        self._episode = 0
        self._error = ""
        self._recordings: list[dict[str, Any]] = []
        self._wanted: int | None = None
        """Position to show once the recorded episode is recreated up to it."""

    def tick(self) -> tuple[bytes | None, float]:
        """Do what is due; return (the message to send or None, seconds until the next tick is due)."""
        while self._commands:
            self._apply(self._commands.popleft())
        if self.clock() - self._refreshed >= REFRESH_SECONDS or not self._is_ready:
            self._refresh()
        delay = self._play() if self._is_ready else REFRESH_SECONDS
        message = self._message() if self._changed else None
        return message, delay

    def close(self) -> None:
        """Close the environments."""
        for panel in self.panels:
            panel.close()

    # What is due.

    def _refresh(self) -> None:
        """Load the agents, or replace them by newer ones."""
        self._refreshed = self.clock()
        before = (self._error, [panel.note for panel in self.panels])
        try:
            restarts = [panel.refresh(self.seed) for panel in self.panels]
            self._error = ""
        except UserError as problem:
            self._error, self._is_ready = str(problem), False
        else:
            if any(restarts) or not self._is_ready:
                self._is_ready = True
                self._restart()
            self._read_recordings()
        self._changed |= before != (self._error, [panel.note for panel in self.panels])

    def _read_recordings(self) -> None:
        found: list[dict[str, Any]] = []
        source = self.panels[0].source
        if len(self.panels) == 1 and isinstance(source, RunSource):
            # No episode yet, or a file that training replaces now: the next look finds it.
            with contextlib.suppress(UserError, OSError):
                found = stored_episodes(source.run)
        if found != self._recordings:
            self._recordings, self._changed = found, True

    def _play(self) -> float:
        """Take the steps that are due; return seconds until the next tick is due."""
        now = self.clock()
        is_filling = self._fill(now + FILL_SECONDS) if self.recording is not None else False
        if self.is_paused:
            return 0.0 if is_filling else IDLE_SECONDS
        if now < self._due:
            return 0.0 if is_filling else min(IDLE_SECONDS, self._due - now)
        self._forward()
        self._due = max(self._due + 1 / self._rate, now)
        return 0.0 if is_filling else max(0.0, min(IDLE_SECONDS, self._due - self.clock()))

    @property
    def _rate(self) -> float:
        """Moments per second."""
        return min(FASTEST, self.speed * min(panel.player.fps for panel in self.panels))

    def _fill(self, until: float) -> bool:
        """Recreate more of the recorded episode; return whether more is left."""
        assert self.recording is not None
        actions = self.recording["actions"]
        player = self.panels[0].player
        while len(self.timeline) <= len(actions) and not player.moment.has_ended:
            player.advance(actions[len(self.timeline) - 1])
            self._append()
            if self._wanted is not None:
                self._show(self._wanted)
                self._wanted = None if self.position == self._wanted else self._wanted
            if player.moment.has_ended or len(self.timeline) > len(actions):
                self.note, self._changed = self._comparison(), True
            if self.clock() >= until:
                return not self.note
        return False

    def _comparison(self) -> str:
        """Return whether the recreated episode is the recorded one, in words."""
        assert self.recording is not None
        moment, entry = self.panels[0].player.moment, self.recording
        if (moment.episode_return, moment.step, moment.has_ended) == (entry["return"], entry["length"], True):
            return f"recreated from its seed and actions: return {entry['return']:g}, as in training"
        return (
            f"not recreated: the return was {entry['return']:g} in {entry['length']:,} steps and is now "
            f"{moment.episode_return:g} in {moment.step:,} (was ALE or Gymnasium updated?)"
        )

    def _forward(self) -> None:
        """Show the next moment: a kept one, or one more step."""
        if self.position < len(self.timeline) - 1:
            self._show(self.position + 1)
        elif self.recording is None:
            self._step()

    def _step(self) -> None:
        """Take one step at the frontier, or start the next episode if all have ended."""
        players = [panel.player for panel in self.panels]
        if all(player.moment.has_ended for player in players):
            if not self.is_paused:
                self._restart(self.seed + 1)
            return
        if self.human is not None and not self._human_step():
            return
        for index, player in enumerate(players):
            if index != self.human and not player.moment.has_ended:
                player.advance()
        self._append()
        self._show(len(self.timeline) - 1)
        if all(player.moment.has_ended for player in players):
            self._due = self.clock() + PAUSE_SECONDS

    def _human_step(self) -> bool:
        """Take the person's step; return whether the episode goes on (False: it waits for a key)."""
        assert self.human is not None
        player = self.panels[self.human].player
        if player.moment.has_ended:
            return True
        action = player.controls.action(self._held)
        if action is None:
            return False
        player.advance(action if player.controls.low is not None else action + player.first_action)
        return True

    def _restart(self, seed: int | None = None) -> None:
        """Start the episode of a seed in every panel; by default of the current seed."""
        self.seed = (self.seed if seed is None else seed) % SEED_BOUND
        self.recording, self.note = None, ""
        for panel in self.panels:
            panel.player.restart(self.seed)
        self._new_timeline()

    def _new_timeline(self) -> None:
        self.timeline, self.position, self._sent, self._wanted = Timeline(), 0, 0, None
        self._episode += 1
        self._append()
        self._show(0)
        self._due = self.clock() + 1 / self._rate

    def _append(self) -> None:
        self.timeline.append(self._shown())

    def _shown(self) -> Shown:
        panels: list[dict[str, Any]] = []
        pictures: dict[str, tuple[str, bytes]] = {}
        values: list[float | None] = []
        for panel in self.panels:
            recorded = self.recording["actions"] if self.recording is not None else None
            is_played = self.human == panel.index
            described, pixels = panel.show(recorded, self._held if is_played else None)
            panels.append(described)
            pictures |= pixels
            values.append(described["value"])
        return Shown(panels, pictures, values)

    def _show(self, position: int) -> None:
        self.position, self._changed = max(self.timeline.first, min(position, len(self.timeline) - 1)), True

    # Commands.

    def _apply(self, command: Command) -> None:
        """Apply one command; a command that is malformed or that cannot apply now changes nothing."""
        name, value = command.get("do"), command.get("value")
        action = self._ACTIONS.get(name) if isinstance(name, str) else None
        if action is None or (name not in self._ALWAYS and not self._is_ready):
            return
        action(self, value)
        self._changed = True

    def _hello(self, _: Any) -> None:
        self._sent = 0

    def _pause(self, value: Any) -> None:
        self.is_paused = value is not False
        self._due = self.clock()

    def _one_step(self, value: Any) -> None:
        self.is_paused = True
        if value == -1:
            self._show(self.position - 1)
        else:
            self._forward()

    def _set_speed(self, value: Any) -> None:
        if value in SPEEDS:
            self.speed, self._due = float(value), self.clock()

    def _set_seed(self, value: Any) -> None:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < SEED_BOUND:
            self._restart(value)

    def _next_episode(self, _: Any) -> None:
        self._restart(self.seed + 1)

    def _seek(self, value: Any) -> None:
        if isinstance(value, int) and not isinstance(value, bool):
            self.is_paused = True
            self._show(value)
            is_ahead = self.recording is not None and len(self.timeline) <= value <= len(self.recording["actions"])
            self._wanted = value if is_ahead else None

    def _take_over(self, value: Any) -> None:
        """Give a panel to a person, or back to its agent; the episode goes on from the moment that is shown."""
        if value is not None and (not isinstance(value, int) or not 0 <= value < len(self.panels)):
            return
        self._branch()
        self.human, self._held = value, frozenset()
        self.is_paused, self._due = False, self.clock()
        self.timeline.replace_last(self._shown())

    def _branch(self) -> None:
        """Put the environments back to the moment that is shown, live."""
        self.recording, self.note, self._wanted = None, "", None
        if self.position == len(self.timeline) - 1:
            return
        for panel in self.panels:
            player = panel.player
            player.restart(player.seed, player.actions[: self.position])
        self.timeline.cut(self.position + 1)
        self._sent = min(self._sent, self.position)

    def _keys(self, value: Any) -> None:
        if isinstance(value, list) and len(value) < 16 and all(isinstance(key, str) for key in value):
            self._held = frozenset(value)

    def _recreate(self, value: Any) -> None:
        """Show a recorded episode by its index, or play live again."""
        if value is None and self.recording is not None:
            self._restart()
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(self._recordings):
            return
        self.recording, self.note, self.human = self._recordings[value], "", None
        self.panels[0].player.restart(int(self.recording["seed"]))
        self.is_paused = False
        self._new_timeline()

    def _saliency(self, value: Any) -> None:
        for panel in self.panels:
            panel.player.with_saliency = value is not False

    _ACTIONS: Mapping[str, Callable[["Session", Any], None]] = {
        "hello": _hello,
        "pause": _pause,
        "step": _one_step,
        "speed": _set_speed,
        "seed": _set_seed,
        "next": _next_episode,
        "seek": _seek,
        "human": _take_over,
        "keys": _keys,
        "recording": _recreate,
        "saliency": _saliency,
    }
    _ALWAYS = ("hello",)

    # The message.

    def _progress(self) -> str:
        """Return how far a recorded episode is recreated, "" if the episode is live."""
        if self.recording is None:
            return ""
        return f"recreating the episode: {len(self.timeline) - 1:,} of {len(self.recording['actions']):,} steps"

    def _message(self) -> bytes:
        self._changed = False
        header: dict[str, Any] = {
            "state": "error" if self._error else "ready" if self._is_ready else "loading",
            "error": self._error,
            "titles": [panel.source.title for panel in self.panels],
            "paused": self.is_paused,
            "speed": self.speed,
            "seed": self.seed,
            "human": self.human,
            "recordings": [_label(entry) for entry in self._recordings],
            "recording": self._recordings.index(self.recording) if self.recording in self._recordings else None,
            "length": len(self.timeline),
            "note": self.note or self._progress(),
            "notes": [panel.note for panel in self.panels],
        }
        if not self._is_ready:
            return pack(header | {"panels": [], "episode": self._episode}, {})
        total = len(self.recording["actions"]) + 1 if self.recording is not None else len(self.timeline)
        shown = self.timeline[self.position]
        header |= {
            "episode": self._episode,
            "panels": shown.panels,
            "position": self.position,
            "first": self.timeline.first,
            "total": total,
            "values_from": self._sent,
            "values": self.timeline.values[self._sent :],
        }
        self._sent = len(self.timeline)
        return pack(header, shown.pictures)


def _label(entry: Mapping[str, Any]) -> str:
    return f"return {entry['return']:g}, {entry['length']:,} steps, ended at agent step {entry['step']:,}"
