"""Random environments: spaces, endings, rewards, infos, returned types, rendering, and sometimes one mistake."""

import copy
import random
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from hypothesis import strategies as st

from q2pi.types import Array

MISTAKES = ("reward nan", "reward none", "reward array", "reward text", "observation nan", "four values", "no info",
            "raises in step", "raises in reset", "end is text")  # fmt: skip
ENDINGS = ("terminated", "truncated", "both")
REWARDS: tuple[Any, ...] = (
    *(0.0, 1.0, -0.1, 1e6, 16777217.0, 3, True),
    *(np.float32(0.1), np.float64(0.1), np.int8(-3), np.array(0.25)),
)
INFOS: tuple[Any, ...] = (
    *({}, {"a": 1}, {"a": None, "b": [1, "x"], 3: object()}, {"final_observation": np.zeros(5)}),
    *({"_a": 1, "a": {"b": {}}}, {"episode": 3.0}),
)


@dataclass(frozen=True)
class Draw:
    """Everything that determines an environment."""

    observation_space: Any
    action_space: Any
    ending: str
    length: int
    """Steps of the shortest episode; others are up to twice as long."""
    reward: Any
    info: Any
    float64: bool
    """Whether numbers are returned as float64 or int64 where the space has a shorter type."""
    same_buffer: bool
    """Whether every observation is the same array, written again."""
    is_seeded: bool
    """Whether randomness follows `reset(seed)`."""
    render: tuple[int, int, float] | None
    """Height, width and rate of rendered frames."""
    mistake: str | None


def dtypes(*names: str) -> st.SearchStrategy[Any]:
    return st.sampled_from([np.dtype(name) for name in names])


FLOATS, INTEGERS = ("float16", "float32", "float64"), ("int8", "uint8", "int16", "int32", "int64")


@st.composite
def boxes(draw: Any, largest: int = 6, dimensions: int = 3) -> Any:
    """Draw a Box: bounded, half bounded or unbounded, of any type."""
    dtype = draw(dtypes(*FLOATS, *INTEGERS))
    shape = tuple(draw(st.lists(st.integers(1, largest), max_size=dimensions)))
    if dtype.kind == "f":
        bounds = [(-1, 1), (0.1, 0.3), (-np.inf, np.inf), (0, np.inf), (-np.inf, 2), (-1e4, 1)]
        low, high = draw(st.sampled_from(bounds))
    else:
        info = np.iinfo(dtype)
        low, high = draw(st.sampled_from([(0, 1), (3, 9), (0, min(255, info.max)), (info.min, info.max)]))
    return spaces.Box(low, high, shape, dtype)


def images() -> st.SearchStrategy[Any]:
    shapes = st.sampled_from([(36, 36, 3), (40, 37, 1), (3, 36, 36), (44, 36), (12, 10, 3), (5, 5, 1)])
    return shapes.map(lambda shape: spaces.Box(0, 255, shape, np.uint8))


def simple_spaces() -> st.SearchStrategy[Any]:
    sizes = st.integers(1, 5)
    starts = st.integers(-3, 3)
    return st.one_of(
        boxes(),
        st.builds(lambda n, start: spaces.Discrete(n, start=start), sizes, starts),
        st.builds(
            lambda nvec, start: spaces.MultiDiscrete(nvec, start=[start] * len(nvec)),
            st.lists(sizes, min_size=1, max_size=3),
            starts,
        ),
        st.builds(spaces.MultiDiscrete, st.just([[2, 3], [1, 4]])),
        st.builds(spaces.MultiBinary, st.one_of(sizes, st.just((2, 2)))),
    )


def observation_spaces() -> st.SearchStrategy[Any]:
    def nested(inner: Any) -> Any:
        tuples = st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple)
        dicts = st.dictionaries(st.sampled_from(["a", "b c", "z"]), inner, min_size=1).map(spaces.Dict)
        return st.one_of(tuples, dicts)

    # Nested spaces, images and text are the rarer ones: they take longer, or are refused.
    simple = simple_spaces()
    return st.one_of(simple, simple, simple, nested(simple), nested(nested(simple)), images(), st.just(spaces.Text(3)))


def action_spaces() -> st.SearchStrategy[Any]:
    refused = st.sampled_from([spaces.Text(2), spaces.Dict({"a": spaces.Discrete(2)}), spaces.Box(0, 1, (0,))])
    simple = simple_spaces()
    discrete = st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-3, 3))
    return st.one_of(discrete, discrete, simple, simple, simple, refused)


def draws() -> st.SearchStrategy[Draw]:
    return st.builds(
        Draw,
        observation_space=observation_spaces(),
        action_space=action_spaces(),
        ending=st.sampled_from(ENDINGS),
        length=st.integers(1, 6),
        reward=st.sampled_from(REWARDS),
        info=st.sampled_from(INFOS),
        float64=st.booleans(),
        same_buffer=st.booleans(),
        is_seeded=st.sampled_from([True, True, True, False]),
        render=st.one_of(st.none(), st.tuples(st.integers(1, 70), st.integers(1, 70), st.sampled_from([0.5, 4, 240]))),
        mistake=st.sampled_from([None] * 5 + list(MISTAKES)),
    )


class Drawn(gymnasium.Env[Any, Any]):
    """The environment of a draw. It fails if an action is no member of its space."""

    returns: list[float]
    """Of the episodes that ended, in all environments of the draw; set by `register`."""

    def __init__(self, draw: Draw, returns: list[float], render_mode: str | None = None) -> None:
        self.draw, self.returns, self.render_mode = draw, returns, render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": draw.render[2]} if draw.render else {}
        # Copied: a space has a random stream, which the environments of a draw must not share.
        self.observation_space, self.action_space = copy.deepcopy(draw.observation_space), draw.action_space
        self.buffer: Array | None = None

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        own = seed if self.draw.is_seeded else random.randrange(10**6)
        self.observation_space.seed(own)
        self.t, self.total = 0, 0.0
        self.end = self.draw.length + (own or 0) % (self.draw.length + 1)
        if self.draw.mistake == "raises in reset":
            raise RuntimeError("drawn")
        observation = self.observe()
        return observation if self.draw.mistake == "no info" else (observation, self.draw.info)

    def step(self, action: Any) -> Any:
        draw = self.draw
        assert self.action_space.contains(action), f"{action!r} is outside {self.action_space}"
        self.t += 1
        ended = self.t >= self.end
        if draw.mistake == "raises in step":
            raise RuntimeError("drawn")
        self.total += float(draw.reward)
        if ended:
            self.returns.append(self.total)
        reward = {
            "reward nan": float("nan"),
            "reward none": None,
            "reward array": np.ones(1),
            "reward text": "1",
        }.get(draw.mistake or "", draw.reward)
        terminated: Any = ended and draw.ending != "truncated"
        truncated = ended and draw.ending != "terminated"
        if draw.mistake == "end is text":
            terminated = "no"
        if draw.mistake == "four values":
            return self.observe(), reward, terminated, draw.info
        return self.observe(), reward, terminated, truncated, draw.info

    def observe(self) -> Any:
        value = self.observation_space.sample()
        if not isinstance(value, np.ndarray):
            return value
        if self.draw.mistake == "observation nan" and value.dtype.kind == "f":
            return np.full_like(value, np.nan)
        if self.draw.float64 and value.dtype.kind in "fi":
            value = value.astype({"f": np.float64, "i": np.int64}[value.dtype.kind])
        if self.draw.same_buffer:
            if self.buffer is None:
                self.buffer = np.zeros_like(value)
            self.buffer[...] = value
            return self.buffer
        return value

    def render(self) -> Any:
        assert self.draw.render is not None
        return np.full((*self.draw.render[:2], 3), 40, np.uint8)
