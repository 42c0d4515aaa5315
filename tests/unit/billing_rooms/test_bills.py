"""Readers of providers' bills: every figure arrives exactly, and what is not understood is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai.types.admin.organization import UsageCompletionsResponse, UsageCostsResponse

from billing.errors import Invalid
from billing.reconcile import anthropic, openai, plain
from billing.reconcile.bill import Bill
from tests.clock import START_US

BILLS = Path(__file__).with_name("bills")
DAY = START_US - START_US % 86_400_000_000
MINI, OPUS = "gpt-4o-mini-2024-07-18", "claude-opus-4-20250514"


def figures(bill: Bill) -> dict[tuple[str, str], int]:
    assert {line.day_us for line in bill.lines} == {DAY}
    return {(line.model, line.bucket): line.amount for line in bill.lines}


@pytest.mark.parametrize(("name", "kind"), [("openai_usage", UsageCompletionsResponse), ("openai_costs", UsageCostsResponse)])
def test_the_samples_are_what_the_vendors_own_types_take(name: str, kind: type[Any]) -> None:
    kind.model_validate_json((BILLS / f"{name}.json").read_bytes(), strict=True)


def test_openais_usage_is_divided_into_disjoint_buckets() -> None:
    bill = openai.read((BILLS / "openai_usage.json").read_bytes())
    assert figures(bill) == {(MINI, "input"): 700, (MINI, "cache_read"): 700, (MINI, "output"): 300, (MINI, "requests"): 100}
    assert (bill.start_us, bill.end_us, bill.currency, bill.measures) == (DAY, DAY + 2 * 86_400_000_000, None, ("quantity",))


def test_openais_costs_are_exact_and_what_is_finer_is_told() -> None:
    bill = openai.read((BILLS / "openai_costs.json").read_bytes())
    assert figures(bill) == {(MINI, "input"): 300_000_000_000, (MINI, "cache_read"): 10_500_000, ("Image models", "total"): 60_000_000_000}
    assert bill.warnings == ("1 amounts are finer than 10^-12 of a major unit and were rounded",)


def test_anthropics_usage_and_costs_in_cents() -> None:
    assert figures(anthropic.read((BILLS / "anthropic_usage.json").read_bytes())) == {
        (OPUS, "input"): 1500, (OPUS, "cache_write_1h"): 1000, (OPUS, "cache_write_5m"): 500, (OPUS, "cache_read"): 200, (OPUS, "output"): 500,
        (OPUS, "searches"): 10,
    }  # fmt: skip
    assert figures(anthropic.read((BILLS / "anthropic_costs.json").read_bytes())) == {(OPUS, "input"): 1_237_891_200_000, ("", "searches"): 100_000_000_000}


def test_a_csv_has_quantities_and_costs() -> None:
    bill = plain.read(b"day,model,bucket,quantity,cost,currency\r\n2026-11-03,m,input,7,0.25,usd\r\n2026-11-03,n,total,,-1,USD\r\n")
    assert [(line.model, line.bucket, line.measure, line.amount) for line in bill.lines] == [
        ("m", "input", "cost", 250_000_000_000), ("m", "input", "quantity", 7), ("n", "total", "cost", -(10**12)),
    ]  # fmt: skip


def changed(name: str, change: Callable[[dict[str, Any]], object]) -> bytes:
    page = json.loads((BILLS / f"{name}.json").read_bytes())
    change(page)
    return json.dumps(page).encode()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda page: page.update(has_more=True, next_page="p2"), "pages are missing"),
        (lambda page: page["data"].append(page["data"][0]), "comes twice or overlaps"),
        (lambda page: page["data"][0]["results"][0].update(input_video_tokens=5), "`input_video_tokens`, which is not known"),
        (lambda page: page["data"][0]["results"][0].update(input_tokens=10), "more than the whole"),
        (lambda page: page["data"][0]["results"][0].update(input_tokens=1.5), "a count is a whole number"),
        (lambda page: page["data"][0]["results"][0].update(object="other"), "a result is 'other'"),
        (lambda page: page["data"][1].update(end_time=1793836800 + 60), "not within one UTC day"),
        (lambda page: page["data"][0].update(start_time=1793664060), "midnight UTC"),
        (lambda page: page["data"][0].update(results=[]), "no lines"),
    ],
)
def test_a_report_that_is_not_understood_is_refused(change: Callable[[dict[str, Any]], object], part: str) -> None:
    with pytest.raises(Invalid, match=part):
        openai.read(changed("openai_usage", change))


def test_pages_in_a_list_are_one_report() -> None:
    page = json.loads((BILLS / "openai_usage.json").read_bytes())
    pages = [page | {"data": page["data"][:1], "has_more": True, "next_page": "p2"}, page | {"data": page["data"][1:]}]
    assert openai.read(json.dumps(pages).encode()) == openai.read((BILLS / "openai_usage.json").read_bytes())
    with pytest.raises(Invalid, match="pages are missing"):
        openai.read(json.dumps(pages[::-1]).encode())


@pytest.mark.parametrize("text", [b"nonsense", b"[]", b"{}", b"NaN", b'{"data": [], "has_more": false}', b"\xff"])
def test_what_is_no_report_is_refused_by_every_reader(text: bytes) -> None:
    for read in (openai.read, anthropic.read, plain.read):
        with pytest.raises(Invalid):
            read(text)
