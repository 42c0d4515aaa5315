"""A margin report while it grows, and when it is done: revenue less cost by what was asked for, and totals that every part adds up to. Pure.

Revenue and cost are in their own currencies until somebody states a rate: amounts of two currencies are never added. Lines are `use` (by tenant, project,
model, backend, day), `unused` (fees that no use earned), `sold` (top-ups), `credited` (credit notes, below 0) and `idle` (own GPUs that nobody used).
"""

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from billing.errors import Invalid
from billing.margins.amounts import in_major
from billing.money import add_exact

USE, UNUSED, SOLD, CREDITED, IDLE = "use", "unused", "sold", "credited", "idle"
DIMENSIONS = ("tenant", "project", "model", "backend", "day")


class Place(NamedTuple):
    """Where something was earned or spent; "" and None: nowhere in particular."""

    tenant: str = ""
    project: str = ""
    model: str = ""
    backend: str = ""
    day: int | None = None


class Figures(msgspec.Struct, kw_only=True):
    """What is added up. `fees`, `overage`, `calls` (third parties) and `gpus` (our own) are amounts of one currency (see `amounts`).

    `uncosted_requests` used something that nobody has set a cost for, `uncosted_units` of it.
    """

    requests: int = 0
    charge_ncr: int = 0
    fees: int = 0
    overage: int = 0
    calls: int = 0
    gpus: int = 0
    uncosted_requests: int = 0
    uncosted_units: int = 0

    def add(self, other: "Figures") -> None:
        """Add another's."""
        self.requests += other.requests
        self.charge_ncr += other.charge_ncr
        self.fees += other.fees
        self.overage += other.overage
        self.calls += other.calls
        self.gpus += other.gpus
        self.uncosted_requests += other.uncosted_requests
        self.uncosted_units += other.uncosted_units


_COUNTS = ("requests", "charge_ncr", "uncosted_requests", "uncosted_units")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a report. Amounts in major units of `currency`, exact; `keys` are the dimensions asked for, by name, days as ISO dates."""

    line: str
    keys: dict[str, str]
    currency: str
    requests: int
    charge_ncr: int
    fees: Decimal
    overage: Decimal
    calls: Decimal
    gpus: Decimal
    uncosted_requests: int
    uncosted_units: int

    @property
    def revenue(self) -> Decimal:
        """What was earned."""
        return add_exact(self.fees, self.overage)

    @property
    def cost(self) -> Decimal:
        """What it cost, as far as costs are set."""
        return add_exact(self.calls, self.gpus)

    @property
    def margin(self) -> Decimal:
        """Revenue less cost."""
        return add_exact(self.revenue, -self.cost)


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """All of one currency. revenue = invoiced - deferred: what was invoiced for the span (fees of the periods that begin in it, overage, top-ups, credit
    notes), less what later spans earn of it, plus what earlier spans were invoiced and this one earned. `idle` is the part of the GPUs' cost that nobody used.
    """

    line: Line
    idle: Decimal
    invoiced: Decimal

    @property
    def deferred(self) -> Decimal:
        """What was invoiced and is not earned yet, less what was earned and invoiced before."""
        return add_exact(self.invoiced, -self.line.revenue)


class Gap(msgspec.Struct, frozen=True, order=True):
    """Use that nobody has set a cost for; `requests` are those that may have used it. `since`: from this day on the cost can still be set, as there was none
    before; "": there was one, without this bucket, and only what is to come can be priced.
    """

    backend: str
    model: str
    bucket: str
    since: str
    requests: int
    units: int

    @property
    def set_with(self) -> str:
        """The command that sets it."""
        since = f" --from {self.since}" if self.since else ""
        return f"weir cost set {self.backend} {self.model} --input PRICE --output PRICE --currency USD{since}"


class Rates(msgspec.Struct, frozen=True):
    """At which stated rates amounts were converted: by currency (pico-units of `currency` for one unit, and the day of the statement)."""

    currency: str
    rates: Mapping[str, tuple[int, str]]


class Margins(msgspec.Struct, frozen=True, kw_only=True):
    """A report."""

    by: tuple[str, ...]
    first_day: str
    end_day: str
    lines: tuple[Line, ...]
    totals: tuple[Total, ...]
    gaps: tuple[Gap, ...]
    rates: Rates | None


class Report:
    """What was added so far. Each addition goes into its line and, by itself, into the total of its currency."""

    def __init__(self, by: Sequence[str]) -> None:
        wrong = next((name for name in by if name not in DIMENSIONS), None)
        if wrong is not None or len(set(by)) != len(by):
            raise Invalid("by", f"by: `{wrong or ','.join(by)}` is not possible; each at most once of {', '.join(DIMENSIONS)}")
        self.by = tuple(name for name in DIMENSIONS if name in by)
        self._masked = tuple(DIMENSIONS.index(name) for name in self.by)
        self._lines: dict[tuple[str, tuple[str | int | None, ...], str], Figures] = {}
        self._totals: dict[str, Figures] = {}
        self._idle: dict[str, int] = {}
        self._invoiced: dict[str, int] = {}
        self._gaps: dict[tuple[str, str, str, bool], list[int]] = {}

    def add(self, line: str, place: Place, currency: str, figures: Figures) -> None:
        """Add figures where they belong."""
        key = (line, tuple(place[index] for index in self._masked), currency)
        self._lines.setdefault(key, Figures()).add(figures)
        self._totals.setdefault(currency, Figures()).add(figures)
        if line == IDLE:
            self._idle[currency] = self._idle.get(currency, 0) + figures.gpus

    def invoice(self, currency: str, amount: int) -> None:
        """Note what is invoiced for the span."""
        self._invoiced[currency] = self._invoiced.get(currency, 0) + amount

    def miss(self, backend: str, model: str, requests: int, missing: Mapping[str, int], *, unsaid: bool) -> None:
        """Note use without a cost, units by bucket. `unsaid`: nobody had said any cost for the model by then."""
        for bucket, units in missing.items():
            gap = self._gaps.setdefault((backend, model, bucket, unsaid), [0, 0])
            gap[0] += requests
            gap[1] += units

    @property
    def currencies(self) -> list[str]:
        """The currencies that anything is in."""
        return sorted({*self._totals, *self._invoiced})

    def done(self, day: Callable[[int], str], days: tuple[str, str], rates: Rates | None) -> Margins:
        """Return the report: in one currency at the stated rates, or without any in each currency by itself. Lines are ordered by their keys."""
        lines: dict[tuple[tuple[str, ...], str, str], Line] = {}
        for (line, values, currency), figures in self._lines.items():
            keys = {name: _text(value, day) for name, value in zip(self.by, values, strict=True)}
            _put(lines, _converted(line, keys, currency, figures, rates))
        totals: dict[tuple[tuple[str, ...], str, str], Line] = {}
        for currency in self.currencies:
            _put(totals, _converted("total", {}, currency, self._totals.get(currency, Figures()), rates))
        return Margins(
            by=self.by,
            first_day=days[0],
            end_day=days[1],
            lines=tuple(lines[key] for key in sorted(lines)),
            totals=tuple(
                Total(line=total, idle=_sum(self._idle, total.currency, rates), invoiced=_sum(self._invoiced, total.currency, rates))
                for _key, total in sorted(totals.items())
            ),
            gaps=tuple(Gap(*key[:3], days[0] if key[3] else "", *gap) for key, gap in sorted(self._gaps.items())),
            rates=rates,
        )


def merged(lines: Sequence[Line]) -> list[Line]:
    """Add lines of the same keys and currency up, whatever they are lines of, as `total`; in the order of their keys."""
    found: dict[tuple[tuple[str, ...], str, str], Line] = {}
    for line in lines:
        _put(found, msgspec.structs.replace(line, line="total"))
    return [found[key] for key in sorted(found)]


def _put(lines: dict[tuple[tuple[str, ...], str, str], Line], line: Line) -> None:
    key = (tuple(line.keys.values()), line.line, line.currency)
    before = lines.get(key)
    if before is not None:
        counts = {name: getattr(before, name) + getattr(line, name) for name in _COUNTS}
        amounts = {name: add_exact(getattr(before, name), getattr(line, name)) for name in ("fees", "overage", "calls", "gpus")}
        line = msgspec.structs.replace(line, **counts, **amounts)
    lines[key] = line


def _converted(line: str, keys: dict[str, str], currency: str, figures: Figures, rates: Rates | None) -> Line:
    counts = {name: getattr(figures, name) for name in _COUNTS}
    amounts: dict[str, Any] = {name: _money(getattr(figures, name), currency, rates) for name in ("fees", "overage", "calls", "gpus")}
    return Line(line=line, keys=keys, currency=currency if rates is None else rates.currency, **counts, **amounts)


def _money(amount: int, currency: str, rates: Rates | None) -> Decimal:
    return in_major(amount) if rates is None or currency == rates.currency else in_major(amount, rates.rates[currency][0])


def _sum(amounts: Mapping[str, int], currency: str, rates: Rates | None) -> Decimal:
    found = Decimal(0)
    for name, amount in amounts.items():
        if rates is not None or name == currency:
            found = add_exact(found, _money(amount, name, rates))
    return found


def _text(value: str | int | None, day: Callable[[int], str]) -> str:
    return day(value) if isinstance(value, int) else value or ""
