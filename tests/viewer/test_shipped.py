"""Agents that come with the package: complete, small, and as good as their card says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import CARTPOLE

from q2pi import api
from q2pi.config import resolve
from q2pi.envs.make import make_envs
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import EVALUATION_SEED, evaluate
from q2pi.runs.folder import RunFolder
from q2pi.runs.stored_config import read_config
from q2pi.viewer import cards, shipped

NAMES = cards.names()


def test_the_corridor_comes_with_both_of_its_agents() -> None:
    assert {"corridor", "corridor-dqn"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_is_small_and_its_card_complete(name: str) -> None:
    path = cards.FOLDER / name
    assert sum(file.stat().st_size for file in path.iterdir()) < shipped.MOST_BYTES + 20_000
    about = cards.card(path)
    assert about["command"].startswith("q2pi train ")
    assert about["protocol"]["episodes"] == about["statistics"]["n"] >= 30
    config = resolve(read_config(RunFolder(path)))
    assert about["env_id"] == config.env.env_id
    assert cards.score(path).startswith(f"{config.hyper.method} on {config.env.env_id}: mean ")


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_plays_as_its_card_says(name: str) -> None:
    """The first episodes of the card's evaluation are played again; their mean is within the range of its scores."""
    loaded = shipped.load(cards.FOLDER / name)
    count = 4
    again = evaluate(loaded.agent, loaded.config.env, step=loaded.step, episodes=count, seed=EVALUATION_SEED)
    statistics = cards.card(cards.FOLDER / name)["statistics"]
    error = 4 * statistics["std"] / np.sqrt(count) + 1e-6
    assert abs(np.mean(again.scores) - statistics["mean"]) <= error


def test_an_agent_is_found_by_its_name_or_its_environment() -> None:
    assert cards.find("Corridor").name == "corridor"
    assert cards.find("q2pi/aliasedvacuum-v0").name in ("corridor", "corridor-dqn")
    with pytest.raises(UserError, match=r"no agent for 'coridor' comes with q2pi \(did you mean 'corridor"):
        cards.find("coridor")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shipped") / "run"
    api.train("dqn", run_dir=path, **CARTPOLE)
    return path


ABOUT: dict[str, Any] = {"env_id": "CartPole-v1", "step": 400}


def test_a_saved_agent_acts_as_before_up_to_half_precision(trained: Path, tmp_path: Path) -> None:
    agent = api.load(trained)
    config = resolve(read_config(RunFolder(trained)))
    shipped.save(tmp_path / "new", agent, config, ["online"], ABOUT)
    loaded = shipped.load(tmp_path / "new")
    envs = make_envs(config.env, 8, 5)
    observation = envs.reset()
    envs.close()
    before, after = (one.q_values(observation) for one in (agent, loaded.agent))  # type: ignore[attr-defined]
    np.testing.assert_allclose(after, before, rtol=1e-2, atol=1e-3)
    assert not np.array_equal(after, before), "the weights were not rounded"
    assert loaded.step == 400
    assert next(iter(loaded.agent.networks()["online"].parameters())).dtype == torch.float32


def test_normalisation_is_kept_in_full_precision(tmp_path: Path) -> None:
    options = {"env_id": "CartPole-v1", "total_timesteps": 64, "num_steps": 16, "num_envs": 2, "evaluation_episodes": 0}
    agent = api.train("ppo", preset="classic", normalize_observations=True, num_minibatches=1, **options)
    config = resolve(api.override(api.configure("ppo", "CartPole-v1", "classic")[0], options))
    config = resolve(api.override(config, {"normalize_observations": True, "num_minibatches": 1}))
    shipped.save(tmp_path / "new", agent, config, ["actor_critic", "observations"], ABOUT)
    loaded: Any = shipped.load(tmp_path / "new").agent
    expected: Any = agent
    np.testing.assert_array_equal(loaded.observations.moments.mean, expected.observations.moments.mean)
    assert loaded.observations.moments.count == expected.observations.moments.count > 0


def test_a_large_agent_is_refused(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "MOST_BYTES", 100)
    config = resolve(read_config(RunFolder(trained)))
    with pytest.raises(UserError, match="more than 100: use the smaller network"):
        shipped.save(tmp_path / "new", api.load(trained), config, ["online"], ABOUT)
    assert not (tmp_path / "new").exists()
