"""`weir tenant`: who is served, on which plan."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from billing.errors import Invalid
from billing.grants.periods import wall_clock
from billing.money import format_credits
from billing.operations import closing, profiles, subscriptions, tenants, usage
from billing.operations.imports import import_tenants
from billing.operations.pages import LIMIT_MAX
from billing.operations.sheets import ImportRefused
from billing.tenants.profile import Profile
from billing.tenants.tenant import Tenant
from gateway.cli.books import Books, ConfigOption, open_books
from gateway.cli.company import AddressOption
from gateway.cli.render import DryRunOption, Format, FormatOption, YesOption, confirm, write_one, write_rows
from gateway.wire.instants import show as instant
from gateway.wire.sheets import SHOWN, shown, tenant_row

app = typer.Typer(no_args_is_help=True, help="Tenants: who is served, on which plan.")
TenantArgument = Annotated[str, typer.Argument(metavar="TENANT")]
_Text = Annotated[str | None, typer.Option(help='"" takes it away')]
BRIEF = ("id", "name", "state", "plan", "timezone")
CHANGE = ("tenant", "from", "to", "at", "credits_more", "credits_more_for_each_key", "period_ends", "said")
COLUMNS = ("id", "name", "state", "plan", "next_plan", "currency", "timezone", "created", "closes")


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
def index(
    *,
    state: Annotated[str | None, typer.Option("--state", help="active, suspended or closed")] = None,
    plan: Annotated[str | None, typer.Option("--plan", help="on this plan now")] = None,
    text: Annotated[str, typer.Option("--text", help="a part of the id or the name")] = "",
    sort: Annotated[str, typer.Option("--sort", help="id, name or created; downwards with a - before it, like --sort=-created")] = "id",
    after: Annotated[str, typer.Option("--after", metavar="TENANT", help="go on after this one")] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="how many; left out: all")] = None,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """List tenants, all of them or some. As CSV with all they are on paper: edit it, and `weir tenant import FILE --update` takes it back."""
    rows: list[dict[str, Any]] = []
    more: str | None = after
    with open_books(config) as books:
        while more is not None and (limit is None or len(rows) < limit):
            most = LIMIT_MAX if limit is None else min(LIMIT_MAX, limit - len(rows))
            page = tenants.page_tenants(books.database, limit=most, after=more, sort=sort, state=state, plan=plan, text=text, now_us=books.now_us)
            rows += _page(books, page.items)
            more = page.after
    write_rows(rows, form, (*COLUMNS, *profiles.FIELDS), "no tenants; create one: weir tenant create ID --plan PLAN", brief=BRIEF)
    if more is not None:
        typer.echo(f"there are more: --after {more}", err=True)


@app.command()
def show(tenant: TenantArgument, config: ConfigOption = None) -> None:
    """Show a tenant and its balance."""
    with open_books(config) as books:
        paper = profiles.get_profile(books.database, tenant)
        found = paper.tenant
        balance = usage.balance(books.database, tenant, books.now_us)
        write_one(
            tenant_row(found, subscriptions.standing(books.database, tenant, books.now_us), books.now_us)
            | {"period": _period(books, found)}
            | {"credits_left": format_credits(balance.remaining_ncr)}
            | ({"of_which_for_some_requests_only": format_credits(balance.scoped_ncr)} if balance.scoped_ncr else {})
            | {"credits_granted": format_credits(balance.limit_ncr)}
            | {field: " / ".join(value) if isinstance(value, list) else value for field, value in profiles.figures(paper.profile).items() if value}
        )


@app.command("set")
def write(
    tenant: TenantArgument,
    *,
    name: Annotated[str | None, typer.Option("--name", help="what it is called here")] = None,
    legal_name: Annotated[str | None, typer.Option("--legal-name", help="whom an invoice is made out to")] = None,
    address: AddressOption = None,
    country: _Text = None,
    tax_id: _Text = None,
    email: _Text = None,
    tax_category: Annotated[
        str | None, typer.Option("--tax-category", help="S standard, Z zero, E exempt, AE reverse charge, G export, O outside of tax")
    ] = None,
    tax_percent: Annotated[str | None, typer.Option("--tax-percent", help="of category S, like 19")] = None,
    tax_note: Annotated[str | None, typer.Option("--tax-note", help="why no tax is charged, where that has to be said")] = None,
    po_number: _Text = None,
    cost_centre: _Text = None,
    language: Annotated[str | None, typer.Option("--language", help="of its invoices: en or zh")] = None,
    config: ConfigOption = None,
) -> None:
    """Change what a tenant is called, and what an invoice to it says; what is left out stays. Invoices that are issued keep what they say."""
    given = {field: value for field, value in locals().items() if field in profiles.FIELDS and value is not None}
    with open_books(config) as books:
        changed = profiles.change_profile(books.database, tenant, given, books.now_us, name=name)
    figures = {field: " / ".join(value) if isinstance(value, list) else value for field, value in profiles.figures(changed.profile).items()}
    write_one({"id": tenant, "name": changed.tenant.name} | figures)


@app.command()
def close(
    tenant: TenantArgument,
    *,
    when: Annotated[str, typer.Option("--when", help="now or period-end")] = closing.NOW,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
) -> None:
    """Close a tenant for good: it is refused, its keys are revoked, its subscription ends. What it used is invoiced all the same."""
    with open_books(config, dry_run=dry_run) as books:
        with books.database.rehearsing() as tried:
            planned = closing.in_words(closing.close_tenant(tried, tenant, books.now_us, when=when))
        confirm(f"{planned[0].upper()}{planned[1:]}. Do it?", yes or dry_run)
        said = closing.in_words(closing.close_tenant(books.database, tenant, books.now_us, when=when))
    typer.echo(said)


@app.command("import")
def take(
    file: Annotated[Path, typer.Argument(metavar="FILE.csv")],
    *,
    update: Annotated[bool, typer.Option("--update", help="rows may name tenants that are there, and change them")] = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """Import tenants from CSV, all of them or none; every fault is told with its line.

    Columns are those of `weir tenant list --format csv`; `id` is needed, and `plan` for a new one. One that is left out stays as it is.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise Invalid("file", f"{file}: cannot be read: {error.strerror or error}") from None
    with open_books(config, dry_run=dry_run) as books:
        try:
            done = import_tenants(books.database, data, books.now_us, update=update, shown=shown, shows=SHOWN)
        except ImportRefused as refused:
            write_rows([msgspec.structs.asdict(fault) for fault in refused.faults], form, ("line", "id", "field", "message"))
            lines = len({fault.line for fault in refused.faults})
            raise Invalid("file", f"{lines} row{'' if lines == 1 else 's'} of {file} cannot be imported, and nothing was") from None
    write_rows([msgspec.structs.asdict(row) for row in done], form, ("line", "id", "action"), "the file has no rows")


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
    when: Annotated[
        str | None,
        typer.Option(
            "--when", help="now, period-end, or the day on which a later period begins, like 2027-01-10; left out: now, but fewer credits when the period ends"
        ),
    ] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """Move a tenant to a plan's newest version. Its months stay as they are; more credits come at once, pro rata for the rest of the period.

    A change that is still to come is replaced; naming the plan version that the tenant is on takes it back.
    """
    with open_books(config, dry_run=dry_run) as books:
        with books.database.rehearsing() as tried:
            planned = subscriptions.change_plan(tried, tenant, plan, books.now_us, when=when)
        confirm(f"{_sentence(planned)} Do it?", yes or dry_run)
        change = subscriptions.change_plan(books.database, tenant, plan, books.now_us, when=when)
    if form is Format.table:
        typer.echo(subscriptions.in_words(change))
    else:
        write_rows([_change(change)], form, CHANGE)


@app.command()
def stay(tenant: TenantArgument, config: ConfigOption = None) -> None:
    """Take back a change of plan, or a closing, that is to come."""
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


def _page(books: Books, page: list[Tenant]) -> list[dict[str, Any]]:
    found = subscriptions.page_standings(books.database, page, books.now_us)
    papers = profiles.page_profiles(books.database, page)
    return [tenant_row(tenant, found[tenant.id], books.now_us) | _paper(papers[tenant.id]) for tenant in page]


def _paper(profile: Profile) -> dict[str, Any]:
    return {field: "\n".join(value) if isinstance(value, list) else value for field, value in profiles.figures(profile).items()}


def _period(books: Books, tenant: Tenant) -> str | None:
    found = subscriptions.standing(books.database, tenant.id, books.now_us)
    if found.period is None:
        return "begins with its first request" if found.current else None
    return f"{wall_clock(found.period.start_us, tenant.timezone)} until {wall_clock(found.period.end_us, tenant.timezone)}"
