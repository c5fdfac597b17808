"""Named, counter-based random streams: randomness as a pure function, with no generator state to lose.

`stream(seed, "explore", step)` gives the same numbers in every call and process, so a resumed run needs only its step
counter. Built on Philox (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011): the key holds the run's seed and the stream's name, the counter holds the caller's counters.
"""

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WORD = 2**64
SEED_BOUND = 2**31
"""Derived seeds are in [0, SEED_BOUND): the range that every emulator and environment accepts."""


@lru_cache(maxsize=256)
def _word(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def stream(seed: int, name: str, *counters: int) -> np.random.Generator:
    """Return the generator of the stream `name` of run `seed` at up to three counters.

    Streams that differ in seed, name or any counter are independent; the lowest counter word is left to the generator
    itself, so each stream holds 2^64 blocks of numbers.

    Args:
        seed: the run's seed, a non-negative integer.
        name: what the numbers are for, such as "explore" or "replay".
        counters: at most three non-negative integers, such as a step counter.
    """
    key = np.array([seed % _WORD, _word(name)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=_counter_words(counters)))


class Stream:
    """The generators `stream(seed, name, ...)`, one at a time: moving a generator takes a fifth of making one.

    Args:
        seed, name: as for `stream`.
    """

    def __init__(self, seed: int, name: str) -> None:
        self._generator = stream(seed, name)
        self._state: Any = self._generator.bit_generator.state

    def at(self, *counters: int) -> np.random.Generator:
        """Return the generator `stream(seed, name, *counters)`; the next call moves it elsewhere."""
        self._state["state"]["counter"] = _counter_words(counters)
        self._generator.bit_generator.state = self._state
        return self._generator


def _counter_words(counters: tuple[int, ...]) -> NDArray[np.uint64]:
    if len(counters) > 3:
        raise ValueError(f"a stream takes at most three counters, got {len(counters)}")
    return np.array((0, *counters, *(0,) * (3 - len(counters))), dtype=np.uint64)


def derive(seed: int, name: str, *counters: int) -> int:
    """Return a seed in [0, SEED_BOUND) for a consumer that wants an integer (an emulator, a torch generator)."""
    return int(stream(seed, name, *counters).integers(SEED_BOUND))
