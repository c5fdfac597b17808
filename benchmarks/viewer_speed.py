"""Frames per second of the live page, and what it costs a training run on the same machine.

    python benchmarks/viewer_speed.py [--windows 6] [--env-id SpaceInvaders] [--out viewer_speed.json]

One run trains all the time. A page that shows it is open in Chromium in every second window of `--seconds`; the
training speed of a window is that of its last three quarters. The cost is the median over pairs of neighbouring windows
of 1 - (speed with page) / (speed without). Frames are counted in the browser. Quit other programs first.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from q2pi.runs.folder import RunFolder

RESULTS = Path(__file__).parent.parent / "results" / "benchmarks"
BROWSER_NICE = 19
"""Chromium runs at the lowest priority: it stands for a browser on another machine, which costs training nothing."""
COUNT = """seconds => new Promise(done => {
  const step = () => document.querySelector('.numbers dd').innerText;
  let frames = 0, last = step();
  const watch = new MutationObserver(() => { const now = step(); if (now !== last) { frames += 1; last = now; } });
  watch.observe(document.querySelector('.numbers'), { subtree: true, childList: true, characterData: true });
  setTimeout(() => { watch.disconnect(); done(frames / seconds); }, 1000 * seconds);
})"""
"""Changes of the step that is shown, per second: what a person sees."""
LEARNING = 2_000
"""Agent steps before the run learns; windows begin at three times as many."""


@contextmanager
def training(path: Path, env_id: str) -> "Iterator[None]":
    """Train DQN in a run folder until the end of the context."""
    options = {"env-id": env_id, "run-dir": path, "total-timesteps": 1_000_000, "checkpoint-frequency": LEARNING}
    options |= {"learning-starts": LEARNING, "buffer-size": 50_000, "log-frequency": 200, "evaluation-episodes": 0}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen([sys.executable, "-m", "q2pi.cli", "train", "dqn", *flags], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def served(path: Path) -> Iterator[str]:
    """Serve the page of a run; yield its URL."""
    command = [sys.executable, "-m", "q2pi.cli", "watch", str(path), "--port", "0", "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


class Browser:
    """Chromium in a process of its own."""

    def __init__(self, url: str, rate: float) -> None:
        self.here, there = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=browse, args=(there, url, rate))
        self.process.start()
        self.here.recv()

    def do(self, command: str, seconds: float = 0) -> float:
        """Open or close the page, or count its frames per second."""
        self.here.send((command, seconds))
        return float(self.here.recv())

    def close(self) -> None:
        self.here.send(("quit", 0))
        self.process.join()


def browse(pipe: Any, url: str, rate: float) -> None:
    """Serve the commands of a Browser."""
    from playwright.sync_api import sync_playwright

    os.nice(BROWSER_NICE)
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        pipe.send(0)
        while True:
            command, seconds = pipe.recv()
            if command == "quit":
                break
            found = 0.0
            if command == "open":
                page.goto(url)
                page.wait_for_selector(".bars .chosen")
                page.get_by_label("speed").select_option(f"{rate:g}")
            elif command == "close":
                page.goto("about:blank")
            else:
                found = page.evaluate(COUNT, seconds)
            pipe.send(found)
        chromium.close()


def newest(path: Path) -> dict[str, Any]:
    """Return the newest row of metrics."""
    return RunFolder(path).rows("train")[-1]


def measure(path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the windows, alternately without and with a page."""
    windows = []
    with served(path) as url:
        browser = Browser(url, options.speed)
        browser.do("open")  # the server has loaded the agent before the first window
        for index in range(2 * options.windows):
            has_page = index % 2 == 1
            browser.do("open" if has_page else "close")
            time.sleep(options.seconds / 4)
            first, counted = newest(path), 3 * options.seconds / 4
            frames = browser.do("count", counted) if has_page else time.sleep(counted)
            last = newest(path)
            speed = (last["step"] - first["step"]) / (last["wall_seconds"] - first["wall_seconds"])
            windows.append({"page": has_page, "steps_per_second": speed, "frames_per_second": frames})
            print(windows[-1], flush=True)
        browser.close()
    return windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=6, help="number of windows of each kind")
    parser.add_argument("--seconds", type=float, default=20, help="seconds of a window")
    parser.add_argument("--env-id", default="SpaceInvaders", help="environment of the run")
    parser.add_argument("--speed", type=float, default=2, help="speed of the page: 2 is 30 frames per second of Atari")
    parser.add_argument("--out", type=Path, default=RESULTS / "viewer_speed.json", help="JSON file for the numbers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        with training(path, options.env_id):
            while not (path / "metrics.jsonl").exists() or newest(path)["step"] < 3 * LEARNING:
                time.sleep(1)
            windows = measure(path, options)
    alone = [window["steps_per_second"] for window in windows if not window["page"]]
    beside = [window["steps_per_second"] for window in windows if window["page"]]
    cost = statistics.median(1 - page / base for base, page in zip(alone, beside, strict=True))
    frames = statistics.median(window["frames_per_second"] for window in windows if window["page"])
    report = {"command": "python benchmarks/viewer_speed.py", "cost": cost, "frames_per_second": frames}
    report |= {"env_id": options.env_id, "seconds": options.seconds, "windows": windows}
    print(f"training loses {100 * cost:.1f} % of its speed; the page shows {frames:.1f} frames per second")
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
