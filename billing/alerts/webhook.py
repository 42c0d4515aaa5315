"""What a webhook endpoint is, what it is told, how that is signed (Standard Webhooks), and when a failed try is made again. Pure.

The signing secret is not stored: it is made of the pepper and the endpoint's id, so who has only the database cannot sign.
"""

import base64
import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

import msgspec

from billing.alerts.thresholds import Threshold
from billing.errors import Invalid
from billing.money import format_credits
from billing.tenants.keys import KeyHasher

THRESHOLD, EXHAUSTED, TEST = "credits.threshold", "credits.exhausted", "webhook.test"
USAGE_HOURLY, INVOICE_ISSUED = "usage.hourly", "invoice.issued"
INVOICE_VOID = "invoice.void"  # comes to whoever is told of issued ones
ALERTS = (THRESHOLD, EXHAUSTED)
FEEDS = (USAGE_HOURLY, INVOICE_ISSUED)  # made by `billing.feeds`, and told only to who asked for them by name
EVENTS = ALERTS + FEEDS  # what an endpoint may choose among; a test always comes
WAITING, DONE, FAILED = "waiting", "done", "failed"
SECRET_PREFIX = "whsec_"
URL_CHARS_MAX = 2000
ANSWER_CHARS_MAX = 200
GIVE_UP_US = 72 * 3_600_000_000
RETRY_S = (5, 4, 12 * 3600)  # the first pause, how much longer each next one is, and the longest
GONE = 410

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PRINTABLE = re.compile(r"[\x21-\x7e]*")


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint. `tenant_id` None: told of every tenant. `events` None: all alerts. `disabled_us`: when it answered that it is gone.

    `kind` is whose interface it has, with `options` of that kind (`billing.feeds.destination`).
    """

    id: str
    url: str
    tenant_id: str | None
    events: tuple[str, ...] | None
    created_us: int
    disabled_us: int | None = None
    kind: str = "webhook"
    options: dict[str, str] | None = None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one endpoint, with what became of it: `waiting`, `done` or `failed`. `status` and `answer` are of the last try."""

    id: str
    webhook_id: str
    tenant_id: str | None
    type: str
    body: str
    state: str
    created_us: int
    due_us: int
    tries: int = 0
    tried_us: int | None = None
    status: int | None = None
    answer: str | None = None


def check_url(url: str, *, allow_http: bool = False) -> SplitResult:
    """Return the parts of a URL that may be an endpoint. Raises `Invalid`: no http(s), credentials in it, plain http to another machine."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise Invalid("url", "url: cannot be read as a URL; write one like https://example.com/hook") from None
    if len(url) > URL_CHARS_MAX or not _PRINTABLE.fullmatch(url):
        raise Invalid("url", f"url: at most {URL_CHARS_MAX} characters of ASCII, without spaces; percent-encode the path, write the host in punycode")
    if parts.scheme not in ("https", "http") or not host:
        raise Invalid("url", "url: must begin with https:// and name a host; write one like https://example.com/hook")
    if "@" in parts.netloc:
        raise Invalid("url", "url: holds a user or password, which would stand in lists and logs; leave it out, the signature says who sends")
    if parts.fragment:
        raise Invalid("url", "url: the part after # is never sent; leave it out")
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise Invalid("url", "url: http:// can be read and changed on its way; use https://, or set webhooks.allow_http in a network you trust")
    return parts


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine by its name alone: nothing is looked up."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_events(events: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the events an endpoint is told of, each once; None for all alerts. Raises `Invalid`."""
    if events is None:
        return None
    for event in events:
        if event not in EVENTS:
            raise Invalid("events", f"events: `{event}` is not one; choose among {', '.join(EVENTS)}")
    if not events:
        raise Invalid("events", f"events: none are named; choose among {', '.join(EVENTS)}, or leave it out for {' and '.join(ALERTS)}")
    return tuple(event for event in EVENTS if event in events)


def signing_key(hasher: KeyHasher, webhook_id: str) -> bytes:
    """Make an endpoint's signing key, 32 bytes, of the pepper and its id. No API key's digest can equal it: those are of texts that begin with `sk-`."""
    return hasher.digest(f"webhook signing key of {webhook_id}")


def secret_text(key: bytes) -> str:
    """Write a signing key as receivers' libraries take it."""
    return SECRET_PREFIX + base64.b64encode(key).decode()


def signature(key: bytes, message_id: str, timestamp_s: int, body: str) -> str:
    """Sign a message as `webhook-signature` carries it: v1 and the base64 of HMAC-SHA256 over `id.timestamp.body`."""
    digest = hmac.new(key, f"{message_id}.{timestamp_s}.{body}".encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def kind_of(percent: int) -> str:
    """Name the event of a percentage."""
    return EXHAUSTED if percent >= 100 else THRESHOLD


def deliveries_of(threshold: Threshold, webhooks: list[Webhook]) -> list[Delivery]:
    """Return what is told of a threshold, for each endpoint that wants it. Made twice, it has the same ids."""
    wanted = kind_of(threshold.percent)
    body = message_body(
        wanted,
        threshold.at_us,
        {
            "tenant": threshold.tenant_id,
            "period": instant(threshold.period_us) if threshold.period_us else None,
            "percent": threshold.percent,
            "used": format_credits(threshold.used_ncr),
            "limit": format_credits(threshold.limit_ncr),
            "remaining": format_credits(max(0, threshold.limit_ncr - threshold.used_ncr)),
        },
    )
    about = f"{threshold.tenant_id} {threshold.period_us} {threshold.percent}"
    return [
        Delivery(
            id=message_id(f"{webhook.id} {about}"),
            webhook_id=webhook.id,
            tenant_id=threshold.tenant_id,
            type=wanted,
            body=body,
            state=WAITING,
            created_us=threshold.at_us,
            due_us=threshold.at_us,
        )
        for webhook in webhooks
        if webhook.disabled_us is None and webhook.tenant_id in (None, threshold.tenant_id) and (webhook.events is None or wanted in webhook.events)
    ]


def ping_of(webhook: Webhook, nonce: str, now_us: int) -> Delivery:
    """Return a message that says nothing but that it arrived; `nonce` makes it another one each time."""
    body = message_body(TEST, now_us, {"tenant": webhook.tenant_id})
    return Delivery(
        id=message_id(f"{webhook.id} test {nonce}"),
        webhook_id=webhook.id,
        tenant_id=webhook.tenant_id,
        type=TEST,
        body=body,
        state=WAITING,
        created_us=now_us,
        due_us=now_us,
    )


def message_id(about: str) -> str:
    """Name a message by what it is about."""
    return "msg_" + hashlib.blake2b(about.encode(), digest_size=16).hexdigest()


def next_try_us(tries: int, created_us: int, now_us: int, jitter: float) -> int | None:
    """Return when to try again after that many tries, `jitter` in [0, 1) spreading it by a quarter either way; None: give up, 3 days have passed.

    Pauses: 5 s, 20 s, 80 s, 5 min, 21 min, 85 min, 6 h, then 12 h each.
    """
    first_s, times, longest_s = RETRY_S
    pause_s = min(longest_s, first_s * times ** min(tries - 1, 20))
    due_us = now_us + int(pause_s * (750_000 + 500_000 * jitter))
    return None if due_us > created_us + GIVE_UP_US else due_us


def message_body(kind: str, at_us: int, data: dict[str, object]) -> str:
    """Write a message as Standard Webhooks has it: type, timestamp, data."""
    return msgspec.json.encode({"type": kind, "timestamp": instant(at_us), "data": data}).decode()


def instant(us: int) -> str:
    """Write an instant as messages carry it, to the second: 2026-11-01T00:00:00Z."""
    return (_EPOCH + timedelta(microseconds=us)).strftime("%Y-%m-%dT%H:%M:%SZ")
