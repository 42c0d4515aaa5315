"""A version: changes of prices that were proposed together, and are published together or withdrawn; pure.

Rates (credits) and costs (money) have the same versions, in a `book` each. What applies is decided by the published entries alone; a
version says where an entry came from and lets somebody look before it applies.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from billing.errors import Invalid
from billing.money import exponent
from billing.rates.cost import cost_max
from billing.rating import PARENTS, PriceList, Variant, complete, complete_variants, price_max, prices_at, when

Book = Literal["rates", "costs"]
BOOKS: tuple[Book, ...] = ("rates", "costs")
CHANGES_MAX = 2000
NAME_CHARS_MAX = 256
NOTE_CHARS_MAX = 500


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The prices that a model is to have. `backend` and `currency` only in the cost book. `ended`: it is to have none."""

    model: str
    backend: str = ""
    currency: str = ""
    free: bool = False
    ended: bool = False
    prices: dict[str, int] = {}
    variants: tuple[Variant, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """Whose prices these are."""
        return self.backend, self.model


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version. `effective_us` is from when it applies, or is meant to; None: from when it is published."""

    id: int
    book: Book
    note: str
    changes: tuple[Change, ...]
    effective_us: int | None
    created_us: int
    published_us: int | None = None
    withdrawn_us: int | None = None

    @property
    def state(self) -> Literal["proposed", "published", "withdrawn"]:
        """What became of it."""
        return "published" if self.published_us is not None else "withdrawn" if self.withdrawn_us is not None else "proposed"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One price that changes. `when` are a variant's conditions, "" the base. `old` and `new` in the book's unit per unit, None: no price.

    `currency` is the new one, where the cost book has another before the prices are not compared, and `percent` is None.
    """

    backend: str
    model: str
    when: str
    bucket: str
    old: int | None
    new: int | None
    percent: str | None
    currency: str = ""
    old_currency: str = ""


class Diff(msgspec.Struct, frozen=True, kw_only=True):
    """A version against what applies at its instant. `losing` (backend, model) are those that would have no price any more."""

    version: Version
    at_us: int
    lines: tuple[Difference, ...]
    losing: tuple[tuple[str, str], ...]


def checked(book: Book, changes: Iterable[Change]) -> tuple[Change, ...]:
    """Return the changes with the buckets filled in that were left out, by backend and model. Raises `Invalid` for what cannot be rated by."""
    full = [_checked(book, change) for change in changes]
    if not 1 <= len(full) <= CHANGES_MAX:
        raise Invalid("changes", f"changes: {len(full)} models; a version changes at least 1 and at most {CHANGES_MAX}")
    seen: set[tuple[str, str]] = set()
    for change in full:
        if change.key in seen:
            raise Invalid("changes", f"changes: model `{change.model}` is there twice; a version has one set of prices for each")
        seen.add(change.key)
    return tuple(sorted(full, key=lambda change: change.key))


def compare(version: Version, at_us: int, old_of: Callable[[tuple[str, str]], PriceList | None], currency_of: Callable[[PriceList], str]) -> Diff:
    """Compare a version with what applies to each of its models at an instant."""
    lines: list[Difference] = []
    losing = []
    for change in version.changes:
        old = old_of(change.key)
        if change.ended and old is not None:
            losing.append(change.key)
        lines += _differences(change, old, "" if old is None else currency_of(old))
    return Diff(version=version, at_us=at_us, lines=tuple(lines), losing=tuple(losing))


def percent(old: int, new: int) -> str | None:
    """Write by how much a price grows, to a tenth of a percent, halves away from zero: "+12.5". None from 0, where no percentage says anything."""
    if old == 0:
        return None
    tenths = (2000 * abs(new - old) + old) // (2 * old)
    return f"{'-' if new < old else '+'}{tenths // 10}.{tenths % 10}"


def _checked(book: Book, change: Change) -> Change:
    check_name("model", change.model)
    if book == "costs":
        check_name("backend", change.backend)
        if not change.ended:
            exponent(change.currency)
    of = f"model `{change.model}`"
    if (change.free or change.ended) and (change.prices or change.variants):
        raise Invalid("free", f"free: {of} has prices; what is free, or ends, has none: give prices or that, not both")
    if change.free and change.ended:
        raise Invalid("free", f"free: {of} cannot be free and without prices at once")
    if change.free or change.ended:
        return change
    for bucket in ("input", "output"):
        if bucket not in change.prices:
            raise Invalid(bucket, f"rate: `{bucket}` of {of} has no price; give one (0 when it costs nothing), or say that it is free")
    most, unit = (cost_max, "pico-units") if book == "costs" else (price_max, "nano-credits")
    prices = complete(change.prices, most, unit)
    return msgspec.structs.replace(change, prices=prices, variants=complete_variants(change.variants, prices, most, unit))


def check_name(field: str, name: str) -> None:
    """Raise `Invalid` for what is no name of a model or a backend."""
    if not name or len(name) > NAME_CHARS_MAX or not name.isprintable() or name != name.strip():
        raise Invalid(field, f"{field}: `{name[:80]}` is not a {field}'s name; 1 to {NAME_CHARS_MAX} printable characters without spaces around")


def _differences(change: Change, old: PriceList | None, old_currency: str) -> list[Difference]:
    new = PriceList(id=0, effective_us=0, free=change.free, prices=change.prices, variants=change.variants)
    lines = []
    for condition in _conditions(old, new):
        before, after = _under(old, condition), _under(new, condition)
        for bucket in sorted({**before, **after}, key=list({**after, **before}).index):
            was, becomes = _price(old, before, bucket), _price(new, after, bucket)
            same_money = old is None or old_currency == change.currency
            if (was == becomes and same_money) or _goes_without_saying(bucket, before, after):
                continue
            by = percent(was, becomes) if was is not None and becomes is not None and same_money else None
            said = "" if condition is None else when(condition)
            lines.append(
                Difference(
                    backend=change.backend,
                    model=change.model,
                    when=said,
                    bucket=bucket,
                    old=was,
                    new=becomes,
                    percent=by,
                    currency=change.currency,
                    old_currency=old_currency,
                )
            )
    return lines


def _conditions(old: PriceList | None, new: PriceList) -> list[Variant | None]:
    """List the base and every condition under which old or new has other prices, each once."""
    found: dict[str, Variant | None] = {"": None}
    for variant in (*new.variants, *(old.variants if old is not None else ())):
        found.setdefault(when(variant), variant)
    return list(found.values())


def _under(entry: PriceList | None, condition: Variant | None) -> Mapping[str, int]:
    if entry is None:
        return {}
    if condition is None:
        return entry.prices
    return prices_at(entry, (condition.input_over or -1) + 1, condition.lane, condition.service_tier)


def _price(entry: PriceList | None, prices: Mapping[str, int], bucket: str) -> int | None:
    return 0 if entry is not None and entry.free else prices.get(bucket)


def _goes_without_saying(bucket: str, before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    """Whether a price only follows the one of the bucket that it is a kind of, or says that a request by itself costs nothing."""
    parent = PARENTS.get(bucket)
    if parent is not None:
        return before.get(bucket) == before.get(parent) and after.get(bucket) == after.get(parent)
    return bucket == "requests" and not before.get(bucket) and not after.get(bucket)
