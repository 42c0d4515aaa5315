"""/admin/lanes: who is slow and why, over all processes, for admins only."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.operations import keys
from gateway.lanes.board import Board, Voice, Whole, merge
from gateway.lanes.notes import Load, Note, SlowTenant
from gateway.lanes.standing import Lane
from tests.clock import START_US
from tests.desk import AdminApi, open_admin_api, problem
from tests.house import open_house

S = 1_000_000


class Slots:
    """Two processes: the one that answers, and one that was heard 1.25 s ago."""

    def __init__(self) -> None:
        board = Board()
        for wait_us in (0, 0, 2 * S):
            board.waited(Lane.SLOW, wait_us, START_US)
        acme = SlowTenant("acme", "slow", "credits_exhausted", START_US - 90 * S, START_US - S, 1, 3)
        here = Note(
            at_us=START_US,
            backends={"gpu": Load("p", 8, 5, 4, 2, fast_running=2, slow_running=1, slow_waiting=3)},
            waits=board.waits(START_US),
            tenants=10,
            slow_tenants=1,
            slow=[acme],
        )
        beta = SlowTenant("beta", "capped", "slow_daily_cap", START_US - 60 * S, START_US - 2 * S)
        there = Note(at_us=START_US, backends={"gpu": Load("p", 8, 3, 2, 2, fast_running=1)}, tenants=9, slow_tenants=3, slow=[beta])
        self.voices = [
            Voice(process="a", host="box", pid=7, note=here, here=True),
            Voice(process="b", host="box", pid=8, note=there, heard_s=1.25),
            Voice(process="c", host="old", pid=9, note=None, heard_s=0.5),
        ]

    def whole(self, tenant: str | None = None) -> Whole:
        return merge(self.voices, tenant)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AdminApi]:
    with open_admin_api(tmp_path) as opened:
        opened.app.state.services.slots = Slots()
        yield opened


def test_the_lanes_of_all_processes_are_told_as_one(api: AdminApi) -> None:
    told = api.http.get("/admin/lanes").json()
    assert told["backends"] == [
        {"name": "gpu", "slots": 8, "slow_slots": 6, "fast": {"running": 3, "waiting": 0}, "slow": {"running": 1, "waiting": 3}, "processes": 2}
    ]
    fast, slow = told["lanes"]
    assert fast == {"lane": "fast", "tenants": 7, "running": 3, "waiting": 0, "wait_p50_ms": None, "wait_p99_ms": None}
    assert (slow["tenants"], slow["running"], slow["waiting"], slow["wait_p50_ms"]) == (3, 1, 3, 0)
    assert slow["wait_p99_ms"] == pytest.approx(2000, rel=0.07)


def test_each_slow_tenant_has_its_reason_in_words_and_instants_with_a_zone(api: AdminApi) -> None:
    told = api.http.get("/admin/lanes").json()
    assert told["slow_tenants"] == [
        {
            "tenant_id": "acme",
            "standing": "slow",
            "reason": "credits_exhausted",
            "says": "no credits are left",
            "since": "2026-11-03T11:58:30Z",
            "last_request_at": "2026-11-03T11:59:59Z",
            "running": 1,
            "waiting": 3,
        },
        {
            "tenant_id": "beta",
            "standing": "capped",
            "reason": "slow_daily_cap",
            "says": "the slow lane's daily cap is reached",
            "since": "2026-11-03T11:59:00Z",
            "last_request_at": "2026-11-03T11:59:58Z",
            "running": 0,
            "waiting": 0,
        },
    ]
    assert told["more_slow_tenants"] == 2


def test_one_tenant_can_be_asked_for(api: AdminApi) -> None:
    told = api.http.get("/admin/lanes", params={"tenant_id": "beta"}).json()
    assert [one["tenant_id"] for one in told["slow_tenants"]] == ["beta"]
    assert api.http.get("/admin/lanes", params={"tenant_id": "nobody"}).json()["slow_tenants"] == []


def test_it_says_how_old_each_processs_news_is_and_whom_it_does_not_understand(api: AdminApi) -> None:
    told = api.http.get("/admin/lanes").json()["processes"]
    assert [(one["id"], one["answers"], one["news_age_s"], one["known"]) for one in told] == [
        ("a", True, 0.0, True),
        ("b", False, 1.25, True),
        ("c", False, 0.5, False),
    ]


def test_401_without_an_admins_key(api: AdminApi) -> None:
    del api.http.headers["Authorization"]
    problem(api.http.get("/admin/lanes"), 401, "unauthorized")


async def test_a_running_gateway_says_who_is_slow_from_its_own_requests(tmp_path: Path) -> None:
    async with open_house(tmp_path, {}, plan={"allowance_ncr": 0, "on_exhausted": "slow"}) as house:
        assert (await house.chat("echo")).headers["x-weir-lane"] == "slow"
        services = house.services
        admin = keys.issue_key(services.database, services.hasher, kind="admin", name="test", now_us=services.clock.now_us()).secret
        told = (await house.client.get("/admin/lanes", headers={"authorization": f"Bearer {admin}"})).json()
    assert [(one["tenant_id"], one["standing"], one["reason"]) for one in told["slow_tenants"]] == [("acme", "slow", "credits_exhausted")]
    slow = told["lanes"][1]
    assert (slow["lane"], slow["tenants"], slow["wait_p50_ms"]) == ("slow", 1, 0)
    assert [backend["slots"] for backend in told["backends"]] == [64]
