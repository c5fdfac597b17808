"""Interrupted + resumed = uninterrupted, bit for bit, whatever the options: state -> disk -> state -> the same run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import cartpole, digests, invaders

from q2pi.config import RunConfig
from q2pi.errors import UserError
from q2pi.networks.optimizer import load_optimizer, optimizer_state
from q2pi.networks.value import QNetwork
from q2pi.runs import checkpoint

VARIANTS: dict[str, RunConfig[Any]] = {
    "plain": cartpole(),
    "one environment": cartpole(num_envs=1),
    "n_step 3, huber, Double DQN, tau": cartpole(n_step=3, loss="huber", double=True, tau=0.5),
    "bf16, clipped gradients": cartpole(precision="bf16", max_grad_norm=0.5),
    "Atari, 1 game": invaders(num_envs=1),
    "Atari, 3 environments, nature, n_step 3, bf16": invaders(protocol="nature", n_step=3, precision="bf16"),
}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_resumed_run_equals_an_uninterrupted_one(config: RunConfig[Any], tmp_path: Path) -> None:
    middle = 2 * config.checkpoint_frequency
    whole = digests(config, keep=(middle, tmp_path))
    _, state, _, _ = checkpoint.load_newest(tmp_path)
    assert len(set(whole.values())) == 4, "training changes the state between checkpoints"
    assert digests(config, state) == {step: found for step, found in whole.items() if step > middle}


FORGOTTEN = {
    "the optimizer's moments": lambda state: state["agent"].update(optimizer={}),
    "the target network": lambda state: state["agent"].update(target=state["agent"]["online"]),
    "the count of updates": lambda state: state["agent"].update(updates=state["agent"]["updates"] - 1),
    "one action in flight": lambda state: state["envs"]["actions"].update({"0": 1 - state["envs"]["actions"]["0"]}),
    "one reward in replay": lambda state: state["agent"]["replay"]["reward"].__imul__(0.5),
    "the step counter": lambda state: state.update(step=state["step"] - 4),
}


@pytest.mark.parametrize("omit", FORGOTTEN.values(), ids=FORGOTTEN.keys())
def test_control_a_part_that_is_not_restored(omit: Any, tmp_path: Path) -> None:
    """Negative control: each part of the state that is not restored changes the result."""
    config = cartpole()
    whole = digests(config, keep=(200, tmp_path))
    _, state, _, _ = checkpoint.load_newest(tmp_path)
    omit(state)
    try:
        resumed = digests(config, state)
    except UserError:
        return  # the environments cannot be restored
    assert resumed[400] != whole[400]


def trained(steps: int) -> tuple[QNetwork, torch.optim.Adam]:
    """Return a convolutional network after some updates with the fused optimizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = QNetwork((2, 36, 36), 3, (8,))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    for number in range(steps):
        update(network, optimizer, number)
    return network, optimizer


def update(network: QNetwork, optimizer: torch.optim.Adam, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    observation = torch.randint(0, 256, (4, 2, 36, 36), dtype=torch.uint8, generator=generator)
    optimizer.zero_grad(set_to_none=True)
    network(observation).square().mean().backward()
    optimizer.step()


def continued(load: Any, tmp_path: Path) -> bool:
    """Return whether a network whose optimizer `load` restored makes the same next step as one that was not saved."""
    whole, whole_optimizer = trained(3)
    saved = {"main": whole.state_dict(), "optimizer": optimizer_state(whole_optimizer)}
    state, _ = checkpoint.load(checkpoint.save(tmp_path, 3, saved))
    resumed, resumed_optimizer = trained(0)
    resumed.load_state_dict(state["main"])
    load(resumed_optimizer, state["optimizer"])
    update(whole, whole_optimizer, 3)
    update(resumed, resumed_optimizer, 3)
    return checkpoint.digest({"main": whole.state_dict()}) == checkpoint.digest({"main": resumed.state_dict()})


def load_as_stored(optimizer: torch.optim.Adam, state: checkpoint.State) -> None:
    """Load moments channels-first, as stored, for channels-last parameters."""
    current = optimizer.state_dict()
    current["state"] = {int(index): dict(slots) for index, slots in state.items()}
    optimizer.load_state_dict(current)


def test_moments_get_the_layout_of_their_parameters(tmp_path: Path) -> None:
    assert continued(load_optimizer, tmp_path)


def test_control_moments_in_another_layout_give_wrong_updates(tmp_path: Path) -> None:
    assert not continued(load_as_stored, tmp_path)
