"""Small facts for the tests of the books: tenants with grants, events, and a recorder whose thread the test itself is."""

from typing import Any

from billing.credits import store as accounts
from billing.db import Database
from billing.grants import store as grants
from billing.grants.grant import Grant
from billing.meter import Meter
from billing.tenants import store as tenants
from billing.tenants.tenant import Tenant
from billing.usage.event import Lane, UsageEvent
from billing.usage.records import Dispatched
from tests.clock import START_US

HOUR_US = 3_600_000_000


def request_id(number: int) -> str:
    """An id that sorts like its number."""
    return f"00000000-0000-7000-8000-{number:012d}"


def event(
    number: int,
    charge_ncr: int = 10,
    *,
    tenant: str = "acme",
    cover_ncr: int | None = None,
    lane: Lane = "fast",
    started_us: int = START_US,
    **more: Any,
) -> UsageEvent:
    """A settled request; by default credits cover all of it."""
    return UsageEvent(
        id=request_id(number),
        tenant_id=tenant,
        key_id="key_1",
        backend="b",
        upstream_model="u",
        endpoint="chat/completions",
        started_us=started_us,
        ended_us=started_us + 1000,
        status=200,
        outcome="complete",
        lane=lane,
        source="reported",
        meter=Meter(input=7, output=3, cache_read=0),
        charge_ncr=charge_ncr,
        cover_ncr=charge_ncr if cover_ncr is None else cover_ncr,
        **{"model": "m", "rate_id": 1, **more},
    )


def dispatched(number: int, *, tenant: str = "acme", lane: Lane = "fast", rate_id: int | None = None) -> Dispatched:
    """A request that is about to be sent."""
    return Dispatched(
        id=request_id(number),
        tenant_id=tenant,
        key_id="key_1",
        model="m",
        backend="b",
        upstream_model="u",
        endpoint="chat/completions",
        started_us=START_US,
        lane=lane,
        rate_id=rate_id,
        prompt_estimate=7,
    )


def grant(grant_id: str, amount_ncr: int, **changes: object) -> Grant:
    """A grant that every test's requests may use, unless changed."""
    fields: dict[str, object] = {
        "id": grant_id,
        "tenant_id": "acme",
        "kind": "topup",
        "amount_ncr": amount_ncr,
        "remaining_ncr": amount_ncr,
        "priority": 40,
        "effective_us": START_US - HOUR_US,
        "expires_us": None,
        "voided_us": None,
        "created_us": START_US - HOUR_US,
        "note": "",
        **changes,
    }
    return Grant(**fields)  # type: ignore[arg-type]


def seed(db: Database, tenant: str, *given: Grant, timezone: str = "UTC") -> None:
    """Make a tenant with grants."""
    with db.write() as session:
        tenants.insert_tenant(session, Tenant(id=tenant, name=tenant, state="active", currency="USD", timezone=timezone, created_us=START_US))
        accounts.lock(session, [tenant])
        for one in given:
            grants.insert_grant(session, one)
