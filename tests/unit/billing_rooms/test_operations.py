"""What an admin does, and what it is refused, on both engines."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from billing.db import Database
from billing.errors import BillingError, Conflict, Invalid, NotFound
from billing.grants.allowance import ensure_allowance
from billing.grants.store import current_grants, take
from billing.ledger.store import balances, unbalanced
from billing.operations import directory, grants, keys, plans, rates, tenants
from billing.operations.usage import balance
from billing.plans.terms import PlanTerms
from billing.rates.store import rate_at
from billing.tenants.keys import KeyHasher
from billing.tenants.store import changes_since, latest_change

NOW = 1_790_000_000_000_000
DAY = 86_400_000_000
CREDIT = 10**9
HASHER = KeyHasher(b"pepper for the tests")


@pytest.fixture
def acme(db: Database) -> Database:
    """A database with tenant `acme` on plan `free` (100 credits a month)."""
    plans.set_plan(db, PlanTerms(plan="free", allowance_ncr=100 * CREDIT), NOW)
    tenants.create_tenant(db, id="acme", name="Acme", plan="free", now_us=NOW)
    return db


def find(db: Database, secret: str, now_us: int = NOW) -> directory.Principal | None:
    with db.read() as session:
        return directory.find_principal(session, HASHER.digest(secret), now_us)


def test_a_tenants_key_is_found_with_its_terms_and_only_its_digest_is_kept(acme: Database) -> None:
    issued = keys.issue_key(acme, HASHER, tenant_id="acme", name="app", project="search", requests_per_minute=60, now_us=NOW)
    assert issued.secret.startswith("sk-weir-")
    assert len(issued.secret) == len("sk-weir-") + 43
    found = find(acme, issued.secret)
    assert found is not None
    assert (found.key_id, found.kind, found.tenant_id, found.project, found.active) == (issued.id, "tenant", "acme", "search", True)
    assert (found.requests_per_minute, found.tokens_per_minute) == (60, None)
    assert found.terms is not None
    assert (found.terms.plan, found.terms.version, found.terms.allowance_ncr) == ("free", 1, 100 * CREDIT)
    assert issued.secret not in repr(keys.list_keys(acme))


def test_an_admins_key_has_no_tenant_and_no_terms(db: Database) -> None:
    issued = keys.issue_key(db, HASHER, kind="admin", name="root", now_us=NOW)
    assert issued.secret.startswith("sk-weir-admin-")
    found = find(db, issued.secret)
    assert found is not None
    assert (found.kind, found.tenant_id, found.active, found.terms) == ("admin", "", True, None)


def test_a_key_that_is_unknown_revoked_or_expired_is_nobody(acme: Database) -> None:
    issued = keys.issue_key(acme, HASHER, tenant_id="acme", expires_us=NOW + DAY, now_us=NOW)
    assert find(acme, "sk-weir-unknown") is None
    assert find(acme, issued.secret, NOW + DAY - 1) is not None
    assert find(acme, issued.secret, NOW + DAY) is None
    assert keys.revoke_key(acme, issued.id, NOW).revoked_us == NOW
    assert find(acme, issued.secret) is None
    with pytest.raises(Conflict, match="revoked already"):
        keys.revoke_key(acme, issued.id, NOW)


def test_a_suspended_tenant_is_found_and_said_to_be_inactive(acme: Database) -> None:
    issued = keys.issue_key(acme, HASHER, tenant_id="acme", now_us=NOW)
    assert tenants.set_state(acme, tenant_id="acme", state="suspended", now_us=NOW).state == "suspended"
    found = find(acme, issued.secret)
    assert found is not None
    assert not found.active
    assert tenants.set_state(acme, tenant_id="acme", state="active", now_us=NOW).state == "active"


def test_changing_a_plan_adds_a_version_and_moves_nobody(acme: Database) -> None:
    second = plans.set_plan(acme, PlanTerms(plan="free", allowance_ncr=5 * CREDIT, allowed_models=frozenset({"b", "a"})), NOW + 1)
    assert second.version == 2
    assert [version.version for version in plans.list_plans(acme)] == [2]
    assert [version.version for version in plans.list_plans(acme, all_versions=True)] == [1, 2]
    assert plans.get_plan(acme, "free") == second
    assert plans.count_subscribers(acme, NOW + 2) == {("free", 1): 1}
    assert balance(acme, "acme", NOW + 2).limit_ncr == 100 * CREDIT


def test_an_allowance_is_written_once_a_month_whoever_looks(acme: Database) -> None:
    def look(_: int) -> int:
        with acme.write() as session:
            return len(ensure_allowance(session, "acme", NOW + DAY))

    with ThreadPoolExecutor(4) as processes:
        assert sum(processes.map(look, range(8))) == 1
    with acme.write() as session:
        later = ensure_allowance(session, "acme", NOW + 40 * DAY)
        assert [grant.amount_ncr for grant in later] == [100 * CREDIT]
        assert [grant.id for grant in current_grants(session, "acme", NOW + 40 * DAY)] == [later[0].id]


def test_a_plan_without_an_allowance_writes_no_grant(db: Database) -> None:
    plans.set_plan(db, PlanTerms(plan="payg"), NOW)
    tenants.create_tenant(db, id="acme", name="", plan="payg", now_us=NOW)
    with db.write() as session:
        assert ensure_allowance(session, "acme", NOW) == []
        assert ensure_allowance(session, "nobody", NOW) == []


def test_a_balance_shows_the_new_months_allowance_before_anybody_used_it(acme: Database) -> None:
    grants.add_grant(acme, tenant_id="acme", amount_ncr=5 * CREDIT, kind="promotion", expires_us=NOW + 10 * DAY, note="welcome", now_us=NOW)
    now = balance(acme, "acme", NOW + DAY)
    assert [(grant.kind, grant.amount_ncr) for grant in now.grants] == [("plan", 100 * CREDIT), ("promotion", 5 * CREDIT)]
    assert (now.limit_ncr, now.used_ncr, now.remaining_ncr, now.debt_ncr, now.excess_ncr) == (105 * CREDIT, 0, 105 * CREDIT, 0, 0)
    later = balance(acme, "acme", NOW + 45 * DAY)
    assert later.limit_ncr == 100 * CREDIT
    assert later.period_start_us == now.reset_us
    assert not [grant for grant in grants.list_grants(acme) if grant.kind == "plan"]


def test_a_grant_given_and_voided_is_issued_and_taken_back_in_the_ledger(acme: Database) -> None:
    given = grants.add_grant(acme, tenant_id="acme", amount_ncr=10 * CREDIT, id="order-1", now_us=NOW)
    with acme.write() as session:
        take(session, {"order-1": 4 * CREDIT})
    voided = grants.void_grant(acme, given.id, NOW + 1)
    assert (voided.voided_us, voided.remaining_ncr, voided.voided_ncr, voided.used_ncr) == (NOW + 1, 0, 6 * CREDIT, 4 * CREDIT)
    with acme.read() as session:
        books = balances(session)
        assert unbalanced(session) == []
        assert [grant.id for grant in current_grants(session, "acme", NOW + 2)] == []
    assert books[("acme", "grant:order-1")] == 4 * CREDIT  # what the test took without posting its use
    assert books[("acme", "issued")] == -4 * CREDIT
    with pytest.raises(Conflict, match="void already"):
        grants.void_grant(acme, "order-1", NOW + 2)


def test_a_voided_allowance_stays_voided_for_its_month(acme: Database) -> None:
    with acme.write() as session:
        written = ensure_allowance(session, "acme", NOW)
    grants.void_grant(acme, written[0].id, NOW + 1)
    with acme.write() as session:
        assert ensure_allowance(session, "acme", NOW + 2) == []
    assert balance(acme, "acme", NOW + 2).limit_ncr == 0


def test_taking_more_than_a_grant_holds_is_refused(acme: Database) -> None:
    grants.add_grant(acme, tenant_id="acme", amount_ncr=5, id="g", now_us=NOW)
    with pytest.raises(Conflict, match="does not hold"), acme.write() as session:
        take(session, {"g": 6})


def test_grants_burn_by_priority_then_expiry_then_promotion_then_age(acme: Database) -> None:
    def give(id: str, **more: Any) -> None:
        wanted: dict[str, Any] = {"kind": "topup", "priority": 40} | more
        grants.add_grant(acme, tenant_id="acme", amount_ncr=1, id=id, now_us=NOW, **wanted)

    give("f-later", effective_us=NOW + 1)
    give("e-paid")
    give("d-promotion", kind="promotion")
    give("c-ends-late", expires_us=NOW + 2 * DAY)
    give("b-ends-soon", expires_us=NOW + DAY)
    give("a-first", priority=1)
    with acme.read() as session:
        assert [grant.id for grant in current_grants(session, "acme", NOW + 1)] == ["a-first", "b-ends-soon", "c-ends-late", "d-promotion", "e-paid", "f-later"]


def test_exactly_one_rate_applies_at_any_instant(db: Database) -> None:
    first = rates.set_rate(db, model="m", prices={"input": 1, "output": 2}, now_us=NOW)
    later = rates.set_rate(db, model="m", prices={"input": 3, "output": 4}, effective_us=NOW + DAY, now_us=NOW)
    same_instant = rates.set_rate(db, model="m", free=True, effective_us=NOW + DAY, now_us=NOW)
    assert first.prices["cache_read"] == 1
    assert [rate.id for rate in rates.list_rates(db, "m")] == [first.id, later.id, same_instant.id]
    with db.read() as session:
        found = [rate_at(session, "m", at_us) for at_us in (NOW - 1, NOW, NOW + DAY - 1, NOW + DAY)]
    assert found == [None, first, first, same_instant]


def test_every_admin_write_is_in_the_change_feed_once_and_in_order(acme: Database) -> None:
    with acme.read() as session:
        before = latest_change(session)
    issued = keys.issue_key(acme, HASHER, tenant_id="acme", now_us=NOW)
    keys.revoke_key(acme, issued.id, NOW)
    rates.set_rate(acme, model="m", free=True, now_us=NOW)
    grants.add_grant(acme, tenant_id="acme", amount_ncr=1, now_us=NOW)
    with pytest.raises(Conflict):
        tenants.create_tenant(acme, id="acme", name="", plan="free", now_us=NOW)
    with acme.read() as session:
        changes = changes_since(session, before)
    assert [(change.seq - before, change.tenant_id) for change in changes] == [(1, "acme"), (2, "acme"), (3, None), (4, "acme")]


def test_a_poller_misses_no_change_of_writers_that_race(acme: Database) -> None:
    with acme.read() as session:
        start = seen = latest_change(session)
    with ThreadPoolExecutor(4) as writers:
        jobs = [writers.submit(rates.set_rate, acme, model=f"m{number}", free=True, now_us=NOW) for number in range(24)]
        noticed: list[int] = []
        while len(noticed) < 24 and not any(job.done() and job.exception() for job in jobs):
            with acme.read() as session:
                for change in changes_since(session, seen):
                    noticed.append(change.seq)
                    seen = change.seq
    assert [job.exception() for job in jobs] == [None] * 24
    assert noticed == list(range(start + 1, start + 25))
    assert len({rate.id for rate in rates.list_rates(acme)}) == 24


REFUSALS: list[tuple[str, type[BillingError], str, Any]] = [
    ("slug", Invalid, "not usable", lambda db: tenants.create_tenant(db, id="Acme Inc", name="", plan="free", now_us=NOW)),
    ("currency", Invalid, "not supported", lambda db: tenants.create_tenant(db, id="b", name="", plan="free", currency="XTS", now_us=NOW)),
    ("zone", Invalid, "IANA", lambda db: tenants.create_tenant(db, id="b", name="", plan="free", timezone="Mars/Olympus", now_us=NOW)),
    ("zone path", Invalid, "IANA", lambda db: tenants.create_tenant(db, id="b", name="", plan="free", timezone="../etc/passwd", now_us=NOW)),
    ("zone empty", Invalid, "IANA", lambda db: tenants.create_tenant(db, id="b", name="", plan="free", timezone="", now_us=NOW)),
    ("tenant twice", Conflict, "exists already", lambda db: tenants.create_tenant(db, id="acme", name="", plan="free", now_us=NOW)),
    ("plan unknown", NotFound, "no plan `gold`", lambda db: tenants.create_tenant(db, id="b", name="", plan="gold", now_us=NOW)),
    ("state", Invalid, "active or suspended", lambda db: tenants.set_state(db, tenant_id="acme", state="asleep", now_us=NOW)),
    ("tenant unknown", NotFound, "no tenant `b`", lambda db: tenants.set_state(db, tenant_id="b", state="active", now_us=NOW)),
    ("balance unknown", NotFound, "no tenant `b`", lambda db: balance(db, "b", NOW)),
    ("key kind", Invalid, "tenant or admin", lambda db: keys.issue_key(db, HASHER, kind="root", now_us=NOW)),
    ("key tenant", Invalid, "needs one", lambda db: keys.issue_key(db, HASHER, now_us=NOW)),
    ("admin tenant", Invalid, "has none", lambda db: keys.issue_key(db, HASHER, kind="admin", tenant_id="acme", now_us=NOW)),
    ("key past", Invalid, "has passed", lambda db: keys.issue_key(db, HASHER, tenant_id="acme", expires_us=NOW, now_us=NOW)),
    ("key limit", Invalid, "at least 1", lambda db: keys.issue_key(db, HASHER, tenant_id="acme", tokens_per_minute=0, now_us=NOW)),
    ("key name", Invalid, "printable", lambda db: keys.issue_key(db, HASHER, tenant_id="acme", name="a\nb", now_us=NOW)),
    ("key unknown", NotFound, "no key `k`", lambda db: keys.revoke_key(db, "k", NOW)),
    ("keys of", NotFound, "no tenant", lambda db: keys.list_keys(db, "b")),
    ("policy", Invalid, "slow, overage, block, fallback", lambda db: plans.set_plan(db, PlanTerms(plan="p", on_exhausted="cut"), NOW)),
    ("overage price", Invalid, "price of one credit", lambda db: plans.set_plan(db, PlanTerms(plan="p", on_exhausted="overage"), NOW)),
    ("weight", Invalid, "out of range", lambda db: plans.set_plan(db, PlanTerms(plan="p", weight=0), NOW)),
    ("plan slug", Invalid, "not usable", lambda db: plans.set_plan(db, PlanTerms(plan="-p"), NOW)),
    ("plan models", Invalid, "at least one", lambda db: plans.set_plan(db, PlanTerms(plan="p", allowed_models=frozenset()), NOW)),
    ("grant kind", Invalid, "topup, promotion, adjustment", lambda db: grants.add_grant(db, tenant_id="acme", amount_ncr=1, kind="plan", now_us=NOW)),
    ("grant amount", Invalid, "more than 0", lambda db: grants.add_grant(db, tenant_id="acme", amount_ncr=0, now_us=NOW)),
    (
        "grant order",
        Invalid,
        "ends before it begins",
        lambda db: grants.add_grant(db, tenant_id="acme", amount_ncr=1, effective_us=NOW + 2, expires_us=NOW + 1, now_us=NOW),
    ),
    ("grant past", Invalid, "has passed", lambda db: grants.add_grant(db, tenant_id="acme", amount_ncr=1, effective_us=NOW - 1, now_us=NOW)),
    ("grant id", Invalid, "plan:", lambda db: grants.add_grant(db, tenant_id="acme", amount_ncr=1, id="plan:x", now_us=NOW)),
    ("grant tenant", NotFound, "no tenant", lambda db: grants.add_grant(db, tenant_id="b", amount_ncr=1, now_us=NOW)),
    ("grant unknown", NotFound, "no grant `g`", lambda db: grants.void_grant(db, "g", NOW)),
    ("rate bucket", Invalid, "no usage bucket `inptu`", lambda db: rates.set_rate(db, model="m", prices={"input": 1, "output": 1, "inptu": 1}, now_us=NOW)),
    ("rate missing", Invalid, "`output` of model `m`", lambda db: rates.set_rate(db, model="m", prices={"input": 1}, now_us=NOW)),
    ("rate free", Invalid, "not both", lambda db: rates.set_rate(db, model="m", prices={"input": 1, "output": 1}, free=True, now_us=NOW)),
    ("rate past", Invalid, "has passed", lambda db: rates.set_rate(db, model="m", free=True, effective_us=NOW - 1, now_us=NOW)),
    ("rate model", Invalid, "not a model's name", lambda db: rates.set_rate(db, model=" m", free=True, now_us=NOW)),
]


@pytest.mark.parametrize(("error", "text", "act"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_what_cannot_be_done_is_refused_in_words_and_changes_nothing(acme: Database, error: type[BillingError], text: str, act: Any) -> None:
    with acme.read() as session:
        before = latest_change(session)
    with pytest.raises(error, match=text):
        act(acme)
    with acme.read() as session:
        assert latest_change(session) == before


def test_a_grant_id_asked_for_twice_is_given_once(acme: Database) -> None:
    grants.add_grant(acme, tenant_id="acme", amount_ncr=5, id="order-1", now_us=NOW)
    with pytest.raises(Conflict, match="nothing was given a second time"):
        grants.add_grant(acme, tenant_id="acme", amount_ncr=5, id="order-1", now_us=NOW)
    assert [grant.amount_ncr for grant in grants.list_grants(acme, "acme")] == [5]


def test_a_priced_plan_is_refused_to_a_tenant_billed_in_another_currency(acme: Database) -> None:
    plans.set_plan(acme, PlanTerms(plan="pro", monthly_fee_minor=4900, currency="USD"), NOW)
    with pytest.raises(Invalid, match="create the tenant in USD"):
        tenants.create_tenant(acme, id="b", name="", plan="pro", currency="EUR", now_us=NOW)
    assert tenants.create_tenant(acme, id="b", name="", plan="free", currency="EUR", now_us=NOW).currency == "EUR"


@pytest.mark.parametrize("size", [15, 65])
def test_a_pepper_of_the_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(Invalid, match="16 to 64"):
        KeyHasher(b"x" * size)
