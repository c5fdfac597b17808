"""The search itself: what each worker does, and what a person sees of it."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from q2pi.errors import UserError
from q2pi.runs.progress import clock
from q2pi.tuning import final
from q2pi.tuning.final import Candidate, is_evaluated, runs
from q2pi.tuning.plan import Plan, StudyFolder
from q2pi.tuning.storage import first_line, load_study, open_storage
from q2pi.tuning.trial import claim, work_on
from q2pi.tuning.workers import Crew, Message, Say

FAILURES = 3
"""Trials that may fail one after the other before the search stops."""
QUIET_SECONDS = 30.0
"""Between two lines of progress when nothing happens."""


def search(folder: StudyFolder, plan: Plan, storage: str | None, wanted: int, workers: int) -> Crew:
    """Bring a study to `wanted` trials, printing its progress, and return how that ended."""
    progress = Progress(load_study(plan, open_storage(folder, storage)), wanted, workers)
    crew = Crew(task, (str(folder.path), storage, wanted), workers, progress.hear, progress.tick)
    progress.say()
    crew.run()
    return crew


def judge(folder: StudyFolder, who: Sequence[Candidate], seeds: list[int], episodes: int, workers: int) -> Crew:
    """Run contenders on fresh seeds, as far as they were not yet, printing progress, and return how that ended."""
    everything = [run for one in who for run in runs(folder, one, seeds)]
    began, before = time.monotonic(), sum(is_evaluated(run, episodes) for run in everything)
    done = before

    def hear(message: Message) -> None:
        nonlocal done
        done += 1
        left = (time.monotonic() - began) / (done - before) * (len(everything) - done)
        what = f"{message['label']} on seed {message['seed']}"
        print(f"fresh seeds: {done} of {len(everything)} runs, the last {what}; left {clock(left)}", flush=True)

    print(f"fresh seeds: {', '.join(one.label for one in who)} on {len(seeds)} new seeds each", flush=True)
    crew = Crew(final.task, (str(folder.path), final.table_of(who), seeds, episodes), workers, hear)
    crew.run()
    return crew


def task(path: str, storage: str | None, wanted: int, stop: Callable[[], bool], say: Say) -> None:
    """Work on trials until none is left; what a worker process runs.

    Raises:
        UserError: the database is lost; what was running stays so, to be continued.
    """
    folder = StudyFolder(path)
    plan = folder.read()
    study = load_study(plan, open_storage(folder, storage))
    try:
        while not stop() and (claimed := claim(folder, plan, study, wanted)) is not None:
            say({"kind": "running", "trial": claimed.number, "again": claimed.again})
            outcome = work_on(folder, plan, study, claimed, stop)
            say({"kind": outcome.state, "trial": claimed.number, "values": outcome.values, "note": outcome.note})
    except StorageInternalError as problem:
        raise UserError(f"--storage {plan.storage} was lost: {first_line(problem)}") from problem


class Progress:
    """What the master prints."""

    def __init__(self, study: optuna.Study, wanted: int, workers: int) -> None:
        self.study, self.wanted, self.workers = study, wanted, workers
        self.began = self.said = time.monotonic()
        self.ended = 0
        self.failed_in_a_row = 0

    def hear(self, message: Message) -> str | None:
        number, kind, note = message["trial"], message["kind"], message.get("note")
        if kind == "running":
            if message["again"]:
                print(f"trial {number} goes on from where it was", flush=True)
            return None
        if kind == "interrupted":
            return None
        self.ended += 1
        self.failed_in_a_row = self.failed_in_a_row + 1 if kind == "failed" else 0
        end = f"trial {number} {kind}"
        if message["values"]:
            end += f": {message['values'][0]:.1f}"
        print(end + (f" ({note})" if note else ""), flush=True)
        self.say()
        return f"{FAILURES} trials in a row failed, the last with {note}" if self.failed_in_a_row >= FAILURES else None

    def tick(self) -> None:
        if time.monotonic() - self.said > QUIET_SECONDS:
            self.say()

    def say(self) -> None:
        """Print one line on the whole study."""
        self.said = time.monotonic()
        trials = self.study.get_trials(deepcopy=False)
        count = {state: sum(trial.state == state for trial in trials) for state in TrialState}
        line = (
            f"trials {count[TrialState.COMPLETE]} done, {count[TrialState.RUNNING]} running, "
            f"{count[TrialState.PRUNED]} pruned, {count[TrialState.FAIL]} failed, of {self.wanted}"
        )
        if (best := best_trial(trials)) is not None:
            defaults = f"; the defaults {trials[0].values[0]:.1f}" if trials[0].values else ""
            line += f"; best so far {best.values[0]:.1f} (trial {best.number}{defaults})"
        print(f"{line}; left {self._time_left(count)}", flush=True)

    def _time_left(self, count: dict[Any, int]) -> str:
        over = count[TrialState.COMPLETE] + count[TrialState.PRUNED] + count[TrialState.FAIL]
        if not self.ended:
            return "--:--" if over < self.wanted else "00:00"
        return clock((time.monotonic() - self.began) / self.ended * max(0, self.wanted - over))


def best_trial(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """Return the completed trial of the highest return, None where there is none."""
    return max((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: t.values[0], default=None)
