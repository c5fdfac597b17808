"""Names of actions, and the actions of the keys that are held."""

import numpy as np
import pytest
from gymnasium import spaces

from q2pi.envs.spec import EnvSpec, resolve
from q2pi.viewer.controls import Controls, controls_of, labels, parts_of

CARTPOLE = controls_of(EnvSpec("CartPole-v1"), spaces.Discrete(2))
INVADERS = controls_of(resolve(EnvSpec("SpaceInvaders")), spaces.Discrete(6))


def test_arrow_keys_play_cartpole_which_waits_for_them() -> None:
    assert CARTPOLE.names == ("left", "right")
    assert CARTPOLE.action({"ArrowLeft"}) == 0
    assert CARTPOLE.action({"ArrowRight"}) == 1
    assert CARTPOLE.action(set()) is None
    assert not CARTPOLE.is_real_time


@pytest.mark.parametrize(
    ("held", "name"),
    [
        (set(), "NOOP"),
        ({" "}, "FIRE"),
        ({"ArrowLeft"}, "LEFT"),
        ({"ArrowRight", " "}, "RIGHTFIRE"),
        ({"ArrowUp"}, "NOOP"),
        ({"ArrowUp", "ArrowLeft", " "}, "LEFTFIRE"),
        ({"x"}, "NOOP"),
    ],
)
def test_keys_that_are_held_together_choose_the_atari_action(held: set[str], name: str) -> None:
    assert INVADERS.is_real_time
    assert INVADERS.names[INVADERS.action(held)] == name


def test_parts_of_an_atari_action() -> None:
    assert parts_of("UPRIGHTFIRE") == {"up", "right", "fire"}
    assert parts_of("NOOP") == set()


def test_number_keys_play_an_unknown_environment() -> None:
    controls = controls_of(EnvSpec("Blackjack-v1"), spaces.Discrete(2))
    assert controls.names == ("action 0", "action 1")
    assert (controls.action({"1"}), controls.action({"2"}), controls.action({"3"})) == (0, 1, None)
    assert controls.help == "number keys: 1 to 2, in the order of the bars"


def test_a_known_name_with_another_number_of_actions_is_played_with_number_keys() -> None:
    assert controls_of(EnvSpec("CartPole-v1"), spaces.Discrete(3)).parts == ()


def test_arrow_keys_set_components_of_box_actions_to_their_bounds() -> None:
    box = spaces.Box(np.array([-2.0, 0.5], np.float32), np.array([3.0, 1.0], np.float32))
    controls = controls_of(EnvSpec("Pendulum-v1"), box)
    assert controls.is_real_time
    np.testing.assert_array_equal(controls.action(set()), [0.0, 0.5])  # 0 is below the second component's bound
    np.testing.assert_array_equal(controls.action({"ArrowLeft", "ArrowUp"}), [-2.0, 1.0])
    np.testing.assert_array_equal(controls.action({"ArrowLeft", "ArrowRight"}), [0.0, 0.5])


def test_actions_of_several_parts_have_no_keys() -> None:
    controls = controls_of(EnvSpec("X-v0"), spaces.MultiDiscrete([2, 3]))
    assert controls.action({"1", "ArrowLeft"}) is None
    assert controls.help.startswith("no keys")


def test_box_actions_are_labelled_by_component() -> None:
    assert labels((), 2) == ["component 0", "component 1"]
    assert labels(("a", "b"), 2) == ["a", "b"]


def test_every_known_environment_names_as_many_actions_as_it_has() -> None:
    import gymnasium

    import q2pi  # noqa: F401  registers its environments
    from q2pi.viewer.controls import KNOWN

    for env_id, actions in KNOWN.items():
        if not env_id.startswith("LunarLander"):
            assert len(actions) == gymnasium.make(env_id).action_space.n, env_id  # type: ignore[attr-defined]
    assert Controls(("a",), (frozenset(),)).is_real_time
