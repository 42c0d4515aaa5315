"""What a period's usage comes to, as values that can be frozen, compared and added. Pure. Amounts in ncr."""

from collections.abc import Iterable
from hashlib import sha256

import msgspec

_FIGURES = ("requests", "unreported", "charge_ncr", "cover_ncr", "covered_ncr", "excess_ncr", "overage_ncr")
Key = tuple[str | None, str, str | None]


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one model and project that began while one subscription was in force (None: none was), added up; `rate_ids` applied to them.

    charge = covered (paid by grants) + debt (owed to the next grants) + excess (given away) + overage (invoiced); cover = covered + debt.
    """

    subscription: str | None
    model: str
    project: str | None
    requests: int
    unreported: int
    charge_ncr: int
    cover_ncr: int
    covered_ncr: int
    excess_ncr: int
    overage_ncr: int
    rate_ids: tuple[int, ...] = ()

    @property
    def key(self) -> Key:
        """What tells it from the others."""
        return (self.subscription, self.model, self.project)


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's credits over a period: opening + granted - used - expired - voided = closing, and what is owed at its close.

    The totals are since the tenant began, for the next period to go on from; so whatever was booked late is in the period in which it was.
    """

    opening_ncr: int
    granted_ncr: int
    used_ncr: int
    expired_ncr: int
    voided_ncr: int
    closing_ncr: int
    debt_ncr: int
    granted_total_ncr: int
    expired_total_ncr: int
    voided_total_ncr: int
    repaid_total_ncr: int


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """What grants come to by the end of a period, since the tenant began (ncr), and what is owed: as the books have it when the period is closed."""

    granted_ncr: int = 0
    expired_ncr: int = 0
    voided_ncr: int = 0
    repaid_ncr: int = 0
    debt_ncr: int = 0


class Correction(msgspec.Struct, frozen=True, kw_only=True):
    """What was booked late of an earlier period, that began at `start_us` and ended at `end_us`."""

    start_us: int
    end_us: int
    uses: tuple[Use, ...]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """A closed period: its usage as it was known then, what was late of earlier ones, and the tenant's credits over it."""

    tenant_id: str
    start_us: int
    end_us: int
    uses: tuple[Use, ...]
    corrections: tuple[Correction, ...]
    statement: Statement

    @property
    def events(self) -> int:
        """How many requests it knows of its own period."""
        return sum(use.requests for use in self.uses)

    @property
    def late_events(self) -> int:
        """How many requests it knows of earlier periods that were booked after those were closed."""
        return sum(use.requests for correction in self.corrections for use in correction.uses)


def seal(facts: Facts) -> tuple[str, str]:
    """Write facts as they are kept, with their sha256: the same facts are the same text."""
    data = msgspec.json.encode(facts, order="sorted")
    return data.decode(), sha256(data).hexdigest()


def unseal(content: str) -> Facts:
    """Read what `seal` wrote."""
    return msgspec.json.decode(content, type=Facts)


def in_order(uses: Iterable[Use]) -> tuple[Use, ...]:
    """Return uses by model, project and subscription: the same order whatever engine they come from."""
    return tuple(sorted(uses, key=lambda use: (use.model, use.project or "", use.subscription or "")))


def added(uses: Iterable[Use]) -> dict[Key, Use]:
    """Add uses up by their key."""
    found: dict[Key, Use] = {}
    for use in uses:
        before = found.get(use.key)
        found[use.key] = use if before is None else _with(use, before, 1)
    return found


def late(now: Iterable[Use], known: Iterable[Use]) -> tuple[Use, ...]:
    """Return what was booked since: `now` is a period's usage as the books have it, `known` what closed periods said of it. Events are never removed."""
    before = added(known)
    fresh = (use if use.key not in before else _with(use, before[use.key], -1) for use in now)
    return in_order(use for use in fresh if any(getattr(use, name) for name in _FIGURES))


def state(before: Statement | None, totals: Totals, used_ncr: int) -> Statement:
    """Make a period's statement: `before` is that of the period before, `used_ncr` what grants paid of this one's requests and of late ones."""
    opening = 0 if before is None else before.closing_ncr
    granted = totals.granted_ncr - (0 if before is None else before.granted_total_ncr)
    expired = totals.expired_ncr - (0 if before is None else before.expired_total_ncr)
    voided = totals.voided_ncr - (0 if before is None else before.voided_total_ncr)
    used = used_ncr + totals.repaid_ncr - (0 if before is None else before.repaid_total_ncr)
    return Statement(
        opening_ncr=opening,
        granted_ncr=granted,
        used_ncr=used,
        expired_ncr=expired,
        voided_ncr=voided,
        closing_ncr=opening + granted - used - expired - voided,
        debt_ncr=totals.debt_ncr,
        granted_total_ncr=totals.granted_ncr,
        expired_total_ncr=totals.expired_ncr,
        voided_total_ncr=totals.voided_ncr,
        repaid_total_ncr=totals.repaid_ncr,
    )


def _with(use: Use, other: Use, sign: int) -> Use:
    figures = {name: getattr(use, name) + sign * getattr(other, name) for name in _FIGURES}
    rate_ids = tuple(sorted({*use.rate_ids, *other.rate_ids})) if sign > 0 else use.rate_ids
    return msgspec.structs.replace(use, rate_ids=rate_ids, **figures)
