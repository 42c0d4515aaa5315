"""The application: hot routes as plain ASGI in front, FastAPI with its docs behind them.

A FastAPI route costs about 100 us more than a plain ASGI endpoint, so what applications call at every turn never enters FastAPI:
the outermost callable looks the path up and is done. Endpoints are found by scanning the folders of `gateway/api`: a module with
`endpoint` is a hot route, one with `router` is FastAPI's.
"""

from collections.abc import Awaitable, Callable
from importlib import import_module, metadata
from pkgutil import iter_modules
from types import ModuleType

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

import gateway.api.openai
import gateway.api.ops
from gateway.api import admin, finance, tenant
from gateway.errors import Internal, MethodNotAllowed, NotFound, Refusal
from gateway.ids import uuid7
from gateway.services import Services
from gateway.telemetry.siblings import Siblings
from gateway.wire.asgi import AsgiCaller, Receive, Scope, Send
from gateway.wire.caller import Caller, refuse
from gateway.wire.headers import by_name, request_id
from gateway.wire.openai import error_body
from gateway.wire.problems import problem_of

DESCRIPTION = """An inference gateway that meters every token once and slows, never cuts, a tenant past its credits.

**Model endpoints** take and give OpenAI's own bodies, so their reference is OpenAI's: `POST /v1/chat/completions`, `POST /v1/completions`,
`POST /v1/embeddings`. Answers add `usage.cost` (credits) and the headers `x-weir-lane`, `x-weir-credits-remaining` and others.

**Everything else** is below. `/v1` takes a tenant's key; `/admin` and `/finance` take an admin's, `/tenant` one of a tenant's own people;
these three refuse with `application/problem+json`.
"""

WITHOUT_V1 = frozenset({"/chat/completions", "/completions", "/embeddings", "/models", "/responses"})  # a base_url that lacks its /v1

Endpoint = Callable[[Services, Caller], Awaitable[None]]


class Gateway:
    """The ASGI application of one process. `api` is the FastAPI application behind the hot routes."""

    def __init__(self, services: Services, api: FastAPI, hot: dict[str, tuple[str, Endpoint]]) -> None:
        self.services = services
        self.api = api
        self.hot = hot
        self.short = {path.encode(): (method.encode(), endpoint) for path, (method, endpoint) in hot.items()}  # as they stand in a request's first line

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] == "http":
            found = self.hot.get(scope["path"])
            if found is not None:
                method, endpoint = found
                caller = AsgiCaller(scope, receive, send)
                if scope["method"] == method:
                    await endpoint(self.services, caller)
                else:
                    shown_id = request_id(caller.headers, uuid7(self.services.clock.now_us()))
                    await refuse(caller, MethodNotAllowed(f"{scope['path']} takes {method} only."), shown_id)
                return
        await self.api(scope, receive, send)


def create_app(services: Services, siblings: Siblings | None = None) -> Gateway:
    """Put the application together over open services. `siblings` are the other workers of this gateway, if there are any."""
    api = FastAPI(title="Weir", version=metadata.version("weir-gateway"), description=DESCRIPTION, docs_url=None, redoc_url=None)  # /docs is api/ops/docs.py
    api.state.services = services
    api.state.siblings = siblings
    api.add_exception_handler(Exception, _failed)
    api.add_exception_handler(Refusal, _refused)
    api.add_exception_handler(HTTPException, _refused)
    hot: dict[str, tuple[str, Endpoint]] = {}
    for module in (*_modules(gateway.api.openai), *_modules(gateway.api.ops)):
        if hasattr(module, "endpoint"):
            hot[module.PATH] = (module.METHOD, module.endpoint)
        else:
            api.include_router(module.router)
    api.include_router(admin.build_router())
    api.include_router(finance.build_router())
    api.include_router(tenant.build_router())
    return Gateway(services, api, hot)


def routes(app: Gateway) -> list[str]:
    """List every route as "METHOD path", sorted: what the snapshot test holds against the code."""
    listed = {f"{method} {path}" for path, (method, _) in app.hot.items()}
    for path, operations in app.api.openapi()["paths"].items():
        listed |= {f"{method.upper()} {path}" for method in operations}
    return sorted(listed)


def _modules(package: ModuleType) -> list[ModuleType]:
    return [import_module(f"{package.__name__}.{found.name}") for found in sorted(iter_modules(package.__path__), key=lambda found: found.name)]


async def _refused(request: Request, error: Exception) -> Response:
    path = request.url.path
    if path in WITHOUT_V1:
        error = NotFound(f"{path} is not served here: the SDK's base_url must end in /v1.")
    elif not path.startswith("/v1"):
        return problem_of(error)
    elif isinstance(error, HTTPException):
        wrong = f"{request.method} {path}"
        error = MethodNotAllowed(f"{wrong} is not offered.") if error.status_code == 405 else NotFound(f"{wrong} is not served here. See /docs.")
    assert isinstance(error, Refusal)
    services: Services = request.app.state.services
    shown_id = request_id(by_name(request.headers.raw), uuid7(services.clock.now_us()))
    headers = {"x-request-id": shown_id} | ({} if error.retryable else {"x-should-retry": "false"})
    return Response(error_body(error, shown_id), error.status, headers, "application/json")


async def _failed(request: Request, error: Exception) -> Response:
    if not request.url.path.startswith("/v1"):
        return problem_of(error)
    return Response(error_body(Internal("The gateway failed; its log says why."), ""), 500, media_type="application/json")
