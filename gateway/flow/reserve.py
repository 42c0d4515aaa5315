"""Admitted -> Reserved: put credits aside for the worst case; what cannot be put aside decides the lane.

The hold is the rate of an upper bound of the prompt and of the longest answer asked for, so a request whose `max_tokens` is known
never costs more than its hold. It is taken from what is leased to this process, in memory; where that is short and the books may have
more, it is drawn first. A tenant that cannot hold it is slowed, billed on, served by another model, or refused, as its plan says; in the
slow lane a request is paid from what is free when it ends and the rest is not owed.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from msgspec.structs import replace

from backends.tokens import prompt_bound
from billing.credits.draw import Want
from billing.credits.purse import Claims, Hold
from billing.errors import BillingError
from billing.money import format_credits
from gateway.clock import format_instant
from gateway.errors import CreditsExhausted, SlowDown, Unavailable
from gateway.flow.states import Admitted, Reserved
from gateway.lanes.standing import DAY_SPENT, FAST, SET_ASIDE, SLOW, Lane, Standing, day_is_spent, past_credits, standing
from gateway.wire.headers import LANE_REASON, STANDING, credits

if TYPE_CHECKING:
    from gateway.flow.settle import Settler
    from gateway.services import Services

DRAW_S_MAX = 5.0  # how long a request waits for the books at most
FALLBACK = "fallback_model"  # the reason of a lane when another model serves
DRAWS_MAX = 3  # others may have taken what was drawn for this one
_OUT = Standing.SLOW  # of credits

log = logging.getLogger("weir.reserve")


class BooksAway(Exception):
    """The books cannot be asked, and what is leased does not suffice."""


async def reserve(services: "Services", admitted: Admitted) -> Reserved:
    """Hold credits and choose the lane. Raises `CreditsExhausted`, or `Unavailable` while the books are away and the plan says closed.

    What it holds must come back through `settle`.
    """
    prompt_max, output_max = _bounds(services, admitted)
    hold_ncr = admitted.priced.bound(prompt_max, output_max, lane=FAST.text, service_tier=admitted.received.call.service_tier or "default")
    account, principal = admitted.account, admitted.principal
    claims = account.claims(principal.key_id, principal.project, admitted.received.call.model)
    now = standing(claims.unheld_ncr, claims.limit_ncr, glide_percent=admitted.terms.glide_percent)
    lane, reason, covered = FAST, "credits", True
    hold = account.hold(claims, hold_ncr) if services.beat.alive and now is not _OUT else None
    if hold is not None:
        if claims.low():
            services.accounts.want_more(account, claims, _want(admitted, 0))
    else:
        try:
            hold = await _drawn(services, admitted, claims, hold_ncr) if now is not _OUT else None
        except BooksAway as error:
            lane, reason = _without_books(admitted, error)
        else:
            if hold is None:
                lane, reason = _past_credits(services, admitted, claims, hold_ncr)
                if admitted.terms.on_exhausted == "fallback":
                    admitted, reason = _fallback(services, admitted, reason)
        if hold is None:
            claims = account.claims(principal.key_id, principal.project, admitted.received.call.model)  # the model may be another now
            hold, covered = account.open(claims), False  # nothing is held, and yet the account is in use
    at_us = admitted.received.at_us
    shown = now if lane is FAST or now is _OUT else _OUT
    services.board.noted(admitted.tenant_id, lane, reason, shown, at_us)
    return Reserved(
        admitted=admitted,
        standing=shown,
        lane=lane,
        reason=reason,
        hold=hold,
        covered=covered,
        day_us=account.day_at(at_us),
        period_us=account.period_us,
        prompt_tokens_max=prompt_max,
        output_tokens_max=output_max,
    )


async def reserve_again(services: "Services", settler: "Settler", admitted: Admitted) -> None:
    """Reserve anew for a request that waits, because its tenant's credits have changed. Raises as `reserve` does; then it keeps what it has."""
    reserved = await reserve(services, admitted)
    before, settler.reserved = settler.reserved, reserved
    before.admitted.account.release(before.hold)


def _bounds(services: "Services", admitted: Admitted) -> tuple[int, int]:
    """Return the most tokens that may go in, and come out."""
    wish, call = admitted.received.wish, admitted.received.call
    prompt_max = prompt_bound(call.members)
    context_tokens = services.planner.context_tokens(call.model)
    if context_tokens is not None:  # a longer prompt is refused by the server, and costs nothing
        prompt_max = min(prompt_max, context_tokens * wish.prompts)
    output_max = services.models[call.model].output_tokens_max if wish.output_max is None else wish.output_max
    return prompt_max, wish.choices * output_max


async def _drawn(services: "Services", admitted: Admitted, claims: Claims, hold_ncr: int) -> Hold | None:
    """Draw from the books what is lacking, and hold it; None when they have not enough. Raises `BooksAway`.

    What is set aside for other processes and not on hold there is called back first, once a second where a request that goes without is only
    slower, and always where it would be billed or refused.
    """
    try:
        async with asyncio.timeout(DRAW_S_MAX):
            for round_ in range(DRAWS_MAX):
                if not claims.may_ask(services.clock.monotonic_s()) and not _worth_calling(admitted, claims, hold_ncr):
                    return None
                claims, hold = await _draw_once(services, admitted, claims, hold_ncr)
                if hold is not None:
                    return hold
                if claims.elsewhere_ncr > 0 and claims.unheld_ncr >= hold_ncr and round_ + 1 < DRAWS_MAX:
                    await services.accounts.call_back(admitted.tenant_id)
    except (BillingError, TimeoutError) as error:
        raise BooksAway(str(error) or f"no answer within {DRAW_S_MAX:g} s") from error
    services.accounts.ran_dry(claims)
    return None


async def _draw_once(services: "Services", admitted: Admitted, claims: Claims, hold_ncr: int) -> tuple[Claims, Hold | None]:
    account, principal = admitted.account, admitted.principal
    if account.retry_s > services.clock.monotonic_s():
        raise BooksAway("they failed a moment ago")
    lacking_ncr = hold_ncr + max(0, -claims.free_ncr)  # what is held or settled without a lease must be leased too
    await services.accounts.load(admitted.tenant_id, _want(admitted, lacking_ncr))
    if not services.beat.alive:
        services.beat.hurry()
        raise BooksAway("this process's leases have ended")
    claims = account.claims(principal.key_id, principal.project, admitted.received.call.model)
    return claims, account.hold(claims, hold_ncr)


def _worth_calling(admitted: Admitted, claims: Claims, hold_ncr: int) -> bool:
    """Tell whether going without would cost the tenant something that it has credits for, elsewhere."""
    return admitted.terms.on_exhausted in ("overage", "block") and claims.elsewhere_ncr > 0 and claims.unheld_ncr >= hold_ncr


def _want(admitted: Admitted, need_ncr: int) -> Want:
    principal = admitted.principal
    return Want(key_id=principal.key_id, project=principal.project, model=admitted.received.call.model, need_ncr=need_ncr)


def _past_credits(services: "Services", admitted: Admitted, claims: Claims, hold_ncr: int) -> tuple[Lane, str]:
    terms, account = admitted.terms, admitted.account
    past = past_credits(terms, unheld_ncr=claims.unheld_ncr, hold_ncr=hold_ncr, day_spent=day_is_spent(account, terms, admitted.received.at_us))
    if past.lane is not None:
        return past.lane, past.reason
    services.metrics.lane_refused(SLOW.text, past.reason)
    services.board.noted(admitted.tenant_id, None, past.reason, Standing.CAPPED, admitted.received.at_us)
    if past.reason == SET_ASIDE:
        raise SlowDown("What is left of your credits is set aside for requests that run. Try again in a moment.", retry_after_s=1)
    raise _exhausted(past.reason, admitted, claims, hold_ncr)


def _without_books(admitted: Admitted, error: BooksAway) -> tuple[Lane, str]:
    if admitted.terms.on_database_loss == "closed" or admitted.terms.on_exhausted == "block":
        raise Unavailable("Credits cannot be looked up now. Try again in a moment.", internal=str(error), retry_after_s=2) from error
    return SLOW, "books_away"


def _fallback(services: "Services", admitted: Admitted, reason: str) -> tuple[Admitted, str]:
    """Have the plan's other model serve, at its own rate; the answer says so. One that is not there is said in the log."""
    model, received = admitted.terms.fallback_model, admitted.received
    if model is None or model == received.call.model:
        return admitted, reason
    priced = services.tariff.card.at(model, received.at_us)
    if priced is None or model not in services.models:
        log.error("plan %s falls back to model %s, which is not configured or has no rate", admitted.terms.plan, model)
        return admitted, reason
    call = replace(received.call, model=model, service_tier=priced.sold(received.wish.service_tier))
    return replace(admitted, priced=priced, received=replace(received, call=call)), FALLBACK


def _exhausted(reason: str, admitted: Admitted, claims: Claims, hold_ncr: int) -> CreditsExhausted:
    """Refuse with the instant from which it would be served again: the tenant's midnight where its day is spent, else the renewal of its credits."""
    account, now_us = admitted.account, admitted.received.at_us
    spent = reason == DAY_SPENT
    why = "The slow lane's daily cap is reached." if spent else "Your plan refuses requests past its credits."
    again_us = account.day_ends_us if spent else account.reset_us
    left = format_credits(max(0, claims.unheld_ncr))
    until = "" if again_us is None else f", wait for the reset at {format_instant(again_us)}"
    refusal = CreditsExhausted(
        f"{why} {left} credits are left and this request may need {format_credits(hold_ncr)}. Lower `max_tokens`{until}, or ask your admin for credits."
    )
    refusal.headers = credits(claims.remaining_ncr, claims.limit_ncr, None if account.reset_us is None else max(0, account.reset_us - now_us) // 1_000_000)
    refusal.headers += [(STANDING, Standing.CAPPED.value.encode()), (LANE_REASON, reason.encode())]
    return refusal
