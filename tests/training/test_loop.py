"""The loop: the order of its calls and events, with an agent that only records its calls."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_runs  # noqa: F401  registers the environments
import torch

from q2pi.acceleration.device import device_of
from q2pi.algorithms import registry
from q2pi.algorithms.configs.base import AlgorithmConfig
from q2pi.config import ResolvedConfig, RunConfig, resolve
from q2pi.envs.errors import EnvError
from q2pi.envs.spec import EnvSpec
from q2pi.envs.vector import VectorEnv
from q2pi.errors import UserError
from q2pi.evaluation.background import BackgroundEvaluator, BlockingEvaluator
from q2pi.parallel.executor import JobStatus
from q2pi.training import loop
from q2pi.training.events import Checkpoint, Diverged, EpisodeEnded, Evaluated, Finished, Interrupted, Progress, Started
from q2pi.training.loop import Clock, run


@dataclass(frozen=True, kw_only=True)
class Hyper(AlgorithmConfig):
    overlap: bool = True
    loss: float = 2.0
    weight: float = 1.0
    """Weight of the network after the first update."""


class RecordingAgent:
    """An agent that records its calls and does not learn."""

    evaluation_policy = "the first action"

    def __init__(self, hyper: Hyper, spec: Any) -> None:
        self.hyper, self.overlap, self.spec = hyper, hyper.overlap, spec
        self.calls: list[Any] = []
        self.network = torch.nn.Linear(1, 1)

    def begin(self, observation: Any) -> None:
        self.calls.append("begin")

    def act(self, observation: Any, step: int) -> Any:
        self.calls.append(("act", step))
        return np.zeros(len(observation), np.int64)

    def observe(self, action: Any, result: Any) -> None:
        self.calls.append("observe")

    def learn(self, step: int) -> list[dict[str, float]]:
        self.calls.append(("learn", step))
        if not step:
            return []
        torch.nn.init.constant_(self.network.weight, self.hyper.weight)
        return [{"loss": self.hyper.loss}, {"loss": 2 * self.hyper.loss + step}]

    def evaluation_act(self, observation: Any, noise: Any) -> Any:
        return np.zeros(len(observation), np.int64)

    def networks(self) -> dict[str, torch.nn.Module]:
        return {"main": self.network}

    def state(self) -> dict[str, Any]:
        return {"calls": len(self.calls)}

    def load(self, state: dict[str, Any]) -> None:
        self.calls.append(("load", state["calls"]))


@pytest.fixture(autouse=True)
def notes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register an algorithm named "notes"."""
    module = SimpleNamespace(Agent=RecordingAgent)
    monkeypatch.setattr(registry, "find", lambda name: module)


def config(**changes: Any) -> ResolvedConfig[Any]:
    """Two environments with episodes of two steps, 12 agent steps."""
    hyper = Hyper(**{name: changes.pop(name) for name in ("overlap", "loss", "weight") if name in changes})
    base = RunConfig(
        algorithm="notes",
        total_timesteps=12,
        num_envs=2,
        threads=1,
        device="cpu",
        checkpoint_frequency=0,
        evaluation_episodes=0,
        env=EnvSpec("Truncated-v0"),
        hyper=hyper,
    )
    return resolve(replace(base, **changes))


def agent_after(config: ResolvedConfig[Any], state: Any = None) -> RecordingAgent:
    first, *_ = list(run(config, state))
    assert isinstance(first, Started)
    assert isinstance(first.agent, RecordingAgent)
    return first.agent


def steps_of(kind: type, config: ResolvedConfig[Any]) -> list[int]:
    return [event.step for event in run(config) if isinstance(event, kind)]


def test_learning_overlaps_with_the_environments_and_catches_up_at_the_end() -> None:
    assert agent_after(config(total_timesteps=4)).calls == [
        *["begin", ("act", 0), ("learn", 0), "observe"],
        *[("act", 2), ("learn", 2), "observe"],
        *[("act", 4), ("learn", 4)],  # the action of the next step, if the run is extended
    ]


def test_without_overlap_learn_follows_observe() -> None:
    assert agent_after(config(total_timesteps=4, overlap=False)).calls == [
        *["begin", ("act", 0), "observe", ("learn", 2)],
        *[("act", 2), "observe", ("learn", 4)],
    ]


def test_the_action_of_a_failed_step_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent learned between `send` and `recv`: another call of `act` would read other weights."""
    plain, calls = VectorEnv.recv, []

    def recv(envs: VectorEnv) -> Any:
        calls.append(None)
        if len(calls) == 3:
            raise EnvError("Truncated-v0", "it broke", 0)
        return plain(envs)

    monkeypatch.setattr(VectorEnv, "recv", recv)
    events: list[Any] = []
    with pytest.raises(EnvError, match="it broke"):
        run_into(events)
    *_, progress, checkpoint = events
    assert (type(progress), checkpoint.step) == (Progress, 4)
    assert checkpoint.state["action"].tolist() == [0, 0]
    saved = checkpoint.state | {"agent": {"calls": 99}}
    assert agent_after(config(total_timesteps=6), saved).calls[:3] == [("load", 99), ("learn", 4), "observe"]


def run_into(events: list[Any]) -> None:
    """Append the events of a run to a list, which then has those before an exception."""
    for event in run(config()):
        events.append(event)


@pytest.mark.parametrize(
    ("envs", "frequency", "expected"),
    [
        (2, 5, [6, 10, 12]),
        (2, 4, [4, 8, 12]),
        (1, 5, [5, 10, 12]),
        (4, 5, [8, 12]),  # 4 -> 8 passes 5, 8 -> 12 passes 10
        (2, 1, [2, 4, 6, 8, 10, 12]),
        (2, 0, [12]),
        (2, 100, [12]),
        (5, 100, [15]),  # whole steps of all environments
    ],
)
def test_a_checkpoint_is_due_when_a_multiple_is_reached_or_passed(
    envs: int, frequency: int, expected: list[int]
) -> None:
    assert steps_of(Checkpoint, config(num_envs=envs, checkpoint_frequency=frequency)) == expected


def test_evaluations_are_due_and_there_is_one_at_the_end() -> None:
    often = {"evaluation_frequency": 5, "evaluation_episodes": 2}
    assert steps_of(Evaluated, config(overlap=False, **often)) == [6, 10, 12]
    assert steps_of(Evaluated, config(evaluation_episodes=2)) == [12]
    assert steps_of(Evaluated, config(evaluation_frequency=5)) == []


def test_an_evaluation_names_the_step_of_its_weights() -> None:
    """With overlap, the updates due after steps 6 and 10 are made during the steps that follow; none are left at 12."""
    assert steps_of(Evaluated, config(evaluation_frequency=5, evaluation_episodes=2)) == [4, 8, 12]


def test_metrics_are_due_by_frequency_and_before_every_checkpoint() -> None:
    assert steps_of(Progress, config(log_frequency=4, checkpoint_frequency=5)) == [4, 6, 8, 10, 12]


def test_events_of_one_step_in_their_order() -> None:
    events = list(run(config(total_timesteps=2, evaluation_episodes=1, env=EnvSpec("Truncated-v0"))))
    assert [type(event) for event in events] == [Started, Evaluated, Progress, Checkpoint, Finished]
    kinds = [type(event) for event in run(config(total_timesteps=4, evaluation_episodes=1))]
    assert kinds == [Started, EpisodeEnded, EpisodeEnded, Evaluated, Progress, Checkpoint, Finished]


def test_metrics_are_means_since_the_last_ones() -> None:
    """Updates at step 2 have losses 2 and 6, at step 4 they have 2 and 8, at step 6 (the end) 2 and 10."""
    rows = [event.metrics for event in run(config(total_timesteps=6, log_frequency=4)) if isinstance(event, Progress)]
    assert rows == [{"loss": 4.0, "updates": 2}, {"loss": 5.5, "updates": 4}]


def test_a_step_without_updates_has_only_their_count() -> None:
    first = next(event for event in run(config(log_frequency=1)) if isinstance(event, Progress))
    assert (first.step, first.metrics) == (2, {"updates": 0})


def test_a_stopped_run_ends_with_a_checkpoint() -> None:
    answers = iter([False, True])
    events = list(run(config(), stop=lambda: next(answers)))
    assert [type(event) for event in events[-3:]] == [Progress, Checkpoint, Interrupted]
    assert events[-1].step == 4
    assert not any(isinstance(event, Finished) for event in events)


def test_a_run_stopped_at_its_last_step_is_finished() -> None:
    events = list(run(config(total_timesteps=2), stop=lambda: True))
    assert isinstance(events[-1], Finished)


def test_it_continues_from_a_state() -> None:
    state = next(event.state for event in run(config(checkpoint_frequency=4)) if isinstance(event, Checkpoint))
    assert state["step"] == 4
    saved = {"step": 4, "envs": state["envs"], "agent": {"calls": 99}}
    calls = agent_after(config(total_timesteps=6), saved).calls
    assert calls == [("load", 99), ("act", 4), ("learn", 4), "observe", ("act", 6), ("learn", 6)]


def test_an_extended_run_takes_the_action_that_was_chosen_before_the_last_updates() -> None:
    """Without the stored action, the agent would act with weights that a run with the larger budget has later."""
    *_, last = (event for event in run(config(total_timesteps=4)) if isinstance(event, Checkpoint))
    assert last.state["action"].tolist() == [0, 0]
    saved = last.state | {"agent": {"calls": 99}}
    rest = [("learn", 4), "observe", ("act", 6), ("learn", 6)]
    assert agent_after(config(total_timesteps=6), saved).calls == [("load", 99), *rest]
    del saved["action"]
    assert agent_after(config(total_timesteps=6), saved).calls == [("load", 99), ("act", 4), *rest]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(loss: float) -> None:
    with pytest.raises(Diverged, match=f"loss is {loss} after 2 agent steps"):
        list(run(config(loss=loss)))


def test_a_network_that_is_not_finite_is_never_saved() -> None:
    """The loss is finite: only the next update's loss would not be."""
    broken = config(weight=float("nan"), checkpoint_frequency=2)
    with pytest.raises(Diverged, match="a weight of network 'main' is not finite after 4 agent steps"):
        list(run(broken))
    offered = []
    try:
        for event in run(broken):
            if isinstance(event, Checkpoint):
                offered.append(event.step)
    except Diverged:
        pass
    assert offered == [2], "before the first update the weights were finite"


def kinds_until_divergence(config: ResolvedConfig[Any], match: str) -> list[type]:
    kinds: list[type] = []

    def drain() -> None:
        kinds.extend(type(event) for event in run(config))

    with pytest.raises(Diverged, match=match):
        drain()
    return kinds


@pytest.mark.parametrize("evaluator", [BlockingEvaluator, BackgroundEvaluator])
def test_a_network_that_is_not_finite_is_not_evaluated(evaluator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check, the evaluation would give a score: this agent always takes the first action."""
    monkeypatch.setattr(loop, "make_evaluator", evaluator)
    broken = config(weight=float("nan"), evaluation_frequency=4, evaluation_episodes=2)
    found = kinds_until_divergence(broken, "a weight of network 'main' is not finite after 4 agent steps")
    assert Evaluated not in found
    assert Checkpoint not in found
    if evaluator is BlockingEvaluator:
        assert steps_of(Evaluated, replace(broken, hyper=Hyper())) == [2, 6, 12]


@pytest.mark.parametrize("evaluator", [BlockingEvaluator, BackgroundEvaluator])
def test_nan_in_an_evaluation_is_divergence(evaluator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finite weights may give NaN: inf - inf. The process of a background evaluation reports it in a message."""
    message = "a Q-value is NaN in the evaluation after 12 agent steps"
    if evaluator is BackgroundEvaluator:

        class Reports:
            def run(self, jobs: Any, stop: Any) -> Any:
                yield from (JobStatus(job, "finished", {"nan": message}) for job in jobs)

        monkeypatch.setattr(loop, "make_evaluator", lambda config: BackgroundEvaluator(config, Reports()))
    else:

        def fail(self: Any, observation: Any, noise: Any) -> Any:
            raise FloatingPointError("a Q-value is NaN")

        monkeypatch.setattr(RecordingAgent, "evaluation_act", fail)
    found = kinds_until_divergence(config(evaluation_episodes=2, checkpoint_frequency=4), message)
    assert found.count(Checkpoint) == 2, "the checkpoints at steps 4 and 8 are kept"


def test_environments_are_closed_however_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(VectorEnv, "close", lambda self: closed.append(self))
    list(run(config()))
    abandoned = run(config())
    next(abandoned)
    abandoned.close()
    with pytest.raises(Diverged):
        list(run(config(loss=float("nan"))))
    assert len(closed) == 3


def test_seconds_by_part_add_up() -> None:
    clock = Clock()
    clock.lap("act")
    first = clock.read()
    assert set(first) == {"act", "other"}
    assert all(value >= 0 for value in first.values())
    second = clock.read()
    assert set(second) == {"other"}
    assert clock.total["other"] == first["other"] + second["other"]


def test_a_finished_run_reports_seconds_by_part() -> None:
    *_, last = run(config(evaluation_episodes=1))
    assert isinstance(last, Finished)
    assert set(last.seconds) == {"act", "learn", "environment", "observe", "evaluate", "checkpoint", "other"}


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="--device cuda"):
        device_of("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == torch.device("cuda")


def test_the_number_of_threads_is_set() -> None:
    before = torch.get_num_threads()
    try:
        list(run(config(threads=2)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_agent_is_given_the_first_observation_of_a_new_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    """And `observe` both: the final observation of the old one, and the first of the new one."""
    given: list[Any] = []
    followed: list[Any] = []
    act, observe = RecordingAgent.act, RecordingAgent.observe

    def acting(self: RecordingAgent, observation: Any, step: int) -> Any:
        given.append(observation.copy())
        return act(self, observation, step)

    def observing(self: RecordingAgent, action: Any, result: Any) -> None:
        followed.append(result)
        observe(self, action, result)

    monkeypatch.setattr(RecordingAgent, "act", acting)
    monkeypatch.setattr(RecordingAgent, "observe", observing)
    list(run(config(env=EnvSpec("CartPole-v1"), total_timesteps=400)))
    ends = 0
    for result, observation in zip(followed, given[1:], strict=False):
        np.testing.assert_array_equal(result.observation, observation)
        for env in np.flatnonzero(result.ended):
            ends += 1
            assert not np.array_equal(result.next_observation[env], observation[env])
            assert np.abs(observation[env]).max() <= 0.05, "CartPole starts near 0"
    assert ends > 5


def test_episodes_follow_from_the_runs_seed() -> None:
    def seeds(seed: int) -> list[int]:
        events = run(config(seed=seed))
        return [event.episode.seed for event in events if isinstance(event, EpisodeEnded)]

    assert seeds(1) == seeds(1)
    assert not set(seeds(1)) & set(seeds(2))
