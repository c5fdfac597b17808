"""Adam without denormal moments: the weights of torch's, at the cost of its first updates."""

from typing import Any

import torch
from torch import Tensor, nn

from q2pi.networks.optimizer import FORGETS_EVERY, adam, load_optimizer, optimizer_state

UPDATES, ALIVE = 1_100, 4
TINY = torch.finfo(torch.float32).tiny


def trained(make: Any, updates: int = UPDATES, *, saved_after: int = 0) -> tuple[nn.Linear, torch.optim.Optimizer]:
    """Return a layer of 16 inputs, of which all but `ALIVE` are zero after the first update, and its optimizer."""
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


def test_weights_are_those_of_torch_and_no_moment_is_denormal() -> None:
    (ours, own), (theirs, other) = trained(adam), trained(lambda rows, lr: torch.optim.Adam(rows, lr=lr, fused=True))
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
    assert denormal(other) == 3 * (16 - ALIVE), "the twin: a moment of each weight that has no gradient"
    assert denormal(own) == 0


def test_an_optimizer_that_was_saved_forgets_at_the_same_updates() -> None:
    """Most moments fall below what is kept after the 512th update, and are forgotten at the 768th: 3 x 256."""

    def moments(updates: int, saved_after: int = 0) -> Tensor:
        moment: Tensor = trained(adam, updates, saved_after=saved_after)[1].state_dict()["state"][0]["exp_avg"]
        return moment

    assert FORGETS_EVERY == 256
    assert moments(767)[:, ALIVE:].any()
    assert not moments(768)[:, ALIVE:].any()
    assert torch.equal(moments(768, saved_after=700), moments(768))
