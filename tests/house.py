"""The whole gateway in this process: its own database, a real socket, real requests. Faster to start than a process, and open to view.

async with open_house(tmp_path, {"m": upstream.base_url}) as house:
    answer = await house.chat(model="m")
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import yaml
from sqlmodel import select

from billing.credits.account import Account
from billing.db import Database
from billing.money import NCR_PER_CREDIT
from billing.operations import keys, plans, rates, tenants
from billing.plans.terms import PlanTerms
from billing.tenants.keys import KeyHasher
from billing.usage.table import UsageEventRow
from gateway.app import Gateway, create_app
from gateway.clock import Clock, SystemClock
from gateway.config import Settings, load_settings, pepper
from gateway.server import Server, build_server
from gateway.services import Services, open_services
from tests.real.child import free_port

TENANT, PLAN = "acme", "test"
IMPATIENT_SERVER = {"header_timeout_s": 0.3, "body_timeout_s": 0.3, "write_timeout_s": 0.5}
IMPATIENT_BACKEND = {"connect_s": 1.0, "first_byte_s": 0.5, "whole_s": 0.5, "idle_s": 0.5}
PRICES = {"input": 1_000_000, "output": 3_000_000}  # ncr per token: 1,000 and 3,000 credits per million


@dataclass
class House:
    """A running gateway. `key` is a tenant's; the tenant is `acme` on the plan `test`."""

    services: Services
    settings: Settings
    key: str
    client: httpx.AsyncClient
    app: Gateway
    server: Server
    model: str = "m"

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.server.port}"

    @property
    def account(self) -> Account:
        account = self.services.accounts.get(TENANT)
        assert account is not None, "nothing was asked yet"
        return account

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """Post to the gateway as the tenant; a body of bytes goes as it is."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self.client.post(path, content=content, headers={"authorization": f"Bearer {self.key}", "content-type": "application/json", **headers})

    async def chat(self, model: str = "m", headers: Mapping[str, str] | None = None, **members: Any) -> httpx.Response:
        """Ask for a chat completion."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10, **members}
        return await self.post("/v1/chat/completions", body, **(headers or {}))

    async def ask_and_leave(self, until: Callable[[], Any], model: str = "m") -> None:
        """Ask for a chat completion, and hang up once something has happened."""
        asking = asyncio.create_task(self.chat(model))
        async with asyncio.timeout(10):
            while not until():
                await asyncio.sleep(0.005)
        asking.cancel()
        await asyncio.wait({asking})
        assert asking.cancelled(), "it was answered"

    async def events(self, count: int = 1) -> list[UsageEventRow]:
        """Wait until that many usage events are booked, and return them all, oldest first."""
        async with asyncio.timeout(10):
            while len(found := await asyncio.to_thread(self._read)) < count or self.services.tasks or self.services.recorder.backlog:
                await asyncio.sleep(0.01)
        return found

    def _read(self) -> list[UsageEventRow]:
        with self.services.database.read() as session:
            return list(session.exec(select(UsageEventRow).order_by(UsageEventRow.id)))


@asynccontextmanager
async def open_house(
    folder: Path,
    upstreams: Mapping[str, str | Mapping[str, Any]],
    *,
    plan: Mapping[str, Any] | None = None,
    config: str = "",
    clock: Clock | None = None,
    database_url: str | None = None,
    impatient: bool = False,
) -> AsyncGenerator[House]:
    """Start a gateway whose models are named like `upstreams`: name -> base URL, or -> backend as in weir.yaml,
    with the upstream's model under `model`. With several, the model `f` falls back from each to the next.

    `plan` are `PlanTerms`; 1,000 credits unless it says otherwise. `config` is appended to weir.yaml. `impatient` is for tests of what is
    late: waits of less than a second, which a machine that pauses would also break.
    """
    time = clock or SystemClock()
    path = folder / "weir.yaml"
    path.write_text(_config(folder, upstreams, database_url, impatient) + config)
    settings = load_settings(path)
    database = Database(settings.database_url)
    database.migrate()
    now_us = time.now_us()
    plans.set_plan(database, PlanTerms(**{"plan": PLAN, "allowance_ncr": 1000 * NCR_PER_CREDIT, **(plan or {})}), now_us=now_us)
    tenants.create_tenant(database, id=TENANT, name="ACME", plan=PLAN, currency="USD", timezone="UTC", now_us=now_us)
    for model in settings.models:
        if model != "unpriced":
            rates.set_rate(database, model=model, prices=PRICES, now_us=now_us)
    issued = keys.issue_key(database, KeyHasher(pepper(settings)), tenant_id=TENANT, kind="tenant", name="test", now_us=now_us)
    database.close()
    async with open_services(settings, time) as services:
        app = create_app(services)
        server = build_server(app, settings)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.005)
        base_url = f"http://127.0.0.1:{settings.server.port}"
        try:
            async with httpx.AsyncClient(base_url=base_url, timeout=30, trust_env=False) as client:
                yield House(services, settings, issued.secret, client, app, server)
        finally:
            server.should_exit = True
            await serving


def _config(folder: Path, upstreams: Mapping[str, str | Mapping[str, Any]], database_url: str | None, impatient: bool) -> str:
    config: dict[str, Any] = {
        "data_dir": str(folder / "data"),
        "server": {"port": free_port(), "shutdown_grace_s": 2, **(IMPATIENT_SERVER if impatient else {})},
        "backends": {"echo": {"provider": "echo"}},
        "models": {"echo": _model({"backend": "echo", "model": "echo"}), "unpriced": _model({"backend": "echo", "model": "echo"})},
    }
    if database_url is not None:
        config |= {"database": {"url": database_url}, "secret": "0123456789abcdef0123456789abcdef"}
    routes: list[dict[str, str]] = []
    for name, given in upstreams.items():
        backend: dict[str, Any] = {"urls": [given], "slots": 4} if isinstance(given, str) else dict(given)
        if impatient:
            backend.setdefault("timeouts", IMPATIENT_BACKEND)
        routes.append({"backend": name, "model": str(backend.pop("model", f"upstream-{name}"))})
        config["backends"][name] = backend
        config["models"][name] = _model(routes[-1])
    if len(routes) > 1:
        config["models"]["f"] = _model(*routes)
    return yaml.safe_dump(config)


def _model(*routes: dict[str, str]) -> dict[str, Any]:
    return {"routes": list(routes)}
