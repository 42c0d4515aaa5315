"""Everything that the gateway refuses a client, as one tree.

    Refusal                                              status  type / code
     +-- BadRequest                                      400     invalid_request_error / invalid_value, `param` names the member
     +-- Unauthenticated                                 401     invalid_request_error / invalid_api_key
     +-- ModelNotAllowed                                 403     permission_error / model_not_allowed
     +-- TenantSuspended                                 403     permission_error / tenant_suspended
     +-- TenantClosed                                    403     permission_error / tenant_closed
     +-- NotFound                                        404     invalid_request_error / not_found
     |    +-- ModelUnknown                               404     invalid_request_error / model_not_found
     +-- MethodNotAllowed                                405     invalid_request_error / method_not_allowed
     +-- BodyTimeout                                     408     invalid_request_error / request_timeout
     +-- TooLarge                                        413     invalid_request_error / request_too_large
     +-- PriceMissing                                    422     invalid_request_error / price_not_configured
     +-- RateLimited                                     429     rate_limit_error / rate_limit_exceeded
     +-- SlowDown                                        429     rate_limit_error / slow_down
     +-- CreditsExhausted                                429     insufficient_quota / credit_balance_exhausted
     +-- Internal                                        500     server_error / internal_error
     +-- BackendUnreachable                              502     server_error / backend_unreachable
     +-- BackendDisconnected (after the first byte)      502     server_error / backend_disconnected
     +-- BackendBadAnswer                                502     server_error / backend_bad_answer
     +-- Unavailable                                     503     server_error / service_unavailable
     +-- Overloaded                                      503     server_error / server_is_overloaded
     +-- BackendTimeout                                  504     server_error / backend_timeout
     +-- UpstreamRefused                                 as the upstream said

`public` is for the client: what, where, what to do. `internal` is for the log alone. Only `gateway/wire` turns one into bytes.
The codes and statuses are those of the table "Refusals" in README.md.
"""


class Refusal(Exception):
    """Base of the tree. `retry_after_s` becomes Retry-After; `retryable` False becomes `x-should-retry: false`, which SDKs obey."""

    status = 500
    type = "server_error"
    code: str | None = "internal_error"
    retryable = True

    def __init__(self, public: str, *, param: str | None = None, internal: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(internal or public)
        self.public = public
        self.param = param
        self.internal = internal
        self.retry_after_s = retry_after_s
        self.headers: list[tuple[bytes, bytes]] = []


class BadRequest(Refusal):
    """The request itself is wrong; `param` names the member."""

    status, type, code, retryable = 400, "invalid_request_error", "invalid_value", False


class Unauthenticated(Refusal):
    """No key, or none that is known, valid and not revoked."""

    status, type, code, retryable = 401, "invalid_request_error", "invalid_api_key", False


class ModelNotAllowed(Refusal):
    """The tenant's plan does not include this model."""

    status, type, code, retryable = 403, "permission_error", "model_not_allowed", False


class TenantSuspended(Refusal):
    """An admin suspended the tenant."""

    status, type, code, retryable = 403, "permission_error", "tenant_suspended", False


class TenantClosed(Refusal):
    """An admin closed the tenant, for good."""

    status, type, code, retryable = 403, "permission_error", "tenant_closed", False


class NotFound(Refusal):
    """Nothing is served at this path."""

    status, type, code, retryable = 404, "invalid_request_error", "not_found", False


class ModelUnknown(NotFound):
    """No model has this name."""

    code = "model_not_found"


class MethodNotAllowed(Refusal):
    """The path exists, for another method."""

    status, type, code, retryable = 405, "invalid_request_error", "method_not_allowed", False


class BodyTimeout(Refusal):
    """The body did not arrive in time."""

    status, type, code, retryable = 408, "invalid_request_error", "request_timeout", False


class TooLarge(Refusal):
    """The body is over the limit."""

    status, type, code, retryable = 413, "invalid_request_error", "request_too_large", False


class PriceMissing(Refusal):
    """The model has no rate: a missing rate is never zero."""

    status, type, code, retryable = 422, "invalid_request_error", "price_not_configured", False


class RateLimited(Refusal):
    """Requests, tokens or concurrency are over the key's or the plan's limit."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class SlowDown(Refusal):
    """The lane's queue is full, or the wait in it was over its limit."""

    status, type, code = 429, "rate_limit_error", "slow_down"


class CreditsExhausted(Refusal):
    """The credits are gone and the plan blocks, or the slow lane's daily cap is reached."""

    status, type, code, retryable = 429, "insufficient_quota", "credit_balance_exhausted", False


class Internal(Refusal):
    """A fault of ours; the log has it under the request's id."""

    status, type, code = 500, "server_error", "internal_error"


class BackendUnreachable(Refusal):
    """No attempt reached a model server."""

    status, type, code = 502, "server_error", "backend_unreachable"


class BackendDisconnected(Refusal):
    """The model server was lost in the middle of its answer."""

    status, type, code = 502, "server_error", "backend_disconnected"


class BackendBadAnswer(Refusal):
    """The model server answered something that is no answer."""

    status, type, code = 502, "server_error", "backend_bad_answer"


class Unavailable(Refusal):
    """The gateway cannot take requests now: its books are closed, or it is stopping."""

    status, type, code = 503, "server_error", "service_unavailable"


class Overloaded(Refusal):
    """Every replica is ejected or draining, or the model server said that it is overloaded."""

    status, type, code = 503, "server_error", "server_is_overloaded"


class BackendTimeout(Refusal):
    """The model server took longer than its limit."""

    status, type, code = 504, "server_error", "backend_timeout"


class UpstreamRefused(Refusal):
    """The model server refused the request itself; its own status, type and code are passed on."""

    def __init__(self, status: int, public: str, *, type: str, code: str | None, param: str | None, internal: str) -> None:
        super().__init__(public, param=param, internal=internal)
        self.status = status
        self.type = type
        self.code = code
        self.retryable = status in (408, 409, 429)
