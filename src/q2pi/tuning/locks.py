"""Locks of a study: of claims, so that one worker at a time picks a trial, and of each trial's owner.

`FileLocks` are locks of the kernel, for workers on one machine: a killed process releases them at once.

`HeartbeatLocks` are entries in the study's storage, for workers on several machines. The storage numbers new entries
one after the other, in an Optuna study of their own:

    entry   lock       state     beat
    0       claims     ended     3
    1       trial 0    running   17       the owner of trial 0, whose process raises `beat` every few seconds
    2       claims     running   2        holds the lock of claims
    3       claims     running   1        waits for entry 2 to end

The running entry of a lock with the lowest number holds it. An entry whose beat does not change for `grace` seconds is
dead: any other process may end it. Only differences of one process's own clock are used, so clocks may differ between
machines. A process that could not raise its beat for `grace` seconds has lost its locks and stops.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from q2pi.errors import UserError
from q2pi.runs import locks
from q2pi.tuning.plan import StudyFolder

BEAT_SECONDS = 5.0
"""Seconds between two beats; a journal file grows by a line at each."""
GRACE = 6
"""Number of missed beats after which an entry is dead."""
POLL_SECONDS = 0.1
CLAIMS = "claims"


class Owner(Protocol):
    """The lock of a trial that this process owns."""

    @property
    def is_lost(self) -> bool:
        """Whether another process may own the trial by now."""

    def close(self) -> None:
        """Release the lock."""


class Locks(Protocol):
    """The locks of a study."""

    def claims(self) -> AbstractContextManager[None]:
        """Block until no other worker is claiming a trial, then hold the lock."""

    def owner(self, number: int) -> Owner | None:
        """Return the lock of a trial, or None if its owner is alive as far as this process knows."""

    @property
    def is_unsure(self) -> bool:
        """Whether an owner for which `owner` returned None may be dead: ask again in a moment."""

    def close(self) -> None:
        """Release all locks."""


class FileLocks:
    """Kernel locks in the study's folder."""

    is_unsure = False

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder

    def claims(self) -> AbstractContextManager[None]:
        return locks.hold(self.folder.claims)

    def owner(self, number: int) -> Owner | None:
        file = locks.take(self.folder.owner(number))
        return None if file is None else _File(file)

    def close(self) -> None:
        pass


class _File:
    is_lost = False

    def __init__(self, file: Any) -> None:
        self.file = file

    def close(self) -> None:
        self.file.close()


class HeartbeatLocks:
    """Locks as entries in a storage; a thread raises the beats of the entries that this process has.

    Args:
        storage: of the study.
        name: of the study.
        beat: seconds between two beats.
    """

    def __init__(self, storage: BaseStorage, name: str, beat: float = BEAT_SECONDS) -> None:
        self.storage, self.beat, self.grace = storage, beat, GRACE * beat
        self.study = _study_id(storage, f"{name}-locks")
        self._mine: set[_Entry] = set()
        self._mutex = threading.Lock()
        self._seen: dict[int, _Seen] = {}
        """Entry of another process -> its newest beat."""
        self._met: set[int] = set()
        """Living entries because of which `owner` returned None in the last round of claims."""
        self._closing = threading.Event()
        threading.Thread(target=self._keep_beating, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def claims(self) -> Iterator[None]:
        entry = self._append(CLAIMS)
        try:
            while self._living_before(entry):
                time.sleep(POLL_SECONDS)
            self._met.clear()
            yield
        finally:
            entry.close()

    def owner(self, number: int) -> Owner | None:
        return self.take(f"trial {number}")

    def take(self, lock: str) -> Owner | None:
        """Return the lock, or None if a living entry holds it."""
        if self._living(lock):
            return None
        entry = self._append(lock)
        if self._living_before(entry):
            entry.close()
            return None
        return entry

    def lock_study(self) -> None:
        """Lock the whole study until `close`; wait for an owner that may be dead.

        Raises:
            UserError: another process has the study.
        """
        while self.take("study") is None:
            if not self.is_unsure:
                raise UserError("the study is in use by another q2pi tune")
            time.sleep(POLL_SECONDS)

    @property
    def is_unsure(self) -> bool:
        oldest = time.monotonic() - 2 * self.beat
        return any(not self._seen[entry].has_changed or self._seen[entry].since < oldest for entry in self._met)

    def close(self) -> None:
        self._closing.set()
        for entry in list(self._mine):
            with contextlib.suppress(StorageInternalError):
                entry.close()

    def _append(self, lock: str) -> "_Entry":
        attributes = {"lock": lock, "beat": 0}
        entry = self.storage.create_new_trial(self.study, create_trial(state=TrialState.RUNNING, user_attrs=attributes))
        mine = _Entry(self, entry, lock, self.storage.get_trial_number_from_id(entry))
        with self._mutex:
            self._mine.add(mine)
        return mine

    def _living_before(self, entry: "_Entry") -> bool:
        """Return whether a living entry of the same lock has a lower number."""
        return self._living(entry.lock, entry.number)

    def _living(self, lock: str, before: float = float("inf")) -> bool:
        """Return whether a lock has a living entry with a number below `before`; end its dead entries."""
        found = False
        for entry in self.storage.get_all_trials(self.study, deepcopy=False, states=(TrialState.RUNNING,)):
            if entry.user_attrs.get("lock") != lock or entry.number >= before:
                continue
            if self._is_dead(entry):
                self.end(entry._trial_id)
            else:
                found = True
                if lock != CLAIMS:
                    self._met.add(entry._trial_id)
        return found

    def _is_dead(self, entry: FrozenTrial) -> bool:
        beat, now = entry.user_attrs["beat"], time.monotonic()
        seen = self._seen.get(entry._trial_id)
        if seen is None or seen.beat != beat:
            self._seen[entry._trial_id] = _Seen(beat, now, has_changed=seen is not None)
            return False
        return now - seen.since > self.grace

    def end(self, entry: int) -> None:
        """End an entry; it may have ended before."""
        with contextlib.suppress(UpdateFinishedTrialError):
            self.storage.set_trial_state_values(entry, TrialState.FAIL)

    def _keep_beating(self) -> None:
        while not self._closing.wait(self.beat):
            with self._mutex:
                mine = list(self._mine)
            for entry in mine:
                with contextlib.suppress(StorageInternalError, OSError):  # the next beat tries again
                    entry.raise_beat()


@dataclass(frozen=True)
class _Seen:
    """The newest beat of another process's entry."""

    beat: int
    since: float
    """This process's time when it first saw this beat."""
    has_changed: bool
    """Whether this process saw an earlier beat of the entry, so that the entry was alive at `since`."""


class _Entry:
    """An entry of this process."""

    def __init__(self, owner: HeartbeatLocks, entry: int, lock: str, number: int) -> None:
        self.locks, self.entry, self.lock, self.number = owner, entry, lock, number
        self.beats = 0
        self.has_ended = False
        self.last_beat = time.monotonic()

    @property
    def is_lost(self) -> bool:
        return self.has_ended or time.monotonic() - self.last_beat > self.locks.grace

    def raise_beat(self) -> None:
        now = time.monotonic()
        try:
            self.locks.storage.set_trial_user_attr(self.entry, "beat", self.beats + 1)
        except UpdateFinishedTrialError:
            self.has_ended = True
            self._forget()
            return
        self.beats += 1
        if not self.is_lost:
            self.last_beat = now

    def close(self) -> None:
        self._forget()
        self.locks.end(self.entry)

    def _forget(self) -> None:
        with self.locks._mutex:
            self.locks._mine.discard(self)


def _study_id(storage: BaseStorage, name: str) -> int:
    """Return the Optuna study of the entries; the first process creates it."""
    try:
        return storage.create_new_study([StudyDirection.MINIMIZE], name)
    except DuplicatedStudyError:
        return storage.get_study_id_from_name(name)
