"""One tenant's use of a span, turned into revenue and the cost of calls; own GPUs are only weighed here, as their bill is everybody's. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from billing.margins.amounts import of_credits, of_pico, split
from billing.margins.cell import Cell, cost_of
from billing.margins.fee import Fee
from billing.margins.gpu import GpuCost, weigh
from billing.margins.report import UNUSED, USE, Figures, Place, Report
from billing.margins.span import Days
from billing.rates.cost import CostBook

Weights = dict[tuple[int, int], dict[Place, int]]  # by (entry of what GPUs cost, number of the day): how much work each place was


class Costs(msgspec.Struct, frozen=True):
    """What is known of costs: the cost book, its cliffs, and per backend the GPUs that were paid for at any time of the span."""

    book: CostBook
    overs: Sequence[int]
    gpus: Mapping[str, Sequence[GpuCost]]


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant's use is valued by. `prices`: what a credit past the allowance costs, by subscription; `before`: what grants had paid of a period
    (by its start, ncr) when the span began; `others`: what was sold and credited beside fees and use, as (kind of line, instant, amount). Nothing is
    earned by the end of a period that is not over at `now_us`.
    """

    tenant_id: str
    currency: str
    days: Days
    fees: Sequence[Fee]
    prices: Mapping[str, str | None]
    before: Mapping[int, int]
    now_us: int
    others: Sequence[tuple[str, int, int]] = ()


def add_tenant(report: Report, account: Account, cells: Iterable[Cell], costs: Costs, weights: Weights) -> None:
    """Add a tenant's cells and fees to a report, and the work that its requests were for own GPUs to `weights`."""
    covered: dict[int, dict[int, dict[Place, int]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(int)))
    for cell in cells:
        place = Place(cell.tenant_id, cell.project or "", cell.model, cell.backend, cell.day)
        overage = of_credits(cell.overage_ncr, account.prices.get(cell.subscription or ""))
        figures = Figures(requests=cell.requests, charge_ncr=cell.charge_ncr, overage=overage)
        report.invoice(account.currency, overage)
        _add_cost(report, place, cell, costs, figures)
        report.add(USE, place, account.currency, figures)
        for gpu in costs.gpus.get(cell.backend, ()):
            work = weights.setdefault((gpu.id, cell.day), {})
            work[place] = work.get(place, 0) + weigh(cell.meter, gpu.weights)
        if cell.period_us is not None and cell.covered_ncr:
            covered[cell.period_us][cell.day][place] += cell.covered_ncr
    for kind, at_us, amount in account.others:
        report.invoice(account.currency, amount)
        report.add(kind, Place(tenant=account.tenant_id, day=account.days.number(at_us)), account.currency, Figures(fees=amount))
    for fee in account.fees:
        _add_fee(report, account, fee, covered.get(fee.start_us, {}))


def _add_cost(report: Report, place: Place, cell: Cell, costs: Costs, figures: Figures) -> None:
    entry = None if cell.cost_us is None else costs.book.at(cell.backend, cell.upstream_model, cell.cost_us)
    if entry is None and cell.backend in costs.gpus:
        return  # paid by the hour
    costed = cost_of(cell, entry, costs.overs)
    if costed.missing:
        figures.uncosted_requests, figures.uncosted_units = cell.requests, sum(costed.missing.values())
        report.miss(cell.backend, cell.upstream_model, cell.requests, costed.missing, unsaid=cell.cost_us is None)
    if entry is not None and costed.pico:
        report.add(USE, place, entry.currency, Figures(calls=of_pico(costed.pico)))


def _add_fee(report: Report, account: Account, fee: Fee, covered: Mapping[int, Mapping[Place, int]]) -> None:
    if account.days.start_us <= fee.start_us < account.days.end_us:
        report.invoice(fee.currency, fee.amount)
    paid = account.before.get(fee.start_us, 0)
    for _day, places in sorted(covered.items()):
        earned = fee.earned(paid + sum(places.values())) - fee.earned(paid)
        paid += sum(places.values())
        ordered = sorted(places.items())
        for (place, _ncr), part in zip(ordered, split(earned, [ncr for _place, ncr in ordered]), strict=True):
            report.add(USE, place, fee.currency, Figures(fees=part))
    if account.days.start_us < fee.end_us <= min(account.days.end_us, account.now_us) and (rest := fee.amount - fee.earned(paid)):
        report.add(UNUSED, Place(tenant=account.tenant_id, day=account.days.number(fee.end_us - 1)), fee.currency, Figures(fees=rest))


def share_gpu(amount: int, busy: tuple[int, int], work: Mapping[Place, int]) -> tuple[int, list[tuple[Place, int]]]:
    """Split what GPUs cost for some time into (idle, what each place used): by the time (us) in which something ran and the whole, then by work.

    The parts sum to the amount. Where what ran used nothing that weighs, all of it was idle.
    """
    if not sum(work.values()):
        return amount, []
    used, idle = split(amount, [busy[0], busy[1] - busy[0]])
    places = sorted(work.items())
    return idle, [(place, part) for (place, _work), part in zip(places, split(used, [work for _place, work in places]), strict=True)]
