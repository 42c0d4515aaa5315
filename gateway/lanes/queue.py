"""The fair queue of one backend pool: pure, no clock of its own, no I/O.

Slots are what the pool can run at once. Fast requests go first, whatever their tenants' weights and however long slow ones have waited;
the slow lane gets at most `slow_slots` of them. Inside a lane tenants share by tokens, by a Virtual Token Counter (`line.py`). A tenant at
its own limit waits, or, where its plan lets it, borrows what nobody else wants. One that has waited for `age` goes before the smaller
counters of its lane, so that a small weight starves nobody. A decision costs O(log tenants).
"""

from gateway.lanes.line import LaneQueue, Line, Ticket
from gateway.lanes.standing import SLOW, WEIGHT_UNIT, Lane

__all__ = ["SCALE", "FairQueue", "Full", "Ticket", "slow_slots_of"]

SCALE = 1024 * WEIGHT_UNIT  # counters are integers; a weight divides with this much precision left
FAST_SHARE = 8  # one of so many slots is kept from the slow lane, so that a fast request seldom waits for a slow one to end


class Full(Exception):
    """The lane's queue is at its depth; nothing was enqueued."""


def slow_slots_of(slots: int) -> int:
    """Return how many of a pool's slots the slow lane may take: all but an eighth, at least one."""
    return max(1, slots - max(1, slots // FAST_SHARE))


class FairQueue:
    """Grants the slots of one pool. Every granted ticket must come back through `done`, every other one through `leave`.

    `ages_us`: how long a tenant goes without a slot in a lane before it is next there; None: its counter alone decides. `promoted` counts those.
    """

    def __init__(self, slots: int, *, depths: dict[Lane, int], ages_us: dict[Lane, int | None] | None = None, slow_slots: int | None = None) -> None:
        self.slots = slots
        self.slow_slots = slow_slots_of(slots) if slow_slots is None else slow_slots
        ages = ages_us or {}
        self._fast = LaneQueue(depths[Lane.FAST], ages.get(Lane.FAST))
        self._slow = LaneQueue(depths[Lane.SLOW], ages.get(Lane.SLOW))

    @property
    def running(self) -> int:
        """How many slots are taken."""
        return self._fast.running + self._slow.running

    @property
    def promoted(self) -> int:
        """How many tickets went before smaller counters for their age."""
        return self._fast.promoted + self._slow.promoted

    def running_in(self, lane: Lane) -> int:
        """How many slots a lane has taken."""
        return self._lane(lane).running

    def waiting(self, lane: Lane) -> int:
        """How many tickets wait in a lane."""
        return self._lane(lane).waiting

    def waited_for(self) -> bool:
        """Tell whether any ticket waits."""
        return bool(self._fast.waiting or self._slow.waiting)

    def depth_max(self, lane: Lane) -> int:
        """How many tickets may wait in a lane."""
        return self._lane(lane).depth_max

    def oldest_us(self, lane: Lane, now_us: int) -> int:
        """Return how long that tenant of a lane which has gone longest without a slot, and might have one, has been waiting; 0 where none is."""
        return self._lane(lane).oldest_us(now_us)

    def of_tenant(self, tenant: str, lane: Lane) -> tuple[int, int]:
        """Return how many of a tenant's requests run and wait in a lane."""
        return self._lane(lane).of_tenant(tenant)

    def resize(self, slots: int, slow_slots: int) -> None:
        """Have so many slots from now on. Those that run go on; the caller asks `next` who runs now."""
        self.slots, self.slow_slots = slots, slow_slots

    def offer(self, ticket: Ticket, now_us: int) -> bool:
        """Take a ticket in: True when it runs at once. False: it is enqueued, and the caller asks `next` who runs now.

        Raises `Full` when the lane's queue is at its depth.
        """
        if self.take(ticket):
            return True
        lane = self._lane(ticket.lane)
        if lane.waiting >= lane.depth_max:
            raise Full
        ticket.since_us, ticket.queued = now_us, True
        lane.enqueue(ticket, now_us)
        return False

    def push_out(self, tenant: str, lane: Lane, now_us: int) -> Ticket | None:
        """Make room for a tenant in a lane that is full, by a ticket of whoever has most there; return that ticket, or None where nobody has more."""
        return self._lane(lane).push_out(tenant, now_us)

    def take(self, ticket: Ticket) -> bool:
        """Let a ticket run if it need pass nobody who could run and a slot is free for it; False: it is not taken in."""
        fast, slow = self._fast, self._slow
        if ticket.lane is SLOW:
            lane, free = slow, self._free(True)
        else:
            lane, free = fast, fast.running + slow.running < self.slots  # `_free`, written out for nearly every request
        if not free or (lane.waiting and lane.eager()):
            return False
        line = lane.line(ticket.tenant)
        if line.tickets:  # its tenant's own wait before it
            return False
        if ticket.limit is not None and line.running >= ticket.limit and not ticket.borrows:
            return False
        self._grant(lane, line, ticket)
        return True

    def leave(self, ticket: Ticket, now_us: int) -> None:
        """Take a waiting ticket out: its client left, its wait was over, or it goes elsewhere. The caller asks `next` who runs now."""
        if ticket.queued and not ticket.granted and not ticket.left:
            ticket.left = True
            self._lane(ticket.lane).dequeue(ticket, now_us)

    def done(self, ticket: Ticket, cost: int, now_us: int) -> None:
        """Give a slot back, with the true cost; the caller asks `next` who runs now."""
        lane = self._lane(ticket.lane)
        lane.running -= 1
        lane.ended(ticket.tenant, (cost - ticket.cost) * SCALE // ticket.weight, now_us)

    def next(self, now_us: int) -> list[Ticket]:
        """Grant what can be granted now, fast before slow, and return the tickets."""
        granted: list[Ticket] = []
        if not self._fast.waiting and not self._slow.waiting:
            return granted
        for slow, lane in ((False, self._fast), (True, self._slow)):
            while lane.waiting and self._free(slow) and (line := lane.best(now_us)) is not None:
                ticket = lane.pop(line)
                self._grant(lane, line, ticket)
                lane.place(line, now_us)
                granted.append(ticket)
        return granted

    def _lane(self, lane: Lane) -> LaneQueue:
        return self._slow if lane is SLOW else self._fast

    def _free(self, slow: bool) -> bool:
        """Tell whether a lane may take one more slot. No slow request may while a fast one waits that could."""
        if self._fast.running + self._slow.running >= self.slots:
            return False
        return not slow or (self._slow.running < self.slow_slots and not self._fast.ready())

    def _grant(self, lane: LaneQueue, line: Line, ticket: Ticket) -> None:
        ticket.granted = True
        lane.running += 1
        lane.charge(line, ticket.cost * SCALE // ticket.weight)
