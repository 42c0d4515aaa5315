"""What a start sets up in the books: seeds that are missing, and at the very first one the keys, shown once with lines to paste."""

import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from billing.db import Database
from billing.operations import keys, plans, rates, tenants
from billing.tenants.keys import KeyHasher
from gateway.config.settings import SeedSettings

MODELS_SHOWN = 20


def plant(database: Database, seed: SeedSettings, now_us: int) -> None:
    """Create the plans, tenants and rates that are missing; change none that is there. Raises what the books refuse."""
    have_plans = {version.terms.plan for version in plans.list_plans(database)}
    for plan, form in seed.plans.items():
        if plan not in have_plans:
            plans.set_plan(database, form.terms(plan), now_us)
    for tenant, wanted in seed.tenants.items():
        if not tenants.has_tenant(database, tenant):
            tenants.create_tenant(database, id=tenant, name=wanted.name, plan=wanted.plan, currency=wanted.currency, timezone=wanted.timezone, now_us=now_us)
    have_rates = {rate.model for rate in rates.list_rates(database)}
    for model, rate in seed.rates.items():
        if model not in have_rates:
            rates.set_rates(database, [rate.change(model)], now_us=now_us)


def first_keys(database: Database, hasher: KeyHasher, tenant: str | None, now_us: int) -> dict[str, str]:
    """Issue the first admin key, and the first key of `tenant`, where none of that kind was ever issued; return their secrets by kind."""
    issued: dict[str, str] = {}
    if not keys.has_key(database, "admin"):
        issued["admin"] = keys.issue_key(database, hasher, kind="admin", name="first start", now_us=now_us).secret
    if tenant is not None and not keys.has_key(database, "tenant") and tenants.has_tenant(database, tenant):
        issued["tenant"] = keys.issue_key(database, hasher, tenant_id=tenant, name="first start", now_us=now_us).secret
    return issued


def unrated(database: Database, models: Mapping[str, object], now_us: int) -> list[str]:
    """List the models that have no rate, whose requests are therefore refused."""
    return sorted(set(models) - rates.rated_models(database, now_us))


def program() -> str:
    """Name the `weir` that is running so that a shell finds it: by its path where it is not on PATH."""
    here = Path(sys.argv[0])
    if here.name != "weir":
        return "weir" if shutil.which("weir") else f"{_near(Path(sys.executable))} -m gateway.cli"
    found = shutil.which("weir")
    return "weir" if found is not None and Path(found).resolve() == here.resolve() else _near(here)


def _near(path: Path) -> str:
    absolute, folder = path.absolute(), Path.cwd()
    return shlex.quote(str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute))


def offer(source: Path | None, models: Iterable[str], own: str = "") -> str:
    """Say which configuration was read, and which models are offered; `own` is the one that a server of ours brings."""
    names = list(dict.fromkeys([*models, *([own] if own else [])]))
    more = f" and {len(names) - MODELS_SHOWN} more" if len(names) > MODELS_SHOWN else ""
    return f"Configuration: {source or ('none: its own small model' if own else 'none')}\nModels: {', '.join(names[:MODELS_SHOWN])}{more}"


def banner(url: str, model: str | None, secrets: Mapping[str, str], *, tenant: str | None = None, program: str = "weir") -> str:
    """Write what a person at the terminal needs: where it listens, the keys that were just issued, and lines to paste.

    `tenant` is the demo's, if there is one; at a later start its lines take their key from $WEIR_API_KEY.
    """
    lines = [f"Weir listens at {url}  (docs: {url}/docs)"]
    if "admin" in secrets:
        lines += ["", f"Admin key, shown this once:   {secrets['admin']}"]
    if "tenant" in secrets:
        lines += [f"Tenant key, shown this once:  {secrets['tenant']}"]
    if not secrets:
        lines += [f"Keys were issued at an earlier start. A new one: {program} key issue {tenant or 'TENANT'} --name NAME, or {program} key issue --admin"]
    if "tenant" in secrets and model is not None:
        lines += ["", *_try(url, model, secrets["tenant"], f'"{secrets["tenant"]}"')]
    elif tenant is not None and model is not None:
        lines += ["", f"With a key of yours, or a new one: export WEIR_API_KEY=$({program} key issue {tenant} --name again --quiet)"]
        lines += ["", *_try(url, model, "$WEIR_API_KEY", 'environ["WEIR_API_KEY"]')]
    elif "tenant" not in secrets and secrets:
        lines += ["", f"Next: {program} tenant create ID --plan PLAN, then: {program} key issue ID --name NAME"]
    return "\n".join(lines)


def _try(url: str, model: str, key: str, python_key: str) -> list[str]:
    return ["Try it:", "", _curl(url, model, key), "", "or in Python (pip install openai):", "", _python(url, model, python_key)]


def _curl(url: str, model: str, secret: str) -> str:
    body = f'{{"model": "{model}", "max_tokens": 60, "messages": [{{"role": "user", "content": "Why is the sky blue?"}}]}}'
    key = f'-H "Authorization: Bearer {secret}"'
    return f"curl -s {url}/v1/chat/completions {key} -H 'Content-Type: application/json' -d '{body}'\ncurl -s {url}/v1/credits {key}"


def _python(url: str, model: str, secret: str) -> str:
    return "\n".join(
        (
            *(["from os import environ"] if secret.startswith("environ") else []),
            "from openai import OpenAI",
            f'client = OpenAI(base_url="{url}/v1", api_key={secret})',
            'question = [{"role": "user", "content": "Why is the sky blue?"}]',
            f'answer = client.chat.completions.with_raw_response.create(model="{model}", max_tokens=60, messages=question)',
            "print(answer.parse().choices[0].message.content)",
            'print("cost:", answer.parse().usage.cost, "credits; left:", answer.headers["x-weir-credits-remaining"])',
        )
    )
