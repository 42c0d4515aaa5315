"""A journal's folder belongs to one database's books, and says so where its locks may not hold."""

import os
import stat
from pathlib import Path

import pytest
from pydantic import SecretStr

from billing.db import Database
from billing.errors import BooksUnavailable, Conflict
from billing.usage.folder import belong, warn_of_network
from billing.usage.store import books_id
from gateway.cli.serve import prepare
from gateway.config import Settings
from gateway.services import open_services
from tests.books import event
from tests.clock import ManualClock
from tests.house import open_house
from tests.unit.test_journal import die, open_journal

OURS, OTHERS = "a" * 32, "b" * 32


def leave_segment(folder: Path) -> Path:
    journal = open_journal(folder)
    journal.settled(event(1))
    die(journal)
    return journal._live.path


def test_books_keep_their_id_and_no_other_books_have_it(tmp_path: Path) -> None:
    ids = []
    for name in ("prod", "staging", "prod"):
        database = Database(f"sqlite:///{tmp_path / name}.db")
        database.migrate()
        with database.read() as session:
            ids.append(books_id(session))
        database.close()
    assert len(ids[0]) == 32
    assert ids[0] == ids[2] != ids[1]


def test_a_folder_takes_the_id_of_the_first_books_also_with_segments_of_an_earlier_release(tmp_path: Path) -> None:
    leave_segment(tmp_path)
    belong(tmp_path, OURS, "sqlite:///ours.db")
    assert (tmp_path / "books").read_text() == f"{OURS}\nsqlite:///ours.db\n"
    belong(tmp_path, OURS, "sqlite:///moved.db")
    assert "ours.db" in (tmp_path / "books").read_text(), "it is known, so nothing is written"


def test_segments_of_other_books_refuse_the_start_and_say_what_to_do(tmp_path: Path) -> None:
    belong(tmp_path, OTHERS, "sqlite:///prod.db")
    path = leave_segment(tmp_path)
    with pytest.raises(Conflict) as refused:
        belong(tmp_path, OURS, "sqlite:///staging.db")
    for word in (str(tmp_path), "(1 files)", "sqlite:///prod.db", "sqlite:///staging.db", "database.url", "data_dir", str(tmp_path / "books")):
        assert word in str(refused.value)
    assert (tmp_path / "books").read_text().startswith(OTHERS)
    belong(tmp_path, OURS, "sqlite:///staging.db", lambda segment: segment == path)
    assert (tmp_path / "books").read_text().startswith(OURS), "nothing of the others is left, so the folder is free"


def test_a_living_process_of_other_books_refuses_the_start_too(tmp_path: Path) -> None:
    belong(tmp_path, OTHERS, "sqlite:///prod.db")
    alive = open_journal(tmp_path)
    with pytest.raises(Conflict):
        belong(tmp_path, OURS, "sqlite:///staging.db")
    alive.close()
    belong(tmp_path, OURS, "sqlite:///staging.db")


def test_a_folder_that_cannot_be_marked_is_used_when_it_is_nobody_s_and_not_when_it_was_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("billing.usage.folder.os.fsync", full)
        belong(tmp_path, OURS, "sqlite:///ours.db")
        assert "next start" in caplog.text
    belong(tmp_path, OTHERS, "sqlite:///prod.db")
    monkeypatch.setattr("billing.usage.folder.os.fsync", full)
    with pytest.raises(BooksUnavailable, match="No space left"):
        belong(tmp_path, OURS, "sqlite:///ours.db")


async def test_a_gateway_of_another_database_does_not_book_what_it_finds_in_the_folder(tmp_path: Path) -> None:
    async with open_house(tmp_path, {"m": "http://127.0.0.1:9"}) as house:
        settings = house.services.settings
    folder = settings.data_dir / "journal"
    assert stat.S_ISREG(os.stat(folder / "books").st_mode)
    path = leave_segment(folder)
    staging = Database(f"sqlite:///{tmp_path / 'staging.db'}")
    staging.migrate()
    staging.close()
    other = settings.model_copy(update={"database": settings.database.model_copy(update={"url": SecretStr(f"sqlite:///{tmp_path / 'staging.db'}")})})
    with pytest.raises(Conflict, match=r"staging\.db"):
        async with open_services(other, ManualClock()):
            pass
    with pytest.raises(Conflict, match=r"staging\.db"):
        await prepare(other, ManualClock())
    assert path.exists()
    assert list(folder.glob("*.wal")) == [path], "and its own is gone"


async def test_a_folder_is_taken_before_there_are_workers_whose_files_would_look_like_those_of_other_books(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    belong(settings.data_dir / "journal", OTHERS, "sqlite:///old.db")
    await prepare(settings, ManualClock())
    worker = open_journal(settings.data_dir / "journal")
    async with open_services(settings, ManualClock()):
        pass
    worker.close()


def test_a_network_file_system_is_warned_of_and_a_disk_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shared = tmp_path / "a b" / "data"
    mounts = tmp_path / "mounts"
    shared_point = str(tmp_path / "a b").replace(" ", "\\040")
    mounts.write_text(
        f"/dev/sda1 / ext4 rw 0 0\nhost:/x {tmp_path}/other nfs4 rw 0 0\nhost:/y {shared_point} ext4 rw 0 0\nhost:/y {shared_point} nfs4 rw 0 0\n"
    )
    for quiet in (tmp_path, tmp_path / "a", tmp_path / "others"):
        warn_of_network(quiet, mounts)
    warn_of_network(shared, tmp_path / "no such file")
    assert caplog.text == ""
    warn_of_network(shared, mounts)
    assert f"{shared} is on a network file system (nfs4)" in caplog.text
