"""What a file holds, so that who receives it can tell that it is whole: its rows, control totals and sha256. Pure."""

from collections.abc import Iterator
from decimal import Decimal

import msgspec

from billing.files.grid import Grid, Row
from billing.money import add_exact, format_credits, format_exact

Total = str | int | dict[str, str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A written file. `totals` by column: counts as numbers, credits and amounts as decimal text, amounts by currency."""

    name: str
    format: str
    rows: int
    totals: dict[str, Total]
    bytes: int
    sha256: str


class Tally:
    """Adds up what passes through it on the way into a file."""

    def __init__(self, grid: Grid) -> None:
        self.rows = 0
        self._grid = grid
        self._summed = [(place, column) for place, column in enumerate(grid.columns) if column.total]
        self._currency = next((place for place, column in enumerate(grid.columns) if column.name == grid.currency), None)
        self._integers = dict.fromkeys((column.name for _place, column in self._summed if column.kind != "amount"), 0)
        self._amounts: dict[str, dict[str, Decimal]] = {column.name: {} for _place, column in self._summed if column.kind == "amount"}

    def counted(self) -> Iterator[Row]:
        """Give the grid's rows, and count them."""
        for row in self._grid.rows:
            self.rows += 1
            for place, column in self._summed:
                cell = row[place]
                if cell is None:
                    continue
                if column.kind == "amount":
                    by_currency = self._amounts[column.name]
                    currency = str(row[self._currency]) if self._currency is not None else ""
                    by_currency[currency] = add_exact(by_currency.get(currency, Decimal(0)), Decimal(cell))
                else:
                    self._integers[column.name] += int(cell)
            yield row

    def totals(self) -> dict[str, Total]:
        """Return the control totals of what has passed, by column in its order."""
        found: dict[str, Total] = {}
        for _place, column in self._summed:
            if column.kind == "amount":
                found[column.name] = {currency: format_exact(amount) for currency, amount in sorted(self._amounts[column.name].items())}
            else:
                found[column.name] = format_credits(self._integers[column.name]) if column.kind == "credits" else self._integers[column.name]
        return found


def encode(manifest: Manifest) -> bytes:
    """Write a manifest as JSON: what lies beside the file as FILE.manifest.json."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
