"""Jobs and actors on Ray clusters on loopback: `pytest -m cluster tests/runs/test_ray_cluster.py`, 10 to 20 minutes."""

import importlib.util
import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray_clusters import Node, cluster
from small_runs import CARTPOLE, invaders
from small_studies import begun, check_ended_once, endings, plan

from q2pi.algorithms.registry import default_config
from q2pi.config import override, resolve
from q2pi.parallel.executor import Job, JobStatus
from q2pi.parallel.local import LocalProcesses
from q2pi.parallel.stop import StopRequest
from q2pi.runs import checkpoint
from q2pi.runs import ray as on_ray
from q2pi.runs.execute import execute, run_job
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.manifest import steps
from q2pi.runs.ray import RayCluster
from q2pi.runs.ray_actors import RayPool
from q2pi.runs.ray_connection import connect, disconnect
from q2pi.training.actors import REQUESTS, Actors
from q2pi.training.events import Finished
from q2pi.tuning.search import Machines, search

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: q2pi[ray]"),
]

OPTIONS = CARTPOLE | {"total_timesteps": 600}
RUNS = 8
TASKS = "tests/parallel"


def jobs(folder: Path, count: int = RUNS, **changes: Any) -> list[Job]:
    configs = [
        resolve(override(default_config("dqn"), OPTIONS | {"seed": seed} | changes)) for seed in range(1, count + 1)
    ]
    return [run_job(f"seed-{config.seed}", folder / f"seed-{config.seed}", config) for config in configs]


def digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.glob("seed-*")):
        _, state, _, _ = load_checkpoint(RunFolder(path))
        found[path.name] = checkpoint.digest(state)
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of the runs that this machine's processes train."""
    folder = tmp_path_factory.mktemp("local")
    assert {status.state for status in LocalProcesses(1).run(jobs(folder))} == {"running", "finished"}
    return digests(folder)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with cluster(2) as nodes:
        yield nodes[0]


def final(statuses: list[JobStatus]) -> dict[str, JobStatus]:
    ended = [status for status in statuses if status.state != "running"]
    assert len(ended) == len({status.job.name for status in ended}), "each job ends once"
    return {status.job.name: status for status in ended}


def workers(node: Node) -> list[psutil.Process]:
    """Return the processes of the jobs on a node."""
    found = []
    for process in node.processes():
        try:
            if "q2pi.parallel.worker" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until_gone(node: Node) -> None:
    deadline = time.monotonic() + 20
    while workers(node) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not workers(node), "nothing is left running"


# ---- jobs ------------------------------------------------------------------------------------------------------------


def task(name: str, folder: Path, **options: Any) -> Job:
    return Job(name, f"tasks:{name}", {"folder": str(folder), "value": 1}, **options)


def test_jobs_end_as_on_this_machine(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(TASKS).absolute()))
    failing = [task(name, tmp_path) for name in ("mistake", "defect", "die")]
    with RayCluster(node.address) as executor:
        last = final(list(executor.run([*failing, task("die_once", tmp_path, restarts=1), task("echo", tmp_path)])))
    reasons = {name: (status.state, status.reason, status.is_user_error) for name, status in last.items()}
    assert reasons == {
        "mistake": ("failed", "--top is too much", True),
        "defect": ("failed", "ValueError: a defect", False),
        "die": ("failed", "its process was killed by SIGKILL", False),
        "die_once": ("finished", "", False),
        "echo": ("finished", "", False),
    }
    assert last["mistake"].message == {"step": 3}
    assert last["die"].traceback == "last words\n"


def test_stopped_jobs_save_and_a_closed_executor_leaves_nothing(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(TASKS).absolute()))
    with RayCluster(node.address) as executor:
        statuses: list[JobStatus] = []
        three = [Job(name, "tasks:wait", {"folder": str(tmp_path)}) for name in ("a", "b", "c")]
        for status in executor.run(three, lambda: sum("started" in status.message for status in statuses) == 2):
            statuses.append(status)
        assert {status.state for status in final(statuses).values()} == {"stopped"}
        assert len(final(statuses)) == len(list(tmp_path.glob("stopped-*"))) == 2
        running = executor.run([task("wait_forever", tmp_path)])
        assert any("started" in status.message for status in running)
        running.close()
        wait_until_gone(node)


def test_pending_jobs_and_jobs_that_no_node_can_take_are_named(node: Node, tmp_path: Path) -> None:
    with RayCluster(node.address) as executor:
        running = executor.run([*jobs(tmp_path, 1), Job("huge", "tasks:echo", {}, cpus=64)])
        next(running)
        assert executor.describe() == "1 node, 1 pending (huge needs more than any node has)"
        running.close()
        wait_until_gone(node)


def test_without_a_shared_path_folders_are_shipped(
    node: Node, tmp_path: Path, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that does not find the marker has a copy of the folder. A stopped run continues from the copy."""
    monkeypatch.setattr(on_ray._SharedPath, "marker", lambda self, folder: tmp_path / "not here")
    with RayCluster(node.address) as executor:
        statuses: list[JobStatus] = []
        for status in executor.run(
            jobs(tmp_path, 1, total_timesteps=600), lambda: bool(steps(tmp_path / "seed-1/checkpoints"))
        ):
            statuses.append(status)
        first = max(steps(tmp_path / "seed-1/checkpoints"))
        assert final(statuses)["seed-1"].state in ("stopped", "finished")
        assert final(list(executor.run(jobs(tmp_path, 1))))["seed-1"].state == "finished"
    assert 0 < first <= 600
    assert digests(tmp_path)["seed-1"] == expected["seed-1"]
    assert {path.name for path in (tmp_path / "seed-1").iterdir()} >= {"config.toml", "metrics.jsonl", "tensorboard"}


# ---- lost nodes ------------------------------------------------------------------------------------------------------


def test_a_sweep_with_a_node_killed_half_way_equals_the_local_sweep(tmp_path: Path, expected: dict[str, str]) -> None:
    with cluster(1, 1) as nodes, RayCluster(nodes[0].address) as executor:
        statuses: list[JobStatus] = []
        is_killed = False
        for status in executor.run(jobs(tmp_path)):
            statuses.append(status)
            if not is_killed and sum(status.state == "finished" for status in statuses) == RUNS // 2:
                nodes[1].kill()
                is_killed = True
        assert is_killed
    assert {status.state for status in final(statuses).values()} == {"finished"}
    assert len(final(statuses)) == RUNS
    assert digests(tmp_path) == expected
    assert not list(tmp_path.glob(".shared-*"))


def test_a_shipped_run_continues_from_its_newest_checkpoint_on_another_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray._SharedPath, "marker", lambda self, folder: tmp_path / "not here")
    changes = {"total_timesteps": 6_000, "checkpoint_frequency": 500, "train_frequency": 1}
    (job,) = jobs(tmp_path, 1, **changes)
    with cluster(0, 1, 1) as nodes, RayCluster(nodes[0].address) as executor:
        seen: list[int] = []
        is_killed = False
        for status in executor.run([job]):
            seen.append(status.message.get("step", 0))
            if not is_killed and steps(tmp_path / "seed-1/checkpoints"):
                saved = max(steps(tmp_path / "seed-1/checkpoints"))
                next(node for node in nodes[1:] if workers(node)).kill()
                is_killed = True
        assert is_killed
    assert status.state == "finished"
    assert saved > 0
    drops = [after for before, after in itertools.pairwise(seen) if after < before]
    assert all(after >= saved for after in drops), f"the second node starts anew: saved {saved}, drops {drops}"
    (tmp_path / "plain").mkdir()
    list(LocalProcesses(1).run(jobs(tmp_path / "plain", 1, **changes)))
    assert digests(tmp_path) == digests(tmp_path / "plain")


# ---- studies ---------------------------------------------------------------------------------------------------------


def test_a_study_with_workers_killed_ten_times_ends_each_trial_once(node: Node, tmp_path: Path) -> None:
    made, wanted, kills = plan({"total_timesteps": 300}, seeds=1), 12, 10
    folder, study = begun(tmp_path / "study", made)
    moments, killed, next_kill = random.Random(1), 0, 0.0

    def stop() -> bool:
        """Kill a worker now and then; the executor polls this function."""
        nonlocal killed, next_kill
        ended = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
        if killed < kills and killed <= ended and time.monotonic() > next_kill and (found := workers(node)):
            moments.choice(found).kill()
            killed += 1
            next_kill = time.monotonic() + moments.uniform(1.0, 3.0)
        return False

    with RayCluster(node.address) as executor:
        outcome = search(folder, made, None, wanted, 2, executor, stop, Machines(beat=0.3))
    assert outcome.state == "done"
    assert killed == kills
    check_ended_once(folder, made, study, wanted)
    times = endings(folder.journal)
    assert [times[trial._trial_id] for trial in study.get_trials()] == [1] * wanted


# ---- actors ----------------------------------------------------------------------------------------------------------


class WatchedPool(RayPool):
    """A pool that kills the process of an actor `kills` times, three messages apart, and measures the object store."""

    def __init__(self, kills: int = 0) -> None:
        super().__init__()
        self.kills, self.messages, self.deaths = kills, 0, 0
        self.killed, self.since = 0, 0
        """Kills so far, and messages since the newest one was noticed."""
        self.store: list[float] = []

    def receive(self) -> Any:
        import ray

        if self.killed < self.kills and self.killed == self.deaths and self.since >= 3:
            actor = self.actors[self.killed % len(self.actors)]
            psutil.Process(ray.get(actor.pid.remote())).kill()
            self.killed += 1
        index, rows = super().receive()
        self.messages += 1
        self.deaths += isinstance(rows, str)
        self.since = 0 if self.killed > self.deaths or isinstance(rows, str) else self.since + 1
        if self.messages % 10 == 0:
            total, free = ray.cluster_resources(), ray.available_resources()
            self.store.append(total["object_store_memory"] - free.get("object_store_memory", 0.0))
        return index, rows


def train(address: str, pool: WatchedPool, folder: Path | None, **changes: Any) -> Any:
    config = resolve(invaders(num_envs=2, actors=2, actor_steps=8) if not changes else invaders(**changes))
    connect(address, 2)
    try:
        source = Actors(config, pool)
        last = execute(config, folder, source=lambda: source)
    finally:
        disconnect()
    assert isinstance(last, Finished)
    return source


def test_lock_step_on_a_cluster_equals_the_loop_without_actors(node: Node, tmp_path: Path) -> None:
    execute(resolve(invaders()), tmp_path / "plain")
    train(node.address, WatchedPool(), tmp_path / "actor", actors=1, actor_steps=0)
    states = [load_checkpoint(RunFolder(tmp_path / name))[1] for name in ("plain", "actor")]
    assert len({checkpoint.digest({"agent": state["agent"]}) for state in states}) == 1


def test_actors_that_are_killed_five_times_are_replaced(node: Node, tmp_path: Path) -> None:
    pool = WatchedPool(kills=5)
    source = train(node.address, pool, tmp_path / "run", num_envs=2, actors=2, actor_steps=8, total_timesteps=800)
    assert pool.deaths == 5
    assert source.started == 2 + 5
    assert source.agent.updates == source.config.hyper.updates_due(800)


def test_the_object_store_is_bounded(node: Node) -> None:
    """Messages and weights are freed: the store does not grow with the number of messages."""
    pool = WatchedPool()
    train(node.address, pool, None, num_envs=2, actors=2, actor_steps=4, total_timesteps=3_200, train_frequency=16)
    assert pool.messages >= 400
    half = len(pool.store) // 2
    assert max(pool.store[half:]) <= max(pool.store[:half]) + 10e6
    assert max(pool.store) < (2 * REQUESTS + 2) * 10e6, "a version of the weights has 7 MB"


def test_ctrl_c_ends_a_sweep_and_leaves_nothing(node: Node, tmp_path: Path) -> None:
    import os
    import signal

    with RayCluster(node.address) as executor, StopRequest("saving") as stop:
        statuses = []
        for status in executor.run(jobs(tmp_path, 3, total_timesteps=200_000), stop):
            statuses.append(status)
            if status.message.get("step") and not stop():
                os.kill(os.getpid(), signal.SIGINT)
        assert {status.state for status in final(statuses).values()} == {"stopped"}
        wait_until_gone(node)
    assert all(steps(path / "checkpoints") for path in tmp_path.glob("seed-*"))


# ---- commands --------------------------------------------------------------------------------------------------------


def test_commands_on_a_cluster(node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`tune` with final runs, `train --actors` and its `resume`, with the address of the cluster."""
    from q2pi.__main__ import main

    budget = ["--env-id", "CartPole-v1", "--total-timesteps", "300", "--evaluation-episodes", "2", "--device", "cpu"]
    study = ["--study", str(tmp_path / "study"), "--trials", "2", "--seeds", "1", "--top", "1"]
    final_runs = ["--held-out-seeds", "2", "--final-episodes", "2"]
    assert main(["tune", "reinforce", *budget, *study, *final_runs, "--workers", "2", "--ray", node.address]) == 0
    output = capsys.readouterr().out
    assert "trials 2 done" in output
    assert "1 node, " in output
    assert (tmp_path / "study/report").is_dir()
    run = str(tmp_path / "run")
    actors = ["--learning-starts", "50", "--num-envs", "2", "--actors", "2", "--no-estimate", "--run-dir", run]
    assert main(["train", "dqn", *budget, *actors, "--ray", node.address]) == 0
    output = capsys.readouterr().out
    assert "2 actors with 2 parallel environments each" in output
    assert "not reproducible, and resuming it begins new episodes" in output
    assert main(["resume", run, "--ray", node.address]) == 0
    assert main(["resume", run]) == 2
    assert capsys.readouterr().err == "q2pi: --actors 2 needs a cluster: name it with --ray, or --ray local\n"


def test_seeds_of_the_lab_on_a_cluster_have_the_data_of_this_machine(node: Node, tmp_path: Path) -> None:
    from q2pi.__main__ import main
    from q2pi.lab.results import ClaimFolder
    from q2pi.lab.road import find

    command = ["lab", "run", "concave_objective", "--budget", "quick", "--seeds", "2"]
    assert main([*command, "--out", str(tmp_path / "ray"), "--workers", "2", "--ray", node.address]) == 0
    assert main([*command, "--out", str(tmp_path / "local")]) == 0
    for seed in (1, 2):
        here, there = (
            ClaimFolder(tmp_path / name, find("concave_objective")).read_seed("quick", seed)
            for name in ("local", "ray")
        )
        assert here is not None
        assert there == here | {"seconds": there["seconds"]}  # type: ignore[index]
    assert (tmp_path / "ray/concave_objective/figure.png").is_file()
