"""GET /health (this process runs) and /ready (it can take requests: its books are open and a backend is up)."""

import msgspec
from fastapi import APIRouter, Request, Response

from gateway.services import Services

router = APIRouter(tags=["ops"])


@router.get("/health")
async def health() -> dict[str, str]:
    """Say that the process runs."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Say whether requests can be served: 200, or 503 with what is missing."""
    services: Services = request.app.state.services
    recorder = services.recorder
    backends = {name: "up" if pool.up else "down" for name, pool in services.pools.items()}
    missing = []
    if recorder.replaying:
        missing.append("the journal of a process that is gone is still being booked")
    if recorder.backlog >= services.settings.books.backlog_max:
        missing.append("too many usage events wait for the database")
    if backends and "up" not in backends.values():
        missing.append("no backend is up")
    body = {
        "status": "not ready" if missing else "ready",
        "missing": missing,
        "backends": backends,
        "usage_backlog": recorder.backlog,
        "last_books_error": recorder.last_error is not None,
    }
    return Response(msgspec.json.encode(body), 503 if missing else 200, media_type="application/json")
