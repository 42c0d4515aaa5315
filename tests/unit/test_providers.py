"""What is sent to a server of OpenAI's dialect: the client's own bytes, and only the changes that must be."""

import json

import msgspec
import pytest
from pydantic import ValidationError

from backends.config import BackendConfig
from backends.errors import BadAnswer, BadConfig
from backends.openai.body import JOIN_MAX, stream_options
from backends.openai.dialect import OpenAIDialect
from backends.providers import build_provider, provider_names
from backends.providers.local import LlamaServer
from backends.providers.openai_compatible import OpenAICompatible
from backends.providers.vllm import VLLM
from backends.vendors import Vendor, vendor_named
from tests.transport import body_of, call_of, target_at


def test_only_the_model_differs_and_every_other_byte_and_their_order_stay() -> None:
    body = b'{"messages":[ {"role":"user","content":"h\\u00e9 \\ud83d\\ude00"} ],"model":"public","temperature":0.70,"x_unknown":{"a" : null},"seed":null}'
    sent = body_of(OpenAICompatible().exchange(call_of(body), target_at(model="up/1")))
    assert sent == body.replace(b'"public"', b'"up/1"')


def test_a_stream_is_made_to_report_usage_and_keeps_the_clients_other_options() -> None:
    body = b'{"model":"m","stream":true,"stream_options":{"include_usage":false,"include_obfuscation":false},"messages":[]}'
    sent = json.loads(body_of(OpenAICompatible().exchange(call_of(body, stream=True), target_at())))
    assert sent["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert list(sent) == ["model", "stream", "stream_options", "messages"]


def test_stream_options_are_added_when_the_client_sent_none_or_null() -> None:
    for body in (b'{"model":"m","stream":true,"messages":[]}', b'{"model":"m","stream":true,"stream_options":null,"messages":[]}'):
        sent = json.loads(body_of(OpenAICompatible().exchange(call_of(body, stream=True), target_at())))
        assert sent["stream_options"] == {"include_usage": True}


def test_stream_options_that_are_no_object_are_left_for_the_server_to_refuse() -> None:
    assert bytes(stream_options(msgspec.Raw(b'"yes"'), include_usage=True)) == b'"yes"'


def test_nothing_is_added_to_a_request_that_is_not_streamed() -> None:
    assert (
        body_of(OpenAICompatible().exchange(call_of(b'{"model":"m","input":"a"}', endpoint="embeddings"), target_at())) == b'{"model":"upstream","input":"a"}'
    )


def test_a_large_member_is_passed_on_as_a_slice_of_the_clients_bytes() -> None:
    body = b'{"model":"m","messages":"' + b"x" * (JOIN_MAX * 4) + b'","n":1}'
    parts = OpenAICompatible().exchange(call_of(body), target_at()).body
    large = [part for part in parts if isinstance(part, memoryview)]
    assert [part.nbytes for part in large] == [JOIN_MAX * 4 + 2]
    assert isinstance(large[0].obj, msgspec.Raw | bytes)
    assert b"".join(parts) == body.replace(b'"m"', b'"upstream"')


def test_our_key_and_identifiers_are_sent_and_the_path_stands_under_the_base() -> None:
    exchange = OpenAICompatible().exchange(
        call_of(b'{"model":"m"}', traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01"), target_at("https://h.example/api/v3/", api_key="k")
    )
    headers = dict(exchange.headers + exchange.own_headers)
    assert exchange.path == "/api/v3/chat/completions"
    assert (exchange.origin.scheme, exchange.origin.host, exchange.origin.port) == ("https", "h.example", 443)
    assert headers["authorization"] == "Bearer k"
    assert headers["x-request-id"] == "r-1"
    assert headers["traceparent"].startswith("00-aaaa")
    assert headers["user-agent"].startswith("weir/")
    assert headers["accept"] == "application/json"


def test_a_traceparent_that_is_none_is_not_passed_on() -> None:
    exchange = OpenAICompatible().exchange(call_of(b'{"model":"m"}', traceparent="00-x\r\nevil: 1"), target_at())
    assert "traceparent" not in dict(exchange.headers + exchange.own_headers)


@pytest.mark.parametrize(("auth", "name", "value"), [("api-key", "api-key", "k"), ("x-api-key", "x-api-key", "k"), ("bearer", "authorization", "Bearer k")])
def test_the_key_goes_where_the_vendor_reads_it(auth: str, name: str, value: str) -> None:
    vendor = Vendor.model_validate({"name": "v", "title": "v1", "base_url": None, "auth": auth})
    assert dict(OpenAIDialect(vendor).exchange(call_of(b'{"model":"m"}'), target_at(api_key="k")).headers)[name] == value


def test_a_vendor_gets_no_member_it_refuses_and_its_own_name_for_those_it_renames() -> None:
    body = b'{"model":"m","max_completion_tokens":9,"user":"u","store":true,"top_p":0.5,"messages":[]}'
    sent = json.loads(body_of(OpenAIDialect(vendor_named("mistral")).exchange(call_of(body), target_at())))
    assert sent == {"model": "upstream", "max_tokens": 9, "top_p": 0.5, "messages": []}


def test_a_strict_vendor_gets_only_what_it_knows() -> None:
    body = b'{"model":"m","messages":[],"max_tokens":5,"max_completion_tokens":9,"logit_bias":{},"x":1,"stream":true}'
    sent = json.loads(body_of(OpenAIDialect(vendor_named("sensenova")).exchange(call_of(body, stream=True), target_at())))
    assert sent == {"model": "upstream", "messages": [], "max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}}


def test_flex_is_bought_where_it_is_sold_and_the_client_named_no_tier() -> None:
    openai, plain = OpenAIDialect(vendor_named("openai")), OpenAIDialect()
    assert json.loads(body_of(openai.exchange(call_of(b'{"model":"m"}'), target_at(flex=True)))) == {"model": "upstream", "service_tier": "flex"}
    unsold = call_of(b'{"model":"m","service_tier":"auto"}')  # its wish is not passed on, so it has bought nothing
    assert json.loads(body_of(openai.exchange(unsold, target_at(flex=True)))) == {"model": "upstream", "service_tier": "flex"}
    bought = call_of(b'{"model":"m","service_tier":"priority"}')
    bought.service_tier = "priority"
    assert json.loads(body_of(openai.exchange(bought, target_at(flex=True)))) == {"model": "upstream", "service_tier": "priority"}
    assert json.loads(body_of(plain.exchange(call_of(b'{"model":"m"}'), target_at(flex=True)))) == {"model": "upstream"}


FLEX = {"name": "v", "title": "v1", "base_url": None, "flex": "cheap"}


@pytest.mark.parametrize(
    ("provider", "tier"),
    [
        (OpenAIDialect(vendor_named("openai")), "flex"),
        (OpenAIDialect(Vendor.model_validate(FLEX)), "cheap"),
        (OpenAIDialect(Vendor.model_validate({**FLEX, "withholds": ["service_tier"]})), "cheap"),  # a client's is not passed on; ours is
        (OpenAIDialect(Vendor.model_validate({**FLEX, "refuses": ["service_tier"]})), None),
        (OpenAIDialect(Vendor.model_validate({**FLEX, "accepts": ["model", "messages"]})), None),
        (VLLM(Vendor.model_validate(FLEX)), None),  # the operator's own server sells nothing
        (OpenAIDialect(), None),
    ],
    ids=["sold", "by another name", "withheld", "refused", "not accepted", "own server", "not sold"],
)
def test_what_buys_the_cheap_tier_is_said_and_sent_alike(provider: OpenAIDialect, tier: str | None) -> None:
    assert provider.flex_tier == tier
    assert json.loads(body_of(provider.exchange(call_of(b'{"model":"m"}'), target_at(flex=True)))).get("service_tier") == tier


@pytest.mark.parametrize(
    ("refusal", "of_the_tier"),
    [
        ((429, "resource_unavailable", None, ""), True),
        ((429, None, None, "Resource Unavailable"), True),
        ((498, "capacity_exceeded", None, ""), True),
        ((400, None, "service_tier", "Invalid service_tier argument"), True),
        ((400, None, None, "Flex is not available for this model."), True),
        ((429, "rate_limit_exceeded", None, "Rate limit reached for gpt-5 on tokens per min"), False),
        ((429, "insufficient_quota", None, "You exceeded your current quota"), False),
        ((400, "invalid_value", "messages", "Invalid value for a flexible schema"), False),
        ((401, None, None, "flex"), False),
        ((500, "resource_unavailable", "service_tier", "flex"), False),
    ],
    ids=str,
)
def test_a_refusal_of_the_cheap_tier_is_told_from_one_of_the_request(refusal: tuple[int, str | None, str | None, str], of_the_tier: bool) -> None:
    assert OpenAIDialect(vendor_named("openai")).flex_refused(*refusal) is of_the_tier
    assert not VLLM().flex_refused(*refusal), "it was not asked for there"


def test_streamlakes_400_for_a_rate_limit_is_a_429_and_its_other_400s_stay() -> None:
    provider = OpenAIDialect(vendor_named("streamlake"))
    assert provider.true_status(400, b'{"error":{"code":"RateLimitExceeded"}}') == 429
    assert provider.true_status(400, b'{"error":{"message":"messages is required"}}') == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"base_resp":{"status_code":1002,"status_msg":"rate limit"}}', 429),
        (b'{"base_resp":{"status_code":0,"status_msg":"success"}}', 200),
        (b'{"base_resp":{"status_code":4711}}', 502),
        (b'{"base_resp":null}', 200),
        (b'{"base_resp": broken', 200),
        (b'["base_resp"]', 200),
        (b'{"base_resp":{"status_code":[1]}}', 502),
        (b'{"base_resp":' + b"[" * 100_000, 200),
    ],
)
def test_minimaxs_errors_inside_a_200_are_seen(body: bytes, status: int) -> None:
    assert OpenAIDialect(vendor_named("minimax")).true_status(200, body) == status


def test_vllm_is_asked_for_usage_in_every_chunk_and_given_a_priority_only_when_there_is_one() -> None:
    body = b'{"model":"m","stream":true,"messages":[]}'
    plain = json.loads(body_of(VLLM().exchange(call_of(body, stream=True), target_at())))
    assert plain["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert "priority" not in plain
    assert json.loads(body_of(VLLM().exchange(call_of(body, stream=True), target_at(priority=7))))["priority"] == 7


def test_a_clients_own_priority_never_reaches_vllm() -> None:
    body = b'{"model":"m","priority":-99,"messages":[]}'
    assert json.loads(body_of(VLLM().exchange(call_of(body), target_at())))["priority"] == 0
    assert json.loads(body_of(VLLM().exchange(call_of(body), target_at(priority=3))))["priority"] == 3


@pytest.mark.parametrize("member", ["n_predict", "n_cmpl", "id_slot", "lora"])
def test_llamas_own_names_for_more_and_longer_answers_and_for_its_slots_are_not_passed_on(member: str) -> None:
    body = b'{"model":"m","messages":[],"max_tokens":5,"n":1,"grammar":"x","t_max_predict_ms":9,"%b":64}' % member.encode()
    sent = json.loads(body_of(LlamaServer().exchange(call_of(body), target_at())))
    assert sent == {"model": "upstream", "messages": [], "max_tokens": 5, "n": 1, "grammar": "x", "t_max_predict_ms": 9}


@pytest.mark.parametrize("member", sorted(VLLM.withheld))
def test_what_reaches_past_a_request_in_vllm_is_not_passed_on(member: str) -> None:
    body = b'{"model":"m","messages":[],"min_tokens":3,"ignore_eos":true,"structured_outputs":{},"cache_salt":"s","%b":{"a":1}}' % member.encode()
    sent = json.loads(body_of(VLLM().exchange(call_of(body), target_at())))
    assert sent == {"model": "upstream", "messages": [], "min_tokens": 3, "ignore_eos": True, "structured_outputs": {}, "cache_salt": "s"}


def test_vllm_is_not_told_to_search_by_beams_to_fetch_caches_or_to_see_images_larger() -> None:
    assert {"use_beam_search", "kv_transfer_params", "ec_transfer_params", "vllm_xargs", "mm_processor_kwargs", "stream_interval"} <= VLLM.withheld


PAID = [
    ("openai", b'"service_tier":"priority"'),
    ("openai", b'"web_search_options":{}'),
    (None, b'"service_tier":"priority"'),
    ("openrouter", b'"models":["dear"]'),
    ("openrouter", b'"plugins":[{"id":"web"}]'),
    ("openrouter", b'"provider":{"order":["x"]}'),
    ("openrouter", b'"route":"fallback"'),
    ("openrouter", b'"transforms":[]'),
    ("dashscope", b'"enable_search":true'),
    ("dashscope", b'"search_options":{"forced_search":true}'),
    ("qianfan", b'"web_search":{"enable":true}'),
    ("hunyuan", b'"enable_enhancement":true'),
    ("gemini", b'"extra_body":{"google":{}}'),
    ("zhipu", b'"tools":[{"type":"web_search","web_search":{"enable":true}}]'),
    ("moonshot", b'"tools":[{"type":"builtin_function","function":{"name":"$web_search"}}]'),
]


@pytest.mark.parametrize(("vendor", "paid"), PAID)
def test_what_a_vendor_sells_beside_its_tokens_cannot_be_switched_on_at_this_models_rate(vendor: str | None, paid: bytes) -> None:
    provider = OpenAIDialect(vendor_named(vendor))
    sent = json.loads(body_of(provider.exchange(call_of(b'{"model":"m",%b,"messages":[],"top_p":1}' % paid), target_at())))
    assert sent == {"model": "upstream", "messages": [], "top_p": 1}


def test_of_a_vendors_tools_only_those_that_the_client_runs_itself_are_passed_on() -> None:
    own = b'{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}'
    asked = b'{"model":"m","tools":[{"type":"web_search"}, %b ,{"type":"openrouter:web_search"},{"type":"custom","custom":{"name":"c"}}]}' % own
    sent = body_of(OpenAIDialect(vendor_named("openrouter")).exchange(call_of(asked), target_at()))
    assert sent == b'{"model":"upstream","tools":[%b,{"type":"custom","custom":{"name":"c"}}]}' % own
    untouched = b'{"model":"m","tools":[ %b ]}' % own
    assert body_of(OpenAIDialect(vendor_named("zhipu")).exchange(call_of(untouched), target_at())) == untouched.replace(b'"m"', b'"upstream"')
    assert body_of(VLLM().exchange(call_of(asked), target_at())) == asked.replace(b'"m"', b'"upstream"')
    for odd in (b'"none"', b"null", b"[1]", b'{"type":"function"}', b"[" * 30_000 + b"]" * 30_000):
        shapeless = msgspec.Raw(odd)
        call = call_of(b'{"model":"m"}')
        call.members["tools"] = shapeless
        assert body_of(OpenAIDialect(vendor_named("zhipu")).exchange(call, target_at())) == b'{"model":"upstream","tools":%b}' % odd


def test_vllms_tokenizer_and_health_stand_beside_v1() -> None:
    provider, target = VLLM(), target_at("http://h:1/prefix/v1")
    counting = provider.count_exchange("héllo", target)
    health = provider.health_exchange(target)
    assert counting is not None
    assert health is not None
    metrics = provider.load_exchange(target)
    assert metrics is not None
    assert (counting.path, health.path, metrics.path) == ("/prefix/tokenize", "/prefix/health", "/prefix/metrics")
    assert OpenAICompatible().load_exchange(target) is LlamaServer().load_exchange(target) is None
    assert json.loads(body_of(counting)) == {"model": "upstream", "prompt": "héllo", "add_special_tokens": False}
    assert provider.count(b'{"count":2,"max_model_len":2048,"tokens":[1,2]}') == 2
    assert LlamaServer().count(b'{"tokens":[28120,905]}') == 2


@pytest.mark.parametrize("answer", [b"", b"<html>", b"{}", b'{"count":-1}', b'{"count":"2"}', b'{"count":2.5}'])
def test_a_count_that_is_none_is_a_bad_answer(answer: bytes) -> None:
    with pytest.raises(BadAnswer):
        VLLM().count(answer)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("exceed_context_size_error", "request (3031 tokens) exceeds the available context size (2048 tokens), try increasing it"),
        ("server_error", "input (3001 tokens) is too large to process. increase the physical batch size (current batch size: 2048)"),
        ("server_error", "input (9000 tokens) is larger than the max context size (2048 tokens). skipping"),
    ],
)
def test_llamas_words_for_a_prompt_that_is_too_long_are_openais_code(kind: str, message: str) -> None:
    assert LlamaServer().error_code(400, kind, message) == "context_length_exceeded"
    assert LlamaServer().error_code(400, "invalid_request_error", "'messages' is required") is None


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 input tokens, which exceeds this limit.",
        "Input length (3000) exceeds model's maximum context length (2048).",
        "The decoder prompt (length 3000) is longer than the maximum model length of 2048. Make sure that `max_model_len` is no smaller than the number of",
        "The decoder prompt (length 2048) plus the number of requested output tokens (at least 1) is longer than the maximum model length of 2048.",
    ],
)
def test_vllms_words_for_a_prompt_that_is_too_long_are_openais_code(message: str) -> None:
    assert VLLM().error_code(400, "BadRequestError", message) == "context_length_exceeded"
    assert VLLM().error_code(500, "InternalServerError", message) is None
    assert VLLM().error_code(400, "BadRequestError", "max_tokens must be at least 1") is None
    assert OpenAICompatible().error_code(400, None, "This model's maximum context length is 8 tokens.") == "context_length_exceeded"


def test_llamas_500_for_an_input_that_is_too_long_is_a_400() -> None:
    assert LlamaServer().true_status(500, b'{"error":{"message":"input (3001 tokens) is too large to process."}}') == 400
    assert LlamaServer().true_status(500, b"{}") == 500


def test_providers_are_found_by_their_files_and_an_unknown_one_is_refused_by_name() -> None:
    assert {"openai_compatible", "vllm", "local", "echo"} <= set(provider_names())
    assert isinstance(build_provider(BackendConfig(provider="vllm", urls=("http://a/v1",))), VLLM)
    with pytest.raises(BadConfig, match=r"no provider `nope`; one of .*echo"):
        build_provider(BackendConfig.model_construct(provider="nope"))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"provider": "ehco"}, r"unknown provider `ehco`; did you mean `echo`\? one of echo, local, openai_compatible, vllm"),
        ({"provider": "zzz", "urls": "http://a/v1"}, r"unknown provider `zzz`; one of echo, "),
        ({"provider": "vllm"}, "give `urls`"),
    ],
)
def test_a_misspelt_provider_is_told_before_what_else_it_lacks(given: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        BackendConfig.model_validate(given)


def test_a_service_tier_that_the_models_rate_prices_is_passed_on_and_only_to_those_who_sell_it() -> None:
    call = call_of(b'{"model":"m","service_tier":"priority","messages":[]}')
    call.service_tier = "priority"
    sent = {name: json.loads(body_of(OpenAIDialect(vendor_named(name)).exchange(call, target_at()))) for name in ("openai", "mistral")}
    assert sent["openai"] == {"model": "upstream", "service_tier": "priority", "messages": []}
    assert sent["mistral"] == {"model": "upstream", "messages": []}  # it refuses the member
    assert "service_tier" not in json.loads(body_of(VLLM().exchange(call, target_at())))  # our own server sells none
