"""Events added up by tenant, calendar day, model and project: the lines that exports, invoices and finance read. Pure.

The database adds events up by span, a stretch of a day in which one price per credit holds; what is here makes lines of that. Nothing is rounded:
credits are integers, and what overage costs is an exact decimal. So the lines sum to the events, always.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal

import msgspec

from billing.meter import BUCKETS, COUNTING_BUCKETS
from billing.money import add_exact, price_of

# Columns named by what they count; the bucket `requests` counts what is priced per request, and is not the number of requests.
UNIT_COLUMNS = {bucket: bucket if bucket in COUNTING_BUCKETS else f"{bucket}_tokens" for bucket in BUCKETS} | {"requests": "request_units"}


class Span(msgspec.Struct, frozen=True):
    """A stretch of a tenant's day, [start_us, end_us), and what a credit of overage costs in it (major units; None: nothing is invoiced).

    `credit_value` is what a credit that grants pay is worth: the plan's fee spread over its allowance (12 decimals).
    """

    start_us: int
    end_us: int
    day: str
    credit_price: Decimal | None
    credit_value: Decimal = Decimal(0)


class SpanSum(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's events of one span (by its place), model and project, added up; `units` in the order of the meter's buckets, amounts in ncr."""

    tenant_id: str
    span: int
    model: str
    project: str | None
    requests: int
    unreported: int
    units: tuple[int, ...]
    charge_ncr: int
    covered_ncr: int
    debt_ncr: int
    excess_ncr: int
    overage_ncr: int


class DailyUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's use of one model on one day of its own calendar; of one project (None: of requests without one) where `by_project` was asked for.

    charge = covered (paid by grants) + debt (owed to the next grants) + excess (given away) + overage (invoiced), in ncr. `overage_exact` is what the
    overage costs, `covered_value` what the covered part is worth by the plan's fee; major units, not rounded. `units` has every bucket; what nobody
    reported adds nothing, and `unreported` counts the answered requests whose usage was estimated or partial.
    """

    tenant_id: str
    day: str
    model: str
    requests: int
    unreported: int
    units: dict[str, int]
    charge_ncr: int
    covered_ncr: int
    debt_ncr: int
    excess_ncr: int
    overage_ncr: int
    currency: str
    overage_exact: Decimal
    covered_value: Decimal = Decimal(0)
    project: str | None = None


def unit_columns(line: DailyUsage) -> dict[str, str | int]:
    """Return a line's units under the names that exports give them."""
    return {UNIT_COLUMNS[bucket]: count for bucket, count in line.units.items()}


def lines_of(tenant_id: str, currency: str, spans: Sequence[Span], sums: Iterable[SpanSum], *, by_project: bool = False) -> list[DailyUsage]:
    """Make one tenant's lines of its sums, by day, model and (with `by_project`) project, in that order. A span without a price costs nothing."""
    lines: dict[tuple[str, str, str | None], list[SpanSum]] = {}
    for one in sums:
        lines.setdefault((spans[one.span].day, one.model, one.project if by_project else None), []).append(one)
    return [_line(key, currency, spans, parts, tenant_id) for key, parts in sorted(lines.items(), key=lambda item: (*item[0][:2], item[0][2] or ""))]


def _line(key: tuple[str, str, str | None], currency: str, spans: Sequence[Span], parts: list[SpanSum], tenant_id: str) -> DailyUsage:
    day, model, project = key
    money = value = Decimal(0)
    for part in parts:
        span = spans[part.span]
        value = add_exact(value, price_of(part.covered_ncr, span.credit_value))
        if part.overage_ncr and span.credit_price is not None:
            money = add_exact(money, price_of(part.overage_ncr, span.credit_price))
    return DailyUsage(
        tenant_id=tenant_id,
        day=day,
        model=model,
        project=project,
        requests=sum(part.requests for part in parts),
        unreported=sum(part.unreported for part in parts),
        units={bucket: sum(part.units[place] for part in parts) for place, bucket in enumerate(BUCKETS)},
        charge_ncr=sum(part.charge_ncr for part in parts),
        covered_ncr=sum(part.covered_ncr for part in parts),
        debt_ncr=sum(part.debt_ncr for part in parts),
        excess_ncr=sum(part.excess_ncr for part in parts),
        overage_ncr=sum(part.overage_ncr for part in parts),
        currency=currency,
        overage_exact=money,
        covered_value=value,
    )
