"""Parallelised Q-network: PQN.

Paper: Gallici et al. 2025, "Simplifying Deep Temporal Difference Learning" (ICLR); the returns are those of Peng and
Williams 1996, "Incremental Multi-Step Q-Learning".

In one paragraph: play `num_steps` steps of many games epsilon-greedily (the sampling phase); work out a target for each
step from what followed it in the rollout; go over the steps `update_epochs` times in `num_minibatches` shuffled parts
and move Q(s, a) towards its target (the training phase); throw the steps away. There is no replay, since many games at
once are varied enough, and no target network, since layer normalisation keeps the network from running away. The
target of step t is

    G_t = r_t + discount_t * ((1 - lambda) * max_a Q(s_{t+1}, a) + lambda * G_{t+1})

and at the end of an episode or of the rollout the first half of the bracket stands alone, with the true next
observation. Q is that of the network which played: the forward pass that chose the action of step t + 1 has given
max_a Q(s_{t+1}, a) too, so targets cost a forward of their own only where no later step follows. With `ema_decay` that
network is a running average of the trained one's weights (Polyak and Juditsky 1992), which small updates shake less;
with `window` the steps of some rollouts before are shuffled in, with the targets they had. With `exploration_ladder`
each game explores at a rate of its own (Horgan et al. 2018, "Distributed Prioritized Experience Replay").

Differences from the paper: its optimizer RAdam is fused Adam with a scheduled step size, without the plain steps of
RAdam's first five updates; where time runs out the return goes on with the value of the final observation (the
authors' code treats it as an end); weights are drawn orthogonally, with the norms of the paper's; the second-last
target of a rollout is not off by one as in six files of the authors' code, see docs/algorithms/pqn.md; no recurrent
network, no batch normalisation of inputs.

`overlap` is False: a rollout's updates take as long as some hundred steps of the emulators, so hiding one behind them
would gain under one percent, and would choose the first actions of each rollout with a network that is no longer there.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from q2pi.algorithms.base import AgentSpec, precision, refuse_tables
from q2pi.algorithms.common.epsilon_greedy import ValueAgent
from q2pi.algorithms.common.search_space import Choice, Float, Int, OneMinus, PowerOfTwo, Space
from q2pi.buffers.recent_rollouts import RecentRollouts
from q2pi.buffers.rollout import Rollout
from q2pi.config import RunConfig, at_least, within
from q2pi.envs.vector import Step
from q2pi.equations.losses import squared, td_errors
from q2pi.equations.returns import lambda_returns
from q2pi.equations.schedules import linear, rectification
from q2pi.errors import UserError
from q2pi.networks.initialisation import orthogonal, seeded
from q2pi.networks.optimizer import adam, load_optimizer, load_weights, optimizer_state
from q2pi.networks.torsos import Network
from q2pi.networks.value import QNetwork
from q2pi.rng import stream
from q2pi.types import Array, Metrics, State

OBSERVATIONS = "images, vectors"
ACTIONS = "Discrete"
BETAS = (0.9, 0.999)
"""Adam's decays of the first and the second moment."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters; the defaults are the paper's for Atari, but for the number of minibatches: it has 128 games."""

    learning_rate: float = 2.5e-4
    """Step size of RAdam."""
    anneal_learning_rate: bool = False
    """Let the step size fall linearly to 0 over the budget."""
    gamma: float = 0.99
    """Discount factor per agent step."""
    q_lambda: float = 0.65
    """Decay of the Q(lambda) targets: 0 trusts the next value alone, 1 the rewards up to the end of the rollout."""
    num_steps: int = 32
    """Steps of each game per rollout."""
    num_minibatches: int = 8
    """Parts of a rollout, one update each."""
    update_epochs: int = 2
    """Times that as many steps as a rollout has are learned from."""
    max_grad_norm: float = 10.0
    """Bound on the gradient's norm; 0 is none."""
    window: int = 1
    """Newest rollouts that minibatches are drawn from; 1 is the paper's. Targets stay as they were worked out."""
    ema_decay: float = 0.0
    """Decay per update of the running average of weights that plays and gives values; 0 is the newest weights."""
    start_e: float = 1.0
    """Exploration rate epsilon at the first step."""
    end_e: float = 0.001
    """Exploration rate at the end of the schedule, and from then on."""
    exploration_fraction: float = 0.1
    """Share of the budget over which epsilon falls linearly."""
    apex_alpha: float = 0.0
    """Exponent alpha: game i of N explores with epsilon^(1 + alpha * i / (N - 1)), as in Ape-X; 0 is all alike."""
    eval_epsilon: float = 0.001
    """Exploration rate while being evaluated."""
    hidden: tuple[int, ...] = (128, 128)
    """Units of the hidden layers for vector observations."""
    network: Network = "nature"
    """Layers for images: those of Mnih et al. 2015 (nature), or of 2013 (nips) with a third of the arithmetic."""


SPACE: Space = {
    "num_envs": PowerOfTwo(4, 64),
    "learning_rate": Float(1e-4, 5e-3, log=True),
    "anneal_learning_rate": Choice(False, True),
    "num_steps": PowerOfTwo(8, 128),
    "num_minibatches": PowerOfTwo(1, 32),
    "update_epochs": Int(1, 8, log=True),
    "gamma": OneMinus(0.95, 0.999),
    "q_lambda": Float(0.0, 1.0),
    "exploration_fraction": Float(0.05, 0.6),
    "end_e": Float(0.001, 0.2, log=True),
    "hidden": Choice((64, 64), (128, 128), (256, 256)),
}


def check(run: RunConfig[Config]) -> None:
    """Raise a UserError for the first hyperparameter that is out of its bounds."""
    config = run.hyper
    at_least(config, 1, "num_steps", "num_minibatches", "update_epochs", "window")
    at_least(config, 0, "learning_rate", "max_grad_norm", "apex_alpha")
    within(config, 0, 1, "gamma", "ema_decay", "q_lambda", "start_e", "end_e", "exploration_fraction", "eval_epsilon")
    if config.ema_decay == 1:
        raise UserError(f"--ema-decay {config.ema_decay} is out of range: it must be below 1")
    if not config.hidden or min(config.hidden) < 1:
        raise UserError(f"--hidden {config.hidden} is out of range: at least one layer of at least 1 unit")
    rows = config.num_steps * run.num_envs
    if rows > run.total_timesteps:
        raise UserError(
            f"--num-steps {config.num_steps} of --num-envs {run.num_envs} games are {rows} agent steps, "
            f"beyond --total-timesteps {run.total_timesteps}"
        )
    if rows % config.num_minibatches:
        raise UserError(
            f"--num-minibatches {config.num_minibatches} does not divide the {rows} agent steps of a rollout "
            f"(--num-steps {config.num_steps} x --num-envs {run.num_envs})"
        )


def settle(run: RunConfig[Config]) -> RunConfig[Config]:
    """Return the nearest run whose options fit each other: minibatches, no more than asked, that divide the rollout."""
    steps = max(1, min(run.hyper.num_steps, run.total_timesteps // run.num_envs))
    parts = run.hyper.num_minibatches
    while parts > 1 and (steps * run.num_envs) % parts:
        parts -= 1
    return replace(run, hyper=replace(run.hyper, num_steps=steps, num_minibatches=parts))


def check_spaces(spec: AgentSpec) -> None:
    """Raise a UserError where the environment's spaces are not ones that PQN can serve."""
    if type(spec.action_space).__name__ != "Discrete":
        raise UserError(
            f"--env-id {spec.env.env_id} has actions {spec.action_space}: pqn needs a Discrete action space"
        )
    refuse_tables(spec, "pqn")


def updates_due(run: RunConfig[Config], step: int) -> int:
    """Return how many updates a run has made after `step` agent steps."""
    config = run.hyper
    return step // (config.num_steps * run.num_envs) * config.update_epochs * config.num_minibatches


def timing_config(run: RunConfig[Config]) -> RunConfig[Config]:
    """Return a short run with the same work per step and per update, to be timed: short rollouts, same minibatches.

    It has no window, which it would not fill.
    """
    config = run.hyper
    unit = math.gcd(config.num_steps, config.num_minibatches)
    steps, parts = config.num_steps // unit, config.num_minibatches // unit
    units = max(1, min(unit, run.total_timesteps // 4 // (steps * run.num_envs)))
    return replace(run, hyper=replace(config, num_steps=steps * units, num_minibatches=parts * units, window=1))


def memory_needed(config: Config, spec: AgentSpec) -> int:
    """Return the bytes of a rollout, and of the window of rollouts that the network reads."""
    rows, observation = config.num_steps * spec.num_envs, math.prod(spec.observation_shape)
    bytes_each = observation * spec.frame_dtype.itemsize + 8
    return rows * (bytes_each + 5 * 4 + config.window * (bytes_each + 4))


def loss(network: nn.Module, observation: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return (half the mean squared error [], mean over the batch of max_a Q(s, a) []): free of any state.

    Args:
        network: observations [B, ...] -> Q [B, A].
        observation: [B, *observation_shape].  action: int64 [B].  target: [B].
    """
    q = network(observation)
    return 0.5 * squared(td_errors(q, action, target)).mean(), q.detach().amax(dim=1).mean()


class Agent(ValueAgent):
    """Epsilon-greedy play over N games and a Q-network trained from each rollout of theirs, once."""

    overlap = False
    config: Config

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        self.config, self.spec = config, spec
        self.actions, self.first_action = int(spec.action_space.n), int(spec.action_space.start)
        shape = spec.observation_shape

        def build() -> QNetwork:
            network = QNetwork(shape, self.actions, config.hidden, network=config.network, layer_norm=True)
            orthogonal(network.torso, math.sqrt(2))
            orthogonal(network.head, 1.0)
            return network

        self.main = seeded(build, spec.seed, "main").to(spec.device)
        self.average = copy.deepcopy(self.main).requires_grad_(False) if config.ema_decay > 0 else None
        self.optimizer = adam(self.main.parameters(), lr=config.learning_rate, betas=BETAS)
        self.rollout = Rollout(
            config.num_steps, spec.num_envs, shape, spec.frame_dtype, (), np.dtype(np.int64), log_prob=False
        )
        rows = config.num_steps * spec.num_envs
        self.window = RecentRollouts(config.window, rows, shape, spec.frame_dtype, spec.device)
        self.rollouts = 0
        self.epsilon_exponents = 1 + config.apex_alpha * np.linspace(0, 1, spec.num_envs)
        self._acted: dict[str, Array] = {}

    @property
    def acting_network(self) -> QNetwork:
        """The network that plays and values what it sees."""
        return self.main if self.average is None else self.average

    def learning_rate(self, step: int, update: int) -> float:
        """Return the step size of update `update`, counted from 1, of a rollout that began at agent step `step`."""
        rate = self.config.learning_rate
        if self.config.anneal_learning_rate:
            rate = linear(rate, 0.0, 1.0, self.spec.total_timesteps, step)
        return rate * rectification(BETAS[1], update)

    def begin(self, observation: Array) -> None:
        pass

    def act(self, observation: Array, step: int) -> Array:
        q = self._q(observation)
        epsilon = self.epsilon(step) ** self.epsilon_exponents
        action = self._epsilon_greedy(observation, epsilon, stream(self.spec.seed, "explore", step), q)
        self._acted = {"observation": observation, "action": action - self.first_action, "value": q.max(axis=1)}
        return action

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
        metrics = self._train(begun)
        self.rollout.clear()
        self.rollouts += 1
        return metrics

    def networks(self) -> Mapping[str, nn.Module]:
        return {"main": self.main} if self.average is None else {"main": self.main, "average": self.average}

    def state(self) -> State:
        return {name: network.state_dict() for name, network in self.networks().items()} | {
            "optimizer": optimizer_state(self.optimizer),
            "rollout": self.rollout.state(),
            "window": self.window.state(self.rollouts),
            "rollouts": self.rollouts,
        }

    def load(self, state: State) -> None:
        load_weights(self.networks(), state)
        load_optimizer(self.optimizer, state.get("optimizer", {}))
        self.rollout.load(state["rollout"])
        self.rollouts = state["rollouts"]
        self.window.load(self.rollouts, state["window"])

    def _q(self, observation: Array) -> Array:
        """Return Q [B, A] of observations [B, ...]."""
        with torch.inference_mode(), precision(self.spec):
            q: Array = self.acting_network(torch.from_numpy(observation).to(self.spec.device)).cpu().numpy()
        return q

    def _final_value(self, result: Step) -> Array:
        """Return max_a Q [N] of what follows where no later row will hold it, 0 elsewhere."""
        last = self.rollout.length == self.rollout.steps - 1
        wanted = result.truncated | last
        values = np.zeros(len(wanted), np.float32)
        if wanted.any():
            values[wanted] = self._q(result.next_observation[wanted]).max(axis=1)
        return values

    def _targets(self) -> Tensor:
        """Return the Q(lambda) targets [T, N] of the full rollout."""
        rollout = self.rollout
        columns = (rollout.reward, rollout.discount, rollout.next_value(), rollout.ended)
        reward, discount, next_value, ended = (torch.from_numpy(column) for column in columns)
        return lambda_returns(reward, discount, next_value, ended, self.config.q_lambda)

    def _train(self, begun: int) -> list[Metrics]:
        """Make the updates of one rollout that began at agent step `begun`; scalars of each."""
        rollout, window = self.rollout, self.window
        observation = torch.from_numpy(rollout.observation).flatten(0, 1)
        window.add(self.rollouts, observation, torch.from_numpy(rollout.action).flatten(), self._targets().flatten())
        parts = self._minibatches()
        scalars = []
        for update, part in enumerate(parts, 1 + self.rollouts * len(parts)):
            rate = self.learning_rate(begun, update)
            scalars.append(self._update(*window.take(part), rate))
        shown = {"epsilon": self.epsilon(begun), "learning_rate": rate}
        return [{"loss": error, "q": q} | shown for error, q in torch.stack(scalars).tolist()]

    def _minibatches(self) -> list[Tensor]:
        """Return the rows of the window in each minibatch: permutations of all, one after another, cut into parts."""
        config = self.config
        wanted, rows = config.update_epochs * self.window.rows, self.window.filled(self.rollouts + 1)
        orders = [
            stream(self.spec.seed, "minibatches", self.rollouts, number).permutation(rows)
            for number in range(-(-wanted // rows))
        ]
        parts = np.split(np.concatenate(orders)[:wanted], config.update_epochs * config.num_minibatches)
        return [torch.from_numpy(part).to(self.spec.device) for part in parts]

    def _update(self, observation: Tensor, action: Tensor, target: Tensor, learning_rate: float) -> Tensor:
        """Make one step down the gradient; return (loss, mean of max_a Q) as a tensor [2]."""
        with precision(self.spec):
            value, mean_q = loss(self.main, observation, action, target)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        if self.config.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self.main.parameters(), self.config.max_grad_norm)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        if self.average is not None:
            with torch.no_grad():
                for slow, fast in zip(self.average.parameters(), self.main.parameters(), strict=True):
                    slow.lerp_(fast, 1.0 - self.config.ema_decay)
        return torch.stack([value.detach(), mean_q])
