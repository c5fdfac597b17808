"""Random environments train with every algorithm that claims their spaces, are evaluated and resumed, or are refused.

    pytest tests/fuzz                               # up to 300 draws, at most a minute
    Q2PI_FUZZ_DRAWS=5000 pytest tests/fuzz          # without a bound on the time

Refused means: one line, from a `UserError`. A mistake of an environment is an `EnvError` that names it.
"""

import os
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from drawn_envs import Draw, Drawn, draws
from gymnasium import spaces
from hypothesis import HealthCheck, Phase, given, settings

from q2pi.algorithms import registry
from q2pi.config import ResolvedConfig, override, resolve
from q2pi.envs.errors import EnvError
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import evaluate
from q2pi.reports.video import make_renderer
from q2pi.runs import checkpoint
from q2pi.training.events import Checkpoint, EpisodeEnded, Event, Started
from q2pi.training.loop import run

DRAWS = int(os.environ.get("Q2PI_FUZZ_DRAWS", "300"))
SECONDS = 60.0 if DRAWS <= 300 else float("inf")
"""After this time, further draws are skipped."""
ENV_ID = "q2pi-test/Drawn-v0"
SHORT: dict[str, Any] = {"total_timesteps": 24, "num_envs": 2, "threads": 1, "evaluation_episodes": 0, "device": "cpu"}
REPLAY = {
    "learning_starts": 4,
    "buffer_size": 16,
    "batch_size": 4,
    "hidden": (4,),
    "n_step": 2,
    "network": "nips",
}
ROLLOUT = {"num_steps": 3, "num_minibatches": 2, "update_epochs": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "a2c": {"num_steps": 3, "hidden": (4,)},
    "dqn": REPLAY,
    "ppo": ROLLOUT | {"hidden": (4,)},
    "pqn": ROLLOUT | {"hidden": (4,), "network": "nips"},
    "pqn_laptop": ROLLOUT | {"hidden": (4,), "network": "nips"},
    "q_learning": {},
    "rainbow": REPLAY | {"atoms": 5},
    "reinforce": {"episodes_per_update": 2, "hidden": (4,), "value_updates": 1},
}
seen: Counter[str] = Counter()
started = time.monotonic()


def config_of(algorithm: str) -> ResolvedConfig[Any]:
    base = registry.default_config(algorithm)
    options = {"env_id": ENV_ID, **SHORT, **OPTIONS.get(algorithm, {})}
    return resolve(override(base, options))


def trained(config: ResolvedConfig[Any], state: Any = None, after: int = 10**6) -> tuple[list[Event], Any, Any]:
    """Return (events, agent, state at the end) of a run that is stopped after a number of vector steps."""
    calls = iter(range(10**6))
    events: list[Event] = []
    agent = last = None
    with tempfile.TemporaryDirectory() as name, closing(run(config, state, lambda: next(calls) >= after)) as running:
        for event in running:
            events.append(event)
            if isinstance(event, Started):
                agent = event.agent
            if isinstance(event, Checkpoint):
                last = in_memory(checkpoint.load(checkpoint.save(Path(name), event.step, event.state))[0])
    return events, agent, last


def in_memory(state: Any) -> Any:
    """Return a loaded state without the large arrays that are read when they are used: the folder is about to go."""
    flat = checkpoint.flatten(state)
    return checkpoint.nest(
        {name: np.asarray(value) if isinstance(value, checkpoint.StoredArray) else value for name, value in flat}
    )


def attempted(algorithm: str) -> tuple[UserError | None, list[Event], Any, Any]:
    """Return (the error, events, agent, state at the end) of a whole run."""
    try:
        return None, *trained(config_of(algorithm))
    except UserError as problem:
        return problem, [], None, None


def one_line(problem: UserError) -> None:
    text = str(problem)
    assert "\n" not in text
    assert 10 < len(text) < 1_500
    assert "--" in text, "it names an option"


def check(algorithm: str, draw: Draw, returns: list[float]) -> str:
    """Train, resume, evaluate and render; return what happened in one word."""
    problem, events, agent, whole = attempted(algorithm)
    if problem is not None:
        one_line(problem)
        if not isinstance(problem, EnvError):
            return "refused"
        assert draw.mistake is not None, problem
        assert ENV_ID in str(problem)
        assert draw.mistake not in ("raises in step", "raises in reset") or problem.__cause__ is not None
        return "mistake named"
    is_float = isinstance(draw.observation_space, spaces.Box) and draw.observation_space.dtype.kind == "f"
    assert draw.mistake is None or (draw.mistake == "observation nan" and not is_float)
    config = config_of(algorithm)
    for event in events:
        if isinstance(event, EpisodeEnded):
            assert event.episode.episode_return in returns, "scores are sums of the rewards as they were paid"
    _, _, part = trained(config, after=4)
    _, _, resumed = trained(config, part)
    if draw.is_seeded:
        assert checkpoint.digest(resumed) == checkpoint.digest(whole), "resumed equals uninterrupted"
    evaluation = evaluate(agent, config.env, step=24, episodes=2, seed=1)
    assert all(score in returns for score in evaluation.scores)
    if draw.render is not None:
        screens = make_renderer(config.env).replay(3, np.asarray(evaluation.episodes[0].actions[:1]).tolist())
        assert next(iter(screens))[0].shape == (*draw.render[:2], 3)
    return "trained"


@given(draws())
@settings(
    max_examples=DRAWS,
    deadline=None,
    database=None,
    derandomize=DRAWS <= 300,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate] if DRAWS <= 300 else [Phase.generate, Phase.shrink],
    print_blob=True,
)
def fuzz(draw: Draw) -> None:
    if time.monotonic() - started > SECONDS:
        return
    returns: list[float] = []
    gymnasium.register(
        ENV_ID, entry_point=lambda render_mode=None: Drawn(draw, returns, render_mode), max_episode_steps=50
    )
    try:
        for algorithm in registry.names():
            seen[f"{algorithm} {check(algorithm, draw, returns)}"] += 1
    finally:
        del gymnasium.registry[ENV_ID]


@pytest.mark.filterwarnings("ignore")
def test_random_environments_train_or_are_refused() -> None:
    global started
    started = time.monotonic()
    seen.clear()
    fuzz()
    print(dict(sorted(seen.items())))
    for algorithm in registry.names():
        counts = {outcome: seen[f"{algorithm} {outcome}"] for outcome in ("refused", "mistake named", "trained")}
        # A slow machine has few draws; with more of them, no algorithm may refuse them all.
        assert counts["trained"] or sum(counts.values()) < 40, f"{algorithm}: {counts}"
