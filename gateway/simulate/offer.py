"""A plan as it is tried: its terms, and which part of the tenants is on it. Pure."""

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from billing.errors import Invalid
from billing.plans.terms import PlanTerms, PlanVersion, Terms, terms_of


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A plan under trial. `share` is its part of the tenants, against the other plans' shares."""

    plan: PlanTerms
    share: Decimal = Decimal(1)

    @property
    def name(self) -> str:
        """The plan's name."""
        return self.plan.plan

    def terms(self) -> Terms:
        """Return what decides about a request."""
        return terms_of(PlanVersion(version=1, terms=self.plan, created_us=0))


def split_share(text: str) -> tuple[str, Decimal | None]:
    """Split `pro:0.7` into the plan and its share, None where none is written. Raises `Invalid` for a share that is no positive number."""
    name, colon, share = text.rpartition(":")
    if not colon or not name:
        return text, None
    try:
        value = Decimal(share)
    except ArithmeticError:
        value = Decimal(-1)
    if not (value.is_finite() and 0 < value <= 10**9):
        raise Invalid("plan", f"plan: `{text}`: the share behind the colon must be a number above 0, like {name}:0.7")
    return name, value


def portions(shares: Sequence[Decimal], total: int) -> list[int]:
    """Split `total` tenants by shares: whole numbers that add up to it, by largest remainder."""
    whole = sum(shares)
    exact = [total * share / whole for share in shares]
    counts = [int(part) for part in exact]
    by_rest = sorted(range(len(shares)), key=lambda index: (counts[index] - exact[index], index))
    for index in by_rest[: total - sum(counts)]:
        counts[index] += 1
    return counts
