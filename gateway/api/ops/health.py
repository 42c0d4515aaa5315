"""GET /health (this process runs) and /ready (it can take requests; `gateway/vitals.py` says what that means)."""

import msgspec
from fastapi import APIRouter, Request, Response

from gateway.services import Services

router = APIRouter(tags=["ops"])


@router.get("/health", summary="Tell whether the process runs")
async def health() -> dict[str, str]:
    """Say that the process runs."""
    return {"status": "ok"}


@router.get("/ready", summary="Tell whether requests can be served")
async def ready(request: Request) -> Response:
    """Say whether requests can be served: 200, or 503 with what is missing. Of several workers the one that took the connection answers for itself."""
    services: Services = request.app.state.services
    recorder, missing = services.recorder, services.vitals.missing()
    body = {
        "status": "not ready" if missing else "ready",
        "missing": missing,
        "backends": {name: "up" if pool.up else "down" for name, pool in services.pools.items()},
        "usage_backlog": recorder.backlog,
        "usage_oldest_seconds": round(services.vitals.oldest_s(), 3),
        "last_books_error": recorder.last_error is not None,
    }
    return Response(msgspec.json.encode(body), 503 if missing else 200, media_type="application/json")
