"""How loaded an engine is, by its own metrics, and how many requests it runs well at once. Pure.

An engine that is given more than it can run queues the rest, where no lane is known and nothing can be taken back. So its queue should be
empty, or nearly, and what waits should wait here. `Learner` finds the most at which it is: what runs while some wait is what fits.
"""

import re

import msgspec

START = 16
LIMIT_MAX = 1024
KV_FULL = 0.97  # of the cache: past it engines preempt what runs
CONGESTED_LOOKS = 2  # in a row: one may be the moment between two steps of the engine
CALM_LOOKS = 10  # in a row with most of the limit in use (a lane may not have all of it), after it was once too much, before a little more is tried
STEP = 8  # a trial is an eighth more

# The values of all engines behind one address are told apart by labels, of which nothing is needed but that they end before the number.
_LINE = re.compile(rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc)(?:\{.*\})? ([0-9][0-9.eE+-]*)\s*$", re.MULTILINE)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one server said: requests that run and that wait in it, and how full its cache is (0 to 1). None: it did not say."""

    running: int | None = None
    waiting: int | None = None
    kv_usage: float | None = None


def read_load(exposition: bytes) -> Load:
    """Read Prometheus' text as vLLM writes it. Counts of several engines add up, of their caches the fullest counts. What is not there stays None."""
    found: dict[bytes, list[float]] = {}
    for name, value in _LINE.findall(exposition):
        try:
            number = float(value)
        except ValueError:
            continue  # a number cut short
        if number < 1e9:
            found.setdefault(name, []).append(number)
    counts = [None if name not in found else round(sum(found[name])) for name in (b"num_requests_running", b"num_requests_waiting")]
    kv = found.get(b"kv_cache_usage_perc")
    return Load(running=counts[0], waiting=counts[1], kv_usage=None if kv is None else max(kv))


class Learner:
    """One replica's limit. It doubles by halves until the engine has once had too much, is then what ran while some waited, and is tried a little
    above that from time to time. Several processes that look at one engine learn the same. An engine that is idle teaches nothing.
    """

    def __init__(self) -> None:
        self.limit = START
        self._steep = True  # it has never been too much
        self._congested = 0  # looks in a row
        self._calm = 0

    def heard(self, load: Load) -> bool:
        """Learn from one look; True when the limit changed."""
        running, waiting = load.running, load.waiting
        if running is None or waiting is None:
            return False
        before = self.limit
        full_cache = load.kv_usage is not None and load.kv_usage >= KV_FULL
        if running and (waiting or full_cache):
            self._calm = 0
            self._congested += 1
            if self._congested >= CONGESTED_LOOKS:
                self._steep = False
                self.limit = min(self.limit, running) if full_cache and not waiting else min(LIMIT_MAX, running)
            return self.limit != before
        self._congested = 0
        if 4 * running < 3 * self.limit:  # it is not in use: whether more would fit cannot be seen
            self._calm = 0
            return False
        self._calm += 1
        if self._steep or self._calm >= CALM_LOOKS:
            self._calm = 0
            self.limit = min(LIMIT_MAX, self.limit + max(1, self.limit // (2 if self._steep else STEP)))
        return self.limit != before
