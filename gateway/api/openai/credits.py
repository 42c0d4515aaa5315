"""GET /v1/credits: what the key's tenant has left, which lane that buys, and until when it will last."""

from typing import Any

from fastapi import APIRouter, Request
from sqlmodel import Session

from billing.alerts.store import thresholds_of
from billing.alerts.thresholds import Threshold
from billing.credits.account import Account
from billing.credits.purse import Claims
from billing.errors import BooksUnavailable
from billing.money import format_credits
from billing.operations.directory import Principal
from billing.operations.usage import Balance, read_balance
from billing.plans.terms import Terms
from gateway.clock import format_instant
from gateway.errors import Unavailable
from gateway.flow.admit import account_of, authenticate
from gateway.lanes.standing import Standing, day_is_spent, lane_of, past_credits, standing_of
from gateway.services import Services
from gateway.wire.caller import secret_of
from gateway.wire.headers import by_name

READS_MAX = 3  # a tenant under load settles something at every moment
PACE_AFTER_US = 86_400_000_000  # a period of less than a day has no pace

router = APIRouter(tags=["credits"])


@router.get("/v1/credits", summary="Show the key's own balance")
async def show(request: Request) -> dict[str, Any]:
    """Show the balance: live, with running requests' holds, and by grant as the books have it."""
    services: Services = request.app.state.services
    principal = await authenticate(services, secret_of(by_name(request.headers.raw)))
    now_us = services.clock.now_us()
    account = await account_of(services, principal, "")
    claims = account.claims(principal.key_id, principal.project, "")
    try:
        for _ in range(READS_MAX):
            unbooked_ncr = _unbooked_ncr(claims)
            booked, reached = await services.reads.lookups.run(lambda session: _read(session, principal.tenant_id, now_us))
            if _unbooked_ncr(claims) == unbooked_ncr:
                break  # else it was booked after it was read, and would be missing from both
    except BooksUnavailable as error:
        raise Unavailable("The balance cannot be read now. Try again in a moment.", internal=str(error), retry_after_s=2) from error
    return {
        **_written(account, claims, booked, principal, now_us),
        "thresholds": [{"percent": one.percent, "reached_at": format_instant(one.at_us)} for one in reached],
    }


def _read(session: Session, tenant_id: str, now_us: int) -> tuple[Balance, list[Threshold]]:
    booked = read_balance(session, tenant_id, now_us)
    return booked, thresholds_of(session, tenant_id, booked.period_start_us or 0)


def _written(account: Account, claims: Claims, booked: Balance, principal: Principal, now_us: int) -> dict[str, Any]:
    terms = principal.terms
    assert terms is not None  # authenticate saw to it
    now = standing_of(account, claims, terms, now_us)
    mine = [grant for grant in booked.grants if grant.key_id in (None, principal.key_id) and grant.project in (None, principal.project)]
    unbooked_ncr = _unbooked_ncr(claims)
    # From the books, which know of every process; this one's memory knows of the others what they had booked when it looked last.
    remaining_ncr = sum(grant.remaining_ncr for grant in mine if grant.models is None) - booked.debt_ncr - unbooked_ncr
    remaining_ncr = min([remaining_ncr, *(ceiling.remaining_ncr for ceiling in claims.ceilings)])
    return {
        "object": "credits",
        "tenant": account.tenant_id,
        "plan": terms.plan,
        "on_exhausted": terms.on_exhausted,
        "standing": now.value,
        "lane": lane_of(now, terms).value if now is not Standing.CAPPED else None,
        "lane_reason": _reason(now, claims, account, terms, now_us),
        "limit": format_credits(claims.limit_ncr),
        "used": format_credits(claims.limit_ncr - remaining_ncr),
        "remaining": format_credits(max(0, remaining_ncr)),
        "unbooked": format_credits(unbooked_ncr),
        "held": format_credits(account.held_ncr),
        "debt": format_credits(booked.debt_ncr),
        "past_credits_today": format_credits(account.spent_today_ncr(now_us)),
        "slow_daily_cap": None if terms.slow_daily_cap_ncr is None else format_credits(terms.slow_daily_cap_ncr),
        "reset_at": None if account.reset_us is None else format_instant(account.reset_us),
        "forecast": {"exhausted_at": _exhausted_at(account, claims, booked, now_us)},
        "grants": [
            {
                "id": grant.id,
                "kind": grant.kind,
                "amount": format_credits(grant.amount_ncr),
                "remaining": format_credits(grant.remaining_ncr),
                "expires_at": None if grant.expires_us is None else format_instant(grant.expires_us),
                "models": None if grant.models is None else sorted(grant.models),
            }
            for grant in mine
        ],
    }


def _unbooked_ncr(claims: Claims) -> int:
    return sum(purse.unflushed_ncr for purse in claims.purses)


def _reason(now: Standing, claims: Claims, account: Account, terms: Terms, now_us: int) -> str:
    """Say why the next request would take its lane, or none, as the header `x-weir-lane-reason` would."""
    if now not in (Standing.SLOW, Standing.CAPPED):
        return "credits"
    return past_credits(terms, unheld_ncr=claims.unheld_ncr, hold_ncr=1, day_spent=day_is_spent(account, terms, now_us)).reason


def _exhausted_at(account: Account, claims: Claims, booked: Balance, now_us: int) -> str | None:
    """When the credits end at this period's pace; None: not before the reset, or nothing to go by yet."""
    start_us, used_ncr = booked.period_start_us, claims.used_ncr
    if start_us is None or used_ncr <= 0 or now_us < start_us + PACE_AFTER_US or claims.remaining_ncr <= 0:
        return None
    at_us = now_us + claims.remaining_ncr * (now_us - start_us) // used_ncr
    return None if account.reset_us is not None and at_us >= account.reset_us else format_instant(at_us)
