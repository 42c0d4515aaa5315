"""The metrics, cheap enough to touch on every request: a touch is one dictionary update, under half a microsecond.

prometheus-client keeps the registry and writes the exposition; its own counters take a lock and its histograms walk their buckets at
every touch, so the cells here are plain numbers keyed by label values, and lists of durations that are not sorted yet. Counts and times are
touched, and read when somebody scrapes, on the event loop's thread only; what other threads count is read at scrape time through `watch`.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.telemetry import names
from gateway.telemetry.names import Name

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Kept = TypeVar("Kept", bound=Collector)
FRESH_MAX = 256

Labels = tuple[object, ...]
Reading = float | Mapping[Any, float]


class Counts(Collector):
    """A counter: one number for each combination of label values, in the order of `name.labels`."""

    def __init__(self, name: Name) -> None:
        self.name = name
        self.cells: dict[Labels, float] = {}

    def add(self, labels: Labels = (), amount: float = 1) -> None:
        """Add to the number of these label values."""
        cells = self.cells
        cells[labels] = cells.get(labels, 0) + amount

    def collect(self) -> Iterable[Metric]:
        """Report every number."""
        family = CounterMetricFamily(self.name.name, self.name.help, labels=self.name.labels)
        for labels, value in tuple(self.cells.items()):
            family.add_metric([str(label) for label in labels], value)
        yield family


class Times(Collector):
    """A histogram of durations in seconds over `name.buckets`."""

    def __init__(self, name: Name) -> None:
        self.name = name
        self.bounds = name.buckets
        self.cells: dict[Labels, tuple[list[int], list[float]]] = {}
        self._fresh: dict[Labels, list[float]] = {}

    def observe(self, labels: Labels, duration_s: float) -> None:
        """Count one duration in seconds. It is put among those of its bucket with some hundred others, and when somebody scrapes."""
        fresh = self._fresh.get(labels)
        if fresh is None:
            fresh = self._fresh[labels] = []
        fresh.append(duration_s)
        if len(fresh) >= FRESH_MAX:
            self._sort(labels, fresh)

    def _sort(self, labels: Labels, fresh: list[float]) -> None:
        counts, total = self.cells.setdefault(labels, ([0] * (len(self.bounds) + 1), [0.0]))
        total[0] += sum(fresh)
        fresh.sort()
        below = 0
        for at, bound in enumerate(self.bounds):
            upto = bisect_right(fresh, bound, below)
            counts[at] += upto - below
            below = upto
        counts[-1] += len(fresh) - below
        fresh.clear()

    def collect(self) -> Iterable[Metric]:
        """Report cumulative buckets and the sum for every combination of label values."""
        family = HistogramMetricFamily(self.name.name, self.name.help, labels=self.name.labels)
        for labels, fresh in tuple(self._fresh.items()):
            self._sort(labels, fresh)
        bounds = [*(str(bound) for bound in self.bounds), "+Inf"]
        for labels, (counts, (total,)) in tuple(self.cells.items()):
            running, buckets = 0, []
            for bound, count in zip(bounds, tuple(counts), strict=True):
                running += count
                buckets.append((bound, float(running)))
            family.add_metric([str(label) for label in labels], buckets, total)
        yield family


class Watched(Collector):
    """A figure that someone else keeps, read when it is scraped. Without a source it reports nothing.

    A name that ends in `_total` is a counter; any other a gauge.
    """

    def __init__(self, name: Name) -> None:
        self.name = name
        self.source: Callable[[], Reading] | None = None

    def watch(self, source: Callable[[], Reading]) -> None:
        """Read the figure from `source`: a number, or a number for each tuple of label values."""
        self.source = source

    def collect(self) -> Iterable[Metric]:
        """Report what the source says now."""
        kind = CounterMetricFamily if self.name.name.endswith("_total") else GaugeMetricFamily
        family = kind(self.name.name, self.name.help, labels=self.name.labels)
        if self.source is not None:
            reading = self.source()
            for labels, value in (reading if isinstance(reading, Mapping) else {(): reading}).items():
                family.add_metric([str(label) for label in labels], value)
        yield family


class Metrics:
    """One process's metrics. `exposition` is what `/metrics` answers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.requests = self._keep(Counts(names.REQUESTS))
        self.request_duration = self._keep(Times(names.REQUEST_DURATION))
        self.time_to_first_token = self._keep(Times(names.TIME_TO_FIRST_TOKEN))
        self.overhead = self._keep(Times(names.OVERHEAD))
        self.inflight_requests = self._keep(Watched(names.INFLIGHT_REQUESTS))
        self.tokens = self._keep(Counts(names.TOKENS))
        self.queue_wait = self._keep(Times(names.QUEUE_WAIT))
        self.lane_tenants = self._keep(Watched(names.LANE_TENANTS))
        self.refusals = self._keep(Counts(names.REFUSALS))
        self.backend_up = self._keep(Watched(names.BACKEND_UP))
        self.backend_attempts = self._keep(Counts(names.BACKEND_ATTEMPTS))
        self.holds_open = self._keep(Watched(names.HOLDS_OPEN))
        self.queue_depth = self._keep(Watched(names.QUEUE_DEPTH))
        self.lane_oldest_wait = self._keep(Watched(names.LANE_OLDEST_WAIT))
        self.lane_refusals = self._keep(Counts(names.LANE_REFUSALS))
        self.promotions = self._keep(Watched(names.PROMOTIONS))
        self.spills = self._keep(Counts(names.SPILLS))
        self.slots = self._keep(Watched(names.SLOTS))
        self.slow_slots = self._keep(Watched(names.SLOW_SLOTS))
        self.slots_used = self._keep(Watched(names.SLOTS_USED))
        self.backend_slots = self._keep(Watched(names.BACKEND_SLOTS))
        self.child_restarts = self._keep(Watched(names.CHILD_RESTARTS))
        self.ready = self._keep(Watched(names.READY))
        self.settle_failures = self._keep(Watched(names.SETTLE_FAILURES))
        self.usage_rejected = self._keep(Watched(names.USAGE_REJECTED))
        self.usage_conflicts = self._keep(Watched(names.USAGE_CONFLICTS))
        self.usage_backlog = self._keep(Watched(names.USAGE_BACKLOG))
        self.processes = self._keep(Watched(names.PROCESSES))
        self.displaced = self._keep(Watched(names.DISPLACED))
        self.leases_alive = self._keep(Watched(names.LEASES_ALIVE))
        self.usage_oldest = self._keep(Watched(names.USAGE_OLDEST))
        self.journal_failures = self._keep(Watched(names.JOURNAL_FAILURES))
        self.journal_bytes = self._keep(Watched(names.JOURNAL_BYTES))
        self.journal_bytes_max = self._keep(Watched(names.JOURNAL_BYTES_MAX))
        self.jobs_age = self._keep(Watched(names.JOBS_AGE))
        self.clock_ahead = self._keep(Watched(names.CLOCK_AHEAD))
        self.ledger_imbalance_ncr = self._keep(Watched(names.LEDGER_IMBALANCE_NCR))
        self.rate_windows_shared = self._keep(Watched(names.RATE_WINDOWS_SHARED))
        self.rate_windows_errors = self._keep(Watched(names.RATE_WINDOWS_ERRORS))
        self.usage_estimated = self._keep(Counts(names.USAGE_ESTIMATED))
        self.webhooks = self._keep(Counts(names.WEBHOOKS))
        self.webhooks_waiting = self._keep(Watched(names.WEBHOOKS_WAITING))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def _keep(self, collector: Kept) -> Kept:
        self.registry.register(collector)
        return collector

    def exposition(self) -> bytes:
        """Write every metric in Prometheus' text format (`CONTENT_TYPE`)."""
        return generate_latest(self.registry)
