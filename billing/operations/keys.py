"""Keys: issue (the secret is shown once), list, limit, revoke. Each function is one transaction."""

import secrets
from collections.abc import Callable, Iterable

import msgspec
from msgspec import UNSET, UnsetType
from sqlmodel import Session

from billing.audit.store import record
from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.operations.pages import Page, check_limit, cut
from billing.operations.projects import used_by
from billing.operations.tenants import require_open, require_tenant
from billing.tenants import store
from billing.tenants.keys import KeyHasher, hint_of, new_secret
from billing.tenants.tenant import KEY_KINDS, KEY_ROLES, Key, Project, check_ceiling, check_project

NAME_CHARS_MAX = 200


class IssuedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new key with its secret, for the only time: show it and forget it."""

    id: str
    secret: str
    key: Key


def issue_key(
    db: Database,
    hasher: KeyHasher,
    *,
    tenant_id: str | None = None,
    kind: str = "tenant",
    role: str | None = None,
    name: str = "",
    project: str | None = None,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    ceiling_ncr: int | None = None,
    expires_us: int | None = None,
    now_us: int,
    allowed: Callable[[Session], None] | None = None,
) -> IssuedKey:
    """Issue a key that calls models, an operator's (`kind="admin"`, without a tenant; by default an owner's), or one of a tenant's `staff`, with a `role`.

    Limits None means the plan's alone, ceiling None the tenant's credits. A project that the tenant has not yet is made. Raises `Invalid` (kind, a role
    that the kind has not, tenant missing or too much, limits below 1, a ceiling out of range, an expiry that has passed), `NotFound` (tenant), and what
    `allowed` raises, which is asked in the same transaction.
    """
    _check(kind, tenant_id, expires_us, now_us)
    role = _role_of(kind, role)
    _check_limits(requests_per_minute, tokens_per_minute)
    _check_share(kind, project, ceiling_ncr)
    if kind == "staff" and (requests_per_minute, tokens_per_minute) != (None, None):
        raise Invalid("requests_per_minute", "limits: a key of a tenant's staff calls no models; leave them out")
    if len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise Invalid("name", f"name: at most {NAME_CHARS_MAX} printable characters")
    secret = new_secret(kind)
    key = Key(
        id=f"key_{secrets.token_hex(8)}",
        kind=kind,
        tenant_id=tenant_id,
        name=name,
        hint=hint_of(secret),
        project=project or None,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        created_us=now_us,
        expires_us=expires_us,
        revoked_us=None,
        ceiling_ncr=ceiling_ncr,
        role=role,
    )
    with db.write() as session:
        store.note_change(session, tenant_id, now_us)
        if tenant_id is not None:
            require_open(session, tenant_id, now_us)
            if allowed is not None:
                allowed(session)
            made = Project(tenant_id=tenant_id, name=project or "", ceiling_ncr=None, created_us=now_us)
            if project and store.add_project(session, made):
                record(session, now_us, action="project.create", tenant_id=tenant_id, subject=project, before=None, after=made)
        store.insert_key(session, key, hasher.digest(secret))
        record(session, now_us, action="key.issue", tenant_id=tenant_id, subject=key.id, before=None, after=key)
    return IssuedKey(id=key.id, secret=secret, key=key)


def limit_key(
    db: Database,
    key_id: str,
    *,
    requests_per_minute: int | UnsetType | None = UNSET,
    tokens_per_minute: int | UnsetType | None = UNSET,
    ceiling_ncr: int | UnsetType | None = UNSET,
    now_us: int,
) -> Key:
    """Change a key's limits: a number sets one, None lifts it, what is left out stays. Raises `Invalid`, `NotFound`, and `Conflict` for a revoked key."""
    given = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute, "ceiling_ncr": ceiling_ncr}
    changes = {field: limit for field, limit in given.items() if not isinstance(limit, UnsetType)}
    if not changes:
        raise Invalid("limits", "limits: nothing to change; give requests or tokens a minute, or a ceiling")
    _check_limits(changes.get("requests_per_minute"), changes.get("tokens_per_minute"))
    with db.write() as session:
        store.note_change(session, require_key(session, key_id).tenant_id, now_us)
        found = require_key(session, key_id)
        if found.revoked_us is not None:
            raise Conflict(f"key `{key_id}` is revoked; its limits no longer matter")
        _check_share(found.kind, None, changes.get("ceiling_ncr"))
        store.set_key_limits(session, key_id, changes)
        limited = msgspec.structs.replace(found, **changes)
        record(session, now_us, action="key.limit", tenant_id=found.tenant_id, subject=key_id, before=found, after=limited)
    return limited


def revoke_key(db: Database, key_id: str, now_us: int, *, tenant_id: str | None = None) -> Key:
    """Revoke a key from now on, for good; with `tenant_id`, another tenant's is not found. Raises `NotFound`, and `Conflict` for one that is revoked."""
    with db.write() as session:
        store.note_change(session, require_key(session, key_id).tenant_id, now_us)
        found = require_key(session, key_id)
        if tenant_id is not None and found.tenant_id != tenant_id:
            raise NotFound("key", key_id)
        if found.revoked_us is not None:
            raise Conflict(f"key `{key_id}` is revoked already")
        store.revoke_key(session, key_id, now_us)
        revoked = msgspec.structs.replace(found, revoked_us=now_us)
        record(session, now_us, action="key.revoke", tenant_id=found.tenant_id, subject=key_id, before=found, after=revoked)
    return revoked


def get_key(db: Database, key_id: str) -> Key:
    """Return one key, also one that is revoked. Raises `NotFound`."""
    with db.read() as session:
        return require_key(session, key_id)


def has_key(db: Database, kind: str | None = None) -> bool:
    """Tell whether a key was ever issued, of one kind or of any. Costs the same however many there are."""
    with db.read() as session:
        return store.has_key(session, kind)


def list_keys(db: Database, tenant_id: str | None = None) -> list[Key]:
    """Return the keys of one tenant, or all of them and the admins', oldest first; revoked ones too. Raises `NotFound`."""
    with db.read() as session:
        if tenant_id is not None:
            require_tenant(session, tenant_id)
        return store.all_keys(session, tenant_id)


def page_keys(db: Database, *, limit: int, tenant_id: str | None = None, after: str = "", project: str | None = None, revoked: bool | None = None) -> Page[Key]:
    """Return a page of the keys of one tenant, or of all and the admins', oldest first; of one project, and those that are `revoked` or are not.

    Raises `Invalid` (limit) and `NotFound` (tenant, a key to go on after).
    """
    check_limit(limit)
    with db.read() as session:
        if tenant_id is not None:
            require_tenant(session, tenant_id)
        last = require_key(session, after) if after else None
        found = store.keys_page(session, limit=limit + 1, tenant_id=tenant_id, after=last, project=project, revoked=revoked)
    return cut(found, limit, lambda key: key.id)


def ceiling_use(db: Database, keys: Iterable[Key], now_us: int) -> dict[str, int | None]:
    """Return, by key id, what those of the keys that have a ceiling used of their tenants' credits in the period that is now (ncr)."""
    spans = [(key.tenant_id, f"key:{key.id}") for key in keys if key.ceiling_ncr is not None and key.tenant_id is not None]
    with db.read() as session:
        return {span.removeprefix("key:"): used for (_tenant_id, span), used in used_by(session, spans, now_us).items()}


def require_key(session: Session, key_id: str) -> Key:
    """Return one key in a session that is open. Raises `NotFound`."""
    found = store.get_key(session, key_id)
    if found is None:
        raise NotFound("key", key_id)
    return found


def _check(kind: str, tenant_id: str | None, expires_us: int | None, now_us: int) -> None:
    if kind not in KEY_KINDS:
        raise Invalid("kind", f"kind: `{kind}` is not one; write {' or '.join(KEY_KINDS)}")
    if kind != "admin" and tenant_id is None:
        raise Invalid("tenant_id", "tenant: a tenant's key needs one; name it, or issue an admin key")
    if kind == "admin" and tenant_id is not None:
        raise Invalid("tenant_id", "tenant: an admin key has none; leave it out")
    if expires_us is not None and expires_us <= now_us:
        raise Invalid("expires_us", "expires: this instant has passed; the key would never work")


def _role_of(kind: str, role: str | None) -> str | None:
    """Return the role of a key that is to be issued. Raises `Invalid` where the kind has not that role, or needs one."""
    if role is None and kind == "admin":
        return "owner"
    allowed = KEY_ROLES[kind]
    if role is None and not allowed:
        return None
    if not allowed:
        raise Invalid("role", "role: a key that calls models has none; leave it out, or issue one of kind staff (manager, member) or admin")
    if role not in allowed:
        said = "none is given" if role is None else f"`{role[:80]}` is not one"
        raise Invalid("role", f"role: {said}; {'an admin' if kind == 'admin' else 'a staff'} key is one of {', '.join(allowed)}")
    return role


def _check_share(kind: str, project: str | None, ceiling_ncr: int | None) -> None:
    for field, given in (("project", bool(project)), ("ceiling", ceiling_ncr is not None)):
        if kind != "tenant" and given:
            what = "an admin key" if kind == "admin" else "a key of a tenant's staff"
            raise Invalid(field, f"{field}: {what} has none, it uses no credits; leave it out")
    if project:
        check_project(project)
    check_ceiling(ceiling_ncr)


def _check_limits(requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
    for field, limit in (("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute)):
        if limit is not None and not 1 <= limit <= 2**31 - 1:
            raise Invalid(field, f"{field}: {limit} is not a limit; at least 1, or leave it out for none (to stop a key, revoke it)")
