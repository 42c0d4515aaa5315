"""/admin/exchange-rates: what a currency is worth in another, as somebody states it for a day."""

from datetime import date

from pydantic import BaseModel

from billing.operations import exchange
from billing.operations.exchange import ExchangeRate
from gateway.auth.admin import AdminDesk
from gateway.wire.problems import problem_router

router = problem_router("/exchange-rates")


class ExchangeRateNew(BaseModel):
    """One `base` is worth `rate` (decimal text) of `quote` from `day` on."""

    base: str
    quote: str
    day: date
    rate: str


class ExchangeRateOut(BaseModel):
    """A stated rate."""

    base: str
    quote: str
    day: str
    rate: str


@router.get("", summary="List stated rates of exchange")
def index(desk: AdminDesk) -> list[ExchangeRateOut]:
    """List every rate, by currencies and day."""
    return [_out(one) for one in exchange.list_rates(desk.database)]


@router.put("", summary="State a rate of exchange")
def put(body: ExchangeRateNew, desk: AdminDesk) -> ExchangeRateOut:
    """State a rate for a day, over one that was stated for it. The other direction is stated by itself."""
    return _out(exchange.state_rate(desk.database, base=body.base, quote=body.quote, day=body.day, rate=body.rate, now_us=desk.now_us()))


def _out(one: ExchangeRate) -> ExchangeRateOut:
    return ExchangeRateOut(base=one.base, quote=one.quote, day=one.day, rate=one.rate)
