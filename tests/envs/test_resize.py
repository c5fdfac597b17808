import numpy as np
import pytest

from q2pi.envs.resize import AreaResize, area_weights, bands


def test_weights_worked_by_hand() -> None:
    # Five pixels to two: the first covers [0, 2.5), in halves of a pixel 2 + 2 + 1.
    np.testing.assert_array_equal(area_weights(5, 2), [[2, 2, 1, 0, 0], [0, 0, 1, 2, 2]])
    # Two pixels to three: thirds of a pixel.
    np.testing.assert_array_equal(area_weights(2, 3), [[2, 0], [1, 1], [0, 2]])


def test_means_of_patches() -> None:
    frame = np.array([[0, 10, 20, 30], [40, 50, 60, 70]], np.uint8)
    # Patches {0, 10, 40, 50} and {20, 30, 60, 70}.
    np.testing.assert_array_equal(AreaResize((2, 4), (1, 2))(frame), [[25, 45]])


def test_halves_are_rounded_to_even() -> None:
    frame = np.array([[0, 1, 1, 2, 254, 255]], np.uint8)
    np.testing.assert_array_equal(AreaResize((1, 6), (1, 3))(frame), [[0, 2, 254]])


@pytest.mark.parametrize("size", [(84, 84), (60, 91), (173, 160)])
def test_equals_the_slow_definition(size: tuple[int, int]) -> None:
    raw = (173, 160)
    frames = np.random.default_rng(0).integers(0, 256, (2, 1, *raw), dtype=np.uint8)
    got = AreaResize(raw, size)(frames)
    assert got.shape == (2, 1, *size)
    for y, x in [(0, 0), (size[0] - 1, size[1] - 1), (size[0] // 2, size[1] // 3)]:
        total = sum(
            frames[1, 0, row, column] * overlap(row, y, raw[0], size[0]) * overlap(column, x, raw[1], size[1])
            for row in range(raw[0])
            for column in range(raw[1])
        )
        mean = total * (size[0] / raw[0]) * (size[1] / raw[1])
        assert abs(float(got[1, 0, y, x]) - mean) <= 0.5 + 1e-6


def overlap(pixel: int, new_pixel: int, old: int, new: int) -> float:
    """Return the overlap of an old and a new pixel along one axis."""
    scale = old / new
    return max(0.0, min(pixel + 1, (new_pixel + 1) * scale) - max(pixel, new_pixel * scale))


@pytest.mark.parametrize("old", [(8, 8), (400, 600)])
def test_large_frames_and_floats_have_the_same_means(old: tuple[int, int]) -> None:
    """Sums of large frames exceed the integers that float32 represents."""
    frame = np.random.default_rng(0).integers(0, 256, old, dtype=np.uint8)
    half = frame.reshape(old[0] // 2, 2, old[1] // 2, 2).mean(axis=(1, 3))
    resize = AreaResize(old, (old[0] // 2, old[1] // 2))
    np.testing.assert_array_equal(resize(frame), np.rint(half).astype(np.uint8))
    got = resize(frame.astype(np.float32))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, half, rtol=1e-6)


@pytest.mark.parametrize("old", [210, 250])
def test_products_are_too_small_for_threads(old: int) -> None:
    """OpenBLAS divides products of 262,144 multiplications or more; one matrix for all rows needs 84 x 210 x 160."""
    blocks = bands(area_weights(old, 84))
    assert max(weights.size for _, _, weights in blocks) * 160 < 262_144 < 84 * old * 160
    np.testing.assert_array_equal(np.concatenate([np.arange(84)[new] for new, _, _ in blocks]), np.arange(84))
    assert sum(weights.sum() for _, _, weights in blocks) == 84 * old
