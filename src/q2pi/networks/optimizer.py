"""Optimizers: Adam without denormal moments, gradient steps, Polyak averaging, and saving and loading of states."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from q2pi.errors import UserError
from q2pi.types import State


def load_weights(networks: Mapping[str, torch.nn.Module], state: State) -> None:
    """Load the weights of networks from a state that maps their names to state dicts.

    Raises:
        UserError: the layers of a network differ from the saved ones.
    """
    for name, network in networks.items():
        try:
            network.load_state_dict(state[name])
        except RuntimeError as problem:
            raise UserError(
                f"the checkpoint's network {name!r} has other layers than the network of config.toml: "
                "its options (--hidden, --layer-norm, --resize, --stack, ...) must be those of the saved run"
            ) from problem


FLUSH_FREQUENCY = 256
"""Number of updates between flushes of near-denormal Adam moments to zero."""
NEGLIGIBLE = {"exp_avg": 1e-26, "exp_avg_sq": 1e-36, "square_avg": 1e-36}
"""Moments below these bounds do not change a weight. Larger ones do not become denormal within FLUSH_FREQUENCY
updates."""


JOINED_SIZE = 2**15
"""Most parameters of a network that is trained as one vector."""


class Joined(torch.nn.Parameter):
    """The parameters of a small network on the CPU, one after another; see `joined`."""

    members: list[torch.nn.Parameter]
    gradients: list[torch.Tensor]
    """Of the members: views of the gradient."""

    def require_shared_gradient(self) -> None:
        """Raise RuntimeError if a member's gradient is no longer a view of this one's."""
        if not all(member.grad is gradient for member, gradient in zip(self.members, self.gradients, strict=True)):
            raise RuntimeError("a joined parameter's gradient was replaced: zero it with the optimizer's zero_grad")


def joined(parameters: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Return one vector in place of the parameters of a small network; others as they are.

    The parameters become views of the vector, and their gradients, to which `backward` adds, views of its gradient.
    Clipping and stepping are then one operation each instead of one per parameter: a seventh of an update of A2C.
    """
    sizes = [parameter.numel() for parameter in parameters]
    if sum(sizes) > JOINED_SIZE or not all(parameter.is_contiguous() for parameter in parameters):
        return parameters
    vector = Joined(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    vector.grad = torch.zeros_like(vector)
    vector.members, vector.gradients = parameters, []
    parts = zip(parameters, vector.detach().split(sizes), vector.grad.split(sizes), strict=True)
    for parameter, values, gradient in parts:
        parameter.data, parameter.grad = values.view_as(parameter), gradient.view_as(parameter)
        vector.gradients.append(parameter.grad)
    return [vector]


class CpuStep(torch.optim.Optimizer):
    """Optimizer on the CPU without the bookkeeping of `torch.optim.Optimizer.step`, with equal results.

    For an MLP of 256 x 256 units that bookkeeping (profiler records, hooks, grouping by device) takes longer than the
    arithmetic, and a tenth of an update of DQN. Hooks on `step` are not called.
    """

    MOMENTS: tuple[str, ...]
    """Names of the moments of a parameter in the optimizer's state, beside "step"."""
    trained: Sequence[torch.nn.Parameter] = ()
    """The parameters of the last step."""
    columns: Mapping[str, list[torch.Tensor]] = {}
    """Name -> the counters or moments of `trained`."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters that have a gradient."""
        group = self.param_groups[0]
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in trained:
            if isinstance(parameter, Joined):
                parameter.require_shared_gradient()
        if len(trained) != len(self.trained) or not all(map(operator.is_, trained, self.trained)):
            self.trained, self.columns = trained, self._columns_of(trained)
        steps = self.columns["step"]
        torch._foreach_add_(steps, 1)
        self.move(trained, [parameter.grad for parameter in trained], group)
        if steps and steps[0] % FLUSH_FREQUENCY == 0:
            _flush(self.state[parameter] for parameter in trained)

    step.hooked = True  # type: ignore[attr-defined]  # torch then does not wrap it

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; those of joined parameters become 0, since they share memory."""
        for parameter in self.param_groups[0]["params"]:
            if isinstance(parameter, Joined):
                parameter.grad.zero_()  # type: ignore[union-attr]
            else:
                parameter.grad = None

    def move(self, trained: list[Any], gradients: list[Any], group: Mapping[str, Any]) -> None:
        """Change the parameters and their moments."""
        raise NotImplementedError

    def _columns_of(self, parameters: list[torch.nn.Parameter]) -> dict[str, list[torch.Tensor]]:
        """Return the state of parameters by name, with zeros for those that have none."""
        names = ("step", *self.MOMENTS)
        for parameter in parameters:
            if parameter not in self.state:
                zeros = {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in names}
                self.state[parameter] = zeros | {"step": torch.zeros(())}
        return {name: [self.state[parameter][name] for parameter in parameters] for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.trained = ()


class CpuAdam(CpuStep, torch.optim.Adam):
    """torch's fused Adam."""

    MOMENTS = ("exp_avg", "exp_avg_sq")

    def move(self, trained: list[Any], gradients: list[Any], group: Mapping[str, Any]) -> None:
        torch._fused_adam_(
            trained,
            gradients,
            self.columns["exp_avg"],
            self.columns["exp_avg_sq"],
            [],
            self.columns["step"],
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


class CpuRMSprop(CpuStep, torch.optim.RMSprop):
    """torch's RMSprop, neither centred nor with momentum."""

    MOMENTS = ("square_avg",)

    def move(self, trained: list[Any], gradients: list[Any], group: Mapping[str, Any]) -> None:
        squares = self.columns["square_avg"]
        torch._foreach_mul_(squares, group["alpha"])
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["alpha"])
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_addcdiv_(trained, gradients, roots, value=-group["lr"])


def adam(parameters: Iterable[torch.nn.Parameter], **options: Any) -> torch.optim.Adam:
    """Return torch's fused Adam; on the CPU, it regularly flushes near-denormal moments to zero.

    The first moment of a weight without a gradient (a dead unit, a black pixel) halves every seven updates. After about
    800 updates it is denormal, and arithmetic with denormals is many times slower.

    Args:
        parameters: all on one device.
        options: lr, eps, betas; on CUDA also capturable.
    """
    parameters = list(parameters)
    if parameters[0].device.type == "cpu":
        return CpuAdam(joined(parameters), fused=True, **options)
    return torch.optim.Adam(parameters, fused=True, **options)


def rmsprop(parameters: Iterable[torch.nn.Parameter], **options: Any) -> torch.optim.RMSprop:
    """Return torch's RMSprop; on the CPU, it regularly flushes near-denormal moments to zero, as `adam` does.

    Args:
        parameters: all on one device.
        options: lr, eps, alpha.
    """
    parameters = list(parameters)
    if parameters[0].device.type == "cpu":
        return CpuRMSprop(joined(parameters), foreach=True, **options)
    return torch.optim.RMSprop(parameters, foreach=True, **options)


def _flush(slots: Iterable[dict[str, torch.Tensor]]) -> None:
    for slot in slots:
        for name in slot.keys() & NEGLIGIBLE:
            slot[name].masked_fill_(slot[name].abs() < NEGLIGIBLE[name], 0.0)


def gradient_step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, max_grad_norm: float = 0.0) -> None:
    """Make one gradient step on a loss [].

    Args:
        optimizer: of the trained parameters.
        loss: [].
        max_grad_norm: bound on the gradient's norm over all parameters; 0 disables it.
    """
    optimizer.zero_grad()
    loss.backward()
    clip_gradient(optimizer, max_grad_norm)
    optimizer.step()


def clip_gradient(optimizer: torch.optim.Optimizer, max_grad_norm: float) -> None:
    """Scale the gradient down to a norm of at most `max_grad_norm`; 0 disables clipping."""
    if max_grad_norm > 0:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # As torch.nn.utils.clip_grad_norm_ does, which takes three times as long for a small network.
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (max_grad_norm / (norm + 1e-6)).clamp(max=1.0))


@torch.no_grad()
def polyak_update(slow: torch.nn.Module, fast: torch.nn.Module, tau: float) -> None:
    """Move a network's parameters towards another's, in place: slow <- (1 - tau) * slow + tau * fast.

    Source: Polyak and Juditsky 1992; Lillicrap et al. 2016 (soft target updates). tau = 1 copies.
    """
    for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
        old.lerp_(new, tau) if tau < 1 else old.copy_(new)


def adjustable_learning_rate(rate: float, device: torch.device) -> float | torch.Tensor:
    """Return a learning rate for `set_learning_rate`: on CUDA a tensor, since a captured graph cannot read a number."""
    return torch.tensor(rate, device=device) if device.type == "cuda" else rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set an optimizer's learning rate; a tensor is filled in place, since a captured graph reads its memory."""
    group = optimizer.param_groups[0]
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """Return an optimizer's per-parameter state as nested dicts of tensors; its options come from the config."""
    return {str(index): dict(slots) for index, slots in optimizer.state_dict()["state"].items()}


def load_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Load what `optimizer_state` returned.

    Each moment gets the memory layout of its parameter: the fused kernels treat both as flat arrays, so a channels-last
    parameter with a channels-first moment would silently be updated with the wrong numbers.

    Raises:
        UserError: the state is of other parameters, as that of a small network which was not joined yet.
    """
    current = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(int(index) >= len(parameters) for index in state):
        raise UserError(
            f"the checkpoint's optimizer has {len(state)} parameters, this version trains {len(parameters)}: it was "
            "written by another version; start a new run from its weights with --from RUN"
        )
    current["state"] = {
        int(index): {name: _in_layout_of(parameters[int(index)], value) for name, value in slots.items()}
        for index, slots in state.items()
    }
    optimizer.load_state_dict(current)


def _in_layout_of(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, requires_grad=False).copy_(value)
