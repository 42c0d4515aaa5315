"""The fair queue of one backend pool: pure, no clock of its own, no I/O.

Slots are what the pool can run at once. Fast requests go first; the slow lane gets at most `slow_slots` of them. Inside a lane
tenants share by tokens: a Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI '24): each
dispatch adds its cost over the tenant's weight to the tenant's counter, and the smallest counter goes next. A tenant that was
idle starts at the lane's virtual time (the counter that was served last), so idleness is not saved up. The estimate is charged at dispatch and trued up at
the end. A decision costs O(log tenants).
"""

import heapq
from collections import deque

import msgspec

from gateway.lanes.standing import WEIGHT_UNIT, Lane

SCALE = 1024 * WEIGHT_UNIT  # counters are integers; a weight divides with this much precision left


class Full(Exception):
    """The lane's queue is at its depth; nothing was enqueued."""


class Ticket(msgspec.Struct, kw_only=True, eq=False):
    """One request in the queue. `cost` is its estimate in weighted tokens, `weight` in 1/WEIGHT_UNIT of a plan's.

    `limit` is how many of the tenant's may run in this lane at once.
    """

    tenant: str
    lane: Lane
    cost: int
    weight: int = WEIGHT_UNIT
    limit: int | None = None
    since_us: int = 0
    granted: bool = False
    left: bool = False


class _Line:
    """One tenant's tickets in one lane."""

    __slots__ = ("counter", "listed", "running", "tickets")

    def __init__(self, counter: int) -> None:
        self.counter = counter
        self.running = 0
        self.listed = False  # has a live entry in the heap
        self.tickets: deque[Ticket] = deque()


class _Lane:
    """One lane: its tenants' lines and a heap of (counter, order, tenant) over those that may go."""

    def __init__(self, depth_max: int) -> None:
        self.depth_max = depth_max
        self.waiting = 0
        self.running = 0
        self.order = 0
        self.virtual = 0
        self.lines: dict[str, _Line] = {}
        self.heap: list[tuple[int, int, str]] = []

    def line(self, tenant: str) -> _Line:
        line = self.lines.get(tenant)
        if line is None:
            line = self.lines[tenant] = _Line(self.virtual)
        return line

    def list_line(self, tenant: str, line: _Line) -> None:
        head = _head(line)
        if head is None or line.listed or (head.limit is not None and line.running >= head.limit):
            return
        self.order += 1
        line.listed = True
        heapq.heappush(self.heap, (line.counter, self.order, tenant))

    def pop(self) -> Ticket | None:
        while self.heap:
            _, _, tenant = heapq.heappop(self.heap)
            line = self.lines[tenant]
            line.listed = False
            head = _head(line)
            if head is None:
                self.forget(tenant, line)
                continue
            line.tickets.popleft()
            self.waiting -= 1
            return head
        return None

    def forget(self, tenant: str, line: _Line) -> None:
        if not line.running and not line.tickets and not line.listed:
            self.lines.pop(tenant, None)


class FairQueue:
    """Grants the slots of one pool. Every granted ticket must come back through `done`, every other one through `leave`."""

    def __init__(self, slots: int, *, depths: dict[Lane, int], slow_slots: int | None = None) -> None:
        self.slots = slots
        self.slow_slots = max(1, slots // 2) if slow_slots is None else slow_slots
        self._lanes = {lane: _Lane(depth) for lane, depth in depths.items()}

    @property
    def running(self) -> int:
        """How many slots are taken."""
        return self._lanes[Lane.FAST].running + self._lanes[Lane.SLOW].running

    def waiting(self, lane: Lane) -> int:
        """How many tickets wait in a lane."""
        return self._lanes[lane].waiting

    def offer(self, ticket: Ticket, now_us: int) -> bool:
        """Take a ticket in: True when it runs at once. False: it is enqueued, and the caller asks `next` who runs now.

        Raises `Full` when the lane's queue is at its depth.
        """
        lane = self._lanes[ticket.lane]
        line = lane.line(ticket.tenant)
        if not lane.waiting and self._free(ticket.lane) and (ticket.limit is None or line.running < ticket.limit) and not self._behind(ticket.lane):
            self._grant(lane, line, ticket)
            return True
        if lane.waiting >= lane.depth_max:
            lane.forget(ticket.tenant, line)
            raise Full
        ticket.since_us = now_us
        line.tickets.append(ticket)
        lane.waiting += 1
        lane.list_line(ticket.tenant, line)
        return False

    def leave(self, ticket: Ticket) -> None:
        """Take a waiting ticket out: its client left, or its wait was over. The caller asks `next` who runs now."""
        if not ticket.granted and not ticket.left:
            ticket.left = True
            lane = self._lanes[ticket.lane]
            lane.waiting -= 1
            lane.list_line(ticket.tenant, lane.lines[ticket.tenant])

    def done(self, ticket: Ticket, cost: int) -> None:
        """Give a slot back, with the true cost; the caller asks `next` who runs now."""
        lane = self._lanes[ticket.lane]
        line = lane.lines[ticket.tenant]
        line.running -= 1
        lane.running -= 1
        line.counter += (cost - ticket.cost) * SCALE // ticket.weight
        lane.list_line(ticket.tenant, line)
        lane.forget(ticket.tenant, line)

    def next(self) -> list[Ticket]:
        """Grant what can be granted now, fast before slow, and return the tickets."""
        granted = []
        for name in (Lane.FAST, Lane.SLOW):
            lane = self._lanes[name]
            while lane.waiting and self._free(name) and not self._behind(name) and (ticket := lane.pop()):
                self._grant(lane, lane.lines[ticket.tenant], ticket)
                granted.append(ticket)
        return granted

    def _free(self, lane: Lane) -> bool:
        if self.running >= self.slots:
            return False
        return lane is Lane.FAST or self._lanes[Lane.SLOW].running < self.slow_slots

    def _behind(self, lane: Lane) -> bool:
        return lane is Lane.SLOW and bool(self._lanes[Lane.FAST].heap) and self._lanes[Lane.FAST].waiting > 0

    def _grant(self, lane: _Lane, line: _Line, ticket: Ticket) -> None:
        ticket.granted = True
        line.running += 1
        lane.running += 1
        lane.virtual = max(lane.virtual, line.counter)
        line.counter += ticket.cost * SCALE // ticket.weight
        lane.list_line(ticket.tenant, line)


def _head(line: _Line) -> Ticket | None:
    while line.tickets and line.tickets[0].left:
        line.tickets.popleft()
    return line.tickets[0] if line.tickets else None
