"""The one transaction in which credits are set aside for a process: read what a tenant has, lease some of it, say what the books say.

Only what no process has is given out, under the tenant's lock; so the leases of a purse never add up to more than its usable grants hold,
and what all processes together admit is covered. A lease ends with the first of the grants behind it: then it is drawn anew.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from sqlmodel import Session

from billing.credits import store
from billing.credits.account import Snapshot
from billing.credits.burndown import spendable_ncr, usable
from billing.credits.purse import PurseState
from billing.credits.store import DAY
from billing.errors import BooksUnavailable, NotFound
from billing.grants import store as grants
from billing.grants.allowance import awaits_use, current_period, due_grants, ensure_allowance
from billing.grants.grant import GENERAL, Grant, burn_key, purse_of, serves
from billing.grants.periods import Period, day_span
from billing.leases import store as leases
from billing.leases.quantum import CAP, quantum
from billing.leases.store import Lease
from billing.tenants import store as tenants

FOREVER_US = 2**62
LEASE_NCR_MAX = 2**62


class Displaced(BooksUnavailable):
    """This process was taken for dead, or another has its name: its leases are gone, and it must begin under a new name."""

    def __init__(self, replica_id: str) -> None:
        super().__init__(f"process {replica_id} is no longer in the books")
        self.replica_id = replica_id


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """On whose behalf credits are set aside: this process, the beats that may be its last, and how many processes share (itself among them)."""

    replica_id: str
    beats: tuple[int, ...]
    processes: int = 1
    lease_ncr_max: int = LEASE_NCR_MAX


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """What requests of one kind lack (ncr) beyond what this process has for them; 0: nothing yet, but more will come."""

    key_id: str
    project: str | None
    model: str
    need_ncr: int = 0


class Pot(msgspec.Struct):
    """A purse while a draw is computed: its grants, what is left in them, what is set aside for others and for this process."""

    name: str
    left_ncr: int
    limit_ncr: int
    grants: list[Grant]
    ends_us: int = FOREVER_US
    others_ncr: int = 0
    mine_ncr: int = 0

    @property
    def available_ncr(self) -> int:
        """What is set aside for nobody; below 0 where grants went away under leases."""
        return self.left_ncr - self.others_ncr - self.mine_ncr

    def state(self) -> PurseState:
        """Say it as an account hears it."""
        head = next((grant for grant in self.grants if grant.remaining_ncr > 0), self.grants[0] if self.grants else None)
        scope = head if head is not None and not self.name.startswith(CAP) else None
        return PurseState(
            name=self.name,
            lease_ncr=self.mine_ncr,
            left_ncr=self.left_ncr,
            available_ncr=max(0, self.available_ncr),
            limit_ncr=self.limit_ncr,
            order=() if scope is None else burn_key(scope),
            key_id=None if scope is None else scope.key_id,
            project=None if scope is None else scope.project,
            models=None if scope is None else scope.models,
        )


def draw(session: Session, member: Member, tenant_id: str, wants: Sequence[Want], now_us: int) -> Snapshot:
    """Set credits aside for a process as far as they are there, and return what the books say then; the period's allowance is written first.

    Raises `NotFound` for no such tenant, `Displaced` when the books take this process for dead.
    """
    if not leases.holds_beat(session, member.replica_id, member.beats):
        raise Displaced(member.replica_id)
    tenant = tenants.get_tenant(session, tenant_id)
    if tenant is None:
        raise NotFound("tenant", tenant_id)
    debt_ncr = store.lock(session, [tenant_id])[tenant_id].debt_ncr
    asked = any(want.model for want in wants)  # else a client looks at its balance, or an admin changed something: that begins nobody's months
    ensure_allowance(session, tenant_id, now_us, activate=asked)
    period = current_period(session, tenant_id, now_us)
    period_us = None if period is None else period[1].start_us
    current = grants.current_grants(session, tenant_id, now_us)
    pots = pots_of(current, debt_ncr, now_us) | _ceilings(session, tenant_id, None if period is None else period[1])
    valid_until_us = _valid_until_us(session, tenant_id, current, None if period is None else period[1].end_us, now_us)
    if period is None and not asked and awaits_use(session, tenant_id, now_us):
        pots |= pots_of([*current, *due_grants(session, tenant_id, now_us)], debt_ncr, now_us)  # shown, and not given out
        wants, valid_until_us = (), now_us  # so the first request draws again
    held = leases.leases_of(session, [tenant_id]).get(tenant_id, [])
    share_out(pots, held, member.replica_id, now_us)
    before = {lease.purse: lease for lease in held if lease.replica_id == member.replica_id}
    _trim(pots.values())
    for want in wants:
        _give(pots, want, member)
    changed = [
        Lease(tenant_id=tenant_id, purse=pot.name, replica_id=member.replica_id, amount_ncr=pot.mine_ncr, valid_until_us=pot.ends_us)
        for pot in pots.values()
        if pot.mine_ncr or pot.name in before
    ]
    gone = [msgspec.structs.replace(lease, amount_ncr=0) for name, lease in before.items() if name not in pots and lease.amount_ncr]
    leases.put(session, [*changed, *gone])
    day_us, day_ends_us = day_span(now_us, tenant.timezone)
    today = store.sum_of(session, tenant_id, DAY, day_us)
    return Snapshot(
        tenant_id=tenant_id,
        purses=tuple(pot.state() for pot in pots.values() if not pot.name.startswith(CAP)),
        ceilings=tuple(pot.state() for pot in pots.values() if pot.name.startswith(CAP)),
        debt_ncr=debt_ncr,
        valid_until_us=valid_until_us,
        reset_us=None if period is None else period[1].end_us,
        period_us=period_us,
        past_today_ncr=today.charge_ncr - today.cover_ncr,
        day_us=day_us,
        day_ends_us=day_ends_us,
        timezone=tenant.timezone,
    )


def pots_of(current: Iterable[Grant], debt_ncr: int, now_us: int) -> dict[str, Pot]:
    """Sort the grants usable at an instant into purses, by name, the tenant's own always among them; its debt is off that one."""
    by_purse: dict[str, list[Grant]] = {GENERAL: []}
    for grant in current:
        if usable(grant, now_us):
            by_purse.setdefault(purse_of(grant), []).append(grant)
    return {
        name: Pot(
            name=name,
            left_ncr=spendable_ncr(mine, {grant.id: grant.remaining_ncr for grant in mine}, debt_ncr if name == GENERAL else 0, now_us),
            limit_ncr=sum(grant.amount_ncr for grant in mine),
            grants=mine,
            ends_us=min((grant.expires_us for grant in mine if grant.expires_us is not None), default=FOREVER_US),
        )
        for name, mine in by_purse.items()
    }


def share_out(pots: Mapping[str, Pot], held: Iterable[Lease], replica_id: str, now_us: int) -> None:
    """Note in each purse what is set aside of it, for this process and for others.

    A lease that is past its end was backed by a grant that is over. What its process admitted by it began before, and is paid by that grant as far
    as it goes; the rest may be paid by those that went on. So it counts as far as there is something left in grants that were there already.
    """
    for lease in held:
        pot = pots.get(lease.purse)
        if pot is None:
            continue
        amount_ncr = lease.amount_ncr
        if lease.valid_until_us <= now_us:
            amount_ncr = min(amount_ncr, sum(grant.remaining_ncr for grant in pot.grants if grant.effective_us < lease.valid_until_us))
        if lease.replica_id == replica_id:
            pot.mine_ncr += amount_ncr
        else:
            pot.others_ncr += amount_ncr


def _ceilings(session: Session, tenant_id: str, period: Period | None) -> dict[str, Pot]:
    ceilings = tenants.ceilings(session, tenant_id)
    if not ceilings:
        return {}
    start_us, end_us = (0, FOREVER_US) if period is None else (period.start_us, period.end_us)
    used = store.sums_of(session, tenant_id, ceilings, start_us)
    return {CAP + span: Pot(name=CAP + span, left_ncr=ceiling - used[span], limit_ncr=ceiling, grants=[], ends_us=end_us) for span, ceiling in ceilings.items()}


def _valid_until_us(session: Session, tenant_id: str, current: Iterable[Grant], period_end_us: int | None, now_us: int) -> int:
    ends = [grant.expires_us for grant in current if grant.expires_us is not None]
    starts = [start for start in (grants.next_start_us(session, tenant_id, now_us), period_end_us) if start is not None]
    return min([*ends, *starts, FOREVER_US])


def _trim(pots: Iterable[Pot]) -> None:
    # Grants went away under the leases: this process gives up its part of what is missing; the others do when they draw.
    for pot in pots:
        if pot.available_ncr < 0:
            pot.mine_ncr = max(0, pot.mine_ncr + pot.available_ncr)


def _give(pots: Mapping[str, Pot], want: Want, member: Member) -> None:
    lacking = want.need_ncr
    usable = [pot for pot in pots.values() if pot.grants and serves(pot.grants[0], want.key_id, want.project, want.model)]
    for pot in sorted(usable, key=lambda pot: burn_key(pot.grants[0])):
        given = quantum(pot.available_ncr, member.processes, lacking, pot.mine_ncr, member.lease_ncr_max)
        pot.mine_ncr += given
        lacking -= min(given, lacking)
    for name in (f"{CAP}key:{want.key_id}", f"{CAP}project:{want.project}"):
        ceiling = pots.get(name)
        if ceiling is not None:
            ceiling.mine_ncr += quantum(ceiling.available_ncr, member.processes, want.need_ncr, ceiling.mine_ncr, member.lease_ncr_max)
