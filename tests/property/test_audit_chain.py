"""Whatever was done, the audit chain holds; whatever is then done to it behind Weir's back, `walk` finds it and says where."""

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.audit.chain import FAULTS_MAX, FIRST, Entry, Fault, Head, digest, read_head, sealed, walk, written
from billing.audit.difference import differences
from billing.db import Database
from billing.errors import BillingError, Invalid
from billing.operations import audit, grants, keys, plans, projects, rates, tenants
from billing.plans.terms import PlanTerms
from billing.tenants.keys import KeyHasher
from tests.desk import migrated

NOW = 1_790_000_000_000_000
HASHER = KeyHasher(b"pepper for the tests")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
STATE = st.none() | st.dictionaries(TEXT, TEXT | st.integers() | st.none() | st.booleans(), max_size=3)
SAID = st.tuples(TEXT, TEXT, st.none() | TEXT, TEXT, STATE, STATE)


def chain(said: list[tuple]) -> list[Entry]:
    entries: list[Entry] = []
    for seq, (actor, action, tenant, subject, before, after) in enumerate(said, 1):
        prev = entries[-1].hash if entries else FIRST
        new = Entry(
            seq=seq,
            at_us=NOW + seq,
            actor=actor,
            action=action,
            tenant_id=tenant,
            subject=subject,
            before=written(before),
            after=written(after),
            prev_hash=prev,
        )
        entries.append(sealed(new))
    return entries


CHAINS = st.lists(SAID, min_size=3, max_size=12).map(chain)


def kinds(entries: list[Entry], noted: Head | None = None) -> list[tuple[int, str]]:
    return [(fault.seq, fault.kind) for fault in walk(entries, noted).faults]


@given(CHAINS)
def test_a_chain_as_it_was_written_holds_with_every_head_it_had(entries: list[Entry]) -> None:
    verdict = walk(entries)
    assert (verdict.holds, verdict.entries, verdict.head) == (True, len(entries), Head(len(entries), entries[-1].hash))
    for entry in entries:
        assert kinds(entries, read_head(f"{entry.seq}:{entry.hash}")) == []


@given(CHAINS, st.data())
def test_a_changed_field_is_found_where_it_is(entries: list[Entry], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(entries) - 1))
    field = data.draw(st.sampled_from(["at_us", "actor", "action", "tenant_id", "subject", "before", "after"]))
    old = getattr(entries[at], field)
    entries[at] = msgspec.structs.replace(entries[at], **{field: (old or 0) + 1 if field == "at_us" else (old or "") + "x"})
    assert kinds(entries) == [(at + 1, "changed")]


@given(CHAINS, st.data())
def test_a_changed_entry_with_a_hash_made_anew_breaks_the_next_or_the_noted_head(entries: list[Entry], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(entries) - 1))
    noted = Head(entries[-1].seq, entries[-1].hash)
    entries[at] = sealed(msgspec.structs.replace(entries[at], actor=entries[at].actor + "x"))
    assert kinds(entries, noted) == [(at + 2, "unlinked") if at + 1 < len(entries) else (at + 1, "rewritten")]


@given(CHAINS, st.data())
def test_entries_removed_before_the_end_are_named(entries: list[Entry], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(entries) - 2))
    last = data.draw(st.integers(first, len(entries) - 2))
    verdict = walk([*entries[:first], *entries[last + 1 :]])
    assert [(fault.seq, fault.kind) for fault in verdict.faults] == [(first + 1, "missing")]
    assert (f"entries {first + 1} to {last + 1} are" if last > first else f"entry {first + 1} is") in verdict.faults[0].says


@given(CHAINS, st.data())
def test_removed_and_numbered_anew_is_found(entries: list[Entry], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(entries) - 2))
    closed = [*entries[:at], *(msgspec.structs.replace(entry, seq=entry.seq - 1) for entry in entries[at + 1 :])]
    assert kinds(closed) == [(entry.seq, "moved") for entry in closed[at:]]


@given(CHAINS, st.data())
def test_swapped_entries_are_found_and_where_they_were(entries: list[Entry], data: st.DataObject) -> None:
    one, other = sorted(data.draw(st.lists(st.integers(0, len(entries) - 1), min_size=2, max_size=2, unique=True)))
    a, b = entries[one], entries[other]
    entries[one], entries[other] = msgspec.structs.replace(b, seq=a.seq), msgspec.structs.replace(a, seq=b.seq)
    faults = walk(entries).faults
    assert [(fault.seq, fault.kind) for fault in faults] == [(a.seq, "moved"), (b.seq, "moved")]
    assert f"written as entry {b.seq}" in faults[0].says


@given(CHAINS, SAID)
def test_an_entry_forged_at_the_end_is_found(entries: list[Entry], said: tuple) -> None:
    (forged,) = chain([said])
    seq = len(entries) + 1
    assert kinds([*entries, sealed(msgspec.structs.replace(forged, seq=seq))]) == [(seq, "unlinked")]
    linked = msgspec.structs.replace(forged, seq=seq, prev_hash=entries[-1].hash, hash="f" * 64)
    assert kinds([*entries, linked]) == [(seq, "changed")]


@given(CHAINS, SAID, st.integers(-3, 0))
def test_an_entry_forged_before_the_beginning_is_found(entries: list[Entry], said: tuple, seq: int) -> None:
    (forged,) = chain([said])
    assert kinds([sealed(msgspec.structs.replace(forged, seq=seq)), *entries])[0] == (seq, "unlinked")


@given(CHAINS, st.data())
def test_a_cut_at_the_end_is_found_with_a_head_and_only_with_one(entries: list[Entry], data: st.DataObject) -> None:
    left = data.draw(st.integers(0, len(entries) - 1))
    noted = Head(entries[-1].seq, entries[-1].hash)
    assert kinds(entries[:left]) == []
    assert kinds(entries[:left], noted) == [(left + 1, "cut")]


@given(CHAINS)
def test_a_chain_written_anew_is_found_with_a_head(entries: list[Entry]) -> None:
    anew = chain([("x" + entry.actor, entry.action, None, entry.subject, None, None) for entry in entries])
    assert kinds(anew) == []
    assert kinds(anew, Head(entries[1].seq, entries[1].hash)) == [(2, "rewritten")]


def test_many_faults_are_counted_and_the_first_told() -> None:
    entries = chain([("a", "b", None, "c", None, None)] * 100)
    verdict = walk(msgspec.structs.replace(entry, actor="x") for entry in entries)
    assert (len(verdict.faults), verdict.omitted, verdict.holds) == (FAULTS_MAX, 100 - FAULTS_MAX, False)
    assert isinstance(verdict.faults[0], Fault)


def test_the_hash_is_the_one_that_the_readme_describes() -> None:
    entry = Entry(seq=1, at_us=2, actor="cli:änna", action="plan.set", tenant_id=None, subject="pro", before=None, after='{"a":1}', prev_hash=FIRST)
    # printf '[1,2,"cli:änna","plan.set",null,"pro",null,"{\"a\":1}","000...0"]' | sha256sum
    assert digest(entry) == "50ea1a48d9944fc63772a72b7911670e63b371486153bd89b26f045780fef76d"


def test_states_are_written_in_one_way_only() -> None:
    assert written({"b": frozenset({"z", "a", "m"}), "a": {"y": 1, "x": None}}) == '{"a":{"x":null,"y":1},"b":["a","m","z"]}'
    assert written({"logo": b"PNG"}) == '{"logo":"sha256:796120837694d3f3f29259cfeb25091698c2a0aa87873658d840b4993ee889b3"}'
    with pytest.raises(TypeError):
        written({"a": object()})


@pytest.mark.parametrize("text", ["", "1", "1:", f":{'0' * 64}", f"x:{'0' * 64}", f"1:{'0' * 63}", f"1:{'G' * 64}", f"-1:{'0' * 64}", f"²:{'0' * 64}"])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_head(text)
    assert refused.value.field == "head"


@given(STATE, STATE)
def test_differences_are_the_fields_that_differ(before: dict | None, after: dict | None) -> None:
    found = {one.field: (one.old, one.new) for one in differences(written(before), written(after))}
    old, new = before or {}, after or {}
    assert found == {name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}


OPERATIONS = {
    "plan": lambda db, n: plans.set_plan(db, PlanTerms(plan="free", allowance_ncr=n), NOW),
    "tenant": lambda db, n: tenants.create_tenant(db, id=f"t{n}", name="", plan="free", now_us=NOW),
    "suspend": lambda db, n: tenants.set_state(db, f"t{n}", "suspended", NOW),
    "resume": lambda db, n: tenants.set_state(db, f"t{n}", "active", NOW),
    "key": lambda db, n: keys.issue_key(db, HASHER, tenant_id=f"t{n}", project="p", now_us=NOW),
    "revoke": lambda db, n: keys.revoke_key(db, keys.list_keys(db, f"t{n}")[0].id, NOW),
    "grant": lambda db, n: grants.add_grant(db, tenant_id=f"t{n}", amount_ncr=1 + n, id=f"g{n}", now_us=NOW),
    "void": lambda db, n: grants.void_grant(db, f"g{n}", NOW),
    "project": lambda db, n: projects.set_project(db, f"t{n}", "p", ceiling_ncr=n, now_us=NOW),
    "rate": lambda db, n: rates.set_rate(db, model=f"m{n}", prices={"input": n, "output": n}, now_us=NOW),
}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(list(OPERATIONS)), st.integers(0, 2)), max_size=20))
def test_any_sequence_of_operations_verifies_and_what_was_refused_left_nothing(done: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weir.db"
        path.write_bytes(migrated())
        db = Database(f"sqlite:///{path}")
        plans.set_plan(db, PlanTerms(plan="free"), NOW)
        for name, number in done:
            before = audit.get_head(db)
            try:
                OPERATIONS[name](db, number)
            except (BillingError, IndexError):
                assert audit.get_head(db) == before
            assert audit.verify(db, str(before)).holds
        db.close()
