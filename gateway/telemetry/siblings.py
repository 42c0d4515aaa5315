"""The metrics of all workers of one gateway, in one exposition, whichever of them is scraped.

Each worker also listens at a socket in the run directory, which only its own user may enter. The one that is scraped asks the others
there, gives every series the label `worker`, and adds what only the parent knows. One that does not answer in time is left out and counted.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from gateway.telemetry import names
from gateway.telemetry.metrics import Watched

ANSWER_S_MAX = 1.0
ANSWER_BYTES_MAX = 64 * 2**20

_REQUEST = b"GET /metrics HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n"
_LABELLED = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*)\{", re.MULTILINE)
_BARE = re.compile(rb"^([a-zA-Z_:][a-zA-Z0-9_:]*) ", re.MULTILINE)
_FAMILY = b"# HELP "


class Siblings:
    """One worker's view of all: it is number `index` of `count`. `figures` is what the parent last said: metric name -> label value -> number."""

    def __init__(self, folder: Path, index: int, count: int) -> None:
        self.index = index
        self.count = count
        self.figures: Mapping[str, Mapping[str, int]] = {}
        self._folder = folder
        self._unheard = 0
        self._registry = CollectorRegistry(auto_describe=False)
        for name in (names.WORKER_RESTARTS, names.CHILD_RESTARTS):
            self._watch(name).watch(partial(self._said, name.name))
        self._watch(names.WORKERS).watch(lambda: self.count)
        self._watch(names.WORKERS_UNHEARD).watch(lambda: self._unheard)

    def _watch(self, name: names.Name) -> Watched:
        watched = Watched(name)
        self._registry.register(watched)
        return watched

    def _said(self, name: str) -> dict[tuple[str], float]:
        return {(label,): number for label, number in self.figures.get(name, {}).items()}

    async def whole(self, own: bytes) -> bytes:
        """Return the exposition of all workers. `own` is this one's; the others are asked now, for a second at most."""
        others = [index for index in range(self.count) if index != self.index]
        answers = dict(zip(others, await asyncio.gather(*(ask(socket_of(self._folder, index)) for index in others)), strict=True))
        answers[self.index] = own
        self._unheard = sum(answer is None for answer in answers.values())
        labelled = [label(answer, index) for index, answer in sorted(answers.items()) if answer is not None]
        return merge([*labelled, generate_latest(self._registry)])


def socket_of(folder: Path, index: int) -> Path:
    """Name the socket at which a worker answers its siblings."""
    return folder / f"{index}.sock"


async def ask(path: Path) -> bytes | None:
    """GET a sibling's own exposition; None when it does not answer well within a second."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=ANSWER_BYTES_MAX)
            writer.write(_REQUEST)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    except (OSError, TimeoutError):
        return None
    finally:
        if writer is not None:
            writer.close()
    return body if head.startswith(b"HTTP/1.1 200 ") and body.endswith(b"\n") else None


def label(exposition: bytes, index: int) -> bytes:
    """Give every series the label `worker`. A label's value holds no line break, so that a series begins where a line does."""
    own = b'worker="%d"' % index
    return _BARE.sub(rb"\1{" + own + rb"} ", _LABELLED.sub(rb"\1{" + own + b",", exposition))


def merge(expositions: Iterable[bytes]) -> bytes:
    """Put expositions together: each metric's meaning once, with the series of all."""
    heads: dict[bytes, bytes] = {}
    series: dict[bytes, list[bytes]] = {}
    for exposition in expositions:
        for block in (b"\n" + exposition).split(b"\n" + _FAMILY)[1:]:
            about, kind, *lines = block.rstrip(b"\n").split(b"\n")
            family = about.partition(b" ")[0]
            heads.setdefault(family, _FAMILY + about + b"\n" + kind)
            series.setdefault(family, []).extend(lines)
    return b"".join(b"\n".join((head, *series[family])) + b"\n" for family, head in heads.items())
