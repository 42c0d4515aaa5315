"""/admin/lanes: who is slow, why and since when, and how long requests wait, over all processes."""

from collections.abc import Sequence
from datetime import datetime

from fastapi import Request
from pydantic import BaseModel

from gateway.lanes.board import WORDS, BackendNow, LaneNow, Voice, Whole
from gateway.lanes.notes import SlowTenant
from gateway.lanes.standing import Lane
from gateway.wire.instants import from_us
from gateway.wire.problems import problem_router

router = problem_router("/lanes")


class ProcessOut(BaseModel):
    """A process of the gateway that beats. `news_age_s`: how long ago its news was heard here, which is up to a beat after it was said; 0 of the one that
    answers. `known` false: it says nothing that is understood here, and is not in the sums.
    """

    id: str
    host: str
    pid: int
    answers: bool
    news_age_s: float
    known: bool


class LoadOut(BaseModel):
    """Requests of one lane at a backend now."""

    running: int
    waiting: int


class BackendLanesOut(BaseModel):
    """A backend over all processes that use it. `slots`: requests that it is given at once; `slow_slots`: how many of them may be slow ones."""

    name: str
    slots: int
    slow_slots: int
    fast: LoadOut
    slow: LoadOut
    processes: int


class LaneOut(BaseModel):
    """A lane over all backends. `tenants`: those that the process which knows most has in it, of those seen lately.

    The waits are of the last five minutes, within 7 %; null where no request came.
    """

    lane: str
    tenants: int
    running: int
    waiting: int
    wait_p50_ms: float | None
    wait_p99_ms: float | None


class SlowTenantOut(BaseModel):
    """A tenant past its credits. `standing`: `slow` (served behind the others) or `capped` (refused); `says` is the reason in words.

    `since`: its first request that was not served fast, since it last was. `running` and `waiting` are its requests in both lanes now.
    """

    tenant_id: str
    standing: str
    reason: str
    says: str
    since: datetime
    last_request_at: datetime
    running: int
    waiting: int


class LanesOut(BaseModel):
    """The lanes now. `more_slow_tenants`: how many of the slow ones are not named, each counted once for every process that did not name it."""

    processes: list[ProcessOut]
    backends: list[BackendLanesOut]
    lanes: list[LaneOut]
    slow_tenants: list[SlowTenantOut]
    more_slow_tenants: int


@router.get("", summary="Show the lanes: who is slow and why, what waits, how long")
async def show(request: Request, tenant_id: str | None = None) -> LanesOut:
    """Show the lanes over all processes: the one that answers as it is now, the others as they said with their last beat.

    With `tenant_id` only that one of the slow tenants.
    """
    return _out(request.app.state.services.slots.whole(tenant_id))


def _out(whole: Whole) -> LanesOut:
    return LanesOut(
        processes=[_process(voice) for voice in whole.voices],
        backends=[_backend(backend) for backend in whole.backends],
        lanes=[_lane(lane) for lane in whole.lanes],
        slow_tenants=_slow(whole.slow),
        more_slow_tenants=whole.more,
    )


def _process(voice: Voice) -> ProcessOut:
    known = voice.note is not None
    return ProcessOut(id=voice.process, host=voice.host, pid=voice.pid, answers=voice.here, news_age_s=round(voice.heard_s, 3), known=known)


def _backend(backend: BackendNow) -> BackendLanesOut:
    fast, slow = (LoadOut(running=backend.running[lane], waiting=backend.waiting[lane]) for lane in (Lane.FAST, Lane.SLOW))
    return BackendLanesOut(name=backend.name, slots=backend.slots, slow_slots=backend.slow_slots, fast=fast, slow=slow, processes=backend.processes)


def _lane(lane: LaneNow) -> LaneOut:
    return LaneOut(
        lane=lane.lane.value,
        tenants=lane.tenants,
        running=lane.running,
        waiting=lane.waiting,
        wait_p50_ms=None if lane.wait_p50_us is None else lane.wait_p50_us / 1000,
        wait_p99_ms=None if lane.wait_p99_us is None else lane.wait_p99_us / 1000,
    )


def _slow(tenants: Sequence[SlowTenant]) -> list[SlowTenantOut]:
    return [
        SlowTenantOut(
            tenant_id=one.tenant,
            standing=one.standing,
            reason=one.reason,
            says=WORDS.get(one.reason, one.reason),
            since=from_us(one.since_us),
            last_request_at=from_us(one.last_us),
            running=one.running,
            waiting=one.waiting,
        )
        for one in tenants
    ]
