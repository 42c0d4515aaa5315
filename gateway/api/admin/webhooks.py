"""/admin/webhooks: who is told of thresholds, use and invoices; a signing secret is in the answer that added a webhook and nowhere else."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response
from pydantic import BaseModel, Field

from billing.alerts.webhook import ALERTS, EVENTS, Delivery, Webhook
from billing.operations import webhooks
from gateway.auth.admin import AdminDesk
from gateway.config.forms import Form, Slug
from gateway.wire.instants import from_us
from gateway.wire.pages import show_next
from gateway.wire.problems import problem_router

router = problem_router("/webhooks")


class WebhookNew(Form):
    """An endpoint to add: of one tenant's events, or of every tenant's."""

    url: str = Field(examples=["https://example.com/hook"], description="https; http for this machine alone, or with webhooks.allow_http")
    tenant_id: Slug | None = None
    events: list[str] | None = Field(None, description=f"{', '.join(EVENTS)}; left out: {' and '.join(ALERTS)}")
    kind: Literal["webhook", "stripe", "openmeter"] = Field("webhook", description="whose interface the URL has")
    options: dict[str, str] = Field({}, description="stripe told of usage: `meter`, and `measure` used or overage; openmeter: `source`")


class WebhookOut(BaseModel):
    """An endpoint. It is disabled once it has answered 410."""

    id: str
    url: str
    tenant_id: str | None
    events: list[str] | None
    kind: str
    options: dict[str, str]
    created_at: datetime
    disabled_at: datetime | None


class WebhookAdded(WebhookOut):
    """An endpoint, a webhook with its signing secret, for the only time."""

    secret: str | None


class Customer(Form):
    """Who a tenant is in Stripe; null: nobody."""

    customer: str | None = Field(examples=["cus_NciAYcXfLnqBoz"])


class DeliveryOut(BaseModel):
    """A message and what became of it; `status` and `answer` are of the last try, `due_at` is when it is tried next."""

    id: str
    webhook_id: str
    tenant_id: str | None
    type: str
    state: str
    tries: int
    status: int | None
    answer: str | None
    created_at: datetime
    tried_at: datetime | None
    due_at: datetime | None
    body: str


@router.post("", summary="Add a webhook", status_code=201)
def add(body: WebhookNew, desk: AdminDesk, request: Request) -> WebhookAdded:
    """Add an endpoint. Hand `secret` to the receiver: it cannot be shown again."""
    services: Any = request.app.state.services
    added = webhooks.add_webhook(
        desk.database,
        desk.hasher,
        url=body.url,
        tenant_id=body.tenant_id,
        events=None if body.events is None else tuple(body.events),
        allow_http=services.settings.webhooks.allow_http,
        kind=body.kind,
        options=body.options,
        now_us=desk.now_us(),
    )
    return WebhookAdded(**_out(added.webhook).model_dump(), secret=added.secret)


@router.get("", summary="List webhooks")
def index(
    desk: AdminDesk,
    request: Request,
    response: Response,
    *,
    tenant_id: str | None = None,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> list[WebhookOut]:
    """List endpoints, oldest first. The next page begins `after` the last id, and a `Link` with `rel="next"` names it."""
    page = webhooks.page_webhooks(desk.database, limit=limit, after=after, tenant_id=tenant_id)
    show_next(request, response, page.after)
    return [_out(webhook) for webhook in page.items]


@router.get("/deliveries", summary="List what was sent to webhooks")
def deliveries(desk: AdminDesk, webhook_id: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[DeliveryOut]:
    """List the latest messages, to one endpoint or to all, newest first. They are kept for 30 days."""
    return [_delivery(one) for one in webhooks.list_deliveries(desk.database, webhook_id, limit=limit)]


@router.post("/deliveries/{delivery_id}/retry", summary="Send a message that failed again", status_code=202)
def send_again(delivery_id: str, desk: AdminDesk) -> DeliveryOut:
    """Queue a message that failed once more; it is sent within a second, under the same id."""
    return _delivery(webhooks.send_again(desk.database, delivery_id, desk.now_us()))


@router.put("/stripe-customers/{tenant_id}", summary="Say who a tenant is in Stripe", status_code=204)
def set_customer(tenant_id: str, body: Customer, desk: AdminDesk) -> None:
    """Say who a tenant is in Stripe. A destination of kind stripe is told of tenants that it knows, from when it was added."""
    webhooks.set_stripe_customer(desk.database, tenant_id, body.customer, desk.now_us())


@router.post("/{webhook_id}/test", summary="Send a test to a webhook", status_code=202)
def send_test(webhook_id: str, desk: AdminDesk) -> DeliveryOut:
    """Queue a test message; it is sent within a second, and what became of it is among the deliveries."""
    return _delivery(webhooks.queue_test(desk.database, webhook_id, desk.now_us()).delivery)


@router.delete("/{webhook_id}", summary="Remove a webhook")
def remove(webhook_id: str, desk: AdminDesk) -> WebhookOut:
    """Remove an endpoint with everything that was or would be sent to it."""
    return _out(webhooks.remove_webhook(desk.database, webhook_id, desk.now_us()))


def _out(webhook: Webhook) -> WebhookOut:
    return WebhookOut(
        id=webhook.id,
        url=webhook.url,
        tenant_id=webhook.tenant_id,
        events=None if webhook.events is None else list(webhook.events),
        kind=webhook.kind,
        options=webhook.options or {},
        created_at=from_us(webhook.created_us),
        disabled_at=None if webhook.disabled_us is None else from_us(webhook.disabled_us),
    )


def _delivery(one: Delivery) -> DeliveryOut:
    return DeliveryOut(
        id=one.id,
        webhook_id=one.webhook_id,
        tenant_id=one.tenant_id,
        type=one.type,
        state=one.state,
        tries=one.tries,
        status=one.status,
        answer=one.answer,
        created_at=from_us(one.created_us),
        tried_at=None if one.tried_us is None else from_us(one.tried_us),
        due_at=from_us(one.due_us) if one.state == "waiting" else None,
        body=one.body,
    )
