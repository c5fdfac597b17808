"""The numbers of a report by hand, with their runs, protocols and notes."""

import json
from pathlib import Path
from typing import Any

import pytest
from reported_runs import finished_run

from q2pi.reports.comparison.numbers import summarise
from q2pi.reports.comparison.read import collect
from q2pi.runs.folder import RunFolder

PONG = (-20.7, 14.6)
BOXING = (0.1, 12.1)


def report_of(*runs: RunFolder) -> dict[str, Any]:
    report = summarise(*collect(runs))
    assert json.loads(json.dumps(report, allow_nan=False)) == report, "the report is JSON-able"
    return report


def runs_of(folder: Path, env_id: str, scores: list[float], **options: Any) -> list[RunFolder]:
    name = f"{env_id}-{'-'.join(map(str, options.values()))}"
    return [
        finished_run(folder / f"{name}-{seed}", score, env_id=env_id, seed=seed, **options)
        for seed, score in enumerate(scores, 1)
    ]


def test_a_cell_by_hand(tmp_path: Path) -> None:
    report = report_of(*runs_of(tmp_path, "CartPole-v1", [100.0, 300.0]))
    cell = report["environments"]["CartPole-v1"]["methods"]["dqn"]
    # Of two scores a quarter of the resamples are twice the lower one, a quarter twice the higher one.
    assert (cell["mean"], cell["mean_interval"]) == (200.0, [100.0, 300.0])
    assert (cell["iqm"], cell["iqm_interval"]) == (200.0, [100.0, 300.0])
    assert (cell["seeds"], cell["scores"]) == ([1, 2], [100.0, 300.0])
    assert cell["protocol"] == {
        "agent_steps": 1_000,
        "rules": "raw rewards, not clipped for learning",
        "policy": "epsilon-greedy, epsilon 0.001",
        "evaluation_episodes": [30],
    }
    assert cell["human_normalized"] is None
    assert report["human_normalized_iqm"] is None
    assert any("none is normalised" in note for note in report["notes"])
    assert any("too narrow" in note for note in report["notes"])


def test_one_seed_has_no_interval_and_the_report_says_so(tmp_path: Path) -> None:
    report = report_of(
        *runs_of(tmp_path, "Pong", [0.0]), *runs_of(tmp_path, "Pong", [1.0], algorithm="ppo", policy="mode")
    )
    for cell in report["environments"]["Pong"]["methods"].values():
        assert cell["mean_interval"] is cell["iqm_interval"] is cell["human_normalized"]["mean_interval"] is None
        assert cell["curve_steps"]["low"] is None
    assert report["human_normalized_iqm"]["methods"]["dqn"]["interval"] is None
    assert report["profiles"][0]["methods"]["dqn"]["low"] is None
    assert report["probability_of_improvement"][0]["interval"] is None
    assert any("single seed" in note for note in report["notes"])


def test_human_normalised_numbers_by_hand(tmp_path: Path) -> None:
    """Halfway between random and human on Pong, twice human on Boxing, by every seed."""
    half, twice = sum(PONG) / 2, BOXING[0] + 2 * (BOXING[1] - BOXING[0])
    report = report_of(*runs_of(tmp_path, "Pong", [half] * 2), *runs_of(tmp_path, "Boxing", [twice] * 2))
    iqm = report["human_normalized_iqm"]
    assert iqm["environments"] == ["Pong", "Boxing"]
    assert iqm["methods"]["dqn"]["iqm"] == pytest.approx(1.25)  # 0.5, 0.5, 2, 2: the middle half is 0.5 and 2
    # Every seed did the same, so other seeds would too: the difference between environments adds no uncertainty.
    assert iqm["methods"]["dqn"]["interval"] == pytest.approx([1.25, 1.25])
    assert report["environments"]["Pong"]["methods"]["dqn"]["human_normalized"]["mean"] == pytest.approx(0.5)
    (profile,) = report["profiles"]
    assert profile["scale"] == "human-normalised score"
    shares = dict(zip(profile["thresholds"], profile["methods"]["dqn"]["share"], strict=True))
    assert {share for level, share in shares.items() if 0.55 < level < 1.95} == {0.5}


def test_environments_without_a_reference_stay_raw_and_apart(tmp_path: Path) -> None:
    report = report_of(*runs_of(tmp_path, "Pong", [1.0, 2.0]), *runs_of(tmp_path, "CartPole-v1", [100.0, 200.0]))
    assert report["human_normalized_iqm"]["environments"] == ["Pong"]
    assert [(profile["environments"], profile["scale"]) for profile in report["profiles"]] == [
        (["Pong"], "human-normalised score"),
        (["CartPole-v1"], "raw score"),
    ]
    assert any("CartPole-v1 have no reference scores" in note for note in report["notes"])


def test_an_improvement_is_over_the_environments_that_both_methods_have(tmp_path: Path) -> None:
    report = report_of(
        *runs_of(tmp_path, "CartPole-v1", [100.0, 300.0]),
        *runs_of(tmp_path, "CartPole-v1", [200.0, 50.0], algorithm="ppo"),
        *runs_of(tmp_path, "Acrobot-v1", [-99_999.0, -99_999.0], algorithm="ppo"),
    )
    (pair,) = report["probability_of_improvement"]
    assert (pair["first"], pair["second"], pair["environments"]) == ("dqn", "ppo", ["CartPole-v1"])
    assert (pair["probability"], pair["runs"]) == (0.75, [2, 2])
    assert "dqn has no runs on Acrobot-v1." in report["notes"]


def test_curves_over_steps_and_over_seconds_by_hand(tmp_path: Path) -> None:
    curve = [(250, 4.0), (750, 8.0)]
    slow = finished_run(tmp_path / "slow", 1.0, seed=1, curve=curve, seconds_per_step=0.02)
    fast = finished_run(tmp_path / "fast", 1.0, seed=2, curve=[(250, 6.0), (750, 20.0)], seconds_per_step=0.01)
    report = report_of(slow, fast)
    cell = report["environments"]["CartPole-v1"]["methods"]["dqn"]
    width = report["environments"]["CartPole-v1"]["window_steps"]
    assert width == 300  # a quarter of the run, rounded up
    assert cell["curve_steps"]["x"] == [150.0, 750.0]
    assert cell["curve_steps"]["mean"] == [5.0, 14.0]
    assert (cell["curve_steps"]["low"], cell["curve_steps"]["high"]) == ([4.0, 8.0], [6.0, 20.0])
    # In seconds the slow run's episodes end at 5 and 15, the fast one's at 2.5 and 7.5; windows are of 4 seconds:
    # the slow one has episodes in the second and the fourth, the fast one in the first and the second.
    assert cell["curve_seconds"]["window_seconds"] == 4.0
    assert cell["curve_seconds"]["x"] == [6.0]
    assert cell["curve_seconds"]["mean"] == [(4.0 + 20.0) / 2]


def test_mixed_rules_and_options_are_named(tmp_path: Path) -> None:
    report = report_of(
        *runs_of(tmp_path, "Pong", [1.0, 2.0], gamma=0.9),
        *runs_of(tmp_path, "Boxing", [1.0, 2.0], protocol="nature", gamma=0.99),
    )
    assert report["methods"] == ["dqn"]
    assert any("several rules" in note and "sticky actions 0.25 " not in note for note in report["notes"])
    (note,) = [note for note in report["notes"] if "differ between environments" in note]
    for name in ("gamma", "protocol", "repeat_action_probability"):
        assert name in note


def test_different_numbers_of_runs_are_named(tmp_path: Path) -> None:
    report = report_of(*runs_of(tmp_path, "Pong", [1.0, 2.0]), *runs_of(tmp_path, "Boxing", [1.0, 2.0, 3.0]))
    assert report["runs"] == 5
    assert any("different numbers of runs (2 to 3)" in note for note in report["notes"])


def test_minutes_are_the_median_over_seeds(tmp_path: Path) -> None:
    """1,000 steps of 0.06, 0.12 and 0.6 seconds take 1, 2 and 10 minutes."""
    runs = [
        finished_run(tmp_path / str(seed), 1.0, seed=seed, seconds_per_step=seconds)
        for seed, seconds in enumerate((0.06, 0.6, 0.12))
    ]
    cell = report_of(*runs)["environments"]["CartPole-v1"]["methods"]["dqn"]
    assert cell["minutes"] == pytest.approx(2)
