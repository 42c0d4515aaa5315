"""GET /v1/models and /v1/models/{model}: what this key can call, with its rates."""

from typing import Any

from fastapi import APIRouter, Request

from billing.money import format_rate_per_million
from billing.rating import Variant
from gateway.errors import ModelUnknown
from gateway.flow.admit import authenticate
from gateway.services import Services
from gateway.wire.caller import secret_of
from gateway.wire.headers import by_name

router = APIRouter(tags=["models"])


@router.get("/v1/models", summary="List the models that the key can use")
async def index(request: Request) -> dict[str, Any]:
    """List the models that this key's plan includes and that have a rate."""
    return {"object": "list", "data": list((await _usable(request)).values())}


@router.get("/v1/models/{model:path}", summary="Show a model")
async def show(model: str, request: Request) -> dict[str, Any]:
    """Show one of them."""
    found = (await _usable(request)).get(model)
    if found is None:
        raise ModelUnknown(f"There is no model `{model[:100]}` that this key can use. GET /v1/models lists those it can.", param="model")
    return found


async def _usable(request: Request) -> dict[str, dict[str, Any]]:
    services: Services = request.app.state.services
    principal = await authenticate(services, secret_of(by_name(request.headers.raw)))
    allowed = principal.terms.allowed_models if principal.terms else None
    now_us = services.clock.now_us()
    usable = {}
    for model in services.settings.models:
        priced = services.tariff.card.at(model, now_us)
        if priced is not None and (allowed is None or model in allowed):
            usable[model] = {
                "id": model,
                "object": "model",
                "created": priced.rate.effective_us // 1_000_000,
                "owned_by": "weir",
                "pricing": {"unit": "credits per 1,000,000", "free": priced.rate.free, **_figures(priced.rate.prices), **_variants(priced.rate.variants)},
            }
    return usable


def _figures(prices: dict[str, int]) -> dict[str, str]:
    return {bucket: format_rate_per_million(ncr) for bucket, ncr in prices.items()}


def _variants(variants: tuple[Variant, ...]) -> dict[str, Any]:
    """Write other prices and when they apply; nothing where there are none."""
    said = [{"input_over": one.input_over, "service_tier": one.service_tier, "lane": one.lane, **_figures(one.prices)} for one in variants]
    return {"variants": said} if said else {}
