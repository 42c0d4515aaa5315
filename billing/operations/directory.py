"""Who a secret's digest stands for, and under which terms: what a gateway asks once and then keeps until the change feed speaks."""

import msgspec
from sqlmodel import Session

from billing.plans import store as plans
from billing.plans.terms import Terms, terms_of
from billing.tenants import store as tenants


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The bearer of a key. The limits are the key's own; the tenant's are in `terms`, which is None for admins and without a subscription.

    `terms_until_us`: when another subscription begins that is written already, so that the terms must be looked up again; None: nothing is known to come.
    `role`: what the bearer may do beside /v1; None for a key that calls models.
    """

    key_id: str
    kind: str
    tenant_id: str
    project: str | None
    active: bool
    closed: bool = False
    expires_us: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    terms: Terms | None
    terms_until_us: int | None = None
    role: str | None = None


def find_principal(session: Session, digest: bytes, now_us: int) -> Principal | None:
    """Return who the digest of a secret stands for at `now_us`; None for a key that is unknown, revoked or expired.

    A suspended tenant is found, with `active` False, so that its refusal can say so; a closed one by the keys that were revoked with it, `closed`.
    An admin's `tenant_id` is empty.
    """
    key = tenants.key_by_digest(session, digest)
    if key is None or _over(key.expires_us, now_us):
        return None
    tenant = None if key.tenant_id is None else tenants.get_tenant(session, key.tenant_id)
    closed = tenant is not None and tenant.closed(now_us)
    if _over(key.revoked_us, now_us) and not (tenant is not None and closed and key.revoked_us == tenant.closes_us):
        return None
    found = None if tenant is None else plans.subscribed(session, tenant.id, now_us)
    return Principal(
        key_id=key.id,
        kind=key.kind,
        tenant_id=key.tenant_id or "",
        project=key.project,
        active=tenant is None or tenant.state_at(now_us) == "active",
        closed=closed,
        expires_us=key.expires_us,
        requests_per_minute=key.requests_per_minute,
        tokens_per_minute=key.tokens_per_minute,
        terms=None if found is None else terms_of(found[1]),
        terms_until_us=None if found is None else found[0].ended_us,
        role=key.role,
    )


def find_terms(session: Session, tenant_id: str, now_us: int) -> Terms | None:
    """Return the terms a tenant is on at `now_us`, whether its months have begun or wait for its first request; None without a subscription."""
    found = plans.subscribed(session, tenant_id, now_us)
    return None if found is None else terms_of(found[1])


def _over(at_us: int | None, now_us: int) -> bool:
    return at_us is not None and at_us <= now_us
