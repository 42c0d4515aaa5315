"""What /admin and /finance answer when they refuse: `application/problem+json` (RFC 9457), with the wrong fields named.

Invalid, RateMissing, a body that does not validate   422  invalid; `errors` names each field
a body that is no JSON                                 400  malformed
NotFound                                               404  not_found
Conflict                                               409  conflict
BooksUnavailable                                       503  books_unavailable, Retry-After
a Refusal of the gateway                               its own status and code
anything else                                          500  internal; the log has it
"""

import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Message

from billing.errors import BillingError, BooksUnavailable, Conflict, Invalid, NotFound
from gateway.config.words import UNKNOWN, meant, names_at, plain
from gateway.errors import Refusal

MEDIA_TYPE = "application/problem+json"
BODY_BYTES_MAX = 2**20

CODES = {401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}

log = logging.getLogger(__name__)


class FieldProblem(BaseModel):
    """What is wrong with one field; `field` is its path in the body, or the parameter's name."""

    field: str
    message: str


class Problem(BaseModel):
    """An error as RFC 9457 has it. `code` is for programs, `detail` for people."""

    type: str = Field(examples=["urn:weir:problem:invalid"])
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem] = []


def problem(status: int, code: str, detail: str, errors: Sequence[FieldProblem] = (), headers: dict[str, str] | None = None) -> Response:
    """Write a problem as an answer."""
    body = Problem(type=f"urn:weir:problem:{code}", title=HTTPStatus(status).phrase, status=status, detail=detail, code=code, errors=list(errors))
    return Response(body.model_dump_json(), status, {"cache-control": "no-store", **(headers or {})}, MEDIA_TYPE)


def problem_of(error: Exception, body: object = None) -> Response:
    """Turn anything that an endpoint raised into the problem a client gets; what is no client's business goes to the log. `body`: the model of its body."""
    if isinstance(error, BillingError):
        return _billing(error)
    if isinstance(error, RequestValidationError):
        return _validation(error, body)
    if isinstance(error, Refusal):
        if error.internal:
            log.info("refused: %s", error.internal)
        headers = {} if error.retry_after_s is None else {"retry-after": str(max(1, round(error.retry_after_s)))}
        return problem(error.status, error.code or "refused", error.public, headers=headers)
    if isinstance(error, StarletteHTTPException):
        code = CODES.get(error.status_code, "refused")
        return problem(error.status_code, code, str(error.detail), headers=dict(error.headers or {}))
    log.error("an admin request failed", exc_info=error)
    return problem(500, "internal", "Something failed in the gateway; its log says what.")


def _billing(error: BillingError) -> Response:
    if isinstance(error, Invalid):
        field = error.field.removesuffix("_us") + "_at" if error.field.endswith("_us") else error.field  # instants are ISO 8601 on the wire
        return problem(422, "invalid", error.named(field), [FieldProblem(field=field, message=error.named(field))])
    if isinstance(error, NotFound):
        return problem(404, "not_found", str(error))
    if isinstance(error, Conflict):
        return problem(409, "conflict", str(error))
    if isinstance(error, BooksUnavailable):
        log.warning("the books are unavailable: %s", error)
        return problem(503, "books_unavailable", "The books cannot be read or written now; try again.", headers={"retry-after": "1"})
    return problem(422, "invalid", str(error))


def _validation(error: RequestValidationError, body: object) -> Response:
    faults = error.errors()
    if any(fault["type"] == "json_invalid" for fault in faults):
        return problem(400, "malformed", "The body is not JSON.")
    errors = [FieldProblem(field=_field(fault["loc"]), message=plain(fault) + _meant(fault, body)) for fault in faults]
    return problem(422, "invalid", "; ".join(f"{item.field}: {item.message}" for item in errors[:5]), errors)


def _meant(fault: Mapping[str, Any], body: object) -> str:
    """Say of an unknown member of a body which one was probably meant; nothing of any other fault."""
    _, *place = fault["loc"]
    return meant(str(place[-1]), names_at(body, place[:-1])) if fault["type"] == UNKNOWN and place else ""


def _field(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc[1:]) or str(loc[0])


class ProblemRoute(APIRoute):
    """A route whose every refusal is a problem, and whose request body is bounded (1 MiB, where it is no file)."""

    body_bytes_max = BODY_BYTES_MAX

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the route's own handler."""
        inner = super().get_route_handler()
        body = None if self.body_field is None else self.body_field.field_info.annotation

        dry = "dry_run" in _queries(self.dependant)

        async def handle(request: Request) -> Response:
            try:
                if not dry and request.method != "GET" and "dry_run" in request.query_params:
                    raise Invalid("dry_run", "dry_run: is not taken here, and nothing was done; leave it out to do it")
                response = await inner(Request(request.scope, _bounded(request, self.body_bytes_max)))
                response.headers.setdefault("cache-control", "no-store")  # balances, keys and invoices are no proxy's to keep
                return response
            except Exception as error:  # noqa: BLE001 - the outermost frame of an endpoint: whatever was raised becomes an answer, and a log entry
                return problem_of(error, body)

        return handle


def _queries(dependant: Dependant) -> Iterator[str]:
    """Yield the names of the query parameters of an endpoint and of all that it depends on."""
    yield from (parameter.alias for parameter in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _queries(inner)


def _bounded(request: Request, most: int) -> Callable[[], Coroutine[Any, Any, Message]]:
    left = most

    async def receive() -> Message:
        nonlocal left
        message = await request.receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"The body is larger than {most} bytes.")
        return message

    return receive


def _described(what: str) -> dict[str, Any]:
    schema = Problem.model_json_schema()
    schema["properties"]["errors"]["items"] = schema.pop("$defs")["FieldProblem"]  # whole in itself: OpenAPI knows no $defs of ours
    return {"description": what, "content": {MEDIA_TYPE: {"schema": schema}}}


# For a router's `responses`, so that OpenAPI says what a refusal looks like.
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: _described(what)
    for status, what in {
        400: "The body is not JSON",
        401: "No key, token or session, or not a valid one",
        403: "It is somebody's whose role may not do this; `detail` says which role may",
        404: "There is no such thing",
        409: "It exists already, or its state forbids this",
        422: "A field is wrong; `errors` names it",
        503: "The books are unavailable for now",
    }.items()
}


def problem_router(prefix: str, route_class: type[ProblemRoute] = ProblemRoute) -> APIRouter:
    """Make a router whose every route refuses with problems, and says so in OpenAPI."""
    return APIRouter(prefix=prefix, route_class=route_class, responses=RESPONSES, tags=[prefix.strip("/")])
