"""Locks by heartbeats in a study's storage: one owner at a time, dead owners replaced, lost locks noticed."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from small_studies import begun, plan

from q2pi.errors import UserError
from q2pi.tuning import search
from q2pi.tuning.locks import GRACE, HeartbeatLocks
from q2pi.tuning.plan import StudyFolder
from q2pi.tuning.storage import SharedLock, open_storage
from q2pi.tuning.trial import claim, run_trial

BEAT = 0.1


@pytest.fixture(params=["journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BaseStorage:
    url = None if request.param == "journal" else f"sqlite:///{tmp_path / 'study.db'}"
    return open_storage(StudyFolder(tmp_path / "study"), url, is_shared=True)


@pytest.fixture
def pair(storage: BaseStorage) -> Iterator[tuple[HeartbeatLocks, HeartbeatLocks]]:
    """Locks of two processes."""
    with HeartbeatLocks(storage, "tiny", BEAT) as first, HeartbeatLocks(storage, "tiny", BEAT) as second:
        yield first, second


def die(locks: HeartbeatLocks) -> None:
    """End the heartbeats without releasing anything, as a killed process does."""
    locks._closing.set()


def test_a_lock_has_one_owner(pair: tuple[HeartbeatLocks, HeartbeatLocks]) -> None:
    first, second = pair
    owner = first.owner(7)
    assert owner is not None
    assert second.owner(7) is None
    assert second.owner(8) is not None
    assert not owner.is_lost
    owner.close()
    assert second.owner(7) is not None


def test_an_owner_that_beats_stays_and_a_dead_one_is_replaced(pair: tuple[HeartbeatLocks, HeartbeatLocks]) -> None:
    first, second = pair
    owner = first.owner(7)
    assert owner is not None
    assert second.owner(7) is None
    assert second.is_unsure, "one look does not show whether the owner beats"
    start = time.monotonic()
    while time.monotonic() - start < 2 * GRACE * BEAT:
        assert second.owner(7) is None
        time.sleep(BEAT / 2)
    assert not second.is_unsure
    die(first)
    start = time.monotonic()
    while (taken := second.owner(7)) is None:
        assert time.monotonic() - start < 10 * GRACE * BEAT
        time.sleep(BEAT / 2)
    assert time.monotonic() - start > (GRACE - 2) * BEAT
    assert not taken.is_lost
    assert owner.is_lost, "the process that could not beat knows that it has lost the trial"


def test_an_owner_that_was_declared_dead_notices(pair: tuple[HeartbeatLocks, HeartbeatLocks]) -> None:
    first, second = pair
    owner = first.owner(7)
    assert owner is not None
    second.end(owner.entry)  # type: ignore[attr-defined]
    deadline = time.monotonic() + 50 * BEAT
    while not owner.is_lost and time.monotonic() < deadline:
        time.sleep(BEAT / 2)
    assert owner.is_lost


def test_claims_exclude_each_other(storage: BaseStorage) -> None:
    inside, most = 0, 0
    mutex = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with HeartbeatLocks(storage, "tiny", BEAT) as locks:
            for _ in range(3):
                with locks.claims():
                    with mutex:
                        inside += 1
                        most = max(most, inside)
                    time.sleep(0.01)
                    with mutex:
                        inside -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_claims_of_a_dead_process_are_passed_on(pair: tuple[HeartbeatLocks, HeartbeatLocks]) -> None:
    first, second = pair
    first._append("claims")
    die(first)
    with second.claims():
        pass


def test_a_study_has_one_process_that_drives_it(pair: tuple[HeartbeatLocks, HeartbeatLocks]) -> None:
    first, second = pair
    first.lock_study()
    with pytest.raises(UserError, match="in use by another q2pi tune"):
        second.lock_study()


def test_a_worker_waits_for_an_owner_that_may_be_dead_and_continues_its_trial(tmp_path: Path) -> None:
    """With the wanted number of trials started, a worker that left at once would leave the trial running forever."""
    made = plan()
    folder, study = begun(tmp_path / "study", made)
    opened = open_storage(folder, None, is_shared=True)
    dead = HeartbeatLocks(opened, made.name, BEAT)
    assert claim(folder, made, study, 1, dead) is not None
    die(dead)
    messages: list[dict[str, object]] = []
    arguments = {"path": str(folder.path), "storage": None, "wanted": 1, "beat": BEAT}
    search.work(arguments, messages.append, lambda: False)
    assert messages[0] == {"trial": 0, "state": "running", "is_continued": True}
    assert [trial.state for trial in study.get_trials()] == [TrialState.COMPLETE]


def test_a_torn_line_is_removed_and_the_lock_is_not_left_behind(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.write_text("whole\ntor")
    lock = SharedLock(journal)
    lock.acquire()
    lock.release()
    assert journal.read_text() == "whole\n"
    assert list(tmp_path.iterdir()) == [journal]


def test_a_worker_that_lost_its_trial_stops_and_reports_nothing(tmp_path: Path) -> None:
    """Both processes would else report, and the first result would count, from whichever it is."""
    made = plan()
    folder, study = begun(tmp_path / "study", made)
    opened = open_storage(folder, None, is_shared=True)
    with HeartbeatLocks(opened, made.name, BEAT) as slow:
        claimed = claim(folder, made, study, 1, slow)
        assert claimed is not None
        slow.end(claimed.owner.entry)  # type: ignore[attr-defined]
        deadline = time.monotonic() + 50 * BEAT
        while not claimed.owner.is_lost and time.monotonic() < deadline:
            time.sleep(BEAT / 2)
        assert run_trial(folder, made, study, claimed, lambda: False).state == "interrupted"
    (trial,) = study.get_trials()
    assert trial.state == TrialState.RUNNING
    assert len(trial.user_attrs["attempt"]) == 1
