"""POST /v1/embeddings."""

from gateway.flow.serve import serve
from gateway.services import Services
from gateway.wire.asgi import Receive, Scope, Send

METHOD, PATH = "POST", "/v1/embeddings"


async def endpoint(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as OpenAI does; the flow does everything else."""
    await serve(services, "embeddings", scope, receive, send)
