"""The sink that writes a run folder: metrics, episodes, evaluations and checkpoints."""

import json
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from q2pi.envs.vector import Episode
from q2pi.runs import checkpoint
from q2pi.runs.files import write_atomically
from q2pi.runs.folder import RunFolder
from q2pi.runs.manifest import notes
from q2pi.training.events import Checkpoint, EpisodeEnded, Evaluated, Event, Notice, Progress

Entry = dict[str, Any]
NEWEST_EPISODES = 8
BEST_EPISODES = 4


class Recorder:
    """Writes a run's events into its folder.

    Args:
        run: the folder; rows of `metrics.jsonl` after `step` are removed.
        step: agent step at which training continues.
        seconds_before: wall-clock seconds that the run took before it was resumed.
    """

    def __init__(self, run: RunFolder, step: int, seconds_before: float) -> None:
        self.run = run
        self.start = time.perf_counter() - seconds_before
        for folder in (run.episodes, run.figures, run.videos, run.checkpoints):
            folder.mkdir(exist_ok=True)
        _drop_rows_after(run.metrics_file, step)
        self.metrics = run.metrics_file.open("a")
        saved = notes(run.checkpoints, step)
        self.newest: deque[Entry] = deque(saved.get("newest", []), maxlen=NEWEST_EPISODES)
        self.best: list[Entry] = saved.get("best", [])

    def write(self, event: Event) -> None:
        match event:
            case EpisodeEnded(step, episode):
                self._episode(step, episode)
            case Notice(step, text):
                self._row("notice", step, {"text": text})
            case Progress(step, metrics, seconds):
                training = sum(value for name, value in seconds.items() if name != "evaluate")
                times = {"seconds": seconds, "wall_seconds": self._wall_seconds(), "train_seconds": training}
                self._row("train", step, metrics | times)
                self.metrics.flush()
            case Evaluated(step, evaluation):
                report = evaluation.report()
                self._row("evaluation", step, {"statistics": report["statistics"], "scores": report["scores"]})
                write_atomically(self.run.evaluation_file, json.dumps(report, indent=1))
            case Checkpoint(step, state):
                # The files of episodes/ may be newer than the checkpoint from which an interrupted run resumes.
                episodes = {"newest": list(self.newest), "best": self.best}
                checkpoint.save(self.run.checkpoints, step, state, {"seconds": self._wall_seconds()} | episodes)

    def flush(self) -> None:
        self.metrics.flush()
        os.fsync(self.metrics.fileno())
        write_atomically(self.run.episodes / "newest.json", json.dumps(list(self.newest)))
        write_atomically(self.run.episodes / "best.json", json.dumps(self.best))

    def close(self) -> None:
        self.metrics.close()

    def _episode(self, step: int, episode: Episode) -> None:
        values = {
            "return": episode.episode_return,
            "length": episode.length,
            "env_index": episode.env_index,
            "episode_index": episode.episode_index,
            "seed": episode.seed,
        }
        self._row("episode", step, values)
        entry = values | {"step": step, "actions": episode.actions.tolist()}
        self.newest.append(entry)
        if len(self.best) < BEST_EPISODES or entry["return"] > self.best[-1]["return"]:
            self.best = sorted([*self.best, entry], key=lambda e: -e["return"])[:BEST_EPISODES]

    def _row(self, kind: str, step: int, values: dict[str, Any]) -> None:
        self.metrics.write(json.dumps({"kind": kind, "step": step} | values) + "\n")

    def _wall_seconds(self) -> float:
        return round(time.perf_counter() - self.start, 3)


def _drop_rows_after(path: Path, step: int) -> None:
    """Remove the rows that an interrupted run wrote after its checkpoint, and an incomplete last line."""
    if not path.exists():
        return
    with path.open() as file:
        kept = [line for line in file if line.endswith("\n") and json.loads(line)["step"] <= step]
    write_atomically(path, "".join(kept))
