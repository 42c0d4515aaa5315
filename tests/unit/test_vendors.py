"""Every vendor of the brief has a row, and a row that is wrong stops the start."""

import pytest

from backends.config import BackendConfig
from backends.errors import BadConfig
from backends.openai.dialect import OpenAIDialect
from backends.pool import Pool
from backends.vendors import read_vendors, vendor_named, vendors
from tests.transport import ScriptedTransport, call_of, target_at

WANTED = (
    "qianfan dashscope hunyuan tokenhub ark modelarts modelarts_intl sensenova baichuan streamlake moonshot deepseek zhipu minimax jd mobvoi spark stepfun "
    "openai mistral openrouter groq together oci hyperclova gemini"
).split()


def test_every_vendor_of_the_brief_has_its_row() -> None:
    assert set(WANTED) <= set(vendors())


@pytest.mark.parametrize("name", sorted(vendors()))
def test_a_request_can_be_written_for_every_vendor(name: str) -> None:
    vendor = vendor_named(name)
    base_url = vendor.base_url or "https://given.example/v1"
    exchange = OpenAIDialect(vendor).exchange(call_of(b'{"model":"m","messages":[]}'), target_at(base_url, api_key="k"))
    assert base_url.startswith("https://")
    assert exchange.path.endswith("/chat/completions")
    assert any("k" in value for key, value in exchange.headers if key in ("authorization", "api-key", "x-api-key"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "must map"),
        ("a: 1", "`a` is no row"),
        ("a: {title: Aa, base_url: null, refuse: [x]}", "refuse"),
        ("a: {title: Aa}", "base_url"),
        ("a: {title: Aa, base_url: 'ftp://x'}", "no base URL"),
        ("a: {title: Aa, base_url: 'https://u:p@x/v1'}", "no user"),
        ("A b: {title: Aa, base_url: null}", "name"),
        ("a: {title: Aa, base_url: null, auth: basic}", "auth"),
        ("a: {name: b, title: Aa, base_url: null}", "name"),
    ],
)
def test_a_wrong_row_is_refused_and_named(text: str, why: str) -> None:
    with pytest.raises(BadConfig, match=why):
        read_vendors(text)


def test_an_unknown_vendor_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(BadConfig, match=r"no vendor `nope`; one of .*deepseek"):
        vendor_named("nope")


def test_a_vendor_without_an_address_needs_urls_and_its_address_is_used_where_it_has_one() -> None:
    with pytest.raises(BadConfig, match="region"):
        Pool("o", BackendConfig(vendor="oci"), ScriptedTransport())
    assert Pool("d", BackendConfig(vendor="deepseek"), ScriptedTransport()).replicas[0].origin.host == "api.deepseek.com"
