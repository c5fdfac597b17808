"""The search: worker processes that run trials, and the progress in the terminal."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from q2pi.errors import UserError
from q2pi.parallel.executor import Emit, Executor, Job, JobStatus, Message, Stop
from q2pi.runs.progress import clock
from q2pi.tuning.jobs import RESTARTS, Outcome, run_all
from q2pi.tuning.locks import FileLocks, HeartbeatLocks
from q2pi.tuning.plan import Plan, StudyFolder
from q2pi.tuning.storage import first_line, load_study, open_storage
from q2pi.tuning.trial import claim, run_trial

FAILURES = 3
"""Consecutive failed trials that stop the search."""
CLAIM_SECONDS = 0.5
"""Seconds between two claims while the owner of a trial may be dead."""
QUIET_SECONDS = 30.0
"""Seconds between two lines of progress while no trial ends."""


@dataclass(frozen=True)
class Machines:
    """Where the workers of a study run; the default is this machine."""

    beat: float = 0.0
    """Seconds between two heartbeats of workers on several machines, see `tuning.locks`; 0 for one machine."""
    memory: int = 0
    """Bytes of memory that a worker needs."""
    gpus: float = 0
    """GPUs that a worker needs."""
    describe: Callable[[], str] = lambda: ""
    """Returns the nodes and pending jobs in words, for lines of progress."""


def search(
    folder: StudyFolder,
    plan: Plan,
    storage: str | None,
    wanted: int,
    workers: int,
    executor: Executor,
    stop: Stop,
    machines: Machines | None = None,
) -> Outcome:
    """Search until a study has `wanted` trials, and print the progress.

    Args:
        folder, plan: the study.
        storage: SQL URL of its storage, None for the journal file.
        wanted: total number of trials, including the defaults.
        workers: number of jobs; each runs one trial after the other.
        executor: runs the jobs.
        stop: when it returns true, running trials save checkpoints; the same call continues them later.
        machines: where the executor runs jobs; by default this machine.
    """
    machines = machines or Machines()
    opened = open_storage(folder, storage, machines.beat > 0)
    progress = Progress(load_study(plan, opened), wanted, machines.describe)
    arguments = {"path": str(folder.path.absolute()), "storage": storage, "wanted": wanted, "beat": machines.beat}
    jobs = [
        Job(
            f"worker {number}",
            "q2pi.tuning.search:work",
            arguments,
            threads=1,
            restarts=RESTARTS,
            memory=machines.memory,
            gpus=machines.gpus,
        )
        for number in range(1, workers + 1)
    ]
    progress.print_line()
    return run_all(jobs, executor, stop, progress.show)


def work(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    """Task of a worker process: run trials until all wanted trials are finished or owned by other workers.

    Args:
        arguments: `path` of the study, URL of its `storage` or None, the number of `wanted` trials, and the seconds
            of a `beat` as in `Machines`.
        emit: receives a message when a trial begins, is evaluated, and ends.
        stop: see `search`.

    Raises:
        UserError: the connection to the database is lost; the trial keeps the state "running" and can be continued.
    """
    folder = StudyFolder(arguments["path"])
    plan = folder.read()
    beat = arguments.get("beat", 0.0)
    opened = open_storage(folder, arguments["storage"], beat > 0)
    study = load_study(plan, opened)
    locks = HeartbeatLocks(opened, plan.name, beat) if beat else FileLocks(folder)
    try:
        while not stop():
            claimed = claim(folder, plan, study, arguments["wanted"], locks)
            if claimed is None and locks.is_unsure:
                time.sleep(CLAIM_SECONDS)
                continue
            if claimed is None:
                break
            trial = {"trial": claimed.number}
            emit(trial | {"state": "running", "is_continued": claimed.is_continued})
            outcome = run_trial(folder, plan, study, claimed, stop, lambda step: emit({"step": step}))
            emit(trial | {"state": outcome.state, "values": list(outcome.values), "note": outcome.note})
    except StorageInternalError as problem:
        raise UserError(f"--storage {plan.storage} was lost: {first_line(problem)}") from problem
    finally:
        locks.close()
    return {"stopped": stop()}


class Progress:
    """Prints the progress of a study."""

    def __init__(self, study: optuna.Study, wanted: int, describe: Callable[[], str] = lambda: "") -> None:
        self.study, self.wanted, self.describe = study, wanted, describe
        self.start = self.last_print = time.monotonic()
        self.ended = 0
        self.failed_in_a_row = 0

    def show(self, status: JobStatus) -> str | None:
        """Print the new information in a worker's status; return the reason if the study has failed."""
        message = status.message if status.state == "running" else {}
        failure = None
        match message.get("state"):
            case "running" if message["is_continued"]:
                print(f"trial {message['trial']} continues from its checkpoints", flush=True)
            case "complete" | "pruned" | "failed":
                failure = self._trial_ended(message)
        if time.monotonic() - self.last_print > QUIET_SECONDS:
            self.print_line()
        return failure

    def _trial_ended(self, message: Message) -> str | None:
        state, note = message["state"], message["note"]
        self.ended += 1
        self.failed_in_a_row = self.failed_in_a_row + 1 if state == "failed" else 0
        value = f": {message['values'][0]:.1f}" if message["values"] else ""
        print(f"trial {message['trial']} {state}{value}" + (f" ({note})" if note else ""), flush=True)
        self.print_line()
        if self.failed_in_a_row < FAILURES:
            return None
        return f"{FAILURES} trials in a row failed, the last with {note}"

    def print_line(self) -> None:
        """Print the progress of the whole study in one line."""
        self.last_print = time.monotonic()
        trials = self.study.get_trials(deepcopy=False)
        count = {state: sum(trial.state == state for trial in trials) for state in TrialState}
        line = (
            f"trials {count[TrialState.COMPLETE]} done, {count[TrialState.RUNNING]} running, "
            f"{count[TrialState.PRUNED]} pruned, {count[TrialState.FAIL]} failed, of {self.wanted}"
        )
        if (best := best_trial(trials)) is not None:
            defaults = f"; the defaults {trials[0].values[0]:.1f}" if trials[0].values else ""
            line += f"; best so far {best.values[0]:.1f} (trial {best.number}{defaults})"
        place = self.describe()
        print(f"{line}; left {self._time_left(count)}{'; ' * bool(place)}{place}", flush=True)

    def _time_left(self, count: dict[Any, int]) -> str:
        ended = count[TrialState.COMPLETE] + count[TrialState.PRUNED] + count[TrialState.FAIL]
        if not self.ended:
            return "--:--" if ended < self.wanted else "00:00"
        return clock((time.monotonic() - self.start) / self.ended * max(0, self.wanted - ended))


def best_trial(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """Return the completed trial with the highest objective, None if there is none."""
    return max((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: t.values[0], default=None)
