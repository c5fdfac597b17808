"""Learning curves, read from the figures: window means by hand, curves over seeds, labels, protocols."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from q2pi.algorithms.registry import default_config
from q2pi.config import RunConfig
from q2pi.envs.spec import EnvSpec
from q2pi.errors import UserError
from q2pi.reports import learning_curves as plots
from q2pi.reports.learning_curves import learning_curves, published_comparison
from q2pi.reports.windows import default_width, window_means
from q2pi.runs.folder import RunFolder
from q2pi.runs.history import read_history

CARTPOLE = EnvSpec("CartPole-v1", stack=1, clip_rewards=False)
MACHADO = EnvSpec("Pong", protocol="machado", repeat_action_probability=0.25, clip_rewards=True, frame_skip=4)


def config_of(seed: int = 1, env: EnvSpec = CARTPOLE, **hyper: Any) -> RunConfig[Any]:
    base = default_config("dqn")
    return dataclasses.replace(base, seed=seed, env=env, hyper=dataclasses.replace(base.hyper, **hyper))


def run_of(path: Path, config: RunConfig[Any], *rows: dict[str, Any]) -> RunFolder:
    run = RunFolder.create(path, config)
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def episode(step: int, value: float) -> dict[str, Any]:
    return {"kind": "episode", "step": step, "return": value}


def train(step: int, **scalars: float) -> dict[str, Any]:
    return {"kind": "train", "step": step, **scalars, "epsilon": 0.5, "updates": 9, "seconds": {"act": 1.0}}


def evaluation(step: int, mean: float, low: float, high: float) -> dict[str, Any]:
    statistics = {"n": 30, "mean": mean, "mean_interval": [low, high]}
    return {"kind": "evaluation", "step": step, "statistics": statistics, "scores": []}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved while the test runs."""
    kept: list[Figure] = []
    save = plots.save_figure

    def keep(figure: Figure, path: Path) -> Path:
        kept.append(figure)
        return save(figure, path)

    monkeypatch.setattr(plots, "save_figure", keep)
    return kept


def curve(figure: Figure, panel: int, colour: int = 0) -> list[tuple[float, float]]:
    """The points of the solid line of one colour."""
    (line,) = (
        line
        for line in figure.axes[panel].lines
        if line.get_color() == plots.COLOURS[colour] and line.get_linestyle() == "-"
    )
    return list(zip(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist(), strict=True))


def legend(figure: Figure) -> list[str]:
    found = figure.axes[0].get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def subtitle(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.axes[0].texts).replace("\n", " ")


def test_a_window_holds_its_last_step_and_not_the_one_before_its_first() -> None:
    steps = np.array([1, 10, 11, 20, 31, 41])
    values = np.array([1.0, 3.0, 100.0, 300.0, 7.0, 99_999.0])
    np.testing.assert_array_equal(window_means(steps, values, 10, 4), [2.0, 200.0, np.nan, 7.0])


def test_a_single_run_is_drawn_with_its_episodes_and_its_evaluations(tmp_path: Path, figures: list[Figure]) -> None:
    run = run_of(
        tmp_path / "run",
        config_of(env=MACHADO),
        episode(40, 2.0),
        episode(100, 4.0),
        train(100, loss=0.5, q=8.0),
        episode(150, 10.0),
        train(200, loss=0.25, q=9.0),
        evaluation(200, 30.0, 20.0, 50.0),
    )
    policy = "epsilon-greedy, epsilon 0.002"
    run.evaluation_file.write_text(json.dumps({"protocol": {"policy": policy}}))
    path = tmp_path / "made" / "curve.png"
    assert learning_curves([run], path, width=100) == path
    assert path.read_bytes().startswith(b"\x89PNG")
    (figure,) = figures
    assert curve(figure, 0) == [(50.0, 3.0), (150.0, 10.0)]
    assert curve(figure, 1) == [(50.0, 0.5), (150.0, 0.25)]
    assert curve(figure, 2) == [(50.0, 8.0), (150.0, 9.0)]
    (bar,) = figure.axes[0].containers
    segments = bar.lines[2][0].get_segments()  # type: ignore[attr-defined]
    np.testing.assert_allclose(segments, [[[200, 20], [200, 50]]])
    assert legend(figure) == ["training, seed 1", "evaluation"]
    assert figure.axes[0].get_title(loc="left") == "dqn on Pong"
    assert [axes.get_xlabel() for axes in figure.axes] == ["agent steps"] * 3
    assert [axes.get_ylabel() for axes in figure.axes] == ["raw return per episode", "loss per update", "mean Q-value"]
    for fact in ("machado protocol, sticky actions 0.25", "rewards clipped", "each 100 agent steps"):
        assert fact in subtitle(figure)
    assert f"30 whole episodes ({policy})" in subtitle(figure)
    assert "over episodes" in subtitle(figure)


def test_runs_that_differ_only_in_their_seed_are_one_curve_with_an_interval_over_seeds(
    tmp_path: Path, figures: list[Figure]
) -> None:
    first = run_of(tmp_path / "1", config_of(1), episode(50, 10.0), episode(150, 20.0), evaluation(200, 1.0, 0.9, 1.1))
    second = run_of(
        tmp_path / "2",
        config_of(2),
        episode(60, 28.0),
        episode(70, 32.0),
        episode(199, 40.0),
        evaluation(200, 5.0, 4.9, 5.1),
        episode(250, 99_999.0),
    )
    learning_curves([first, second], tmp_path / "both.png", width=100)
    (figure,) = figures
    # Only one seed has reached the third window, so the window is not drawn.
    assert curve(figure, 0) == [(50.0, 20.0), (150.0, 30.0)]
    # Of the bootstrap samples of two seeds, a quarter are twice the lower seed and a quarter twice the higher seed.
    (band,) = [artist for artist in figure.axes[0].collections if type(artist).__name__.startswith("FillBetween")]
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}  # type: ignore[union-attr]
    assert corners == {(50.0, 10.0), (50.0, 30.0), (150.0, 20.0), (150.0, 40.0)}
    segments = figure.axes[0].containers[0].lines[2][0].get_segments()  # type: ignore[attr-defined]
    np.testing.assert_allclose(segments, [[[200, 1], [200, 5]]])
    assert legend(figure) == ["training, 2 seeds", "evaluation"]
    assert "over seeds" in subtitle(figure)
    assert "single episodes" not in subtitle(figure)


def test_runs_with_different_options_are_curves_labelled_by_the_difference(
    tmp_path: Path, figures: list[Figure]
) -> None:
    rows = episode(50, 10.0), episode(150, 20.0)
    slow = run_of(tmp_path / "slow", config_of(1, learning_rate=0.001), *rows)
    fast = run_of(tmp_path / "fast", config_of(2, learning_rate=0.1, double=True), episode(50, 7.0))
    learning_curves([slow, fast], tmp_path / "both.png", width=100)
    (figure,) = figures
    assert curve(figure, 0, colour=0) == [(50.0, 10.0), (150.0, 20.0)]
    assert curve(figure, 0, colour=1) == [(50.0, 7.0)]
    assert legend(figure) == [
        "double False, learning_rate 0.001: training, seed 1",
        "double True, learning_rate 0.1: training, seed 2",
    ]


def test_different_evaluation_policies_are_not_named(tmp_path: Path, figures: list[Figure]) -> None:
    runs = []
    for seed, policy in ((1, "greedy"), (2, "drawn from the policy")):
        run = run_of(tmp_path / str(seed), config_of(seed), episode(50, 10.0), evaluation(200, 1.0, 0.9, 1.1))
        run.evaluation_file.write_text(json.dumps({"protocol": {"policy": policy}}))
        runs.append(run)
    learning_curves(runs, tmp_path / "both.png", width=100)
    assert "30 whole episodes, 95 %" in subtitle(figures[0])


def test_two_environments_are_named_and_their_rules_differ(tmp_path: Path, figures: list[Figure]) -> None:
    pole = run_of(tmp_path / "pole", config_of(), episode(50, 10.0))
    pong = run_of(tmp_path / "pong", config_of(env=MACHADO), episode(50, -21.0))
    learning_curves([pole, pong], tmp_path / "both.png")
    assert legend(figures[0]) == ["dqn on CartPole-v1: training, seed 1", "dqn on Pong: training, seed 1"]
    assert figures[0].axes[0].get_title(loc="left") == "dqn on CartPole-v1, Pong"
    assert "machado" not in subtitle(figures[0])
    assert "differ" in subtitle(figures[0])


def test_a_run_cannot_be_given_twice(tmp_path: Path) -> None:
    rows = episode(50, 10.0), episode(150, 20.0)
    runs = [run_of(tmp_path / name, config_of(3), *rows) for name in ("a", "b")]
    with pytest.raises(UserError, match=r"a and .*b have the same configuration and the same seed 3"):
        learning_curves(runs, tmp_path / "both.png")


def test_nothing_is_drawn_before_the_first_episode(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    assert learning_curves([run_of(tmp_path / "run", config_of(), train(100, loss=1.0))], path) is None
    assert not path.exists()


@pytest.mark.parametrize(
    "text", ['{"kind": "episode"}\n', "[1]\n", "not JSON\n", '{"kind": "evaluation", "step": 1}\n']
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    run = run_of(tmp_path / "run", config_of())
    run.metrics_file.write_text(text)
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        learning_curves([run], tmp_path / "curve.png")


@pytest.mark.parametrize(
    ("last", "episodes", "width"),
    [(1_000_000, 2_000, 20_000), (1_000_000, 100, 100_000), (10_000, 2_000, 200), (400, 2, 100), (3, 1, 1)],
)
def test_the_default_window_is_round_and_holds_ten_episodes_if_possible(
    tmp_path: Path, last: int, episodes: int, width: int
) -> None:
    steps = np.linspace(1, last, episodes).astype(int) if episodes > 1 else [last]
    run = run_of(tmp_path / "run", config_of(), *(episode(int(step), 1.0) for step in steps))
    assert default_width([read_history(run)]) == width


def test_a_run_and_published_results(tmp_path: Path, figures: list[Figure]) -> None:
    run = run_of(
        tmp_path / "run",
        config_of(5, env=MACHADO),
        episode(100, 1.0),
        episode(999, 3.0),
        episode(1_000, 5.0),
        episode(1_001, 50.0),
        episode(2_500, 99_999.0),  # its window is not complete
    )
    published = {"DQN (2013)": [(1_000, 2.5), (2_000, 3.5)]}
    path = tmp_path / "beside.png"
    assert published_comparison(run, published, path, width=1_000) == path
    (figure,) = figures
    assert curve(figure, 0) == [(1_000.0, 3.0), (2_000.0, 50.0)]
    dashed = next(line for line in figure.axes[0].lines if line.get_linestyle() == "--")
    assert np.asarray(dashed.get_xydata()).tolist() == [[1_000.0, 2.5], [2_000.0, 3.5]]
    assert sorted(legend(figure)) == ["DQN (2013)", "q2pi dqn, seed 5"]
    assert "sticky actions 0.25" in subtitle(figure)


def test_no_comparison_before_the_first_window_is_complete(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", config_of(), episode(999, 3.0))
    path = tmp_path / "beside.png"
    assert published_comparison(run, {"DQN": [(1_000, 2.5)]}, path, width=1_000) is None
    assert not path.exists()
