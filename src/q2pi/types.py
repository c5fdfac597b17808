"""Types that every part shares."""

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
State = dict[str, Any]
"""What a checkpoint holds: nested dicts of tensors, arrays, numbers and text."""
Metrics = dict[str, float]
