"""Manifests of checkpoints: steps, notes and checksums, read without importing torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from q2pi.errors import UserError

FORMAT = 2


def steps(folder: Path) -> list[int]:
    """Return the agent steps of the finished checkpoints in `folder`, oldest first."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit())


def notes(folder: Path, step: int) -> dict[str, Any]:
    """Return the `info` of the checkpoint of agent step `step` in `folder`; {} if there is none."""
    path = folder_of(folder, step)
    info: dict[str, Any] = read(path)["info"] if path.is_dir() else {}
    return info


def folder_of(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of an agent step."""
    return folder / f"{step:012d}"


def read(path: Path) -> dict[str, Any]:
    """Return the manifest of the checkpoint at `path`: its format, step, info and files.

    Raises:
        UserError: a later version of q2pi wrote the checkpoint.
        OSError, ValueError, KeyError: the file is missing or damaged.
    """
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise ValueError("manifest.json is not a manifest")
    stored = manifest.pop("sha256", None)
    # Format 1 had no checksum of the manifest itself.
    if (manifest["format"], stored) != (1, None) and stored != checksum(manifest):
        raise ValueError("manifest.json differs from its checksum")
    if manifest["format"] > FORMAT:
        raise UserError(f"{path} has format {manifest['format']}, this version reads up to {FORMAT}: update q2pi")
    return manifest


def with_checksum(step: int, info: Mapping[str, Any], files: Mapping[str, Any]) -> bytes:
    """Return a manifest with its own checksum as JSON."""
    manifest = {"format": FORMAT, "step": step, "info": dict(info), "files": dict(files)}
    return to_json(manifest | {"sha256": checksum(manifest)})


def to_json(value: Any) -> bytes:
    """Return a value as JSON with sorted keys: equal values have equal bytes."""
    return json.dumps(value, indent=1, sort_keys=True).encode()


def checksum(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest without its key `sha256`."""
    return hashlib.sha256(to_json(dict(manifest))).hexdigest()
