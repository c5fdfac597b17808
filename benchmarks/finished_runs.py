"""The finished runs of a sweep, for the scripts that turn its run folders into results."""

from pathlib import Path

from q2pi.runs.find import find_runs, run_state
from q2pi.runs.history import History, read_history


def finished_runs(root: Path) -> list[History]:
    """Return the runs below a folder that reached their budget, by seed.

    Raises:
        SystemExit: there is none.
    """
    histories = [read_history(run) for run in find_runs(root)]
    finished = [each for each in histories if run_state(each.run, each.total_timesteps) == "finished"]
    if not finished:
        raise SystemExit(f"{root} holds no finished run: train the sweep first")
    left = len(histories) - len(finished)
    if left:
        print(f"left out: {left} unfinished run{'' if left == 1 else 's'}")
    return sorted(finished, key=lambda history: history.seed)


def seeds_of(count: int) -> str:
    """Return a number of seeds in words."""
    return f"{count} seed{'' if count == 1 else 's'}"
