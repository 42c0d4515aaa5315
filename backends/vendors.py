"""The vendors that speak OpenAI's dialect, and how each of them departs from it.

One row of `vendors.yaml` is one vendor: adding one touches nothing else. A row is checked when the file is read, so that a
misspelt quirk stops the start instead of being ignored.
"""

from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from backends.config import Name, Strict, check_base_url
from backends.errors import BadConfig


class RateLimitQuirk(Strict):
    """A rate limit that hides behind another status: `marks` are looked for in the body, in lower case."""

    status: int = Field(ge=400, le=599)
    marks: tuple[str, ...] = Field(min_length=1)


class ErrorsQuirk(Strict):
    """Errors inside an HTTP 200: the answer's `member` holds a `code`; any but `ok` is an error, of the status named or else 502."""

    member: str
    code: str
    ok: int = 0
    statuses: dict[int, int] = Field(default_factory=dict)


class Vendor(Strict):
    """One row; the fields are explained at the head of the file."""

    name: Name
    title: str = Field(min_length=2)
    base_url: str | None
    auth: Literal["bearer", "api-key", "x-api-key"] = "bearer"
    models: bool = True
    paths: dict[Literal["chat/completions", "completions", "embeddings"], str] = Field(default_factory=dict)
    refuses: frozenset[str] = frozenset()
    withholds: frozenset[str] = frozenset()
    accepts: frozenset[str] | None = None
    renames: dict[str, str] = Field(default_factory=dict)
    usage: Literal["openai", "reasoning_beside"] = "openai"
    rate_limit: RateLimitQuirk | None = None
    errors: ErrorsQuirk | None = None
    flex: str | None = None
    note: str = ""

    @field_validator("base_url")
    @classmethod
    def _is_a_base_url(cls, url: str | None) -> str | None:
        return None if url is None else check_base_url(url)


PLAIN = Vendor(name="plain", title="any server of OpenAI's dialect", base_url=None)  # what a backend without a vendor is taken for


def read_vendors(text: str) -> dict[str, Vendor]:
    """Read rows of YAML into vendors by name. Raises `BadConfig` naming the row and the field."""
    rows = yaml.safe_load(text)
    if not isinstance(rows, dict):
        raise BadConfig("vendors: the file must map names to rows")
    vendors: dict[str, Vendor] = {}
    for name, row in rows.items():
        if not isinstance(row, dict):
            raise BadConfig(f"vendors: `{name}` is no row of fields")
        try:
            vendors[name] = Vendor(name=name, **row)
        except (ValidationError, TypeError) as error:
            raise BadConfig(f"vendors: `{name}`: {error}") from error
    return vendors


@cache
def vendors() -> dict[str, Vendor]:
    """Return the vendors that ship with the program."""
    return read_vendors(files("backends").joinpath("vendors.yaml").read_text(encoding="utf-8"))


def vendor_named(name: str | None) -> Vendor:
    """Find a vendor; no name is the plain dialect. Raises `BadConfig` listing the names there are."""
    if name is None:
        return PLAIN
    found = vendors().get(name)
    if found is None:
        raise BadConfig(f"there is no vendor `{name}`; one of {', '.join(sorted(vendors()))}; or give `urls` and no vendor")
    return found
