"""Which transitions to learn from: a draw picks slots, `Replay.sample` assembles them."""

from collections.abc import Callable

import numpy as np

from q2pi.buffers.replay import Replay, Slots
from q2pi.errors import UserError

Draw = Callable[[Replay, int, np.random.Generator], Slots]
"""(replay, batch_size, generator) -> slots [B], each of which can be sampled."""


def uniform(replay: Replay, batch_size: int, generator: np.random.Generator) -> Slots:
    """Return slots [B], drawn independently and with equal chances from all transitions that can be sampled.

    Rows are drawn uniformly from those written and refused where no transition can be sampled (rejection sampling).

    Raises:
        UserError: no transition can be sampled.
        ValueError: the replay has not begun.
    """
    held = replay.held
    upto = np.cumsum(held)
    if not upto[-1]:
        raise ValueError("uniform before begin: the replay has no rows")
    slots = np.empty(0, np.int64)
    while len(slots) < batch_size:
        rank = generator.integers(upto[-1], size=batch_size - len(slots))
        stream = np.searchsorted(upto, rank, side="right")
        drawn = stream * replay.rows + rank - (upto - held)[stream]
        accepted = drawn[replay.can_sample(drawn)]
        if not len(accepted) and not len(replay):
            raise UserError("the replay holds no transition to sample yet: --learning-starts must leave time for one")
        slots = np.concatenate([slots, accepted])
    return slots
