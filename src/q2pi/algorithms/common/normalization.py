"""Running statistics of observations and of returns: explicit state, saved in checkpoints, not changed by evaluation.

Statistics cover all rows so far, in float64, merged batch by batch (Chan, Golub and LeVeque 1983). They change only in
`update`, so all steps between two updates are normalised in the same way.

Source of both uses: Huang et al. 2022, "The 37 Implementation Details of PPO", continuous actions, no. 6 to 9.
"""

import numpy as np

from q2pi.types import Array, State

CLIP = 10.0
"""Normalised values are clipped to [-CLIP, CLIP]."""
EPSILON = 1e-8
"""Added to variances, which may be 0."""


class RunningMoments:
    """Mean and variance of all rows so far; 0 and 1 before the first."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.mean = np.zeros(shape)
        self.squares = np.zeros(shape)
        """Sum of squared distances from the mean."""

    @property
    def variance(self) -> Array:
        return self.squares / self.count if self.count else np.ones_like(self.squares)

    def update(self, rows: Array) -> None:
        """Add rows [B, *shape] to the statistics."""
        rows = rows.astype(np.float64)
        count, mean = len(rows), rows.mean(axis=0)
        distance = mean - self.mean
        total = self.count + count
        self.squares = self.squares + ((rows - mean) ** 2).sum(axis=0) + distance**2 * (self.count * count / total)
        self.mean = self.mean + distance * (count / total)
        self.count = total

    def state(self) -> State:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load(self, state: State) -> None:
        self.count = int(state["count"])
        self.mean, self.squares = np.array(state["mean"]), np.array(state["squares"])


class ObservationNormalizer:
    """Normalises each component of an observation vector to mean 0 and standard deviation 1.

    Args:
        shape: (D,) of one observation.
        entries: bool [D], the components to normalise; the others (images, indices, masks) are not changed. None
            normalises all.
    """

    def __init__(self, shape: tuple[int, ...], entries: Array | None = None) -> None:
        self.entries = entries
        self.moments = RunningMoments(shape if entries is None else (int(entries.sum()),))

    def update(self, observation: Array) -> None:
        """Add raw observations [B, D] to the statistics."""
        self.moments.update(observation if self.entries is None else observation[:, self.entries])

    def __call__(self, observation: Array) -> Array:
        """Return (observation - mean) / std, float32 [B, D] in [-CLIP, CLIP]; changes nothing."""
        if self.entries is None:
            return self._scaled(observation)
        rows = observation.astype(np.float32)
        rows[:, self.entries] = self._scaled(observation[:, self.entries])
        return rows

    def _scaled(self, vector: Array) -> Array:
        scaled = (vector - self.moments.mean) / np.sqrt(self.moments.variance + EPSILON)
        return np.clip(scaled, -CLIP, CLIP).astype(np.float32)

    def state(self) -> State:
        return self.moments.state()

    def load(self, state: State) -> None:
        self.moments.load(state)


class RewardScaler:
    """Divides rewards by the standard deviation of the discounted sum of past rewards in each environment.

        R_t = gamma * R_{t-1} + r_t, reset to 0 at the start of each episode

    R_t sums past rewards instead of future ones: it has the scale of returns and is available at once. The mean is not
    subtracted, since that would change the optimal policy.

    Args:
        num_envs: N.
        gamma: discount factor per agent step.
    """

    def __init__(self, num_envs: int, gamma: float) -> None:
        self.gamma = gamma
        self.moments = RunningMoments((1,))
        self.sums = np.zeros(num_envs)

    def update(self, reward: Array, ended: Array) -> None:
        """Add T steps of N environments to the statistics: reward [T, N], raw, and ended [T, N]."""
        discounted_sums = np.empty(reward.shape)
        for t in range(len(reward)):
            self.sums = self.gamma * self.sums + reward[t]
            discounted_sums[t] = self.sums
            self.sums = np.where(ended[t], 0.0, self.sums)
        self.moments.update(discounted_sums.reshape(-1, 1))

    def __call__(self, reward: Array) -> Array:
        """Return reward / std, float32 of the same shape, in [-CLIP, CLIP]; changes nothing."""
        scaled = reward / np.sqrt(self.moments.variance + EPSILON)
        return np.clip(scaled, -CLIP, CLIP).astype(np.float32)

    def state(self) -> State:
        return {"moments": self.moments.state(), "sums": self.sums}

    def load(self, state: State) -> None:
        self.moments.load(state["moments"])
        self.sums = np.array(state["sums"])
