"""One-way layers of imports, checked in the sources."""

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
    {"envs"},
    {"networks"},
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
    {"__main__"},
]
"""Each part of the package may import the parts listed above it, and itself."""
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def part_of(module: str) -> str:
    """Return the part of the package a dotted module name belongs to; the empty string for the package itself."""
    _, part, *_ = [*module.split("."), ""]
    return part


def imported(source: str) -> set[str]:
    """Return the parts of q2pi that a source imports, at its top or within functions; not under TYPE_CHECKING."""
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


def test_at_most_seven_files_at_the_top() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 7


SOURCES = {path: part_of(".".join(path.relative_to(ROOT.parent).with_suffix("").parts)) for path in ROOT.rglob("*.py")}


@pytest.mark.parametrize("path", sorted(SOURCES), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_layers(path: Path) -> None:
    part = SOURCES[path]
    if part == "__init__":
        return
    assert part in LEVEL, f"{part} is missing in LAYERS"
    for other in imported(path.read_text()) - {part, "__version__"}:
        assert LEVEL[other] < LEVEL[part], f"{part} imports {other}"


HEAVY = {"optuna": "tuning", "ray": "runs", "nicegui": "viewer", "fastapi": "viewer", "uvicorn": "viewer"}
USES_RAY = {"runs/ray.py", "runs/ray_actors.py", "runs/ray_connection.py"}


@pytest.mark.parametrize("path", sorted(SOURCES), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_one_part_imports_a_framework_and_three_files_ray(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            owner = HEAVY.get((module or "").split(".")[0])
            assert owner in (None, SOURCES[path])
            assert owner != "runs" or path.relative_to(ROOT).as_posix() in USES_RAY


def test_every_kind_of_import_is_found() -> None:
    source = """
import q2pi.loop
from q2pi import checkpoint, rng
def late():
    from q2pi.envs.games import Step
if TYPE_CHECKING:
    from q2pi.__main__ import main
import numpy
"""
    assert imported(source) == {"loop", "checkpoint", "rng", "envs"}
    assert len(SOURCES) > 20


def module_of(path: Path) -> str:
    """Return a file's dotted module name; a package's `__init__.py` is the package."""
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def modules_imported(source: str, modules: set[str]) -> set[str]:
    """Return the elements of `modules` that a source imports, also within functions, but not under TYPE_CHECKING."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            found |= submodules
            if len(submodules) < len(node.names):
                found.add(node.module)
    return found & modules


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others (Kosaraju 1978)."""

    def visit(start: str, edges: dict[str, set[str]], seen: set[str]) -> list[str]:
        order: list[str] = []
        stack = [(start, iter(sorted(edges[start])))]
        seen.add(start)
        while stack:
            node, targets = stack[-1]
            for target in targets:
                if target not in seen:
                    seen.add(target)
                    stack.append((target, iter(sorted(edges[target]))))
                    break
            else:
                order.append(node)
                stack.pop()
        return order

    reverse: dict[str, set[str]] = {node: set() for node in graph}
    for node, targets in graph.items():
        for target in targets:
            reverse[target].add(node)
    seen: set[str] = set()
    order = [node for start in sorted(graph) if start not in seen for node in visit(start, graph, seen)]
    seen = set()
    groups = [sorted(visit(start, reverse, seen)) for start in reversed(order) if start not in seen]
    return [group for group in groups if len(group) > 1 or group[0] in graph[group[0]]]


def test_no_modules_import_each_other() -> None:
    files = {module_of(path): path for path in SOURCES}
    graph = {module: modules_imported(path.read_text(), set(files)) for module, path in files.items()}
    assert "q2pi.envs.interface" in graph["q2pi.envs.vector"]
    assert cycles(graph) == []


def test_cycles_are_found_and_chains_are_not_cycles() -> None:
    chain = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert cycles(chain) == []
    assert cycles(chain | {"c": {"a"}}) == [["a", "b", "c"]]
    assert cycles(chain | {"b": {"b", "c"}}) == [["b"]]
    late = "def f():\n    from p.envs import spec\n"
    assert modules_imported(late + "if TYPE_CHECKING:\n    import p.cli\n", {"p.envs", "p.envs.spec", "p.cli"}) == {
        "p.envs.spec"
    }
    assert modules_imported("from p.envs import spec, make", {"p.envs", "p.envs.spec"}) == {"p.envs", "p.envs.spec"}
