"""What one tab shows, driven by a clock that moves by hand."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import CARTPOLE
from stage import FakeSource, Scripted, Stage, new_agent

import q2pi
from q2pi.algorithms.registry import default_config
from q2pi.config import override, resolve
from q2pi.errors import UserError
from q2pi.viewer.session import PAUSE_SECONDS, REFRESH_SECONDS
from q2pi.viewer.source import Loaded, RunSource


def loaded(weights: list[float], step: int = 10) -> Loaded:
    agent, _ = new_agent("dqn", CARTPOLE | {"num_envs": 1})
    scripted: Any = Scripted(agent, np.array(weights, np.float32))
    return Loaded(scripted, resolve(override(default_config("dqn"), CARTPOLE)), step)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A session that plays CartPole to the right; it has shown moment 0."""
    made = Stage(FakeSource(loaded([0.25, 2.0])))
    made.tick()
    yield made
    made.session.close()


def test_the_first_message_shows_the_reset(stage: Stage) -> None:
    assert stage.head["state"] == "ready"
    assert (stage.panel["step"], stage.panel["return"], stage.panel["seed"]) == (0, 0.0, 1)
    assert (stage.panel["names"], stage.panel["numbers"], stage.panel["chosen"]) == (["left", "right"], [0.25, 2.0], 1)
    assert stage.pictures.keys() == {"screen 0"}
    assert stage.values == [[2.0]]


def test_steps_follow_the_speed_of_the_environment(stage: Stage) -> None:
    stage.do("speed", 0.5)  # CartPole: 50 steps per second
    before = stage.panel["step"]
    stage.run(0.2)
    assert stage.panel["step"] - before == pytest.approx(5, abs=1)


def test_pause_and_single_steps(stage: Stage) -> None:
    stage.do("pause", True)
    stage.run(0.5)
    position = stage.head["position"]
    assert stage.do("step", 1)["position"] == position + 1
    assert stage.do("step", -1)["position"] == position
    assert stage.head["paused"]
    assert not stage.do("pause", False)["paused"]


def test_scrubbing_back_shows_the_same_moments_again(stage: Stage) -> None:
    stage.do("pause", True)
    shown = [stage.panel | {}] + [dict(stage.do("step", 1)["panels"][0]) for _ in range(5)]
    for index in (2, 0, 5):
        stage.do("seek", index)
        assert stage.panel == shown[index]
    assert stage.do("seek", 10**9)["position"] == 5
    assert stage.do("seek", -3)["position"] == 0


def test_the_values_arrive_once_and_complete(stage: Stage) -> None:
    stage.do("pause", True)
    for _ in range(4):
        stage.do("step", 1)
        assert len(stage.head["values"]) == 1
    assert len(stage.values) == 5
    stage.values = []
    stage.do("hello")  # a browser that reconnects
    assert len(stage.values) == 5


def test_an_episode_that_ended_is_followed_by_the_next_seed(stage: Stage) -> None:
    stage.run(0.6)  # to the right CartPole ends after about 10 steps
    assert stage.panel["ended"]
    assert stage.panel["value"] is None
    assert stage.panel["chosen"] is None
    stage.run(PAUSE_SECONDS)
    assert stage.panel["seed"] == 2


def test_a_seed_starts_its_episode_again(stage: Stage) -> None:
    first = stage.do("seed", 77)["panels"][0]
    stage.run(0.1)
    again = stage.do("seed", 77)["panels"][0]
    assert first["observation"] == again["observation"]
    assert stage.do("seed", 78)["panels"][0]["observation"] != first["observation"]


@pytest.mark.parametrize("value", [-1, 2**31, 1.5, "7", None, True, [1], {"a": 1}])
def test_an_impossible_seed_changes_nothing(stage: Stage, value: Any) -> None:
    stage.do("pause", True)
    assert stage.do("seed", value)["seed"] == 1


@pytest.mark.parametrize(
    "command",
    [
        {},
        {"do": None},
        {"do": ["seed"]},
        {"do": "__init__"},
        {"do": "close"},
        {"do": "speed", "value": 1e9},
        {"do": "speed", "value": [1]},
        {"do": "human", "value": 5},
        {"do": "human", "value": -1},
        {"do": "human", "value": "0"},
        {"do": "keys", "value": "ArrowLeft"},
        {"do": "keys", "value": [1, 2]},
        {"do": "keys", "value": ["x"] * 1000},
        {"do": "recording", "value": 0},
        {"do": "recording", "value": "../../etc/passwd"},
        {"do": "seek", "value": "1"},
        {"do": "step", "value": {"x": 1}},
    ],
)
def test_malformed_commands_are_harmless(stage: Stage, command: dict[str, Any]) -> None:
    stage.commands.append(command)
    stage.run(0.2)
    assert (stage.head["state"], stage.head["speed"], stage.head["human"]) == ("ready", 1.0, None)


def test_a_person_takes_over_and_hands_back(stage: Stage) -> None:
    stage.do("pause", True)
    stage.do("step", 1)
    head = stage.do("human", 0)
    assert head["human"] == 0
    assert not head["paused"]
    assert (stage.panel["by"], stage.panel["waits"]) == ("you", True)
    step = stage.panel["step"]
    stage.run(0.3)
    assert stage.panel["step"] == step, "CartPole has no action for no key: it waits"
    stage.do("keys", ["ArrowLeft"])
    stage.run(0.1)
    assert stage.panel["step"] > step
    assert stage.panel["chosen"] == 0
    assert stage.session.panels[0].player.actions[-1] == 0
    stage.do("keys", [])
    stage.do("human", None)
    stage.run(0.1)
    assert (stage.head["human"], stage.panel["by"], stage.panel["chosen"]) == (None, "agent", 1)
    assert stage.session.panels[0].player.actions[-1] == 1


def test_a_person_goes_on_from_the_moment_that_is_shown(stage: Stage) -> None:
    stage.do("pause", True)
    for _ in range(6):
        stage.do("step", 1)
    stage.do("seek", 2)
    observation = stage.panel["observation"]
    stage.do("human", 0)
    assert (stage.panel["step"], stage.panel["observation"]) == (2, observation)
    assert (stage.head["length"], len(stage.values)) == (3, 3)
    stage.do("keys", ["ArrowLeft"])
    stage.run(0.05)
    assert stage.session.panels[0].player.actions[:3] == [1, 1, 0]


def test_a_newer_checkpoint_replaces_the_agent_within_an_episode(stage: Stage) -> None:
    source: Any = stage.session.panels[0].source
    stage.do("pause", True)
    source.loaded = Loaded(source.loaded.agent, source.loaded.config, 20)
    source.loaded.agent.weights[:] = [3.0, 1.0]
    stage.tick(REFRESH_SECONDS)
    stage.do("step", 1)
    assert (stage.panel["checkpoint"], stage.panel["chosen"], stage.panel["seed"]) == (20, 0, 1)


def test_another_agent_starts_the_episode_again(stage: Stage) -> None:
    source: Any = stage.session.panels[0].source
    stage.run(0.1)
    source.loaded = loaded([9.0, 1.0], step=30)
    stage.tick(REFRESH_SECONDS)
    assert (stage.panel["step"], stage.panel["chosen"], stage.panel["checkpoint"]) == (0, 0, 30)


def test_a_deleted_run_is_a_note_and_the_agent_goes_on(stage: Stage) -> None:
    source: Any = stage.session.panels[0].source
    source.problem = "runs/x was deleted"
    stage.tick(REFRESH_SECONDS)
    assert stage.head["notes"] == ["runs/x was deleted"]
    step = stage.panel["step"]
    stage.run(0.1)
    assert stage.panel["step"] != step


def test_a_run_without_checkpoint_is_shown_once_it_has_one() -> None:
    source = FakeSource(None)
    stage = Stage(source)
    stage.tick()
    assert (stage.head["state"], stage.head["error"]) == ("error", "no checkpoint yet")
    stage.do("seed", 3)  # refused: there is no environment
    source.loaded = loaded([0.0, 1.0])
    stage.tick(REFRESH_SECONDS)
    assert (stage.head["state"], stage.head["error"]) == ("ready", "")


def test_an_environment_that_cannot_be_made_is_an_answer_until_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    from q2pi.viewer import panel

    def refuse(*_: Any) -> Any:
        raise UserError("--env-id X needs more packages")

    stage = Stage(FakeSource(loaded([0.0, 1.0])))
    with monkeypatch.context() as patched:
        patched.setattr(panel, "Player", refuse)
        for _ in range(2):
            stage.tick(REFRESH_SECONDS)
            assert (stage.head["state"], stage.head["error"]) == ("error", "--env-id X needs more packages")
    stage.tick(REFRESH_SECONDS)
    assert stage.head["state"] == "ready"


def test_two_agents_play_the_same_seed_side_by_side() -> None:
    stage = Stage(FakeSource(loaded([1.0, 0.0]), "left"), FakeSource(loaded([0.0, 1.0]), "right"))
    stage.tick()
    first, second = stage.head["panels"]
    assert first["observation"] == second["observation"]
    assert (first["chosen"], second["chosen"]) == (0, 1)
    assert stage.pictures.keys() == {"screen 0", "screen 1"}
    stage.do("pause", True)
    for _ in range(3):
        stage.do("step", 1)
    first, second = stage.head["panels"]
    assert (first["step"], second["step"]) == (3, 3)
    assert first["observation"][1] < 0 < second["observation"][1]


def test_an_agent_whose_episode_ended_waits_for_the_other() -> None:
    stage = Stage(FakeSource(loaded([0.0, 1.0])), FakeSource(loaded([0.0, 1.0])))
    stage.tick()
    stage.do("human", 1)
    stage.run(0.6)  # the agent ends, the person has pressed no key
    first, second = stage.head["panels"]
    assert (first["step"], second["step"]) == (0, 0), "side by side: the agent waits for the person's step"
    stage.do("keys", ["ArrowRight"])
    stage.run(0.5)
    assert all(panel["ended"] for panel in stage.head["panels"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watched") / "run"
    q2pi.train("dqn", run_dir=path, **CARTPOLE)
    return path


def test_a_recorded_episode_is_recreated_exactly(run: Path) -> None:
    stage = Stage(RunSource(run))
    stage.tick()
    best = json.loads((run / "episodes" / "best.json").read_text())[0]
    assert stage.head["recordings"][0].startswith(f"return {best['return']:g}, ")
    stage.do("recording", 0)
    stage.do("pause", True)
    stage.run(0.5)
    assert stage.head["note"] == f"recreated from its seed and actions: return {best['return']:g}, as in training"
    assert stage.head["total"] == stage.head["length"] == best["length"] + 1
    for step in (0, 3, best["length"] - 1):
        stage.do("seek", step)
        assert (stage.panel["step"], stage.panel["by"], stage.panel["chosen"]) == (
            step,
            "recording",
            best["actions"][step],
        )
    stage.do("seek", best["length"])
    assert (stage.panel["ended"], stage.panel["return"]) == (True, best["return"])
    stage.do("recording", None)
    assert (stage.head["recording"], stage.panel["by"]) == (None, "agent")


def test_a_moment_ahead_of_the_recreation_is_shown_when_it_exists(run: Path) -> None:
    stage = Stage(RunSource(run))
    stage.tick()
    stage.commands.extend([{"do": "recording", "value": 0}, {"do": "seek", "value": 5}])
    stage.tick()
    stage.run(0.5)
    assert (stage.head["position"], stage.panel["step"], stage.head["paused"]) == (5, 5, True)
    stage.do("seek", 2)
    stage.run(0.2)
    assert stage.head["position"] == 2


def test_a_recording_that_does_not_match_is_reported(run: Path) -> None:
    stage = Stage(RunSource(run))
    stage.tick()
    stage.session._recordings[0]["return"] += 1
    stage.do("recording", 0)
    stage.run(0.5)
    assert stage.head["note"].startswith("not recreated: the return was ")


def test_a_person_branches_off_a_recording(run: Path) -> None:
    stage = Stage(RunSource(run))
    stage.tick()
    stage.do("recording", 0)
    stage.do("pause", True)
    stage.run(0.5)
    stage.do("seek", 4)
    stage.do("human", 0)
    assert (stage.head["recording"], stage.head["note"], stage.head["length"]) == (None, "", 5)
    assert (stage.panel["by"], stage.panel["step"]) == ("you", 4)
