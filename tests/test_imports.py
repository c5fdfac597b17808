"""Who may import whom: one-way layers, read from the sources."""

import ast
from pathlib import Path

import pytest

import q2pi

assert q2pi.__file__ is not None
ROOT = Path(q2pi.__file__).parent

LAYERS = [
    {"errors", "rng", "types"},
    {"parallel"},
    {"equations", "statistics"},
    {"envs", "networks"},
    {"buffers"},
    {"acceleration"},
    {"config"},
    {"algorithms"},
    {"evaluation"},
    {"training"},
    {"runs"},
    {"reports"},
    {"api", "lab", "tuning", "viewer"},
    {"commands"},
    {"cli"},
]
"""Each part of the package may import those above it, and itself."""
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def part_of(module: str) -> str:
    """Return the part of the package a dotted module name belongs to; the empty string for the package itself."""
    _, part, *_ = [*module.split("."), ""]
    return part


def imported(source: str) -> set[str]:
    """Return the parts of q2pi that a source imports, at its top or within functions; not those for type checks."""
    found: set[str] = set()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {part_of(alias.name) for alias in node.names if alias.name.split(".")[0] == "q2pi"}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "q2pi":
            names = {f"q2pi.{alias.name}" for alias in node.names} if node.module == "q2pi" else {node.module}
            found |= {part_of(name) for name in names}
    return found


def test_at_most_seven_files_stand_at_the_top() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 7


SOURCES = {path: part_of(".".join(path.relative_to(ROOT.parent).with_suffix("").parts)) for path in ROOT.rglob("*.py")}


@pytest.mark.parametrize("path", sorted(SOURCES), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_never_turn_back(path: Path) -> None:
    part = SOURCES[path]
    if part in ("__init__", "__main__"):
        return
    assert part in LEVEL, f"say in LAYERS where {part} belongs"
    for other in imported(path.read_text()) - {part, "__version__"}:
        assert LEVEL[other] < LEVEL[part], f"{part} imports {other}"


HEAVY = {"optuna": "tuning", "ray": "scale"}


@pytest.mark.parametrize("path", sorted(SOURCES), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_one_part_knows_of_optuna_and_ray(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            owner = HEAVY.get((module or "").split(".")[0])
            assert owner in (None, SOURCES[path])


def test_the_walk_sees_every_kind_of_import() -> None:
    source = """
import q2pi.loop
from q2pi import checkpoint, rng
def late():
    from q2pi.envs.games import Step
if TYPE_CHECKING:
    from q2pi.cli import main
import numpy
"""
    assert imported(source) == {"loop", "checkpoint", "rng", "envs"}
    assert len(SOURCES) > 20
