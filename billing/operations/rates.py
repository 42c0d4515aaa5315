"""Rates: set what a model costs, list, and propose from public prices. Each function is at most one transaction."""

from collections.abc import Mapping

from billing.db import Database
from billing.errors import Invalid
from billing.rates import store
from billing.rates.proposal import Proposal, propose
from billing.rating import Rate
from billing.tenants.store import note_change

__all__ = ["Proposal", "list_rates", "propose", "set_rate"]

MODEL_CHARS_MAX = 200


def set_rate(db: Database, *, model: str, prices: Mapping[str, int] | None = None, free: bool = False, effective_us: int | None = None, now_us: int) -> Rate:
    """Set a model's prices (ncr per unit by bucket, see `money.parse_rate_per_million`) from an instant on, now by default.

    `input` and `output` must both be said, 0 included: a price left out would be missing only once it is needed. `free` takes no prices.
    Raises `Invalid` for an unknown bucket, a price out of range, or an instant that has passed: what was charged stays charged.
    """
    given = dict(prices or {})
    if not model or len(model) > MODEL_CHARS_MAX or not model.isprintable() or model != model.strip():
        raise Invalid("model", f"model: `{model[:80]}` is not a model's name; 1 to {MODEL_CHARS_MAX} printable characters without spaces around")
    if free and given:
        raise Invalid("free", "free: a free model has no prices; give prices or --free, not both")
    for bucket in ("input", "output"):
        if not free and bucket not in given:
            raise Invalid(bucket, f"rate: `{bucket}` of model `{model}` has no price; write --{bucket} CREDITS (0 when it costs nothing), or --free")
    if effective_us is not None and effective_us < now_us:
        raise Invalid("effective_us", "effective: this instant has passed; what was charged stays charged, so a rate begins now or later")
    with db.write() as session:
        note_change(session, None, now_us)
        return store.insert_rate(session, model=model, prices=given, free=free, effective_us=now_us if effective_us is None else effective_us, now_us=now_us)


def list_rates(db: Database, model: str | None = None) -> list[Rate]:
    """Return every rate ever set, of one model or of all, by model and instant; the last that has begun applies (`rates.card.RateCard`)."""
    with db.read() as session:
        return store.all_rates(session, model)
