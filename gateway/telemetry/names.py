"""Every metric's name, labels and meaning, in one place: what a dashboard or an alert may rely on.

No metric carries a tenant: their number has no bound. A `model` label holds only public model names that are configured (or "" for a
name that is not), so that no client can make up series.
"""

from typing import NamedTuple


class Name(NamedTuple):
    """A metric as Prometheus knows it. `buckets` (seconds) makes it a histogram."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_LONG_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_SHORT_S = (0.00005, 0.0001, 0.00015, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)

REQUESTS = Name("weir_requests_total", "Requests answered, by status code", ("endpoint", "model", "code"))
REQUEST_DURATION = Name("weir_request_duration_seconds", "From the request's head to its answer's end", ("endpoint", "model"), _LONG_S)
TIME_TO_FIRST_TOKEN = Name("weir_time_to_first_token_seconds", "From the request's head to the first byte of the answer's body", ("endpoint", "model"), _LONG_S)
OVERHEAD = Name("weir_overhead_seconds", "Time a request spent in the gateway itself: neither queued nor waiting for a backend", ("endpoint",), _SHORT_S)
INFLIGHT_REQUESTS = Name("weir_inflight_requests", "Requests under way now")
TOKENS = Name("weir_tokens_total", "Tokens metered, by bucket", ("model", "backend", "kind"))
QUEUE_WAIT = Name("weir_queue_wait_seconds", "Wait for a dispatch slot", ("lane",), _LONG_S)
LANE_TENANTS = Name("weir_lane_tenants", "Tenants in a lane now, of those seen lately", ("lane",))
REFUSALS = Name("weir_refusals_total", "Requests refused by the gateway, by error code", ("code",))
BACKEND_UP = Name("weir_backend_up", "1 while a backend has a replica that takes requests, else 0", ("backend",))
BACKEND_ATTEMPTS = Name("weir_backend_attempts_total", "Attempts made at a backend, by outcome: served, refused, failed, cut, left", ("backend", "outcome"))
HOLDS_OPEN = Name("weir_holds_open", "Credit holds neither settled nor released yet")
QUEUE_DEPTH = Name("weir_queue_depth", "Requests that wait for a slot of a backend now", ("backend", "lane"))
LANE_OLDEST_WAIT = Name(
    "weir_lane_oldest_wait_seconds", "How long the tenant that has gone longest without a slot of a backend has waited; 0 where none waits", ("backend", "lane")
)
LANE_REFUSALS = Name("weir_lane_refusals_total", "Requests that a lane refused: queue_full, wait_over, or set_aside, block, slow_daily_cap", ("lane", "reason"))
PROMOTIONS = Name("weir_promotions_total", "Requests that went before others because their tenant had gone without a slot for too long", ("backend",))
SPILLS = Name("weir_spills_total", "Fast requests that went to a later backend of their model because the first had no slot", ("from", "to"))
SLOTS = Name("weir_slots", "Requests that this process may have at a backend at once: its share of the backend's slots", ("backend",))
SLOW_SLOTS = Name("weir_slow_slots", "How many of this process's slots of a backend the slow lane may take", ("backend",))
SLOTS_USED = Name("weir_slots_used", "Slots of a backend that this process has taken now", ("backend",))
BACKEND_SLOTS = Name("weir_backend_slots", "Requests that a backend is given at once by all processes, as this one knows it", ("backend",))
CHILD_RESTARTS = Name("weir_child_restarts_total", "Times that a model server started by this process died and was started again", ("child",))
READY = Name("weir_ready", "1 while requests should be sent here; 0 when not: /ready says why")
SETTLE_FAILURES = Name("weir_settle_failures_total", "Flushes of usage into the books that failed; they are retried, nothing is lost")
USAGE_REJECTED = Name("weir_usage_rejected_total", "Usage events that the database refused for themselves, parked in files beside the journal: alert on it")
USAGE_CONFLICTS = Name("weir_usage_conflicts_total", "Usage events that came again with other content and changed nothing: `weir usage conflicts` lists them")
USAGE_BACKLOG = Name("weir_usage_backlog", "Usage events that wait for the database")
PROCESSES = Name("weir_processes", "Processes that share the credits of the database, this one among them")
DISPLACED = Name("weir_displaced_total", "Times that this process was taken for dead, or found its name used, and began anew without leases")
LEASES_ALIVE = Name("weir_leases_alive", "1 while this process admits from its leases; 0 when it could not tell the books that it lives")
USAGE_OLDEST = Name("weir_usage_oldest_seconds", "How long the oldest of them has waited; 0 when none waits")
JOURNAL_FAILURES = Name("weir_journal_failures_total", "Writes that the disk of the usage journal refused")
JOURNAL_BYTES = Name("weir_journal_bytes", "Size of the usage journal on disk")
JOURNAL_BYTES_MAX = Name("weir_journal_bytes_max", "Its bound (books.journal_bytes_max): past it new work is refused")
JOBS_AGE = Name("weir_jobs_age_seconds", "How long ago a job last ended well, or, before it ever did, how long ago this process began", ("name",))
CLOCK_AHEAD = Name("weir_clock_ahead_seconds", "This machine's clock minus the database's; past an hour no job runs; only with PostgreSQL")
LEDGER_IMBALANCE_NCR = Name("weir_ledger_imbalance_ncr", "Sum over all ledger entries; anything but 0 is a bug: alert on it, and on its absence")
RATE_WINDOWS_SHARED = Name("weir_rate_windows_shared", "1 while rate limits hold for all processes together, 0 while each applies its share; only with Redis")
RATE_WINDOWS_ERRORS = Name("weir_rate_windows_errors_total", "Times that the Redis of the rate windows was lost, too slow, or not found again")
USAGE_ESTIMATED = Name("weir_usage_estimated_total", "Requests whose usage the backend did not report, so that it was counted here", ("model",))
WEBHOOKS = Name("weir_webhooks_total", "Tries to deliver a webhook, by outcome: delivered, retried, failed (given up), gone (410)", ("outcome",))
WEBHOOKS_WAITING = Name("weir_webhooks_waiting", "Webhook messages not delivered yet, in the whole installation: every process says the same")
WORKERS = Name("weir_workers", "Worker processes of this gateway; reported where there are several")
WORKERS_UNHEARD = Name("weir_workers_unheard", "Workers that did not answer within a second of this scrape, so that their series are not in it")
WORKER_RESTARTS = Name("weir_worker_restarts_total", "Times that a worker process died and was started again", ("worker",))
