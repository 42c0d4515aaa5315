"""`weir project`: the parts of a tenant that its keys belong to, and the share of its credits that each may use."""

from typing import Annotated, Any

import typer

from billing.money import format_credits
from billing.operations import projects
from billing.operations.projects import Share
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.limits import parse_ceiling
from gateway.cli.render import Format, FormatOption, printable, write_rows
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="Projects: the parts of a tenant, and their ceilings.")
TenantArgument = Annotated[str, typer.Argument(metavar="TENANT")]
BRIEF = ("name", "ceiling", "used", "keys")
COLUMNS = ("tenant", "name", "ceiling", "used", "keys", "created")


@app.command("set")
def write(
    tenant: TenantArgument,
    name: Annotated[str, typer.Argument(metavar="PROJECT")],
    *,
    ceiling: Annotated[str, typer.Option("--ceiling", help="the most of the tenant's credits its keys may use in a period, together; or none")],
    config: ConfigOption = None,
) -> None:
    """Give a project a ceiling; one that is not there is made. Past it, its requests are as a tenant's past its credits."""
    ceiling_ncr = parse_ceiling(ceiling)
    with open_books(config) as books:
        made = projects.set_project(books.database, tenant, name, ceiling_ncr=ceiling_ncr, now_us=books.now_us)
    share = "no ceiling" if made.ceiling_ncr is None else f"at most {format_credits(made.ceiling_ncr)} credits a period"
    typer.echo(f"project {printable(name)} of {tenant}: {share}")


@app.command("list")
def index(tenant: TenantArgument, form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """List a tenant's projects with what each used of its credits in this period."""
    with open_books(config) as books:
        found = projects.list_projects(books.database, tenant, books.now_us)
    write_rows([_row(share) for share in found], form, COLUMNS, "no projects; a key makes one: weir key issue TENANT --project NAME", brief=BRIEF)


def _row(share: Share) -> dict[str, Any]:
    return {
        "tenant": share.project.tenant_id,
        "name": share.project.name,
        "ceiling": None if share.project.ceiling_ncr is None else format_credits(share.project.ceiling_ncr),
        "used": None if share.used_ncr is None else format_credits(share.used_ncr),
        "keys": share.keys,
        "created": instant(share.project.created_us),
    }
