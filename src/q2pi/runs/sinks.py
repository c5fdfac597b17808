"""Where the events of a run go: a sink takes each of them in turn.

A logger for another service is one class with three methods, given to `q2pi.train(..., sinks=[MySink()])`.
"""

import time
from pathlib import Path
from typing import Protocol

from q2pi.training.events import EpisodeEnded, Evaluated, Event, Progress


class Sink(Protocol):
    """Takes the events of one run, in their order; the first is `Started`."""

    def write(self, event: Event) -> None:
        """Take one event; what it refers to is valid until `write` returns."""

    def flush(self) -> None:
        """Make what was written durable; called before `Checkpoint` and `Finished` are written to any sink."""

    def close(self) -> None:
        """Free resources; called however the run ends."""


class TensorBoard:
    """TensorBoard's event file, written in order and in this thread, so that a full disk is noticed.

    Args:
        folder: of the event files; it exists.
        step: agent step at which training continues; what an interrupted run wrote beyond it is purged.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event as BoardEvent
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.summary import scalar

        self.event, self.scalar = BoardEvent, scalar
        self.writer = EventsWriter(str(folder / "events"), filename_suffix=f".{step}")
        if step:
            start = SessionLog(status=SessionLog.START)
            self.writer.write_event(BoardEvent(wall_time=time.time(), step=step + 1, session_log=start))

    def write(self, event: Event) -> None:
        match event:
            case EpisodeEnded(step, episode):
                self._scalar("episode/return", episode.episode_return, step)
            case Progress(step, metrics):
                for name, value in metrics.items():
                    self._scalar(f"train/{name}", value, step)
            case Evaluated(step, evaluation):
                self._scalar("evaluation/mean", evaluation.report()["statistics"]["mean"], step)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()

    def _scalar(self, name: str, value: float, step: int) -> None:
        self.writer.write_event(self.event(wall_time=time.time(), step=step, summary=self.scalar(name, value)))
