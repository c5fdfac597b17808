"""The scripts that turn run folders into results fit the sweeps that train them."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.runs.history import History
from q2pi.runs.sweep import read_sweep

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module(name)


def history_of(returns: list[float]) -> History:
    steps = 10 * np.arange(1, len(returns) + 1)
    return History(RunFolder("run"), {}, steps=steps, returns=np.array(returns), train=[], evaluations={})


def test_episodes_needed_are_counted_to_the_end_of_the_first_window_that_reaches_the_threshold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = script("reinforce", monkeypatch).needed
    assert needed(history_of(19 * [500.0])) == (None, None), "fewer episodes than the window has"
    assert needed(history_of(20 * [400.0])) == (20, 200)
    assert needed(history_of(50 * [399.0])) == (None, None)
    assert needed(history_of([*5 * [0.0], *16 * [500.0], *20 * [0.0]])) == (21, 210)


def test_threads_are_measured_in_alternating_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row once per round, beside its number of busy processes, which have ended afterwards."""
    threads = script("threads", monkeypatch)
    processes: list[subprocess.Popen[bytes]] = []
    seen: list[tuple[int, int]] = []
    popen = subprocess.Popen

    def start(command: list[str]) -> subprocess.Popen[bytes]:
        processes.append(popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))
        return processes[-1]

    def measured(number: int, steps: int) -> dict[str, float]:
        seen.append((number, sum(process.poll() is None for process in processes)))
        return {"threads": number or 1, "steps_per_second": 100.0 * len(seen), "learn_ms_per_step": 2.5}

    monkeypatch.setattr(threads.subprocess, "Popen", start)
    monkeypatch.setattr(threads, "measured", measured)
    threads.main(["--rounds", "3", "--steps", "8", "--out", str(tmp_path)])
    assert seen == 3 * [(1, 0), (2, 0), (0, 0), (1, 2), (2, 2), (0, 2)]
    assert all(process.poll() is not None for process in processes)
    row = json.loads((tmp_path / "threads.json").read_text())["rows"][0]
    assert (row["condition"], row["threads"], row["steps_per_second"]) == ("idle", 1, [100.0, 700.0, 1300.0])
    assert "| idle | 1 | 1 | 700 | 2.50 |" in (tmp_path / "threads.md").read_text()


def test_every_setting_of_reinforce_is_trained_by_its_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("reinforce", monkeypatch)
    sweep = read_sweep(BENCHMARKS / "reinforce.toml", Path("runs"))
    assert {run.name.split("/")[1] for run in sweep.runs} == {*module.WEIGHTS.values(), *module.EPISODES.values()}


def test_every_task_of_classic_is_trained_by_its_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = read_sweep(BENCHMARKS / "classic.toml", Path("runs"))
    tasks = {f"{run.config.algorithm}/{run.config.env.env_id}" for run in sweep.runs}
    assert tasks == script("classic", monkeypatch).TASKS.keys()


def test_the_corridors_policies_are_read_from_finished_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.toml"
    text = (BENCHMARKS / "vacuum.toml").read_text().replace("30_000", "200").replace("= 100", "= 1")
    file.write_text(text.replace("seeds = 10", "seeds = 1") + "[algorithm.dqn]\nlearning_starts = 128\n")
    for run in read_sweep(file, tmp_path).runs:
        execute(run.config, run.path)
    other = read_sweep(file, tmp_path / "other").runs[0]
    execute(other.config, other.path, stop=lambda: True)
    vacuum = script("vacuum", monkeypatch)
    monkeypatch.setattr("sys.argv", ["vacuum.py", str(tmp_path), "--out", str(tmp_path / "out")])
    vacuum.main()
    printed = capsys.readouterr().out
    assert "left out: 1 unfinished run\n" in printed
    assert all(f"| {method} |" in printed for method in vacuum.METHODS)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"comparison.json", "comparison.png", "table.md"}
    monkeypatch.setattr("sys.argv", ["vacuum.py", str(tmp_path / "other")])
    with pytest.raises(SystemExit, match="holds no finished run"):
        vacuum.main()


def test_seeds_stand_beside_published_ones_with_t_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means 100 and 120 of two seeds: mean 110, half width 12.7062 (t, 1 degree of freedom) * 14.142 / sqrt(2) = 127.1.

    A window that one seed has not reached is left out.
    """
    for seed, returns in ((1, "250000.0,100.0\n500000.0,300.0\n"), (2, "250000.0,120.0\n")):
        folder = tmp_path / f"seed_{seed}"
        folder.mkdir()
        (folder / "training_returns.csv").write_text("agent_steps,mean_return\n" + returns)
        (folder / "config.toml").write_text('algorithm = "rainbow"\n')
    anchor = script("anchor", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["anchor.py", str(tmp_path), "--published", "Dopamine Rainbow (JAX), 5 seeds"])
    anchor.main()
    header, *rows = (tmp_path / "returns.csv").read_text().splitlines()
    assert header.startswith("agent_steps,seed_1,seed_2,mean,low,high,published_mean")
    assert len(rows) == 1
    assert rows[0].split(",")[:6] == ["250000", "100.0", "120.0", "110.0", "-17.1", "237.1"]
    assert float(rows[0].split(",")[6]) == 179.8
    assert (tmp_path / "returns.png").stat().st_size > 0
