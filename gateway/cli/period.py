"""`weir period`: the months tenants are billed by."""

from typing import Annotated, Any

import typer

from billing.grants.periods import wall_clock
from billing.operations import periods
from billing.operations.periods import Period
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, write_rows
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="Periods: the months tenants are billed by, open, draft and closed.")
TenantArgument = Annotated[str, typer.Argument(metavar="TENANT")]
COLUMNS = ("tenant", "begins", "ends", "state", "closes", "closed", "close_seq", "requests", "sha256")
BRIEF = ("begins", "ends", "state", "closes", "closed", "requests")


@app.command("list")
def index(tenant: TenantArgument, form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """List a tenant's periods: open until they end, draft while they take late usage, then closed and never changed."""
    with open_books(config) as books:
        found = periods.list_periods(books.database, tenant, books.now_us)
    write_rows([_row(one) for one in found], form, COLUMNS, "no periods yet: its months begin with its first request", brief=BRIEF)


@app.command()
def close(tenant: TenantArgument, config: ConfigOption = None) -> None:
    """Close a tenant's periods whose end and grace have passed, without waiting for the gateway to do it."""
    with open_books(config) as books:
        done = periods.close_tenant(books.database, tenant, books.now_us)
        left = [one for one in periods.list_periods(books.database, tenant, books.now_us) if one.state != "closed"]
    until = f"; the next can be closed from {instant(left[0].closes_us)} on" if left else ""
    typer.echo(f"tenant {tenant}: {'nothing is due' if not done else 'closed what was due'}{until}")


def _row(one: Period) -> dict[str, Any]:
    return {
        "tenant": one.tenant_id,
        "begins": wall_clock(one.start_us, one.timezone),
        "ends": wall_clock(one.end_us, one.timezone),
        "state": one.state,
        "closes": instant(one.closes_us),
        "closed": instant(one.closed_us) or None,
        "close_seq": one.close_seq,
        "requests": one.events,
        "sha256": one.sha256,
    }
