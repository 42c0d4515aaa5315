"""llama.cpp's own server, as the embedded default runs it.

Observed: with n > 1 its usage counts one choice only; the model's name is ignored; the usage of a streamed legacy completion rides in
the last chunk that has a choice; after an error, and after some streams, it closes a connection that it called keep-alive.
"""

import re

from backends.config import BackendConfig
from backends.openai.dialect import PAID_EXTRAS, TOO_LONG, OpenAIDialect, beside_v1, read_count
from backends.provider import Provider, Target
from backends.transport.seam import Exchange
from backends.vendors import vendor_named

# `n_predict` beats max_tokens and `n_cmpl` beats n, so an answer would be longer, or more of them, than was held for. `id_slot` takes a
# place that others wait for, and `lora` changes the model. Others that only llama.cpp knows (grammar, n_keep, t_max_predict_ms) may pass.
_OWN_NAMES = frozenset({"n_predict", "n_cmpl", "id_slot", "lora"})
_SAYS_TOO_LONG = re.compile(r"too large to process|exceeds the available context size|larger than the max context size")


class LlamaServer(OpenAIDialect):
    """The dialect with llama.cpp's tokenizer and health paths."""

    counts_every_choice: bool = False
    own_servers: bool = True
    withheld: frozenset[str] = PAID_EXTRAS | _OWN_NAMES

    def error_code(self, status: int, kind: str | None, message: str) -> str | None:
        """A prompt that is too long has a type of its own here, and no code; an embedding's input has only words."""
        too_long = kind == "exceed_context_size_error" or (400 <= status < 500 and _SAYS_TOO_LONG.search(message))
        return TOO_LONG if too_long else super().error_code(status, kind, message)

    def true_status(self, status: int, body: bytes) -> int:
        """An input that is too long is the client's 400; this server calls it its own fault."""
        too_long = status == 500 and (b"too large to process" in body or b"larger than the max context size" in body)
        return 400 if too_long else super().true_status(status, body)

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
