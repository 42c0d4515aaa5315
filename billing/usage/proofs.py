"""The invariants of the books, one function each, as far as the tables can prove them. Pure: given a tenant's facts, says what contradicts what.

The numbers are those of the product's list of invariants; what has no number there has a name. A difference is a bug, or damage: exit
code 1. A note is something that a person should know and that no book contradicts.
"""

from collections import Counter
from collections.abc import Iterator

import msgspec

from billing.grants.grant import GENERAL, Grant, purse_of
from billing.leases.quantum import CAP
from billing.ledger.postings import CONSUMED, DEBT, EXCESS, EXPIRE, GRANT_PREFIX, OVERAGE, ROLLOVER, VOID
from billing.usage.facts import NOTHING, Facts

SHOWN_MAX = 100  # differences kept of each proof; the others are counted
CLOCKS_US = 60_000_000  # how far the clocks of two hosts may be apart before a comparison of their instants says something


class Proof(msgspec.Struct, kw_only=True):
    """One invariant: what it says, how much was looked at, and what contradicts it."""

    number: str
    says: str
    checked: Counter[str] = msgspec.field(default_factory=Counter)
    differences: list[str] = msgspec.field(default_factory=list)
    omitted: int = 0
    notes: list[str] = msgspec.field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing contradicts it."""
        return not self.differences

    def differ(self, what: str) -> None:
        """Add a difference; past the first hundred they are only counted."""
        if len(self.differences) < SHOWN_MAX:
            self.differences.append(what)
        else:
            self.omitted += 1

    def note(self, what: str) -> None:
        """Add a note, within the same bound."""
        if len(self.notes) < SHOWN_MAX:
            self.notes.append(what)


def credits_add_up(proof: Proof, facts: Facts) -> None:
    """1: what grants gave and is not there any more was consumed; what is leased was there to be leased."""
    used = sum(grant.used_ncr for grant in facts.grants)
    rolled = sum(grant.amount_ncr for grant in facts.grants if grant.kind == ROLLOVER)
    if used - rolled != facts.totals.consumed_ncr:
        what = f"grants gave {used - rolled} ncr (what rolled over counted once), consumed of the account are {facts.totals.consumed_ncr} ncr"
        proof.differ(f"tenant {facts.tenant_id}: {what}")
    given, left = _given_and_left(facts)
    for purse, leased in _leased(facts).items():
        proof.checked["leases"] += 1
        name = f"tenant {facts.tenant_id}, purse `{purse}`"
        if leased > given[purse]:
            proof.differ(f"{name}: {leased} ncr are leased of grants that never held more than {given[purse]} ncr")
        elif leased > left[purse]:
            over = leased - left[purse]
            proof.note(f"{name}: {over} ncr more are leased than grants hold (requests past their lease, or of a process that is gone); it mends itself")
    proof.checked["tenants"] += 1


def nothing_negative(proof: Proof, facts: Facts) -> None:
    """2: nothing is below 0 but the account of the debt; no part is above its whole."""
    events = facts.events
    proof.checked["events"] += events.events
    proof.checked["grants"] += len(facts.grants)
    if events.impossible:
        proof.differ(f"tenant {facts.tenant_id}: {events.impossible} events do not have 0 <= paid by grants <= paid by credits <= charge")
    totals = msgspec.structs.asdict(facts.totals)
    for name, amount in totals.items():
        if name != "tenant_id" and amount < 0:
            proof.differ(f"tenant {facts.tenant_id}: {name} of the account is {amount}")
    for grant in facts.grants:
        parts = (grant.remaining_ncr, grant.expired_ncr, grant.voided_ncr)
        if min(parts) < 0 or sum(parts) > grant.amount_ncr or grant.amount_ncr < 0:
            proof.differ(f"grant {grant.id}: of {grant.amount_ncr} ncr {parts[0]} are left, {parts[1]} expired and {parts[2]} were voided")
    for lease in facts.leases:
        if lease.amount_ncr < 0:
            proof.differ(f"tenant {facts.tenant_id}: the lease of process {lease.replica_id} on `{lease.purse}` is {lease.amount_ncr} ncr")


def grants_add_up(proof: Proof, facts: Facts) -> None:
    """4: per grant, amount = remaining + consumed + expired + voided, and the ledger says the same of each."""
    posted: dict[str, dict[str, int]] = {}
    for (kind, account), flow in facts.flows.items():
        if account.startswith(GRANT_PREFIX):
            parts = posted.setdefault(account.removeprefix(GRANT_PREFIX), {})
            parts["issued"] = parts.get("issued", 0) + flow.in_ncr
            parts[kind] = parts.get(kind, 0) + flow.out_ncr
    for grant in facts.grants:
        proof.checked["grants"] += 1
        parts = posted.pop(grant.id, {"issued": grant.amount_ncr})  # a grant is posted when it is first drawn from, or ends
        out = sum(ncr for kind, ncr in parts.items() if kind != "issued")
        said = (parts["issued"], parts["issued"] - out, parts.get(EXPIRE, 0), parts.get(VOID, 0))
        if said != (grant.amount_ncr, grant.remaining_ncr, grant.expired_ncr, grant.voided_ncr):
            proof.differ(
                f"grant {grant.id}: of {grant.amount_ncr} ncr {grant.remaining_ncr} are left, {grant.expired_ncr} expired, {grant.voided_ncr} were voided;"
                f" the ledger says of {said[0]} ncr {said[1]}, {said[2]} and {said[3]}"
            )
    for grant_id in sorted(posted):
        proof.differ(f"the ledger draws on {GRANT_PREFIX}{grant_id}, which does not exist")


def usage_is_paid(proof: Proof, facts: Facts) -> None:
    """5: the sum of what requests cost = what grants paid + what went into debt (+ what was past the credits), in events, account and ledger alike."""
    events, account = facts.events, facts.totals
    proof.checked["events"] += events.events
    proof.checked["tenants"] += 1
    pairs = [
        ("charges of events", events.charge_ncr, "the ledger's consumed", facts.balance(CONSUMED)),
        ("cover of events", events.cover_ncr, "consumed + debt of the account", account.consumed_ncr + account.debt_ncr),
        ("excess of events", events.excess_ncr, "excess of the account", account.excess_ncr),
        ("overage of events", events.overage_ncr, "overage of the account", account.overage_ncr),
        ("debt of the account", account.debt_ncr, "the ledger's debt", -facts.balance(DEBT)),
        ("excess of the account", account.excess_ncr, "the ledger's excess", -facts.balance(EXCESS)),
        ("overage of the account", account.overage_ncr, "the ledger's overage", -facts.balance(OVERAGE)),
        ("debt repaid, by the account,", account.consumed_ncr - events.covered_ncr, "debt repaid, by the ledger,", _repaid(facts)),
    ]
    for left, a, right, b in pairs:
        if a != b:
            proof.differ(f"tenant {facts.tenant_id}: {left} are {a} ncr, {right} is {b} ncr")


def grants_used_in_their_life(proof: Proof, facts: Facts) -> None:
    """8: no grant paid more than the requests that began in its life cost (and the debt that they repaid), and none before it began."""
    repaid = _repaid(facts)
    for grant in facts.grants:
        flow = facts.flows.get(("usage", GRANT_PREFIX + grant.id))
        if flow is None or not flow.out_ncr:
            continue
        proof.checked["grants used"] += 1
        could = facts.cover_in_life.get(grant.id, 0) + (repaid if purse_of(grant) == GENERAL else 0)
        if flow.out_ncr > could:
            proof.differ(f"grant {grant.id}: it paid {flow.out_ncr} ncr, the requests of its life could use {could} ncr of it at most")
        if flow.first_us < grant.effective_us - CLOCKS_US:
            proof.differ(f"grant {grant.id}: it was drawn from {(grant.effective_us - flow.first_us) / 1e6:.0f} s before it began")


def purses_paid_what_was_taken(proof: Proof, facts: Facts) -> None:
    """Purses: grants of one scope paid no more than requests took from that scope's purse; events' purses sum to their cover."""
    if facts.events.unpursed:
        proof.differ(f"tenant {facts.tenant_id}: {facts.events.unpursed} events name purses that do not sum to what credits pay of them")
    paid: Counter[str] = Counter()
    for grant in facts.grants:
        flow = facts.flows.get(("usage", GRANT_PREFIX + grant.id))
        paid[purse_of(grant)] += 0 if flow is None else flow.out_ncr
    for purse, ncr in sorted(paid.items()):
        if purse != GENERAL:
            proof.checked["purses"] += 1
            if ncr > facts.purse_ncr.get(purse, 0):
                proof.differ(f"tenant {facts.tenant_id}, purse `{purse}`: its grants paid {ncr} ncr, requests took {facts.purse_ncr.get(purse, 0)} ncr from it")


def sums_are_the_events(proof: Proof, facts: Facts) -> None:
    """Sums: each running sum is the sum of its events, and none is missing."""
    expected = dict(facts.spans)
    for one in facts.sums:
        proof.checked["sums"] += 1
        says = (one.events, one.charge_ncr, one.cover_ncr, one.excess_ncr, one.overage_ncr)
        found = expected.pop((one.span, one.start_us), NOTHING)
        if not all(least <= figure <= least + old for least, figure, old in zip(found, says, facts.undated, strict=True)):
            proof.differ(f"tenant {facts.tenant_id}: the sum of {_span(one.span, one.start_us)} is {_figures(says)}, its events are {_figures(found)}")
    for (span, start_us), found in sorted(expected.items()):
        proof.differ(f"tenant {facts.tenant_id}: there is no sum of {_span(span, start_us)}, its events are {_figures(found)}")


def _given_and_left(facts: Facts) -> tuple[Counter[str], Counter[str]]:
    """Add up by purse what the grants behind today's leases were given, and what is left in them."""
    given: Counter[str] = Counter()
    left: Counter[str] = Counter({GENERAL: -facts.totals.debt_ncr})
    for grant in facts.grants:
        if _backs(grant, facts.now_us):
            given[purse_of(grant)] += grant.amount_ncr
            left[purse_of(grant)] += grant.remaining_ncr
    return given, left


def _backs(grant: Grant, now_us: int) -> bool:
    # Void ones too: a lease on one stays until its process hears of the void, and for as long as no process runs. An end goes by the process's clock.
    return grant.effective_us <= now_us + CLOCKS_US and (grant.expires_us is None or grant.expires_us > now_us - CLOCKS_US)


def _leased(facts: Facts) -> Counter[str]:
    leased: Counter[str] = Counter()
    for lease in facts.leases:
        if lease.valid_until_us > facts.now_us and not lease.purse.startswith(CAP):
            leased[lease.purse] += lease.amount_ncr
    return leased


def _repaid(facts: Facts) -> int:
    return sum(flow.in_ncr for (_kind, account), flow in facts.flows.items() if account == DEBT)


def _span(span: str, start_us: int) -> str:
    return f"{span} from {start_us}"


def _figures(figures: tuple[int, ...]) -> str:
    return ", ".join(_worded(figures))


def _worded(figures: tuple[int, ...]) -> Iterator[str]:
    for name, figure in zip(("events", "ncr charged", "covered", "excess", "overage"), figures, strict=True):
        yield f"{figure} {name}"
