"""Do facts and books agree? Proves, by number, what the tables can prove; used by `weir ledger verify`.

A hundred tenants at a time: the database adds up, this compares (`proofs.py`). So memory is bounded by the grants and sums of these and not
by anybody's events; and in one snapshot (`Database.read(snapshot=True)`) it is right while others write.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec
from sqlmodel import Session

from billing.credits import store as accounts
from billing.credits.store import DAY, KEY_PREFIX, PERIOD, PROJECT_PREFIX, Totals
from billing.grants import store as grants
from billing.grants.grant import Grant
from billing.leases import store as leases
from billing.ledger import store as ledger
from billing.ledger.postings import GRANT_PREFIX
from billing.ledger.store import Flow
from billing.tenants import store as tenants
from billing.usage import proofs, store
from billing.usage.facts import NOTHING, Facts, Figures, SpanKey
from billing.usage.proofs import CLOCKS_US, Proof
from billing.usage.store import Audit, Line

TENANTS = 100
NAMES = 1000
FOREVER_US = 2**62

_OF_TENANTS = (
    ("1", "available + leases + consumed - debt = grants", proofs.credits_add_up),
    ("2", "nothing is negative but the debt's account", proofs.nothing_negative),
    ("4", "each grant = remaining + consumed + expired + voided", proofs.grants_add_up),
    ("5", "cost of usage = paid by grants + debt", proofs.usage_is_paid),
    ("8", "no grant is used outside its life", proofs.grants_used_in_their_life),
    ("purses", "purses pay what requests took from them", proofs.purses_paid_what_was_taken),
    ("sums", "running sums = their events", proofs.sums_are_the_events),
)


def verify(session: Session, now_us: int = FOREVER_US) -> list[str]:
    """Return one sentence per difference; an empty list when everything agrees. Reads every event. Without an instant no lease is looked at."""
    return [difference for proof in prove(session, now_us) for difference in proof.differences]


def prove(session: Session, now_us: int, folder: Path | None = None) -> list[Proof]:
    """Prove the invariants over all tenants, at `now_us`; `folder`: this machine's journal, which is looked through for what is in no book yet."""
    found = {number: Proof(number=number, says=says) for number, says, _prove in _OF_TENANTS}
    told = Proof(number="usage", says="every event is posted, and every posting of usage has its event")
    for some in _batches(sorted(_everybody(session)), TENANTS):
        for facts in _facts(session, some, now_us):
            for number, _says, prove_one in _OF_TENANTS:
                prove_one(found[number], facts)
            _look_at_events(told, facts)
    _look_at_names(told, session)
    if count := store.conflicts_counted(session):
        told.note(f"{count} events came again with other content and were ignored: weir usage conflicts")
    every = {"3": _transactions(session), **found, told.number: told}
    if folder is not None:
        every["journal"] = _journal(folder)
    return [every[number] for number in sorted(every, key=lambda number: (not number.isdigit(), int(number) if number.isdigit() else 0))]


def _everybody(session: Session) -> set[str]:
    return {tenant.id for tenant in tenants.all_tenants(session)} | store.tenants(session) | ledger.tenants(session) | accounts.with_sums(session)


def _facts(session: Session, tenant_ids: Sequence[str], now_us: int) -> Iterator[Facts]:
    given, flows, held = grants.grants_of(session, tenant_ids), ledger.flows(session, tenant_ids), leases.leases_of(session, tenant_ids)
    totals, sums, purses = accounts.totals_of(session, tenant_ids), accounts.every_sum(session, tenant_ids), store.purse_sums(session, tenant_ids)
    unpursed, (audits, spans, undated) = store.unpursed(session, tenant_ids), _added_up(store.lines(session, tenant_ids))
    covers = store.cover_within(session, [life for tenant_id in tenant_ids for life in _lives(given.get(tenant_id, ()), flows.get(tenant_id, {}))])
    for tenant_id in tenant_ids:
        yield Facts(
            tenant_id=tenant_id,
            now_us=now_us,
            events=msgspec.structs.replace(audits.get(tenant_id, Audit()), unpursed=unpursed.get(tenant_id, 0)),
            totals=totals.get(tenant_id, Totals(tenant_id=tenant_id)),
            flows=flows.get(tenant_id, {}),
            grants=given.get(tenant_id, []),
            leases=held.get(tenant_id, []),
            cover_in_life=covers,
            purse_ncr=purses.get(tenant_id, {}),
            spans=spans.get(tenant_id, {}),
            undated=undated.get(tenant_id, NOTHING),
            sums=sums.get(tenant_id, []),
        )


def _lives(given: Iterable[Grant], flows: dict[tuple[str, str], Flow]) -> Iterator[tuple[str, str, int, int]]:
    for grant in given:
        if ("usage", GRANT_PREFIX + grant.id) in flows:
            voided_us = FOREVER_US if grant.voided_us is None else grant.voided_us + CLOCKS_US
            yield grant.id, grant.tenant_id, grant.effective_us, min(grant.expires_us or FOREVER_US, voided_us)


def _added_up(lines: Iterable[Line]) -> tuple[dict[str, Audit], dict[str, dict[SpanKey, Figures]], dict[str, Figures]]:
    """Add lines up by tenant, by tenant and span as `writer.py` does, and by tenant those that belong to no day."""
    audits: dict[str, Counter[str]] = {}
    spans: dict[str, dict[SpanKey, Figures]] = {}
    undated: dict[str, Figures] = {}
    for line in lines:
        total, mine = audits.setdefault(line.tenant_id, Counter()), spans.setdefault(line.tenant_id, {})
        for name, figure in zip(Line._fields[5:], line[5:], strict=True):
            total[name] += figure
        figures = (line.events, line.charge_ncr, line.cover_ncr, line.excess_ncr, line.overage_ncr)
        for span in _spans(line):
            mine[span] = _plus(mine.get(span, NOTHING), figures)
        if line.day_us is None:
            undated[line.tenant_id] = _plus(undated.get(line.tenant_id, NOTHING), figures)
    return {tenant_id: Audit(**total) for tenant_id, total in audits.items()}, spans, undated


def _plus(one: Figures, other: Figures) -> Figures:
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3], one[4] + other[4])


def _spans(line: Line) -> Iterator[SpanKey]:
    if line.day_us is not None:
        yield DAY, line.day_us
    if line.period_us is not None:
        yield PERIOD, line.period_us
        yield KEY_PREFIX + line.key_id, line.period_us
        if line.project is not None:
            yield PROJECT_PREFIX + line.project, line.period_us


def _transactions(session: Session) -> Proof:
    proof = Proof(number="3", says="every ledger transaction sums to 0")
    proof.checked["transactions"], proof.checked["entries"] = ledger.counted(session)
    for tx_id, amount in ledger.unbalanced(session):
        proof.differ(f"ledger transaction {tx_id} sums to {amount} ncr and not to 0")
    for tx_id in ledger.empty(session):
        proof.differ(f"ledger transaction {tx_id} has no entries")
    return proof


def _look_at_events(proof: Proof, facts: Facts) -> None:
    proof.checked["events"] += facts.events.events
    if facts.events.charge_ncr and not any(kind == "usage" for kind, _account in facts.flows):
        proof.differ(f"tenant {facts.tenant_id}: {facts.events.events} events were charged {facts.events.charge_ncr} ncr, and nothing of it is posted")
    if facts.events.recovered:
        proof.note(f"tenant {facts.tenant_id}: {facts.events.recovered} requests whose process died were charged by what was last seen of them")


def _look_at_names(proof: Proof, session: Session) -> None:
    """Find postings of usage whose first event is not there: the event is gone, or never was."""
    names = ledger.usage_names(session)
    while some := dict(islice(names, NAMES)):
        proof.checked["postings"] += len(some)
        gone = store.absent(session, some.values())
        for tx_id, event_id in some.items():
            if event_id in gone:
                proof.differ(f"ledger transaction {tx_id} posts event {event_id}, which does not exist")


def _journal(folder: Path) -> Proof:
    """Look through a journal's folder: what lies there for a person to look at, and what waits."""
    proof = Proof(number="journal", says="nothing was put aside by the journal")
    proof.checked["folders"] += folder.is_dir()
    for path in sorted(folder.glob("rejected-*")):
        proof.differ(f"{path.name} holds an event that the books refused; see the log, then rename it to be booked at the next start, or move it away")
    for path in sorted(folder.glob("damaged-*")):
        proof.note(f"{path.name}: {path.stat().st_size} bytes of the journal could not be read; the requests in them were charged by what was last seen")
    waiting = sum(path.stat().st_size > 0 for path in folder.glob("[0-9]*-*.wal"))
    if waiting:
        proof.note(f"{waiting} journal segments are there; what is in them and not booked yet is in no figure here")
    return proof


def _batches(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for first in range(0, len(ids), size):
        yield ids[first : first + size]
