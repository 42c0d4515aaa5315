"""Versions of prices, of rates and of costs alike: propose, look, publish or withdraw. Each function is one transaction.

What is published begins now or later and is never changed; what is withdrawn is kept. Where several versions begin at one instant, the
one published last applies.
"""

from collections.abc import Iterable, Sequence

from sqlmodel import Session

from billing.audit.store import record
from billing.db import Database
from billing.errors import Conflict, Invalid, NotFound
from billing.rates import store
from billing.rates.cost import Cost
from billing.rates.timeline import Timeline
from billing.rates.version import NOTE_CHARS_MAX, Book, Change, Diff, Version, checked, compare
from billing.rating import PriceList, Rate
from billing.tenants.store import note_change

__all__ = ["Change", "Diff", "Version", "diff_version", "list_versions", "propose_version", "publish_version", "withdraw_version"]


def propose_version(db: Database, book: Book, changes: Iterable[Change], *, note: str = "", effective_us: int | None = None, now_us: int) -> Version:
    """Write down prices that are to apply from an instant on, or from when they are published; nothing applies yet.

    Raises `Invalid` for prices that cannot be rated by, a model twice, an instant that has passed, and what an open proposal says already.
    """
    full = checked(book, changes)
    _not_passed(effective_us, now_us)
    if len(note) > NOTE_CHARS_MAX or not note.isprintable():
        raise Invalid("note", f"note: at most {NOTE_CHARS_MAX} printable characters")
    with db.write() as session:
        note_change(session, None, now_us)
        for other in store.all_versions(session, book):
            if other.state == "proposed" and other.changes == full and other.effective_us == effective_us:
                raise Invalid("changes", f"changes: version {other.id} proposes the same already; publish it or withdraw it")
        version = store.insert_version(session, book=book, note=note, changes=full, effective_us=effective_us, now_us=now_us)
        record(session, now_us, action=f"{book}.propose", tenant_id=None, subject=str(version.id), before=None, after=version)
        return version


def publish_version(db: Database, book: Book, version_id: int, *, effective_us: int | None = None, now_us: int) -> Version:
    """Let a proposal apply from `effective_us` on, by default from the instant that it was proposed for, else from now.

    Raises `NotFound`, `Conflict` for one that is published or withdrawn, `Invalid` for an instant that has passed.
    """
    _not_passed(effective_us, now_us)
    with db.write() as session:
        note_change(session, None, now_us)
        version = _open_version(session, book, version_id)
        start_us = version.effective_us if effective_us is None else effective_us
        if start_us is not None and start_us < now_us:
            raise Invalid("effective_us", f"effective: the instant that version {version_id} was proposed for has passed; say from when it is to apply")
        start_us = now_us if start_us is None else start_us
        enter(session, version, action="publish", effective_us=start_us, now_us=now_us)
        published = store.get_version(session, version_id)
        assert published is not None  # it was just written
        return published


def withdraw_version(db: Database, book: Book, version_id: int, now_us: int) -> Version:
    """Give a proposal up; it is kept, and cannot be published any more. Raises `NotFound`, and `Conflict` for one that is published or withdrawn."""
    with db.write() as session:
        note_change(session, None, now_us)
        version = _open_version(session, book, version_id)
        store.mark_withdrawn(session, version_id, now_us)
        withdrawn = store.get_version(session, version_id)
        assert withdrawn is not None  # it was just written
        record(session, now_us, action=f"{book}.withdraw", tenant_id=None, subject=str(version_id), before=version, after=withdrawn)
        return withdrawn


def list_versions(db: Database, book: Book) -> list[Version]:
    """Return every version of a book, oldest first, whatever became of it."""
    with db.read() as session:
        return store.all_versions(session, book)


def diff_version(db: Database, book: Book, version_id: int, now_us: int) -> Diff:
    """Compare a version with what applies at its instant without it: for a proposal without an instant, now. Raises `NotFound`."""
    with db.read() as session:
        version = _version(session, book, version_id)
        at_us = now_us if version.effective_us is None else version.effective_us
        entries: Sequence[Rate | Cost] = store.all_rates(session) if book == "rates" else store.all_costs(session)
    first = min((entry.id for entry in entries if entry.version_id == version_id), default=None)
    others = [entry for entry in entries if first is None or entry.id < first]  # what was published later did not apply when this one was
    applies = Timeline[tuple[str, str], PriceList]((_key(entry), (entry.effective_us, entry.id), None if entry.ended else entry) for entry in others)
    return compare(version, at_us, lambda key: applies.find(key, at_us), lambda entry: entry.currency if isinstance(entry, Cost) else "")


def set_at_once(session: Session, book: Book, changes: Iterable[Change], *, effective_us: int | None, now_us: int) -> list[Rate] | list[Cost]:
    """Propose and publish in one step, within a transaction whose `note_change` was made. Raises `Invalid`.

    A cost may begin in the past where nobody had said one: it says what was unknown, and changes nothing that was computed.
    """
    full = checked(book, changes)
    if book == "costs" and effective_us is not None and effective_us < now_us:
        _fills_gaps(session, full, effective_us)
    else:
        _not_passed(effective_us, now_us)
    start_us = now_us if effective_us is None else effective_us
    version = store.insert_version(session, book=book, note="", changes=full, effective_us=start_us, now_us=now_us)
    return enter(session, version, action="set", effective_us=start_us, now_us=now_us)


def enter(session: Session, version: Version, *, action: str, effective_us: int, now_us: int) -> list[Rate] | list[Cost]:
    """Mark a proposal published and insert its entries, within a transaction whose `note_change` was made; record the prices before and after."""
    before = _applying(session, version, effective_us)
    store.mark_published(session, version.id, effective_us=effective_us, now_us=now_us)
    insert = store.insert_rates if version.book == "rates" else store.insert_costs
    made = insert(session, version.changes, effective_us=effective_us, version_id=version.id, now_us=now_us)
    after = {_named(entry): entry for entry in made}
    record(session, now_us, action=f"{version.book}.{action}", tenant_id=None, subject=str(version.id), before=before or None, after=after)
    return made


def _applying(session: Session, version: Version, at_us: int) -> dict[str, Rate | Cost]:
    """Return what applies to a version's models at an instant, by their names."""
    found: list[Rate | Cost | None] = []
    for change in version.changes:
        if version.book == "rates":
            found.append(store.rate_at(session, change.model, at_us))
            continue
        begun = [cost for cost in store.all_costs(session, change.backend, change.model) if cost.effective_us <= at_us]
        found.append(None if not begun or begun[-1].ended else begun[-1])
    return {_named(entry): entry for entry in found if entry is not None}


def _named(entry: Rate | Cost) -> str:
    return f"{entry.backend}/{entry.model}" if isinstance(entry, Cost) else entry.model


def _key(entry: Rate | Cost) -> tuple[str, str]:
    return entry.backend if isinstance(entry, Cost) else "", entry.model


def _not_passed(effective_us: int | None, now_us: int) -> None:
    if effective_us is not None and effective_us < now_us:
        raise Invalid("effective_us", "effective: this instant has passed; what was charged stays charged, so a rate begins now or later")


def _fills_gaps(session: Session, changes: Iterable[Change], effective_us: int) -> None:
    for change in changes:
        first_us = min((cost.effective_us for cost in store.all_costs(session, change.backend, change.model)), default=None)
        if first_us is not None and first_us <= effective_us:
            raise Invalid(
                "effective_us",
                f"effective: this instant has passed, and what `{change.backend}` charges for `{change.model}` was said for it already; "
                "only what nobody had said can begin in the past",
            )


def _version(session: Session, book: Book, version_id: int) -> Version:
    version = store.get_version(session, version_id)
    if version is None or version.book != book:
        raise NotFound(f"version of {book}", str(version_id))
    return version


def _open_version(session: Session, book: Book, version_id: int) -> Version:
    version = _version(session, book, version_id)
    if version.state != "proposed":
        raise Conflict(f"version {version_id} is {version.state}; only a proposal can be published or withdrawn")
    return version
