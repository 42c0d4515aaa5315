"""How fast usage gets into the books, what one more request costs when they are full, and what the road feels of it meanwhile.

    make bench-flush                                        # all of it, some 10 minutes
    make bench-flush ARGS="--events 10000 100000 --tenants 10 1000"
    make bench-flush ARGS="--no-fsync" | ARGS="--url postgresql://user@host/name"    # another server

Every figure goes through the product's own code: the recorder with its journal, `book`, `draw` and `read_balance`, on a real PostgreSQL
and on SQLite, both on the disk. It prints tables in Markdown.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from billing.db import Database
from billing.operations.usage import read_balance
from billing.usage.journal import Journal
from billing.usage.recorder import Recorder
from billing.usage.verify import verify
from billing.usage.writer import book
from gateway.server import settle_heap
from tests.bench import stage

TENANTS, PART = 1000, 50_000
SPREAD = (0.5, 0.95)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=["postgresql", "sqlite"], choices=["postgresql", "sqlite"])
    parser.add_argument("--events", nargs="+", type=int, default=[10_000, 100_000, 1_000_000], help="how full the books are, ascending")
    parser.add_argument("--tenants", nargs="+", type=int, default=[10, 100, 1000, 10_000, 100_000])
    parser.add_argument("--no-verify", action="store_true", help="do not compare facts, accounts and ledger afterwards")
    parser.add_argument("--loop-s", type=float, default=5.0, help="seconds of each measurement of the event loop")
    parser.add_argument("--no-fsync", action="store_true", help="PostgreSQL that would not survive a power cut")
    parser.add_argument("--url", help="a PostgreSQL whose user may create databases, instead of the embedded one")
    options = parser.parse_args()
    settle_heap()  # as a gateway does: what is imported is never searched again for garbage
    with stage.databases(fsync=not options.no_fsync, url=options.url) as (server, what):
        print(f"{os.cpu_count()} cores, shared by clients and server; {what}; SQLite WAL, synchronous=NORMAL\n")
        for measure in (by_events, by_tenants, loop):
            measure(server, options)


def by_events(server: str, options: argparse.Namespace) -> None:
    """Book a backlog in parts, and measure single operations in the books after each."""
    columns = ("engine", "events", "booked/s", "our CPU us/event", "events a transaction", "balance", "draw", "burn-down of 1 event", "of 50 events")
    head(f"{TENANTS:,} tenants, by events in the books (operations: p50 / p95, ms)", *columns)
    for engine in options.engines:
        with stage.books(engine, server, TENANTS) as database:
            done = 0
            for events in options.events:
                seconds, cpu_s, sizes = fill(database, events - done, TENANTS, first=done)
                rates = (f"{(events - done) / seconds:,.0f}", f"{cpu_s / (events - done) * 1e6:.1f}", sizes)
                done = events
                row(engine, f"{events:,}", *rates, *operations(database, TENANTS, first=done + 10_000_000))
            if not options.no_verify:
                with database.read(long=True) as session:
                    found = verify(session, stage.NOW_US)
                row(engine, "books agree" if not found else f"BOOKS DO NOT AGREE: {found[:3]}")


def by_tenants(server: str, options: argparse.Namespace) -> None:
    """Measure single operations, and the flush, with more and more tenants."""
    events = min(100_000, options.events[-1])
    title = f"{events:,} events, by tenants (operations: p50 / p95, ms)"
    head(title, "engine", "tenants", "events/s", "our CPU us/event", "balance", "draw", "burn-down of 1 event", "of 50 events")
    for engine in options.engines:
        for people in options.tenants:
            with stage.books(engine, server, people) as database:
                seconds, cpu_s, _batches = fill(database, events, people)
                figures = operations(database, people, first=10_000_000)
                row(engine, f"{people:,}", f"{events / seconds:,.0f}", f"{cpu_s / events * 1e6:.1f}", *figures)


def loop(server: str, options: argparse.Namespace) -> None:
    """Measure how late the event loop is while the books thread works beside it."""
    head("The event loop beside the books thread: how late a 1 ms sleep ends (ms)", "engine", "load", "booked/s", "p50", "p99", "p99.9", "max")
    for engine in options.engines:
        with stage.books(engine, server, TENANTS) as database:
            for load, per_s in (("none", 0), ("1,000 events/s", 1000), ("5,000 events/s", 5000), ("a backlog being drained", 0)):
                late, booked, seconds = asyncio.run(lateness(database, per_s, options.loop_s, backlog=load.startswith("a backlog")))
                late.sort()
                at = [late[min(len(late) - 1, int(len(late) * part))] * 1000 for part in (0.5, 0.99, 0.999, 1)]
                row(engine, load, f"{booked / seconds:,.0f}", *(f"{ms:.2f}" for ms in at))


def fill(database: Database, events: int, people: int, *, first: int = 0) -> tuple[float, float, str]:
    """Book a backlog in parts; return the seconds and the CPU seconds of the flushes alone, and how large they were."""
    seconds = cpu_s = 0.0
    sizes: list[int] = []
    with tempfile.TemporaryDirectory(prefix="weir-journal-", dir="/var/tmp") as folder:
        recorder = recorder_of(database, Path(folder))
        for start in range(0, events, PART):
            for event in stage.requests(min(PART, events - start), people, first=first + start):
                recorder.settled(event)
            began, cpu_began = time.perf_counter(), time.process_time()
            while recorder.backlog:
                before = recorder.booked
                recorder.turn()
                if recorder.last_error is not None:
                    raise SystemExit(f"a flush failed: {recorder.last_error}")
                sizes += [recorder.booked - before] if recorder.booked > before else []
            seconds += time.perf_counter() - began
            cpu_s += time.process_time() - cpu_began
        recorder.stop()
    return seconds, cpu_s, f"{min(sizes)}-{max(sizes)}" if sizes else "0"


def operations(database: Database, people: int, *, first: int) -> tuple[str, str, str, str]:
    """Measure a balance, a draw, a burn-down of one event and one of fifty."""
    stage.settle(database)
    names = [stage.tenant_id(number * 7919 % people) for number in range(100)]
    several = iter(stage.requests(100 * 51, people, first=first))

    def balance(number: int) -> None:
        with database.read() as session:
            read_balance(session, names[number], stage.NOW_US)

    def flush(count: int) -> None:
        events = [next(several) for _ in range(count)]
        with database.write() as session:
            book(session, events, stage.NOW_US, stage.REPLICA)

    return (
        timed(balance),
        timed(lambda number: stage.drawn(database, names[number])),
        timed(lambda _number: flush(1)),
        timed(lambda _number: flush(50)),
    )


def timed(act: Callable[[int], object]) -> str:
    """Run it a hundred times, the first ten for warmth; return p50 / p95 in ms."""
    took = []
    for number in range(100):
        began = time.perf_counter()
        act(number)
        took.append((time.perf_counter() - began) * 1000)
    found = statistics.quantiles(took[10:], n=100)
    return " / ".join(f"{found[int(part * 100) - 1]:.2f}" for part in SPREAD)


async def lateness(database: Database, per_s: int, seconds: float, *, backlog: bool) -> tuple[list[float], int, float]:
    """Sleep 1 ms again and again while events arrive, or a backlog is booked; return how late each sleep ended (seconds), and how much was booked."""
    running = asyncio.get_running_loop()
    late: list[float] = []
    with tempfile.TemporaryDirectory(prefix="weir-journal-", dir="/var/tmp") as folder:
        recorder = recorder_of(database, Path(folder))
        offset = time.time_ns() // 1000 % 10**12
        events = stage.requests(200_000 if backlog else int(per_s * seconds * 1.2) + 1, TENANTS, first=offset)
        if backlog:
            for event in events:
                recorder.settled(event)
        recorder.start(running.call_soon_threadsafe)
        told, began = 0, time.perf_counter()
        while (now := time.perf_counter()) - began < seconds and (not backlog or recorder.backlog):
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - now - 0.001)
            while told < per_s * (time.perf_counter() - began) and told < len(events):
                recorder.settled(events[told])
                told += 1
        booked, took = recorder.booked, time.perf_counter() - began
        await asyncio.to_thread(recorder.stop)
    return late, booked, took


def recorder_of(database: Database, folder: Path) -> Recorder:
    """Make a recorder as a process has it."""
    journal = Journal(folder / "journal", lambda: stage.NOW_US)
    recorder = Recorder(database, journal, lambda: stage.NOW_US)
    recorder.replica_id = stage.REPLICA
    return recorder


def head(title: str, *columns: str) -> None:
    """Begin a table."""
    print(f"\n### {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def row(*cells: object) -> None:
    """Print a line of it, at once."""
    print(f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
