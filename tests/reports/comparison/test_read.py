"""Runs sorted into environments and methods; no cell mixes two protocols."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from reported_runs import finished_run

from q2pi.errors import UserError
from q2pi.reports.comparison.numbers import summarise
from q2pi.reports.comparison.read import collect
from q2pi.runs.folder import RunFolder
from q2pi.training.presets import configure


def cells_of(*runs: RunFolder) -> dict[str, dict[str, list[float]]]:
    """Environment -> method -> scores by seed."""
    cells, _ = collect(runs)
    return {
        env_id: {method: [sample.score for sample in cell] for method, cell in methods.items()}
        for env_id, methods in cells.items()
    }


def test_runs_that_differ_in_their_seed_are_one_cell_in_the_order_of_the_seeds(tmp_path: Path) -> None:
    runs = [finished_run(tmp_path / str(seed), 10.0 * seed, seed=seed) for seed in (3, 1, 2)]
    assert cells_of(*runs) == {"CartPole-v1": {"dqn": [10.0, 20.0, 30.0]}}


def test_a_method_is_an_algorithm_with_the_options_in_which_its_runs_differ(tmp_path: Path) -> None:
    runs = [
        finished_run(tmp_path / "a", 1.0, gamma=0.9),
        finished_run(tmp_path / "b", 2.0, gamma=0.99, hidden=(32, 16)),
        finished_run(tmp_path / "c", 3.0, algorithm="ppo"),
    ]
    assert list(cells_of(*runs)["CartPole-v1"]) == [
        "dqn, gamma 0.9, hidden 120x84",
        "dqn, gamma 0.99, hidden 32x16",
        "ppo",
    ]


def test_options_that_differ_only_between_environments_do_not_distinguish_methods(tmp_path: Path) -> None:
    """Such as options of two environments' presets; the method is compared over both environments."""
    runs = [
        finished_run(tmp_path / "a", 1.0, learning_rate=0.1),
        finished_run(tmp_path / "b", 2.0, learning_rate=0.2, env_id="Acrobot-v1"),
    ]
    assert cells_of(*runs) == {"CartPole-v1": {"dqn": [1.0]}, "Acrobot-v1": {"dqn": [2.0]}}


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({}, {"repeat_action_probability": 0.0}, ["repeat_action_probability 0.25", "repeat_action_probability 0.0"]),
        ({}, {"total_timesteps": 900}, ["total_timesteps 1,000", "total_timesteps 900"]),
        ({}, {"eval_epsilon": 0.05}, ["eval_epsilon 0.001", "eval_epsilon 0.05"]),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else None,
)
def test_another_protocol_is_another_method(
    first: dict[str, float], second: dict[str, float], names: list[str], tmp_path: Path
) -> None:
    runs = [
        finished_run(tmp_path / "a", 1.0, env_id="Pong", **{"eval_epsilon": 0.001} | first),
        finished_run(tmp_path / "b", 2.0, env_id="Pong", **{"seed": 2, "eval_epsilon": 0.001} | second),
    ]
    assert list(cells_of(*runs)["Pong"]) == [f"dqn, {name}" for name in names]


def test_budgets_do_not_split_the_methods_of_two_algorithms(tmp_path: Path) -> None:
    runs = [
        finished_run(tmp_path / "a", 1.0),
        finished_run(tmp_path / "b", 2.0, algorithm="ppo", total_timesteps=800),
    ]
    assert list(cells_of(*runs)["CartPole-v1"]) == ["dqn", "ppo"]


def test_rules_split_the_methods_of_two_algorithms(tmp_path: Path) -> None:
    runs = [
        finished_run(tmp_path / "a", 1.0, env_id="Pong"),
        finished_run(tmp_path / "b", 2.0, env_id="Pong", algorithm="ppo", repeat_action_probability=0.0),
    ]
    names = list(cells_of(*runs)["Pong"])
    assert names == ["dqn, repeat_action_probability 0.25", "ppo, repeat_action_probability 0.0"]


def test_how_often_a_run_is_evaluated_and_logged_is_no_property_of_its_method(tmp_path: Path) -> None:
    other = {"evaluation_episodes": 7, "evaluation_frequency": 9, "checkpoint_frequency": 10, "log_frequency": 11}
    other["threads"] = 12  # seeds may be trained at different loads
    runs = [finished_run(tmp_path / "a", 1.0), finished_run(tmp_path / "b", 2.0, seed=2, **other)]
    assert cells_of(*runs) == {"CartPole-v1": {"dqn": [1.0, 2.0]}}
    with pytest.raises(UserError, match="the same seed 1"):
        collect([runs[0], finished_run(tmp_path / "c", 2.0, evaluation_episodes=7)])


def test_shipped_presets_are_one_method_over_environments(tmp_path: Path) -> None:
    """PPO's and PQN's presets differ in budgets and in the number of evaluation episodes."""
    runs, budgets = [], set()
    for name, env_id, seed in itertools.product(("ppo", "pqn"), ("CartPole-v1", "Acrobot-v1"), (1, 2)):
        base, _ = configure(name, env_id)
        budgets.add((env_id, base.total_timesteps, base.evaluation_episodes))
        runs.append(finished_run(tmp_path / f"{name}-{env_id}-{seed}", seed, base=base, seed=seed))
    assert len(budgets) == 4, "the presets differ"
    assert {env_id: list(cell) for env_id, cell in cells_of(*runs).items()} == {
        "CartPole-v1": ["ppo", "pqn"],
        "Acrobot-v1": ["ppo", "pqn"],
    }
    report = summarise(*collect(runs))
    (pair,) = report["probability_of_improvement"]
    assert pair["environments"] == ["CartPole-v1", "Acrobot-v1"]
    assert any("different budgets on Acrobot-v1" in note for note in report["notes"])


def test_a_preset_that_differs_by_environment_is_one_method(tmp_path: Path) -> None:
    rates = {("laptop", "CartPole-v1"): 0.1, ("laptop", "Acrobot-v1"): 0.2, ("quick", "CartPole-v1"): 0.3}
    runs = [
        finished_run(
            tmp_path / f"{preset}-{env_id}-{seed}",
            10 * rate + seed,
            env_id=env_id,
            learning_rate=rate,
            seed=seed,
            preset=preset,
        )
        for (preset, env_id), rate in rates.items()
        for seed in (1, 2)
    ]
    assert cells_of(*runs) == {
        "CartPole-v1": {"dqn, preset laptop": [2.0, 3.0], "dqn, preset quick": [4.0, 5.0]},
        "Acrobot-v1": {"dqn, preset laptop": [3.0, 4.0]},
    }


def test_an_option_that_is_changed_within_a_preset_is_named_beside_it(tmp_path: Path) -> None:
    runs = [
        finished_run(tmp_path / "a", 1.0, preset="quick", gamma=0.9),
        finished_run(tmp_path / "b", 2.0, preset="quick", gamma=0.99),
        finished_run(tmp_path / "c", 3.0, gamma=0.99),
    ]
    assert list(cells_of(*runs)["CartPole-v1"]) == [
        *("dqn, preset quick, gamma 0.9", "dqn, preset quick, gamma 0.99", "dqn, preset none, gamma 0.99")
    ]


def test_runs_from_other_runs_are_a_method_whatever_each_started_from(tmp_path: Path) -> None:
    starts = [{"from_run": f"runs/{seed}", "from_digest": str(seed), "seed": seed} for seed in (1, 2)]
    runs = [finished_run(tmp_path / str(start["seed"]), 1.0, **start) for start in starts]
    runs.append(finished_run(tmp_path / "scratch", 2.0))
    assert cells_of(*runs) == {"CartPole-v1": {"dqn, from_run another run": [1.0, 1.0], "dqn, from_run default": [2.0]}}


def test_options_without_effect_are_not_named(tmp_path: Path) -> None:
    """Fractions and atoms follow from the distribution; without noise, runs that differ in its scale are one method."""
    common = {"algorithm": "rainbow", "noisy": False}
    runs = [
        finished_run(tmp_path / "a", 1.0, **common, noisy_sigma=0.5),
        finished_run(tmp_path / "b", 2.0, **common, noisy_sigma=0.1, seed=2),
        finished_run(tmp_path / "c", 3.0, **common, distribution="implicit", tau_samples=8),
    ]
    assert list(cells_of(*runs)["CartPole-v1"].items()) == [
        ("rainbow, distribution categorical", [1.0, 2.0]),
        ("rainbow, distribution implicit", [3.0]),
    ]
    runs = [finished_run(tmp_path / str(sigma), 1.0, algorithm="rainbow", noisy_sigma=sigma) for sigma in (0.5, 0.1)]
    assert len(cells_of(*runs)["CartPole-v1"]) == 2, "with noise its scale has an effect"


def test_runs_that_are_left_out_have_a_reason(tmp_path: Path) -> None:
    done = finished_run(tmp_path / "done", 1.0)
    half = finished_run(tmp_path / "half", 1.0, seed=2, reached=600, curve=[(500, 1.0)])
    bare = finished_run(tmp_path / "bare", 1.0, seed=3)
    rows = bare.metrics_file.read_text().splitlines(keepends=True)
    bare.metrics_file.write_text("".join(row for row in rows if "evaluation" not in row))
    cells, left_out = collect([done, half, bare])
    assert len(cells["CartPole-v1"]["dqn"]) == 1
    assert left_out == {
        str(half.path): "not finished: at step 600 of 1,000",
        str(bare.path): "not evaluated at its end (evaluation_episodes is 0)",
    }
    with pytest.raises(UserError, match=r"no run has a score to report: .*half: not finished"):
        collect([half])


def test_a_run_cannot_be_given_twice(tmp_path: Path) -> None:
    runs = [finished_run(tmp_path / name, 1.0) for name in ("a", "b")]
    with pytest.raises(UserError, match="have the same configuration and the same seed 1"):
        collect(runs)


def test_a_damaged_evaluation_is_named(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", 1.0)
    run.evaluation_file.write_text("{}")
    with pytest.raises(UserError, match=r"evaluation\.json is damaged"):
        collect([run])


def test_seconds_of_an_episode_lie_between_the_rows_around_it(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", 1.0, curve=[(250, 1.0), (1_000, 1.0)], seconds_per_step=0.02)
    cells, _ = collect([run])
    (sample,) = cells["CartPole-v1"]["dqn"]
    np.testing.assert_allclose(sample.seconds, [5.0, 20.0])
    assert sample.minutes == pytest.approx(20 / 60)


def test_the_score_is_that_of_the_last_evaluation(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", 50.0)
    early = {"kind": "evaluation", "step": 500, "statistics": {"n": 30, "mean": 7.0}, "scores": []}
    run.metrics_file.write_text(json.dumps(early) + "\n" + run.metrics_file.read_text())
    assert cells_of(run) == {"CartPole-v1": {"dqn": [50.0]}}
