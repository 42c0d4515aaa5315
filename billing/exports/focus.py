"""FOCUS 1.2, the FinOps Foundation's format for cost and usage, with credits as the virtual currency.

Money is on the rows that an invoice or a credit note brings (fees, top-ups, overage, corrections, credits, taxes): their BilledCost adds up, by
InvoiceId, to what is payable. Use is a row per tenant, day, model and project that is billed nothing and priced in credits; its EffectiveCost is what
the credits were worth: the plan's fee over its allowance, and the price of overage. So what buys credits has an EffectiveCost of 0.
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal

import msgspec

from billing.files.days import instant
from billing.files.grid import Cell, Column, Grid, Row
from billing.grants.periods import day_begin
from billing.invoices.document import CREDIT_NOTE, Document, Line, Tax
from billing.meter import COUNTING_BUCKETS
from billing.money import add_exact, format_credits, format_exact, format_money
from billing.usage.daily import DailyUsage

CREDITS, TOKENS, REQUESTS, UNITS = "Credits", "Tokens", "Requests", "Units"
_TEXTS = (
    "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd", "ChargeCategory", "ChargeClass",
    "ChargeDescription", "ChargeFrequency", "ChargePeriodStart", "ChargePeriodEnd", "ConsumedUnit", "InvoiceId", "InvoiceIssuerName", "PricingCategory",
    "PricingCurrency", "PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName", "ServiceSubcategory", "SkuId", "SkuMeter",
    "SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName",
)  # fmt: skip
_FIGURES = (
    "BilledCost", "ConsumedQuantity", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "ListCost", "ListUnitPrice",
    "PricingCurrencyContractedUnitPrice", "PricingCurrencyEffectiveCost", "PricingCurrencyListUnitPrice", "PricingQuantity",
)  # fmt: skip
_OWN = ("x_CoveredCredits", "x_DebtCredits", "x_ExcessCredits", "x_OverageCredits")
_TOTALS = ("BilledCost", "EffectiveCost")
COLUMNS = (
    *(Column(name, "text" if name in _TEXTS else "amount", name in _TOTALS) for name in sorted((*_TEXTS, *_FIGURES))),
    Column("x_Requests", "count", total=True),
    *(Column(name, "credits", total=True) for name in _OWN),
)
_SERVICE = {"ServiceCategory": "AI and Machine Learning", "ServiceSubcategory": "Generative AI"}
_Values = dict[str, Cell]


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """A daily line by project, with what its row says beside it: whose it is, when the day and its month begin and end, and what the invoice is called."""

    line: DailyUsage
    tenant_name: str
    day_us: tuple[int, int]
    period_us: tuple[int, int]
    invoice: str | None


def grid(documents: Iterable[Document], uses: Iterable[Use], *, provider: str, about: dict[str, str], made_us: int) -> Grid:
    """Lay a month out as rows: what documents charge, then what was used. `provider` is who sells the use."""
    return Grid(name="focus", columns=COLUMNS, rows=_rows(documents, uses, provider), about=about, made_us=made_us, currency="BillingCurrency")


def _rows(documents: Iterable[Document], uses: Iterable[Use], provider: str) -> Iterator[Row]:
    for document in documents:
        for line in document.lines:
            if line.kind != "usage" or line.amount_minor:
                yield _row(_document(document) | _charge(document, line))
        for tax in document.taxes:
            yield _row(_document(document) | _tax(document, tax))
    for use in uses:
        yield _row(_use(use, provider))


def _row(values: Mapping[str, Cell]) -> Row:
    return tuple(values.get(column.name) for column in COLUMNS)


def _document(document: Document) -> _Values:
    return {
        "BillingAccountId": document.tenant_id,
        "BillingAccountName": document.buyer.name,
        "BillingCurrency": document.currency,
        "BillingPeriodStart": instant(document.period_start_us),
        "BillingPeriodEnd": instant(document.period_end_us),
        "InvoiceId": document.number,
        "InvoiceIssuerName": document.seller.name,
        "PricingCurrency": document.currency,
        **_sold_by(document.seller.name),
    }


def _charge(document: Document, line: Line) -> _Values:
    bought = document.kind != CREDIT_NOTE and line.kind in ("fee", "top_up", "overage") and line.amount_minor >= 0
    billed = _decimal(format_money(line.amount_minor, document.currency))
    values: _Values = {
        "BilledCost": billed,
        "ChargeDescription": line.description,
        "ChargeFrequency": "Recurring" if line.kind == "fee" else "One-Time",
        "ChargePeriodStart": instant(day_begin(line.first_day, document.timezone)),
        "ChargePeriodEnd": instant(day_begin(line.end_day, document.timezone)),
        "SubAccountId": line.project,
        "SubAccountName": line.project,
    }
    if bought:
        return values | {"ChargeCategory": "Purchase"} | _purchase(line)
    late = line.kind == "correction" or document.kind == CREDIT_NOTE
    return values | {
        "ChargeCategory": "Adjustment" if line.kind == "correction" else "Credit",
        "ChargeClass": "Correction" if late else None,
        **dict.fromkeys(("ContractedCost", "EffectiveCost", "ListCost", "PricingCurrencyEffectiveCost"), billed),
    }


def _purchase(line: Line) -> _Values:
    by_credit = line.unit_price is not None and line.overage_ncr > 0
    price = _decimal(line.unit_price) if by_credit and line.unit_price is not None else _decimal(line.exact)
    sku = f"plan:{line.plan}" if line.kind == "fee" else f"credits:{line.kind}"
    return {
        **dict.fromkeys(("ContractedCost", "ListCost"), _decimal(line.exact)),
        **dict.fromkeys(("ContractedUnitPrice", "ListUnitPrice", "PricingCurrencyContractedUnitPrice", "PricingCurrencyListUnitPrice"), price),
        **dict.fromkeys(("EffectiveCost", "PricingCurrencyEffectiveCost"), "0.0"),
        "PricingCategory": "Standard",
        "PricingQuantity": _decimal(format_credits(line.overage_ncr)) if by_credit else "1.0",
        "PricingUnit": CREDITS if by_credit else UNITS,
        "SkuId": sku,
        "SkuMeter": CREDITS if line.kind != "fee" else "Subscription",
        "SkuPriceId": sku if line.plan_version is None else f"{sku}:{line.plan_version}",
    }


def _tax(document: Document, tax: Tax) -> _Values:
    return {
        **dict.fromkeys(
            ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost", "PricingCurrencyEffectiveCost"),
            _decimal(format_money(tax.tax_minor, document.currency)),
        ),
        "ChargeCategory": "Tax",
        "ChargeClass": "Correction" if document.kind == CREDIT_NOTE else None,
        "ChargeDescription": f"Tax {tax.percent} % on {format_money(tax.taxable_minor, document.currency)}",
        "ChargeFrequency": "One-Time",
        "ChargePeriodStart": instant(document.period_start_us),
        "ChargePeriodEnd": instant(document.period_end_us),
    }


def _use(use: Use, provider: str) -> _Values:
    line = use.line
    tokens = sum(count for bucket, count in line.units.items() if bucket not in COUNTING_BUCKETS and bucket != "reasoning")
    return {
        **dict.fromkeys(("BilledCost", "ContractedCost", "ContractedUnitPrice", "ListCost", "ListUnitPrice"), "0.0"),
        **dict.fromkeys(("PricingCurrencyContractedUnitPrice", "PricingCurrencyListUnitPrice"), "1.0"),
        "BillingAccountId": line.tenant_id,
        "BillingAccountName": use.tenant_name,
        "BillingCurrency": line.currency,
        "BillingPeriodStart": instant(use.period_us[0]),
        "BillingPeriodEnd": instant(use.period_us[1]),
        "ChargeCategory": "Usage",
        "ChargeDescription": f"Use of {line.model}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": instant(use.day_us[0]),
        "ChargePeriodEnd": instant(use.day_us[1]),
        "ConsumedQuantity": _decimal(str(tokens or line.requests)),
        "ConsumedUnit": TOKENS if tokens else REQUESTS,
        "EffectiveCost": _decimal(format_exact(add_exact(line.covered_value, line.overage_exact))),
        "InvoiceId": use.invoice,
        "InvoiceIssuerName": provider,
        "PricingCategory": "Standard",
        "PricingCurrency": CREDITS,
        "PricingCurrencyEffectiveCost": _decimal(format_credits(line.charge_ncr - line.excess_ncr)),
        "PricingQuantity": _decimal(format_credits(line.charge_ncr)),
        "PricingUnit": CREDITS,
        "SkuId": line.model,
        "SkuMeter": TOKENS if tokens else REQUESTS,
        "SkuPriceId": line.model,
        "SubAccountId": line.project,
        "SubAccountName": line.project,
        "x_Requests": line.requests,
        **dict(zip(_OWN, (line.covered_ncr, line.debt_ncr, line.excess_ncr, line.overage_ncr), strict=True)),
        **_sold_by(provider),
    }


def _sold_by(name: str) -> _Values:
    return {"ProviderName": name, "PublisherName": name, "ServiceName": f"{name} models", **_SERVICE}


def _decimal(text: str) -> str:
    """Write a decimal with a point, so that no reader takes a column of whole ones for integers."""
    plain = format_exact(Decimal(text))
    return plain if "." in plain else f"{plain}.0"
