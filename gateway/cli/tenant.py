"""`weir tenant`: who is served, on which plan."""

from typing import Annotated, Any

import typer

from billing.money import format_credits
from billing.operations import plans, tenants, usage
from billing.tenants.tenant import Tenant
from gateway.cli.books import Books, ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, YesOption, confirm, write_one, write_rows
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="Tenants: who is served, on which plan.")
TenantArgument = Annotated[str, typer.Argument(metavar="TENANT")]
BRIEF = ("id", "name", "state", "plan", "timezone")
COLUMNS = ("id", "name", "state", "plan", "currency", "timezone", "created")


@app.command()
def create(
    tenant: TenantArgument,
    *,
    plan: Annotated[str, typer.Option("--plan", help="the plan it starts on, from now")],
    name: Annotated[str, typer.Option("--name")] = "",
    currency: Annotated[str, typer.Option("--currency", help="of its invoices")] = "USD",
    timezone: Annotated[str, typer.Option("--timezone", help="whose days and months it is billed by, like Europe/Berlin")] = "UTC",
    config: ConfigOption = None,
) -> None:
    """Create a tenant on a plan; its first month begins now."""
    with open_books(config) as books:
        made = tenants.create_tenant(books.database, id=tenant, name=name, plan=plan, currency=currency, timezone=timezone, now_us=books.now_us)
    typer.echo(f"tenant {made.id} is on plan {plan}. Next: weir key issue {made.id} --name NAME")


@app.command("list")
def index(form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """List every tenant."""
    with open_books(config) as books:
        rows = [_row(books, tenant) for tenant in tenants.list_tenants(books.database)]
    write_rows(rows, form, COLUMNS, "no tenants; create one: weir tenant create ID --plan PLAN", brief=BRIEF)


@app.command()
def show(tenant: TenantArgument, config: ConfigOption = None) -> None:
    """Show a tenant and its balance."""
    with open_books(config) as books:
        row = _row(books, tenants.get_tenant(books.database, tenant))
        balance = usage.balance(books.database, tenant, books.now_us)
        write_one(row | {"credits_left": format_credits(balance.remaining_ncr), "credits_granted": format_credits(balance.limit_ncr)})


@app.command()
def suspend(tenant: TenantArgument, yes: YesOption = False, config: ConfigOption = None) -> None:
    """Refuse a tenant's requests from now on, until it is resumed."""
    with open_books(config) as books:
        tenants.get_tenant(books.database, tenant)
        confirm(f"Refuse all requests of tenant `{tenant}`?", yes)
        tenants.set_state(books.database, tenant_id=tenant, state="suspended", now_us=books.now_us)
    typer.echo(f"tenant {tenant} is suspended")


@app.command()
def resume(tenant: TenantArgument, config: ConfigOption = None) -> None:
    """Serve a suspended tenant again."""
    with open_books(config) as books:
        tenants.set_state(books.database, tenant_id=tenant, state="active", now_us=books.now_us)
    typer.echo(f"tenant {tenant} is active")


@app.command()
def plan(tenant: TenantArgument, plan: Annotated[str, typer.Argument(metavar="PLAN")], yes: YesOption = False, config: ConfigOption = None) -> None:
    """Move a tenant to a plan's newest version, now: what is left of its allowance ends, and a new month begins."""
    with open_books(config) as books:
        tenants.get_tenant(books.database, tenant)
        plans.get_plan(books.database, plan)
        confirm(f"Move tenant `{tenant}` to plan `{plan}` now? What is left of this month's allowance ends.", yes)
        subscription = tenants.change_plan(books.database, tenant_id=tenant, plan=plan, now_us=books.now_us)
    typer.echo(f"tenant {tenant} is on plan {subscription.plan} version {subscription.version}")


def _row(books: Books, tenant: Tenant) -> dict[str, Any]:
    subscription = tenants.current_subscription(books.database, tenant.id, books.now_us)
    return {
        "id": tenant.id,
        "name": tenant.name,
        "state": tenant.state,
        "plan": f"{subscription.plan} v{subscription.version}" if subscription else None,
        "currency": tenant.currency,
        "timezone": tenant.timezone,
        "created": instant(tenant.created_us),
    }
