"""The table of runs, and sweeps and studies."""

import json
import os
import time
from pathlib import Path

import pytest
from folders import STEPS, append, episode, evaluated, progress, write_run

from q2pi.runs.locks import take
from q2pi.viewer import table
from q2pi.viewer.groups import groups
from q2pi.viewer.table import RunTable, Summary, differences, summarize, tail_rows, varying


def test_a_summary_holds_the_newest_numbers(tmp_path: Path) -> None:
    rows = [*(episode(step, float(step)) for step in range(10, 310, 10)), progress(600), evaluated(500, 8.0)]
    path = write_run(tmp_path / "deep" / "run", *rows, checkpoint=500)
    (summary,) = refreshed(tmp_path)
    assert (summary.path, summary.name, summary.problem) == (path, "deep/run", "")
    assert (summary.algorithm, summary.env_id, summary.total, summary.step) == ("dqn", "CartPole-v1", STEPS, 500)
    assert summary.mean_return == 205.0  # of the newest 20: 110, 120, ..., 300
    assert summary.evaluation == (8.0, 7.0, 9.0)
    assert summary.minutes == pytest.approx(0.1)
    assert summary.state == "stopped at 500"


def refreshed(root: Path) -> list[Summary]:
    made = RunTable(root)
    made.refresh()
    return made.rows


def test_a_run_is_read_again_only_if_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(run: table.RunFolder, root: Path) -> Summary:
        read.append(run.path.name)
        return summarize(run, root)

    monkeypatch.setattr(table, "summarize", counted)
    for name in ("a", "b"):
        write_run(tmp_path / name, episode(10, 1.0))
    runs = RunTable(tmp_path)
    assert runs.refresh()
    assert not runs.refresh()
    append(tmp_path / "b", episode(20, 5.0))
    assert runs.refresh()
    assert read == ["a", "b", "b"]
    assert [row.mean_return for row in runs.rows] == [1.0, 3.0]


def test_a_run_that_starts_or_stops_training_changes_its_row(tmp_path: Path) -> None:
    write_run(tmp_path / "a", episode(10, 1.0), checkpoint=None)
    runs = RunTable(tmp_path)
    runs.refresh()
    lock = take(tmp_path / "a" / ".lock")
    assert lock is not None
    with lock:
        assert runs.refresh()
        assert runs.rows[0].state == "training"
    assert runs.refresh()
    assert runs.rows[0].state == "no checkpoint"


def test_a_deleted_run_leaves_the_table(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    runs = RunTable(tmp_path)
    runs.refresh()
    os.rename(path, tmp_path.parent / f"{tmp_path.name}-moved")
    assert runs.refresh()
    assert runs.rows == []


DAMAGES = {
    "config is not TOML": lambda path: (path / "config.toml").write_text("a = ["),
    "config lacks options": lambda path: (path / "config.toml").write_text("seed = 1"),
    "rows are not JSON": lambda path: (path / "metrics.jsonl").write_text("{\n"),
    "rows are no objects": lambda path: (path / "metrics.jsonl").write_text("3\n"),
    "rows lack entries": lambda path: (path / "metrics.jsonl").write_text('{"kind": "episode"}\n'),
    "evaluation is half written": lambda path: (path / "evaluation.json").write_text('{"stat'),
    "evaluation lacks entries": lambda path: (path / "evaluation.json").write_text("{}"),
    "metrics is a folder": lambda path: ((path / "metrics.jsonl").unlink(), (path / "metrics.jsonl").mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_a_row_with_its_problem(tmp_path: Path, damage: object) -> None:
    write_run(tmp_path / "good", episode(10, 1.0))
    damage(write_run(tmp_path / "bad", episode(10, 1.0), evaluated(10, 1.0)))  # type: ignore[operator]
    bad, good = refreshed(tmp_path)
    assert (good.problem, good.mean_return) == ("", 1.0)
    assert bad.problem
    assert "bad" in bad.problem or "is not" in bad.problem


def test_the_tail_of_a_long_file_starts_with_a_whole_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"kind": "x", "step": step}) + "\n" for step in range(1000)) + '{"torn')
    rows = tail_rows(path, size=100)
    assert [row["step"] for row in rows] == [997, 998, 999]
    assert len(tail_rows(path)) == 1000


def test_runs_are_read_quickly_the_second_time(tmp_path: Path) -> None:
    for index in range(100):
        write_run(tmp_path / f"{index:03d}", episode(10, 1.0), evaluated(10, 1.0))
    runs = RunTable(tmp_path)
    runs.refresh()
    start = time.process_time()
    assert not runs.refresh()
    assert time.process_time() - start < 0.4


def test_options_that_differ(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=1, gamma=0.9)
    write_run(tmp_path / "b", seed=2, gamma=0.99)
    rows = refreshed(tmp_path)
    assert differences(rows) == [("hyper.gamma", ["0.9", "0.99"]), ("seed", ["1", "2"])]
    assert differences(rows[:1]) == differences([]) == []
    assert varying(rows) == {("dqn", "CartPole-v1"): ["hyper.gamma"]}


def test_sweeps_and_studies_are_found_with_their_states(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / "sweep" / "CartPole-v1" / "dqn" / f"seed-{seed}", seed=seed)
    write_run(tmp_path / "half" / "CartPole-v1" / "dqn" / "seed-1", checkpoint=500)
    write_run(tmp_path / "study" / "trials" / "0000" / "seed-1", checkpoint=None)
    (tmp_path / "study" / "study.toml").write_text(
        'sampler = "tpe"\n[base]\nalgorithm = "dqn"\n[base.env]\nenv_id = "CartPole-v1"\n'
    )
    write_run(tmp_path / "alone")
    half, study, sweep = groups(refreshed(tmp_path), tmp_path)
    assert (sweep.kind, sweep.name, sweep.state, sweep.states) == ("sweep", "sweep", "finished", {"finished": 2})
    assert sweep.about == "dqn on CartPole-v1, 2 seeds"
    assert (half.state, half.states) == ("incomplete", {"stopped": 1})
    assert (study.kind, study.name, study.about) == ("study", "study", "dqn on CartPole-v1, 1 trials, tpe")


def test_the_folder_of_a_sweep_itself_is_a_sweep(tmp_path: Path) -> None:
    write_run(tmp_path / "CartPole-v1" / "dqn" / "seed-1")
    write_run(tmp_path / "q2pi" / "AliasedVacuum-v0" / "dqn" / "seed-1")
    (found,) = groups(refreshed(tmp_path), tmp_path)
    assert (found.name, found.states) == (tmp_path.name, {"finished": 2})


def test_the_statement_of_a_finished_study_is_shown_and_a_damaged_study_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "study" / "trials" / "0000" / "seed-1")
    plan = tmp_path / "study" / "study.toml"
    plan.write_text("sampler = ")
    (found,) = groups(refreshed(tmp_path), tmp_path)
    assert found.about.startswith("study.toml cannot be read: ")
    plan.write_text('sampler = "tpe"\n[base]\nalgorithm = "dqn"\n[base.env]\nenv_id = "CartPole-v1"\n')
    (tmp_path / "study" / "report").mkdir()
    (tmp_path / "study" / "report" / "result.json").write_text('{"statement": "trial-7 is best"}')
    (found,) = groups(refreshed(tmp_path), tmp_path)
    assert found.about == "dqn on CartPole-v1, 1 trials, tpe; trial-7 is best"
