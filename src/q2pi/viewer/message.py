"""Messages to the browser: a JSON header and the pictures of one moment.

bytes     0..3    length n of the header, little-endian
          4..n+3  the header, JSON: what is shown, and for each picture its name, type, offset and length
          then    the pictures, PNG or JPEG, one after the other
"""

import io
import json
import struct
from typing import Any

import numpy as np
from PIL import Image

from q2pi.types import Array

LARGE = 320 * 320
"""Pixels from which a screen is sent as JPEG: a PNG of a large screen takes too long to encode."""


def picture(pixels: Array) -> tuple[str, bytes]:
    """Return (media type, bytes) of an image, uint8 [H, W] in gray or [H, W, 3] in colour."""
    image, file = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    if image.width * image.height > LARGE:
        image.save(file, "JPEG", quality=88, subsampling=0)
        return "image/jpeg", file.getvalue()
    image.save(file, "PNG", compress_level=1)
    return "image/png", file.getvalue()


def pack(header: dict[str, Any], pictures: dict[str, tuple[str, bytes]]) -> bytes:
    """Return one message."""
    listed, offset = [], 0
    for name, (kind, data) in pictures.items():
        listed.append({"name": name, "type": kind, "offset": offset, "length": len(data)})
        offset += len(data)
    head = json.dumps(header | {"pictures": listed}, allow_nan=False).encode()
    return struct.pack("<I", len(head)) + head + b"".join(data for _, data in pictures.values())


def unpack(message: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return (header, pictures by name) of a message, as the browser reads it."""
    (length,) = struct.unpack_from("<I", message)
    header, body = json.loads(message[4 : 4 + length]), message[4 + length :]
    found = {entry["name"]: body[entry["offset"] : entry["offset"] + entry["length"]] for entry in header["pictures"]}
    return header, found


def stack_picture(observation: Array, stack: int) -> Array:
    """Return the frames of an image observation [K * C, H, W] side by side, oldest first: [H, K * W] or with colour."""
    frames = np.split(observation, stack)
    tiles = [frame[0] if len(frame) < 3 else np.moveaxis(frame[:3], 0, -1) for frame in frames]
    return np.concatenate(tiles, axis=1)


def saliency_picture(saliency: Array) -> Array:
    """Return the saliency of an image observation [K * C, H, W] as one gray image [H, W]: 255 is the largest.

    The absolute gradients are summed over the frames and averaged over 3 x 3 pixels: a single pixel is noise.
    """
    total = saliency.sum(axis=0)
    padded = np.pad(total, 1, mode="edge")
    rows, columns = total.shape
    smooth = sum(padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3))
    # A few border pixels often dominate: the 99.5 % quantile keeps the rest visible.
    top = max(float(np.quantile(smooth, 0.995)), 1e-12)
    scaled: Array = (np.clip(smooth / top, 0, 1) * 255).astype(np.uint8)
    return scaled
