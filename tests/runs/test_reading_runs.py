"""Reading a run imports no heavy package, and `q2pi runs` is fast."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from reported_runs import finished_run

HEAVY = ("torch", "numpy", "matplotlib", "gymnasium", "ale_py", "scipy", "optuna")
SHOW_HEAVY = f"print(*sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)"
SECONDS = 0.4


def run_python(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source, *arguments], capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 finished runs."""
    folder = tmp_path_factory.mktemp("runs")
    first = finished_run(folder / "00", 1.0, curve=[(step, 1.0) for step in range(1, 1_001, 5)])
    for index in range(1, 20):
        shutil.copytree(first.path, folder / f"{index:02d}")
    return folder


MODULES = ["folder", "history", "find", "manifest", "files", "locks", "stored_config"]


@pytest.mark.parametrize("module", ["config", *(f"runs.{name}" for name in MODULES)])
def test_reading_imports_no_heavy_package(module: str) -> None:
    assert run_python(f"import sys, q2pi.{module}; {SHOW_HEAVY}").stderr == "\n"


def test_runs_imports_no_heavy_package(runs: Path) -> None:
    source = f"import sys; from q2pi.commands.runs import main; main(sys.argv[1:]); {SHOW_HEAVY}"
    result = run_python(source, str(runs))
    assert result.stderr == "\n"
    assert result.stdout.count("CartPole-v1") == 20


def test_reading_a_history_imports_no_heavy_package(runs: Path) -> None:
    source = f"""
import sys
from q2pi.runs.find import find_runs
from q2pi.runs.history import evaluation_policy, read_history
for run in find_runs(__import__("pathlib").Path(sys.argv[1])):
    print(read_history(run).newest_step, run.env().env_id, evaluation_policy(run))
{SHOW_HEAVY}
"""
    result = run_python(source, str(runs))
    assert result.stderr == "\n"
    assert result.stdout.splitlines() == ["1000 CartPole-v1 epsilon-greedy, epsilon 0.001"] * 20


def test_learning_curves_are_drawn_without_torch(runs: Path, tmp_path: Path) -> None:
    source = """
import sys
from pathlib import Path
from q2pi.reports.learning_curves import learning_curves
from q2pi.runs.folder import RunFolder
learning_curves([RunFolder(sys.argv[1])], Path(sys.argv[2]))
print(*sorted({"torch", "gymnasium"} & set(sys.modules)), file=sys.stderr)
"""
    path = tmp_path / "curve.png"
    assert run_python(source, str(runs / "00"), str(path)).stderr == "\n"
    assert path.is_file()


def test_runs_is_fast(runs: Path) -> None:
    """CPU seconds, best of five: other processes on a busy machine do not count."""
    took = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_python("import sys; from q2pi.__main__ import main; main(['runs', sys.argv[1]])", str(runs))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < SECONDS, f"{took} seconds"
