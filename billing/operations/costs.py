"""Cost books: set what a backend charges us for a model in money, list, and propose from public prices. Each function is at most one transaction."""

from collections.abc import Iterable, Mapping
from typing import cast

from billing.db import Database
from billing.operations.versions import set_at_once
from billing.rates import store
from billing.rates.cost import Cost
from billing.rates.proposal import Proposal, Route, propose_costs
from billing.rates.version import Change
from billing.rating import Variant
from billing.tenants.store import note_change

__all__ = ["Proposal", "Route", "list_costs", "propose_costs", "set_cost"]


def set_cost(
    db: Database,
    *,
    backend: str,
    model: str,
    currency: str,
    prices: Mapping[str, int] | None = None,
    variants: Iterable[Variant] = (),
    free: bool = False,
    effective_us: int | None = None,
    now_us: int,
) -> Cost:
    """Set what a backend charges for a model, in pico-units of a currency per unit by bucket (`money.parse_pico`), from an instant on, now by default.

    `model` is its name at the backend. `free`: it charges nothing by use. Raises `Invalid` as a rate does.
    """
    change = Change(backend=backend, model=model, currency=currency, prices=dict(prices or {}), variants=tuple(variants), free=free)
    with db.write() as session:
        note_change(session, None, now_us)
        return cast(list[Cost], set_at_once(session, "costs", [change], effective_us=effective_us, now_us=now_us))[0]


def list_costs(db: Database, backend: str | None = None, model: str | None = None) -> list[Cost]:
    """Return every cost ever set, by backend, model and instant; the last that has begun applies (`rates.cost.CostBook`)."""
    with db.read() as session:
        return store.all_costs(session, backend, model)
