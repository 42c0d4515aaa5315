"""Rates: set what a model costs in credits, list, and propose from public prices. Each function is at most one transaction."""

from collections.abc import Iterable, Mapping
from typing import cast

from billing.db import Database
from billing.operations.versions import set_at_once
from billing.rates import store
from billing.rates.card import RateCard
from billing.rates.proposal import Proposal, propose
from billing.rates.version import Change
from billing.rating import Rate, Variant
from billing.tenants.store import note_change

__all__ = ["Proposal", "list_rates", "propose", "rated_models", "set_rate", "set_rates"]


def set_rate(
    db: Database,
    *,
    model: str,
    prices: Mapping[str, int] | None = None,
    variants: Iterable[Variant] = (),
    free: bool = False,
    effective_us: int | None = None,
    now_us: int,
) -> Rate:
    """Set a model's prices (ncr per unit by bucket, see `money.parse_rate_per_million`) from an instant on, now by default.

    `input` and `output` must both be said, 0 included: a price left out would be missing only once it is needed. `free` takes no prices.
    Raises `Invalid` for an unknown bucket, a price out of range, or an instant that has passed: what was charged stays charged.
    """
    change = Change(model=model, prices=dict(prices or {}), variants=tuple(variants), free=free)
    return set_rates(db, [change], effective_us=effective_us, now_us=now_us)[0]


def set_rates(db: Database, changes: Iterable[Change], *, effective_us: int | None = None, now_us: int) -> list[Rate]:
    """Set several models' rates together, in one version that is proposed and published at once. Raises as `set_rate`."""
    with db.write() as session:
        note_change(session, None, now_us)
        return cast(list[Rate], set_at_once(session, "rates", changes, effective_us=effective_us, now_us=now_us))


def list_rates(db: Database, model: str | None = None) -> list[Rate]:
    """Return every rate ever set, of one model or of all, by model and instant; the last that has begun applies (`rates.card.RateCard`)."""
    with db.read() as session:
        return store.all_rates(session, model)


def rated_models(db: Database, now_us: int) -> set[str]:
    """Return the models that have a rate at an instant, or will have one."""
    found = list_rates(db)
    card = RateCard(found)
    return {rate.model for rate in found if card.at(rate.model, now_us) is not None or (rate.effective_us > now_us and not rate.ended)}
