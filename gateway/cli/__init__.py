"""The `weir` command. Its nouns are files of this folder; each works on the books through the same functions as /admin.

A mistake of the user ends with one clear line and exit code 2; a thing that cannot be done now (a database away, a port taken) with 1.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from pydantic import ValidationError

from backends.errors import BackendError
from billing.errors import BillingError, BooksUnavailable, Invalid
from gateway.cli.failure import Failure
from gateway.cli.root import app
from gateway.config import ConfigError
from gateway.config.words import plain, shows_value

__all__ = ["main"]


OPTIONS = {  # field -> option, where they differ
    "requests_per_minute": "rpm", "tokens_per_minute": "tpm", "allowed_models": "models", "monthly_fee": "fee",
    "expires_us": "expires", "effective_us": "from", "key_id": "key", "plan_id": "plan", "tenant_id": "tenant",
    "end_day": "until",
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Run the command line, and exit with its code."""
    try:
        app(args=argv, prog_name="weir")
    except (Failure, BooksUnavailable, BackendError) as error:
        _stop(str(error), 1)
    except Invalid as error:
        _stop(_refused(error, sys.argv[1:] if argv is None else argv), 2)
    except (BillingError, ConfigError) as error:
        _stop(str(error), 2)
    except ValidationError as error:
        _stop("\n".join(_fault(fault) for fault in error.errors()), 2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away, as `head` does
        raise SystemExit(0) from None


def _fault(fault: Mapping[str, Any]) -> str:
    """Say a fault of a form with the option that was typed; where a whole form does not add up, options in place of its fields."""
    text = plain(fault) + (f", not `{fault['input']}`" if shows_value(fault) else "")
    if fault["loc"]:
        return f"{_option(str(fault['loc'][0]))}: {text}"
    return re.sub(r"`(\w+)`|\b(\w+_\w+)\b", lambda match: _option(match[1] or match[2]), text)


def _refused(error: Invalid, argv: Sequence[str]) -> str:
    """Say what the books refused, with the option where one was typed, and the command that shows what would be right."""
    option = _option(error.field)
    typed = any(word == option or word.startswith(f"{option}=") for word in argv)
    return (error.named(option) if typed else str(error)) + (f"; those there are: {error.command}" if error.command else "")


def _option(field: str) -> str:
    return "--" + OPTIONS.get(field, field).replace("_", "-")


def _stop(text: str, code: int) -> None:
    for line in text.splitlines() or [""]:
        typer.echo(f"weir: {line}", err=True)
    raise SystemExit(code)
