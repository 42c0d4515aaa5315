"""What is known of a request after each step. These types are the sequence diagram of a request.

    Received -> Admitted -> Reserved -> (for each attempt) Queued -> Relayed -> Settled

Each is frozen and holds the one before it.
"""

from typing import TYPE_CHECKING

import msgspec

from backends.provider import Call, Usage
from billing.credits.account import Account
from billing.credits.purse import Hold
from billing.operations.directory import Principal
from billing.plans.terms import Terms
from billing.rates.card import Priced
from billing.usage.event import Outcome, Source
from gateway.lanes.gate import Gate
from gateway.lanes.limits import Limit
from gateway.lanes.queue import Ticket
from gateway.lanes.standing import Lane, Standing
from gateway.wire.openai import Wish

if TYPE_CHECKING:
    from backends.planner import Attempt


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """A call as it came. `call.request_id` is ours and names the usage event; `shown_id` is what the client is told (its own, if it sent one)."""

    principal: Principal
    shown_id: str
    call: Call
    wish: Wish
    at_us: int
    at_s: float


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, on which terms, at which rate, against which account."""

    received: Received
    principal: Principal
    tenant_id: str
    terms: Terms
    account: Account
    priced: Priced
    limits: tuple[Limit, ...]


class Reserved(msgspec.Struct, frozen=True, kw_only=True):
    """What is held for it, and the lane that its credits buy.

    `covered` says that the hold covers the worst case: then the whole charge comes from credits; else only what is free at the end.
    `day_us` and `period_us`: when the tenant's day and its plan's month began.
    """

    admitted: Admitted
    standing: Standing
    lane: Lane
    reason: str
    hold: Hold
    covered: bool
    day_us: int
    period_us: int | None
    prompt_tokens_max: int
    output_tokens_max: int


class Place(msgspec.Struct, frozen=True):
    """A slot that a request has, and the attempt it is for."""

    attempt: "Attempt"
    gate: Gate
    ticket: Ticket


class Relayed(msgspec.Struct, frozen=True, kw_only=True):
    """How the upstream's part ended. `usage` None: nothing is known to have been used."""

    usage: Usage | None
    source: Source
    outcome: Outcome
    status: int


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What it cost, in ncr and as text in credits, and what of that the tenant's credits paid; `input` and `output` are the tokens that were charged."""

    charge_ncr: int
    cost: str
    cover_ncr: int
    lane: Lane
    source: str
    input: int
    output: int
