"""A tenant, its keys and a change, as values."""

import re

import msgspec

from billing.errors import Invalid

STATES = ("active", "suspended")
KEY_KINDS = ("tenant", "admin")
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """A customer: billed in `currency`, its months and days counted in `timezone`."""

    id: str
    name: str
    state: str
    currency: str
    timezone: str
    created_us: int


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an issued key; the secret is not. `hint` is its last characters, to tell keys apart."""

    id: str
    kind: str
    tenant_id: str | None
    name: str
    hint: str
    project: str | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    created_us: int
    expires_us: int | None
    revoked_us: int | None


class Change(msgspec.Struct, frozen=True):
    """One admin write; `tenant_id` None concerns everybody."""

    seq: int
    tenant_id: str | None
    at_us: int


def check_slug(field: str, text: str) -> str:
    """Return the text when it can name a tenant or a plan, else raise `Invalid`."""
    if _SLUG.fullmatch(text) is None:
        raise Invalid(field, f"{field}: `{text[:80]}` is not usable; 1 to 63 characters of a-z, 0-9 and -, the first a letter or a digit, like acme-research")
    return text
