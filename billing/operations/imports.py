"""Many tenants from one file, all of them or none, in one transaction: made, or changed where that is asked for.

A column that is left out leaves what it would say as it is; an empty cell says that there is nothing. What a list of tenants shows and nobody sets
(`created`, the plan to come, ...) may stand in the file, and has to be as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlmodel import Session

from billing.audit.store import Deed, record_all
from billing.credits import store as accounts
from billing.db import Database
from billing.errors import BillingError, Invalid
from billing.grants import periods
from billing.grants.allowance import ensure_allowance
from billing.money import exponent
from billing.operations import profiles, subscriptions
from billing.operations.sheets import Done, Fault, ImportRefused, Row, read_rows
from billing.operations.subscriptions import Standing
from billing.operations.tenants import check_currency
from billing.plans import store as plans
from billing.plans.terms import PlanVersion
from billing.tenants import store
from billing.tenants.profile import Party, Profile
from billing.tenants.tenant import CLOSED, STATES, Tenant, check_name, check_slug

Shown = Callable[[Tenant, Standing], Mapping[str, str]]
OWN = ("id", "name", "state", "plan", "currency", "timezone")


class _Known(msgspec.Struct):
    """What the books have of a tenant that a row names."""

    tenant: Tenant
    standing: Standing
    profile: Profile


class _Wanted(msgspec.Struct):
    """A row that can be done: the tenant as it shall be, its profile where that changes, and the plan to put it on (for one that is there: to move it to)."""

    row: Row
    tenant: Tenant
    profile: Profile | None
    plan: str | None


def import_tenants(db: Database, data: bytes, now_us: int, *, update: bool = False, shown: Shown, shows: Sequence[str] = ()) -> list[Done]:
    """Import tenants from CSV and say what became of each row. Columns: `OWN` and those of a profile; `id` is needed.

    `update`: rows may name tenants that are there, and change them. `shows`: the columns that only show something, which `shown` gives for a tenant.
    Raises `Invalid` for a file that cannot be read, and `ImportRefused` with every fault of every row; then nothing was written.
    """
    rows, faults = read_rows(data, (*OWN, *profiles.FIELDS, *shows), ("id",))

    def work(session: Session) -> list[Done]:
        store.note_change(session, None, now_us)
        job = _Import(session, now_us, update, shown)
        done = job.run(rows, list(faults))
        record_all(session, now_us, job.changes)
        return done

    return db.retrying(work)


class _Import:
    def __init__(self, session: Session, now_us: int, update: bool, shown: Shown) -> None:
        self._session = session
        self._now_us = now_us
        self._update = update
        self._shown = shown
        self._faults: list[Fault] = []
        self._versions: dict[str, PlanVersion | None] = {}
        self.changes: list[Deed] = []

    def run(self, rows: Sequence[Row], faults: list[Fault]) -> list[Done]:
        self._faults = faults
        known = self._known({row.cells["id"] for row in rows})
        first: dict[str, int] = {}
        wanted = [found for row in rows if (found := self._row(row, known.get(row.cells["id"]), first)) is not None]
        done = self._write(wanted, known)
        if self._faults:
            raise ImportRefused(sorted(self._faults, key=lambda fault: fault.line), len(rows) + len(faults))
        return done

    def _known(self, ids: set[str]) -> dict[str, _Known]:
        tenants = store.tenants_named(self._session, ids)
        standings = subscriptions.standings(self._session, list(tenants.values()), self._now_us)
        papers = store.get_profiles(self._session, list(tenants.values()))
        return {tenant_id: _Known(tenant, standings[tenant_id], papers[tenant_id]) for tenant_id, tenant in tenants.items()}

    def _row(self, row: Row, known: _Known | None, first: dict[str, int]) -> _Wanted | None:
        """Return what a row wants, or None where it is wrong: then its faults are noted, as many as can be told at once."""
        cells, before = row.cells, len(self._faults)
        tenant_id = cells["id"]
        self._check(row, "id", lambda: check_slug("id", tenant_id))
        if (line := first.setdefault(tenant_id, row.line)) != row.line:
            self._note(row, "id", f"id: `{tenant_id[:80]}` is on line {line} already")
        if known is not None and not self._update:
            self._note(row, "id", f"id: tenant `{tenant_id}` exists already; to change those that are there, import with --update (update=true)")
            return None
        tenant = self._new(row) if known is None else self._changed(row, known)
        plan = self._plan(row, known, tenant)
        fresh = Profile(party=Party(name=tenant.name))
        base = fresh if known is None or known.profile == Profile(party=Party(name=known.tenant.name)) else known.profile
        profile = self._profile(row, base)
        if len(self._faults) > before:
            return None
        return _Wanted(row, tenant, None if profile == base else profile, plan)

    def _new(self, row: Row) -> Tenant:
        cells = row.cells
        currency, timezone = cells.get("currency") or "USD", cells.get("timezone") or "UTC"
        self._check(row, "currency", lambda: exponent(currency))
        self._check(row, "timezone", lambda: periods.zone(timezone))
        state = cells.get("state") or STATES[0]
        if state not in STATES:
            self._note(row, "state", f"state: `{state[:80]}` is not one for a new tenant; {' or '.join(STATES)}")
        for column, cell in cells.items():
            if cell and column not in (*OWN, *profiles.FIELDS):
                self._note(row, column, f"{column}: is shown by a list and set by nobody; leave it empty for a new tenant")
        name = self._check(row, "name", lambda: check_name(cells.get("name") or cells["id"] or "-")) or ""
        return Tenant(id=cells["id"], name=name, state=state, currency=currency, timezone=timezone, created_us=self._now_us)

    def _changed(self, row: Row, known: _Known) -> Tenant:
        cells, tenant = row.cells, known.tenant
        for column in ("currency", "timezone"):
            if cells.get(column, getattr(tenant, column)) != getattr(tenant, column):
                self._note(row, column, f"{column}: is chosen when a tenant is created and stays: `{getattr(tenant, column)}`")
        state, now = cells.get("state", tenant.state_at(self._now_us)), tenant.state_at(self._now_us)
        if state != now and (state not in STATES or now == CLOSED):
            right = "it is closed, for good" if now == CLOSED else f"{' or '.join(STATES)} (to close it: weir tenant close)"
            self._note(row, "state", f"state: `{state[:80]}` cannot be set; {right}")
        for column, text in self._shown(tenant, known.standing).items():
            if column not in (*OWN, *profiles.FIELDS) and cells.get(column, text) != text:
                self._note(row, column, f"{column}: is shown by a list and set by nobody; it is `{text}`, leave it so or leave the column out")
        name = self._check(row, "name", lambda: check_name(cells.get("name", tenant.name) or tenant.id)) or tenant.name
        return msgspec.structs.replace(tenant, name=name, state=tenant.state if state == now else state)

    def _plan(self, row: Row, known: _Known | None, tenant: Tenant) -> str | None:
        """Return the plan that a row wants a tenant on, None where it stays. `pro v3` is how a list writes it."""
        current = None if known is None else known.standing.current
        cell = row.cells.get("plan")
        if cell is None and known is not None:
            return None
        plan, _, version = (cell or "").partition(" v")
        if not plan:
            if known is not None and current is None:
                return None
            stays = "" if known is None else "; leave the column out where it stays (to close the tenant: weir tenant close)"
            self._note(row, "plan", f"plan: is missing{stays}")
            return None
        if current is not None and plan == current.plan and version in ("", str(current.version)):
            return None
        newest = self._newest(row, plan, tenant)
        if newest is None:
            return None
        if version not in ("", str(newest.version)):
            self._note(row, "plan", f"plan: a tenant moves to a plan's newest version; write {plan}, or {plan} v{newest.version}")
        return plan

    def _newest(self, row: Row, plan: str, tenant: Tenant) -> PlanVersion | None:
        if plan not in self._versions:
            self._versions[plan] = plans.latest_version(self._session, plan)
        newest = self._versions[plan]
        if newest is None:
            self._note(row, "plan", f"plan: there is no plan `{plan[:80]}`; those there are: weir plan list")
            return None
        try:
            return check_currency(newest, tenant)
        except Invalid as error:
            self._note(row, "plan", str(error))
            return None

    def _profile(self, row: Row, base: Profile) -> Profile:
        changes: dict[str, Any] = {field: row.cells[field] for field in profiles.FIELDS if field in row.cells}
        if "address" in changes:
            changes["address"] = [line.strip() for line in changes["address"].splitlines()]
        if not changes.get("legal_name", "-") and base == Profile(party=base.party):
            del changes["legal_name"]  # called as it is called here, as nobody has said otherwise
        told: set[str] = set()
        while True:  # each fault is told with the next ones: what is wrong is left out, and the rest looked at again
            try:
                return profiles.revise_profile(base, changes) if changes else base
            except Invalid as error:
                if error.field in told:
                    return base
                told.add(error.field)
                self._note(row, error.field, str(error))
                if error.field not in changes:
                    return base
                del changes[error.field]

    def _write(self, wanted: Sequence[_Wanted], known: Mapping[str, _Known]) -> list[Done]:
        """Write what the rows want, a statement for many where they are new; rows that the books refuse are faults too."""
        session = self._session
        new = [one for one in wanted if one.tenant.id not in known]
        store.insert_tenants(session, [one.tenant for one in new])
        moving = [one.tenant.id for one in wanted if one.tenant.id in known and one.plan is not None]
        accounts.lock(session, [*(one.tenant.id for one in new), *moving])  # opens those of the new ones
        plans.subscribe_new(session, {one.tenant.id: version for one in new if (version := self._versions.get(one.plan or "")) is not None}, self._now_us)
        store.set_profiles(session, {one.tenant.id: one.profile for one in wanted if one.profile is not None})
        return [self._finish(one, known.get(one.tenant.id)) for one in wanted]

    def _finish(self, one: _Wanted, known: _Known | None) -> Done:
        tenant = one.tenant
        action: Literal["create", "update", "none"] = "create"
        if known is not None:
            action = "none" if (one.profile, one.plan, tenant) == (None, None, known.tenant) else "update"
            if tenant.name != known.tenant.name:
                store.set_name(self._session, tenant.id, tenant.name)
            if tenant.state != known.tenant.state:
                store.set_state(self._session, tenant.id, tenant.state)
            if one.plan is not None:
                self._move(one.row, tenant, one.plan)
        self._note_change(one, known)
        return Done(line=one.row.line, id=tenant.id, action=action)

    def _note_change(self, one: _Wanted, known: _Known | None) -> None:
        before = None if known is None else {"tenant": known.tenant, "profile": known.profile}
        profile = one.profile if one.profile is not None or known is None else known.profile
        after = {"tenant": one.tenant, "profile": profile} | ({"plan": one.plan} if known is None else {})
        self.changes.append(Deed("tenant.create" if known is None else "tenant.change", one.tenant.id, one.tenant.id, before, after))

    def _move(self, row: Row, tenant: Tenant, plan: str) -> None:
        try:
            ensure_allowance(self._session, tenant.id, self._now_us, activate=False)
            subscriptions.move(self._session, tenant, plan, self._now_us)
        except BillingError as error:
            self._note(row, "plan", f"plan: {error}")

    def _check(self, row: Row, field: str, check: Callable[[], Any]) -> Any:
        try:
            return check()
        except Invalid as error:
            self._note(row, field, str(error))
            return None

    def _note(self, row: Row, field: str, message: str) -> None:
        self._faults.append(Fault(line=row.line, id=row.cells["id"][:80], field=field, message=message))
