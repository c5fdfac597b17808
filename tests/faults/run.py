"""Planted faults: each one-line fault of `faults.toml` must make the test that it names fail.

    python tests/faults/run.py                            # all
    python tests/faults/run.py --only dqn-final-row       # some
    python tests/faults/run.py --sample 0.1 --seed 7      # a random tenth

The faults are planted one by one in a copy of the source in a temporary folder, never in the checkout. A fault is

    caught            its test fails
    survived          its test passes: a test is missing
    does not apply    the search string does not occur exactly once, or the test cannot be run

The exit status is 1 if any fault survives or does not apply.
"""

import argparse
import multiprocessing
import os
import queue
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAULTS = Path(__file__).with_name("faults.toml")
COPIED = ("src", "tests", "pyproject.toml")
PACKAGE = "src/q2pi"
SECONDS = 300
"""Bound on the time of one test; a fault that makes it hang is caught."""
CAUGHT, SURVIVED, DOES_NOT_APPLY = "caught", "survived", "does not apply"
PASSED, FAILED = 0, 1
"""Exit statuses of pytest; others mean that no test was run to its end."""
PRELOADED = ["pytest", "torch", "torch.testing", "hypothesis", "scipy.stats", "optuna"]
"""Slow to import; Gymnasium is not among them, because it imports the installed q2pi."""
SERVER = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Fault:
    """One line of source replaced by a wrong one."""

    id: str
    file: str
    """Path of the source, relative to the package."""
    find: str
    """Text that occurs exactly once in the file."""
    replace: str
    test: str
    """File or node id that must fail."""


def read_faults(path: Path) -> list[Fault]:
    """Return the faults of a TOML file.

    Raises:
        ValueError: two faults have one id.
    """
    faults = [Fault(**table) for table in tomllib.loads(path.read_text())["fault"]]
    repeated = [name for name, count in Counter(fault.id for fault in faults).items() if count > 1]
    if repeated:
        raise ValueError(f"{path}: the id {repeated[0]!r} is used more than once")
    return faults


def sampled(faults: Sequence[Fault], share: float, seed: int) -> list[Fault]:
    """Return a random share of the faults, at least one, in their order."""
    count = max(1, round(share * len(faults)))
    drawn = set(random.Random(seed).sample(range(len(faults)), count))
    return [fault for index, fault in enumerate(faults) if index in drawn]


def copy_tree(root: Path, target: Path) -> None:
    """Copy what the tests need, without compiled files."""
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(root / name, target / name)


def check(fault: Fault, tree: Path) -> tuple[str, str]:
    """Plant a fault in a copied tree, run its test, restore the file; return (verdict, reason)."""
    file = tree / PACKAGE / fault.file
    if not file.is_file():
        return DOES_NOT_APPLY, f"{fault.file} does not exist"
    text = file.read_text()
    if (count := text.count(fault.find)) != 1:
        return DOES_NOT_APPLY, f"the search string occurs {count} times in {fault.file}"
    _write(file, text.replace(fault.find, fault.replace))
    try:
        status, output = _run_test(fault.test, tree)
    finally:
        _write(file, text)
    if status == PASSED:
        return SURVIVED, f"{fault.test} passes"
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::\S+)", output, re.M)
    if status != FAILED or failed is None:  # a process that cannot even start pytest ends with 1, too
        return DOES_NOT_APPLY, f"pytest ended with {status}: {output[-400:]}"
    return CAUGHT, f"by {failed[1]}"


def _write(file: Path, text: str) -> None:
    """Write a source and remove its bytecode: two faults may lie within the resolution of its time stamp."""
    file.write_text(text)
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()


def _run_test(test: str, tree: Path) -> tuple[int, str]:
    """Return (exit status, output) of pytest in a copied tree; a test that hangs has failed."""
    log = tree / "output.txt"
    log.write_text("")
    process = SERVER.Process(target=_pytest, args=(test, str(tree), str(log)))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        return FAILED, f"FAILED {test}::timed-out"
    assert process.exitcode is not None
    return process.exitcode, log.read_text()


def _pytest(test: str, tree: str, log: str) -> None:
    """Run pytest in a process that has imported what is slow to import, and nothing of q2pi."""
    assert "q2pi" not in sys.modules
    os.setpgid(0, 0)
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = f"{tree}/src"
    sys.path.insert(0, f"{tree}/src")
    import pytest

    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=line", test]))


def run(faults: Sequence[Fault], root: Path, jobs: int) -> dict[str, str]:
    """Check each fault in copies of `root`, one copy for each of `jobs` processes; return id -> verdict."""
    verdicts: dict[str, str] = {}
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
    SERVER.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="q2pi-faults-") as folder:
        trees: queue.Queue[Path] = queue.Queue()
        for number in range(jobs):
            tree = Path(folder) / str(number)
            tree.mkdir()
            copy_tree(root, tree)
            trees.put(tree)

        def one(fault: Fault) -> None:
            tree, start = trees.get(), time.monotonic()
            verdict, reason = check(fault, tree)
            trees.put(tree)
            verdicts[fault.id] = verdict
            print(f"{verdict:15} {fault.id} ({time.monotonic() - start:.0f} s): {reason}", flush=True)

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(one, faults))
    return verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plant one-line faults and see that the tests fail.")
    parser.add_argument("--only", nargs="+", metavar="ID", help="Faults to plant.")
    parser.add_argument("--sample", type=float, default=1.0, help="Random share of the faults to plant.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the random share.")
    parser.add_argument("--jobs", type=int, default=2, help="Number of faults checked at the same time.")
    parser.add_argument("--faults", type=Path, default=FAULTS, help="File with the faults.")
    parser.add_argument("--root", type=Path, default=ROOT, help="Tree to copy.")
    options = parser.parse_args(arguments)
    faults = read_faults(options.faults)
    if options.only:
        if unknown := set(options.only) - {fault.id for fault in faults}:
            parser.error(f"unknown fault: {', '.join(sorted(unknown))}")
        faults = [fault for fault in faults if fault.id in options.only]
    if options.sample < 1:
        faults = sampled(faults, options.sample, options.seed)
        print(f"{len(faults)} faults drawn with seed {options.seed}", flush=True)
    counts = Counter(run(faults, options.root, options.jobs).values())
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in (CAUGHT, SURVIVED, DOES_NOT_APPLY)))
    return 0 if counts[CAUGHT] == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
