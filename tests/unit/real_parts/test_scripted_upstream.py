"""The scripted upstream does what its scripts say: what a test of the gateway stands on must itself be tested."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.real.upstream import MISBEHAVIOURS, RESET, STALL, STREAM_HEAD, ScriptedUpstream, completion, delta, event, split_stream, stream


@contextmanager
def post(upstream: ScriptedUpstream, body: bytes = b"{}") -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=5)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        with connection.getresponse() as answer:
            yield answer
    finally:
        connection.close()


def test_answers_and_records_the_request(scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = (completion("Hi.", prompt_tokens=5, completion_tokens=2),)
    with post(scripted_upstream, b'{"model": "m"}') as answer:
        assert json.load(answer)["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    (seen,) = scripted_upstream.requests
    assert (seen.method, seen.path, seen.json()) == ("POST", "/v1/chat/completions", {"model": "m"})


def test_a_queued_script_answers_one_request(scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.play(RESET)
    with pytest.raises(ConnectionResetError), post(scripted_upstream):
        pass
    with post(scripted_upstream) as answer:
        assert answer.status == 200


def test_a_reset_in_the_stream_follows_the_events_before_it(scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = (STREAM_HEAD, event(delta("one ")), RESET)
    with post(scripted_upstream) as answer:
        assert b"one " in answer.readline()
        with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
            answer.read()


def test_a_stall_notices_that_the_client_went(scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = (STALL,)
    with socket.create_connection(("127.0.0.1", scripted_upstream.port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
    assert scripted_upstream.client_gone.wait(5)


def test_a_character_can_be_cut_in_half(scripted_upstream: ScriptedUpstream) -> None:
    first, second = split_stream("caf\N{LATIN SMALL LETTER E WITH ACUTE}", cut=4)[1:3]
    assert first.rstrip().endswith(b"caf\xc3")
    assert b"\xa9" in second
    scripted_upstream.script = split_stream("caf\N{LATIN SMALL LETTER E WITH ACUTE}", cut=4)
    with post(scripted_upstream) as answer:
        assert "caf\N{LATIN SMALL LETTER E WITH ACUTE}" in answer.read().decode()


def test_a_stream_may_leave_done_out(scripted_upstream: ScriptedUpstream) -> None:
    scripted_upstream.script = stream("a", "b", done=False)
    with post(scripted_upstream) as answer:
        assert b"[DONE]" not in answer.read()


def test_every_misbehaviour_starts_with_something_to_do() -> None:
    assert all(MISBEHAVIOURS.values())
