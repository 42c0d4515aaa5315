"""The key, before a byte of the body is read; then Received -> Admitted: the model, its rate, the rate limits.

All of it from memory, but for a tenant's first request.
"""

import asyncio
from typing import TYPE_CHECKING

from billing.credits.draw import Want
from billing.errors import BillingError
from gateway.errors import ModelNotAllowed, ModelUnknown, PriceMissing, TenantClosed, TenantSuspended, Unauthenticated, Unavailable
from gateway.flow.states import Admitted, Received

if TYPE_CHECKING:
    from billing.credits.account import Account
    from billing.operations.directory import Principal
    from gateway.services import Services

LOAD_S_MAX = 5.0


async def authenticate(services: "Services", secret: str) -> "Principal":
    """Return the principal of a secret. Raises `Unauthenticated`, `TenantSuspended`, `TenantClosed`, or `Unavailable` when the books are away."""
    if not secret:
        raise Unauthenticated("No API key was given. Send it as `Authorization: Bearer sk-weir-...`.")
    try:
        principal = services.keyring.known(secret) or await services.keyring.find(secret)
    except BillingError as error:
        raise Unavailable("Keys cannot be looked up now. Try again in a moment.", internal=str(error), retry_after_s=2) from error
    if principal is None:
        raise Unauthenticated("This API key is not valid: it is wrong, revoked or expired. Ask your admin for one (`weir key issue TENANT`).")
    if principal.kind != "tenant":
        raise Unauthenticated("This key manages, and calls no models. Use a tenant's key for that (`weir key issue TENANT`).")
    if principal.closed:
        raise TenantClosed("This tenant is closed, and its keys with it. Ask your admin for another one's key.")
    if not principal.active:
        raise TenantSuspended("This tenant is suspended. Ask your admin.")
    if principal.terms is None:
        raise TenantSuspended("This tenant is on no plan. An admin chooses one with: weir tenant plan TENANT PLAN")
    return principal


async def admit(services: "Services", received: Received) -> Admitted:
    """Let a request in. Raises a `Refusal` that says why not."""
    principal = received.principal
    tenant_id, terms, model = principal.tenant_id, principal.terms, received.call.model
    assert terms is not None  # authenticate saw to it
    if model not in services.models:
        raise ModelUnknown(f"There is no model `{model[:100]}`. GET /v1/models lists those you can use.", param="model")
    if terms.allowed_models is not None and model not in terms.allowed_models:
        raise ModelNotAllowed(f"Your plan `{terms.plan}` does not include the model `{model}`. GET /v1/models lists those it does.", param="model")
    priced = services.tariff.card.at(model, received.at_us)
    if priced is None:
        raise PriceMissing(
            f"The model `{model}` has no rate and cannot be used. An admin sets one with: weir rate set {model} --input CREDITS --output CREDITS, or --free.",
            param="model",
        )
    if received.wish.service_tier is not None:
        received.call.service_tier = priced.sold(received.wish.service_tier)
    limiter = services.limiter
    limits = limiter.admit(principal, received.at_us) if limiter.shared is None else await limiter.admit_shared(principal, received.at_us)
    account = services.accounts.get(tenant_id) or await account_of(services, principal, model)  # last: nothing is awaited between it and its hold
    return Admitted(received=received, principal=principal, tenant_id=tenant_id, terms=terms, account=account, priced=priced, limits=limits)


async def account_of(services: "Services", principal: "Principal", model: str) -> "Account":
    """Return a tenant's account, drawn from the books where it is not in memory or its grants have changed.

    While they are away, one that is known serves on without leases, unless the plan says closed. Raises `Unavailable`.
    """
    accounts, tenant_id = services.accounts, principal.tenant_id
    account = accounts.get(tenant_id)
    if account is not None:
        return account
    known = accounts.last_known(tenant_id) if principal.terms is not None and principal.terms.on_database_loss == "slow" else None
    if known is not None and known.retry_s > services.clock.monotonic_s():
        return known
    try:
        async with asyncio.timeout(LOAD_S_MAX):
            return await accounts.load(tenant_id, Want(key_id=principal.key_id, project=principal.project, model=model))
    except (BillingError, TimeoutError) as error:
        if known is not None:
            return known
        raise Unavailable("The credit account cannot be read now. Try again in a moment.", internal=str(error), retry_after_s=2) from error
