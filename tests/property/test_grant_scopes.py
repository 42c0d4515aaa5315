"""Grants with scopes, voids and expiry against a model that moves one nano-credit at a time.

Invariants of the books, by number: 4 (per grant: amount = remaining + used + expired + voided), 8 (no grant pays for a request that began outside its life or
outside its scope), 9 (burn order).
"""

import tempfile
from itertools import count
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from billing.credits import store as accounts
from billing.credits.burndown import Charge, burn
from billing.db import Database
from billing.grants import store
from billing.grants.grant import GENERAL, Grant, burn_key, purse_of, serves
from billing.jobs import run_jobs
from billing.jobs.expire_grants import GRACE_US
from billing.ledger.store import balances
from billing.operations import grants, keys
from billing.tenants.keys import KeyHasher
from billing.usage.verify import verify
from billing.usage.writer import book
from tests.books import HOUR_US, event, grant, seed
from tests.clock import START_US
from tests.desk import migrated

KINDS = ("topup", "promotion", "adjustment")
MODELS = ("m", "n", "a,b", "a", "b")
NAMES = st.sampled_from(["a", "b", "a,b", "a;b", "a;models:b", "a;project:b", "%2C", "%", "a%3Bmodels:b"])


class Request(msgspec.Struct, frozen=True):
    """Who asks for what, and when it began."""

    key_id: str
    project: str | None
    model: str
    started_us: int


class Left(msgspec.Struct):
    """What the model knows of a grant."""

    grant: Grant
    remaining: int
    used: int = 0
    expired: int = 0
    voided: int = 0

    def pays_for(self, request: Request) -> bool:
        one = self.grant
        if one.key_id is not None and one.key_id != request.key_id:
            return False
        if one.project is not None and one.project != request.project:
            return False
        if one.models is not None and request.model not in one.models:
            return False
        return not self.voided_now and one.effective_us <= request.started_us and (one.expires_us is None or request.started_us < one.expires_us)

    @property
    def voided_now(self) -> bool:
        return self.grant.voided_us is not None

    @property
    def scope(self) -> tuple[str | None, str | None, tuple[str, ...] | None]:
        return self.grant.key_id, self.grant.project, self.grant.models


class Model:
    """The books as the rules are told, without any cleverness."""

    def __init__(self, *given_: Grant) -> None:
        self.grants = {one.id: Left(one, one.remaining_ncr) for one in given_}
        self.debt = 0

    def use(self, request: Request, parts: dict[str, int]) -> None:
        """Take one nano-credit after another: debt first out of the tenant's own, then what each purse was asked for."""
        while self.debt and self.take(request, GENERAL):
            self.debt -= 1
        short = sum(not self.take(request, purse) for purse, wanted in parts.items() if purse != GENERAL for _ in range(wanted))
        for _ in range(short + parts.get(GENERAL, 0)):
            if not self.take(request, GENERAL):
                self.debt += 1

    def take(self, request: Request, purse: str) -> bool:
        fit = [left for left in self.grants.values() if left.remaining and purse_of(left.grant) == purse and left.pays_for(request)]
        if not fit:
            return False
        first = fit[0]
        for other in fit[1:]:
            if before(other.grant, first.grant):
                first = other
        first.remaining -= 1
        first.used += 1
        return True


def before(one: Grant, other: Grant) -> bool:
    """Burn order within a purse, as it is specified: priority, the sooner end (none last), promotions, the sooner beginning, the id."""
    if one.priority != other.priority:
        return one.priority < other.priority
    if one.expires_us != other.expires_us:
        return other.expires_us is None or (one.expires_us is not None and one.expires_us < other.expires_us)
    if (one.kind == "promotion") != (other.kind == "promotion"):
        return one.kind == "promotion"
    return (one.effective_us, one.id) < (other.effective_us, other.id)


scopes = st.tuples(
    st.none() | NAMES, st.none() | NAMES, st.none() | st.lists(NAMES, min_size=1, max_size=3, unique=True).map(lambda names: tuple(sorted(names)))
)


@given(scopes, scopes)
def test_two_scopes_share_a_purse_only_if_they_are_the_same(
    one: tuple[str | None, str | None, tuple[str, ...] | None], other: tuple[str | None, str | None, tuple[str, ...] | None]
) -> None:
    purses = [purse_of(grant("g", 1, key_id=key_id, project=project, models=models)) for key_id, project, models in (one, other)]
    assert (purses[0] == purses[1]) == (one == other)
    assert (purses[0] == GENERAL) == (one == (None, None, None))


def test_a_purse_fits_into_a_tables_key_however_many_models_it_names() -> None:
    many = grant("g", 1, models=tuple(f"model-{number}" * 20 for number in range(100)))
    assert len(purse_of(many)) <= 300
    assert purse_of(many) != purse_of(msgspec.structs.replace(many, models=(many.models or ())[1:]))


@st.composite
def scoped(draw: st.DrawFn) -> list[Grant]:
    found = []
    for number in range(draw(st.integers(0, 6))):
        start, amount = draw(st.integers(0, 8)), draw(st.integers(1, 15))
        found.append(
            grant(
                f"g{number}", amount, kind=draw(st.sampled_from(KINDS)), priority=draw(st.integers(0, 1)), effective_us=start,
                expires_us=draw(st.none() | st.integers(start + 1, 10)), voided_us=draw(st.none() | st.none() | st.just(3)),
                key_id=draw(st.none() | st.sampled_from(["k1", "k2"])), project=draw(st.none() | st.just("p")),
                models=draw(st.none() | st.sampled_from([("m",), ("m", "n")])),
            )
        )  # fmt: skip
    return sorted(found, key=burn_key)


requests = st.builds(Request, st.sampled_from(["k1", "k2"]), st.sampled_from(["p", None]), st.sampled_from(["m", "n"]), st.integers(0, 9))


def spread(data: st.DataObject, given_: list[Grant], request: Request, cover: int) -> dict[str, int]:
    """Ask for a cover as enforcement does: from the purses whose grants admit the request, the rest from the tenant's own."""
    purses = sorted({purse_of(one) for one in given_ if serves(one, request.key_id, request.project, request.model)} - {GENERAL})
    parts: dict[str, int] = {}
    for purse in data.draw(st.permutations(purses)):
        parts[purse] = data.draw(st.integers(0, cover - sum(parts.values())))
    return {**parts, GENERAL: cover - sum(parts.values())}


@given(st.data(), scoped(), st.lists(requests, max_size=8))
def test_8_and_9_every_charge_takes_from_grants_of_its_life_and_scope_in_burn_order(data: st.DataObject, given_: list[Grant], asked: list[Request]) -> None:
    model = Model(*given_)
    now, debt = given_, 0
    for request in asked:
        cover = data.draw(st.integers(0, 20))
        parts = spread(data, given_, request, cover)
        burnt = burn(now, debt, [Charge(request.started_us, cover, cover, True, parts)])
        model.use(request, parts)
        assert all(model.grants[grant_id].pays_for(request) for grant_id in burnt.draws), "8: outside its life or its scope"
        now, debt = [msgspec.structs.replace(one, remaining_ncr=burnt.left[one.id]) for one in now], burnt.debt_ncr
        assert {one.id: one.remaining_ncr for one in now} == {one.id: model.grants[one.id].remaining for one in now}, "9: another order"
        assert debt == model.debt


class Lives(RuleBasedStateMachine):
    """Credits are given, used, voided and expire, in any order and with late events; books and model say the same after every step."""

    ids = Bundle("ids")

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "weir.db"
        path.write_bytes(migrated())
        self.db = Database(f"sqlite:///{path}")
        seed(self.db, "acme")
        hasher = KeyHasher(b"0123456789abcdef")
        self.keys = {
            keys.issue_key(self.db, hasher, tenant_id="acme", project=project, now_us=START_US).id: project for project in ("search", "chat;models:m", None)
        }
        self.now_us = START_US
        self.model = Model()
        self.numbers = count(1)

    @precondition(lambda self: hasattr(self, "db"))
    @rule(
        target=ids, amount=st.integers(1, 40), kind=st.sampled_from(KINDS), priority=st.integers(0, 1), begins_h=st.sampled_from([0, 0, 5, 30]),
        lasts_h=st.none() | st.integers(1, 90), seat=st.sampled_from(["", "", "key", "project", "both"]), who=st.integers(0, 1),
        models=st.none() | st.lists(st.sampled_from(MODELS), min_size=1, max_size=2),
    )  # fmt: skip
    def give(
        self, *, amount: int, kind: str, priority: int, begins_h: int, lasts_h: int | None, seat: str, who: int, models: list[str] | None
    ) -> str:  # fmt: skip
        key_id, project = list(self.keys.items())[who]
        effective_us = self.now_us + begins_h * HOUR_US
        made = grants.add_grant(
            self.db, tenant_id="acme", amount_ncr=amount, kind=kind, id=f"g{next(self.numbers):03}", priority=priority, effective_us=effective_us,
            expires_us=None if lasts_h is None else effective_us + lasts_h * HOUR_US, key_id=key_id if seat in ("key", "both") else None,
            project=project if seat in ("project", "both") else None, models=models, now_us=self.now_us,
        )  # fmt: skip
        self.model.grants[made.id] = Left(made, amount)
        return made.id

    @rule(data=st.data(), who=st.integers(0, 2), wanted=st.sampled_from(MODELS), cover=st.integers(0, 30), late_h=st.sampled_from([0, 0, 3, 40, 100]))
    def use(self, data: st.DataObject, who: int, wanted: str, cover: int, late_h: int) -> None:
        key_id, project = list(self.keys.items())[who]
        request = Request(key_id, project, wanted, max(START_US, self.now_us - late_h * HOUR_US))
        parts = spread(data, [left.grant for left in self.model.grants.values()], request, cover)
        told = msgspec.structs.replace(
            event(next(self.numbers), cover, started_us=request.started_us), key_id=key_id, project=project, model=wanted, purses=parts
        )
        with self.db.write() as session:
            book(session, [told], self.now_us)
        self.model.use(request, parts)

    @rule(hours=st.sampled_from([1, 10, 60]))
    def wait(self, hours: int) -> None:
        self.now_us += hours * HOUR_US

    @rule(grant_id=ids)
    def void(self, grant_id: str) -> None:
        left = self.model.grants[grant_id]
        if left.voided_now or (left.grant.expires_us is not None and left.grant.expires_us <= self.now_us):
            return
        grants.void_grant(self.db, grant_id, self.now_us)
        left.grant = msgspec.structs.replace(left.grant, voided_us=self.now_us)
        left.remaining, left.voided = 0, left.remaining

    @rule()
    def expire(self) -> None:
        run_jobs(self.db, self.now_us)
        for left in self.model.grants.values():
            if left.grant.expires_us is not None and left.grant.expires_us + GRACE_US <= self.now_us:
                left.remaining, left.expired = 0, left.expired + left.remaining

    @invariant()
    def books_and_model_agree(self) -> None:
        if not hasattr(self, "db"):
            return
        with self.db.read() as session:
            found = {one.id: one for one in store.all_grants(session, "acme")}
            posted = balances(session)
            assert verify(session) == []
            assert accounts.get(session, "acme").debt_ncr == self.model.debt
        for grant_id, left in self.model.grants.items():
            one = found[grant_id]
            told = (left.remaining, left.used, left.expired, left.voided)
            assert (one.remaining_ncr, one.used_ncr, one.expired_ncr, one.voided_ncr) == told, grant_id
            assert one.amount_ncr == sum(told), "4: a nano-credit is lost or made"
            assert posted[("acme", f"grant:{grant_id}")] == left.remaining
        assert posted.get(("acme", "expired"), 0) == sum(left.expired for left in self.model.grants.values())

    def teardown(self) -> None:
        if hasattr(self, "db"):
            self.db.close()
            self.folder.cleanup()


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=20, stateful_step_count=25, deadline=None, print_blob=True)
