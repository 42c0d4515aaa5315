"""The fair queue under any order of arrivals, ends, departures and changes of size: nobody lost, nobody twice, slots kept, fast before slow."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.lanes.queue import FairQueue, Full, Ticket
from gateway.lanes.standing import Lane

TENANTS = ["a", "b", "c", "d"]
SLOTS, SLOW_SLOTS, DEPTH = 4, 2, 6
AGE_US = {Lane.FAST: 50, Lane.SLOW: 200}


class FairQueueMachine(RuleBasedStateMachine):
    """Drives a queue as a gate does, and keeps its own account of who waits and who runs."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(SLOTS, depths={Lane.FAST: DEPTH, Lane.SLOW: DEPTH}, ages_us=dict(AGE_US), slow_slots=SLOW_SLOTS)
        self.slots, self.slow_slots = SLOTS, SLOW_SLOTS
        self.now_us = 0
        self.waiting: list[Ticket] = []
        self.running: list[Ticket] = []
        self.ended: list[Ticket] = []

    def runs(self, ticket: Ticket) -> None:
        assert len(self.running) < self.slots, "granted a slot that is not there"
        if ticket.lane is Lane.SLOW:
            assert self.in_lane(self.running, Lane.SLOW) < self.slow_slots
            assert not any(self.may_run(other) for other in self.waiting if other.lane is Lane.FAST), "a slow request passed a fast one"
        mine = self.mine(ticket)
        if ticket.limit is not None and mine >= ticket.limit:
            assert ticket.borrows, "past its tenant's limit"
            others = [other for other in self.waiting if other.lane is ticket.lane and other.tenant != ticket.tenant]
            assert not any(self.within(other) for other in others), "borrowed what another wanted"
        self.running.append(ticket)

    def mine(self, ticket: Ticket) -> int:
        return sum(other.tenant == ticket.tenant and other.lane is ticket.lane for other in self.running)

    def first(self, ticket: Ticket) -> Ticket:
        return next(other for other in self.waiting if other.tenant == ticket.tenant and other.lane is ticket.lane)

    def within(self, ticket: Ticket) -> bool:
        head = self.first(ticket)
        return head.limit is None or self.mine(head) < head.limit

    def may_run(self, ticket: Ticket) -> bool:
        return self.within(ticket) or self.first(ticket).borrows

    @staticmethod
    def in_lane(tickets: list[Ticket], lane: Lane) -> int:
        return sum(ticket.lane is lane for ticket in tickets)

    def wake(self) -> None:
        for ticket in self.queue.next(self.now_us):
            assert ticket in self.waiting, "granted a ticket that does not wait"
            self.waiting.remove(ticket)
            self.runs(ticket)

    @rule(
        tenant=st.sampled_from(TENANTS),
        lane=st.sampled_from(list(Lane)),
        cost=st.integers(0, 1000),
        weight=st.integers(1, 10),
        limit=st.none() | st.integers(1, 3),
        borrows=st.booleans(),
    )
    def arrive(self, tenant: str, lane: Lane, cost: int, weight: int, limit: int | None, borrows: bool) -> None:
        ticket = Ticket(tenant=tenant, lane=lane, cost=cost, weight=weight, limit=limit, borrows=borrows)
        waits = self.in_lane(self.waiting, lane)
        try:
            if self.queue.offer(ticket, self.now_us):
                self.runs(ticket)
            else:
                self.waiting.append(ticket)
                self.wake()
        except Full:
            assert waits >= DEPTH
            self.make_room(ticket)

    def make_room(self, ticket: Ticket) -> None:
        """In a full lane a place is found for whoever has fewer there than another, and for nobody else."""
        counts = {tenant: sum(one.tenant == tenant and one.lane is ticket.lane for one in self.waiting) for tenant in TENANTS}
        pushed = self.queue.push_out(ticket.tenant, ticket.lane, self.now_us)
        if pushed is None:
            assert counts[ticket.tenant] >= DEPTH // 2 or max(counts.values()) <= counts[ticket.tenant] + 1
            return
        mine = [one for one in self.waiting if (one.tenant, one.lane) == (pushed.tenant, pushed.lane)]
        assert pushed is mine[-1] and len(mine) == max(counts.values()) > counts[ticket.tenant] + 1
        self.waiting.remove(pushed)
        if self.queue.offer(ticket, self.now_us):
            self.runs(ticket)
        else:
            self.waiting.append(ticket)
            self.wake()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), cost=st.integers(0, 2000))
    def end(self, data: st.DataObject, cost: int) -> None:
        ticket = data.draw(st.sampled_from(self.running))
        self.running.remove(ticket)
        assert not any(one is ticket for one in self.ended), "one request had two slots"
        self.ended.append(ticket)
        self.queue.done(ticket, cost, self.now_us)
        self.wake()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        self.queue.leave(ticket, self.now_us)
        self.queue.leave(ticket, self.now_us)  # the second time it is harmless
        self.wake()

    @rule(slots=st.integers(1, 6))
    def resize(self, slots: int) -> None:
        self.slots, self.slow_slots = slots, max(1, slots // 2)
        self.queue.resize(slots, self.slow_slots)
        self.wake()

    @rule(elapsed_us=st.integers(0, 300))
    def pass_time(self, elapsed_us: int) -> None:
        self.now_us += elapsed_us

    @invariant()
    def counts_are_right(self) -> None:
        assert self.queue.running == len(self.running)
        for lane in Lane:
            assert self.queue.running_in(lane) == self.in_lane(self.running, lane)
            assert self.queue.waiting(lane) == self.in_lane(self.waiting, lane) <= DEPTH
        for tenant in TENANTS:
            for lane in Lane:
                counted = tuple(sum(one.tenant == tenant and one.lane is lane for one in some) for some in (self.running, self.waiting))
                assert self.queue.of_tenant(tenant, lane) == counted

    @invariant()
    def no_slot_is_free_while_someone_could_run(self) -> None:
        if len(self.running) >= self.slots:
            return
        for ticket in self.waiting:
            slow_is_full = self.in_lane(self.running, Lane.SLOW) >= self.slow_slots
            assert not self.may_run(ticket) or (ticket.lane is Lane.SLOW and slow_is_full), f"{ticket} waits beside a free slot"


FairQueueMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
test_nobody_is_lost_and_slots_are_kept = FairQueueMachine.TestCase
