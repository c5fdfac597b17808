"""A study on a real PostgreSQL server, which the test starts on a loopback port in a temporary folder."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_studies import KILLS, begun, check_ended_once, plan, work_under_fire

from q2pi.errors import UserError
from q2pi.tuning.plan import StudyFolder
from q2pi.tuning.storage import open_storage

PASSWORD = "not-to-be-seen"


def program(name: str) -> str | None:
    """Return the path of a PostgreSQL program: from the PATH, else the newest of Debian's packages."""
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(packaged[-1]) if packaged else None)


def unprivileged() -> list[str]:
    """Return a command prefix that starts a program as another user if this process is root."""
    if os.geteuid() != 0:
        return []
    names = {entry.pw_name for entry in pwd.getpwall()}
    return ["runuser", "-u", "postgres" if "postgres" in names else "nobody", "--"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    initdb, postgres = program("initdb"), program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL refuses to run as root, and runuser is missing")
    folder = Path(tempfile.mkdtemp(prefix="q2pi-postgres-"))
    words = folder / "password"
    words.write_text(PASSWORD)
    if os.geteuid() == 0:
        for path in (folder, words):
            shutil.chown(path, unprivileged()[2])
    data = folder / "data"
    make = [initdb, "-D", str(data), "-U", "q2pi", "-A", "scram-sha-256", "--pwfile", str(words), "-N"]
    subprocess.run([*unprivileged(), *make], check=True, capture_output=True, cwd="/")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listen = ["-c", "listen_addresses=127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
    log = (folder / "log").open("w")
    server = subprocess.Popen([*unprivileged(), postgres, "-D", str(data), *listen], stderr=log, cwd="/")
    address = f"postgresql://q2pi:{PASSWORD}@127.0.0.1:{port}/postgres"
    try:
        wait_for(address)
        yield address
    finally:
        pid = int((data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, 3)  # SIGQUIT: immediate shutdown
        server.wait(20)
        log.close()
        shutil.rmtree(folder)


def wait_for(address: str) -> None:
    import time

    import psycopg

    for _ in range(100):
        try:
            psycopg.connect(address, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise TimeoutError(address)


def test_a_study_survives_kills(url: str, tmp_path: Path) -> None:
    made = plan({"total_timesteps": 600, "evaluation_frequency": 200}, storage="postgresql")
    folder, study = begun(tmp_path / "study", made, url)
    work_under_fire(folder, url, made, wanted=10, kills=KILLS)
    check_ended_once(folder, made, study, wanted=10)
    assert not folder.journal.exists()


def test_a_refused_password_is_not_repeated(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="password authentication failed") as caught:
        open_storage(StudyFolder(tmp_path), url.replace(PASSWORD, "wrong-secret"))
    assert "wrong-secret" not in str(caught.value)
    assert "***" in str(caught.value)
