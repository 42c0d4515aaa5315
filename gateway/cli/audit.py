"""`weir audit`: who changed what, when, from what to what; and the proof that nobody touched the log."""

import json
from collections.abc import Collection
from typing import Annotated, Any

import typer

from billing.audit.chain import Entry
from billing.audit.difference import differences
from billing.money import format_credits
from billing.operations import audit
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, printable, write_one, write_rows
from gateway.wire.instants import parse
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="The audit log: who changed what, and whether anybody touched it.")
COLUMNS = ("seq", "at", "actor", "action", "tenant", "subject", "before", "after", "prev_hash", "hash")
BRIEF = ("seq", "at", "actor", "action", "tenant", "subject", "change")
SAID_MAX = 4  # differences of an entry in a list
ASIDE = ("id", "tenant_id", "version_id", "created_us")  # fields that a list leaves out: its other columns say them


@app.command("list")
def index(
    tenant: Annotated[str | None, typer.Option("--tenant", "-t", help="of one tenant; left out: all, and what concerns none")] = None,
    *,
    actor: Annotated[str | None, typer.Option("--actor", help="by one: key:KEY_ID, cli:USER, or weir for the gateway itself")] = None,
    action: Annotated[str | None, typer.Option("--action", help="one, like grant.add, or all of a noun, like grant")] = None,
    since: Annotated[str | None, typer.Option("--since", help="from 2027-01-01 (midnight UTC), or from an instant with its zone, on")] = None,
    before: Annotated[int | None, typer.Option("--before", help="the next page: entries before this number")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=audit.LIST_MAX, help="entries on a page")] = 50,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """List changes, newest first. JSON and CSV have the whole state before and after."""
    with open_books(config) as books:
        found = audit.list_entries(
            books.database,
            tenant_id=tenant,
            actor=actor,
            action=action,
            since_us=None if since is None else parse(since, "--since"),
            before=before,
            limit=limit,
        )
    write_rows([_row(entry, form) for entry in found], form, BRIEF if form is Format.table else COLUMNS, "no such changes")
    if len(found) == limit:
        typer.echo(f"older ones: --before {found[-1].seq}", err=True)


@app.command()
def show(
    seq: Annotated[int, typer.Argument(metavar="SEQ", help="an entry's number, as `weir audit list` has it")],
    *,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """Show one change in full: every field that differs."""
    with open_books(config) as books:
        entry = audit.get_entry(books.database, seq)
    row = _row(entry, form)
    if form is not Format.table:
        write_rows([row], form, COLUMNS)
        return
    write_one({column: row[column] for column in COLUMNS if column not in ("before", "after")})
    typer.echo("")
    for line in _said(entry):
        typer.echo(printable(line))


@app.command()
def verify(
    head: Annotated[str | None, typer.Option("--head", metavar="SEQ:HASH", help="a head that was noted earlier: shows whether the log was cut since")] = None,
    config: ConfigOption = None,
) -> None:
    """Walk the whole log and say which entry was changed, moved, removed or cut off; exit code 1 if any was. Prints the head: note it elsewhere."""
    with open_books(config) as books:
        verdict = audit.verify(books.database, head)
    for fault in verdict.faults:
        typer.echo(f"WRONG  {fault.says}")
    if verdict.omitted:
        typer.echo(f"WRONG  and {verdict.omitted:,} more")
    if not verdict.holds:
        typer.echo("weir: somebody changed the audit log outside Weir; keep the database, and compare it with a backup", err=True)
        raise typer.Exit(1)
    typer.echo(f"the chain holds: {verdict.entries:,} {'entry' if verdict.entries == 1 else 'entries'}, none changed, moved or missing")
    typer.echo(f"head, to note elsewhere and give to --head later: {verdict.head}")


def _row(entry: Entry, form: Format) -> dict[str, Any]:
    states = {"before": entry.before, "after": entry.after}
    if form is Format.json:
        states = {name: None if text is None else json.loads(text) for name, text in states.items()}
    said = _said(entry, ASIDE)
    more = f"; and {len(said) - SAID_MAX} more" if len(said) > SAID_MAX else ""
    return {
        "seq": entry.seq,
        "at": instant(entry.at_us),
        "actor": entry.actor,
        "action": entry.action,
        "tenant": entry.tenant_id,
        "subject": entry.subject,
        **states,
        "prev_hash": entry.prev_hash,
        "hash": entry.hash,
        "change": "; ".join(said[:SAID_MAX]) + more,
    }


def _said(entry: Entry, aside: Collection[str] = ()) -> list[str]:
    """Say what differs, a field each: what was only given or only taken away without an arrow, and without what had no value."""
    lines = []
    for field, old, new in differences(entry.before, entry.after):
        if field.rpartition(".")[2] in aside:
            continue
        name, was, becomes = _name(field), _value(field, old), _value(field, new)
        if entry.before is None:
            lines.append(f"{name}: {becomes}")
        elif entry.after is None:
            lines.append(f"{name}: was {was}")
        else:
            lines.append(f"{name}: {was} -> {becomes}")
    return lines


def _name(field: str) -> str:
    return field.removesuffix("_ncr").removesuffix("_us").replace("_", " ")


def _value(field: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and field.endswith("_ncr"):
        return f"{format_credits(value)} credits"
    if isinstance(value, int) and field.endswith("_us"):
        return instant(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
