"""Who a tenant is on paper: read it, change some of it. One transaction each.

Fields are flat and named as people write them (`legal_name`, `address`, ...); what is left out stays, None or "" takes one away.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from billing.audit.store import record
from billing.db import Database
from billing.errors import Invalid
from billing.operations.tenants import require_tenant
from billing.tenants import store
from billing.tenants.profile import Party, Profile, check_profile
from billing.tenants.tenant import Tenant, check_name

PARTY_FIELDS = {"legal_name": "name", "address": "address", "country": "country", "tax_id": "tax_id", "email": "email"}
PAPER_FIELDS = ("tax_category", "tax_percent", "tax_note", "po_number", "cost_centre", "language")
FIELDS = (*PARTY_FIELDS, *PAPER_FIELDS)
_NOTES: dict[str, str | None] = {"O": "Not subject to tax"}  # what is said where nothing was; every other category than S and Z has to be told


class OnPaper(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant and what an invoice to it says."""

    tenant: Tenant
    profile: Profile


def get_profile(db: Database, tenant_id: str) -> OnPaper:
    """Return a tenant with what an invoice to it says. Raises `NotFound`."""
    with db.read() as session:
        tenant = require_tenant(session, tenant_id)
        return OnPaper(tenant=tenant, profile=store.get_profile(session, tenant))


def page_profiles(db: Database, tenants: Sequence[Tenant]) -> dict[str, Profile]:
    """Return what invoices to each tenant of a page say, by id. One query."""
    with db.read() as session:
        return store.get_profiles(session, tenants)


def change_profile(db: Database, tenant_id: str, changes: Mapping[str, Any], now_us: int, *, name: str | None = None) -> OnPaper:
    """Change some of what an invoice to a tenant says, and its `name` here; what is left out stays. A closed tenant's too: it is still invoiced.

    Raises `Invalid` (which field, and what would be right) and `NotFound`.
    """
    if not changes and name is None:
        raise Invalid("profile", f"nothing to change; give one of name, {', '.join(FIELDS)}")
    with db.write() as session:
        store.note_change(session, tenant_id, now_us)
        tenant = require_tenant(session, tenant_id)
        before = {"name": tenant.name, "profile": store.get_profile(session, tenant)}
        if name is not None:
            tenant = msgspec.structs.replace(tenant, name=check_name(name.strip() or tenant_id))
            store.set_name(session, tenant_id, tenant.name)
        profile = store.get_profile(session, tenant)
        if changes:
            profile = revise_profile(profile, changes)
            store.set_profile(session, tenant_id, profile)
        after = {"name": tenant.name, "profile": profile}
        record(session, now_us, action="tenant.profile", tenant_id=tenant_id, subject=tenant_id, before=before, after=after)
    return OnPaper(tenant=tenant, profile=profile)


def figures(profile: Profile) -> dict[str, Any]:
    """Write a profile as people name its fields; the address as a list of lines."""
    party = {field: getattr(profile.party, own) for field, own in PARTY_FIELDS.items()} | {"address": list(profile.party.address)}
    return party | {field: getattr(profile, field) for field in PAPER_FIELDS}


def revise_party(party: Party, changes: Mapping[str, Any]) -> Party:
    """Return a party with some fields changed, unchecked; None and "" take one away, but for the name."""
    given = {own: changes[field] or None for field, own in PARTY_FIELDS.items() if field in changes}
    if "name" in given:
        given["name"] = given["name"] or ""
    if "address" in given:
        given["address"] = tuple(line for line in given["address"] or () if line)
    return msgspec.structs.replace(party, **given)


def revise_profile(profile: Profile, changes: Mapping[str, Any]) -> Profile:
    """Return a profile with some fields changed, as they can stand on an invoice. Raises `Invalid`.

    With another tax category the old rate and the old reason say nothing any more: what is not given with it begins anew.
    """
    if unknown := next((field for field in changes if field not in FIELDS), None):
        raise Invalid(unknown, f"{unknown}: is not known here; one of {', '.join(FIELDS)}")
    given = {field: changes[field] or None for field in PAPER_FIELDS if field in changes}
    given |= {field: getattr(Profile(party=profile.party), field) for field in ("tax_category", "tax_percent", "language") if given.get(field, "") is None}
    category = str(given.get("tax_category", profile.tax_category))
    if given.get("tax_note", "") is None:
        given["tax_note"] = _NOTES.get(category)
    if category != profile.tax_category:
        given = {"tax_note": _NOTES.get(category), "tax_percent": "0", **given}
    revised = msgspec.structs.replace(profile, party=revise_party(profile.party, changes), **given)
    check_profile(revised)
    return revised
