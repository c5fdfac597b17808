"""Shape checks of equations: broadcasting would turn an argument of a wrong shape into a silently wrong result."""

from torch import Tensor


def require_shape(shape: tuple[int, ...], **tensors: Tensor | None) -> None:
    """Raise a ValueError that names the first tensor whose shape is not `shape`; None passes."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
