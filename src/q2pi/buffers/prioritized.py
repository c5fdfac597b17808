"""Prioritized replay: transitions are drawn in proportion to their priorities, from a sum tree.

Paper: Schaul, Quan, Antonoglou and Silver 2016, "Prioritized Experience Replay", the proportional variant:

    P(i) = p_i^alpha / sum_k p_k^alpha             probability of transition i
    p_i  = |TD error of i| + SMALLEST              after each update with transition i; the greatest so far before it
    w_i  = (N P(i))^-beta / max_j (N P(j))^-beta   importance weight; the maximum is over the batch, so N cancels out

A batch is stratified: one draw from each of B equal parts of the total (appendix B.2.1).

Differences from the paper: the tree has 64 children per node instead of 2 (fewer levels, each one vectorised), and the
greatest priority is that of all transitions so far, also of those that were overwritten.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from q2pi.buffers.frames import copy_into
from q2pi.buffers.replay import Replay, Slots
from q2pi.errors import UserError
from q2pi.types import State

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 1e-6
"""Added to each |TD error|, so that every transition can be drawn."""
FAN_OUT = 64
Masses = NDArray[np.float64]


class SumTree:
    """Masses of `size` leaves, and the sums over groups of FAN_OUT nodes up to a last level of at most FAN_OUT nodes.

    A sum is always computed from its children, never by adding a difference: rounding errors do not accumulate, and the
    sums depend on the leaves alone.

    Args:
        size: number of leaves; their masses are 0.
    """

    def __init__(self, size: int) -> None:
        self.levels: list[Masses] = []
        """From the leaves upwards, each padded with zeros to a multiple of FAN_OUT."""
        while True:
            groups = -(-size // FAN_OUT)
            self.levels.append(np.zeros(groups * FAN_OUT))
            if groups == 1:
                break
            size = groups

    @property
    def total(self) -> float:
        """Sum of all masses."""
        return float(self.levels[-1].sum())

    def __getitem__(self, leaves: Slots) -> Masses:
        return self.levels[0][leaves]

    def set(self, leaves: Slots, masses: Masses | float) -> None:
        """Set the masses of leaves [n] and the sums above them; of equal leaves the last one counts."""
        self.levels[0][leaves] = masses
        for lower, upper in zip(self.levels, self.levels[1:], strict=False):
            leaves = leaves // FAN_OUT
            upper[leaves] = lower.reshape(-1, FAN_OUT)[leaves].sum(axis=1)

    def load(self, masses: Masses) -> None:
        """Set the masses of all leaves [size]."""
        self.levels[0][: len(masses)] = masses
        for lower, upper in zip(self.levels, self.levels[1:], strict=False):
            sums = lower.reshape(-1, FAN_OUT).sum(axis=1)
            upper[: len(sums)] = sums

    def find(self, points: Masses) -> Slots:
        """Return the leaves [n] at points [n] in [0, total): leaf i covers [sum of masses before i, that sum + mass i).

        A leaf without mass is never returned, if any leaf has one.
        """
        nodes = np.zeros(len(points), np.int64)
        for level in reversed(self.levels):
            children = level.reshape(-1, FAN_OUT)[nodes]  # [n, FAN_OUT]
            ends = children.cumsum(axis=1)
            child = (ends <= points[:, None]).sum(axis=1)
            # The rounded sum above may exceed the last end: the point then belongs to the last child with mass.
            last = FAN_OUT - 1 - (children[:, ::-1] > 0).argmax(axis=1)
            child = np.minimum(child, last)
            rows = np.arange(len(points))
            points = points - (ends[rows, child] - children[rows, child])
            nodes = nodes * FAN_OUT + child
        return nodes


class PrioritizedSampler:
    """Draws transitions in proportion to priority^alpha; exactly the rows that can be sampled have a mass in the tree.

    Args:
        replay: source of the transitions.
        alpha: exponent of priorities; 0 is uniform.
        beta: exponent of importance weights, to be set before each `sample`; 1 corrects the bias fully.
    """

    lookahead = 1

    def __init__(self, replay: Replay, alpha: float, beta: float) -> None:
        self.replay, self.alpha, self.beta = replay, alpha, beta
        self.slots = replay.num_envs * replay.rows
        self.tree = SumTree(self.slots)
        self.greatest = np.ones(1)
        """Greatest priority^alpha so far, of new transitions; 1 before the first update."""
        # A step writes at most two rows per stream. It can complete the returns of the n + 1 rows before the open row,
        # and take a frame from the stacks of the oldest rows, which follow the open row in the ring.
        self._changed = np.arange(-replay.n_step - 1, replay.stack)

    def added(self, indices: Slots) -> None:
        """Give rows that can now be sampled the greatest priority, and take it from rows that no longer can."""
        replay = self.replay
        row = (replay.written - 1)[:, None] + self._changed
        near = (np.arange(replay.num_envs)[:, None] * replay.rows + row % replay.rows).reshape(-1)
        has_mass, can_sample = self.tree[near] > 0, replay.can_sample(near)
        changed = np.flatnonzero(has_mass != can_sample)
        if len(changed):
            self.tree.set(near[changed], np.where(can_sample[changed], self.greatest[0], 0.0))

    def sample(self, batch_size: int, rng: np.random.Generator) -> tuple[Slots, NDArray[np.float32]]:
        """Return (indices [B], importance weights [B], at most 1).

        Raises:
            UserError: no transition can be sampled.
        """
        total = self.tree.total
        if not total > 0:
            raise UserError("the replay has no transition to sample yet: --learning-starts is too small")
        points = (np.arange(batch_size) + rng.random(batch_size)) * (total / batch_size)
        slots = self.tree.find(points)
        mass = self.tree[slots]
        return slots, ((mass / mass.min()) ** -self.beta).astype(np.float32)

    def update_priorities(self, indices: Slots, td_errors: "Tensor") -> None:
        """Set the priorities of a batch to |TD errors| [B]; errors that are not finite change nothing."""
        errors = np.abs(td_errors.detach().double().cpu().numpy())
        masses = (errors + SMALLEST) ** self.alpha
        # A row without mass cannot be sampled any more: a mass would bring it back.
        keep = np.isfinite(masses) & (self.tree[indices] > 0)
        if keep.any():
            self.tree.set(indices[keep], masses[keep])
            self.greatest[0] = max(self.greatest[0], masses[keep].max())

    @property
    def nbytes(self) -> int:
        """Bytes of the tree."""
        return sum(level.nbytes for level in self.tree.levels)

    def state(self) -> State:
        return {"masses": self.tree.levels[0][: self.slots], "greatest": self.greatest}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; the sums follow from the masses, bit for bit.

        Raises:
            UserError: the saved replay has another size.
        """
        copy_into(self.tree.levels[0][: self.slots], state, "masses")
        copy_into(self.greatest, state, "greatest")
        self.tree.load(self.tree.levels[0][: self.slots])


def tree_bytes(slots: int) -> int:
    """Return the bytes of the tree over `slots` rows of a replay, without allocating it."""
    size, total = slots, 0
    while True:
        groups = -(-size // FAN_OUT)
        total += 8 * groups * FAN_OUT
        if groups == 1:
            return total
        size = groups
