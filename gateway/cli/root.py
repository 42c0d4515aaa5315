"""The tree of commands: which noun stands where."""

from importlib import metadata
from typing import Annotated

import typer

from gateway.cli import (
    audit,
    backend,
    company,
    cost,
    fx,
    grant,
    invoice,
    jobs,
    key,
    ledger,
    margin,
    period,
    plan,
    project,
    rate,
    reconcile,
    tenant,
    usage,
    webhook,
)  # fmt: skip
from gateway.cli.check import check
from gateway.cli.doctor import doctor
from gateway.cli.forecast import forecast
from gateway.cli.init import init
from gateway.cli.lanes import lanes
from gateway.cli.migrate import migrate
from gateway.cli.serve import serve
from gateway.cli.simulate import simulate
from gateway.cli.whatif import whatif

app = typer.Typer(
    name="weir",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="An inference gateway that meters every token once and slows, never cuts, a tenant past its credits.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"weir {metadata.version('weir-gateway')}")
        raise typer.Exit


@app.callback()
def weir(version: Annotated[bool, typer.Option("--version", help="show the version and end", callback=_version, is_eager=True)] = False) -> None:
    """Hold what stands before every command."""


app.command()(serve)
app.command()(init)
app.command()(check)
app.command()(doctor)
app.command()(migrate)
app.command()(lanes)
app.command()(simulate)
app.command()(forecast)
app.command()(whatif)
for noun in (company, tenant, project, key, plan, grant, rate, cost, fx, usage, invoice, period, margin, reconcile, ledger, audit, webhook, backend, jobs):
    app.add_typer(noun.app, name=noun.__name__.rpartition(".")[2])
