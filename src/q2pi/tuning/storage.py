"""Storage of a study: a journal file, or any SQL database that Optuna supports."""

import os
import threading
import warnings
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection

from q2pi.errors import UserError
from q2pi.runs.locks import Lock, wait
from q2pi.tuning.plan import Plan, StudyFolder
from q2pi.tuning.samplers import make_pruner, make_sampler
from q2pi.tuning.space import encode, label, value_of

ANSWER_SECONDS = 8.0
"""Seconds in which a database must answer."""
LEFT_SECONDS = 10
"""Seconds after which the journal's lock of a killed process is removed."""


class KernelLock(JournalFileOpenLock):
    """A lock of the journal that the kernel releases when its owner is killed; it also removes an incomplete last line.

    Optuna's locks are files: a killed process leaves its file behind, which blocks the others for half a minute.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.lock: Lock | None = None

    def acquire(self) -> bool:
        # A file of its own: Windows would not let Optuna write into a locked journal.
        self.lock = wait(self.journal.with_name(f".{self.journal.name}.lock"))
        with self.journal.open("ab+") as file:
            _cut_torn_line(file)
        return True

    def release(self) -> None:
        assert self.lock is not None
        self.lock.close()


class SharedLock(JournalFileOpenLock):
    """A lock of the journal for processes on several machines: a file beside it, as on NFS without kernel locks.

    If its owner is killed, the others wait for `LEFT_SECONDS`.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal), LEFT_SECONDS)
        self.journal = journal

    def acquire(self) -> bool:
        super().acquire()
        with self.journal.open("ab+") as file:
            _cut_torn_line(file)
        return True


def _cut_torn_line(file: IO[bytes]) -> None:
    size = file.seek(0, os.SEEK_END)
    start = size
    while start and _byte(file, start - 1) != b"\n":
        start -= 1
    if start < size:
        file.truncate(start)


def _byte(file: IO[bytes], position: int) -> bytes:
    file.seek(position)
    return file.read(1)


def without_password(url: str | None) -> str:
    """Return the storage as study.toml names it: "journal", or the URL without its password.

    Raises:
        UserError: not a database URL.
    """
    if url is None:
        return "journal"
    return str(_parsed(url).render_as_string(hide_password=True))


def _parsed(url: str) -> Any:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1))
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        parsed.get_dialect()
    except NoSuchModuleError as problem:
        raise UserError(f"--storage: SQLAlchemy has no driver for {parsed.drivername!r}") from problem
    except (ArgumentError, ValueError) as problem:
        raise UserError("--storage is not a database URL, such as postgresql://user:password@host/name") from problem
    return parsed


def open_storage(folder: StudyFolder, url: str | None, is_shared: bool = False) -> BaseStorage:
    """Return the storage of a study.

    Args:
        folder: the study's folder.
        url: SQL URL, None for the journal file.
        is_shared: whether processes on several machines write the journal.

    Raises:
        UserError: the database does not answer in time, or refuses the connection.
    """
    silence_optuna()
    if url is None:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = SharedLock if is_shared else KernelLock
        return JournalStorage(JournalFileBackend(str(folder.journal), lock(folder.journal)))
    parsed = _parsed(url)
    shown = parsed.render_as_string(hide_password=True)
    limit = {"connect_timeout": 4} if parsed.get_backend_name() in ("postgresql", "mysql", "mariadb") else {}
    opened: list[BaseStorage] = []
    problems: list[BaseException] = []

    def connect() -> None:
        try:
            plain = parsed.render_as_string(hide_password=False)
            opened.append(RDBStorage(plain, {"connect_args": limit, "pool_pre_ping": True}))
        except BaseException as problem:
            problems.append(problem)

    # Without the thread, a driver could block for minutes on a name server or on a host that does not answer.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if opened:
        return opened[0]
    reason = first_line(problems[0]) if problems else f"no answer within {ANSWER_SECONDS:.0f} seconds"
    raise UserError(f"--storage {shown} cannot be used: {reason}")


def first_line(problem: BaseException) -> str:
    """Return the first line of a driver's message, without the name of its class."""
    first = str(problem.__cause__ or problem).strip().splitlines() or [type(problem).__name__]
    return first[0].removeprefix("(psycopg.OperationalError) ")


def silence_optuna() -> None:
    """Turn off Optuna's log: q2pi prints its own progress."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def serve(storage: BaseStorage) -> int:
    """Serve optuna-dashboard on a storage until Ctrl-C.

    Raises:
        UserError: optuna-dashboard is not installed.
    """
    try:
        from optuna_dashboard import run_server
    except ImportError as problem:
        raise UserError("--dashboard needs optuna-dashboard: pip install 'q2pi[dashboard]'") from problem
    run_server(storage, host="127.0.0.1", port=8080)
    return 0


def create_study(folder: StudyFolder, plan: Plan, storage: BaseStorage) -> optuna.Study:
    """Return the study; a new study is created, with the defaults enqueued as trial 0."""
    up, down = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    study = optuna.create_study(
        storage=storage,
        study_name=plan.name,
        directions=[up, down] if plan.minimizes_seconds else [up],
        load_if_exists=True,
        sampler=make_sampler(plan, 0),
    )
    if not study.get_trials(deepcopy=False):
        study.set_user_attr("folder", str(folder.path.absolute()))
        study.enqueue_trial(
            {label(name, values): encode(values, value_of(plan.base, name)) for name, values in plan.space.items()}
        )
    return study


def load_study(plan: Plan, storage: BaseStorage) -> optuna.Study:
    """Return the study with its pruner; `trial.claim` sets a sampler for each trial."""
    return optuna.load_study(
        study_name=plan.name, storage=storage, sampler=make_sampler(plan, 0), pruner=make_pruner(plan)
    )
