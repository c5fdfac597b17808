"""The runner of planted faults: what it reports, and that it leaves the tree alone."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import run as runner
import tomli_w
from run import CAUGHT, DOES_NOT_APPLY, FAULTS, PACKAGE, ROOT, SURVIVED, Fault

SOURCE = "def double(x):\n    return 2 * x\n"
TEST = "from q2pi.small import double\n\n\ndef test_double():\n    assert double(3) == 6\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package of one function, and its test."""
    root = tmp_path / "tree"
    (root / PACKAGE).mkdir(parents=True)
    (root / PACKAGE / "__init__.py").write_text("")
    (root / PACKAGE / "small.py").write_text(SOURCE)
    (root / "tests").mkdir()
    (root / "tests" / "test_small.py").write_text(TEST)
    (root / "pyproject.toml").write_text("")
    return root


def fault(name: str, find: str = "2 * x", replace: str = "3 * x", test: str = "tests/test_small.py") -> Fault:
    return Fault(name, "small.py", find, replace, test)


def checked(tree: Path, *faults: Fault) -> tuple[int, str]:
    """Return (exit status, output) of the runner on these faults, in a process of its own."""
    file = tree.parent / "faults.toml"
    file.write_text(tomli_w.dumps({"fault": [dataclasses.asdict(one) for one in faults]}))
    command = [sys.executable, str(FAULTS.with_name("run.py")), "--faults", str(file), "--root", str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_verdict_for_each_fault(tree: Path) -> None:
    source = SOURCE + "# double\n"
    (tree / PACKAGE / "small.py").write_text(source)
    (tree / "tests" / "test_dead.py").write_text("import os\n\nos._exit(1)\n")
    status, output = checked(
        tree,
        fault("seen"),
        fault("equivalent", replace="x + x"),
        fault("gone", find="4 * x"),
        fault("ambiguous", find="double"),
        fault("no-test", test="tests/test_small.py::test_triple"),
        fault("broken", replace="2 * (x"),
        fault("dead", test="tests/test_dead.py"),
    )
    verdicts = {name: verdict.strip() for verdict, name in re.findall(r"^(.{15}) ([\w-]+) \(", output, re.M)}
    assert verdicts == {"seen": CAUGHT, "equivalent": SURVIVED} | dict.fromkeys(
        ("gone", "ambiguous", "no-test", "broken", "dead"), DOES_NOT_APPLY
    )
    assert status == 1
    assert "by tests/test_small.py::test_double" in output
    assert "the search string occurs 0 times in small.py" in output
    assert "the search string occurs 2 times in small.py" in output
    assert output.endswith("1 caught, 1 survived, 5 does not apply\n")
    assert (tree / PACKAGE / "small.py").read_text() == source, "the tree itself is left alone"


def test_the_exit_status_is_0_if_every_fault_is_caught(tree: Path) -> None:
    assert checked(tree, fault("seen"))[0] == 0


def test_a_fault_of_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        runner.main(["--only", "no-such-fault"])
    assert "unknown fault: no-such-fault" in capsys.readouterr().err


def test_a_sample_depends_on_the_seed_alone() -> None:
    faults = [fault(str(number)) for number in range(50)]
    first = runner.sampled(faults, 0.1, seed=1)
    assert len(first) == 5
    assert runner.sampled(faults, 0.1, seed=1) == first != runner.sampled(faults, 0.1, seed=2)
    assert [one.id for one in first] == sorted((one.id for one in first), key=int)


def test_every_fault_applies_to_the_source() -> None:
    faults = runner.read_faults(FAULTS)
    assert len(faults) >= 120
    for one in faults:
        text = (ROOT / PACKAGE / one.file).read_text()
        assert text.count(one.find) == 1, f"{one.id}: the search string must occur once in {one.file}"
        assert text.replace(one.find, one.replace) != text, f"{one.id} changes nothing"
        file, _, name = one.test.partition("::")
        assert (ROOT / file).is_file(), f"{one.id}: {file} does not exist"
        assert not name or re.search(rf"^def {re.escape(name.partition('[')[0])}\(", (ROOT / file).read_text(), re.M)


def test_an_id_that_is_used_twice_is_refused(tmp_path: Path) -> None:
    entry = '[[fault]]\nid = "one"\nfile = "a.py"\nfind = "a"\nreplace = "b"\ntest = "tests/test_a.py"\n'
    (tmp_path / "faults.toml").write_text(entry * 2)
    with pytest.raises(ValueError, match="'one' is used more than once"):
        runner.read_faults(tmp_path / "faults.toml")
