"""`weir backend`: the model servers that are configured, and whether they answer."""

import asyncio
import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import UNSET, UnsetType

from backends.errors import BackendError
from backends.health import ask
from backends.pool import Pool, build_pools
from backends.provider import Target
from backends.replica import Replica
from backends.transport.direct import DirectTransport
from backends.transport.over_httpx import HttpxTransport
from backends.transport.seam import Timeouts
from billing.errors import BooksUnavailable, Invalid, NotFound
from billing.operations import servers
from billing.servers.store import Server
from gateway.cli.books import ConfigOption, missing_file, open_books
from gateway.cli.render import Format, FormatOption, write_rows
from gateway.config import Settings, config_path, load_settings

app = typer.Typer(no_args_is_help=True, help="Backends: the model servers, and whether they answer.")
COLUMNS = ("backend", "provider", "url", "state", "slots", "weight", "drained", "models")
BackendArgument = Annotated[str, typer.Argument(metavar="BACKEND", help="as in weir.yaml")]
UrlArgument = Annotated[str | None, typer.Argument(metavar="[URL]", help="one of its servers; left out: all of them")]
EMPTY = "no backends configured; a small model that runs without a configuration belongs to `weir serve`, whose GET /ready says how it is"
PROBE_TIMEOUTS = Timeouts(connect_s=3.0, first_byte_s=5.0, idle_s=5.0, total_s=10.0)


@app.command("list")
def index(
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="ask each server whether it is alive")] = True,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """List the configured backends, one line a server."""
    settings = load_settings(config_path(config))
    states = probe_backends(settings) if probe else {}
    said = _said(settings, config)
    rows: list[dict[str, Any]] = []
    for name, backend in settings.backends.items():
        models = [model for model, routed in settings.models.items() if any(route.backend == name for route in routed.routes)]
        weights = {replica.url: replica.weight for replica in backend.urls}
        for url in weights or {backend.vendor or "in this process": 1}:
            found = [why for (probed, address), why in states.items() if probed == name and address in (url, *([address] if not backend.urls else []))]
            state = "not asked" if not found else "up" if found[0] is None else f"down: {found[0]}"
            server = said.get((name, url), Server(backend=name, url=url))
            about = {"backend": name, "provider": backend.provider, "url": url, "state": state, "slots": backend.slots, "models": ",".join(models)}
            rows.append(about | {"weight": server.weight or weights.get(url, 1), "drained": server.draining})
    write_rows(rows, form, COLUMNS, EMPTY)


@app.command()
def drain(backend: BackendArgument, url: UrlArgument = None, config: ConfigOption = None) -> None:
    """Send a backend's servers, or one, nothing more; what is under way goes on. All gateways follow within a second."""
    _tell(_change(config, backend, url, draining=True), "is drained")


@app.command()
def restore(backend: BackendArgument, url: UrlArgument = None, config: ConfigOption = None) -> None:
    """Send a backend's servers, or one, requests again."""
    _tell(_change(config, backend, url, draining=False), "gets requests again")


@app.command()
def weigh(
    backend: BackendArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="one of its servers")],
    weight: Annotated[str, typer.Argument(metavar="WEIGHT", help="its share against the others, 1 to 1000; or configured")],
    config: ConfigOption = None,
) -> None:
    """Give a server another share of its backend's requests."""
    if weight != "configured" and not weight.isdecimal():
        raise Invalid("weight", f"weight: `{weight}` is neither a number nor `configured`")
    _tell(_change(config, backend, url, weight=None if weight == "configured" else int(weight)), f"has weight {weight}")


def _change(config: Path | None, backend: str, url: str | None, *, draining: bool | UnsetType = UNSET, weight: int | UnsetType | None = UNSET) -> list[Server]:
    with open_books(config) as books:
        if not books.settings.backends:
            raise Invalid("backend", "backend: none is configured; the one that a gateway starts by itself has no other to go to: configure some (weir init)")
        if backend not in books.settings.backends:
            raise NotFound("backend", backend)
        known = [server.url for server in books.settings.backends[backend].urls]
        if not known or (url is not None and url not in known):
            there = f"one of {', '.join(known)}" if known else "it has none of its own, only its routes can be taken away"
            raise Invalid("url", f"url: backend `{backend}` has no server `{url or ''}`; {there}")
        return servers.change_servers(books.database, backend, known if url is None else [url], draining=draining, weight=weight, now_us=books.now_us)


def _tell(changed: list[Server], what: str) -> None:
    for server in changed:
        typer.echo(f"{server.backend} {server.url} {what}")


def _said(settings: Settings, config: Path | None) -> dict[tuple[str, str], Server]:
    if missing_file(settings) is not None:
        return {}  # the backends can be looked at before there are books
    try:
        with open_books(config) as books:
            return {(server.backend, server.url): server for server in servers.list_servers(books.database)}
    except BooksUnavailable as error:
        typer.echo(f"warning: which servers are drained or weighed otherwise is not known now: {error}", err=True)
        return {}


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
