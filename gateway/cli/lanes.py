"""`weir lanes`: who is slow, why and since when, what waits and how long; live in a terminal. Read from the database, so it needs no key."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from billing.db import Database
from billing.errors import BooksUnavailable
from billing.leases import store as leases
from billing.leases.store import Replica
from gateway.beat import still_after_s
from gateway.cli.books import Books, ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, Row, as_csv, as_table, printable, write_rows
from gateway.clock import Clock
from gateway.lanes import notes
from gateway.lanes.board import WORDS, Voice, Whole, merge
from gateway.wire.instants import show as instant

EVERY_S = 1.0
PROCESSES = ("process", "host", "pid", "news_age_s", "running", "waiting")
BACKENDS = ("backend", "slots", "slow_slots", "fast_running", "fast_waiting", "slow_running", "slow_waiting", "processes")
LANES = ("lane", "tenants", "running", "waiting", "wait_p50_ms", "wait_p99_ms")
SLOW = ("tenant", "standing", "reason", "since", "last_request", "running", "waiting")
NOBODY = "nobody is slow"
NO_GATEWAY = "no gateway runs on this database"


class Section(NamedTuple):
    """A table under a heading; `empty` is said in its place where there are no rows."""

    heading: str
    rows: Sequence[Row]
    columns: Sequence[str]
    empty: str


class Listener:
    """Hears the processes by their rows in the books, and tells those that run from those that left only a row.

    A row that is new to it is as old as its note says by this machine's clock; one whose beat it has seen change is as old as that.
    """

    def __init__(self, database: Database, clock: Clock, *, still_s: float) -> None:
        self._database = database
        self._clock = clock
        self._still_s = still_s
        self._seen: dict[str, tuple[int, float]] = {}  # a process's beat, and when it was told (monotonic seconds)
        self.silent: list[Voice] = []

    def listen(self) -> list[Voice]:
        """Return those that run; `silent` has the others. Raises `BooksUnavailable`."""
        with self._database.read() as session:
            found = leases.replicas(session)
        voices = [self._voice(replica) for replica in found]
        self._seen = {replica.id: self._seen[replica.id] for replica in found}
        self.silent = [voice for voice in voices if voice.heard_s >= self._still_s]
        return [voice for voice in voices if voice.heard_s < self._still_s]

    def _voice(self, replica: Replica) -> Voice:
        now_s, note = self._clock.monotonic_s(), notes.read(replica.note)
        known = self._seen.get(replica.id)
        if known is None:
            age_s = 0.0 if note is None else max(0.0, (self._clock.now_us() - note.at_us) / 1e6)
            known = self._seen[replica.id] = replica.beat, now_s - age_s
        elif known[0] != replica.beat:
            known = self._seen[replica.id] = replica.beat, now_s
        return Voice(process=replica.id, host=replica.host, pid=replica.pid, note=note, heard_s=now_s - known[1])


def lanes(
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="only this one of the slow tenants")] = None,
    once: Annotated[bool, typer.Option("--once", help="show them once, and end; so it is where the output is no terminal")] = False,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """Show who is slow, why and since when, and how long requests wait, over all processes; live until Ctrl-C. CSV has the slow tenants."""
    with open_books(config) as books:
        listener = _listener(books)
        console = Console()
        if form is Format.table and not once and console.is_terminal:
            watch(listener, console, time.sleep, tenant)
            return
        voices = listener.listen()
        if listener.silent:  # or their machines' clocks are behind this one's: then their beats go on
            time.sleep(2 * books.settings.leases.beat_s)
            voices = listener.listen()
        whole = merge(voices, tenant)
        if form is Format.json:
            typer.echo(json.dumps(_figures(whole), ensure_ascii=False, indent=2))
        elif form is Format.csv:
            typer.echo(as_csv(_slow(whole), SLOW), nl=False)
        else:
            _write(whole, listener.silent, tenant)


def watch(listener: Listener, console: Console, pause: Callable[[float], None], tenant: str | None = None) -> None:
    """Show the lanes anew every second until interrupted. While the database cannot be read, what was read last stays."""
    shown: RenderableType = Text()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                try:
                    voices = listener.listen()
                except BooksUnavailable as error:
                    live.update(Group(Text(printable(f"the database cannot be read now: {error}\n"), style="bold red"), shown), refresh=True)
                else:
                    shown = _screen(merge(voices, tenant), listener.silent, tenant, console.height)
                    live.update(shown, refresh=True)
                pause(EVERY_S)
        except KeyboardInterrupt:
            return


def _listener(books: Books) -> Listener:
    settings = books.settings.leases
    return Listener(books.database, books.clock, still_s=still_after_s(settings.beat_s, settings.term_s))


def _write(whole: Whole, silent: Sequence[Voice], tenant: str | None) -> None:
    if not whole.voices:
        typer.echo(_nobody_runs(silent))
        return
    for number, section in enumerate(_sections(whole, tenant)):
        typer.echo(("\n" if number else "") + section.heading)
        write_rows(section.rows, Format.table, section.columns, section.empty)
    for line in _afterwards(whole, silent):
        typer.echo(line)


def _screen(whole: Whole, silent: Sequence[Voice], tenant: str | None, height: int) -> RenderableType:
    """Lay everything out for a terminal of so many lines; of the slow tenants what fits."""
    if not whole.voices:
        return Text(_nobody_runs(silent) + "\n\nCtrl-C ends this")
    *others, slow = _sections(whole, tenant)
    parts: list[RenderableType] = []
    for section in others:
        parts += [Text(section.heading, style="bold cyan"), as_table(section.rows, section.columns) if section.rows else Text(section.empty), Text()]
    after = _afterwards(whole, silent)
    room = max(1, height - sum(3 + len(section.rows) for section in others) - len(after) - 3)
    hidden = len(slow.rows) - room
    if hidden > 0:
        after.insert(0, f"and {hidden} more that this terminal has no room for")
    parts += [Text(slow.heading, style="bold cyan"), as_table(slow.rows[:room], slow.columns) if slow.rows else Text(slow.empty)]
    return Group(*parts, *(Text(line) for line in after))


def _sections(whole: Whole, tenant: str | None) -> list[Section]:
    nobody = NOBODY if tenant is None else f"{tenant} is not slow" if not whole.more else f"{tenant} is none of those that the processes name"
    return [
        Section("Processes", _processes(whole.voices), PROCESSES, NO_GATEWAY),
        Section("Backends", _backends(whole), BACKENDS, "no backends"),
        Section("Lanes (waits of the last five minutes)", _lanes(whole), LANES, ""),
        Section("Slow tenants", _slow(whole), SLOW, nobody),
    ]


def _afterwards(whole: Whole, silent: Sequence[Voice]) -> list[str]:
    lines = []
    if whole.more:
        lines.append(f"and up to {whole.more:,} more slow tenants that the processes do not name; GET /admin/lanes?tenant_id=ID asks for one")
    if mute := [voice.process for voice in whole.voices if voice.note is None]:
        lines.append(f"of another version, so that its lanes are not counted: {', '.join(mute)}")
    if silent:
        lines.append(f"not counted: {_silent(silent)}")
    return lines


def _nobody_runs(silent: Sequence[Voice]) -> str:
    return NO_GATEWAY + (f"; {_silent(silent)}" if silent else "")


def _silent(silent: Sequence[Voice]) -> str:
    newest_s = min(voice.heard_s for voice in silent)
    what = "a process that has" if len(silent) == 1 else f"{len(silent)} processes that have"
    return f"{what} not been heard of for {_ago(newest_s)}"


def _ago(age_s: float) -> str:
    for unit, length_s in (("days", 86_400), ("h", 3600), ("min", 60)):
        if age_s >= 2 * length_s:
            return f"{age_s / length_s:.0f} {unit}"
    return f"{age_s:.0f} s"


def _figures(whole: Whole) -> dict[str, Any]:
    return {
        "processes": _processes(whole.voices),
        "backends": _backends(whole),
        "lanes": _lanes(whole),
        "slow_tenants": _slow(whole),
        "more_slow_tenants": whole.more,
    }


def _processes(voices: Iterable[Voice]) -> list[dict[str, Any]]:
    rows = []
    for voice in voices:
        loads = [] if voice.note is None else list(voice.note.backends.values())
        rows.append(
            {
                "process": voice.process,
                "host": voice.host,
                "pid": voice.pid,
                "news_age_s": round(voice.heard_s, 1),
                "running": sum(load.fast_running + load.slow_running for load in loads),
                "waiting": sum(load.fast_waiting + load.slow_waiting for load in loads),
            }
        )
    return rows


def _backends(whole: Whole) -> list[dict[str, Any]]:
    return [
        {"backend": backend.name, "slots": backend.slots, "slow_slots": backend.slow_slots, "processes": backend.processes}
        | {f"{lane}_running": count for lane, count in backend.running.items()}
        | {f"{lane}_waiting": count for lane, count in backend.waiting.items()}
        for backend in whole.backends
    ]


def _lanes(whole: Whole) -> list[dict[str, Any]]:
    return [
        {
            "lane": lane.lane.value,
            "tenants": lane.tenants,
            "running": lane.running,
            "waiting": lane.waiting,
            "wait_p50_ms": None if lane.wait_p50_us is None else lane.wait_p50_us // 1000,
            "wait_p99_ms": None if lane.wait_p99_us is None else lane.wait_p99_us // 1000,
        }
        for lane in whole.lanes
    ]


def _slow(whole: Whole) -> list[dict[str, Any]]:
    return [
        {
            "tenant": one.tenant,
            "standing": one.standing,
            "reason": WORDS.get(one.reason, one.reason),
            "since": instant(one.since_us),
            "last_request": instant(one.last_us),
            "running": one.running,
            "waiting": one.waiting,
        }
        for one in whole.slow
    ]
