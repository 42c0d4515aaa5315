"""Traffic that was: usage events of the books, as requests that come again at the same instants. Pure; the books are read by whoever calls.

What an event does not say is what the client asked for at most: it is taken for `asked` tokens, or what came out where that was more.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from billing.meter import input_total
from billing.usage.event import UsageEvent
from gateway.simulate.traffic import HOUR_US, Arrival

Read = Callable[[int, int], Iterable[UsageEvent]]


def replayed(read: Read, tenants: Mapping[str, int], start_us: int, end_us: int, *, asked: int) -> Iterator[Arrival]:
    """Yield the requests that began in [start_us, end_us), in order of time, an hour's in memory at once.

    `read` returns the events of a span in any order; `tenants` are indexes by id, others' events are left out.
    """
    for from_us in range(start_us, end_us, HOUR_US):
        events = [event for event in read(from_us, min(end_us, from_us + HOUR_US)) if event.tenant_id in tenants]
        events.sort(key=lambda event: (event.started_us, event.id))
        for event in events:
            output_tokens = event.meter.output or 0
            yield Arrival(
                at_us=event.started_us,
                tenant=tenants[event.tenant_id],
                model=event.model,
                input=input_total(event.meter),
                output=output_tokens,
                output_max=max(asked, output_tokens),
                meter=event.meter,
            )
