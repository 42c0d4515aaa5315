"""`weir webhook`: endpoints that are told when a tenant's credits run low. A signing secret is printed once, when its endpoint is added."""

import asyncio
from typing import Annotated, Any

import msgspec
import typer

from backends.transport.over_httpx import HttpxTransport
from billing.alerts.webhook import DONE, EVENTS, Delivery, Webhook
from billing.errors import NotFound
from billing.operations import webhooks
from gateway.cli.books import Books, ConfigOption, open_books
from gateway.cli.failure import Failure
from gateway.cli.render import Format, FormatOption, YesOption, confirm, write_rows
from gateway.webhooks import Sender
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="Webhooks: who is told when credits run low.")
WebhookArgument = Annotated[str, typer.Argument(metavar="WEBHOOK_ID")]
COLUMNS = ("id", "url", "tenant", "events", "created", "disabled")
SENT = ("id", "webhook", "tenant", "type", "percent", "state", "tries", "status", "answer", "created", "tried", "due", "body")
BRIEF = ("created", "webhook", "tenant", "type", "percent", "state", "tries", "status", "answer")


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="https://...; http:// for this machine alone, or with webhooks.allow_http")],
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", help="whose events; left out: every tenant's")] = None,
    events: Annotated[str | None, typer.Option("--events", help=f"which, with commas between them; left out: all ({', '.join(EVENTS)})")] = None,
    config: ConfigOption = None,
) -> None:
    """Add an endpoint and print its signing secret, for the only time."""
    chosen = None if events is None else tuple(event.strip() for event in events.split(",") if event.strip())
    with open_books(config) as books:
        allow_http = books.settings.webhooks.allow_http
        added = webhooks.add_webhook(books.database, books.hasher(), url=url, tenant_id=tenant, events=chosen, allow_http=allow_http, now_us=books.now_us)
    typer.echo(added.secret)
    typer.echo(
        f"{added.webhook.id}: give the secret above to the receiver, it cannot be shown again. Try it with: weir webhook test {added.webhook.id}", err=True
    )


@app.command("list")
def index(form: FormatOption = Format.table, config: ConfigOption = None) -> None:
    """List endpoints, oldest first."""
    with open_books(config) as books:
        found = webhooks.list_webhooks(books.database)
    write_rows([_row(webhook) for webhook in found], form, COLUMNS, "no webhooks; add one: weir webhook add https://example.com/hook")


@app.command()
def remove(webhook: WebhookArgument, yes: YesOption = False, config: ConfigOption = None) -> None:
    """Remove an endpoint with everything that was or would be sent to it."""
    with open_books(config) as books:
        found = next((one for one in webhooks.list_webhooks(books.database) if one.id == webhook), None)
        if found is None:
            raise NotFound("webhook", webhook)
        confirm(f"Remove webhook `{found.id}` ({found.url}) with everything that was or would be sent to it?", yes)
        webhooks.remove_webhook(books.database, webhook, books.now_us)
    typer.echo(f"webhook {webhook} is removed")


@app.command("test")
def send_test(webhook: WebhookArgument, config: ConfigOption = None) -> None:
    """Send a test message now, from here, and say what the endpoint answered; 1 when it did not take it."""
    with open_books(config) as books:
        sent = asyncio.run(_send(books, webhook))
    said = f"status {sent.status}" if sent.answer is None else sent.answer
    if sent.state != DONE:
        raise Failure(f"webhook {webhook}: message {sent.id} was not taken: {said}")
    typer.echo(f"webhook {webhook}: message {sent.id} was taken, {said}")


@app.command()
def deliveries(
    webhook: Annotated[str | None, typer.Argument(metavar="WEBHOOK_ID", help="to which endpoint; left out: all")] = None,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="how many")] = 100,
    form: FormatOption = Format.table,
    config: ConfigOption = None,
) -> None:
    """List what was sent and what became of it, newest first. It is kept for 30 days."""
    with open_books(config) as books:
        found = webhooks.list_deliveries(books.database, webhook, limit=limit)
    write_rows([_sent(one) for one in found], form, SENT, "nothing was sent yet", brief=BRIEF)


async def _send(books: Books, webhook_id: str) -> Delivery:
    transport = HttpxTransport()
    try:
        sender = Sender(books.database, books.hasher(), transport, books.clock, settings=books.settings.webhooks)
        now_us = books.now_us
        return await sender.deliver(webhooks.queue_test(books.database, webhook_id, now_us, until_us=now_us + sender.try_us))
    finally:
        await transport.aclose()


def _row(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "url": webhook.url,
        "tenant": webhook.tenant_id,
        "events": "all" if webhook.events is None else ",".join(webhook.events),
        "created": instant(webhook.created_us),
        "disabled": instant(webhook.disabled_us) or None,
    }


def _sent(one: Delivery) -> dict[str, Any]:
    return {
        "id": one.id,
        "webhook": one.webhook_id,
        "tenant": one.tenant_id,
        "type": one.type,
        "percent": msgspec.json.decode(one.body)["data"].get("percent"),
        "state": one.state,
        "tries": one.tries,
        "status": one.status,
        "answer": one.answer,
        "created": instant(one.created_us),
        "tried": instant(one.tried_us) or None,
        "due": instant(one.due_us) if one.state == "waiting" else None,
        "body": one.body,
    }
