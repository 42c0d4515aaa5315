"""The replicas of one backend: take one, give it back, eject it, let it back.

A pool opens exchanges and counts them. It tries another replica only while nothing of an answer was seen and nothing can have been
answered: a connection that could not be made, or was lost before the first byte. Anything after that is the caller's to decide.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping

from backends import health
from backends.config import PRIORITY_PROVIDERS, BackendConfig
from backends.errors import BackendError, BadAnswer, BadConfig, Saturated, TimedOut, Unreachable
from backends.health import Facts
from backends.load import Learner, Load, read_load
from backends.opened import Opened
from backends.pickers import build_picker
from backends.provider import Call, Provider, Target
from backends.providers import build_provider
from backends.replica import Replica, replica_at
from backends.transport.seam import Origin, Timeouts, Transport
from backends.vendors import vendor_named

OWN_PROBE_S = 5.0
VENDOR_PROBE_S = 60.0
DOWN_PROBE_S = 1.0
PROBE_TIMEOUTS = Timeouts(connect_s=2.0, first_byte_s=3.0, idle_s=3.0, total_s=6.0)
LEARN_TIMEOUTS = Timeouts(connect_s=2.0, first_byte_s=10.0, idle_s=5.0, total_s=15.0)  # one token behind everybody else takes a while
LOAD_TIMEOUTS = Timeouts(connect_s=1.0, first_byte_s=1.0, idle_s=1.0, total_s=2.0)
LOAD_EVERY_S = 1.0
MUTE_LOOKS = 3  # in a row, before the log says so: a busy server may be late with its metrics
COUNT_TIMEOUTS = Timeouts(connect_s=1.0, first_byte_s=2.0, idle_s=2.0, total_s=2.0)  # somebody waits for it: an estimate will do

log = logging.getLogger("weir.backends")


class Pool:
    """One backend, ready to be used. All of it runs on one event loop."""

    def __init__(
        self, name: str, config: BackendConfig, transport: Transport, *, provider: Provider | None = None, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.config = config
        self.provider = provider if provider is not None else build_provider(config)
        self.transport = self.provider.transport or transport
        self.replicas = _replicas(name, config)
        self._picker = build_picker(config.picker)
        self._monotonic_s = monotonic_s
        self._facts: dict[str, Facts] = {}  # by replica
        self._contexts: dict[str, int | None] = {}  # what they say of a model's context, for as long as they stay what they are
        self._missed: dict[str, int] = {}  # probes in a row, by replica
        self._broken_by: set[str] = set()  # exceptions of probes that were logged
        self._learners = {replica.name: Learner() for replica in self.replicas} if config.slots == "auto" else {}
        self._told: dict[str, int] = {}  # what the log last said of a replica's limit
        self._mute: dict[str, int] = {}  # looks in a row at which a replica did not say how loaded it is
        self._key = None if config.api_key is None else config.api_key.get_secret_value()
        self.drains = config.on_disconnect == "drain"  # an answer is read to its end though its client left: its vendor bills all of it
        limits = config.timeouts
        self._timeouts = Timeouts(connect_s=limits.connect_s, first_byte_s=limits.first_byte_s, idle_s=limits.idle_s, total_s=limits.total_s)
        whole_s = limits.whole_s if limits.total_s is None else min(limits.whole_s, limits.total_s)
        self._whole = Timeouts(connect_s=limits.connect_s, first_byte_s=limits.whole_s, idle_s=limits.idle_s, total_s=whole_s)

    @property
    def up(self) -> bool:
        """Whether any replica may be used now."""
        now_s = self._monotonic_s()
        return any(health.usable(replica, now_s) for replica in self.replicas)

    @property
    def slots(self) -> int:
        """How many requests it should have at once, from all processes together: what is configured or learned, for the replicas that may be used now."""
        usable = self._usable()
        if self.config.slots == "auto":
            return sum(self._learners[replica.name].limit for replica in usable)
        if len(usable) == len(self.replicas):
            return self.config.slots
        return max(1, math.ceil(self.config.slots * sum(one.weight for one in usable) / sum(one.weight for one in self.replicas)))

    @property
    def stranded(self) -> int:
        """Exchanges under way at replicas that may not be used now, and that `slots` therefore leaves out: they end, or run into their timeouts."""
        usable = self._usable()
        return sum([replica.inflight for replica in self.replicas if replica not in usable]) if len(usable) < len(self.replicas) else 0

    @property
    def inflight(self) -> int:
        """Exchanges under way."""
        return sum(replica.inflight for replica in self.replicas)

    @property
    def priority_scheduling(self) -> bool:
        """Whether priorities are sent: every replica that may be used now takes them (if none may, every one)."""
        return all(self._takes_priority(replica) for replica in self._usable())

    def _usable(self) -> list[Replica]:
        """Return the replicas that may be used now; all, if none may."""
        now_s = self._monotonic_s()
        return [replica for replica in self.replicas if health.usable(replica, now_s)] or self.replicas

    def _takes_priority(self, replica: Replica) -> bool:
        """As declared, unless the replica has refused one: its slow requests would all be refused. Not declared: once it has taken one."""
        facts = self._facts.get(replica.name)
        seen = None if facts is None else facts.takes_priority
        return self.config.priority_scheduling is True if seen is None else seen

    def _priorities(self, replica: Replica) -> str:
        """Say for the log whether it is sent priorities, and how that is known: declared by the configuration, seen by the probe, or neither."""
        declared, seen = self.config.priority_scheduling, self._facts[replica.name].takes_priority
        if self.config.provider not in PRIORITY_PROVIDERS:
            return "none there"
        if declared is False:
            return "not sent (priority_scheduling: false)"
        if declared:
            return {None: "sent (declared; not tried)", True: "sent (declared, and taken)", False: "not sent (declared, but refused)"}[seen]
        return {
            None: "not sent (not declared; not tried)",
            True: "sent (not declared, but taken: without --scheduling-policy priority some versions take and ignore them)",
            False: "not sent (refused)",
        }[seen]

    def context_tokens(self, model: str) -> int | None:
        """Return the least context (tokens) that the replicas gave for a model; one that serves a single model means it under any name."""
        if model not in self._contexts:
            lengths = [
                facts.context_tokens.get(model) or next(iter(facts.context_tokens.values()), None)
                for facts in self._facts.values()
                if model in facts.models or len(facts.models) == 1
            ]
            self._contexts[model] = min((length for length in lengths if length is not None), default=None)
        return self._contexts[model]

    def models(self) -> tuple[str, ...]:
        """List the models that the replicas have named."""
        return tuple(sorted({model for facts in self._facts.values() for model in facts.models}))

    def drain(self, replica: str, *, draining: bool = True) -> None:
        """Stop (or start again) sending to a replica; what is under way goes on. Raises `BadConfig` for an unknown one."""
        found = next((item for item in self.replicas if item.name == replica), None)
        if found is None:
            raise BadConfig(f"backend {self.name} has no replica {replica}; one of {', '.join(item.name for item in self.replicas)}")
        found.draining = draining

    def steer(self, said: Mapping[str, tuple[bool, int | None]]) -> None:
        """Have each replica drained and weighed as is said of it, by name: (draining, weight; None: the configured one). Others are as configured."""
        configured = {url.url: url.weight for url in self.config.urls}
        for replica in self.replicas:
            draining, weight = said.get(replica.name, (False, None))
            self.drain(replica.name, draining=draining)
            replica.weight = configured.get(replica.name, 1) if weight is None else weight

    async def open(self, call: Call, model: str, *, priority: int | None = None, flex: bool = False) -> Opened:
        """Send a call to a replica and return its answer's head. `priority`: lower runs earlier; dropped where the engine has none.

        Raises `Saturated` when no replica may be used, `Unreachable` when none of them could be reached (the last one's reason),
        `TimedOut` and `BadAnswer` as transports do. Any status is an answer.
        """
        tried: list[str] = []
        refused: BackendError | None = None
        while True:
            replica = self._take(tried)
            if replica is None:
                raise refused or Saturated(f"backend {self.name}: no replica can take a request now")
            tried.append(replica.name)
            target = Target(
                replica=replica,
                model=model,
                timeouts=self._timeouts if call.stream else self._whole,
                api_key=self._key,
                priority=priority if priority is not None and self._takes_priority(replica) else None,
                flex=flex,
            )
            try:
                exchange = self.provider.exchange(call, target)
                answer = await self.transport.open(exchange)
            except BaseException as error:
                replica.inflight -= 1
                if isinstance(error, BackendError):
                    self.failed(replica, str(error))
                    if isinstance(error, Unreachable) or (isinstance(error, TimedOut) and error.phase == "connect"):
                        refused = error
                        continue
                raise
            if answer.status in health.SICK:
                self.failed(replica, f"answered {answer.status}")
            return Opened(answer.status, answer.headers, exchange, replica, len(tried), answer, self.failed)

    async def count(self, text: str, model: str) -> int | None:
        """Have the backend's own tokenizer count a text's tokens; None where it has none or does not answer."""
        replica = next((item for item in self.replicas if health.usable(item, self._monotonic_s())), None)
        exchange = None if replica is None else self.provider.count_exchange(text, self._side(replica, model, COUNT_TIMEOUTS))
        if replica is None or exchange is None:
            return None
        try:
            status, answer = await health.ask(self.transport, exchange)
        except BackendError as error:
            if not isinstance(error, TimedOut) or error.phase == "connect":  # a long text, or a busy tokenizer, is no failure of the server
                self.failed(replica, f"{exchange.path}: {error}")
            return None
        try:
            return self.provider.count(answer) if status == 200 else None
        except BadAnswer as error:  # a server that has no such path may answer it with anything
            log.info("backend %s did not count tokens: %s", self.name, error)
            return None

    def failed(self, replica: Replica, why: str) -> None:
        """Count a failure of a replica."""
        if health.failed(replica, self._monotonic_s()):
            log.warning(
                "backend %s: %s is out for %.0f s after %d failures in a row: %s",
                self.name,
                replica.name,
                replica.ejected_until_s - self._monotonic_s(),
                health.FAILURES_MAX,
                why,
            )

    async def watch(self, side: Transport | None = None) -> None:
        """Probe the replicas until cancelled: all at once, each round, and every second while one is out. Learns what they are when first seen."""
        transport = self.provider.transport or side or self.transport
        learning = asyncio.create_task(self._follow_load(transport)) if self._learners else None
        try:
            await self._watch(transport)
        finally:
            if learning is not None:
                learning.cancel()

    async def _watch(self, transport: Transport) -> None:
        every_s = self.config.probe_every_s or (OWN_PROBE_S if self.provider.own_servers else VENDOR_PROBE_S)
        while True:
            alive = await asyncio.gather(*(self._probe_safely(replica, transport) for replica in self.replicas))
            await asyncio.sleep(every_s if all(alive) else min(DOWN_PROBE_S, every_s))

    async def probe(self, replica: Replica, transport: Transport) -> bool:
        """Probe one replica once; True if it is alive. One that was out is asked again what it is: it may have been started anew."""
        target = self._side(replica, "", PROBE_TIMEOUTS)
        exchange = self.provider.health_exchange(target)
        if exchange is None:
            return True
        why = await health.probe(transport, exchange)
        if why is not None:
            return self._miss(replica, why)
        await self._learn(replica, transport)
        self._missed.pop(replica.name, None)
        if health.probe_succeeded(replica, self._monotonic_s()):
            log.info("backend %s: %s is back", self.name, replica.name)
        return True

    async def _probe_safely(self, replica: Replica, transport: Transport) -> bool:
        """Probe one replica, and live through whatever its answer makes of us: the watch over all of them must not end for one."""
        try:
            return await self.probe(replica, transport)
        except Exception as error:  # a server may answer anything; it is logged, and counts as a probe missed
            kind = type(error).__name__
            if kind not in self._broken_by:
                self._broken_by.add(kind)
                log.exception("backend %s: the probe of %s broke; further ones by %s are not logged", self.name, replica.name, kind)
            return self._miss(replica, f"its probe broke by {kind}")

    def _miss(self, replica: Replica, why: str) -> bool:
        """Count a missed probe, and hold the replica out after some in a row; False, for the probe's caller."""
        self._missed[replica.name] = missed = self._missed.get(replica.name, 0) + 1
        if missed == health.PROBES_MISSED_MAX:
            log.warning("backend %s: %s is out: %s", self.name, replica.name, why)
        if missed >= health.PROBES_MISSED_MAX:
            health.hold_out(replica)
            self._facts.pop(replica.name, None)
            self._contexts.clear()
        return False

    async def _follow_load(self, transport: Transport) -> None:
        """Look at every replica's load every second, until cancelled."""
        while True:
            await asyncio.gather(*(self._look(replica, transport) for replica in self.replicas))
            await asyncio.sleep(LOAD_EVERY_S)

    async def _look(self, replica: Replica, transport: Transport) -> None:
        """Learn from a replica's load. One that does not say it keeps its limit; that is logged once, and what is learned when it is much."""
        exchange = self.provider.load_exchange(self._side(replica, "", LOAD_TIMEOUTS))
        assert exchange is not None  # the configuration takes `auto` only where there is one
        try:
            status, body = await health.ask(transport, exchange)
            load = read_load(body) if status == 200 else Load()
            why = f"{exchange.path} answered {status}"
        except Exception as error:  # noqa: BLE001 - a server may answer anything; it is logged below, and teaches nothing
            load, why = Load(), str(error) or type(error).__name__
        learner = self._learners[replica.name]
        if load.running is None or load.waiting is None:
            self._mute[replica.name] = mute = self._mute.get(replica.name, 0) + 1
            if mute == MUTE_LOOKS:
                log.warning("backend %s: %s does not say how loaded it is, its slots stay %d: %s", self.name, replica.name, learner.limit, why)
            return
        self._mute.pop(replica.name, None)
        learner.heard(load)
        told = self._told.get(replica.name)
        if told is None or abs(learner.limit - told) > max(2, told // 4):  # at rest it goes up and down by an eighth
            self._told[replica.name] = learner.limit
            log.info("backend %s: %s is given %d requests at once (%d run in it, %d wait)", self.name, replica.name, learner.limit, load.running, load.waiting)

    async def _learn(self, replica: Replica, transport: Transport) -> None:
        """Ask one of the operator's own servers what it is, unless it has said so."""
        target = self._side(replica, "", LEARN_TIMEOUTS)
        known, declared = self._facts.get(replica.name), self.config.priority_scheduling
        asks_priority = declared is not False and self.provider.priority_exchange(target) is not None
        again = asks_priority and declared is None and known is not None and known.takes_priority is None  # one that is declared is tried once
        if not self.provider.own_servers or (known is not None and known.models and not again):
            return
        facts = await health.learn(self.provider, target, transport, priority=asks_priority)
        self._facts[replica.name] = facts
        self._contexts.clear()
        if facts != known:
            log.log(
                logging.WARNING if declared and facts.takes_priority is False else logging.INFO,
                "backend %s: %s serves %.500s; context %.500s tokens; priorities: %s",
                self.name, replica.name, ", ".join(facts.models) or "?", dict(facts.context_tokens) or "?", self._priorities(replica),
            )  # fmt: skip

    def _take(self, tried: list[str]) -> Replica | None:
        candidates = self.replicas
        replica = candidates[0]
        if tried or len(candidates) > 1 or replica.draining or replica.ejected_until_s:
            now_s = self._monotonic_s()
            candidates = [item for item in candidates if health.usable(item, now_s) and item.name not in tried]
            if not candidates:
                return None
            replica = candidates[0] if len(candidates) == 1 else self._picker.pick(candidates)
        replica.inflight += 1
        return replica

    def _side(self, replica: Replica, model: str, timeouts: Timeouts) -> Target:
        return Target(replica=replica, model=model, timeouts=timeouts, api_key=self._key)


def _replicas(name: str, config: BackendConfig) -> list[Replica]:
    if config.provider == "echo":
        return [Replica(name="echo", origin=Origin(scheme="http", host="echo.invalid", port=80), base_path="/v1")]
    if config.urls:
        return [replica_at(item.url, weight=item.weight) for item in config.urls]
    vendor = vendor_named(config.vendor)
    if vendor.base_url is None:
        raise BadConfig(f"backend {name}: vendor {vendor.name} has no address of its own ({vendor.note}): give `urls`")
    return [replica_at(vendor.base_url)]


def build_pools(backends: Mapping[str, BackendConfig], transports: Mapping[str, Transport]) -> dict[str, Pool]:
    """Make the pool of every backend; `transports` maps "direct" and "httpx". Raises `BadConfig` naming the backend."""
    pools: dict[str, Pool] = {}
    for name, config in backends.items():
        try:
            pools[name] = Pool(name, config, transports[config.transport])
        except BadConfig as error:
            raise BadConfig(f"backend {name}: {error}") from error
    return pools
