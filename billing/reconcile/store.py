"""Queries over bills, runs, items and residues, and the sums of usage that a bill is compared with. Takes a session, never commits.

Ids are counted as max + 1: whoever inserts holds the admin lock (`tenants.store.note_change`).
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

import msgspec
from sqlalchemy import BigInteger, Table, case, func, literal, select, update
from sqlmodel import Session, col
from sqlmodel import select as rows_of

from billing.meter import BUCKETS, INPUT_BUCKETS
from billing.reconcile.bill import DAY_US, Bill, Line
from billing.reconcile.books import Cuts, Group
from billing.reconcile.matching import Item
from billing.reconcile.table import BillLineRow, BillRow, ItemRow, ResidueRow, RunRow
from billing.usage.table import UsageEventRow

EVENTS: Table = UsageEventRow.metadata.tables["usage_event"]


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """A bill's standing: what it is of, and whether another has taken its place."""

    id: int
    backend: str
    vendor: str
    start_us: int
    end_us: int
    currency: str | None
    measures: list[str]
    aliases: dict[str, str]
    warnings: list[str]
    sha256: str
    imported_us: int
    superseded_by: int | None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison of a bill."""

    id: int
    bill_id: int
    at_us: int
    token_tolerance: str
    cost_tolerance: str


class Residue(NamedTuple):
    """What is ours to carry of a backend's day, in pico-units: what the provider charged over our books."""

    backend: str
    day_us: int
    currency: str
    amount_pico: int


def insert_bill(session: Session, bill: Bill, *, backend: str, vendor: str, aliases: Mapping[str, str], sha256: str, file: bytes, now_us: int) -> int:
    """Insert a bill with its lines; return its id."""
    bill_id = (session.execute(select(func.max(col(BillRow.id)))).scalar_one() or 0) + 1
    row = BillRow(
        id=bill_id, backend=backend, vendor=vendor, start_us=bill.start_us, end_us=bill.end_us, currency=bill.currency, measures=list(bill.measures),
        aliases=dict(aliases), warnings=list(bill.warnings), sha256=sha256, file=file, imported_us=now_us,
    )  # fmt: skip
    session.add(row)
    session.flush()
    session.add_all(
        BillLineRow(bill_id=bill_id, day_us=line.day_us, model=line.model, bucket=line.bucket, measure=line.measure, amount=str(line.amount))
        for line in bill.lines
    )
    session.flush()
    return bill_id


def mark_superseded(session: Session, bill_ids: Iterable[int], by: int) -> None:
    """Say which bill took the place of these."""
    session.execute(update(BillRow).where(col(BillRow.id).in_(list(bill_ids))).values(superseded_by=by))
    session.expire_all()


def all_bills(session: Session, backend: str | None = None) -> list[Imported]:
    """Return every bill, of one backend or of all, oldest first; without its file and lines."""
    names = Imported.__struct_fields__
    query = select(*(getattr(BillRow, name) for name in names)).order_by(col(BillRow.id))
    found = session.execute(query if backend is None else query.where(col(BillRow.backend) == backend))
    return [Imported(**dict(zip(names, row, strict=True))) for row in found]


def bill_of(session: Session, imported: Imported) -> Bill:
    """Return a bill with its lines."""
    rows = session.exec(rows_of(BillLineRow).where(BillLineRow.bill_id == imported.id))
    lines = tuple(sorted(Line(row.day_us, row.model, row.bucket, cast(Any, row.measure), int(row.amount)) for row in rows))
    return Bill(start_us=imported.start_us, end_us=imported.end_us, currency=imported.currency, lines=lines, warnings=tuple(imported.warnings))


def usage_groups(session: Session, backend: str, start_us: int, end_us: int, cuts: Cuts) -> list[Group]:
    """Add up a backend's events that began in [start_us, end_us), by UTC day, model, and whatever a price may depend on. One statement."""
    c = EVENTS.c
    length = sum((func.coalesce(c[bucket], 0) for bucket in INPUT_BUCKETS), start=literal(0))
    instants = [(c.started_us >= at_us, literal(at_us, BigInteger)) for at_us in reversed(cuts.instants)]
    lengths = [(length > over, literal(over + 1, BigInteger)) for over in reversed(cuts.lengths)]
    named = (
        (c.started_us - c.started_us % DAY_US).label("day_us"),
        c.upstream_model.label("model"),
        case(*instants, else_=start_us).label("at_us"),
        (case(*lengths, else_=0) if lengths else literal(0)).label("tokens_in"),
        c.lane,
        c.service_tier,
    )
    guessed = case((c.source != "reported", 1), else_=0).label("unreported")
    events = select(*named, guessed, *(c[bucket] for bucket in BUCKETS)).where(c.backend == backend, c.started_us >= start_us, c.started_us < end_us).subquery()
    by = [events.c[column.name] for column in named]
    sums = [func.coalesce(func.sum(events.c[name]), 0) for name in ("unreported", *BUCKETS)]
    groups = []
    for row in session.execute(select(*by, *sums).group_by(*by).order_by(*by)):
        units = dict(zip(BUCKETS, map(int, row[7:]), strict=True))
        groups.append(Group(day_us=row[0], model=row[1], at_us=row[2], tokens_in=row[3], lane=row[4], service_tier=row[5], unreported=int(row[6]), units=units))
    return groups


def insert_run(session: Session, *, bill: Imported, tolerances: tuple[str, str], items: Iterable[Item], residue: Mapping[int, int], now_us: int) -> Run:
    """Insert a run with its items, and book its residue (pico-units by day)."""
    run_id = (session.execute(select(func.max(col(RunRow.id)))).scalar_one() or 0) + 1
    run = Run(id=run_id, bill_id=bill.id, at_us=now_us, token_tolerance=tolerances[0], cost_tolerance=tolerances[1])
    session.add(RunRow(**msgspec.structs.asdict(run)))
    session.flush()
    session.add_all(ItemRow(run_id=run_id, **(msgspec.structs.asdict(item) | {"provider": str(item.provider), "gateway": str(item.gateway)})) for item in items)
    session.add_all(ResidueRow(run_id=run_id, day_us=day_us, currency=bill.currency or "", amount_pico=str(pico)) for day_us, pico in residue.items())
    session.flush()
    return run


def all_runs(session: Session) -> list[Run]:
    """Return every run, oldest first."""
    return [Run(**{name: getattr(row, name) for name in Run.__struct_fields__}) for row in session.exec(rows_of(RunRow).order_by(col(RunRow.id)))]


def get_run(session: Session, run_id: int) -> Run | None:
    """Return a run, or None."""
    row = session.get(RunRow, run_id)
    return None if row is None else Run(**{name: getattr(row, name) for name in Run.__struct_fields__})


def items_of(session: Session, run_id: int) -> list[Item]:
    """Return the items of a run: by day, then those of the whole period."""
    found = []
    for row in session.exec(rows_of(ItemRow).where(ItemRow.run_id == run_id)):
        figures = {name: getattr(row, name) for name in Item.__struct_fields__} | {"provider": int(row.provider), "gateway": int(row.gateway)}
        found.append(Item(**figures))
    return sorted(found, key=lambda item: (item.day_us < 0, item.day_us, item.model, item.bucket, item.measure))


def residue(session: Session, start_us: int, end_us: int) -> list[Residue]:
    """Return what is ours to carry of the UTC days that begin in [start_us, end_us): of the latest run of every bill that none supersedes."""
    latest = select(func.max(col(RunRow.id))).group_by(col(RunRow.bill_id))
    query = (
        select(col(BillRow.backend), col(ResidueRow.day_us), col(ResidueRow.currency), col(ResidueRow.amount_pico))
        .join(RunRow, col(RunRow.id) == col(ResidueRow.run_id))
        .join(BillRow, col(BillRow.id) == col(RunRow.bill_id))
        .where(col(BillRow.superseded_by).is_(None), col(RunRow.id).in_(latest), col(ResidueRow.day_us) >= start_us, col(ResidueRow.day_us) < end_us)
        .order_by(col(BillRow.backend), col(ResidueRow.day_us), col(BillRow.id))
    )
    return [Residue(backend, day_us, currency, int(amount)) for backend, day_us, currency, amount in session.execute(query)]
