"""Messages to the browser, their pictures, and the timeline that keeps them."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from q2pi.viewer.message import pack, picture, saliency_picture, stack_picture, unpack
from q2pi.viewer.timeline import Shown, Timeline


def test_a_message_is_read_as_it_was_written() -> None:
    header, pictures = unpack(pack({"step": 3, "name": "ö"}, {"a": ("image/png", b"12"), "b": ("image/png", b"345")}))
    assert (header["step"], header["name"]) == (3, "ö")
    assert pictures == {"a": b"12", "b": b"345"}


def test_nan_is_refused_because_browsers_cannot_read_it() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        pack({"value": float("nan")}, {})


def test_small_screens_are_exact_and_large_ones_nearly() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (210, 160, 3), np.uint8)
    kind, data = picture(small)
    assert kind == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), small)
    large = np.full((400, 600, 3), 200, np.uint8)
    large[100:300, 200:400] = (20, 90, 180)
    kind, data = picture(large)
    assert kind == "image/jpeg"
    assert np.abs(np.asarray(Image.open(io.BytesIO(data))).astype(int) - large).mean() < 3


def test_the_frames_of_a_stack_stand_side_by_side_oldest_first() -> None:
    gray = np.stack([np.full((2, 3), value, np.uint8) for value in (1, 2, 3, 4)])
    np.testing.assert_array_equal(stack_picture(gray, 4)[0], [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4])
    colour = np.concatenate([np.full((3, 2, 2), value, np.uint8) for value in (5, 6)])
    assert stack_picture(colour, 2).shape == (2, 4, 3)


def test_saliency_is_summed_over_frames_and_its_largest_pixels_are_white() -> None:
    saliency = np.zeros((4, 20, 20), np.float32)
    saliency[0, 5, 5], saliency[3, 5, 5] = 1.0, 2.0
    shown = saliency_picture(saliency)
    assert shown[5, 5] == shown[4, 6] == 255, "averaged over 3 x 3 pixels"
    assert shown[5, 8] == 0
    assert saliency_picture(np.zeros((4, 20, 20), np.float32)).max() == 0


def shown(size: int, value: float = 0.0) -> Shown:
    panels: list[dict[str, Any]] = [{}]
    return Shown(panels, {"screen 0": ("image/png", bytes(size))}, [value])


def test_a_timeline_drops_its_oldest_pictures_and_keeps_all_values() -> None:
    timeline = Timeline(max_bytes=100)
    for index in range(6):
        timeline.append(shown(30, float(index)))
    assert (len(timeline), timeline.first) == (6, 3)
    assert timeline.values == [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]]
    assert timeline[5].values == [5.0]
    assert timeline[0].values == timeline[3].values == [3.0]


def test_a_moment_larger_than_the_bound_is_kept() -> None:
    timeline = Timeline(max_bytes=10)
    timeline.append(shown(50, 7.0))
    assert timeline[0].values == [7.0]


def test_cutting_a_timeline_frees_its_bytes() -> None:
    timeline = Timeline(max_bytes=100)
    for index in range(3):
        timeline.append(shown(30, float(index)))
    timeline.cut(1)
    timeline.replace_last(shown(10, 9.0))
    assert (len(timeline), timeline.values) == (1, [[9.0]])
    for index in range(3):
        timeline.append(shown(30, float(index)))
    assert timeline.first == 0, "10 + 3 * 30 bytes fit"
