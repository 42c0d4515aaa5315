"""POST /v1/embeddings."""

from gateway.flow.serve import serve
from gateway.services import Services
from gateway.wire.caller import Caller

METHOD, PATH = "POST", "/v1/embeddings"


async def endpoint(services: Services, caller: Caller) -> None:
    """Answer as OpenAI does; the flow does everything else."""
    await serve(services, "embeddings", caller)
