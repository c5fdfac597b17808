"""Stored verdicts follow from their numbers and from today's rules, and docs/lab.md from the verdicts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from q2pi.lab.claim import Effect, outcome
from q2pi.lab.report import lab_markdown
from q2pi.lab.results import read_verdicts
from q2pi.lab.road import find
from q2pi.statistics.pairs import sign_flip_interval

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "results" / "lab"
VERDICTS = {name: one for name, one in read_verdicts(RESULTS).items() if one is not None}


@pytest.mark.parametrize("name", VERDICTS)
def test_a_verdict_is_a_full_result_of_the_claim(name: str) -> None:
    stored, claim = VERDICTS[name], find(name)
    assert stored["budget"] == "full", "a quick budget is no result"
    assert len(stored["seeds"]) >= 10
    assert stored["sentence"] == claim.sentence
    assert stored["settings"] == json.loads(json.dumps(dict(claim.full)))
    assert stored["command"] == f"q2pi lab run {name} --seeds {len(stored['seeds'])} --budget full"
    assert (RESULTS / name / "figure.png").is_file()


@pytest.mark.parametrize("name", VERDICTS)
def test_a_verdict_follows_from_its_numbers(name: str) -> None:
    stored, claim = VERDICTS[name], find(name)
    effects = []
    for rule, given in zip(claim.rules, stored["effects"], strict=True):
        expected: dict[str, Any] = {"effect": rule.effect, "unit": rule.unit, "side": rule.side, "bound": rule.bound}
        assert {key: given[key] for key in expected} == expected
        by_seed = given["by_seed"]
        low, high = (min(by_seed), max(by_seed)) if rule.is_exact else sign_flip_interval(by_seed, given["confidence"])
        assert (given["low"], given["high"]) == pytest.approx((float(low), float(high)))
        assert given["mean"] == pytest.approx(np.mean(by_seed))
        effects.append(Effect(rule, by_seed, float(low), float(high), given["confidence"]))
    assert stored["verdict"] == outcome(effects)


def test_the_page_is_the_report_of_the_verdicts() -> None:
    text = lab_markdown(Path("results/lab"), VERDICTS, Path("docs"))
    assert (ROOT / "docs" / "lab.md").read_text() == text, "q2pi lab report --docs docs/lab.md"
