"""`weir key`: API keys. A secret is printed once, when its key is issued; the books keep only what the pepper makes of it."""

from typing import Annotated, Any

import typer

from billing.errors import Invalid, NotFound
from billing.operations import keys
from billing.tenants.tenant import Key
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, YesOption, confirm, printable, write_rows
from gateway.wire.instants import parse
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="API keys: issue, list, revoke.")
BRIEF = ("id", "tenant", "name", "secret", "expires")
COLUMNS = ("id", "kind", "tenant", "name", "secret", "project", "requests_per_minute", "tokens_per_minute", "created", "expires", "revoked")


@app.command()
def issue(
    tenant: Annotated[str | None, typer.Argument(metavar="TENANT", help="whose key; left out with --admin")] = None,
    *,
    name: Annotated[str, typer.Option("--name", help="what it is for")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="an admin's key, for /admin and /finance")] = False,
    project: Annotated[str | None, typer.Option("--project", help="a name to group usage by")] = None,
    rpm: Annotated[int | None, typer.Option("--rpm", min=1, help="requests a minute, of this key")] = None,
    tpm: Annotated[int | None, typer.Option("--tpm", min=1, help="tokens a minute, of this key")] = None,
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
            kind="admin" if admin else "tenant",
            name=name,
            project=project,
            requests_per_minute=rpm,
            tokens_per_minute=tpm,
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
        found = keys.list_keys(books.database, tenant)
    rows = [_row(key) for key in found if revoked or key.revoked_us is None]
    write_rows(rows, form, COLUMNS, "no keys; issue one: weir key issue TENANT --name NAME", brief=(*BRIEF, "revoked") if revoked else BRIEF)


@app.command()
def revoke(key: Annotated[str, typer.Argument(metavar="KEY_ID")], yes: YesOption = False, config: ConfigOption = None) -> None:
    """Revoke a key for good. A running gateway refuses it within a second."""
    with open_books(config) as books:
        found = next((known for known in keys.list_keys(books.database) if known.id == key), None)
        if found is None:
            raise NotFound("key", key)
        if found.revoked_us is None:
            confirm(f"Revoke {_described(found)} for good?", yes)
        keys.revoke_key(books.database, key, books.now_us)
    typer.echo(f"key {key} is revoked")


def _described(key: Key) -> str:
    return f"key `{key.id}`{f' (`{printable(key.name)}`)' if key.name else ''} of {key.tenant_id or 'an admin'}"


def _row(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "kind": key.kind,
        "tenant": key.tenant_id,
        "name": key.name,
        "secret": f"...{key.hint}",
        "project": key.project,
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "created": instant(key.created_us),
        "expires": instant(key.expires_us) or None,
        "revoked": instant(key.revoked_us) or None,
    }
