"""A tenant, its keys, its projects and a change, as values."""

import re

import msgspec

from billing.errors import Invalid
from billing.money import NCR_MAX, NCR_PER_CREDIT

STATES = ("active", "suspended")
KEY_ROLES = {"tenant": (), "admin": ("owner", "admin", "finance", "viewer"), "staff": ("manager", "member")}  # by kind; tenant's call models
KEY_KINDS = tuple(KEY_ROLES)
CLOSED = "closed"  # for good, from `closes_us` on: no state to be set
NAME_CHARS_MAX = 200
PROJECT_CHARS_MAX = 200
CEILING_NCR_MAX = NCR_MAX // 1000
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """A customer: billed in `currency`, its months and days counted in `timezone`; from `closes_us` on it is closed, for good."""

    id: str
    name: str
    state: str
    currency: str
    timezone: str
    created_us: int
    closes_us: int | None = None

    def closed(self, now_us: int) -> bool:
        """Tell whether it is closed at an instant."""
        return self.closes_us is not None and self.closes_us <= now_us

    def state_at(self, now_us: int) -> str:
        """Return active, suspended or closed."""
        return CLOSED if self.closed(now_us) else self.state


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an issued key; the secret is not. `hint` is its last characters, to tell keys apart.

    `ceiling_ncr`: the most of its tenant's credits that it may use in a period; None: no ceiling. `role`: what the bearer of an admin's key, or of one
    of a tenant's own staff, may do; None for a key that calls models, and does nothing else.
    """

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
    ceiling_ncr: int | None = None
    role: str | None = None


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a tenant that keys belong to, and its share: `ceiling_ncr` of the tenant's credits a period at most; None: no ceiling."""

    tenant_id: str
    name: str
    ceiling_ncr: int | None
    created_us: int


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


def check_name(name: str) -> str:
    """Return the text when a tenant can be called so, else raise `Invalid`."""
    if not 1 <= len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise Invalid("name", f"name: `{name[:80]}` is not usable; 1 to {NAME_CHARS_MAX} printable characters")
    return name


def check_project(name: str) -> str:
    """Return the text when it can name a project, else raise `Invalid`."""
    if not 1 <= len(name) <= PROJECT_CHARS_MAX or not name.isprintable() or name != name.strip():
        raise Invalid("project", f"project: `{name[:80]}` is not usable; 1 to {PROJECT_CHARS_MAX} printable characters, no space at its ends")
    return name


def check_ceiling(ncr: int | None) -> int | None:
    """Return an amount (ncr) when it can be a ceiling, else raise `Invalid`. 0 is one: no credits at all."""
    if ncr is not None and not 0 <= ncr <= CEILING_NCR_MAX:
        raise Invalid("ceiling", f"ceiling: {ncr} ncr is out of range; 0 to {CEILING_NCR_MAX // NCR_PER_CREDIT} credits a period, or none")
    return ncr
