"""vLLM's own server: usage in every chunk, a priority for the engine, a tokenizer to ask, and a health path beside /v1.

Observed on 0.32: without `--scheduling-policy priority` a `priority` is taken and ignored (other versions refuse it with a 400, and its
API says so); with `--enable-request-id-headers` the X-Request-Id that we send names the answer (`chatcmpl-<id>`); cut streams send no
last usage, so `continuous_usage_stats` is what meters them.
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from backends.config import BackendConfig
from backends.openai.dialect import PAID_EXTRAS, OpenAIDialect, beside_v1, read_count
from backends.provider import Call, Provider, Target
from backends.transport.seam import Exchange
from backends.vendors import vendor_named

# Beams are many answers, of which one is counted. Transfer parameters and extra arguments reach other engines' caches, and plugins.
# Media arguments make an image more tokens than was held for. A request's or session's name could be another tenant's. A stream whose
# chunks come seldom looks like a dead server, and a cut one could not be metered.
_REACHES_FURTHER = frozenset(
    "use_beam_search kv_transfer_params ec_transfer_params vllm_xargs mm_processor_kwargs media_io_kwargs request_id session_id stream_interval".split()
)


class VLLM(OpenAIDialect):
    """The dialect with vLLM's additions. A client's own `priority` is never passed on: the lane decides."""

    own_servers: bool = True
    withheld: frozenset[str] = PAID_EXTRAS | _REACHES_FURTHER
    forced_in_streams: Mapping[str, bool] = MappingProxyType({"include_usage": True, "continuous_usage_stats": True})

    def replaced(self, call: Call, target: Target) -> dict[str, msgspec.Raw]:
        """Set the priority where the server takes one; where it does not, a client's own is made 0, which every server takes."""
        changed = super().replaced(call, target)
        if call.endpoint != "embeddings" and target.priority is not None:
            changed["priority"] = msgspec.Raw(msgspec.json.encode(target.priority))
        elif "priority" in call.members:
            changed["priority"] = msgspec.Raw(b"0")
        return changed

    def count_exchange(self, text: str, target: Target) -> Exchange | None:
        """Ask the server's own tokenizer for a text without special tokens."""
        body = {"model": target.model, "prompt": text, "add_special_tokens": False}
        return self.post(beside_v1(target.replica.base_path, "tokenize"), body, target)

    def count(self, answer: bytes) -> int:
        """Read the tokenizer's count. Raises `BadAnswer`."""
        return read_count(answer)

    def health_exchange(self, target: Target) -> Exchange | None:
        """Ask /health, which fails when the engine is dead."""
        return self.get(beside_v1(target.replica.base_path, "health"), target)

    def load_exchange(self, target: Target) -> Exchange | None:
        """Ask for the engine's metrics."""
        return self.get(beside_v1(target.replica.base_path, "metrics"), target)

    def priority_exchange(self, target: Target) -> Exchange | None:
        """Complete one token behind everybody else: 200 where the server takes a priority, 400 where it does not."""
        body = {"model": target.model, "prompt": ".", "max_tokens": 1, "temperature": 0, "priority": 1_000_000}
        return self.post(f"{target.replica.base_path}/completions", body, target)


def build(config: BackendConfig) -> Provider:
    """Make the provider of a backend."""
    return VLLM(vendor_named(config.vendor))
