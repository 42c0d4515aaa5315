"""What a trial comes to, in rows for files and tables: by plan and lane, by hour, by tenant. Pure.

Credits and money are decimal text, exact; waits are milliseconds, spans hours; shares are numbers from 0 to 1, rounded to four digits.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from billing.money import format_credits, format_money
from gateway.clock import format_instant
from gateway.lanes.standing import Lane, Standing, lane_of
from gateway.simulate.engine import Simulation
from gateway.simulate.offer import Offer
from gateway.simulate.revenue import overage_minor_of, revenue_of
from gateway.simulate.tally import Cell, Hour
from gateway.simulate.tenant import Tenant
from gateway.simulate.traffic import HOUR_US
from gateway.simulate.waits import Waits

Figures = dict[str, Any]

PERCENTILES = (50, 95, 99)
TENANT_COLUMNS = (
    "tenant", "plan", "timezone", "month_ends", "credits_at_start", "credits_left", "requests", "served_fast", "served_slow", "refused", "capped",
    "under_way", "input_tokens", "output_tokens", "credits", "covered_credits", "excess_credits", "overage_credits", "overage_amount", "currency",
    "wait_ms_mean", "wait_ms_max", *(f"{standing.value}_h" for standing in Standing),
)  # fmt: skip
HOUR_COLUMNS = (
    "hour", "plan", "lane", "requests", "served", "refused", "capped", "turned_away", "retried", "starved", "spilled", "input_tokens", "output_tokens",
    "token_share", "slots_taken", *(f"wait_ms_p{percent}" for percent in PERCENTILES), "wait_ms_max", "credits", "covered_credits", "excess_credits",
    "overage_credits", *(f"tenants_{standing.value}" for standing in Standing),
)  # fmt: skip


def summary(trial: Simulation, offers: Sequence[Offer]) -> Figures:
    """Say what a trial came to: the pool, and every plan with its lanes."""
    totals = {(plan, lane): trial.tally.total(plan, lane) for plan in range(len(offers)) for lane in Lane}
    span_us = trial.end_us - trial.start_us
    plans = [_plan(trial, offers, plan, totals) for plan in range(len(offers))]
    money: dict[str, int] = {}
    for index, offer in enumerate(offers):
        found = revenue_of(offer.plan, _on(trial.tenants, index), trial.start_us, trial.end_us)
        money[found.currency] = money.get(found.currency, 0) + found.fee_minor + found.overage_minor
    return {
        "starts": format_instant(trial.start_us),
        "ends": format_instant(trial.end_us),
        "hours": round(span_us / HOUR_US, 4),
        "tenants": len(trial.tenants),
        **{name: sum(row[name] for row in plans) for name in ("requests", "served", "refused", "capped", "under_way")},
        "slots": trial.queue.slots,
        "slow_slots": trial.queue.slow_slots,
        "utilisation": _ratio(sum(hour.ran_us for hour in trial.tally.hours), trial.queue.slots * span_us),
        "promoted": trial.queue.promoted,
        "revenue": {currency: format_money(minor, currency) for currency, minor in sorted(money.items())},
        "plans": plans,
    }


def _plan(trial: Simulation, offers: Sequence[Offer], plan: int, totals: dict[tuple[int, Lane], Cell]) -> Figures:
    offer, tenants = offers[plan], _on(trial.tenants, plan)
    mine = Cell()
    for lane in Lane:
        mine.merge(totals[plan, lane])
    found = revenue_of(offer.plan, tenants, trial.start_us, trial.end_us)
    stood = {standing: sum(tenant.sums.stood_us[standing] for tenant in tenants) for standing in Standing}
    arrived = sum(tenant.sums.arrived for tenant in tenants)
    return {
        "plan": offer.name,
        "tenants": len(tenants),
        "requests": arrived,
        "served": mine.served,
        "refused": mine.refused,
        "capped": mine.capped,
        "under_way": arrived - mine.served - mine.refused - mine.capped,
        "credits": format_credits(mine.charge_ncr),
        "covered_credits": format_credits(mine.cover_ncr),
        "excess_credits": format_credits(mine.excess_ncr),
        "overage_credits": format_credits(mine.overage_ncr),
        "currency": found.currency,
        "fees": format_money(found.fee_minor, found.currency),
        "overage_amount": format_money(found.overage_minor, found.currency),
        "revenue": format_money(found.fee_minor + found.overage_minor, found.currency),
        "standing": {standing.value: _ratio(stood[standing], sum(stood.values())) for standing in Standing},
        "lanes": {lane.value: _lane(plan, lane, totals) for lane in Lane},
    }


def _lane(plan: int, lane: Lane, totals: dict[tuple[int, Lane], Cell]) -> Figures:
    cell = totals[plan, lane]
    everyone, here = Cell(), Cell()
    for (_plan, of), other in totals.items():
        everyone.merge(other)
        if of is lane:
            here.merge(other)
    return {
        "requests": cell.arrived,
        "served": cell.served,
        "refused": cell.refused,
        "capped": cell.capped,
        "turned_away": cell.turned_away,
        "retried": cell.retried,
        "starved": cell.starved,
        "spilled": cell.spilled,
        "input_tokens": cell.input_tokens,
        "output_tokens": cell.output_tokens,
        "token_share": _ratio(_tokens(cell), _tokens(everyone)),
        "share_per_weight": per_weight(cell, here),
        **waits(cell.waits),
        "queued_h": round(cell.waits.sum_us / HOUR_US, 2),
    }


def per_weight(cell: Cell, lane: Cell) -> float | None:
    """Return what a plan's tenants were granted while they kept waiting, against their share by weight, and that against the whole lane's: 1 is fair.

    None where nobody kept waiting.
    """
    if not cell.backlog_fair_tokens or not lane.backlog_tokens:
        return None
    return round(cell.backlog_tokens * lane.backlog_fair_tokens / (cell.backlog_fair_tokens * lane.backlog_tokens), 4)


def waits(found: Waits) -> Figures:
    """Write a distribution of waits in milliseconds; None where nobody got a slot."""
    seen = {f"wait_ms_p{percent}": _ms(found.percentile(percent)) for percent in PERCENTILES}
    return {**seen, "wait_ms_max": _ms(found.longest_us) if found.count else None}


def hour_rows(trial: Simulation, offers: Sequence[Offer]) -> Iterable[Figures]:
    """Yield a row for each hour, plan and lane; a tenant is counted in the lane that its standing buys, for the part of the hour that it stood so."""
    for index, hour in enumerate(trial.tally.hours):
        start_us = trial.tally.hour_us(index)
        span_us = min(HOUR_US, trial.end_us - start_us)
        tokens = sum(_tokens(cell) for cell in hour.cells.values())
        for plan, offer in enumerate(offers):
            for lane in Lane:
                cell = hour.cells[plan, lane]
                yield {
                    "hour": format_instant(start_us),
                    "plan": offer.name,
                    "lane": lane.value,
                    "requests": cell.arrived,
                    **{name: getattr(cell, name) for name in ("served", "refused", "capped", "turned_away", "retried", "starved", "spilled")},
                    "input_tokens": cell.input_tokens,
                    "output_tokens": cell.output_tokens,
                    "token_share": _ratio(_tokens(cell), tokens),
                    "slots_taken": round(cell.slot_us / span_us, 2),
                    **waits(cell.waits),
                    **_credits(cell),
                    **_standings(hour, plan, offer, lane, span_us),
                }


def _standings(hour: Hour, plan: int, offer: Offer, lane: Lane, span_us: int) -> Figures:
    terms = offer.terms()
    return {f"tenants_{standing.value}": round(hour.stood_us[plan][standing] / span_us, 2) if lane_of(standing, terms) is lane else 0 for standing in Standing}


def tenant_rows(trial: Simulation) -> Iterable[Figures]:
    """Yield a row for each tenant."""
    for tenant in trial.tenants:
        sums, plan = tenant.sums, tenant.offer.plan
        served = sum(sums.served.values())
        yield {
            "tenant": tenant.name,
            "plan": tenant.offer.name,
            "timezone": tenant.timezone,
            "month_ends": format_instant(tenant.account.valid_until_us),
            "credits_at_start": format_credits(tenant.opening_ncr),
            "credits_left": format_credits(tenant.claims.remaining_ncr),
            "requests": sums.arrived,
            "served_fast": sums.served[Lane.FAST],
            "served_slow": sums.served[Lane.SLOW],
            "refused": sums.refused,
            "capped": sums.capped,
            "under_way": sums.arrived - served - sums.refused - sums.capped,
            "input_tokens": sums.input_tokens,
            "output_tokens": sums.output_tokens,
            **_credits(sums_cell(tenant)),
            "overage_amount": format_money(overage_minor_of(plan, tenant), plan.currency),
            "currency": plan.currency,
            "wait_ms_mean": round(sums.wait_us / 1000 / served, 1) if served else None,
            "wait_ms_max": _ms(sums.longest_us),
            **{f"{standing.value}_h": round(sums.stood_us[standing] / HOUR_US, 4) for standing in Standing},
        }


def sums_cell(tenant: Tenant) -> Cell:
    """Return a tenant's credits as a cell has them."""
    cell, sums = Cell(), tenant.sums
    cell.charge_ncr, cell.cover_ncr, cell.excess_ncr = sums.charge_ncr, sums.cover_ncr, sums.excess_ncr
    cell.overage_ncr = sum(sums.overage_ncr.values())
    return cell


def _credits(cell: Cell) -> Figures:
    return {
        "credits": format_credits(cell.charge_ncr),
        "covered_credits": format_credits(cell.cover_ncr),
        "excess_credits": format_credits(cell.excess_ncr),
        "overage_credits": format_credits(cell.overage_ncr),
    }


def _on(tenants: Sequence[Tenant], plan: int) -> list[Tenant]:
    return [tenant for tenant in tenants if tenant.plan == plan]


def _tokens(cell: Cell) -> int:
    return cell.input_tokens + cell.output_tokens


def _ratio(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _ms(wait_us: int | None) -> float | None:
    return None if wait_us is None else round(wait_us / 1000, 1)
