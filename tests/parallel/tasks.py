"""Tasks for worker processes."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from q2pi.errors import UserError
from q2pi.parallel.executor import Emit, Message, Stop


def echo(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    print("a library's output on standard output")
    emit({"half": arguments["value"]})
    return {"value": arguments["value"], "threads": os.environ.get("OMP_NUM_THREADS")}


def wait(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    """Create a file at the start and another when stopped."""
    folder = Path(arguments["folder"])
    (folder / f"started-{os.getpid()}").touch()
    emit({"started": os.getpid()})
    while not stop():
        time.sleep(0.02)
    (folder / f"stopped-{os.getpid()}").touch()
    return {"stopped": True, "saved": True}


def wait_forever(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    """Never poll `stop`."""
    (Path(arguments["folder"]) / f"started-{os.getpid()}").touch()
    emit({"started": os.getpid()})
    time.sleep(600)
    return {}


def die_once(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    emit({"state": "started"})
    mark = Path(arguments["folder"]) / "died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"state": "done"}


def die_early_twice_in_each_half(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    """Die, die, emit and die, die, finish: never three times in a row without a message."""
    folder = Path(arguments["folder"])
    count = len(list(folder.iterdir()))
    (folder / str(count)).touch()
    if count == 2:
        emit({"half": True})
    if count < 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"processes": count + 1}


def die(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    (Path(arguments["folder"]) / str(os.getpid())).touch()
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def die_when_stopped(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    (Path(arguments["folder"]) / str(os.getpid())).touch()
    emit({"started": os.getpid()})
    while not stop():
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def leave(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    os._exit(7)


def mistake(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    emit({"step": 3})
    raise UserError("--top is too much")


def full(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    raise OSError(28, "No space left on device", "file")


def defect(arguments: dict[str, Any], emit: Emit, stop: Stop) -> Message:
    raise ValueError("a defect\nand more")
