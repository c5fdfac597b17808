"""Data of the charts, worked out by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import episode, evaluated, progress, write_run

from q2pi.runs.folder import RunFolder
from q2pi.runs.history import History, read_history
from q2pi.statistics.scores import bootstrap_interval, mean
from q2pi.viewer import charts


def history_of(path: Path, *rows: dict[str, Any], **options: Any) -> History:
    return read_history(RunFolder(write_run(path, *rows, **options)))


def test_the_curve_of_one_run_has_an_interval_over_episodes(tmp_path: Path) -> None:
    history = history_of(tmp_path / "a", episode(50, 1.0), episode(100, 3.0), episode(101, 10.0), episode(400, 4.0))
    curve = charts.return_curve([history], 100)
    low, high = bootstrap_interval(np.array([1.0, 3.0]), mean, resamples=charts.RESAMPLES)
    assert curve == [(50.0, 2.0, low, high), (150.0, 10.0, 10.0, 10.0), (350.0, 4.0, 4.0, 4.0)]
    assert (low, high) == (1.0, 3.0)


def test_the_curve_of_several_seeds_has_an_interval_over_runs(tmp_path: Path) -> None:
    first = history_of(tmp_path / "a", episode(10, 0.0), episode(20, 4.0), episode(120, 8.0))
    second = history_of(tmp_path / "b", episode(90, 6.0), episode(310, 9.0), seed=2)
    curve = charts.return_curve([first, second], 100)
    assert [(step, value) for step, value, _, _ in curve] == [(50.0, 4.0)], "mean of 2 and 6; no other common window"
    assert curve[0][2:] == (2.0, 6.0)


def test_runs_that_differ_only_in_their_seed_are_one_configuration(tmp_path: Path) -> None:
    runs = [
        history_of(tmp_path / "a", episode(1, 1.0)),
        history_of(tmp_path / "b", episode(1, 1.0), seed=2),
        history_of(tmp_path / "c", episode(1, 1.0), gamma=0.5),
        history_of(tmp_path / "d", episode(1, 1.0)),
    ]
    named = charts.by_configuration(runs)
    assert [(label, [run.seed for run in group]) for label, group in named] == [
        ("gamma 0.99 (2 seeds)", [1, 2]),
        ("gamma 0.5", [1]),
    ]


def test_metrics_leave_out_what_is_no_number(tmp_path: Path) -> None:
    history = history_of(
        tmp_path / "a", progress(10), progress(20, loss=math.nan), progress(40, loss="x"), progress(50)
    )
    assert charts.metric_names(history) == ["loss"]
    assert charts.metric_curve(history, "loss") == [(10.0, 0.1), (50.0, 0.02)]


def test_thinned_curves_keep_their_mean() -> None:
    points = [(float(x), float(x % 2)) for x in range(1000)]
    thin = charts.thinned(points, 100)
    assert len(thin) == 100
    assert thin[0] == (4.5, 0.5)
    assert charts.thinned(points[:3]) == points[:3]


def test_speed_of_parts_is_per_agent_step(tmp_path: Path) -> None:
    rows = [progress(step, seconds={"act": 0.5, "learn": 1.0}) for step in (100, 200, 300)]
    history = history_of(tmp_path / "a", *rows)
    assert charts.speed_of_parts(history, rows=2) == {"act": 5000.0, "learn": 10000.0}  # 1 s and 2 s over 200 steps
    assert charts.speed_of_parts(history, rows=3) == {"act": 5000.0, "learn": 10000.0}
    assert charts.steps_per_second(history, rows=2) == pytest.approx(100.0)
    assert charts.speed_of_parts(history_of(tmp_path / "b")) == {}
    assert math.isnan(charts.steps_per_second(history_of(tmp_path / "c", progress(5))))


def test_the_chart_of_returns_draws_curves_intervals_and_evaluations(tmp_path: Path) -> None:
    history = history_of(tmp_path / "a", episode(50, 1.0), episode(60, 3.0), evaluated(100, 7.0))
    options = charts.returns_chart([("run", [history])], with_evaluations=True)
    names = [series["name"] for series in options["series"]]
    assert names == ["run", "run low", "run interval", "run: evaluation"]
    assert options["legend"]["data"] == ["run", "run: evaluation"]
    low, width = (options["series"][index]["data"][0][1] for index in (1, 2))
    assert (low, low + width) == (1.0, 3.0)
    bars = options["series"][3]["markLine"]["data"]
    assert bars == [[{"coord": [100, 6.0]}, {"coord": [100, 8.0]}]]


def test_a_run_without_rows_has_charts_that_say_so(tmp_path: Path) -> None:
    history = history_of(tmp_path / "a")
    returns = charts.returns_chart([("run", [history])], with_evaluations=True)
    assert (returns["series"], returns["title"]["text"]) == ([], "no episode has ended yet")
    assert charts.metric_chart([("run", history)], "")["title"]["text"] == "no metrics yet"
    assert charts.speed_chart([("run", history)])["title"]["text"] == "no metrics yet"
