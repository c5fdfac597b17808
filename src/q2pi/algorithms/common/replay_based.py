"""Learning from replay: the options of a replay buffer, when updates are due, and batches of transitions.

The timeline of a run with learning_starts 8, train_frequency 4 (agent steps, over all environments):

    step          0 ... 7   8   9  10  11  12  13  14  15  16
    stored        x     x   x   x   x   x   x   x   x   x   x
    updates due   0     0   0   0   0   0   1   1   1   1   2
"""

import numpy as np

from q2pi.acceleration.cuda_graph import CudaGraph
from q2pi.algorithms.base import AgentSpec
from q2pi.algorithms.common.actor_priorities import ActorPriorities
from q2pi.algorithms.common.epsilon_greedy import EpsilonGreedyAgent
from q2pi.algorithms.configs.replay_based import ReplayConfig
from q2pi.buffers.device import store_for
from q2pi.buffers.replay import Replay
from q2pi.buffers.samplers import Batch, Sampler, UniformSampler, batches
from q2pi.types import Array


class ReplayAgent(EpsilonGreedyAgent):
    """An epsilon-greedy agent with a replay and a sampler of it."""

    config: ReplayConfig

    def __init__(self, config: ReplayConfig, spec: AgentSpec) -> None:
        super().__init__(config, spec)
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
                config.storage_bytes(spec, config.buffer_size),
                spec.frame_shape,
                spec.frame_dtype,
            ),
        )
        self.sampler = self.build_sampler()
        self.replay_stream = spec.stream("replay")
        self.updates = 0
        self.update_graph = CudaGraph(spec.device)

    def build_sampler(self) -> Sampler:
        """Return the sampler of transitions; override it for prioritized replay."""
        return UniformSampler(self.replay)

    def begin(self, observation: Array, env_indices: Array | None = None) -> None:
        cut = self.replay.begin(observation[:, -self.spec.frame_shape[0] :], env_indices)
        if len(cut):
            self.sampler.added(cut)

    def cut_episodes(self, observation: Array) -> None:
        self.begin(observation, np.arange(self.spec.num_envs))

    def actor_priorities(self) -> ActorPriorities | None:
        """Return what computes initial priorities on an actor; override it for prioritized replay."""
        return None

    def sample(self, count: int) -> list[Batch]:
        """Return the batches of the next `count` updates, drawn together: no update may change the sampler."""
        updates = range(self.updates, self.updates + count)
        generators = (self.replay_stream.at(update) for update in updates)
        return batches(self.replay, self.sampler, self.config.batch_size, generators, self.spec.device)

    def updates_left(self, step: int) -> int:
        """Return how many updates may share one call of `sample` now: those due, at most the sampler's lookahead."""
        return min(self.config.updates_due(step) - self.updates, self.sampler.lookahead)

    @property
    def update_step(self) -> int:
        """The agent step that the newest update belongs to."""
        return self.config.learning_starts + self.updates * self.config.train_frequency
