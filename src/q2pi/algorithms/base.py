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
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from q2pi.envs.games import Step
from q2pi.envs.spec import EnvSpec
from q2pi.equations.schedules import linear
from q2pi.errors import UserError
from q2pi.normalize import ObservationNormalizer

Array = NDArray[Any]
State = dict[str, Any]
Metrics = dict[str, float]


@dataclass(frozen=True)
class Setting:
    """The world an agent is built for."""

    env: EnvSpec
    """Resolved specification of the environment."""
    num_envs: int
    frame_shape: tuple[int, ...]
    frame_dtype: np.dtype[Any]
    stack: int
    observation_shape: tuple[int, ...]
    action_space: Any
    """The gymnasium space of one game's action."""
    total_timesteps: int
    """Agent steps, for schedules."""
    seed: int
    device: torch.device
    precision: str


class Agent(Protocol):
    """The two phases, sampling and training, of a learner.

    The loop calls, for each step of N games: `act`, then `learn` and `observe` in the order that `overlap` says:

        overlap = True    act, send, learn (while the emulators step), recv, observe
        overlap = False   act, send, recv, observe, learn

    Either way what `learn` reads depends on the counters alone, never on how fast an emulator was. `state` can be
    asked for before any `act`, so checkpoints need no alignment with rollouts or updates.
    """

    overlap: bool

    @property
    def evaluation_policy(self) -> str:
        """How `evaluation_act` chooses, in words, for the protocol of a score."""

    def begin(self, observation: Array) -> None:
        """Take in the first observations [N, ...] of a fresh run."""

    def act(self, observation: Array, step: int) -> Array:
        """Return training actions [N] for observations [N, ...] at agent step `step`, exploring as the method does."""

    def observe(self, action: Array, result: Step) -> None:
        """Take in one step of N games."""

    def learn(self, step: int) -> list[Metrics]:
        """Do the updates that are owed after `step` agent steps; one dict of scalars for each update."""

    def evaluation_act(self, observation: Array, noise: np.random.Generator) -> Array:
        """Return actions [N] as the method is judged, drawing what randomness that takes from `noise`."""

    def predict(
        self, observation: Array, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Array, None]:
        """Return (actions, None) as Stable-Baselines3's `predict` does, for one observation or a batch."""

    def networks(self) -> Mapping[str, torch.nn.Module]:
        """Return the trained networks by name."""

    def state(self) -> State:
        """Return everything that training has changed, as nested dicts of tensors, arrays and numbers."""

    def load(self, state: State) -> None:
        """Continue from what `state` returned; without its "replay", where it has one, the agent can act, not learn."""


class ValueAgent:
    """What agents that learn Q-values share: epsilon-greedy play, its schedule, and judging it.

    A subclass has a `config` with `start_e`, `end_e`, `exploration_fraction` and `evaluation_e`, and `_q`.
    """

    config: Any
    setting: Setting
    actions: int
    first_action: int
    """The number that the game's first action has; inside, actions count from 0."""

    @property
    def evaluation_policy(self) -> str:
        return f"epsilon-greedy, epsilon {self.config.evaluation_e}"

    def epsilon(self, step: int) -> float:
        """Return the exploration rate at agent step `step`."""
        c = self.config
        return linear(c.start_e, c.end_e, c.exploration_fraction, self.setting.total_timesteps, step)

    def evaluation_act(self, observation: Array, noise: np.random.Generator) -> Array:
        return self._epsilon_greedy(observation, self.config.evaluation_e, noise)

    def predict(
        self, observation: Array, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Array, None]:
        """Return (greedy actions, None); with `deterministic=False`, epsilon-greedy ones at `evaluation_e`."""
        batch, single = as_batch(observation, self.setting.observation_shape)
        rate = 0.0 if deterministic else self.config.evaluation_e
        actions = self._epsilon_greedy(batch, rate, np.random.default_rng())
        return (actions[0] if single else actions), None

    def _q(self, observation: Array) -> Array:
        """Return Q [N, A] of observations [N, ...]."""
        raise NotImplementedError

    def _epsilon_greedy(
        self, observation: Array, epsilon: float | Array, noise: np.random.Generator, q: Array | None = None
    ) -> Array:
        """Return actions [N] as the game counts them: each game has a coin of its own.

        Args:
            observation: [N, ...].
            epsilon: exploration rate, or one for each game [N].
            noise: source of the coins and of the random actions.
            q: Q [N, A] where it is known already; else it is worked out unless all games explore.
        """
        explores = noise.random(len(observation)) < epsilon
        chosen = noise.integers(self.actions, size=len(observation))
        if not explores.all():
            values = self._q(observation) if q is None else q
            chosen = np.where(explores, chosen, values.argmax(axis=1))
        return chosen + self.first_action


class PolicyAgent:
    """What agents that learn a policy share: playing it, judging it, and reading observations.

    A subclass has a `config` with `evaluation_deterministic` and `normalize_observations`, the `head` of its policy
    network, and `_policy`.
    """

    config: Any
    setting: Setting
    head: Any
    observations: ObservationNormalizer | None

    @property
    def evaluation_policy(self) -> str:
        return "the policy's mode" if self.config.evaluation_deterministic else "drawn from the policy"

    def begin(self, observation: Array) -> None:
        pass

    def evaluation_act(self, observation: Array, noise: np.random.Generator) -> Array:
        return self._choose(observation, None if self.config.evaluation_deterministic else noise)

    def predict(
        self, observation: Array, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Array, None]:
        """Return (the policy's mode, None); with `deterministic=False`, actions drawn from the policy."""
        batch, single = as_batch(observation, self.setting.observation_shape)
        actions = self._choose(batch, None if deterministic else np.random.default_rng())
        return (actions[0] if single else actions), None

    def _policy(self, observation: Array) -> Any:
        """Return the distribution over actions at raw observations [B, ...]."""
        raise NotImplementedError

    def _choose(self, observation: Array, noise: np.random.Generator | None) -> Array:
        """Return actions [B] for the game: drawn with `noise`, or the policy's mode."""
        with torch.inference_mode():
            policy = self._policy(observation)
            return self._played(policy.mode() if noise is None else self.head.sample(policy, noise))

    def _played(self, action: torch.Tensor) -> Array:
        """Return actions [B] of the policy as the game takes them."""
        played: Array = self.head.played(action)
        return played

    def _tensor(self, observation: Array) -> torch.Tensor:
        """Return raw observations [B, ...] as the networks take them."""
        rows = observation if self.observations is None else self.observations(observation)
        return torch.from_numpy(rows).to(self.setting.device)


def observation_normalizer(wanted: bool, setting: Setting) -> ObservationNormalizer | None:
    """Return running statistics of observations if they are `wanted`.

    Raises:
        UserError: the observations are images.
    """
    if wanted and len(setting.observation_shape) == 3:
        raise UserError("--normalize-observations is for vectors: images are divided by 255")
    return ObservationNormalizer(setting.observation_shape) if wanted else None


def precision(setting: Setting) -> torch.autocast:
    """Return the context in which networks compute: bf16 autocast where the run asks for it."""
    return torch.autocast(setting.device.type, dtype=torch.bfloat16, enabled=setting.precision == "bf16")


def refuse_tables(setting: Setting, name: str) -> None:
    """Raise a UserError where observations are numbers of states, which a network would read as quantities."""
    if setting.frame_dtype == np.int64:
        raise UserError(f"--env-id {setting.env.env_id} shows numbers of states: {name} needs images or vectors")


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


def settable_rate(rate: float, device: torch.device) -> float | torch.Tensor:
    """Return a step size for an optimizer that `set_rate` may change: a tensor where a CUDA graph will read it."""
    return torch.tensor(rate, device=device) if device.type == "cuda" else rate


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
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


def as_batch(observation: Array, shape: tuple[int, ...]) -> tuple[Array, bool]:
    """Return (observations [B, *shape], whether a single one was given), for `predict`.

    Images with the channels last, as Stable-Baselines3 stacks them, are turned to channels first.

    Raises:
        ValueError: the observation has neither this shape nor a batch of it.
    """
    array = np.asarray(observation)
    single = array.ndim == len(shape)
    batch = array[None] if single else array
    if batch.shape[1:] != shape and len(shape) == 3 and batch.ndim == 4:
        batch = np.moveaxis(batch, -1, 1)
    if batch.shape[1:] != shape:
        raise ValueError(f"observation of shape {array.shape}: expected {shape} or a batch of it")
    return np.ascontiguousarray(batch), single
