"""Every experiment with its quick settings: it runs and writes sane files; verdicts over one seed are undecided."""

import json
from pathlib import Path

import numpy as np
import pytest

from q2pi.lab.claim import Claim
from q2pi.lab.results import ClaimFolder, seed_job
from q2pi.lab.road import NAMES, find
from q2pi.parallel.executor import never

REPEATED = ("deadly_triad", "concave_objective", "local_optima", "exploration")
"""Cheap experiments that run twice."""


@pytest.mark.filterwarnings("ignore:.*Taxi-v3 is out of date")
@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_runs_and_writes_sane_files(name: str, tmp_path: Path) -> None:
    folder = ClaimFolder(tmp_path, find(name))
    (job,) = folder.jobs("quick", [1])
    message = seed_job(job.arguments, lambda _: None, never)
    assert message["seconds"] > 0
    folder.write_seed("quick", message)
    assert folder.jobs("quick", [1]) == []
    result = folder.write_verdict("quick", [1])
    assert json.loads(folder.verdict_file.read_text()) == result
    assert folder.figure_file.read_bytes().startswith(b"\x89PNG")
    for effect in result["effects"]:
        assert effect["mean"] is not None, effect["effect"]
        assert effect["is_exact"] or effect["outcome"] == "undecided"
    assert result["settings"] == json.loads(json.dumps(dict(find(name).quick)))


@pytest.mark.parametrize("name", REPEATED)
def test_an_experiment_is_a_function_of_its_seed(name: str) -> None:
    claim: Claim = find(name)
    first, again, other = (json.dumps(claim.experiment(seed, claim.quick)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", NAMES)
def test_quick_and_full_have_the_same_settings(name: str) -> None:
    claim = find(name)
    assert claim.quick.keys() == claim.full.keys()
    assert claim.quick != claim.full
    assert len(claim.rules) < 10
    assert all(np.isfinite(rule.bound) and rule.effect for rule in claim.rules)
