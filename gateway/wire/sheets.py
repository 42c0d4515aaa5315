"""A tenant as a row of a list that people read, edit and import again."""

from typing import Any

from billing.operations.subscriptions import Standing
from billing.tenants.tenant import Tenant
from gateway.wire.instants import show

SHOWN = ("next_plan", "created", "closes")  # nobody sets these


def tenant_row(tenant: Tenant, found: Standing, now_us: int) -> dict[str, Any]:
    """Write a tenant's figures; what it is not on, or has not, is None."""
    return {
        "id": tenant.id,
        "name": tenant.name,
        "state": tenant.state_at(now_us),
        "plan": f"{found.current.plan} v{found.current.version}" if found.current else None,
        "currency": tenant.currency,
        "timezone": tenant.timezone,
        **{column: text or None for column, text in shown(tenant, found).items()},
    }


def shown(tenant: Tenant, found: Standing) -> dict[str, str]:
    """Write what a list shows of a tenant and nobody sets; an absent one as nothing."""
    coming = f"{found.next.plan} v{found.next.version} from {show(found.next.started_us)}" if found.next else ""
    return {"next_plan": coming, "created": show(tenant.created_us), "closes": show(tenant.closes_us)}
