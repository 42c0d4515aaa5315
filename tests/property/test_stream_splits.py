"""However a stream is cut into segments, the client gets the same bytes, and gets each event as soon as it is whole."""

import json
from itertools import pairwise

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.sse import text_of
from backends.stream import StreamTap

texts = st.text(max_size=12) | st.sampled_from(['"usage"', "[DONE]", '"error"', "data: x\n\n", "\u4f60\u597d", "\\"])
usages = st.sampled_from([b"null", b'{"prompt_tokens":1}', b'{"a":{"b":null}}', b"{}"])


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    choices = (
        b"[]"
        if draw(st.booleans())
        else msgspec.json.encode([{"index": 0, "delta": {"content": draw(texts)}, "finish_reason": draw(st.sampled_from([None, "stop"]))}])
    )
    usage = draw(st.none() | usages)
    members = [b'"id":"1"', b'"choices":' + choices, *([] if usage is None else [b'"usage":' + usage])]
    if draw(st.integers(0, 5)) == 0:
        members.reverse()
    return b"{" + draw(st.sampled_from([b",", b" , "])).join(members) + b"}"


@st.composite
def events(draw: st.DrawFn) -> bytes:
    end = draw(st.sampled_from([b"\n", b"\n", b"\r\n"]))
    lines = draw(
        st.sampled_from([[b": ping"], [b"event: x", b"data: {}"], [b"data: [DONE]"], [b'data: {"error":{"code":1}}'], [b""]])
        | payloads().map(lambda payload: [b"data: " + payload])
        | payloads().map(lambda payload: [b"data:" + payload])
        | payloads().map(lambda payload: [b"event: x", *[b"data: " + line for line in payload.replace(b',"usage', b',\n"usage').split(b"\n")]])
    )
    return end.join([*lines, b"", b""])


streams = st.lists(events(), max_size=12)


def state(tap: StreamTap) -> tuple[object, ...]:
    known = (tap.usage, tap.error)
    return (*[None if value is None else bytes(value) for value in known], tap.ended, tap.events, tap.text(), tap.tail(b'"cost":1'))


@settings(deadline=None, max_examples=300)
@given(
    first=st.sampled_from([b": open\n\n", b"data: {}\n\n"]),
    rest=streams,
    cuts=st.lists(st.integers(0, 2000), max_size=30),
    strip=st.booleans(),
    drop=st.booleans(),
)
def test_any_split_gives_the_same(first: bytes, rest: list[bytes], cuts: list[int], strip: bool, drop: bool) -> None:
    whole = first + b"".join(rest)
    one = StreamTap(strip_usage=strip, drop_continuous=drop)
    expected = one.feed(whole)
    many = StreamTap(strip_usage=strip, drop_continuous=drop)
    bounds = sorted({0, len(whole), *[cut % (len(whole) + 1) for cut in cuts]})
    got = b"".join([many.feed(whole[start:stop]) for start, stop in pairwise(bounds)])
    assert got + many.close() == expected + one.close()
    assert state(many) == state(one)


@settings(deadline=None, max_examples=200)
@given(rest=streams, drop=st.booleans())
def test_an_event_is_handed_on_with_its_last_byte(rest: list[bytes], drop: bool) -> None:
    by_byte = StreamTap(strip_usage=True, drop_continuous=drop)
    by_event = StreamTap(strip_usage=True, drop_continuous=drop)
    for event in [b": open\n\n", *rest]:
        fast = b"".join([by_byte.feed(event[at : at + 1]) for at in range(len(event))])
        assert fast == by_event.feed(event)


@settings(deadline=None)
@given(contents=st.lists(texts, max_size=20), cut=st.integers(1, 50))
def test_nothing_is_changed_where_nothing_is_withheld(contents: list[str], cut: int) -> None:
    whole = b"".join([b"data: " + msgspec.json.encode({"choices": [{"delta": {"content": content}}], "usage": None}) + b"\n\n" for content in contents])
    tap = StreamTap(strip_usage=True, drop_continuous=True)
    assert b"".join([tap.feed(whole[at : at + cut]) for at in range(0, len(whole), cut)]) == whole
    assert tap.text() == "".join(contents)


deltas = st.one_of(
    texts.map(lambda text: ({"content": text}, text)),
    texts.map(lambda text: ({"content": text, "reasoning_content": None}, text)),
    texts.map(lambda text: ({"reasoning_content": "thought", "content": text}, "thought" + text)),
    st.just(({"role": "assistant"}, "")),
    st.just(({"content": None}, "")),
)


others = st.sampled_from(
    [
        b": ping",
        b': "delta":{"content":"c"}',
        b'data: {"choices":[{"text":"t"}]}',
        b'data: {"delta":{"content":"top"}}',
        b'data: {"choices":[{"message":{"content":"t"}}]}',
    ]
)


@given(st.lists(st.lists(deltas, max_size=2), max_size=8), st.booleans(), st.lists(others, max_size=2))
def test_the_text_of_events_is_the_same_whatever_else_is_among_them(
    choices: list[list[tuple[dict[str, str | None], str]]], spaced: bool, odd: list[bytes]
) -> None:
    separators = (", ", ": ") if spaced else (",", ":")
    written = [
        b"data: %b\n\n" % json.dumps({"choices": [{"delta": delta, "index": 0} for delta, _ in several]}, ensure_ascii=spaced, separators=separators).encode()
        for several in choices
    ]
    texts_of_others = ["t" for line in odd if b'"t"' in line]
    region = b"".join([*written, *[line + b"\n\n" for line in odd]])
    assert text_of(region) == "".join([text for several in choices for _, text in several] + texts_of_others)
