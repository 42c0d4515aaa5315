"""The fair queue under any order of arrivals, ends and departures: nobody lost, nobody twice, slots kept, tenants shared by tokens."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.lanes.queue import SCALE, FairQueue, Full, Ticket
from gateway.lanes.standing import Lane

TENANTS = ["a", "b", "c", "d"]
SLOTS, SLOW_SLOTS, DEPTH = 4, 2, 6


class FairQueueMachine(RuleBasedStateMachine):
    """Drives a queue as a gate does, and keeps its own account of who waits and who runs."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(SLOTS, depths={Lane.FAST: DEPTH, Lane.SLOW: DEPTH}, slow_slots=SLOW_SLOTS)
        self.waiting: list[Ticket] = []
        self.running: list[Ticket] = []

    def wake(self) -> None:
        for ticket in self.queue.next():
            assert ticket in self.waiting, "granted a ticket that does not wait"
            self.waiting.remove(ticket)
            self.running.append(ticket)

    @rule(
        tenant=st.sampled_from(TENANTS),
        lane=st.sampled_from(list(Lane)),
        cost=st.integers(0, 1000),
        weight=st.integers(1, 10),
        limit=st.none() | st.integers(1, 3),
    )
    def arrive(self, tenant: str, lane: Lane, cost: int, weight: int, limit: int | None) -> None:
        ticket = Ticket(tenant=tenant, lane=lane, cost=cost, weight=weight, limit=limit)
        waits = sum(other.lane is lane for other in self.waiting)
        try:
            if self.queue.offer(ticket, 0):
                self.running.append(ticket)
            else:
                self.waiting.append(ticket)
                self.wake()
        except Full:
            assert waits >= DEPTH

    @precondition(lambda self: self.running)
    @rule(data=st.data(), cost=st.integers(0, 2000))
    def end(self, data: st.DataObject, cost: int) -> None:
        ticket = data.draw(st.sampled_from(self.running))
        self.running.remove(ticket)
        self.queue.done(ticket, cost)
        self.wake()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        self.queue.leave(ticket)
        self.wake()

    @invariant()
    def slots_are_kept(self) -> None:
        assert self.queue.running == len(self.running) <= SLOTS
        assert sum(ticket.lane is Lane.SLOW for ticket in self.running) <= SLOW_SLOTS
        for lane in Lane:
            assert self.queue.waiting(lane) == sum(ticket.lane is lane for ticket in self.waiting) <= DEPTH

    @invariant()
    def no_slot_is_free_while_someone_could_run(self) -> None:
        if len(self.running) == SLOTS:
            return
        slow_is_full = sum(ticket.lane is Lane.SLOW for ticket in self.running) >= SLOW_SLOTS
        for ticket in self.waiting:
            mine = sum(other.tenant == ticket.tenant and other.lane is ticket.lane for other in self.running)
            first = next(other for other in self.waiting if other.tenant == ticket.tenant and other.lane is ticket.lane)
            held_back = first.limit is not None and mine >= first.limit
            assert held_back or (ticket.lane is Lane.SLOW and slow_is_full), f"{ticket} waits beside a free slot"


FairQueueMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
test_nobody_is_lost_and_slots_are_kept = FairQueueMachine.TestCase


@given(weight_b=st.integers(1, 10), costs=st.lists(st.integers(1, 500), min_size=50, max_size=150))
@settings(deadline=None)
def test_backlogged_tenants_share_by_weight_within_the_bound(weight_b: int, costs: list[int]) -> None:
    """Two tenants that always have work get tokens in proportion to their weights, off by no more than one request each."""
    queue = FairQueue(1, depths=dict.fromkeys(Lane, 1000))
    weights = {"a": 1, "b": weight_b}
    served = {"a": 0, "b": 0}
    gate = Ticket(tenant="gate", lane=Lane.FAST, cost=0)
    assert queue.offer(gate, 0)
    for tenant in weights:
        for cost in costs:
            queue.offer(Ticket(tenant=tenant, lane=Lane.FAST, cost=cost, weight=weights[tenant]), 0)
    queue.done(gate, 0)
    left = dict.fromkeys(weights, len(costs))
    while granted := queue.next():
        [ticket] = granted
        if min(left.values()) > 0:
            gap = abs(served["a"] / weights["a"] - served["b"] / weights["b"])
            assert gap <= 2 * max(costs) + len(costs) / SCALE
        served[ticket.tenant] += ticket.cost
        left[ticket.tenant] -= 1
        queue.done(ticket, ticket.cost)
    assert served == {"a": sum(costs), "b": sum(costs)}
