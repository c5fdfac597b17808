"""The run folder: all that a run leaves behind, readable with no tool of ours.

    runs/<name>/
        config.toml        the whole configuration
        metrics.jsonl      one JSON object a line: training rows, episodes, evaluations
        tensorboard/       the same as TensorBoard events
        episodes/          newest.json and best.json: seeds and actions, enough to create those episodes again
        evaluation.json    the newest evaluation
        figures/  videos/  pictures of the run
        checkpoints/       the newest two, see checkpoint.py

`record` writes it from the events of the loop; viewers, plots, reports and the tuner read it and nothing else.
"""

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from q2pi.envs.vector import Episode
from q2pi.runs import checkpoint
from q2pi.runs.folder import RunFolder, _replace
from q2pi.training.events import Checkpoint, EpisodeEnded, Evaluated, Event, Finished, Progress

Entry = dict[str, Any]
NEWEST_EPISODES = 8
BEST_EPISODES = 4


def record(events: Iterator[Event], run: RunFolder, seconds_before: float = 0.0) -> Iterator[Event]:
    """Write a run's events into its folder and pass each of them on.

    Args:
        events: from `loop.run`.
        run: the folder; rows of `metrics.jsonl` beyond the step at which training continues are dropped.
        seconds_before: wall-clock seconds that the run took before it was resumed.
    """
    with run.locked():
        recorder: _Recorder | None = None
        try:
            for event in events:
                if recorder is None:
                    recorder = _Recorder(run, event.step, seconds_before)
                recorder.write(event)
                yield event
        finally:
            if recorder is not None:
                recorder.close()


class _Recorder:
    def __init__(self, run: RunFolder, step: int, seconds_before: float) -> None:
        self.run = run
        self.began = time.perf_counter() - seconds_before
        for folder in (run.episodes, run.figures, run.videos, run.checkpoints, run.tensorboard):
            folder.mkdir(exist_ok=True)
        _drop_rows_after(run.metrics_file, step)
        self.metrics = run.metrics_file.open("a")
        self.board = _Board(run.tensorboard, step)
        known = checkpoint.notes(run.checkpoints, step)
        self.newest: deque[Entry] = deque(known.get("newest", []), maxlen=NEWEST_EPISODES)
        self.best: list[Entry] = known.get("best", [])

    def write(self, event: Event) -> None:
        match event:
            case EpisodeEnded(step, episode):
                self._episode(step, episode)
            case Progress(step, metrics, seconds):
                spent = sum(value for name, value in seconds.items() if name != "evaluate")
                self._row("train", step, metrics | {"seconds": seconds, "elapsed": self._elapsed(), "spent": spent})
                for name, value in metrics.items():
                    self.board.write(f"train/{name}", value, step)
                self.metrics.flush()
            case Evaluated(step, evaluation):
                report = evaluation.report()
                self._row("evaluation", step, {"statistics": report["statistics"], "scores": report["scores"]})
                self.board.write("evaluation/mean", report["statistics"]["mean"], step)
                _replace(self.run.evaluation_file, json.dumps(report, indent=1))
            case Checkpoint(step, state):
                self.flush()
                # The files of episodes may be newer than the checkpoint that an interrupted run continues from.
                episodes = {"newest": list(self.newest), "best": self.best}
                checkpoint.save(self.run.checkpoints, step, state, {"seconds": self._elapsed()} | episodes)
            case Finished():
                self.flush()

    def flush(self) -> None:
        self.metrics.flush()
        os.fsync(self.metrics.fileno())
        self.board.flush()
        _replace(self.run.episodes / "newest.json", json.dumps(list(self.newest)))
        _replace(self.run.episodes / "best.json", json.dumps(self.best))

    def close(self) -> None:
        self.metrics.close()
        self.board.close()

    def _episode(self, step: int, episode: Episode) -> None:
        values = {
            "return": episode.episode_return,
            "length": episode.length,
            "env_index": episode.env_index,
            "episode_index": episode.episode_index,
            "seed": episode.seed,
        }
        self._row("episode", step, values)
        self.board.write("episode/return", episode.episode_return, step)
        entry = values | {"step": step, "actions": episode.actions.tolist()}
        self.newest.append(entry)
        if len(self.best) < BEST_EPISODES or entry["return"] > self.best[-1]["return"]:
            self.best = sorted([*self.best, entry], key=lambda e: -e["return"])[:BEST_EPISODES]

    def _row(self, kind: str, step: int, values: dict[str, Any]) -> None:
        self.metrics.write(json.dumps({"kind": kind, "step": step} | values) + "\n")

    def _elapsed(self) -> float:
        return round(time.perf_counter() - self.began, 3)


class _Board:
    """TensorBoard's event file, written in order and on the caller's own thread, where a full disk is noticed."""

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self.event, self.scalar = Event, scalar
        self.writer = EventsWriter(str(folder / "events"), filename_suffix=f".{step}")
        if step:
            # What an interrupted run wrote beyond this step is void.
            start = SessionLog(status=SessionLog.START)
            self.writer.write_event(Event(wall_time=time.time(), step=step + 1, session_log=start))

    def write(self, name: str, value: float, step: int) -> None:
        self.writer.write_event(self.event(wall_time=time.time(), step=step, summary=self.scalar(name, value)))

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def _drop_rows_after(path: Path, step: int) -> None:
    """Cut what an interrupted run wrote beyond the checkpoint it continues from, a torn last line too."""
    if not path.exists():
        return
    with path.open() as file:
        kept = [line for line in file if line.endswith("\n") and json.loads(line)["step"] <= step]
    _replace(path, "".join(kept))
