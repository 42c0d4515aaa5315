"""The echo as a provider: OpenAI's dialect over a transport that opens no socket. For tests and the bench, and honest about being an echo."""

from backends.config import BackendConfig
from backends.echo.transport import EchoTransport
from backends.openai.dialect import OpenAIDialect
from backends.provider import Provider, Target
from backends.transport.seam import Exchange, Transport


class Echo(OpenAIDialect):
    """The dialect, answered in this process."""

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self.transport = transport

    def health_exchange(self, target: Target) -> Exchange | None:
        """An echo is as alive as its caller."""
        return None


def build(config: BackendConfig) -> Provider:
    """Make the provider of a backend."""
    return Echo(EchoTransport(config.echo))
