"""Sinks: consumers of a run's events, such as loggers.

A logger for another service is a class with three methods: `q2pi.train(..., sinks=[MySink()])`.
"""

import time
from pathlib import Path
from typing import Protocol

from q2pi.training.events import EpisodeEnded, Evaluated, Event, Progress


class Sink(Protocol):
    """Receives the events of one run in order; the first is `Started`."""

    def write(self, event: Event) -> None:
        """Receive one event; the objects in it are valid until `write` returns."""

    def flush(self) -> None:
        """Make all earlier events durable; called before any sink receives `Checkpoint` or `Finished`."""

    def close(self) -> None:
        """Free resources; called at the end of the run, also after an exception."""


def scalars(event: Event) -> dict[str, float]:
    """Return name -> value of the scalars in an event, as loggers show them."""
    match event:
        case EpisodeEnded(_, episode):
            return {"episode/return": episode.episode_return}
        case Progress(_, metrics):
            return {f"train/{name}": value for name, value in metrics.items()}
        case Evaluated(_, evaluation):
            return {"evaluation/mean": evaluation.report()["statistics"]["mean"]}
    return {}


class TensorBoard:
    """Writes TensorBoard's event file, in this thread: a full disk raises an exception.

    Args:
        folder: existing folder for the event files.
        step: agent step at which training continues; TensorBoard then ignores later events of an interrupted run.
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
        for name, value in scalars(event).items():
            self._scalar(name, value, event.step)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()

    def _scalar(self, name: str, value: float, step: int) -> None:
        self.writer.write_event(self.event(wall_time=time.time(), step=step, summary=self.scalar(name, value)))
