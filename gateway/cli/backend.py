"""`weir backend`: the model servers that are configured, and whether they answer."""

import asyncio
import os
import re
import socket
from typing import Annotated, Any

import typer

from backends.errors import BackendError
from backends.health import ask
from backends.pool import Pool, build_pools
from backends.provider import Target
from backends.replica import Replica
from backends.transport.direct import DirectTransport
from backends.transport.over_httpx import HttpxTransport
from backends.transport.seam import Timeouts
from gateway.cli.books import ConfigOption
from gateway.cli.render import Format, FormatOption, write_rows
from gateway.config import Settings, config_path, load_settings

app = typer.Typer(no_args_is_help=True, help="Backends: the model servers, and whether they answer.")
COLUMNS = ("backend", "provider", "url", "state", "slots", "models")
EMPTY = "no backends configured; a small model that runs without a configuration belongs to `weir serve`, whose GET /ready says how it is"
PROBE_TIMEOUTS = Timeouts(connect_s=3.0, first_byte_s=5.0, idle_s=5.0, total_s=10.0)


@app.callback()
def _backend() -> None:
    """Keep `list` a name of its own, also while it is the only one."""


@app.command("list")
def index(
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="ask each server whether it is alive")] = True,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """List the configured backends, one line a server."""
    settings = load_settings(config_path(config))
    states = probe_backends(settings) if probe else {}
    rows: list[dict[str, Any]] = []
    for name, backend in settings.backends.items():
        models = [model for model, routed in settings.models.items() if any(route.backend == name for route in routed.routes)]
        for url in [replica.url for replica in backend.urls] or [backend.vendor or "in this process"]:
            found = [why for (probed, address), why in states.items() if probed == name and address in (url, *([address] if not backend.urls else []))]
            state = "not asked" if not found else "up" if found[0] is None else f"down: {found[0]}"
            rows.append({"backend": name, "provider": backend.provider, "url": url, "state": state, "slots": backend.slots, "models": ",".join(models)})
    write_rows(rows, form, COLUMNS, EMPTY)


def probe_backends(settings: Settings) -> dict[tuple[str, str], str | None]:
    """Ask every configured server once; (backend, url) -> None when it is well, else why it is not. Raises `BadConfig`."""
    return asyncio.run(_probe_all(settings))


async def _probe_all(settings: Settings) -> dict[tuple[str, str], str | None]:
    direct, over_httpx = DirectTransport(), HttpxTransport()
    try:
        pools = build_pools(settings.backends, {"direct": direct, "httpx": over_httpx})
        asked = [(pool, replica) for pool in pools.values() for replica in pool.replicas]
        answers = await asyncio.gather(*(_probe(pool, replica) for pool, replica in asked))
        return {(pool.name, replica.name): answer for (pool, replica), answer in zip(asked, answers, strict=True)}
    finally:
        await direct.aclose()
        await over_httpx.aclose()


def _reason(error: BackendError) -> str:
    """Say why a server could not be asked, without what only a programmer reads: the system's own words where it has some."""
    if isinstance(error.__cause__, socket.gaierror):
        return "its host name is not known here"
    if coded := re.search(r"\[Errno (\d+)\]", str(error)):
        return os.strerror(int(coded[1])).lower()
    return str(error) or type(error).__name__


async def _probe(pool: Pool, replica: Replica) -> str | None:
    key = pool.config.api_key
    target = Target(replica=replica, model="", timeouts=PROBE_TIMEOUTS, api_key=key.get_secret_value() if key else None)
    exchange = pool.provider.health_exchange(target)
    if exchange is None:
        return None
    try:
        status, _ = await ask(pool.transport, exchange)
    except BackendError as error:
        return _reason(error)
    if status in (401, 403):
        return f"it refuses our key (status {status}): check `api_key`"
    return None if status < 400 else f"it answers with status {status}"
