"""Policy heads: what is sent to the environment is a member of its action space, in the space's own type."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from q2pi.errors import UserError
from q2pi.networks.action_spaces import serves
from q2pi.networks.policy import policy_head, within_box

SPACES = [
    spaces.Discrete(3, start=-5),
    spaces.MultiDiscrete([2, 5, 1]),
    spaces.MultiDiscrete([[2, 3], [4, 1]], start=[[-1, 0], [7, 2]]),
    spaces.MultiDiscrete([3, 2], dtype=np.int8),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 3)),
    spaces.Box(-0.1, 0.1, (2,), np.float64),
    spaces.Box(-0.1, 0.1, (2, 2), np.float16),
    spaces.Box(0.3, 0.7, (1,), np.float32),
    spaces.Box(-np.inf, np.inf, (2,), np.float16),
    spaces.Box(np.array([-np.inf, 0.1]), np.array([0.3, np.inf]), dtype=np.float64),
    spaces.Box(-3, 9, (2,), np.int32),
    spaces.Box(0, 255, (3,), np.uint8),
    spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (2,), np.int64),
    spaces.Box(0, np.iinfo(np.uint64).max, (2,), np.uint64),
    spaces.Box(2.0, 2.0, (2,), np.float64),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("log_std", [0.0, 40.0])
@torch.no_grad()
def test_actions_are_members_of_the_space(space: Any, log_std: float) -> None:
    head = policy_head(6, space, log_std=log_std)
    policy = head(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)))
    rng = np.random.default_rng(0)
    for action in (policy.mode(), head.sample(policy, rng)):
        assert action.shape == (50, *head.action_shape)
        sent = head.to_env_action(action)
        assert sent.shape == (50, *space.shape)
        assert sent.dtype == space.dtype
        assert all(space.contains(one) for one in sent)
        assert policy.log_prob(action).shape == policy.entropy().shape == (50,)
        assert policy.log_prob(action).isfinite().all()


@pytest.mark.parametrize("space", [space for space in SPACES if "Box" in str(space)][:3], ids=str)
@torch.no_grad()
def test_squashed_actions_are_members_of_the_space(space: Any) -> None:
    head = policy_head(6, space, log_std=4.0, squash=True)
    policy = head(torch.zeros(50, 6))
    assert all(space.contains(one) for one in head.to_env_action(head.sample(policy, np.random.default_rng(0))))


def test_a_float32_action_at_a_float64_bound_is_outside_without_the_bounds_own_type() -> None:
    """Negative control: 0.1 rounds up in float32."""
    space = spaces.Box(-0.1, 0.1, (1,), np.float64)
    assert not space.contains(
        np.clip(np.array([5.0], np.float32), np.float32(-0.1), np.float32(0.1)).astype(np.float64)
    )
    assert space.contains(within_box(np.array([[5.0]], np.float32), space)[0])


def test_integers_are_rounded_to_the_nearest_member() -> None:
    space = spaces.Box(-3, 9, (5,), np.int32)
    found = within_box(np.array([[-7.2, -0.6, 0.4, 8.6, 40.0]], np.float32), space)
    assert found.tolist() == [[-3, -1, 0, 9, 9]]


def test_an_action_that_is_nan_is_not_sent() -> None:
    with pytest.raises(FloatingPointError, match="an action is NaN"):
        within_box(np.array([[np.nan]], np.float32), spaces.Box(-1, 1, (1,), np.float32))


def test_components_of_a_multi_discrete_action_have_their_own_logits() -> None:
    """nvec (2, 3): logits 0, 1 | 2, 3, 4 of the layer."""
    head = policy_head(1, spaces.MultiDiscrete([2, 3]))
    with torch.no_grad():
        head.logits.weight.zero_()
        head.logits.bias.copy_(torch.tensor([1.0, 2.0, 5.0, 4.0, 3.0]))
    logits = head(torch.zeros(1, 1)).logits
    assert logits.tolist() == [[[1.0, 2.0, -torch.inf], [5.0, 4.0, 3.0]]]
    assert head(torch.zeros(1, 1)).mode().tolist() == [[1, 0]]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple([spaces.Discrete(2)]),
        spaces.Text(3),
        spaces.Box(-1, 1, (2,), np.longdouble),
        spaces.Box(-1, 1, (0,), np.float32),
        spaces.Sequence(spaces.Discrete(2)),
    ],
    ids=str,
)
def test_other_spaces_are_not_served(space: Any) -> None:
    assert not serves(space)


def test_a_subclass_of_a_space_is_served_as_its_base() -> None:
    class Buttons(spaces.Discrete):
        pass

    assert serves(Buttons(4))
    assert policy_head(3, Buttons(4)).action_shape == ()


@pytest.mark.parametrize("space", [SPACES[9], SPACES[15], SPACES[4]], ids=str)
def test_squash_needs_a_box_with_finite_bounds(space: Any) -> None:
    with pytest.raises(UserError, match="--squash"):
        policy_head(3, space, squash=True)
