"""`weir webhook`: who is told when credits run low, of use and of invoices. A signing secret is printed once, when its webhook is added."""

import asyncio
from typing import Annotated, Any

import msgspec
import typer

from backends.transport.over_httpx import HttpxTransport
from billing.alerts.webhook import ALERTS, DONE, EVENTS, Delivery, Webhook
from billing.errors import NotFound
from billing.feeds.destination import KINDS, MEASURES, SOURCE, STRIPE, WEBHOOK
from billing.operations import webhooks
from gateway.cli.books import Books, ConfigOption, open_books
from gateway.cli.failure import Failure
from gateway.cli.render import Format, FormatOption, YesOption, confirm, write_rows
from gateway.webhooks import Sender
from gateway.wire.instants import show as instant

app = typer.Typer(no_args_is_help=True, help="Webhooks: who is told when credits run low, of use and of invoices; Stripe and OpenMeter too.")
WebhookArgument = Annotated[str, typer.Argument(metavar="WEBHOOK_ID")]
COLUMNS = ("id", "kind", "url", "tenant", "events", "options", "created", "disabled")
SENT = ("id", "webhook", "tenant", "type", "percent", "state", "tries", "status", "answer", "created", "tried", "due", "body")
BRIEF = ("created", "webhook", "tenant", "type", "percent", "state", "tries", "status", "answer")


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="https://...; http:// for this machine alone, or with webhooks.allow_http")],
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", help="whose events; left out: every tenant's")] = None,
    events: Annotated[str | None, typer.Option("--events", help=f"of {', '.join(EVENTS)}, with commas; left out: {' and '.join(ALERTS)}")] = None,
    kind: Annotated[str, typer.Option("--kind", help=f"whose interface the URL has: {', '.join(KINDS)}")] = WEBHOOK,
    meter: Annotated[str | None, typer.Option("--meter", help="stripe: the event of its meter, which counts thousandths of a credit")] = None,
    measure: Annotated[str | None, typer.Option("--measure", help=f"stripe: {' or '.join(MEASURES)}; left out: {MEASURES[0]}")] = None,
    source: Annotated[str | None, typer.Option("--source", help=f"openmeter: where its events come from; left out: {SOURCE}")] = None,
    config: ConfigOption = None,
) -> None:
    """Add an endpoint. Of a webhook the signing secret is printed, for the only time; Stripe's and OpenMeter's keys are settings of the gateway."""
    chosen = None if events is None else tuple(event.strip() for event in events.split(",") if event.strip())
    with open_books(config) as books:
        allow_http = books.settings.webhooks.allow_http
        options = {name: text for name, text in (("meter", meter), ("measure", measure), ("source", source)) if text is not None}
        added = webhooks.add_webhook(
            books.database,
            books.hasher(),
            url=url,
            tenant_id=tenant,
            events=chosen,
            allow_http=allow_http,
            kind=kind,
            options=options,
            now_us=books.now_us,
        )
        keyless = kind == STRIPE and books.settings.webhooks.stripe_key is None
    if keyless:
        typer.echo("warning: webhooks.stripe_key is not set in this configuration; what is told waits until it is", err=True)
    if added.secret is None:
        typer.echo(f"{added.webhook.id}: {kind} is told from now on; see what was sent with: weir webhook deliveries {added.webhook.id}")
        return
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


@app.command()
def retry(message: Annotated[str, typer.Argument(metavar="MESSAGE_ID", help="as deliveries show it")], config: ConfigOption = None) -> None:
    """Have a message that failed sent once more by the running gateway, under the same id."""
    with open_books(config) as books:
        webhooks.send_again(books.database, message, books.now_us)
    typer.echo(f"message {message} is due again")


@app.command()
def customer(
    tenant: Annotated[str, typer.Argument(metavar="TENANT")],
    customer: Annotated[str | None, typer.Argument(metavar="CUSTOMER", help="its id in Stripe, like cus_NciAYcXfLnqBoz; left out: nobody any more")] = None,
    *,
    config: ConfigOption = None,
) -> None:
    """Say who a tenant is in Stripe: destinations of that kind are told of tenants they know."""
    with open_books(config) as books:
        webhooks.set_stripe_customer(books.database, tenant, customer, books.now_us)
    typer.echo(f"tenant {tenant} is {f'customer {customer}' if customer else 'nobody'} in Stripe")


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
        "kind": webhook.kind,
        "url": webhook.url,
        "tenant": webhook.tenant_id,
        "events": ",".join(ALERTS if webhook.events is None else webhook.events),
        "options": ",".join(f"{name}={text}" for name, text in sorted((webhook.options or {}).items())) or None,
        "created": instant(webhook.created_us),
        "disabled": instant(webhook.disabled_us) or None,
    }


def _sent(one: Delivery) -> dict[str, Any]:
    return {
        "id": one.id,
        "webhook": one.webhook_id,
        "tenant": one.tenant_id,
        "type": one.type,
        "percent": msgspec.json.decode(one.body)["data"].get("percent") if one.type in ALERTS else None,
        "state": one.state,
        "tries": one.tries,
        "status": one.status,
        "answer": one.answer,
        "created": instant(one.created_us),
        "tried": instant(one.tried_us) or None,
        "due": instant(one.due_us) if one.state == "waiting" else None,
        "body": one.body,
    }
