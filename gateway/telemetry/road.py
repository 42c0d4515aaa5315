"""What the road of a request counts, as one call for each of its steps; the names and label orders are `names.py`'s."""

from billing.meter import Meter, used
from gateway.telemetry.metrics import Metrics


class Road(Metrics):
    """The process's metrics, with the touches of the hot path. Event loop only."""

    def __init__(self) -> None:
        super().__init__()
        self.inflight = 0
        self.settle_failed_total = 0
        self.inflight_requests.watch(lambda: self.inflight)

    def requested(self, endpoint: str, model: str, status: int, duration_s: float) -> None:
        """Count an answered request. `model` is "" until a body was read, so that no client can make up label values."""
        self.requests.add((endpoint, model, status))
        self.request_duration.observe((endpoint, model), duration_s)

    def refused(self, code: str) -> None:
        """Count a refusal by its code."""
        self.refusals.add((code,))

    def first_token(self, endpoint: str, model: str, after_s: float) -> None:
        """Time a stream's first byte."""
        self.time_to_first_token.observe((endpoint, model), after_s)

    def own_time(self, endpoint: str, own_s: float) -> None:
        """Time what a request spent in the gateway itself."""
        self.overhead.observe((endpoint,), own_s)

    def waited(self, lane: str, wait_us: int) -> None:
        """Time the wait for a slot."""
        self.queue_wait.observe((lane,), wait_us / 1e6)

    def lane_refused(self, lane: str, reason: str) -> None:
        """Count a request that its lane refused."""
        self.lane_refusals.add((lane, reason))

    def spilled(self, origin: str, backend: str) -> None:
        """Count a fast request that went to another backend than its model's first, which had no slot."""
        self.spills.add((origin, backend))

    def attempted(self, backend: str, outcome: str) -> None:
        """Count an upstream attempt: served, refused, failed before its first byte, cut after it, or left: by its client, or at a stop."""
        self.backend_attempts.add((backend, outcome))

    def settled(self, model: str, backend: str, meter: Meter, source: str) -> None:
        """Count the tokens of a settled request, by bucket."""
        cells = self.tokens.cells  # one look-up less of each than `add` takes
        for kind, count in used(meter):
            labels = (model, backend, kind)
            cells[labels] = cells.get(labels, 0) + count
        if source != "reported":
            self.usage_estimated.add((model,))

    def settle_failed(self) -> None:
        """Count usage that could not be charged as it was reported."""
        self.settle_failed_total += 1
