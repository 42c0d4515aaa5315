"""`weir tenant`: who is served, on which plan."""

from typing import Annotated, Any

import typer

from billing.grants.periods import wall_clock
from billing.money import format_credits
from billing.operations import subscriptions, tenants, usage
from billing.tenants.tenant import Tenant
from gateway.cli.books import Books, ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, YesOption, confirm, write_one, write_rows
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="Tenants: who is served, on which plan.")
TenantArgument = Annotated[str, typer.Argument(metavar="TENANT")]
BRIEF = ("id", "name", "state", "plan", "timezone")
CHANGE = ("tenant", "from", "to", "at", "credits_more", "credits_more_for_each_key", "period_ends", "said")
COLUMNS = ("id", "name", "state", "plan", "next_plan", "currency", "timezone", "created")


@app.command()
def create(
    tenant: TenantArgument,
    *,
    plan: Annotated[str, typer.Option("--plan", help="the plan it starts on, from now")],
    name: Annotated[str, typer.Option("--name")] = "",
    currency: Annotated[str, typer.Option("--currency", help="of its invoices")] = "USD",
    timezone: Annotated[str, typer.Option("--timezone", help="whose days and months it is billed by, like Europe/Berlin; it stays")] = "UTC",
    config: ConfigOption = None,
) -> None:
    """Create a tenant on a plan; its first month begins now, or with its first request where the plan says so."""
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
        found = tenants.get_tenant(books.database, tenant)
        balance = usage.balance(books.database, tenant, books.now_us)
        write_one(
            _row(books, found)
            | {"period": _period(books, found)}
            | {"credits_left": format_credits(balance.remaining_ncr)}
            | ({"of_which_for_some_requests_only": format_credits(balance.scoped_ncr)} if balance.scoped_ncr else {})
            | {"credits_granted": format_credits(balance.limit_ncr)}
        )


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
def plan(
    tenant: TenantArgument,
    plan: Annotated[str, typer.Argument(metavar="PLAN")],
    *,
    when: Annotated[str | None, typer.Option("--when", help="now or period-end; left out: now, but fewer credits come when the period ends")] = None,
    yes: YesOption = False,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """Move a tenant to a plan's newest version. Its months stay as they are; more credits come at once, pro rata for the rest of the period.

    A change that is still to come is replaced; naming the plan version that the tenant is on takes it back.
    """
    with open_books(config) as books:
        planned = subscriptions.preview_plan(books.database, tenant, plan, books.now_us, when=when)
        confirm(f"{_sentence(planned)} Do it?", yes)
        change = subscriptions.change_plan(books.database, tenant, plan, books.now_us, when=when)
    if form is Format.table:
        typer.echo(subscriptions.in_words(change))
    else:
        write_rows([_change(change)], form, CHANGE)


@app.command()
def stay(tenant: TenantArgument, config: ConfigOption = None) -> None:
    """Take back a change of plan that is to come when the period ends."""
    with open_books(config) as books:
        current = subscriptions.cancel_change(books.database, tenant, books.now_us)
    typer.echo(f"tenant {tenant} stays on plan {current.plan} version {current.version}")


def _sentence(change: subscriptions.Change) -> str:
    words = subscriptions.in_words(change)
    return f"{words[0].upper()}{words[1:]}."


def _change(change: subscriptions.Change) -> dict[str, Any]:
    """Write a change's figures, exact where its words are rounded."""
    return {
        "tenant": change.tenant_id,
        "from": f"{change.before.plan} v{change.before.version}" if change.before else None,
        "to": f"{change.plan} v{change.version}",
        "at": instant(change.at_us),
        "credits_more": format_credits(change.credits_ncr),
        "credits_more_for_each_key": format_credits(change.seat_ncr),
        "period_ends": instant(change.period_end_us) or None,
        "said": subscriptions.in_words(change),
    }


def _row(books: Books, tenant: Tenant) -> dict[str, Any]:
    found = subscriptions.standing(books.database, tenant.id, books.now_us)
    return {
        "id": tenant.id,
        "name": tenant.name,
        "state": tenant.state,
        "plan": f"{found.current.plan} v{found.current.version}" if found.current else None,
        "next_plan": f"{found.next.plan} v{found.next.version} from {instant(found.next.started_us)}" if found.next else None,
        "currency": tenant.currency,
        "timezone": tenant.timezone,
        "created": instant(tenant.created_us),
    }


def _period(books: Books, tenant: Tenant) -> str | None:
    found = subscriptions.standing(books.database, tenant.id, books.now_us)
    if found.period is None:
        return "begins with its first request" if found.current else None
    return f"{wall_clock(found.period.start_us, tenant.timezone)} until {wall_clock(found.period.end_us, tenant.timezone)}"
