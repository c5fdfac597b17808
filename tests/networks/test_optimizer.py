"""Adam and RMSprop without denormal moments: the same weights as torch's, without the slowdown."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from q2pi.errors import UserError
from q2pi.networks.optimizer import (
    FLUSH_FREQUENCY,
    JOINED_SIZE,
    adam,
    clip_gradient,
    gradient_step,
    load_optimizer,
    optimizer_state,
    polyak_update,
    rmsprop,
)

UPDATES, ALIVE = 1_100, 4
TINY = torch.finfo(torch.float32).tiny


def trained(make: Any, updates: int = UPDATES, *, saved_after: int = 0) -> tuple[nn.Linear, torch.optim.Optimizer]:
    """Return a layer of 16 inputs, and its optimizer; all inputs but `ALIVE` are zero after the first update."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layer = nn.Linear(16, 3)
    optimizer = make(layer.parameters(), lr=1e-3)
    for update in range(updates):
        batch = torch.randn(8, 16, generator=generator)
        if update:
            batch[:, ALIVE:] = 0
        optimizer.zero_grad()
        layer(batch).square().mean().backward()
        optimizer.step()
        if update + 1 == saved_after:
            state = optimizer_state(optimizer)
            optimizer = make(layer.parameters(), lr=1e-3)
            load_optimizer(optimizer, state)
    return layer, optimizer


def denormal(optimizer: torch.optim.Optimizer) -> int:
    moments = [slots[name] for slots in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    return sum(int(((moment != 0) & (moment.abs() < TINY)).sum()) for moment in moments)


@pytest.fixture(params=[False, True], ids=["one by one", "joined"])
def is_joined(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether parameters are trained as one vector."""
    if not request.param:
        monkeypatch.setattr("q2pi.networks.optimizer.JOINED_SIZE", 0)
    return bool(request.param)


def test_weights_equal_torchs_and_no_moment_is_denormal(is_joined: bool) -> None:
    (ours, own), (theirs, other) = trained(adam), trained(lambda rows, lr: torch.optim.Adam(rows, lr=lr, fused=True))
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
    assert denormal(other) == 3 * (16 - ALIVE), "negative control: a denormal moment for each weight without a gradient"
    assert denormal(own) == 0
    assert len(own.param_groups[0]["params"]) == (1 if is_joined else 2)


def test_rmsprop_gives_torchs_weights_bit_for_bit(is_joined: bool) -> None:
    (ours, own), (theirs, _) = (
        trained(rmsprop),
        trained(lambda rows, lr: torch.optim.RMSprop(rows, lr=lr, foreach=True)),
    )
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
    assert {slot["step"].item() for slot in own.state_dict()["state"].values()} == {UPDATES}


@pytest.mark.usefixtures("is_joined")
def test_a_restored_optimizer_flushes_at_the_same_updates() -> None:
    """Most moments fall below the bounds after update 512 and are flushed at update 768 = 3 x 256."""

    def moments(updates: int, saved_after: int = 0) -> Tensor:
        moment: Tensor = trained(adam, updates, saved_after=saved_after)[1].state_dict()["state"][0]["exp_avg"]
        return moment.flatten()[: 3 * 16].view(3, 16)

    assert FLUSH_FREQUENCY == 256
    assert moments(767)[:, ALIVE:].any()
    assert not moments(768)[:, ALIVE:].any()
    assert torch.equal(moments(768, saved_after=700), moments(768))


@pytest.mark.parametrize("make", [adam, rmsprop])
def test_joined_parameters_are_trained_and_saved_as_they_are_one_by_one(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with a clipped gradient, whose norm is over the same numbers."""

    def weights() -> dict[str, Tensor]:
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        optimizer = make(network.parameters(), lr=1e-2)
        inputs = torch.randn(50, 16, 4)
        for batch in inputs:
            gradient_step(optimizer, (network(batch) - 3).square().mean(), max_grad_norm=0.5)
        return network.state_dict()

    together = weights()
    monkeypatch.setattr("q2pi.networks.optimizer.JOINED_SIZE", 0)
    alone = weights()
    for name, weight in together.items():
        torch.testing.assert_close(weight, alone[name], rtol=1e-4, atol=1e-6)


def test_only_small_networks_are_joined() -> None:
    assert JOINED_SIZE == 32_768
    small, large = nn.Linear(127, 256), nn.Linear(128, 256)  # 32,768 and 33,024 parameters
    assert len(adam(small.parameters(), lr=1.0).param_groups[0]["params"]) == 1
    assert len(adam(large.parameters(), lr=1.0).param_groups[0]["params"]) == 2
    images = nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert len(adam(images.parameters(), lr=1.0).param_groups[0]["params"]) == 2, "a vector has no layout"


def test_a_replaced_gradient_of_a_joined_parameter_is_an_error() -> None:
    """Its weights would not change any more."""
    layer = nn.Linear(2, 1)
    optimizer = adam(layer.parameters(), lr=0.1)
    layer.zero_grad()
    layer(torch.ones(1, 2)).sum().backward()
    with pytest.raises(RuntimeError, match="a joined parameter's gradient was replaced"):
        optimizer.step()


def test_the_state_of_parameters_one_by_one_does_not_fit_joined_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(2, 1)
    with monkeypatch.context() as context:
        context.setattr("q2pi.networks.optimizer.JOINED_SIZE", 0)
        separate = adam(layer.parameters(), lr=0.1)
        gradient_step(separate, layer(torch.ones(1, 2)).sum())
    with pytest.raises(UserError, match="the checkpoint's optimizer has 2 parameters, this version trains 1"):
        load_optimizer(adam(layer.parameters(), lr=0.1), optimizer_state(separate))


# ---- one step by hand ------------------------------------------------------------------------------------------------


def parameter_with(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def test_a_gradient_step_by_hand() -> None:
    """Loss 3 a + 4 b: the gradient is (3, 4), its norm 5."""
    row = parameter_with(1.0, 2.0)
    row.grad = torch.tensor([100.0, 100.0])  # gradient of an earlier loss: must not be added
    gradient_step(torch.optim.SGD([row], lr=0.1), (row * torch.tensor([3.0, 4.0])).sum())
    torch.testing.assert_close(row.detach(), torch.tensor([0.7, 1.6]))


def test_a_clipped_gradient_step_by_hand() -> None:
    """The norm 5 is bounded by 0.5, so the gradient is (0.3, 0.4)."""
    row = parameter_with(1.0, 2.0)
    gradient_step(torch.optim.SGD([row], lr=0.1), (row * torch.tensor([3.0, 4.0])).sum(), max_grad_norm=0.5)
    torch.testing.assert_close(row.detach(), torch.tensor([0.97, 1.96]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("bound", "first", "second"),
    [
        (0.0, 6.0, [2.0, 3.0]),  # 0 disables it
        (7.0, 6.0, [2.0, 3.0]),  # the norm of (6, 2, 3) is 7
        (3.5, 3.0, [1.0, 1.5]),  # half of it: one norm over all parameters of all groups
        (100.0, 6.0, [2.0, 3.0]),
    ],
)
def test_the_norm_is_over_all_parameters(bound: float, first: float, second: list[float]) -> None:
    one, two = parameter_with(0.0), parameter_with(0.0, 0.0)
    one.grad, two.grad = torch.tensor([6.0]), torch.tensor([2.0, 3.0])
    clip_gradient(torch.optim.SGD([{"params": [one]}, {"params": [two]}], lr=1.0), bound)
    assert one.grad.tolist() == pytest.approx([first], rel=1e-5)
    assert two.grad.tolist() == pytest.approx(second, rel=1e-5)


@pytest.mark.parametrize(("tau", "expected"), [(0.0, [8.0, -4.0]), (0.25, [6.5, -2.0]), (1.0, [2.0, 4.0])])
def test_a_polyak_update_by_hand(tau: float, expected: list[float]) -> None:
    """(1 - tau) * (8, -4) + tau * (2, 4)."""
    slow, fast = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    slow.weight.data, fast.weight.data = torch.tensor([[8.0, -4.0]]), torch.tensor([[2.0, 4.0]])
    memory = slow.weight.data_ptr()
    polyak_update(slow, fast, tau)
    assert slow.weight.tolist() == [expected]
    assert slow.weight.data_ptr() == memory, "in place: a captured graph and a bf16 copy read this memory"
    assert fast.weight.tolist() == [[2.0, 4.0]]
    assert slow.weight.requires_grad


def test_polyak_updates_of_different_networks_are_rejected() -> None:
    with pytest.raises(ValueError, match="zip"):
        polyak_update(nn.Linear(2, 1, bias=False), nn.Linear(2, 1), 0.5)


@pytest.mark.parametrize("bound", [0.01, 0.5, 1e3])
def test_clipping_agrees_with_torch(bound: float) -> None:
    mine, theirs = (nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)) for _ in range(2))
    theirs.load_state_dict(mine.state_dict())
    for network in (mine, theirs):
        network(torch.ones(4, 3)).square().sum().backward()
    next(mine.parameters()).grad = next(theirs.parameters()).grad = None  # left out of the norm
    clip_gradient(torch.optim.SGD(mine.parameters(), lr=1.0), bound)
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), bound)
    for own, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None)
        if own.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("make", "torchs"), [(adam, torch.optim.Adam), (rmsprop, torch.optim.RMSprop)])
def test_a_loaded_state_and_a_change_of_the_trained_parameters_are_followed(
    make: Any, torchs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moments are found once for a set of parameters; another set or a loaded state must be seen."""
    monkeypatch.setattr("q2pi.networks.optimizer.JOINED_SIZE", 0)

    def step(optimizer: torch.optim.Optimizer, network: nn.Module, bias: bool) -> None:
        network.weight.grad = torch.full_like(network.weight, 0.5)  # type: ignore[arg-type]
        network.bias.grad = torch.ones_like(network.bias) if bias else None  # type: ignore[arg-type, assignment]
        optimizer.step()

    mine, theirs = nn.Linear(2, 2), nn.Linear(2, 2)
    theirs.load_state_dict(mine.state_dict())
    fast, slow = make(mine.parameters(), lr=0.1), torchs(theirs.parameters(), lr=0.1)
    for bias in (True, True, False, True):
        step(fast, mine, bias)
        step(slow, theirs, bias)
    loaded = copy.deepcopy(fast.state_dict())
    step(fast, mine, True)
    fast.load_state_dict(loaded)
    slow.load_state_dict(copy.deepcopy(slow.state_dict()))
    mine.load_state_dict(theirs.state_dict())
    step(fast, mine, True)
    step(slow, theirs, True)
    for own, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-7)
    assert [slot["step"].item() for slot in fast.state_dict()["state"].values()] == [5, 4]
