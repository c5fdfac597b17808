"""REINFORCE: the Monte Carlo policy gradient.

Papers: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning";
Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation".

In one paragraph: play whole episodes with actions drawn from the policy (the sampling phase), then make one step up the
mean over the episodes of sum_t weight_t * grad log pi(a_t|s_t) (the training phase) and throw them away. `weights` is
the one place that knows what the weight is:

    return_kind "whole"     the return of the whole episode, sum_k gamma^k r_k, for every step
    return_kind "to_go"     G_t = sum_{k >= t} gamma^(k-t) r_k, without what the action cannot change
    discount_states         times gamma^t (to_go), as the theorem has it; most code leaves it out, and so does the
                            default, for else late steps hardly count (Nota and Thomas 2020)
    baseline "batch_mean"   less the mean over the *other* episodes of the batch: of those that last so long (to_go),
                            or of all (whole). With the episode itself in it, the gradient would shrink
    baseline "value"        less V(s_t) (to_go) or V(s_0) (whole), of a network that learns the returns afterwards
    normalize_returns       the weights of a batch shifted and scaled to mean 0 and standard deviation 1

With any baseline the estimate is unbiased (with gamma below 1: for "whole", or with `discount_states`);
`normalize_returns` gives that up for one step size that suits all rewards.

Which episodes count is settled before they begin: an update takes the first `episodes_per_update` / `num_envs` whole
episodes that each game begins after the last update, so short ones are not preferred. Steps of other episodes (under
way at an update, or after a game's share) are played, counted as agent steps and not learned from: with one game there
are none, which is why the presets play one.

Time limits: where time runs out, the return goes on with the value of the final observation if the baseline is "value";
without a value it is cut there, and the time limit is then part of the task. A lost life is never an end.

Differences from the paper: Adam instead of plain gradient ascent; an optional entropy bonus; batches of episodes.
Statistics of observations, if asked for, stand still between updates, so that all rows of a batch mean the same.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from q2pi.algorithms.base import AgentSpec, precision, refuse_tables
from q2pi.algorithms.common.policy_based import PolicyAgent, observation_normalizer
from q2pi.algorithms.common.search_space import Choice, Float, Int, OneMinus, PowerOfTwo, Space
from q2pi.buffers.episodes import Episodes, Trajectory
from q2pi.config import RunConfig, at_least, within
from q2pi.envs.vector import Step
from q2pi.equations.losses import policy_gradient_loss, value_loss
from q2pi.equations.returns import discounted_returns
from q2pi.errors import UserError
from q2pi.networks.initialisation import seeded
from q2pi.networks.optimizer import adam, load_optimizer, load_weights, optimizer_state
from q2pi.networks.policy import PolicyNetwork, serves
from q2pi.networks.value import ValueNetwork
from q2pi.rng import stream
from q2pi.types import Array, Metrics, State

OBSERVATIONS = "images, vectors"
ACTIONS = "Discrete, Box"
EXPECTED_LENGTH = 200
"""Steps of an episode, for forecasts: no one knows before it is played."""
STEPS_AT_ONCE = 2_048
"""Steps that pass through a network together; a batch of episodes may be longer."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters."""

    learning_rate: float = 1e-3
    """Step size of Adam for the policy."""
    episodes_per_update: int = 8
    """Whole episodes per update, a multiple of the number of games."""
    return_kind: Literal["whole", "to_go"] = "to_go"
    """Weigh each log-probability by the return of the whole episode, or of what follows the action."""
    discount_states: bool = False
    """Weigh step t by gamma^t too, as the theorem has it for returns to go; others count late steps in full."""
    gamma: float = 0.99
    """Discount factor per agent step."""
    baseline: Literal["none", "batch_mean", "value"] = "value"
    """What is subtracted from returns: nothing, the mean over the other episodes, or a learned value."""
    value_learning_rate: float = 1e-3
    """Step size of Adam for the value network."""
    value_updates: int = 20
    """Steps of the value network per update, each with the whole batch."""
    normalize_returns: bool = False
    """Shift and scale the weights of a batch to mean 0 and standard deviation 1."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus, the mean entropy per step."""
    max_grad_norm: float = 0.0
    """Bound on the gradient's norm; 0 is none."""
    normalize_observations: bool = False
    """Shift and scale each number of an observation vector by running statistics."""
    squash: bool = False
    """Box actions: squash them into their bounds by tanh, instead of clipping what is sent to the game."""
    log_std: float = 0.0
    """Box actions: logarithm of the first standard deviation."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers for vector observations (images have the Nature network)."""
    evaluation_deterministic: bool = False
    """Play the likeliest action while being evaluated, instead of a drawn one."""


SPACE: Space = {
    "learning_rate": Float(3e-4, 3e-2, log=True),
    "episodes_per_update": PowerOfTwo(1, 16),
    "gamma": OneMinus(0.95, 0.999),
    "baseline": Choice("none", "batch_mean", "value"),
    "value_learning_rate": Float(3e-4, 1e-2, log=True),
    "value_updates": Int(5, 80, log=True),
    "normalize_returns": Choice(False, True),
    "entropy_coefficient": Float(0.0, 0.02),
    "max_grad_norm": Choice(0.0, 0.5, 5.0),
    "hidden": Choice((32, 32), (64, 64), (128, 128)),
}


def check(run: RunConfig[Config]) -> None:
    """Raise a UserError for the first hyperparameter that is out of its bounds."""
    config = run.hyper
    at_least(config, 1, "episodes_per_update", "value_updates")
    at_least(config, 0, "learning_rate", "value_learning_rate", "entropy_coefficient", "max_grad_norm")
    within(config, 0, 1, "gamma")
    within(config, -20, 5, "log_std")
    if not config.hidden or min(config.hidden) < 1:
        raise UserError(f"--hidden {config.hidden} is out of range: at least one layer of at least 1 unit")
    if config.episodes_per_update % run.num_envs:
        raise UserError(
            f"--episodes-per-update {config.episodes_per_update} is not a multiple of --num-envs {run.num_envs}: "
            "each game plays the same number of whole episodes"
        )
    if config.baseline == "batch_mean" and config.episodes_per_update < 2:
        raise UserError(
            "--baseline batch_mean is the mean over other episodes: --episodes-per-update must be at least 2"
        )


def settle(run: RunConfig[Config]) -> RunConfig[Config]:
    """Return the nearest run whose options fit each other; without a learned value its options are the defaults."""
    config, envs = run.hyper, run.num_envs
    episodes = max(1, config.episodes_per_update // envs) * envs
    if config.baseline == "batch_mean":
        episodes = max(episodes, 2)
    if config.baseline != "value":
        usual = Config()
        config = replace(config, value_learning_rate=usual.value_learning_rate, value_updates=usual.value_updates)
    return replace(run, hyper=replace(config, episodes_per_update=episodes))


def check_spaces(spec: AgentSpec) -> None:
    """Raise a UserError where the environment's spaces are not ones that REINFORCE can serve."""
    if not serves(spec.action_space):
        raise UserError(f"--env-id {spec.env.env_id} has actions {spec.action_space}: reinforce needs Discrete or Box")
    refuse_tables(spec, "reinforce")


def updates_due(run: RunConfig[Config], step: int) -> int:
    """Return about how many updates a run has made after `step` agent steps, were episodes of EXPECTED_LENGTH."""
    return step // (run.hyper.episodes_per_update * EXPECTED_LENGTH)


def timing_config(run: RunConfig[Config]) -> RunConfig[Config]:
    """Return a short run with the same work per step, and an update after one episode of each game, to be timed."""
    least = 2 if run.hyper.baseline == "batch_mean" else 1
    episodes = run.num_envs * math.ceil(least / run.num_envs)
    return replace(run, hyper=replace(run.hyper, episodes_per_update=episodes))


def memory_needed(config: Config, spec: AgentSpec) -> int:
    """Return about the bytes of a batch, were its episodes of EXPECTED_LENGTH, and of its copy for the network."""
    rows = config.episodes_per_update * EXPECTED_LENGTH
    return 2 * rows * math.prod(spec.observation_shape) * spec.frame_dtype.itemsize


@dataclass(frozen=True, slots=True)
class Credit:
    """M episodes side by side, those shorter than T padded at their end."""

    returns: Tensor
    """[T, M] G_t, the discounted return from step t on."""
    value: Tensor
    """[T, M] V(s_t), 0 without a value network."""
    valid: Tensor
    """bool [T, M] the episode has a step t."""


def weights(credit: Credit, config: Config) -> Tensor:
    """Return the weight of each log-probability, [T, M]; see the module's docstring."""
    whole = config.return_kind == "whole"
    gain = credit.returns[:1].expand_as(credit.returns) if whole else credit.returns
    if config.baseline == "value":
        gain = gain - (credit.value[:1] if whole else credit.value)
    elif config.baseline == "batch_mean":
        gain = gain - _mean_of_others(gain, torch.ones_like(credit.valid) if whole else credit.valid)
    if config.discount_states and not whole:
        gain = gain * config.gamma ** torch.arange(len(gain), dtype=gain.dtype).unsqueeze(1)
    if config.normalize_returns:
        kept = gain[credit.valid]
        gain = (gain - kept.mean()) / (kept.std(correction=0) + 1e-8)
    return gain


def _mean_of_others(gain: Tensor, valid: Tensor) -> Tensor:
    """Return the mean over the other episodes that are `played` [T, M], 0 where there is none."""
    kept = torch.where(valid, gain, 0.0)
    others = valid.sum(dim=1, keepdim=True) - valid.to(gain.dtype)
    return (kept.sum(dim=1, keepdim=True) - kept) / others.clamp(min=1)


def credit_of(trajectories: list[Trajectory], value: list[Tensor], final_value: list[Tensor], gamma: float) -> Credit:
    """Return the returns of M episodes, each of its own length.

    Args:
        trajectories: M episodes.
        value: V(s_t) of each, [T_m].
        final_value: V of the final observation of each, []; it follows a truncated episode.
        gamma: discount factor.
    """
    valid = pad_sequence([torch.ones(len(episode.reward), dtype=torch.bool) for episode in trajectories])
    reward = pad_sequence([torch.from_numpy(episode.reward) for episode in trajectories]).to(value[0].dtype)
    ended = torch.zeros_like(valid)
    discount, next_value = torch.full_like(reward, gamma), torch.zeros_like(reward)
    for column, episode in enumerate(trajectories):
        last = len(episode.reward) - 1
        ended[last, column] = True
        discount[last, column] = gamma * episode.truncated
        next_value[last, column] = final_value[column]
    returns = discounted_returns(reward, discount, next_value, ended)
    return Credit(torch.where(valid, returns, 0.0), pad_sequence(value), valid)


def loss(policy: Any, action: Tensor, weight: Tensor, episodes: int) -> Tensor:
    """Return minus the estimate whose gradient is the policy gradient, [].

    Equation: -(1 / M) sum over the steps of M episodes of weight * log pi(a|s). It is a sum over steps, so parts of a
    batch may be added.

    Args:
        policy: the distribution at B of the steps.
        action: [B, ...].  weight: [B].
        episodes: M.
    """
    return policy_gradient_loss(policy.log_prob(action), weight).sum() / episodes


class Agent(PolicyAgent):
    """A policy that plays N games and learns once from each batch of whole episodes."""

    overlap = False
    config: Config

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        self.config, self.spec = config, spec
        shape, space = spec.observation_shape, spec.action_space

        def policy() -> PolicyNetwork:
            return PolicyNetwork(shape, space, config.hidden, log_std=config.log_std, squash=config.squash)

        def value() -> ValueNetwork:
            return ValueNetwork(shape, config.hidden)

        self.policy = seeded(policy, spec.seed, "policy").to(spec.device)
        self.optimizers = {"policy": adam(self.policy.parameters(), lr=config.learning_rate)}
        self.value: ValueNetwork | None = None
        if config.baseline == "value":
            self.value = seeded(value, spec.seed, "value").to(spec.device)
            rate = config.value_learning_rate
            self.optimizers["value"] = adam(self.value.parameters(), lr=rate)
        self.head = self.policy.head
        columns = {
            "observation": (shape, spec.frame_dtype),
            "action": (self.head.action_shape, self.head.action_dtype),
        }
        self.episodes = Episodes(spec.num_envs, config.episodes_per_update // spec.num_envs, columns)
        self.observations = observation_normalizer(config.normalize_observations, spec)
        self._acted: dict[str, Array] = {}

    def act(self, observation: Array, step: int) -> Array:
        with torch.inference_mode():
            action = self.head.sample(self._policy(observation), stream(self.spec.seed, "act", step))
        self._acted = {"observation": observation, "action": action.cpu().numpy()}
        return self._to_env_action(action)

    def observe(self, action: Array, result: Step) -> None:
        self.episodes.append(
            **self._acted,
            reward=np.sign(result.reward) if self.spec.env.clip_rewards else result.reward,
            terminated=result.terminated,
            truncated=result.truncated,
            next_observation=result.next_observation,
        )

    def learn(self, step: int) -> list[Metrics]:
        if not self.episodes.complete:
            return []
        trajectories = self.episodes.take()
        observation = np.concatenate([episode.observation for episode in trajectories])
        rows = self._tensor(observation)
        credit = self._credit(trajectories, rows)
        metrics = self._train_policy(trajectories, rows, credit)
        if self.value is not None:
            metrics["value_loss"] = self._train_value(rows, credit.returns.T[credit.valid.T])
        if self.observations is not None:
            self.observations.update(observation)
        return [metrics]

    def networks(self) -> Mapping[str, nn.Module]:
        return {"policy": self.policy} | ({} if self.value is None else {"value": self.value})

    def state(self) -> State:
        state: State = {name: network.state_dict() for name, network in self.networks().items()}
        state["optimizers"] = {name: optimizer_state(optimizer) for name, optimizer in self.optimizers.items()}
        state["episodes"] = self.episodes.state()
        if self.observations is not None:
            state["observations"] = self.observations.state()
        return state

    def load(self, state: State) -> None:
        load_weights(self.networks(), state)
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, state.get("optimizers", {}).get(name, {}))
        self.episodes.load(state["episodes"])
        if self.observations is not None:
            self.observations.load(state["observations"])

    def _policy(self, observation: Array) -> Any:
        with precision(self.spec):
            return self.policy(self._tensor(observation))

    def _credit(self, trajectories: list[Trajectory], rows: Tensor) -> Credit:
        lengths = [len(episode.reward) for episode in trajectories]
        value = self._values(rows).split(lengths)
        final = self._values(self._tensor(np.stack([episode.final_observation for episode in trajectories])))
        return credit_of(trajectories, list(value), list(final), self.config.gamma)

    def _values(self, rows: Tensor) -> Tensor:
        """Return V [B] on the CPU, 0 without a value network."""
        if self.value is None:
            return torch.zeros(len(rows))
        with torch.no_grad(), precision(self.spec):
            return torch.cat([self.value(rows[part]) for part in _parts(len(rows))]).cpu()

    def _train_policy(self, trajectories: list[Trajectory], rows: Tensor, credit: Credit) -> Metrics:
        action = torch.from_numpy(np.concatenate([episode.action for episode in trajectories])).to(rows.device)
        weight = weights(credit, self.config).T[credit.valid.T].to(rows.device)
        entropies = []

        def part_loss(part: slice) -> Tensor:
            with precision(self.spec):
                policy = self.policy(rows[part])
            entropy: Tensor = policy.entropy().sum() / len(rows)
            entropies.append(entropy.item())
            objective = loss(policy, action[part], weight[part], len(trajectories))
            return objective - self.config.entropy_coefficient * entropy

        objective = self._gradient_step("policy", len(rows), part_loss)
        length = len(rows) / len(trajectories)
        return {"policy_loss": objective, "entropy": sum(entropies), "episode_length": length}

    def _train_value(self, rows: Tensor, target: Tensor) -> float:
        """Move V(s) [B] towards the returns [B]; return the squared error before the first step."""
        value, target = self.value, target.to(rows.device)
        assert value is not None

        def part_loss(part: slice) -> Tensor:
            with precision(self.spec):
                predicted: Tensor = value(rows[part])
            return value_loss(predicted, target[part]).sum() / len(rows)

        losses = [self._gradient_step("value", len(rows), part_loss) for _ in range(self.config.value_updates)]
        return losses[0]

    def _gradient_step(self, name: str, count: int, part_loss: Callable[[slice], Tensor]) -> float:
        """Make one step of a network down a loss that is a sum over parts of `count` rows; return the loss."""
        optimizer, total = self.optimizers[name], 0.0
        optimizer.zero_grad(set_to_none=True)
        for part in _parts(count):
            value = part_loss(part)
            value.backward()
            total += value.item()
        if self.config.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self.networks()[name].parameters(), self.config.max_grad_norm)
        optimizer.step()
        return total


def _parts(count: int) -> Iterator[slice]:
    """Return the rows 0 .. count - 1 in parts of at most STEPS_AT_ONCE."""
    return (slice(start, start + STEPS_AT_ONCE) for start in range(0, count, STEPS_AT_ONCE))
