"""Files of the lab: DIR/CLAIM/verdict.json, figure.png and seeds/BUDGET-N.json.

A seed's file is kept, so an interrupted experiment continues with the seeds that are missing, and more seeds may be
added later. A file with other settings does not count: its seed runs again.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from q2pi.lab.claim import Budget, Claim, Data, verdict
from q2pi.lab.road import NAMES, find
from q2pi.parallel.executor import Emit, Job, Message, Stop
from q2pi.runs.files import write_atomically

SECONDS = "CPU seconds of the experiment, one thread"


class ClaimFolder:
    """The files of one claim's experiment."""

    def __init__(self, root: Path, claim: Claim) -> None:
        self.claim, self.path = claim, root / claim.name
        self.verdict_file, self.figure_file = self.path / "verdict.json", self.path / "figure.png"

    def seed_file(self, budget: Budget, seed: int) -> Path:
        return self.path / "seeds" / f"{budget}-{seed}.json"

    def read_seed(self, budget: Budget, seed: int) -> dict[str, Any] | None:
        """Return a finished seed: settings, seconds, data; None if it has not run with the claim's settings."""
        try:
            stored: dict[str, Any] = json.loads(self.seed_file(budget, seed).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return stored if stored.get("settings") == _jsonable(self.claim.settings(budget)) else None

    def jobs(self, budget: Budget, seeds: Sequence[int]) -> list[Job]:
        """Return a job for each seed that has not run; its last message is for `write_seed`."""
        return [
            Job(
                f"{self.claim.name} seed {seed}",
                "q2pi.lab.results:seed_job",
                {"claim": self.claim.name, "seed": seed, "budget": budget},
                threads=1,
                on_stop="kill",
            )
            for seed in seeds
            if self.read_seed(budget, seed) is None
        ]

    def write_seed(self, budget: Budget, finished: Message) -> None:
        """Write the file of a seed from the last message of its job."""
        file = self.seed_file(budget, finished["seed"])
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(finished, allow_nan=False) + "\n")

    def write_verdict(self, budget: Budget, seeds: Sequence[int]) -> dict[str, Any]:
        """Write verdict.json and figure.png from finished seeds; return the verdict."""
        from q2pi.reports.style import save_figure

        stored = [self.read_seed(budget, seed) for seed in seeds]
        finished = [one for one in stored if one is not None]
        assert len(finished) == len(seeds), "a seed has not run"
        data: list[Data] = [one["data"] for one in finished]
        seconds = [one["seconds"] for one in finished]
        result = verdict(self.claim, data) | {
            "budget": budget,
            "seeds": list(seeds),
            "settings": finished[0]["settings"],
            "seconds": round(sum(seconds), 1),
            "seconds_per_seed": round(sum(seconds) / len(seconds), 2),
            "seconds_are": SECONDS,
            "command": command(self.claim.name, budget, seeds),
        }
        save_figure(self.claim.figure(data), self.figure_file)
        write_atomically(self.verdict_file, json.dumps(result, indent=1, allow_nan=False) + "\n")
        return result


def command(name: str, budget: Budget, seeds: Sequence[int]) -> str:
    """Return the command that makes a claim's verdict and figure."""
    return f"q2pi lab run {name} --seeds {len(seeds)} --budget {budget}"


def seed_job(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    """Task of `ClaimFolder.jobs`: run the experiment of one claim with one seed.

    It writes no file, because it may run on a machine that does not share the folder of the results.

    Returns:
        seed, settings, CPU seconds and data of the experiment.

    Raises:
        ValueError: the data are not JSON, or contain NaN or an infinity.
    """
    claim = find(arguments["claim"])
    budget, seed = arguments["budget"], arguments["seed"]
    settings = claim.settings(budget)
    start = time.process_time()
    data = claim.experiment(seed, settings)
    seconds = time.process_time() - start
    message: Message = {"seed": seed, "settings": _jsonable(settings), "seconds": seconds, "data": _jsonable(data)}
    return message


def read_verdict(root: Path, name: str) -> dict[str, Any] | None:
    """Return the stored verdict of a claim, or None."""
    file = root / name / "verdict.json"
    if not file.is_file():
        return None
    stored: dict[str, Any] = json.loads(file.read_text())
    return stored


def read_verdicts(root: Path) -> dict[str, dict[str, Any] | None]:
    """Return the stored verdict of each claim, in the order of the road."""
    return {name: read_verdict(root, name) for name in NAMES}


def _jsonable(values: Any) -> Any:
    """Return settings or data as JSON stores them: tuples become lists."""
    return json.loads(json.dumps(dict(values), allow_nan=False))
