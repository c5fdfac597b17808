"""The contract of every file of q2pi/algorithms: add a line to `OPTIONS`, and all of these tests run with it."""

import ast
import dataclasses
import gc
import inspect
import sys
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
from q2pi.algorithms.base import Agent
from q2pi.algorithms.build import agent_spec, build_agent
from q2pi.algorithms.common.search_space import Choice, Int, PowerOfTwo, Range, ends
from q2pi.algorithms.configs.base import AlgorithmConfig
from q2pi.algorithms.registry import default_config
from q2pi.config import ResolvedConfig, from_table, override, resolve, to_table
from q2pi.envs.make import make_envs
from q2pi.errors import UserError
from q2pi.evaluation.evaluate import evaluate
from q2pi.runs import checkpoint, estimate
from q2pi.runs.checkpoint import digest
from q2pi.training.events import Checkpoint, Progress, Started
from q2pi.training.loop import run
from q2pi.training.presets import configure

OPTIONS: dict[str, dict[str, Any]] = {
    "a2c": {"num_steps": 5, "hidden": (16,)},
    "dqn": {name: CARTPOLE[name] for name in ("learning_starts", "buffer_size", "batch_size", "hidden")},
    "ppo": {"num_steps": 16, "num_minibatches": 2, "update_epochs": 2, "hidden": (16,)},
    "pqn": {"num_steps": 16, "num_minibatches": 2, "update_epochs": 2, "hidden": (16,)},
    "pqn_laptop": {"num_steps": 16, "num_minibatches": 2, "update_epochs": 2, "hidden": (16,)},
    "q_learning": {"env_id": "FrozenLake-v1"},
    "rainbow": {name: CARTPOLE[name] for name in ("learning_starts", "buffer_size", "batch_size", "hidden")},
    "reinforce": {"episodes_per_update": 4, "hidden": (16,)},
}
"""Options with which an algorithm makes updates within 400 agent steps of CartPole, or of the `env_id` named."""
LIMITS: dict[str, int] = {"dqn": 230, "rainbow": 319, "a2c": 319, "ppo": 319, "pqn": 319}
"""Lines that an algorithm's file may have, so that it can be read in one go."""
MOST_IMPORTS: dict[str, int] = {"dqn": 15}
"""Names that an algorithm's file may import from q2pi, so that few other files must be read to understand it."""

NAMES = registry.names()
WITH_IMAGES = [name for name in NAMES if "images" in registry.find(name).Config.OBSERVATIONS]


def small(name: str, **changes: Any) -> ResolvedConfig[Any]:
    """Return 400 agent steps of 4 environments with four checkpoints."""
    common = QUIET | {"env_id": "CartPole-v1", "total_timesteps": 400, "num_envs": 4, "checkpoint_frequency": 100}
    return resolve(override(default_config(name), common | OPTIONS.get(name, {}) | changes))


def built(config: ResolvedConfig[Any]) -> tuple[Any, Any]:
    """Return (environments, agent) of a run that has not started."""
    envs = make_envs(config.env, config.num_envs, config.seed)
    return envs, build_agent(config, envs)


def middle(config: ResolvedConfig[Any]) -> Any:
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


@pytest.fixture
def config_class(module: ModuleType) -> type[AlgorithmConfig]:
    found: type[AlgorithmConfig] = module.Config
    return found


def test_every_file_has_options(name: str) -> None:
    assert name in OPTIONS, "add a line to OPTIONS"


def test_the_module_has_a_config_and_an_agent(name: str, module: ModuleType) -> None:
    assert issubclass(module.Config, AlgorithmConfig)
    assert module.Config is registry.find_config(name)
    assert module.Config.__module__ == f"q2pi.algorithms.configs.{name}"
    assert module.Agent.__module__ == module.__name__
    assert module.Config().algorithm == name
    for member in (set(vars(Agent)) | set(Agent.__annotations__)) - {"spec"}:
        assert member.startswith("_") or hasattr(module.Agent, member), f"Agent has {member}"
    assert isinstance(module.Agent.overlap, bool)


def test_every_method_of_the_config_has_a_docstring(config_class: type[AlgorithmConfig]) -> None:
    for method in ("check", "repaired", "resolved", "check_spaces", "updates_due", "storage_bytes", "timing_config"):
        assert inspect.getdoc(getattr(config_class, method)), f"{method} has a docstring"


def test_a_config_overrides_the_abstract_methods(config_class: type[AlgorithmConfig]) -> None:
    """The base class raises NotImplementedError for `updates_due` and `storage_bytes`."""
    for method in ("updates_due", "storage_bytes"):
        assert getattr(config_class, method) is not getattr(AlgorithmConfig, method), f"{method} is overridden"
    config = config_class()
    for text in (config.OBSERVATIONS, config.ACTIONS, config.method):
        assert isinstance(text, str)
        assert text


def test_tables_of_options_name_options(config_class: type[AlgorithmConfig]) -> None:
    fields = {field.name for field in dataclasses.fields(config_class)}
    assert set(config_class.STORAGE_OPTIONS) <= fields | {"num_envs"}
    assert config_class._bounds("AT_LEAST").keys() <= fields
    assert config_class._bounds("WITHIN").keys() <= fields


def test_check_refuses_a_number_beyond_each_bound(name: str, config_class: type[AlgorithmConfig]) -> None:
    config = small(name)
    low, within = config_class._bounds("AT_LEAST"), config_class._bounds("WITHIN")
    beyond = {option: bound - 1 for option, bound in low.items()}
    for option, value in (beyond | {option: bounds[1] + 1 for option, bounds in within.items()}).items():
        wrong: Any = (int(value),) if isinstance(getattr(config.hyper, option), tuple) else value
        hyper = dataclasses.replace(config.hyper, **{option: wrong})
        with pytest.raises(UserError, match=f"--{option.replace('_', '-')} .* is out of range"):
            hyper.check(dataclasses.replace(config, hyper=hyper))


def sampled(values: Range, generator: np.random.Generator) -> Any:
    """Return a value of a range: an end, or one between them."""
    extremes = ends(values)
    if isinstance(values, Choice) or generator.random() < 0.5:
        return extremes[generator.integers(len(extremes))]
    between = generator.uniform(*extremes)
    if isinstance(values, PowerOfTwo):
        return 2 ** int(np.log2(between))
    return int(between) if isinstance(values, Int) else between


def test_the_space_names_options_and_contains_the_defaults(name: str, config_class: type[AlgorithmConfig]) -> None:
    fields = {field.name for field in dataclasses.fields(config_class)}
    assert config_class.SPACE.keys() <= fields | {"num_envs"}
    config, _ = configure(name, "Taxi-v4" if name == "q_learning" else "CartPole-v1")
    for option, values in config_class.SPACE.items():
        default = config.num_envs if option == "num_envs" else getattr(config.hyper, option)
        inside = default in values.options if isinstance(values, Choice) else values.low <= default <= values.high
        assert inside, f"{option} {default} in {values}"


@pytest.mark.parametrize("total_timesteps", [400, 100_000])
def test_check_accepts_a_repaired_sample_of_the_space(
    name: str, config_class: type[AlgorithmConfig], total_timesteps: int
) -> None:
    generator = np.random.default_rng(1)
    refused = 0
    for _ in range(200):
        options = {option: sampled(values, generator) for option, values in config_class.SPACE.items()}
        config = override(small(name), options | {"total_timesteps": total_timesteps})
        try:
            config.hyper.check(config)
        except UserError:
            refused += 1
        repaired = config.hyper.repaired(config)
        repaired.hyper.check(repaired)
        assert repaired.hyper.repaired(repaired) == repaired
        assert repaired.num_envs == config.num_envs
    assert refused or total_timesteps > 400 or name == "q_learning", "no sample needed a repair"


def test_the_configuration_is_frozen_and_every_field_has_a_default(config_class: type[AlgorithmConfig]) -> None:
    config = config_class()
    field = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, None)


def documented(source: str) -> dict[str, bool]:
    """Return for each field of a class whether a docstring follows it; class variables are no fields."""
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
            found[ast.unparse(node.target)] = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return found


def test_every_hyperparameter_has_a_docstring(config_class: type[AlgorithmConfig]) -> None:
    """In the class that declares it, which may be a base class; a subclass with another default repeats it."""
    found = [documented(inspect.getsource(base)) for base in config_class.__mro__ if dataclasses.is_dataclass(base)]
    assert [field for fields in found for field, is_documented in fields.items() if not is_documented] == []
    assert {field for fields in found for field in fields} == {field.name for field in dataclasses.fields(config_class)}


def test_a_hyperparameter_without_a_docstring_is_found() -> None:
    source = (
        'class Config:\n    """About."""\n    a: int = 1\n    """A."""\n    b: int = 2\n    c: int = 3\n    """C."""'
        "\n    D: ClassVar[int] = 4"
    )
    assert documented(source) == {"a": True, "b": False, "c": True}


def test_the_docstring_names_papers_and_differences(module: ModuleType) -> None:
    document = module.__doc__ or ""
    assert "\n" in document
    assert "Paper" in document
    assert "ifferences" in document


def test_the_configuration_is_the_same_after_toml(name: str) -> None:
    config = small(name, seed=5)
    table = tomllib.loads(tomli_w.dumps(to_table(config)))
    assert resolve(from_table(default_config(name), table, "config.toml")) == config
    assert resolve(from_table(default_config(name), table | {"seed": 6}, "config.toml")) != config


def test_a_resumed_run_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    config = small(name)
    whole = digests(config, keep=(200, tmp_path))
    _, state, _, _ = checkpoint.load_newest(tmp_path)
    assert len(set(whole.values())) == 4
    assert digests(config, state) == {300: whole[300], 400: whole[400]}


def test_seeds_differ_and_training_changes_the_state(name: str) -> None:
    """The networks, or the table, of two seeds differ, and training changes them."""
    first, second = digests(small(name)), digests(small(name, seed=2))
    assert first[400] != second[400]
    config = small(name)
    envs, untrained = built(config)
    envs.close()
    assert untrained.spec.seed == config.seed
    before, after = untrained.state(), middle(config).state()
    changed = {key: value for key, value in before.items() if digest({key: value}) != digest({key: after.get(key)})}
    assert changed, "200 agent steps change something"


def test_actions_are_in_the_action_space(name: str) -> None:
    config = small(name)
    envs, agent = built(config)
    observation = envs.reset()
    agent.begin(observation)
    for step in range(0, 40, config.num_envs):
        action = agent.act(observation, step)
        evaluation_action = agent.evaluation_act(observation, np.random.default_rng(step))
        for taken in (
            action,
            evaluation_action,
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


def test_evaluation_changes_no_state(name: str) -> None:
    config = small(name)
    agent = middle(config)
    before = digest(agent.state())
    first = evaluate(agent, config.env, step=200, episodes=3, seed=1)
    assert digest(agent.state()) == before
    assert evaluate(agent, config.env, step=200, episodes=3, seed=1).report() == first.report()


def test_evaluation_during_training_changes_no_result(name: str) -> None:
    often = small(name, evaluation_frequency=60, evaluation_episodes=2)
    assert digests(often)[400] == digests(small(name))[400]


def test_predict_takes_one_observation_or_a_batch(name: str) -> None:
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


def test_spaces_that_it_cannot_serve_are_refused(name: str, config_class: type[AlgorithmConfig]) -> None:
    refused = [] if "Box" in config_class.ACTIONS else ["Pendulum-v1"]
    refused += [] if "vectors" in config_class.OBSERVATIONS else ["CartPole-v1"]
    for env_id in refused:
        with pytest.raises(UserError, match=rf"--env-id {env_id}.*{name}"):
            next(run(small(name, env_id=env_id)))


def test_its_updates_and_seconds_are_estimated(name: str) -> None:
    config = small(name, total_timesteps=10_000)
    needs = estimate.estimate(config)
    assert needs.updates > 0
    assert estimate.time_run(config).seconds > 0


@pytest.mark.parametrize("name", [name for name in registry.names() if name != "reinforce"])
def test_updates_due_are_the_updates_made(name: str) -> None:
    """Those of REINFORCE depend on the lengths of its episodes."""
    config = small(name)
    made = sum(event.metrics["updates"] for event in run(config) if isinstance(event, Progress))
    assert made == config.hyper.updates_due(config.total_timesteps, config.num_envs) > 0


def test_storage_grows_up_to_its_full_size(name: str) -> None:
    config = small(name)
    envs = make_envs(config.env, config.num_envs, config.seed)
    spec = agent_spec(config, envs)
    envs.close()
    sizes = [config.hyper.storage_bytes(spec, steps) for steps in (8, 400, sys.maxsize)]
    assert 0 < sizes[0] <= sizes[1] <= sizes[2]


@pytest.mark.parametrize("steps", [8, 1_200])
def test_a_timing_run_is_a_valid_run_of_the_given_length(name: str, steps: int) -> None:
    config = small(name, total_timesteps=10_000)
    short = config.hyper.timing_config(dataclasses.replace(config, total_timesteps=steps))
    assert (short.total_timesteps, short.num_envs) == (steps, config.num_envs)
    if steps > 8:
        short.hyper.check(short)


@pytest.mark.parametrize("name", LIMITS)
def test_the_file_is_short(name: str) -> None:
    assert len(source_of(name).splitlines()) <= LIMITS[name]


@pytest.mark.parametrize("name", MOST_IMPORTS)
def test_the_file_imports_few_names(name: str) -> None:
    assert len(names_imported(source_of(name))) <= MOST_IMPORTS[name]


def test_imported_names_are_counted() -> None:
    source = "import torch\nimport q2pi.rng\nfrom q2pi import a, b as c\nfrom q2pi.d import e\nfrom numpy import f\n"
    assert names_imported(source) == ["q2pi.rng", "a", "b", "e"]


def source_of(name: str) -> str:
    """Return the text of an algorithm's file."""
    return Path(str(registry.find(name).__file__)).read_text()


def names_imported(source: str) -> list[str]:
    """Return the names that a file imports from q2pi."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "q2pi":
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.split(".")[0] == "q2pi"]
    return names


def test_an_agent_is_freed_without_the_garbage_collector(name: str) -> None:
    """A reference cycle would keep a replay of gigabytes until the garbage collector runs."""
    envs, agent = built(small(name))
    agent.begin(envs.reset())
    gc.collect()
    gc.disable()
    try:
        reference = weakref.ref(agent)
        del agent
        assert reference() is None
    finally:
        gc.enable()
        envs.close()
