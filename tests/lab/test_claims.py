"""Each claim: `holds` on data in which it is true, `fails` on data in which it is false, `undecided` over few seeds."""

import json
from pathlib import Path

import pytest
from synthetic_claims import MAKE, synthetic

from q2pi.lab.claim import verdict
from q2pi.lab.road import NAMES, find
from q2pi.reports.style import save_figure


def test_every_claim_has_synthetic_data() -> None:
    assert set(MAKE) == set(NAMES)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("true", [True, False])
def test_both_verdicts(name: str, true: bool) -> None:
    result = verdict(find(name), synthetic(name, true))
    assert result["verdict"] == ("holds" if true else "fails"), result["effects"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@pytest.mark.parametrize("name", MAKE)
def test_two_seeds_decide_nothing_but_exact_effects(name: str) -> None:
    claim = find(name)
    for effect in claim.effects(synthetic(name, True, seeds=2)):
        assert effect.rule.is_exact or effect.outcome == "undecided"


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("seeds", [1, 10])
def test_a_figure_names_its_axes(name: str, seeds: int, tmp_path: Path) -> None:
    figure = find(name).figure(synthetic(name, True, seeds))
    axes = [one for one in figure.axes if one.get_label() != "<colorbar>" and one.axison]
    assert all(one.get_title(loc="left") and one.get_ylabel() for one in axes)
    assert save_figure(figure, tmp_path / "figure.png").stat().st_size > 5_000
