"""Workers that are killed at random times: no trial is lost, counted twice, or changes its value."""

from pathlib import Path

from small_studies import KILLS, begun, check_ended_once, endings, plan, work_under_fire

from q2pi.runs.locks import is_held
from q2pi.tuning.storage import KernelLock


def test_a_journal_survives_kills(tmp_path: Path) -> None:
    made = plan({"total_timesteps": 600, "evaluation_frequency": 200})
    folder, study = begun(tmp_path / "study", made)
    work_under_fire(folder, None, made, wanted=10, kills=KILLS)
    check_ended_once(folder, made, study, wanted=10)
    assert endings(folder.journal) == dict.fromkeys(range(10), 1)


def test_an_incomplete_line_of_the_journal_is_removed(tmp_path: Path) -> None:
    folder, study = begun(tmp_path / "study", plan())
    whole = folder.journal.read_bytes()
    folder.journal.write_bytes(whole + b'{"op_code": 4, "wor')
    study.set_user_attr("after", 1)
    assert folder.journal.read_bytes().startswith(whole + b"{")
    assert b'"wor\n' not in folder.journal.read_bytes()
    assert begun(folder.path, plan())[1].user_attrs["after"] == 1


def test_a_lock_is_not_left_behind(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.write_text("")
    lock = KernelLock(journal)
    lock.acquire()
    lock.release()
    assert not any(is_held(file) for file in tmp_path.iterdir())
    lock.acquire()
    assert any(is_held(file) for file in tmp_path.iterdir())
    lock.release()
