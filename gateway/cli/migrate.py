"""`weir migrate`: brings the database to this version's tables, for whoever does that apart from starting."""

import typer

from gateway.cli.books import ConfigOption, open_books


def migrate(config: ConfigOption = None) -> None:
    """Create or update the database's tables. Safe to run at any time, and more than once."""
    with open_books(config, create=True):
        typer.echo("the database is up to date")
