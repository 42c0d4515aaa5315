"""`weir check`: reads the configuration as `weir serve` would, and starts nothing."""

import typer

from gateway.cli.books import ConfigOption
from gateway.config import ConfigError, config_path, load_settings, unknown_names


def check(config: ConfigOption = None) -> None:
    """Check the configuration file and the WEIR_* names; exit code 2 when something is wrong."""
    path = config_path(config)
    unknown = unknown_names()
    try:
        settings = load_settings(path)
    except ConfigError as error:
        raise ConfigError("\n".join([str(error), *unknown])) from None
    if unknown:
        raise ConfigError("\n".join(unknown))
    source = str(path) if path is not None else "defaults and environment (no file)"
    database = "SQLite" if settings.embedded else "PostgreSQL"
    typer.echo(f"{source}: good. {_count(settings.backends, 'backend')}, {_count(settings.models, 'model')}, database {database}")
    unused = sorted(set(settings.backends) - {route.backend for model in settings.models.values() for route in model.routes})
    if unused:
        typer.echo(f"note: no model is routed to {', '.join(unused)}")


def _count(things: object, noun: str) -> str:
    number = len(things) if isinstance(things, dict) else 0
    return f"{number} {noun}{'' if number == 1 else 's'}"
