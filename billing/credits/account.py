"""One tenant's credits in memory: what is free, put aside for running requests, and taken but not yet in the books. Pure.

    free = base - unflushed - held

`base` is what the books said last (spendable after all that was booked then), `unflushed` what was settled since and is not booked
yet, `held` the sum of open holds. One event loop owns it, so it needs no lock. Free goes below 0 only by debt: a request in the
fast lane that cost more than its hold. A settlement in the slow lane takes from what is free and never from another's hold.
"""

import msgspec


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What the books say of one tenant at one instant (ncr, microseconds). `past_today_ncr` is what it used past its credits since its midnight."""

    tenant_id: str
    spendable_ncr: int
    limit_ncr: int
    valid_until_us: int
    reset_us: int | None
    past_today_ncr: int
    day_ends_us: int


class Flushed(msgspec.Struct, frozen=True, kw_only=True):
    """What a flush did to one tenant: how much of this process's unflushed is booked now, and what the books say afterwards.

    `spendable_ncr` is None when the books could say nothing of the tenant (its events were parked).
    """

    tenant_id: str
    cover_ncr: int
    past_ncr: int
    spendable_ncr: int | None
    debt_ncr: int = 0
    covered_ncr: int = 0


class Account:
    """One tenant's enforcement state. Every method is a few additions; amounts in ncr."""

    __slots__ = (
        "_base", "_past_base", "_past_unflushed", "_unflushed", "day_ends_us", "held_ncr", "limit_ncr", "open_requests", "reset_us", "retry_us", "stale",
        "tenant_id", "valid_until_us",
    )  # fmt: skip

    def __init__(self, snapshot: Snapshot) -> None:
        self.tenant_id = snapshot.tenant_id
        self.held_ncr = 0
        self.open_requests = 0
        self._base = 0
        self._unflushed = 0
        self._past_base = 0
        self._past_unflushed = 0
        self.reloaded(snapshot)

    @property
    def free_ncr(self) -> int:
        """Credits that a new hold may take; below 0 only by debt."""
        return self._base - self._unflushed - self.held_ncr

    @property
    def remaining_ncr(self) -> int:
        """Credits left, those put aside for running requests among them; below 0 only by debt. This is what a tenant is shown."""
        return self._base - self._unflushed

    @property
    def used_ncr(self) -> int:
        """Credits of the current grants that are used up: the standing is `used / limit`. Above the limit only by debt."""
        return self.limit_ncr - (self._base - self._unflushed)

    @property
    def unflushed_ncr(self) -> int:
        """Credits settled here and not yet in the books."""
        return self._unflushed

    @property
    def busy(self) -> bool:
        """Whether dropping this account would forget an open request, a hold or a settlement."""
        return self.open_requests != 0 or self.held_ncr != 0 or self._unflushed != 0 or self._past_unflushed != 0

    def spent_today_ncr(self, now_us: int) -> int:
        """What was served past the credits since the tenant's midnight: the measure of `slow_daily_cap_ncr`."""
        return self._past_base + self._past_unflushed if now_us < self.day_ends_us else self._past_unflushed

    def hold(self, amount_ncr: int) -> bool:
        """Begin a request and put credits aside for it, all or nothing. A hold of 0 (a free model) always succeeds."""
        if amount_ncr and amount_ncr > self._base - self._unflushed - self.held_ncr:
            return False
        self.held_ncr += amount_ncr
        self.open_requests += 1
        return True

    def open(self) -> None:
        """Begin a request for which nothing is put aside (slow lane, overage). Like one with a hold, `settle` or `release` ends it."""
        self.open_requests += 1

    def release(self, amount_ncr: int) -> None:
        """End a request that used nothing: give its hold back. Raises `ValueError` for more than is held."""
        if not 0 <= amount_ncr <= self.held_ncr:
            raise ValueError(f"{self.tenant_id}: {amount_ncr} ncr cannot be released, {self.held_ncr} are held")
        self.held_ncr -= amount_ncr
        self._ended()

    def settle(self, held_ncr: int, charge_ncr: int, *, full_cover: bool) -> int:
        """End a request: give its hold back, take its charge; return what credits pay of it (`cover_ncr`).

        `full_cover` (fast lane): the whole charge, into debt if need be. Otherwise: what is free and nobody else's, the rest is past the credits.
        """
        if not 0 <= held_ncr <= self.held_ncr or charge_ncr < 0:
            raise ValueError(f"{self.tenant_id}: a charge of {charge_ncr} ncr cannot end a hold of {held_ncr} ncr, {self.held_ncr} are held")
        self.held_ncr -= held_ncr
        self._ended()
        cover = charge_ncr
        if not full_cover:
            cover = min(charge_ncr, max(0, self._base - self._unflushed - self.held_ncr))
            self._past_unflushed += charge_ncr - cover
        self._unflushed += cover
        return cover

    def flushed(self, flush: Flushed) -> None:
        """Take note that the books have what was settled here, and of what they say now."""
        self._unflushed -= flush.cover_ncr
        self._past_unflushed -= flush.past_ncr
        self._past_base += flush.past_ncr
        if flush.spendable_ncr is not None:
            self._base = flush.spendable_ncr

    def reloaded(self, snapshot: Snapshot) -> None:
        """Take over what the books say now; holds and what is not booked yet stay."""
        self._base = snapshot.spendable_ncr
        self._past_base = snapshot.past_today_ncr
        self.limit_ncr = snapshot.limit_ncr
        self.valid_until_us = snapshot.valid_until_us
        self.reset_us = snapshot.reset_us
        self.day_ends_us = snapshot.day_ends_us
        self.stale = False
        self.retry_us = 0

    def _ended(self) -> None:
        if self.open_requests:  # charging what nobody opened is no error: a correction, say
            self.open_requests -= 1
