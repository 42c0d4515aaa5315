"""OpenAI's reports: /v1/organization/usage/completions (and embeddings), and /v1/organization/costs.

`input_tokens` is everything that went in; ours is without what was cached, written to a cache, or audio. A cost's `line_item` is
"<model>, <kind>" where costs are grouped by it; another text stands for itself, as a model that nobody has.
"""

from decimal import Decimal
from typing import Any

from billing.errors import Invalid
from billing.money import parse_money_exact
from billing.reconcile.bill import DAY_US, TOTAL, Bill, Draft, check_fields, check_spans, count, label, read_pages, us_of

USAGE = ("organization.usage.completions.result", "organization.usage.embeddings.result")
COSTS = "organization.costs.result"
KINDS = {
    "input": "input", "cached input": "cache_read", "output": "output", "audio input": "audio_in", "audio output": "audio_out", "cache write": "cache_write",
}  # fmt: skip
# Those that only divide up another one are known and not counted again.
_USAGE_FIELDS = frozenset((
    "input_tokens", "output_tokens", "num_model_requests", "input_cached_tokens", "input_cache_write_tokens", "input_audio_tokens", "output_audio_tokens",
    "input_cache_write_30m_tokens", "input_cache_write_12h_tokens", "input_cached_audio_tokens", "input_cached_image_tokens", "input_cached_text_tokens",
    "input_image_tokens", "input_text_tokens", "input_uncached_tokens", "output_image_tokens", "output_text_tokens",
))  # fmt: skip
_COST_FIELDS = frozenset(("amount", "quantity"))


def read(data: bytes) -> Bill:
    """Read a report. Raises `Invalid`."""
    draft, spans = Draft(), []
    for bucket in read_pages(data):
        start_us = us_of(bucket.get("start_time"), "start_time")
        spans.append((start_us, us_of(bucket.get("end_time"), "end_time")))
        day_us = start_us - start_us % DAY_US
        for result in bucket["results"]:
            kind = result.get("object") if isinstance(result, dict) else None
            if kind in USAGE:
                _usage(draft, day_us, result)
            elif kind == COSTS:
                _cost(draft, day_us, result)
            else:
                raise Invalid("file", f"file: a result is {kind!r}; known are {', '.join((*USAGE, COSTS))}")
    return draft.finish(*check_spans(spans))


def _usage(draft: Draft, day_us: int, result: dict[str, Any]) -> None:
    check_fields(result, _USAGE_FIELDS)
    cached, written, audio = (count(result, f"input_{kind}_tokens") for kind in ("cached", "cache_write", "audio"))
    said = count(result, "output_audio_tokens")
    parts = {
        "input": count(result, "input_tokens") - cached - written - audio,
        "cache_read": cached,
        "cache_write": written,
        "audio_in": audio,
        "output": count(result, "output_tokens") - said,
        "audio_out": said,
        "requests": count(result, "num_model_requests"),
    }
    for bucket, amount in parts.items():
        if amount < 0:
            raise Invalid("file", f"file: the parts of {bucket}_tokens are more than the whole; this is no report of OpenAI's, or a damaged one")
        if amount:
            draft.quantity(day_us, label(result, "model"), bucket, amount)


def _cost(draft: Draft, day_us: int, result: dict[str, Any]) -> None:
    check_fields(result, _COST_FIELDS)
    amount = result.get("amount")
    value = amount.get("value") if isinstance(amount, dict) else None
    if not isinstance(amount, dict) or type(value) not in (int, Decimal) or not label(amount, "currency"):
        raise Invalid("file", f"file: a cost's `amount` is {amount!r}; it has a `value` (a number) and a `currency`")
    item = label(result, "line_item")
    model, _, kind = item.rpartition(", ")
    place = (model, KINDS[kind]) if model and kind in KINDS else (item, TOTAL)
    draft.cost(day_us, *place, parse_money_exact(str(value), "file"), label(amount, "currency"))
