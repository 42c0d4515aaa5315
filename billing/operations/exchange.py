"""What a currency is worth in another on a day: stated by somebody, never looked up. Each function is one transaction. Only margins read it."""

from datetime import date

import msgspec

from billing.audit.store import record
from billing.db import Database
from billing.errors import Invalid
from billing.margins import store
from billing.money import exponent, format_pico, parse_pico
from billing.tenants.store import note_change

RATE_PICO_MAX = 10**18  # a million for one


class ExchangeRate(msgspec.Struct, frozen=True, kw_only=True):
    """One unit of `base` is worth `rate` (decimal text) of `quote` on a day (ISO date), and until the next day that somebody states a rate for."""

    base: str
    quote: str
    day: str
    rate: str


def state_rate(db: Database, *, base: str, quote: str, day: date, rate: str, now_us: int) -> ExchangeRate:
    """State a rate for a day, over one that was stated for it. It says nothing of the other direction. Raises `Invalid`."""
    for currency in (base, quote):
        exponent(currency)
    if base == quote:
        raise Invalid("quote", f"quote: one {base} is one {base}; name another currency")
    pico = parse_pico(rate, field="rate")
    if not 1 <= pico <= RATE_PICO_MAX:
        raise Invalid("rate", f"rate: `{rate}` is out of range; more than 0, at most 1000000")
    stated = ExchangeRate(base=base, quote=quote, day=day.isoformat(), rate=format_pico(pico))
    with db.write() as session:
        note_change(session, None, now_us)
        before = store.get_exchange_rate(session, (base, quote), stated.day)
        store.put_exchange_rate(session, (base, quote), stated.day, stated.rate, now_us)
        said = [None if rate is None else {"day": stated.day, "rate": rate} for rate in (before, stated.rate)]
        record(session, now_us, action="exchange-rate.set", tenant_id=None, subject=f"{base}/{quote}", before=said[0], after=said[1])
    return stated


def list_rates(db: Database) -> list[ExchangeRate]:
    """Return every stated rate, by currencies and day."""
    with db.read() as session:
        return [ExchangeRate(base=base, quote=quote, day=day, rate=rate) for base, quote, day, rate in store.all_exchange_rates(session)]
