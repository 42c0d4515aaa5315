"""`weir lanes`: what the processes' notes in the books say, put together for a person, live or once, or for a program."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from billing.db import Database
from billing.errors import BooksUnavailable
from billing.leases import store as leases
from billing.leases.store import Replica
from gateway.cli import lanes as lanes_module
from gateway.cli.lanes import Listener, watch
from gateway.clock import SystemClock
from gateway.lanes import notes
from gateway.lanes.notes import Load, Note, SlowTenant
from tests.clock import ManualClock
from tests.command import Weir, weir_in

S = 1_000_000
STILL_S = 8.0


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weir:
    monkeypatch.setattr(lanes_module.time, "sleep", lambda _s: None)  # type: ignore[attr-defined]
    return weir_in(tmp_path, monkeypatch, capsys)


@pytest.fixture
def books(tmp_path: Path, weir: Weir) -> Database:
    return Database(f"sqlite:///{tmp_path / 'weir-data' / 'weir.db'}")


def note(at_us: int, slow: int = 1, more: int = 0) -> str:
    tenants = [SlowTenant(f"acme-{index}", "slow", "credits_exhausted", at_us - 90 * S, at_us - index * S, 1, 3) for index in range(slow)]
    load = Load("p", 8, 5, 4, 2, fast_running=2, slow_running=1, slow_waiting=3)
    return notes.write(Note(at_us=at_us, backends={"gpu": load}, waits={"slow": [0, 98, 81, 2]}, tenants=10, slow_tenants=slow + more), tenants)


def enter(books: Database, name: str, text: str | None, beat: int = 1) -> None:
    with books.write() as session:
        if not leases.beat(session, name, range(beat), beat, text):
            leases.register(session, Replica(id=name, beat=beat, host="box", pid=42, started_us=0, note=text))


def test_without_a_gateway_it_says_so(weir: Weir) -> None:
    said = weir("lanes")
    assert (said.code, said.out) == (0, "no gateway runs on this database\n")


def test_it_shows_processes_backends_lanes_and_slow_tenants(weir: Weir, books: Database) -> None:
    now_us = SystemClock().now_us()
    enter(books, "one", note(now_us))
    enter(books, "two", note(now_us, slow=0))
    out = weir("lanes", "--once").out
    lines = [line.split() for line in out.splitlines()]
    assert ["gpu", "8", "8", "4", "0", "2", "6", "2"] in lines
    assert ["slow", "1", "2", "6", "0", "1114"] in lines
    assert ["fast", "9", "4", "0", "-", "-"] in lines
    assert "acme-0  slow      no credits are left" in out
    assert len([line for line in lines if line[:1] in (["one"], ["two"])]) == 2


def test_nobody_is_slow_in_words(weir: Weir, books: Database) -> None:
    enter(books, "one", note(SystemClock().now_us(), slow=0))
    assert weir("lanes").out.endswith("Slow tenants\nnobody is slow\n")
    assert weir("lanes", "--tenant", "acme").out.endswith("acme is not slow\n")


def test_one_tenant_can_be_asked_for_and_one_that_is_not_named_is_not_called_fast(weir: Weir, books: Database) -> None:
    enter(books, "one", note(SystemClock().now_us(), slow=3, more=7))
    out = weir("lanes", "--tenant", "acme-1").out
    assert "acme-1" in out and "acme-2" not in out
    out = weir("lanes", "--tenant", "else").out
    assert "else is none of those that the processes name" in out
    assert "and up to 7 more slow tenants" in out


def test_json_has_the_same_and_csv_the_slow_tenants(weir: Weir, books: Database) -> None:
    enter(books, "one", note(SystemClock().now_us(), slow=2, more=5))
    told = json.loads(weir("lanes", "--format", "json").out)
    assert [one["process"] for one in told["processes"]] == ["one"]
    assert told["backends"][0]["slow_waiting"] == 3
    assert [(lane["lane"], lane["wait_p99_ms"]) for lane in told["lanes"]] == [("fast", None), ("slow", 1114)]
    assert [one["tenant"] for one in told["slow_tenants"]] == ["acme-0", "acme-1"]
    assert told["more_slow_tenants"] == 5
    rows = list(csv.DictReader(io.StringIO(weir("lanes", "--format", "csv").out)))
    assert [row["tenant"] for row in rows] == ["acme-0", "acme-1"]
    assert rows[0]["reason"] == "no credits are left"


def test_what_a_dead_gateway_left_is_not_told_as_if_it_were_so(weir: Weir, books: Database) -> None:
    enter(books, "dead", note(SystemClock().now_us() - 300 * S))
    assert weir("lanes").out == "no gateway runs on this database; a process that has not been heard of for 5 min\n"
    assert json.loads(weir("lanes", "-f", "json").out)["backends"] == []


def test_one_whose_machines_clock_is_behind_is_known_by_its_beat(weir: Weir, books: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    behind_us = SystemClock().now_us() - 3600 * S
    enter(books, "behind", note(behind_us))
    monkeypatch.setattr(lanes_module.time, "sleep", lambda _s: enter(books, "behind", note(behind_us + 4 * S), beat=2))  # type: ignore[attr-defined]
    told = json.loads(weir("lanes", "-f", "json").out)
    assert [(one["process"], one["news_age_s"]) for one in told["processes"]] == [("behind", 0.0)]


def test_a_process_of_another_version_is_named_and_not_counted(weir: Weir, books: Database) -> None:
    enter(books, "one", note(SystemClock().now_us()))
    enter(books, "old", None)
    out = weir("lanes").out
    assert "of another version, so that its lanes are not counted: old" in out


class Screen:
    """A terminal of 100 x 40, and what happens in each of the pauses between two looks; then Ctrl-C."""

    def __init__(self, books: Database, *pauses: Callable[[], None], height: int = 40) -> None:
        self.clock = ManualClock()
        self.listener = Listener(books, self.clock, still_s=STILL_S)
        self._out = io.StringIO()
        self._console = Console(file=self._out, force_terminal=True, width=120, height=height, color_system=None)
        self._pauses = list(pauses)
        self.frames: list[str] = []

    def run(self, tenant: str | None = None) -> list[str]:
        """Return what each look showed."""
        watch(self.listener, self._console, self._pause, tenant)
        return self.frames

    def _pause(self, pause_s: float) -> None:
        assert pause_s == 1.0
        self.frames.append(self._out.getvalue())
        self._out.seek(0)
        self._out.truncate()
        if not self._pauses:
            raise KeyboardInterrupt
        self.clock.advance(pause_s)
        self._pauses.pop(0)()


def nothing() -> None:
    """Nothing happens."""


def test_live_each_look_shows_what_came_meanwhile(books: Database) -> None:
    screen = Screen(books, lambda: enter(books, "one", note(screen.clock.now_us(), slow=0)), lambda: enter(books, "one", note(screen.clock.now_us()), beat=2))
    before, none, slow = screen.run()
    assert "no gateway runs" in before
    assert "nobody is slow" in none and "gpu" in none
    assert "acme-0" in slow


def test_live_it_says_how_old_the_news_is_and_leaves_out_one_that_has_fallen_silent(books: Database) -> None:
    enter(books, "one", note(ManualClock().now_us()))
    screen = Screen(books, *[nothing] * 9)
    frames = screen.run()
    ages = [next((line.split()[3] for line in frame.splitlines() if line.startswith("one ")), None) for frame in frames]
    assert ages == ["0.0", "1.0", "2.0", "3.0", "4.0", "5.0", "6.0", "7.0", None, None]
    assert "no gateway runs on this database; a process that has not been heard of for 9 s" in frames[-1]


def test_live_it_waits_for_a_database_that_is_away_and_keeps_what_it_showed(books: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(books, "one", note(ManualClock().now_us()))
    listen, away = Listener.listen, [False]

    def sometimes(self: Listener) -> list[object]:
        if away[0]:
            raise BooksUnavailable("it is away")
        return listen(self)  # type: ignore[return-value]

    monkeypatch.setattr(Listener, "listen", sometimes)
    first, second, third = Screen(books, lambda: away.__setitem__(0, True), lambda: away.__setitem__(0, False)).run()
    assert "acme-0" in first and "acme-0" in third
    assert "the database cannot be read now: it is away" in second and "acme-0" in second
    assert "it is away" not in third


def test_live_what_a_terminal_has_no_room_for_is_counted(books: Database) -> None:
    enter(books, "one", note(ManualClock().now_us(), slow=40))
    (frame,) = Screen(books, height=30).run()
    shown = frame.count("acme-")
    assert 1 <= shown < 30
    assert f"and {40 - shown} more that this terminal has no room for" in frame
    assert frame.count("\n") < 30


def test_a_note_survives_the_books(books: Database) -> None:
    text = note(SystemClock().now_us())
    enter(books, "one", text)
    with books.read() as session:
        (found,) = leases.replicas(session)
    assert found.note == text
    assert msgspec.json.decode(text)["slow_tenants"] == 1
