"""What Weir's own code does for a request, without sockets: calls of functions, which no noise of the machine touches, and CPU time.

The whole gateway runs in this process; a client's bytes are given to uvicorn's protocol and an instant server's to the transport's connection, as the event
loop would. `--profile` lists the functions. With valgrind the instructions of the processor are counted, which no noise touches either:

    valgrind --tool=callgrind --instr-atstart=no --separate-threads=yes --callgrind-out-file=.bench/road python -m tests.bench.road --instructions plain

leaves a file for each thread (`.bench/road-01` is the event loop's), whose `totals` are of `--count` requests (streams of 100 chunks; with `long`,
prompts of 300 kB). What runs by the clock beside the requests is stopped for it, or valgrind's slowness would count as theirs.
"""

import argparse
import asyncio
import cProfile
import io
import json
import logging
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import uvloop

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # started as a script

from backends.transport.connection import Connection  # noqa: E402
from backends.transport.direct import DirectTransport  # noqa: E402
from gateway.server import settle_heap  # noqa: E402
from tests.bench.rig import bodies  # noqa: E402
from tests.house import House, open_house  # noqa: E402

CHUNKS = 100
LONG_BYTES = 300_000  # a prompt that is long
SEGMENT_BYTES = 65_536  # what a socket hands over at once
ANSWER = {"id": "chatcmpl-1", "created": 1, "model": "mock"}
USAGE = {"prompt_tokens": 57, "completion_tokens": CHUNKS, "total_tokens": 57 + CHUNKS}
BACKEND = {"urls": ["http://127.0.0.1:9/v1"], "slots": 64, "probe_every_s": 3600}


class Socket:
    """A socket that hands what is written to it to a function."""

    def __init__(self, wrote: Callable[[bytes], object]) -> None:
        self.write = wrote

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> object:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name)

    def close(self) -> None:
        """Nothing is open."""

    abort = pause_reading = resume_reading = close


def whole() -> list[bytes]:
    """Make the bytes of an answer that is not streamed, as they arrive."""
    message = {"role": "assistant", "content": "A weir lets water pass over it. " * 6}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = json.dumps({**ANSWER, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
    return [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)]


def streamed() -> list[bytes]:
    """Make the segments of a stream of 100 chunks."""

    def chunk(content: object) -> bytes:
        data = b"data: " + (content if isinstance(content, bytes) else json.dumps({**ANSWER, "object": "chat.completion.chunk", **cast(Any, content)}).encode())
        return b"%x\r\n%b\n\n\r\n" % (len(data) + 2, data)

    word = chunk({"choices": [{"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}], "usage": None})
    last = chunk({"choices": [], "usage": USAGE}) + chunk(b"[DONE]") + b"0\r\n\r\n"
    return [b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n", *[word] * CHUNKS, last]


class Road:
    """A gateway between a client and a server that are both here."""

    def __init__(self, house: House, *, stream: bool = False, prompt_bytes: int = 0) -> None:
        self.loop = asyncio.get_running_loop()
        self.segments = streamed() if stream else whole()
        pool = house.services.pools["m"]
        transport = cast(DirectTransport, pool.transport)
        connection = Connection(self.loop, pool.replicas[0].origin, transport.pool)
        connection.connection_made(cast(asyncio.Transport, Socket(lambda _data: self.loop.call_soon(self.arrive, connection, 0))))
        transport.pool.put(connection)
        self.client: Any = house.server._protocol()
        self.client.connection_made(cast(Any, Socket(self.answered)))
        said: dict[str, Any] = {**bodies()["stream" if stream else "plain"], "model": "m"}
        if prompt_bytes:
            said["messages"] = [{"role": "user", "content": ("A weir lets water pass over it. " * (prompt_bytes // 32 + 1))[:prompt_bytes]}]
        body = json.dumps(said).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.key}\r\nContent-Type: application/json\r\n"
        self.request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
        self.end = b"0\r\n\r\n" if stream else b"}"
        self.done = self.loop.create_future()

    def arrive(self, connection: Connection, at: int) -> None:
        """Have the server's segments arrive one after another, each in a turn of the loop of its own."""
        connection.data_received(self.segments[at])
        if at + 1 < len(self.segments):
            self.loop.call_soon(self.arrive, connection, at + 1)

    def answered(self, data: bytes) -> None:
        if data.endswith(self.end) and not self.done.done():
            self.done.set_result(None)

    async def drive(self, count: int) -> None:
        """Send requests, one after another."""
        for _ in range(count):
            self.done = self.loop.create_future()
            for start in range(0, len(self.request), SEGMENT_BYTES):
                self.client.data_received(self.request[start : start + SEGMENT_BYTES])
                if start + SEGMENT_BYTES < len(self.request):
                    await asyncio.sleep(0)
            await self.done
            await asyncio.sleep(0)


def instrument(turn: str) -> None:
    """Have callgrind begin to count in this process, or stop."""
    subprocess.run(["callgrind_control", "-i", turn, str(os.getpid())], check=True, stdout=subprocess.DEVNULL)


async def count_instructions(options: argparse.Namespace) -> None:
    """Have callgrind, under which this runs, count what a warm gateway does for `--count` requests."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        async with open_house(Path(folder), {"m": BACKEND}, plan={"allowance_ncr": 9 * 10**15}, config="books: {flush_ms: 10000}\n") as house:
            kind = options.instructions
            road = Road(house, stream=kind == "stream", prompt_bytes=LONG_BYTES if kind == "long" else 0)
            await road.drive(100)
            for task in asyncio.all_tasks():
                if not task.get_name().startswith("Task-"):  # what runs beside by the clock, under which valgrind is fifty times slower
                    task.cancel()
            settle_heap()
            instrument("on")
            await road.drive(options.count)
            instrument("off")


async def measure(options: argparse.Namespace) -> None:
    """Print what a request takes, and with --profile where."""
    logging.disable(logging.CRITICAL)
    for stream in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            async with open_house(Path(folder), {"m": BACKEND}, plan={"allowance_ncr": 9 * 10**15}) as house:
                road, count = Road(house, stream=stream), options.count // (CHUNKS if stream else 1)
                await road.drive(50)
                settle_heap()
                times = []
                for _ in range(12):
                    before_ns = time.thread_time_ns()
                    await road.drive(count)
                    times.append((time.thread_time_ns() - before_ns) / 1000 / count)
                profile = cProfile.Profile()
                profile.enable()
                await road.drive(count)
                profile.disable()
        listed = io.StringIO()
        stats: Any = pstats.Stats(profile, stream=listed)
        unit, units = ("chunk", count * CHUNKS) if stream else ("request", count)
        print(f"{unit}: {stats.total_calls / units:.0f} calls, at least {min(times) * count / units:.1f} us of CPU without sockets")
        if options.profile:
            stats.sort_stats("tottime").print_stats(options.profile)
            print(listed.getvalue())


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="requests a round; a hundredth of it streams")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="list the N functions that take most")
    parser.add_argument("--instructions", choices=("plain", "stream", "long"), help="count them, under valgrind")
    options = parser.parse_args()
    uvloop.run(measure(options) if options.instructions is None else count_instructions(options))


if __name__ == "__main__":
    main()
