"""One server that can answer: its address, and what is known of it now."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from backends.transport.seam import Origin


@dataclass(slots=True, kw_only=True, eq=False)
class Replica:
    """A replica of a backend. `base_path` is what stands before the endpoint ("/v1"); `inflight` counts exchanges under way."""

    name: str
    origin: Origin
    base_path: str = ""
    weight: int = 1
    inflight: int = 0
    failures: int = 0  # in a row
    ejections: int = 0  # since it last answered properly
    ejected_until_s: float = 0.0  # on the monotonic clock
    draining: bool = False


def replica_at(url: str, *, weight: int = 1) -> Replica:
    """Read a checked base URL (`config.check_base_url`) into a replica named by it."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    origin = Origin(scheme=parts.scheme, host=parts.hostname or "", port=port)
    return Replica(name=url, origin=origin, base_path=parts.path.rstrip("/"), weight=weight)
