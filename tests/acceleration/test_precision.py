"""bf16 is used if a measurement finds it faster, once per machine."""

from pathlib import Path

import pytest
import torch

from q2pi.acceleration import precision

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache file, in a temporary folder, for a processor with bf16."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision, "_processor", lambda: "made up avx512_bf16")
    return tmp_path / "q2pi" / "precision.json"


def measured(monkeypatch: pytest.MonkeyPatch, ratio: float) -> list[str]:
    """Make every measurement return `ratio`; return a live list of the measured networks."""
    calls: list[str] = []

    def measure(network: str, threads: int) -> float:
        calls.append(f"{network} {threads}")
        return ratio

    monkeypatch.setattr(precision, "time_ratio", measure)
    return calls


@pytest.mark.parametrize(("ratio", "found"), [(0.5, "bf16"), (0.89, "bf16"), (0.95, "fp32"), (1.6, "fp32")])
def test_bf16_is_used_if_it_is_faster(cache: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, found: str) -> None:
    measured(monkeypatch, ratio)
    assert precision.faster_precision("nature", CPU, 1) == found


def test_a_machine_is_measured_once_for_each_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = measured(monkeypatch, 0.5)
    assert [precision.faster_precision("nature", CPU, 1) for _ in range(2)] == ["bf16", "bf16"]
    precision.faster_precision("nips", CPU, 1)
    precision.faster_precision("nips", CPU, 2)
    assert calls == ["nature 1", "nips 1", "nips 2"], "on two threads the ratio may be another"
    measured(monkeypatch, 2.0)
    assert precision.faster_precision("nature", CPU, 1) == "bf16", "a run that is started again makes the same choice"
    monkeypatch.setattr(precision, "_processor", lambda: "another avx512_bf16")
    assert precision.faster_precision("nature", CPU, 1) == "fp32", "another machine is measured again"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_broken_cache_is_measured_again(cache: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    cache.parent.mkdir()
    cache.write_text(content)
    assert measured(monkeypatch, 0.5) == []
    assert precision.faster_precision("nature", CPU, 1) == "bf16"
    assert "bf16" in cache.read_text()


def test_a_cache_that_cannot_be_written_is_ignored(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.write_text("a file where the folder should be")
    measured(monkeypatch, 0.5)
    assert precision.faster_precision("nature", CPU, 1) == "bf16"


def test_without_bf16_instructions_nothing_is_measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = measured(monkeypatch, 0.5)
    monkeypatch.setattr(precision, "_processor", lambda: "old")
    assert precision.faster_precision("nature", CPU, 1) == "fp32"
    assert not calls
    assert not cache.exists()


def test_the_ratio_is_of_two_timed_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def seconds(model: torch.nn.Module, batch: torch.Tensor, kind: str) -> float:
        calls.append(kind)
        assert torch.get_num_threads() == 3
        return {"bf16": 3.0, "fp32": 4.0}[kind]

    monkeypatch.setattr(precision, "gradient_seconds", seconds)
    threads = torch.get_num_threads()
    assert precision.time_ratio("nips", threads=3) == 0.75
    assert calls == ["bf16", "fp32"] * (1 + precision.ROUNDS)
    assert torch.get_num_threads() == threads


def test_a_real_measurement_is_plausible() -> None:
    assert 0.05 < precision.time_ratio("nips", 1) < 50
