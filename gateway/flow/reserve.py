"""Admitted -> Reserved: put credits aside for the worst case; what cannot be put aside decides the lane.

The hold is the rate of an upper bound of the prompt and of the longest answer asked for, so a request whose `max_tokens` is known
never costs more than its hold. A tenant that cannot hold it is slowed, billed on, or refused, as its plan says; in the slow lane a
request is paid from what is free when it ends and the rest is not owed.
"""

from typing import TYPE_CHECKING

from backends.tokens import prompt_bound
from billing.money import format_credits
from gateway.clock import format_instant
from gateway.errors import CreditsExhausted
from gateway.flow.states import Admitted, Reserved
from gateway.lanes.standing import Lane, Standing, day_is_spent, standing
from gateway.wire.headers import credits

if TYPE_CHECKING:
    from gateway.services import Services


def reserve(services: "Services", admitted: Admitted) -> Reserved:
    """Hold credits and choose the lane. Raises `CreditsExhausted`. What it holds must come back through `settle`."""
    wish, account = admitted.received.wish, admitted.account
    model = services.settings.models[admitted.received.call.model]
    prompt_max = prompt_bound(admitted.received.call.members)
    context_tokens = services.planner.context_tokens(admitted.received.call.model)
    if context_tokens is not None:  # a longer prompt is refused by the server, and costs nothing
        prompt_max = min(prompt_max, context_tokens * wish.prompts)
    output_max = wish.choices * (model.output_tokens_max if wish.output_max is None else wish.output_max)
    hold_ncr = admitted.priced.bound(prompt_max, output_max)
    free_ncr = account.free_ncr
    now = standing(free_ncr, account.limit_ncr)
    lane, reason, covered = Lane.FAST, "credits", True
    if free_ncr <= 0 or not account.hold(hold_ncr):
        lane, reason = _past_credits(admitted, hold_ncr)
        account.open()  # nothing is held, and yet the account is in use
        hold_ncr, covered = 0, False
    return Reserved(
        admitted=admitted,
        standing=now if lane is Lane.FAST or now is Standing.SLOW else Standing.SLOW,
        lane=lane,
        reason=reason,
        hold_ncr=hold_ncr,
        covered=covered,
        prompt_tokens_max=prompt_max,
        output_tokens_max=output_max,
    )


def _past_credits(admitted: Admitted, hold_ncr: int) -> tuple[Lane, str]:
    terms, account = admitted.terms, admitted.account
    if terms.on_exhausted == "overage":
        return Lane.FAST, "overage"
    if terms.on_exhausted == "block" and hold_ncr:
        raise _exhausted("Your plan refuses requests past its credits.", admitted, hold_ncr)
    if hold_ncr and day_is_spent(account, terms, admitted.received.at_us):
        raise _exhausted("The slow lane's daily cap is reached.", admitted, hold_ncr)
    return Lane.SLOW, "credits_exhausted" if account.free_ncr <= 0 else "credits_too_few"


def _exhausted(why: str, admitted: Admitted, hold_ncr: int) -> CreditsExhausted:
    account, now_us = admitted.account, admitted.received.at_us
    left = format_credits(max(0, account.free_ncr))
    until = "" if account.reset_us is None else f", wait for the reset at {format_instant(account.reset_us)}"
    refusal = CreditsExhausted(
        f"{why} {left} credits are left and this request may need {format_credits(hold_ncr)}. Lower `max_tokens`{until}, or ask your admin for credits."
    )
    refusal.headers = credits(account.remaining_ncr, account.limit_ncr, None if account.reset_us is None else max(0, account.reset_us - now_us) // 1_000_000)
    return refusal
