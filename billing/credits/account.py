"""One tenant's credits in this process's memory: what is leased to it, put aside for running requests, and taken but not yet in the books. Pure.

A tenant's grants fall into purses (`grants.grant.purse_of`); nearly always there is one, the tenant's own. Of each this process has a
lease. A ceiling (a key's or project's most for a period) is leased the same way and stands beside the purses. One event loop owns it all,
so it needs no lock. Free goes below 0 only by debt: a request in the fast lane that cost more than its hold. A settlement in the slow
lane takes what is free and never from another's hold.
"""

from typing import Any

import msgspec

from billing.credits.purse import Claims, Cover, Hold, Purse, PurseState, spread
from billing.grants.grant import GENERAL
from billing.grants.periods import day_span
from billing.leases.quantum import CAP

CLAIMS_MAX = 4096
LAST: tuple[Any, ...] = (2**62,)  # the order of a purse without grants


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What the books say of one tenant at one instant (ncr, microseconds). `past_today_ncr` is what it used past its credits since its midnight."""

    tenant_id: str
    purses: tuple[PurseState, ...]
    ceilings: tuple[PurseState, ...] = ()
    debt_ncr: int = 0
    valid_until_us: int
    reset_us: int | None
    period_us: int | None = None
    past_today_ncr: int
    day_us: int = 0
    day_ends_us: int
    timezone: str = "UTC"


class Flushed(msgspec.Struct, frozen=True, kw_only=True):
    """What a flush did to one tenant: how much of this process's unflushed is booked now (`taken`, by purse and ceiling), and what the books say after.

    `states` (purses) and `ceilings` (what is leased of each) are empty when the books could say nothing of the tenant (its events were parked).
    `by_period` is what was taken of ceilings, by ceiling and period; `today` the start of the tenant's day of the newest event and what all
    processes served past the credits since, where this batch had any of it.
    """

    tenant_id: str
    taken: dict[str, int]
    past_ncr: int
    by_period: dict[tuple[str, int | None], int] = {}
    today: tuple[int, int] | None = None
    states: tuple[PurseState, ...] = ()
    ceilings: dict[str, int] = {}
    debt_ncr: int | None = None


class Account:
    """One tenant's enforcement state. Every method is a few additions; amounts in ncr."""

    __slots__ = (
        "_claims",
        "_parts",
        "_past_base",
        "_past_unflushed",
        "asked_s",
        "day_ends_us",
        "day_us",
        "debt_ncr",
        "open_requests",
        "period_us",
        "reset_us",
        "retry_s",
        "stale",
        "tenant_id",
        "timezone",
        "valid_until_us",
    )  # fmt: skip

    def __init__(self, snapshot: Snapshot) -> None:
        self.tenant_id = snapshot.tenant_id
        self.open_requests = 0
        self.asked_s = -1e9  # when the books were last asked in the background
        self._parts: dict[str, Purse] = {GENERAL: Purse(GENERAL)}
        self._claims: dict[tuple[str, str | None, str], Claims] = {}
        self._past_base = 0
        self._past_unflushed = 0
        self.period_us: int | None = None
        self.day_us = 0
        self.reloaded(snapshot)

    def claims(self, key_id: str, project: str | None, model: str) -> Claims:
        """Return what a request of this key, project and model may take from."""
        scope = ("", None, "") if len(self._parts) == 1 else (key_id, project, model)
        found = self._claims.get(scope)
        if found is None:
            if len(self._claims) >= CLAIMS_MAX:
                self._claims.clear()
            found = self._claims[scope] = self._chosen(key_id, project, model)
        return found

    @property
    def general(self) -> Purse:
        """The tenant's own purse."""
        return self._parts[GENERAL]

    @property
    def parts(self) -> tuple[Purse, ...]:
        """Every purse and ceiling known here."""
        return tuple(self._parts.values())

    @property
    def held_ncr(self) -> int:
        """What is put aside for running requests."""
        return sum(part.held_ncr for part in self._parts.values() if not part.name.startswith(CAP))

    @property
    def unflushed_ncr(self) -> int:
        """Credits settled here and not yet in the books."""
        return sum(part.unflushed_ncr for part in self._parts.values() if not part.name.startswith(CAP))

    @property
    def left_ncr(self) -> int:
        """What the books had left last, over all purses and ceilings: only grants, expiries and the books' own corrections raise it."""
        return sum(part.left_ncr for part in self._parts.values())

    @property
    def busy(self) -> bool:
        """Whether dropping this account would forget an open request, a hold or a settlement."""
        return self.open_requests != 0 or self._past_unflushed != 0 or any(part.busy for part in self._parts.values())

    def spent_today_ncr(self, now_us: int) -> int:
        """What was served past the credits since the tenant's midnight: the measure of `slow_daily_cap_ncr`."""
        return self._past_base + self._past_unflushed if now_us < self.day_ends_us else self._past_unflushed

    def day_at(self, at_us: int) -> int:
        """Return when the tenant's day began that an instant falls into."""
        if self.day_us <= at_us < self.day_ends_us:
            return self.day_us
        return day_span(at_us, self.timezone)[0]

    def hold(self, claims: Claims, amount_ncr: int) -> Hold | None:
        """Begin a request and put credits aside for it, all or nothing. A hold of 0 (a free model) always succeeds."""
        parts: list[tuple[Purse, int]]
        if amount_ncr > 0:
            if amount_ncr > claims.free_ncr:
                return None
            if (only := claims.only) is not None:
                only.held_ncr += amount_ncr
                parts = [(only, amount_ncr)]
            else:
                parts = spread(claims.purses, amount_ncr) if len(claims.purses) > 1 else [(claims.purses[0], amount_ncr)]
                for part, ncr in parts:
                    part.held_ncr += ncr
                for ceiling in claims.ceilings:
                    ceiling.held_ncr += amount_ncr
        else:
            parts = []
        self.open_requests += 1
        return Hold(claims, amount_ncr, parts)

    def open(self, claims: Claims) -> Hold:
        """Begin a request for which nothing is put aside (slow lane, overage). Like one with a hold, `settle` or `release` ends it."""
        self.open_requests += 1
        return Hold(claims, 0, [])

    def release(self, hold: Hold) -> None:
        """End a request that used nothing: give its hold back. Raises `ValueError` for one that ended already."""
        for part, ncr in hold.parts:
            if ncr > part.held_ncr:
                raise ValueError(f"{self.tenant_id}: {ncr} ncr cannot be released, {part.held_ncr} are held")
            part.held_ncr -= ncr
        for ceiling in hold.claims.ceilings:
            ceiling.held_ncr -= hold.amount_ncr
        if self.open_requests:
            self.open_requests -= 1

    def settle(self, hold: Hold, charge_ncr: int, *, full_cover: bool) -> Cover:
        """End a request: give its hold back, take its charge; return what credits pay of it, and from where.

        `full_cover` (fast lane): the whole charge, into debt if need be. Otherwise: what is free and nobody else's, the rest is past the credits.
        """
        if charge_ncr < 0:
            raise ValueError(f"{self.tenant_id}: a charge of {charge_ncr} ncr is none")
        self.release(hold)
        claims = hold.claims
        cover = charge_ncr
        if not full_cover:
            cover = min(charge_ncr, max(0, claims.free_ncr))
            self._past_unflushed += charge_ncr - cover
        if (purse := claims.only) is not None:
            purse.unflushed_ncr += cover
            purse.used_ncr += cover
            return Cover(cover) if purse.name == GENERAL else Cover(cover, {purse.name: cover})
        return Cover(cover, self._take(claims, cover))

    def flushed(self, flush: Flushed) -> None:
        """Take note that the books have what was settled here, and of what they say now."""
        told = {state.name for state in flush.states} | flush.ceilings.keys()
        for name, ncr in flush.taken.items():
            part = self._part(name)
            part.unflushed_ncr -= ncr
            if told and name not in told:  # its grants are gone: nothing is free again by their being booked
                part.lease_ncr = max(0, part.lease_ncr - ncr)
        for (name, period_us), ncr in flush.by_period.items():
            if period_us == self.period_us:  # a purse's comes with its state
                self._part(name).left_ncr -= ncr
        for name, lease_ncr in flush.ceilings.items():
            self._part(name).lease_ncr = lease_ncr
        self._past_unflushed -= flush.past_ncr
        if flush.today is not None and flush.today[0] == self.day_us:
            self._past_base = flush.today[1]
        else:
            self._past_base += flush.past_ncr
        for state in flush.states:
            part = self._part(state.name)
            before = _scope(part.state)
            part.told(state)
            if _scope(part.state) != before:
                self._claims.clear()  # who may use what has changed; the draw that follows finds it as it is
        if flush.debt_ncr is not None:
            self.debt_ncr = flush.debt_ncr

    def reloaded(self, snapshot: Snapshot) -> None:
        """Take over what the books say now; holds and what is not booked yet stay."""
        before = {name: part.state for name, part in self._parts.items()}
        told = {state.name: state for state in (*snapshot.purses, *snapshot.ceilings)}
        for name, state in told.items():
            part = self._part(name)
            part.told(state)
            part.state, part.limit_ncr = state, state.limit_ncr
        for name, part in list(self._parts.items()):
            if name not in told:  # its grants ended, or the ceiling was taken away
                part.lease_ncr = part.left_ncr = part.available_ncr = part.limit_ncr = 0
                part.state = None
                if name != GENERAL and not part.busy:
                    del self._parts[name]
        if {name: _scope(part.state) for name, part in self._parts.items()} != {name: _scope(state) for name, state in before.items()}:
            self._claims.clear()
        self._past_base = snapshot.past_today_ncr
        self.debt_ncr = snapshot.debt_ncr
        self.valid_until_us = snapshot.valid_until_us
        self.reset_us = snapshot.reset_us
        self.period_us = snapshot.period_us
        self.day_us = snapshot.day_us
        self.day_ends_us = snapshot.day_ends_us
        self.timezone = snapshot.timezone
        self.stale = False
        self.retry_s = 0.0

    def unleased(self) -> None:
        """Forget every lease: they are another's now, or nobody's. What is held and settled stays, and is paid from what the books have then."""
        for part in self._parts.values():
            part.lease_ncr = part.returning_ncr = 0

    def _part(self, name: str) -> Purse:
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = Purse(name)
        return part

    def _chosen(self, key_id: str, project: str | None, model: str) -> Claims:
        purses = [
            part for part in self._parts.values() if part.state is not None and not part.name.startswith(CAP) and _serves(part.state, key_id, project, model)
        ]
        if self.general not in purses:
            purses.append(self.general)
        purses.sort(key=lambda part: part.state.order if part.state is not None and part.state.order else LAST)
        caps = (f"{CAP}key:{key_id}", f"{CAP}project:{project}")
        ceilings = tuple(part for name in caps if (part := self._parts.get(name)) is not None and part.state is not None)
        return Claims(tuple(purses), ceilings)

    def _take(self, claims: Claims, cover_ncr: int) -> dict[str, int] | None:
        taken: dict[str, int] = {}
        left = cover_ncr
        for purse, ncr in spread(claims.purses, cover_ncr):
            purse.unflushed_ncr += ncr
            purse.used_ncr += ncr
            taken[purse.name] = ncr
            left -= ncr
        if left:  # more than all of them have: the tenant owes it
            self.general.unflushed_ncr += left
            taken[GENERAL] = taken.get(GENERAL, 0) + left
        for ceiling in claims.ceilings:
            ceiling.unflushed_ncr += cover_ncr
            ceiling.used_ncr += cover_ncr
            if cover_ncr:
                taken[ceiling.name] = cover_ncr
        return None if not taken or taken.keys() == {GENERAL} else taken


def _serves(state: PurseState, key_id: str, project: str | None, model: str) -> bool:
    return state.key_id in (None, key_id) and state.project in (None, project) and (state.models is None or model in state.models)


def _scope(state: PurseState | None) -> tuple[object, ...] | None:
    return None if state is None else (state.order, state.key_id, state.project, state.models)
