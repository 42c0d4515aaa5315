"""`weir invoice`: what tenants owe for their periods, from the draft to the credit note."""

import json
from typing import Annotated, Any

import typer
from rich.progress import track

from billing.errors import Invalid
from billing.invoices.document import DRAFT, Document
from billing.invoices.store import Invoice
from billing.money import format_money, parse_money
from billing.operations import invoices
from billing.operations.company import get_company
from billing.operations.exports import invoice_file
from gateway.cli.books import Books, ConfigOption, open_books
from gateway.cli.files import deliver
from gateway.cli.render import Format, FormatOption, YesOption, confirm, write_one, write_rows
from gateway.cli.usage import ManifestOption, OutOption, TenantOption
from gateway.wire.documents import document_figures, invoice_figures

app = typer.Typer(no_args_is_help=True, help="Invoices: draft, issue, void, credit; and the month's lines as a file.")
InvoiceArgument = Annotated[str, typer.Argument(metavar="INVOICE", help="its id or number")]
ReasonOption = Annotated[str, typer.Option("--reason", help="why; it is kept, and printed on a credit note")]
COLUMNS = (
    "id",
    "number",
    "kind",
    "state",
    "tenant",
    "period_start",
    "period_end",
    "currency",
    "net",
    "tax",
    "total",
    "issued_at",
    "paid_at",
    "voided_at",
    "note",
)
BRIEF = ("id", "number", "kind", "state", "currency", "total", "period_end")
LINES = ("line", "kind", "description", "requests", "credits", "covered_credits", "excess_credits", "overage_credits", "amount")
PAGE = 1000


@app.command()
def draft(tenant: Annotated[str, typer.Argument(metavar="TENANT")], form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """Show the invoice of the period that runs as it would be if it were closed now; nothing is written."""
    with open_books(config) as books:
        _write(invoices.preview(books.database, tenant, books.now_us), form)


@app.command("list")
def index(
    *,
    month: Annotated[str | None, typer.Option("--month", help="in which the period ended, like 2026-11; left out: all")] = None,
    tenant: TenantOption = None,
    state: Annotated[str | None, typer.Option("--state", help="draft, issued, paid or void; left out: all")] = None,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """List invoices and credit notes."""
    with open_books(config) as books:
        rows = [_row(one) for one in _all(books, month=month, tenant_id=tenant, state=state)]
    write_rows(rows, form, COLUMNS, "no invoices; a period's is there when its grace is over: weir period list TENANT", brief=BRIEF)


@app.command()
def show(invoice: InvoiceArgument, form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """Show an invoice or a credit note with its lines."""
    with open_books(config) as books:
        found = invoices.show_invoice(books.database, invoice)
    if form is Format.table:
        figures = {name: value for name, value in _row(found.invoice).items() if value is not None and name != "tenant_id"}
        credited = {"credited": format_money(found.credited_minor, found.invoice.currency)} if found.credited_minor else {}
        write_one(figures | credited | ({"sha256": found.sha256} if found.sha256 else {}))
        typer.echo()
    _write(found.document, form)


@app.command()
def issue(
    invoice: Annotated[str | None, typer.Argument(metavar="INVOICE", help="its id; or give --month")] = None,
    *,
    month: Annotated[str | None, typer.Option("--month", help="every draft that comes to something, of periods that ended in it")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be issued, and issue nothing")] = False,
    yes: YesOption = False,
    config: ConfigOption = None,
) -> None:
    """Issue a draft, or a month's: each gets the next number of its series, and is never changed again.

    Interrupted, what is issued stays issued, and the same command goes on with the rest. Drafts that come to nothing stay drafts, and so do those whose
    forerunner is void; each can be issued by its id.
    """
    if (invoice is None) == (month is None):
        raise Invalid("invoice", "name an invoice, or a month with --month")
    with open_books(config) as books:
        if invoice is not None:
            chosen = [invoices.show_invoice(books.database, invoice).invoice]
        else:
            drafts = (invoices.show_invoice(books.database, one.id).invoice for one in _all(books, month=month, state=DRAFT))
            chosen = [one for one in drafts if one.total_minor and "." not in one.id]  # one whose forerunner is void is issued by its id
        sums = ", ".join(f"{format_money(total, currency)} {currency}" for currency, total in sorted(_sums(chosen).items()))
        what = f"{len(chosen)} invoices that come to {sums}" if len(chosen) != 1 else f"{chosen[0].id}, which comes to {sums}"
        if not chosen:
            typer.echo("nothing to issue")
            return
        if dry_run:
            write_rows([_row(one) for one in chosen], Format.table, COLUMNS, brief=BRIEF)
            typer.echo(f"would issue {what}")
            return
        confirm(f"Issue {what}? They cannot be changed after.", yes)
        for one in track(chosen, "issuing", disable=len(chosen) < 10):
            issued = invoices.issue_invoice(books.database, one.id, books.now_us)
            if len(chosen) < 10:
                typer.echo(f"{issued.invoice.number}: {one.id}, {format_money(issued.invoice.total_minor, one.currency)} {one.currency}")
    if len(chosen) >= 10:
        typer.echo(f"issued {what}")


@app.command()
def pay(
    invoice: InvoiceArgument, *, note: Annotated[str | None, typer.Option("--note", help="how, for whoever asks")] = None, config: ConfigOption = None
) -> None:
    """Say that an issued invoice is paid."""
    with open_books(config) as books:
        paid = invoices.pay_invoice(books.database, invoice, books.now_us, note=note)
    typer.echo(f"invoice {paid.number} is paid")


@app.command()
def void(invoice: InvoiceArgument, *, reason: ReasonOption, yes: YesOption = False, config: ConfigOption = None) -> None:
    """Declare an issued invoice void; its number stays its own, and its period has a draft again. One that is paid or credited is credited instead."""
    with open_books(config) as books:
        found = invoices.show_invoice(books.database, invoice).invoice
        confirm(f"Declare invoice `{found.number or found.id}` void?", yes)
        gone = invoices.void_invoice(books.database, invoice, books.now_us, reason=reason)
    typer.echo(f"invoice {gone.number} is void")


@app.command()
def credit(
    invoice: InvoiceArgument,
    *,
    reason: ReasonOption,
    lines: Annotated[list[str] | None, typer.Option("--line", help="a line of it, 3, or a part of one, 3=12.50; left out: all that is left")] = None,
    yes: YesOption = False,
    config: ConfigOption = None,
) -> None:
    """Correct an issued invoice by a credit note, with a number of its own."""
    with open_books(config) as books:
        found = invoices.show_invoice(books.database, invoice).invoice
        parts = None if not lines else dict(_part(line, found.currency) for line in lines)
        confirm(f"Credit {'some lines' if parts else 'all that is left'} of invoice `{found.number or found.id}`?", yes)
        note = invoices.credit_invoice(books.database, invoice, books.now_us, reason=reason, parts=parts)
    typer.echo(f"{note.invoice.number}: {format_money(note.invoice.total_minor, found.currency)} {found.currency}, correcting {found.number}")


@app.command()
def export(
    invoice: Annotated[str | None, typer.Argument(metavar="INVOICE", help="its id or number; or give --month")] = None,
    *,
    month: Annotated[str | None, typer.Option("--month", help="all of periods that ended in it, like 2026-11")] = None,
    tenant: TenantOption = None,
    form: Annotated[str, typer.Option("--format", "-f", help="csv, jsonl, xlsx or parquet: a row for each line and tax; json; pdf: of one invoice")] = "csv",
    output: OutOption = None,
    manifest: ManifestOption = False,
    config: ConfigOption = None,
) -> None:
    """Export an invoice, or a month's: as a table, whole, or on paper. What is issued gives the same bytes every time."""
    if (invoice is None) == (month is None):
        raise Invalid("invoice", "name an invoice, or a month with --month")
    with open_books(config) as books:
        if invoice is not None:
            shown = invoices.show_invoice(books.database, invoice)
            pairs, name = [(shown.document, shown.invoice.state)], (shown.invoice.number or shown.invoice.id).replace(":", "-")
        else:
            pairs, name = invoices.documents(books.database, month=month or "", tenant_id=tenant), f"invoices-{month}"
        company = get_company(books.database)
        deliver(invoice_file(pairs, name, form=form, logo=None if company is None else company.logo), output, manifest=manifest)


def _all(books: Books, *, month: str | None = None, tenant_id: str | None = None, state: str | None = None) -> list[Invoice]:
    found: list[Invoice] = []
    while page := invoices.list_invoices(
        books.database, tenant_id=tenant_id, state=state, month=month, after=found[-1].id if found else "", limit=PAGE
    ):  # fmt: skip
        found += page
    return found


def _sums(chosen: list[Invoice]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for one in chosen:
        sums[one.currency] = sums.get(one.currency, 0) + one.total_minor
    return sums


def _part(text: str, currency: str) -> tuple[int, int | None]:
    number, equals, amount = text.partition("=")
    if not number.isdecimal():
        raise Invalid("line", f"--line: `{text}` is no line; write its number, 3, or a part of it, 3=12.50")
    return int(number), parse_money(amount, currency, "--line") if equals else None


def _row(invoice: Invoice) -> dict[str, Any]:
    figures = invoice_figures(invoice)
    return figures | {"tenant": figures["tenant_id"]}


def _write(document: Document, form: Format) -> None:
    figures = document_figures(document)
    if form is Format.json:
        typer.echo(json.dumps(figures, ensure_ascii=False, indent=2))
        return
    write_rows(figures["lines"], form, LINES if form is Format.table else tuple(figures["lines"][0]) if figures["lines"] else LINES, "no lines")
    if form is Format.table:
        typer.echo()
        taxes = {f"tax_{tax['percent']}_%": tax["tax"] for tax in figures["taxes"] if tax["tax"] != "0.00"}
        write_one({"net": figures["net"]} | taxes | {"total": f"{figures['total']} {document.currency}"})
        if figures["credits"] is not None:
            typer.echo()
            write_one({f"credits_{name}": value for name, value in figures["credits"].items()})
