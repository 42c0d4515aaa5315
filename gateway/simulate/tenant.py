"""One tenant under trial: its account as a process keeps it, and behind it the books' part, on the virtual clock. Pure.

The account, the burning of grants, periods and days are billing's own. What is played here is what the books do otherwise: at the tenant's
midnight and when its month renews, what was settled is booked, the month's grants are made, and the account is told. One process serves, so
all that is left is leased to it.
"""

from typing import Any

from msgspec.structs import replace

from billing.credits.account import Account, Flushed, Snapshot
from billing.credits.burndown import Charge, burn, spendable_ncr
from billing.credits.purse import Claims, PurseState
from billing.grants.grant import GENERAL, PRIORITY_DEFAULT, Grant, burn_key, purse_of
from billing.grants.periods import Period, day_span, period_at
from billing.plans.terms import Terms
from gateway.lanes.queue import SCALE
from gateway.lanes.standing import Lane, lane_of, standing_of
from gateway.lanes.windows import Bucket
from gateway.simulate.offer import Offer
from gateway.simulate.tally import TenantSums

OPEN_KEY = "key"  # each tenant has one key
SPELL_GRANTS_MIN = 10  # a fair queue is fair to within a request; a spell of so many shows shares


class Backlog:
    """The spell during which a tenant has something waiting in a lane: at which weight, what it was granted (weighted tokens), and what was its fair share."""

    __slots__ = ("_since", "grants", "tokens", "waiting", "weight")

    def __init__(self) -> None:
        self.waiting = self.weight = self.grants = self.tokens = self._since = 0

    def enter(self, weight: int, virtual: int) -> bool:
        """Count one that begins to wait; True where a spell begins with it. `virtual` is the lane's (`lane.Fluid`)."""
        begins = not self.waiting
        if begins:
            self.weight, self.grants, self.tokens, self._since = weight, 0, 0, virtual
        self.waiting += 1
        return begins

    def granted(self, tokens: int) -> None:
        """Count one that got its slot."""
        self.grants += 1
        self.tokens += tokens

    def ended(self, virtual: int) -> tuple[int, int]:
        """Return a spell's fair share and what it got, in weighted tokens; nothing of one so short that a request more or less decides about it."""
        return (self.weight * (virtual - self._since) // SCALE, self.tokens) if self.grants >= SPELL_GRANTS_MIN else (0, 0)


class Tenant:
    """A tenant. `used_ncr`: what of its month was used before the trial began; `tick_us` is when its day or month ends next."""

    __slots__ = (
        "_debt_ncr",
        "account",
        "anchor_us",
        "backlogs",
        "claims",
        "grants",
        "limits",
        "name",
        "offer",
        "opening_ncr",
        "plan",
        "slow_waiting",
        "stands",
        "stood_us",
        "sums",
        "terms",
        "timezone",
    )  # fmt: skip

    def __init__(self, name: str, offer: Offer, *, plan: int, anchor_us: int, timezone: str, start_us: int, used_ncr: int) -> None:
        self.name = name
        self.offer = offer
        self.plan = plan
        self.terms: Terms = offer.terms()
        self.anchor_us = anchor_us
        self.timezone = timezone
        self._debt_ncr = 0
        self.grants: list[Grant] = []
        self._begin(period_at(anchor_us, timezone, start_us), used_ncr)
        self.account = Account(self._snapshot(start_us, 0))
        self.claims: Claims = self.account.claims(OPEN_KEY, None, "")
        self.opening_ncr = max(0, self.claims.remaining_ncr)
        limits = (("requests", self.terms.requests_per_minute), ("tokens", self.terms.tokens_per_minute))
        self.limits = tuple((kind, Bucket(limit, start_us)) for kind, limit in limits if limit)
        self.backlogs = {lane: Backlog() for lane in Lane}
        self.slow_waiting: dict[int, Any] = {}  # its requests in the slow lane that have no slot yet
        self.sums = TenantSums()
        self.stands = standing_of(self.account, self.claims, self.terms, start_us)
        self.stood_us = start_us

    @property
    def tick_us(self) -> int:
        """When its day or its month ends, whichever is first."""
        return min(self.account.day_ends_us, self.account.valid_until_us)

    @property
    def lane(self) -> Lane:
        """The lane that its standing buys."""
        return lane_of(self.stands, self.terms)

    def tick(self, now_us: int) -> bool:
        """Take note that its day or its month has ended; True where a new month brought its grants."""
        account = self.account
        past_today_ncr = account.spent_today_ncr(now_us) if now_us < account.day_ends_us else 0
        self._book(now_us)
        renewed = now_us >= account.valid_until_us
        if renewed:
            self._begin(period_at(self.anchor_us, self.timezone, now_us), 0)
        account.reloaded(self._snapshot(now_us, past_today_ncr))
        self.claims = account.claims(OPEN_KEY, None, "")
        return renewed

    def _book(self, now_us: int) -> None:
        """Book what was settled since the last time, as a flush does: it burns grants, and what they lack is owed."""
        account = self.account
        taken = {part.name: part.unflushed_ncr for part in account.parts if part.unflushed_ncr}
        past_ncr = account.spent_today_ncr(account.day_ends_us)  # past that instant it is what is not booked, alone
        account.flushed(Flushed(tenant_id=self.name, taken=taken, past_ncr=past_ncr))
        cover_ncr = sum(taken.values())
        at_us = min(now_us, account.valid_until_us) - 1
        burned = burn(self.grants, self._debt_ncr, [Charge(at_us, cover_ncr, cover_ncr, overage=False, purses=taken)])
        self.grants = [replace(grant, remaining_ncr=burned.left[grant.id]) for grant in self.grants]
        self._debt_ncr = burned.debt_ncr

    def _begin(self, period: Period, used_ncr: int) -> None:
        """Make a month's grants: the seat's, what rolls over of the month before, the allowance; `used_ncr` of them is used already."""
        plan = self.offer.plan
        before = next((grant for grant in self.grants if grant.kind == "plan" and grant.key_id is None), None)
        rolls_ncr = 0 if before is None else min(plan.rollover_cap_ncr or 0, before.remaining_ncr)
        made = [
            self._grant("plan", plan.seat_allowance_ncr, period, OPEN_KEY),
            self._grant("rollover", rolls_ncr, period),
            self._grant("plan", plan.allowance_ncr, period),
        ]
        self.grants = sorted((grant for grant in made if grant.amount_ncr), key=burn_key)
        for index, grant in enumerate(self.grants):
            taken = min(used_ncr, grant.remaining_ncr)
            used_ncr -= taken
            self.grants[index] = replace(grant, remaining_ncr=grant.remaining_ncr - taken)

    def _grant(self, kind: str, amount_ncr: int, period: Period, key_id: str | None = None) -> Grant:
        return Grant(
            id=f"{kind}:{self.name}:{period.start_us}" + ("" if key_id is None else f":{key_id}"),
            tenant_id=self.name,
            kind=kind,
            amount_ncr=amount_ncr,
            remaining_ncr=amount_ncr,
            priority=PRIORITY_DEFAULT[kind],
            effective_us=period.start_us,
            expires_us=period.end_us,
            voided_us=None,
            created_us=period.start_us,
            note="",
            key_id=key_id,
        )

    def _snapshot(self, now_us: int, past_today_ncr: int) -> Snapshot:
        period = period_at(self.anchor_us, self.timezone, now_us)
        day_us, day_ends_us = day_span(now_us, self.timezone)
        purses: dict[str, list[Grant]] = {GENERAL: []}
        for grant in self.grants:
            purses.setdefault(purse_of(grant), []).append(grant)
        return Snapshot(
            tenant_id=self.name,
            purses=tuple(self._state(name, mine, now_us) for name, mine in purses.items()),
            debt_ncr=self._debt_ncr,
            valid_until_us=period.end_us,
            reset_us=period.end_us,
            period_us=period.start_us,
            past_today_ncr=past_today_ncr,
            day_us=day_us,
            day_ends_us=day_ends_us,
            timezone=self.timezone,
        )

    def _state(self, name: str, mine: list[Grant], now_us: int) -> PurseState:
        left_ncr = spendable_ncr(mine, {grant.id: grant.remaining_ncr for grant in mine}, self._debt_ncr if name == GENERAL else 0, now_us)
        head = mine[0] if mine else None
        return PurseState(
            name=name,
            lease_ncr=left_ncr,
            left_ncr=left_ncr,
            available_ncr=0,
            limit_ncr=sum(grant.amount_ncr for grant in mine),
            order=() if head is None else burn_key(head),
            key_id=None if head is None else head.key_id,
        )
