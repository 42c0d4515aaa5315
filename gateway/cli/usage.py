"""`weir usage`: what was used, and what a tenant has left."""

from pathlib import Path
from typing import Annotated, Any

import typer

from billing.meter import BUCKETS
from billing.money import format_credits
from billing.operations import invoices, usage
from billing.operations.events import FoundEvent, find_event, list_conflicts
from billing.operations.exports import usage_file
from billing.operations.month import Wanted
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.files import deliver
from gateway.cli.grant import scope_of
from gateway.cli.render import Format, FormatOption, write_one, write_rows
from gateway.config.prices import rate_figures
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="Usage: balances, single requests, and the month's use as a file.")
MonthOption = Annotated[str, typer.Option("--month", help="like 2026-11")]
OutOption = Annotated[Path | None, typer.Option("--output", "-o", help="write to this file instead of standard output")]
ManifestOption = Annotated[bool, typer.Option("--manifest", help="write FILE.manifest.json beside it: rows, totals and sha256")]
FileFormatOption = Annotated[str, typer.Option("--format", "-f", help="csv, json, jsonl, xlsx, parquet, or focus (FOCUS 1.2, as CSV)")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="this tenant only")]
GRANT_COLUMNS = ("grant", "kind", "for", "credits", "remaining", "expires")


@app.command()
def show(tenant: Annotated[str, typer.Argument(metavar="TENANT")], form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """Show a tenant's balance: what its grants gave, what is left of them, and what was used past them."""
    with open_books(config) as books:
        found = usage.balance(books.database, tenant, books.now_us)
    figures = {
        "tenant": found.tenant_id,
        "plan": None if found.plan is None else f"{found.plan} v{found.plan_version}",
        "on_exhausted": found.on_exhausted,
        "credits_granted": format_credits(found.limit_ncr),
        "credits_used": format_credits(found.used_ncr),
        "credits_left": format_credits(found.remaining_ncr),
        "of_which_for_some_requests_only": format_credits(found.scoped_ncr),
        "debt": format_credits(found.debt_ncr),
        "past_credits": format_credits(found.excess_ncr + found.overage_ncr),
        "past_credits_invoiced": format_credits(found.overage_ncr),
        "month_began": instant(found.period_start_us) or None,
        "resets": instant(found.reset_us) or None,
    }
    grants = [
        {
            "grant": grant.id,
            "kind": grant.kind,
            "for": scope_of(grant) or None,
            "credits": format_credits(grant.amount_ncr),
            "remaining": format_credits(grant.remaining_ncr),
            "expires": instant(grant.expires_us) or None,
        }
        for grant in found.grants
    ]
    if form is Format.table:
        write_one({name: value for name, value in figures.items() if name != "of_which_for_some_requests_only" or found.scoped_ncr})
        if grants:
            scoped = any(grant["for"] for grant in grants)
            rows = [grant | {"for": grant["for"] or "all requests"} for grant in grants]
            typer.echo()
            write_rows(rows, form, [name for name in GRANT_COLUMNS if scoped or name != "for"])
    elif form is Format.json:
        write_rows([figures | {"grants": grants}], form, (*figures, "grants"))
    else:
        write_rows([figures], form, tuple(figures))


@app.command()
def export(
    month: MonthOption,
    by: Annotated[str, typer.Option("--by", help="day, or request: one row per request, with the id its answer carried")] = "day",
    form: FileFormatOption = "csv",
    tenant: TenantOption = None,
    *,
    from_day: Annotated[str | None, typer.Option("--from-day", help="with --by request: no request before this day, like 2026-11-03")] = None,
    to_day: Annotated[str | None, typer.Option("--to-day", help="with --by request: none after this day")] = None,
    model: Annotated[str | None, typer.Option("--model", help="with --by request: of this model only")] = None,
    project: Annotated[str | None, typer.Option("--project", help="with --by request: of this project only; '' for requests without one")] = None,
    output: OutOption = None,
    manifest: ManifestOption = False,
    config: ConfigOption = None,
) -> None:
    """Export a month's use by day and model, or by request; the sum is the events' to the last nano-credit, and the same month gives the same bytes."""
    wanted = Wanted(month=month, tenant_id=tenant, from_day=from_day, to_day=to_day, model=model, project=project)
    with open_books(config) as books:
        billed = invoices.documents(books.database, month=month, tenant_id=tenant) if form == "focus" else ()
        numbered = invoices.touching(books.database, month=month, tenant_id=tenant) if form == "focus" else ()
        made = deliver(usage_file(books.database, wanted, by=by, form=form, documents=billed, touching=numbered), output, manifest=manifest)
    if not made.rows:
        typer.echo(f"note: nothing was used in {month}", err=True)


@app.command("event")
def show_event(
    event: Annotated[str, typer.Argument(metavar="EVENT_ID", help="the x-weir-event of an answer")],
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """Show one request's usage event in full: what it used, at which prices, and how it was paid."""
    with open_books(config) as books:
        figures = _event(find_event(books.database, event))
    if form is Format.table:
        write_one({name: value for name, value in figures.items() if value is not None})
    else:
        write_rows([figures], form, tuple(figures))


@app.command()
def conflicts(
    tenant: TenantOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="at most so many, the newest first")] = 1000,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """List usage that came again under a booked id with other content: the first is charged, the others changed nothing. There should be none."""
    with open_books(config) as books:
        found = list_conflicts(books.database, tenant, limit=limit)
    rows = [
        {
            "event": one.id,
            "tenant": one.tenant_id,
            "seen": instant(one.seen_us),
            "differs": "; ".join(f"{name}: booked {before}, then {after}" for name, before, after in one.differences),
        }
        for one in found
    ]
    write_rows(rows, form, ("event", "tenant", "seen", "differs"))


def _event(found: FoundEvent) -> dict[str, Any]:
    event = found.event
    plain = ("id", "tenant_id", "key_id", "project", "model", "backend", "upstream_model", "endpoint")
    return {
        **{name.removesuffix("_id"): getattr(event, name) for name in plain},
        "started": instant(event.started_us),
        "ended": instant(event.ended_us),
        **{name: getattr(event, name) for name in ("status", "outcome", "lane", "stream", "source", "attempts", "queue_ms", "ttft_us")},
        **{bucket: getattr(event.meter, bucket) for bucket in BUCKETS},
        "rate_id": event.rate_id,
        "prices": " ".join(f"{bucket}={price}" for bucket, price in rate_figures(found.prices).items()) or None,
        "credits": format_credits(event.charge_ncr),
        "paid_from_credits": format_credits(event.cover_ncr),
        "debt": format_credits(event.cover_ncr - found.covered_ncr),
        "past_credits": format_credits(found.past_ncr),
        "past_credits_invoiced": format_credits(found.invoiced_ncr),
    }
