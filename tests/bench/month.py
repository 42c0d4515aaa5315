"""How long a month takes to close: every tenant's period worked out, frozen and its invoice drafted; and to issue and export.

    .venv/bin/python -m tests.bench.month                                        # 10,000 and 100,000 events, PostgreSQL and SQLite
    .venv/bin/python -m tests.bench.month --events 1000000 --engines postgresql

Everything goes through the product's own code, on a real PostgreSQL and on SQLite, both on the disk; the credits on the invoices are compared with those
of the events. It prints a table in Markdown.
"""

import argparse
import os
import resource
import time

from billing.db import Database
from billing.invoices.company import Company
from billing.invoices.store import set_company
from billing.jobs.settle_periods import run_once
from billing.operations import invoices
from billing.tenants.profile import Party
from tests.bench import stage
from tests.bench.flush import TENANTS, fill, head, row

LATER_US = stage.NOW_US + 40 * 86_400_000_000
ISSUED = 100  # of the invoices, to see what one costs


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=["postgresql", "sqlite"], choices=["postgresql", "sqlite"])
    parser.add_argument("--events", nargs="+", type=int, default=[10_000, 100_000])
    options = parser.parse_args()
    with stage.databases(fsync=True) as (server, what):
        print(f"{os.cpu_count()} cores, shared by client and server; {what}\n")
        head(f"{TENANTS:,} tenants", "engine", "events", "close and draft, s", f"issue {ISSUED}, s", "most memory, MB", "the credits of invoices and events")
        for engine in options.engines:
            for events in options.events:
                with stage.books(engine, server, TENANTS) as database:
                    fill(database, events, TENANTS)
                    stage.settle(database)
                    row(engine, f"{events:,}", *measure(database, events))


def measure(database: Database, events: int) -> tuple[str, ...]:
    """Close the month of every tenant, issue some of its invoices, and hold their credits against those of the events."""
    with database.write() as session:
        set_company(session, Company(party=Party(name="Weir Ltd")))
    began = time.perf_counter()
    while database.retrying(lambda session: run_once(session, LATER_US)):
        pass
    closed_s = time.perf_counter() - began
    found = invoices.list_invoices(database, limit=1000)
    shown = [invoices.show_invoice(database, one.id) for one in found]
    began = time.perf_counter()
    for one in found[:ISSUED]:
        invoices.issue_invoice(database, one.id, LATER_US)
    issued_s = time.perf_counter() - began
    told = sum(line.charge_ncr for one in shown for line in one.document.lines if line.kind == "usage")
    most_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    agree = "agree" if told == events * 1_544_000 else f"DO NOT AGREE: {told}"
    return f"{closed_s:.1f}", f"{issued_s:.2f}", f"{most_mb:,.0f}", agree


if __name__ == "__main__":
    main()
