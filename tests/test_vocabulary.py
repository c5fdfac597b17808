"""Retired words: private vocabulary that readers of the field would have to translate, in code, tests and documents."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RETIRED = {
    r"judg\w*": "evaluate, evaluation",
    r"worlds?": "environment",
    r"ow(ed|es)": "due",
    r"settle[sd]?|settling": "repaired, resolved",
    r"calibrat\w*": "timing run",
    r"forecast\w*": "estimate",
    r"choosers?": "selector",
    r"contenders?": "candidate",
    r"crews?": "worker pool",
    r"news": "JobStatus, message",
    r"tells?|told|telling": "say, report, emit; tell apart: distinguish",
    r"hears?|heard": "on_message",
    r"hopeless": "prune",
    r"twins?": "duplicate",
    r"rungs?|ladders?": "per-environment epsilon",
    r"in sight": "rendered",
    r"fresh seeds?": "held-out seeds",
    r"verbs?": "command",
    r"house": "architecture",
    r"laws?": "principle",
    r"really (better|worse)": "significantly better",
    r"main network": "online network",
    r"time r[ua]ns? out": "truncated, time limit",
    r"games in flight": "unfinished episodes",
    r"the world ended": "terminated",
}
"""Pattern of a word -> what the field says. Identifiers are read word by word."""
PATTERNS = {re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])", re.IGNORECASE): use for pattern, use in RETIRED.items()}
THIS = Path(__file__)


def texts() -> list[Path]:
    """Return every file that a person reads."""
    folders = {
        "src": ("*.py", "*.toml"),
        "tests": ("*.py",),
        "benchmarks": ("*",),
        "docs": ("*.md",),
        "results": ("*.md",),
    }
    files = [path for name, kinds in folders.items() for kind in kinds for path in (ROOT / name).rglob(kind)]
    files += [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / ".ci/run"]
    return sorted(path for path in files if path.is_file() and path != THIS and path.suffix != ".pyc")


def words(text: str) -> str:
    """Return a text with identifiers split: snake_case and CamelCase become words. Optuna's `.tell(` is left out."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text.replace(".tell(", "(").replace("_", " "))


def found(text: str) -> list[str]:
    """Return each retired word of a text with its line and what to use."""
    hits = []
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, use in PATTERNS.items():
            hits += [f"{number}: {match.group(0)!r}, use {use}" for match in pattern.finditer(words(line))]
    return hits


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_retired_word(path: Path) -> None:
    assert found(path.read_text()) == []


def test_retired_words_are_found_in_identifiers_and_in_text() -> None:
    assert found("updates_owed = 1") == ["1: 'owed', use due"]
    assert found("class JudgeOf: ...") == ["1: 'Judge', use evaluate, evaluation"]
    assert found('"""What the world tells."""') == [
        "1: 'world', use environment",
        "1: 'tells', use say, report, emit; tell apart: distinguish",
    ]
    assert found("study.tell(trial, 1.0)") == []
    assert found("worker.tells(1)") == ["1: 'tells', use say, report, emit; tell apart: distinguish"]
    assert found("allowed = followed | borrowed; lawn = newspaper") == []
