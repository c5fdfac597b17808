"""Registration in new processes: in either order of imports, from a source tree and from an installed package."""

import os
import shutil
import subprocess
import sys
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import pytest

from q2pi.envs.registration import register_envs

VACUUMS = [f"q2pi/AliasedVacuum{kind}-v0" for kind in ("", "Discrete", "Cells")]
ENV_IDS = [*VACUUMS, "q2pi/FrozenLakeNoSlip-v1", "q2pi/CliffWalking-v1", "Taxi-v3"]


def run(code: str, **environment: str) -> str:
    """Run code in a new process in which warnings are errors; return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


ALL_KNOWN = f"print([env_id for env_id in {ENV_IDS} if gymnasium.spec(env_id).id != env_id])"


@pytest.mark.parametrize(
    "imports",
    [
        "import q2pi, gymnasium",
        "import gymnasium, q2pi",
        "import q2pi\nfrom gymnasium import spaces\nimport gymnasium",
        "import q2pi\nfrom importlib.util import find_spec\nassert find_spec('gymnasium')\nimport gymnasium",
        "import gymnasium\nimport q2pi.envs.names\nq2pi.envs.names.canonical('CartPole')",
    ],
)
def test_importing_q2pi_and_gymnasium_registers_in_either_order(imports: str) -> None:
    assert run(f"{imports}\n{ALL_KNOWN}") == "[]"


def test_without_importing_q2pi_the_id_names_the_module() -> None:
    """Negative control: an id without the module is unknown, since Gymnasium 1.0 loads no plugins."""
    made = "env = gymnasium.make('q2pi:q2pi/AliasedVacuum-v0'); print(env.unwrapped.length)"
    assert run(f"import gymnasium\n{made}") == "5"
    assert run(f"import q2pi, gymnasium\n{made}") == "5"
    unknown = "try: gymnasium.make('q2pi/AliasedVacuum-v0')\nexcept gymnasium.error.NamespaceNotFound: print('unknown')"
    assert run(f"import gymnasium\n{unknown}") == "unknown"


def test_an_installed_copy_registers_too(tmp_path: Path) -> None:
    """Built as a wheel from a copy of the source and installed into a folder of its own."""
    if find_spec("pip") is None or find_spec("setuptools") is None or int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("building the package needs pip and setuptools 77")
    source, copy, installed = Path(__file__).parent.parent.parent, tmp_path / "source", tmp_path / "installed"
    shutil.copytree(source / "src" / "q2pi", copy / "src" / "q2pi", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(source / name, copy)
    install = ["pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(installed)]
    subprocess.run([sys.executable, "-m", *install, str(copy)], check=True, capture_output=True, cwd=tmp_path)
    code = f"import q2pi, gymnasium; {ALL_KNOWN}; print(q2pi.__file__)"
    missing, file = run(code, PYTHONPATH=str(installed)).splitlines()
    assert missing == "[]"
    assert Path(file).parent == installed / "q2pi"
    assert run("import gymnasium; gymnasium.make('q2pi:q2pi/CliffWalking-v1')", PYTHONPATH=str(installed)) == ""


def test_import_is_light_until_gymnasium_is_imported() -> None:
    heavy = "print(sorted({'torch', 'numpy', 'gymnasium', 'ale_py', 'q2pi.envs'} & set(sys.modules)))"
    assert run(f"import sys, q2pi\n{heavy}") == "[]"
    heavy = "print(sorted({'torch', 'scipy', 'ale_py', 'q2pi.envs.aliased_vacuum'} & set(sys.modules)))"
    assert run(f"import sys, q2pi, gymnasium\n{heavy}") == "[]"


def test_the_import_hook_is_gone_once_gymnasium_is_imported() -> None:
    code = "print([type(finder).__name__ for finder in sys.meta_path if 'q2pi' in type(finder).__module__])"
    assert run(f"import sys, q2pi\n{code}") == "['_GymnasiumImportHook']"
    assert run(f"import sys, q2pi, gymnasium\n{code}") == "[]"
    assert run("import q2pi, gymnasium\nprint('exec_module' in vars(gymnasium.__spec__.loader))") == "False"


def test_registering_again_changes_nothing() -> None:
    before = dict(gymnasium.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_envs()
    assert dict(gymnasium.registry) == before
    assert set(ENV_IDS) <= before.keys()
