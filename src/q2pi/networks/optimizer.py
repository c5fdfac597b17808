"""What every algorithm is given and what it must offer: the contract between an algorithm's file and the one loop.

An algorithm's module holds

    OBSERVATIONS, ACTIONS              the spaces it serves, in words, for `q2pi algorithms`
    Config                             frozen dataclass of hyperparameters, each with a docstring
    SPACE                              name of an option -> the range to search it in, see `q2pi.search`; an option is a
                                       field of Config, or `num_envs`
    settle(run)                        the nearest RunConfig whose options fit each other, where they were drawn apart;
                                       options that the others leave without effect get their defaults
    check(run)                         UserError for the first hyperparameter of a RunConfig that is out of its bounds
    check_spaces(setting)              UserError where it cannot serve the environment's spaces
    updates_owed(run, step)            gradient updates of a RunConfig after `step` agent steps, for the forecast
    memory_needed(config, setting)     bytes of its own storage when full
    calibration(run)                   a short run with the same work per step and per update, to be timed
    Agent(config, setting)             see `Agent` below
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from q2pi.errors import UserError
from q2pi.types import State


def load_weights(networks: Mapping[str, torch.nn.Module], state: State) -> None:
    """Load the weights of networks from the state that holds each under its name.

    Raises:
        UserError: a network has other layers than the saved one.
    """
    for name, network in networks.items():
        try:
            network.load_state_dict(state[name])
        except RuntimeError as problem:
            raise UserError(
                f"the checkpoint's network {name!r} has other layers than config.toml asks for: "
                "its options (--hidden, --layer-norm, --resize, --stack, ...) must be those of the saved run"
            ) from problem


FORGETS_EVERY = 256
"""Updates between two looks for moments that are next to nothing."""
NEXT_TO_NOTHING = {"exp_avg": 1e-26, "exp_avg_sq": 1e-36}
"""Moments of Adam below these move no weight, and do not become denormal within `FORGETS_EVERY` updates."""


def adam(parameters: Iterable[torch.nn.Parameter], **options: Any) -> torch.optim.Adam:
    """Return torch's fused Adam that, on the CPU, sets moments that are next to nothing to zero now and then.

    The first moment of a weight without a gradient (a unit that is dead, a pixel that is black) halves every seven
    updates. After some 800 it is a denormal number, which a processor multiplies many times slower than others.
    """
    optimizer = torch.optim.Adam(parameters, fused=True, **options)
    if optimizer.param_groups[0]["params"][0].device.type == "cpu":
        optimizer.register_step_post_hook(_forget)
    return optimizer


def _forget(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    if next(iter(optimizer.state.values()))["step"] % FORGETS_EVERY:
        return
    for slots in optimizer.state.values():
        for name, least in NEXT_TO_NOTHING.items():
            slots[name].masked_fill_(slots[name].abs() < least, 0.0)


def gradient_step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, max_grad_norm: float = 0.0) -> None:
    """Make one step down the gradient of a loss [].

    Args:
        optimizer: of the parameters that are trained.
        loss: [].
        max_grad_norm: bound on the norm of the gradient of all parameters together; 0 is none.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    clip_gradient(optimizer, max_grad_norm)
    optimizer.step()


def clip_gradient(optimizer: torch.optim.Optimizer, max_grad_norm: float) -> None:
    """Scale the gradient down to a norm of at most `max_grad_norm`; 0 leaves it."""
    if max_grad_norm > 0:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)


@torch.no_grad()
def polyak_update(slow: torch.nn.Module, fast: torch.nn.Module, tau: float) -> None:
    """Move a network's parameters towards another's, in place: slow <- (1 - tau) * slow + tau * fast.

    Source: Polyak and Juditsky 1992; Lillicrap et al. 2016 (soft target updates). tau = 1 copies.
    """
    for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
        old.lerp_(new, tau) if tau < 1 else old.copy_(new)


def adjustable_learning_rate(rate: float, device: torch.device) -> float | torch.Tensor:
    """Return a learning rate that `set_learning_rate` may change: a tensor on CUDA, which a captured graph reads."""
    return torch.tensor(rate, device=device) if device.type == "cuda" else rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set an optimizer's step size; a tensor is filled in place, so that a captured graph sees it."""
    group = optimizer.param_groups[0]
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """Return an optimizer's per-parameter state as nested dicts of tensors; its settings come from the config."""
    return {str(index): dict(slots) for index, slots in optimizer.state_dict()["state"].items()}


def load_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Load what `optimizer_state` returned.

    Each moment is laid out in memory as its parameter is: the fused kernels walk both as flat arrays, and a
    channels-last parameter beside a channels-first moment would silently be updated with the wrong numbers.
    """
    current = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    current["state"] = {
        int(index): {name: _laid_out_as(parameters[int(index)], value) for name, value in slots.items()}
        for index, slots in state.items()
    }
    optimizer.load_state_dict(current)


def _laid_out_as(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, requires_grad=False).copy_(value)
