"""What we pay others for the same usage: cost books, the same structure as a rate in another unit; pure.

Prices are integers of pico-units (10^-12) of the currency's major unit for one unit of a bucket: 0.27 USD per 1,000,000 tokens is
270,000 exactly, and nothing rounds. A cost has no bound of 64 bits: it is summed as a Python integer and stored as decimal text.
"""

from collections.abc import Iterable

from billing.errors import CostMissing
from billing.meter import Meter
from billing.rates.timeline import Timeline
from billing.rating import PriceList, rate

PICO_PER_MAJOR = 10**12
_PICO_MAX = 1000 * PICO_PER_MAJOR  # a thousand major units for one token, image, second or request: above it a figure is taken for damage


class Cost(PriceList, frozen=True, kw_only=True):
    """What a backend charges for a model (by its name there) from an instant on, in pico-units of `currency` per unit by bucket."""

    backend: str
    model: str
    currency: str

    def missing(self, bucket: str) -> CostMissing:
        """Make the error that names the backend, the model and the bucket."""
        return CostMissing(self.backend, self.model, bucket)


class CostBook(Timeline[tuple[str, str], Cost]):
    """Every (backend, upstream model)'s costs over time."""

    def __init__(self, costs: Iterable[Cost]) -> None:
        super().__init__(((cost.backend, cost.model), (cost.effective_us, cost.id), None if cost.ended else cost) for cost in costs)

    def at(self, backend: str, model: str, now_us: int) -> Cost | None:
        """Return what applies at an instant; None when nobody has said: then the cost is unknown, and not 0."""
        return self.find((backend, model), now_us)


def cost(meter: Meter, book: Cost, *, lane: str | None = "fast", service_tier: str | None = None) -> int:
    """Return what a usage cost us, exactly, in pico-units of `book.currency` (`money.exact_of_pico`).

    Raises `CostMissing` for a bucket that was used and has no price.
    """
    return rate(meter, book, lane=lane, service_tier=service_tier)


def cost_max(_bucket: str) -> int:
    """Return the highest price a bucket may have in a cost book, in pico-units."""
    return _PICO_MAX
