"""`weir key`: API keys. A secret is printed once, when its key is issued; the books keep only what the pepper makes of it."""

from typing import Annotated, Any

import typer
from msgspec import UNSET

from billing.errors import Invalid
from billing.money import format_credits
from billing.operations import keys
from billing.tenants.tenant import Key
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.limits import parse_ceiling, parse_limit
from gateway.cli.render import Format, FormatOption, YesOption, confirm, printable, write_rows
from gateway.wire.instants import parse
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="API keys: issue, list, limit, revoke.")
BRIEF = ("id", "tenant", "role", "name", "secret", "expires")
COLUMNS = (
    "id", "kind", "role", "tenant", "name", "secret", "project", "requests_per_minute", "tokens_per_minute", "ceiling", "used", "created", "expires", "revoked",
)  # fmt: skip


@app.command()
def issue(
    tenant: Annotated[str | None, typer.Argument(metavar="TENANT", help="whose key; left out with --admin")] = None,
    *,
    name: Annotated[str, typer.Option("--name", help="what it is for")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="an admin's key, for /admin and /finance")] = False,
    role: Annotated[
        str | None, typer.Option("--role", help="with --admin: owner (left out), admin, finance, viewer; with TENANT: manager or member, for /tenant")
    ] = None,
    project: Annotated[str | None, typer.Option("--project", help="the part of the tenant it belongs to; made if not there")] = None,
    rpm: Annotated[int | None, typer.Option("--rpm", min=1, help="requests a minute, of this key")] = None,
    tpm: Annotated[int | None, typer.Option("--tpm", min=1, help="tokens a minute, of this key")] = None,
    ceiling: Annotated[str | None, typer.Option("--ceiling", help="the most of the tenant's credits it may use in a period; left out: all")] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="2027-01-01 (midnight UTC), or an instant with its zone")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="print the secret and nothing else")] = False,
    config: ConfigOption = None,
) -> None:
    """Issue a key and print its secret, for the only time."""
    if admin == (tenant is not None):
        raise Invalid("tenant", "name the tenant whose key it is: weir key issue TENANT, or issue an admin's: weir key issue --admin")
    with open_books(config) as books:
        issued = keys.issue_key(
            books.database,
            books.hasher(),
            tenant_id=tenant,
            kind="admin" if admin else "tenant" if role is None else "staff",
            role=role,
            name=name,
            project=project,
            requests_per_minute=rpm,
            tokens_per_minute=tpm,
            ceiling_ncr=None if ceiling is None else parse_ceiling(ceiling),
            expires_us=None if expires is None else parse(expires, "--expires"),
            now_us=books.now_us,
        )
    typer.echo(issued.secret)
    if not quiet:
        typer.echo(f"{issued.id}: keep the secret above now, it cannot be shown again. Revoke it with: weir key revoke {issued.id}", err=True)


@app.command("list")
def index(
    tenant: Annotated[str | None, typer.Argument(metavar="TENANT", help="whose keys; left out: all")] = None,
    revoked: Annotated[bool, typer.Option("--all", help="revoked keys too")] = False,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """List keys, oldest first."""
    with open_books(config) as books:
        found = [key for key in keys.list_keys(books.database, tenant) if revoked or key.revoked_us is None]
        used = keys.ceiling_use(books.database, found, books.now_us)
    rows = [_row(key, used.get(key.id)) for key in found]
    brief = [*BRIEF, *(("ceiling", "used") if used else ()), *(("revoked",) if revoked else ())]
    write_rows(rows, form, COLUMNS, "no keys; issue one: weir key issue TENANT --name NAME", brief=brief)


@app.command()
def limit(
    key: Annotated[str, typer.Argument(metavar="KEY_ID")],
    *,
    ceiling: Annotated[str | None, typer.Option("--ceiling", help="the most of its tenant's credits it may use in a period; or none")] = None,
    rpm: Annotated[str | None, typer.Option("--rpm", help="requests a minute; or none")] = None,
    tpm: Annotated[str | None, typer.Option("--tpm", help="tokens a minute; or none")] = None,
    config: ConfigOption = None,
) -> None:
    """Change a key's limits; what is left out stays. A running gateway follows within a second."""
    if ceiling is None and rpm is None and tpm is None:
        raise Invalid("limits", f"nothing to change; for example: weir key limit {key} --ceiling 100")
    with open_books(config) as books:
        keys.limit_key(
            books.database,
            key,
            requests_per_minute=UNSET if rpm is None else parse_limit(rpm, "--rpm"),
            tokens_per_minute=UNSET if tpm is None else parse_limit(tpm, "--tpm"),
            ceiling_ncr=UNSET if ceiling is None else parse_ceiling(ceiling),
            now_us=books.now_us,
        )
    said = [f"{what} {value}" for what, value in (("ceiling", ceiling), ("requests a minute", rpm), ("tokens a minute", tpm)) if value is not None]
    typer.echo(f"key {key}: {', '.join(said)}")


@app.command()
def revoke(key: Annotated[str, typer.Argument(metavar="KEY_ID")], yes: YesOption = False, config: ConfigOption = None) -> None:
    """Revoke a key for good. A running gateway refuses it within a second."""
    with open_books(config) as books:
        found = keys.get_key(books.database, key)
        if found.revoked_us is None:
            confirm(f"Revoke {_described(found)} for good?", yes)
        keys.revoke_key(books.database, key, books.now_us)
    typer.echo(f"key {key} is revoked")


def _described(key: Key) -> str:
    return f"key `{key.id}`{f' (`{printable(key.name)}`)' if key.name else ''} of {key.tenant_id or 'an admin'}"


def _row(key: Key, used_ncr: int | None) -> dict[str, Any]:
    return {
        "id": key.id,
        "kind": key.kind,
        "role": key.role,
        "tenant": key.tenant_id,
        "name": key.name,
        "secret": f"...{key.hint}",
        "project": key.project,
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "ceiling": None if key.ceiling_ncr is None else format_credits(key.ceiling_ncr),
        "used": None if used_ncr is None else format_credits(used_ncr),
        "created": instant(key.created_us),
        "expires": instant(key.expires_us) or None,
        "revoked": instant(key.revoked_us) or None,
    }
