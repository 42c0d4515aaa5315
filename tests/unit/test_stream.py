"""The tap on a stream: what passes, what is noticed, what is withheld."""

import msgspec
import pytest

import backends.stream
from backends.errors import BadAnswer
from backends.sse import tier_of
from backends.stream import EVENT_BYTES_MAX, RAW_BYTES_MAX, StreamTap

USAGE = b'{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}'
DONE = b"data: [DONE]\n\n"


def chunk(content: str = "hi", more: bytes = b"", finish: bytes = b"null") -> bytes:
    text = msgspec.json.encode(content)
    head = b'{"id":"c-1","object":"chat.completion.chunk","created":7,"model":"m","choices":'
    return b"data: " + head + b'[{"index":0,"delta":{"content":' + text + b'},"finish_reason":' + finish + b"}]" + more + b"}\n\n"


def last(usage: bytes = USAGE, choices: bytes = b"[]") -> bytes:
    return b'data: {"id":"c-1","object":"chat.completion.chunk","created":7,"model":"m","choices":' + choices + b',"usage":' + usage + b"}\n\n"


def tap(*, strip: bool = True, drop: bool = True) -> StreamTap:
    return StreamTap(strip_usage=strip, drop_continuous=drop)


def raw(value: msgspec.Raw | None) -> bytes | None:
    return None if value is None else bytes(value)


def test_events_pass_as_they_came() -> None:
    stream = tap()
    for event in (chunk("a"), b": keep-alive\n\n", chunk("b") + chunk("c"), b"event: x\nid: 1\ndata: {}\n\n"):
        assert stream.feed(event) == event
    assert (stream.events, stream.text(), stream.ended) == (4, "abc", False)


def test_half_an_event_waits_for_its_other_half() -> None:
    stream, event = tap(), chunk("caf\u00e9 \u4f60")
    cut = event.index("\u4f60".encode()) + 1
    assert stream.feed(event[:cut]) == b""
    assert stream.feed(event[cut:] + event[:9]) == event
    assert stream.feed(event[9:]) == event


@pytest.mark.parametrize("event", [b'data: {"a":1}\r\n\r\n', b'data: {"a":1}\r\n\n', b'data: {"a":1}\n\r\n', b'data:{"a":1}\n\n', b"\n\ndata: {}\n\n"])
def test_line_ends_of_every_kind_end_events(event: bytes) -> None:
    stream = tap()
    assert b"".join([stream.feed(event[at : at + 1]) for at in range(len(event))]) == event
    assert stream.close() == b""


@pytest.mark.parametrize(
    ("strip", "end"), [(True, DONE), (False, last(USAGE[:-1] + b',"cost":1.5}') + DONE)], ids=["client did not ask for usage", "client asked"]
)
def test_the_end_is_withheld_for_the_cost(strip: bool, end: bytes) -> None:
    stream = tap(strip=strip)
    assert stream.feed(chunk("a", finish=b'"stop"') + last() + DONE) == chunk("a", finish=b'"stop"')
    assert (raw(stream.usage), stream.ended, stream.events) == (USAGE, True, 2)
    assert stream.tail(b'"cost":1.5') == end
    assert stream.feed(chunk("late")) == b""


def test_a_tail_without_extra_is_byte_exact() -> None:
    odd = b'data: { "choices" : [ ] , "usage" : {"a": 1 } , "x":[1] }\r\n\r\n'
    stream = tap(strip=False)
    assert stream.feed(odd) + stream.feed(b"data:[DONE]\r\n\r\n") == b""
    assert stream.tail() == odd + b"data:[DONE]\r\n\r\n"
    assert stream.tail(b'"cost":2') == b'data: { "choices" : [ ] , "usage" : {"a": 1,"cost":2} , "x":[1] }\r\n\r\ndata:[DONE]\r\n\r\n'


def test_extra_goes_into_an_empty_usage() -> None:
    stream = tap(strip=False)
    stream.feed(last(b"{}"))
    assert stream.tail(b'"cost":0') == last(b'{"cost":0}') + DONE


def test_null_usage_in_every_chunk_passes() -> None:
    stream = tap()
    for null in (b',"usage":null', b',"usage": null', b' , "usage" : null '):
        event = chunk("a", null)
        assert stream.feed(event) == event
        assert stream.feed(event + event) == event + event
    assert stream.usage is None


def test_null_usage_without_choices_is_not_the_end() -> None:
    stream, filters = tap(), last(b"null")
    assert stream.feed(filters) == filters
    assert stream.feed(chunk()) == chunk()


def test_continuous_usage_is_taken_out_and_remembered() -> None:
    stream, seen = tap(), b""
    for number in range(3):
        usage = b'{"prompt_tokens":5,"completion_tokens":%d,"prompt_tokens_details":{"cached_tokens":null}}' % number
        seen += stream.feed(chunk("a", b',"usage":' + usage))
        assert raw(stream.usage) == usage
    assert seen == chunk("a") * 3
    assert (stream.text(), stream.events) == ("aaa", 3)


def test_continuous_usage_stays_for_a_client_that_asked_for_it() -> None:
    stream, event = tap(strip=False, drop=False), chunk("a", b',"usage":' + USAGE)
    assert stream.feed(event) == event
    assert raw(stream.usage) == USAGE
    assert stream.tail() == DONE  # it has been seen: a second report could be summed


@pytest.mark.parametrize(
    ("came", "passed"),
    [
        (b'data: {"usage":{"a":1},"choices":[{"text":"x"}]}\n\n', b'data: {"choices":[{"text":"x"}]}\n\n'),
        (b'data: {"choices":[{"text":"x"}], "usage" : {"a":1} , "z":1}\n\n', b'data: {"choices":[{"text":"x"}] , "z":1}\n\n'),
        (b'data: {"choices":[{"text":"x","usage":{"a":1}}],"usage":{"a":1}}\n\n', b'data: {"choices":[{"text":"x","usage":{"a":1}}]}\n\n'),
        (b'event: e\r\ndata: {"choices":[{"text":"x"}],\r\ndata: "usage":{"a":1}}\r\n\r\n', b'event: e\r\ndata: {"choices":[{"text":"x"}]}\r\n\r\n'),
    ],
    ids=["first", "spaced", "twice", "two lines"],
)
def test_usage_is_taken_out_wherever_it_stands(came: bytes, passed: bytes) -> None:
    stream = tap()
    assert stream.feed(came) == passed
    assert (raw(stream.usage), stream.text(), stream.events) == (b'{"a":1}', "x", 1)


def test_usage_in_the_last_choice_alone_is_reported_at_the_end() -> None:
    """Moonshot's stream."""
    stream = tap(strip=False)
    event = b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":{"total_tokens":3}}]}\n\n'
    assert stream.feed(event) == event
    assert raw(stream.usage) == b'{"total_tokens":3}'
    stream.feed(DONE)
    assert stream.tail(b'"cost":1') == b'data: {"id":"c","object":"o","created":1,"model":"m","choices":[],"usage":{"total_tokens":3,"cost":1}}\n\n' + DONE


def test_the_last_usage_wins() -> None:
    stream = tap()
    stream.feed(chunk("a", b',"usage":{"n":1}') + chunk("a", b',"usage":{"n":2}') + last(b'{"n":3}'))
    assert raw(stream.usage) == b'{"n":3}'


def test_comments_flow_after_usage_and_nothing_after_done() -> None:
    stream = tap()
    assert stream.feed(last() + b": still here\n\n") == b": still here\n\n"
    assert stream.feed(DONE + b": gone\n\n") == b""
    assert stream.close() == b""


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (b'data: {"error":{"message":"out of memory","code":500}}\n\n', b'{"message":"out of memory","code":500}'),
        (b'data: {"error": "boom"}\n\n', b'"boom"'),
        (b'event: error\ndata: {"object":"error","message":"x"}\n\n', b'{"object":"error","message":"x"}'),
        (b'data: {"id":"1","error":{"code":1},"choices":[{"delta":{"content":""},"finish_reason":"error"}]}\n\n', b'{"code":1}'),
    ],
)
def test_an_error_event_is_kept_from_the_client(event: bytes, error: bytes) -> None:
    stream = tap()
    assert stream.feed(chunk("a") + event + chunk("b")) == chunk("a")
    assert (raw(stream.error), stream.ended) == (error, False)
    assert stream.feed(chunk("c") + DONE) == b""


@pytest.mark.parametrize(
    "content", ['say "usage": {"a":1}', "[DONE]", '"error"', 'data: {"error":{}}\n\ndata: [DONE]\n\n', '"choices":[],"usage":{}', '"finish_reason":"stop"']
)
def test_a_text_that_speaks_of_the_end_is_no_end(content: str) -> None:
    stream, event = tap(), chunk(content)
    assert stream.feed(event) == event
    assert (stream.usage, stream.error, stream.ended, stream.text()) == (None, None, False, content)


def test_null_errors_are_none() -> None:
    stream, event = tap(), chunk("a", b',"error":null')
    assert stream.feed(event) == event
    assert stream.error is None


@pytest.mark.parametrize(
    "garbage", [b"<html>no</html>", b'{"error":{"message":"x"}}', b'  \n{"base_resp":{}}', b"datum: x\n\n", b"hello", b"\xff\xfe", b"\n" * 5000]
)
def test_what_is_no_event_stream_is_a_bad_answer(garbage: bytes) -> None:
    with pytest.raises(BadAnswer):
        tap().feed(garbage)
    with pytest.raises(BadAnswer):
        stream = tap()
        for at in range(len(garbage)):
            stream.feed(garbage[at : at + 1])


def test_the_text_of_an_error_holds_nothing_of_what_came() -> None:
    with pytest.raises(BadAnswer) as fed:
        tap().feed(b"<html>my-secret-answer</html>")
    stream = tap()
    stream.feed(b"da")
    with pytest.raises(BadAnswer) as closed:
        stream.close()
    assert "secret" not in str(fed.value) and "da" not in str(closed.value)


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\n\r\n", b"\xef\xbb\xbf\n", b""])
def test_a_stream_may_begin_with_a_mark_or_blank_lines(start: bytes) -> None:
    stream, data = tap(), start + chunk("a")
    assert b"".join([stream.feed(data[at : at + 1]) for at in range(len(data))]) == data
    assert tap().feed(data) == data


def test_the_beginning_of_a_field_name_is_not_judged_too_early() -> None:
    stream = tap()
    assert stream.feed(b"da") == b""
    assert stream.feed(chunk()[2:]) == chunk()
    cut = tap()
    cut.feed(b"da")
    with pytest.raises(BadAnswer):
        cut.close()


def test_usage_that_is_no_json_is_a_bad_answer() -> None:
    stream = tap()
    with pytest.raises(BadAnswer):
        stream.feed(b'data: {"choices":[],"usage":{"a":}\n\n')


def test_a_last_event_without_its_blank_line_is_completed() -> None:
    stream = tap()
    assert stream.feed(chunk("a") + b"data: [DONE]\n") == chunk("a")
    assert (stream.close(), stream.ended) == (b"", True)
    whole = tap()
    assert whole.feed(chunk("a")[:-2]) == b""
    assert whole.close() == chunk("a")
    torn = tap()
    assert torn.feed(chunk("a") + chunk("b")[:40]) == chunk("a")
    assert (torn.close(), torn.text()) == (b"", "a")


def test_an_event_over_the_bound_is_a_bad_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.stream, "EVENT_BYTES_MAX", 1000)
    big = chunk("x" * 1000)
    with pytest.raises(BadAnswer):
        tap().feed(big)
    with pytest.raises(BadAnswer):
        tap().feed(chunk("a") + big + chunk("b"))
    stream = tap()
    with pytest.raises(BadAnswer):
        for at in range(len(big)):
            stream.feed(big[at : at + 1])
    small = chunk("y" * 700)
    assert tap().feed(small * 5) == small * 5


def test_the_bound_is_eight_megabytes() -> None:
    assert EVENT_BYTES_MAX == 8 * 1024 * 1024
    event = chunk("x" * (EVENT_BYTES_MAX - 1000))
    stream, out = tap(), b""
    for at in range(0, len(event), 65536):
        out += stream.feed(event[at : at + 65536])
    assert out == event


def test_text_is_everything_that_was_produced() -> None:
    stream = tap()
    deltas = [
        b'{"role":"assistant","content":""}', b'{"reasoning_content":"think "}', b'{"content":"say "}', b'{"refusal":"no "}',
        b'{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]}',
        b'{"tool_calls":[{"index":0,"function":{"arguments":"{\\"a\\":1}"}}]}', b'{"content":[{"type":"text","text":" part"}]}', b'{"content":null}',
    ]  # fmt: skip
    for delta in deltas:
        stream.feed(b'data: {"choices":[{"delta":' + delta + b"}]}\n\n")
    stream.feed(b'data: {"choices":[{"text":" old"}]}\n\n: ping\n\nevent: x\ndata: {"choices":[{"text":" way"}]}\n\ndata: no json\n\n')
    assert stream.text() == 'think say no f{"a":1} part old way'


def test_broken_text_passes_and_adds_nothing_to_the_estimate() -> None:
    stream = tap()
    for event in (b'data: {"choices":[{"text":"\xff\xfe"}]}\n\n', b"data: " + b"[" * 100_000 + b"\n\n", b'data: {"choices":[{"text":"x"}]}\n\n'):
        assert stream.feed(event) == event
    assert stream.text() == "x"
    with pytest.raises(BadAnswer):
        stream.feed(b'data: {"usage":' + b"[" * 100_000 + b"\n\n")
    with pytest.raises(BadAnswer):
        tap().feed(b'data: {"\xff":1,"choices":[{"text":"x","usage":1}],"usage":{}}\n\n')


def test_kept_bytes_are_bounded_and_no_text_is_lost() -> None:
    stream = tap()
    for number in range(2000):
        stream.feed(chunk(f"{number} "))
        assert len(stream._raw) <= RAW_BYTES_MAX
    assert stream.text() == "".join([f"{number} " for number in range(2000)])
    assert (stream.text(), stream.events) == (stream.text(), 2000)


@pytest.mark.parametrize("choices", [b"[]", b'[{"index":0,"delta":{},"finish_reason":"stop"}]'], ids=["a chunk of its own", "in the last chunk"])
@pytest.mark.parametrize(("said", "tier"), [(b'"flex"', "flex"), (b"null", None), (b"7", None), (None, None)])
def test_the_service_tier_beside_the_usage_is_noticed(choices: bytes, said: bytes | None, tier: str | None) -> None:
    stream = tap()
    stream.feed(chunk("a") + last(USAGE + (b"" if said is None else b',"service_tier":' + said), choices=choices) + DONE)
    assert tier_of(stream.service_tier) == tier
    assert raw(stream.usage) == USAGE
