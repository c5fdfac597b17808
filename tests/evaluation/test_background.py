"""Evaluations at once, and beside training: the same scores, while steps go on, and no checkpoint in between."""

import threading
from typing import Any

import pytest
import torch
from small_runs import cartpole

from q2pi.algorithms.registry import build_agent, default_config
from q2pi.config import RunConfig, override, resolve
from q2pi.envs import make_envs
from q2pi.evaluation import background as judging
from q2pi.evaluation.background import BackgroundEvaluator, BlockingEvaluator, make_evaluator
from q2pi.evaluation.evaluate import Evaluation
from q2pi.runs.checkpoint import digest
from q2pi.training import loop
from q2pi.training.events import Checkpoint, Evaluated, Interrupted, Progress
from q2pi.training.loop import run

GAME = {
    "env_id": "SpaceInvaders",
    "resize": (36, 36),
    "max_frames_per_episode": 200,
    "num_envs": 3,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
    "total_timesteps": 240,
    "evaluation_episodes": 2,
    "evaluation_frequency": 90,
    "checkpoint_frequency": 60,
    "log_frequency": 30,
}
SMALL: dict[str, dict[str, Any]] = {
    "dqn": {"batch_size": 8, "buffer_size": 500, "learning_starts": 20},
    "pqn": {"num_steps": 10, "num_minibatches": 1, "ema_decay": 0.9},
}


def game(algorithm: str = "dqn", **changes: Any) -> RunConfig[Any]:
    """240 agent steps of Space Invaders, evaluated after 90, 180 and all, with checkpoints after every 60."""
    return resolve(override(default_config(algorithm), GAME | SMALL[algorithm] | changes))


class Held:
    """Stands for the process that judges: an evaluation is done once it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.released = threading.Semaphore(0)
        monkeypatch.setattr(judging, "_ask", self._answer)
        monkeypatch.setattr(judging, "_start", lambda: None)
        monkeypatch.setattr(loop, "make_evaluator", BackgroundEvaluator)

    def _answer(self, process: Any, header: dict[str, Any], weights: bytes) -> Evaluation:
        self.released.acquire()
        return Evaluation(header["step"], (), {})

    def release(self, count: int, after: float = 0.0) -> None:
        threading.Timer(after, self.released.release, [count]).start()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


def test_who_is_judged_beside_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_evaluator(game()), BlockingEvaluator)
    monkeypatch.setattr(judging, "device_of", lambda name: torch.device("cuda"))
    assert isinstance(make_evaluator(game()), BackgroundEvaluator)
    assert isinstance(make_evaluator(resolve(cartpole())), BlockingEvaluator), (
        "another process may not know a user's world"
    )


@pytest.mark.parametrize("algorithm", SMALL)
def test_beside_training_scores_and_training_are_the_same(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome() -> list[Any]:
        events = list(run(game(algorithm)))
        last = [digest(event.state) for event in events if isinstance(event, Checkpoint)][-1]
        return [last, *(event.evaluation.report() for event in events if isinstance(event, Evaluated))]

    at_once = outcome()
    assert [report["step"] for report in at_once[1:]] == [90, 180, 240]
    monkeypatch.setattr(loop, "make_evaluator", BackgroundEvaluator)
    assert outcome() == at_once


def test_training_goes_on_and_no_checkpoint_lacks_an_evaluation(held: Held) -> None:
    seen: list[tuple[type, int]] = []
    for event in run(game()):
        seen.append((type(event), event.step))
        if seen[-1] == (Progress, 150):
            held.release(3)
    begun = seen.index((Evaluated, 90))
    assert (Progress, 150) in seen[:begun], "60 steps beyond the one whose weights are judged"
    for place, (kind, step) in enumerate(seen):
        if kind is Checkpoint:
            missing = [due for due in (90, 180, 240) if due <= step and (Evaluated, due) not in seen[:place]]
            assert not missing
    saved = [step for kind, step in seen if kind is Checkpoint]
    assert saved[0] == 60
    assert saved[-1] == 240
    assert 150 <= saved[1] <= 180, "what was due after 120 steps came with the evaluation"


def test_an_evaluation_that_finds_another_is_waited_for(held: Held) -> None:
    seen: list[tuple[type, int]] = []
    for event in run(game()):
        seen.append((type(event), event.step))
        if seen[-1] == (Progress, 150):
            held.release(2, after=0.5)
        if seen[-1] == (Progress, 210):
            held.release(1)
    judged = [(Evaluated, 90), (Evaluated, 180), (Progress, 180), (Checkpoint, 180)]
    assert [entry for entry in seen if entry in judged] == judged


def test_a_run_that_is_stopped_waits_for_its_evaluation(held: Held) -> None:
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 3
        if steps == 99:
            held.release(1, after=0.5)
        return steps == 99

    *_, judged, progress, saved, interrupted = run(game(), stop=stop)
    assert isinstance(judged, Evaluated)
    assert isinstance(saved, Checkpoint)
    assert isinstance(interrupted, Interrupted)
    assert (judged.step, progress.step, saved.step) == (90, 99, 99)


def begun() -> BackgroundEvaluator:
    """Return a judge with an evaluation under way."""
    config = game()
    envs = make_envs(config.env, config.num_envs, config.seed)
    judge = BackgroundEvaluator(config)
    judge.begin(build_agent(config, envs), 7)
    envs.close()
    return judge


def test_a_process_that_dies_is_an_error_of_one_line() -> None:
    judge = begun()
    assert judge._process is not None
    judge._process.kill()
    with pytest.raises(ChildProcessError, match=r"^the process that judges ended with status -9$"):
        judge.finished(wait=True)
    judge.close()


def test_nothing_is_left_of_a_judge_that_is_closed() -> None:
    judge = begun()
    assert judge.busy
    assert judge.finished(wait=False) == []
    judge.close()
    assert judge._process is not None
    assert judge._process.poll() == -9


def test_the_process_that_judges_takes_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pool of threads would be as large as the machine, and wait for work by spinning on every core."""
    started: dict[str, Any] = {}
    monkeypatch.setattr(judging.subprocess, "Popen", lambda command, **options: started.update(options))
    judging._start()
    assert started["env"]["OMP_NUM_THREADS"] == "1"
