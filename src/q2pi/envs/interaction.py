"""Reset and step of one Gymnasium environment, with its results checked.

Infos are not checked, whatever their type. Observations are checked when they are converted, see `observations`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from q2pi.envs.errors import first_line

_FIVE = "(observation, reward, terminated, truncated, info)"


class BadResult(Exception):
    """An environment raised an exception (then it is the cause), or returned what Gymnasium does not allow."""


def reset(env: Any, seed: int) -> tuple[Any, Any]:
    """Return (the first observation of a new episode, the info).

    Raises:
        BadResult: see the class.
    """
    try:
        result = env.reset(seed=seed)
    except Exception as error:
        raise BadResult(_of_reset(error)) from error
    is_pair = isinstance(result, tuple | list) and len(result) == 2
    if not is_pair or not (result[1] is None or isinstance(result[1], Mapping)):
        returned = "only the observation" if _contains(env, result) else f"{described(result)}"
        raise BadResult(f"reset returned {returned}: it must return the pair (observation, info)")
    return result[0], result[1]


def step(env: Any, action: Any) -> tuple[Any, float, bool, bool, Any]:
    """Return (observation, reward, terminated, truncated, info) of an action.

    Raises:
        BadResult: see the class.
    """
    try:
        result = env.step(action)
    except Exception as error:
        raise BadResult(_of_step(error)) from error
    if not isinstance(result, tuple | list) or len(result) != 5:
        raise BadResult(f"step returned {described(result)}: it must return the five values {_FIVE}")
    observation, reward, terminated, truncated, info = result
    if type(reward) is not float:
        reward = _number(reward)
    if not math.isfinite(reward):
        raise BadResult(f"step returned the reward {reward}: a reward must be finite")
    if type(terminated) is not bool:
        terminated = _flag("terminated", terminated)
    if type(truncated) is not bool:
        truncated = _flag("truncated", truncated)
    return observation, reward, terminated, truncated, info


def _flag(name: str, value: Any) -> bool:
    """Return `terminated` or `truncated` as a bool."""
    if not isinstance(value, bool | np.bool_):
        raise BadResult(f"step returned {name} = {described(value)}: it must be True or False")
    return bool(value)


def _number(reward: Any) -> float:
    """Return a reward as a float."""
    is_number = isinstance(reward, int | float | np.floating | np.integer | np.bool_)
    if not is_number and not (isinstance(reward, np.ndarray) and reward.ndim == 0 and reward.dtype.kind in "fiub"):
        raise BadResult(f"step returned the reward {described(reward)}: a reward must be one number")
    try:
        return float(reward)
    except OverflowError:
        raise BadResult("step returned an integer as reward that is too large: a reward must be finite") from None


def _of_step(error: Exception) -> str:
    if _is_unpacking(error):
        return f"step returned another number of values than five: it must return {_FIVE}, not (..., done, info)"
    return f"step raised {first_line(error)}"


def _of_reset(error: Exception) -> str:
    text = str(error)
    if isinstance(error, TypeError) and "argument" in text and ("'seed'" in text or "'options'" in text):
        return f"{text}: give reset the signature reset(self, *, seed=None, options=None)"
    if _is_unpacking(error):
        return "reset returned only the observation: it must return the pair (observation, info)"
    return f"reset raised {first_line(error)}"


def _is_unpacking(error: Exception) -> bool:
    """Return whether a wrapper of Gymnasium could not unpack what the environment returned."""
    if not isinstance(error, TypeError | ValueError) or "unpack" not in str(error):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("gymnasium.")


def _contains(env: Any, value: Any) -> bool:
    try:
        return bool(env.observation_space.contains(value))
    except Exception:
        return False


def described(value: Any) -> str:
    """Return a short description of a value: its type, and its shape or length if it has one."""
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} values"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 and "\n" not in text else f"a {type(value).__name__}"
