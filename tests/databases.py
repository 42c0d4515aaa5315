"""Databases for the tests of the books: fixtures that give each test one of its own, on SQLite and on a real PostgreSQL.

The PostgreSQL server is started once a session (`postgres_url`); every test gets a new database in it.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from billing.db import Database

_numbers = itertools.count(1)


@contextmanager
def new_database(engine: str, folder: Path, postgres_url: str | None = None) -> Iterator[Database]:
    """Give an empty database on `sqlite` or `postgresql`, and take it away again."""
    if engine == "sqlite":
        database = Database(f"sqlite:///{folder / 'weir.db'}")
        yield database
        database.close()
        return
    assert postgres_url is not None
    url = make_url(postgres_url).set(drivername="postgresql")
    name = f"weir_books_{next(_numbers)}"
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        admin.execute(f"CREATE DATABASE {name}".encode())
        database = Database(url.set(database=name).render_as_string(hide_password=False))
        try:
            yield database
        finally:
            database.close()
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
