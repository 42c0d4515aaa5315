"""One server that can answer: its address, and what is known of it now."""

import msgspec

from backends.transport.seam import Origin


class Replica(msgspec.Struct, kw_only=True):
    """A replica of a backend. `base_path` is what stands before the endpoint ("/v1"); `inflight` counts exchanges under way."""

    name: str
    origin: Origin
    base_path: str = ""
    weight: int = 1
    inflight: int = 0
    failures: int = 0  # in a row
    ejected_until_s: float = 0.0  # on the monotonic clock
    draining: bool = False
