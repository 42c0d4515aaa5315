"""Opens the books for a command: the configuration, the migrated database, the keys' hasher and the clock.

The CLI works on the database directly, whether a gateway is running or not; a running one notices through the change feed.
"""

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager, nullcontext
from getpass import getuser
from pathlib import Path
from typing import Annotated

import typer

from billing.db import Database
from billing.errors import Invalid
from billing.tenants.keys import KeyHasher
from gateway.cli.children import LOCAL_MODEL
from gateway.clock import Clock, SystemClock
from gateway.config import Settings, config_path, load_settings, pepper

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="weir.yaml; default: $WEIR_CONFIG, else ./weir.yaml if there is one", show_default=False)
]


class Books:
    """What a command works with."""

    def __init__(self, settings: Settings, database: Database, clock: Clock) -> None:
        self.settings = settings
        self.database = database
        self.clock = clock

    @property
    def now_us(self) -> int:
        """The instant, in UTC epoch microseconds."""
        return self.clock.now_us()

    def warn_unrouted(self, models: Iterable[str], what: str) -> None:
        """Say on standard error which of the models no configuration here names; `what` waits until one does, which is no mistake."""
        known = list(self.settings.models) or [LOCAL_MODEL]
        for model in models:
            if model not in known:
                named = ", ".join(f"`{name}`" for name in known)
                typer.echo(f"warning: no configuration names a model `{model}` (known here: {named}); {what} waits until one does", err=True)

    def hasher(self) -> KeyHasher:
        """Return what digests keys. Raises `ConfigError` when there is no secret to do it with."""
        return KeyHasher(pepper(self.settings))


def operator() -> str:
    """Say who works at this command line, for the audit log: `cli:` and the name that the system has for the user."""
    try:
        return f"cli:{getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return f"cli:{os.getuid()}"


def missing_file(settings: Settings) -> Path | None:
    """Return the SQLite file of the books where it is not there yet; None where it is, or where a server has them."""
    if not settings.embedded:
        return None
    path = Path(settings.database_url.removeprefix("sqlite:///").partition("?")[0]).absolute()
    return None if path.exists() else path


@contextmanager
def open_books(config: Path | None, *, create: bool = False, dry_run: bool = False) -> Generator[Books]:
    """Open the books that the configuration names, migrated. Raises `ConfigError`, `BooksUnavailable`.

    `dry_run`: what is done with them is undone at the end, and the command says so behind its own words.

    A SQLite file that is not there is made only where `create` says so: in the wrong directory an empty one would look like lost books. Raises `Invalid`.
    """
    settings = load_settings(config_path(config))
    if not create and (path := missing_file(settings)) is not None:
        raise Invalid("config", f"no database at {path}; run this where you run `weir serve`, or give --config")
    database = Database(settings.database_url).acting(operator())
    try:
        database.migrate()
        with database.rehearsing() if dry_run else nullcontext(database) as working:
            yield Books(settings, working, SystemClock())
        if dry_run:
            typer.echo("dry run: nothing was changed", err=True)
    finally:
        database.close()
