"""Reconciliation with providers' bills: import a bill, compare it with the books, look at what was found. Each function is one transaction."""

from collections import defaultdict
from collections.abc import Mapping
from hashlib import sha256

import msgspec

from billing.audit.store import record
from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.rates.store import all_costs
from billing.reconcile import anthropic, matching, openai, plain, store
from billing.reconcile.bill import show_day
from billing.reconcile.books import cuts_of, our_side
from billing.reconcile.matching import STATES, Item, Tolerance, parse_tolerance
from billing.reconcile.store import Imported, Run
from billing.tenants.store import note_change

READERS = {"openai": openai.read, "anthropic": anthropic.read, "csv": plain.read}
FILE_BYTES_MAX = 20 * 2**20


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A run with its bill and its items, by day and then of the whole period."""

    run: Run
    bill: Imported
    items: list[Item]

    @property
    def differs(self) -> bool:
        """Whether anything of the whole period is beyond its tolerance or on one side only."""
        return any(item.state != "matched" for item in self.items if item.day_us == matching.PERIOD_US)


def import_bill(db: Database, data: bytes, *, backend: str, vendor: str, aliases: Mapping[str, str] | None = None, now_us: int) -> Imported:
    """Import a provider's bill; the same file with the same aliases (our name by the billed one) is imported once.

    It supersedes bills of the backend that it covers. Raises `Invalid` for a file not wholly understood, `Conflict` for one that overlaps another in part.
    """
    if vendor not in READERS:
        raise Invalid("vendor", f"vendor: `{vendor}` is none; one of {', '.join(READERS)}")
    if not backend:
        raise Invalid("backend", "backend: it is empty; write its name as in weir.yaml")
    if len(data) > FILE_BYTES_MAX:
        raise Invalid("file", f"file: it has {len(data)} bytes; at most {FILE_BYTES_MAX} are read")
    bill, digest, names = READERS[vendor](data), sha256(data).hexdigest(), dict(aliases or {})
    with db.write() as session:
        note_change(session, None, now_us)
        standing = [other for other in store.all_bills(session, backend) if other.superseded_by is None]
        for other in standing:
            if (other.sha256, other.vendor, other.aliases) == (digest, vendor, names):
                return other
        replaced = []
        for other in standing:
            if other.end_us <= bill.start_us or bill.end_us <= other.start_us or not set(other.measures) & set(bill.measures):
                continue
            if not (bill.start_us <= other.start_us and other.end_us <= bill.end_us and set(other.measures) <= set(bill.measures)):
                span = f"{show_day(other.start_us)} to {show_day(other.end_us - 1)}"
                raise Conflict(
                    f"bill {other.id} of {backend} has {' and '.join(other.measures)} of {span}, of which this one has a part; import one that covers it"
                )
            replaced.append(other.id)
        made = store.insert_bill(session, bill, backend=backend, vendor=vendor, aliases=names, sha256=digest, file=data, now_us=now_us)
        store.mark_superseded(session, replaced, made)
        imported = next(one for one in store.all_bills(session, backend) if one.id == made)
        told = {"bill": imported, "supersedes": replaced}
        record(session, now_us, action="bill.import", tenant_id=None, subject=str(made), before=None, after=told)
        return imported


def run(db: Database, bill_id: int, *, token_tolerance: str = "0.5", cost_tolerance: str = "1", now_us: int) -> Found:
    """Compare a bill with the books and book the residue. Raises `NotFound`, `Conflict` (superseded), `Invalid` (tolerance, currency)."""
    tolerance = Tolerance(parse_tolerance(token_tolerance, "token_tolerance"), parse_tolerance(cost_tolerance, "cost_tolerance"))
    with db.read(long=True, snapshot=True) as session:  # the sums may take long: nobody waits for a lock meanwhile
        imported = _bill(store.all_bills(session), bill_id)
        bill, costs = store.bill_of(session, imported), all_costs(session, imported.backend)
        cuts = cuts_of(costs, bill.start_us, bill.end_us)
        groups = store.usage_groups(session, imported.backend, bill.start_us, bill.end_us, cuts)
    unreported: defaultdict[tuple[int, str], int] = defaultdict(int)
    for group in groups:
        unreported[group.day_us, group.model] += group.unreported
    ours = our_side(groups, costs, backend=imported.backend, currency=bill.currency)
    items = matching.match(bill, imported.aliases, ours, tolerance, unreported=unreported)
    with db.write() as session:
        note_change(session, None, now_us)
        imported = _bill(store.all_bills(session), bill_id)
        said = (token_tolerance.strip(), cost_tolerance.strip())
        made = store.insert_run(session, bill=imported, tolerances=said, items=items, residue=matching.residue(items), now_us=now_us)
        record(session, now_us, action="bill.run", tenant_id=None, subject=str(bill_id), before=None, after=made)
    return Found(run=made, bill=imported, items=items)


def list_bills(db: Database) -> tuple[list[Imported], list[Run]]:
    """Return every bill and every run, oldest first."""
    with db.read() as session:
        return store.all_bills(session), store.all_runs(session)


def show_run(db: Database, run_id: int, only: str | None = None) -> Found:
    """Return a run, with its items of one state or of all. Raises `NotFound`, `Invalid` (only)."""
    if only is not None and only not in STATES:
        raise Invalid("only", f"only: `{only}` is no state; one of {', '.join(STATES)}")
    with db.read() as session:
        found = store.get_run(session, run_id)
        if found is None:
            raise NotFound("run", str(run_id))
        bill = next(bill for bill in store.all_bills(session) if bill.id == found.bill_id)
        return Found(run=found, bill=bill, items=[item for item in store.items_of(session, run_id) if only in (None, item.state)])


def _bill(bills: list[Imported], bill_id: int) -> Imported:
    for bill in bills:
        if bill.id == bill_id:
            if bill.superseded_by is not None:
                raise Conflict(f"bill {bill_id} is superseded by bill {bill.superseded_by}; run that one: weir reconcile run {bill.superseded_by}")
            return bill
    raise NotFound("bill", str(bill_id))
