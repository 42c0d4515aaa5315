"""Anthropic's reports: /v1/organizations/usage_report/messages and /v1/organizations/cost_report. Amounts are decimal text in cents."""

from typing import Any

from billing.errors import Invalid
from billing.money import parse_money_exact
from billing.reconcile.bill import DAY_US, TOTAL, Bill, Draft, check_fields, check_spans, count, label, read_pages, us_of

TOKENS = {
    "uncached_input_tokens": "input",
    "cache_read_input_tokens": "cache_read",
    "cache_creation.ephemeral_5m_input_tokens": "cache_write_5m",
    "cache_creation.ephemeral_1h_input_tokens": "cache_write_1h",
    "output_tokens": "output",
}
TOOLS = {"server_tool_use.web_search_requests": "searches"}
OTHERS = {"web_search": "searches", "code_execution": "code_execution"}  # kinds of cost that are no tokens'
_GROUPS = ("cache_creation", "server_tool_use")


def read(data: bytes) -> Bill:
    """Read a report. Raises `Invalid`."""
    draft, spans = Draft(), []
    for bucket in read_pages(data):
        start_us = us_of(bucket.get("starting_at"), "starting_at")
        spans.append((start_us, us_of(bucket.get("ending_at"), "ending_at")))
        for result in bucket["results"]:
            if not isinstance(result, dict):
                raise Invalid("file", f"file: a result is {result!r}, and no object")
            (_cost if "amount" in result else _usage)(draft, start_us - start_us % DAY_US, result)
    return draft.finish(*check_spans(spans))


def _usage(draft: Draft, day_us: int, result: dict[str, Any]) -> None:
    flat = {name: value for name, value in result.items() if name not in _GROUPS}
    for group in _GROUPS:
        parts = result.get(group) or {}
        if not isinstance(parts, dict):
            raise Invalid("file", f"file: `{group}` is {parts!r}, and no object")
        flat |= {f"{group}.{name}": value for name, value in parts.items()}
    known = TOKENS | TOOLS
    check_fields(flat, frozenset(known))
    if not known.keys() & flat.keys():
        raise Invalid("file", "file: a result has neither tokens nor an amount; it is of no report known here")
    for name, bucket in known.items():
        if amount := count(flat, name):
            draft.quantity(day_us, label(flat, "model"), bucket, amount)


def _cost(draft: Draft, day_us: int, result: dict[str, Any]) -> None:
    check_fields(result, frozenset())
    amount, currency = label(result, "amount"), label(result, "currency")
    if not amount or not currency:
        raise Invalid("file", f"file: an amount is {result['amount']!r} {result.get('currency')!r}; it is a decimal in text, with a currency")
    kind, token = label(result, "cost_type"), label(result, "token_type")
    if token and token not in TOKENS:
        raise Invalid("file", f"file: there is no token_type `{token}` known here; nothing is dropped, so the bill is refused")
    bucket = TOKENS[token] if token else OTHERS.get(kind, TOTAL)
    draft.cost(day_us, label(result, "model"), bucket, parse_money_exact(amount, "file"), currency, units=100)
