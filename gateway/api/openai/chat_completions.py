"""POST /v1/chat/completions."""

from gateway.flow.serve import serve
from gateway.services import Services
from gateway.wire.asgi import Receive, Scope, Send

METHOD, PATH = "POST", "/v1/chat/completions"


async def endpoint(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as OpenAI does; the flow does everything else."""
    await serve(services, "chat/completions", scope, receive, send)
