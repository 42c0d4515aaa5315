"""Many rows at once: what a flush writes goes to the database in a statement or a few per table, however many rows it has.

A round trip costs PostgreSQL more than a row does, and building a statement with thousands of parameters costs us more than running it.
So rows are copied in (COPY), and changes come as one array per column, unnested by the server; SQLite, which has no round trips, takes changes
one by one from a prepared statement, and rows some dozens at a time: its driver lets go of the interpreter's lock at every step of a statement,
and beside a busy event loop has to wait for it again each time. Everything runs in the caller's transaction and fails with SQLAlchemy's errors.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, String, any_, bindparam, func, select, type_coerce
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import UserDefinedType

ENGINES = ("postgresql", "sqlite")
SQLITE_PARAMETERS = 2_700  # of an insert, at most: 64 usage events. Many more rows would take longer to prepare than to insert


class _TextArray(UserDefinedType[str]):
    """PostgreSQL's text[], given as it writes one."""

    cache_ok = True
    render_bind_cast = True

    def get_col_spec(self, **_: Any) -> str:
        return "TEXT[]"


class Insert:
    """Rows into one table; a row is a tuple in the order of `columns`. A row that is there already is an `IntegrityError`."""

    def __init__(self, table: str, columns: Sequence[str]) -> None:
        named = ", ".join(f'"{column}"' for column in columns)
        self._copy = f"COPY {table} ({named}) FROM STDIN"
        self._insert = f"INSERT INTO {table} ({named}) VALUES "  # noqa: S608 - names from our code
        self._row = f"({', '.join('?' * len(columns))})"
        self._at_once = 1 << (SQLITE_PARAMETERS // len(columns)).bit_length() - 1

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert the rows. Raises `DBAPIError`, and on SQLite `OverflowError` for a number past 64 bits."""
        if not rows:
            return
        if connection.dialect.name == "sqlite":
            start, many = 0, self._at_once
            while start < len(rows):
                while many > len(rows) - start:  # by powers of two: few texts, all of which the driver keeps prepared
                    many //= 2
                connection.exec_driver_sql(self._insert + ", ".join([self._row] * many), tuple(chain.from_iterable(rows[start : start + many])))
                start += many
            return
        driver: Any = connection.connection.driver_connection
        try:
            with driver.cursor() as cursor, cursor.copy(self._copy) as copy:
                for row in rows:
                    copy.write_row(row)
        except connection.dialect.loaded_dbapi.Error as error:
            raise _as_sqlalchemy(connection, self._copy, error) from error


class InsertNew:
    """Rows into one table, as far as their `key` is new to it. `columns` with their types as PostgreSQL calls them, in the order of a row."""

    def __init__(self, table: str, columns: Mapping[str, str], *, key: str, returning: str) -> None:
        named = ", ".join(columns)
        new = f"ON CONFLICT ({key}) DO NOTHING RETURNING {key}, {returning}"
        arrays = ", ".join(f"%s::{kind}[]" for kind in columns.values())
        fields = ", ".join(f"json_extract(value, '$[{index}]')" for index in range(len(columns)))
        self._texts = {
            "postgresql": f"INSERT INTO {table} ({named}) SELECT * FROM unnest({arrays}) {new}",  # noqa: S608 - names from our code
            "sqlite": f"INSERT INTO {table} ({named}) SELECT {fields} FROM json_each(?) WHERE true {new}",  # noqa: S608
        }

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> dict[Any, Any]:
        """Insert the new ones; return what `returning` names of them, by key."""
        if not rows:
            return {}
        engine = connection.dialect.name
        given = (msgspec.json.encode(rows).decode(),) if engine == "sqlite" else tuple(map(_array, zip(*rows, strict=True)))
        return {key: returned for key, returned in connection.exec_driver_sql(self._texts[engine], given)}  # noqa: C416 - a row is no pair to `dict`


class Change:
    """One statement applied to many rows. On PostgreSQL it reads them from `unnest(...)` over arrays, on SQLite it runs once for each (`?1`, `?2`, ...)."""

    def __init__(self, *, postgresql: str, sqlite: str) -> None:
        self._texts = {"postgresql": postgresql, "sqlite": sqlite}

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Apply it to the rows; return how many rows of the table it changed."""
        if not rows:
            return 0
        engine = connection.dialect.name
        given = list(rows) if engine == "sqlite" else tuple(map(_array, zip(*rows, strict=True)))
        return connection.exec_driver_sql(self._texts[engine], given).rowcount


def among(column: Column[str], name: str = "ids") -> dict[str, ColumnElement[bool]]:
    """Return "this text column is one of the parameter's", by engine; the parameter's value comes from `listed`."""
    return {
        "postgresql": column == any_(bindparam(name, type_=_TextArray())),
        "sqlite": column.in_(select(type_coerce(func.json_each(bindparam(name, type_=String)).table_valued("value").c.value, String))),
    }


def listed(connection: Connection, texts: Iterable[str]) -> object:
    """Return the value of a parameter made by `among`."""
    return msgspec.json.encode(list(texts)).decode() if connection.dialect.name == "sqlite" else _array(texts)


def _array(values: Iterable[object]) -> str:
    # As PostgreSQL writes an array. The driver would look at every value with a regular expression, which takes longer than all the rest.
    return "{" + ",".join([_quoted(value) if isinstance(value, str) else "NULL" if value is None else str(value) for value in values]) + "}"


def _quoted(value: str) -> str:
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'


def _as_sqlalchemy(connection: Connection, statement: str, error: Any) -> BaseException:
    # What runs behind SQLAlchemy's back must fail like everything else, a lost connection and a deadlock above all.
    dialect = connection.dialect
    lost = dialect.is_disconnect(error, connection.connection, None)
    if lost:
        connection.invalidate(error)
    told: BaseException = DBAPIError.instance(statement, None, error, dialect.loaded_dbapi.Error, connection_invalidated=lost, dialect=dialect)
    return told
