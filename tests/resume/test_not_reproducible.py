"""A run on environments that are not reproducible resumes with new episodes, says so, and joins no two episodes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from own_envs import Small, registered

import q2pi
from q2pi.algorithms import registry
from q2pi.buffers.episodes import Episodes
from q2pi.buffers.replay import Replay
from q2pi.config import override, resolve
from q2pi.runs.execute import execute
from q2pi.training.events import Checkpoint, Notice, Started
from q2pi.training.loop import run
from q2pi.training.presets import configure


class Numbered(Small):
    """Observations are (number of the episode in this process, step): the seed has no effect."""

    observation_space: Any = spaces.Box(0, np.inf, (2,), np.float32)
    begun = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        Numbered.begun += 1
        self.number = Numbered.begun
        return super().reset(seed=seed)

    def observe(self) -> Any:
        return np.array([self.number, self.t], np.float32)


class NumberedTable(Numbered):
    observation_space: Any = spaces.Discrete(11)

    def observe(self) -> Any:
        return (self.number + self.t) % 11


OPTIONS: dict[str, dict[str, Any]] = {
    "dqn": {"learning_starts": 20, "buffer_size": 500, "batch_size": 8, "n_step": 3},
    "rainbow": {"learning_starts": 20, "buffer_size": 500, "batch_size": 8, "n_step": 3},
    "reinforce": {"episodes_per_update": 8},
}


def config_of(name: str, env_id: str) -> Any:
    base, _ = configure(name, env_id)
    shared: dict[str, Any] = {"total_timesteps": 300, "num_envs": 2, "threads": 1, "evaluation_episodes": 0}
    shared |= {"num_steps": 16} if hasattr(base.hyper, "num_steps") else {}
    shared |= {"num_minibatches": 2} if hasattr(base.hyper, "num_minibatches") else {}
    return resolve(override(base, shared | OPTIONS.get(name, {})))


def interrupted(config: Any, after: int) -> dict[str, Any]:
    """Return the state of a run that was stopped after a number of vector steps."""
    calls = iter(range(10_000))
    events = list(run(config, stop=lambda: next(calls) >= after))
    assert [type(event) for event in events if isinstance(event, Notice)] == [Notice]
    return next(event.state for event in events if isinstance(event, Checkpoint))


@pytest.mark.parametrize("name", registry.names())
def test_every_algorithm_resumes_with_new_episodes(name: str) -> None:
    with registered(NumberedTable if name == "q_learning" else Numbered) as env_id:
        config = config_of(name, env_id)
        state = interrupted(config, after=43)
        events = run(config, state)
        started, notice = next(events), next(events)
        assert isinstance(started, Started)
        assert isinstance(notice, Notice)
        assert "new ones begin" in notice.text
        assert started.step == state["step"]
        agent: Any = started.agent
        if isinstance(replay := getattr(agent, "replay", None), Replay):
            replay.check()
        if isinstance(episodes := getattr(agent, "episodes", None), Episodes):
            assert all(len(rows["reward"]) % 10 == 0 for rows in episodes.rows)
        assert getattr(getattr(agent, "rollout", None), "length", 0) == 0
        assert [event.step for event in events][-1] == 300


def test_no_transition_of_a_replay_joins_two_episodes() -> None:
    with registered(Numbered) as env_id:
        config = config_of("dqn", env_id)
        for after in (39, 43):  # right after an episode, and within one
            events = run(config, interrupted(config, after))
            started = next(events)
            assert isinstance(started, Started)
            for _ in events:
                pass
            replay: Replay = started.agent.replay  # type: ignore[attr-defined]
            replay.check()
            sampled = replay.sample(np.flatnonzero(replay.can_sample(np.arange(replay.num_envs * replay.rows))))
            assert len(sampled.slots) > 200
            np.testing.assert_array_equal(sampled.observation[:, 0], sampled.next_observation[:, 0])


def test_it_is_said_once_and_recorded(tmp_path: Any) -> None:
    said: list[str] = []
    with registered(Numbered) as env_id:
        config = config_of("a2c", env_id)
        calls = iter(range(10_000))
        execute(config, tmp_path / "run", stop=lambda: next(calls) >= 40, warn=said.append)
        assert [text.split(":")[0] for text in said] == [f"{env_id} is not reproducible"]
        execute(config, tmp_path / "run", warn=said.append)
    assert len(said) == 2
    assert "new ones begin" in said[1]
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert sum('"kind": "notice"' in row for row in rows) == 2


def test_the_python_interface_warns() -> None:
    options = {"total_timesteps": 32, "num_envs": 2, "num_steps": 4, "evaluation_episodes": 0}
    with registered(Numbered) as env_id, pytest.warns(UserWarning, match=f"{env_id} is not reproducible") as warned:
        q2pi.train("a2c", env_id=env_id, **options)
    assert [Path(one.filename).name for one in warned] == ["test_not_reproducible.py"]
