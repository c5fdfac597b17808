"""Small studies for tests, and workers that are killed at random moments."""

import dataclasses
import json
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.trial import TrialState
from small_runs import QUIET

from q2pi.algorithms.common.search_space import Float, OneMinus, PowerOfTwo
from q2pi.algorithms.registry import default_config
from q2pi.config import override, resolve
from q2pi.runs.execute import execute
from q2pi.tuning import search
from q2pi.tuning.objective import read_curve, value
from q2pi.tuning.plan import Plan, StudyFolder
from q2pi.tuning.storage import create_study, load_study, open_storage
from q2pi.tuning.trial import config_of

KILLS = int(os.environ.get("Q2PI_KILLS", "10"))
SPACE = {
    "learning_rate": Float(1e-3, 1e-1, log=True),
    "gamma": OneMinus(0.9, 0.99),
    "episodes_per_update": PowerOfTwo(1, 4),
}
TINY = QUIET | {
    "env_id": "CartPole-v1",
    "total_timesteps": 300,
    "num_envs": 1,
    "evaluation_frequency": 100,
    "evaluation_episodes": 2,
    "checkpoint_frequency": 50,
    "episodes_per_update": 2,
    "hidden": (8,),
    "value_updates": 2,
}
# The fork server imports torch and Optuna once for all workers.
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(
    [
        *("q2pi.tuning.search", "q2pi.algorithms.reinforce", "optuna.storages", "psycopg", "sqlalchemy", "scipy.stats"),
        *("gymnasium.vector", "gymnasium.envs.classic_control.cartpole", "torch.distributions", "torch.optim"),
        *("tensorboardX.event_file_writer", "tensorboardX.summary", "tensorboardX.proto.event_pb2", "torch._dynamo"),
    ]
)


def plan(changes: dict[str, Any] | None = None, **options: Any) -> Plan:
    """Return REINFORCE on CartPole: 2 seeds of 300 agent steps, three evaluations each, nothing pruned."""
    base = resolve(override(default_config("reinforce"), TINY | (changes or {})))
    return Plan(**{"name": "tiny", "base": base, "space": SPACE, "fixed": {}, "seeds": 2, "pruner": "none"} | options)


def begun(path: Path, made: Plan, url: str | None = None) -> tuple[StudyFolder, Study]:
    """Return a new study in a folder."""
    folder = StudyFolder(path)
    folder.write(made)
    create_study(folder, made, open_storage(folder, url))
    return folder, load_study(made, open_storage(folder, url))


def live(path: str, url: str | None, wanted: int) -> None:
    """Run a worker; create a mark file when it starts a trial."""
    mark = Path(path) / f".at-work-{os.getpid()}"
    arguments = {"path": path, "storage": url, "wanted": wanted}
    search.work(arguments, emit=lambda message: mark.touch(), stop=lambda: False)


def pace(made: Plan, folder: Path) -> float:
    """Return the seconds of one run of a trial on this machine under its current load, without imports."""
    for name in ("cold", "warm"):
        start_time = time.perf_counter()
        execute(made.base, folder / name)
    return time.perf_counter() - start_time


def work_under_fire(
    folder: StudyFolder, url: str | None, made: Plan, wanted: int, kills: int, workers: int = 2
) -> None:
    """Run workers until a study has `wanted` trials, and kill workers at random moments, `kills` times in total.

    Every other worker is killed during a trial; the others at any point, such as sampling options or reporting. Delays
    are uniform up to three times the time of a worker's start and a run, so that a trial has the same chance to finish
    on slow and fast machines.
    """
    moments, run = random.Random(kills), pace(made, folder.path / "pace")

    def start() -> Any:
        process = SPAWN.Process(target=live, args=(str(folder.path), url, wanted))
        process.start()
        return process

    def wait_for_work(worker: Any) -> None:
        while worker.is_alive() and not (folder.path / f".at-work-{worker.pid}").exists():
            time.sleep(0.01)

    pool = [start()]
    wait_for_work(pool[0])  # the fork server is warm from now on
    start_time = time.perf_counter()
    pool += [start() for _ in range(workers - 1)]
    wait_for_work(pool[-1])
    max_delay = 3 * (time.perf_counter() - start_time + run)
    for number in range(kills):
        victim = moments.choice(pool)
        if number % 2:
            wait_for_work(victim)
        time.sleep(moments.uniform(0.0, max_delay))
        victim.kill()
        victim.join()
        pool[pool.index(victim)] = start()
    for process in pool:
        process.join(60)
        assert process.exitcode == 0


def check_ended_once(folder: StudyFolder, made: Plan, study: Study, wanted: int) -> None:
    """Check that each trial ended with the value of its runs, and that repeating one trial gives the same value."""
    trials = study.get_trials()
    assert [trial.number for trial in trials] == list(range(wanted))
    assert any(len(trial.user_attrs["attempt"]) > 1 for trial in trials), "some trials continued after a kill"
    for trial in trials:
        if trial.state == TrialState.FAIL:
            assert "processes died in it" in trial.user_attrs["note"]
            continue
        assert trial.state == TrialState.COMPLETE
        runs = [folder.trial(trial.number) / f"seed-{seed}" for seed in made.trial_seeds]
        assert trial.value == value(made.objective, [read_curve(run) for run in runs])
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) >= wanted - 1, "at most one trial failed"
    last = complete[-1]
    curves = []
    for seed in made.trial_seeds:
        config = dataclasses.replace(config_of(made, last.user_attrs["config"]), seed=seed)
        execute(config, folder.path / f"anew-{seed}")
        curves.append(read_curve(folder.path / f"anew-{seed}"))
    assert value(made.objective, curves) == last.value


def endings(journal: Path) -> dict[int, int]:
    """Return how often each trial ends in the journal, by trial id."""
    times: dict[int, int] = {}
    for line in journal.read_text().splitlines():
        entry = json.loads(line)
        if entry["op_code"] == 6 and TrialState(entry["state"]).is_finished():
            times[entry["trial_id"]] = times.get(entry["trial_id"], 0) + 1
    return times
