"""Setting credits aside: never more than there is, half a share at a time, the last ones exactly; and what the books do with it at a flush."""

import threading

import pytest

from billing.credits import store as accounts
from billing.credits.account import Snapshot
from billing.credits.draw import Displaced, Member, Want, draw
from billing.credits.purse import PurseState
from billing.db import Database
from billing.errors import NotFound
from billing.grants import store as grants
from billing.leases import store as leases
from billing.leases.store import Replica
from billing.usage.verify import verify
from billing.usage.writer import book
from tests.books import HOUR_US, event, grant, seed
from tests.clock import START_US


def join(db: Database, *names: str) -> None:
    with db.write() as session:
        for name in names:
            leases.register(session, Replica(id=name, beat=1, host="here", pid=1, started_us=START_US))


def want(need: int, key: str = "key_1", project: str | None = None, model: str = "m") -> Want:
    return Want(key_id=key, project=project, model=model, need_ncr=need)


def drawn(db: Database, name: str, *wants: Want, processes: int = 1, tenant: str = "acme", now_us: int = START_US, most: int = 2**62) -> Snapshot:
    member = Member(replica_id=name, beats=(1,), processes=processes, lease_ncr_max=most)
    with db.write() as session:
        return draw(session, member, tenant, wants, now_us)


def own(snapshot: Snapshot) -> PurseState:
    return next(state for state in snapshot.purses if state.name == "")


def set_aside(db: Database) -> dict[str, int]:
    with db.read() as session:
        return {f"{lease.replica_id}/{lease.purse}": lease.amount_ncr for lease in leases.leases_of(session, ["acme"])["acme"]}


def test_looking_sets_nothing_aside(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    join(db, "a")
    state = own(drawn(db, "a"))
    assert (state.lease_ncr, state.left_ncr, state.available_ncr, state.limit_ncr) == (0, 100, 100, 100)


def test_a_draw_takes_half_of_an_even_share(db: Database) -> None:
    seed(db, "acme", grant("g", 800))
    join(db, "a", "b")
    assert own(drawn(db, "a", want(0), processes=2)).lease_ncr == 200
    assert own(drawn(db, "b", want(0), processes=2)).lease_ncr == 150
    assert own(drawn(db, "a", want(0), processes=2)).lease_ncr == 200 + 112


def test_the_last_credits_go_to_who_needs_them_exactly(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    join(db, "a", "b")
    assert own(drawn(db, "a", want(90), processes=2)).lease_ncr == 90
    state = own(drawn(db, "b", want(90), processes=2))
    assert (state.lease_ncr, state.available_ncr) == (10, 0)
    assert own(drawn(db, "a", want(1), processes=2)).lease_ncr == 90


def test_needs_asked_together_are_met_together(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    join(db, "a")
    assert own(drawn(db, "a", want(30), want(40, key="key_2"))).lease_ncr == 50 + 40  # the first is offered half of what there is, which is more than it needs


def test_a_lease_stays_within_its_bound(db: Database) -> None:
    seed(db, "acme", grant("g", 1000))
    join(db, "a")
    assert own(drawn(db, "a", want(0), most=20)).lease_ncr == 20
    assert own(drawn(db, "a", want(0), most=20)).lease_ncr == 20


def test_debt_is_not_lent(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    join(db, "a")
    with db.write() as session:
        book(session, [event(1, 130)], START_US)
        grants.insert_grant(session, grant("g2", 50))
    state = own(drawn(db, "a", want(1000)))
    assert (state.lease_ncr, state.left_ncr) == (20, 20)


def test_a_flush_takes_what_it_books_off_the_lease_and_leaves_the_others_theirs(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    join(db, "a", "b")
    drawn(db, "a", want(60), processes=2)
    drawn(db, "b", want(30), processes=2)
    with db.write() as session:
        booked = book(session, [event(1, 25)], START_US, "a")
    assert set_aside(db) == {"a/": 35, "b/": 30}
    state = booked.standings["acme"].states[0]
    assert (state.lease_ncr, state.left_ncr, state.available_ncr) == (35, 75, 10)


def test_what_exceeds_the_lease_comes_from_what_is_available_and_then_is_owed(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    join(db, "a", "b")
    drawn(db, "a", want(60), processes=2)
    with db.write() as session:
        book(session, [event(1, 90)], START_US, "a")
    assert set_aside(db) == {"a/": 0}
    assert own(drawn(db, "b", processes=2)).left_ncr == 10
    with db.write() as session:
        assert book(session, [event(2, 15)], START_US, "a").standings["acme"].debt_ncr == 5


def test_an_event_told_twice_lowers_the_lease_once(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    join(db, "a")
    drawn(db, "a", want(60))
    for _ in range(2):
        with db.write() as session:
            book(session, [event(1, 25)], START_US, "a")
    assert set_aside(db) == {"a/": 35}


def test_an_event_of_a_process_that_is_gone_takes_from_no_lease(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    join(db, "a")
    drawn(db, "a", want(60))
    with db.write() as session:
        book(session, [event(1, 25)], START_US, "a", frozenset())
    assert set_aside(db) == {"a/": 60}


def test_what_the_dead_had_used_is_taken_off_their_own_leases(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    join(db, "a", "dead", "gone")
    for name, need in (("a", 40), ("dead", 30), ("gone", 30)):
        drawn(db, name, want(need), processes=4)
    with db.write() as session:
        book(session, [event(1, 35)], START_US, "a", frozenset(), gone=("dead", "gone"))
        book(session, [event(1, 35)], START_US, "a", frozenset(), gone=("dead", "gone"))  # told again
    assert set_aside(db) == {"a/": 40, "dead/": 0, "gone/": 25}


def test_while_a_dead_process_is_replayed_nobody_gives_up_what_it_has_promised(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    join(db, "a", "b", "dead")
    drawn(db, "a", want(50))  # and has it on hold
    drawn(db, "dead", want(50))
    with db.write() as session:
        book(session, [event(1, 50)], START_US, "b", frozenset(), gone=("dead",))
    assert own(drawn(db, "a")).lease_ncr == 50
    with db.write() as session:
        leases.bury(session, "dead")
    assert own(drawn(db, "b", want(50))).lease_ncr == 0
    with db.write() as session:
        assert book(session, [event(2, 50)], START_US, "a").standings["acme"].debt_ncr == 0


def test_a_buried_process_gives_everything_back_and_draws_no_more(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    join(db, "a", "b")
    drawn(db, "a", want(100), processes=2)
    with db.write() as session:
        assert leases.bury(session, "a", 1)
        assert not leases.bury(session, "a", 1)
    with pytest.raises(Displaced):
        drawn(db, "a", want(1))
    assert own(drawn(db, "b", want(100))).lease_ncr == 100


def test_one_that_beat_meanwhile_is_not_buried(db: Database) -> None:
    join(db, "a")
    with db.write() as session:
        assert leases.beat(session, "a", (1,), 2)
        assert not leases.beat(session, "a", (1,), 3)
        assert not leases.bury(session, "a", 1)


def test_a_lease_is_worth_nothing_once_the_grants_behind_it_changed(db: Database) -> None:
    seed(db, "acme", grant("old", 100, expires_us=START_US + HOUR_US), grant("new", 70, effective_us=START_US + HOUR_US))
    join(db, "a", "b")
    assert drawn(db, "a", want(100), processes=2).valid_until_us == START_US + HOUR_US
    state = own(drawn(db, "b", want(1000), processes=2, now_us=START_US + HOUR_US))
    assert (state.lease_ncr, state.left_ncr) == (70, 70)
    assert own(drawn(db, "a", want(1000), processes=2, now_us=START_US + HOUR_US)).lease_ncr == 0


def test_a_lease_counts_on_where_its_grants_go_on_while_others_begin_or_end(db: Database) -> None:
    seed(db, "acme", grant("lasting", 1000), grant("ending", 10, expires_us=START_US + HOUR_US), grant("later", 5, effective_us=START_US + 2 * HOUR_US))
    join(db, "a", "b")
    drawn(db, "a", want(1010), processes=2)
    for hours in (1, 2):
        state = own(drawn(db, "b", want(1000), processes=2, now_us=START_US + hours * HOUR_US))
        assert state.lease_ncr == (0 if hours == 1 else 5), hours


def test_a_grant_that_is_voided_under_a_lease_takes_it_along(db: Database) -> None:
    seed(db, "acme", grant("g", 100), grant("h", 20))
    join(db, "a")
    drawn(db, "a", want(120))
    with db.write() as session:
        grants.void(session, "g", START_US)
    assert own(drawn(db, "a")).lease_ncr == 20


def test_a_seats_credits_are_set_aside_only_for_its_key(db: Database) -> None:
    seed(db, "acme", grant("g", 100), grant("seat", 40, key_id="key_1"))
    join(db, "a")
    states = {state.name: state.lease_ncr for state in drawn(db, "a", want(60)).purses}
    assert states == {"key:key_1": 40, "": 50}  # 20 are lacking; half of what there is comes anyway
    assert {state.name: state.lease_ncr for state in drawn(db, "a", want(60, key="key_2")).purses} == {"key:key_1": 40, "": 100}


def test_a_purse_pays_its_own_events_and_spills_into_the_tenants(db: Database) -> None:
    seed(db, "acme", grant("g", 100), grant("seat", 40, key_id="key_1"))
    join(db, "a")
    drawn(db, "a", want(140))
    with db.write() as session:
        book(session, [event(1, 50, purses={"key:key_1": 40, "": 10}), event(2, 5, purses={"key:key_1": 5})], START_US, "a")
        left = {one.id: one.remaining_ncr for one in grants.all_grants(session)}
        assert verify(session, START_US) == []
    assert left == {"g": 85, "seat": 0}


def test_running_sums_are_kept_by_day_period_key_and_project(db: Database) -> None:
    seed(db, "acme", grant("g", 100))
    with db.write() as session:
        book(session, [event(1, 10, day_us=5, period_us=3, project="lab"), event(2, 7, cover_ncr=2, lane="slow", day_us=5, period_us=3)], START_US)
    with db.write() as session:
        book(session, [event(2, 7, cover_ncr=2, lane="slow", day_us=5, period_us=3), event(3, 1, day_us=6, period_us=3)], START_US)
    with db.read() as session:
        day = accounts.sum_of(session, "acme", "day", 5)
        assert (day.events, day.charge_ncr, day.cover_ncr, day.excess_ncr, day.overage_ncr) == (2, 17, 12, 5, 0)
        assert accounts.sums_of(session, "acme", ["period", "key:key_1", "project:lab", "key:other"], 3) == {
            "period": 13, "key:key_1": 13, "project:lab": 10, "key:other": 0,
        }  # fmt: skip


def test_a_tenant_that_does_not_exist_is_not_found(db: Database) -> None:
    join(db, "a")
    with pytest.raises(NotFound):
        drawn(db, "a", tenant="nobody")


def test_processes_that_draw_at_once_never_get_more_than_there_is(db: Database) -> None:
    seed(db, "acme", grant("g", 1000))
    names = [f"p{number}" for number in range(4)]
    join(db, *names)

    def ask(name: str) -> None:
        for _ in range(12):
            drawn(db, name, want(37), processes=4)

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(set_aside(db).values()) == 1000
