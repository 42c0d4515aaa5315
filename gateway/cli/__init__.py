"""The `weir` command. Its nouns are files of this folder; each works on the books through the same functions as /admin.

A mistake of the user ends with one clear line and exit code 2; a thing that cannot be done now (a database away, a port taken) with 1.
"""

import sys
from collections.abc import Mapping
from typing import Any

import typer
from pydantic import ValidationError

from backends.errors import BackendError
from billing.errors import BillingError, BooksUnavailable
from gateway.cli.failure import Failure
from gateway.cli.root import app
from gateway.config import ConfigError

__all__ = ["main"]


def main(argv: list[str] | None = None) -> None:
    """Run the command line, and exit with its code."""
    try:
        app(args=argv, prog_name="weir")
    except (Failure, BooksUnavailable, BackendError) as error:
        _stop(str(error), 1)
    except (BillingError, ConfigError) as error:
        _stop(str(error), 2)
    except ValidationError as error:
        _stop("\n".join(_fault(fault) for fault in error.errors()), 2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away, as `head` does
        raise SystemExit(0) from None


def _fault(fault: Mapping[str, Any]) -> str:
    field = ".".join(str(part) for part in fault["loc"]).replace("_", "-")
    return f"{f'--{field}: ' if field else ''}{fault['msg'].removeprefix('Value error, ')}"


def _stop(text: str, code: int) -> None:
    for line in text.splitlines() or [""]:
        typer.echo(f"weir: {line}", err=True)
    raise SystemExit(code)
