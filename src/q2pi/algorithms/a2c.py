"""Advantage actor-critic: A2C.

Papers: Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", in its synchronous form (Wu et al.
2017, "Scalable trust-region method for deep reinforcement learning"); advantages as in Schulman et al. 2016,
"High-Dimensional Continuous Control Using Generalized Advantage Estimation".

In one paragraph: play `num_steps` steps of several games with actions drawn from the policy (the sampling phase), then
make one update with all of them (the training phase): raise log pi(a|s) in proportion to the advantage, the n-step
return less V(s); move V(s) towards that return; and keep some entropy. Then the steps are thrown away. With
`gae_lambda` below 1 the returns are lambda-returns within the rollout.

Differences from the paper: games run in lockstep, with one gradient from all of them, instead of asynchronous workers;
RMSProp is torch's, its epsilon outside the root; `value_coefficient` multiplies the mean squared error, without a
factor of one half; weights are initialised orthogonally; images use the torso of Mnih et al. 2015, vectors an MLP for
the policy and one for the value; no recurrent network.

Time limits: where time runs out, the return goes on with the value of the final observation; where the world ends (or a
life is lost, if the environment's rules say so), it does not. Normalisation: statistics of observations stand still
during a rollout and take it in after the update, so all its rows, kept raw, mean the same in acting and in learning.
The scale of rewards takes the rollout in before the update, and all its rewards are divided by that one number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from q2pi.algorithms.base import AgentSpec, precision, refuse_tables
from q2pi.algorithms.common.normalization import RewardScaler
from q2pi.algorithms.common.policy_based import PolicyAgent, observation_normalizer
from q2pi.algorithms.common.search_space import Choice, Float, Int, OneMinus, PowerOfTwo, Space
from q2pi.buffers.rollout import Batch, Rollout
from q2pi.config import RunConfig, at_least, within
from q2pi.envs.vector import Step
from q2pi.equations.losses import policy_gradient_loss, value_loss
from q2pi.equations.returns import generalized_advantages
from q2pi.equations.schedules import linear
from q2pi.errors import UserError
from q2pi.networks.initialisation import seeded
from q2pi.networks.optimizer import adam, load_optimizer, load_weights, optimizer_state
from q2pi.networks.policy import ActorCritic, serves
from q2pi.rng import stream
from q2pi.types import Array, Metrics, State

OBSERVATIONS = "images, vectors"
ACTIONS = "Discrete, Box"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters; the defaults are the paper's and Stable-Baselines3's."""

    learning_rate: float = 7e-4
    """Step size of the optimizer."""
    anneal_learning_rate: bool = True
    """Let the step size fall linearly to 0 over the budget."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """RMSProp with decay 0.99, or Adam."""
    optimizer_eps: float = 1e-5
    """The optimizer's constant under the fraction bar."""
    num_steps: int = 5
    """Steps of each game per update."""
    gamma: float = 0.99
    """Discount factor per agent step."""
    gae_lambda: float = 1.0
    """Decay of generalized advantage estimation; 1 is the n-step return of the paper."""
    normalize_advantages: bool = False
    """Shift and scale the advantages of an update to mean 0 and standard deviation 1."""
    value_coefficient: float = 0.5
    """Weight of the value's mean squared error."""
    entropy_coefficient: float = 0.01
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Bound on the gradient's norm; 0 is none."""
    normalize_observations: bool = False
    """Shift and scale each number of an observation vector by running statistics."""
    normalize_rewards: bool = False
    """Divide rewards by a running standard deviation of discounted sums of them."""
    squash: bool = False
    """Box actions: squash them into their bounds by tanh, instead of clipping what is sent to the game."""
    log_std: float = 0.0
    """Box actions: logarithm of the first standard deviation."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers for vector observations (images have the Nature network)."""
    evaluation_deterministic: bool = True
    """Play the likeliest action while being evaluated, instead of a drawn one."""


SPACE: Space = {
    "num_envs": PowerOfTwo(4, 16),
    "learning_rate": Float(1e-4, 1e-2, log=True),
    "anneal_learning_rate": Choice(False, True),
    "optimizer": Choice("rmsprop", "adam"),
    "num_steps": Int(4, 128, log=True),
    "gamma": OneMinus(0.95, 0.999),
    "gae_lambda": Float(0.8, 1.0),
    "normalize_advantages": Choice(False, True),
    "value_coefficient": Float(0.1, 1.0),
    "entropy_coefficient": Float(0.0, 0.02),
    "max_grad_norm": Float(0.3, 5.0, log=True),
    "hidden": Choice((32, 32), (64, 64), (128, 128)),
}


def check(run: RunConfig[Config]) -> None:
    """Raise a UserError for the first hyperparameter that is out of its bounds."""
    config = run.hyper
    at_least(config, 1, "num_steps")
    at_least(config, 0, "learning_rate", "optimizer_eps", "value_coefficient", "entropy_coefficient", "max_grad_norm")
    within(config, 0, 1, "gamma", "gae_lambda")
    within(config, -20, 5, "log_std")
    if not config.hidden or min(config.hidden) < 1:
        raise UserError(f"--hidden {config.hidden} is out of range: at least one layer of at least 1 unit")
    if config.num_steps * run.num_envs > run.total_timesteps:
        raise UserError(
            f"--num-steps {config.num_steps} of --num-envs {run.num_envs} games are "
            f"{config.num_steps * run.num_envs} agent steps, beyond --total-timesteps {run.total_timesteps}"
        )


def settle(run: RunConfig[Config]) -> RunConfig[Config]:
    """Return the nearest run whose options fit each other: a rollout within the budget."""
    steps = min(run.hyper.num_steps, run.total_timesteps // run.num_envs)
    return replace(run, hyper=replace(run.hyper, num_steps=steps))


def check_spaces(spec: AgentSpec) -> None:
    """Raise a UserError where the environment's spaces are not ones that an actor-critic can serve."""
    if not serves(spec.action_space):
        raise UserError(f"--env-id {spec.env.env_id} has actions {spec.action_space}: a2c needs Discrete or Box")
    refuse_tables(spec, "a2c")


def updates_due(run: RunConfig[Config], step: int) -> int:
    """Return how many updates a run has made after `step` agent steps."""
    return step // (run.hyper.num_steps * run.num_envs)


def timing_config(run: RunConfig[Config]) -> RunConfig[Config]:
    """Return a short run with the same work per step and per update, to be timed."""
    steps = max(1, min(run.hyper.num_steps, run.total_timesteps // 4 // run.num_envs))
    return replace(run, hyper=replace(run.hyper, num_steps=steps))


def memory_needed(config: Config, spec: AgentSpec) -> int:
    """Return the bytes of a rollout, and of its copy where the network reads it."""
    rows = config.num_steps * spec.num_envs
    numbers = math.prod(spec.observation_shape)
    actions = math.prod(spec.action_space.shape) * 4 if spec.action_space.shape else 8
    return 2 * rows * (numbers * spec.frame_dtype.itemsize + actions + 6 * 4)


def loss(network: nn.Module, batch: Batch, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (loss [], scalars by name): free of any state.

    Args:
        network: observations [B, ...] -> (policy, V [B]).
        batch: B steps.
        config: the coefficients.
    """
    policy, value = network(batch.observation)
    gain = normalized(batch.advantage) if config.normalize_advantages else batch.advantage
    policy_loss = policy_gradient_loss(policy.log_prob(batch.action), gain).mean()
    error = value_loss(value, batch.target).mean()
    entropy = policy.entropy().mean()
    total = policy_loss + config.value_coefficient * error - config.entropy_coefficient * entropy
    return total, {"policy_loss": policy_loss, "value_loss": error, "entropy": entropy}


def normalized(advantage: Tensor) -> Tensor:
    """Return advantages [B] of mean 0 and standard deviation 1; of mean 0 alone where B is 1."""
    centred = advantage - advantage.mean()
    return centred / (centred.std() + 1e-8) if len(centred) > 1 else centred


class Agent(PolicyAgent):
    """A policy that plays N games and learns from each rollout of theirs, once."""

    overlap = False
    config: Config

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        self.config, self.spec = config, spec
        shape, space = spec.observation_shape, spec.action_space

        def build() -> ActorCritic:
            return ActorCritic(shape, space, config.hidden, log_std=config.log_std, squash=config.squash)

        self.network = seeded(build, spec.seed, "actor-critic").to(spec.device)
        self.head = self.network.policy.head
        self.optimizer = _optimizer(self.network, config)
        self.rollout = Rollout(
            config.num_steps,
            spec.num_envs,
            shape,
            spec.frame_dtype,
            self.head.action_shape,
            self.head.action_dtype,
        )
        self.observations = observation_normalizer(config.normalize_observations, spec)
        self.rewards = RewardScaler(spec.num_envs, config.gamma) if config.normalize_rewards else None
        self.rollouts = 0
        self._acted: dict[str, Array] = {}

    def act(self, observation: Array, step: int) -> Array:
        with torch.inference_mode():
            policy, value = self._forward(observation)
            action = self.head.sample(policy, stream(self.spec.seed, "act", step))
            log_prob = policy.log_prob(action)
        columns = {"action": action, "log_prob": log_prob, "value": value}
        self._acted = {"observation": observation} | {name: column.cpu().numpy() for name, column in columns.items()}
        return self._to_env_action(action)

    def observe(self, action: Array, result: Step) -> None:
        env = self.spec.env
        ends = result.terminated | result.life_lost if env.life_loss_discount else result.terminated
        self.rollout.append(
            **self._acted,
            reward=np.sign(result.reward) if env.clip_rewards else result.reward,
            discount=self.config.gamma * (1.0 - ends.astype(np.float32)),
            ended=result.ended,
            final_value=self._final_value(result),
        )

    def learn(self, step: int) -> list[Metrics]:
        if not self.rollout.full:
            return []
        begun = step - self.rollout.steps * self.spec.num_envs
        scalars = self._train(self._batch(), begun)
        if self.observations is not None:
            self.observations.update(self._flat(self.rollout.observation))
        self.rollout.clear()
        self.rollouts += 1
        rate = {"learning_rate": self.optimizer.param_groups[0]["lr"]}
        return [row | rate for row in _numbers(scalars)]

    def networks(self) -> Mapping[str, nn.Module]:
        return {"a2c": self.network}

    def state(self) -> State:
        state: State = {
            "a2c": self.network.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "rollout": self.rollout.state(),
            "rollouts": self.rollouts,
        }
        for name, statistics in self._statistics().items():
            state[name] = statistics.state()
        return state

    def load(self, state: State) -> None:
        load_weights(self.networks(), state)
        load_optimizer(self.optimizer, state.get("optimizer", {}))
        self.rollout.load(state["rollout"])
        self.rollouts = state["rollouts"]
        for name, statistics in self._statistics().items():
            statistics.load(state[name])

    def _statistics(self) -> dict[str, Any]:
        both = {"observations": self.observations, "rewards": self.rewards}
        return {name: statistics for name, statistics in both.items() if statistics is not None}

    def _policy(self, observation: Array) -> Any:
        return self._forward(observation)[0]

    def _forward(self, observation: Array) -> tuple[Any, Tensor]:
        """Return (policy, V [B]) of raw observations [B, ...]."""
        with precision(self.spec):
            policy, value = self.network(self._tensor(observation))
        return policy, value

    def _final_value(self, result: Step) -> Array:
        """Return V [N] of what follows where no later row will hold it, 0 elsewhere."""
        last = self.rollout.length == self.rollout.steps - 1
        wanted = result.truncated | last
        values = np.zeros(len(wanted), np.float32)
        if wanted.any():
            with torch.inference_mode():
                values[wanted] = self._forward(result.next_observation[wanted])[1].cpu().numpy()
        return values

    def _flat(self, column: Array) -> Array:
        """Return a column [T, N, ...] as rows [T * N, ...]."""
        return column.reshape(-1, *column.shape[2:])

    def _batch(self) -> Batch:
        """Return the full rollout as one batch, with advantages and targets."""
        rollout = self.rollout
        reward = rollout.reward
        if self.rewards is not None:
            self.rewards.update(reward, rollout.ended)
            reward = self.rewards(reward)
        value = torch.from_numpy(rollout.value)
        advantage = generalized_advantages(
            torch.from_numpy(reward),
            torch.from_numpy(rollout.discount),
            value,
            torch.from_numpy(rollout.next_value()),
            torch.from_numpy(rollout.ended),
            self.config.gae_lambda,
        )
        device = self.spec.device
        return Batch(
            observation=self._tensor(self._flat(rollout.observation)),
            action=torch.from_numpy(self._flat(rollout.action)).to(device),
            log_prob=torch.from_numpy(self._flat(rollout.log_prob)).to(device),
            value=value.flatten().to(device),
            advantage=advantage.flatten().to(device),
            target=(advantage + value).flatten().to(device),
        )

    def _train(self, batch: Batch, begun: int) -> list[dict[str, Tensor]]:
        """Make the updates of one rollout that began at agent step `begun`; scalars of each."""
        self._set_learning_rate(begun)
        with precision(self.spec):
            value, scalars = loss(self.network, batch, self.config)
        self._gradient_step(value)
        return [scalars]

    def _set_learning_rate(self, step: int) -> None:
        if self.config.anneal_learning_rate:
            rate = linear(self.config.learning_rate, 0.0, 1.0, self.spec.total_timesteps, step)
            self.optimizer.param_groups[0]["lr"] = rate

    def _gradient_step(self, value: Tensor) -> None:
        """Make one step down the gradient of a loss []."""
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        if self.config.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
        self.optimizer.step()


def _optimizer(network: nn.Module, config: Config) -> torch.optim.Optimizer:
    rate, eps = config.learning_rate, config.optimizer_eps
    if config.optimizer == "adam":
        return adam(network.parameters(), lr=rate, eps=eps)
    return torch.optim.RMSprop(network.parameters(), lr=rate, eps=eps, alpha=0.99)


def _numbers(scalars: list[dict[str, Tensor]]) -> list[Metrics]:
    """Return scalars as numbers, brought from the device all at once."""
    names = list(scalars[0])
    table = torch.stack([torch.stack([row[name].detach() for name in names]) for row in scalars])
    return [dict(zip(names, values, strict=True)) for values in table.tolist()]
