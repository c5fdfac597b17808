"""A crew of workers on small tasks: replaced where they are killed, stopped together, and never left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from q2pi.errors import UserError
from q2pi.tuning.workers import DEATHS, Crew


def die_once(folder: str, stop: Callable[[], bool], say: Any) -> None:
    say({"kind": "begun"})
    mark = Path(folder) / "died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    say({"kind": "done"})


def die(folder: str, stop: Callable[[], bool], say: Any) -> None:
    (Path(folder) / str(os.getpid())).touch()
    os.kill(os.getpid(), signal.SIGKILL)


def mistake(folder: str, stop: Callable[[], bool], say: Any) -> None:
    raise UserError("--top is too much")


def full(folder: str, stop: Callable[[], bool], say: Any) -> None:
    raise OSError(28, "No space left on device", "file")


def wait(folder: str, stop: Callable[[], bool], say: Any) -> None:
    say({"kind": "begun"})
    (Path(folder) / f"begun-{os.getpid()}").touch()
    while not stop():
        time.sleep(0.02)
    (Path(folder) / f"stopped-{os.getpid()}").touch()


def crew_of(task: Callable[..., None], folder: Path, count: int = 1, hear: Any = lambda message: None) -> Crew:
    crew = Crew(task, (str(folder),), count, hear)
    crew.run()
    return crew


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    heard: list[str] = []
    crew = crew_of(die_once, tmp_path, hear=lambda message: heard.append(message["kind"]))
    assert (crew.ended, crew.status) == ("done", 0)
    assert heard == ["begun", "begun", "done"]


def test_workers_that_die_at_their_start_are_not_replaced_for_ever(tmp_path: Path) -> None:
    crew = crew_of(die, tmp_path)
    assert (crew.ended, crew.status) == ("failed", 1)
    assert "workers died at their start (exit code -9)" in crew.line
    assert len(list(tmp_path.iterdir())) == DEATHS + 1


def test_a_mistake_and_a_full_disk_are_one_line(tmp_path: Path) -> None:
    crew = crew_of(mistake, tmp_path)
    assert (crew.ended, crew.line, crew.status) == ("failed", "--top is too much", 2)
    crew = crew_of(full, tmp_path)
    assert (crew.ended, crew.line, crew.status) == ("failed", "no space left on device (file)", 2)


def test_what_is_heard_can_stop_all(tmp_path: Path) -> None:
    crew = crew_of(wait, tmp_path, 2, lambda message: "enough")
    assert (crew.ended, crew.line, crew.status) == ("failed", "enough", 1)
    assert len(list(tmp_path.glob("stopped-*"))) == len(list(tmp_path.glob("begun-*"))) >= 1


def test_workers_do_not_outlive_a_killed_master(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_tune_workers import crew_of, wait\n"
        f"if __name__ == '__main__': crew_of(wait, Path({str(tmp_path)!r}), 2)\n"
    )
    (tmp_path / "master.py").write_text(code)
    master = subprocess.Popen([sys.executable, str(tmp_path / "master.py")])
    until(lambda: len(list(tmp_path.glob("begun-*"))) == 2)
    master.kill()
    master.wait()
    until(lambda: len(list(tmp_path.glob("stopped-*"))) == 2)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
