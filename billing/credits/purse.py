"""What this process may take: a purse of a tenant, a ceiling over it, what one kind of request may claim, and a hold on it. Pure.

    free = lease - unflushed - held - returning

`lease` is what the books said last, `unflushed` what was settled since and is not booked yet (a flush takes it off both), `held` the sum
of open holds, `returning` what is on its way back. Amounts in ncr.
"""

from typing import Any

import msgspec

from billing.grants.grant import GENERAL


class PurseState(msgspec.Struct, frozen=True, kw_only=True):
    """What the books say of a purse or a ceiling at one instant (ncr).

    `left_ncr`: in its usable grants, the tenant's own less debt. `available_ncr`: of that, what is set aside for no process. `order` says who burns first.
    """

    name: str
    lease_ncr: int
    left_ncr: int
    available_ncr: int
    limit_ncr: int = 0
    order: tuple[Any, ...] = ()
    key_id: str | None = None
    project: str | None = None
    models: tuple[str, ...] | None = None


class Purse:
    """This process's part of one purse, or of one ceiling. Amounts in ncr."""

    __slots__ = (
        "asked_ncr", "available_ncr", "fresh", "held_ncr", "lease_ncr", "left_ncr", "limit_ncr", "name", "returning_ncr", "state", "unflushed_ncr",
        "used_before_ncr", "used_ncr",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.lease_ncr = self.left_ncr = self.available_ncr = self.limit_ncr = 0
        self.unflushed_ncr = self.held_ncr = self.returning_ncr = 0
        self.asked_ncr = 0  # what the last draw brought: half of it is the low water
        self.used_ncr = self.used_before_ncr = 0  # in the span of time under way, and in the one before: what it is worth to keep
        self.fresh = 0  # for how many spans more what was drawn is kept though nothing was used
        self.state: PurseState | None = None

    @property
    def free_ncr(self) -> int:
        """What a new hold may take here; below 0 only by debt, or when grants ended under open holds."""
        return self.lease_ncr - self.unflushed_ncr - self.held_ncr - self.returning_ncr

    @property
    def remaining_ncr(self) -> int:
        """What the whole tenant has left here, as far as this process knows: the books less what is settled and not booked."""
        return self.left_ncr - self.unflushed_ncr

    def surplus_ncr(self, most_ncr: int) -> int:
        """What may go back: all beyond its own use lately, where nobody else has any left; else what exceeds the most that is set aside beforehand."""
        lately = max(self.used_ncr, self.used_before_ncr)
        wanted = self.available_ncr > 0 and (lately or self.fresh)
        return max(0, self.free_ncr - (max(lately, most_ncr) if wanted else lately))

    def next_span(self) -> None:
        """Begin another span of time over which use is looked at."""
        self.used_before_ncr, self.used_ncr = self.used_ncr, 0
        self.fresh = max(0, self.fresh - 1)

    @property
    def busy(self) -> bool:
        """Whether forgetting it would forget a hold or a settlement."""
        return self.held_ncr != 0 or self.unflushed_ncr != 0

    def told(self, state: PurseState) -> None:
        """Take over what the books say."""
        if state.lease_ncr > self.lease_ncr:
            self.asked_ncr = state.lease_ncr - self.lease_ncr
            self.fresh = 2
        self.lease_ncr = state.lease_ncr
        self.left_ncr = state.left_ncr
        self.available_ncr = state.available_ncr
        if state.limit_ncr:
            self.limit_ncr = state.limit_ncr
            self.state = state


class Claims:
    """What one kind of request (key, project, model) may take from: purses in the order they are used up, and the ceilings over it.

    `only` is the purse where there is but one and no ceiling, as with most tenants.
    """

    __slots__ = ("ceilings", "dry_until_s", "only", "purses")

    def __init__(self, purses: tuple[Purse, ...], ceilings: tuple[Purse, ...]) -> None:
        self.purses = purses
        self.ceilings = ceilings
        self.only = purses[0] if len(purses) == 1 and not ceilings else None
        self.dry_until_s = 0.0  # the books had no more for it; they are not asked again before

    @property
    def free_ncr(self) -> int:
        """What a new hold may take in this process."""
        if (only := self.only) is not None:  # written out, here and below, for each request asks several times
            return only.lease_ncr - only.unflushed_ncr - only.held_ncr - only.returning_ncr
        free = sum([max(0, purse.free_ncr) for purse in self.purses]) if len(self.purses) != 1 else self.purses[0].free_ncr
        return min([free, *(ceiling.free_ncr for ceiling in self.ceilings)]) if self.ceilings else free

    @property
    def remaining_ncr(self) -> int:
        """What such requests have left in the whole tenant, running ones' holds among it; below 0 only by debt. This is what a client is shown."""
        if (only := self.only) is not None:
            return only.left_ncr - only.unflushed_ncr
        left = self.purses[0].remaining_ncr if len(self.purses) == 1 else sum([max(0, purse.remaining_ncr) for purse in self.purses])
        return min([left, *(ceiling.remaining_ncr for ceiling in self.ceilings)]) if self.ceilings else left

    @property
    def unheld_ncr(self) -> int:
        """What is left when the holds of this process are counted as used: the measure of a standing."""
        if (only := self.only) is not None:
            return only.left_ncr - only.unflushed_ncr - only.held_ncr
        if len(self.purses) == 1:
            unheld = self.purses[0].remaining_ncr - self.purses[0].held_ncr
        else:  # what the tenant owes takes nothing from a seat
            unheld = sum([max(0, purse.remaining_ncr - purse.held_ncr) for purse in self.purses])
        return min([unheld, *(ceiling.remaining_ncr - ceiling.held_ncr for ceiling in self.ceilings)]) if self.ceilings else unheld

    @property
    def limit_ncr(self) -> int:
        """What was granted to such requests, or may be taken by them, in the period."""
        if self.only is not None:
            return self.only.limit_ncr
        limit = self.purses[0].limit_ncr if len(self.purses) == 1 else sum([purse.limit_ncr for purse in self.purses])
        return min([limit, *(ceiling.limit_ncr for ceiling in self.ceilings)]) if self.ceilings else limit

    @property
    def used_ncr(self) -> int:
        """What of the limit is used up; above it only by debt."""
        return self.limit_ncr - self.remaining_ncr

    @property
    def elsewhere_ncr(self) -> int:
        """What is set aside for other processes, as far as this one knows."""
        return sum([max(0, purse.left_ncr - purse.lease_ncr - purse.available_ncr) for purse in self.purses])

    def may_ask(self, now_s: float) -> bool:
        """Tell whether the books may have more: some is known to be nobody's, or it is a while ago that there was none."""
        if now_s >= self.dry_until_s:
            return True
        return any(purse.available_ncr > 0 for purse in self.purses) and all(ceiling.available_ncr > 0 for ceiling in self.ceilings)

    def low(self) -> bool:
        """Tell whether half of what the last draw brought is gone while the books have more: time to ask before anybody has to wait."""
        for part in self.purses + self.ceilings if self.ceilings else self.purses:  # noqa: SIM110 - any() with a generator costs three times this, at every request
            if part.available_ncr > 0 and part.free_ncr < part.asked_ncr >> 1:
                return True
        return False


class Hold(msgspec.Struct, eq=False):
    """Credits put aside for one request; `account.settle` or `account.release` ends it. `parts` by purse, the order they are used up in."""

    claims: Claims
    amount_ncr: int
    parts: list[tuple[Purse, int]]

    def named(self) -> dict[str, int] | None:
        """Write it for the journal, by purse and ceiling; None: all from the tenant's own."""
        if not self.amount_ncr or (not self.claims.ceilings and len(self.parts) == 1 and self.parts[0][0].name == GENERAL):
            return None
        return {purse.name: amount for purse, amount in self.parts} | {ceiling.name: self.amount_ncr for ceiling in self.claims.ceilings}


class Cover(msgspec.Struct, frozen=True):
    """What credits pay of a charge, and from where (None: all from the tenant's own purse)."""

    ncr: int
    purses: dict[str, int] | None = None


def spread(purses: tuple[Purse, ...], amount_ncr: int) -> list[tuple[Purse, int]]:
    """Take an amount (ncr) from purses in their order, as far as they are free; say how much of which."""
    parts = []
    for purse in purses:
        ncr = min(amount_ncr, purse.free_ncr)
        if ncr > 0:
            parts.append((purse, ncr))
            amount_ncr -= ncr
    return parts
