"""What every file of q2pi/algorithms must keep: add a line to `SETTINGS`, and all of this is asked of it."""

import ast
import dataclasses
import gc
import inspect
import tomllib
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tomli_w
from small_runs import CARTPOLE, QUIET, digests

from q2pi.algorithms import registry
from q2pi.algorithms.common.search_space import Choice, Int, PowerOfTwo, Range, ends
from q2pi.algorithms.registry import build_agent, default_config
from q2pi.config import RunConfig, from_table, override, resolve, to_table
from q2pi.envs import make_envs
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import evaluate
from q2pi.runs import checkpoint
from q2pi.runs import estimate as estimate
from q2pi.runs.checkpoint import digest
from q2pi.training.events import Checkpoint, Started
from q2pi.training.loop import run
from q2pi.training.presets import configure

SETTINGS: dict[str, dict[str, Any]] = {
    "a2c": {"num_steps": 5, "hidden": (16,)},
    "dqn": {name: CARTPOLE[name] for name in ("learning_starts", "buffer_size", "batch_size", "hidden")},
    "ppo": {"num_steps": 16, "num_minibatches": 2, "update_epochs": 2, "hidden": (16,)},
    "pqn": {"num_steps": 16, "num_minibatches": 2, "update_epochs": 2, "hidden": (16,)},
    "q_learning": {"env_id": "FrozenLake-v1"},
    "reinforce": {"episodes_per_update": 4, "hidden": (16,)},
}
"""Options with which an algorithm makes updates within 400 agent steps of CartPole, or of the `env_id` named."""

NAMES = registry.names()
WITH_IMAGES = [name for name in NAMES if "images" in registry.find(name).OBSERVATIONS]


def small(name: str, **changes: Any) -> RunConfig[Any]:
    """Return 400 agent steps of 4 games with four checkpoints."""
    common = QUIET | {"env_id": "CartPole-v1", "total_timesteps": 400, "num_envs": 4, "checkpoint_frequency": 100}
    return resolve(override(default_config(name), common | SETTINGS.get(name, {}) | changes))


def built(config: RunConfig[Any]) -> tuple[Any, Any]:
    """Return (games, agent) of a run that has not begun."""
    envs = make_envs(config.env, config.num_envs, config.seed)
    return envs, build_agent(config, envs)


def middle(config: RunConfig[Any]) -> Any:
    """Return the agent of a run half-way through."""
    agent = None
    for event in run(config):
        if isinstance(event, Started):
            agent = event.agent
        if isinstance(event, Checkpoint) and event.step == 200:
            break
    return agent


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def module(name: str) -> ModuleType:
    return registry.find(name)


def test_every_file_has_settings(name: str) -> None:
    assert name in SETTINGS, "add a line to SETTINGS"


def test_the_module_holds_what_the_contract_lists(module: ModuleType) -> None:
    for function in ("settle", "check", "check_spaces", "updates_due", "memory_needed", "timing_config"):
        assert inspect.getdoc(getattr(module, function)), f"{function} has a docstring"
    assert isinstance(module.OBSERVATIONS, str)
    assert isinstance(module.ACTIONS, str)


def drawn(values: Range, generator: np.random.Generator) -> Any:
    """Return a value of a range: an end, or one between them."""
    extremes = ends(values)
    if isinstance(values, Choice) or generator.random() < 0.5:
        return extremes[generator.integers(len(extremes))]
    between = generator.uniform(*extremes)
    if isinstance(values, PowerOfTwo):
        return 2 ** int(np.log2(between))
    return int(between) if isinstance(values, Int) else between


def test_the_space_names_options_and_holds_the_defaults(name: str, module: ModuleType) -> None:
    fields = {field.name for field in dataclasses.fields(module.Config)}
    assert module.SPACE.keys() <= fields | {"num_envs"}
    config, _ = configure(name, "Taxi-v4" if name == "q_learning" else "CartPole-v1")
    for option, values in module.SPACE.items():
        usual = config.num_envs if option == "num_envs" else getattr(config.hyper, option)
        inside = usual in values.options if isinstance(values, Choice) else values.low <= usual <= values.high
        assert inside, f"{option} {usual} in {values}"


@pytest.mark.parametrize("total_timesteps", [400, 100_000])
def test_what_the_space_draws_settles_into_what_check_accepts(
    name: str, module: ModuleType, total_timesteps: int
) -> None:
    generator = np.random.default_rng(1)
    refused = 0
    for _ in range(200):
        options = {option: drawn(values, generator) for option, values in module.SPACE.items()}
        config = override(small(name), options | {"total_timesteps": total_timesteps})
        try:
            module.check(config)
        except UserError:
            refused += 1
        settled = module.settle(config)
        module.check(settled)
        assert module.settle(settled) == settled
        assert settled.num_envs == config.num_envs
    assert refused or total_timesteps > 400 or name == "q_learning", "what was drawn does not fit by itself"


def test_the_configuration_is_frozen_and_has_a_default_for_everything(module: ModuleType) -> None:
    config = module.Config()
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, None)


def undocumented(source: str) -> list[str]:
    """Return the fields of `Config` that no docstring follows."""
    (config,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Config")
    bare = []
    for node, after in zip(config.body, [*config.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            bare += [] if told else [ast.unparse(node.target)]
    return bare


def test_every_hyperparameter_is_explained(module: ModuleType) -> None:
    assert module.__file__ is not None
    assert undocumented(Path(module.__file__).read_text()) == []


def test_a_bare_hyperparameter_would_be_found() -> None:
    source = (
        'class Config:\n    """About."""\n    a: int = 1\n    """A."""\n    b: int = 2\n    c: int = 3\n    """C."""'
    )
    assert undocumented(source) == ["b"]


def test_the_module_names_its_papers_and_its_differences(module: ModuleType) -> None:
    document = module.__doc__ or ""
    assert "\n" in document
    assert "Paper" in document
    assert "ifferences" in document


def test_the_configuration_survives_toml(name: str) -> None:
    config = small(name, seed=5)
    table = tomllib.loads(tomli_w.dumps(to_table(config)))
    assert from_table(default_config(name), table, "config.toml") == config
    assert from_table(default_config(name), table | {"seed": 6}, "config.toml") != config


def test_resumed_is_uninterrupted(name: str, tmp_path: Path) -> None:
    config = small(name)
    whole = digests(config, keep=(200, tmp_path))
    _, state, _, _ = checkpoint.load_newest(tmp_path)
    assert len(set(whole.values())) == 4
    assert digests(config, state) == {300: whole[300], 400: whole[400]}


def test_it_learns_something_from_the_seed_alone(name: str) -> None:
    """The networks, or the table, of two seeds differ, and training moves them."""
    first, second = digests(small(name)), digests(small(name, seed=2))
    assert first[400] != second[400]
    config = small(name)
    envs, fresh = built(config)
    envs.close()
    before, after = fresh.state(), middle(config).state()
    unlearned = {key: value for key, value in before.items() if digest({key: value}) != digest({key: after.get(key)})}
    assert unlearned, "200 agent steps changed something"


def test_actions_are_those_of_the_game(name: str) -> None:
    config = small(name)
    envs, agent = built(config)
    observation = envs.reset()
    agent.begin(observation)
    for step in range(0, 40, config.num_envs):
        action = agent.act(observation, step)
        judged = agent.evaluation_act(observation, np.random.default_rng(step))
        for taken in (
            action,
            judged,
            agent.predict(observation)[0],
            agent.predict(observation, deterministic=False)[0],
        ):
            assert len(taken) == config.num_envs
            assert all(envs.action_space.contains(np.asarray(one, envs.action_space.dtype)) for one in taken)
        envs.send(action)
        result = envs.recv()
        agent.observe(action, result)
        agent.learn(step + config.num_envs)
        observation = result.observation
    envs.close()


def test_evaluation_leaves_no_trace(name: str) -> None:
    config = small(name)
    agent = middle(config)
    before = digest(agent.state())
    first = evaluate(agent, config.env, step=200, episodes=3, seed=1)
    assert digest(agent.state()) == before
    assert evaluate(agent, config.env, step=200, episodes=3, seed=1).report() == first.report()


def test_a_run_that_is_evaluated_on_the_way_ends_in_the_same_state(name: str) -> None:
    often = small(name, evaluation_frequency=60, evaluation_episodes=2)
    assert digests(often)[400] == digests(small(name))[400]


def test_predict_takes_one_observation_or_many(name: str) -> None:
    envs, agent = built(small(name))
    observation = envs.reset()
    envs.close()
    many, state = agent.predict(observation)
    assert state is None
    assert np.shape(many) == (4, *envs.action_space.shape)
    for index in range(4):
        one, state = agent.predict(observation[index], None, None, True)
        assert state is None
        assert np.shape(one) == envs.action_space.shape
        np.testing.assert_allclose(one, many[index], rtol=1e-5)


def test_predict_refuses_other_shapes(name: str) -> None:
    envs, agent = built(small(name))
    envs.close()
    with pytest.raises(ValueError, match="expected"):
        agent.predict(np.zeros((4, 77), np.float32))


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_predict_takes_images_with_the_channels_last(name: str) -> None:
    """Stable-Baselines3 stacks frames along the last axis."""
    envs, agent = built(small(name, env_id="SpaceInvaders", resize=(36, 36)))
    envs.reset()
    envs.send(np.arange(4))
    observation = envs.recv().observation
    envs.close()
    expected = agent.predict(observation)[0].tolist()
    assert agent.predict(np.moveaxis(observation, 1, -1))[0].tolist() == expected
    assert agent.predict(np.moveaxis(observation[2], 0, -1))[0] == expected[2]


def test_worlds_that_it_cannot_serve_are_refused(name: str, module: ModuleType) -> None:
    refused = [] if "Box" in module.ACTIONS else ["Pendulum-v1"]
    refused += [] if "vectors" in module.OBSERVATIONS else ["CartPole-v1"]
    for env_id in refused:
        with pytest.raises(UserError, match=rf"--env-id {env_id}.*{name}"):
            next(run(dataclasses.replace(small(name), env=dataclasses.replace(small(name).env, env_id=env_id))))


def test_its_work_can_be_forecast(name: str) -> None:
    config = small(name, total_timesteps=10_000)
    needs = estimate.estimate(config)
    assert needs.updates > 0
    assert estimate.time_run(config).seconds > 0


@pytest.mark.parametrize("name", [name for name in registry.names() if name != "q_learning"])
def test_numbers_of_states_are_refused_by_networks(name: str) -> None:
    config, _ = configure(name, "Taxi-v4")
    with pytest.raises(UserError, match=f"--env-id Taxi-v4 shows numbers of states: {name} needs images or vectors"):
        next(run(config))


def test_an_agent_is_freed_without_the_garbage_collector(name: str) -> None:
    """A replay of gigabytes must not wait for a cycle to be found."""
    envs, agent = built(small(name))
    agent.begin(envs.reset())
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(agent)
        del agent
        assert gone() is None
    finally:
        gc.enable()
        envs.close()
