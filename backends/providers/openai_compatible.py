"""Any server or vendor that speaks OpenAI's dialect; `vendor` in the backend's config names the row of quirks."""

from backends.config import BackendConfig
from backends.openai.dialect import OpenAIDialect
from backends.provider import Provider
from backends.vendors import vendor_named


class OpenAICompatible(OpenAIDialect):
    """The dialect as the family has it."""


def build(config: BackendConfig) -> Provider:
    """Make the provider of a backend. Raises `BadConfig` for an unknown vendor."""
    return OpenAICompatible(vendor_named(config.vendor))
