"""Frames per second of the live page, and what it costs a training run on the same machine.

    python benchmarks/viewer_speed.py [--windows 6] [--env-id SpaceInvaders] [--out viewer_speed.json]

One run trains all the time. Windows of `--seconds` alternate: no page is open; a browser on another machine shows the
page (Chromium acknowledges each message and draws none); Chromium on this machine, without a GPU, draws it. The
training speed of a window is that of its last three quarters. A cost is the median over rounds of
1 - (speed with page) / (speed without). Frames are counted in the browser. Quit other programs first.
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
"""Chromium runs at the lowest priority."""
ELSEWHERE = """
const Here = window.WebSocket;
window.frames_ = 0;
window.WebSocket = class extends Here {
  constructor(...parts) {
    super(...parts);
    if (!this.url.includes("/stream/")) return;
    this.addEventListener("message", (event) => {
      window.frames_ += 1;
      if (!window.isElsewhere) return;
      event.stopImmediatePropagation();
      this.send('{"do": "ack"}');
    });
  }
};"""
"""Counts the messages of a stage; while `isElsewhere`, acknowledges them instead of the page."""
KINDS = ("no page", "elsewhere", "here")
"""Where the browser is."""
LEARNING = 2_000
"""Agent steps before the run learns; windows begin at three times as many."""


@contextmanager
def training(path: Path, env_id: str, threads: int) -> Iterator[None]:
    """Train DQN in a run folder until the end of the context."""
    options = {"env-id": env_id, "run-dir": path, "total-timesteps": 1_000_000, "checkpoint-frequency": LEARNING}
    options |= {"learning-starts": LEARNING, "buffer-size": 50_000, "log-frequency": 200, "evaluation-episodes": 0}
    options |= {"threads": threads}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen([sys.executable, "-m", "q2pi", "train", "dqn", *flags], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def served(path: Path, nice: int) -> Iterator[str]:
    """Serve the page of a run; yield its URL."""
    command = [sys.executable, "-m", "q2pi", "watch", str(path), "--port", "0", "--no-browser"]
    command += ["--nice", str(nice)]
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

    def do(self, command: str) -> int:
        """Open or close the page, or count; return the number of messages since the page was opened."""
        self.here.send(command)
        return int(self.here.recv())

    def close(self) -> None:
        self.here.send("quit")
        self.process.join()


def browse(pipe: Any, url: str, rate: float) -> None:
    """Serve the commands of a Browser."""
    from playwright.sync_api import sync_playwright

    os.nice(BROWSER_NICE)
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(ELSEWHERE)
        page.set_default_timeout(120_000)
        pipe.send(0)
        while True:
            command = pipe.recv()
            if command == "quit":
                break
            if command == "open":
                page.goto(url)
                page.wait_for_selector(".bars .chosen")
                page.get_by_label("speed").select_option(f"{rate:g}")
            elif command == "close":
                page.goto("about:blank")
            elif command == "elsewhere":
                page.evaluate("window.isElsewhere = true")
            pipe.send(page.evaluate("window.frames_ || 0"))
        chromium.close()


def newest(path: Path) -> dict[str, Any]:
    """Return the newest row of metrics."""
    return RunFolder(path).rows("train")[-1]


def measure(path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the windows, alternately without and with a page."""
    windows = []
    with served(path, options.nice) as url:
        browser = Browser(url, options.speed)
        browser.do("open")  # the server has loaded the agent before the first window
        for index in range(3 * options.windows):
            kind = KINDS[index % 3]
            browser.do("close" if kind == "no page" else "open")
            if kind == "elsewhere":
                browser.do(kind)
            time.sleep(options.seconds / 4)
            first, begin, shown = newest(path), time.monotonic(), browser.do("count")
            time.sleep(3 * options.seconds / 4)
            frames = (browser.do("count") - shown) / (time.monotonic() - begin)
            last = newest(path)
            speed = (last["step"] - first["step"]) / (last["wall_seconds"] - first["wall_seconds"])
            windows.append({"page": kind, "steps_per_second": speed, "frames_per_second": frames})
            print(windows[-1], flush=True)
        browser.close()
    return windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=6, help="number of windows of each kind")
    parser.add_argument("--seconds", type=float, default=20, help="seconds of a window")
    parser.add_argument("--env-id", default="SpaceInvaders", help="environment of the run")
    parser.add_argument("--threads", type=int, default=1, help="threads of the training run")
    parser.add_argument("--nice", type=int, default=19, help="nice value of the page's server")
    parser.add_argument("--speed", type=float, default=2, help="speed of the page: 2 is 30 frames per second of Atari")
    parser.add_argument("--out", type=Path, default=RESULTS / "viewer_speed.json", help="JSON file for the numbers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        with training(path, options.env_id, options.threads):
            while not (path / "metrics.jsonl").exists() or newest(path)["step"] < 3 * LEARNING:
                time.sleep(1)
            windows = measure(path, options)
    speeds = {kind: [w["steps_per_second"] for w in windows if w["page"] == kind] for kind in KINDS}
    command = " ".join(["python benchmarks/viewer_speed.py", *sys.argv[1:]])
    report: dict[str, Any] = {
        "command": command,
        "env_id": options.env_id,
        "threads": options.threads,
        "nice": options.nice,
    }
    for kind in KINDS[1:]:
        cost = statistics.median(1 - page / base for base, page in zip(speeds["no page"], speeds[kind], strict=True))
        frames = statistics.median(window["frames_per_second"] for window in windows if window["page"] == kind)
        report[kind] = {"cost": cost, "frames_per_second": frames}
        print(f"browser {kind}: training loses {100 * cost:.1f} % of its speed; {frames:.1f} frames per second")
    report |= {"cores": os.cpu_count(), "seconds": options.seconds, "windows": windows}
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
