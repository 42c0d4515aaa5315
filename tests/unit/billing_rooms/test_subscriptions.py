"""Plans over time, on both engines: seats, rollover, months that begin at first use, and moving from plan to plan."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from billing.credits import store as accounts
from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.grants import store as grants
from billing.grants.allowance import current_period, ensure_allowance
from billing.grants.grant import Grant
from billing.grants.periods import period_at
from billing.ledger.store import balances, issues, unbalanced
from billing.operations import directory, keys, periods, plans, subscriptions, tenants
from billing.operations.grants import add_grant, list_grants, void_grant
from billing.operations.usage import balance
from billing.plans.terms import PlanTerms
from billing.tenants.keys import KeyHasher
from billing.usage.verify import verify

NOW = 1_790_000_000_000_000
DAY = 86_400_000_000
CREDIT = 10**9
HASHER = KeyHasher(b"pepper for the tests")
KINDS = (("plan", True), ("plan", False), ("rollover", True))
MONTH = period_at(NOW, "UTC", NOW)
SECOND = period_at(NOW, "UTC", MONTH.end_us)


def write(db: Database, plan: str, allowance: int = 0, **terms: Any) -> None:
    plans.set_plan(db, PlanTerms(plan=plan, allowance_ncr=allowance * CREDIT, **terms), NOW)


@pytest.fixture
def acme(db: Database) -> Database:
    """A tenant on `pro` (1,000 credits a month) from NOW on; beside it `free` (100) and `max` (4,000)."""
    for plan, allowance in (("free", 100), ("pro", 1000), ("max", 4000)):
        write(db, plan, allowance)
    tenants.create_tenant(db, id="acme", name="", plan="pro", now_us=NOW)
    return db


def look(db: Database, at_us: int, *, activate: bool = True) -> list[Grant]:
    """Look at the tenant's period as a request does, under the lock of its account; return what was written."""
    with db.write() as session:
        accounts.lock(session, ["acme"])
        return ensure_allowance(session, "acme", at_us, activate=activate)


def use(db: Database, grant_id: str, amount_ncr: int) -> None:
    with db.write() as session:
        grants.take(session, {grant_id: amount_ncr})


def given(db: Database, at_us: int) -> int:
    return balance(db, "acme", at_us).limit_ncr


def key(db: Database, at_us: int = NOW, **more: Any) -> str:
    return keys.issue_key(db, HASHER, tenant_id="acme", now_us=at_us, **more).id


def queries(db: Database, at_us: int) -> int:
    told: list[str] = []

    def count(_conn: object, _cursor: object, statement: str, *_rest: object) -> None:
        told.append(statement)

    with db.write() as session:
        accounts.lock(session, ["acme"])
        event.listen(db.engine, "before_cursor_execute", count)
        ensure_allowance(session, "acme", at_us)
        event.remove(db.engine, "before_cursor_execute", count)
    return len(told)


def test_more_credits_come_at_once_pro_rata_and_everything_else_stays(acme: Database) -> None:
    add_grant(acme, tenant_id="acme", amount_ncr=7 * CREDIT, now_us=NOW)
    half = NOW + (MONTH.end_us - NOW) // 2
    change = subscriptions.change_plan(acme, "acme", "max", half)
    assert (change.at_us, change.at_end, change.credits_ncr) == (half, False, 1500 * CREDIT)
    assert given(acme, half) == (1000 + 7 + 1500) * CREDIT
    assert not [grant for grant in list_grants(acme, "acme") if grant.voided_us]
    after = subscriptions.standing(acme, "acme", half)
    assert after.current is not None and (after.current.plan, after.current.anchor_us, after.period) == ("max", NOW, MONTH)
    assert look(acme, half) == []
    assert look(acme, MONTH.end_us)[0].amount_ncr == 4000 * CREDIT
    assert given(acme, MONTH.end_us) == 4007 * CREDIT


def test_fewer_credits_come_when_the_period_ends(acme: Database) -> None:
    issued = keys.issue_key(acme, HASHER, tenant_id="acme", now_us=NOW)
    change = subscriptions.change_plan(acme, "acme", "free", NOW + 5 * DAY)
    assert (change.at_us, change.at_end, change.credits_ncr) == (MONTH.end_us, True, 0)
    told = subscriptions.standing(acme, "acme", NOW + 5 * DAY)
    assert told.current is not None and told.next is not None
    assert (told.current.plan, told.next.plan, told.next.started_us) == ("pro", "free", MONTH.end_us)
    assert given(acme, MONTH.end_us - 1) == 1000 * CREDIT
    assert given(acme, MONTH.end_us) == 100 * CREDIT
    assert [grant.amount_ncr for grant in look(acme, MONTH.end_us)] == [100 * CREDIT]
    with acme.read() as session:
        before = directory.find_principal(session, HASHER.digest(issued.secret), MONTH.end_us - 1)
        after = directory.find_principal(session, HASHER.digest(issued.secret), MONTH.end_us)
    assert before is not None and before.terms is not None and after is not None and after.terms is not None
    assert (before.terms.plan, before.terms_until_us) == ("pro", MONTH.end_us), "a gateway knows when to look again"
    assert (after.terms.plan, after.terms_until_us) == ("free", None)
    with acme.read() as session:
        found = current_period(session, "acme", MONTH.end_us)
    assert found is not None and found[1] == SECOND, "the anchor stays"


def test_a_change_that_is_to_come_is_taken_back_or_replaced(acme: Database) -> None:
    def coming() -> str | None:
        found = subscriptions.standing(acme, "acme", NOW + 2 * DAY)
        assert found.current is not None and found.current.plan == "pro"
        return found.next.plan if found.next else None

    subscriptions.change_plan(acme, "acme", "free", NOW + DAY)
    assert subscriptions.change_plan(acme, "acme", "pro", NOW + DAY).kept
    assert coming() is None
    subscriptions.change_plan(acme, "acme", "free", NOW + DAY)
    with pytest.raises(Conflict, match="at that instant already"):
        subscriptions.change_plan(acme, "acme", "free", NOW + DAY)
    subscriptions.change_plan(acme, "acme", "max", NOW + DAY, when="period-end")
    assert coming() == "max"
    assert subscriptions.cancel_change(acme, "acme", NOW + DAY).plan == "pro"
    assert coming() is None
    assert given(acme, MONTH.end_us) == 1000 * CREDIT
    with pytest.raises(Conflict, match="nothing to take back"):
        subscriptions.cancel_change(acme, "acme", NOW + DAY)
    with pytest.raises(Conflict, match="already, which is its newest"):
        subscriptions.change_plan(acme, "acme", "pro", NOW + DAY)


def test_a_change_now_takes_the_place_of_one_to_come(acme: Database) -> None:
    subscriptions.change_plan(acme, "acme", "free", NOW + DAY)
    change = subscriptions.change_plan(acme, "acme", "max", NOW + 2 * DAY)
    assert "and not to plan free as was planned" in subscriptions.in_words(change)
    assert subscriptions.standing(acme, "acme", NOW + 2 * DAY).next is None
    assert given(acme, MONTH.end_us) == 4000 * CREDIT


def test_both_ways_may_be_asked_for_otherwise(acme: Database) -> None:
    later = subscriptions.change_plan(acme, "acme", "max", NOW + DAY, when="period-end")
    assert (later.at_us, later.credits_ncr) == (MONTH.end_us, 0)
    assert given(acme, NOW + DAY) == 1000 * CREDIT
    subscriptions.change_plan(acme, "acme", "free", NOW + 2 * DAY, when="now")
    assert balance(acme, "acme", NOW + 2 * DAY).plan == "free"
    assert given(acme, NOW + 2 * DAY) == 1000 * CREDIT, "what the month has promised stays"
    assert given(acme, MONTH.end_us) == 100 * CREDIT
    with pytest.raises(Invalid, match="now, period-end, or the day"):
        subscriptions.change_plan(acme, "acme", "max", NOW + 2 * DAY, when="tomorrow")


def test_going_down_and_up_again_gives_nothing_a_second_time(acme: Database) -> None:
    subscriptions.change_plan(acme, "acme", "max", NOW + DAY)
    before = given(acme, NOW + DAY)
    subscriptions.change_plan(acme, "acme", "free", NOW + 2 * DAY, when="now")
    assert subscriptions.change_plan(acme, "acme", "max", NOW + 3 * DAY).credits_ncr == 0
    assert given(acme, NOW + 3 * DAY) == before


def test_a_change_at_the_very_start_of_a_period_gives_the_larger_allowance_once(acme: Database) -> None:
    assert subscriptions.change_plan(acme, "acme", "max", MONTH.end_us).credits_ncr == 3000 * CREDIT
    assert look(acme, MONTH.end_us) == []
    assert given(acme, MONTH.end_us) == 4000 * CREDIT
    subscriptions.change_plan(acme, "acme", "free", SECOND.end_us, when="now")
    look(acme, SECOND.end_us)
    assert given(acme, SECOND.end_us) == 4000 * CREDIT


def test_changes_of_plan_and_first_looks_at_once_give_each_period_once(acme: Database) -> None:
    write(acme, "team", 1000, seat_allowance_ncr=50 * CREDIT, rollover_cap_ncr=300 * CREDIT)
    key(acme)
    subscriptions.change_plan(acme, "acme", "team", NOW)
    plans.set_plan(acme, PlanTerms(plan="team", allowance_ncr=1500 * CREDIT, seat_allowance_ncr=80 * CREDIT, rollover_cap_ncr=300 * CREDIT), NOW)

    def act(number: int) -> None:
        if number == 3:
            subscriptions.change_plan(acme, "acme", "team", MONTH.end_us)
        else:
            look(acme, MONTH.end_us + number)

    with ThreadPoolExecutor(6) as processes:
        list(processes.map(act, range(6)))
    given = [grant for grant in list_grants(acme, "acme") if grant.expires_us == SECOND.end_us]
    amounts = {kind: sum(grant.amount_ncr for grant in given if (grant.kind, grant.key_id is None) == kind) // CREDIT for kind in KINDS}
    assert amounts in [{KINDS[0]: 1500, KINDS[1]: 80, KINDS[2]: 300}, {KINDS[0]: 1499, KINDS[1]: 79, KINDS[2]: 300}]
    with acme.read() as session:
        assert verify(session) == []


def test_a_change_that_is_previewed_changes_nothing_and_says_the_same(acme: Database) -> None:
    with acme.rehearsing() as tried:
        planned = subscriptions.change_plan(tried, "acme", "max", NOW + DAY)
    assert balance(acme, "acme", NOW + DAY).plan == "pro"
    assert subscriptions.change_plan(acme, "acme", "max", NOW + DAY) == planned
    with pytest.raises(NotFound, match="no plan `gold`"), acme.rehearsing() as tried:
        subscriptions.change_plan(tried, "acme", "gold", NOW)


def test_every_active_key_has_its_own_credits_and_no_other(acme: Database) -> None:
    write(acme, "team", 1000, seat_allowance_ncr=50 * CREDIT)
    first, second, gone = key(acme), key(acme), key(acme)
    keys.revoke_key(acme, gone, NOW)
    subscriptions.change_plan(acme, "acme", "team", NOW)
    seats = [grant for grant in list_grants(acme, "acme") if grant.key_id]
    assert {grant.key_id: grant.amount_ncr for grant in seats} == {first: 50 * CREDIT, second: 50 * CREDIT}
    assert look(acme, NOW + DAY) == []
    late = key(acme, NOW + 2 * DAY)
    assert [(grant.key_id, grant.amount_ncr) for grant in look(acme, NOW + 2 * DAY)] == [(late, 50 * CREDIT)]
    month = look(acme, MONTH.end_us)
    assert sorted((grant.key_id or "", grant.amount_ncr // CREDIT) for grant in month) == sorted([("", 1000), (first, 50), (second, 50), (late, 50)])
    with acme.read() as session:
        order = [grant.key_id for grant in grants.current_grants(session, "acme", MONTH.end_us)]
    assert order[-1] is None and None not in order[:-1], "a seat's credits are used before the tenant's"


def test_a_tenant_with_many_keys_costs_no_query_per_key(acme: Database) -> None:
    write(acme, "team", 1000, seat_allowance_ncr=50 * CREDIT, rollover_cap_ncr=CREDIT)
    for _ in range(3):
        key(acme)
    subscriptions.change_plan(acme, "acme", "team", NOW)
    look(acme, MONTH.end_us)
    assert queries(acme, MONTH.end_us + DAY) <= 4
    few = queries(acme, SECOND.end_us)
    for _ in range(40):
        key(acme)
    third = period_at(NOW, "UTC", SECOND.end_us)
    assert queries(acme, third.end_us) == few
    assert len([grant for grant in list_grants(acme, "acme") if grant.effective_us == third.end_us]) == 43 + 2


def test_what_is_left_goes_on_for_one_period_up_to_the_cap_and_exists_once(acme: Database) -> None:
    write(acme, "keep", 1000, rollover_cap_ncr=300 * CREDIT)
    subscriptions.change_plan(acme, "acme", "keep", NOW)
    old = next(grant for grant in list_grants(acme, "acme") if grant.kind == "plan")
    use(acme, old.id, 600 * CREDIT)
    assert given(acme, MONTH.end_us) == 1300 * CREDIT, "shown before anybody used it"
    rolled, fresh = look(acme, MONTH.end_us)
    assert (rolled.id, rolled.kind, rolled.amount_ncr) == (f"rollover:acme.2:{MONTH.end_us}", "rollover", 300 * CREDIT)
    assert (rolled.effective_us, rolled.expires_us) == (SECOND.start_us, SECOND.end_us)
    with acme.read() as session:
        assert [grant.id for grant in grants.current_grants(session, "acme", MONTH.end_us)] == [rolled.id, fresh.id]
        left = grants.get_grant(session, old.id)
        books = balances(session)
        assert unbalanced(session) == []
        assert issues([rolled]) == [], "its credits were issued with the old grant"
    assert left is not None and left.remaining_ncr == 100 * CREDIT
    assert books["acme", f"grant:{rolled.id}"] == 300 * CREDIT
    assert books["acme", f"grant:{old.id}"] == 700 * CREDIT  # the test's own use is not posted
    assert books["acme", "issued"] == -1000 * CREDIT
    assert look(acme, MONTH.end_us + DAY) == []
    again = look(acme, SECOND.end_us)
    assert [grant.amount_ncr // CREDIT for grant in again] == [300, 1000], "of the plan's own; what rolled over ends"


def test_a_period_that_nobody_looked_at_rolls_over_as_if_somebody_had(acme: Database) -> None:
    write(acme, "keep", 1000, rollover_cap_ncr=300 * CREDIT)
    subscriptions.change_plan(acme, "acme", "keep", NOW)
    rolled, fresh = look(acme, SECOND.end_us)
    assert (rolled.amount_ncr, fresh.amount_ncr) == (300 * CREDIT, 1000 * CREDIT)
    missed = next(grant for grant in list_grants(acme, "acme") if grant.effective_us == MONTH.end_us)
    assert (missed.amount_ncr, missed.remaining_ncr) == (1000 * CREDIT, 700 * CREDIT)
    with acme.read() as session:
        assert verify(session) == []


def test_nothing_rolls_over_of_a_voided_allowance_or_into_a_plan_without(acme: Database) -> None:
    write(acme, "keep", 1000, rollover_cap_ncr=300 * CREDIT)
    subscriptions.change_plan(acme, "acme", "keep", NOW)
    void_grant(acme, next(grant.id for grant in list_grants(acme, "acme") if grant.kind == "plan"), NOW)
    assert [grant.kind for grant in look(acme, MONTH.end_us)] == ["plan"]
    subscriptions.change_plan(acme, "acme", "free", MONTH.end_us)
    assert [(grant.kind, grant.amount_ncr) for grant in look(acme, SECOND.end_us)] == [("plan", 100 * CREDIT)]


def test_months_that_begin_with_the_first_request_wait_for_it_and_not_for_a_look(acme: Database) -> None:
    write(acme, "trial", 50, activate_on_first_use=True, monthly_fee_minor=100)
    tenants.create_tenant(acme, id="new", name="", plan="trial", now_us=NOW)
    issued = keys.issue_key(acme, HASHER, tenant_id="new", now_us=NOW)
    first = NOW + 100 * DAY
    assert balance(acme, "new", first - 1).limit_ncr == 50 * CREDIT
    with acme.write() as session:
        assert ensure_allowance(session, "new", first - 1, activate=False) == []
        assert current_period(session, "new", first) is None
        found = directory.find_principal(session, HASHER.digest(issued.secret), first)
        assert found is not None and found.terms is not None and found.terms.plan == "trial"
    waiting = balance(acme, "new", first)
    assert (waiting.plan, waiting.period_start_us, waiting.reset_us) == ("trial", None, None)

    def request(_: int) -> int:
        with acme.write() as session:
            accounts.lock(session, ["new"])
            return len(ensure_allowance(session, "new", first + _))

    with ThreadPoolExecutor(4) as processes:
        assert sum(processes.map(request, range(4))) == 1
    begun = subscriptions.standing(acme, "new", first + 4)
    assert begun.current is not None and begun.period is not None
    assert first <= begun.period.start_us < first + 4
    with acme.read() as session:
        usable = grants.eligible_grants(session, ["new"], first - 1000, first - 1000)["new"]
    assert len(usable) == 1, "the request that began the month started a moment before it, and is covered too"
    (month,) = periods.list_periods(acme, "new", first + 4)
    assert month.start_us == begun.period.start_us, "no period, and so no fee, before the months had begun"


def test_the_first_month_of_one_that_waited_for_its_first_request_has_nothing_to_roll_over(db: Database) -> None:
    write(db, "both", 5, activate_on_first_use=True, rollover_cap_ncr=CREDIT)
    tenants.create_tenant(db, id="acme", name="", plan="both", now_us=NOW)
    written = look(db, NOW + 3 * DAY)
    assert [(grant.kind, grant.amount_ncr) for grant in written] == [("plan", 5 * CREDIT)]
    second = period_at(NOW + 3 * DAY, "UTC", NOW + 3 * DAY).end_us
    assert sorted((grant.kind, grant.amount_ncr) for grant in look(db, second)) == [("plan", 5 * CREDIT), ("rollover", CREDIT)]


def test_two_processes_without_a_common_lock_begin_a_month_once(acme: Database) -> None:
    write(acme, "trial", 50, activate_on_first_use=True)
    tenants.create_tenant(acme, id="new", name="", plan="trial", now_us=NOW)

    def request(number: int) -> int:
        with acme.write() as session:
            return len(ensure_allowance(session, "new", NOW + number))

    with ThreadPoolExecutor(4) as processes:
        assert sum(processes.map(request, range(8))) == 1


def test_a_change_of_plan_before_the_first_request_comes_at_once(acme: Database) -> None:
    write(acme, "trial", 50, activate_on_first_use=True)
    write(acme, "trial-plus", 70, activate_on_first_use=True)
    tenants.create_tenant(acme, id="new", name="", plan="trial", now_us=NOW)
    with pytest.raises(Invalid, match="in no period that could end"):
        subscriptions.change_plan(acme, "new", "trial-plus", NOW + DAY, when="period-end")
    assert "its months begin with its first request" in subscriptions.in_words(subscriptions.change_plan(acme, "new", "trial-plus", NOW + DAY))
    assert balance(acme, "new", NOW + 2 * DAY).reset_us is None
    assert "its months begin now" in subscriptions.in_words(subscriptions.change_plan(acme, "new", "free", NOW + 2 * DAY))
    assert balance(acme, "new", NOW + 2 * DAY).period_start_us == NOW + 2 * DAY


def test_a_tenant_whose_months_have_begun_keeps_them_on_a_plan_for_new_ones(acme: Database) -> None:
    write(acme, "trial", 2000, activate_on_first_use=True)
    subscriptions.change_plan(acme, "acme", "trial", NOW + DAY)
    assert balance(acme, "acme", NOW + DAY).period_start_us == NOW


def test_a_written_version_refuses_to_change(acme: Database) -> None:
    for change in ("UPDATE plan_version SET weight = 9", "DELETE FROM plan_version"):
        with pytest.raises(DBAPIError, match="never changed"), acme.write() as session:
            session.connection().execute(text(change))


def test_full_terms_come_back_as_they_were_written(acme: Database) -> None:
    terms = PlanTerms(
        plan="full", name="Full", allowance_ncr=5 * CREDIT, seat_allowance_ncr=CREDIT, rollover_cap_ncr=2 * CREDIT, activate_on_first_use=True,
        on_exhausted="fallback", fallback_model="small", slow_daily_cap_ncr=CREDIT, weight=8, slow_weight=2, glide_percent=25, fast_concurrency=4,
        slow_concurrency=1, slow_delay_ms=5, slow_tokens_per_second=6, slow_priority=7, slow_flex=False, spill_after_ms=8,
        requests_per_minute=60, tokens_per_minute=1000, allowed_models=frozenset({"small", "large"}), on_database_loss="closed",
        monthly_fee_minor=4900, currency="EUR", credit_price="0.01",
    )  # fmt: skip
    plans.set_plan(acme, terms, NOW)
    assert plans.get_plan(acme, "full").terms == terms


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"on_exhausted": "fallback"}, "fallback_model"),
        ({"fallback_model": "small"}, "fallback_model"),
        ({"on_exhausted": "fallback", "fallback_model": "small", "allowed_models": frozenset({"large"})}, "fallback_model"),
        ({"weight": 2, "slow_weight": 3}, "slow_weight"),
        ({"slow_weight": 0}, "slow_weight"),
        ({"glide_percent": 101}, "glide_percent"),
        ({"on_database_loss": "open"}, "on_database_loss"),
        ({"seat_allowance_ncr": -1}, "seat_allowance_ncr"),
        ({"rollover_cap_ncr": 5}, "rollover_cap"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused_by_field(db: Database, terms: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        plans.set_plan(db, PlanTerms(plan="p", **terms), NOW)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: ")
