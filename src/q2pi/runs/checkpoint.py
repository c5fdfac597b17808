"""Checkpoints: the complete training state on disk, written atomically and verified before it is read.

A checkpoint is a folder `checkpoints/<step>/`:

    manifest.json         step, notes, contents, size and SHA-256 of each file, and a SHA-256 of the manifest itself
    state.json            numbers and text
    weights.safetensors   torch tensors (networks and optimizer)
    arrays.safetensors    small numpy arrays
    <name>.zst            each large numpy array: its raw bytes in C order, compressed with Zstandard

It is written under a temporary name, flushed, and renamed. Nothing in it is executed when it is read.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import zstandard
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_numpy_file
from safetensors.numpy import save as save_numpy
from safetensors.torch import load_file as load_torch_file
from safetensors.torch import save as save_torch

from q2pi.errors import UserError
from q2pi.parallel import portable
from q2pi.runs import manifest
from q2pi.runs.manifest import folder_of, steps, to_json
from q2pi.types import Array, State

KEPT = 2
_LARGE = 1 << 20
_PIECE = 4 << 20


class Damaged(Exception):
    """A checkpoint whose bytes differ from what was written."""


def save(folder: Path, step: int, state: State, info: Mapping[str, Any] | None = None) -> Path:
    """Write `state` as the checkpoint of agent step `step` in `folder` and return its path.

    The previous checkpoint is kept. Older ones are removed, and so are checkpoints of later steps: training resumed
    from before them because they were damaged.

    Args:
        folder: the `checkpoints` folder of a run.
        step: agent steps taken so far.
        state: nested dicts of torch tensors, numpy arrays, numbers, text, and lists of numbers or text.
        info: JSON-able notes that are not part of the training state.
    """
    final = folder_of(folder, step)
    temporary = folder / f".{final.name}.partial"
    for torn in folder.glob(".*.partial"):
        shutil.rmtree(torn)
    temporary.mkdir(parents=True)
    try:
        _write_all(temporary, step, state, dict(info or {}))
        shutil.rmtree(final, ignore_errors=True)
        portable.replace(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    portable.flush_folder(folder)
    found = steps(folder)
    kept = [number for number in found if number <= step][-KEPT:]
    for number in found:
        if number not in kept:
            shutil.rmtree(folder_of(folder, number))
    return final


def _write_all(folder: Path, step: int, state: State, info: dict[str, Any]) -> None:
    tensors, arrays, plain = _split(state)
    large = {name: array for name, array in arrays.items() if array.nbytes >= _LARGE}
    small = {name: np.asarray(array, order="C") for name, array in arrays.items() if name not in large}
    files = {
        "state.json": _write(folder / "state.json", [to_json(plain)]),
        "weights.safetensors": _write(folder / "weights.safetensors", [save_torch(tensors)]),
        "arrays.safetensors": _write(folder / "arrays.safetensors", [save_numpy(small)]),
    }
    for name, array in large.items():
        file = name.replace("/", ".") + ".zst"
        written = _write(folder / file, _compressed(array))
        files[file] = written | {"array": name, "dtype": array.dtype.str, "shape": list(array.shape)}
    _write(folder / "manifest.json", [manifest.with_checksum(step, info, files)])
    portable.flush_folder(folder)


def load_newest(folder: Path, *, skip: str = "") -> tuple[int, State, dict[str, Any], list[str]]:
    """Return (step, state, info, warnings) of the newest intact checkpoint, with a warning for each damaged one.

    Args:
        folder: the `checkpoints` folder of a run.
        skip: see `load`.

    Raises:
        UserError: there is no checkpoint, or none is intact.
    """
    warnings = []
    for step in reversed(steps(folder)):
        path = folder_of(folder, step)
        try:
            state, info = load(path, skip=skip)
        except Damaged as problem:
            warnings.append(f"{path} is damaged ({problem}); using the previous checkpoint")
        else:
            return step, state, info, warnings
    if warnings:
        raise UserError(f"no intact checkpoint in {folder}: {len(warnings)} found, all damaged")
    raise UserError(f"no checkpoint in {folder}: the run was stopped before its first (see --checkpoint-frequency)")


def load(path: Path, *, skip: str = "") -> tuple[State, dict[str, Any]]:
    """Return (state, info) of the checkpoint at `path`, after checking every byte.

    Large arrays are `StoredArray`s, which are read on first use: the folder must exist until then.

    Args:
        path: folder of the checkpoint.
        skip: large arrays whose name starts with it are left out and their files are not read: checking the files of
            a replay takes seconds. "" leaves out nothing.

    Raises:
        Damaged: a file is missing, or its size or checksum differs from the manifest's.
    """
    try:
        stored = manifest.read(path)
        named = stored["files"].items()
        files = {name: entry for name, entry in named if not skip or not entry.get("array", "").startswith(skip)}
        for name, entry in files.items():
            _verify(path / name, entry)
        flat: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
        flat |= load_torch_file(path / "weights.safetensors")
        flat |= load_numpy_file(path / "arrays.safetensors")
        for name, entry in files.items():
            if "array" in entry:
                flat[entry["array"]] = StoredArray(path / name, entry)
    except (OSError, KeyError, ValueError, SafetensorError, zstandard.ZstdError) as problem:
        raise Damaged(str(problem)) from problem
    return nest(flat), stored["info"]


def digest(state: State) -> str:
    """Return one SHA-256 over a complete training state: every name, type, shape and byte."""
    total = hashlib.sha256()
    for name, value in sorted(flatten(state)):
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().contiguous().numpy()
        if isinstance(value, np.ndarray | StoredArray):
            array = np.asarray(value, order="C")
            total.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
            total.update(array.reshape(-1).view(np.uint8).data)
        else:
            total.update(f"{name}:".encode() + to_json(value))
    return total.hexdigest()


def flatten(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of every value in nested dicts; names are joined by slashes."""
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def nest(flat: Mapping[str, Any]) -> State:
    """Return the nested dicts from which `flatten` makes these names."""
    state: State = {}
    for name, value in flat.items():
        *parents, leaf = name.split("/")
        place = state
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return state


def _split(state: State) -> tuple[dict[str, torch.Tensor], dict[str, Array], dict[str, Any]]:
    tensors: dict[str, torch.Tensor] = {}
    arrays: dict[str, Array] = {}
    plain: dict[str, Any] = {}
    for name, value in flatten(state):
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach().cpu().contiguous()
        elif isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            plain[name] = value
    return tensors, arrays, plain


def _compressed(array: Array) -> Iterator[bytes]:
    data = np.asarray(array, order="C").reshape(-1).view(np.uint8).data
    compressor = zstandard.ZstdCompressor(level=1).compressobj(size=len(data))
    for start in range(0, len(data), _PIECE):
        yield compressor.compress(data[start : start + _PIECE])
    yield compressor.flush()


class StoredArray:
    """A large array on disk: `read_into` decompresses it into its destination, so memory never holds it twice.

    It also works as a numpy array: `np.asarray(stored)` reads it.
    """

    def __init__(self, path: Path, entry: Mapping[str, Any]) -> None:
        self.path, self.shape, self.dtype = path, tuple(entry["shape"]), np.dtype(entry["dtype"])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array: Array = np.zeros(self.shape, self.dtype)
        self.read_into(array)
        return array if dtype is None else array.astype(dtype)

    def read_into(self, array: Array) -> None:
        """Fill a C-ordered array of this shape and type.

        Zeros are not written over zeros: pages of a new array that the system has not allocated yet stay so.

        Raises:
            Damaged: the file is shorter or longer than the array.
        """
        target = array.reshape(-1).view(np.uint8)
        piece = np.empty(_PIECE, np.uint8)
        position = 0
        with self.path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            while count := reader.readinto(piece.data):
                part = target[position : position + count]
                if len(part) < count:
                    raise Damaged(f"{self.path.name} is longer than its array")
                if piece[:count].any() or part.any():
                    part[:] = piece[:count]
                position += count
        if position < len(target):
            raise Damaged(f"{self.path.name} ends early")


def _write(path: Path, pieces: Iterator[bytes] | list[bytes]) -> dict[str, Any]:
    checksum, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            checksum.update(piece)
            size += len(piece)
        _flush(file)
    return {"bytes": size, "sha256": checksum.hexdigest()}


def _verify(path: Path, entry: Mapping[str, Any]) -> None:
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if path.stat().st_size != entry["bytes"] or checksum != entry["sha256"]:
        raise ValueError(f"{path.name} differs from its checksum")


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
