"""One lane of a fair queue: its tenants' lines, and which of them is next. Pure.

A Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI '24): each dispatch adds its cost over the
tenant's weight to the tenant's counter, the end trues it up, and the smallest counter goes next. A tenant that was idle, or held back by
its own limit, is lifted to the smallest counter that waits (to the one served last where none does), so nothing is saved up; a counter
above that is kept until the others have come so far, so nothing is forgiven either. While both wait, two tenants' counters differ by at
most twice the dearest request over its weight.

Heaps hold an entry for each change and are read past those that no longer hold (`Line.mark`): a change of place costs one push.
"""

import heapq
from collections import deque

import msgspec

from gateway.lanes.standing import WEIGHT_UNIT, Lane

Entry = tuple[int, int, "Line"]  # counter, order, line

STALE_MAX = 64  # entries (or tickets) that no longer hold, beyond as many as there are lines, before a heap (or a line) is written anew
IDLE_MAX = 10_000  # tenants with nothing in the queue whose counters are kept; the smallest are forgotten first, and the others lifted so far


class Ticket(msgspec.Struct, kw_only=True, eq=False):
    """One request in the queue. `cost` is its estimate in weighted tokens, `weight` in 1/WEIGHT_UNIT of a plan's.

    `limit` is how many of the tenant's may run in this lane at once; `borrows`: more may while nobody else wants the slots. `left`: it is out of
    the queue, or has given its slot back; `recalled`: its tenant has credits again; `pushed`: it had to make room in a full queue.
    """

    tenant: str
    lane: Lane
    cost: int
    weight: int = WEIGHT_UNIT
    limit: int | None = None
    borrows: bool = False
    since_us: int = 0
    queued: bool = False
    granted: bool = False
    left: bool = False
    recalled: bool = False
    pushed: bool = False


class Line:
    """One tenant's tickets in one lane. `mark` is the order of the one entry that says where it stands now; 0: it has none.

    `hunger` is the same among those that wait by age; `held` says that its own limit holds it back; `gone` counts tickets that left from its middle.
    """

    __slots__ = ("counter", "gone", "held", "hunger", "mark", "running", "tenant", "tickets")

    def __init__(self, tenant: str, counter: int) -> None:
        self.tenant = tenant
        self.counter = counter
        self.running = 0
        self.mark = 0
        self.hunger = 0
        self.held = False
        self.gone = 0
        self.tickets: deque[Ticket] = deque()

    def head(self) -> Ticket | None:
        """Return its first ticket that still waits."""
        tickets = self.tickets
        while tickets and tickets[0].left:
            tickets.popleft()
            self.gone -= 1
        return tickets[0] if tickets else None


class LaneQueue:
    """The lines of one lane. `age_us`: who has gone without a slot for so long is next; None: nobody is for that."""

    def __init__(self, depth_max: int, age_us: int | None) -> None:
        self.depth_max = depth_max
        self.age_us = age_us
        self.waiting = 0
        self.running = 0
        self.promoted = 0
        self._order = 0
        self._virtual = 0  # the counter that was served last
        self._lines: dict[str, Line] = {}
        self._heap: list[Entry] = []  # lines below their limit
        self._spare: list[Entry] = []  # lines at their limit that may borrow
        self._hungry: deque[Entry] = deque()  # (since, order, line) of those below their limit, longest first
        self._idle: list[Entry] = []  # lines with nothing in the queue whose counter is still to be caught up with

    def line(self, tenant: str) -> Line:
        """Return a tenant's line, lifted if it was idle."""
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = Line(tenant, self._floor())
        elif not line.running and not line.tickets:
            line.counter = max(line.counter, self._floor())
        return line

    def enqueue(self, ticket: Ticket, now_us: int) -> None:
        """Have a ticket wait behind its tenant's others."""
        line = self.line(ticket.tenant)
        line.tickets.append(ticket)
        self.waiting += 1
        if not line.mark:
            self.place(line, now_us)

    def dequeue(self, ticket: Ticket, now_us: int) -> None:
        """Take a ticket out that has `left`."""
        self.waiting -= 1
        line = self._lines[ticket.tenant]
        line.gone += 1
        if line.tickets[0] is ticket:  # the one behind it may have another limit
            self.place(line, now_us)
            self._forget(line)
        elif line.gone > STALE_MAX + len(line.tickets) // 2:
            line.tickets = deque(kept for kept in line.tickets if not kept.left)
            line.gone = 0

    def push_out(self, tenant: str, now_us: int) -> Ticket | None:
        """Take the newest ticket out of the longest line and return it, where that line stays no shorter than the tenant's with one more; else None.

        So whoever comes to a full lane finds a place until it has as many there as anybody: no tenant fills it against the others.
        """
        own = self._lines.get(tenant)
        mine = 0 if own is None else len(own.tickets) - own.gone
        if 2 * mine >= self.depth_max:  # nobody can have more; said at once, as it is what a tenant that floods the lane hears
            return None
        longest = max(self._lines.values(), key=lambda line: (len(line.tickets) - line.gone, line.tenant))
        if len(longest.tickets) - longest.gone < mine + 2:
            return None
        ticket = next(ticket for ticket in reversed(longest.tickets) if not ticket.left)
        ticket.left = ticket.pushed = True
        self.dequeue(ticket, now_us)
        return ticket

    def best(self, now_us: int) -> Line | None:
        """Return the line that is next, or None where none may go."""
        line, borrowed = _top(self._heap), False
        if line is None:
            line, borrowed = _top(self._spare), True
        if self.age_us is None or borrowed or line is None:
            return line
        oldest = self._longest()
        if oldest is not None and oldest[2] is not line and now_us - oldest[0] >= self.age_us:
            self.promoted += 1
            return oldest[2]
        return line

    def ready(self) -> bool:
        """Tell whether anybody waits who may go within its limit."""
        return self.waiting > 0 and _top(self._heap) is not None

    def eager(self) -> bool:
        """Tell whether anybody waits who would take a free slot, borrowed or not; others wait for their own tenant's requests to end."""
        return _top(self._heap) is not None or _top(self._spare) is not None

    def pop(self, line: Line) -> Ticket:
        """Take out the first ticket of a line that `best` returned; `place` must follow."""
        line.mark = line.hunger = 0
        self.waiting -= 1
        return line.tickets.popleft()

    def charge(self, line: Line, amount: int) -> None:
        """Add to a line's counter what a dispatch costs."""
        line.running += 1
        if line.counter > self._virtual:
            self._virtual = line.counter
            self._catch_up()
        line.counter += amount

    def ended(self, tenant: str, correction: int, now_us: int) -> None:
        """Take note that one of a tenant's requests ended, which cost so much more than was charged."""
        line = self._lines[tenant]
        line.running -= 1
        line.counter += correction
        if line.tickets:
            self.place(line, now_us)
        self._forget(line)

    def place(self, line: Line, now_us: int) -> None:
        """Put a line where it belongs after a change: among those that may go, that may borrow, or nowhere."""
        line.mark = 0
        head = line.head()
        if head is None:
            line.hunger = 0
            return
        self._order += 1
        if head.limit is None or line.running < head.limit:
            if line.held:
                line.held = False
                line.counter = max(line.counter, self._floor())
            line.mark = self._order
            self._push(self._heap, line)
            if not line.hunger:
                line.hunger = self._order
                self._hungry.append((now_us, self._order, line))
                if len(self._hungry) > 2 * len(self._lines) + STALE_MAX:
                    self._hungry = deque(entry for entry in self._hungry if entry[2].hunger == entry[1])
            return
        line.hunger = 0
        line.held = not head.borrows
        if head.borrows:
            line.mark = self._order
            self._push(self._spare, line)

    def oldest_us(self, now_us: int) -> int:
        """Return how long that line has gone without a slot which has longest."""
        oldest = self._longest()
        return 0 if oldest is None else max(0, now_us - oldest[0])

    def of_tenant(self, tenant: str) -> tuple[int, int]:
        """Return how many of a tenant's run and wait."""
        line = self._lines.get(tenant)
        return (0, 0) if line is None else (line.running, sum(not ticket.left for ticket in line.tickets))

    def _push(self, heap: list[Entry], line: Line) -> None:
        heapq.heappush(heap, (line.counter, line.mark, line))
        if len(heap) > 2 * len(self._lines) + STALE_MAX:
            heap[:] = [entry for entry in heap if entry[2].mark == entry[1]]
            heapq.heapify(heap)

    def _longest(self) -> Entry | None:
        hungry = self._hungry
        while hungry and hungry[0][2].hunger != hungry[0][1]:
            hungry.popleft()
        return hungry[0] if hungry else None

    def _floor(self) -> int:
        """Return what a line that begins to wait is lifted to."""
        if not self.waiting:
            return self._virtual
        tops = [line.counter for heap in (self._heap, self._spare) if (line := _top(heap)) is not None]
        return min(tops) if tops else self._virtual

    def _forget(self, line: Line) -> None:
        """Drop a line that is idle, unless its counter is still to be caught up with."""
        if line.running or (line.tickets and line.head() is not None):
            return
        if line.counter <= self._virtual:
            self._lines.pop(line.tenant, None)
        else:
            self._order += 1
            heapq.heappush(self._idle, (line.counter, self._order, line))
            if len(self._idle) > IDLE_MAX:
                self._virtual = max(self._virtual, self._idle[0][0])
                self._catch_up()

    def _catch_up(self) -> None:
        idle = self._idle
        while idle and idle[0][0] <= self._virtual:
            line = heapq.heappop(idle)[2]
            if not line.running and not line.tickets and line.counter <= self._virtual and self._lines.get(line.tenant) is line:
                del self._lines[line.tenant]


def _top(heap: list[Entry]) -> Line | None:
    """Return the line with the smallest counter, past the entries that no longer hold."""
    while heap:
        entry = heap[0]
        if entry[2].mark == entry[1]:
            return entry[2]
        heapq.heappop(heap)
    return None
