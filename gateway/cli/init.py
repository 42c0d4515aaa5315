"""`weir init`: a commented configuration to start from, every key of which is real."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from billing.errors import Conflict, Invalid
from gateway.config import config_path


def init(
    path: Annotated[Path, typer.Argument(help="where to write it")] = Path("weir.yaml"),
    force: Annotated[bool, typer.Option("--force", help="overwrite the file that is there")] = False,
) -> None:
    """Write a commented configuration file."""
    target = path / "weir.yaml" if path.is_dir() else path
    text = files("gateway.config").joinpath("template.yaml").read_text("utf-8")
    try:
        with target.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Conflict(f"{target} is there already; --force overwrites it") from None
    except OSError as error:
        raise Invalid("path", f"{target}: cannot be written: {error.strerror or error}") from None
    typer.echo(f"wrote {target}")
    if config_path(None) == target:
        typer.echo("Note: the next `weir serve` here uses it, in place of the small model of its own. Before that: weir check")
    else:
        typer.echo(f"It is used by: weir serve --config {target}. Before that: weir check --config {target}")
