"""`weir grant`: credits given beside the plan's monthly allowance."""

from typing import Annotated, Any

import typer

from billing.errors import Invalid
from billing.grants.grant import Grant
from billing.money import format_credits, parse_credits, parse_money
from billing.operations import grants
from billing.operations.tenants import get_tenant
from billing.operations.usage import GrantStanding
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import DryRunOption, Format, FormatOption, YesOption, confirm, printable, write_rows
from gateway.wire.instants import parse
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="Grants: credits beside the monthly allowance.")
BRIEF = ("id", "tenant", "kind", "credits", "remaining", "expires")
COLUMNS = (
    "id", "tenant", "kind", "credits", "remaining", "used", "expired_credits", "voided_credits", "priority", "effective", "expires", "voided",
    "key_id", "project", "models", "note",
)  # fmt: skip


@app.command()
def add(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")],
    *,
    credits: Annotated[str, typer.Option("--credits")],
    kind: Annotated[str, typer.Option("--kind", help="topup, promotion or adjustment")] = "topup",
    expires: Annotated[str | None, typer.Option("--expires", help="2027-01-01 (midnight UTC), or an instant with its zone; left out: never")] = None,
    effective: Annotated[str | None, typer.Option("--from", help="usable from then; left out: now")] = None,
    priority: Annotated[int | None, typer.Option("--priority", help="lower burns first; left out: by kind")] = None,
    id: Annotated[str | None, typer.Option("--id", help="your own id: given twice, the second is refused")] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="KEY_ID", help="only this key's requests may use it")] = None,
    project: Annotated[str | None, typer.Option("--project", help="only this project's keys may use it")] = None,
    models: Annotated[str | None, typer.Option("--models", help="only requests for these models may use it: a,b")] = None,
    price: Annotated[str | None, typer.Option("--price", help="sells them: a line on the invoice, in the tenant's currency, like 49.00")] = None,
    note: Annotated[str, typer.Option("--note")] = "",
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Give a tenant credits, or sell it some."""
    amount_ncr = parse_credits(credits, "--credits")
    chosen = None if models is None else [name.strip() for name in models.split(",") if name.strip()]
    if amount_ncr <= 0:
        raise Invalid("credits", f"--credits: {credits} must be more than 0")
    with open_books(config, dry_run=dry_run) as books:
        made = grants.add_grant(
            books.database,
            tenant_id=tenant,
            amount_ncr=amount_ncr,
            kind=kind,
            id=id,
            priority=priority,
            effective_us=None if effective is None else parse(effective, "--from"),
            expires_us=None if expires is None else parse(expires, "--expires"),
            note=note,
            key_id=key,
            project=project,
            models=chosen,
            price_minor=None if price is None else parse_money(price, get_tenant(books.database, tenant).currency, "--price"),
            now_us=books.now_us,
        )
        books.warn_unrouted(made.models or (), "what the grant says of it")
    until = "until " + instant(made.expires_us) if made.expires_us else "without end"
    whose = f" ({printable(scope)})" if (scope := scope_of(made)) else ""
    typer.echo(f"grant {made.id}: {format_credits(made.amount_ncr)} credits for {tenant}{whose}, {until}")


@app.command("list")
def index(
    tenant: Annotated[str | None, typer.Argument(metavar="TENANT", help="whose; left out: all")] = None,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """List grants in the order they are used up; void and expired ones too."""
    with open_books(config) as books:
        found = grants.list_grants(books.database, tenant)
    rows = [_row(grant) for grant in found]
    brief = [*BRIEF, "scope"] if any(row["scope"] for row in rows) else BRIEF
    write_rows(rows, form, COLUMNS, "no grants; a plan's allowance appears with the month's first use", brief=brief)


@app.command()
def void(grant: Annotated[str, typer.Argument(metavar="GRANT_ID")], yes: YesOption = False, dry_run: DryRunOption = False, config: ConfigOption = None) -> None:
    """Take back what is left of a grant; what was used stays used."""
    with open_books(config, dry_run=dry_run) as books:
        grants.get_grant(books.database, grant)
        confirm(f"Take back what is left of grant `{grant}`?", yes or dry_run)
        voided = grants.void_grant(books.database, grant, books.now_us)
    typer.echo(f"grant {grant} is void; {format_credits(voided.voided_ncr)} credits were left of it")


def scope_of(grant: Grant | GrantStanding) -> str:
    """Say who may use a grant, for a person; nothing where all of the tenant's requests may."""
    parts = [("key", grant.key_id), ("project", grant.project), ("models", None if grant.models is None else ",".join(grant.models))]
    return ", ".join(f"{what} {which}" for what, which in parts if which is not None)


def _row(grant: Grant) -> dict[str, Any]:
    return {
        "id": grant.id,
        "tenant": grant.tenant_id,
        "kind": grant.kind,
        "credits": format_credits(grant.amount_ncr),
        "remaining": format_credits(grant.remaining_ncr),
        "used": format_credits(grant.used_ncr),
        "expired_credits": format_credits(grant.expired_ncr),
        "voided_credits": format_credits(grant.voided_ncr),
        "priority": grant.priority,
        "effective": instant(grant.effective_us),
        "expires": instant(grant.expires_us) or None,
        "voided": instant(grant.voided_us) or None,
        "scope": scope_of(grant) or None,
        "key_id": grant.key_id,
        "project": grant.project,
        "models": None if grant.models is None else list(grant.models),
        "note": grant.note,
    }
