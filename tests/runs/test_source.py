"""Starting from another run's weights: they are taken over with the normaliser, and nothing else is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import CARTPOLE, QUIET, flags

import q2pi
from q2pi import __main__ as cli
from q2pi.algorithms.registry import default_config
from q2pi.config import override, resolve
from q2pi.errors import UserError
from q2pi.parallel.executor import never
from q2pi.runs.checkpoint import digest
from q2pi.runs.execute import execute
from q2pi.runs.folder import RunFolder
from q2pi.runs.load import load_checkpoint
from q2pi.runs.stored_config import read_config
from q2pi.training.events import Started
from q2pi.types import State

POLICY = QUIET | {"env_id": "Pendulum-v1", "num_envs": 2, "total_timesteps": 400, "hidden": (8,)}
OPTIONS: dict[str, dict[str, Any]] = {
    "dqn": CARTPOLE,
    "rainbow": CARTPOLE,
    "pqn": QUIET | {"env_id": "CartPole-v1", "num_envs": 2, "num_steps": 10, "num_minibatches": 2, "hidden": (8,)},
    "pqn_laptop": QUIET
    | {"env_id": "CartPole-v1", "num_envs": 2, "num_steps": 10, "num_minibatches": 2, "hidden": (8,), "ema_decay": 0.9}
    | {"concurrent_updates": True},
    "ppo": POLICY | {"num_steps": 20, "num_minibatches": 2, "normalize_observations": True, "normalize_rewards": True},
    "reinforce": POLICY | {"episodes_per_update": 2, "normalize_observations": True},
    "q_learning": QUIET | {"env_id": "Taxi-v3", "num_envs": 2},
}
COUNTERS = {
    **dict.fromkeys(("dqn", "rainbow", "q_learning"), "updates"),
    **dict.fromkeys(("pqn", "pqn_laptop", "ppo"), "rollouts"),
}


class Keep:
    """A sink that keeps a copy of the agent's state at the start."""

    state: State

    def write(self, event: Any) -> None:
        if isinstance(event, Started):
            self.state = event.agent.state()
            raise KeyboardInterrupt

    def flush(self) -> None: ...

    def close(self) -> None: ...


def trained(algorithm: str, path: Path, **options: Any) -> RunFolder:
    q2pi.train(algorithm, run_dir=path, **{"total_timesteps": 400} | OPTIONS[algorithm] | options)
    return RunFolder(path)


def start_of(algorithm: str, **options: Any) -> State:
    """Return the state of an agent at agent step 0."""
    keep = Keep()
    config = resolve(override(default_config(algorithm), {"total_timesteps": 400} | OPTIONS[algorithm] | options))
    with pytest.raises(KeyboardInterrupt):
        execute(config, None, sinks=[keep], stop=never)
    return keep.state


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[name], second[name]) for name in first)
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    pair = np.asarray(first), np.asarray(second)
    return bool(np.array_equal(*pair, equal_nan=pair[0].dtype.kind == "f"))


@pytest.mark.parametrize("algorithm", OPTIONS)
def test_weights_and_statistics_are_those_of_the_source_and_the_rest_is_new(algorithm: str, tmp_path: Path) -> None:
    source = trained(algorithm, tmp_path / "source")
    saved = load_checkpoint(source)[1]["agent"]
    fresh, state = start_of(algorithm), start_of(algorithm, from_run=str(source.path))
    taken = {name for name in ("online", "target", "average", "actor_critic", "policy", "value", "q") if name in saved}
    taken |= {"observations"} & saved.keys()
    assert taken
    for name in taken:
        assert equal(state[name], saved[name]), name
        assert not equal(state[name], fresh[name]), f"training changed {name}"
    if "sampling" in saved:
        assert equal(state["sampling"], saved["average"])
    for name in fresh.keys() - taken - {"rewards", "sampling"}:
        assert equal(state[name], fresh[name]), f"{name} is not taken over"
    if algorithm in COUNTERS:
        assert saved[COUNTERS[algorithm]] > 0
        assert state[COUNTERS[algorithm]] == 0
    if algorithm == "ppo":
        assert equal(state["rewards"]["moments"], saved["rewards"]["moments"])
        assert equal(state["rewards"]["sums"], fresh["rewards"]["sums"])


def test_the_config_holds_the_source_and_its_digest_and_the_run_resumes(tmp_path: Path) -> None:
    source = trained("dqn", tmp_path / "source")
    found = digest(load_checkpoint(source)[1])
    run = trained("dqn", tmp_path / "run", from_run=str(source.path), seed=2)
    config = read_config(run)
    assert (config.from_run, config.from_digest) == (str(source.path), found)
    stops = iter([False] * 20 + [True] * 1_000)
    execute(resolve(config), tmp_path / "stopped", stop=lambda: next(stops))
    source.config_file.unlink()  # a checkpoint needs no source
    execute(resolve(config), tmp_path / "stopped")
    assert digest(load_checkpoint(RunFolder(tmp_path / "stopped"))[1]) == digest(load_checkpoint(run)[1])


def test_a_source_that_has_changed_is_not_used(tmp_path: Path) -> None:
    source = trained("dqn", tmp_path / "source")
    run = trained("dqn", tmp_path / "run", from_run=str(source.path))
    config = resolve(read_config(run))
    trained("dqn", tmp_path / "other", seed=5)
    source.path.rename(tmp_path / "old")
    (tmp_path / "other").rename(source.path)
    with pytest.raises(UserError, match=r"its digest is .*, and this run was to start from"):
        execute(config, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("algorithm", "options", "words"),
    [
        ("ppo", {}, "is a run of dqn, not of ppo"),
        ("dqn", {"hidden": (8,)}, r"torso.layers.0.weight has shape \(16, 4\); this run's has \(8, 4\)"),
        ("dqn", {"hidden": (16, 8)}, "this run's has"),
        ("dqn", {"env_id": "Acrobot-v1"}, r"has shape \(16, 4\); this run's has \(16, 6\)"),
    ],
)
def test_another_algorithm_or_shape_is_refused_in_one_line_and_nothing_is_written(
    algorithm: str, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    source = trained("dqn", tmp_path / "source")
    config = resolve(override(default_config(algorithm), OPTIONS[algorithm] | options))
    config = resolve(override(config, {"from_run": str(source.path)}))
    with pytest.raises(UserError, match=rf"^--from {source.path}.* {words}") as caught:
        execute(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_normaliser_on_one_side_only_is_refused(tmp_path: Path) -> None:
    source = trained("ppo", tmp_path / "source")
    with pytest.raises(UserError, match="it normalises observations, this run does not normalise them"):
        start_of("ppo", from_run=str(source.path), normalize_observations=False)


def test_tables_of_another_size_are_refused(tmp_path: Path) -> None:
    source = trained("q_learning", tmp_path / "source", env_id="FrozenLake-v1")
    with pytest.raises(UserError, match=r"shape \(1, 16, 4\), this run needs \(1, 64, 4\)"):
        start_of("q_learning", from_run=str(source.path), env_id="FrozenLake8x8-v1")


def test_the_command_line_says_where_it_starts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], no_figures: None
) -> None:
    source = trained("dqn", tmp_path / "source")
    command = ["train", "dqn", *flags(CARTPOLE), "--run-dir", str(tmp_path / "run"), "--from", str(source.path)]
    assert cli.main(command) == 0
    out = capfd.readouterr().out
    assert f"starting from the weights of {source.path} (digest " in out
    assert read_config(RunFolder(tmp_path / "run")).from_run == str(source.path)
    assert cli.main(["train", "dqn", "--from-run", "x"]) == 2
    assert "--from-run: the flag is --from RUN" in capfd.readouterr().err
    assert cli.main(["train", "dqn", *flags(CARTPOLE), "--from", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a run folder" in capfd.readouterr().err
