"""/admin/backends: the model servers this process sends to, and how they are now."""

from fastapi import Request
from pydantic import BaseModel

from gateway.wire.problems import problem_router

router = problem_router("/backends")


class ReplicaOut(BaseModel):
    """One server of a backend. `ejected`: it failed, and gets nothing until it answers a probe or its back-off ends."""

    url: str
    weight: int
    inflight: int
    failures: int
    ejected: bool
    draining: bool


class BackendOut(BaseModel):
    """A backend. `models` are the public names routed to it; `slots` is how many requests it is given at once by all processes, learned where that is
    configured, and less while some of its servers are out.
    """

    name: str
    provider: str
    vendor: str | None
    up: bool
    slots: int
    inflight: int
    priority_scheduling: bool
    models: list[str]
    replicas: list[ReplicaOut]


@router.get("", summary="List backends and their servers")
async def index(request: Request) -> list[BackendOut]:
    """List the backends as this process sees them: with several workers each has its own view, and one of them answers."""
    services = request.app.state.services
    now_s = services.clock.monotonic_s()
    routed = {
        name: sorted(model for model, config in services.settings.models.items() if any(route.backend == name for route in config.routes))
        for name in services.pools
    }
    return [
        BackendOut(
            name=name,
            provider=pool.config.provider,
            vendor=pool.config.vendor,
            up=pool.up,
            slots=pool.slots,
            inflight=pool.inflight,
            priority_scheduling=pool.priority_scheduling,
            models=routed[name],
            replicas=[
                ReplicaOut(
                    url=replica.name,
                    weight=replica.weight,
                    inflight=replica.inflight,
                    failures=replica.failures,
                    ejected=replica.ejected_until_s > now_s,
                    draining=replica.draining,
                )
                for replica in pool.replicas
            ],
        )
        for name, pool in services.pools.items()
    ]
