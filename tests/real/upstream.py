"""An upstream that plays scripted answers on a raw socket: resets, stalls, HTML, garbage, halves of characters.

A script is a list of steps, one script per request: bytes are sent as they are (one `sendall` each), `RESET` breaks the
connection with a TCP reset, `CLOSE` ends it in good order, `STALL` sends nothing until the client goes, `Wait` holds until the test
says so. Every request is recorded. GETs (health probes) are answered 200 and use no script up.
"""

import contextlib
import json
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Any, Literal

RESET: Literal["reset"] = "reset"
CLOSE: Literal["close"] = "close"
STALL: Literal["stall"] = "stall"


@dataclass(frozen=True)
class Wait:
    """Hold the script until the event is set (10 s at most)."""

    event: threading.Event


Step = bytes | Literal["reset", "close", "stall"] | Wait


@dataclass(frozen=True)
class Seen:
    """One request as it arrived. Header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


# ---- pieces of answers ----


def answer(body: bytes, *, status: int = 200, content_type: str = "application/json", headers: tuple[str, ...] = ()) -> bytes:
    """Write a whole answer with a Content-Length."""
    head = [f"HTTP/1.1 {status} Scripted", f"content-type: {content_type}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def json_answer(content: Any, *, status: int = 200, headers: tuple[str, ...] = ()) -> bytes:
    """Write a whole JSON answer."""
    return answer(json.dumps(content).encode(), status=status, headers=headers)


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def piece(data: bytes) -> bytes:
    """Frame bytes as one piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(content: Any) -> bytes:
    """Write one server-sent event, framed as one piece; a dict as JSON, bytes as they are."""
    data = content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode()
    return piece(b"data: " + data + b"\n\n")


def delta(text: str, *, finish: str | None = None) -> dict[str, Any]:
    """Make a chat completion chunk that carries `text`."""
    choice = {"index": 0, "delta": {"content": text} if text else {}, "logprobs": None, "finish_reason": finish}
    return {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1700000000, "model": "scripted", "choices": [choice]}


def usage_chunk(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    """Make the terminal chunk that carries usage and no choice."""
    return {**delta(""), "choices": [], "usage": usage(prompt_tokens, completion_tokens)}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Make a usage object."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": prompt_tokens + completion_tokens}


def completion(text: str, *, prompt_tokens: int = 7, completion_tokens: int = 3) -> bytes:
    """Write a whole, well-formed chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": "stop"}
    content = {"id": "chatcmpl-scripted", "object": "chat.completion", "created": 1700000000, "model": "scripted", "choices": [choice]}
    return json_answer({**content, "usage": usage(prompt_tokens, completion_tokens)})


def stream(*texts: str, prompt_tokens: int = 7, done: bool = True) -> tuple[bytes, ...]:
    """Write a well-formed stream, one event per text, with usage at its end; `done=False` leaves [DONE] out."""
    steps = [STREAM_HEAD, *(event(delta(text)) for text in texts), event(delta("", finish="stop")), event(usage_chunk(prompt_tokens, len(texts)))]
    return (*steps, event(b"[DONE]") if done else b"", STREAM_END)


# name -> the script of one request that goes wrong
MISBEHAVIOURS: dict[str, tuple[Step, ...]] = {
    "resets_before_the_answer": (RESET,),
    "closes_before_the_answer": (CLOSE,),
    "stalls_before_the_answer": (STALL,),
    "resets_in_the_head": (b"HTTP/1.1 200 OK\r\ncontent-ty", RESET),
    "resets_in_the_stream": (STREAM_HEAD, event(delta("one ")), event(delta("two ")), RESET),
    "closes_in_the_stream": (STREAM_HEAD, event(delta("one ")), event(delta("two ")), CLOSE),
    "stalls_in_the_stream": (STREAM_HEAD, event(delta("one ")), STALL),
    "answers_html": (answer(b"<html><body><h1>502 Bad Gateway</h1></body></html>", status=502, content_type="text/html"),),
    "answers_html_with_200": (answer(b"<html><body>Welcome to the hotel's network</body></html>", content_type="text/html"),),
    "answers_garbage_with_200": (answer(b'{"choices": [{"index": 0, "mess'),),
    "speaks_no_http": (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", CLOSE),
    "never_sends_done": stream("one ", "two ", "three", done=False),
    "sends_garbage_events": (STREAM_HEAD, event(delta("one ")), piece(b"data: {not json\n\n"), event(b"[DONE]"), STREAM_END),
}


def split_stream(text: str, cut: int) -> tuple[bytes, ...]:
    """Write a stream whose one event with `text` is sent in two pieces, cut at byte `cut` of the text: between the bytes of one character, say."""
    data = b"data: " + json.dumps(delta(text), ensure_ascii=False).encode() + b"\n\n"
    at = data.index(text.encode()) + cut
    return (STREAM_HEAD, piece(data[:at]), piece(data[at:]), event(delta("", finish="stop")), event(usage_chunk(7, 1)), event(b"[DONE]"), STREAM_END)


@dataclass
class ScriptedUpstream:
    """The server. `script` answers every request unless one was queued with `play`."""

    script: tuple[Step, ...] = (completion("Hello."),)
    requests: list[Seen] = field(default_factory=list)
    client_gone: threading.Event = field(default_factory=threading.Event)  # the client went while a script stalled or wrote

    def __post_init__(self) -> None:
        self._queued: list[tuple[Step, ...]] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def play(self, *steps: Step) -> None:
        """Queue a script for the next request; several calls queue several."""
        with self._lock:
            self._queued.append(steps)

    def close(self) -> None:
        """Stop listening and drop every connection."""
        with contextlib.suppress(OSError):  # wakes the thread that accepts: in its sleep it would hold the number of a socket that is another's by now
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # the client was first
                    connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed: the test is over
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while (seen := _read_request(connection)) is not None:
                if not self._answer(connection, seen):
                    break
        except OSError:
            self.client_gone.set()
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _answer(self, connection: socket.socket, seen: Seen) -> bool:
        """Play one script; True when the connection may carry another request."""
        if seen.method == "GET":
            connection.sendall(json_answer({"object": "list", "data": [{"id": "scripted", "object": "model", "created": 0, "owned_by": "tests"}]}))
            return True
        with self._lock:
            self.requests.append(seen)
            steps = self._queued.pop(0) if self._queued else self.script
        return all(self._play(connection, step) for step in steps)

    def _play(self, connection: socket.socket, step: Step) -> bool:
        if isinstance(step, bytes):
            connection.sendall(step)
        elif isinstance(step, Wait):
            step.event.wait(10)
        elif step == RESET:
            _reset(connection)
            return False
        elif step == STALL:
            try:
                connection.recv(1)  # returns when the client hangs up: it has nothing more to say
            finally:
                self.client_gone.set()
            return False
        else:
            return False
        return True


def _reset(connection: socket.socket) -> None:
    """Break a connection with a TCP reset instead of an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _read_request(connection: socket.socket) -> Seen | None:
    """Read one request, its body by Content-Length or in chunks; None when the client has closed."""
    with connection.makefile("rb", buffering=0) as raw:
        first = _line(raw)
        if not first:
            return None
        method, path, _ = first.decode("latin-1").split(" ", 2)
        headers = {}
        while line := _line(raw):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(_line(raw).split(b";")[0], 16):
                body += _exactly(raw, size)
                _line(raw)
            _line(raw)
        else:
            body = _exactly(raw, int(headers.get("content-length", "0")))
        return Seen(method, path, headers, body)


def _line(raw: Any) -> bytes:
    line: bytes = raw.readline(65536)
    return line.rstrip(b"\r\n")


def _exactly(raw: Any, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = raw.read(count - len(data))
        if not part:
            raise OSError("the client closed in the middle of its body")
        data += part
    return bytes(data)
