"""Jobs on Ray clusters on loopback: `pytest -m cluster tests/runs/test_ray_cluster.py`, some minutes."""

import importlib.util
from pathlib import Path

import pytest
from ray_clusters import cluster
from small_runs import CARTPOLE

from q2pi.algorithms.registry import default_config
from q2pi.config import override, resolve
from q2pi.parallel.executor import Job, JobStatus
from q2pi.parallel.local import LocalProcesses
from q2pi.runs import checkpoint
from q2pi.runs import ray as on_ray
from q2pi.runs.execute import run_job
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: q2pi[ray]"),
]

OPTIONS = CARTPOLE | {"total_timesteps": 600}
RUNS = 8


def jobs(folder: Path) -> list[Job]:
    configs = [resolve(override(default_config("dqn"), OPTIONS | {"seed": seed})) for seed in range(1, RUNS + 1)]
    return [run_job(f"seed-{config.seed}", folder / f"seed-{config.seed}", config) for config in configs]


def digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.glob("seed-*")):
        step, state, _, _ = load_checkpoint(RunFolder(path))
        assert step == OPTIONS["total_timesteps"]
        found[path.name] = checkpoint.digest(state)
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of the runs that this machine's processes train."""
    folder = tmp_path_factory.mktemp("local")
    assert {status.state for status in LocalProcesses(1).run(jobs(folder))} == {"running", "finished"}
    return digests(folder)


def final(statuses: list[JobStatus]) -> dict[str, str]:
    ended = [status for status in statuses if status.state != "running"]
    assert len(ended) == len({status.job.name for status in ended}), "each job ends once"
    return {status.job.name: status.state for status in ended}


def test_a_sweep_with_a_node_killed_half_way_equals_the_local_sweep(tmp_path: Path, expected: dict[str, str]) -> None:
    with cluster(1, 1) as nodes, on_ray.RayCluster(nodes[0].address) as executor:
        statuses: list[JobStatus] = []
        is_killed = False
        for status in executor.run(jobs(tmp_path)):
            statuses.append(status)
            if not is_killed and sum(status.state == "finished" for status in statuses) == RUNS // 2:
                # a run of the second node has a checkpoint to continue from
                nodes[1].kill()
                is_killed = True
        assert is_killed
    assert set(final(statuses).values()) == {"finished"}
    assert len(final(statuses)) == RUNS
    assert digests(tmp_path) == expected
    assert not list(tmp_path.glob(".shared-*"))
