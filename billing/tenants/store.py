"""Queries over tenants, projects, keys and the change feed. Takes a session, never commits.

`note_change` is the first thing an admin write does: the lock it takes serialises admin writes until they commit, so sequence numbers
become visible in order, and a gateway that reads `seq > last` never misses one. Ids counted as max + 1 lean on the same lock.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, bindparam, delete, func, insert, literal, or_, text, tuple_, union_all, update
from sqlalchemy import select as columns
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from billing.tenants.profile import Party, Profile
from billing.tenants.table import ApiKeyRow, ChangeRow, ProfileRow, ProjectRow, TenantRow
from billing.tenants.tenant import CLOSED, Change, Key, Project, Tenant

_TENANT: Table = TenantRow.metadata.tables["tenant"]
_PROFILE: Table = TenantRow.metadata.tables["tenant_profile"]
TENANT: Table = TenantRow.metadata.tables["tenant"]  # for joins by rooms that stand above
_KEY: Table = ApiKeyRow.metadata.tables["api_key"]
_PROJECT: Table = ApiKeyRow.metadata.tables["project"]
_ACTIVE_KEYS = (
    columns(_KEY.c.id, _KEY.c.created_us)
    .where(
        _KEY.c.tenant_id == bindparam("tenant"),
        _KEY.c.kind == "tenant",  # those of its staff call no models, and are no seats
        or_(_KEY.c.revoked_us.is_(None), _KEY.c.revoked_us > bindparam("now")),
        or_(_KEY.c.expires_us.is_(None), _KEY.c.expires_us > bindparam("now")),
    )
    .order_by(_KEY.c.id)
)
_CEILINGS = union_all(  # built once: it runs whenever an account is loaded
    columns((literal("key:") + _KEY.c.id).label("span"), _KEY.c.ceiling_ncr).where(
        _KEY.c.tenant_id == bindparam("tenant"), _KEY.c.ceiling_ncr.is_not(None), _KEY.c.revoked_us.is_(None)
    ),
    columns((literal("project:") + _PROJECT.c.name).label("span"), _PROJECT.c.ceiling_ncr).where(
        _PROJECT.c.tenant_id == bindparam("tenant"), _PROJECT.c.ceiling_ncr.is_not(None)
    ),
)

TENANT_SORTS = {"id": ("id",), "name": ("name", "id"), "created": ("created_us", "id")}
_BATCH = 1000  # ids a statement
_PARTY = ("name", "country", "tax_id", "email")
_PAPER = tuple(field for field in Profile.__struct_fields__ if field != "party")

ADMIN_LOCK = 0x5745495200000002  # PostgreSQL advisory lock held by an admin write until it commits


def note_change(session: Session, tenant_id: str | None, now_us: int) -> int:
    """Append to the change feed and hold the admin lock until the transaction ends; return the sequence number."""
    hold_admin_lock(session)
    seq = latest_change(session) + 1
    session.add(ChangeRow(seq=seq, tenant_id=tenant_id, at_us=now_us))
    session.flush()
    return seq


def hold_admin_lock(session: Session) -> None:
    """Hold the admin lock until the transaction ends; who has it already goes on. On SQLite a write transaction is alone by itself."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADMIN_LOCK})


def latest_change(session: Session) -> int:
    """Return the highest sequence number of the change feed; 0 before the first change."""
    return session.exec(select(func.max(ChangeRow.seq))).one() or 0


def changes_since(session: Session, seq: int, limit: int = 1000) -> list[Change]:
    """Return the changes after `seq`, oldest first, at most `limit`."""
    query = select(ChangeRow).where(ChangeRow.seq > seq).order_by(col(ChangeRow.seq)).limit(limit)
    return [Change(row.seq, row.tenant_id, row.at_us) for row in session.exec(query)]


def changed_us(session: Session) -> int | None:
    """Return the instant of the newest change; None before the first."""
    return session.exec(select(ChangeRow.at_us).order_by(col(ChangeRow.seq).desc()).limit(1)).first()


def prune_changes(session: Session, before_us: int, *, keep: int, limit: int) -> int:
    """Forget changes before an instant, the oldest first, at most `limit`, and none of the newest `keep` (at least 1: numbers go on from it); return how many.

    What goes is one run of numbers from the oldest on, so that whoever missed some finds a gap before the first that is left.
    """
    oldest = select(ChangeRow.seq, ChangeRow.at_us).where(ChangeRow.seq <= latest_change(session) - max(1, keep)).order_by(col(ChangeRow.seq)).limit(limit)
    old = [seq for seq, _at_us in takewhile(lambda row: row[1] < before_us, session.exec(oldest))]
    if old:
        session.execute(delete(ChangeRow).where(col(ChangeRow.seq) <= old[-1]))
    return len(old)


def insert_tenant(session: Session, tenant: Tenant) -> None:
    """Insert a tenant; the caller has seen that its id is free."""
    session.add(TenantRow(**{field: getattr(tenant, field) for field in Tenant.__struct_fields__}))
    session.flush()


def insert_tenants(session: Session, tenants: Sequence[Tenant]) -> None:
    """Insert tenants; the caller has seen that their ids are free."""
    if tenants:
        session.connection().execute(insert(_TENANT), [{field: getattr(tenant, field) for field in Tenant.__struct_fields__} for tenant in tenants])


def get_tenant(session: Session, tenant_id: str) -> Tenant | None:
    """Return one tenant, or None."""
    row = session.get(TenantRow, tenant_id)
    return None if row is None else _tenant(row)


def all_tenants(session: Session) -> list[Tenant]:
    """Return every tenant, by id."""
    return [_tenant(row) for row in session.exec(select(TenantRow).order_by(TenantRow.id))]


def tenants_page(
    session: Session,
    *,
    limit: int,
    now_us: int,
    sort: str = "id",
    after: Sequence[Any] = (),
    state: str | None = None,
    text: str = "",
    among: Select[Any] | None = None,
) -> list[Tenant]:
    """Return at most `limit` tenants sorted by `id`, `name` or `created` (then by id), downwards with a - before it.

    `after`: the sorted fields (`TENANT_SORTS`) of the tenant that the page follows; empty: from the first on.
    `state` as at `now_us`; `text` is part of an id or a name, in any case; `among` selects the ids to choose from.
    """
    query = select(TenantRow).where(*_tenants_where(state, text, now_us))
    if among is not None:
        query = query.where(col(TenantRow.id).in_(among))
    down, fields = sort.startswith("-"), TENANT_SORTS[sort.removeprefix("-")]
    columns_ = [getattr(TenantRow, field) for field in fields]
    if after:
        here, there = tuple_(*columns_), tuple_(*(literal(value) for value in after))
        query = query.where(here < there if down else here > there)
    return [_tenant(row) for row in session.exec(query.order_by(*(column.desc() if down else column for column in columns_)).limit(limit))]


def tenants_named(session: Session, tenant_ids: Iterable[str]) -> dict[str, Tenant]:
    """Return those of these tenants that exist, by id."""
    return {row.id: _tenant(row) for ids in _batches(sorted(tenant_ids)) for row in session.exec(select(TenantRow).where(col(TenantRow.id).in_(ids)))}


def set_state(session: Session, tenant_id: str, state: str) -> None:
    """Make a tenant active or suspended."""
    session.execute(update(TenantRow).where(col(TenantRow.id) == tenant_id).values(state=state))


def set_name(session: Session, tenant_id: str, name: str) -> None:
    """Call a tenant otherwise."""
    session.execute(update(TenantRow).where(col(TenantRow.id) == tenant_id).values(name=name))


def set_closing(session: Session, tenant_id: str, closes_us: int | None) -> None:
    """Let a tenant be closed from an instant on; None takes that back."""
    session.execute(update(TenantRow).where(col(TenantRow.id) == tenant_id).values(closes_us=closes_us))


def closing_by(session: Session, by_us: int, limit: int) -> list[str]:
    """Return tenants that are closed by an instant while their keys are not revoked yet, at most `limit`. Costs what it finds."""
    query = select(TenantRow.id).where(TenantRow.state != CLOSED, col(TenantRow.closes_us) <= by_us)
    return list(session.exec(query.order_by(col(TenantRow.closes_us), TenantRow.id).limit(limit)))


def finish_closing(session: Session, tenant_id: str) -> int:
    """Revoke the keys of a tenant that is closed, as of that instant, and return how many still worked then."""
    closes_us = columns(_TENANT.c.closes_us).where(_TENANT.c.id == tenant_id).scalar_subquery()
    still = (_KEY.c.tenant_id == tenant_id, or_(_KEY.c.revoked_us.is_(None), _KEY.c.revoked_us > closes_us))
    revoked = session.connection().execute(update(_KEY).where(*still).values(revoked_us=closes_us))
    session.execute(update(TenantRow).where(col(TenantRow.id) == tenant_id).values(state=CLOSED))
    return revoked.rowcount


def insert_key(session: Session, key: Key, digest: bytes) -> None:
    """Insert a key under the digest of its secret."""
    session.add(ApiKeyRow(digest=digest, **{field: getattr(key, field) for field in Key.__struct_fields__}))
    session.flush()


def get_key(session: Session, key_id: str) -> Key | None:
    """Return one key, or None."""
    row = session.get(ApiKeyRow, key_id, populate_existing=True)
    return None if row is None else _key(row)


def has_key(session: Session, kind: str | None = None) -> bool:
    """Tell whether a key was ever issued, of one kind or of any."""
    query = select(ApiKeyRow.id).limit(1)
    if kind == "admin":  # the index on tenants finds those at once, however many others there are
        query = query.where(col(ApiKeyRow.tenant_id).is_(None))
    return session.exec(query if kind is None else query.where(ApiKeyRow.kind == kind)).first() is not None


def key_by_digest(session: Session, digest: bytes) -> Key | None:
    """Return the key whose secret has this digest, also one that is revoked or expired, or None."""
    row = session.exec(select(ApiKeyRow).where(ApiKeyRow.digest == digest)).first()
    return None if row is None else _key(row)


def all_keys(session: Session, tenant_id: str | None = None) -> list[Key]:
    """Return every key, of one tenant or of everybody and the admins, oldest first."""
    query = select(ApiKeyRow).order_by(col(ApiKeyRow.created_us), ApiKeyRow.id)
    return [_key(row) for row in session.exec(query if tenant_id is None else query.where(ApiKeyRow.tenant_id == tenant_id))]


def keys_page(
    session: Session, *, limit: int, tenant_id: str | None = None, after: Key | None = None, project: str | None = None, revoked: bool | None = None
) -> list[Key]:
    """Return at most `limit` keys after one of them, oldest first: of one tenant or of everybody, of one project, those that are `revoked` or are not."""
    query = select(ApiKeyRow)
    if tenant_id is not None:
        query = query.where(ApiKeyRow.tenant_id == tenant_id)
    if project is not None:
        query = query.where(ApiKeyRow.project == project)
    if revoked is not None:
        query = query.where(col(ApiKeyRow.revoked_us).is_not(None) if revoked else col(ApiKeyRow.revoked_us).is_(None))
    if after is not None:
        query = query.where(tuple_(col(ApiKeyRow.created_us), col(ApiKeyRow.id)) > tuple_(literal(after.created_us), literal(after.id)))
    return [_key(row) for row in session.exec(query.order_by(col(ApiKeyRow.created_us), ApiKeyRow.id).limit(limit))]


def active_keys(session: Session, tenant_id: str, now_us: int) -> list[tuple[str, int]]:
    """Return (id, created_us) of a tenant's keys that call models and are neither revoked nor expired at an instant, by id."""
    rows = session.connection().execute(_ACTIVE_KEYS, {"tenant": tenant_id, "now": now_us})
    return [(row.id, row.created_us) for row in rows]


def revoke_key(session: Session, key_id: str, now_us: int) -> None:
    """Revoke a key from now on; one that is revoked keeps its first instant."""
    session.execute(update(ApiKeyRow).where(col(ApiKeyRow.id) == key_id, col(ApiKeyRow.revoked_us).is_(None)).values(revoked_us=now_us))


def set_key_limits(session: Session, key_id: str, limits: Mapping[str, int | None]) -> None:
    """Write some of a key's `requests_per_minute`, `tokens_per_minute` and `ceiling_ncr`; None lifts one."""
    session.execute(update(ApiKeyRow).where(col(ApiKeyRow.id) == key_id).values(**limits))


def add_project(session: Session, project: Project) -> bool:
    """Insert a project; False when the tenant has one of that name, which is then left as it is."""
    new = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    values = {field: getattr(project, field) for field in Project.__struct_fields__}
    statement = new(ProjectRow).values(values).on_conflict_do_nothing(index_elements=["tenant_id", "name"]).returning(col(ProjectRow.name))
    return session.execute(statement).first() is not None


def get_project(session: Session, tenant_id: str, name: str) -> Project | None:
    """Return one project of a tenant, or None."""
    row = session.get(ProjectRow, (tenant_id, name), populate_existing=True)
    return None if row is None else _project(row)


def all_projects(session: Session, tenant_id: str | None = None) -> list[Project]:
    """Return the projects of one tenant, or all, by tenant and name."""
    query = select(ProjectRow).order_by(col(ProjectRow.tenant_id), col(ProjectRow.name))
    return [_project(row) for row in session.exec(query if tenant_id is None else query.where(ProjectRow.tenant_id == tenant_id))]


def projects_page(session: Session, tenant_id: str, *, limit: int, after: str = "") -> list[Project]:
    """Return at most `limit` projects of a tenant by name, after one."""
    query = select(ProjectRow).where(ProjectRow.tenant_id == tenant_id, ProjectRow.name > after)
    return [_project(row) for row in session.exec(query.order_by(ProjectRow.name).limit(limit))]


def keys_in_projects(session: Session, tenant_id: str, projects: Sequence[str]) -> dict[str, int]:
    """Count the keys of a tenant that are not revoked, by project; a project without any is left out."""
    query = (
        columns(_KEY.c.project, func.count().label("keys"))
        .where(_KEY.c.tenant_id == tenant_id, _KEY.c.project.in_(projects), _KEY.c.revoked_us.is_(None))
        .group_by(_KEY.c.project)
    )
    return {row.project: row.keys for row in session.connection().execute(query)}


def set_project_ceiling(session: Session, tenant_id: str, name: str, ceiling_ncr: int | None) -> None:
    """Give a project a ceiling; None lifts it."""
    where = (col(ProjectRow.tenant_id) == tenant_id, col(ProjectRow.name) == name)
    session.execute(update(ProjectRow).where(*where).values(ceiling_ncr=ceiling_ncr))


def ceilings(session: Session, tenant_id: str) -> dict[str, int]:
    """Return the most credits a period that keys ("key:<id>") and projects ("project:<name>") of a tenant may take, in ncr; those without are left out.

    One query. Revoked keys are left out too: nobody asks with them.
    """
    return {row.span: row.ceiling_ncr for row in session.connection().execute(_CEILINGS, {"tenant": tenant_id})}


def get_profile(session: Session, tenant: Tenant) -> Profile:
    """Return a tenant on paper; one that nobody has written is called by its name, or its id, and not taxed."""
    return _profile(tenant, session.get(ProfileRow, tenant.id, populate_existing=True))


def get_profiles(session: Session, tenants: Sequence[Tenant]) -> dict[str, Profile]:
    """Return tenants on paper, by id."""
    query = select(ProfileRow).execution_options(populate_existing=True)
    batches = _batches([tenant.id for tenant in tenants])
    rows = {row.tenant_id: row for ids in batches for row in session.exec(query.where(col(ProfileRow.tenant_id).in_(ids)))}
    return {tenant.id: _profile(tenant, rows.get(tenant.id)) for tenant in tenants}


def set_profile(session: Session, tenant_id: str, profile: Profile) -> None:
    """Write a tenant on paper, over what was written before: an issued invoice has its own copy."""
    session.merge(ProfileRow(**_profile_values(tenant_id, profile)))
    session.flush()


def set_profiles(session: Session, profiles: Mapping[str, Profile]) -> None:
    """Write many tenants on paper, a few statements for all."""
    for ids in _batches(list(profiles)):
        session.connection().execute(delete(_PROFILE).where(_PROFILE.c.tenant_id.in_(ids)))
        session.connection().execute(insert(_PROFILE), [_profile_values(tenant_id, profiles[tenant_id]) for tenant_id in ids])


def _tenants_where(state: str | None, text: str, now_us: int) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    closed = col(TenantRow.closes_us) <= now_us
    if state == CLOSED:
        where.append(closed)
    elif state is not None:
        where += [col(TenantRow.state) == state, or_(col(TenantRow.closes_us).is_(None), ~closed)]
    if text:
        where.append(or_(*(func.lower(column).contains(text.lower(), autoescape=True) for column in (col(TenantRow.id), col(TenantRow.name)))))
    return where


def _batches(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[first : first + _BATCH] for first in range(0, len(ids), _BATCH))


def _tenant(row: TenantRow) -> Tenant:
    return Tenant(**{field: getattr(row, field) for field in Tenant.__struct_fields__})


def _profile(tenant: Tenant, row: ProfileRow | None) -> Profile:
    if row is None:
        return Profile(party=Party(name=tenant.name or tenant.id))
    party = Party(address=tuple(row.address), **{field: getattr(row, field) for field in _PARTY})
    return Profile(party=party, **{field: getattr(row, field) for field in _PAPER})


def _profile_values(tenant_id: str, profile: Profile) -> dict[str, Any]:
    values = {field: getattr(profile.party, field) for field in _PARTY} | {field: getattr(profile, field) for field in _PAPER}
    return values | {"tenant_id": tenant_id, "address": list(profile.party.address)}


def _key(row: ApiKeyRow) -> Key:
    return Key(**{field: getattr(row, field) for field in Key.__struct_fields__})


def _project(row: ProjectRow) -> Project:
    return Project(**{field: getattr(row, field) for field in Project.__struct_fields__})
