"""`weir ledger`: whether the books agree with the facts."""

import typer

from billing.usage.verify import verify as find_differences
from gateway.cli.books import ConfigOption, open_books

app = typer.Typer(no_args_is_help=True, help="The ledger: whether the books agree with the facts.")


@app.callback()
def _ledger() -> None:
    """Keep `verify` a name of its own, also while it is the only one."""


@app.command()
def verify(config: ConfigOption = None) -> None:
    """Add everything up and name every difference between usage, grants and ledger; exit code 1 if there is one."""
    with open_books(config) as books, books.database.read(long=True) as session:
        differences = find_differences(session)
    for difference in differences:
        typer.echo(difference)
    if differences:
        typer.echo(f"weir: {len(differences)} difference{'s' if len(differences) > 1 else ''}: a bug; keep the database and report it", err=True)
        raise typer.Exit(1)
    typer.echo("the books agree: every transaction sums to 0, and usage, grants and ledger say the same")
