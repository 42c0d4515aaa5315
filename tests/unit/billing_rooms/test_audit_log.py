"""Every admin write is in the audit log, with who, before and after, and in nothing but its own transaction, on both engines."""

import ast
import json
import tracemalloc
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

import billing.operations
from billing.alerts.webhook import signing_key
from billing.audit import store
from billing.audit.chain import Entry
from billing.audit.store import record
from billing.db import Database
from billing.errors import BillingError, BooksContended
from billing.operations import audit, costs, grants, keys, plans, projects, rates, subscriptions, tenants, versions, webhooks
from billing.plans.terms import PlanTerms
from billing.rates.version import Change
from billing.tenants.keys import KeyHasher

NOW = 1_790_000_000_000_000
CREDIT = 10**9
HASHER = KeyHasher(b"pepper for the tests")
PRICES = {"input": 500, "output": 1500}
WRITES = ("write", "retrying")  # what opens a transaction that may write


@pytest.fixture
def acme(db: Database) -> Database:
    """Books in which anna has written plan `free` and tenant `acme`."""
    books = db.acting("cli:anna")
    plans.set_plan(books, PlanTerms(plan="free", allowance_ncr=100 * CREDIT), NOW)
    tenants.create_tenant(books, id="acme", name="Acme", plan="free", now_us=NOW)
    return books


def newest(db: Database) -> Entry:
    return audit.list_entries(db, limit=1)[0]


def states(entry: Entry) -> tuple[Any, Any]:
    before, after = (None if state is None else json.loads(state) for state in (entry.before, entry.after))
    return before, after


class Case(NamedTuple):
    """Something an admin does after `prepare`, and what the log must say of it. `fields`: of before and after, where they are told apart."""

    action: str
    act: Callable[[Database, Any], object]
    tenant_id: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    prepare: Callable[[Database], object] = lambda db: None


def issued(db: Database) -> str:
    return keys.issue_key(db, HASHER, tenant_id="acme", name="app", now_us=NOW).id


def hook(db: Database) -> str:
    return webhooks.add_webhook(db, HASHER, url="https://hook.test/path?token=t0ken", tenant_id="acme", now_us=NOW).webhook.id


def proposed(db: Database) -> int:
    return versions.propose_version(db, "rates", [Change(model="m", prices=PRICES)], note="dearer", now_us=NOW).id


def moved(db: Database) -> None:
    plans.set_plan(db, PlanTerms(plan="less", allowance_ncr=CREDIT), NOW)
    subscriptions.change_plan(db, "acme", "less", NOW)


def bigger(db: Database) -> None:
    plans.set_plan(db, PlanTerms(plan="more", allowance_ncr=300 * CREDIT), NOW)


CASES = {
    "a plan": Case(
        "plan.set", lambda db, _: plans.set_plan(db, PlanTerms(plan="free", allowance_ncr=CREDIT), NOW + 1), None,
        {"version": 1, "terms": {"allowance_ncr": 100 * CREDIT}}, {"version": 2, "terms": {"allowance_ncr": CREDIT}},
    ),
    "a tenant": Case(
        "tenant.create", lambda db, _: tenants.create_tenant(db, id="beta", name="Beta", plan="free", now_us=NOW), "beta",
        None, {"tenant": {"id": "beta", "name": "Beta", "state": "active"}, "plan": "free", "plan_version": 1},
    ),
    "a suspension": Case(
        "tenant.suspend", lambda db, _: tenants.set_state(db, "acme", "suspended", NOW), "acme", {"state": "active"}, {"state": "suspended"}
    ),
    "a return": Case(
        "tenant.resume", lambda db, _: tenants.set_state(db, "acme", "active", NOW), "acme", {"state": "suspended"}, {"state": "active"},
        lambda db: tenants.set_state(db, "acme", "suspended", NOW),
    ),
    "a key": Case("key.issue", lambda db, _: issued(db), "acme", None, {"name": "app", "kind": "tenant", "revoked_us": None}),
    "an admin's key": Case(
        "key.issue", lambda db, _: keys.issue_key(db, HASHER, kind="admin", name="root", now_us=NOW), None, None, {"kind": "admin", "tenant_id": None}
    ),
    "a key's limits": Case(
        "key.limit", lambda db, key: keys.limit_key(db, key, requests_per_minute=7, ceiling_ncr=5, now_us=NOW), "acme",
        {"requests_per_minute": None, "ceiling_ncr": None}, {"requests_per_minute": 7, "ceiling_ncr": 5}, issued,
    ),
    "a key's end": Case("key.revoke", lambda db, key: keys.revoke_key(db, key, NOW + 9), "acme", {"revoked_us": None}, {"revoked_us": NOW + 9}, issued),
    "a project": Case(
        "project.create", lambda db, _: projects.set_project(db, "acme", "search", ceiling_ncr=3, now_us=NOW), "acme",
        None, {"name": "search", "ceiling_ncr": 3},
    ),
    "a project's ceiling": Case(
        "project.set", lambda db, _: projects.set_project(db, "acme", "search", ceiling_ncr=None, now_us=NOW), "acme",
        {"ceiling_ncr": 3}, {"ceiling_ncr": None}, lambda db: projects.set_project(db, "acme", "search", ceiling_ncr=3, now_us=NOW),
    ),
    "a grant": Case(
        "grant.add", lambda db, _: grants.add_grant(db, tenant_id="acme", amount_ncr=CREDIT, note="sorry", now_us=NOW), "acme",
        None, {"amount_ncr": CREDIT, "note": "sorry", "voided_us": None},
    ),
    "a grant's end": Case(
        "grant.void", lambda db, grant: grants.void_grant(db, grant, NOW + 1), "acme",
        {"remaining_ncr": CREDIT, "voided_us": None}, {"remaining_ncr": 0, "voided_ncr": CREDIT, "voided_us": NOW + 1},
        lambda db: grants.add_grant(db, tenant_id="acme", amount_ncr=CREDIT, now_us=NOW).id,
    ),
    "more at once": Case(
        "subscription.change", lambda db, _: subscriptions.change_plan(db, "acme", "more", NOW), "acme",
        {"current": {"plan": "free"}, "next": None}, {"current": {"plan": "more"}, "credits_ncr": 200 * CREDIT}, bigger,
    ),
    "less later": Case(
        "subscription.change", lambda db, _: subscriptions.change_plan(db, "acme", "less", NOW), "acme",
        {"current": {"plan": "free", "ended_us": None}, "next": None}, {"current": {"plan": "free"}, "next": {"plan": "less"}},
        lambda db: plans.set_plan(db, PlanTerms(plan="less", allowance_ncr=CREDIT), NOW),
    ),
    "a change taken back": Case(
        "subscription.keep", lambda db, _: subscriptions.cancel_change(db, "acme", NOW), "acme", {"next": {"plan": "less"}}, {"next": None}, moved
    ),
    "a change taken back by naming the plan": Case(
        "subscription.keep", lambda db, _: subscriptions.change_plan(db, "acme", "free", NOW), "acme", {"next": {"plan": "less"}}, {"next": None}, moved
    ),
    "a first rate": Case("rates.set", lambda db, _: rates.set_rate(db, model="m", prices=PRICES, now_us=NOW), None, None, {"m": {"prices": {**PRICES}}}),
    "a rate": Case(
        "rates.set", lambda db, _: rates.set_rate(db, model="m", prices={"input": 1, "output": 2}, now_us=NOW + 1), None,
        {"m": {"prices": {"input": 500}}}, {"m": {"prices": {"input": 1}}}, lambda db: rates.set_rate(db, model="m", prices=PRICES, now_us=NOW),
    ),
    "a cost": Case(
        "costs.set", lambda db, _: costs.set_cost(db, backend="b", model="m", currency="EUR", prices=PRICES, now_us=NOW + 1), None,
        {"b/m": {"currency": "USD", "free": True}}, {"b/m": {"currency": "EUR", "free": False}},
        lambda db: costs.set_cost(db, backend="b", model="m", currency="USD", free=True, now_us=NOW),
    ),
    "a proposal": Case("rates.propose", lambda db, _: proposed(db), None, None, {"note": "dearer", "published_us": None}),
    "a publication": Case(
        "rates.publish", lambda db, version: versions.publish_version(db, "rates", version, now_us=NOW), None, None, {"m": {"prices": {"input": 500}}}, proposed
    ),
    "a withdrawal": Case(
        "rates.withdraw", lambda db, version: versions.withdraw_version(db, "rates", version, NOW + 1), None,
        {"withdrawn_us": None}, {"withdrawn_us": NOW + 1}, proposed,
    ),
    "a webhook": Case("webhook.add", lambda db, _: hook(db), "acme", None, {"url": "https://hook.test/...", "events": None}),
    "a webhook's end": Case("webhook.remove", lambda db, id: webhooks.remove_webhook(db, id, NOW), "acme", {"url": "https://hook.test/..."}, None, hook),
    "a webhook's test": Case("webhook.test", lambda db, id: webhooks.queue_test(db, id, NOW), "acme", None, {}, hook),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_write_is_recorded_once_with_who_before_and_after(acme: Database, case: Case) -> None:
    made = case.prepare(acme)
    last = newest(acme).seq
    case.act(acme.acting("key:key_42"), made)
    entry = newest(acme)
    assert (entry.seq, entry.actor, entry.action, entry.tenant_id) == (last + 1, "key:key_42", case.action, case.tenant_id)
    assert NOW <= entry.at_us <= NOW + 9
    for found, wanted in zip(states(entry), (case.before, case.after), strict=True):
        assert holds(found, wanted), (found, wanted)
    assert audit.verify(acme).holds


def holds(found: Any, wanted: Any) -> bool:
    """Whether a state says at least what is wanted."""
    if not isinstance(wanted, dict):
        return bool(found == wanted)
    return isinstance(found, dict) and all(name in found and holds(found[name], value) for name, value in wanted.items())


def test_a_key_that_makes_its_project_is_two_entries(acme: Database) -> None:
    keys.issue_key(acme, HASHER, tenant_id="acme", project="search", now_us=NOW)
    keys.issue_key(acme, HASHER, tenant_id="acme", project="search", now_us=NOW)
    assert [entry.action for entry in audit.list_entries(acme, limit=3)] == ["key.issue", "key.issue", "project.create"]


def test_who_works_is_the_gateway_itself_where_nobody_in_particular_is(db: Database) -> None:
    plans.set_plan(db, PlanTerms(plan="free"), NOW)
    assert newest(db).actor == "weir"


@pytest.mark.parametrize(
    "again",
    [
        lambda db: tenants.set_state(db, "acme", "active", NOW),
        lambda db: keys.limit_key(db, keys.list_keys(db)[0].id, requests_per_minute=None, now_us=NOW),
        lambda db: projects.set_project(db, "acme", "search", ceiling_ncr=None, now_us=NOW),
    ],
)
def test_what_changes_nothing_is_not_recorded(acme: Database, again: Callable[[Database], object]) -> None:
    keys.issue_key(acme, HASHER, tenant_id="acme", project="search", now_us=NOW)
    last = newest(acme)
    again(acme)
    assert newest(acme) == last


def test_what_is_refused_is_not_recorded(acme: Database) -> None:
    last = newest(acme)
    for refused in (
        lambda: tenants.create_tenant(acme, id="acme", name="", plan="free", now_us=NOW),
        lambda: tenants.set_state(acme, "nobody", "suspended", NOW),
        lambda: grants.void_grant(acme, "none", NOW),
        lambda: subscriptions.change_plan(acme, "acme", "free", NOW),
        lambda: webhooks.remove_webhook(acme, "none", NOW),
    ):
        with pytest.raises(BillingError):
            refused()
    assert newest(acme) == last


def test_what_is_rolled_back_leaves_nothing_and_its_number_to_the_next(acme: Database) -> None:
    last = newest(acme)

    def fail() -> None:
        with acme.write() as session:
            record(session, NOW, action="x.y", tenant_id=None, subject="s", before=None, after={"a": 1})
            assert store.head(session).seq == last.seq + 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert newest(acme) == last
    issued(acme)
    assert newest(acme).seq == last.seq + 1


def test_what_is_tried_again_is_recorded_once(acme: Database) -> None:
    last = newest(acme)
    tries: list[int] = []

    def work(session: Any) -> None:
        record(session, NOW, action="x.y", tenant_id=None, subject="s", before=None, after={"try": len(tries)})
        tries.append(1)
        if len(tries) < 3:
            raise BooksContended("another transaction stood in the way")

    acme.acting("key:k").retrying(work)
    entry = newest(acme)
    assert (entry.seq, entry.actor, entry.after) == (last.seq + 1, "key:k", '{"try":2}')


def test_no_secret_is_ever_in_the_log(acme: Database) -> None:
    secrets = [keys.issue_key(acme, HASHER, kind=kind, tenant_id=tenant, now_us=NOW).secret for kind, tenant in (("admin", None), ("tenant", "acme"))]
    added = webhooks.add_webhook(acme, HASHER, url="https://hook.test/s3cret/path?token=t0ken", now_us=NOW)
    keys.revoke_key(acme, keys.list_keys(acme, "acme")[0].id, NOW)
    webhooks.remove_webhook(acme, added.webhook.id, NOW)
    with acme.read() as session:
        rows = session.connection().execute(text("SELECT * FROM audit_entry")).all()
        digests = [bytes(digest) for digest in session.connection().execute(text("SELECT digest FROM api_key")).scalars()]
    log = repr(rows)
    assert len(digests) == 2 and "key.revoke" in log
    assert signing_key(HASHER, added.webhook.id).hex() not in log
    for hidden in (
        *secrets,
        *(secret[8:] for secret in secrets),
        added.secret or "-",
        (added.secret or "whsec_-")[6:],
        "s3cret",
        "t0ken",
        *(digest.hex() for digest in digests),
        *(b64encode(digest).decode() for digest in digests),
    ):
        assert hidden not in log


def test_the_database_refuses_to_change_the_log(acme: Database) -> None:
    own = {"sqlite": "INSERT OR REPLACE INTO audit_entry SELECT * FROM audit_entry", "postgresql": "TRUNCATE audit_entry"}[acme.dialect]
    for statement in ("UPDATE audit_entry SET actor = 'x'", "DELETE FROM audit_entry", own):
        with pytest.raises(DBAPIError, match="never changed"), acme.write() as session:
            session.connection().execute(text(statement))
    assert audit.verify(acme).entries == 2


TRIGGERS = {
    "sqlite": [f"DROP TRIGGER audit_entry_no_{verb}" for verb in ("update", "delete", "replace")],
    "postgresql": ["ALTER TABLE audit_entry DISABLE TRIGGER USER"],
}
FORGED = "INSERT INTO audit_entry SELECT 8, at_us, 'key:x', action, tenant_id, subject, before, after, hash, hash FROM audit_entry WHERE seq = 7"
TAMPERED = {
    "a field": (["UPDATE audit_entry SET actor = 'key:x' WHERE seq = 4"], [(4, "changed")]),
    "a state": (["UPDATE audit_entry SET after = NULL WHERE seq = 4"], [(4, "changed")]),
    "a hash": (["UPDATE audit_entry SET prev_hash = hash WHERE seq = 4"], [(4, "changed")]),
    "a row": (["DELETE FROM audit_entry WHERE seq = 4"], [(4, "missing")]),
    "the first rows": (["DELETE FROM audit_entry WHERE seq < 4"], [(1, "missing")]),
    "two rows": ([f"UPDATE audit_entry SET seq = {new} WHERE seq = {old}" for old, new in ((3, 99), (5, 3), (99, 5))], [(3, "moved"), (5, "moved")]),
    "one row more": ([FORGED], [(8, "changed")]),
    "the end": (["DELETE FROM audit_entry WHERE seq > 5"], [(6, "cut")]),
    "all": (["DELETE FROM audit_entry"], [(1, "cut")]),
}


@pytest.mark.parametrize(("statements", "found"), TAMPERED.values(), ids=list(TAMPERED))
def test_who_takes_the_triggers_away_is_found_out(acme: Database, statements: list[str], found: list[tuple[int, str]]) -> None:
    for number in range(5):
        grants.add_grant(acme, tenant_id="acme", amount_ncr=CREDIT, now_us=NOW + number)
    noted = str(audit.get_head(acme))
    assert noted.startswith("7:")
    with acme.engine.begin() as connection:
        for statement in (*TRIGGERS[acme.dialect], *statements):
            connection.execute(text(statement))
    assert [(fault.seq, fault.kind) for fault in audit.verify(acme, noted).faults] == found
    assert audit.verify(acme).holds == (found[0][1] == "cut")


def test_the_memory_of_verifying_is_bounded(acme: Database) -> None:
    state = {"text": "x" * 4000}
    with acme.write() as session:
        for number in range(2000):  # 8 MB of states
            record(session, NOW, action="x.y", tenant_id=None, subject=str(number), before=None, after=state)
    audit.verify(acme)  # what is made once, is made
    tracemalloc.start()
    try:
        assert audit.verify(acme).entries == 2002
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_writers_that_race_leave_one_chain_without_a_gap(acme: Database) -> None:
    before = newest(acme).seq

    def work(number: int) -> None:
        own = acme.acting(f"key:{number}")
        for turn in range(10):
            keys.issue_key(own, HASHER, tenant_id="acme", project=f"p{turn}", now_us=NOW)

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [None] * 6
    verdict = audit.verify(acme)
    assert verdict.holds
    assert verdict.entries == verdict.head.seq == before + 70  # 60 keys, and each of the ten projects once
    found = audit.list_entries(acme, limit=1000)
    assert {entry.actor for entry in found} == {"cli:anna", *(f"key:{number}" for number in range(6))}


def test_racing_writers_each_see_what_they_changed(acme: Database) -> None:
    key = issued(acme)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda limit: keys.limit_key(acme, key, requests_per_minute=limit, now_us=NOW), range(1, 17)))
    found = [states(entry) for entry in reversed(audit.list_entries(acme, action="key.limit"))]
    assert [after["requests_per_minute"] for _, after in found[:-1]] == [before["requests_per_minute"] for before, _ in found[1:]]
    assert keys.get_key(acme, key).requests_per_minute == found[-1][1]["requests_per_minute"]


def test_of_two_that_revoke_one_key_one_is_refused_and_one_recorded(acme: Database) -> None:
    key = issued(acme)

    def revoke(_: int) -> bool:
        try:
            keys.revoke_key(acme, key, NOW)
        except BillingError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(revoke, range(4))) == [False, False, False, True]
    assert len(audit.list_entries(acme, action="key.revoke")) == 1


def test_a_record_costs_the_same_however_many_are_in_one_transaction(acme: Database) -> None:
    sent: list[str] = []
    event.listen(acme.engine, "before_cursor_execute", lambda _c, _cursor, statement, *_: sent.append(statement))
    counts = []
    with acme.write() as session:
        for number in range(1000):
            record(session, NOW, action="tenant.create", tenant_id=f"t{number}", subject=f"t{number}", before=None, after={"n": number})
            counts.append(len(sent))
    steps = {after - before for before, after in pairwise(counts)}
    assert len(steps) == 1 and steps.pop() <= 3
    assert audit.verify(acme).entries == 1002


def test_lists_go_by_filters_and_pages(acme: Database) -> None:
    for number in range(5):
        grants.add_grant(acme.acting("key:a" if number % 2 else "key:b"), tenant_id="acme", amount_ncr=CREDIT, now_us=NOW + number)
    assert [entry.seq for entry in audit.list_entries(acme, limit=3)] == [7, 6, 5]
    assert [entry.seq for entry in audit.list_entries(acme, before=5, limit=3)] == [4, 3, 2]
    assert [entry.seq for entry in audit.list_entries(acme, actor="key:a")] == [6, 4]
    assert [entry.seq for entry in audit.list_entries(acme, since_us=NOW + 3)] == [7, 6]
    assert [entry.seq for entry in audit.list_entries(acme, action="grant", tenant_id="acme", limit=2)] == [7, 6]
    assert [entry.seq for entry in audit.list_entries(acme, action="tenant.create")] == [2]
    assert audit.list_entries(acme, action="gran") == audit.list_entries(acme, action="%") == audit.list_entries(acme, tenant_id="nobody") == []


def test_an_empty_log_verifies(db: Database) -> None:
    verdict = audit.verify(db)
    assert (verdict.holds, verdict.entries, str(verdict.head)) == (True, 0, f"0:{'0' * 64}")


def functions() -> Iterator[tuple[str, str, set[str]]]:
    """Yield (module, function, names it calls) of every operation; of a method only the method's name."""
    for path in sorted(Path(billing.operations.__path__[0]).glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                called = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
                names = {one.id if isinstance(one, ast.Name) else f".{one.attr}" for one in called if isinstance(one, ast.Name | ast.Attribute)}
                if ".write" in names and not any(isinstance(one, ast.Attribute) and one.attr == "write" and ast.unparse(one.value) == "db" for one in called):
                    names.discard(".write")  # of something else: a file
                yield path.stem, node.name, names


def test_no_operation_that_writes_forgets_the_log() -> None:
    found = {(module, name): names for module, name, names in functions()}
    calls: dict[str, set[str]] = {}
    for (_, name), names in found.items():
        calls.setdefault(name, set()).update(names)

    def records(name: str, seen: frozenset[str] = frozenset()) -> bool:
        return name in ("record", "record_all") or any(records(one, seen | {name}) for one in calls.get(name, set()) - seen)

    writing = [(module, name) for (module, name), names in found.items() if names & {f".{verb}" for verb in WRITES}]
    assert len(writing) > 15, writing
    assert [where for where in writing if not records(where[1])] == []
