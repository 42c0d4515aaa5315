"""Credit notes: what an issued invoice is corrected by, whole, a line, or a part of one. Pure.

Never more than what is left of a line. The tax of a group is rounded over all that was credited of it so far, less what earlier notes said; so an
invoice that is credited in parts comes to exactly what it was, to the minor unit.
"""

from collections.abc import Mapping, Sequence

import msgspec

from billing.errors import Conflict, Invalid
from billing.invoices import words
from billing.invoices.document import CREDIT_NOTE, Document, Line, Tax
from billing.invoices.taxes import tax_of
from billing.money import format_money

Parts = Mapping[int, int | None]  # by the line's number on the invoice: how much of it in minor units; None: all that is left


def credit_note(invoice: Document, before: Sequence[Document], parts: Parts | None, *, series: str, reason: str) -> Document:
    """Write the next credit note of an issued invoice; `before` are those it has, `parts` what is credited (None: all that is left).

    Raises `Invalid` for a line that is not there or an amount beyond what is left of it, and `Conflict` where nothing is left.
    """
    left = {line.seq: line.amount_minor for line in invoice.lines if line.amount_minor}
    for note in before:
        for line in note.lines:
            left[line.seq] += line.amount_minor
    wanted = {seq: None for seq, minor in left.items() if minor} if parts is None else dict(parts)
    if not wanted:
        raise Conflict(f"invoice `{invoice.number}` is credited in full already")
    lines = tuple(_line(invoice, seq, _part(invoice, seq, minor, left)) for seq, minor in sorted(wanted.items()))
    taxes = tuple(_taxes(invoice, before, lines))
    net, tax = sum(line.amount_minor for line in lines), sum(one.tax_minor for one in taxes)
    return msgspec.structs.replace(
        invoice,
        kind=CREDIT_NOTE,
        id=f"{invoice.id}:cn{len(before) + 1}",
        number=None,
        series=series,
        lines=lines,
        taxes=taxes,
        net_minor=net,
        tax_minor=tax,
        total_minor=net + tax,
        credits=None,
        payment_terms=None,
        due_day=None,
        corrects=invoice.number,
        reason=reason,
    )


def _part(invoice: Document, seq: int, minor: int | None, left: Mapping[int, int]) -> int:
    if seq not in left:
        raise Invalid("line", f"line: invoice `{invoice.number}` has no line {seq} that costs something; those it has: {', '.join(map(str, sorted(left)))}")
    rest = left[seq]
    if not rest:
        raise Conflict(f"line {seq} of invoice `{invoice.number}` is credited in full already")
    if minor is None:
        return rest
    if not 0 < abs(minor) <= abs(rest) or (minor > 0) != (rest > 0):
        amount = format_money(rest, invoice.currency)
        raise Invalid("amount", f"amount: {format_money(minor, invoice.currency)} is not within what is left of line {seq}, {amount} {invoice.currency}")
    return minor


def _line(invoice: Document, seq: int, minor: int) -> Line:
    line = next(line for line in invoice.lines if line.seq == seq)
    zero = dict.fromkeys(("charge_ncr", "covered_ncr", "debt_ncr", "excess_ncr", "overage_ncr", "requests"), 0)
    text = words.credit(invoice.language, seq, invoice.number or "", line.description)
    return msgspec.structs.replace(line, kind="credit", description=text, amount_minor=-minor, exact=format_money(-minor, invoice.currency), **zero)


def _taxes(invoice: Document, before: Sequence[Document], lines: Sequence[Line]) -> list[Tax]:
    taxes = []
    for tax in invoice.taxes:
        group = (tax.category, tax.percent)
        net = sum(line.amount_minor for line in lines if (line.tax_category, line.tax_percent) == group)
        earlier = [one for note in before for one in note.taxes if (one.category, one.percent) == group]
        said = sum(one.tax_minor for one in earlier)
        total = net + sum(one.taxable_minor for one in earlier)
        if net:
            rounded = -tax.tax_minor if total == -tax.taxable_minor else tax_of(total, tax.percent, invoice.currency)
            taxes.append(msgspec.structs.replace(tax, taxable_minor=net, tax_minor=rounded - said))
    return taxes
