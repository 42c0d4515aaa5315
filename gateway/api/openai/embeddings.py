"""POST /v1/embeddings."""

from collections.abc import Awaitable

from gateway.flow.serve import serve
from gateway.services import Services
from gateway.wire.caller import Caller

METHOD, PATH = "POST", "/v1/embeddings"


def endpoint(services: Services, caller: Caller) -> Awaitable[None]:
    """Answer as OpenAI does; the flow does everything else."""
    return serve(services, "embeddings", caller)
