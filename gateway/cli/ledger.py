"""`weir ledger`: whether the books agree with the facts, and a tenant's account as finance reads it."""

import json
from typing import Annotated, Any

import msgspec
import typer

from billing.ledger.postings import CONSUMED, DEBT, EXCESS, EXPIRED, GRANT_PREFIX, ISSUED, OVERAGE
from billing.ledger.store import Transaction
from billing.money import format_credits
from billing.operations import ledger
from billing.operations.ledger import GrantAccount, Leased, Statement
from billing.usage.proofs import Proof
from gateway.cli.books import ConfigOption, open_books
from gateway.cli.render import Format, FormatOption, as_csv, printable, write_one, write_rows
from gateway.wire.instants import parse
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="The ledger: whether the books agree with the facts, and a tenant's account.")

WHAT = {"issue": "credits given", "usage": "usage", "rollover": "carried over", "void": "taken back", "expire": "ended unused"}
ACCOUNTS = {
    CONSUMED: "used by requests",
    DEBT: "debt",
    EXCESS: "past the credits, not owed",
    OVERAGE: "past the credits, to be invoiced",
    ISSUED: "issued",
    EXPIRED: "ended unused",
}
GRANTS = ("grant", "kind", "state", "for", "credits", "used", "carried_over", "expired", "taken_back", "left", "effective", "expires")
LEASES = ("process", "host", "pid", "for", "credits", "until")
ENTRIES = ("transaction", "time", "what", "account", "credits", "out_of", "reference")
NO_END_US = 2**53  # nothing ends the grants behind it
PROOFS = ("number", "says", "ok", "checked", "differences", "more_differences", "notes")


@app.command()
def verify(form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """Prove the books' invariants by number, in one snapshot, also while the gateway runs; exit code 1 if one does not hold."""
    with open_books(config) as books:
        proofs = ledger.verify(books.database, books.now_us, books.settings.data_dir / "journal")
    if form is Format.table:
        for proof in proofs:
            _write_proof(proof)
    else:
        write_rows([_proof(proof) for proof in proofs], form, PROOFS)
    wrong = sum(len(proof.differences) + proof.omitted for proof in proofs)
    if wrong:
        numbers = ", ".join(proof.number for proof in proofs if not proof.holds)
        typer.echo(f"weir: {wrong} difference{'s' if wrong > 1 else ''} ({numbers}): damage or a bug; keep the database and report it", err=True)
        raise typer.Exit(1)
    if form is Format.table:
        typer.echo("the books agree: every transaction sums to 0, and usage, grants and ledger say the same")


@app.command()
def show(
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="whose account")],
    *,
    since: Annotated[str | None, typer.Option("--from", help="transactions from 2027-01-01 (midnight UTC), or from an instant with its zone, on")] = None,
    until: Annotated[str | None, typer.Option("--to", help="transactions before this instant")] = None,
    before: Annotated[int | None, typer.Option("--before", help="the next page: transactions before this number")] = None,
    limit: Annotated[int, typer.Option("--limit", help="transactions on a page")] = 20,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """Show a tenant's account: its grants and what became of them, its debt, what is set aside for which process, and the transactions, newest first."""
    with open_books(config) as books:
        found = ledger.statement(
            books.database,
            tenant,
            now_us=books.now_us,
            from_us=None if since is None else parse(since, "--from"),
            to_us=None if until is None else parse(until, "--to"),
            before=before,
            limit=limit,
        )
    found = msgspec.structs.replace(found, leases=tuple(one for one in found.leases if one.amount_ncr))  # the others have nothing to tell
    entries = [row for one in found.transactions for row in _entries(one)]
    if form is Format.json:
        parts = {"grants": [_grant(one) for one in found.grants], "leases": [_lease(one) for one in found.leases], "entries": entries}
        typer.echo(json.dumps(_figures(found) | parts | {"more": found.more}, ensure_ascii=False, indent=2))
    elif form is Format.csv:
        typer.echo(as_csv(entries, ENTRIES), nl=False)
    else:
        _write(found, entries)
    if found.more:
        typer.echo(f"older ones: --before {found.transactions[-1].id}", err=True)


def _write(found: Statement, entries: list[dict[str, Any]]) -> None:
    write_one(_figures(found))
    typer.echo("\nGrants")
    grants = [_grant(one) for one in found.grants]
    write_rows(grants, Format.table, [name for name in GRANTS if name not in ("for", "carried_over") or any(row[name] not in (None, "0") for row in grants)])
    if found.leases:
        typer.echo("\nSet aside for processes")
        write_rows([_lease(one) for one in found.leases], Format.table, LEASES)
    typer.echo("\nTransactions, the newest first")
    write_rows(entries, Format.table, ENTRIES, "none in this span", brief=ENTRIES[:-1])


def _figures(found: Statement) -> dict[str, Any]:
    return {
        "tenant": found.tenant_id,
        "as_of": instant(found.at_us),
        "credits_left": format_credits(found.left_ncr - found.debt_ncr),
        "of_which_set_aside": format_credits(found.leased_ncr),
        "debt": format_credits(found.debt_ncr),
        "paid_by_grants": format_credits(found.consumed_ncr),
        "past_the_credits_not_owed": format_credits(found.excess_ncr),
        "past_the_credits_to_invoice": format_credits(found.overage_ncr),
    }


def _grant(one: GrantAccount) -> dict[str, Any]:
    return {
        "grant": one.id,
        "kind": one.kind,
        "state": one.state,
        "for": one.scope,
        "credits": format_credits(one.amount_ncr),
        "used": format_credits(one.used_ncr),
        "carried_over": format_credits(one.rolled_over_ncr),
        "expired": format_credits(one.expired_ncr),
        "taken_back": format_credits(one.voided_ncr),
        "left": format_credits(one.left_ncr),
        "effective": instant(one.effective_us),
        "expires": instant(one.expires_us) or None,
    }


def _lease(one: Leased) -> dict[str, Any]:
    return {
        "process": one.process,
        "host": one.host,
        "pid": one.pid,
        "for": one.purse or "all requests",
        "credits": format_credits(one.amount_ncr),
        "until": instant(one.valid_until_us) if one.valid_until_us < NO_END_US else None,
    }


def _entries(one: Transaction) -> list[dict[str, Any]]:
    """Write a transaction as lines: where credits went, and out of what."""
    return [
        {
            "transaction": one.id,
            "time": instant(one.at_us),
            "what": WHAT.get(one.kind, one.kind),
            "account": _account(entry.account),
            "credits": format_credits(entry.amount_ncr) if entry.amount_ncr > 0 else None,
            "out_of": format_credits(-entry.amount_ncr) if entry.amount_ncr < 0 else None,
            "reference": one.idem_key,
        }
        for entry in one.entries
    ]


def _account(name: str) -> str:
    return f"grant {name.removeprefix(GRANT_PREFIX)}" if name.startswith(GRANT_PREFIX) else ACCOUNTS.get(name, name)


def _proof(proof: Proof) -> dict[str, Any]:
    return {
        "number": proof.number,
        "says": proof.says,
        "ok": proof.holds,
        "checked": dict(proof.checked),
        "differences": proof.differences,
        "more_differences": proof.omitted,
        "notes": proof.notes,
    }


def _write_proof(proof: Proof) -> None:
    checked = ", ".join(f"{count:,} {what}" for what, count in proof.checked.items()) or "nothing to look at"
    typer.echo(f"{proof.number:>7}  {'ok   ' if proof.holds else 'WRONG'}  {proof.says} ({checked})")
    for difference in proof.differences:
        typer.echo(f"         - {printable(difference)}")
    if proof.omitted:
        typer.echo(f"         - and {proof.omitted:,} more")
    for note in proof.notes:
        typer.echo(f"         note: {printable(note)}")
