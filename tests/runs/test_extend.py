"""Extending a run: exact if no schedule depends on the budget; else each schedule does what the line says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import CARTPOLE, QUIET

from q2pi import __main__ as cli
from q2pi.algorithms import registry
from q2pi.algorithms.registry import default_config
from q2pi.config import override, resolve
from q2pi.errors import UserError
from q2pi.runs.checkpoint import digest
from q2pi.runs.execute import execute
from q2pi.runs.extend import extend, extensions
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.stored_config import read_config

ROLLOUTS = QUIET | {"env_id": "CartPole-v1", "num_envs": 4, "num_steps": 10, "hidden": (8,)}
CONSTANT: dict[str, dict[str, Any]] = {
    "a2c": ROLLOUTS | {"anneal_learning_rate": False},
    "dqn": CARTPOLE | {"exploration_steps": 100},
    "ppo": ROLLOUTS | {"anneal_learning_rate": False, "num_minibatches": 2, "normalize_observations": True},
    "pqn": ROLLOUTS | {"anneal_learning_rate": False, "exploration_steps": 100, "num_minibatches": 2},
    "pqn_laptop": ROLLOUTS
    | {"anneal_learning_rate": False, "exploration_steps": 100, "num_minibatches": 2}
    | {"concurrent_updates": True},
    "q_learning": QUIET | {"env_id": "FrozenLake-v1", "num_envs": 4, "exploration_fraction": 0.0},
    "rainbow": CARTPOLE | {"beta_start": 1.0},
    "reinforce": QUIET | {"env_id": "CartPole-v1", "num_envs": 4, "episodes_per_update": 4, "hidden": (8,)},
}
"""Algorithm -> options with which no schedule depends on the budget."""
ALGORITHMS = [name for name in registry.names() if name in CONSTANT]


def train(algorithm: str, path: Path, **options: Any) -> RunFolder:
    execute(resolve(override(default_config(algorithm), CONSTANT[algorithm] | options)), path)
    return RunFolder(path)


def end(run: RunFolder) -> str:
    return digest(load_checkpoint(run)[1])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_extended_run_equals_one_with_the_larger_budget(
    algorithm: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], no_figures: None
) -> None:
    run = train(algorithm, tmp_path / "run", total_timesteps=404)
    assert cli.main(["resume", str(run.path), "--total-timesteps", "804"]) == 0
    out = capfd.readouterr().out
    assert "extended to 804 agent steps; no schedule depends on the budget: the run equals one of 804 agent" in out
    assert end(run) == end(train(algorithm, tmp_path / "whole", total_timesteps=804))
    assert read_config(run) == read_config(RunFolder(tmp_path / "whole"))
    (entry,) = extensions(run)
    assert (entry["step"], entry["from"], entry["to"]) == (404, 404, 804)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_schedules_name_what_depends_on_the_budget(algorithm: str) -> None:
    """The agent reads the budget if, and only if, the configuration names a schedule."""
    for options, depends in ((CONSTANT[algorithm], False), (_scheduled(algorithm), True)):
        config = resolve(override(default_config(algorithm), options | {"total_timesteps": 400}))
        found = config.hyper.schedules(100, 400)
        if algorithm != "reinforce":
            assert bool(found) is depends
        values = [config.hyper.schedules(100, total) for total in (400, 800)]
        assert all(values[0][name] != values[1][name] for name in found)


def _scheduled(algorithm: str) -> dict[str, Any]:
    names = vars(default_config(algorithm).hyper)
    wanted = {"anneal_learning_rate": True, "anneal_clip_coefficient": True, "exploration_steps": 0}
    return CONSTANT[algorithm] | {
        **{name: value for name, value in wanted.items() if name in names},
        **({"beta_start": 0.4} if "beta_start" in names else {}),
        **({"exploration_fraction": 0.5} if "exploration_fraction" in names else {}),
        **({"final_learning_rate": 0.1} if "final_learning_rate" in names else {}),
    }


def test_values_of_schedules_by_hand() -> None:
    config = resolve(
        override(default_config("ppo"), _scheduled("ppo") | {"learning_rate": 0.4, "total_timesteps": 400})
    )
    assert config.hyper.schedules(100, 400) == {
        "learning_rate": pytest.approx(0.3),
        "clip_coefficient": pytest.approx(0.075),
    }
    dqn = override(default_config("dqn"), {"start_e": 1.0, "end_e": 0.2, "exploration_fraction": 0.5})
    assert dqn.hyper.schedules(50, 400) == {"epsilon": pytest.approx(0.8)}
    assert override(dqn, {"exploration_delay": 50}).hyper.schedules(50, 400) == {"epsilon": 1.0}


@pytest.mark.parametrize("algorithm", ["dqn", "pqn", "q_learning"])
def test_exploration_keeps_its_schedule_and_the_learning_rate_follows_the_budget(
    algorithm: str, tmp_path: Path
) -> None:
    run = train(algorithm, tmp_path / "run", **_scheduled(algorithm) | {"total_timesteps": 400, "learning_rate": 0.5})
    before = read_config(run)
    config, words = extend(run, 800)
    for step in (0, 100, 200, 399, 700):
        old, new = (c.hyper.schedules(step, c.total_timesteps) for c in (before, config))
        assert new["epsilon"] == pytest.approx(old["epsilon"]), step
    assert "epsilon keeps its schedule" in words
    if algorithm == "dqn":
        assert "learning_rate" not in before.hyper.schedules(0, 400) or "learning_rate follows the new budget" in words
    if algorithm != "dqn":
        value = config.hyper.schedules(400, 800)["learning_rate"]
        assert f"learning_rate follows the new budget (from {0.1 if algorithm == 'q_learning' else 0:g} to" in words
        assert value == pytest.approx(0.3 if algorithm == "q_learning" else 0.25)
    assert "the run differs from one of 800 agent steps from the start" in words


def test_a_run_is_extended_twice_and_continues_after_an_interruption(tmp_path: Path) -> None:
    run = train("dqn", tmp_path / "run", total_timesteps=200)
    extend(run, 400)
    assert extend(run, 400)[1] == "", "a run that is not finished has this budget already"
    extend(run, 600)
    assert [(entry["from"], entry["to"]) for entry in extensions(run)] == [(200, 400), (400, 600)]
    assert read_config(run).total_timesteps == 600
    assert cli.main(["resume", str(run.path)]) == 0
    assert end(run) == end(train("dqn", tmp_path / "whole", total_timesteps=600))


@pytest.mark.parametrize(("total", "words"), [(399, "400 agent steps trained"), (400, "400 agent steps trained")])
def test_a_smaller_budget_is_refused_in_one_line(
    total: int, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train("dqn", tmp_path / "run", total_timesteps=400)
    text = run.config_file.read_text()
    assert cli.main(["resume", str(run.path), "--total-timesteps", str(total)]) == 2
    assert capfd.readouterr().err == (
        f"q2pi: --total-timesteps {total} must be larger than the {words} of {run.path}\n"
    )
    assert run.config_file.read_text() == text
    assert not run.extensions_file.exists()


def test_a_budget_that_is_not_reached_cannot_shrink(tmp_path: Path) -> None:
    run = train("dqn", tmp_path / "run", total_timesteps=200)
    extend(run, 400)
    with pytest.raises(UserError, match="must be larger than the budget of 400 agent steps"):
        extend(run, 300)


def test_a_run_in_use_is_left_alone(tmp_path: Path) -> None:
    run = train("dqn", tmp_path / "run", total_timesteps=200)
    with run.locked(), pytest.raises(UserError, match="is in use"):
        extend(run, 400)
    assert read_config(run).total_timesteps == 200


def test_an_agent_that_learns_while_environments_step_stores_its_next_action(tmp_path: Path) -> None:
    state = load_checkpoint(train("dqn", tmp_path / "run", total_timesteps=200))[1]
    assert np.asarray(state["action"]).shape == (4,)
    assert "action" not in load_checkpoint(train("ppo", tmp_path / "ppo", total_timesteps=200))[1]
