"""Each space becomes the frame that the table in `envs/observations.py` states; other values are named."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from small_envs import ENV_ID, Sampled, nested, registered

from q2pi.envs.encoding import BadObservation
from q2pi.envs.layout import Layout, Part, plain_part
from q2pi.envs.make import make_envs
from q2pi.envs.masks import action_mask
from q2pi.envs.observations import ObservationReader
from q2pi.envs.spec import EnvSpec, resolve
from q2pi.errors import UserError

SPEC = EnvSpec("Own-v0")


def reader(space: Any, **options: Any) -> ObservationReader:
    return ObservationReader(EnvSpec("Own-v0", **options), space)


def pixels(shape: tuple[int, ...]) -> Any:
    """Return an image [C, H, W] whose bytes all differ from their neighbours'."""
    return (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)


IMAGE = pixels((3, 10, 12))


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (spaces.Box(0, 255, (10, 12, 3), np.uint8), np.moveaxis(IMAGE, 0, -1)),
        (spaces.Box(0, 255, (3, 10, 12), np.uint8), IMAGE),
        (spaces.Box(0, 255, (3, 10, 12), np.int64), IMAGE.astype(np.int64)),
        (spaces.Box(0, 255, (3, 10, 12, 1), np.uint8), IMAGE[..., None]),
    ],
    ids=["channels-last", "channels-first", "int64", "stacked gray"],
)
def test_images_of_bytes(space: Any, value: Any) -> None:
    found = reader(space)
    assert found.parts == (Part("", "image", (3, 10, 12), scale=255),)
    assert found.frame_space == spaces.Box(0, 255, (3, 10, 12), np.uint8)
    frames = found.frames([value, 0 * value])
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, [IMAGE, 0 * IMAGE])


@pytest.mark.parametrize(
    ("shape", "frame"),
    [
        ((7, 7, 3), (3, 7, 7)),
        ((10, 10, 4), (4, 10, 10)),
        ((10, 10, 10), (10, 10, 10)),
        ((10, 10, 7), (7, 10, 10)),
        ((6, 10, 10), (6, 10, 10)),
        ((3, 3, 3), (3, 3, 3)),
        ((3, 4, 4), (3, 4, 4)),
        ((4, 84, 84), (4, 84, 84)),
        ((84, 84), (1, 84, 84)),
        ((5, 3), (1, 5, 3)),
        ((2, 10, 12, 3), (6, 10, 12)),
        ((2, 3, 10, 12), (6, 10, 12)),
    ],
)
def test_the_axis_of_the_channels(shape: tuple[int, ...], frame: tuple[int, ...]) -> None:
    value = pixels(shape)
    found = reader(spaces.Box(0, 255, shape, np.uint8))
    assert found.parts[0].shape == frame
    got = found.frames([value])[0]
    assert got.shape == frame
    assert sorted(got.reshape(-1)) == sorted(value.reshape(-1))
    if shape[-1] == frame[0] and len(shape) == 3 and shape[0] != shape[-1]:
        np.testing.assert_array_equal(got[1], value[:, :, 1])


@pytest.mark.parametrize("high", [1.0, 255.0])
def test_images_of_floats_keep_their_values(high: float) -> None:
    value = (IMAGE / 251 * high).astype(np.float64)
    found = reader(spaces.Box(0, high, (3, 10, 12), np.float64))
    assert found.parts == (Part("", "image", (3, 10, 12), scale=high),)
    frames = found.frames([value])
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames[0], value.astype(np.float32))


def test_boolean_planes_are_black_and_white() -> None:
    value = pixels((10, 10, 6)) % 2 == 0
    found = reader(spaces.Box(0, 1, (10, 10, 6), bool))
    assert found.parts == (Part("", "image", (6, 10, 10), scale=255),)
    np.testing.assert_array_equal(found.frames([value])[0], 255 * np.moveaxis(value, -1, 0))


def test_small_bounds_are_the_scale() -> None:
    """A grid of objects 0 to 10 divided by 255 would be nearly black."""
    assert reader(spaces.Box(0, 10, (7, 7, 3), np.uint8)).parts[0].scale == 10


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (3, 10, 12), np.float32),
        spaces.Box(0, 2, (3, 10, 12), np.float32),
        spaces.Box(-np.inf, np.inf, (10, 12)),
        spaces.Box(0, 1, (5, 5), np.float32),
        spaces.Box(0, 255, (128,), np.uint8),
        spaces.Box(0, 255, (2, 128), np.uint8),
        spaces.Box(0, 300, (10, 12), np.int64),
        spaces.Box(-1, 1, (), np.float64),
    ],
    ids=str,
)
def test_other_boxes_are_vectors(space: Any) -> None:
    space.seed(1)
    value, length = space.sample(), int(np.prod(space.shape))
    found = reader(space)
    assert (found.parts, found.frame_space.dtype) == ((Part("", "vector", (length,)),), np.float32)
    np.testing.assert_array_equal(found.frames([value])[0], np.reshape(value, -1).astype(np.float32))


@pytest.mark.parametrize(
    ("space", "value", "sizes", "indices"),
    [
        (spaces.Discrete(5, start=-2), 1, (5,), [3]),
        (spaces.MultiDiscrete([3, 4], start=[1, 0]), np.array([2, 3]), (3, 4), [1, 3]),
        (spaces.MultiDiscrete([[3, 4], [5, 6]]), np.array([[0, 1], [2, 3]]), (3, 4, 5, 6), [0, 1, 2, 3]),
        (spaces.Tuple([spaces.Discrete(2), spaces.Discrete(9, start=3)]), (1, 11), (2, 9), [1, 8]),
        (spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Discrete(9)}), {"a": 7, "b": 1}, (9, 2), [7, 1]),
    ],
    ids=["Discrete", "MultiDiscrete", "matrix", "Tuple", "Dict"],
)
def test_indices_count_from_zero(space: Any, value: Any, sizes: tuple[int, ...], indices: list[int]) -> None:
    found = reader(space)
    assert [(part.kind, part.sizes) for part in found.parts] == [("one-hot", sizes)]
    assert found.frame_space.high.tolist() == [size - 1 for size in sizes]
    assert found.frame_space.dtype == np.int64
    assert found.frames([value]).tolist() == [indices]
    assert plain_part(found.frame_space).sizes == sizes


def test_bits_are_a_vector() -> None:
    found = reader(spaces.MultiBinary((2, 2)))
    assert found.parts == (Part("", "vector", (4,)),)
    assert found.frames([np.array([[0, 1], [1, 1]], np.int8)]).tolist() == [[0, 1, 1, 1]]


def test_nested_spaces_are_packed_in_order() -> None:
    found = ObservationReader(SPEC, nested(), mask_size=3)
    assert found.parts == (
        Part("camera", "image", (3, 8, 9)),
        Part("goal[0]", "vector", (2,)),
        Part("goal[1]", "one-hot", (1,), (4,)),
        Part("keys", "vector", (3,)),
        Part("action mask", "mask", (3,)),
    )
    camera = np.moveaxis(pixels((3, 8, 9)), 0, -1)
    value = {"camera": camera, "goal": (np.array([-0.5, 0.25], np.float32), 2), "keys": np.array([1, 0, 1], np.int8)}
    frame = found.frames([value], [np.array([True, False, True])])[0]
    assert (frame.dtype, found.frame_space.shape) == (np.float32, frame.shape)
    np.testing.assert_array_equal(frame[:216], pixels((3, 8, 9)).reshape(-1))
    assert frame[216:].tolist() == [-0.5, 0.25, 3, 1, 0, 1, 1, 0, 1]
    layout = Layout(found.parts, stack=2)
    assert (layout.frame_length, layout.mask_size) == (225, 3)
    vector = layout.vector_entries()
    assert np.flatnonzero(vector[:225]).tolist() == [216, 217, 219, 220, 221]
    assert vector[225:].tolist() == vector[:225].tolist()


def test_bytes_are_packed_as_bytes() -> None:
    """An image with a direction takes a quarter of the memory of floats."""
    space = spaces.Dict({"direction": spaces.Discrete(4), "image": spaces.Box(0, 255, (7, 7, 3), np.uint8)})
    assert reader(space).frame_space == spaces.Box(0, 255, (148,), np.uint8)
    large = spaces.Dict({"direction": spaces.Discrete(400), "image": spaces.Box(0, 255, (7, 7, 3), np.uint8)})
    assert reader(large).frame_space.dtype == np.float32


def test_a_dict_of_one_box_is_that_box() -> None:
    found = reader(spaces.Dict({"camera": spaces.Box(0, 255, (10, 12, 3), np.uint8)}))
    assert found.frame_space.shape == (3, 10, 12)
    np.testing.assert_array_equal(found.frames([{"camera": np.moveaxis(IMAGE, 0, -1)}])[0], IMAGE)


BYTES = spaces.Box(0, 255, (4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (BYTES, np.zeros((4, 3, 4), np.uint8), r"the observation an array of shape \(4, 3, 4\): its space is Box"),
        (BYTES, np.full((4, 4, 3), 256), r"\(4, 4, 3\), int64 from 256 to 256"),
        (BYTES, np.full((4, 4, 3), -1.0), "from -1 to -1"),
        (BYTES, np.full((4, 4, 3), 0.5), "from 0.5 to 0.5"),
        (spaces.Box(0, 1, (4, 4, 3)), np.full((4, 4, 3), 200.0), "from 200 to 200"),
        (spaces.Box(0, 1, (4, 4, 3)), np.full((4, 4, 3), np.nan), "from nan to nan"),
        (spaces.Box(0, 1, (4, 4, 3), bool), np.full((4, 4, 3), 7), "from 7 to 7"),
        (spaces.Box(-1, 1, (3,)), np.zeros(4), r"the observation an array of shape \(4,\): its space"),
        (spaces.Box(-1, 1, (3,)), None, "the observation None: its space"),
        (spaces.Box(-1, 1, (3,)), "abc", "the observation 'abc': its space"),
        (spaces.Discrete(3, start=1), 0, "the observation 0: its space is Discrete"),
        (spaces.Discrete(3, start=1), 4, "observation 4:"),
        (spaces.Discrete(3), 1.5, "observation 1.5:"),
        (spaces.MultiDiscrete([3, 3]), np.array([0, 3]), r"observation \[0, 3\]:"),
        (spaces.MultiBinary(2), np.array([0, 2]), r"observation \[0, 2\]:"),
        (spaces.Dict({"a": spaces.Discrete(2), "b": BYTES}), {"a": 1}, "without the part 'b'"),
        (spaces.Tuple([spaces.Discrete(2), BYTES]), (1,), r"without the part '\[1\]'"),
    ],
)
def test_what_is_not_in_the_space_is_named(space: Any, value: Any, message: str) -> None:
    with pytest.raises(BadObservation, match=message) as raised:
        reader(space).frames([value])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (BYTES, np.full((4, 4, 3), 7.0), 7),
        (BYTES, np.full((4, 4, 3), 7), 7),
        (spaces.Box(0, 10, (4, 4, 3), np.uint8), np.full((4, 4, 3), 11, np.uint8), 11),
        (spaces.Box(-1, 1, (3,), np.float32), np.full(3, 9, np.int64), 9),
        (spaces.Box(-1, 1, (3,), np.float32), [9, 9, 9], 9),
        (spaces.Box(0, 255, (3,), np.uint8), np.full(3, 300), 300),
        (spaces.Box(0, 1, (4, 4, 3), bool), np.full((4, 4, 3), 1.0), 255),
        (spaces.Discrete(3), np.array(2.0), 2),
    ],
)
def test_what_can_be_cast_without_loss_is_cast(space: Any, value: Any, expected: float) -> None:
    frames = reader(space).frames([value])
    assert (frames == expected).all()


@pytest.mark.parametrize(
    ("space", "kind"),
    [
        (spaces.Text(5), "Text"),
        (spaces.Sequence(spaces.Discrete(2)), "Sequence"),
        (spaces.Graph(spaces.Discrete(2), None), "Graph"),
        (spaces.Dict({"path": spaces.Sequence(spaces.Discrete(2)), "b": BYTES}), "Sequence"),
    ],
)
def test_spaces_that_no_network_reads_are_named(space: Any, kind: str) -> None:
    with pytest.raises(
        UserError, match=f"--env-id Own-v0 has the observation.* of type {kind}, which no network reads"
    ):
        reader(space)


class MissionSpace(spaces.Space[str]):
    """Texts of a class of its own, as MiniGrid has."""

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        return "get the key"


@pytest.mark.parametrize("mission_space", [spaces.Text(20), MissionSpace()])
def test_a_text_beside_other_parts_is_left_out(mission_space: Any) -> None:
    """As MiniGrid's observations: direction, image and mission."""
    parts = {"direction": spaces.Discrete(4), "image": spaces.Box(0, 255, (7, 7, 3), np.uint8)}
    made = reader(spaces.Dict(parts | {"mission": mission_space}))
    plain = reader(spaces.Dict(parts))
    assert made.unread == ("mission",)
    assert plain.unread == ()
    assert made.parts == plain.parts
    observation = {"direction": 3, "image": pixels((7, 7, 3)), "mission": "get the key"}
    assert (made.frames([observation]) == plain.frames([observation])).all()
    batch = {"direction": np.array([3, 1]), "image": np.stack([pixels((7, 7, 3))] * 2)}
    for mission in ({}, {"mission": ["get the key", "go"]}):
        found = made.batch_of(batch | mission)
        assert found is not None
        assert made.frames(found[0]).shape == (2, 1 + 7 * 7 * 3)


def test_texts_alone_are_no_observation() -> None:
    with pytest.raises(UserError, match="--env-id Own-v0 has no observations: its observation space is Dict"):
        reader(spaces.Dict({"mission": spaces.Text(5)}))


def test_one_line_names_the_environment_and_what_it_returned() -> None:
    message = rf"--env-id {ENV_ID}: reset returned the observation an array of shape \(2, 4, 3\): .*episode 0, reset"
    with registered(lambda: Sampled(BYTES, returned=lambda sample: sample[:2])) as env_id:
        envs = make_envs(EnvSpec(env_id), 2, 1)
        with pytest.raises(UserError, match=message):
            envs.reset()


GRADIENT = np.arange(12 * 16 * 3).reshape(12, 16, 3) % 256


@pytest.mark.parametrize("first", [False, True], ids=["channels-last", "channels-first"])
def test_crop_gray_and_resize(first: bool) -> None:
    value = GRADIENT.astype(np.uint8)
    shape: Any = (3, 12, 16) if first else (12, 16, 3)
    options: Any = {"crop": (2, 2, 0, 8), "resize": (4, 4), "grayscale": True}
    found = reader(spaces.Box(0, 255, shape, np.uint8), **options)
    frame = found.frames([np.moveaxis(value, -1, 0) if first else value])[0]
    assert found.parts[0].shape == frame.shape == (1, 4, 4)
    gray = np.rint(value[2:10, :8] @ np.array([0.299, 0.587, 0.114]))
    np.testing.assert_array_equal(frame[0], np.rint(gray.reshape(4, 2, 4, 2).mean(axis=(1, 3))))


def test_image_options_of_floats_and_of_alpha() -> None:
    value = np.random.default_rng(0).random((6, 6, 4)).astype(np.float32)
    found = reader(spaces.Box(0, 1, (6, 6, 4)), grayscale=True, resize=(3, 3))
    gray = value[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    got = found.frames([value])[0, 0]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, gray.reshape(3, 2, 3, 2).mean(axis=(1, 3)), rtol=1e-5)


def test_image_options_apply_to_every_image_of_a_dict() -> None:
    found = reader(nested(), resize=(4, 4), grayscale=True)
    assert [part.shape for part in found.parts] == [(1, 4, 4), (2,), (1,), (3,)]


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (spaces.Box(0, 1, (10, 10, 6), bool), {"grayscale": True}, "--grayscale: .* has images of 6 channels"),
        (BYTES, {"crop": (2, 2, 0, 0)}, "--crop 2 2 0 0 removes the whole 4 x 4 image"),
        (spaces.Box(-1, 1, (3,)), {"resize": (9, 9)}, "--resize 9 9 applies to images, and .* observes none"),
        (spaces.Discrete(4), {"crop": (0, 0, 0, 1)}, "--crop 0 0 0 1 applies to images"),
    ],
)
def test_image_options_without_such_images_are_refused(space: Any, options: Any, message: str) -> None:
    with registered(lambda: Sampled(space)) as env_id, pytest.raises(UserError, match=message):
        resolve(EnvSpec(env_id, **options))


@pytest.mark.parametrize(
    ("space", "stack"),
    [(spaces.Box(0, 1, (10, 10, 6), bool), 4), (spaces.Box(0, 255, (9, 9), np.uint8), 4), (nested(), 1)],
)
def test_single_images_are_stacked_by_default(space: Any, stack: int) -> None:
    with registered(lambda: Sampled(space)) as env_id:
        assert resolve(EnvSpec(env_id)).stack == stack


def test_frames_are_skipped_and_rewards_summed() -> None:
    with registered(lambda: Sampled(spaces.Box(-1, 1, (3,)), length=10)) as env_id:
        envs, plain = make_envs(EnvSpec(env_id, frame_skip=4), 1, 3), Sampled(spaces.Box(-1, 1, (3,)))
        envs.reset()
        plain.reset(seed=envs.seed_of(0, 0))
        rewards, ended = [], []
        for _ in range(3):
            for _ in range(4):
                observation = plain.step(2)[0]
            envs.send(np.array([2]))
            step = envs.recv()
            rewards.append(step.reward[0])
            ended.append(bool(step.terminated[0]))
            if not ended[-1]:
                np.testing.assert_array_equal(step.next_observation[0], observation)
        assert (rewards, ended) == ([4, 4, 2], [False, False, True])


class Masked(Sampled):
    mask: Any = None

    def action_masks(self) -> Any:
        return self.mask


def test_a_mask_comes_from_the_info_or_from_the_method() -> None:
    plain, env = Sampled(BYTES), Masked(BYTES)
    env.mask = [1, 0, 1]
    assert action_mask(plain, {}, (3,)) is None
    found = action_mask(env, {}, (3,))
    assert found is not None
    assert found.dtype == np.bool_
    assert found.tolist() == [True, False, True]
    found = action_mask(env, {"action_mask": np.array([0, 0, 1], np.int8)}, (3,))
    assert found is not None
    assert found.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("mask", "message"),
    [([1, 0], "it must be 3 values"), ([0, 1, 2], "0 or 1"), ([0, 0, 0], "allows no action"), ("abc", "3 values")],
)
def test_bad_masks_are_named(mask: Any, message: str) -> None:
    with pytest.raises(BadObservation, match=message):
        action_mask(Sampled(BYTES), {"action_mask": mask}, (3,))


def test_after_termination_any_mask_will_do() -> None:
    found = action_mask(Sampled(BYTES), {"action_mask": [0, 0, 0]}, (3,), terminated=True)
    assert found is not None
    assert found.all()
