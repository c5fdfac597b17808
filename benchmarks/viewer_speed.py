"""Frames per second of the live page, and what it costs a training run on the same machine.

    python benchmarks/viewer_speed.py [--rounds 3] [--env-id SpaceInvaders] [--out viewer_speed.json]

Rounds alternate: training alone, training with a page that is open in Chromium. The page shows the run that trains. A
round's speed is agent steps per second in the last three quarters of its run; the cost is the median over rounds of
1 - (speed with page) / (speed alone). Frames are counted in the browser.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from q2pi.runs.find import is_in_use
from q2pi.runs.folder import RunFolder

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


def train(path: Path, env_id: str, steps: int) -> "subprocess.Popen[bytes]":
    """Start a training run with a checkpoint early on."""
    command = [sys.executable, "-m", "q2pi.cli", "train", "dqn", "--env-id", env_id, "--run-dir", str(path)]
    options = {"total-timesteps": steps, "checkpoint-frequency": steps // 10, "evaluation-episodes": 0}
    options |= {"learning-starts": steps // 20, "buffer-size": steps, "log-frequency": steps // 40}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL)


def speed(path: Path) -> float:
    """Return agent steps per second in the last three quarters of a run, in which a page is open or not."""
    rows = RunFolder(path).rows("train")
    rows = rows[len(rows) // 4 :]
    return float((rows[-1]["step"] - rows[0]["step"]) / (rows[-1]["wall_seconds"] - rows[0]["wall_seconds"]))


def one_round(folder: Path, env_id: str, steps: int, with_page: bool, rate: float) -> dict[str, Any]:
    """Train one run and return its speed, and the frames per second of the page."""
    path = folder / f"run-{time.time_ns()}"
    training = train(path, env_id, steps)
    frames: list[float] = []
    if with_page:
        while training.poll() is None and not list(path.glob("checkpoints/0*")):
            time.sleep(0.5)
        frames = serve_and_watch(path, rate)
    training.wait()
    return {"steps_per_second": speed(path), "frames_per_second": statistics.median(frames) if frames else None}


def serve_and_watch(path: Path, rate: float) -> list[float]:
    """Serve the page of a run until its training ends; return the frames per second of each ten seconds."""
    command = [sys.executable, "-m", "q2pi.cli", "watch", str(path), "--port", "0", "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        with ProcessPoolExecutor(1, initializer=os.nice, initargs=(BROWSER_NICE,)) as process:
            return process.submit(watch, url, path, rate).result()
    finally:
        server.terminate()
        server.wait()


def watch(url: str, path: Path, rate: float) -> list[float]:
    """Keep a page open until no process trains in the folder; return the frames per second of each ten seconds."""
    from playwright.sync_api import sync_playwright

    frames: list[float] = []
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(url)
        page.wait_for_selector(".bars .chosen")
        page.get_by_label("speed").select_option(f"{rate:g}")
        while is_in_use(RunFolder(path)):
            frames.append(page.evaluate(COUNT, 10))
        chromium.close()
    return frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds of each kind")
    parser.add_argument("--env-id", default="SpaceInvaders", help="environment of the run")
    parser.add_argument("--steps", type=int, default=20_000, help="agent steps of each run")
    parser.add_argument("--speed", type=float, default=2, help="speed of the page: 2 is 30 frames per second of Atari")
    parser.add_argument("--out", type=Path, help="JSON file for the numbers")
    options = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(options.rounds):
            for with_page in (False, True):
                found = one_round(Path(folder), options.env_id, options.steps, with_page, options.speed)
                rounds.append({"round": index, "page": with_page} | found)
                print(rounds[-1], flush=True)
    alone = [entry["steps_per_second"] for entry in rounds if not entry["page"]]
    beside = [entry["steps_per_second"] for entry in rounds if entry["page"]]
    cost = statistics.median(1 - page / base for base, page in zip(alone, beside, strict=True))
    counted = [entry["frames_per_second"] for entry in rounds if entry["frames_per_second"] is not None]
    if not counted:
        raise SystemExit(f"training ended before the page had loaded: --steps {options.steps} is too few")
    frames = statistics.median(counted)
    report = {"cost": cost, "frames_per_second": frames, "rounds": rounds, "env_id": options.env_id}
    print(f"training loses {100 * cost:.1f} % of its speed; the page shows {frames:.1f} frames per second")
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
