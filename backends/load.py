"""How loaded an engine is, by its own metrics, and how many requests it runs well at once. Pure.

An engine that is given more than it can run queues the rest, where no lane is known and nothing can be taken back. So its queue should be
empty, or nearly, and what waits should wait here. `Learner` finds the most at which it is: what runs while some wait is what fits.
"""

import re
from collections import deque

import msgspec

START = 16
LIMIT_MAX = 1024
KV_FULL = 0.97  # of the cache: past it engines preempt what runs
RECENT_LOOKS = 5  # of which the one that saw the most run counts: a look falls between two steps, when what has just ended no longer runs
CONGESTED_LOOKS = 2  # in a row: one may be the moment between two steps of the engine
CALM_LOOKS = 10  # with most of the limit in use (a lane may not have all of it), after it was too much, before a little more is tried
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
    """One replica's limit, from looks at its load a second apart.

    - Never yet too much: half more at each look at which most of the limit was in use, so that a strong engine is found in seconds.
    - Too much is a queue, or a full cache, at two looks in a row while what runs grows no further: the limit is then what ran. An engine that is
      still starting what it was given has a queue too, and says nothing of what fits.
    - After that an eighth more is tried, first after ten looks in use and then, as long as it is not too much, ever sooner: at rest the engine has
      a queue for two or three looks in thirteen, and one that got room is filled within half a minute.
    - What is not seen to run teaches nothing, so an idle engine's limit stays. Answers of a token or two are seldom seen to run: there the limit
      stays low, for it cannot be told from a queue in front of the engine's scheduler, which no metric shows.

    Several processes that look at one engine learn the same, give or take a trial, whoever sent what runs in it.
    """

    def __init__(self) -> None:
        self.limit = START
        self._ran: deque[int] = deque(maxlen=RECENT_LOOKS)
        self._steep = True  # it has never been too much
        self._congested = 0  # looks in a row
        self._calm = 0  # looks in use since the last change
        self._patience = CALM_LOOKS

    def heard(self, load: Load) -> bool:
        """Learn from one look; True when the limit changed."""
        if load.running is None or load.waiting is None:
            return False
        before = self.limit
        growing = load.running > max(self._ran, default=0)
        self._ran.append(load.running)
        full = load.kv_usage is not None and load.kv_usage >= KV_FULL
        if max(self._ran) and (load.waiting or full):
            self._calm = 0
            self._congested = 0 if growing else self._congested + 1
            if self._congested >= CONGESTED_LOOKS:
                self._fall(self.limit if full and not load.waiting else LIMIT_MAX)
        else:
            self._congested = 0
            self._rise()
        return self.limit != before

    def _fall(self, most: int) -> None:
        """Take what ran for what fits. More than the limit, if there is a queue: others use the engine too, or this process is new to it."""
        self._steep, self._patience = False, CALM_LOOKS
        self.limit = min(most, max(self._ran))

    def _rise(self) -> None:
        if 4 * max(self._ran) < 3 * self.limit:  # it is not in use: whether more would fit cannot be seen
            self._calm = 0
            return
        self._calm += 1
        if self._steep or self._calm >= self._patience:
            self._calm, self._patience = 0, max(1, self._patience // 2)
            self.limit = min(LIMIT_MAX, self.limit + max(1, self.limit // (2 if self._steep else STEP)))
