"""What README.md tells a reader to type works: every `weir` line of its blocks is run in order, beside a gateway with the models they name."""

import json
import re
import shlex
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from billing.db import Database
from billing.invoices.company import Company
from billing.invoices.store import set_company
from billing.operations import invoices, periods, plans, tenants
from billing.plans.terms import PlanTerms
from billing.tenants.profile import Party
from gateway.config import load_settings
from tests.real.child import ROOT, status_of
from tests.real.gateway import TENANT_KEY, Gateway, StartGateway

TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
LINES = [line.split("  #")[0].strip() for language, block in BLOCKS if not language for line in block.splitlines() if line.startswith("weir ")]
CONFIGURATION = next(block for language, block in BLOCKS if language == "yaml")


def ask(gateway: Gateway, key: str, model: str) -> str:
    """Send one request and return the id of its usage event, once that is booked."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{gateway.base_url}/chat/completions", body, headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        event: str = answer.headers["x-weir-event"]
    for _ in range(100):
        if gateway.weir("usage", "event", event, check=False).returncode == 0:
            return event
    raise AssertionError(f"{event} was not booked")


def invoiced(gateway: Gateway) -> str:
    """Have a tenant of long ago, whose first period is closed, and return its invoice's id."""
    begin_us = time.time_ns() // 1000 - 60 * 86_400_000_000
    database = Database(f"sqlite:///{gateway.data_dir / 'weir.db'}")
    plans.set_plan(database, PlanTerms(plan="old", monthly_fee_minor=4900), begin_us)
    tenants.create_tenant(database, id="old", name="Old", plan="old", now_us=begin_us)
    with database.write() as session:
        set_company(session, Company(party=Party(name="Example Ltd")))
    periods.close_tenant(database, "old", time.time_ns() // 1000)
    found = invoices.list_invoices(database, tenant_id="old")[0].id
    database.close()
    return found


def test_the_configuration_of_the_readme_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-of-a-vendor")
    path = tmp_path / "weir.yaml"
    path.write_text(CONFIGURATION)
    assert set(load_settings(path).backends) == {"gpu", "deepseek"}


def test_what_is_run_before_there_is_a_gateway(gateway_process: StartGateway) -> None:
    gateway = gateway_process({}, start=False)
    gateway.config_path.unlink()
    before = [line for line in LINES if line.split()[1] in ("init", "check")]
    assert before == ["weir init", "weir check"]
    for line in before:
        gateway.weir(*shlex.split(line)[1:])


@pytest.mark.timeout(400)  # some thirty processes, one after the other
def test_every_command_of_the_readme_works_as_written(gateway_process: StartGateway) -> None:
    models = yaml.safe_load(CONFIGURATION)["models"]
    routed = {name: {"routes": [{"backend": "echo", "model": name}]} for name in models}
    gateway = gateway_process({"backends": {"echo": {"provider": "echo"}}, "models": routed})
    run = [line for line in LINES if line.split()[1] not in ("init", "check", "serve")]
    assert len(run) > 15, run
    key, event, invoice = "", "", ""
    for line in run:
        if "INVOICE_ID" in line:
            invoice = invoice or invoiced(gateway)
            line = line.replace("INVOICE_ID", invoice)
        if "EVENT_ID" in line:
            event = event or ask(gateway, key, next(iter(models)))
        if "KEY_ID" in line:
            (issued,) = json.loads(gateway.weir("key", "list", "acme", "--format", "json").stdout)
            line = line.replace("KEY_ID", issued["id"])
        done = gateway.weir(*shlex.split(line.replace("EVENT_ID", event))[1:])
        if found := TENANT_KEY.search(done.stdout):
            key = found[0]
    assert event and invoice, "no line shows a usage event, or an invoice"
    assert (gateway.folder / "invoice.pdf").read_bytes().startswith(b"%PDF-")
    assert (gateway.folder / "invoices.xlsx").read_bytes().startswith(b"PK")
    assert [status_of(f"{gateway.root_url}{path}") for path in ("/health", "/ready", "/metrics", "/docs")] == [200] * 4


def test_the_columns_that_the_readme_explains_are_those_of_the_exports(gateway_process: StartGateway) -> None:
    gateway = gateway_process({}, start=False)
    gateway.weir("migrate")
    header = {column for kind in ("usage", "invoice") for column in gateway.weir(kind, "export", "--month", "2026-11").stdout.splitlines()[0].split(",")}
    table = TEXT[TEXT.index("| column") :]
    rows = re.findall(r"^\| (.+?) \|", table[: table.index("\n\n")], re.MULTILINE)[1:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named <= header
    assert {column for column in header if column.endswith("credits") or "amount" in column or "requests" in column} <= named
