"""The page and the figures: self-contained, with the numbers of the report."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, ScalarFormatter
from reported_runs import finished_run
from rich.console import Console

from q2pi.reports.comparison import figures
from q2pi.reports.comparison.figures import draw
from q2pi.reports.comparison.numbers import summarise
from q2pi.reports.comparison.page import print_tables, report_page
from q2pi.reports.comparison.read import collect
from q2pi.reports.style import finish_axes, new_figure, save_figure


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


def test_a_title_of_a_section_is_on_the_page_once(tmp_path: Path) -> None:
    report = report_on(tmp_path / "runs")
    titles = re.findall(r"<h2>(.*?)</h2>", report_page(report, draw(report, tmp_path / "out")))
    assert len(titles) == len(set(titles)) == 7


RANGES = [(0, 1e6), (123_456.78, 123_456.79), (-1e6, 1e6), (0, 1e-6), (-0.5, 0.5), (99_990_000, 99_999_999), (3, 3)]


def test_labels_of_narrow_axes_are_apart(tmp_path: Path) -> None:
    """Panels that are an inch wide, with numbers of many digits."""
    figure = new_figure(7, 4)
    panels = list(figure.subplots(1, len(RANGES)))
    for axes, (low, high) in zip(panels, RANGES, strict=True):
        axes.plot([low, high], [0, 1])
        finish_axes(axes, "", small=True, from_zero=False)
        axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        axes.xaxis.set_major_locator(AutoLocator())
    figure.draw_without_rendering()
    assert any(overlapping(axes) for axes in panels), "the labels overlap if nothing is done"
    save_figure(figure, tmp_path / "narrow.png")
    assert not any(overlapping(axes) for axes in panels)
    assert all(1 <= len(labels(axes)) <= 9 for axes in panels)


def labels(axes: Any) -> list[Any]:
    low, high = sorted(axes.get_xlim())
    return [tick.label1 for tick in axes.xaxis.get_major_ticks() if low <= tick.get_loc() <= high]


def overlapping(axes: Any) -> bool:
    boxes = sorted(tuple(label.get_window_extent().intervalx) for label in labels(axes))
    return any(right[0] < left[1] for left, right in pairwise(boxes))


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
