"""Deep Q-learning: DQN and Double DQN.

Papers: Mnih et al. 2015, "Human-level control through deep reinforcement learning"; van Hasselt, Guez and Silver 2016,
"Deep Reinforcement Learning with Double Q-learning"; n-step targets as in Sutton 1988.

In one paragraph: play epsilon-greedily and keep what happened in a replay ring (the sampling phase); every
`train_frequency` agent steps draw a batch from it and move Q(s, a) towards r + discount * Q_target(s', a*) (the
training phase), where a* is the target network's best action (DQN) or the main network's (Double DQN), and the target
network is a copy of the main one, refreshed every `target_network_frequency` agent steps.

Differences from the paper: Adam and a squared error instead of RMSProp and clipped errors (Obando-Ceron and Castro 2021
found them better; `loss = "huber"` has the other), several games side by side with one exploration coin each, and
updates that run while the emulators step. The number of updates per agent step is what `train_frequency` says,
whatever the number of games.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from q2pi.acceleration.cuda_graph import CudaGraph
from q2pi.acceleration.precision import Bf16Copy
from q2pi.algorithms.base import AgentSpec, precision, refuse_tables
from q2pi.algorithms.common.epsilon_greedy import ValueAgent
from q2pi.algorithms.common.search_space import Choice, Float, Int, OneMinus, PowerOfTwo, Space
from q2pi.buffers.device import store_for
from q2pi.buffers.frames import Codec
from q2pi.buffers.replay import Replay, bytes_needed
from q2pi.buffers.samplers import uniform
from q2pi.config import RunConfig, at_least, within
from q2pi.envs.vector import Step
from q2pi.equations.losses import huber, squared, td_errors, weighted_mean
from q2pi.equations.schedules import linear
from q2pi.equations.targets import q_target
from q2pi.errors import UserError
from q2pi.networks.initialisation import seeded
from q2pi.networks.optimizer import adam, load_optimizer, load_weights, optimizer_state, set_rate, settable_rate
from q2pi.networks.torsos import Network
from q2pi.networks.value import QNetwork
from q2pi.rng import stream
from q2pi.types import Array, Metrics, State

OBSERVATIONS = "images, vectors"
ACTIONS = "Discrete"
AT_ONCE = 16
"""Batches that are drawn together at most, where several updates are owed."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters; the defaults are CleanRL's for Atari."""

    learning_rate: float = 1e-4
    """Step size of Adam."""
    anneal_learning_rate: bool = False
    """Let the step size fall linearly to 0 over the budget."""
    adam_eps: float = 1e-8
    """Adam's constant under the fraction bar; 1.5e-4 keeps early steps small."""
    gamma: float = 0.99
    """Discount factor per agent step."""
    double: bool = True
    """Double DQN: the main network selects the next action, the target network evaluates it."""
    n_step: int = 1
    """Rewards summed before the target bootstraps, in agent steps."""
    buffer_size: int = 1_000_000
    """Transitions kept for replay."""
    replay_codec: Codec = "auto"
    """How replay keeps images: as they are, or compressed with Zstandard, exact in less memory for more time; auto is
    raw where that takes at most a third of the machine's memory, and is settled before the run begins."""
    learning_starts: int = 80_000
    """Agent steps before the first update."""
    train_frequency: int = 4
    """Agent steps per update."""
    batch_size: int = 32
    """Transitions per update."""
    target_network_frequency: int = 1_000
    """Agent steps between two updates of the target network."""
    tau: float = 1.0
    """Share of the main network that enters the target network at its update; 1 is a copy."""
    start_e: float = 1.0
    """Exploration rate epsilon at the first step."""
    end_e: float = 0.01
    """Exploration rate at the end of the schedule, and from then on."""
    exploration_fraction: float = 0.1
    """Share of the budget over which epsilon falls linearly."""
    eval_epsilon: float = 0.01
    """Exploration rate while being evaluated."""
    loss: Literal["mse", "huber"] = "mse"
    """Error of Q against its target: mean squared, or Huber's with threshold 1."""
    max_grad_norm: float = 0.0
    """Bound on the gradient's norm; 0 is none."""
    hidden: tuple[int, ...] = (120, 84)
    """Units of the hidden layers for vector observations."""
    network: Network = "nature"
    """Layers for images: those of Mnih et al. 2015 (nature), or of 2013 (nips) with a third of the arithmetic."""
    layer_norm: bool = False
    """Normalise each layer before its ReLU, over channels or units, as PQN does (Gallici et al. 2025)."""


SPACE: Space = {
    "learning_rate": Float(5e-5, 5e-3, log=True),
    "anneal_learning_rate": Choice(False, True),
    "batch_size": PowerOfTwo(16, 256),
    "buffer_size": PowerOfTwo(4_096, 131_072),
    "learning_starts": Int(250, 10_000, log=True),
    "train_frequency": PowerOfTwo(1, 16),
    "target_network_frequency": Int(50, 5_000, log=True),
    "gamma": OneMinus(0.95, 0.999),
    "n_step": Int(1, 5),
    "exploration_fraction": Float(0.05, 0.6),
    "end_e": Float(0.01, 0.1, log=True),
    "loss": Choice("mse", "huber"),
    "max_grad_norm": Choice(0.0, 1.0, 10.0),
    "hidden": Choice((64, 64), (120, 84), (128, 128), (256, 256)),
    "layer_norm": Choice(False, True),
}
"""For vectors; for images, narrow `buffer_size` to what memory holds and fix `hidden`, which has no effect."""


def check(run: RunConfig[Config]) -> None:
    """Raise a UserError for the first hyperparameter that is out of its bounds."""
    config = run.hyper
    at_least(config, 1, "n_step", "buffer_size", "train_frequency", "batch_size", "target_network_frequency")
    at_least(config, 0, "learning_rate", "adam_eps", "learning_starts", "max_grad_norm")
    within(config, 0, 1, "gamma", "tau", "start_e", "end_e", "exploration_fraction", "eval_epsilon")
    if not config.hidden or min(config.hidden) < 1:
        raise UserError(f"--hidden {config.hidden} is out of range: at least one layer of at least 1 unit")
    if config.batch_size > config.buffer_size:
        raise UserError(f"--batch-size {config.batch_size} is larger than --buffer-size {config.buffer_size}")
    if config.learning_starts >= run.total_timesteps:
        raise UserError(
            f"--learning-starts {config.learning_starts} is beyond the budget: "
            f"it must be below --total-timesteps {run.total_timesteps}"
        )
    least = (config.n_step - 1) * run.num_envs - config.train_frequency + 1
    if config.learning_starts < least:
        raise UserError(
            f"--learning-starts {config.learning_starts} is before the first {config.n_step}-step transition of "
            f"{run.num_envs} games: it must be at least {least} (--n-step, --num-envs)"
        )


def settle(run: RunConfig[Config]) -> RunConfig[Config]:
    """Return the nearest run whose options fit each other: a batch no larger than the buffer, learning in time."""
    config = run.hyper
    least = (config.n_step - 1) * run.num_envs - config.train_frequency + 1
    starts = max(min(config.learning_starts, run.total_timesteps - 1), least)
    size = min(config.batch_size, config.buffer_size)
    return replace(run, hyper=replace(config, batch_size=size, learning_starts=starts))


def check_spaces(spec: AgentSpec) -> None:
    """Raise a UserError where the environment's spaces are not ones that DQN can serve."""
    if type(spec.action_space).__name__ != "Discrete":
        raise UserError(
            f"--env-id {spec.env.env_id} has actions {spec.action_space}: dqn needs a Discrete action space"
        )
    refuse_tables(spec, "dqn")


def updates_due(run: RunConfig[Config], step: int) -> int:
    """Return how many updates a run has made, or owes, after `step` agent steps."""
    return _updates_due(run.hyper, step)


def _updates_due(config: Config, step: int) -> int:
    return max(0, (step - config.learning_starts) // config.train_frequency)


def timing_config(run: RunConfig[Config]) -> RunConfig[Config]:
    """Return a short run with the same work per step and per update, small and learning at once, to be timed."""
    start = min(run.hyper.learning_starts, run.total_timesteps // 2)
    size = min(run.hyper.buffer_size, 2 * run.total_timesteps)
    hyper = replace(
        run.hyper,
        learning_starts=start,
        n_step=min(run.hyper.n_step, max(1, start // run.num_envs)),
        buffer_size=max(size, run.hyper.batch_size),
        end_e=0.0,
        start_e=0.0,
    )
    return replace(run, hyper=hyper)


def memory_needed(config: Config, spec: AgentSpec) -> int:
    """Return the bytes that the replay ring will take when full; an estimate where it is compressed."""
    return bytes_needed(
        config.buffer_size,
        spec.num_envs,
        spec.frame_shape,
        spec.frame_dtype,
        stack=spec.stack,
        n_step=config.n_step,
        codec=config.replay_codec,
    )


def loss(
    main: nn.Module,
    target: nn.Module,
    observation: Tensor,
    action: Tensor,
    reward: Tensor,
    discount: Tensor,
    next_observation: Tensor,
    *,
    double: bool,
    error: Literal["mse", "huber"],
    joined: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return (loss [], mean over the batch of max_a Q(s, a) []) of one batch: free of any state, shapes static.

    Args:
        observation, next_observation: [B, *observation_shape].
        action: int64 [B].  reward: [B], the n-step return.  discount: [B], 0 where the world ended.
        double: choose the next action with the main network.
        error: of the TD errors.
        joined: with `double`, make one forward of the main network for both: fewer kernels, more arithmetic.
    """
    selector = None
    if double and joined:
        q, selector = main(torch.cat([observation, next_observation])).chunk(2)
    else:
        q = main(observation)
    with torch.no_grad():
        if double and not joined:
            selector = main(next_observation)
        goal = q_target(reward, discount, target(next_observation), selector)
    errors = td_errors(q, action, goal)
    losses = squared(errors) if error == "mse" else huber(errors)
    return weighted_mean(losses, None), q.detach().amax(dim=1).mean()


class Agent(ValueAgent):
    """Epsilon-greedy play over N games and a Q-network trained from replay."""

    overlap = True
    config: Config

    def __init__(self, config: Config, spec: AgentSpec) -> None:
        self.config, self.spec = config, spec
        self.actions, self.first_action = int(spec.action_space.n), int(spec.action_space.start)

        def build() -> QNetwork:
            shape, norm = spec.observation_shape, config.layer_norm
            return QNetwork(shape, self.actions, config.hidden, network=config.network, layer_norm=norm)

        self.main = seeded(build, spec.seed, "main").to(spec.device)
        self.target = copy.deepcopy(self.main).requires_grad_(False)
        self._rounded_target = Bf16Copy(self.target, spec.precision)
        self.optimizer = adam(
            self.main.parameters(),
            lr=settable_rate(config.learning_rate, spec.device),
            eps=config.adam_eps,
            capturable=spec.device.type == "cuda",
        )
        self._captured, self._captured_q = CudaGraph(spec.device), CudaGraph(spec.device)
        # A launch costs more there than the arithmetic of so small a batch.
        self._joined = spec.device.type == "cuda"
        self.replay = Replay(
            config.buffer_size,
            spec.num_envs,
            spec.frame_shape,
            spec.frame_dtype,
            stack=spec.stack,
            n_step=config.n_step,
            gamma=config.gamma,
            store=store_for(
                spec.device,
                config.replay_codec,
                memory_needed(config, spec),
                spec.frame_shape,
                spec.frame_dtype,
            ),
        )
        self.updates = 0

    def learning_rate(self, step: int) -> float:
        """Return the step size of an update that belongs to agent step `step`."""
        rate = self.config.learning_rate
        return linear(rate, 0.0, 1.0, self.spec.total_timesteps, step) if self.config.anneal_learning_rate else rate

    def begin(self, observation: Array) -> None:
        self.replay.begin(self._newest_frame(observation))

    def act(self, observation: Array, step: int) -> Array:
        return self._epsilon_greedy(observation, self.epsilon(step), stream(self.spec.seed, "explore", step))

    def observe(self, action: Array, result: Step) -> None:
        env = self.spec.env
        ends = result.terminated | result.life_lost if env.life_loss_discount else result.terminated
        self.replay.extend(
            action - self.first_action,
            np.sign(result.reward) if env.clip_rewards else result.reward,
            1.0 - ends.astype(np.float32),
            self._newest_frame(result.next_observation),
            result.ended,
            self._newest_frame(result.observation),
        )

    def learn(self, step: int) -> list[Metrics]:
        scalars: list[Tensor] = []
        while (due := _updates_due(self.config, step) - self.updates) > 0:
            scalars += self._updates(min(due, AT_ONCE))
        if not scalars:
            return []
        # One look at the device for all of them: each makes the host wait.
        rows, epsilon = torch.stack(scalars).tolist(), self.epsilon(step)
        return [{"loss": error, "q": q, "epsilon": epsilon} for error, q in rows]

    def networks(self) -> Mapping[str, nn.Module]:
        return {"main": self.main, "target": self.target}

    def state(self) -> State:
        return {
            "main": self.main.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
            "replay": self.replay.state(),
            "updates": self.updates,
        }

    def load(self, state: State) -> None:
        load_weights(self.networks(), state)
        self._rounded_target.refresh()
        load_optimizer(self.optimizer, state.get("optimizer", {}))
        self._captured = CudaGraph(self.spec.device)
        if "replay" in state:
            self.replay.load(state["replay"])
        self.updates = state["updates"]

    def _newest_frame(self, observation: Array) -> Array:
        """Return the newest frame [N, *frame_shape] of stacked observations."""
        return observation[:, -self.spec.frame_shape[0] :]

    def _q(self, observation: Array) -> Array:
        with torch.inference_mode(), precision(self.spec):
            q: Array = self._captured_q(self.main, torch.from_numpy(observation)).cpu().numpy()
        return q

    def _updates(self, count: int) -> list[Tensor]:
        """Make `count` updates, return (loss, mean of max_a Q) of each as a tensor [2].

        Their batches are drawn before the first, as none of them changes what replay holds.
        """
        config, device = self.config, self.spec.device
        draws = [stream(self.spec.seed, "replay", self.updates + index) for index in range(count)]
        batch = self.replay.sample(np.concatenate([uniform(self.replay, config.batch_size, draw) for draw in draws]))
        columns = (batch.observation, batch.action, batch.reward, batch.discount, batch.next_observation)
        parts = [torch.as_tensor(column, device=device).split(config.batch_size) for column in columns]
        return [self._update(*batch) for batch in zip(*parts, strict=True)]

    def _update(self, *batch: Tensor) -> Tensor:
        """Make one update from the tensors of a batch; return (loss, mean of max_a Q) as a tensor [2]."""
        set_rate(self.optimizer, self.learning_rate(self._step()))
        scalars = self._captured(self._gradient_step, *batch)
        self.updates += 1
        self._refresh_target()
        return scalars

    def _step(self) -> int:
        """Return the agent step that the newest update belongs to."""
        return self.config.learning_starts + self.updates * self.config.train_frequency

    def _gradient_step(self, *batch: Tensor) -> Tensor:
        """Make one step down the gradient of a batch's loss; return (loss, mean of max_a Q) as a tensor [2]."""
        config = self.config
        with precision(self.spec):
            value, mean_q = loss(
                self.main,
                self._rounded_target.network,
                *batch,
                double=config.double,
                error=config.loss,
                joined=self._joined,
            )
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        if config.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self.main.parameters(), config.max_grad_norm)
        self.optimizer.step()
        return torch.stack([value.detach(), mean_q])

    def _refresh_target(self) -> None:
        """Move the target network when the agent step that the newest update belongs to enters a new period."""
        config, step = self.config, self._step()
        before, period = step - config.train_frequency, config.target_network_frequency
        if step // period == before // period:
            return
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.main.parameters(), strict=True):
                slow.lerp_(fast, config.tau) if config.tau < 1 else slow.copy_(fast)
        self._rounded_target.refresh()
