"""llama.cpp's own server, as the embedded default runs it.

Observed: with n > 1 its usage counts one choice only; the model's name is ignored; the usage of a streamed legacy completion rides in
the last chunk that has a choice; after an error, and after some streams, it closes a connection that it called keep-alive.
"""

from backends.config import BackendConfig
from backends.openai.dialect import OpenAIDialect, beside_v1, read_count
from backends.provider import Provider, Target
from backends.transport.seam import Exchange
from backends.vendors import vendor_named


class LlamaServer(OpenAIDialect):
    """The dialect with llama.cpp's tokenizer and health paths."""

    counts_every_choice: bool = False
    own_servers: bool = True

    def true_status(self, status: int, body: bytes) -> int:
        """An input that is too long is the client's 400; this server calls it its own fault."""
        return 400 if status == 500 and b"too large to process" in body else super().true_status(status, body)

    def count_exchange(self, text: str, target: Target) -> Exchange | None:
        """Ask the server's own tokenizer."""
        return self.post(beside_v1(target.replica.base_path, "tokenize"), {"content": text, "add_special": False}, target)

    def count(self, answer: bytes) -> int:
        """Count the tokens it lists. Raises `BadAnswer`."""
        return read_count(answer)

    def health_exchange(self, target: Target) -> Exchange | None:
        """Ask /health: 503 while the model loads."""
        return self.get(beside_v1(target.replica.base_path, "health"), target)


def build(config: BackendConfig) -> Provider:
    """Make the provider of a backend."""
    return LlamaServer(vendor_named(config.vendor))
