"""Named streams: pure functions of their name and counters, independent of each other."""

import numpy as np
import pytest

from q2pi.rng import SEED_BOUND, Stream, derive, stream


def words(generator: np.random.Generator, count: int = 64) -> list[int]:
    return generator.integers(2**63, size=count).tolist()


def test_a_stream_does_not_depend_on_earlier_calls() -> None:
    first = words(stream(1, "explore", 40))
    np.random.seed(5)  # noqa: NPY002
    words(stream(1, "replay", 40), 1000)
    assert words(stream(1, "explore", 40)) == first


def test_missing_counters_are_zero() -> None:
    assert words(stream(1, "explore")) == words(stream(1, "explore", 0, 0, 0))


@pytest.mark.parametrize(
    "other",
    [(2, "explore", 40), (1, "replay", 40), (1, "explore", 41), (1, "explore", 0, 40), (1, "explore", 40, 1)],
    ids=["seed", "name", "counter", "place of the counter", "one more counter"],
)
def test_streams_differ(other: tuple[int, str, int]) -> None:
    first, second = words(stream(1, "explore", 40)), words(stream(*other))
    assert not set(first) & set(second)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5


def overlap(make: object) -> int:
    """Return the number of values that ten neighbouring streams share."""
    assert callable(make)
    drawn = [set(words(make(step), 1000)) for step in range(10)]
    return 10_000 - len(set.union(*drawn))


def test_neighbouring_streams_share_no_numbers() -> None:
    assert overlap(lambda step: stream(1, "explore", step)) == 0


def test_control_counters_in_the_lowest_word_share_numbers() -> None:
    """Negative control: the generator uses the lowest word as its own counter."""
    assert overlap(lambda step: np.random.Generator(np.random.Philox(key=1, counter=[step, 0, 0, 0]))) > 8_000


def test_the_global_generator_is_unchanged() -> None:
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    stream(1, "explore", 7).random(100)
    assert np.random.random() == expected  # noqa: NPY002


def test_at_most_three_counters() -> None:
    with pytest.raises(ValueError, match="at most three counters, got 4"):
        stream(1, "explore", 1, 2, 3, 4)


def test_derived_seeds_are_in_the_range_of_every_emulator() -> None:
    seeds = [derive(1, "episode", game, number) for game in range(8) for number in range(50)]
    assert len(set(seeds)) == 400
    assert min(seeds) >= 0
    assert max(seeds) < SEED_BOUND == 2**31
    assert abs(np.mean(seeds) / 2**31 - 0.5) < 0.06  # 4 standard deviations of a mean of 400


def test_seeds_of_any_size() -> None:
    assert words(stream(2**70 + 1, "x")) == words(stream(2**70 + 1, "x"))


def test_a_moved_generator_is_that_of_the_stream() -> None:
    explore = Stream(1, "explore")
    for counters in [(40,), (), (0, 1, 2), (2**40,), (40,)]:
        moved = explore.at(*counters)
        assert moved.random(3).tolist() == stream(1, "explore", *counters).random(3).tolist()
        moved.integers(5, size=3, dtype=np.uint32)  # leaves half a word in the generator, which the next must not see
    with pytest.raises(ValueError, match="at most three counters, got 4"):
        explore.at(1, 2, 3, 4)


def test_a_generator_is_valid_until_the_next_move() -> None:
    """Negative control: two generators of one `Stream` are the same, so each must be used up before the next."""
    explore = Stream(1, "explore")
    first = explore.at(1)
    explore.at(2)
    assert first.random(3).tolist() == stream(1, "explore", 2).random(3).tolist()
