"""/admin/backends: the model servers this process sends to, and how they are now."""

from typing import Self

from fastapi import HTTPException, Request
from msgspec import UNSET
from pydantic import BaseModel, Field, model_validator

from billing.operations import servers
from gateway.auth.admin import AdminDesk
from gateway.config.forms import Form
from gateway.wire.problems import problem_router

router = problem_router("/backends")


class ServerChange(Form):
    """What to change of a backend's servers, of all of them or of one. What is left out stays."""

    url: str | None = Field(None, description="one server, as the configuration names it; left out: all of the backend's")
    draining: bool | None = Field(None, description="send it nothing more; what is under way goes on")
    weight: int | None = Field(None, ge=1, le=servers.WEIGHT_MAX, description="its share, against the backend's others; null: the configured one")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.draining is None and "weight" not in self.model_fields_set:
            raise ValueError("nothing to change: give `draining` or `weight`")
        return self


class ServerOut(BaseModel):
    """What is said of a server from now on, in all processes."""

    backend: str
    url: str
    draining: bool
    weight: int | None


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


@router.patch("/{name}", summary="Drain, restore or weigh a backend's servers")
def change(name: str, body: ServerChange, desk: AdminDesk, request: Request) -> list[ServerOut]:
    """Drain, restore or weigh servers; all processes follow within a second, and remember it when they start again."""
    backend = request.app.state.services.settings.backends.get(name)
    urls = [] if backend is None else [server.url for server in backend.urls if body.url in (None, server.url)]
    if not urls:
        raise HTTPException(404, f"The configuration has no such server of a backend `{name}`; GET /admin/backends lists them.")
    changed = servers.change_servers(
        desk.database,
        name,
        urls,
        draining=UNSET if body.draining is None else body.draining,
        weight=body.weight if "weight" in body.model_fields_set else UNSET,
        now_us=desk.now_us(),
    )
    desk.changed()
    return [ServerOut(backend=server.backend, url=server.url, draining=server.draining, weight=server.weight) for server in changed]
