"""Published results stay readable: configurations load with today's code, and the commands that they name exist."""

import json
import re
from pathlib import Path

import pytest

from q2pi.algorithms import registry
from q2pi.config import ResolvedConfig, resolve, to_table
from q2pi.runs.folder import RunFolder, read_toml
from q2pi.runs.stored_config import read_config
from q2pi.runs.sweep import read_sweep
from q2pi.tuning.plan import StudyFolder

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
CONFIGS = sorted(RESULTS.rglob("config.toml"))
STUDIES = sorted(RESULTS.rglob("study.toml"))
TEXTS = sorted(RESULTS.rglob("*.md"))
SWEEPS = sorted((ROOT / "benchmarks").glob("*.toml"))
COMMAND = re.compile(r"(?:^ {4}|`|&& )q2pi ([\w-]+)", re.MULTILINE)
SCRIPT = re.compile(r"python (\S+\.py)")
TARGET = re.compile(r"`make (\w+)")
SWEEP = re.compile(r"q2pi sweep (\S+\.toml)")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def missing(text: str) -> list[str]:
    """Return the commands, scripts, sweep files and make targets that a text names and that do not exist."""
    commands = ROOT / "src/q2pi/commands"
    is_command = {word: (commands / f"{word}.py").is_file() for word in COMMAND.findall(text)}
    is_command = {
        word: found and "def main(" in (commands / f"{word}.py").read_text() for word, found in is_command.items()
    }
    lost = [f"q2pi {word}" for word, found in is_command.items() if not found]
    lost += [file for file in SCRIPT.findall(text) + SWEEP.findall(text) if not (ROOT / file).is_file()]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return lost + [f"make {target}" for target in TARGET.findall(text) if target not in targets]


def test_there_are_results() -> None:
    assert all([CONFIGS, STUDIES, TEXTS, SWEEPS])


@pytest.mark.parametrize("path", CONFIGS, ids=name)
def test_a_run_configuration_loads_and_is_complete(path: Path) -> None:
    config = resolve(read_config(RunFolder(path.parent)))
    assert isinstance(config, ResolvedConfig)
    assert to_table(config) == read_toml(path), "an option that the file lacks would follow a later default"


@pytest.mark.parametrize("path", STUDIES, ids=name)
def test_a_study_loads_and_is_complete(path: Path) -> None:
    plan = StudyFolder(path.parent).read()
    assert plan.table() == read_toml(path), "an option that the file lacks would follow a later default"
    result = json.loads((path.parent / "result.json").read_text())
    assert (result["algorithm"], result["env_id"]) == (plan.base.algorithm, plan.base.env.env_id)
    assert all(candidate["options"].keys() <= vars(plan.base.hyper).keys() for candidate in result["candidates"])


@pytest.mark.parametrize("path", TEXTS, ids=name)
def test_a_text_names_commands_that_exist(path: Path) -> None:
    text = path.read_text()
    assert COMMAND.search(text) or SCRIPT.search(text), "a result names the command that made it"
    assert missing(text) == []


def test_a_missing_command_is_found() -> None:
    text = "    q2pi guess RUN\n    q2pi terminal\n`python benchmarks/none.py` `q2pi sweep none.toml` `make nothing`"
    assert missing(text) == [
        "q2pi guess",
        "q2pi terminal",
        "benchmarks/none.py",
        "none.toml",
        "make nothing",
    ]
    assert missing("    q2pi train && q2pi report\n`make bench`, `python benchmarks/laptop.py`") == []


@pytest.mark.parametrize("path", SWEEPS, ids=name)
def test_a_sweep_of_the_benchmarks_is_valid(path: Path, tmp_path: Path) -> None:
    sweep = read_sweep(path, tmp_path)
    assert {run.config.algorithm for run in sweep.runs} <= set(registry.names())


def test_methods_of_the_precision_report_are_algorithms_with_the_options_of_its_sweep() -> None:
    methods = json.loads((RESULTS / "precision/report.json").read_text())["methods"]
    sweep = read_sweep(ROOT / "benchmarks/precision.toml", Path("runs"))
    trained = {f"{run.config.algorithm}, precision {run.config.precision}" for run in sweep.runs}
    assert {method.rpartition(", ")[0] for method in methods} == trained
