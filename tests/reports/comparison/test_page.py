"""The page and the figures: self-contained, with the numbers of the report."""

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from reported_runs import finished_run
from rich.console import Console

from q2pi.reports.comparison import figures
from q2pi.reports.comparison.figures import draw
from q2pi.reports.comparison.numbers import summarise
from q2pi.reports.comparison.page import print_tables, report_page
from q2pi.reports.comparison.read import collect


def report_on(folder: Path, seeds: int = 2) -> dict[str, object]:
    runs = [
        finished_run(
            folder / f"{env_id}-{algorithm}-{seed}", value * seed, algorithm=algorithm, env_id=env_id, seed=seed
        )
        for env_id, value in (("Pong", -3.0), ("CartPole-v1", 111.0))
        for algorithm in ("dqn", "ppo")
        for seed in range(1, seeds + 1)
    ]
    return summarise(*collect(runs))


def test_the_page_needs_no_other_file_and_holds_the_numbers(tmp_path: Path) -> None:
    report = report_on(tmp_path / "runs")
    drawn = draw(report, tmp_path / "out")
    assert sorted(path.name for path in drawn.values()) == [
        *("human_normalized_iqm.png", "performance_profiles.png", "probability_of_improvement.png"),
        *("sample_efficiency.png", "scores.png", "wall_clock.png"),
    ]
    page = report_page(report, drawn)
    assert page.count('src="data:image/png;base64,') == 6
    assert "href" not in page
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', page))
    for text in ("166.5 [111.0, 222.0]", "30 whole episodes per run", "sticky actions 0.25", "epsilon 0.001", "1,000"):
        assert text in page


def test_labels_are_escaped(tmp_path: Path) -> None:
    report = report_on(tmp_path / "runs")
    report["left_out"] = {"<b>run</b>": "a & b"}
    page = report_page(report, {})
    assert "&lt;b&gt;run&lt;/b&gt;: a &amp; b" in page
    assert "<b>" not in page


def test_a_terminal_shows_a_table_for_each_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_tables(report_on(tmp_path, seeds=1), Console(width=140))
    text = capsys.readouterr().out
    for words in ("CartPole-v1, raw scores", "Pong, raw scores", "111.0 (one seed, no interval)", "single seed"):
        assert words in text


def test_figures_show_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[str, Figure] = {}
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: kept.setdefault(path.stem, figure) and path)
    report = report_on(tmp_path)
    draw(report, tmp_path / "out")
    panel = kept["scores"].axes[1]
    assert panel.get_title(loc="left") == "CartPole-v1"
    assert [label.get_text() for label in panel.get_yticklabels()] == ["dqn (2 seeds)", "ppo (2 seeds)"]
    bar = panel.containers[0].lines[2][0].get_segments()[0]  # type: ignore[attr-defined]
    assert bar.tolist() == [[111.0, 0.0], [222.0, 0.0]]
    assert kept["scores"].axes[0].get_title(loc="left") == "Pong"
    assert not kept["scores"].axes[0].xaxis_inverted(), "negative scores increase to the right, too"
    profile = kept["performance_profiles"].axes[0].lines[0]
    assert list(profile.get_ydata()) == report["profiles"][0]["methods"]["dqn"]["share"]  # type: ignore[index]
    assert len(kept["probability_of_improvement"].axes[0].containers) == 1
    assert [text.get_text() for text in kept["sample_efficiency"].legends[0].get_texts()] == ["dqn", "ppo"]
