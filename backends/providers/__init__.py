"""One file per dialect, found by its name: a backend's `provider: vllm` is `providers/vllm.py` and its `build`."""

from collections.abc import Callable
from importlib import import_module

from backends.config import BackendConfig, provider_names
from backends.errors import BadConfig
from backends.provider import Provider

__all__ = ["build_provider", "provider_names"]


def build_provider(config: BackendConfig) -> Provider:
    """Make the provider that a backend's config names. Raises `BadConfig` for an unknown provider or vendor."""
    if config.provider not in provider_names():
        raise BadConfig(f"there is no provider `{config.provider}`; one of {', '.join(provider_names())}")
    build: Callable[[BackendConfig], Provider] = import_module(f"{__name__}.{config.provider}").build
    return build(config)
