"""Shared by all tests: one OpenMP thread, and a fixture that disables figures."""

import os
import sys
from types import SimpleNamespace

# Before torch is imported: results are bit-exact for the same number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the learning curve at the end of runs, which takes longer than the run."""
    monkeypatch.setitem(
        sys.modules, "q2pi.reports.learning_curves", SimpleNamespace(learning_curves=lambda runs, path: None)
    )
