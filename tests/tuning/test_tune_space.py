"""Ranges, their encoding for Optuna, and a user's narrower spaces."""

from pathlib import Path

import numpy as np
import optuna
import pytest
from small_studies import begun, plan

from q2pi.algorithms.common.search_space import Choice, Float, Int, OneMinus, PowerOfTwo
from q2pi.algorithms.registry import default_config
from q2pi.config import override, resolve
from q2pi.errors import UserError
from q2pi.tuning.plan import StudyFolder, check_same
from q2pi.tuning.space import decode, distribution, encode, narrow

BASE = resolve(
    override(
        default_config("dqn"),
        {"env_id": "CartPole-v1", "total_timesteps": 5_000, "buffer_size": 1_000, "learning_starts": 100},
    )
)


def test_decoded_values_are_those_of_the_option() -> None:
    assert decode(PowerOfTwo(16, 256), 5) == 32
    assert decode(OneMinus(0.9, 0.999), 0.0123456) == 0.98765  # four digits of the distance to 1
    assert decode(OneMinus(0.9, 0.999), 0.001) == 0.999
    assert decode(Float(1e-5, 1e-2), 0.000123456) == 0.0001235
    assert decode(Float(0.0, 0.12344), 0.12344) == 0.1234
    assert decode(Float(0.12346, 1.0), 0.12346) == 0.1235
    assert decode(Int(1, 9), 4) == 4
    assert decode(Choice((64, 64), (120, 84)), "120 84") == (120, 84)
    assert decode(Choice(False, True), False) is False


def test_a_value_outside_is_encoded_as_the_nearest_point() -> None:
    assert encode(PowerOfTwo(16, 256), 10_000) == 8
    assert encode(PowerOfTwo(16, 256), 100) == 7  # 128
    assert encode(OneMinus(0.9, 0.99), 1.0) == pytest.approx(0.01)
    assert encode(Float(0.1, 0.5), None) == 0.1
    assert encode(Choice("a", "b"), "c") == "a"
    assert encode(Choice((64, 64), (120, 84)), (120, 84)) == "120 84"


@pytest.mark.parametrize(
    "values",
    [Float(1e-4, 1e-1, log=True), Int(1, 100, log=True), PowerOfTwo(1, 64), OneMinus(0.9, 0.999), Choice((1,), (2, 3))],
    ids=repr,
)
def test_sampled_values_are_in_the_range_and_are_encoded_back(
    values: Float | Int | PowerOfTwo | OneMinus | Choice,
) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(50):
        parameter = study.ask({"x": distribution(values)}).params["x"]
        value = decode(values, parameter)
        if isinstance(values, Choice):
            assert value in values.options
            assert encode(values, value) == parameter
        else:
            assert values.low <= value <= values.high
            assert encode(values, value) == pytest.approx(parameter, rel=1e-3)


def test_the_ends_of_a_range_of_powers_of_two() -> None:
    with pytest.raises(ValueError, match="100 is not a power of two"):
        PowerOfTwo(16, 100)


def test_a_file_narrows_and_fixes(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        "learning_rate = [1e-4, 2e-4]\nbatch_size = [16, 64]\nloss = ['huber']\nhidden = [[8], [8, 8]]\n"
        "gamma = 0.9\nadam_eps = 1e-5\n"
    )
    space, fixed = narrow(BASE, str(file), ["n_step=2", "max_grad_norm=1.0"])
    assert space["learning_rate"] == Float(1e-4, 2e-4, log=True)
    assert space["batch_size"] == PowerOfTwo(16, 64)
    assert space["loss"] == Choice("huber")
    assert space["hidden"] == Choice((8,), (8, 8))
    assert fixed == {"gamma": 0.9, "adam_eps": 1e-5, "n_step": 2, "max_grad_norm": 1.0}
    assert not fixed.keys() & space.keys()
    assert "end_e" in space, "other options keep their ranges"


def test_a_single_tuple_is_a_value(tmp_path: Path) -> None:
    space, fixed = narrow(BASE, None, ["hidden=[32, 32]", "loss=huber"])
    assert fixed == {"hidden": [32, 32], "loss": "huber"}
    assert "hidden" not in space


@pytest.mark.parametrize(
    ("line", "fragments"),
    [
        ("gamma = [0.5, 1.5]", ["logarithmic"]),
        ("gamma = 1.5", ["--gamma 1.5", "[0, 1]"]),
        ("exploration_fraction = [0.1, 1.5]", ["--exploration-fraction 1.5", "[0, 1]"]),
        ("n_step = [0, 3]", ["--n-step 0", "at least 1"]),
        ("learning_rate = [0, 1e-3]", ["learning_rate = [0, 0.001]", "logarithmic"]),
        ("learning_rate = [1e-3, 1e-4]", ["[0.001, 0.0001]", "low below high"]),
        ("learning_rate = [1e-3]", ["low below high"]),
        ("batch_size = [16, 100]", ["100 is not a power of two"]),
        ("n_step = [1, 2.5]", ["n_step = [1, 2.5]", "whole numbers"]),
        ("loss = ['mse', 'l1']", ["loss = 'l1'", "mse, huber"]),
        ("loss = []", ["nothing to choose"]),
        ("lerning_rate = [1e-4, 1e-3]", ["'lerning_rate'", "did you mean 'learning_rate'?"]),
        ("adam_eps = [1e-8, 1e-4]", ["adam_eps has no range", "one value"]),
        ("total_timesteps = 100", ["'total_timesteps'"]),
        ("buffer_size = 'big'", ["buffer_size = 'big'", "int"]),
        ("learning_rate = ", ["not valid TOML"]),
    ],
)
def test_mistakes_in_a_space(line: str, fragments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(line)
    with pytest.raises(UserError) as caught:
        narrow(BASE, str(file), [])
    for fragment in [*fragments, f"--space {file}"]:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("word", "fragment"), [("gamma", "name=value"), ("gamma=", "name=value"), ("gamma=2", "[0, 1]")]
)
def test_mistakes_in_fixed_options(word: str, fragment: str) -> None:
    with pytest.raises(UserError, match=f"--fix {word}") as caught:
        narrow(BASE, None, [word])
    assert fragment in str(caught.value)


def test_a_plan_is_stored_and_every_change_is_refused(tmp_path: Path) -> None:
    folder, _ = begun(tmp_path / "study", plan(fixed={"hidden": [16]}))
    assert folder.read().table() == plan(fixed={"hidden": [16]}).table()
    assert folder.read().space == plan().space
    check_same(folder, folder.read(), plan(fixed={"hidden": [16]}, name="another name"))
    changes = {
        "fixed.hidden": plan(),
        "space.learning_rate.high": plan(
            fixed={"hidden": [16]}, space=plan().space | {"learning_rate": Float(1e-3, 1)}
        ),
        "base.total_timesteps": plan({"total_timesteps": 400}, fixed={"hidden": [16]}),
        "objective": plan(fixed={"hidden": [16]}, objective="iqm"),
        "seeds": plan(fixed={"hidden": [16]}, seeds=3),
        "storage": plan(fixed={"hidden": [16]}, storage="postgresql+psycopg://host/name"),
    }
    for key, changed in changes.items():
        with pytest.raises(UserError, match=f"is a study with {key} = .*, not "):
            check_same(folder, folder.read(), changed)


def test_a_damaged_plan_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("name = 5")
    with pytest.raises(UserError, match="is damaged"):
        StudyFolder(tmp_path).read()


def test_each_decade_of_the_distance_to_1_is_as_likely_as_the_next() -> None:
    """The median of 1 - gamma is the geometric mean of its range; that of other ranges, of theirs."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    ranges = {"gamma": OneMinus(0.9, 0.9999), "rate": Float(1e-4, 1e-1, log=True), "plain": Float(0.0, 1.0)}
    draws = [study.ask({name: distribution(one) for name, one in ranges.items()}).params for _ in range(400)]
    values = {name: [decode(one, draw[name]) for draw in draws] for name, one in ranges.items()}
    assert np.median(np.log10(1 - np.array(values["gamma"]))) == pytest.approx(-2.5, abs=0.25)
    assert np.median(np.log10(values["rate"])) == pytest.approx(-2.5, abs=0.25)
    assert np.median(values["plain"]) == pytest.approx(0.5, abs=0.08)
